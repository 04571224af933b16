"""Items added to a batch: while it is run by another process, at its end, and without a run."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen
from typing import Any

import anyio
import pytest
from parts import PLANNER
from support import (
    SMALL,
    Ran,
    Remote,
    account,
    bought,
    eventually,
    fault,
    ledger_rows,
    open_sandbox,
    run_cli,
    sandbox_in_a_thread,
    started,
    states,
    true_output,
    wait_until,
    wired,
)
from test_steering import tell

from asyncgen.errors import InputError
from asyncgen.intake import IndexedWant
from asyncgen.records import Want
from asyncgen.request import parse_request
from asyncgen.results import ImageResult
from asyncgen.selection import Selection
from asyncgen.tally import Added, Withdrawn

SIZE = ("--width=64", "--height=64")
COMMAND = ("batch", "p.jsonl", "--out=out", *SIZE, "--concurrency=2", "--json")


def write(path: Path, *rows: dict[str, Any]) -> None:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "p.jsonl", {"prompt": "a fox", "id": "fox"}, {"prompt": "an owl", "id": "owl"})
    return tmp_path


@contextmanager
def running(folder: Path, sandbox: Remote) -> Iterator[Popen[str]]:
    """A run that has sent all that its input names, and waits for it."""
    with started(*COMMAND, cwd=folder, env=account(sandbox)) as run:
        wait_until(lambda: sandbox.accepted() == 2)
        wait_until(lambda: states(folder / "out") == {"accepted": 2})
        yield run


def add(folder: Path, sandbox: Remote, *arguments: str) -> Ran:
    return run_cli("queue", "add", "p", *arguments, "--out=out", *SIZE, cwd=folder, env=account(sandbox))


def ids(folder: Path, state: str) -> list[str]:
    query = "SELECT json_extract(said, '$.id') FROM item WHERE state = ? ORDER BY 1"
    return [name for (name,) in ledger_rows(folder / "out", query, state)]


def test_what_is_added_is_made_by_the_run_that_goes_on_though_its_input_has_ended(folder: Path) -> None:
    write(folder / "more.jsonl", *({"prompt": "a hare"},) * 2, {"prompt": "a fox", "id": "fox"})
    write(folder / "bad.jsonl", {"prompt": "a heron"}, {"prompt": "a crane", "style": "no such"})
    with sandbox_in_a_thread(fault("503", operation="status")) as sandbox:  # so that what is out stays so
        with running(folder, sandbox) as run:
            bad = add(folder, sandbox, "bad.jsonl")
            assert (bad.code, "bad.jsonl:2" in bad.err, "nothing was added" in bad.err) == (2, True, True)
            found = add(folder, sandbox, "more.jsonl")
            assert (found.code, found.out) == (0, "2 added to the run of p, 1 it has already\n"), found
            assert states(folder / "out") == {"accepted": 2, "wanted": 2}, "recorded when it is answered"
            other = add(folder, sandbox, "--prompt=another fox", "--id=fox")
            assert (other.code, "'fox'" in other.err) == (2, True), other
            sandbox.clear()
            out, err = run.communicate(timeout=60)
        summary = json.loads(out.splitlines()[-1])
        assert (run.returncode, summary["added"], summary["made"], summary["wanted"]) == (0, 2, 4, 4), err
        assert sandbox.accepted() == 4
    assert len(true_output(folder / "out")) == 4


@pytest.mark.anyio
async def test_what_is_added_after_everything_was_cancelled_is_made_and_the_rest_is_not(tmp_path: Path) -> None:
    async with open_sandbox() as sandbox, wired(sandbox, tmp_path) as parts:
        engine = parts.engine()
        engine.pause()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(parts.run, ["a fox", "an owl"], engine)
            await eventually(lambda: states(tmp_path) == {"wanted": 2})
            before = await engine.add([planned("a heron")], -1)
            assert (await engine.withdraw(Selection())).out == 0
            after = await engine.add([planned("a hare"), planned("a hare")], -1)
            assert (before, after) == (Added(1, 0, is_taken=True), Added(2, 0, is_taken=True))
            engine.resume()
        assert [job["prompt"] for job in bought(sandbox)] == ["a hare", "a hare"]
        assert states(tmp_path) == {"cancelled": 3, "stored": 2}
        s = engine.statistics
        assert (s.wanted, s.added, s.made, s.cancelled, s.pending) == (5, 3, 2, 3, 0)
        assert (await engine.add([planned("a deer")], -2)).is_taken is False, "the run has ended"
    assert states(tmp_path) == {"cancelled": 3, "stored": 2, "wanted": 1}


def planned(prompt: str, **fields: Any) -> Want:
    return PLANNER.want(parse_request({"prompt": prompt, **SMALL, **fields}), 0)


@pytest.mark.anyio
async def test_the_same_again_is_there_already_and_another_image_under_its_id_is_refused(tmp_path: Path) -> None:
    async with open_sandbox() as sandbox, wired(sandbox, tmp_path) as parts:
        engine, kingfisher = parts.engine(), planned("a kingfisher", id="kf")
        engine.pause()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(parts.run, ["a fox", "an owl"], engine)
            await eventually(lambda: states(tmp_path) == {"wanted": 2})
            assert await engine.add([kingfisher, planned("a hare")], -1) == Added(2, 0, is_taken=True)
            assert await engine.add([kingfisher, planned("a hare")], -2) == Added(0, 2, is_taken=True)
            with pytest.raises(InputError, match="'kf'"):
                await engine.add([planned("other text", id="kf")], -3)
            engine.resume()
        assert sorted(job["prompt"] for job in bought(sandbox)) == ["a fox", "a hare", "a kingfisher", "an owl"]
        s = engine.statistics
        assert (s.wanted, s.added, s.made, s.pending) == (4, 2, 4, 0)


@pytest.mark.anyio
@pytest.mark.parametrize("is_named", [True, False])
async def test_what_is_added_again_while_it_is_taken_back_is_made(tmp_path: Path, is_named: bool) -> None:
    """Whether this run's input names it, or it was found out from an earlier one."""
    fox = planned("a fox", id="fox")
    stuck = fault("stuck", prompt_contains="fox", count=1), fault("stuck", prompt_contains="owl")
    async with open_sandbox(*stuck, workers=2) as sandbox:
        if not is_named:
            async with wired(sandbox, tmp_path) as parts:
                await (await parts.job("a fox", id="fox"))._buy()
        async with wired(sandbox, tmp_path) as parts:
            engine, named = parts.engine(), [{"prompt": "a fox", "id": "fox"}] if is_named else []
            async with anyio.create_task_group() as run:
                run.start_soon(parts.run, [*named, "an owl"], engine)
                await eventually(lambda: states(tmp_path) == {"accepted": 2} and engine.statistics.in_work == 2)
                async with anyio.create_task_group() as commands:
                    commands.start_soon(engine.withdraw, Selection(frozenset({"fox"})))
                    await anyio.lowlevel.checkpoint()
                    assert await engine.add([fox], -1) == Added(1, 0, is_taken=True)
                    assert await engine.add([fox], -2) == Added(0, 1, is_taken=True)
                await eventually(lambda: states(tmp_path) == {"accepted": 1, "stored": 1})
                await engine.withdraw(Selection())
        assert [job["state"] for job in bought(sandbox) if "fox" in job["prompt"]] == ["CANCELLED", "COMPLETED"]
        s = engine.statistics
        assert (s.added, s.made, s.cancelled, s.pending) == (1, 1, 1, 0), (
            "of which the owl is the one that is cancelled"
        )
        assert (s.wanted, s.repeated) == (2 + is_named, int(is_named)), "it is one image"


@pytest.mark.anyio
async def test_what_is_added_again_before_its_turn_has_come_is_made_once(tmp_path: Path) -> None:
    async with open_sandbox(fault("stuck", prompt_contains="owl")) as sandbox, wired(sandbox, tmp_path) as parts:
        engine = parts.engine(concurrency=1)
        async with anyio.create_task_group() as run:
            run.start_soon(parts.run, [{"prompt": "an owl", "id": "owl"}, {"prompt": "a fox", "id": "fox"}], engine)
            await eventually(lambda: states(tmp_path) == {"accepted": 1, "wanted": 1})
            assert await engine.withdraw(Selection(frozenset({"fox"}))) == Withdrawn(0, 1)
            assert await engine.add([planned("a fox", id="fox")], -1) == Added(1, 0, is_taken=True)
            await engine.withdraw(Selection(frozenset({"owl"})))
        assert [job["state"] for job in bought(sandbox)] == ["CANCELLED", "COMPLETED"]
        s = engine.statistics
        assert (s.wanted, s.added, s.made, s.cancelled, s.repeated, s.pending) == (3, 1, 1, 1, 1, 0)


@pytest.mark.anyio
async def test_what_is_added_to_a_run_in_order_while_its_input_ends_is_made(tmp_path: Path) -> None:
    async with open_sandbox() as sandbox, wired(sandbox, tmp_path) as parts:
        engine = parts.engine()

        async def chunks() -> AsyncIterator[list[IndexedWant]]:
            yield [IndexedWant(0, planned("a fox"))]
            assert await engine.add([planned("a hare")], -1) == Added(1, 0, is_taken=True)

        async def deliver(result: ImageResult) -> None:
            assert result.status == "success"

        await engine.run(chunks(), deliver)
        assert states(tmp_path) == {"stored": 2}


@pytest.mark.anyio
async def test_what_was_added_and_cancelled_is_made_when_it_is_added_again(tmp_path: Path) -> None:
    async with open_sandbox() as sandbox, wired(sandbox, tmp_path) as parts:
        engine, hare = parts.engine(), planned("a hare", id="hare")
        engine.pause()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(parts.run, ["a fox"], engine)
            await eventually(lambda: states(tmp_path) == {"wanted": 1})
            await engine.add([hare], -1)
            assert await engine.withdraw(Selection(frozenset({"hare"}))) == Withdrawn(0, 1)
            assert await engine.add([hare], -2) == Added(1, 0, is_taken=True)
            engine.resume()
        s = engine.statistics
        assert (s.wanted, s.added, s.made, s.cancelled, s.pending) == (2, 1, 2, 0, 0)
        assert len(bought(sandbox)) == 2


def test_what_was_added_outlives_a_kill(folder: Path) -> None:
    with sandbox_in_a_thread(execution="fixed:60", speed=1) as sandbox, running(folder, sandbox) as run:
        answer = tell(folder, verb="add", batch="p", requests=[{"prompt": "a hare", "id": "hare"}])
        run.kill()
        assert answer == {"added": 1, "there": 0, "is_taken": True}
    assert ids(folder, "wanted") == ["hare"]


def test_without_a_run_it_is_recorded_and_retry_makes_it(folder: Path) -> None:
    with sandbox_in_a_thread() as sandbox:
        assert run_cli(*COMMAND, cwd=folder, env=account(sandbox)).code == 0
        found = add(folder, sandbox, "--prompt=a hare", "--id=hare")
        assert found.out == "1 are wanted of p; no run goes on: `asyncgen retry p` makes them\n", found
        assert ids(folder, "wanted") == ["hare"]
        same = add(folder, sandbox, "--prompt=a hare", "--id=hare")
        assert same.out.startswith("0 are wanted of p, 1 it has already"), same
        write(folder / "more.jsonl", {"prompt": "a deer"}, {"prompt": "another", "id": "hare"})
        other = add(folder, sandbox, "more.jsonl")
        assert (other.code, "'hare'" in other.err, ids(folder, "wanted")) == (2, True, ["hare"]), other
        again = add(folder, sandbox, "--prompt=a fox", "--id=fox")
        assert again.out.startswith("0 are wanted of p, 1 it has already")
        assert run_cli("retry", "p", "--out=out", cwd=folder, env=account(sandbox)).code == 0
        assert sandbox.accepted() == 3
        wrong = run_cli("queue", "add", "q", "--prompt=x", "--out=out", cwd=folder, env=account(sandbox))
    assert ids(folder, "stored") == ["fox", "hare", "owl"]
    assert (wrong.code, "no batch 'q'; there is: p" in wrong.err) == (2, True), wrong
