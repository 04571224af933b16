"""What each life said of itself: how it ended, its counts, its results, what it left behind, and how long it took."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from .broken import hold
from .plans import MANY, Plan, indexed
from .platform import picture
from .records import Record, Records

if TYPE_CHECKING:
    from .lives import Life
    from .world import World

_CALM_SECONDS = 6000.0
_ENDINGS = {"ended": "ended", "stopped": "stopped", "cancelled": "cancelled"}
_STATUS = {"stored": "success", "failed": "failed", "given_up": "failed", "lost": "failed", "unknown": "held",
           "cancelled": "cancelled", "wanted": "pending"}  # fmt: skip


def look_at(world: World, plan: Plan, records: Records, lives: Sequence[Life]) -> None:
    """Raises `BrokenError`."""
    for life in lives:
        _look_at_ending(world, life)
        _look_at_leftovers(records, life)
        if life.ending in ("ended", "stopped", "RunPausedError", "BudgetReachedError", "StoreError"):
            _look_at_made(world, records, life)
        if life.ending == "ended":
            _look_at_counts(life, records)
            _look_at_results(life, records)
        if life.stopped_at is not None:
            _look_at_stop(world, life)
    _look_at_last(world, plan, records, lives)


def _look_at_ending(world: World, life: Life) -> None:
    """An error ends a life only for a reason; without accidents a life comes to its end, and soon."""
    hits = world.books.hits
    asked = [each for each in world.books.asked if each.life == life.number]
    reasons = {
        "StoreError": any(name.startswith("disk: ") for name in hits),
        "LedgerError": "disk: commit fails" in hits,
        "RunPausedError": any(each.outcome == "paused" for each in asked)
        or _was_silent(life, asked)
        or life.options.lane_faults < MANY,
        "BudgetReachedError": life.options.budget_usd is not None,
    }
    hold(reasons.get(life.ending, True), f"life {life.number} ended with {life.ending} ({life.said})")
    hold(life.ending in (*_ENDINGS, *reasons, "crashed"), f"life {life.number}: {life.ending} ({life.said})")
    if life.calm:
        hold(life.ending == "ended", f"life {life.number} had no accident and {life.ending} ({life.said})")
        took = life.ended_at - life.began_at
        hold(took < _CALM_SECONDS, f"life {life.number} took {took:.0f} s without any accident")


def _was_silent(life: Life, asked: Sequence) -> bool:  # type: ignore[type-arg]
    """Whether nothing at all was answered for as long as the run may wait."""
    answers = [each.answered_at for each in asked if each.answered_at is not None and each.has_reply]
    times = [life.began_at, *answers, life.ended_at]
    longest = max(after - before for before, after in pairwise(times))
    return longest >= life.options.pace.unreachable_seconds


def _look_at_leftovers(records: Records, life: Life) -> None:
    """A run that came to its end leaves no temporary file, nothing in the air, and, unless it had to, nothing out."""
    if life.ending not in ("ended", "stopped"):
        return
    hold(not life.temporary_files, f"life {life.number} {life.ending} and left {life.temporary_files}")
    for record in records.items:
        state = record.state_after(life.number)
        hold(state not in ("submitting", "accepted", "storing"), f"life {life.number} {life.ending}, {state}: {record}")


def _made(records: Records, life: Life) -> list[Record]:
    return [
        record for record in records.items
        if record.state_after(life.number) == "stored"
        and any(move.target == "stored" and move.life == life.number for move in record.moves)
    ]  # fmt: skip


def _look_at_made(world: World, records: Records, life: Life) -> None:
    made, counted = _made(records, life), life.statistics
    if counted is None:
        return
    hold(counted.made == len(made), f"life {life.number} says it made {counted.made}, and made {len(made)}")
    pictures = sum(2 if record.subject[0] in world.doubles else 1 for record in made)
    hold(counted.pictures == pictures, f"life {life.number} says {counted.pictures} pictures, and there are {pictures}")
    hold(counted.out == 0, f"life {life.number} is over with {counted.out} jobs being worked on")


def _look_at_counts(life: Life, records: Records) -> None:
    """The counts of a run over its whole input, one for each image that it was given or found out."""
    counted = life.statistics
    assert counted is not None
    named = {result.request_id for result in life.results}
    found = [
        record for record in records.items
        if record.request_id not in named and _moved_from_out(record, life)
    ]  # fmt: skip
    items = [record for record in records.items if record.request_id in named] + found
    states = Counter(record.state_after(life.number) for record in items)
    made = len(_made(records, life))
    rows = len(indexed(life.options.given))
    expected = {
        "wanted": rows + len(found),
        "made": made,
        "kept": states["stored"] - made,
        "failed": states["failed"] + states["given_up"] + states["lost"],
        "held": states["unknown"],
        "cancelled": states["cancelled"],
        "repeated": rows - len(named),
        "pending": states["wanted"],
    }
    said = {name: getattr(counted, name) for name in expected}
    hold(said == expected, f"life {life.number} counts {said}, the books {expected}")


def _moved_from_out(record: Record, life: Life) -> bool:
    """Whether the life found a job of it out (or its picture half stored) and worked on it."""
    return any(move.life == life.number and move.source in ("accepted", "storing") for move in record.moves)


def _look_at_results(life: Life, records: Records) -> None:
    """Each row of the input is answered once, with what became of it."""
    by_id = {record.request_id: record for record in records.items}
    rows = indexed(life.options.given)
    hold(sorted(result.index for result in life.results) == list(range(len(rows))), f"life {life.number}: not all told")
    for result in life.results:
        record = by_id[result.request_id]
        hold(record.subject[0] == rows[result.index].want.spec.prompt_sent, f"row {result.index} was told of {record}")
        status = _STATUS[str(record.state_after(life.number))]
        allowed = (status, "delivered") if result.kept or result.repeats else (status,)
        hold(result.status in allowed, f"life {life.number} said {result.status} of {record}")
        for number, delivered in enumerate(result.delivered):
            hold(delivered.data == picture(*record.subject, number), f"delivered something else: {record}")


def _look_at_stop(world: World, life: Life) -> None:
    """After a stop nothing new is sent but what was being recorded in that moment."""
    assert life.stopped_at is not None
    until = life.stopped_at + 2 * world.slowest_seconds  # its intent may have been waiting for two commits
    late = [each for each in world.books.asked
            if each.life == life.number and each.operation == "run" and each.sent_at > until]  # fmt: skip
    hold(not late, f"life {life.number} was stopped at {life.stopped_at:.1f} and sent {[e.subject for e in late]}")


def _look_at_last(world: World, plan: Plan, records: Records, lives: Sequence[Life]) -> None:
    wanted = [wish.prompt for wish in plan.wishes]
    recorded = {record.subject[0] for record in records.items}
    hold(recorded == set(wanted), f"wanted {wanted}, recorded {recorded}")
    last = lives[-1]
    if lives[-2:-1] and lives[-2].calm:
        sent = [each for each in world.books.asked if each.life == last.number and each.operation == "run"]
        cancelled = any(record.state_after(last.number - 1) == "cancelled" for record in records.items)
        asked_for = cancelled or last.options.rebuy_changed or last.options.resubmit or last.options.retry_failed
        hold(asked_for or not sent, "all was settled, and the same run once more bought again")
