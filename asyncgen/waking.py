"""`asyncgen batch --warm`: says what waking workers can cost, wakes them, and keeps the cost within the budget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import anyio

from asyncgen.api import ImageGenerator
from asyncgen.console import print_json
from asyncgen.display import Display, duration
from asyncgen.errors import InputError
from asyncgen.estimate import Span
from asyncgen.money import IDLE_TAIL_SECONDS, Price, dollars
from asyncgen.plan_display import counted
from asyncgen.planning import Question, surveyed
from asyncgen.records import Want
from asyncgen.run import BatchRun, pace_of
from asyncgen.warming import JOB_SECONDS, Warmed, small_job, wake

#: Seconds, as others measured them (runpod-api.md), where the ledger has no cold start of its own.
_COLD_START_SECONDS: Final = Span(11.0, 36.0, 61.0)


@dataclass(slots=True)
class WarmUp:
    """Workers to be woken once, before the first run that is given this; `want` is an image that will be made.

    `cold_start` None: the ledger knows none. `usd` is what it has cost at the most, None until it is done.
    """

    count: int
    want: Want
    cold_start: Span | None
    as_json: bool
    usd: float | None = None


def warm_up_of(question: Question, count: int, *, as_json: bool) -> WarmUp | None:
    """At most one worker for each image that is to be made; None where none is. Raises `InputError` for a stream."""
    if question.source.is_stream:
        raise InputError("warming up needs a file: standard input can be read only once", field="--warm")
    with surveyed(question) as report:
        if report.first is None:
            return None
        cold_start = None if report.estimate is None else report.estimate.cold_start
        return WarmUp(min(count, report.to_make), report.first, cold_start, as_json)


async def warm_up(generator: ImageGenerator, run: BatchRun, plan: WarmUp, shown: Display) -> None:
    """Wake the workers, once; what that has cost counts against the budget of every run that is given the plan.

    Raises `InputError` where the budget has not as much left as it can cost, `RunPausedError` as any run does.
    """
    budget = run.statistics.budget
    if plan.usd is None:
        planner, threads = generator.planner, generator.workspace.ports.file_threads
        urls = await planner.model_urls.to_send(plan.want.spec.model_urls, threads)
        body = small_job(planner, plan.want, urls)
        await _check_budget(generator, run, plan)
        shown.notice(_price_words(plan, run.statistics.price))
        workspace, target = generator.workspace, generator.target
        endpoint = workspace.endpoint_at(target.address, target.api_key, pace_of(generator.settings))
        warmed = Warmed()
        try:
            async with workspace.sharing.in_use():
                await wake(endpoint, workspace.ports, body, plan.count, warmed)
        except anyio.get_cancelled_exc_class():
            shown.notice(_stopped_words(plan, warmed, run.statistics.price))
            raise
        plan.usd = warmed.seconds() * (0.0 if run.statistics.price is None else run.statistics.price.usd_per_second)
        _tell(plan, warmed, run.statistics.price, shown)
    if budget.cap_usd is not None:
        budget.cap_usd = max(0.0, budget.cap_usd - plan.usd)


async def _check_budget(generator: ImageGenerator, run: BatchRun, plan: WarmUp) -> None:
    cap_usd, price = run.statistics.budget.cap_usd, run.statistics.price
    if cap_usd is None or price is None:
        return
    left = cap_usd - await generator.workspace.ledger.committed_usd(run.batch, price.usd_per_second)
    if (most := _most_usd(plan, price)) > left:
        raise InputError(
            f"waking {plan.count} workers can cost {dollars(most)}, and the budget has {dollars(max(0.0, left))} left: "
            "raise it, wake fewer, or leave --warm out",
            field="budget",
        )


def _most_usd(plan: WarmUp, price: Price) -> float:
    return plan.count * JOB_SECONDS * price.usd_per_second


def _price_words(plan: WarmUp, price: Price | None) -> str:
    jobs, workers = counted(plan.count, "small job"), counted(plan.count, "worker")
    start, whose = plan.cold_start or _COLD_START_SECONDS, "by this ledger" if plan.cold_start else "others measured"
    execution = f"{duration(JOB_SECONDS)} of execution each"
    each = ""
    if price is not None:
        execution = f"{dollars(_most_usd(plan, price))} of execution ({execution})"
        idle = Span(IDLE_TAIL_SECONDS, IDLE_TAIL_SECONDS, IDLE_TAIL_SECONDS)
        usd = start.plus(idle).times(price.usd_per_second)
        each = f", {dollars(usd.low)} to {dollars(usd.high)} each"
    return (
        f"waking {workers} with {jobs}, which are no images of the batch: at the most {execution}; beside it a cold "
        f"start ({start.low:.0f} to {start.high:.0f} s, {whose}) and {IDLE_TAIL_SECONDS:g} s of idling{each}"
    )


def _stopped_words(plan: WarmUp, warmed: Warmed, price: Price | None) -> str:
    """What became of the jobs of a run that is stopped here, at the price that was stated: one may be in the air."""
    most = f"{duration(JOB_SECONDS)} each" if price is None else f"{dollars(_most_usd(plan, price))} in all"
    left = f", {warmed.left} could not be and end by their own limits" if warmed.left else ""
    return (
        f"stopped while waking workers: {counted(warmed.jobs, 'small job')} sent, {warmed.cancelled} of them still out "
        f"and now cancelled{left}; they cost {most} of execution at the most, cold starts apart; no image was bought"
    )


def _tell(plan: WarmUp, warmed: Warmed, price: Price | None, shown: Display) -> None:
    cost = None if price is None else plan.usd
    if plan.as_json:
        print_json(
            {
                "event": "warm",
                "asked_for": plan.count,
                "awake_before": warmed.awake,
                "jobs": warmed.jobs,
                "workers": sorted(warmed.workers),
                "execution_seconds_at_most": warmed.seconds(),
                "usd_at_most": cost,
                "faults": warmed.faults,
            }
        )
    elif not warmed.jobs and warmed.awake >= plan.count:
        shown.notice(f"{warmed.awake} workers are running already: nothing was sent, and nothing was paid for it")
    else:
        spent = "unpriced" if cost is None else dollars(cost)
        sure = "at the most " if warmed.untimed and cost is not None else ""
        shown.notice(f"{counted(len(warmed.workers), 'worker')} answered; waking them cost {sure}{spent} of execution")
        for fault in dict.fromkeys(warmed.faults):
            shown.notice(f"waking: {fault}")
