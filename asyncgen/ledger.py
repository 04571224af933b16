"""The ledger: what is wanted, bought and made, durable before anybody acts on it.

SQLite through one writing connection that lives on one thread. Operations from all jobs that arrive while a commit is
on its way share the next one (group commit); each call returns once its change is durable. State changes go through
`_move`, which refuses what `asyncgen.lifecycle` does not allow.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Generic, TypeVar

import anyio

from asyncgen import rows
from asyncgen.errors import Failure, FailureClass, FailureCode, InputError, LedgerError
from asyncgen.lifecycle import ALLOWED, State
from asyncgen.ports import Ports
from asyncgen.protocol import Timing
from asyncgen.records import Batch, Item, Look, RecordedWant, Sibling, Spec, StoredPicture, Terms, Want
from asyncgen.request import ImageRequest
from asyncgen.schema import as_ledger_error, prepare

T = TypeVar("T")
_PAGE: Final = 64
_ITEM_FIELDS: Final = frozenset({"attempts", "endpoint", "job_id", "accepted_at", "execution_timeout_ms", "rerolls"})
_ENDED: Final = "the ledger is closed: the event loop ended under the run; start it again to continue"


@dataclass(slots=True)
class _Entry(Generic[T]):
    """One operation waiting for the next commit."""

    operation: Callable[[sqlite3.Connection], T]
    result: T | None = None
    error: Exception | None = None


@dataclass(slots=True)
class _Group:
    """The operations of one commit. Once `durable` is set, each says what became of it."""

    entries: list[_Entry[Any]] = field(default_factory=list)
    durable: anyio.Event = field(default_factory=anyio.Event)


class Ledger:
    """All methods return when their change is durable, and raise `LedgerError` when it cannot be made so."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports
        self._next: _Group | None = None  # whose commit has not begun
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
        group: _Group | None = None
        try:
            while True:
                await self._arrival.wait()
                self._arrival = anyio.Event()
                while group := self._next:
                    self._next = None
                    await self._ports.ledger_thread.run(self._commit, group.entries)
                    group.durable.set()
        finally:  # an event loop that ends cancels every task, those that wait for us too: none may wait for ever
            self.is_closed = True
            for cut_short in (group, self._next):
                if cut_short is not None:
                    for entry in cut_short.entries:
                        entry.error = LedgerError(_ENDED)
                    cut_short.durable.set()

    # -- what is wanted ------------------------------------------------------------------------------------------

    async def open_batch(self, name: str, realm: str, *, new_set: bool = False) -> Batch:
        """The batch of that name; `new_set` makes another one beside it, named `NAME-2`, `NAME-3` …"""
        at = self._ports.clock.wall()
        return await self.transact(lambda connection: rows.open_batch(connection, name, realm, new_set, at))

    async def begin_run(self, batch: Batch) -> int:
        """Record that a run over the batch begins; returns its number."""
        at = self._ports.clock.wall()
        return await self.transact(lambda connection: rows.begin_run(connection, batch.id, at))

    async def end_run(self, run_id: int, outcome: str) -> None:
        """Record how a run ended, and forget what it has met."""
        at = self._ports.clock.wall()
        await self.transact(lambda connection: rows.end_run(connection, run_id, outcome, at))

    async def claim(
        self, batch: Batch, run_id: int, wants: Sequence[Want], in_work: Collection[int] = ()
    ) -> list[Item]:
        """The items of these wants, in order: found in the batch, or recorded now with a seed drawn where none is said.

        One that waits to be bought is to be made as it is wanted now, unless a job is working on it (`in_work`, by id):
        that one sends what it began with.

        Two equal wants of one run with random seeds are two items; with one fixed seed they are one (`repeats`).
        Equal caller's ids in one run are one item too; the caller decides what that means.
        """
        at = self._ports.clock.wall()
        drawn = [(self._ports.new_hex8(), self._ports.rng.getrandbits(64)) for _ in wants]
        return await self.transact(
            lambda connection: rows.claim(connection, self._ports, batch, run_id, wants, in_work, drawn, at)
        )

    async def check_ids(self, batch: Batch, wants: Sequence[Want]) -> None:
        """Raises `InputError` where the batch has another image under the id of one: which of the two is meant?"""
        found = await self.transact(lambda connection: rows.id_with_other_values(connection, batch.id, wants))
        if found is not None:
            raise InputError(
                f"the batch {batch.name!r} has another image under the id {found!r}: give this one an id of its own",
                field="id",
            )

    async def take_kept(
        self, batch: Batch, run_id: int, row_keys: Sequence[bytes], but: Collection[int] = ()
    ) -> dict[bytes, int]:
        """Of these rows of a prompt file, those whose images are all stored, made as they would be today; in one look.

        Returns how many images each stands for. They count as met by this run: each is taken once, and only where the
        run has not claimed its items. `but` are items that are not taken.
        """
        return await self.transact(lambda connection: rows.take_kept(connection, batch.id, run_id, row_keys, but))

    async def items_out(self, batch: Batch, run_id: int) -> list[tuple[Item, Want]]:
        """The items of a batch whose job is out or whose result is being stored, as they were wanted when bought."""
        return await self.transact(lambda connection: rows.items_out(connection, batch.id, run_id))

    async def last_item(self, batch: Batch) -> int:
        """The id of the batch's newest item, 0 where it has none."""
        query = "SELECT coalesce(max(id), 0) FROM item WHERE batch_id = ?"
        return await self.transact(lambda connection: int(connection.execute(query, (batch.id,)).fetchone()[0]))

    async def recorded_wants(
        self, batch: Batch, after: int, until: int, only: Collection[str] | None = None
    ) -> list[RecordedWant]:
        """The next page of a batch's items in the order they were wanted, by id: above `after`, up to `until`.

        `only` the items of these request ids; None: all.
        """
        query = (
            "SELECT id, said, replica, spec FROM item WHERE batch_id = ? AND id > ? AND id <= ? "
            "AND (? IS NULL OR request_id IN (SELECT value FROM json_each(?))) ORDER BY id LIMIT ?"
        )
        ids = None if only is None else json.dumps(list(only))
        parameters = (batch.id, after, until, ids, ids, _PAGE)
        found = await self.transact(lambda connection: connection.execute(query, parameters).fetchall())
        return [_recorded(row) for row in found]

    async def recorded_by_id(self, item_ids: Sequence[int]) -> list[RecordedWant]:
        """These items as they were wanted, in this order."""
        query = "SELECT id, said, replica, spec FROM item WHERE id IN (SELECT value FROM json_each(?))"
        found = await self.transact(lambda c: c.execute(query, (json.dumps(item_ids),)).fetchall())
        return sorted(map(_recorded, found), key=lambda recorded: item_ids.index(recorded.item_id))

    async def forget_met(self, scope: int) -> None:
        """What is added under this number is whole: see `Engine.add`."""
        await self.transact(
            lambda c: [c.execute(f"DELETE FROM {table} WHERE run_id = ?", (scope,)) for table in ("met", "again")]  # noqa: S608 - as it says
        )

    async def unknown_ids(self, ids: Collection[str], batch: Batch | None) -> set[str]:
        """Those of these ids that no item of a batch has as request id, owner's id or job's id; None: of any."""
        if not ids:
            return set()
        query = (
            "SELECT request_id, json_extract(said, '$.id'), job_id FROM item WHERE ?1 IN (batch_id, 0) AND "
            "(request_id IN (SELECT value FROM json_each(?2)) OR job_id IN (SELECT value FROM json_each(?2)) "
            "OR json_extract(said, '$.id') IN (SELECT value FROM json_each(?2)))"
        )
        parameters = (0 if batch is None else batch.id, json.dumps(list(ids)))
        found = await self.transact(lambda c: c.execute(query, parameters).fetchall())
        return set(ids).difference(*map(tuple, found))

    async def count_unmade(self, batch: Batch, wants: Sequence[Want]) -> int:
        """How many of these the batch has not had yet, or has taken back."""
        keys = [want.content_key for want in wants]
        found = await self.transact(lambda connection: rows.keys_in_hand(connection, batch.id, keys))
        return sum(key not in found for key in keys)

    async def keys_of(self, batch: Batch, ids: Collection[str]) -> set[bytes]:
        """The content keys of a batch's items that have one of these request ids or ids of their owner's."""
        query = (
            "SELECT content_key FROM item WHERE batch_id = ?1 AND (request_id IN (SELECT value FROM json_each(?2)) "
            "OR json_extract(said, '$.id') IN (SELECT value FROM json_each(?2)))"
        )
        parameters = (batch.id, json.dumps(list(ids)))
        return {row[0] for row in await self.transact(lambda c: c.execute(query, parameters).fetchall())}

    # -- what is bought ------------------------------------------------------------------------------------------

    async def record_intent(self, item: Item, terms: Terms) -> None:
        """The intent to buy is durable: only after this may `POST /run` be sent."""
        await self._intend(item, terms, job_id=None)

    async def record_retry_intent(self, item: Item, terms: Terms, failure: Failure, timing: Timing) -> None:
        """The platform failed the job, and the intent to have it run again under its id is durable."""
        await self._intend(
            item, terms, str(failure), job_id=item.job_id, ended=partial(rows.end_job, item, failure, timing)
        )

    async def _intend(
        self, item: Item, terms: Terms, detail: str | None = None, *, job_id: str | None, ended: rows.Also | None = None
    ) -> None:
        attempt = item.attempts + 1

        def also(connection: sqlite3.Connection, at: float) -> None:
            if ended is not None:
                ended(connection, at)
            rows.insert_job(connection, item, attempt, terms, job_id, at)

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
        item.submitted_at = item.state_at

    async def record_refused(self, item: Item, reason: str) -> None:
        """The submission was certainly not accepted: it is as if it had never been sent."""
        await self._move(
            item, State.WANTED, reason, attempts=item.attempts - 1, job_id=None, also=rows.forget_job(item)
        )

    async def record_rejected(self, item: Item, failure: Failure) -> None:
        """The platform refused this job for what it is; nothing was bought."""
        await self._move(item, State.FAILED, str(failure), failure=failure, also=rows.forget_job(item))

    async def record_unknown(self, item: Item, failure: Failure) -> None:
        """The submission may have been accepted."""
        await self._move(item, State.UNKNOWN, str(failure), failure=failure, also=rows.unknown_job(item))

    async def record_accepted(self, item: Item, job_id: str) -> None:
        """The platform took the job under this id."""
        at = self._ports.clock.wall()
        await self._move(
            item,
            State.ACCEPTED,
            job_id=job_id,
            accepted_at=at,
            also=rows.accept_job(item, job_id),
        )

    async def record_unconfirmed(self, item: Item, reason: str) -> None:
        """No reply came to a retry; its job's id is known, and tells whether it runs again."""
        detail = f"no reply to POST /retry ({reason}): the job's id tells whether it runs again"
        await self._move(item, State.ACCEPTED, detail, accepted_at=None)

    async def record_retry_not_taken(self, item: Item, failure: Failure) -> None:
        """A retry that no reply came to has never run: it is as if it had never been sent, and the job still failed."""
        detail = f"{failure}; POST /retry was never taken: the job still ends as it did before"
        await self._move(
            item,
            State.WANTED,
            detail,
            failure=failure,
            attempts=item.attempts - 1,
            job_id=None,
            also=rows.forget_job(item),
        )

    async def record_refused_here(self, item: Item, failure: Failure) -> None:
        """It cannot be sent: its own fault, found before anything was bought."""
        await self._move(item, State.FAILED, str(failure), failure=failure)

    async def record_cancelled_unsent(self, item: Item, reason: str) -> None:
        """Its owner takes it back before it was sent: nothing of it is out, and nothing was bought for it."""
        failure = Failure(FailureClass.ITEM, FailureCode.CANCELLED, reason)
        await self._move(item, State.CANCELLED, str(failure), failure=failure)

    async def cancel_unsent(
        self, batch: Batch, is_meant: Callable[[Want, Item], bool], but: Collection[int], reason: str
    ) -> int:
        """Take back all that is wanted and meant, but these items (by id), which a run has in hand; how many."""
        at, after, taken = self._ports.clock.wall(), 0, 0
        while True:
            page = partial(rows.cancel_unsent, batch_id=batch.id, after=after, is_meant=is_meant, but=but, at=at)
            last, count = await self.transact(partial(page, reason=reason))
            taken += count
            if last is None:
                return taken
            after = last

    async def record_ended(self, item: Item, target: State, failure: Failure, timing: Timing) -> None:
        """The job ended without a picture: `target` says where that leads (WANTED buys it again)."""
        await self._move(item, target, str(failure), failure=failure, also=partial(rows.end_job, item, failure, timing))

    async def record_resubmission(self, item: Item) -> None:
        """Its owner wants a held submission sent again, though it may have been accepted the first time."""
        await self._move(item, State.WANTED, "resubmitted as told; it may be paid for twice")

    async def record_wanted_again(self, item: Item, want: Want, reason: str, next_seed: int | None = None) -> None:
        """Its owner wants it made (again), with today's values; what was made before is kept beside it.

        `next_seed`: it is rolled again with this one, its attempts so far still counting; None: all begins anew.
        """
        seed, attempts, rerolls = item.seed if want.fixed_seed is None else want.fixed_seed, 0, 0
        if next_seed is not None:
            seed, attempts, rerolls = next_seed, item.attempts, item.rerolls + 1
            reason = f"{reason}, with another seed"
        await self._move(
            item,
            State.WANTED,
            reason,
            attempts=attempts,
            rerolls=rerolls,
            **rows.columns_of(want, seed),
            also=rows.supersede_pictures(item),
        )
        item.seed, item.changed, item.pictures = seed, False, ()

    async def committed_usd(self, batch: Batch, usd_per_second: float) -> float:
        """What the ended jobs of a batch have cost; the most they can have cost where they never said a time.

        `usd_per_second` prices jobs that were bought without a price. Jobs that are out are not in it.
        """
        query = (
            f"SELECT coalesce(sum(coalesce(usd_per_second, ?) * {rows.MOST_MS}), 0) / 1000 AS usd "  # noqa: S608 - ours
            "FROM job JOIN item ON item.id = job.item_id WHERE batch_id = ? AND outcome IS NOT NULL"
        )
        parameters = (usd_per_second, batch.id)
        return await self.transact(lambda connection: float(connection.execute(query, parameters).fetchone()["usd"]))

    async def last_times(self, batch: Batch) -> list[tuple[Spec, int]]:
        """What the last jobs of a batch that made pictures were, and how many milliseconds each ran; newest first."""
        query = (
            "SELECT spec, execution_ms FROM job JOIN item ON item.id = job.item_id WHERE batch_id = ? "
            "AND outcome = 'completed' AND execution_ms IS NOT NULL ORDER BY job.id DESC LIMIT ?"
        )
        found = await self.transact(lambda connection: connection.execute(query, (batch.id, _PAGE)).fetchall())
        return [(Spec.from_json(row["spec"]), row["execution_ms"]) for row in found]

    # -- what is made --------------------------------------------------------------------------------------------

    async def record_storing(
        self,
        item: Item,
        pictures: Sequence[StoredPicture],
        timing: Timing,
        looks: Sequence[Look] = (),
        unlike: rows.Unlike | None = None,
    ) -> list[Sibling]:
        """The result is here: its paths and hashes are durable before any file gets its final name.

        Where there are pictures that the item must be `unlike`, and they have not been compared with it, they are
        returned, and nothing is recorded.
        """

        def also(connection: sqlite3.Connection, at: float) -> None:
            rows.end_job(item, None, timing, connection, at)
            rows.insert_pictures(connection, item.id, pictures, "storing", looks)

        new: list[Sibling] = await self._move(item, State.STORING, also=also, unless=unlike) or []
        if not new:
            item.pictures = tuple(pictures)
        return new

    async def record_look(self, image_id: int, look: Look) -> None:
        """How a stored picture looks, worked out now that there is another to compare it with."""
        statement = "UPDATE image SET pixels_hash = ?, perceptual_hash = ? WHERE id = ?"
        columns = look.pixels_hash, look.perceptual_hash, image_id
        await self.transact(lambda connection: connection.execute(statement, columns))

    async def record_picture_rejected(
        self,
        item: Item,
        failure: Failure,
        pictures: Sequence[StoredPicture],
        timing: Timing,
        next_seed: int | None = None,
    ) -> None:
        """What the job made does not count; its files are in place. The image fails, or is wanted with another seed.

        `next_seed` None: it fails.
        """

        def also(connection: sqlite3.Connection, at: float) -> None:
            rows.end_job(item, failure, timing, connection, at)
            rows.insert_pictures(connection, item.id, pictures, "rejected")

        if next_seed is None:
            await self._move(item, State.FAILED, str(failure), failure=failure, also=also)
            return
        rerolls, detail = item.rerolls + 1, f"{failure}; rolled again with seed {next_seed}"
        await self._move(item, State.WANTED, detail, failure=failure, also=also, seed=str(next_seed), rerolls=rerolls)
        item.seed = next_seed

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
            return rows.item_of(
                connection, connection.execute("SELECT * FROM item WHERE id = ?", (item_id,)).fetchone()
            )

        item = await self.transact(find)
        if item.state is not State.STORED:
            return False
        await self._move(item, State.LOST, str(failure), failure=failure, also=rows.supersede_pictures(item))
        return True

    async def record_not_stored(self, item: Item) -> None:
        """The process died before the files were in place: the result is to be fetched again."""
        await self._move(
            item,
            State.ACCEPTED,
            "the files were not in place",
            also=lambda connection, at: rows.reopen_job(connection, item.id),
        )
        item.pictures = ()

    async def has_job_ended_with(self, item: Item, outcome: str) -> bool:
        """Whether one of the item's jobs ended in this way, since its owner last wanted it tried again."""
        query = "SELECT 1 FROM (SELECT outcome FROM job WHERE item_id = ? ORDER BY id DESC LIMIT ?) WHERE outcome = ?"
        parameters = (item.id, item.attempts, outcome)
        return await self.transact(lambda connection: connection.execute(query, parameters).fetchone() is not None)

    async def ends_before_retry(self, item: Item) -> list[tuple[FailureCode, Timing]]:
        """How the item's job has ended each time that it was told to run again under its id."""
        query = (
            "SELECT outcome, delay_ms, execution_ms, worker_id FROM job "
            "WHERE item_id = ? AND job_id = ? AND id < (SELECT max(id) FROM job WHERE item_id = ?)"
        )
        parameters = (item.id, item.job_id, item.id)
        found = await self.transact(lambda connection: connection.execute(query, parameters).fetchall())
        return [(FailureCode(code), Timing(*timing)) for code, *timing in found]

    # -- how changes are made ------------------------------------------------------------------------------------

    async def _move(
        self,
        item: Item,
        target: State,
        detail: str | None = None,
        *,
        also: rows.Also | None = None,
        unless: Callable[[sqlite3.Connection], Any] | None = None,
        failure: Failure | None = None,
        **columns: Any,
    ) -> Any:
        """One step of the lifecycle with what belongs to it, in one transaction; then the item says so too.

        Where `unless` finds something in the same transaction, that is returned and no step made.

        The schema writes the event, and refuses a step that is not allowed; asked here first, so that it is a bug of
        ours with a name, not an error of the database's.
        """
        source, at = item.state, self._ports.clock.wall()
        if (source, target) not in ALLOWED:
            raise RuntimeError(f"{item.request_id}: no move from {source} to {target} (asyncgen.lifecycle)")
        changes = {"state": target, "state_at": at, "detail": detail, **rows.failure_columns(failure), **columns}
        statement, parameters = rows.move_statement(tuple(changes)), (*changes.values(), item.id, source)

        def operation(connection: sqlite3.Connection) -> Any:
            if unless is not None and (found := unless(connection)):
                return found
            if connection.execute(statement, parameters).rowcount != 1:
                raise RuntimeError(f"{item.request_id}: the ledger no longer has it as {source}")
            if also is not None:
                also(connection, at)
            return None

        if found := await self.transact(operation):
            return found
        item.state, item.state_at, item.failure = target, at, failure
        for name in columns.keys() & _ITEM_FIELDS:
            setattr(item, name, columns[name])
        return None

    async def transact(self, operation: Callable[[sqlite3.Connection], T]) -> T:
        """Run an operation on the ledger's thread in the next commit; its result, once durable.

        It must do nothing but SQL: if another operation of the same commit fails, it is rolled back and run again.
        """
        if self.is_closed:
            raise LedgerError(_ENDED)
        entry, group = _Entry(operation), self._next
        if group is None:
            group = self._next = _Group()
            self._arrival.set()
        group.entries.append(entry)
        await group.durable.wait()
        if entry.error is not None:
            raise entry.error
        return entry.result  # type: ignore[return-value]  # set by `_commit`, which ran the operation

    def _commit(self, entries: list[_Entry[Any]]) -> None:
        """Runs on the ledger's thread: all entries in one transaction, or, if one of them fails, each in its own."""
        try:
            self._transact(entries)
        except Exception as error:  # handed to whoever asked for it
            if len(entries) == 1:
                entries[0].error = as_ledger_error(error)
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
            prepare(connection, output_root)
            found = rows.settle_in_the_air(connection, at)
        except BaseException as error:
            if connection is not None:
                connection.close()
            if isinstance(error, sqlite3.Error):
                raise as_ledger_error(error) from error
            raise
        self._connection = connection
        return found


def _recorded(row: sqlite3.Row) -> RecordedWant:
    request = ImageRequest.model_validate_json(row["said"])
    return RecordedWant(row["id"], request, row["replica"], Spec.from_json(row["spec"]))
