"""`python -m tests.simulation`: run seeds (or sweep plans) on all cores, and print what they found.

A seed that fails is printed with the accidents it takes and the command that shows it again; the exit code says whether
everything held, and whether everything that must be met was met.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain
from multiprocessing import Pool
from typing import Any

from . import coverage, shrink, sweep
from .lives import Outcome, simulate

_CHUNK = 10


def main() -> None:
    options = _options()
    began = time.monotonic()
    with Pool(options.processes, initializer=_prepare) as pool:
        if options.only:
            found = [(options.first, simulate(options.first, shrink.read(options.only), others_are_0=True))]
            ran = _show_all(found, options)
        elif options.sweep:
            plans = range(options.first, options.first + options.sweep)
            crashes = list(chain.from_iterable(pool.map(sweep.crashes, plans, chunksize=1)))
            ran = _show_all(_of_crashes(pool.imap(sweep.crash, crashes, chunksize=_CHUNK), crashes), options)
        else:
            seeds = range(options.first, options.first + options.seeds)
            ran = _show_all(zip(seeds, pool.imap(simulate, seeds, chunksize=_CHUNK), strict=True), options)
        pool.terminate()
    raise SystemExit(ran.report(time.monotonic() - began, options))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=2000, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first seed, or plan")
    parser.add_argument("--sweep", type=int, metavar="PLANS", help="crash so many plans at every step in turn")
    parser.add_argument("--only", metavar="DRAWS", help="one seed of which all other draws are 0, as printed")
    parser.add_argument("--trace", action="store_true", help="print the trace of each seed that fails")
    parser.add_argument("--stop", action="store_true", help="end at the first seed that fails")
    parser.add_argument("--shrink", action=argparse.BooleanOptionalAction, default=True, help="look for the cause")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="how many cores to use")
    return parser.parse_args()


class _Ran:
    """What all seeds together gave."""

    def __init__(self) -> None:
        self.count = self.failures = 0
        self.hits = Counter[str]()
        self.digest = hashlib.sha256()

    def add(self, outcome: Outcome) -> None:
        self.count += 1
        self.failures += outcome.error is not None
        self.hits.update(outcome.hits)
        self.digest.update(outcome.digest.encode())

    def report(self, seconds: float, options: argparse.Namespace) -> int:
        """Print it; the exit code."""
        missing = coverage.missing(self.hits) if self.count >= coverage.ENOUGH_SEEDS and not options.sweep else []
        if not options.stop and not options.only:
            print(coverage.table(self.hits))
        for name in missing:
            print(f"never met: {name}")
        what = "crashes" if options.sweep else "seeds"
        speed, digest = self.count / seconds, self.digest.hexdigest()[:16]
        print(f"{self.count} {what}, {self.failures} failed, {speed:.0f} a second, {digest}")
        return int(self.failures > 0 or bool(missing))


def _show_all(found: Iterable[tuple[Any, Outcome]], options: argparse.Namespace) -> _Ran:
    ran = _Ran()
    for name, outcome in found:
        ran.add(outcome)
        if outcome.error is not None:
            _show(name, outcome, options)
            if options.stop:
                break
    return ran


def _show(name: Any, outcome: Outcome, options: argparse.Namespace) -> None:
    if isinstance(name, str):
        print(f"{name}: {outcome.error}")
    else:
        print(f"seed {name}: {outcome.error}")
        print(f"  python -m tests.simulation --first {name} --seeds 1 --trace --no-shrink")
        if options.shrink and not options.only:
            kept, outcome = shrink.shrink(name, outcome)
            print(f"  {len(kept)} draws are enough: {outcome.error}")
            print(f"  python -m tests.simulation --first {name} --trace --only '{shrink.written(kept)}'")
    if options.trace or (options.shrink and not isinstance(name, str)):
        for entry in outcome.trace:
            print("    ", *entry)


def _of_crashes(found: Iterable[dict[str, Outcome]], crashes: list[sweep.Crash]) -> Iterator[tuple[str, Outcome]]:
    for (plan, tick), outcomes in zip(crashes, found, strict=True):
        for kind, outcome in outcomes.items():
            yield f"plan {plan}, {kind} at tick {tick}", outcome


def _prepare() -> None:
    """What was imported is never garbage; collecting less often makes seeds an eighth faster."""
    gc.freeze()
    gc.set_threshold(20_000)


if __name__ == "__main__":
    main()
