"""One image's story: found by every name it has, told in order, with what its owner can do next."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from parts import ADDRESS, LEDGER, TERMS, desk, path_to, record, want
from typer.testing import CliRunner

from asyncgen.cli import app
from asyncgen.errors import Failure, FailureClass, FailureCode, InputError, LedgerError
from asyncgen.lifecycle import State
from asyncgen.protocol import Timing
from asyncgen.story import Story, stories

TOO_LARGE = Failure(FailureClass.INFRASTRUCTURE, FailureCode.OUT_OF_MEMORY, "CUDA out of memory")
NO_REPLY = Failure(FailureClass.TRANSPORT, FailureCode.UNREACHABLE, "reset after the body was sent")


def story(root: Path, name: str) -> Story:
    (found,) = stories(root / LEDGER, name)
    return found


@pytest.mark.anyio
async def test_every_step_is_told_in_order_with_the_jobs_it_bought(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        item = await at.accept(await at.item("a fox", id="mine", style_id="1"), "first-job")
        await at.ledger.record_ended(item, State.WANTED, TOO_LARGE, Timing(10, 300, "w1"))
        await at.accept(item, "second-job")
        await at.ledger.record_storing(item, [record(path="fox.png")], Timing(20, 4700, "w2"))
        await at.ledger.record_stored(item)
        told = story(tmp_path, item.request_id)
    bought_once = [State.WANTED, State.SUBMITTING, State.ACCEPTED]
    assert [event.state for event in told.events] == [*bought_once, *bought_once, State.STORING, State.STORED]
    assert "CUDA out of memory" in told.events[3].words
    assert told.events[1].words == "the intent to buy is durable; only now may POST /run be sent"
    assert all(event.words for event in told.events)
    steps = [event.elapsed_seconds for event in told.events]
    assert steps[0] is None
    assert sum(step for step in steps if step is not None) == pytest.approx(told.events[-1].at - told.events[0].at)
    assert [(job.attempt, job.job_id, job.outcome, job.execution_ms, job.worker_id) for job in told.jobs] == [
        (1, "first-job", "out_of_memory", 300, "w1"),
        (2, "second-job", "completed", 4700, "w2"),
    ]
    assert [(made.path, made.state, made.size_bytes) for made in told.pictures] == [("fox.png", "stored", 10)]
    assert (told.request["prompt"], told.made_with["style_title"], told.seed) == ("a fox", "Ink Intensity", item.seed)
    assert (told.batch, told.realm, told.state) == ("set", "runpod", State.STORED)


@pytest.mark.anyio
async def test_an_image_is_found_by_its_ids_its_jobs_and_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "out"
    async with desk(root) as at:
        item = await at.stored(await at.item("a fox", id="mine"), "sub/fox")
        await at.ledger.record_wanted_again(item, want("a fox", id="mine"), "as told")
        await at.stored(item, "sub/again")
        await at.stored(await at.item("another"))
    monkeypatch.chdir(tmp_path)
    names = [item.request_id, "mine", str(item.job_id), "sub/fox_0.png", "out/sub/fox_0.png", "./out/sub/again_0.png"]
    for name in [*names, str(root / "sub" / "again_0.png")]:
        told = story(root, name)
        assert told.request_id == item.request_id, name
    assert [(made.path, made.state) for made in told.pictures] == [
        ("sub/fox_0.png", "superseded"),
        ("sub/again_0.png", "stored"),
    ]


@pytest.mark.anyio
async def test_all_that_a_name_can_mean_are_told_oldest_first(tmp_path: Path) -> None:
    for batch in ("one", "two"):
        async with desk(tmp_path, batch=batch) as at:
            await at.claim(*(want(f"fox of {batch}", number, id="mine") for number in range(2)))
    assert [told.batch for told in stories(tmp_path / LEDGER, "mine")] == ["one", "one", "two", "two"]


@pytest.mark.anyio
@pytest.mark.parametrize("name", ["img_", "", "%", "min", "../out", "sub", "null"])
async def test_a_name_that_nothing_has_says_which_names_there_are(tmp_path: Path, name: str) -> None:
    async with desk(tmp_path) as at:
        await at.stored(await at.item("a fox", id="mine"), "sub/fox")
        await at.item("without an id")
    with pytest.raises(InputError, match="your own id, a job id, or a picture's path"):
        stories(tmp_path / LEDGER, name)


def test_without_a_ledger_it_says_where_to_look(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match=r"--out"):
        stories(tmp_path / LEDGER, "mine")


@pytest.mark.anyio
async def test_every_state_says_what_comes_next(tmp_path: Path) -> None:
    said = {}
    async with desk(tmp_path, batch="my set") as at:
        for state in State:
            item = await at.item(f"fox {state}", id=str(state))
            for target in path_to(state):
                await at.move(item, target)
            said[state] = story(tmp_path, str(state)).next_step
    assert len(set(said.values())) == len(State)
    assert "`asyncgen retry 'my set'`" in said[State.FAILED]
    assert "worker_error" in said[State.FAILED]
    assert all("--retry-failed" in said[state] for state in (State.FAILED, State.GIVEN_UP, State.LOST))
    assert "--unknown resubmit" in said[State.UNKNOWN]
    assert "may pay twice" in said[State.UNKNOWN]
    assert "is out at" in said[State.ACCEPTED]
    assert ADDRESS in said[State.ACCEPTED]


PRICED = replace(TERMS, usd_per_second=0.001)


def lines_of_jobs(root: Path, name: str) -> list[list[str]]:
    """The table of jobs as `asyncgen why` prints it, the columns of each line."""
    told = CliRunner().invoke(app, ["why", name, "--out", str(root)])
    assert told.exit_code == 0, told
    table = told.stdout.partition("jobs bought\n")[2].partition("\n\n")[0]
    return [[column.strip() for column in re.split(r" {2,}", line.strip())] for line in table.splitlines()]


@pytest.mark.anyio
async def test_each_job_says_what_it_cost_and_whether_it_is_one_that_was_run_again(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        item = await at.item("a fox", id="mine")
        await at.ledger.record_intent(item, PRICED)
        await at.ledger.record_accepted(item, "first-job")
        await at.ledger.record_retry_intent(item, PRICED, TOO_LARGE, Timing(10, 300, "w1"))
        await at.ledger.record_accepted(item, "first-job")
        await at.ledger.record_ended(item, State.WANTED, TOO_LARGE, Timing())
        await at.accept(item, "second-job")
        await at.ledger.record_ended(item, State.FAILED, TOO_LARGE, Timing(10, 4700, "w1"))
    columns, *jobs = lines_of_jobs(tmp_path, "mine")
    id_at, cost_at = columns.index("job"), columns.index("cost")
    assert [(job[id_at], job[cost_at]) for job in jobs] == [
        ("first-job", "$0.0003"),
        ("first-job (run again by /retry)", "–"),
        ("second-job", "–"),
    ], "no time, and then no price"


@pytest.mark.anyio
async def test_a_job_that_is_out_or_unknown_is_named_by_its_id_where_it_has_one(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        item = await at.accept(await at.item("a fox", id="mine"), "the-job")
        assert "job the-job is out" in story(tmp_path, "mine").next_step
        await at.ledger.record_retry_intent(item, TERMS, TOO_LARGE, Timing())
        assert "POST /retry of job the-job is in the air" in story(tmp_path, "mine").next_step
        await at.ledger.record_unknown(item, NO_REPLY)
        held = story(tmp_path, "mine").next_step
        assert "whether job the-job has run again" in held
        assert "--unknown resubmit" in held
        other = await at.item("an owl", id="other")
        await at.ledger.record_intent(other, TERMS)
        assert "POST /run is in the air" in story(tmp_path, "other").next_step
        await at.ledger.record_unknown(other, NO_REPLY)
        assert "for a job of that minute" in story(tmp_path, "other").next_step
