"""How much sooner is a batch done whose images are grouped by what workers must load?

A file alternates twelve styles. The shipped client sends its images to the sandbox, once in the order of the file and
once in its own; the order in which the sandbox accepted them goes into a simulation on virtual time: a queue served in
that order by whichever worker is free, 5 s an image, 8 s more on a worker that last ran another LoRA set. The sandbox
itself loads nothing, and 26 minutes of sleep would show the same.
"""

from __future__ import annotations

import asyncio
import heapq
import json
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final
from urllib.request import urlopen

from asyncgen import stream_many
from asyncgen.registry import StylesRegistry
from benchmarks.report import Plot, RawSample, Report, Target, machine
from benchmarks.servers import API_KEY, ENDPOINT, SandboxServer, sandbox_server

QUESTION: Final = "lanes: how much sooner is a batch done whose images are grouped by LoRA set?"

IMAGES: Final = 960
_QUICK_IMAGES: Final = 240
_LONG_IMAGES: Final = 4800  # more than asyncgen looks ahead
STYLES: Final = 12
WORKERS: Final = 8
IMAGE_SECONDS: Final = 5.0
LOADING_SECONDS: Final = 8.0
TARGET: Final = 0.55
IN_FILE_ORDER, GROUPED = "in file order", "asyncgen"
_SEED: Final = 0
_PICTURE_BYTES: Final = 1000
_SPEED: Final = 1000.0
_NO_RATE_LIMIT: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Makespan:
    """How long a queue took, and how often a worker had to load another LoRA set, its first one included."""

    seconds: float
    loads: int


@dataclass(frozen=True, slots=True)
class Case:
    """Workers that serve a file. Execution times vary by `jitter`, the standard deviation as a share of 5 s."""

    file: str
    workers: int = WORKERS
    jitter: float = 0.0


ALTERNATING, AT_RANDOM, LONG = "alternating", "at random", "alternating, long"
CASES: Final = (
    Case(ALTERNATING),
    Case(ALTERNATING, jitter=0.3),
    Case(ALTERNATING, workers=40),
    Case(AT_RANDOM),
    Case(LONG),
)


def run(quick: bool) -> Report:
    """960 images that alternate or come at random, and 4,800, which no window holds; quickly 240 that alternate."""
    files = _files(quick)
    with sandbox_server(picture_bytes=_PICTURE_BYTES, workers=WORKERS, speed=_SPEED) as sandbox:
        orders = {
            name: {side: asyncio.run(_accepted(sandbox, name, styles, side)) for side in (IN_FILE_ORDER, GROUPED)}
            for name, styles in files.items()
        }
    return _report([sample for case in CASES if case.file in files for sample in _samples(case, orders)], quick)


def makespan(styles: Sequence[str], workers: int, execution_seconds: Callable[[], float]) -> Makespan:
    """A queue in this order, served by whichever worker is free; each begins with nothing loaded."""
    free: list[tuple[float, int]] = [(0.0, worker) for worker in range(workers)]
    loaded: dict[int, str] = {}
    end_seconds, loads = 0.0, 0
    for style in styles:
        at, worker = heapq.heappop(free)
        if loaded.get(worker) != style:
            loaded[worker] = style
            at, loads = at + LOADING_SECONDS, loads + 1
        at += execution_seconds()
        end_seconds = max(end_seconds, at)
        heapq.heappush(free, (at, worker))
    return Makespan(end_seconds, loads)


def _files(quick: bool) -> dict[str, list[str]]:
    """The style of each row."""
    names = [style.id for style in StylesRegistry.load().get_all_styles()[:STYLES]]
    alternating = [names[number % STYLES] for number in range(_LONG_IMAGES)]
    if quick:
        return {ALTERNATING: alternating[:_QUICK_IMAGES]}
    at_random = random.Random(_SEED).choices(names, k=IMAGES)
    return {ALTERNATING: alternating[:IMAGES], AT_RANDOM: at_random, LONG: alternating}


def _samples(case: Case, orders: Mapping[str, Mapping[str, Sequence[str]]]) -> Iterator[RawSample]:
    for side, order in orders[case.file].items():
        span = makespan(order, case.workers, _execution_seconds(case.jitter))
        yield {
            "side": side,
            "file": case.file,
            "images": len(order),
            "workers": case.workers,
            "jitter": case.jitter,
            "makespan_seconds": span.seconds,
            "loads": span.loads,
            "case": f"{case.file}, {case.workers} workers, ±{case.jitter:.0%}",
        }


def _execution_seconds(jitter: float) -> Callable[[], float]:
    draw = random.Random(_SEED)
    return lambda: IMAGE_SECONDS * max(0.2, draw.gauss(1, jitter))


async def _accepted(sandbox: SandboxServer, name: str, styles: Sequence[str], side: str) -> list[str]:
    """The styles in the order in which the sandbox accepted their images, on an endpoint of their own."""
    endpoint = re.sub(r"\W+", "-", f"{ENDPOINT} {name} {side}")
    wanted = [{"prompt": f"{style}: a fox, study {number}", "style_id": style} for number, style in enumerate(styles)]
    with TemporaryDirectory(prefix="asyncgen-benchmark-") as folder:
        results = stream_many(
            wanted,
            endpoint_base_url=sandbox.base_url,
            endpoint=endpoint,
            api_key=API_KEY,
            output_root=Path(folder),
            raw_prompt=True,
            width=64,
            height=64,
            keep_order=side == IN_FILE_ORDER,
            polling_interval_seconds=0.1,
            run_rate=_NO_RATE_LIMIT,
            status_rate=_NO_RATE_LIMIT,
        )
        async with aclosing(results):
            made = [result.ok async for result in results]
    if not all(made) or len(made) != len(styles):
        raise RuntimeError(f"{made.count(False)} of {len(styles)} images were not made")
    with urlopen(f"{sandbox.base_url.removesuffix('/v2')}/sandbox/books") as reply:  # noqa: ASYNC210 - all is over
        jobs = [job for job in json.load(reply)["jobs"] if job["endpoint"] == endpoint]
    return [job["prompt"].partition(":")[0] for job in jobs]


_COLUMNS: Final = (
    "file",
    "images",
    "workers",
    "times vary",
    "in file order (s)",
    "loads",
    "grouped (s)",
    "loads",
    "ratio",
    "no loading (s)",
)


def _report(samples: Sequence[RawSample], quick: bool) -> Report:
    pairs = list(zip(samples[::2], samples[1::2], strict=True))
    note = (
        f"{IMAGE_SECONDS:g} s an image, {LOADING_SECONDS:g} s to load another LoRA set, {STYLES} styles; orders as the "
        f"sandbox accepted them, makespans simulated; {machine()}"
    )
    targets = [] if quick else [Target("makespan of 960, by that of file order", _ratio(*pairs[0]), TARGET)]
    plots = [Plot("makespan_seconds", "makespan (s)", panel="case")]
    rows = [_row(*pair) for pair in pairs]
    return Report(QUESTION, _COLUMNS, rows, [note], (), samples=samples, targets=targets, plots=plots)


def _row(in_order: RawSample, grouped: RawSample) -> tuple[str, ...]:
    images, workers = int(str(in_order["images"])), int(str(in_order["workers"]))
    return (
        str(in_order["file"]),
        str(images),
        str(workers),
        f"{float(str(in_order['jitter'])):.0%}",
        f"{in_order['makespan_seconds']:.0f}",
        str(in_order["loads"]),
        f"{grouped['makespan_seconds']:.0f}",
        str(grouped["loads"]),
        f"{_ratio(in_order, grouped):.3f}",
        f"{images * IMAGE_SECONDS / workers:.0f}",
    )


def _ratio(in_order: RawSample, grouped: RawSample) -> float:
    return float(str(grouped["makespan_seconds"])) / float(str(in_order["makespan_seconds"]))
