"""What does it cost to plan a batch, and does memory stay the same however long its file is?

`asyncgen plan` reads a CSV file to its end: of prompts that were never made, and of prompts that are all there, by a
ledger that `resume` fills. The floor reads and parses the same file with the standard library alone. What a run takes
whatever the size of its file is known from the smallest one, and taken off.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Final

from benchmarks.measuring import Sample, measure
from benchmarks.report import Plot, RawSample, Report, Target, machine
from benchmarks.resume import prepare
from benchmarks.servers import API_KEY, ENDPOINT
from benchmarks.sides import PLAN_KEPT, PLAN_NEW, READER
from benchmarks.trial import SHORT_POLLING_SECONDS, SMALL_PICTURE_BYTES, rounds_of
from benchmarks.workload import Workload

QUESTION: Final = "planning: what does `asyncgen plan` take for each row of a file, and how much memory for a long one?"

LABELS: Final = {PLAN_NEW: "plan, all new", PLAN_KEPT: "plan, all there", READER: "csv.DictReader (floor)"}
_SIZES: Final = (1_000, 10_000, 100_000)
_QUICK_SIZES: Final = (100, 1_000)
_ROUNDS, _QUICK_ROUNDS = 3, 1
_MOST_GROWTH, _MOST_GROWTH_MB = 1.1, 20
_CLOCK_SECONDS: Final = 1e-6
_FILE: Final = "prompts.csv"

#: Rows, and a side.
Case = tuple[int, str]
Round = Mapping[Case, Sample]


def run(quick: bool) -> Report:
    """Files of 10³, 10⁴ and 10⁵ rows, each side three times over each; quickly 10² and 10³, once."""
    sizes = _QUICK_SIZES if quick else _SIZES
    logging.getLogger("asyncgen").setLevel(logging.ERROR)
    with TemporaryDirectory(prefix="asyncgen-benchmark-") as name:
        files = {size: Path(name) / str(size) / _FILE for size in sizes}
        for size, file in files.items():
            file.parent.mkdir()
            asyncio.run(prepare(file, size))
        cases = list(product(sizes, LABELS))
        count = _QUICK_ROUNDS if quick else _ROUNDS
        rounds = rounds_of(cases, count, lambda case: planned(files[case[0]], *case), quick=quick)
    return Report(
        QUESTION,
        ("side", "rows", "CPU s", "wall s", "CPU µs/row", "× floor", "peak MB"),
        [_row(rounds, sizes, case) for case in cases],
        [f"{len(rounds)} rounds, CSV, one style; {machine()}"],
        (),
        samples=[_figures(case, sample) for each in rounds for case, sample in each.items()],
        targets=list(_targets(rounds, sizes)),
        plots=[Plot("cpu_seconds", "CPU, s", parameter="rows"), Plot("peak_mb", "peak MB", parameter="rows")],
    )


def planned(file: Path, rows: int, side: str) -> Sample:
    """What a side takes for a file of so many rows. Raises RuntimeError where it counts anything else."""
    workload = Workload(
        base_url="http://nobody.invalid/v2",
        endpoint=ENDPOINT,
        api_key=API_KEY,
        jobs=rows,
        folder=file.parent,
        concurrency=1,
        polling_interval_seconds=SHORT_POLLING_SECONDS,
        picture_bytes=SMALL_PICTURE_BYTES,
        prompts_file=file,
    )
    return measure(side, workload)


def _figures(case: Case, sample: Sample) -> RawSample:
    rows, side = case
    return {
        "side": LABELS[side],
        "rows": rows,
        "cpu_seconds": sample.cpu_seconds,
        "wall_seconds": sample.wall_seconds,
        "peak_mb": sample.peak_bytes / 1e6,
    }


def _row(rounds: Sequence[Round], sizes: Sequence[int], case: Case) -> tuple[str, ...]:
    size, side = case
    per_row = [(_us_per_row(each, sizes, case), _us_per_row(each, sizes, (size, READER))) for each in rounds]
    return (
        LABELS[side],
        f"{size:,}",
        f"{median(each[case].cpu_seconds for each in rounds):.2f}",
        f"{median(each[case].wall_seconds for each in rounds):.2f}",
        "" if size == sizes[0] else f"{median(own for own, _ in per_row):.1f}",
        "" if size == sizes[0] else f"{median(own / floor for own, floor in per_row):.1f}",
        f"{_peak_mb(rounds, case):.0f}",
    )


def _us_per_row(each: Round, sizes: Sequence[int], case: Case) -> float:
    """What a row takes beyond those of the smallest file; a clock may see nothing of a few rows."""
    (size, side), smallest = case, sizes[0]
    beyond = each[case].cpu_seconds - each[smallest, side].cpu_seconds
    return max(beyond, _CLOCK_SECONDS) / max(size - smallest, 1) * 1e6


def _peak_mb(rounds: Sequence[Round], case: Case) -> float:
    return median(each[case].peak_bytes for each in rounds) / 1e6


def _targets(rounds: Sequence[Round], sizes: Sequence[int]) -> Iterator[Target]:
    middle, most = sizes[-2:]
    for side, rows in ((PLAN_NEW, "new rows"), (PLAN_KEPT, "rows that are there")):
        growth = median(
            _us_per_row(each, sizes, (most, side)) / _us_per_row(each, sizes, (middle, side)) for each in rounds
        )
        memory = _peak_mb(rounds, (most, side)) - _peak_mb(rounds, (middle, side))
        yield Target(f"CPU a row of {most:,} {rows} × that of {middle:,}", growth, _MOST_GROWTH)
        yield Target(f"peak MB of {most:,} {rows} beyond that of {middle:,}", memory, _MOST_GROWTH_MB)
