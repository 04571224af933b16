"""What jobs cost, and how sure that is. Pure.

The platform charges seconds of a worker and never says money, so every sum is times multiplied by a price that somebody
named. Execution is measured for each job; cold starts and idle tails are charged too, belong to no job, and can only be
estimated.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from asyncgen.protocol import Timing

#: A worker is paid for this long after its last job: RunPod's default idle timeout.
IDLE_TAIL_SECONDS: Final = 5.0
#: What is taken for a cold start at the most: others measured 11 to 61 s, and a longer wait was a queue.
LONGEST_COLD_START_SECONDS: Final = 60.0
_ROUNDING_USD: Final = 1e-9


class Label(StrEnum):
    """How sure a sum is."""

    MEASURED = "measured"
    ESTIMATED = "estimated"
    LOWER_BOUND = "lower bound"  # some jobs never said how long they ran
    UNPRICED = "unpriced"


class Use(StrEnum):
    """What became of what was paid for."""

    MADE = "made"
    FAILED = "failed"
    CANCELLED = "cancelled"  # taken back; it may have run until then
    LOST = "lost"  # it may have been a good picture; nobody has it
    UNKNOWN = "unknown"  # whether it was bought at all was never learned


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars for one second of one worker, and where the figure comes from, in words."""

    usd_per_second: float
    source: str


@dataclass(frozen=True, slots=True)
class Cost:
    """A sum and its label. `usd` is None where it is unpriced, or nothing is known that could be added up.

    `most_usd` is what a lower bound can be at the most; None where that is not known, and for every other sum.
    """

    usd: float | None
    label: Label
    most_usd: float | None = None

    @classmethod
    def of_jobs(cls, usd: float, *, untimed: int, unpriced: int, most_usd: float | None = None) -> Cost:
        """The execution cost of jobs, of which some gave no time and some had no price."""
        if unpriced:
            return cls(None, Label.UNPRICED)
        if untimed:
            return cls(usd or None, Label.LOWER_BOUND, most_usd)
        return cls(usd, Label.MEASURED)

    def __str__(self) -> str:
        if self.usd is None:
            return "unpriced" if self.label is Label.UNPRICED else "not known"
        match self.label:
            case Label.LOWER_BOUND:
                return f"at least {dollars(self.usd)}"
            case Label.ESTIMATED:
                return f"about {dollars(self.usd)}"
            case _:
                return dollars(self.usd)

    @property
    def in_full(self) -> str:
        """The sum with all that is known of it: how sure it is where its words do not say so."""
        if self.label is Label.MEASURED:
            return f"{self} ({self.label})"
        why = " (no job said how long it ran)" if self.label is Label.LOWER_BOUND and self.usd is None else ""
        return f"{self}{why}{self._at_most}"

    @property
    def bounds(self) -> str:
        """The sum, and the most it can be where it is a lower bound and that is known."""
        return f"{self}{self._at_most}"

    @property
    def _at_most(self) -> str:
        return "" if self.most_usd is None else f", at most {dollars(self.most_usd)}"


@dataclass(slots=True)
class Tally:
    """Jobs that ended, the time they said they ran, how many said none, and the most that those can have run."""

    jobs: int = 0
    execution_ms: int = 0
    untimed: int = 0
    untimed_most_ms: int = 0

    def add(self, execution_ms: int | None, most_ms: int) -> None:
        """One job; it can have run for `most_ms` where it did not say how long (None)."""
        self.jobs += 1
        self.execution_ms += execution_ms or 0
        self.untimed += execution_ms is None
        self.untimed_most_ms += most_ms if execution_ms is None else 0

    def cost(self, price: Price | None) -> Cost:
        if price is None:
            return Cost.of_jobs(0.0, untimed=self.untimed, unpriced=self.jobs)
        usd = self.execution_ms / 1000 * price.usd_per_second
        most_usd = usd + self.untimed_most_ms / 1000 * price.usd_per_second
        return Cost.of_jobs(usd, untimed=self.untimed, unpriced=0, most_usd=most_usd)


@dataclass(slots=True)
class Spending:
    """What one run has paid for so far, by use; `first_delay_ms` is that of the first job each worker said it ran."""

    tallies: dict[Use, Tally] = field(default_factory=lambda: {use: Tally() for use in Use})
    first_delay_ms: dict[str, int] = field(default_factory=dict)

    def add(self, use: Use, timing: Timing, most_ms: int) -> None:
        """One job has ended; see `Tally.add`."""
        self.tallies[use].add(timing.execution_ms, most_ms)
        if timing.worker_id is not None:
            self.first_delay_ms.setdefault(timing.worker_id, timing.delay_ms or 0)

    @property
    def total(self) -> Tally:
        """All uses together."""
        tallies = self.tallies.values()
        return Tally(
            sum(tally.jobs for tally in tallies),
            sum(tally.execution_ms for tally in tallies),
            sum(tally.untimed for tally in tallies),
            sum(tally.untimed_most_ms for tally in tallies),
        )

    def overhead(self, price: Price | None) -> Cost:
        """Cold starts and idle tails: one of each for every worker seen.

        A worker's first delay holds its cold start and the time in the queue, so it is an estimate from above, cut at a
        minute; workers that started and ran no job of ours are not seen at all. Where no job named its worker, nothing
        is known.
        """
        if price is None:
            return Cost(None, Label.UNPRICED)
        if self.total.jobs and not self.first_delay_ms:
            return Cost(None, Label.ESTIMATED)
        delays = (delay_ms / 1000 for delay_ms in self.first_delay_ms.values())
        seconds = sum(min(delay, LONGEST_COLD_START_SECONDS) + IDLE_TAIL_SECONDS for delay in delays)
        return Cost(seconds * price.usd_per_second, Label.ESTIMATED)


@dataclass(slots=True)
class Budget:
    """A cap on execution cost, kept by reservation: what is out counts at the most it can cost. None: no cap.

    `committed_usd` is what ended jobs have cost; those that never said a time, and submissions of unknown outcome, stay
    in it at the most they can have cost. `waiting` counts jobs that are ready to be bought and did not fit yet.
    """

    cap_usd: float | None
    committed_usd: float = 0.0
    reserved_usd: float = 0.0
    reservations: int = 0
    waiting: int = 0

    def reserve(self, usd: float) -> bool:
        """Set aside what one job can cost at the most; False, and nothing set aside, where that could pass the cap."""
        if self.cap_usd is not None and self.committed_usd + self.reserved_usd + usd > self.cap_usd + _ROUNDING_USD:
            return False
        self.hold(usd)
        return True

    def hold(self, usd: float) -> None:
        """A job that an earlier run bought is out: it counts, whatever today's cap is."""
        self.reserved_usd += usd
        self.reservations += 1

    def settle(self, reserved_usd: float, spent_usd: float) -> None:
        """A job has ended: its reservation goes, what it has cost stays."""
        self.reservations -= 1
        self.reserved_usd = self.reserved_usd - reserved_usd if self.reservations else 0.0
        self.committed_usd += spent_usd

    def is_reached(self, usd: float) -> bool:
        """Whether another job of this reservation would not fit even if everything that is out turned out free."""
        return self.cap_usd is not None and self.committed_usd + usd > self.cap_usd + _ROUNDING_USD


def sum_of(costs: Iterable[Cost]) -> Cost:
    """Of several execution costs; as sure as the least sure of them."""
    listed = list(costs)
    labels = {cost.label for cost in listed}
    usd = sum(cost.usd or 0.0 for cost in listed)
    mosts = [cost.most_usd if cost.label is Label.LOWER_BOUND else cost.usd for cost in listed]
    known = [most for most in mosts if most is not None]
    return Cost.of_jobs(
        usd,
        untimed=Label.LOWER_BOUND in labels,
        unpriced=Label.UNPRICED in labels,
        most_usd=sum(known) if len(known) == len(mosts) else None,
    )


def dollars(usd: float) -> str:
    """$12.34; below a dollar with as many digits as say something. Never a bare $0.00 for what is not nothing."""
    if usd == 0:
        return "$0"
    return f"${usd:,.2f}" if usd >= 1 else f"${usd:.4f}" if usd >= 0.0001 else f"${usd:.1g}"
