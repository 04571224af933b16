"""`asyncgen verify --repair`: an output root is made true again; nothing is bought, and nothing paid for thrown away.

A damaged ledger is set aside first, and a note in its place keeps runs out until the new one stands there: whoever is
interrupted, by a power cut too, starts again and comes to the same end.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Final

from asyncgen.disk import RealDisk
from asyncgen.errors import Failure, FailureClass, FailureCode, LedgerError
from asyncgen.locking import locked
from asyncgen.manifest import FILE_NAME
from asyncgen.ports import Disk
from asyncgen.rebuild import Rebuilt, rebuild
from asyncgen.report import reading
from asyncgen.schema import cure_of
from asyncgen.store import cannot_write, temporary_path
from asyncgen.verify import Kind, Problem, Verification
from asyncgen.workspace import Workspace, shared_workspace

_NOTE: Final = "asyncgen verify --repair was interrupted here: run it again"
_MOST_NOTE_BYTES: Final = 4096
_BESIDE: Final = ("-wal", "-shm")  # what SQLite keeps beside a database


# -- the ledger ----------------------------------------------------------------------------------------------------


def rebuild_ledger(root: Path, ledger_path: Path, disk: Disk | None = None) -> tuple[Rebuilt, Path | None]:
    """Put a new ledger in the place of a damaged or missing one, with all that can be known; blocking.

    Returns what became of it, and where the damaged one is kept (None: there was none). Raises `LedgerLockedError`
    beside a run, `StoreError` or `LedgerError` where the new one cannot be written.
    """
    disk = disk or RealDisk()
    with locked(root, ledger_path), _errors_in_words(ledger_path):
        aside = _set_aside(disk, ledger_path)
        new_path = temporary_path(ledger_path)
        for path in (new_path, Path(f"{new_path}-journal")):
            disk.unlink(path)
        rebuilt = rebuild(new_path, aside, root / FILE_NAME)
        disk.fsync(new_path)
        disk.replace(new_path, ledger_path)
        disk.fsync_directory(ledger_path.parent)
        return rebuilt, aside


def _set_aside(disk: Disk, ledger_path: Path) -> Path | None:
    """Keep the damaged ledger as `NAME.damaged-N`, and put a note in its place; go on where that was interrupted."""
    note = _read_note(disk, ledger_path)
    name = _free_name(disk, ledger_path) if note is None else note
    aside = ledger_path.with_name(name)
    if note is None:
        if disk.exists(ledger_path):
            disk.link(ledger_path, aside)
            disk.fsync_directory(ledger_path.parent)
        _write_note(disk, ledger_path, name)
    for suffix in _BESIDE:
        if disk.exists(beside := Path(f"{ledger_path}{suffix}")):
            disk.replace(beside, Path(f"{aside}{suffix}"))
    disk.fsync_directory(ledger_path.parent)
    return aside if disk.exists(aside) else None


def _read_note(disk: Disk, ledger_path: Path) -> str | None:
    """The name under which the ledger is kept, where a note stands in its place."""
    if (disk.size_bytes(ledger_path) or _MOST_NOTE_BYTES) >= _MOST_NOTE_BYTES:
        return None
    text, _, name = disk.read(ledger_path).decode("utf-8", "replace").strip().partition("\n")
    return Path(name).name if text == _NOTE else None


def _write_note(disk: Disk, ledger_path: Path, name: str) -> None:
    note_path = temporary_path(ledger_path)
    disk.unlink(note_path)
    disk.write_new(note_path, [f"{_NOTE}\n{name}\n".encode()])
    disk.fsync(note_path)
    disk.replace(note_path, ledger_path)
    disk.fsync_directory(ledger_path.parent)


def _free_name(disk: Disk, ledger_path: Path) -> str:
    names = (f"{ledger_path.name}.damaged-{number}" for number in count(1))
    return next(
        name
        for name in names
        if not any(disk.exists(ledger_path.with_name(f"{name}{suffix}")) for suffix in ("", *_BESIDE))
    )


# -- files and manifest --------------------------------------------------------------------------------------------


async def mend(root: Path, ledger_path: Path, tell: Callable[[Problem], object], *, with_manifest: bool) -> int:
    """Mend what is wrong with files and folders of a sound ledger, and tell it; how many pictures there are.

    The manifest is written anew; what was wrong with it is told only `with_manifest`.

    Raises what opening the output root for a run raises, so it is refused beside one.
    """
    async with shared_workspace(root, ledger_path) as workspace:
        with reading(ledger_path) as connection:
            verification = Verification(root, connection)
            for problem in verification.problems(with_manifest=with_manifest):
                tell(problem)
                await _mend_one(workspace, problem)
        with _errors_in_words(workspace.manifest.path):
            await workspace.manifest.write_anew()
        return verification.pictures


async def _mend_one(workspace: Workspace, problem: Problem) -> None:
    match problem:
        case Problem(Kind.MISSING | Kind.DAMAGED, path, words, int(item_id)):
            message = f"asyncgen verify --repair: {path}: {words}"
            failure = Failure(FailureClass.INFRASTRUCTURE, FailureCode.LOST, message)
            await workspace.ledger.record_picture_lost(item_id, failure)
        case Problem(Kind.LEFT_OVER, path):
            with _errors_in_words(workspace.root / path):
                await workspace.ports.file_threads.run(workspace.ports.disk.unlink, workspace.root / path)


@contextmanager
def _errors_in_words(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from error
    except sqlite3.Error as error:
        raise LedgerError(f"cannot write a new ledger beside {path} ({error}): {cure_of(error)}") from error
