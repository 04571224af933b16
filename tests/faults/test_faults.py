"""A bad day at the platform: many things go wrong at once, and the books still add up."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from support import (
    LEDGER,
    SMALL,
    bought,
    eventually,
    fault,
    ledger_rows,
    open_sandbox,
    prompts,
    settings_for,
    states,
    true_output,
    wired,
)

from asyncgen import FailureCode, ImageGenerator, LedgerError
from asyncgen.results import ImageResult
from asyncgen.sandbox import FaultRule, Sandbox

pytestmark = pytest.mark.anyio

#: Whatever happens to requests that can be repeated: none of this may cost an image, or money.
WEATHER = (
    *(fault(name, operation="run", every=every) for name, every in (("429", 7), ("503", 11))),
    *(fault(name, operation="status", every=every) for name, every in (("500_html", 13), ("502", 17), ("429", 19))),
    fault("reset_after_accept", operation="status", every=23),
    fault("cut_body", every=9),
    fault("wrong_base64", operation="result", every=11),
    fault("slow_body", every=25, seconds=0.05),
    # one 404 a job: the pauses of all jobs move one clock, so that a second may come after the 35 s of a lost job
    fault("not_found_at_first", every=8, times=1),
)


async def run(root: Path, *faults: FaultRule, count: int = 80, **policy: Any) -> tuple[Sandbox, list[ImageResult]]:
    async with open_sandbox(*faults) as sandbox, wired(sandbox, root, **policy) as parts:
        return sandbox, await parts.run(prompts(count), parts.engine(concurrency=16))


async def test_in_bad_weather_every_image_arrives_and_none_is_bought_twice(tmp_path: Path) -> None:
    sandbox, results = await run(tmp_path, *WEATHER)
    assert [result.status for result in results] == ["success"] * 80
    assert len(bought(sandbox)) == 80
    assert sandbox.books.counts["requests.run"] > 80
    assert states(tmp_path) == {"stored": 80}


async def test_each_kind_of_failure_gets_its_class_and_the_rest_arrive(tmp_path: Path) -> None:
    kinds = {
        "study 10": ("failed:exception", FailureCode.WORKER_ERROR),
        "study 11": ("failed:missing_model", FailureCode.MODEL_NOT_FOUND),
        "study 12": ("no_images", FailureCode.NO_IMAGE),
        "study 13": ("no_output", FailureCode.NO_OUTPUT),
        "study 14": ("cut_image", FailureCode.CORRUPT_IMAGE),
        "study 15": ("not_an_image", FailureCode.NOT_AN_IMAGE),
        "study 16": ("failed:out_of_memory", FailureCode.OUT_OF_MEMORY),
        "study 17": ("timed_out", FailureCode.TIMED_OUT),
        "study 18": ("lost_job", FailureCode.LOST),
    }
    faults = [fault(name, prompt_contains=words) for words, (name, _) in kinds.items()]
    _, results = await run(tmp_path, *faults, count=40)
    failed = {result.prompt.split(", ")[1]: result.failure.code for result in results if result.failure}
    assert failed == {words: code for words, (_, code) in kinds.items()}
    assert sum(result.ok for result in results) == 40 - len(kinds)


async def test_what_the_ledger_says_was_bought_is_what_the_books_say_was_sold(tmp_path: Path) -> None:
    platform = (
        fault("failed:out_of_memory", every=9),
        fault("lost_job", every=14),
        fault("reset_after_accept", operation="run", every=21),
    )
    sandbox, results = await run(tmp_path, *WEATHER, *platform)
    unknown = {r.prompt for r in results if r.status == "held"}
    rows = ledger_rows(tmp_path, "SELECT job_id FROM job WHERE job_id IS NOT NULL")
    known = Counter(job_id for (job_id,) in rows)  # a job that ran again under its id has a row for each run
    sold = {job["id"]: job["prompt"] for job in bought(sandbox)}
    assert known == {job["id"]: 1 + job["retries"] for job in bought(sandbox) if job["id"] in known}
    assert known.keys() <= sold.keys()
    # what we do not know of was accepted without our learning it, and its image is held
    assert {sold[job_id] for job_id in sold.keys() - known.keys()} <= unknown
    assert len(sold) - len(known) == sandbox_resets(sandbox)


def sandbox_resets(sandbox: Sandbox) -> int:
    """How many submissions were accepted and never answered."""
    (rule,) = [
        rule for rule in sandbox.faults.listed() if rule["fault"] == "reset_after_accept" and rule["every"] == 21
    ]
    return int(rule["hits"])


async def test_no_image_is_bought_more_often_than_allowed(tmp_path: Path) -> None:
    sandbox, results = await run(tmp_path, fault("failed:out_of_memory"), fault("lost_job"), count=20, max_attempts=2)
    assert not any(result.ok for result in results)
    runs = Counter[str]()
    for job in bought(sandbox):
        runs[job["input_digest"]] += 1 + job["retries"]
    assert max(runs.values()) == 2


async def test_an_endpoint_that_comes_and_goes_costs_time_and_nothing_else(tmp_path: Path) -> None:
    """Every request of every operation is refused for a while, in the middle of a batch."""
    async with open_sandbox() as sandbox, wired(sandbox, tmp_path) as parts:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(parts.run, prompts(60))
            await eventually(lambda: len(bought(sandbox)) >= 20)
            sandbox.faults.add((fault("503", operation="any", count=60),))
        assert states(tmp_path) == {"stored": 60}
        assert len(bought(sandbox)) == 60


async def test_a_result_that_expired_before_it_was_fetched_is_bought_again(tmp_path: Path) -> None:
    """The process was away for longer than the platform keeps results."""
    async with open_sandbox(retention_seconds=0.05) as sandbox:
        async with wired(sandbox, tmp_path) as parts, anyio.create_task_group() as tasks:
            sandbox.faults.add((fault("503", operation="status"),))
            tasks.start_soon(parts.run, prompts(3))
            await eventually(lambda: states(tmp_path).get("accepted", 0) == 3)
            await eventually(lambda: all(job.gone for job in _aged(sandbox)))
            tasks.cancel_scope.cancel()
        sandbox.faults.clear()
        books = sandbox.books
        books.terms = replace(books.terms, retention_seconds=1800.0)  # or a slow machine loses the second ones too
        async with wired(sandbox, tmp_path) as parts:
            parts.clock.on_pause = sandbox.exchange.tick
            results = await parts.run(prompts(3))
        assert [result.ok for result in results] == [True] * 3
        assert len(bought(sandbox)) == 6


def _aged(sandbox: Sandbox) -> list[Any]:
    sandbox.exchange.tick()
    return list(sandbox.books.jobs.values())


async def test_a_job_that_the_ledger_cannot_take_down_is_told_by_its_id(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The ledger goes away between the intent and the reply: the log is all that can still know the job."""
    async with open_sandbox(fault("slow_body", operation="run", seconds=0.5)) as sandbox:
        async with wired(sandbox, tmp_path) as parts:
            job = await parts.job()
            settling = asyncio.create_task(job.settle())
            await eventually(lambda: len(bought(sandbox)) == 1)
            (tmp_path / LEDGER).rename(tmp_path / "moved")
            with pytest.raises(LedgerError, match="moved or removed"):
                await settling
        assert f"job {bought(sandbox)[0]['id']} was accepted" in caplog.text


async def test_the_whole_api_survives_a_bad_day(tmp_path: Path) -> None:
    """The same weather with the real clock, and the files looked at."""
    faults = (fault("429", every=9), fault("cut_body", every=9), fault("failed:platform", nth=[5]))
    async with open_sandbox(*faults) as sandbox, ImageGenerator(settings_for(sandbox, tmp_path)) as g:
        results = await g.generate_many(prompts(30), style="1", concurrency=8, **SMALL)
        assert all(result.ok for result in results)
        assert sum(1 + job["retries"] for job in bought(sandbox)) == 31
    assert len(true_output(tmp_path)) == 30
