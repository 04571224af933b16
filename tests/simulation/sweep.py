"""A crash at every step in turn: the first life of small plans is cut off at each of its ticks, in both ways.

Of crashes that cannot differ one is simulated: at steps between which nothing happened but in the engine's memory, and
by kill and power cut where all was flushed.
"""

from __future__ import annotations

from .choices import Key
from .lives import Outcome, simulate

_NEVER = 1 << 60

#: Where a plan is cut off: its number, and the tick of its first life.
Crash = tuple[int, int]


def crashes(plan: int) -> list[Crash]:
    """Every crash of one plan that can differ from the one before."""
    return [(plan, tick) for tick in simulate(plan, fixed(plan), crash=(_NEVER, False)).changed_at]


def crash(which: Crash) -> dict[str, Outcome]:
    """What a plan gives with one crash in its first life, by its kind."""
    plan, tick = which
    killed = simulate(plan, fixed(plan), crash=(tick, False))
    if killed.first_crash_was_durable:
        return {"kill or power cut": killed}
    return {"kill": killed, "power cut": simulate(plan, fixed(plan), crash=(tick, True))}


def fixed(plan: int) -> dict[Key, int]:
    """The draws of a plan: up to three rows, one life before the calm one, in every other plan some faults of requests
    and jobs, and in every fourth pictures that are rejected.
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
