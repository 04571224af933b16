"""Images per second, and CPU per image: asyncgen against a plain loop and against raw sockets.

Each side makes the same jobs of 1.8 MB pictures on one sandbox, a process of its own whose jobs take about 5 ms, so
that what is measured is the client and not the wait for a GPU. asyncgen does all it does for real: ledger on, files
fsynced, every picture hashed and checked, manifest written. Sides take turns, A B C A B C, so that a noisy machine
hurts all alike; figures are medians over the rounds, ratios medians of the ratios within each round.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Final

from asyncgen import generate_many
from benchmarks import peers
from benchmarks.measuring import Sample, Side, Workload, measure
from benchmarks.pictures import picture_faults
from benchmarks.report import Report, machine
from benchmarks.servers import API_KEY, ENDPOINT, SandboxServer, sandbox_server

QUESTION: Final = "throughput: how many 1.8 MB images a second, and for how much CPU each?"

PICTURE_BYTES: Final = 1_800_000
CONCURRENCY: Final = 64
#: With the default of 1 s, 64 jobs out could not land faster than 64 a second, whoever fetches them.
POLLING_INTERVAL_SECONDS: Final = 0.1
_JOBS, _ROUNDS = 1000, 3
_QUICK_JOBS, _QUICK_ROUNDS = 60, 1
_SPEED: Final = 1000.0
#: asyncgen keeps to the platform's rate limits by itself; here there are none, and its peers know of none.
_NO_RATE_LIMIT: Final = 1_000_000


def asyncgen_batch(workload: Workload) -> None:
    """asyncgen by its public call, with its defaults but for the polling interval and the rate limits."""
    results = asyncio.run(
        generate_many(
            workload.prompts(),
            concurrency=workload.concurrency,
            endpoint_base_url=workload.base_url,
            endpoint=workload.endpoint,
            api_key=workload.api_key,
            output_root=workload.folder,
            polling_interval_seconds=workload.polling_interval_seconds,
            run_rate=_NO_RATE_LIMIT,
            status_rate=_NO_RATE_LIMIT,
        )
    )
    failures = [result.failure for result in results if not result.ok]
    if failures:
        raise RuntimeError(f"{len(failures)} of {len(results)} images were not made; the first: {failures[0]}")


ASYNCGEN, PLAIN, FLOOR = "asyncgen", "plain aiohttp", "raw sockets (floor)"
SIDES: Final[Mapping[str, Side]] = {
    ASYNCGEN: asyncgen_batch,
    PLAIN: peers.plain_aiohttp,
    FLOOR: peers.raw_sockets,
}


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one side: what it took and what it asked of the sandbox (CPU None where it cannot be read)."""

    jobs: int
    sample: Sample
    sandbox_cpu_seconds: float | None
    status_calls: int
    faults: tuple[str, ...]

    @property
    def images_per_second(self) -> float:
        """Wall time, from the first line of the side's code to its last."""
        return self.jobs / self.sample.wall_seconds

    @property
    def cpu_ms_per_image(self) -> float:
        """User and system time of all threads and children."""
        return self.sample.cpu_seconds / self.jobs * 1000


Round = Mapping[str, Run]


def run(quick: bool) -> Report:
    """Measure all sides: 3 rounds of 1,000 jobs, or 1 of 60."""
    jobs, rounds = (_QUICK_JOBS, _QUICK_ROUNDS) if quick else (_JOBS, _ROUNDS)
    with sandbox_server(picture_bytes=PICTURE_BYTES, workers=CONCURRENCY, speed=_SPEED) as sandbox:
        _run_side(sandbox, peers.plain_aiohttp, 1)  # the sandbox paints the picture that all jobs share
        measured = [{name: _run_side(sandbox, side, jobs) for name, side in SIDES.items()} for _ in range(rounds)]
    return _report(measured, jobs)


def _run_side(sandbox: SandboxServer, side: Side, jobs: int) -> Run:
    calls_before, cpu_before = sandbox.totals().get("requests.status", 0), sandbox.cpu_seconds()
    with TemporaryDirectory(prefix="asyncgen-benchmark-") as folder:
        sample = measure(side, _workload(sandbox, jobs, Path(folder)))
        cpu_after = sandbox.cpu_seconds()
        return Run(
            jobs,
            sample,
            None if cpu_before is None or cpu_after is None else cpu_after - cpu_before,
            sandbox.totals()["requests.status"] - calls_before,
            tuple(picture_faults(Path(folder), jobs=jobs, picture_bytes=PICTURE_BYTES)),
        )


def _workload(sandbox: SandboxServer, jobs: int, folder: Path) -> Workload:
    return Workload(
        base_url=sandbox.base_url,
        endpoint=ENDPOINT,
        api_key=API_KEY,
        jobs=jobs,
        folder=folder,
        concurrency=CONCURRENCY,
        polling_interval_seconds=POLLING_INTERVAL_SECONDS,
    )


_COLUMNS: Final = (
    "side",
    "images/s",
    "× plain",
    "CPU ms/image",
    "× plain",
    "× floor",
    "status calls/image",
    "sandbox CPU ms/image",
    "sandbox busy",
)


def _report(rounds: Sequence[Round], jobs: int) -> Report:
    faults = tuple(f"{name}: {fault}" for each in rounds for name, run in each.items() for fault in run.faults)
    notes = [
        f"{len(rounds)} rounds of {jobs} jobs of {PICTURE_BYTES / 1e6:g} MB, {CONCURRENCY} out at once, "
        f"polled every {POLLING_INTERVAL_SECONDS:g} s; {machine()}",
    ]
    if not faults:
        count = sum(run.jobs for each in rounds for run in each.values())
        notes.append(f"verified: {count} files, every PNG whole, in each run all different")
    samples = [
        {"side": name, "cpu_ms_per_image": run.cpu_ms_per_image, "images_per_second": run.images_per_second}
        for each in rounds
        for name, run in each.items()
    ]
    return Report(QUESTION, _COLUMNS, [_row(rounds, name) for name in SIDES], notes, faults, samples=samples)


def _row(rounds: Sequence[Round], name: str) -> tuple[str, ...]:
    def middle(of_round: Callable[[Round], float]) -> float:
        return median(of_round(each) for each in rounds)

    return (
        name,
        f"{middle(lambda each: each[name].images_per_second):.1f}",
        f"{middle(lambda each: each[name].images_per_second / each[PLAIN].images_per_second):.2f}",
        f"{middle(lambda each: each[name].cpu_ms_per_image):.2f}",
        f"{middle(lambda each: each[name].cpu_ms_per_image / each[PLAIN].cpu_ms_per_image):.2f}",
        f"{middle(lambda each: each[name].cpu_ms_per_image / each[FLOOR].cpu_ms_per_image):.2f}",
        f"{middle(lambda each: each[name].status_calls / each[name].jobs):.2f}",
        *_sandbox_cells([each[name] for each in rounds]),
    )


def _sandbox_cells(runs: Sequence[Run]) -> tuple[str, str]:
    """Its CPU per image, and as a share of one core: near 100 % it is the sandbox that sets the pace."""
    known = [(run, run.sandbox_cpu_seconds) for run in runs if run.sandbox_cpu_seconds is not None]
    if not known:
        return "not known", "not known"
    per_image = median(cpu / run.jobs * 1000 for run, cpu in known)
    return f"{per_image:.2f}", f"{median(cpu / run.sample.wall_seconds for run, cpu in known):.0%}"
