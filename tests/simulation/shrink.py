"""From a seed that fails to the few accidents that it takes: draws are set to 0 for as long as it still fails alike."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping

from .choices import Key
from .lives import Outcome, simulate

_MAX_RUNS = 250

Kept = dict[Key, int]


def shrink(seed: int, outcome: Outcome) -> tuple[Kept, Outcome]:
    """The draws that are not 0 in the smallest failing run found, every other being 0, and what that run gave."""
    kind, runs = _kind(outcome), 0
    kept = {key: value for key, value in outcome.used.items() if value}

    def attempt(candidate: Kept) -> Outcome | None:
        nonlocal runs
        runs += 1
        tried = simulate(seed, candidate, others_are_0=True)
        return tried if _kind(tried) == kind else None

    size = max(1, len(kept) // 2)
    while runs < _MAX_RUNS:
        kept, outcome, was_smaller = _pass(kept, outcome, size, attempt, lambda: runs < _MAX_RUNS)
        if size == 1 and not was_smaller:
            break
        size = max(1, size // 2)
    return kept, outcome


def _pass(
    kept: Kept, outcome: Outcome, size: int, attempt: Callable[[Kept], Outcome | None], may_go_on: Callable[[], bool]
) -> tuple[Kept, Outcome, bool]:
    """Once along the draws, leaving out `size` of them at a time."""
    begin, was_smaller = 0, False
    while begin < len(kept) and may_go_on():
        keys = list(kept)
        left_out = set(keys[begin : begin + size])
        tried = attempt({key: value for key, value in kept.items() if key not in left_out})
        if tried is None:
            begin += size
        else:
            kept, outcome, was_smaller = {key: value for key, value in tried.used.items() if value}, tried, True
    return kept, outcome, was_smaller


def written(kept: Mapping[Key, int]) -> str:
    """The draws as an argument of `--only`."""
    return json.dumps([[*key, value] for key, value in kept.items()], separators=(",", ":"))


def read(text: str) -> Kept:
    """What `written` wrote."""
    return {tuple(key): value for *key, value in json.loads(text)}


def _kind(outcome: Outcome) -> str | None:
    """Which truth was broken, without the names and numbers that it was broken with."""
    return outcome.error and re.sub(r"\d+(\.\d+)?", "#", outcome.error.partition(": prompt")[0])[:80]
