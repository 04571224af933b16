"""What a run over an input would find in the ledger, counted without a run: read-only, without a lock, beside a run.

It counts as the engine would (`tests/test_outlook.py` compares them): rows of a prompt file by their keys, wants by
content key and occurrence, changes by fingerprint. Memory does not grow with the input: what was met is in tables that
spill to disk.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from asyncgen import rows
from asyncgen.checks import OF_PICTURE
from asyncgen.estimate import MOST_JOBS, History, Work, work_of
from asyncgen.lifecycle import FAILURES, OUT, State
from asyncgen.money import LONGEST_COLD_START_SECONDS, Price
from asyncgen.records import Spec, Want
from asyncgen.report import reading
from asyncgen.schema import prepare_scratch

#: Wants that are looked up at once.
BLOCK: Final = 4096
#: So many of a ledger's jobs are looked at for a history, its newest.
_MOST_LOOKED_AT: Final = 20_000
_LOOK: Final = 0  # what is met belongs to a run, and a look is none: this connection has no other
_FOUND: Final = (
    "SELECT content_key, item.id, state, failure_code, fingerprint, seed, met.run_id IS NOT NULL AS met, "
    "state = 'stored' AND NOT EXISTS (SELECT 1 FROM image WHERE item_id = item.id AND state = 'stored' "
    "AND path IS NOT NULL) AS delivered "
    "FROM item LEFT JOIN met ON met.run_id = 0 AND met.item_id = item.id WHERE batch_id = ? AND "
)


class Fate(StrEnum):
    """What a run would find of one wanted image, in the words that a run counts by."""

    NEW = "new"  # the batch has never heard of it
    PENDING = "pending"  # recorded by an earlier run, never bought
    CHANGED = "changed"  # it is there, made with other values than today's
    KEPT = "kept"  # it is there
    REPEATED = "repeated"  # the same request with the same seed came before: one image
    FAILED = "failed"
    OUT = "out"  # at the platform, or on its way to it or from it
    HELD = "held"  # whether it was bought was never learned
    CANCELLED = "cancelled"


class Outlook:
    """One look at one batch; ask for its input in order, each part once. `batch_id` None: there is no such batch."""

    def __init__(self, connection: sqlite3.Connection, batch_id: int | None, realm: str) -> None:
        self._connection, self._batch_id, self.realm = connection, batch_id, realm
        self.rejected = 0  # failed ones whose picture did not count
        prepare_scratch(connection)
        connection.execute("CREATE TEMP TABLE seen (content_key BLOB PRIMARY KEY, count INTEGER) WITHOUT ROWID")

    @property
    def is_new(self) -> bool:
        """Whether a run would begin the batch."""
        return self._batch_id is None

    # -- what is wanted ------------------------------------------------------------------------------------------

    def take(self, row_keys: Sequence[bytes]) -> dict[bytes, int]:
        """See `resume.KnownRows.take`."""
        if self._batch_id is None:
            return {}
        return rows.take_kept(self._connection, self._batch_id, _LOOK, row_keys)

    def meet(self, content_key: bytes) -> bool:
        """Whether rows that were taken, or met, have named the image of this key before; it is met now."""
        if self._batch_id is None:
            return False
        query = "SELECT id FROM item WHERE batch_id = ? AND content_key = ? AND occurrence = 0"
        found = self._connection.execute(query, (self._batch_id, content_key)).fetchone()
        if found is None:
            return False
        return self._connection.execute("INSERT OR IGNORE INTO met VALUES (?, ?)", (_LOOK, found[0])).rowcount == 0

    def fates(self, wants: Sequence[Want]) -> list[Fate]:
        """What a run would find of these, in their order; at most `BLOCK` at once."""
        found = self._found([want.content_key for want in wants])
        self._connection.executemany(
            "INSERT OR IGNORE INTO met VALUES (0, ?)", [(row["id"],) for row in found.values() if not row["met"]]
        )
        return [self._fate(want, found.get(want.content_key)) for want in wants]

    def _found(self, keys: Sequence[bytes]) -> dict[bytes, sqlite3.Row]:
        if self._batch_id is None:
            return {}
        query = f"{_FOUND} occurrence = 0 AND content_key IN ({', '.join('?' * len(keys))})"
        return {row["content_key"]: row for row in self._connection.execute(query, (self._batch_id, *keys))}

    def _fate(self, want: Want, row: sqlite3.Row | None) -> Fate:
        if want.request.id is None:  # whose rows have been compared with each other by their ids
            before = self._count(want.content_key, taken=row is not None and bool(row["met"]))
            if before and want.fixed_seed is not None:
                return Fate.REPEATED
            if before:
                row = self._occurrence(want.content_key, before)
        fate = Fate.NEW if row is None else _fate_of(row, want)
        if row is not None and fate is Fate.FAILED and row["failure_code"] in OF_PICTURE:
            self.rejected += 1
        return fate

    def _count(self, content_key: bytes, *, taken: bool) -> int:
        """How often the input has named the key before; `taken`: once by a row that was not planned."""
        statement = "INSERT INTO seen VALUES (?, ?) ON CONFLICT DO UPDATE SET count = count + 1 RETURNING count"
        return int(self._connection.execute(statement, (content_key, 1 + taken)).fetchone()[0]) - 1

    def _occurrence(self, content_key: bytes, occurrence: int) -> sqlite3.Row | None:
        if self._batch_id is None:
            return None
        query = f"{_FOUND} content_key = ? AND occurrence = ?"
        row: sqlite3.Row | None = self._connection.execute(query, (self._batch_id, content_key, occurrence)).fetchone()
        return row

    # -- what is known -------------------------------------------------------------------------------------------

    def history(self, works: Collection[Work]) -> History:
        """What the newest jobs of these lanes say, of all batches of the realm."""
        seconds: dict[Work, list[float]] = {work: [] for work in works}
        price, lacking = None, len(seconds)
        for spec_json, execution_ms, usd_per_second in self._jobs():
            if price is None and usd_per_second is not None:
                price = Price(usd_per_second, "that of the ledger's newest job")
            seen = seconds.get(work_of(Spec.from_json(spec_json)))
            if seen is not None and len(seen) < MOST_JOBS:
                seen.append(execution_ms / 1000)
                lacking -= len(seen) == MOST_JOBS
            if not lacking and price is not None:
                break
        return History(seconds, self._cold_starts(), price)

    def seconds_of(self, content_keys: Sequence[bytes]) -> Iterator[tuple[Spec, float]]:
        """What the last good job of each of these items ran, in seconds."""
        query = (
            "SELECT spec, execution_ms FROM item JOIN job ON job.id = (SELECT max(id) FROM job WHERE item_id = item.id "
            "AND outcome = 'completed') WHERE batch_id = ? AND content_key = ? AND execution_ms IS NOT NULL"
        )
        for key in dict.fromkeys(content_keys):
            for row in self._connection.execute(query, (self._batch_id, key)):
                yield Spec.from_json(row["spec"]), row["execution_ms"] / 1000

    def _jobs(self) -> Iterator[Any]:
        query = (
            "SELECT item.spec, job.execution_ms, job.usd_per_second FROM job JOIN item ON item.id = job.item_id "
            "JOIN batch ON batch.id = item.batch_id WHERE realm = ? AND outcome = 'completed' "
            "AND execution_ms IS NOT NULL ORDER BY job.id DESC LIMIT ?"
        )
        return iter(self._known(query, self.realm, _MOST_LOOKED_AT))

    def _cold_starts(self) -> list[float]:
        """Cut at a minute: a longer wait was a queue."""
        query = (
            "SELECT delay_ms, min(id) FROM (SELECT job.* FROM job JOIN item ON item.id = job.item_id "
            "JOIN batch ON batch.id = item.batch_id WHERE realm = ? AND worker_id IS NOT NULL AND delay_ms IS NOT NULL "
            "ORDER BY job.id DESC LIMIT ?) GROUP BY worker_id"
        )
        found = self._known(query, self.realm, _MOST_LOOKED_AT)
        return [min(row[0] / 1000, LONGEST_COLD_START_SECONDS) for row in found]

    def _known(self, query: str, *parameters: object) -> Iterator[Any]:
        has_jobs = self._connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'job'").fetchone()
        return iter(self._connection.execute(query, parameters)) if has_jobs else iter(())


@contextmanager
def looking(ledger_path: Path, batch_name: str | None, realm: str) -> Iterator[Outlook]:
    """A look at the batch of this name; None: at none, what is wanted is a new one.

    Where the realm has no batch of that name, another realm's is meant, and where the ledger knows only another realm,
    its history: behind an endpoint's URL may be a sandbox. Raises `LedgerError` for a ledger that cannot be read.
    """
    if not ledger_path.exists():
        with closing(sqlite3.connect("", isolation_level=None)) as connection:
            connection.row_factory = sqlite3.Row
            yield Outlook(connection, None, realm)
        return
    with reading(ledger_path) as connection:
        query = "SELECT id, realm FROM batch WHERE name = ? ORDER BY realm = ? DESC"
        found = connection.execute(query, (batch_name, realm)).fetchone()
        if found is not None:
            yield Outlook(connection, found["id"], found["realm"])
            return
        realms = [row["realm"] for row in connection.execute("SELECT DISTINCT realm FROM batch")]
        yield Outlook(connection, None, realms[0] if len(realms) == 1 else realm)


_FATES: Final = {
    State.WANTED: Fate.PENDING,
    State.UNKNOWN: Fate.HELD,
    State.CANCELLED: Fate.CANCELLED,
    **dict.fromkeys(FAILURES, Fate.FAILED),
    **dict.fromkeys(OUT, Fate.OUT),
}


def _fate_of(row: sqlite3.Row, want: Want) -> Fate:
    state = State(row["state"])
    if state is not State.STORED:
        return _FATES[state]
    is_changed = (
        row["delivered"]  # there is no file to keep
        or row["fingerprint"] != want.fingerprint
        or want.fixed_seed not in (None, int(row["seed"]))
    )
    return Fate.CHANGED if is_changed else Fate.KEPT
