"""`python -m tests.fuzz [--cases N] [--seed N] [--target NAME]`: run cases on all cores and print what they found."""

from __future__ import annotations

import argparse
import gc
import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing import Pool

from .bounds import Verdict, confine, peak_bytes, run_case
from .targets import TARGETS

_CHUNK = 50
_MOST_SHOWN = 10


@dataclass(slots=True)
class Findings:
    """What some cases showed; of several processes they add up."""

    cases: int = 0
    seen: Counter[str] = field(default_factory=Counter)
    slowest: Verdict | None = None
    failures: list[Verdict] = field(default_factory=list)
    peak_growth_bytes: int = 0

    def take(self, verdict: Verdict) -> None:
        self.cases += 1
        self.seen.update(f"{verdict.target}: {word}" for word in verdict.seen)
        if self.slowest is None or verdict.cpu_seconds > self.slowest.cpu_seconds:
            self.slowest = verdict
        if verdict.error is not None:
            self.failures.append(verdict)

    def add(self, other: Findings) -> None:
        self.cases += other.cases
        self.seen.update(other.seen)
        self.failures += other.failures
        self.peak_growth_bytes = max(self.peak_growth_bytes, other.peak_growth_bytes)
        if other.slowest and (self.slowest is None or other.slowest.cpu_seconds > self.slowest.cpu_seconds):
            self.slowest = other.slowest


def main() -> None:
    options = _options()
    names = list(TARGETS) if options.target == "all" else [options.target]
    work = _chunks(names, options.seed, options.cases)
    began, found = time.monotonic(), Findings()
    gc.freeze()
    with Pool(initializer=_begin) as pool:
        for part in pool.imap_unordered(_run_chunk, work):
            found.add(part)
    _show(found, time.monotonic() - began)
    raise SystemExit(bool(found.failures))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=5000, help="how many, split evenly over the targets")
    parser.add_argument("--seed", type=int, default=0, help="of the first case; the next ones count on from it")
    parser.add_argument("--target", choices=[*TARGETS, "all"], default="all")
    return parser.parse_args()


def _chunks(names: Sequence[str], first: int, cases: int) -> list[tuple[str, range]]:
    """Target and seeds, a few dozen at a time; `cases` in all."""
    chunks = []
    for number, name in enumerate(names):
        share = cases // len(names) + (number < cases % len(names))
        seeds = range(first, first + share)
        chunks += [(name, seeds[start : start + _CHUNK]) for start in range(0, share, _CHUNK)]
    return chunks


_peak_before_bytes = 0


def _begin() -> None:
    global _peak_before_bytes
    logging.getLogger("asyncgen").setLevel(logging.CRITICAL)
    for target in TARGETS.values():  # what is loaded once is no cost of the case that needs it first
        for seed in range(-20, 0):
            run_case(target, seed)
    confine()
    _peak_before_bytes = peak_bytes()


def _run_chunk(chunk: tuple[str, range]) -> Findings:
    name, seeds = chunk
    found = Findings()
    for seed in seeds:
        found.take(run_case(TARGETS[name], seed))
    found.peak_growth_bytes = peak_bytes() - _peak_before_bytes
    return found


def _show(found: Findings, elapsed_seconds: float) -> None:
    for word, count in sorted(found.seen.items()):
        print(f"{count:9} {word}")
    for verdict in sorted(found.failures, key=lambda failure: (failure.target, failure.seed))[:_MOST_SHOWN]:
        print(f"\nFAILED: python -m tests.fuzz --target {verdict.target} --seed {verdict.seed} --cases 1")
        print(verdict.error)
    if found.slowest is not None:
        slowest = found.slowest
        print(f"slowest: {slowest.cpu_seconds * 1000:.0f} ms of CPU, --target {slowest.target} --seed {slowest.seed}")
    print(f"memory: at most {found.peak_growth_bytes / 2**20:.0f} MiB more than at the start")
    print(f"{found.cases} cases, {len(found.failures)} failed, {found.cases / elapsed_seconds:.0f} a second")


if __name__ == "__main__":
    main()
