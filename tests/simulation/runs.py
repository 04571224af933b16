"""How each life ended: for a reason, in time, as it was told to, and without leaving anything behind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise, takewhile
from typing import TYPE_CHECKING

from .books import Asked
from .broken import hold
from .commands import withdrawn_jobs
from .plans import MANY, Plan
from .records import Records

if TYPE_CHECKING:
    from .lives import Life
    from .world import World

_CALM_SECONDS = 6000.0
_ENDINGS = {"ended": "ended", "stopped": "stopped", "cancelled": "cancelled"}
#: What an account's refusal may come second to.
_OTHER_ENDINGS = ("crashed", "cancelled", "LedgerError", "StoreError", "BudgetReachedError")
_CANCEL_SECONDS = 60.0  # in which what is out may end by itself, or wait for its turn
_LONGEST_PAUSE_SECONDS = 180.0  # in which nobody asks: after it what was silent may answer again
_LONGEST_TRY_SECONDS = 190.0  # a request's timeout, the longest backoff, and both once more


def look_at(world: World, plan: Plan, records: Records, lives: Sequence[Life]) -> None:
    """Raises `BrokenError`."""
    for life in lives:
        asked = [each for each in world.books.asked if each.life == life.number]
        _look_at_ending(world, life, asked)
        _look_at_leftovers(records, life)
        _look_at_unlisted(world, life)
        _look_at_pause(world, life, asked)
        _look_at_silence(life, asked)
        _look_at_silent_purchases(world, life, asked)
        _look_at_stop(world, records, life, asked)
    _look_at_last(world, plan, records, lives)


def _look_at_ending(world: World, life: Life, asked: Sequence[Asked]) -> None:
    """An error ends a life only for a reason; without accidents a life comes to its end, and soon."""
    hits = world.books.hits
    reasons = {
        "StoreError": any(name.startswith("disk: ") for name in hits),
        "LedgerError": "disk: commit fails" in hits,
        "RunPausedError": any(each.outcome == "paused" for each in asked)
        or _was_silent(life, asked)
        or (life.options.lane_faults < MANY and " is stopped, " in life.said),
        "BudgetReachedError": life.options.budget_usd is not None,
    }
    hold(reasons.get(life.ending, True), f"life {life.number} ended with {life.ending} ({life.said})")
    hold(life.ending in (*_ENDINGS, *reasons, "crashed"), f"life {life.number}: {life.ending} ({life.said})")
    if life.calm:
        hold(life.ending == "ended", f"life {life.number} had no accident and {life.ending} ({life.said})")
        took = life.ended_at - life.began_at
        hold(took < _CALM_SECONDS, f"life {life.number} took {took:.0f} s without any accident")


def _was_silent(life: Life, asked: Sequence[Asked]) -> bool:
    """Whether the platform, whose files are elsewhere, answered nothing at all for as long as the run may wait."""
    heard = (each for each in asked if each.has_reply and each.operation != "download")
    answers = [each.answered_at for each in heard if each.answered_at is not None]
    times = [life.began_at, *sorted(answers), life.ended_at]
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


def _look_at_unlisted(world: World, life: Life) -> None:
    """However a run ends, the manifest has what it made, if disk and ledger take it."""
    has_failed = life.number in world.ledger.failed_in or any(name.startswith("disk: ") for name in world.books.hits)
    if life.ending in ("ended", "stopped", "cancelled", "RunPausedError", "BudgetReachedError") and not has_failed:
        hold(not life.unlisted, f"life {life.number} {life.ending}, and {life.unlisted} images are not in the manifest")


def _look_at_pause(world: World, life: Life, asked: Sequence[Asked]) -> None:
    """Once the account has refused, nothing new is bought, and the run says so."""
    refused = [each.answered_at for each in asked if each.outcome == "paused" and each.operation != "cancel"]
    if not refused:
        return
    hold(life.ending in ("RunPausedError", *_OTHER_ENDINGS), f"life {life.number} was refused, and {life.ending}")
    _hold_nothing_bought(world, life, asked, min(at for at in refused if at is not None), "the account had refused")


def _look_at_silence(life: Life, asked: Sequence[Asked]) -> None:
    """A run does not go on asking for ever where nothing answers."""
    silent_since, limit = life.began_at, life.options.pace.unreachable_seconds + _LONGEST_TRY_SECONDS
    for each in sorted(asked, key=lambda each: each.answered_at or life.ended_at):
        if each.has_reply and each.answered_at is not None:
            silent_since = each.answered_at
        elif each.answered_at is not None and each.answered_at > each.sent_at >= silent_since:
            first = min(other.sent_at for other in asked if other.sent_at >= silent_since)
            hold(
                each.sent_at - first <= limit, f"life {life.number} asked for {each.sent_at - first:.0f} s, unanswered"
            )


def _look_at_silent_purchases(world: World, life: Life, asked: Sequence[Asked]) -> None:
    """Where nothing has answered for too long nothing is bought: each purchase would be one more that is held."""
    for buying in asked:
        if buying.operation not in ("run", "retry"):
            continue
        same = (each for each in asked if each.endpoint == buying.endpoint and each.operation != "download")
        told = [(each.answered_at, each.has_reply) for each in same if each.answered_at is not None]
        before = sorted((each for each in told if each[0] <= buying.sent_at), reverse=True)
        silent = [buying.sent_at, *(at for at, _ in takewhile(lambda each: not each[1], before))]
        if all(late - soon <= _LONGEST_PAUSE_SECONDS for late, soon in pairwise(silent)):
            silent_for = silent[0] - silent[-1]
            limit = (
                life.options.pace.unreachable_seconds + 2 * world.slowest_seconds
            )  # it was decided before its intent
            hold(silent_for <= limit, f"{buying.subject} was bought after {silent_for:.0f} s of silence")


def _look_at_stop(world: World, records: Records, life: Life, asked: Sequence[Asked]) -> None:
    """After a stop nothing new is sent but what was being recorded; what is out is taken back only if so chosen."""
    meant = withdrawn_jobs(life, records)
    cancelled = {each.subject for each in asked if each.operation == "cancel"} - meant
    if life.stopped_at is None:
        hold(not cancelled or life.options.cancel_on_stop, f"life {life.number} took back {cancelled}, unasked")
        return
    _hold_nothing_bought(world, life, asked, life.stopped_at, "it was stopped")
    if life.options.cancel_on_stop and life.ending == "stopped":
        later = life.stopped_at + 2 * world.slowest_seconds + _CANCEL_SECONDS
        left = {each.subject for each in asked if each.operation == "status" and each.sent_at > later}
        left -= cancelled | meant
        hold(not left, f"life {life.number} was stopped, and waited for {left} without taking them back")
    hold(not cancelled or life.options.cancel_on_stop, f"life {life.number} took back {cancelled}, unasked")


def _hold_nothing_bought(world: World, life: Life, asked: Sequence[Asked], since: float, why: str) -> None:
    until = since + 2 * world.slowest_seconds  # an intent may have been waiting for two commits
    late = [each.subject for each in asked if each.operation in ("run", "retry") and each.sent_at > until]
    hold(not late, f"life {life.number} bought {late} after {why}")


def _look_at_last(world: World, plan: Plan, records: Records, lives: Sequence[Life]) -> None:
    wanted = Counter({wish.prompt: wish.images for wish in plan.wishes})
    recorded = Counter(record.subject[0] for record in records.items)
    hold(recorded == wanted, f"wanted {wanted}, recorded {recorded}")
    last = lives[-1]
    if lives[-2:-1] and lives[-2].calm:
        sent = [each for each in world.books.asked if each.life == last.number and each.operation == "run"]
        cancelled = any(record.state_after(last.number - 1) == "cancelled" for record in records.items)
        asked_for = cancelled or last.options.rebuy_changed or last.options.resubmit or last.options.retry_failed
        hold(asked_for or not sent, "all was settled, and the same run once more bought again")
