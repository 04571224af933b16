"""A run that is stopped, and an endpoint that goes away and comes back: what `tests/test_cli.py` does not claim yet."""

from __future__ import annotations

import signal
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from support import (
    Ran,
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

COUNT = 24
COMMAND = ("batch", "prompts.txt", "--out", "out", "--json", "--width=64", "--height=64", "--concurrency=8")
INTERRUPT, TERMINATE = signal.SIGINT, signal.SIGTERM


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "prompts.txt").write_text("\n".join(prompts(COUNT)), encoding="utf-8")
    return tmp_path


def stopped(folder: Path, sandbox: Remote, signals: Sequence[signal.Signals], *options: str) -> Ran:
    """A run that got these signals, each after it had answered the one before, the first with eight jobs out.

    With two of them nothing lands before the second: `/status` has no answer until the run has ended.
    """
    if len(signals) > 1:
        sandbox.add(fault("503", operation="status"))
    with started(*COMMAND, *options, cwd=folder, env=account(sandbox)) as process:
        assert process.stderr is not None
        wait_until(lambda: sandbox.accepted() >= 8)
        for number in signals[:-1]:
            process.send_signal(number)
            assert "once more stops now" in process.stderr.readline()
        process.send_signal(signals[-1])
        out, err = process.communicate(timeout=20)
    sandbox.clear()
    return Ran(process.returncode, out, err)


@pytest.mark.parametrize("signals", [(TERMINATE,), (INTERRUPT, INTERRUPT), (TERMINATE, INTERRUPT)])
def test_a_run_that_was_stopped_goes_on_where_it_was_and_buys_nothing_twice(
    folder: Path, signals: Sequence[signal.Signals]
) -> None:
    with sandbox_in_a_thread(execution="fixed:400") as sandbox:
        assert stopped(folder, sandbox, signals).code == 3
        found = states(folder / "out")
        out = found.get("accepted", 0) + found.get("storing", 0)
        assert out == (8 if len(signals) > 1 else 0), "once: what is out is collected; twice: it is left"
        assert found.get("stored", 0) + out == sandbox.accepted()
        ran = run_cli(*COMMAND, cwd=folder, env=account(sandbox))
        assert (ran.code, ran.summary["reattached"], sandbox.accepted()) == (0, out, COUNT), ran
        assert len({job["prompt"] for job in sandbox.books()}) == COUNT
    assert len(true_output(folder / "out")) == COUNT


def test_a_second_ctrl_c_while_jobs_are_cancelled_leaves_a_batch_that_can_be_finished(folder: Path) -> None:
    """What was cancelled is bought again, because the batch was started again; what was not is collected."""
    with sandbox_in_a_thread(execution="fixed:400") as sandbox:
        assert stopped(folder, sandbox, (INTERRUPT, INTERRUPT), "--on-stop=cancel").code == 3
        for _ in range(2):  # the first learns what became of jobs whose cancelling was cut short
            ran = run_cli(*COMMAND, cwd=folder, env=account(sandbox))
            assert (ran.code in {0, 3}, ran.summary["failed"], ran.summary["held"]) == (True, 0, 0), ran
        assert ran.code == 0
        sold = sandbox.books()
    cancelled = Counter(job["prompt"] for job in sold if job["state"] == "CANCELLED")
    assert Counter(job["prompt"] for job in sold) == Counter(prompts(COUNT)) + cancelled
    assert len(true_output(folder / "out")) == COUNT


# -- a sandbox that is killed and comes back -------------------------------------------------------------------------


@contextmanager
def sandbox_at(port: str) -> Iterator[tuple[subprocess.Popen[str], Remote]]:
    """A sandbox of its own process at this port, with jobs that take 0.4 s; killed at the end."""
    fast = ("--speed=1000", "--cold-start=0", "--execution=fixed:400", "--rate-limit-scale=0", "--workers=4")
    with started("sandbox", f"--port={port}", *fast, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        yield process, Remote(process.stdout.readline().split()[-1])
        process.kill()


def test_an_endpoint_that_dies_and_comes_back_without_its_jobs_costs_those_that_were_out(folder: Path) -> None:
    """Takes about a minute: a job that `/status` does not know counts as lost after 35 s.

    The first sandbox takes twelve jobs and refuses the rest, so that its books stand still when they are read. Six of
    them are stored when it dies: at least two submissions then wait for their turn, and log that nobody is there. One
    that is in the air at that moment is held, because nobody can know that it was not accepted.
    """
    root, log = folder / "out", folder / "log.txt"
    with sandbox_at("0") as (process, sandbox):
        port = sandbox.url.rpartition(":")[2]
        sandbox.add(fault("503", operation="run", nth=range(13, 10_000)))
        with started(*COMMAND, "-vv", "--log-file", str(log), cwd=folder, env=account(sandbox)) as running:
            wait_until(lambda: sandbox.accepted() == 12 and log.read_text().count("stored") >= 6)
            first = sandbox.books()
            process.kill()
            process.wait()
            wait_until(lambda: "cannot be reached" in log.read_text())
            with sandbox_at(port) as (_, again):
                out, err = running.communicate(timeout=180)
                ran = Ran(running.returncode, out, err)
                held = ran.summary["held"]
                assert (ran.code, ran.summary["failed"]) == (5 if held else 0, 0), ran
                told = run_cli(*COMMAND, "--unknown=resubmit", cwd=folder, env=account(again))
                assert (told.code, told.summary["made"]) == (0, held), told
                sold = [*first, *again.books()]
    known = dict(ledger_rows(root, "SELECT job_id, outcome FROM job WHERE job_id IS NOT NULL"))
    assert known.keys() == {job["id"] for job in sold}
    lost = Counter(job["prompt"] for job in first if known[job["id"]] == "lost")
    assert lost.total() == list(known.values()).count("lost") >= 1
    assert Counter(job["prompt"] for job in sold) == Counter(prompts(COUNT)) + lost
    assert len(true_output(root)) == COUNT
