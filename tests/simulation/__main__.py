"""`python -m tests.simulation [--first N] [--seeds N] [--digest]`: run seeds on all cores and print what they found."""

from __future__ import annotations

import argparse
import gc
import hashlib
import time
from collections import Counter
from multiprocessing import Pool

from .lives import Outcome, simulate


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seeds", type=int, default=2000, help="how many")
    parser.add_argument("--trace", action="store_true", help="print the trace of each seed that fails")
    options = parser.parse_args()
    began, failures, hits, digest = time.monotonic(), 0, Counter[str](), hashlib.sha256()
    gc.freeze()
    with Pool() as pool:
        seeds = range(options.first, options.first + options.seeds)
        for seed, outcome in zip(seeds, pool.imap(simulate, seeds, chunksize=25), strict=True):
            hits.update(outcome.hits)
            digest.update(outcome.digest.encode())
            if outcome.error is not None:
                failures += 1
                _show(seed, outcome, with_trace=options.trace)
    elapsed = time.monotonic() - began
    for name, count in sorted(hits.items()):
        print(f"{count:8} {name}")
    print(
        f"{options.seeds} seeds, {failures} failed, {options.seeds / elapsed:.0f} a second, {digest.hexdigest()[:16]}"
    )
    raise SystemExit(failures > 0)


def _show(seed: int, outcome: Outcome, *, with_trace: bool) -> None:
    print(f"seed {seed}: {outcome.error}")
    for entry in outcome.trace if with_trace else ():
        print("    ", *entry)


if __name__ == "__main__":
    main()
