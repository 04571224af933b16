"""One image's whole story, as the ledger has it: what was wanted, what happened, what was bought, what to do next."""

from __future__ import annotations

import json
import shlex
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from asyncgen.errors import InputError
from asyncgen.lifecycle import MOVES, State
from asyncgen.records import ADOPTED
from asyncgen.report import reading

# Whatever somebody has in hand: our id, their own, the platform's, or a file.
_FIND: Final = """
    SELECT item.*, batch.name AS batch, batch.realm FROM item JOIN batch ON batch.id = item.batch_id
    WHERE item.request_id = :name OR json_extract(item.said, '$.id') = :name
          OR item.id IN (SELECT item_id FROM job WHERE job_id = :name)
          OR item.id IN (SELECT item_id FROM image WHERE path IN (:name, :path))
    ORDER BY item.id
"""
_WHY: Final = {(move.source, move.target): move.why for move in MOVES}


@dataclass(frozen=True, slots=True)
class Event:
    """One step: Unix time, seconds since the step before (None for the first), the state it led to, and why."""

    at: float
    elapsed_seconds: float | None
    state: State
    words: str


@dataclass(frozen=True, slots=True)
class Bought:
    """One run of one job; what the platform never said is None, and so are a price and a seed that were not kept.

    Two with the same `job_id` are one job that was run again with `POST /retry`.
    """

    attempt: int
    endpoint: str
    job_id: str | None
    accepted_at: float | None
    ended_at: float | None
    outcome: str | None
    delay_ms: int | None
    execution_ms: int | None
    worker_id: str | None
    usd_per_second: float | None
    seed: str | None

    @property
    def cost_usd(self) -> float | None:
        """What its execution cost; None where time or price is not known."""
        if self.execution_ms is None or self.usd_per_second is None:
            return None
        return self.execution_ms / 1000 * self.usd_per_second


@dataclass(frozen=True, slots=True)
class Made:
    """One picture as recorded: `state` is storing, stored, superseded by one that was made later, or rejected."""

    number: int
    path: str | None
    sha256: str
    size_bytes: int
    format: str
    width: int
    height: int
    state: str


@dataclass(frozen=True, slots=True)
class Story:
    """All that the ledger has of one image job. `request` is what its owner said, `made_with` that and all defaults.

    `seed` is the last, after so many `rerolls`.
    """

    request_id: str
    batch: str
    realm: str
    request: dict[str, Any]
    made_with: dict[str, Any]
    seed: int
    rerolls: int
    state: State
    state_at: float
    endpoint: str | None
    job_id: str | None
    failure_code: str | None
    failure_message: str | None
    events: tuple[Event, ...]
    jobs: tuple[Bought, ...]
    pictures: tuple[Made, ...]

    @property
    def next_step(self) -> str:
        """What happens to it next, and what its owner can do."""
        words = (
            _NEXT_STEPS[self.state] if self.job_id is None else _WITH_JOB_ID.get(self.state, _NEXT_STEPS[self.state])
        )
        if self.state is State.LOST and self.endpoint == ADOPTED:
            words = _LOST_ADOPTED
        return words.format(
            batch=shlex.quote(self.batch), endpoint=self.endpoint, job_id=self.job_id, failure_code=self.failure_code
        )


_AGAIN: Final = "`asyncgen retry {batch}`, or the batch's own command with --retry-failed"
_RESUBMIT: Final = "the batch's command with --unknown resubmit sends it again and may pay twice"
_NEXT_STEPS: Final = {
    State.WANTED: "nothing is out for it; the batch's command sends it, and so does `asyncgen retry {batch}`",
    State.SUBMITTING: "POST /run is in the air; if no run is going on, the next one holds it as unknown",
    State.ACCEPTED: "job {job_id} is out at {endpoint} and paid for; a run of the batch collects it, within 30 minutes "
    "of its end",
    State.STORING: "the result of job {job_id} is here; a run of the batch finishes it, or fetches the result again",
    State.STORED: "it is there; `asyncgen verify` tells whether the file still is",
    State.FAILED: f"{{failure_code}} is its own fault: mend the cause (docs/troubleshooting.md), then {_AGAIN}",
    State.GIVEN_UP: f"the platform failed it too often to go on paying; {_AGAIN} buys it again",
    State.LOST: f"it was paid for and is gone; {_AGAIN} buys it again",
    State.CANCELLED: "it was taken back; the batch's command sends it again",
    State.UNKNOWN: f"held: look at {{endpoint}} in the console for a job of that minute; {_RESUBMIT}",
}
_LOST_ADOPTED: Final = (
    f"it was adopted, made elsewhere, and is gone: put its file back and `asyncgen adopt` it again; {_AGAIN} buys it"
)
#: Where it is a job that was to run again, it is known which.
_WITH_JOB_ID: Final = {
    State.SUBMITTING: "POST /retry of job {job_id} is in the air; if no run is going on, the next one asks after it",
    State.UNKNOWN: f"held: look at {{endpoint}} in the console whether job {{job_id}} has run again; {_RESUBMIT}",
}


def stories(ledger_path: Path, name: str) -> list[Story]:
    """Every image job that `name` can mean, in the order they were wanted.

    It is a request id, a caller's own id, a job id, or a picture's path: as in the manifest, or as it is found from the
    current folder. Raises `InputError` when nothing is called that, `LedgerError` when there is no readable ledger.
    """
    with reading(ledger_path) as connection:
        parameters = {"name": name, "path": _path_in_root(connection, ledger_path, name)}
        found = [_story(connection, item) for item in connection.execute(_FIND, parameters).fetchall()]
    if not found:
        raise InputError(
            f"{ledger_path} has nothing that is called {name!r}: give a request id (img_ and 8 digits), your own id, "
            "a job id, or a picture's path",
            field="ID",
        )
    return found


def _path_in_root(connection: sqlite3.Connection, ledger_path: Path, name: str) -> str | None:
    """How the ledger would name this file; None where it is outside of the output root."""
    output_root = connection.execute("SELECT output_root FROM manifest").fetchone()[0]
    root, path = (ledger_path.parent / (output_root or ".")).resolve(), Path(name).resolve()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else None


def _story(connection: sqlite3.Connection, item: sqlite3.Row) -> Story:
    def rows(table: str) -> list[sqlite3.Row]:
        query = f"SELECT * FROM {table} WHERE item_id = ? ORDER BY id"  # noqa: S608 - the names are ours
        return connection.execute(query, (item["id"],)).fetchall()

    return Story(
        **{name: item[name] for name in ("request_id", "batch", "realm", "rerolls", "state_at", "endpoint", "job_id")},
        request=json.loads(item["said"]),
        made_with=json.loads(item["spec"]),
        seed=int(item["seed"]),
        state=State(item["state"]),
        failure_code=item["failure_code"],
        failure_message=item["failure_message"],
        events=tuple(_events(rows("event"))),
        jobs=tuple(Bought(**{name: row[name] for name in Bought.__slots__}) for row in rows("job")),
        pictures=tuple(Made(**{name: row[name] for name in Made.__slots__}) for row in rows("image")),
    )


def _events(rows: list[sqlite3.Row]) -> Iterator[Event]:
    for row in rows[:1]:
        yield Event(row["at"], None, State(row["state"]), row["detail"] or "recorded with its values and its seed")
    for before, row in pairwise(rows):
        source, target = State(before["state"]), State(row["state"])
        words = row["detail"] or _WHY.get((source, target), "")
        yield Event(row["at"], row["at"] - before["at"], target, words)
