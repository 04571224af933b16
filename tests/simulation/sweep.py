"""A crash at every step in turn: the first life of small plans is cut off at each of its ticks, in both ways."""

from __future__ import annotations

from collections.abc import Iterator

from .choices import Key
from .lives import Outcome, simulate

_NEVER = 1 << 60

#: A swept crash: the plan, the tick of its first life, and whether the power goes or the process is killed.
Crash = tuple[int, int, bool]


def crashes(plan: int) -> Iterator[Crash]:
    """Every crash of one plan."""
    last = simulate(plan, _fixed(plan), crash=(_NEVER, False)).first_life_ticks
    return ((plan, tick, power_cut) for tick in range(1, last + 1) for power_cut in (True, False))


def crash(which: Crash) -> Outcome:
    """What a plan gives with one crash in its first life."""
    plan, tick, power_cut = which
    return simulate(plan, _fixed(plan), crash=(tick, power_cut))


def _fixed(plan: int) -> dict[Key, int]:
    """Up to three rows, one life before the calm one, in every other plan some faults of requests and jobs, and in
    every fourth pictures that are rejected.
    """
    return {
        ("jobs", 0): plan % 3,
        ("LoRA sets", 0): 0,
        ("budget of", 0): plan % 4,
        ("lives", 0): 1,
        ("fault percent", 0): 2 * (plan % 2),
        ("latency", 0): plan % 3,
        ("spoils pictures", 0): 9_999 if plan % 4 == 3 else 0,
        ("chaos", 0): 0,
        ("fewer rows", 0): 0,
        ("stops", 0): 0,
        ("sleeps", 0): 0,
        ("once more", 0): 0,
    }
