"""Every state an image job can be in, and every move it is allowed to make. Nothing else decides this.

The ledger refuses a move that is not in `MOVES`, in `asyncgen.ledger` and again in a CHECK of its schema, whose list
`schema_condition` gives; `docs/crash-safety.md` draws its diagram from this table.
What a failure means is not decided here (see `asyncgen.errors`), only where it may lead.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """Where one wanted job stands. The words are what the ledger stores."""

    WANTED = "wanted"  # recorded, nothing sent
    SUBMITTING = "submitting"  # the intent is durable and `POST /run` may be in the air
    ACCEPTED = "accepted"  # the platform gave it an id, durably recorded: it is being paid for
    STORING = "storing"  # the result is here, its hash and path are recorded, its file may not be there yet
    STORED = "stored"  # the file is in place (or the picture was delivered in memory, as asked)
    FAILED = "failed"  # its own fault
    GIVEN_UP = "given_up"  # the platform failed it as often as we are willing to pay for
    CANCELLED = "cancelled"  # taken back at the platform, or before it was sent
    LOST = "lost"  # paid for, and nowhere: its result had expired before it was fetched, or its file is gone
    UNKNOWN = "unknown"  # it was sent, and whether it was accepted was never learned


@dataclass(frozen=True, slots=True)
class Move:
    """One allowed step and the event that causes it."""

    source: State
    target: State
    why: str


_S = State
MOVES: tuple[Move, ...] = (
    Move(_S.WANTED, _S.SUBMITTING, "the intent to buy is durable; only now may POST /run be sent"),
    Move(_S.WANTED, _S.FAILED, "refused here, before anything was sent"),
    Move(_S.WANTED, _S.STORED, "adopted: its picture was made elsewhere"),
    Move(_S.WANTED, _S.CANCELLED, "taken back before it was sent"),
    Move(_S.SUBMITTING, _S.ACCEPTED, "the reply carried a job id; after a retry it is known, reply or not"),
    Move(_S.SUBMITTING, _S.WANTED, "certainly not accepted: connection refused, 429, 503, or an account fault"),
    Move(_S.SUBMITTING, _S.FAILED, "the platform refused this job for what it is"),
    Move(_S.SUBMITTING, _S.UNKNOWN, "sent, and no reply: timeout, reset, 5xx, or the process died"),
    Move(_S.UNKNOWN, _S.WANTED, "its owner chose to submit it again"),
    Move(_S.ACCEPTED, _S.STORING, "COMPLETED with whole pictures; their paths and hashes are durable"),
    Move(_S.ACCEPTED, _S.SUBMITTING, "the platform failed it; the intent to send POST /retry is durable"),
    Move(_S.ACCEPTED, _S.FAILED, "the job failed by its own fault, or its picture was rejected"),
    Move(_S.ACCEPTED, _S.WANTED, "the platform failed or lost it, or its picture was rejected; it may be bought again"),
    Move(_S.ACCEPTED, _S.GIVEN_UP, "the platform failed it once too often"),
    Move(_S.ACCEPTED, _S.LOST, "its result had expired, once too often"),
    Move(_S.ACCEPTED, _S.CANCELLED, "cancelled at the platform"),
    Move(_S.STORING, _S.STORED, "every file is in place and flushed"),
    Move(_S.STORING, _S.ACCEPTED, "the process died before the files were in place: fetch the result again"),
    Move(_S.STORED, _S.WANTED, "its owner wants it made again with today's values"),
    Move(_S.STORED, _S.LOST, "`asyncgen verify --repair` found its picture missing or damaged"),
    Move(_S.FAILED, _S.WANTED, "its owner wants it tried again"),
    Move(_S.GIVEN_UP, _S.WANTED, "its owner wants it tried again"),
    Move(_S.LOST, _S.WANTED, "its owner wants it tried again"),
    Move(_S.CANCELLED, _S.WANTED, "the batch was started again"),
)

ALLOWED: frozenset[tuple[State, State]] = frozenset((move.source, move.target) for move in MOVES)

#: States in which the platform may be running, or keeping the result of, a job of ours.
OUT: frozenset[State] = frozenset({State.SUBMITTING, State.ACCEPTED, State.STORING})
#: States that a run leaves alone unless it is told otherwise.
SETTLED: frozenset[State] = frozenset({State.STORED, State.FAILED, State.GIVEN_UP, State.LOST, State.UNKNOWN})
#: Settled without a picture: what `--retry-failed` tries again.
FAILURES: frozenset[State] = frozenset({State.FAILED, State.GIVEN_UP, State.LOST})


def schema_condition() -> str:
    """The CHECK on `event` in the ledger's schema: an item begins as wanted, and makes allowed moves only."""
    indent = "\n            "
    pairs = f",{indent}".join(f"'{move.source}>{move.target}'" for move in MOVES)
    return (
        f"CASE WHEN source IS NULL THEN state = '{State.WANTED}' ELSE source || '>' || state IN ({indent}{pairs}) END"
    )
