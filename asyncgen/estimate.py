"""How long images that are not made yet will take, and what they will cost: ranges, each with its basis. Pure.

Nothing is made up. A lane's time comes from jobs that ran before, or from the caller's own rate, or it is not known and
is said to be so. A range goes from the tenth to the ninetieth percentile of the jobs it is based on, as if all were
as quick, or as slow, as those; the likely figure is their mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from asyncgen.money import IDLE_TAIL_SECONDS, Price
from asyncgen.records import Spec

#: So many jobs of a lane are looked at, its newest.
MOST_JOBS: Final = 200
_LOW, _HIGH = 0.1, 0.9


@dataclass(frozen=True, slots=True)
class Work:
    """What decides how long a job runs: jobs that share all of it are one lane. `loras` is how many it loads."""

    workflow: str
    model: str
    width: int
    height: int
    steps: int
    batch_size: int
    loras: int

    def __str__(self) -> str:
        each = "" if self.batch_size == 1 else f" x {self.batch_size}"
        loras = "no LoRA" if self.loras == 0 else f"{self.loras} LoRA{'s' if self.loras > 1 else ''}"
        return f"{self.workflow}, {self.model}, {self.width}x{self.height}{each}, {self.steps} steps, {loras}"


def work_of(spec: Spec) -> Work:
    """The lane of a job."""
    return Work(spec.workflow, spec.model, spec.width, spec.height, spec.steps, spec.batch_size, len(spec.loras))


class Basis(StrEnum):
    """What a lane's time is based on."""

    RATE = "your rate"
    HISTORY = "history"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Span:
    """A range with its likely figure: low <= likely <= high."""

    low: float
    likely: float
    high: float

    def times(self, factor: float) -> Span:
        """The range multiplied; `factor` is not below 0."""
        return Span(self.low * factor, self.likely * factor, self.high * factor)

    def plus(self, other: Span) -> Span:
        """The sum of two ranges, as if both were low, or high, together."""
        return Span(self.low + other.low, self.likely + other.likely, self.high + other.high)


NOTHING: Final = Span(0.0, 0.0, 0.0)


def span_of(values: Sequence[float]) -> Span | None:
    """The tenth percentile, the mean and the ninetieth of these; None of none."""
    if not values:
        return None
    ordered, mean = sorted(values), sum(values) / len(values)
    low, high = (ordered[round(share * (len(ordered) - 1))] for share in (_LOW, _HIGH))
    return Span(min(low, mean), mean, max(high, mean))


@dataclass(frozen=True, slots=True)
class History:
    """What a ledger says of jobs that ended well: seconds of execution by lane, newest first.

    `cold_starts` are the first delays of workers, seconds, their time in the queue included. `price` is what the newest
    of those jobs that had one was bought at.
    """

    seconds: Mapping[Work, Sequence[float]]
    cold_starts: Sequence[float] = ()
    price: Price | None = None


@dataclass(frozen=True, slots=True)
class LaneEstimate:
    """One lane: how many jobs, and the seconds each runs (None: not known), going by `jobs_seen` jobs."""

    work: Work
    jobs: int
    seconds_each: Span | None
    basis: Basis
    jobs_seen: int

    @property
    def seconds(self) -> Span | None:
        """Of all its jobs together."""
        return None if self.seconds_each is None else self.seconds_each.times(self.jobs)


@dataclass(frozen=True, slots=True)
class Estimate:
    """What is to be made. `workers` None: nobody said how many there will be; `price` None: not known.

    `worker_seconds` and `usd` are of the lanes whose time is known; `jobs_unknown` are those of the others.
    """

    lanes: tuple[LaneEstimate, ...]
    workers: int | None
    price: Price | None
    cold_start: Span | None

    @property
    def jobs(self) -> int:
        """All jobs that are to be bought."""
        return sum(lane.jobs for lane in self.lanes)

    @property
    def jobs_unknown(self) -> int:
        """Those of lanes whose time is not known."""
        return sum(lane.jobs for lane in self.lanes if lane.seconds_each is None)

    @property
    def worker_seconds(self) -> Span | None:
        """Seconds of execution, of all workers together; None: no lane's time is known."""
        known = [lane.seconds for lane in self.lanes if lane.seconds is not None]
        if not known:
            return NOTHING if not self.lanes else None
        total = NOTHING
        for span in known:
            total = total.plus(span)
        return total

    @property
    def seconds(self) -> Span | None:
        """From the first start to the last end with all workers busy, cold starts apart; None: not known."""
        if self.worker_seconds is None or self.workers is None:
            return None
        return self.worker_seconds.times(1 / max(1, min(self.workers, self.jobs)))

    @property
    def usd(self) -> Span | None:
        """What the execution costs; None where time or price is not known."""
        if self.worker_seconds is None or self.price is None:
            return None
        return self.worker_seconds.times(self.price.usd_per_second)

    @property
    def overhead_usd_each(self) -> Span | None:
        """What each worker that starts costs beside it: its cold start and its idle tail; None where not known."""
        if self.cold_start is None or self.price is None:
            return None
        idle = Span(IDLE_TAIL_SECONDS, IDLE_TAIL_SECONDS, IDLE_TAIL_SECONDS)
        return self.cold_start.plus(idle).times(self.price.usd_per_second)


def estimate(
    jobs: Mapping[Work, int],
    history: History,
    *,
    seconds_per_image: float | None = None,
    workers: int | None = None,
    price: Price | None = None,
) -> Estimate:
    """What these many jobs of each lane will take.

    `seconds_per_image` is the caller's rate (above 0), which counts before all history; `price` before the history's.
    """
    lanes = tuple(
        _lane(work, count, history, seconds_per_image)
        for work, count in sorted(jobs.items(), key=lambda pair: (-pair[1], str(pair[0])))
        if count
    )
    return Estimate(lanes, workers, price or history.price, span_of(history.cold_starts))


def _lane(work: Work, jobs: int, history: History, seconds_per_image: float | None) -> LaneEstimate:
    if seconds_per_image is not None:
        each = seconds_per_image * work.batch_size
        return LaneEstimate(work, jobs, Span(each, each, each), Basis.RATE, 0)
    seen = history.seconds.get(work, ())
    span = span_of(seen)
    return LaneEstimate(work, jobs, span, Basis.UNKNOWN if span is None else Basis.HISTORY, len(seen))


def jobs_that_fit(budget_usd: float, found: Iterable[LaneEstimate], price: Price) -> int | None:
    """How many of these jobs a budget pays for at the high end of their ranges; None where a lane's time is unknown."""
    left, fitting = budget_usd, 0
    for lane in found:
        if lane.seconds_each is None:
            return None
        each = lane.seconds_each.high * price.usd_per_second
        count = min(lane.jobs, int(left / each)) if each else lane.jobs
        left, fitting = left - count * each, fitting + count
    return fitting
