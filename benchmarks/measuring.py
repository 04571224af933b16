"""One side of a comparison, run in a process of its own: wall time, and CPU of all its threads and children."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Workload:
    """What each side is to do: `jobs` pictures from an endpoint into `folder`, `concurrency` of them out at once."""

    base_url: str
    endpoint: str
    api_key: str
    jobs: int
    folder: Path
    concurrency: int
    polling_interval_seconds: float

    def prompts(self) -> list[str]:
        """One prompt per job, all different."""
        return [f"a lighthouse on a rock in heavy seas, study {number}" for number in range(self.jobs)]


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of one side. CPU is user and system time together."""

    wall_seconds: float
    cpu_seconds: float


#: Must be importable by name: it is run in another process.
Side = Callable[[Workload], None]


def measure(side: Side, workload: Workload) -> Sample:
    """Run a side in a fresh process. What it raises is raised here.

    Its imports and the start of the process are not counted; what it imports late is.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        return executor.submit(_measured, side, workload).result()


def _measured(side: Side, workload: Workload) -> Sample:
    os.chdir(workload.folder)  # away from a `.env`
    wall, cpu = time.perf_counter(), _cpu_seconds()
    side(workload)
    return Sample(time.perf_counter() - wall, _cpu_seconds() - cpu)


def _cpu_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)
