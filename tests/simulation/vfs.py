"""A disk under SQLite that forgets what was not synced, and a connection on it that looks like sqlite3's.

The disk is a VFS: SQLite's own code for journals, write-ahead log and recovery runs on it. The standard library's
sqlite3 takes no VFS from Python, apsw does, so `ApswConnection` gives the ledger what it uses of `sqlite3.Connection`.

At a power cut each write since the last sync of its file is kept, lost, or torn: every sector of it on its own keeps
the old bytes, gets the new ones, zeros or rubbish. Bytes beside a write are never harmed: that is what SQLite takes for
granted on Unix (SQLITE_IOCAP_POWERSAFE_OVERWRITE), so it is what is claimed here. Names are made durable when a new
journal is first synced, or a file deleted with `syncdir`, as SQLite's Unix VFS does it.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, cast

import apsw

from .choices import Choices
from .world import PowerCut

SECTOR_BYTES = 512
#: What SQLite does that changes something, and so may be the last thing that is done.
OPERATIONS = ("create", "write", "truncate", "sync", "delete")
ANY = "any"
_JOURNALS = apsw.SQLITE_OPEN_MAIN_JOURNAL | apsw.SQLITE_OPEN_SUPER_JOURNAL | apsw.SQLITE_OPEN_WAL
_numbers = itertools.count()


@dataclass(eq=False)
class _File:
    """`unsynced` are the changes since the last sync, in order: (offset, data), or (size, None) for a truncation."""

    live: bytearray = field(default_factory=bytearray)
    durable: bytes = b""
    unsynced: list[tuple[int, bytes | None]] = field(default_factory=list)


class ForgetfulDisk(apsw.VFS):
    """One boot of a machine: files that were `at_rest`, until the operation `cut_at` begins: one of a kind, or of ANY.

    From then on `at_rest` is what the next boot finds. The dead process goes on with the files it has, so that its
    connection can be closed; they lead nowhere. `fault_percent` of writes, truncations and syncs fail.
    """

    def __init__(self, at_rest: Mapping[str, bytes], pick: Choices) -> None:
        self.name = f"forgetful-{next(_numbers)}"
        super().__init__(self.name)
        self._pick = pick
        self._names = {name: _File(bytearray(content), content) for name, content in at_rest.items()}
        self._durable_names = dict(self._names)
        self._journal: list[tuple[str, _File | None]] = []  # changes of the directory since it was last synced
        self._operations: Counter[str] = Counter()
        self.cut_at: tuple[str, int] | None = None
        self.cut_during: str | None = None
        self.fault_percent = 0.0
        self.faults: Counter[str] = Counter()
        self.at_rest: Mapping[str, bytes] = at_rest

    @property
    def is_off(self) -> bool:
        return self.cut_during is not None

    def shut_down(self) -> None:
        """The machine goes off in good order: everything that was written is there."""
        if not self.is_off:
            self.at_rest = {name: bytes(file.live) for name, file in self._names.items()}
        self.unregister()

    # -- what SQLite asks of a VFS ---------------------------------------------------------------------------------

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> Any:  # noqa: N802 - apsw's name, as below
        name = f"temporary-{next(_numbers)}" if name is None else str(getattr(name, "filename", lambda: name)())
        file = self._names.get(name)
        if file is None:
            if not flags[0] & apsw.SQLITE_OPEN_CREATE:
                raise apsw.CantOpenError(f"no file {name}")
            self.begin("create")
            file = _File()
            self._rename(name, file)
        flags[1] = flags[0]
        return _OpenFile(self, name, file, flags[0])

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        if filename not in self._names:
            raise _failure(apsw.SQLITE_IOERR_DELETE_NOENT, "no such file")
        self.begin("delete")
        self._rename(filename, None)
        if syncdir:
            self.sync_directory()

    def xAccess(self, pathname: str, flags: int) -> bool:  # noqa: N802
        return bool(pathname in self._names and self._names[pathname].live)  # SQLite's Unix VFS: empty is absent

    def xFullPathname(self, name: str) -> str:  # noqa: N802
        return name

    # -- what its files ask ----------------------------------------------------------------------------------------

    def begin(self, operation: str) -> None:
        """One more operation begins: the power may go."""
        self._operations.update((operation, ANY))
        if not self.is_off and self.cut_at in [(kind, self._operations[kind]) for kind in (operation, ANY)]:
            self.cut_during = operation
            self.at_rest = self._after_power_cut()
            raise PowerCut

    def fails(self, operation: str) -> bool:
        """Whether this operation is to fail."""
        if self.is_off or not self._pick.chance(self.fault_percent, "vfs fault", operation):
            return False
        self.faults[operation] += 1
        return True

    def pick(self, sides: int, *key: object) -> int:
        return self._pick(sides, "vfs", *key)

    def sync_directory(self) -> None:
        self._durable_names = dict(self._names)
        self._journal.clear()

    def forget(self, name: str) -> None:
        """A temporary file is closed."""
        self._names.pop(name, None)

    def lose_unsynced(self, file: _File) -> None:
        """A sync has failed, and the kernel marks the pages clean all the same: what was lost stays lost."""
        file.durable = self._survivor(file)
        file.unsynced.clear()

    def _rename(self, name: str, file: _File | None) -> None:
        _apply(self._names, name, file)
        self._journal.append((name, file))

    # -- the accident ----------------------------------------------------------------------------------------------

    def _after_power_cut(self) -> dict[str, bytes]:
        names = dict(self._durable_names)
        lost = self.pick(len(self._journal) + 1, "names lost")
        for name, file in self._journal[: len(self._journal) - lost]:
            _apply(names, name, file)
        return {name: self._survivor(file) for name, file in names.items()}

    def _survivor(self, file: _File) -> bytes:
        mood = self.pick(4, "unsynced")
        if mood == 0:
            return bytes(file.live)
        content = bytearray(file.durable)
        for offset, data in file.unsynced if mood > 1 else ():
            if data is None:
                if self.pick(2, "truncation") == 0:
                    del content[offset:]
                continue
            for at, piece in _sectors(offset, data):
                self._land(content, at, piece)
        return bytes(content)

    def _land(self, content: bytearray, at: int, piece: bytes) -> None:
        """One sector's share of a write that was never synced."""
        match self.pick(6, "sector"):
            case 0 | 1 | 2:
                _put(content, at, piece)
            case 3:
                _put(content, at, bytes(len(piece)))
            case 4:
                _put(content, at, bytes(byte ^ 0x5A for byte in piece))
            case _:
                pass


class _OpenFile:
    """A file as SQLite holds it open. Locks hold nobody off: there is one connection."""

    def __init__(self, disk: ForgetfulDisk, name: str, file: _File, flags: int) -> None:
        self._disk, self._name, self._file = disk, name, file
        self._is_temporary = bool(flags & apsw.SQLITE_OPEN_DELETEONCLOSE)
        self._names_unsynced = bool(flags & _JOURNALS) and not file.live

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802
        return bytes(self._file.live[offset : offset + amount])

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        self._disk.begin("write")
        failed = self._disk.fails("write")
        data = bytes(data)[: self._disk.pick(len(data), "short write") if failed else None]
        if data:
            _put(self._file.live, offset, data)
            self._file.unsynced.append((offset, data))
        if failed and self._disk.pick(2, "full"):
            raise _failure(apsw.SQLITE_FULL, "database or disk is full")
        if failed:
            raise _failure(apsw.SQLITE_IOERR_WRITE, "disk I/O error")

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        self._disk.begin("truncate")
        if self._disk.fails("truncate"):
            raise _failure(apsw.SQLITE_IOERR_TRUNCATE, "disk I/O error")
        del self._file.live[newsize:]
        self._file.unsynced.append((newsize, None))

    def xSync(self, flags: int) -> None:  # noqa: N802
        self._disk.begin("sync")
        if self._disk.fails("sync"):
            if self._disk.pick(2, "pages dropped"):
                self._disk.lose_unsynced(self._file)
            raise _failure(apsw.SQLITE_IOERR_FSYNC, "disk I/O error")
        self._file.durable = bytes(self._file.live)
        self._file.unsynced.clear()
        if self._names_unsynced:
            self._disk.sync_directory()
            self._names_unsynced = False

    def xFileSize(self) -> int:  # noqa: N802
        return len(self._file.live)

    def xClose(self) -> None:  # noqa: N802
        if self._is_temporary:
            self._disk.forget(self._name)

    def xLock(self, level: int) -> None: ...  # noqa: N802

    def xUnlock(self, level: int) -> None: ...  # noqa: N802

    def xCheckReservedLock(self) -> bool:  # noqa: N802
        return False

    def xFileControl(self, op: int, ptr: int) -> bool:  # noqa: N802
        return False

    def xSectorSize(self) -> int:  # noqa: N802
        return 4096

    def xDeviceCharacteristics(self) -> int:  # noqa: N802
        return apsw.SQLITE_IOCAP_POWERSAFE_OVERWRITE


class ApswConnection:
    """What the ledger uses of `sqlite3.Connection`, with its errors, on a file of a forgetful disk.

    `synchronous` None leaves that pragma to the ledger; a word takes its place, to see what it would cost.
    """

    def __init__(
        self, disk: ForgetfulDisk, path: str, *, checkpoint_pages: int = 1000, synchronous: str | None = None
    ) -> None:
        self._database = apsw.Connection(path, vfs=disk.name)
        self._database.row_trace = NamedRow.traced
        self.row_factory: object = None  # to be set like sqlite3's; rows have names all the same
        self._checkpoint_pages, self._synchronous = checkpoint_pages, synchronous
        # A VFS written in Python has no shared memory: the index of the write-ahead log lives in this process, which
        # SQLite allows to a connection that lets nobody else in. Nothing in the files, or in what is synced, differs.
        self._database.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._database.set_wal_hook(self._checkpoint)

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> ApswCursor:
        if self._synchronous is not None and sql.startswith("PRAGMA synchronous"):
            sql = f"PRAGMA synchronous = {self._synchronous}"
        with _as_sqlite3():
            rows = cast(list[NamedRow], self._database.execute(sql, parameters).fetchall())
        return ApswCursor(rows, self._database.changes(), self._database.last_insert_rowid())

    def executemany(self, sql: str, many: Iterable[Sequence[Any]]) -> None:
        with _as_sqlite3():
            self._database.executemany(sql, many)

    def executescript(self, script: str) -> None:
        with _as_sqlite3():
            self._database.execute(script)

    def commit(self) -> None:
        if self._database.in_transaction:
            self.execute("COMMIT")

    def rollback(self) -> None:
        if self._database.in_transaction:
            self.execute("ROLLBACK")

    def close(self) -> None:
        with suppress(apsw.FullError, apsw.IOError):  # of the last checkpoint: sqlite3 does not tell of it either
            self._database.close()

    def serialize(self) -> bytes:
        return self._database.serialize("main")

    def has_committed(self) -> None:
        """A transaction has just been committed."""

    def _checkpoint(self, connection: apsw.Connection, name: str, pages: int) -> int:
        """SQLite's own hook ignores what goes wrong; apsw would raise it out of a COMMIT that has succeeded."""
        self.has_committed()
        if pages >= self._checkpoint_pages:
            with suppress(apsw.Error):
                connection.wal_checkpoint(name)
        return apsw.SQLITE_OK


class NamedRow(tuple[Any, ...]):
    """A row as `sqlite3.Row` is one: its values by number and by name."""

    names: tuple[str, ...]

    @classmethod
    def traced(cls, cursor: apsw.Cursor, values: tuple[Any, ...]) -> NamedRow:
        row = cls(values)
        row.names = tuple(column[0] for column in cursor.get_description())
        return row

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(self.names.index(key) if isinstance(key, str) else key)

    def keys(self) -> list[str]:
        return list(self.names)


class ApswCursor:
    """The result of one statement, already read."""

    def __init__(self, rows: list[NamedRow], rowcount: int, lastrowid: int) -> None:
        self._rows, self.rowcount, self.lastrowid = iter(rows), rowcount, lastrowid

    def __iter__(self) -> Iterator[NamedRow]:
        return self._rows

    def fetchone(self) -> NamedRow | None:
        return next(self._rows, None)

    def fetchall(self) -> list[NamedRow]:
        return list(self._rows)


@contextmanager
def _as_sqlite3() -> Iterator[None]:
    try:
        yield
    except apsw.ConstraintError as error:
        raise sqlite3.IntegrityError(str(error)) from error
    except (apsw.CorruptError, apsw.NotADBError) as error:
        raise sqlite3.DatabaseError(str(error)) from error
    except apsw.Error as error:
        raise sqlite3.OperationalError(str(error)) from error


def _failure(code: int, message: str) -> Exception:
    error = apsw.exception_for(code)
    error.args = (message,)
    return error


def _apply(names: dict[str, _File], name: str, file: _File | None) -> None:
    if file is None:
        names.pop(name, None)
    else:
        names[name] = file


def _put(content: bytearray, at: int, data: bytes) -> None:
    content.extend(bytes(max(0, at - len(content))))
    content[at : at + len(data)] = data


def _sectors(offset: int, data: bytes) -> Iterator[tuple[int, bytes]]:
    """The write cut at the sectors' borders, each part with its offset."""
    at, end = offset, offset + len(data)
    while at < end:
        border = min(end, (at // SECTOR_BYTES + 1) * SECTOR_BYTES)
        yield at, data[at - offset : border - offset]
        at = border
