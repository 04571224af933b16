"""Readers of the ledger: batches and their counts, and a style's history. They work beside a run, from any process."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from asyncgen.errors import LedgerError, LedgerVersionError
from asyncgen.ledger import VERSION
from asyncgen.lifecycle import State
from asyncgen.registry import StyleUse

_HISTORY_ROWS = 1000


@dataclass(frozen=True, slots=True)
class BatchStatus:
    """One batch as the ledger has it: how many wanted jobs are in each state, and the pictures that are there.

    `gpu_ms` is the execution time of all its jobs that said one, failed ones included; milliseconds.
    """

    name: str
    realm: str
    created_at: float
    pictures: int
    gpu_ms: int
    states: dict[State, int] = field(default_factory=dict)

    @property
    def wanted(self) -> int:
        """All wanted jobs of the batch."""
        return sum(self.states.values())


def batch_statuses(ledger_path: Path) -> list[BatchStatus]:
    """Every batch, oldest first. Raises `LedgerError` when there is no readable ledger."""
    with reading(ledger_path) as connection:
        batches = connection.execute("SELECT id, name, realm, created_at FROM batch ORDER BY id").fetchall()
        return [_batch_status(connection, *batch) for batch in batches]


def style_history(ledger_path: Path, style_id: str) -> Sequence[StyleUse]:
    """What was generated in a style, newest first, at most 1,000 rows; empty where there is no ledger yet."""
    if not ledger_path.exists():
        return []
    with reading(ledger_path) as connection:
        rows = connection.execute(
            "SELECT item.request_id, item.spec, item.seed, item.state_at, image.path, job.delay_ms, job.execution_ms, "
            "batch.name FROM item JOIN batch ON batch.id = item.batch_id JOIN image ON image.item_id = item.id "
            "LEFT JOIN job ON job.item_id = item.id AND job.endpoint = item.endpoint AND job.job_id = item.job_id "
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
    gpu_ms = connection.execute(
        "SELECT coalesce(sum(execution_ms), 0) FROM job JOIN item ON item.id = job.item_id WHERE item.batch_id = ?",
        (batch_id,),
    ).fetchone()[0]
    return BatchStatus(name, realm, created_at, pictures, gpu_ms, {State(state): n for state, n in states})


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
            if connection.execute("PRAGMA user_version").fetchone()[0] > VERSION:
                raise LedgerVersionError(f"{ledger_path} was written by a newer asyncgen: install that")
            yield connection
    except sqlite3.Error as error:
        raise LedgerError(f"{ledger_path} cannot be read as a ledger ({error})") from error
