"""Many images at once: how many are out, what is read, what is kept, and how a run stops. Over real HTTP."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from weakref import WeakSet

import anyio
import pytest
from support import (
    ENDPOINT,
    LEDGER,
    Wired,
    allowing,
    bought,
    eventually,
    fault,
    ledger_rows,
    most_out_at_once,
    open_sandbox,
    prompts,
    states,
    wired,
)

from asyncgen.endpoint import Pace
from asyncgen.engine import Engine
from asyncgen.errors import InputError, RunPausedError, StoreError
from asyncgen.intake import IndexedWant
from asyncgen.job import Job
from asyncgen.lookahead import LookAhead
from asyncgen.money import Label, Price, Use
from asyncgen.records import SANDBOX
from asyncgen.report import batch_statuses
from asyncgen.results import ImageResult
from asyncgen.sandbox import FaultRule
from asyncgen.selection import Selection
from asyncgen.tally import Withdrawn

pytestmark = pytest.mark.anyio


# -- how many ------------------------------------------------------------------------------------------------------


async def test_no_more_jobs_are_out_than_the_concurrency(tmp_path: Path) -> None:
    slow = {"workers": 64, "execution": "fixed:500"}
    async with open_sandbox(**slow) as sandbox, wired(sandbox, tmp_path) as parts:
        results = await parts.run(prompts(12), parts.engine(concurrency=5))
        assert len(results) == 12
        assert most_out_at_once(bought(sandbox)) == 5


async def test_no_more_is_read_than_is_worked_on_and_one_chunk(tmp_path: Path) -> None:
    read: list[str] = []

    def endless() -> Iterator[str]:
        while True:
            read.append(f"a fox, study {len(read)}")
            yield read[-1]

    async with open_sandbox() as sandbox, wired(sandbox, tmp_path) as parts:
        engine = parts.engine(concurrency=4)
        landed: list[ImageResult] = []

        async def deliver(result: ImageResult) -> None:
            landed.append(result)
            if len(landed) == 50:
                engine.request_stop()

        await engine.run(parts.chunks(endless()), deliver)  # type: ignore[arg-type]  # any iterable is a source
        assert 50 <= len(landed) <= 50 + 4
        assert len(read) <= len(landed) + 4 + 2 * 32


@pytest.mark.parametrize("wanted", [prompts(300), [{"prompt": "a fox", "images": 300, "save_to_style": False}]])
async def test_what_has_landed_is_let_go(tmp_path: Path, wanted: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    """A million images need no more memory than a thousand: no job outlives the chunk it came in."""
    alive: list[int] = []
    jobs: WeakSet[Job] = WeakSet()

    class CountedJob(Job):
        def __init__(self, *parts: Any) -> None:
            super().__init__(*parts)
            jobs.add(self)

    monkeypatch.setattr("asyncgen.engine.Job", CountedJob)

    async def deliver(result: ImageResult) -> None:
        if result.index % 100 == 99:
            gc.collect()
            alive.append(len(jobs))

    async with open_sandbox() as sandbox, wired(sandbox, tmp_path) as parts:
        await parts.engine(concurrency=8).run(parts.chunks(wanted), deliver)
    assert max(alive) <= 8 + 2 * 32


async def test_a_reader_that_is_slow_to_take_results_holds_the_run_back(tmp_path: Path) -> None:
    async with open_sandbox() as sandbox, wired(sandbox, tmp_path) as parts:
        taken, may_go_on = [], anyio.Event()

        async def deliver(result: ImageResult) -> None:
            await may_go_on.wait()
            taken.append(result)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(parts.engine(concurrency=6).run, parts.chunks(prompts(40)), deliver)
            await eventually(lambda: states(tmp_path).get("stored", 0) == 6)
            await anyio.wait_all_tasks_blocked()
            assert len(bought(sandbox)) == 6
            may_go_on.set()
        assert len(taken) == 40


# -- what is one image, and what is two ----------------------------------------------------------------------------


async def test_two_equal_rows_are_two_images(tmp_path: Path) -> None:
    async with open_sandbox() as sandbox, wired(sandbox, tmp_path) as parts:
        results = await parts.run(["a fox"] * 3)
        assert len({result.seed for result in results}) == len(bought(sandbox)) == 3


@pytest.mark.parametrize("apart", [0, 100])
async def test_two_equal_rows_with_one_seed_are_one_image_and_both_are_answered(
    tmp_path: Path, apart: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Side by side, where the first is still being made, and far apart, where it has long been stored."""
    same = {"prompt": "a fox", "seed": 7}
    async with open_sandbox() as sandbox, wired(sandbox, tmp_path) as parts:
        engine = parts.engine()
        results = await parts.run([same, *prompts(apart), same], engine)
        first, last = (next(r for r in results if r.index == index) for index in (0, apart + 1))
        assert (first.ok, last.ok, first.paths) == (True, True, last.paths)
        assert len(bought(sandbox)) == apart + 1
        assert (engine.statistics.made, engine.statistics.repeated) == (apart + 1, 1)
    assert "it is one image" in caplog.text


async def test_both_places_of_an_image_whose_lane_has_stopped_say_that_it_is_pending(tmp_path: Path) -> None:
    same = {"prompt": "a fox", "seed": 7, "style_id": "1"}
    async with open_sandbox(fault("no_images")) as sandbox:
        base = f"{sandbox.base_url}/{ENDPOINT}"
        async with wired(sandbox, tmp_path) as parts:
            assert not any(result.ok for result in await parts.run([same]))
        async with wired(sandbox, tmp_path, allowance=allowing(base, faults_in_a_row=1)) as parts:
            others = [{"prompt": prompt, "style_id": "1"} for prompt in ("a cat", "a dog")]
            results = await parts.run([*others, same, same], parts.engine(1, retry_failed=True))
    by_place = sorted(results, key=lambda result: result.index)
    assert [result.status for result in by_place] == ["failed", "pending", "pending", "pending"]


async def test_an_id_used_twice_stops_the_run_and_keeps_what_is_made(tmp_path: Path) -> None:
    rows = [{"prompt": "a fox", "id": "x"}, *prompts(40), {"prompt": "an owl", "id": "x"}]
    async with open_sandbox() as sandbox, wired(sandbox, tmp_path) as parts:
        with pytest.raises(InputError, match="'x' is used twice"):
            await parts.run(rows)
        assert states(tmp_path).get("stored", 0) == len(bought(sandbox)) > 0


# -- run again -----------------------------------------------------------------------------------------------------


async def again(root: Path, sandbox: Any, wanted: list[Any], **choices: Any) -> tuple[Engine, list[ImageResult]]:
    policy = {name: choices.pop(name) for name in ("resubmit_unknown",) if name in choices}
    fields = choices.pop("fields", {})
    async with wired(sandbox, root, **policy) as parts:
        engine = parts.engine(**choices)
        return engine, await parts.run(wanted, engine, **fields)


async def test_what_is_there_is_kept_and_only_what_is_new_is_bought(tmp_path: Path) -> None:
    async with open_sandbox() as sandbox:
        await again(tmp_path, sandbox, prompts(10))
        engine, results = await again(tmp_path, sandbox, [*prompts(10), "a new one", "and another"])
        assert (engine.statistics.kept, engine.statistics.new, engine.statistics.made) == (10, 2, 2)
        assert [result.kept for result in sorted(results, key=lambda r: r.index)] == [True] * 10 + [False] * 2
        assert len(bought(sandbox)) == 12


async def test_rows_that_moved_are_kept_with_the_seeds_they_have(tmp_path: Path) -> None:
    async with open_sandbox() as sandbox:
        _, first = await again(tmp_path, sandbox, prompts(10))
        _, second = await again(tmp_path, sandbox, prompts(10)[::-1])
        assert {r.prompt: r.seed for r in first} == {r.prompt: r.seed for r in second}
        assert len(bought(sandbox)) == 10


async def test_failed_ones_are_tried_only_when_told(tmp_path: Path) -> None:
    async with open_sandbox(fault("failed:exception", nth=[2, 5])) as sandbox:
        engine, _ = await again(tmp_path, sandbox, prompts(8))
        assert (engine.statistics.made, engine.statistics.failed) == (6, 2)
        engine, results = await again(tmp_path, sandbox, prompts(8))
        assert (engine.statistics.kept, engine.statistics.failed, len(bought(sandbox))) == (6, 2, 8)
        assert sum(result.failure is not None for result in results) == 2
        engine, _ = await again(tmp_path, sandbox, prompts(8), retry_failed=True)
        assert (engine.statistics.kept, engine.statistics.made, len(bought(sandbox))) == (6, 2, 10)


async def test_changed_values_are_counted_and_made_again_only_when_told(tmp_path: Path) -> None:
    rows = [{"prompt": prompt, "id": prompt[-1]} for prompt in prompts(4)]
    edited = [{**rows[0], "steps": 30}, *rows[1:]]
    async with open_sandbox() as sandbox:
        await again(tmp_path, sandbox, rows)
        engine, _ = await again(tmp_path, sandbox, edited)
        assert (engine.statistics.kept, engine.statistics.changed, len(bought(sandbox))) == (4, 1, 4)
        engine, _ = await again(tmp_path, sandbox, edited, rebuy_changed=True)
        assert (engine.statistics.kept, engine.statistics.made, len(bought(sandbox))) == (3, 1, 5)
        engine, _ = await again(tmp_path, sandbox, edited, rebuy_changed=True)
        assert (engine.statistics.kept, engine.statistics.changed, len(bought(sandbox))) == (4, 0, 5)


async def test_what_is_made_again_is_recorded_as_it_was_asked_for_then(tmp_path: Path) -> None:
    row = {"prompt": "a fox", "id": "x", "style_id": "1", "seed": 1}
    edited = {"prompt": "an owl", "id": "x", "style_id": "16", "seed": 2}
    async with open_sandbox() as sandbox:
        await again(tmp_path, sandbox, [row])
        await again(tmp_path, sandbox, [edited], rebuy_changed=True)
    ((said, style_id, seed),) = ledger_rows(tmp_path, "SELECT said, style_id, seed FROM item")
    assert ('"an owl"' in said, style_id, seed) == (True, "16", "2")


async def test_what_was_never_bought_is_made_as_it_is_asked_for_now(tmp_path: Path) -> None:
    row = {"prompt": "a fox", "id": "x", "style_id": "1"}
    edited = {"prompt": "an owl", "id": "x", "style_id": "16"}
    async with open_sandbox(fault("unauthorized", count=1)) as sandbox:
        with pytest.raises(RunPausedError):
            await again(tmp_path, sandbox, [row])
        await again(tmp_path, sandbox, [edited])
        assert "an owl" in bought(sandbox)[0]["prompt"]
    ((said, style_id),) = ledger_rows(tmp_path, "SELECT said, style_id FROM item")
    assert ('"an owl"' in said, style_id) == (True, "16")


async def test_a_held_submission_that_is_resubmitted_is_recorded_with_the_values_it_is_made_with(
    tmp_path: Path,
) -> None:
    row = {"prompt": "a fox", "id": "x", "seed": 1}
    edited = {"prompt": "an owl", "id": "x", "seed": 2}
    async with open_sandbox(fault("reset_before_accept", count=1)) as sandbox:
        await again(tmp_path, sandbox, [row])
        await again(tmp_path, sandbox, [edited], resubmit_unknown=True)
        (job,) = bought(sandbox)
    ((spec, seed),) = ledger_rows(tmp_path, "SELECT spec, seed FROM item")
    assert ("an owl" in job["prompt"]) == ('"prompt":"an owl"' in spec)
    assert str(job["seed"]) == seed


async def test_jobs_still_out_are_collected_by_their_ids_before_anything_is_bought(tmp_path: Path) -> None:
    async with open_sandbox(speed=1, execution="fixed:0.3") as sandbox:
        async with wired(sandbox, tmp_path) as parts, anyio.create_task_group() as tasks:
            tasks.start_soon(parts.run, prompts(8))
            await eventually(lambda: states(tmp_path).get("accepted", 0) == 8)
            tasks.cancel_scope.cancel()
        engine, results = await again(tmp_path, sandbox, prompts(10))
        assert (engine.statistics.reattached, engine.statistics.made) == (8, 10)
        assert (len(results), len(bought(sandbox))) == (10, 10)


async def test_a_job_out_is_collected_even_where_the_input_no_longer_names_it(tmp_path: Path) -> None:
    async with open_sandbox(speed=1, execution="fixed:0.2") as sandbox:
        async with wired(sandbox, tmp_path) as parts, anyio.create_task_group() as tasks:
            tasks.start_soon(parts.run, prompts(4))
            await eventually(lambda: states(tmp_path).get("accepted", 0) == 4)
            tasks.cancel_scope.cancel()
        _, results = await again(tmp_path, sandbox, prompts(1))
        assert len(results) == 1
        assert states(tmp_path) == {"stored": 4}
        assert len(bought(sandbox)) == 4


async def test_what_the_sandbox_made_never_stands_for_what_an_endpoint_would_make(tmp_path: Path) -> None:
    async with open_sandbox() as sandbox, wired(sandbox, tmp_path) as parts:
        await parts.run(prompts(3))
        parts.batch = await parts.ledger.open_batch("set", SANDBOX)
        engine = parts.engine()
        await parts.run(prompts(3), engine)
        assert (engine.statistics.kept, len(bought(sandbox))) == (0, 6)


# -- stopping ------------------------------------------------------------------------------------------------------


async def test_a_stop_sends_nothing_new_and_collects_what_is_out(tmp_path: Path) -> None:
    async with open_sandbox(workers=2) as sandbox, wired(sandbox, tmp_path) as parts:
        engine = parts.engine(concurrency=8)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(parts.run, prompts(100), engine)
            await eventually(lambda: len(bought(sandbox)) >= 20)
            engine.request_stop()
        sold = len(bought(sandbox))
        assert 20 <= sold <= 30
        assert states(tmp_path)["stored"] == sold
        assert engine.statistics.pending == engine.statistics.wanted - sold


async def test_a_stop_can_take_back_what_is_out(tmp_path: Path) -> None:
    idle = open_sandbox(zero_workers=[ENDPOINT])
    async with idle as sandbox, wired(sandbox, tmp_path, cancel_on_stop=True) as parts:
        engine = parts.engine(concurrency=8)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(parts.run, prompts(20), engine)
            await eventually(lambda: states(tmp_path).get("accepted", 0) == 8)
            engine.request_stop()
        assert [job["cancels"] for job in bought(sandbox)] == [1] * 8
        assert states(tmp_path) == {"cancelled": 8, "wanted": 12}
        assert engine.statistics.cancelled == 8


async def test_a_submission_in_the_air_at_the_stop_is_taken_back_once_it_is_accepted(tmp_path: Path) -> None:
    slow = fault("slow_body", operation="run", seconds=0.2)
    idle = open_sandbox(slow, zero_workers=[ENDPOINT])
    async with idle as sandbox, wired(sandbox, tmp_path, cancel_on_stop=True) as parts:
        engine = parts.engine(concurrency=4)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(parts.run, prompts(4), engine)
            await eventually(lambda: len(bought(sandbox)) == 4)
            assert states(tmp_path) == {"submitting": 4}
            engine.request_stop()
        assert [job["cancels"] for job in bought(sandbox)] == [1] * 4
        assert states(tmp_path) == {"cancelled": 4}


async def test_what_was_taken_back_is_made_when_the_batch_is_started_again(tmp_path: Path) -> None:
    async with open_sandbox(fault("stuck", count=3)) as sandbox:
        async with wired(sandbox, tmp_path, cancel_on_stop=True) as parts:
            engine = parts.engine(concurrency=3)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(parts.run, prompts(3), engine)
                await eventually(lambda: states(tmp_path).get("accepted", 0) == 3)
                engine.request_stop()
        engine, _ = await again(tmp_path, sandbox, prompts(3))
        assert (engine.statistics.made, states(tmp_path)) == (3, {"stored": 3})


@pytest.mark.parametrize("name", ["unauthorized", "no_credit"])
async def test_a_fault_of_the_account_pauses_the_run_with_everything_unfinished_pending(
    tmp_path: Path, name: str
) -> None:
    async with open_sandbox(fault(name, nth=range(11, 1000))) as sandbox, wired(sandbox, tmp_path) as parts:
        engine = parts.engine(concurrency=4)
        with pytest.raises(RunPausedError):
            await parts.run(prompts(50), engine)
        assert states(tmp_path)["stored"] == 10
        assert states(tmp_path).keys() == {"stored", "wanted"}
        assert sandbox.books.counts["requests.run"] <= 10 + 4


async def test_a_key_refused_while_polling_leaves_what_is_out_to_be_collected(tmp_path: Path) -> None:
    async with open_sandbox(fault("unauthorized", operation="status")) as sandbox:
        with pytest.raises(RunPausedError):
            await again(tmp_path, sandbox, prompts(5))
        sold = len(bought(sandbox))
        assert states(tmp_path)["accepted"] == sold
        sandbox.faults.clear()
        engine, _ = await again(tmp_path, sandbox, prompts(5))
        assert (engine.statistics.reattached, engine.statistics.made, len(bought(sandbox))) == (sold, 5, 5)


async def test_a_disk_that_refuses_stops_the_run_and_loses_nothing(tmp_path: Path) -> None:
    (tmp_path / "no_style").write_text("a file where the folder should be")
    async with open_sandbox() as sandbox:
        with pytest.raises(StoreError):
            await again(tmp_path, sandbox, prompts(12))
        sold = len(bought(sandbox))
        (tmp_path / "no_style").unlink()
        engine, _ = await again(tmp_path, sandbox, prompts(12))
        assert (engine.statistics.made, len(bought(sandbox))) == (12, 12)
        assert sold <= 12


async def test_an_endpoint_that_goes_silent_pauses_the_run(tmp_path: Path) -> None:
    async with wired("http://127.0.0.1:9/v2", tmp_path, pace=Pace(unreachable_seconds=20)) as parts:
        with pytest.raises(RunPausedError, match="has not answered"):
            await parts.run(prompts(5))
        assert states(tmp_path).keys() == {"wanted"}


async def test_cancelling_the_task_leaves_every_accepted_job_known_by_its_id(tmp_path: Path) -> None:
    async with open_sandbox(speed=1, execution="fixed:0.5") as sandbox:
        async with wired(sandbox, tmp_path) as parts, anyio.create_task_group() as tasks:
            tasks.start_soon(parts.run, prompts(60), parts.engine(concurrency=32))
            await eventually(lambda: len(bought(sandbox)) >= 20)
            tasks.cancel_scope.cancel()
        known = {job_id for (job_id,) in ledger_rows(tmp_path, "SELECT job_id FROM job")}
        assert known == {job["id"] for job in bought(sandbox)}
        assert states(tmp_path).get("submitting", 0) == 0


async def test_a_row_that_is_wrong_stops_a_stream_and_keeps_what_is_made(tmp_path: Path) -> None:
    async def source() -> AsyncIterator[Any]:
        for prompt in prompts(5):
            yield prompt
        yield {"prompt": "a fox", "steps": 0}

    async with open_sandbox() as sandbox, wired(sandbox, tmp_path) as parts:
        with pytest.raises(InputError, match="prompt 6:steps"):
            await parts.run(source())  # type: ignore[arg-type]  # any source will do
        found = states(tmp_path)
        assert found["stored"] == len(bought(sandbox))
        assert found["stored"] + found.get("wanted", 0) == 5


async def test_a_bug_is_never_turned_into_a_failed_image(tmp_path: Path) -> None:
    async with open_sandbox() as sandbox, wired(sandbox, tmp_path) as parts:
        engine = parts.engine()
        with pytest.raises(ExceptionGroup) as caught:
            parts.clock.on_pause = lambda: 1 / 0
            await parts.run(prompts(3), engine)
        assert caught.group_contains(ZeroDivisionError)
        assert engine.statistics.failed == 0


async def test_the_counts_add_up(tmp_path: Path) -> None:
    faults = fault("failed:exception", prompt_contains="study 1"), fault("502", prompt_contains="study 2")
    async with open_sandbox(*faults) as sandbox, wired(sandbox, tmp_path) as parts:
        engine = parts.engine()
        await parts.run([*prompts(30), {"prompt": "x", "seed": 1}, {"prompt": "x", "seed": 1}], engine)
        s = engine.statistics
        assert s.wanted == s.kept + s.repeated + s.made + s.failed + s.held + s.cancelled == 32
        assert (s.failed, s.held, s.repeated, s.out, s.pending) == (11, 11, 1, 0, 0)


# -- who is told what ----------------------------------------------------------------------------------------------


async def test_each_place_is_told_once_however_slowly_results_are_taken(tmp_path: Path) -> None:
    """While a result is being handed on, the input may name the same image again."""
    wanted = [{"prompt": f"fox {number % 5}", "seed": 7} for number in range(60)]
    told: list[int] = []

    async def deliver(result: ImageResult) -> None:
        await anyio.sleep(0.001)
        told.append(result.index)

    async with open_sandbox() as sandbox, wired(sandbox, tmp_path) as parts:
        engine = parts.engine(concurrency=2)
        await engine.run(parts.chunks(wanted), deliver)
    assert sorted(told) == list(range(60))
    assert (engine.statistics.made, engine.statistics.repeated, engine.statistics.pending) == (5, 55, 0)


async def test_a_run_that_is_cancelled_is_recorded_as_ended_and_forgets_what_it_has_seen(tmp_path: Path) -> None:
    async def deliver(result: ImageResult) -> None:
        scope.cancel()

    async with open_sandbox() as sandbox, wired(sandbox, tmp_path) as parts:
        with anyio.CancelScope() as scope:
            await parts.engine(concurrency=4).run(parts.chunks(prompts(40)), deliver)
        seen = await parts.ledger.transact(lambda connection: connection.execute("SELECT * FROM met").fetchall())
        runs = await parts.ledger.transact(lambda connection: connection.execute("SELECT outcome FROM run").fetchall())
    assert (seen, [tuple(run) for run in runs]) == ([], [("cancelled",)])


# -- jobs of an earlier process ------------------------------------------------------------------------------------


async def left_out(parts: Wired, count: int) -> None:
    """A run that was cut off with `count` jobs out."""
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(parts.engine(concurrency=count).run, parts.chunks(prompts(count)), ignore)
            await eventually(lambda: states(parts.root).get("accepted", 0) == count)
            scope.cancel()


async def ignore(result: ImageResult) -> None:
    """For tests that look at the ledger."""


async def test_what_an_earlier_run_left_out_is_not_looked_up_as_kept_when_it_has_landed(tmp_path: Path) -> None:
    """It is made by this run: counted as kept too, it would be two."""
    async with open_sandbox() as sandbox, wired(sandbox, tmp_path) as parts:
        await left_out(parts, 1)
        note = "UPDATE item SET row_key = x'01', row_images = 1"
        await parts.ledger.transact(lambda connection: connection.execute(note))
        engine = parts.engine()

        async def chunks() -> AsyncIterator[list[IndexedWant]]:
            await eventually(lambda: states(tmp_path) == {"stored": 1})
            assert await engine.take_kept([b"\x01"]) == {}
            async for chunk in parts.chunks(prompts(1)):
                yield chunk
            assert await engine.take_kept([b"\x01"]) == {}, "it has been claimed"

        await engine.run(chunks(), ignore)
        assert (engine.statistics.wanted, engine.statistics.made, engine.statistics.kept) == (1, 1, 0)
        again = parts.engine()

        async def looked_up() -> AsyncIterator[list[IndexedWant]]:
            assert await again.take_kept([b"\x01", b"\x02"]) == {b"\x01": 1}
            assert await again.take_kept([b"\x01"]) == {}, "each row is taken once"
            nothing: list[list[IndexedWant]] = []
            for chunk in nothing:
                yield chunk

        await again.run(looked_up(), ignore)
        assert (again.statistics.wanted, again.statistics.kept) == (1, 1)


async def test_what_an_earlier_run_left_out_is_counted_though_the_input_no_longer_names_it(tmp_path: Path) -> None:
    async with open_sandbox(
        fault("failed:exception", prompt_contains="study 1"), execution="fixed:0.3", speed=1
    ) as sandbox:
        async with wired(sandbox, tmp_path) as parts:
            await left_out(parts, 3)
        async with wired(sandbox, tmp_path) as parts:
            engine = parts.engine()
            await parts.run(["something else"], engine)
    counts = engine.statistics
    assert (counts.reattached, counts.made, counts.failed, counts.pending) == (3, 3, 1, 0)


async def test_a_stop_while_re_attaching_leaves_none_of_them_behind(tmp_path: Path) -> None:
    """They are paid for already: more of them than the limit allows are collected, or cancelled, all the same."""
    async with open_sandbox(execution="fixed:0.3", speed=1) as sandbox:
        async with wired(sandbox, tmp_path) as parts:
            await left_out(parts, 6)
        async with wired(sandbox, tmp_path) as parts:
            engine = parts.engine(concurrency=1)
            engine.request_stop()
            await engine.run(parts.chunks(["something else"]), ignore)
        assert states(tmp_path) == {"stored": 6}
        assert len(bought(sandbox)) == 6


# -- what it costs -------------------------------------------------------------------------------------------------

PRICE = Price(0.5, "a test")


async def cost_of(root: Path, *faults: FaultRule, **policy: Any) -> tuple[Engine, list[dict[str, Any]]]:
    """Eight images at half a dollar a second, fifty milliseconds each."""
    async with open_sandbox(*faults) as sandbox:
        allowance = allowing(f"{sandbox.base_url}/{ENDPOINT}", price=PRICE)
        async with wired(sandbox, root, allowance=allowance, **policy) as parts:
            engine = parts.engine()
            await parts.run(prompts(8), engine)
        return engine, bought(sandbox)


async def test_a_run_says_what_it_has_paid_for_and_what_of_that_gave_no_picture(tmp_path: Path) -> None:
    faults = fault("failed:exception", nth=[2]), fault("lost_job", nth=[4])
    engine, jobs = await cost_of(tmp_path, *faults)
    spending = engine.statistics.spending
    assert {use: tally.jobs for use, tally in spending.tallies.items()} == {
        Use.MADE: 7,
        Use.FAILED: 1,
        Use.CANCELLED: 0,
        Use.LOST: 1,
        Use.UNKNOWN: 0,
    }
    assert spending.total.jobs == len(jobs) == 9
    assert spending.tallies[Use.MADE].cost(PRICE).label is Label.MEASURED
    assert spending.tallies[Use.MADE].cost(PRICE).usd == pytest.approx(7 * 0.025, rel=0.05)
    assert str(spending.tallies[Use.LOST].cost(PRICE)) == "not known", "it never said how long it ran"
    assert spending.total.cost(PRICE).label is Label.LOWER_BOUND
    assert 0 < len(spending.first_delay_ms) <= 8


async def test_a_submission_that_may_have_been_accepted_leaves_no_cost_measured(tmp_path: Path) -> None:
    engine, jobs = await cost_of(tmp_path, fault("reset_after_accept", nth=[3]), resubmit_unknown=True)
    spending = engine.statistics.spending
    assert (engine.statistics.made, engine.statistics.held, len(jobs)) == (8, 0, 9)
    assert spending.tallies[Use.UNKNOWN].jobs == 1
    assert spending.total.cost(PRICE).label is Label.LOWER_BOUND


async def test_what_a_run_says_and_what_the_ledger_says_it_cost_is_the_same(tmp_path: Path) -> None:
    faults = (
        fault("failed:exception", nth=[2]),
        fault("lost_job", nth=[4]),
        fault("failed:out_of_memory", nth=[5]),
        fault("502", nth=[6]),
    )
    engine, _ = await cost_of(tmp_path, *faults)
    (status,) = batch_statuses(tmp_path / LEDGER)
    tallies = engine.statistics.spending.tallies
    assert {use: cost.label for use, cost in status.costs.items()} == {
        use: tally.cost(PRICE).label for use, tally in tallies.items() if tally.jobs
    }
    for use, cost in status.costs.items():
        assert cost.usd == pytest.approx(tallies[use].cost(PRICE).usd)
    assert status.gpu_ms == engine.statistics.spending.total.execution_ms
    runs = ledger_rows(tmp_path, "SELECT DISTINCT run_id FROM job")
    assert runs == [(1,)], "every job knows the run that bought it"


# -- commands ------------------------------------------------------------------------------------------------------


async def test_a_job_that_waits_for_a_pause_to_end_is_not_out(tmp_path: Path) -> None:
    """Neither one that must be bought again, nor one that had waited for a place."""
    held, failing = fault("503", operation="status"), fault("failed:out_of_memory", nth=[1])
    async with open_sandbox(held, failing) as sandbox, wired(sandbox, tmp_path) as parts:
        engine = parts.engine(concurrency=2)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(parts.run, prompts(4), engine)
            await eventually(lambda: states(tmp_path) == {"accepted": 2, "wanted": 2})
            assert engine.statistics.out == 2
            engine.pause()
            sandbox.faults.clear()
            await eventually(lambda: states(tmp_path) == {"stored": 1, "wanted": 3})
            await eventually(lambda: engine.statistics.made == 1 and engine.statistics.out == 0)
            await anyio.wait_all_tasks_blocked()
            assert (engine.statistics.out, engine.statistics.in_work, engine.statistics.put_off) == (0, 1, 1)
            engine.resume()
        assert (engine.statistics.made, engine.statistics.out, engine.statistics.put_off) == (4, 0, 0)


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_a_withdrawal_counts_each_image_once_however_far_it_has_come(tmp_path: Path, concurrency: int) -> None:
    async with open_sandbox(execution="fixed:60", speed=1) as sandbox, wired(sandbox, tmp_path) as parts:
        engine = parts.engine(concurrency=concurrency)
        chunks = LookAhead(parts.chunks(prompts(80)))
        engine.read_ahead = chunks.waiting
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(chunks.read)
            tasks.start_soon(engine.run, chunks, to_nobody)
            await eventually(lambda: states(tmp_path).get("accepted") == concurrency and chunks.has_ended)
            assert await engine.withdraw(Selection()) == Withdrawn(concurrency, 80 - concurrency)
            assert await engine.withdraw(Selection()) == Withdrawn(0, 0)
        assert states(tmp_path) == {"cancelled": 80}
        assert engine.statistics.cancelled == 80


async def to_nobody(result: ImageResult) -> None:
    """Nobody waits for it."""
