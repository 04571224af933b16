"""Disks that are full or read-only, and folders that go away, under the command line in a process of its own.

The disks are real: small file systems in memory, which only root can mount. After each accident there is room again,
and the same command must finish the batch without buying anything twice.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support import (
    LEDGER,
    Ran,
    Remote,
    account,
    files,
    manifest,
    prompts,
    run_cli,
    sandbox_in_a_thread,
    started,
    states,
    true_output,
    wait_until,
)

COUNT = 24
PICTURE_BYTES = 100_000


@dataclass
class SmallDisk:
    """A file system of its own."""

    path: Path

    def change(self, options: str) -> bool:
        """Mount it anew with other options (`size=1m`, `ro`); False where a file is open for writing."""
        command = ["mount", "-o", f"remount,{options}", str(self.path)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def leave(self, size_bytes: int) -> None:
        """Fill it up but for so much."""
        (self.path / "ballast").write_bytes(bytes(shutil.disk_usage(self.path).free - size_bytes))

    def make_room(self) -> None:
        (self.path / "ballast").unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    path = tmp_path / "disk"
    path.mkdir()
    if sys.platform != "linux":
        pytest.skip("tmpfs is Linux's")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(path)], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"a file system cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield SmallDisk(path)
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest.fixture(scope="module")
def everywhere() -> Iterator[Remote]:
    with sandbox_in_a_thread(
        pictures="stamped", picture_bytes=PICTURE_BYTES, execution="fixed:100", workers=4
    ) as remote:
        yield remote


_numbers = iter(range(100))


@dataclass
class Batch:
    """One batch of the command line, on an endpoint of its own."""

    folder: Path
    sandbox: Remote
    out: Path
    ledger: Path | None = None

    def __post_init__(self) -> None:
        self.endpoint = f"ep-{next(_numbers)}"
        (self.folder / "prompts.txt").write_text("\n".join(prompts(COUNT)), encoding="utf-8")

    @property
    def started(self) -> dict[str, Any]:
        environment = account(self.sandbox, self.endpoint)
        if self.ledger is not None:
            environment["ASYNCGEN_LEDGER"] = str(self.ledger)
        return {"cwd": self.folder, "env": environment}

    @property
    def command(self) -> tuple[str, ...]:
        size = ("--width=64", "--height=64", "--concurrency=6")
        return ("batch", "prompts.txt", "--out", str(self.out), "--json", *size)

    def run(self) -> Ran:
        return run_cli(*self.command, **self.started)

    def sold(self) -> list[dict[str, Any]]:
        return self.sandbox.books(self.endpoint)

    def states(self) -> dict[str, int]:
        return states(self.out if self.ledger is None else self.ledger.parent)


def check_stopped(ran: Ran, *words: str) -> None:
    """It ended with exit code 6, said each of these, and neither as a bug nor as failed images."""
    assert ran.code == 6, ran
    assert all(word in ran.err for word in words), ran.err
    assert "Traceback" not in ran.err
    assert [entry["failed"] for entry in ran.json if entry["event"] == "summary"] in ([], [0])


def check_finished(batch: Batch, *, held_at_most: int = 0) -> None:
    """The same command once more: all is there or held, nothing was bought twice, and no half file is left."""
    ran = batch.run()
    held = ran.summary["held"]
    assert ran.code == (5 if held else 0), ran
    assert held <= held_at_most
    assert batch.states() == {"stored": COUNT - held} | ({"unknown": held} if held else {})
    assert set(Counter(job["prompt"] for job in batch.sold()).values()) == {1}
    assert len(batch.sold()) in range(COUNT - held, COUNT + 1)
    (batch.out / "ballast").unlink(missing_ok=True)
    assert len(true_output(batch.out)) == COUNT - held


@contextmanager
def under_a_run(batch: Batch) -> Iterator[list[Ran]]:
    """The block happens while a run has some pictures stored and others out; then the list has how the run ended."""
    ended: list[Ran] = []
    with started(*batch.command, **batch.started) as process:
        wait_until(lambda: len(files(batch.out, "*.png")) >= 4)
        yield ended
        out, err = process.communicate(timeout=30)
    ended.append(Ran(process.returncode, out, err))


# -- full -----------------------------------------------------------------------------------------------------------


def test_a_disk_full_of_pictures_stops_the_run_and_loses_none(
    everywhere: Remote, disk: SmallDisk, tmp_path: Path
) -> None:
    batch = Batch(tmp_path, everywhere, disk.path, ledger=tmp_path / "db" / LEDGER)
    disk.leave(8 * PICTURE_BYTES)
    check_stopped(batch.run(), "disk is full", "free some space")
    there = files(disk.path, "*.png")
    assert 0 < len(there) < 8
    assert {path.stat().st_size >= PICTURE_BYTES for path in there} == {True}
    assert files(disk.path, ".*.part") == []
    assert len(manifest(disk.path)) == len(there)
    disk.make_room()
    check_finished(batch)


@pytest.mark.parametrize("room_bytes", [60_000, 300_000])
def test_a_ledger_without_room_stops_the_run_and_forgets_nothing(
    everywhere: Remote, disk: SmallDisk, tmp_path: Path, room_bytes: int
) -> None:
    batch = Batch(tmp_path, everywhere, tmp_path / "out", ledger=disk.path / LEDGER)
    disk.leave(room_bytes)
    check_stopped(batch.run(), "free some space")
    disk.make_room()
    check_finished(batch, held_at_most=6)


@pytest.mark.parametrize("room_bytes", [200_000, 600_000])
def test_one_disk_for_everything_may_be_full(
    everywhere: Remote, disk: SmallDisk, tmp_path: Path, room_bytes: int
) -> None:
    batch = Batch(tmp_path, everywhere, disk.path)
    disk.leave(room_bytes)
    check_stopped(batch.run(), "free some space")
    disk.make_room()
    check_finished(batch, held_at_most=6)


def test_a_manifest_without_room_is_told_and_written_whole_the_next_time(
    everywhere: Remote, disk: SmallDisk, tmp_path: Path
) -> None:
    """Everything else has room: pictures go through a link to another disk."""
    (tmp_path / "elsewhere").mkdir()
    (disk.path / "resources").symlink_to(tmp_path / "elsewhere")
    batch = Batch(tmp_path, everywhere, disk.path, ledger=tmp_path / "db" / LEDGER)
    disk.leave(8192)
    check_stopped(batch.run(), "manifest.jsonl", "disk is full", "free some space")
    assert batch.states() == {"stored": COUNT}
    disk.make_room()
    ran = batch.run()
    assert (ran.code, ran.summary["kept"], len(batch.sold())) == (0, COUNT, COUNT), ran
    assert sorted(line["prompt"] for line in manifest(disk.path)) == sorted(prompts(COUNT))


# -- read-only ------------------------------------------------------------------------------------------------------


def test_a_read_only_output_root_is_told_before_anything_is_sent(
    everywhere: Remote, disk: SmallDisk, tmp_path: Path
) -> None:
    assert disk.change("ro")
    batch = Batch(tmp_path, everywhere, disk.path)
    ran = batch.run()
    assert (ran.code, batch.sold()) == (6, []), ran
    assert "read-only: make it writable; or name another folder with --out" in ran.err
    assert disk.change("rw")
    check_finished(batch)


def test_a_disk_that_becomes_read_only_stops_the_run_and_loses_nothing(
    everywhere: Remote, disk: SmallDisk, tmp_path: Path
) -> None:
    batch = Batch(tmp_path, everywhere, disk.path, ledger=tmp_path / "db" / LEDGER)
    with under_a_run(batch) as ended:
        wait_until(lambda: disk.change("ro"))
    check_stopped(ended[0], "read-only: make it writable")
    assert disk.change("rw")
    check_finished(batch)


# -- gone -----------------------------------------------------------------------------------------------------------


def test_an_output_folder_that_is_moved_away_stops_the_run_and_put_back_it_goes_on(
    everywhere: Remote, tmp_path: Path
) -> None:
    batch = Batch(tmp_path, everywhere, tmp_path / "out")
    with under_a_run(batch) as ended:
        batch.out.rename(tmp_path / "moved")
    check_stopped(ended[0], "moved or removed under the run", "put it back")
    shutil.rmtree(batch.out, ignore_errors=True)
    (tmp_path / "moved").rename(batch.out)
    check_finished(batch, held_at_most=6)


def test_an_output_folder_that_is_removed_stops_the_run_at_once(everywhere: Remote, tmp_path: Path) -> None:
    batch = Batch(tmp_path, everywhere, tmp_path / "out")
    with under_a_run(batch) as ended:
        before = len(batch.sold())
        while batch.out.exists():  # pictures may still arrive while it is being emptied
            shutil.rmtree(batch.out, ignore_errors=True)
    check_stopped(ended[0], "moved or removed under the run")
    assert len(batch.sold()) <= before + 6
    assert not (batch.out / LEDGER).exists()


def test_pictures_that_are_removed_under_a_run_are_no_reason_to_write_elsewhere(
    everywhere: Remote, tmp_path: Path
) -> None:
    batch = Batch(tmp_path, everywhere, tmp_path / "out", ledger=tmp_path / "db" / LEDGER)
    with under_a_run(batch) as ended:
        batch.out.rename(tmp_path / "moved")
    check_stopped(ended[0], "the output folder was removed under the run")
    shutil.rmtree(batch.out, ignore_errors=True)
    (tmp_path / "moved").rename(batch.out)
    check_finished(batch)
