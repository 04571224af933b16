"""`python -m benchmarks.varied_sandbox SETTINGS`: the sandbox with execution times that it does not have itself.

The settings are JSON: `kind` (a name in `KINDS`), `seconds` (a job's mean), and fields of `SandboxSettings`.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable
from statistics import NormalDist
from typing import Final

import anyio

from asyncgen.sandbox import SandboxSettings, serve

#: From a draw in [0, 1) and the job's number to a multiple of the mean.
Execution = Callable[[float, int], float]

_DRIFT_JOBS: Final = 200
_TEN_PERCENT: Final = NormalDist(1.0, 0.1)


def _around_the_mean(draw: float, _number: int) -> float:
    """Varying by 10 %."""
    return _TEN_PERCENT.inv_cdf(min(max(draw, 1e-6), 1 - 1e-6))


def _bimodal(draw: float, number: int) -> float:
    """Six in ten take 0.67 of the mean, the others 1.5 times it, each within 5 %."""
    slow = number * 0.6180339887 % 1 >= 0.6  # spread evenly
    return (1.5 if slow else 0.67) * (0.95 + 0.1 * draw)


def _drifting(draw: float, number: int) -> float:
    """Varying by 10 % around a mean that grows from 0.75 to 1.25 over so many jobs."""
    return _around_the_mean(draw, number) * (0.75 + 0.5 * min(1.0, number / _DRIFT_JOBS))


KINDS: Final[dict[str, Execution]] = {"10 %": _around_the_mean, "bimodal": _bimodal, "drifting": _drifting}


async def _serve(kind: str, seconds: float, settings: SandboxSettings) -> None:
    numbers = itertools.count()
    async with serve(settings) as sandbox:
        sandbox.exchange.execution = lambda draw: seconds * KINDS[kind](draw, next(numbers))
        print(sandbox.base_url, flush=True)
        await anyio.sleep_forever()


if __name__ == "__main__":
    said = json.loads(sys.argv[1])
    anyio.run(_serve, said.pop("kind"), said.pop("seconds"), SandboxSettings(**said))
