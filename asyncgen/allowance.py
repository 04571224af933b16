"""What a run may still buy and on which terms: budget, lanes, time limits, and what can be fetched before it expires.

One for each run. Every job asks here before it is bought and tells here how it ended, so that all of a run learns from
each. The rules themselves are pure (`money`, `lanes`, `forecast`); this adds the waiting.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable

import anyio

from asyncgen.errors import BudgetReachedError, Failure, FailureCode, RunPausedError
from asyncgen.forecast import Forecast, most_out
from asyncgen.lanes import LaneKind, Lanes, StoppedLane
from asyncgen.lifecycle import State
from asyncgen.money import Budget, Price, Spending, Use, dollars
from asyncgen.protocol import Timing
from asyncgen.records import Item, Spec, Terms
from asyncgen.stopping import Stop

log = logging.getLogger(__name__)


class Allowance:
    """`results_per_second` is how fast results are being fetched now, None while that is not known.

    Build it inside the running event loop.
    """

    def __init__(
        self,
        endpoint: str,
        price: Price | None,
        budget: Budget,
        lanes: Lanes,
        forecast: Forecast,
        results_per_second: Callable[[], float | None],
    ) -> None:
        self.endpoint, self.price, self.budget = endpoint, price, budget
        self._lanes, self._forecast, self._results_per_second = lanes, forecast, results_per_second
        self._job_ended = anyio.Event()
        self._in_work = 0
        self.spending = Spending()

    @property
    def budget_price(self) -> Price | None:
        """The price by which a budget is kept; None where there is none to keep."""
        return None if self.budget.cap_usd is None else self.price

    def count_earlier(self, spent_usd: float, times: Iterable[tuple[Spec, int]]) -> None:
        """Earlier runs have spent part of the budget, and seen how many milliseconds such jobs take."""
        self.budget.committed_usd = spent_usd
        for spec, execution_ms in times:
            self._forecast.learn(spec, execution_ms)

    def note_in_work(self, jobs: int) -> None:
        """So many jobs are being worked on now: those that wait for the budget among them, for a pause to end not."""
        self._in_work = jobs
        self._tell_waiting()

    # -- before a job is bought ----------------------------------------------------------------------------------

    def stop_of(self, spec: Spec) -> StoppedLane | None:
        """The stopped lane that the job belongs to, if there is one."""
        return self._lanes.stop_of(spec, self.endpoint)

    @property
    def stopped_lanes(self) -> tuple[StoppedLane, ...]:
        """In the order they stopped."""
        return tuple(self._lanes.stopped.values())

    @property
    def out(self) -> int:
        """Jobs in work that are at the platform, or on their way to it or from it."""
        return self._in_work - self.budget.waiting

    @property
    def most_out(self) -> int | None:
        """As many jobs as can be fetched before they expire; None while it is not known how fast that goes."""
        rate = self._results_per_second()
        return None if rate is None else most_out(rate)

    async def wait_fetchable(self, stop: Stop) -> None:
        """Return once so few jobs are out that all could be fetched before they expire. Raises `StoppedError`."""
        while (most := self.most_out) is not None and self.out >= most:
            with stop.interruptible():
                await self._next_end()

    async def reserve(self, spec: Spec, stop: Stop) -> Terms:
        """What one job is sent with, its most possible cost set aside; waits for jobs that are out where it must.

        Raises `BudgetReachedError` where no waiting helps, and `StoppedError`.
        """
        while (terms := self._reserved(spec)) is None:
            self.budget.waiting += 1
            try:
                with stop.interruptible():
                    await self._next_end()
                await self.wait_fetchable(stop)  # what waited was not out: others may be by now
            finally:
                self.budget.waiting -= 1
        return terms

    def reserve_at_once(self, terms: Terms) -> bool:
        """Set aside what a job on these terms can cost, if that fits now."""
        return self.budget.reserve(self._usd(terms.execution_timeout_ms))

    def may_take_longer(self, terms: Terms) -> bool:
        """Whether a job on these terms was given less time than the settings allow."""
        return terms.execution_timeout_ms < self._longest_timeout_ms

    def take_over(self, item: Item) -> Terms:
        """A job that an earlier run bought is out: it counts, whatever today's cap is."""
        assert item.endpoint is not None
        timeout_ms = item.execution_timeout_ms or self._longest_timeout_ms
        terms = Terms(item.endpoint, timeout_ms, 0, self._usd_per_second)
        self.budget.hold(self._usd(timeout_ms))
        return terms

    # -- afterwards ----------------------------------------------------------------------------------------------

    def give_back(self, terms: Terms) -> None:
        """Nothing was bought after all."""
        self.budget.settle(self._usd(terms.execution_timeout_ms), 0.0)
        self._tell_waiting()

    def note_unknown(self, terms: Terms, failure: Failure) -> None:
        """It may have been bought: what it can cost stays set aside for good. Raises `RunPausedError`."""
        usd = self._usd(terms.execution_timeout_ms)
        self.budget.settle(usd, usd)
        self.spending.add(Use.UNKNOWN, Timing(), terms.execution_timeout_ms)
        self._tell_waiting()
        self._report(self._lanes.note_unknown(terms.endpoint, failure))

    def note_end(self, item: Item, spec: Spec, failure: Failure | None, timing: Timing, terms: Terms | None) -> None:
        """A job has ended: with pictures (failure None) or without. `terms` None: nothing was set aside for it.

        Raises `RunPausedError` where this stops the endpoint.
        """
        timeout_ms = self._longest_timeout_ms if terms is None else terms.execution_timeout_ms
        most_ms = _most_ms(item, timeout_ms)
        self.spending.add(_use(failure), timing, most_ms)
        self._learn(spec, failure, timing, terms)
        if terms is not None:
            spent_ms = most_ms if timing.execution_ms is None else timing.execution_ms
            self.budget.settle(self._usd(timeout_ms), self._usd(spent_ms))
        self._tell_waiting()
        if item.endpoint is not None and item.state is not State.CANCELLED:
            self._report(self._lanes.note(spec, item.endpoint, failure))

    @property
    def most_usd_of_unknown(self) -> float | None:
        """What settling one submission of unknown outcome can cost at the most; None: unpriced."""
        return None if self.price is None else self._usd(self._longest_timeout_ms)

    # -- inside --------------------------------------------------------------------------------------------------

    def _terms(self, spec: Spec) -> Terms:
        timeout_ms = self._longest_timeout_ms
        if self.budget.cap_usd is not None:  # without a cap a slow job is better than one cut off
            timeout_ms = self._forecast.execution_timeout_ms(spec)
        return Terms(self.endpoint, timeout_ms, self._forecast.ttl_ms(self.out, timeout_ms), self._usd_per_second)

    def _reserved(self, spec: Spec) -> Terms | None:
        """The terms of one job, if what it can cost fits now. Raises `BudgetReachedError` where it never will."""
        terms = self._terms(spec)
        usd = self._usd(terms.execution_timeout_ms)
        if self.budget.reserve(usd):
            return terms
        if self.budget.is_reached(usd):
            raise BudgetReachedError(self._budget_text(usd))
        return None

    def _learn(self, spec: Spec, failure: Failure | None, timing: Timing, terms: Terms | None) -> None:
        """Jobs that fail may do so at once, and say nothing of how long good ones take; one that was cut off does."""
        if failure is None and timing.execution_ms is not None:
            self._forecast.learn(spec, timing.execution_ms)
        elif failure is not None and failure.code is FailureCode.TIMED_OUT and terms is not None:
            self._forecast.learn(spec, terms.execution_timeout_ms)

    @property
    def _longest_timeout_ms(self) -> int:
        return int(self._forecast.execution_timeout_seconds * 1000)

    @property
    def _usd_per_second(self) -> float | None:
        return None if self.price is None else self.price.usd_per_second

    def _usd(self, milliseconds: int) -> float:
        return milliseconds / 1000 * (self._usd_per_second or 0.0)

    def _budget_text(self, usd: float) -> str:
        cap, committed = self.budget.cap_usd or 0.0, self.budget.committed_usd
        if committed == 0:
            return (
                f"the budget of {dollars(cap)} is too small for one job, which can cost up to {dollars(usd)}: "
                "raise --budget, or set a shorter ASYNCGEN_EXECUTION_TIMEOUT, which makes that less; all is pending"
            )
        return (
            f"the budget of {dollars(cap)} is used up: {dollars(committed)} of execution are spent or may have been, "
            f"and another job can cost up to {dollars(usd)}; what is left is pending, raise --budget to continue"
        )

    def _report(self, stopped: StoppedLane | None) -> None:
        if stopped is None:
            return
        if stopped.lane.kind is not LaneKind.ENDPOINT:
            log.error("%s; nothing more of it is sent", stopped)
        else:  # the run stops, and says so
            raise RunPausedError(Failure(stopped.failure.kind, stopped.failure.code, str(stopped)))

    async def _next_end(self) -> None:
        if self._job_ended.is_set():
            self._job_ended = anyio.Event()
        await self._job_ended.wait()

    def _tell_waiting(self) -> None:
        self._job_ended.set()


def _use(failure: Failure | None) -> Use:
    if failure is None:
        return Use.MADE
    return {FailureCode.LOST: Use.LOST, FailureCode.CANCELLED: Use.CANCELLED}.get(failure.code, Use.FAILED)


def _most_ms(item: Item, timeout_ms: int) -> int:
    """The most that an ended job can have run: its limit, and where it was cancelled no longer than it was there."""
    if item.state is not State.CANCELLED or item.submitted_at is None:
        return timeout_ms
    there_ms = math.ceil((item.state_at - item.submitted_at) * 1000)
    return min(there_ms, timeout_ms) if there_ms >= 0 else timeout_ms  # a clock that was set back tells nothing
