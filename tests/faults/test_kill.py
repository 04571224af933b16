"""SIGKILL in the middle of a batch, and the same command again: nothing lost, nothing bought twice.

The sandbox runs in another process and keeps books of all it has accepted; they, and not our ledger, are believed.
"""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

from support import (
    ENDPOINT,
    LEDGER,
    Ran,
    Remote,
    account,
    fault,
    files,
    ledger_rows,
    prompts,
    run_cli,
    sandbox_process,
    started,
    states,
    true_output,
    wait_until,
)

ROOT = Path(__file__).parent.parent.parent


class Batch:
    """One batch of the command line, that can be started, killed and started again."""

    def __init__(self, folder: Path, sandbox: Remote, count: int, *options: str) -> None:
        (folder / "prompts.txt").write_text("\n".join(prompts(count)), encoding="utf-8")
        self.root = folder / "out"
        self._folder, self._environment = folder, account(sandbox)
        self._arguments = ("batch", "prompts.txt", "--out", "out", "--json", *options)
        self._sandbox, self._count = sandbox, count

    def kill_at(self, accepted: int) -> None:
        """Start it, and kill it as soon as the sandbox has accepted so many jobs in all."""
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        with started(*self._arguments, cwd=self._folder, env=self._environment, **quiet) as process:
            wait_until(lambda: self._sandbox.accepted() >= accepted)
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert process.returncode == -signal.SIGKILL

    def kill_holding_the_ledger(self) -> None:
        """Start it, and once all is accepted let nothing be recorded any more until a rejected picture is in place."""
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        with started(*self._arguments, cwd=self._folder, env=self._environment, **quiet) as process:
            wait_until(lambda: self._sandbox.accepted() == self._count)
            wait_until(lambda: states(self.root) == {"accepted": self._count})
            with closing(sqlite3.connect(self.root / LEDGER, isolation_level=None)) as ledger:
                ledger.execute("BEGIN IMMEDIATE")
                wait_until(lambda: bool(self.rejected_files()))
                process.send_signal(signal.SIGKILL)
                process.wait()
        assert process.returncode == -signal.SIGKILL

    def rejected_files(self) -> list[str]:
        return [path.relative_to(self.root).as_posix() for path in files(self.root / "rejected", "*.png")]

    def rejected_records(self) -> list[str]:
        return [path for (path,) in ledger_rows(self.root, "SELECT path FROM image WHERE state = 'rejected'")]

    def run(self, *options: str) -> Ran:
        """Run it to its end."""
        return run_cli(*self._arguments, *options, cwd=self._folder, env=self._environment)


def times_bought(sandbox: Remote) -> Counter[str]:
    """How often the sandbox has accepted each input: prompt, seed and all."""
    return Counter(job["input_digest"] for job in sandbox.books())


def prompts_bought(sandbox: Remote) -> Counter[Any]:
    return Counter(job["prompt"] for job in sandbox.books())


def test_20_kills_at_random_moments_with_faults_on_lose_nothing_and_buy_nothing_twice() -> None:
    """`python -m tests.faults.kill` says what it does; images that a job was lost of take 35 s and more."""
    command = [sys.executable, "-m", "tests.faults.kill", "--kills", "20"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=400)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "20 kills in 2 rounds, 0 broken" in ran.stdout
    assert "0 bought twice" in ran.stdout


def test_submissions_in_the_air_at_the_kill_are_held_reported_and_resubmitted_only_when_told(tmp_path: Path) -> None:
    """Twelve replies to /run are on their way for half a minute: the sandbox has accepted the jobs, we cannot know."""
    with sandbox_process() as sandbox:
        sandbox.add(fault("slow_body", operation="run", nth=range(60, 72), seconds=30))
        batch = Batch(tmp_path, sandbox, 120, "--width=64", "--height=64", "--concurrency=24")
        batch.kill_at(100)
        ran = batch.run()
        held = [entry for entry in ran.json if entry.get("status") == "held"]
        assert (ran.code, ran.summary["held"]) == (5, len(held))
        assert len(held) >= 12
        assert all("in the air" in entry["failure"]["message"] for entry in held)
        assert set(prompts_bought(sandbox).values()) == {1}
        told = batch.run("--unknown", "resubmit")
        assert (told.code, told.summary["made"], told.summary["kept"]) == (0, len(held), 120 - len(held))
        twice = {prompt for prompt, times in prompts_bought(sandbox).items() if times > 1}
        assert twice <= {entry["metadata"]["prompt"] for entry in held}
        assert len(twice) >= 12
    assert len(true_output(batch.root)) == 120


def test_a_kill_while_results_are_stored_leaves_no_half_picture_and_fetches_again(tmp_path: Path) -> None:
    """All jobs are accepted and done when the process dies: the second one only collects."""
    with sandbox_process() as sandbox:
        batch = Batch(tmp_path, sandbox, 60, "--width=256", "--height=256", "--concurrency=60")
        batch.kill_at(60)
        ran = batch.run()
        assert ran.summary["made"] + ran.summary["kept"] + ran.summary["held"] == 60
        assert set(prompts_bought(sandbox).values()) == {1}
        assert sandbox.accepted() == 60
    assert len(true_output(batch.root)) == 60 - ran.summary["held"]


def test_500_prompts_at_concurrency_64_end_with_500_pictures_and_a_true_manifest(tmp_path: Path) -> None:
    with sandbox_process("--workers=64", "--pictures=stamped") as sandbox:
        batch = Batch(tmp_path, sandbox, 500, "--style=1", "--width=256", "--height=256", "--concurrency=64")
        ran = batch.run()
        assert (ran.code, ran.summary["made"], ran.summary["pictures"]) == (0, 500, 500), ran
        assert (sandbox.accepted(), set(times_bought(sandbox).values())) == (500, {1})
        assert {job["endpoint"] for job in sandbox.books()} == {ENDPOINT}
    lines = true_output(batch.root)
    assert sorted(line["prompt"] for line in lines) == sorted(prompts(500))
    assert {(line["width"], line["height"], line["style_id"]) for line in lines} == {(256, 256, "1")}


def test_kills_between_a_rejected_file_and_its_record_and_between_rerolls_buy_nothing_twice(tmp_path: Path) -> None:
    """While somebody else holds the ledger's lock, files of rejected pictures land and cannot be recorded."""
    with sandbox_process("--workers=16", "--speed=20", "--execution=fixed:10") as sandbox:
        sandbox.add(fault("black_image", probability=0.5))
        batch = Batch(tmp_path, sandbox, 16, "--width=64", "--height=64", "--concurrency=16", "--rerolls=2")
        batch.kill_holding_the_ledger()
        unrecorded = set(batch.rejected_files()) - set(batch.rejected_records())
        assert unrecorded
        assert sandbox.accepted() == 16
        batch.kill_at(18)
        ran = batch.run()
        assert ran.code in {0, 1, 5}, ran
        jobs = sandbox.books()
    assert set(Counter((job["prompt"], job["seed"]) for job in jobs).values()) == {1}
    assert max(Counter(job["prompt"] for job in jobs).values()) <= 3
    recorded = ledger_rows(batch.root, "SELECT job_id, outcome FROM job WHERE job_id IS NOT NULL")
    forgotten = {job["id"] for job in jobs} - {job_id for job_id, _ in recorded}
    assert len(forgotten) <= ran.summary["held"]
    assert sorted(batch.rejected_files()) == sorted(batch.rejected_records())
    assert unrecorded <= set(batch.rejected_records())
    assert len(batch.rejected_records()) == sum(outcome == "blank_image" for _, outcome in recorded)
    assert len(true_output(batch.root)) == sum(outcome == "completed" for _, outcome in recorded)
