"""`python -m benchmarks.child SIDE [heartbeat]`: run one side, its workload on standard input, and print what it took.

This process imports the side and the standard library. The side runs as its users run it: an async one in the event
loop, a blocking one as it is or, beside a heartbeat, in a thread of the host's loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import resource
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from benchmarks.workload import Workload

_BEAT_SECONDS: Final = 0.001


def main(side: str, *, heartbeat: bool) -> None:
    """Print, as the last line, what the side took."""
    workload = Workload.from_json(sys.stdin.read())
    fetch = import_module(f"benchmarks.sides.{side}").fetch
    late_seconds: list[float] = []
    wall, cpu = time.perf_counter(), _cpu_seconds()
    if heartbeat:
        asyncio.run(_beside_a_heartbeat(fetch, workload, late_seconds))
    elif inspect.iscoroutinefunction(fetch):
        asyncio.run(fetch(workload))
    else:
        fetch(workload)
    figures = {
        "wall_seconds": time.perf_counter() - wall,
        "cpu_seconds": _cpu_seconds() - cpu,
        "peak_bytes": peak_bytes(),
        "late_seconds": late_seconds,
    }
    print(json.dumps(figures))


async def _beside_a_heartbeat(fetch: Callable[[Workload], Any], workload: Workload, late_seconds: list[float]) -> None:
    """A host application that has something to do every millisecond."""
    beating = asyncio.create_task(_beat(late_seconds))
    await asyncio.sleep(_BEAT_SECONDS)
    if inspect.iscoroutinefunction(fetch):
        await fetch(workload)
    else:
        await asyncio.to_thread(fetch, workload)
    beating.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await beating


async def _beat(late_seconds: list[float]) -> None:
    while True:
        due = time.perf_counter() + _BEAT_SECONDS
        await asyncio.sleep(_BEAT_SECONDS)
        late_seconds.append(time.perf_counter() - due)


def _cpu_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def peak_bytes() -> int:
    """Of this program alone: `ru_maxrss` also knows the process that started it, which Linux counts in."""
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text(encoding="ascii", errors="replace").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    main(sys.argv[1], heartbeat="heartbeat" in sys.argv[2:])
