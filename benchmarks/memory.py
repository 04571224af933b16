"""How much memory a client needs at the most: with many results ready at one moment, and with a long file of prompts.

In flight: the static server finishes no job until all are submitted, and then all of them at once. A long file: a batch
of which every image but the last few was made long ago (`sides.finished_batch`) is continued from a file that holds
so many prompts; the whole file is read and compared with the ledger, and no hours pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Final

from benchmarks.measuring import Sample, measure
from benchmarks.report import Plot, RawSample, Report, Target, machine
from benchmarks.servers import API_KEY, ENDPOINT, Server, static_server
from benchmarks.sides import ASYNCGEN, FINISHED, FLOOR, LABELS, OFFICIAL, PLAIN, REQUESTS
from benchmarks.trial import (
    LARGE_PICTURE_BYTES,
    SHORT_POLLING_SECONDS,
    SMALL_PICTURE_BYTES,
    Task,
    Trial,
    attempt,
    faults_of,
    rounds_of,
    verified,
)
from benchmarks.workload import Workload

QUESTION: Final = "memory: what is the peak RSS when all results are ready at once, and with a long file of prompts?"

SIDES: Final = (ASYNCGEN, FLOOR, PLAIN, OFFICIAL, REQUESTS)
_IN_FLIGHT, _ROUNDS = (16, 64, 256, 1024), 3
_QUICK_IN_FLIGHT, _QUICK_ROUNDS = (8, 16), 1
_POLLING_SECONDS: Final = 1.0
_PROMPTS: Final = (1_000, 10_000, 100_000, 1_000_000)
_QUICK_PROMPTS: Final = (100, 1_000)
#: At the end of the file, not made before: a run that has nothing to do at all may need less.
_NEW_PROMPTS: Final = 16
_MOST_MB, _MOST_GROWTH_MB = 110, 50

#: How many are in flight, and a side.
Case = tuple[int, str]
Round = Mapping[Case, Trial]


def run(quick: bool) -> Report:
    """All sides with each number in flight, in turn; then the files, the shortest first."""
    in_flight = _QUICK_IN_FLIGHT if quick else _IN_FLIGHT
    rounds = rounds_of(
        list(product(in_flight, SIDES)),
        _QUICK_ROUNDS if quick else _ROUNDS,
        lambda case: attempt(
            case[1], Task(case[0], case[0], polling_interval_seconds=_POLLING_SECONDS, hold_until_runs=case[0])
        ),
        quick=quick,
    )
    files = dict(_of_files(_QUICK_PROMPTS if quick else _PROMPTS))
    trials = [trial for each in rounds for trial in each.values()]
    faults, notes = faults_of(trials), list(_notes(len(rounds), files))
    return Report(
        QUESTION,
        ("side, peak MB", *(f"{number:,} in flight" for number in in_flight)),
        [_row(rounds, in_flight, side) for side in SIDES],
        notes if faults else [*notes, verified(trials)],
        faults,
        samples=[*_samples(rounds), *(_file_sample(prompts, sample) for prompts, sample in files.items())],
        targets=list(_targets(rounds, max(in_flight), files)),
        plots=[
            Plot("peak_mb", "peak MB over jobs in flight", parameter="in_flight", limit=_MOST_MB),
            Plot("peak_mb_of_file", "peak MB over prompts in the file", parameter="prompts"),
        ],
    )


def _of_files(lengths: Sequence[int]) -> Iterator[tuple[int, Sample]]:
    """The peak of continuing a finished batch from a file of each length; one ledger, of the longest, for all."""
    with (
        static_server(picture_bytes=SMALL_PICTURE_BYTES) as server,
        TemporaryDirectory(prefix="asyncgen-benchmark-") as name,
    ):
        folder, prompts = Path(name), Path(name) / "prompts.txt"
        _write_prompts(prompts, max(lengths), "none")
        measure(FINISHED, _workload(server, folder, prompts))
        for length in lengths:
            _write_prompts(prompts, length - _NEW_PROMPTS, f"new with {length}")
            yield length, measure(ASYNCGEN, _workload(server, folder, prompts))


def _write_prompts(path: Path, finished: int, new: str) -> None:
    """So many prompts that were made long ago, and those that were not."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(f"a lighthouse on a rock in heavy seas, study {number}\n" for number in range(finished))
        if new != "none":
            file.writelines(f"a harbour at dusk, study {number}, {new}\n" for number in range(_NEW_PROMPTS))


def _workload(server: Server, folder: Path, prompts: Path) -> Workload:
    return Workload(
        base_url=server.base_url,
        endpoint=ENDPOINT,
        api_key=API_KEY,
        jobs=_NEW_PROMPTS,
        folder=folder,
        concurrency=_NEW_PROMPTS,
        polling_interval_seconds=SHORT_POLLING_SECONDS,
        picture_bytes=SMALL_PICTURE_BYTES,
        prompts_file=prompts,
    )


def _mb(sample: Sample) -> float:
    return sample.peak_bytes / 1e6


def _middle(rounds: Sequence[Round], case: Case) -> float:
    return median(_mb(each[case].sample) for each in rounds)


def _row(rounds: Sequence[Round], in_flight: Sequence[int], side: str) -> tuple[str, ...]:
    return (LABELS[side], *(f"{_middle(rounds, (number, side)):.0f}" for number in in_flight))


def _targets(rounds: Sequence[Round], most: int, files: Mapping[int, Sample]) -> Iterator[Target]:
    shortest, longest = min(files), max(files)
    yield Target(f"peak MB, {most:,} in flight", _middle(rounds, (most, ASYNCGEN)), _MOST_MB)
    growth = _mb(files[longest]) - _mb(files[shortest])
    yield Target(f"peak MB with {longest:,} prompts beyond that with {shortest:,}", growth, _MOST_GROWTH_MB)


def _notes(rounds: int, files: Mapping[int, Sample]) -> Iterator[str]:
    yield (
        f"{rounds} rounds, {LARGE_PICTURE_BYTES / 1e6:g} MB an image, polled every {_POLLING_SECONDS:g} s (by the "
        f"official client every 3 s), files kept; {machine()}"
    )
    peaks = (f"{length:,}: {_mb(sample):.0f} MB in {sample.wall_seconds:.1f} s" for length, sample in files.items())
    yield f"asyncgen, prompts in the file, all but {_NEW_PROMPTS} made before: {'; '.join(peaks)}"


def _samples(rounds: Sequence[Round]) -> Iterator[RawSample]:
    for each in rounds:
        for (in_flight, _), trial in each.items():
            yield trial.figures() | {"in_flight": in_flight}


def _file_sample(prompts: int, sample: Sample) -> RawSample:
    return {
        "side": LABELS[ASYNCGEN],
        "prompts": prompts,
        "peak_mb_of_file": _mb(sample),
        "wall_seconds": sample.wall_seconds,
        "cpu_seconds": sample.cpu_seconds,
    }
