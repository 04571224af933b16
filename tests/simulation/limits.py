"""The owner's own limits: a budget is never passed, and a fault that comes over and over is not paid for on and on."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from asyncgen.lanes import LaneKind

from .books import FATES, Asked, Execution, Job
from .broken import hold
from .plans import FREE_RATE, MANY, USD_PER_SECOND
from .records import Records

if TYPE_CHECKING:
    from .lives import Life
    from .world import World

#: The code of each job whose picture does not count, by its id.
Rejected = Mapping[str, str]

_ROUNDING_USD = 0.01
_STOPS_IN_A_WORKFLOW = 3
_SHORTEST_TIMEOUT_MS = 60_000  # however short the jobs were that a budget has learned from
_SETTLING_SECONDS = 60.0  # an end that was told earlier may be noted later


def look_at(world: World, records: Records, lives: Sequence[Life]) -> None:
    """Raises `BrokenError`."""
    rejected = {job.job_id: str(job.outcome) for record in records.items for job in record.jobs if job.is_rejected}
    _look_at_budget(world, lives)
    _look_at_lifetimes(world)
    _look_at_policies(world, lives)
    for life in lives:
        if life.options.lane_faults < MANY:
            asked = _asked_in(world, records, life)
            _look_at_lanes(world, life, asked, rejected)
            _look_at_stopped_lanes(life, asked, rejected)


def _asked_in(world: World, records: Records, life: Life) -> list[Asked]:
    """What a life has asked; without the failures that it was told once more after a retry that had never arrived."""
    retries = [retry for record in records.items for retry in record.retries_never_taken]
    again = {job_id: sent_in for job_id, sent_in, found_in in retries if found_in == life.number}
    told, asked = set(), []
    for each in world.books.asked:
        if each.life != life.number:
            continue
        is_end = each.operation == "status" and each.outcome == "ended" and each.job is not None
        if is_end and each.job is not None and each.job.job_id in again:
            if again[each.job.job_id] < life.number or each.job.job_id in told:
                continue
            told.add(each.job.job_id)
        asked.append(each)
    return asked


def _look_at_budget(world: World, lives: Sequence[Life]) -> None:
    """All lives before the calm one share one budget, which what they bought may not pass, whatever became of it."""
    cap = lives[0].options.budget_usd
    if cap is None:
        return
    until = next(life.began_true for life in lives if life.calm)
    runs = [(job, run) for job in world.books.jobs.values() for run in job.executions if run.bought_at < until]
    spent = sum(_seconds(job, run) for job, run in runs) * USD_PER_SECOND
    hold(spent <= cap + _ROUNDING_USD, f"{spent:.2f} USD of execution were bought, {cap:.2f} allowed")
    _look_at_reservations(world, lives, cap)
    for life in lives:
        if life.ending == "BudgetReachedError":
            most = life.most_usd + life.options.execution_timeout_seconds * USD_PER_SECOND
            hold(most > cap, f"life {life.number} says {cap:.2f} USD are used up, and one more job makes {most:.2f}")


def _look_at_reservations(world: World, lives: Sequence[Life], cap: float) -> None:
    """Whatever is bought must fit even if all that is out, or may be, runs into its limit: at every purchase."""
    buying = [each for each in world.books.asked if each.operation in ("run", "retry")]
    for number, asked in enumerate(buying):
        if lives[asked.life].options.budget_usd is not None:
            before = [each for each in buying[:number] if _may_cost(each, asked)]
            timeout = lives[asked.life].options.execution_timeout_seconds
            seconds = timeout + sum(_most_seconds(world, each, asked.sent_at, timeout) for each in before)
            most = seconds * USD_PER_SECOND
            hold(most <= cap + _ROUNDING_USD, f"{asked.subject} was bought when that made {most:.2f} USD of {cap:.2f}")


def _may_cost(bought: Asked, later: Asked) -> bool:
    """Whether by that time a purchase was, or may have been, made."""
    if bought.answered_at is None or bought.answered_at > later.sent_at:
        return bought.life == later.life or bought.outcome in (None, "accepted", "unknown")
    return bought.outcome in ("accepted", "unknown")


def _most_seconds(world: World, bought: Asked, time: float, timeout: float) -> float:
    """What it took, once that was told; until then the most that it may.

    What became of a retry that nobody answered is told by its job's id: the failure before it, once more, if it never
    arrived.
    """
    if bought.job is not None and (bought.outcome == "accepted" or bought.operation == "retry"):
        for each in world.books.asked:
            if each.job is bought.job and each.outcome in ("ended", "damaged") and each.sent_at >= bought.sent_at:
                is_told = each.answered_at is not None and each.answered_at <= time
                never_ran = each.execution is not None and each.execution.bought_at < bought.sent_at
                told_seconds = 0.0 if never_ran else _told_seconds(bought.job, each)
                return told_seconds if is_told else timeout
    return timeout


def _told_seconds(job: Job, told: Asked) -> float:
    """Of a job that was cancelled no time is told: it cost what it ran."""
    return told.execution.milliseconds / 1000 if told.execution else _seconds(job, job.executions[-1])


def _look_at_policies(world: World, lives: Sequence[Life]) -> None:
    """Every job was sent with the times that its owner allows: how long it may run, and how long it may exist."""
    for asked in world.books.asked:
        if asked.operation == "run" and asked.job is not None:
            options, policy = lives[asked.life].options, asked.job.policy
            longest, sent = int(1000 * options.execution_timeout_seconds), policy.get("executionTimeout", 0)
            shortest = longest if options.budget_usd is None else min(longest, _SHORTEST_TIMEOUT_MS)
            is_right = shortest <= sent <= longest
            hold(is_right, f"{asked.job.job_id} was sent with {policy}, and may run {longest} ms")
            ttl = max(int(1000 * options.ttl_seconds), sent)
            hold(policy.get("ttl", 0) >= ttl, f"{asked.job.job_id} was sent with {policy}, not {ttl} ms")


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


def _look_at_lanes(world: World, life: Life, asked: Sequence[Asked], rejected: Rejected) -> None:
    """After two equal faults in a row nothing more of their LoRA set is bought; without one, of their workflow."""
    if any(each.outcome == "gone" for each in asked) or life.options.pace.run_rate < FREE_RATE:
        return  # the books know neither when a loss was believed, nor what had its leave and waited for its token
    lanes: dict[str | None, list[Asked]] = defaultdict(list)
    for each in asked:
        lanes[world.lora_sets.get(_prompt_of(each))].append(each)
    for same in lanes.values():
        ends = _ends(same, rejected)
        for before, end in pairwise(ends):
            is_settled = all(other.code == end.code for other in ends if 0 <= end.at - other.at <= _SETTLING_SECONDS)
            if end.code is not None and before.code == end.code and is_settled:
                _hold_nothing_bought(world, life, same, end)
    if world.lora_sets and not any(each.operation in ("run", "retry") and each.outcome == "unknown" for each in asked):
        _look_at_workflow(world, life, asked, rejected)


def _look_at_workflow(world: World, life: Life, asked: Sequence[Asked], rejected: Rejected) -> None:
    """One job at a time: two LoRA sets with the same fault in a row stop all, and so does the third set that stops.

    A set that stops takes its faults with it; a good picture in between makes all begin anew.
    """
    last: dict[str, str | None] = {}
    row: _End | None = None
    stops: dict[str, str] = {}
    counted: list[str] = []
    ends = _ends(asked, rejected)
    for end in ends:
        lane = world.lora_sets[end.prompt]
        if lane in stops:
            continue
        if end.code is None:
            last[lane], row = None, None
            counted.clear()
            continue
        if last.get(lane) == end.code:
            stops[lane], row = end.code, None
            counted.append(end.code)
            is_over = counted.count(end.code) == _STOPS_IN_A_WORKFLOW
        else:
            is_over = row is not None and row.code == end.code
            last[lane], row = end.code, end
        if is_over:
            _hold_nothing_bought(world, life, asked, end)
            return
    for stopped in life.statistics.stopped_lanes if life.statistics else ():
        is_narrow = stopped.lane.kind is LaneKind.LORA_SET or str(stopped.failure.code) not in {e.code for e in ends}
        hold(is_narrow, f"life {life.number} met {[end.code for end in ends]}, and says: {stopped}")


def _hold_nothing_bought(world: World, life: Life, asked: Sequence[Asked], end: _End) -> None:
    noted_at = end.at + 6 * world.slowest_seconds + 1.0
    late = [each.subject for each in asked if each.operation in ("run", "retry") and each.sent_at > noted_at]
    hold(not late, f"{end.code} came once too often in life {life.number}, and {late} were bought all the same")


def _look_at_stopped_lanes(life: Life, asked: Sequence[Asked], rejected: Rejected) -> None:
    """What a lane is stopped for was met so often in that life."""
    met = Counter(end.code for end in _ends(asked, rejected))
    met["lost"] = len({each.subject for each in asked if each.outcome == "gone"})
    met["unreachable"] = sum(each.outcome == "unknown" and each.operation == "run" for each in asked)
    for stopped in life.statistics.stopped_lanes if life.statistics else ():
        code = str(stopped.failure.code)
        hold(met[code] >= life.options.lane_faults, f"life {life.number} met {met}, and says: {stopped}")


@dataclass(frozen=True)
class _End:
    """When an execution was (last) told to have ended, and the code of its fault; None: it had none."""

    at: float
    code: str | None
    prompt: str


def _ends(asked: Sequence[Asked], rejected: Rejected) -> list[_End]:
    """Those that were told, in order."""
    ends: dict[int, _End] = {}
    for each in asked:
        if each.operation == "status" and each.outcome == "ended" and each.execution and each.answered_at is not None:
            code, at = FATES[each.execution.fate].code, each.answered_at
            if each.execution.fate == "done" and each.job is not None:
                code, at = rejected.get(each.job.job_id), _downloaded_at(each.job, asked, at)
            ends[id(each.execution)] = _End(at, code, _prompt_of(each))
    return sorted(ends.values(), key=lambda end: end.at)


def _downloaded_at(job: Job, asked: Sequence[Asked], told_at: float) -> float:
    """When the job's pictures were there to be looked at: with their links they are not."""
    downloads = (each for each in asked if each.job is job and each.operation == "download")
    return max((each.answered_at or told_at for each in downloads), default=told_at)


def _prompt_of(asked: Asked) -> str:
    """What a request is about; empty for a job that never was."""
    if isinstance(asked.subject, tuple):
        return asked.subject[0]
    return asked.job.subject[0] if asked.job else ""
