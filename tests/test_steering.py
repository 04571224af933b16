"""Commands to a run that goes on, and to an output root that nobody has in use: real processes, and the books."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen
from typing import Any

import anyio
import pytest
from support import (
    LEDGER,
    Remote,
    account,
    fault,
    ledger_rows,
    prompts,
    run_cli,
    sandbox_in_a_thread,
    started,
    states,
    true_output,
    wait_until,
)

from asyncgen.control import connected, socket_path
from asyncgen.control_messages import Command
from asyncgen.settings import state_folder

COUNT = 8
COMMAND = ("batch", "p.jsonl", "--out=out", "--width=64", "--height=64", "--concurrency=2", "--json")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eight prompts with ids p0 to p7, of which the last two are of style 1."""
    rows = [
        {"id": f"p{number}", "prompt": prompt, "style": "1" if number > 5 else None}
        for number, prompt in enumerate(prompts(COUNT))
    ]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return tmp_path


@contextmanager
def running(folder: Path, sandbox: Remote, *options: str) -> Iterator[Popen[str]]:
    """A run with two jobs out."""
    with started(*COMMAND, *options, cwd=folder, env=account(sandbox)) as run:
        wait_until(lambda: states(folder / "out").get("accepted") == 2 if sandbox.accepted() == 2 else False)
        yield run


def queue(folder: Path, sandbox: Remote, *arguments: str) -> str:
    ran = run_cli("queue", *arguments, "--out=out", cwd=folder, env=account(sandbox))
    assert ran.code == 0, ran
    return ran.out


def tell(folder: Path, **command: Any) -> dict[str, Any]:
    """The answer of the process that owns the run, without another process to ask it."""

    async def ask() -> dict[str, Any]:
        async with connected(socket_path(folder / "out" / LEDGER, state_folder())) as owner:
            assert owner is not None
            return await owner.ask(Command.model_validate(command))

    return anyio.run(ask)


def became(folder: Path) -> dict[str, str]:
    return dict(ledger_rows(folder / "out", "SELECT json_extract(said, '$.id'), state FROM item"))


def test_a_paused_run_sends_nothing_collects_what_is_out_and_goes_on_when_told(folder: Path) -> None:
    with sandbox_in_a_thread(execution="fixed:1", speed=1) as sandbox, running(folder, sandbox) as run:
        assert tell(folder, verb="pause") == {"batches": ["p"]}
        sent = sandbox.accepted()
        wait_until(lambda: states(folder / "out").get("stored") == sent)
        assert sandbox.accepted() == sent, "nothing was sent meanwhile"
        shown = queue(folder, sandbox)
        assert "a run is paused" in shown
        assert f"0 out, {sent} made" in shown, "what waits for the pause to end is not out"
        assert queue(folder, sandbox, "continue").startswith("p: goes on")
        run.communicate(timeout=30)
        assert run.returncode == 0
    assert len(true_output(folder / "out")) == COUNT


def test_some_are_cancelled_by_id_and_lane_before_and_after_they_were_sent_and_the_others_are_made(
    folder: Path,
) -> None:
    with sandbox_in_a_thread(execution="fixed:2", speed=1) as sandbox:
        with running(folder, sandbox) as run:
            assert tell(folder, verb="cancel", ids=["p0", "p5"])["out"] == 1
            tell(folder, verb="cancel", style="1")
            assert [job["state"] for job in sandbox.books() if job["prompt"].endswith("study 0")] == ["CANCELLED"]
            run.communicate(timeout=60)
        assert run.returncode == 3, "what was cancelled is still to do"
        cancelled = {name for name, state in became(folder).items() if state == "cancelled"}
        assert cancelled == {"p0", "p5", "p6", "p7"}
        assert sandbox.accepted() == 5, "what was not sent when it was cancelled has cost nothing"
    assert len(true_output(folder / "out")) == 4


def test_all_is_cancelled_and_comes_back_when_the_batch_is_started_again(folder: Path) -> None:
    with sandbox_in_a_thread(execution="fixed:60", speed=1) as slow:
        with running(folder, slow) as run:
            assert queue(folder, slow, "cancel", "--all").startswith("2 that were out are cancelled")
            run.communicate(timeout=30)
        assert run.returncode == 3
        assert {job["state"] for job in slow.books()} == {"CANCELLED"}
        assert states(folder / "out") == {"cancelled": COUNT}
    with sandbox_in_a_thread() as sandbox:
        assert run_cli(*COMMAND, cwd=folder, env=account(sandbox)).code == 0
        assert sandbox.accepted() == COUNT
    assert len(true_output(folder / "out")) == COUNT


def test_without_a_run_what_is_out_is_cancelled_at_the_endpoint_it_was_sent_to(folder: Path) -> None:
    """The owner was killed, and its socket is still there."""
    with sandbox_in_a_thread(execution="fixed:60", speed=1) as sandbox:
        with running(folder, sandbox) as run:
            run.kill()
        assert "no run is going on" in queue(folder, sandbox)
        ran = run_cli("queue", "pause", "--out=out", cwd=folder, env=account(sandbox))
        assert (ran.code, "no run goes on" in ran.err) == (2, True)
        assert queue(folder, sandbox, "cancel", "p0").startswith("1 that were out")
        assert became(folder)["p0"] == "cancelled"
        assert became(folder)["p1"] == "accepted", "it was not asked about, and is not waited for"
        other = account(sandbox, endpoint="other")
        assert run_cli("queue", "cancel", "--all", "--out=out", cwd=folder, env=other).code == 0
        assert {job["state"] for job in sandbox.books("ep")} == {"CANCELLED"}
    assert set(states(folder / "out")) == {"cancelled"}


def test_urgent_items_of_a_running_batch_start_next(folder: Path) -> None:
    rows = [{"id": f"p{number}", "prompt": prompt} for number, prompt in enumerate(prompts(60))]
    (folder / "p.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    with sandbox_in_a_thread(fault("503", operation="status")) as sandbox:  # so that what is out stays so
        with running(folder, sandbox) as run:
            assert tell(folder, verb="urgent", ids=["p59", "p20", "no such"]) == {
                "read_ahead": 2,
                "unknown": ["no such"],
                "is_read": True,
            }
            sandbox.clear()
            run.communicate(timeout=60)
        assert run.returncode == 0
        order = [int(job["prompt"].rpartition(" ")[2]) for job in sandbox.books()]
    assert order.index(20) <= 4, "of the chunk that is being taken in, it is the next"
    assert order.index(59) <= 36, "of the others too"


def test_an_id_that_nothing_has_is_told(folder: Path) -> None:
    with sandbox_in_a_thread(execution="fixed:60", speed=1) as sandbox:
        with running(folder, sandbox) as run:
            for verb in ("cancel", "urgent"):
                ran = run_cli("queue", verb, "zzz", "--out=out", cwd=folder, env=account(sandbox))
                assert (ran.code, "nothing is called zzz" in ran.err) == (2, True), ran
            ran = run_cli("queue", "cancel", "zzz", "p7", "--out=out", cwd=folder, env=account(sandbox))
            assert (ran.code, "1 wanted are not sent" in ran.out, "called zzz:" in ran.err) == (2, True, True), ran
            run.kill()
        ran = run_cli("queue", "cancel", "zzz", "--out=out", cwd=folder, env=account(sandbox))
        assert (ran.code, "nothing is called zzz" in ran.err) == (2, True), ran


def test_cancelling_everything_must_be_said(folder: Path) -> None:
    ran = run_cli("queue", "cancel", cwd=folder)
    assert (ran.code, "--all" in ran.err) == (2, True)
