"""What a run has come to so far, and what a command to it has met. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from asyncgen.lanes import StoppedLane
from asyncgen.money import Budget, Price, Spending


@dataclass(slots=True)
class Statistics:
    """Counts of one run so far. `in_work` are jobs being worked on now, `put_off` those of them that wait for the end
    of a pause; `spending` is what those that ended have cost.

    `target` is how many jobs are to be out, None where that is a fixed number. `price` None: not known. `unknown_usd`
    is what settling one held submission can cost at the most.

    `added` of what is wanted came by command, and is in no input.

    `wanted` = `kept` + `repeated` + `made` + `failed` + `held` + `cancelled` + `pending`, once the run has ended.
    """

    wanted: int = 0
    new: int = 0
    kept: int = 0
    changed: int = 0
    repeated: int = 0
    reattached: int = 0
    made: int = 0
    failed: int = 0
    held: int = 0
    cancelled: int = 0
    added: int = 0
    in_work: int = 0
    put_off: int = 0
    target: int | None = None
    pictures: int = 0
    input_ended: bool = False
    paused: bool = False
    spending: Spending = field(default_factory=Spending)
    budget: Budget = field(default_factory=lambda: Budget(None))
    price: Price | None = None
    unknown_usd: float | None = None
    stopped_lanes: tuple[StoppedLane, ...] = ()

    @property
    def waiting(self) -> int:
        """Jobs in work that wait for the budget: for others to end and have cost less than they might."""
        return self.budget.waiting

    @property
    def out(self) -> int:
        """Jobs in work that are at the platform, or on their way to it or from it."""
        return self.in_work - self.waiting - self.put_off

    @property
    def pending(self) -> int:
        """Wanted, and neither there nor settled."""
        return self.wanted - (self.kept + self.repeated + self.made + self.failed + self.held + self.cancelled)


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """What a withdrawal met: jobs that were out, and wanted images that were not sent."""

    out: int
    unsent: int


@dataclass(frozen=True, slots=True)
class Added:
    """What became of wants that were added: `added` are to be made, `there` are made, out, or failed before.

    `is_taken` False: the run has come to its end, so that another one makes them.
    """

    added: int
    there: int
    is_taken: bool
