"""What the ledger says in the end, read from its durable image with SQL of our own."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .books import Subject

if TYPE_CHECKING:
    from .lives import Life
    from .world import World


@dataclass(frozen=True)
class Move:
    """One step of an item as its events tell it: from a state to the next, and the life in which that was recorded."""

    source: str
    target: str
    life: int
    detail: str | None = None
    was_found: bool = False  # by a new process, in what the one before had left

    @property
    def is_loss(self) -> bool:
        """Whether it was made because the platform no longer knew the job."""
        return (self.detail or "").startswith("lost: ")


@dataclass(frozen=True)
class Bought:
    """One purchase that the ledger knows of: a job that was accepted, or accepted to run again.

    `is_confirmed`: its reply came; without one, a job that was to run again may not do so.
    """

    job_id: str
    endpoint: str
    outcome: str | None
    execution_ms: int | None
    is_confirmed: bool


@dataclass(frozen=True)
class StoredFile:
    """One picture: `path` None was delivered in memory."""

    number: int
    path: str | None
    sha256: str
    state: str


@dataclass(frozen=True)
class Record:
    """One wanted image: everything that the ledger says of it."""

    request_id: str
    subject: Subject
    state: str
    code: str | None
    kind: str | None
    moves: tuple[Move, ...]
    jobs: tuple[Bought, ...]
    files: tuple[StoredFile, ...]

    def state_after(self, life: int) -> str | None:
        """Its state when that life was over; None: it was not wanted yet."""
        return next((move.target for move in reversed(self.moves) if move.life <= life), None)

    def found_by(self, life: int) -> str | None:
        """Its state as that life found it, once it knew what had become of whatever was in the air before."""
        state = self.state_after(life - 1)
        if state != "submitting":
            return state
        return next((move.target for move in self.moves if move.life >= life), state)

    def __str__(self) -> str:
        path = " ".join(f"{move.target}@{move.life}" for move in self.moves)
        return (
            f"{self.subject[0][:30]} seed {self.subject[1]}: {path} ({self.code}), jobs {[j.job_id for j in self.jobs]}"
        )


@dataclass(frozen=True)
class Records:
    """The whole ledger. `run_outcomes` are what it says became of each run, in order."""

    items: tuple[Record, ...]
    run_outcomes: tuple[str | None, ...] = field(default=())


def read(world: World, lives: Sequence[Life]) -> Records:
    """The durable ledger, each event put into the life that recorded it."""
    if world.ledger.image is None:
        return Records(())
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.deserialize(world.ledger.image)
        items = connection.execute(
            "SELECT id, request_id, json_extract(spec, '$.prompt_sent'), seed, state, failure_code, failure_class "
            "FROM item ORDER BY id"
        ).fetchall()
        outcomes = connection.execute("SELECT outcome FROM run ORDER BY id").fetchall()
        return Records(tuple(_record(connection, lives, *row) for row in items), tuple(word for (word,) in outcomes))


def _record(
    connection: sqlite3.Connection,
    lives: Sequence[Life],
    item_id: int,
    request_id: str,
    prompt: str,
    seed: str,
    state: str,
    code: str | None,
    kind: str | None,
) -> Record:
    def rows(query: str) -> list[tuple]:  # type: ignore[type-arg]
        return connection.execute(query, (item_id,)).fetchall()

    events = rows("SELECT id, state, detail FROM event WHERE item_id = ? ORDER BY id")
    steps = [
        (target, next(life.number for life in lives if event_id <= life.last_event), detail)
        for event_id, target, detail in events
    ]
    return Record(
        request_id=request_id,
        subject=(prompt, int(seed)),
        state=state,
        code=code,
        kind=kind,
        moves=tuple(_move(before, *step) for before, step in zip([None, *steps], steps, strict=False)),
        jobs=tuple(
            Bought(*row)
            for row in rows(
                "SELECT job_id, endpoint, outcome, execution_ms, accepted_at IS NOT NULL FROM job "
                "WHERE item_id = ? AND job_id IS NOT NULL ORDER BY id"
            )
        ),
        files=tuple(
            StoredFile(*row)
            for row in rows("SELECT number, path, sha256, state FROM image WHERE item_id = ? ORDER BY id")
        ),
    )


def _move(before: tuple[str, int, str | None] | None, target: str, life: int, detail: str | None) -> Move:
    if before is None:
        return Move("", target, life, detail)
    return Move(before[0], target, life, detail, was_found=target == "unknown" and before[1] < life)
