"""Repairs, from the outside: what is there is never bought again, what is gone only when it is asked for."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from parts import LEDGER, desk
from support import SMALL, bought, files, open_sandbox, prompts, settings_for, states, true_output

from asyncgen import generate_many
from asyncgen.disk import RealDisk
from asyncgen.errors import LedgerError, LedgerLockedError, StoreError
from asyncgen.locking import locked
from asyncgen.repair import mend, rebuild_ledger
from asyncgen.sandbox import Sandbox
from asyncgen.verify import Kind, ledger_problems

WANTED: list[Any] = [
    *prompts(6),
    {"prompt": "a fox", "images": 3, "seed": 7},
    {"prompt": "a cat", "id": "mine"},
    "a fox",
]
JOBS = 11


async def batch(sandbox: Sandbox, root: Path, **options: Any) -> list[str]:
    """The same command again and again; how each image ended."""
    settings = settings_for(sandbox, root)
    results = await generate_many(WANTED, settings=settings, batch="set", style="16", **SMALL, **options)
    return [result.status for result in results]


async def repair(root: Path) -> list[Kind]:
    """`asyncgen verify --repair`, and what it told."""
    told = [problem.kind for problem in ledger_problems(root / LEDGER)]
    if told:
        rebuild_ledger(root, root / LEDGER)
    await mend(root, root / LEDGER, lambda problem: told.append(problem.kind), with_manifest=True)
    return told


def zero_pages(path: Path, *pages: int) -> None:
    with path.open("r+b") as file:
        for page in pages:
            file.seek(page * 4096)
            file.write(bytes(4096))


def delete(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


@pytest.mark.anyio
@pytest.mark.parametrize(
    "harm",
    [
        delete,
        lambda path: zero_pages(path, 0),
        lambda path: zero_pages(path, *range(1, 12)),
        lambda path: os.truncate(path, path.stat().st_size // 2),
        lambda path: os.truncate(path, 0),
        lambda path: path.write_bytes(b"not SQLite"),
    ],
    ids=["deleted", "first page", "eleven pages", "half", "empty", "other text"],
)
async def test_after_a_ledger_is_rebuilt_the_same_command_buys_nothing(
    tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    async with open_sandbox() as sandbox:
        assert await batch(sandbox, tmp_path) == ["success"] * JOBS
        harm(tmp_path / LEDGER)
        with pytest.raises(LedgerError, match=r"asyncgen verify --repair"):
            await batch(sandbox, tmp_path)
        assert Kind.LEDGER in await repair(tmp_path)
        assert await batch(sandbox, tmp_path) == ["success"] * JOBS
        assert len(bought(sandbox)) == JOBS
        assert await repair(tmp_path) == []
    for kept in files(tmp_path, "*.damaged-1*"):
        kept.unlink()
    assert len(true_output(tmp_path)) == JOBS


@pytest.mark.anyio
async def test_what_is_missing_or_damaged_is_bought_again_only_when_it_is_asked_for(tmp_path: Path) -> None:
    async with open_sandbox() as sandbox:
        await batch(sandbox, tmp_path)
        first, second, *_ = files(tmp_path, "*.png")
        first.unlink()
        second.write_bytes(second.read_bytes()[:-10])
        (first.parent / ".nobody.png.part").write_bytes(b"x")
        assert sorted(await repair(tmp_path)) == [Kind.DAMAGED, Kind.LEFT_OVER, Kind.MISSING]
        assert states(tmp_path) == {"stored": JOBS - 2, "lost": 2}
        assert await repair(tmp_path) == []
        assert sorted(await batch(sandbox, tmp_path)) == ["failed"] * 2 + ["success"] * (JOBS - 2)
        assert len(bought(sandbox)) == JOBS
        assert await batch(sandbox, tmp_path, retry_failed=True) == ["success"] * JOBS
        assert len(bought(sandbox)) == JOBS + 2
        assert await repair(tmp_path) == []
    assert second.exists(), "nothing is deleted, the damaged picture neither"
    second.unlink()
    assert len(true_output(tmp_path)) == JOBS


class PowerCut(BaseException):
    """Nothing of ours may catch it."""


class Dying(RealDisk):
    """A disk whose machine dies before the operation of that number."""

    def __init__(self, operations: int) -> None:
        self.left = operations

    def __getattribute__(self, name: str) -> Any:
        method = super().__getattribute__(name)
        if name not in ("link", "unlink", "write_new", "fsync", "fsync_directory", "replace"):
            return method
        self.left -= 1
        if self.left < 0:
            raise PowerCut
        return method


@pytest.mark.anyio
async def test_a_repair_that_dies_anywhere_keeps_runs_out_and_can_be_repeated(tmp_path: Path) -> None:
    made = tmp_path / "made"
    async with open_sandbox() as sandbox:
        await batch(sandbox, made)
    zero_pages(made / LEDGER, (made / LEDGER).stat().st_size // 4096 - 1)  # one that a run would not notice at once
    (made / f"{LEDGER}-wal").write_bytes(b"an old log that must not be read into the new ledger" * 100)
    finished, number = False, 0
    while not finished:
        root = shutil.copytree(made, tmp_path / str(number))
        finished = await _dies(root, number)
        await repair(root)
        assert states(root) == {"stored": JOBS}
        assert ledger_problems(root / LEDGER) == []
        assert {path.read_bytes() for path in files(root, "*.damaged-?")} == {(made / LEDGER).read_bytes()}
        assert files(root, ".*.part") == []
        number += 1
    assert number > 12


async def _dies(root: Path, operations: int) -> bool:
    """Whether the rebuilding got through; if it did not, no run may read a ledger without its log."""
    log = root / f"{LEDGER}-wal"
    try:
        rebuild_ledger(root, root / LEDGER, Dying(operations))
    except PowerCut:
        assert (root / LEDGER).exists(), "without one a run would begin at nothing"
        if not log.exists() and ledger_problems(root / LEDGER):
            with pytest.raises(LedgerError):
                async with desk(root):
                    pass
        return False
    assert not log.exists()
    return True


@pytest.mark.anyio
async def test_a_second_damaged_ledger_is_kept_beside_the_first(tmp_path: Path) -> None:
    async with open_sandbox() as sandbox:
        await batch(sandbox, tmp_path)
    for _ in range(2):
        zero_pages(tmp_path / LEDGER, 0)
        assert await repair(tmp_path) == [Kind.LEDGER]
    assert [path.name for path in files(tmp_path, "*.damaged-?")] == [f"{LEDGER}.damaged-1", f"{LEDGER}.damaged-2"]


@pytest.mark.anyio
async def test_beside_a_run_nothing_is_repaired(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        await at.stored(await at.item())
    before = (tmp_path / LEDGER).read_bytes()
    with locked(tmp_path, tmp_path / LEDGER):
        with pytest.raises(LedgerLockedError, match="process"):
            await repair(tmp_path)
        with pytest.raises(LedgerLockedError, match="process"):
            rebuild_ledger(tmp_path, tmp_path / LEDGER)
    assert (tmp_path / LEDGER).read_bytes() == before


@pytest.mark.anyio
async def test_a_disk_that_takes_nothing_is_told_and_the_damaged_ledger_stays(tmp_path: Path) -> None:
    class Full(RealDisk):
        def write_new(self, path: Path, pieces: Any) -> None:
            raise OSError(28, "No space left on device", str(path))

    (tmp_path / LEDGER).write_bytes(b"damaged")
    with pytest.raises(StoreError, match="disk is full"):
        rebuild_ledger(tmp_path, tmp_path / LEDGER, Full())
    assert (tmp_path / LEDGER).read_bytes() == b"damaged"


@pytest.mark.anyio
async def test_a_sound_output_root_is_left_as_it_is(tmp_path: Path) -> None:
    async with open_sandbox() as sandbox:
        await batch(sandbox, tmp_path)
    before = {path: path.read_bytes() for path in files(tmp_path) if path.suffix != ".sqlite3"}
    with closing(sqlite3.connect(tmp_path / LEDGER)) as connection:
        rows = list(connection.iterdump())
    assert await repair(tmp_path) == []
    assert {path: path.read_bytes() for path in files(tmp_path) if path.suffix != ".sqlite3"} == before
    with closing(sqlite3.connect(tmp_path / LEDGER)) as connection:
        assert list(connection.iterdump()) == rows
