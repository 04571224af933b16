"""The ledger: what is wanted, bought and made, durable before anybody acts on it.

SQLite through one writing connection that lives on one thread. Operations from all jobs that arrive while a commit is
on its way share the next one (group commit); each call returns once its change is durable. State changes go through
`_move`, which refuses what `asyncgen.lifecycle` does not allow.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import anyio

from asyncgen import assets
from asyncgen.errors import Failure, FailureClass, FailureCode, LedgerError, LedgerVersionError
from asyncgen.lifecycle import ALLOWED, State
from asyncgen.ports import Ports
from asyncgen.protocol import Timing
from asyncgen.records import Batch, Item, RecordedWant, Spec, StoredPicture, Terms, Want
from asyncgen.request import MAX_SEED, ImageRequest

T = TypeVar("T")
#: What belongs to a move: more SQL of the same transaction, given the time of the move.
_Also = Callable[[sqlite3.Connection, float], object]
VERSION: Final = 2
_PAGE: Final = 64
_ITEM_FIELDS: Final = frozenset({"attempts", "endpoint", "job_id", "accepted_at", "execution_timeout_ms"})
_ENDED: Final = "the ledger is closed: the event loop ended under the run; start it again to continue"
_PRAGMAS: Final = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",  # NORMAL may lose acknowledged commits at a power cut: a paid job's id must not be one
    "PRAGMA fullfsync = ON",  # macOS: fsync alone does not reach the platter
    "PRAGMA foreign_keys = ON",
    "PRAGMA temp_store = FILE",  # `seen` grows with the input, our memory must not
)
#: The row of an item's last submission: what it was bought with, or may have been.
LAST_JOB: Final = "job.id = (SELECT max(id) FROM job WHERE item_id = item.id)"
_THIS_JOB: Final = "id = (SELECT max(id) FROM job WHERE item_id = ?)"


class PathTakenError(Exception):
    """A picture of the ledger has this path already. Never leaves the engine."""


@dataclass(slots=True)
class _Entry(Generic[T]):
    """One operation waiting for the next commit."""

    operation: Callable[[sqlite3.Connection], T]
    durable: anyio.Event = field(default_factory=anyio.Event)
    result: T | None = None
    error: Exception | None = None


class Ledger:
    """All methods return when their change is durable, and raise `LedgerError` when it cannot be made so."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports
        self._queue: list[_Entry[Any]] = []
        self._arrival = anyio.Event()
        self._connection: sqlite3.Connection | None = None
        self.is_closed = False

    async def open(self, output_root: str = ".") -> int:
        """Connect, bring the schema up to date, and settle what an earlier process left in the air.

        `output_root` is what its paths are relative to: '.' for the folder it is in. Returns the number of submissions
        found in the air: whether they were accepted will never be known. Raises `LedgerError` where it cannot be used,
        or belongs to another output root.
        """
        return await self._ports.ledger_thread.run(self._open, output_root, self._ports.clock.wall())

    async def close(self) -> None:
        """Close the connection; nothing may be waiting."""
        if self._connection is not None:
            await self._ports.ledger_thread.run(self._connection.close)
            self._connection = None

    async def run_writer(self) -> None:
        """Commit what arrives, for as long as the task lives. Exactly one must run; after it nothing is recorded."""
        entries: list[_Entry[Any]] = []
        try:
            while True:
                await self._arrival.wait()
                self._arrival = anyio.Event()
                while self._queue:
                    entries, self._queue = self._queue, []
                    await self._ports.ledger_thread.run(self._commit, entries)
                    for entry in entries:
                        entry.durable.set()
        finally:  # an event loop that ends cancels every task, those that wait for us too: none may wait for ever
            self.is_closed = True
            for entry in (*entries, *self._queue):
                if not entry.durable.is_set():
                    entry.error = LedgerError(_ENDED)
                    entry.durable.set()

    # -- what is wanted ------------------------------------------------------------------------------------------

    async def open_batch(self, name: str, realm: str, *, new_set: bool = False) -> Batch:
        """The batch of that name; `new_set` makes another one beside it, named `NAME-2`, `NAME-3` …"""
        at = self._ports.clock.wall()
        return await self.transact(lambda connection: _open_batch(connection, name, realm, new_set, at))

    async def begin_run(self, batch: Batch) -> int:
        """Record that a run over the batch begins; returns its number."""
        at = self._ports.clock.wall()
        return await self.transact(lambda connection: _begin_run(connection, batch.id, at))

    async def end_run(self, run_id: int, outcome: str) -> None:
        """Record how a run ended, and forget which wants it has seen."""
        at = self._ports.clock.wall()
        await self.transact(lambda connection: _end_run(connection, run_id, outcome, at))

    async def claim(self, batch: Batch, run_id: int, wants: Sequence[Want]) -> list[Item]:
        """The items of these wants, in order: found in the batch, or recorded now with a seed drawn where none is said.

        Two equal wants of one run with random seeds are two items; with one fixed seed they are one (`repeats`).
        Equal caller's ids in one run are one item too; the caller decides what that means.
        """
        at = self._ports.clock.wall()
        drawn = [(self._ports.new_hex8(), self._ports.rng.getrandbits(64)) for _ in wants]
        return await self.transact(lambda connection: _claim(connection, self._ports, batch, run_id, wants, drawn, at))

    async def items_out(self, batch: Batch, run_id: int) -> list[tuple[Item, Want]]:
        """The items of a batch whose job is out or whose result is being stored, as they were wanted when bought."""

        def operation(connection: sqlite3.Connection) -> list[tuple[Item, Want]]:
            rows = connection.execute(
                "SELECT * FROM item WHERE batch_id = ? AND state IN (?, ?) ORDER BY accepted_at",
                (batch.id, State.ACCEPTED, State.STORING),
            ).fetchall()
            return [(_item_of(connection, row, run_id), _want_of(row)) for row in rows]

        return await self.transact(operation)

    async def last_item(self, batch: Batch) -> int:
        """The id of the batch's newest item, 0 where it has none."""
        query = "SELECT coalesce(max(id), 0) FROM item WHERE batch_id = ?"
        return await self.transact(lambda connection: int(connection.execute(query, (batch.id,)).fetchone()[0]))

    async def recorded_wants(self, batch: Batch, after: int, until: int) -> list[RecordedWant]:
        """The next page of a batch's items in the order they were wanted, by id: above `after`, up to `until`."""
        query = "SELECT id, said, replica, spec FROM item WHERE batch_id = ? AND id > ? AND id <= ? ORDER BY id LIMIT ?"
        parameters = (batch.id, after, until, _PAGE)
        rows = await self.transact(lambda connection: connection.execute(query, parameters).fetchall())
        return [
            RecordedWant(
                row["id"], ImageRequest.model_validate_json(row["said"]), row["replica"], Spec.from_json(row["spec"])
            )
            for row in rows
        ]

    # -- what is bought ------------------------------------------------------------------------------------------

    async def record_intent(self, item: Item, terms: Terms) -> None:
        """The intent to buy is durable: only after this may `POST /run` be sent."""
        await self._intend(item, terms, job_id=None)

    async def record_retry_intent(self, item: Item, terms: Terms, failure: Failure, timing: Timing) -> None:
        """The platform failed the job, and the intent to have it run again under its id is durable."""
        await self._intend(
            item, terms, str(failure), job_id=item.job_id, ended=partial(_end_job, item, failure, timing)
        )

    async def _intend(
        self, item: Item, terms: Terms, detail: str | None = None, *, job_id: str | None, ended: _Also | None = None
    ) -> None:
        attempt = item.attempts + 1

        def also(connection: sqlite3.Connection, at: float) -> None:
            if ended is not None:
                ended(connection, at)
            connection.execute(
                "INSERT INTO job (item_id, run_id, attempt, endpoint, job_id, submitted_at, execution_timeout_ms, "
                "usd_per_second) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (item.id, item.run_id, attempt, terms.endpoint, job_id, at, terms.execution_timeout_ms,
                 terms.usd_per_second),
            )  # fmt: skip

        await self._move(
            item,
            State.SUBMITTING,
            detail,
            also=also,
            attempts=attempt,
            job_id=job_id,
            endpoint=terms.endpoint,
            execution_timeout_ms=terms.execution_timeout_ms,
        )

    async def record_refused(self, item: Item, reason: str) -> None:
        """The submission was certainly not accepted: it is as if it had never been sent."""
        await self._move(item, State.WANTED, reason, attempts=item.attempts - 1, job_id=None, also=_forget_job(item))

    async def record_rejected(self, item: Item, failure: Failure) -> None:
        """The platform refused this job for what it is; nothing was bought."""
        await self._move(item, State.FAILED, str(failure), failure=failure, also=_forget_job(item))

    async def record_unknown(self, item: Item, failure: Failure) -> None:
        """The submission may have been accepted."""
        await self._move(item, State.UNKNOWN, str(failure), failure=failure, also=_unknown_job(item))

    async def record_accepted(self, item: Item, job_id: str) -> None:
        """The platform took the job under this id."""
        at = self._ports.clock.wall()
        statement = f"UPDATE job SET job_id = ?, accepted_at = ? WHERE {_THIS_JOB}"  # noqa: S608 - the names are ours
        await self._move(
            item,
            State.ACCEPTED,
            job_id=job_id,
            accepted_at=at,
            also=lambda connection, _: connection.execute(statement, (job_id, at, item.id)),
        )

    async def record_refused_here(self, item: Item, failure: Failure) -> None:
        """It cannot be sent: its own fault, found before anything was bought."""
        await self._move(item, State.FAILED, str(failure), failure=failure)

    async def record_ended(self, item: Item, target: State, failure: Failure, timing: Timing) -> None:
        """The job ended without a picture: `target` says where that leads (WANTED buys it again)."""
        await self._move(item, target, str(failure), failure=failure, also=partial(_end_job, item, failure, timing))

    async def record_resubmission(self, item: Item) -> None:
        """Its owner wants a held submission sent again, though it may have been accepted the first time."""
        await self._move(item, State.WANTED, "resubmitted as told; it may be paid for twice")

    async def record_wanted_again(self, item: Item, want: Want, reason: str) -> None:
        """Its owner wants it made (again), with today's values; what was made before is kept beside it."""
        seed = item.seed if want.fixed_seed is None else want.fixed_seed
        await self._move(
            item,
            State.WANTED,
            reason,
            attempts=0,
            **_columns_of(want, seed),
            also=_supersede_pictures(item),
        )
        item.seed, item.changed, item.pictures = seed, False, ()

    async def committed_usd(self, batch: Batch, usd_per_second: float) -> float:
        """What the ended jobs of a batch have cost; the most they can have cost where they never said a time.

        `usd_per_second` prices jobs that were bought without a price. Jobs that are out are not in it.
        """
        query = (
            "SELECT coalesce(sum(coalesce(usd_per_second, ?) * coalesce(execution_ms, job.execution_timeout_ms)), 0) "
            "/ 1000 AS usd FROM job JOIN item ON item.id = job.item_id WHERE batch_id = ? AND outcome IS NOT NULL"
        )
        parameters = (usd_per_second, batch.id)
        return await self.transact(lambda connection: float(connection.execute(query, parameters).fetchone()["usd"]))

    # -- what is made --------------------------------------------------------------------------------------------

    async def record_storing(self, item: Item, pictures: Sequence[StoredPicture], timing: Timing) -> None:
        """The result is here: its paths and hashes are durable before any file gets its final name."""

        def also(connection: sqlite3.Connection, at: float) -> None:
            _end_job(item, None, timing, connection, at)
            connection.executemany(
                "INSERT INTO image (item_id, number, path, sha256, size_bytes, format, width, height, state) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'storing')",
                [(item.id, p.number, p.path, p.sha256, p.size_bytes, p.format, p.width, p.height) for p in pictures],
            )

        await self._move(item, State.STORING, also=also)
        item.pictures = tuple(pictures)

    async def record_stored(self, item: Item) -> None:
        """Every file of the item is in place and flushed."""
        await self._move(
            item,
            State.STORED,
            also=lambda connection, at: connection.execute(
                "UPDATE image SET state = 'stored' WHERE item_id = ? AND state = 'storing'", (item.id,)
            ),
        )

    async def record_picture_lost(self, item_id: int, failure: Failure) -> bool:
        """A stored picture is missing or damaged: its image is lost, with all its pictures. False if it was already."""

        def find(connection: sqlite3.Connection) -> Item:
            return _item_of(connection, connection.execute("SELECT * FROM item WHERE id = ?", (item_id,)).fetchone())

        item = await self.transact(find)
        if item.state is not State.STORED:
            return False
        await self._move(item, State.LOST, str(failure), failure=failure, also=_supersede_pictures(item))
        return True

    async def record_not_stored(self, item: Item) -> None:
        """The process died before the files were in place: the result is to be fetched again."""
        await self._move(
            item,
            State.ACCEPTED,
            "the files were not in place",
            also=lambda connection, at: _reopen_job(connection, item.id),
        )
        item.pictures = ()

    async def has_job_ended_with(self, item: Item, outcome: str) -> bool:
        """Whether one of the item's jobs ended in this way, since its owner last wanted it tried again."""
        query = "SELECT 1 FROM (SELECT outcome FROM job WHERE item_id = ? ORDER BY id DESC LIMIT ?) WHERE outcome = ?"
        parameters = (item.id, item.attempts, outcome)
        return await self.transact(lambda connection: connection.execute(query, parameters).fetchone() is not None)

    # -- how changes are made ------------------------------------------------------------------------------------

    async def _move(
        self,
        item: Item,
        target: State,
        detail: str | None = None,
        *,
        also: _Also | None = None,
        failure: Failure | None = None,
        **columns: Any,
    ) -> None:
        """One step of the lifecycle with what belongs to it, in one transaction; then the item says so too.

        The schema writes the event, and refuses a step that is not allowed; asked here first, so that it is a bug of
        ours with a name, not an error of the database's.
        """
        source, at = item.state, self._ports.clock.wall()
        if (source, target) not in ALLOWED:
            raise RuntimeError(f"{item.request_id}: no move from {source} to {target} (asyncgen.lifecycle)")
        changes = {"state": target, "state_at": at, "detail": detail, **_failure_columns(failure), **columns}

        def operation(connection: sqlite3.Connection) -> None:
            assignments = ", ".join(f"{name} = ?" for name in changes)
            changed = connection.execute(
                f"UPDATE item SET {assignments} WHERE id = ? AND state = ?",  # noqa: S608 - the names are ours
                (*changes.values(), item.id, source),
            ).rowcount
            if changed != 1:
                raise RuntimeError(f"{item.request_id}: the ledger no longer has it as {source}")
            if also is not None:
                also(connection, at)

        await self.transact(operation)
        item.state, item.state_at, item.failure = target, at, failure
        for name in columns.keys() & _ITEM_FIELDS:
            setattr(item, name, columns[name])

    async def transact(self, operation: Callable[[sqlite3.Connection], T]) -> T:
        """Run an operation on the ledger's thread in the next commit; its result, once durable.

        It must do nothing but SQL: if another operation of the same commit fails, it is rolled back and run again.
        """
        if self.is_closed:
            raise LedgerError(_ENDED)
        entry = _Entry(operation)
        self._queue.append(entry)
        self._arrival.set()
        await entry.durable.wait()
        if entry.error is not None:
            raise entry.error
        return entry.result  # type: ignore[return-value]  # set by `_commit`, which ran the operation

    def _commit(self, entries: list[_Entry[Any]]) -> None:
        """Runs on the ledger's thread: all entries in one transaction, or, if one of them fails, each in its own."""
        try:
            self._transact(entries)
        except Exception as error:  # handed to whoever asked for it
            if len(entries) == 1:
                entries[0].error = _as_ledger_error(error)
                return
            for entry in entries:
                self._commit([entry])

    def _transact(self, entries: list[_Entry[Any]]) -> None:
        connection = self._connection
        if connection is None:
            raise LedgerError("the ledger is closed")
        connection.execute("BEGIN IMMEDIATE")
        try:
            for entry in entries:
                entry.result = entry.operation(connection)
            connection.commit()
        except BaseException:
            connection.rollback()
            raise

    def _open(self, output_root: str, at: float) -> int:
        connection = None
        try:
            connection = self._ports.connect()
            connection.row_factory = sqlite3.Row
            found = _prepare(connection, output_root, at)
        except BaseException as error:
            if connection is not None:
                connection.close()
            if isinstance(error, sqlite3.Error):
                raise _as_ledger_error(error) from error
            raise
        self._connection = connection
        return found


def _failure_columns(failure: Failure | None) -> dict[str, Any]:
    if failure is None:
        return {"failure_class": None, "failure_code": None, "failure_message": None}
    return {"failure_class": failure.kind, "failure_code": failure.code, "failure_message": failure.message}


def _as_ledger_error(error: Exception) -> Exception:
    """SQLite's errors in words an owner can act on; a bug of ours stays what it is."""
    if isinstance(error, sqlite3.IntegrityError) and "image.path" in str(error):
        return PathTakenError()
    if not isinstance(error, sqlite3.Error) or isinstance(error, sqlite3.IntegrityError | sqlite3.ProgrammingError):
        return error
    return LedgerError(f"the ledger cannot be used ({error}): {cure_of(error)}")


def cure_of(error: sqlite3.Error) -> str:
    """What an owner can do about what SQLite says of a ledger's file."""
    cures = {
        "full": "free some space and start the run again; nothing that was recorded is lost",
        "locked": "another program has the file open for writing; close it",
        "readonly": "make the ledger file and its folder writable",
        "malformed": "the file is damaged; keep a copy of it, then rebuild it with `asyncgen verify --repair`",
        "not a database": "rebuild it with `asyncgen verify --repair`, or name another one with ASYNCGEN_LEDGER",
        "no such table": "it has nothing of a ledger in it; rebuild it with `asyncgen verify --repair`",
        "moved or removed": "put it back where it was and start the run again; what is out is known to it alone",
    }
    text = str(error)
    return next((cure for word, cure in cures.items() if word in text), "check the disk and the folder's permissions")


def _prepare(connection: sqlite3.Connection, output_root: str, at: float) -> int:
    check_identity(connection)
    for pragma in _PRAGMAS:
        connection.execute(pragma)
    migrate(connection)
    connection.execute(
        "CREATE TEMP TABLE IF NOT EXISTS seen (run_id INTEGER, content_key BLOB, count INTEGER, "
        "PRIMARY KEY (run_id, content_key)) WITHOUT ROWID"
    )
    _check_output_root(connection, output_root)
    return _settle_in_the_air(connection, at)


def check_identity(connection: sqlite3.Connection) -> None:
    """Refuse a database of somebody else's before anything is changed in it. Raises `LedgerError`."""
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    if tables and not {"batch", "item", "manifest"} <= tables:
        raise LedgerError("the file is a database, but no ledger: name another one with ASYNCGEN_LEDGER")


def _check_output_root(connection: sqlite3.Connection, output_root: str) -> None:
    """Paths and manifest of one ledger belong to one output root; the first to use it decides which."""
    connection.execute("UPDATE manifest SET output_root = ? WHERE output_root IS NULL", (output_root,))
    owner = connection.execute("SELECT output_root FROM manifest").fetchone()[0]
    if owner != output_root:
        owner = "the folder it is in" if owner == "." else owner
        raise LedgerError(f"the ledger belongs to another output root ({owner}): name that one, or another ledger")


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the schema up to date. Raises `LedgerVersionError` for a newer one."""
    found = check_version(connection)
    for version in range(found + 1, VERSION + 1):
        script = _migration(version).read_text(encoding="utf-8")
        connection.executescript(f"BEGIN IMMEDIATE;\n{script}\nPRAGMA user_version = {version};\nCOMMIT;")


def check_version(connection: sqlite3.Connection) -> int:
    """The version of the schema, 0 for an empty file. Raises `LedgerVersionError` for one that we do not know."""
    found = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if found > VERSION:
        raise LedgerVersionError(
            f"the ledger has version {found}, this asyncgen knows up to {VERSION}: install a newer asyncgen"
        )
    return found


def _migration(version: int) -> Path:
    folder = assets.data_path("resources", "sql")
    return next(folder.glob(f"{version:04d}_*.sql"))


def _settle_in_the_air(connection: sqlite3.Connection, at: float) -> int:
    failure = Failure(
        FailureClass.TRANSPORT,
        FailureCode.UNREACHABLE,
        "the process ended while the submission was in the air; whether it was accepted was never learned",
    )
    connection.execute("BEGIN IMMEDIATE")
    rows = connection.execute("SELECT id FROM item WHERE state = ?", (State.SUBMITTING,)).fetchall()
    columns = {"state": State.UNKNOWN, "state_at": at, "detail": failure.message, **_failure_columns(failure)}
    assignments = ", ".join(f"{name} = ?" for name in columns)
    connection.executemany(
        f"UPDATE item SET {assignments} WHERE id = ?",  # noqa: S608 - the names are ours
        [(*columns.values(), row["id"]) for row in rows],
    )
    connection.executemany(_UNKNOWN_JOB, [(row["id"],) for row in rows])
    connection.execute("UPDATE run SET ended_at = ?, outcome = 'died' WHERE ended_at IS NULL", (at,))
    connection.commit()
    return len(rows)


def _open_batch(connection: sqlite3.Connection, name: str, realm: str, new_set: bool, at: float) -> Batch:
    wanted, number = name, 1
    while row := connection.execute("SELECT id FROM batch WHERE realm = ? AND name = ?", (realm, wanted)).fetchone():
        if not new_set:
            return Batch(row[0], wanted, realm, is_new=False)
        number += 1
        wanted = f"{name}-{number}"
    cursor = connection.execute("INSERT INTO batch (name, realm, created_at) VALUES (?, ?, ?)", (wanted, realm, at))
    return Batch(_row_id(cursor), wanted, realm, is_new=True)


def _begin_run(connection: sqlite3.Connection, batch_id: int, at: float) -> int:
    return _row_id(connection.execute("INSERT INTO run (batch_id, started_at) VALUES (?, ?)", (batch_id, at)))


def _end_run(connection: sqlite3.Connection, run_id: int, outcome: str, at: float) -> None:
    connection.execute("UPDATE run SET ended_at = ?, outcome = ? WHERE id = ?", (at, outcome, run_id))
    connection.execute("DELETE FROM seen WHERE run_id = ?", (run_id,))


def _row_id(cursor: sqlite3.Cursor) -> int:
    assert cursor.lastrowid is not None
    return cursor.lastrowid


def _claim(
    connection: sqlite3.Connection,
    ports: Ports,
    batch: Batch,
    run_id: int,
    wants: Sequence[Want],
    drawn: Sequence[tuple[str, int]],
    at: float,
) -> list[Item]:
    items = []
    for want, (hex8, seed) in zip(wants, drawn, strict=True):
        seen_before = 0 if want.item_id is not None else _count_seen(connection, run_id, want.content_key)
        one_image = want.fixed_seed is not None or want.request.id is not None
        occurrence = 0 if one_image else seen_before
        item = _find(connection, batch, run_id, want, occurrence)
        if item is None:
            assert want.item_id is None  # what comes from the ledger is never recorded again
            item = _insert(connection, ports, batch, want, occurrence, hex8, seed, at)
            item.run_id = run_id
        item.repeats = one_image and seen_before > 0
        items.append(item)
    return items


def _count_seen(connection: sqlite3.Connection, run_id: int, content_key: bytes) -> int:
    """How often this run has met the key before, in a table that spills to disk: inputs may have millions of rows."""
    row = connection.execute(
        "INSERT INTO seen VALUES (?, ?, 1) ON CONFLICT DO UPDATE SET count = count + 1 RETURNING count",
        (run_id, content_key),
    ).fetchone()
    return int(row[0]) - 1


def _find(connection: sqlite3.Connection, batch: Batch, run_id: int, want: Want, occurrence: int) -> Item | None:
    by_key = ("batch_id = ? AND content_key = ? AND occurrence = ?", (batch.id, want.content_key, occurrence))
    condition, parameters = by_key if want.item_id is None else ("id = ?", (want.item_id,))
    row = connection.execute(f"SELECT * FROM item WHERE {condition}", parameters).fetchone()  # noqa: S608 - ours
    if row is None:
        return None
    item = _item_of(connection, row, run_id)
    item.changed = row["fingerprint"] != want.fingerprint or want.fixed_seed not in (None, item.seed)
    if item.changed and item.state is State.WANTED:
        _refresh(connection, item, want)
    return item


def _refresh(connection: sqlite3.Connection, item: Item, want: Want) -> None:
    """What was never bought has no old values to keep: it will be made with today's."""
    item.seed = item.seed if want.fixed_seed is None else want.fixed_seed
    columns = _columns_of(want, item.seed)
    assignments = ", ".join(f"{name} = ?" for name in columns)
    connection.execute(f"UPDATE item SET {assignments} WHERE id = ?", (*columns.values(), item.id))  # noqa: S608 - names are ours
    item.changed = False


def _columns_of(want: Want, seed: int) -> dict[str, Any]:
    """What an item is made with; it changes as one."""
    return {
        "said": want.request.said_json(),
        "spec": want.spec.to_json(),
        "fingerprint": want.fingerprint,
        "style_id": want.spec.style_id,
        "seed": str(seed),
    }


def _item_of(connection: sqlite3.Connection, row: sqlite3.Row, run_id: int | None = None) -> Item:
    code, state = row["failure_code"], State(row["state"])
    return Item(
        id=row["id"],
        request_id=row["request_id"],
        state=state,
        state_at=row["state_at"],
        seed=int(row["seed"]),
        attempts=row["attempts"],
        endpoint=row["endpoint"],
        job_id=row["job_id"],
        accepted_at=row["accepted_at"],
        failure=code and Failure(FailureClass(row["failure_class"]), FailureCode(code), row["failure_message"]),
        execution_timeout_ms=row["execution_timeout_ms"],
        run_id=run_id,
        pictures=_pictures(connection, row["id"]) if state in (State.STORED, State.STORING) else (),
    )


def _want_of(row: sqlite3.Row) -> Want:
    request = ImageRequest.model_validate_json(row["said"])
    return Want(request, row["replica"], Spec.from_json(row["spec"]), row["content_key"], None)


def _pictures(connection: sqlite3.Connection, item_id: int) -> tuple[StoredPicture, ...]:
    rows = connection.execute(
        "SELECT number, path, sha256, size_bytes, format, width, height FROM image "
        "WHERE item_id = ? AND state <> 'superseded' ORDER BY number",
        (item_id,),
    )
    return tuple(StoredPicture(*row) for row in rows)


def _insert(
    connection: sqlite3.Connection,
    ports: Ports,
    batch: Batch,
    want: Want,
    occurrence: int,
    hex8: str,
    random_seed: int,
    at: float,
) -> Item:
    seed = random_seed if want.fixed_seed is None else want.fixed_seed
    assert 0 <= seed <= MAX_SEED
    while connection.execute("SELECT 1 FROM item WHERE request_id = ?", (f"img_{hex8}",)).fetchone():
        hex8 = ports.new_hex8()  # 32 bits: at a million images some do meet
    row = {
        "request_id": f"img_{hex8}",
        "batch_id": batch.id,
        "content_key": want.content_key,
        "occurrence": occurrence,
        "replica": want.replica,
        "state": State.WANTED,
        "state_at": at,
        **_columns_of(want, seed),
    }
    names, places = ", ".join(row), ", ".join("?" * len(row))
    cursor = connection.execute(
        f"INSERT INTO item ({names}) VALUES ({places})",  # noqa: S608 - the names are ours
        tuple(row.values()),
    )
    return Item(_row_id(cursor), f"img_{hex8}", State.WANTED, at, seed, 0, None, None, None, None, is_new=True)


_UNKNOWN_JOB: Final = f"UPDATE job SET outcome = 'unknown' WHERE {_THIS_JOB}"  # noqa: S608 - the names are ours


def _unknown_job(item: Item) -> _Also:
    return lambda connection, at: connection.execute(_UNKNOWN_JOB, (item.id,))


def _supersede_pictures(item: Item) -> _Also:
    statement = "UPDATE image SET state = 'superseded' WHERE item_id = ?"
    return lambda connection, at: connection.execute(statement, (item.id,))


def _forget_job(item: Item) -> _Also:
    return lambda connection, at: connection.execute(f"DELETE FROM job WHERE {_THIS_JOB}", (item.id,))  # noqa: S608 - ours


def _reopen_job(connection: sqlite3.Connection, item_id: int) -> None:
    """Its result is wanted again, and has no files."""
    connection.execute("DELETE FROM image WHERE item_id = ? AND state = 'storing'", (item_id,))
    connection.execute(f"UPDATE job SET ended_at = NULL, outcome = NULL WHERE {_THIS_JOB}", (item_id,))  # noqa: S608 - ours


def _end_job(item: Item, failure: Failure | None, timing: Timing, connection: sqlite3.Connection, at: float) -> None:
    """How the item's job ended: the code of its failure, or `completed`."""
    outcome = "completed" if failure is None else failure.code
    connection.execute(
        "UPDATE job SET ended_at = ?, outcome = ?, delay_ms = ?, execution_ms = ?, worker_id = ? "  # noqa: S608 - ours
        f"WHERE {_THIS_JOB}",
        (at, outcome, timing.delay_ms, timing.execution_ms, timing.worker_id, item.id),
    )
