"""The owner's own limits: a budget is never passed, and a fault that comes over and over is not paid for on and on."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from .books import FATES, Asked, Execution, Job
from .broken import hold
from .plans import MANY, USD_PER_SECOND
from .requests import FREE_RATE

if TYPE_CHECKING:
    from .lives import Life
    from .world import World

_ROUNDING_USD = 0.01
_SETTLING_SECONDS = 60.0  # an end that was told earlier may be noted later


def look_at(world: World, lives: Sequence[Life]) -> None:
    """Raises `BrokenError`."""
    _look_at_budget(world, lives)
    _look_at_lifetimes(world)
    for life in lives:
        if life.options.lane_faults < MANY:
            _look_at_lanes(world, life)


def _look_at_budget(world: World, lives: Sequence[Life]) -> None:
    """All lives before the calm one share one budget, which what they bought may not pass, whatever became of it."""
    cap = lives[0].options.budget_usd
    if cap is None:
        return
    until = next(life.began_true for life in lives if life.calm)
    runs = [(job, run) for job in world.books.jobs.values() for run in job.executions if run.bought_at < until]
    spent = sum(_seconds(job, run) for job, run in runs) * USD_PER_SECOND
    hold(spent <= cap + _ROUNDING_USD, f"{spent:.2f} USD of execution were bought, {cap:.2f} allowed")


def _seconds(job: Job, run: Execution) -> float:
    ends_at = run.ends_at if job.cancelled_at is None else min(run.ends_at, job.cancelled_at)
    return max(0.0, ends_at - run.starts_at)


def _look_at_lifetimes(world: World) -> None:
    """No job is sent with so short a time to live that it is deleted before its turn has come and gone."""
    for job in world.books.jobs.values():
        first = job.executions[0]
        hold(
            job.expires_at > first.ends_at, f"{job.job_id} was deleted {first.ends_at - job.expires_at:.0f} s too soon"
        )


def _look_at_lanes(world: World, life: Life) -> None:
    """All rows share one workflow: after two equal faults in a row nothing more is bought in that life."""
    asked = [each for each in world.books.asked if each.life == life.number]
    if any(each.outcome == "gone" for each in asked) or life.options.pace.run_rate < FREE_RATE:
        return  # the books know neither when a loss was believed, nor what had its leave and waited for its token
    ends = _ends(asked)
    for (_, code), (time, again) in pairwise(ends):
        is_settled = all(other == code for at, other in ends if 0 <= time - at <= _SETTLING_SECONDS)
        if code is not None and code == again and is_settled:
            noted_at = time + 6 * world.slowest_seconds + 1.0
            late = [each.subject for each in asked if each.operation in ("run", "retry") and each.sent_at > noted_at]
            hold(not late, f"{code} came twice in a row in life {life.number}, and {late} were bought all the same")


def _ends(asked: Sequence[Asked]) -> list[tuple[float, str | None]]:
    """When each execution was (last) told to have ended, with the code of its fault, in order."""
    ends: dict[int, tuple[float, str | None]] = {}
    for each in asked:
        if each.operation == "status" and each.outcome == "ended" and each.execution and each.answered_at is not None:
            code = None if each.execution.fate == "done" else FATES[each.execution.fate].code
            ends[id(each.execution)] = (each.answered_at, code)
    return sorted(ends.values(), key=lambda end: end[0])
