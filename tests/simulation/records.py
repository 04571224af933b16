"""What the ledger says in the end, read from its durable image with SQL of our own."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from .books import Subject

if TYPE_CHECKING:
    from .lives import Life
    from .world import World

#: How a job ends whose picture is whole, and does not count.
REJECTED = ("blank_image", "duplicate_image")

_JOBS = """
    SELECT job_id, endpoint, outcome, execution_ms, accepted_at IS NOT NULL, seed FROM job
    WHERE item_id = ? AND job_id IS NOT NULL ORDER BY id
"""


@dataclass(frozen=True, eq=False)
class Move:
    """One step of an item as its events tell it: from a state to the next, and the life in which that was recorded.

    Two of them are never the same one, whatever they say.
    """

    source: str
    target: str
    life: int
    detail: str | None = None
    was_found: bool = False  # by a new process, in what the one before had left
    rejects: bool = False  # the picture that its job made

    @property
    def is_reroll(self) -> bool:
        """Whether another seed is wanted now."""
        return self.rejects and self.target == "wanted"

    @property
    def is_loss(self) -> bool:
        """Whether it was made because the platform no longer knew the job."""
        return (self.detail or "").startswith("lost: ")

    @property
    def begins_anew(self) -> bool:
        """Whether its owner wants it made once more, with the seed that was asked for."""
        return self.target == "wanted" and self.source not in ("accepted", "submitting") and not self.rolls_on

    @property
    def rolls_on(self) -> bool:
        """Whether its owner wants it tried again, and its picture had been rejected: with a seed after those before."""
        return self.source == "failed" and "with another seed" in (self.detail or "")

    @property
    def takes_back_retry(self) -> bool:
        """Whether it says that a retry without a reply had never arrived: no purchase came of it."""
        return self.source == "accepted" and "POST /retry was never taken" in (self.detail or "")


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
    seed: int

    @property
    def is_rejected(self) -> bool:
        """Whether it made a picture that does not count."""
        return self.outcome in REJECTED


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

    @property
    def subjects(self) -> frozenset[Subject]:
        """The image with each seed that it was wanted with: a reroll takes another."""
        return frozenset({self.subject, *((self.subject[0], job.seed) for job in self.jobs)})

    @property
    def rerolls(self) -> int:
        """How many other seeds were taken since its owner last wanted it made."""
        count = 0
        for move in self.moves:
            count = 0 if move.begins_anew else count + move.is_reroll + move.rolls_on
        return count

    @property
    def never_taken(self) -> frozenset[Move]:
        """The moves with which a retry that had never arrived was taken for one that runs: no job of theirs is left."""
        accepted, never_taken = None, set()
        for move in self.moves:
            accepted = move if move.target == "accepted" else accepted
            if move.takes_back_retry and accepted is not None:
                never_taken.add(accepted)
        return frozenset(never_taken)

    @property
    def retries_never_taken(self) -> list[tuple[str, int, int]]:
        """Of each such retry its job, the life that meant to send it, and the one that found out."""
        found, jobs, job_id, sent_in = [], iter(self.jobs), "", 0
        for move in self.moves:
            if move.target == "submitting":
                sent_in = move.life
            elif (move.source, move.target) == ("submitting", "accepted") and move not in self.never_taken:
                job_id = next(jobs).job_id
            elif move.takes_back_retry:
                found.append((job_id, sent_in, move.life))
        return found

    def subject_after(self, life: int) -> Subject | None:
        """With the seed that it had when that life was over, as the next job tells; None: none was bought with it."""
        seed, is_rerolled, jobs = None, False, iter(self.jobs)
        for move in self.moves:
            if move.life > life and (seed is not None or (is_rerolled and move.begins_anew)):
                break
            if (move.source, move.target) == ("submitting", "accepted") and move not in self.never_taken:
                seed, is_rerolled = next(jobs).seed, False
            elif move.is_reroll or move.rolls_on or move.begins_anew:
                seed, is_rerolled = None, not move.begins_anew
        else:
            seed = self.subject[1] if seed is None else seed
        return None if seed is None else (self.subject[0], seed)

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
    jobs = tuple(Bought(*row[:-1], int(row[-1])) for row in rows(_JOBS))
    return Record(
        request_id=request_id,
        subject=(prompt, int(seed)),
        state=state,
        code=code,
        kind=kind,
        moves=tuple(_moves(steps, jobs)),
        jobs=jobs,
        files=tuple(
            StoredFile(*row)
            for row in rows("SELECT number, path, sha256, state FROM image WHERE item_id = ? ORDER BY id")
        ),
    )


def _moves(steps: Sequence[tuple[str, int, str | None]], jobs: Sequence[Bought]) -> Iterator[Move]:
    source, last_life, accepted = "", 0, 0
    for target, life, detail in steps:
        accepted += (source, target) == ("submitting", "accepted")
        is_end = source == "accepted" and target in ("wanted", "failed")
        was_found = target == "unknown" and last_life < life
        move = Move(source, target, life, detail, was_found)
        if move.takes_back_retry:
            accepted -= 1
        elif is_end and jobs[accepted - 1].is_rejected:
            move = replace(move, rejects=True)
        yield move
        source, last_life = target, life
