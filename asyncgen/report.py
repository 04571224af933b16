"""Readers of the ledger: batches and their counts, and a style's history. They work beside a run, from any process."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from asyncgen.errors import InputError, LedgerError
from asyncgen.lifecycle import OUT, State
from asyncgen.money import Cost, Use, sum_of
from asyncgen.records import Batch
from asyncgen.registry import StyleUse
from asyncgen.rows import LAST_JOB, MOST_MS
from asyncgen.schema import VERSION, cure_of, migrate

_HISTORY_ROWS = 1000
#: What jobs of a group cost, with what became of them: rows for `cost_of`. `out`: nobody knows yet.
COSTS_OF_JOBS: Final = f"""
    CASE WHEN outcome IS NULL THEN 'out' WHEN outcome = 'completed' THEN 'made'
         WHEN outcome IN ('cancelled', 'lost', 'unknown') THEN outcome ELSE 'failed' END AS became,
    count(*) AS jobs, coalesce(sum(execution_ms), 0) AS execution_ms,
    coalesce(sum(execution_ms * usd_per_second), 0) / 1000 AS usd,
    CASE WHEN count(*) = count({MOST_MS}) THEN sum({MOST_MS} * usd_per_second) / 1000 END AS most_usd,
    sum(execution_ms IS NULL) AS untimed, sum(usd_per_second IS NULL) AS unpriced
"""
_USES: Final = f"""
    SELECT {COSTS_OF_JOBS} FROM job JOIN item ON item.id = job.item_id
    WHERE item.batch_id = ? AND outcome IS NOT NULL GROUP BY became
"""  # noqa: S608 - the names are ours


@dataclass(frozen=True, slots=True)
class BatchStatus:
    """One batch as the ledger has it: how many wanted jobs are in each state, and the pictures that are there.

    `gpu_ms` is the execution time of all its jobs that said one, failed ones included; milliseconds. `costs` is that
    time priced, by what became of it: `made`, `failed`, `cancelled`, `lost`, `unknown`.
    """

    name: str
    realm: str
    created_at: float
    pictures: int
    gpu_ms: int
    costs: dict[Use, Cost]
    states: dict[State, int] = field(default_factory=dict)

    @property
    def wanted(self) -> int:
        """All wanted jobs of the batch."""
        return sum(self.states.values())

    @property
    def cost(self) -> Cost:
        """Of all its jobs; those that are out have not said yet what they cost."""
        out = sum(self.states.get(state, 0) for state in OUT)
        return cost_with_out(self.costs.values(), out)


def batch_statuses(ledger_path: Path) -> list[BatchStatus]:
    """Every batch, oldest first. Raises `LedgerError` when there is no readable ledger."""
    with reading(ledger_path) as connection:
        batches = connection.execute("SELECT id, name, realm, created_at FROM batch ORDER BY id").fetchall()
        return [_batch_status(connection, *batch) for batch in batches]


def jobs_out(ledger_path: Path, batch: Batch) -> int:
    """How many jobs of a batch are at the platform, or on their way. Raises `LedgerError`."""
    query = f"SELECT count(*) FROM item WHERE batch_id = ? AND state IN ({', '.join('?' * len(OUT))})"  # noqa: S608 - as it says
    with reading(ledger_path) as connection:
        return int(connection.execute(query, (batch.id, *OUT)).fetchone()[0])


def style_history(ledger_path: Path, style_id: str) -> Sequence[StyleUse]:
    """What was generated in a style, newest first, at most 1,000 rows; empty where there is no ledger yet."""
    if not ledger_path.exists():
        return []
    with reading(ledger_path) as connection:
        rows = connection.execute(
            "SELECT item.request_id, item.spec, item.seed, item.state_at, image.path, job.delay_ms, job.execution_ms, "  # noqa: S608 - the names are ours
            "batch.name FROM item JOIN batch ON batch.id = item.batch_id JOIN image ON image.item_id = item.id "
            f"LEFT JOIN job ON {LAST_JOB} "
            "WHERE item.style_id = ? AND item.state = 'stored' AND image.state = 'stored' "
            "ORDER BY item.state_at DESC LIMIT ?",
            (style_id, _HISTORY_ROWS),
        ).fetchall()
    return [
        StyleUse(request_id, json.loads(spec)["prompt"], int(seed), stored_at, path, delay_ms, execution_ms, batch)
        for request_id, spec, seed, stored_at, path, delay_ms, execution_ms, batch in rows
    ]


def _batch_status(
    connection: sqlite3.Connection, batch_id: int, name: str, realm: str, created_at: float
) -> BatchStatus:
    states = connection.execute("SELECT state, count(*) FROM item WHERE batch_id = ? GROUP BY state", (batch_id,))
    pictures = connection.execute(
        "SELECT count(*) FROM image JOIN item ON item.id = image.item_id "
        "WHERE item.batch_id = ? AND image.state = 'stored'",
        (batch_id,),
    ).fetchone()[0]
    uses = connection.execute(_USES, (batch_id,)).fetchall()
    gpu_ms = sum(use["execution_ms"] for use in uses)
    costs = {Use(use["became"]): cost_of(use) for use in uses}
    return BatchStatus(name, realm, created_at, pictures, gpu_ms, costs, {State(state): n for state, n in states})


def cost_of(use: sqlite3.Row) -> Cost:
    """The cost of one row of `COSTS_OF_JOBS`."""
    return Cost.of_jobs(use["usd"], untimed=use["untimed"], unpriced=use["unpriced"], most_usd=use["most_usd"])


def cost_with_out(costs: Iterable[Cost], out: int) -> Cost:
    """The sum of these, and of so many jobs that are out and have not said yet what they cost."""
    return sum_of([*costs, Cost.of_jobs(0.0, untimed=out, unpriced=0)])


def check_batch(connection: sqlite3.Connection, ledger_path: Path, name: str) -> None:
    """Raises `InputError` naming the batches that there are, where none has this name."""
    known = [row[0] for row in connection.execute("SELECT name FROM batch ORDER BY id")]
    if name not in known:
        raise InputError(f"{ledger_path} has no batch {name!r}; it has: {', '.join(known) or 'none'}", field="batch")


@contextmanager
def reading(ledger_path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that only reads, at one moment of the ledger. Raises `LedgerError` where there is none to read."""
    if not ledger_path.exists():
        raise LedgerError(
            f"there is no ledger at {ledger_path}: name the output root with --out (or --sandbox), or run a batch first"
        )
    try:
        with closing(sqlite3.connect(f"{ledger_path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            connection.execute("BEGIN")  # everything that is read belongs to one moment of a run that goes on
            with _up_to_date(connection) as current:
                current.row_factory = sqlite3.Row
                yield current
    except sqlite3.Error as error:
        raise LedgerError(f"{ledger_path} cannot be read as a ledger ({error}): {cure_of(error)}") from error


@contextmanager
def _up_to_date(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """The connection, or, of an older ledger, a copy in memory in today's version: who only reads changes no file."""
    if connection.execute("PRAGMA user_version").fetchone()[0] == VERSION:
        yield connection
        return
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as copy:
        connection.backup(copy)
        migrate(copy)
        yield copy
