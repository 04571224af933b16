"""A ledger made anew: whatever rows of a damaged one can still be read, then what only the manifest knows.

Everything goes into one transaction of a new file, which nobody uses before it is whole. Rows come back as they were;
where steps of an item's history are gone, the shortest allowed way stands in their place.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

from asyncgen import manifest_lines
from asyncgen.errors import InputError
from asyncgen.lifecycle import MOVES, State
from asyncgen.manifest_lines import Recorded
from asyncgen.records import ADOPTED, PLATFORM, Spec, StoredPicture
from asyncgen.request import parse_request
from asyncgen.salvage import salvaging
from asyncgen.schema import migrate

_TABLES: Final = ("batch", "run", "item", "job", "image", "event")  # each after those that it refers to
_NOT_KNOWN: Final = "rebuilt by asyncgen verify: how it came here is not known"
#: What the platform gives a job that is sent without a time limit of its own, milliseconds: the most it can have run.
_EXECUTION_TIMEOUT_MS: Final = 600_000
_MISSING_JOBS: Final = f"""
    INSERT INTO job (item_id, attempt, endpoint, job_id, submitted_at, accepted_at, outcome, execution_timeout_ms)
    SELECT id, max(attempts, 1), endpoint, job_id, coalesce(accepted_at, state_at), accepted_at,
           CASE WHEN state IN ('submitting', 'accepted') THEN NULL WHEN state = 'unknown' THEN 'unknown'
                ELSE coalesce(failure_code, 'completed') END,
           coalesce(execution_timeout_ms, ?)
    FROM item WHERE (job_id IS NOT NULL AND state <> 'wanted' OR state IN ('submitting', 'unknown'))
                    AND endpoint <> '{ADOPTED}' AND NOT EXISTS (SELECT 1 FROM job WHERE job.item_id = item.id)
"""  # noqa: S608 - the name is ours
#: Moves of what was never bought: no way for an image of which it is not known.
_UNBOUGHT: Final = frozenset({(State.WANTED, State.STORED), (State.WANTED, State.CANCELLED)})
_BEHIND: Final = """
    SELECT id, state, state_at, endpoint FROM item
    WHERE id > ? AND state IS NOT (SELECT state FROM event WHERE item_id = item.id ORDER BY id DESC LIMIT 1)
    ORDER BY id LIMIT 500
"""


@dataclass
class Rebuilt:
    """What became of a ledger. Each of the last four is work or money that may be lost sight of.

    `salvaged`: rows by table. `from_manifest`: images that only the manifest knew. `unreadable`: rows by table, at
    most. `jobs_forgotten`: jobs that were out, of images that could not be read. `lines_unreadable`: of the manifest.
    `without_ledger`: there was nothing to salvage from, so whatever was out, held or failed is forgotten.
    """

    salvaged: Counter[str] = field(default_factory=Counter)
    from_manifest: int = 0
    unreadable: Counter[str] = field(default_factory=Counter)
    jobs_forgotten: int = 0
    lines_unreadable: int = 0
    without_ledger: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether everything came back."""
        return not (self.unreadable or self.jobs_forgotten or self.lines_unreadable or self.without_ledger)


def rebuild(new_path: Path, damaged_path: Path | None, manifest_path: Path) -> Rebuilt:
    """Make a ledger at `new_path`, where nothing is; blocking. Raises `sqlite3.Error` where it cannot be written."""
    with closing(sqlite3.connect(new_path, isolation_level=None)) as connection:
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA foreign_keys = ON")
        migrate(connection)
        connection.execute("BEGIN IMMEDIATE")
        triggers = _without_triggers(connection)
        builder = _Builder(connection)
        if damaged_path is None:
            builder.rebuilt.without_ledger = True
        else:
            builder.salvage(damaged_path)
        builder.add_from(manifest_path)
        builder.finish()
        for statement in triggers:
            connection.execute(statement)
        connection.commit()
        return builder.rebuilt


def _without_triggers(connection: sqlite3.Connection) -> list[str]:
    """Drop the triggers, which would write a history of today; returns the statements that make them again."""
    rows = connection.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'").fetchall()
    for row in rows:
        connection.execute(f"DROP TRIGGER {row['name']}")
    return [row["sql"] for row in rows]


class _Builder:
    """Fills an empty ledger, within a transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection, self.rebuilt = connection, Rebuilt()
        self._columns = {
            table: {row["name"] for row in connection.execute("SELECT name FROM pragma_table_info(?)", (table,))}
            for table in _TABLES
        }
        self._nameless: set[int] = set()

    # -- from the damaged ledger ---------------------------------------------------------------------------------

    def salvage(self, damaged_path: Path) -> None:
        """Copy what can be read and holds together."""
        with salvaging(damaged_path) as damaged:
            for table in _TABLES:
                for row in damaged.rows(table):
                    if self._copy(table, dict(row)):
                        self.rebuilt.salvaged[table] += 1
                    else:
                        damaged.unreadable[table] += 1
            self.rebuilt.unreadable += damaged.unreadable

    def _copy(self, table: str, row: dict[str, Any]) -> bool:
        """Whether the row could be taken: a damaged page may hold anything."""
        values = {name: value for name, value in row.items() if name in self._columns[table]}
        try:
            match table:
                case "event":
                    unbought = (row.get("source"), row["state"]) in _UNBOUGHT
                    self._reach(row["item_id"], State(row["state"]), row["at"], row["detail"], unbought=unbought)
                case "item":
                    self._name_batch(row["batch_id"])
                    _check_item(row)
                    self._insert(table, values)
                case "image" if "fingerprint" not in row and row["state"] != "superseded":
                    query = "SELECT fingerprint FROM item WHERE id = ?"
                    made_with = self._connection.execute(query, (row["item_id"],)).fetchone()
                    self._insert(table, {**values, "fingerprint": made_with and made_with["fingerprint"]})
                case "job":
                    older = {"submitted_at": row["accepted_at"], "execution_timeout_ms": _EXECUTION_TIMEOUT_MS}
                    self._insert(table, {**older, **values})
                case _:
                    self._insert(table, values)
        except (sqlite3.IntegrityError, ValueError, TypeError, KeyError, InputError):
            self.rebuilt.jobs_forgotten += table == "job" and row.get("outcome") is None
            return False
        return True

    def _name_batch(self, batch_id: int) -> None:
        """A batch whose row is gone gets a name of ours until the manifest tells its own."""
        known = self._connection.execute("SELECT 1 FROM batch WHERE id = ?", (batch_id,)).fetchone()
        if known is None:
            self._insert(
                "batch", {"id": batch_id, "name": f"recovered-{batch_id}", "realm": PLATFORM, "created_at": 0.0}
            )
            self._nameless.add(batch_id)

    # -- from the manifest ---------------------------------------------------------------------------------------

    def add_from(self, manifest_path: Path) -> None:
        """Add what the lines know and the ledger does not."""
        if self._nameless:
            for recorded in self._lines(manifest_path):
                self._rename_batch(recorded)
        self.rebuilt.lines_unreadable = 0
        for recorded in self._lines(manifest_path):
            self._add(recorded)

    def _lines(self, manifest_path: Path) -> Iterator[Recorded]:
        if not manifest_path.exists():
            return
        with manifest_path.open("rb") as file:
            while line := file.readline(manifest_lines.MOST_LINE_BYTES):
                try:
                    yield manifest_lines.read_line(line)
                except ValueError:
                    self.rebuilt.lines_unreadable += 1

    def _rename_batch(self, recorded: Recorded) -> None:
        query = "SELECT batch_id FROM item WHERE request_id = ?"
        item = self._connection.execute(query, (recorded.request_id,)).fetchone()
        if item is not None and item["batch_id"] in self._nameless:
            self._nameless.remove(item["batch_id"])
            self._connection.execute(
                "UPDATE OR IGNORE batch SET name = ?, realm = ?, created_at = ? WHERE id = ?",
                (recorded.batch, recorded.realm, recorded.stored_at, item["batch_id"]),
            )

    def _add(self, recorded: Recorded) -> None:
        query = "SELECT id FROM item WHERE request_id = ?"
        item = self._connection.execute(query, (recorded.request_id,)).fetchone()
        item_id = None if item is None else item["id"]
        if item_id is not None:
            self._add_job(item_id, recorded)
        if self._has_picture(recorded, item_id):
            return
        if item_id is None:
            item_id = self._add_item(recorded)
        else:
            self._mark_stored(item_id, recorded)
        members = {name: getattr(recorded.picture, name) for name in StoredPicture.__slots__}
        fingerprint = recorded.want.fingerprint
        self._insert("image", {"item_id": item_id, **members, "state": "stored", "fingerprint": fingerprint})

    def _mark_stored(self, item_id: int, recorded: Recorded) -> None:
        """The damaged ledger had lost what came after its last readable state."""
        self._connection.execute(
            "UPDATE item SET state = 'stored', state_at = ?, endpoint = ?, job_id = ?, detail = NULL, "
            "failure_class = NULL, failure_code = NULL, failure_message = NULL WHERE id = ? AND state <> 'stored'",
            (recorded.stored_at, recorded.endpoint, recorded.job_id, item_id),
        )

    def _has_picture(self, recorded: Recorded, item_id: int | None) -> bool:
        picture = recorded.picture
        query = "SELECT 1 FROM image WHERE path = ? OR item_id = ? AND number = ? AND sha256 = ?"
        parameters = (picture.path, item_id, picture.number, picture.sha256)
        return self._connection.execute(query, parameters).fetchone() is not None

    def _add_item(self, recorded: Recorded) -> int:
        self.rebuilt.from_manifest += 1
        want, batch_id = recorded.want, self._batch_of(recorded)
        item_id = self._insert(
            "item",
            {
                "request_id": recorded.request_id,
                "batch_id": batch_id,
                "content_key": want.content_key,
                "occurrence": self._free_occurrence(batch_id, recorded),
                "replica": want.replica,
                "said": want.request.said_json(),
                "spec": want.spec_json,
                "fingerprint": want.fingerprint,
                "style_id": want.spec.style_id,
                "seed": str(recorded.seed),
                "rerolls": recorded.rerolls,
                "state": State.STORED,
                "state_at": recorded.stored_at,
                "attempts": int(recorded.endpoint != ADOPTED),
                "endpoint": recorded.endpoint,
                "job_id": recorded.job_id,
                "accepted_at": None if recorded.endpoint == ADOPTED else recorded.stored_at,
            },
        )
        self._add_job(item_id, recorded)
        return item_id

    def _add_job(self, item_id: int, recorded: Recorded) -> None:
        """The job that made the picture, with its times and its price, unless the damaged ledger still had it."""
        at, duration_ms, cost_usd = recorded.stored_at, recorded.execution_ms, recorded.cost_usd
        query = "SELECT 1 FROM job WHERE item_id = ? AND job_id = ?"
        is_known = self._connection.execute(query, (item_id, recorded.job_id)).fetchone()
        if is_known or recorded.endpoint == ADOPTED:
            return
        self._insert(
            "job",
            {
                "item_id": item_id,
                "attempt": 1,
                "endpoint": recorded.endpoint,
                "job_id": recorded.job_id,
                "seed": str(recorded.seed),
                **dict.fromkeys(("submitted_at", "accepted_at", "ended_at"), at),
                "outcome": "completed",
                "delay_ms": recorded.delay_ms,
                "execution_ms": recorded.execution_ms,
                "execution_timeout_ms": _EXECUTION_TIMEOUT_MS,
                "usd_per_second": cost_usd * 1000 / duration_ms if cost_usd and duration_ms else None,
            },
        )

    def _batch_of(self, recorded: Recorded) -> int:
        query = "SELECT id FROM batch WHERE realm = ? AND name = ?"
        batch = self._connection.execute(query, (recorded.realm, recorded.batch)).fetchone()
        if batch is not None:
            return int(batch["id"])
        row = {"name": recorded.batch, "realm": recorded.realm, "created_at": recorded.stored_at}
        return self._insert("batch", row)

    def _free_occurrence(self, batch_id: int, recorded: Recorded) -> int:
        """The line's own, unless it is taken: old lines do not say theirs."""
        query = "SELECT 1 FROM item WHERE batch_id = ? AND content_key = ? AND occurrence = ?"
        key = recorded.want.content_key
        occurrence = recorded.occurrence
        while self._connection.execute(query, (batch_id, key, occurrence)).fetchone():
            occurrence += 1
        return occurrence

    # -- what holds it together ----------------------------------------------------------------------------------

    def finish(self) -> None:
        """Every item gets the job that its state speaks of, and a history that leads to its state."""
        self._connection.execute(_MISSING_JOBS, (_EXECUTION_TIMEOUT_MS,))
        after = 0
        while rows := self._connection.execute(_BEHIND, (after,)).fetchall():
            after = rows[-1]["id"]
            for row in rows:
                unbought = row["endpoint"] == ADOPTED
                self._reach(row["id"], State(row["state"]), row["state_at"], _NOT_KNOWN, unbought=unbought)

    def _reach(self, item_id: int, target: State, at: float, detail: str | None, *, unbought: bool) -> None:
        """Append the events that lead from an item's last one to a state; the last of them has the detail."""
        query = "SELECT state FROM event WHERE item_id = ? ORDER BY id DESC LIMIT 1"
        last = self._connection.execute(query, (item_id,)).fetchone()
        source = None if last is None else State(last["state"])
        for state in _way(source, target, unbought):
            words = detail if state is target else _NOT_KNOWN
            event = {"item_id": item_id, "at": at, "source": source, "state": state, "detail": words}
            self._insert("event", event)
            source = state

    def _insert(self, table: str, values: Mapping[str, Any]) -> int:
        names, places = ", ".join(values), ", ".join("?" * len(values))
        statement = f"INSERT INTO {table} ({names}) VALUES ({places})"  # noqa: S608 - the names are ours
        row_id = self._connection.execute(statement, tuple(values.values())).lastrowid
        assert row_id is not None
        return row_id


def _check_item(row: Mapping[str, Any]) -> None:
    """Raises where a run could not use the row."""
    parse_request(json.loads(row["said"]))
    Spec.from_json(row["spec"])
    int(row["seed"])


@cache
def _way(source: State | None, target: State, unbought: bool) -> tuple[State, ...]:
    """The shortest allowed way from one state (None: not recorded yet) to another, without the first of them.

    Only where it is known to be `unbought` does it pass over what a purchase leads through.
    """
    if source is None:
        return (State.WANTED, *_way(State.WANTED, target, unbought))
    moves = [move for move in MOVES if unbought or (move.source, move.target) not in _UNBOUGHT]
    ways: deque[tuple[State, ...]] = deque([(source,)])
    while ways[0][-1] is not target:
        way = ways.popleft()
        ways.extend((*way, move.target) for move in moves if move.source is way[-1] and move.target not in way)
    return ways[0][1:]
