"""What does it cost to continue a batch that is finished?

`asyncgen batch` reads its file twice: once to see that all of it is right, once to run. Here the same code runs in a
process of its own over a ledger in which every image of the file is there, and CPU of all threads and the highest
memory are taken. What a run takes whatever the size of its file is known from the smallest one, and taken off.

The ledger is filled by asyncgen's own claims; that each image was sent, came and was stored is then written for all at
once, through the ledger's triggers, and the manifest is brought up to date.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from io import StringIO
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Final

from asyncgen.api import ImageGenerator
from asyncgen.commands import BatchOptions, Setup, run_batch
from asyncgen.intake import Intake
from asyncgen.prompts import PromptFile, RawRow, format_of
from asyncgen.records import SANDBOX, Want
from asyncgen.request import content_key
from asyncgen.source import SourceOptions
from asyncgen.styles import compose_prompt
from asyncgen.workspace import shared_workspace
from benchmarks.child import peak_bytes
from benchmarks.report import Plot, RawSample, Report, Target, machine

QUESTION: Final = "resume: what does continuing a finished batch take, for each image that is there?"

SIDE: Final = "asyncgen batch"
_STYLE: Final = "1"
_FILE: Final = "prompts.txt"
_SIZES: Final = (1_000, 100_000, 1_000_000)
_QUICK_SIZES: Final = (1_000, 10_000)
_ROUNDS: Final = 3
TARGET_US: Final = 20.0
TARGET_MB: Final = 50.0
_CLAIMED_AT_ONCE: Final = 1000
#: What befalls every item, in order; each statement takes all of them one step further.
_FINISH: Final = (
    "UPDATE item SET state = 'submitting', attempts = 1, endpoint = 'sandbox:/benchmark'",
    "INSERT INTO job (item_id, run_id, attempt, endpoint, job_id, submitted_at, accepted_at, ended_at, outcome, "
    "delay_ms, execution_ms, execution_timeout_ms) "
    "SELECT id, 1, 1, endpoint, 'job-' || id, 1, 1, 6, 'completed', 300, 4700, 600000 FROM item",
    "UPDATE item SET state = 'accepted', job_id = 'job-' || id, accepted_at = 1",
    "UPDATE item SET state = 'storing'",
    "INSERT INTO image (item_id, number, path, sha256, size_bytes, format, width, height, state) "
    "SELECT id, 0, 'resources/style_images/' || request_id || '.png', hex(content_key), 1800000, 'png', 1360, 768, "
    "'stored' FROM item",
    "UPDATE item SET state = 'stored'",
)


@dataclass(frozen=True, slots=True)
class Continued:
    """One run of the command: its CPU, its highest memory, and what it said."""

    cpu_seconds: float
    wall_seconds: float
    peak_bytes: int
    said: str


def run(quick: bool) -> Report:
    """A file of 10³ prompts, of 10⁵ and of 10⁶, each continued three times; quickly 10³ and 10⁴, once."""
    sizes, rounds = (_QUICK_SIZES, 1) if quick else (_SIZES, _ROUNDS)
    logging.getLogger("asyncgen").setLevel(logging.ERROR)
    samples, faults = [], []
    for images in sizes:
        with TemporaryDirectory(prefix="asyncgen-benchmark-") as folder:
            asyncio.run(prepare(Path(folder) / _FILE, images))
            for _ in range(rounds):
                continued = continue_batch(Path(folder))
                samples.append(_sample(images, continued))
                if f"{images} wanted: 0 new, {images} kept, 0 changed" not in continued.said:
                    faults.append(f"of {images} images it said: {continued.said}")
    return _report(samples, faults)


def _write_prompts(file: Path, images: int) -> None:
    """A prompt a line, below a header where it is a CSV file."""
    header, quote = ("prompt\n", '"') if format_of(file) == "csv" else ("", "")
    with file.open("w", encoding="utf-8") as lines:
        lines.write(header)
        for number in range(images):
            lines.write(f"{quote}a lighthouse on a rock in heavy seas, study {number}{quote}\n")


async def prepare(file: Path, images: int) -> None:
    """A prompt file, and beside it, in `out`, an output root in which all it asks for is there."""
    _write_prompts(file, images)
    generator = ImageGenerator(sandbox=True, output_root=file.parent / "out")
    async with shared_workspace(file.parent / "out") as workspace:
        ledger = workspace.ledger
        batch = await ledger.open_batch(file.stem, SANDBOX)
        run_id = await ledger.begin_run(batch)
        with file.open(encoding="utf-8") as lines:
            said: dict[str, object] = {
                "style": _STYLE,
                "template": None,
                "declared": [],
            }  # in `asyncgen.source`, or no row is known
            wants = _wants(generator, PromptFile(lines, format_of(file), str(file), generator.digest(said)))
            while chunk := list(islice(wants, _CLAIMED_AT_ONCE)):
                await ledger.claim(batch, run_id, chunk)
        await ledger.transact(_finish)
        await ledger.end_run(run_id, "ended")
        await workspace.update_manifest()


def _wants(generator: ImageGenerator, file: PromptFile) -> Iterator[Want]:
    """As they are planned; all but the first from the first, which takes a tenth of the time."""
    style = generator.styles.get_style_by_id(_STYLE)
    intake, first = Intake(generator.planner, {"style": _STYLE}), None
    for row in file.rows():
        assert isinstance(row, RawRow)
        if first is None:
            first = intake.plan(file.parse(row))[0].want
        text = str(row.content[0] if isinstance(row.content, list) else row.content)
        request = first.request.model_copy(update={"prompt": text})
        spec = replace(first.spec, prompt=text, prompt_sent=compose_prompt(style, text))
        key = content_key(request, 0, spec.workflow)
        yield replace(first, request=request, spec=spec, content_key=key, row_key=row.key)


def _finish(connection: sqlite3.Connection) -> None:
    for statement in _FINISH:
        connection.execute(statement)


def continue_batch(folder: Path) -> Continued:
    """`asyncgen batch prompts.txt --style 1 --sandbox --out out` in a fresh process, its imports not counted."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        return executor.submit(_continue, folder).result()


def _continue(folder: Path) -> Continued:
    os.chdir(folder)  # away from a `.env`
    overrides = {"output_root": Path("out")}
    setup = Setup(overrides, None, sandbox=True, as_json=False, verbosity=0, log_file=None, log_json=False)
    source = SourceOptions(_FILE, None, None, False, {"style": _STYLE})
    options = BatchOptions(source, None, again=False, retry_failed=False, rebuy_changed=False, model_urls=())
    said = StringIO()
    wall, cpu = time.perf_counter(), time.process_time()
    with redirect_stdout(said):
        run_batch(setup, options)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return Continued(cpu, wall, peak_bytes(), said.getvalue())


def _sample(images: int, continued: Continued) -> RawSample:
    return {
        "side": SIDE,
        "images": images,
        "cpu_seconds": continued.cpu_seconds,
        "wall_seconds": continued.wall_seconds,
        "peak_mb": continued.peak_bytes / 1e6,
    }


def _report(samples: Sequence[RawSample], faults: Sequence[str]) -> Report:
    sizes = sorted({int(str(sample["images"])) for sample in samples})
    cpu = {size: _median(samples, size, "cpu_seconds") for size in sizes}
    peak = {size: _median(samples, size, "peak_mb") for size in sizes}
    smallest, largest = sizes[0], sizes[-1]

    def us_per_image(size: int) -> float:
        return (cpu[size] - cpu[smallest]) / (size - smallest) * 1e6

    rows = [
        (
            f"{size:,}",
            f"{cpu[size]:.2f}",
            f"{_median(samples, size, 'wall_seconds'):.2f}",
            "" if size == smallest else f"{us_per_image(size):.1f}",
            f"{peak[size]:.0f}",
        )
        for size in sizes
    ]
    targets = (
        Target(f"CPU of an image that is there, of {largest:,} (µs)", us_per_image(largest), TARGET_US),
        Target(f"memory over that of {smallest:,} (MB)", peak[largest] - peak[smallest], TARGET_MB),
    )
    columns = ("images", "CPU (s)", "wall (s)", "CPU each (µs)", "highest memory (MB)")
    plots = (
        Plot("cpu_seconds", "CPU (s)", parameter="images"),
        Plot("peak_mb", "highest memory (MB)", parameter="images"),
    )
    heading = "NOT ALL WERE KEPT"
    return Report(QUESTION, columns, rows, (machine(),), faults, heading, samples, targets, plots)


def _median(samples: Sequence[RawSample], size: int, figure: str) -> float:
    return median(float(str(sample[figure])) for sample in samples if sample["images"] == size)
