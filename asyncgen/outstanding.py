"""What is out and what waits, for `asyncgen queue`: a reader of the ledger that works beside a run and without one.

A job's age counts from its submission. The platform deletes it once its time to live is over, and drops a result half
an hour after the job has ended, which it can have done as soon as it was accepted.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from asyncgen.forecast import RETENTION_SECONDS
from asyncgen.lifecycle import OUT, State
from asyncgen.report import check_batch, reading
from asyncgen.rows import LAST_JOB

#: Of what stands in these states, a queue is made.
QUEUED: Final = (*sorted(OUT), State.WANTED)
_STATES: Final = ", ".join(f"'{state}'" for state in QUEUED)
_LORAS: Final = "(SELECT group_concat(json_extract(value, '$.name'), ' + ') FROM json_each(item.spec, '$.loras'))"
_FROM: Final = f"""
    FROM item JOIN batch ON batch.id = item.batch_id LEFT JOIN job ON item.state <> 'wanted' AND {LAST_JOB}
    WHERE item.batch_id IN (SELECT id FROM batch WHERE :batch IS NULL OR name = :batch) AND item.state IN ({_STATES})
"""  # noqa: S608 - the names are ours
_GROUPS: Final = f"""
    SELECT batch.name AS batch, iif(item.state = 'wanted', NULL, item.endpoint) AS at,
           json_extract(item.spec, '$.workflow') AS workflow, item.style_id, {_LORAS} AS loras, item.state,
           count(*) AS jobs, min(coalesce(job.submitted_at, item.state_at)) AS oldest_at
    {_FROM} GROUP BY 1, 2, 3, 4, 5, 6 ORDER BY at IS NULL, oldest_at
"""
_OLDEST: Final = f"""
    SELECT item.request_id, json_extract(item.said, '$.id') AS id, batch.name AS batch, item.endpoint, item.job_id,
           item.state, json_extract(item.spec, '$.workflow') AS workflow, item.style_id, {_LORAS} AS loras,
           job.submitted_at, item.accepted_at, item.attempts
    {_FROM} AND item.state <> 'wanted' ORDER BY coalesce(job.submitted_at, item.state_at) LIMIT :jobs
"""


@dataclass(frozen=True, slots=True)
class Group:
    """Jobs of one batch that share endpoint, workflow, style, LoRA set and state.

    `endpoint` None: nothing is sent yet. `oldest_at` is Unix time: of the oldest submission, or since when the oldest
    has been waiting. `loras` are names, joined by " + ".
    """

    batch: str
    endpoint: str | None
    workflow: str
    style_id: str | None
    loras: str | None
    state: State
    jobs: int
    oldest_at: float


@dataclass(frozen=True, slots=True)
class JobOut:
    """One job that is out, or on its way there or back. Times are Unix seconds.

    `safe_until`: its result cannot have expired before that, None where it is not known when it was accepted.
    `deleted_at`: the platform deletes it then in whatever state, result included, if the time to live of today's
    settings was sent with it; a longer one may have been.
    """

    request_id: str
    id: str | None
    batch: str
    endpoint: str
    job_id: str | None
    state: State
    workflow: str
    style_id: str | None
    loras: str | None
    submitted_at: float | None
    accepted_at: float | None
    attempts: int
    safe_until: float | None
    deleted_at: float | None


class Outstanding:
    """What a ledger has of a queue, at one moment; None as the batch's name: of all batches."""

    def __init__(self, connection: sqlite3.Connection, batch: str | None) -> None:
        self._connection, self._batch = connection, batch

    def groups(self) -> Iterator[Group]:
        """What is out, the oldest first, then what waits."""
        for row in self._connection.execute(_GROUPS, {"batch": self._batch}):
            batch, endpoint, workflow, style_id, loras, state, jobs, oldest_at = row
            yield Group(batch, endpoint, workflow, style_id, loras, State(state), jobs, oldest_at)

    def oldest(self, jobs: int, ttl_seconds: float) -> Iterator[JobOut]:
        """The `jobs` oldest that are out."""
        for row in self._connection.execute(_OLDEST, {"batch": self._batch, "jobs": jobs}):
            accepted_at, submitted_at = row["accepted_at"], row["submitted_at"]
            values = {**dict(row), "state": State(row["state"])}
            yield JobOut(
                **values,
                safe_until=None if accepted_at is None else accepted_at + RETENTION_SECONDS,
                deleted_at=None if submitted_at is None else submitted_at + ttl_seconds,
            )


@contextmanager
def outstanding(ledger_path: Path, batch: str | None = None) -> Iterator[Outstanding]:
    """The queue of a ledger, for the length of the block.

    Raises `InputError` where it has no such batch, and `LedgerError` where there is none to read.
    """
    with reading(ledger_path) as connection:
        if batch is not None:
            check_batch(connection, ledger_path, batch)
        yield Outstanding(connection, batch)
