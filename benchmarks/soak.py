"""Does anything grow? One asyncgen for minutes or hours: 256 jobs in flight, and a platform that fails at every turn.

The sandbox runs in a process of its own; this process samples its own memory, file descriptors, threads and tasks.
After a warm-up each of them must be flat: what a straight line through its peaks gains must stay within what such a
figure wavers by. The peaks, because on a machine that others use there is now more and now less to do at once, and a
leak lifts the highest as it lifts the lowest.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import resource
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import count, pairwise
from pathlib import Path
from statistics import linear_regression, mean
from tempfile import TemporaryDirectory
from typing import Any, Final
from urllib.request import Request, urlopen

from asyncgen import ImageResult, stream_many
from benchmarks.report import Report, machine
from benchmarks.servers import API_KEY, ENDPOINT, SandboxServer, sandbox_server

QUESTION: Final = "soak: do memory, file descriptors, threads and tasks stay flat?"

CONCURRENCY: Final = 256
PICTURE_BYTES: Final = 60_000
_SECONDS_BETWEEN_SAMPLES: Final = 5.0
_QUICK_SECONDS, _QUICK_SECONDS_BETWEEN_SAMPLES = 5.0, 0.5
#: Caches fill, threads start, the allocator finds its size: the first quarter is not judged, nor the first minutes.
_WARM_UP_SHARE, _LONGEST_WARM_UP_SECONDS = 0.25, 300.0
_MOST_ROWS: Final = 24
_PEAKS: Final = 8
_SPEED: Final = 4.0
_MIB: Final = 2**20

#: Per operation of the platform: every so manieth request or job goes wrong like this.
FAULTS: Final[Sequence[Mapping[str, object]]] = (
    *({"fault": fault, "operation": "run", "every": every} for fault, every in (("429", 97), ("503", 89))),
    *(
        {"fault": fault, "operation": "run", "every": every}
        for fault, every in (("502", 401), ("reset_after_accept", 409))
    ),
    *({"fault": fault, "operation": "status", "every": every} for fault, every in (("500_html", 53), ("502", 59))),
    *(
        {"fault": fault, "operation": "status", "every": every}
        for fault, every in (("reset_after_accept", 61), ("429", 997))
    ),
    {"fault": "cut_body", "every": 67},
    {"fault": "slow_body", "every": 71, "seconds": 0.5},
    {"fault": "wrong_base64", "operation": "result", "every": 73},
    {"fault": "not_found_at_first", "every": 79, "times": 2},
    {"fault": "lost_job", "every": 331},
    {"fault": "timed_out", "every": 307},
    {"fault": "failed:exception", "every": 101},
    {"fault": "failed:out_of_memory", "every": 103},
    {"fault": "failed:platform", "every": 107},
    {"fault": "cut_image", "every": 109},
    {"fault": "no_images", "every": 113},
)


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure that must not grow. `waver` is by how much a flat one may seem to, in its own unit."""

    name: str
    unit: str
    waver: float


#: An image of 60 kB that were kept in memory would pass the first within 270 images.
MEASURES: Final = (
    Measure("memory", "MiB", 16.0),
    Measure("descriptors", "", 64.0),  # connections are opened as they are needed, and kept for 15 s
    Measure("threads", "", 2.0),
    Measure("tasks", "", 24.0),
)


@dataclass(frozen=True, slots=True)
class Sample:
    """How it stood at one moment; `values` in the order of `MEASURES`."""

    seconds: float
    images: int
    values: tuple[float, ...]


@dataclass(slots=True)
class _Soak:
    """A running soak: what became of the images so far, and the samples."""

    outcomes: Counter[str] = field(default_factory=Counter)
    missing_files: int = 0
    samples: list[Sample] = field(default_factory=list)


def run(minutes: float, *, quick: bool = False) -> Report:
    """Soak for so many minutes, or for 5 s, which is too short to judge growth and only shows that it works."""
    seconds = _QUICK_SECONDS if quick else minutes * 60
    logging.getLogger("asyncgen").setLevel(logging.CRITICAL)  # every fault is told, and there are thousands
    pause = _QUICK_SECONDS_BETWEEN_SAMPLES if quick else _SECONDS_BETWEEN_SAMPLES
    with sandbox_server(picture_bytes=PICTURE_BYTES, workers=CONCURRENCY, speed=_SPEED) as sandbox:
        _add_faults(sandbox)
        with TemporaryDirectory(prefix="asyncgen-soak-") as folder:
            soak = asyncio.run(_soak(sandbox, Path(folder), seconds, pause))
    return _report(soak, judged=not quick)


def _add_faults(sandbox: SandboxServer) -> None:
    url = f"{sandbox.base_url.removesuffix('/v2')}/sandbox/faults"
    with urlopen(Request(url, json.dumps(FAULTS).encode(), method="POST")) as reply:
        reply.read()


async def _soak(sandbox: SandboxServer, folder: Path, seconds: float, pause_seconds: float) -> _Soak:
    soak, until = _Soak(), time.monotonic() + seconds
    sampling = asyncio.create_task(_sample(soak, pause_seconds))
    results = stream_many(
        _prompts(),
        batch="soak",
        concurrency=CONCURRENCY,
        endpoint_base_url=sandbox.base_url,
        endpoint=ENDPOINT,
        api_key=API_KEY,
        output_root=folder,
        width=64,
        height=64,
        request_timeout_seconds=10.0,
        polling_interval_seconds=0.5,
        run_rate=1_000_000,
        status_rate=1_000_000,
    )
    async with aclosing(results):
        async for result in results:
            _take(soak, result)
            if time.monotonic() >= until:
                break
    sampling.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await sampling
    return soak


def _prompts() -> Iterator[str]:
    for number in count(1):
        yield f"a lighthouse on a rock in heavy seas, study {number}"


def _take(soak: _Soak, result: ImageResult) -> None:
    """Count it, and make room: an hour of pictures is not to be kept."""
    soak.outcomes[result.failure.code if result.failure else "stored"] += 1
    for path in result.paths:
        try:
            path.unlink()
        except FileNotFoundError:
            soak.missing_files += 1


async def _sample(soak: _Soak, pause_seconds: float) -> None:
    began = time.monotonic()
    while True:
        values = (_memory_bytes() / _MIB, _descriptors(), threading.active_count(), len(asyncio.all_tasks()))
        soak.samples.append(Sample(time.monotonic() - began, soak.outcomes.total(), values))
        await asyncio.sleep(pause_seconds)


def _memory_bytes() -> float:
    """What is resident now; where there is no /proc, the most that ever was."""
    statistics = Path("/proc/self/statm")
    if statistics.exists():
        return int(statistics.read_text(encoding="ascii").split()[1]) * resource.getpagesize()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _descriptors() -> int:
    return len(os.listdir("/dev/fd"))  # noqa: PTH208 - the folder vanishes under a Path's own descriptor


# -- judging


def settled(samples: Sequence[Sample]) -> list[Sample]:
    """The samples after the warm-up."""
    if not samples:
        return []
    warm_up = min(_LONGEST_WARM_UP_SECONDS, samples[-1].seconds * _WARM_UP_SHARE)
    return [sample for sample in samples if sample.seconds >= warm_up]


def gains(samples: Sequence[Sample]) -> tuple[tuple[float, float], ...]:
    """Of each measure, the slope of a straight line through its peaks, per hour, and what it gains over the samples.

    A peak is the highest of an eighth of them.
    """
    size = max(1, len(samples) // _PEAKS)
    parts = [samples[start : start + size] for start in range(0, len(samples) - size + 1, size)]
    middles = [mean(sample.seconds for sample in part) for part in parts]
    length_seconds = samples[-1].seconds - samples[0].seconds
    slopes = (
        linear_regression(middles, [max(sample.values[number] for sample in part) for part in parts]).slope
        for number in range(len(MEASURES))
    )
    return tuple((slope * 3600, slope * length_seconds) for slope in slopes)


def growth(samples: Sequence[Sample]) -> list[str]:
    """What grows, in words; empty where all is flat. `samples` are those after the warm-up, at least two."""
    found = []
    for measure, (per_hour, gained) in zip(MEASURES, gains(samples), strict=True):
        if gained > measure.waver:
            found.append(f"{measure.name} grew by {gained:.1f} {measure.unit}".rstrip() + f", {per_hour:+.1f} an hour")
    return found


def _report(soak: _Soak, *, judged: bool) -> Report:
    columns = ("minute", "images", "images/s", *(f"{m.name} ({m.unit})" if m.unit else m.name for m in MEASURES))
    after = settled(soak.samples)
    rows = list(_rows(soak.samples))
    faults = []
    if judged:
        rows += [("slope/hour", "", "", *(f"{per_hour:+.2f}" for per_hour, _ in gains(after)))]
        faults += growth(after)
    if soak.missing_files:
        faults.append(f"{soak.missing_files} pictures were reported and not there")
    if not soak.outcomes["stored"]:
        faults.append("nothing was stored")
    return Report(QUESTION, columns, rows, list(_notes(soak, after, judged)), faults, fault_heading="NOT FLAT OR WRONG")


def _rows(samples: Sequence[Sample]) -> Iterable[tuple[str, ...]]:
    step = max(1, len(samples) // _MOST_ROWS)
    for before, sample in pairwise(samples[::step]):
        pace = (sample.images - before.images) / (sample.seconds - before.seconds)
        values = (f"{value:.1f}" if measure.unit else f"{value:.0f}" for measure, value in zip(MEASURES, sample.values))  # noqa: B905 - as many
        yield (f"{sample.seconds / 60:.1f}", str(sample.images), f"{pace:.0f}", *values)


def _notes(soak: _Soak, after: Sequence[Sample], judged: bool) -> Iterable[str]:
    outcomes: Mapping[str, Any] = dict(soak.outcomes.most_common())
    yield f"{CONCURRENCY} in flight, pictures of {PICTURE_BYTES / 1000:.0f} kB; {machine()}"
    yield "outcomes: " + ", ".join(f"{count} {name}" for name, count in outcomes.items())
    if judged:
        tasks = mean(sample.values[-1] for sample in after)
        yield f"judged: {len(after)} samples from minute {after[0].seconds / 60:.1f} on; {tasks:.0f} tasks on average"
    else:
        yield "too short to judge growth"
