"""One side of a comparison, run in a process of its own: wall time, CPU of all threads and children, peak memory.

A side is a module of `benchmarks.sides` with a function `fetch(workload)`, async or not; the process imports it and
nothing else of the suite (`benchmarks.child`), so that memory is the side's own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.workload import Workload

_CHECKOUT: Final = Path(__file__).resolve().parents[1]
_HEARTBEAT: Final = "heartbeat"


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of one side. CPU is user and system time together; `peak_bytes` is the most that was ever resident.

    `late_seconds` are the delays of a 1 ms heartbeat beside it, where one was asked for.
    """

    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int
    late_seconds: tuple[float, ...] = ()


def measure(
    side: str, workload: Workload, *, environment: Mapping[str, str] | None = None, heartbeat: bool = False
) -> Sample:
    """Run the side of that name in a fresh process, in `workload.folder`, with so many more environment variables.

    Starting Python and importing the side are not counted; what it imports late is. Raises RuntimeError where the side
    fails; what it says is on stderr.
    """
    command = [sys.executable, "-m", "benchmarks.child", side, *([_HEARTBEAT] if heartbeat else [])]
    done = subprocess.run(
        command,
        input=workload.to_json(),
        env=_environment(workload) | dict(environment or {}),
        cwd=workload.folder,  # away from a `.env`
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"the side {side!r} failed with exit code {done.returncode}")
    figures = json.loads(done.stdout.splitlines()[-1])
    return Sample(
        figures["wall_seconds"], figures["cpu_seconds"], figures["peak_bytes"], tuple(figures["late_seconds"])
    )


def checkout_environment() -> dict[str, str]:
    """Our environment, but that what is imported is this checkout's asyncgen, whatever is installed."""
    return os.environ | {"PYTHONPATH": str(_CHECKOUT)}


def _environment(workload: Workload) -> dict[str, str]:
    """The address is the official client's own variable; a home of its own, because it reads credentials there."""
    return checkout_environment() | {
        "HOME": str(workload.folder),
        "RUNPOD_ENDPOINT_BASE_URL": workload.base_url,
    }
