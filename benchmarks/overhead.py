"""What a job costs beside its bytes: jobs of 1 KB images per second of CPU and of wall time, few and many.

With files every picture is fsynced and the manifest written; to the ledger alone, pictures are handed over in memory
(`save_to_style=False`). The plain loop keeps nothing at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Final

from benchmarks.report import Plot, Report, Target, machine
from benchmarks.sides import ASYNCGEN, LABELS, OFFICIAL, PLAIN
from benchmarks.trial import SMALL_PICTURE_BYTES, Task, Trial, attempt, faults_of, rounds_of, verified

QUESTION: Final = "overhead: how many jobs with 1 KB images a second, and does a job cost more among many?"

CONCURRENCY: Final = 64
_JOBS, _ROUNDS = 3_000, 5
_QUICK_JOBS, _QUICK_ROUNDS = 100, 1
_FEW, _MANY = 1_000, 100_000
_QUICK_FEW, _QUICK_MANY = 100, 1_000
_TO_FILES, _TO_LEDGER, _GROWTH = 1000, 1800, 1.1


@dataclass(frozen=True, slots=True)
class Case:
    """One row of the table."""

    label: str
    side: str
    jobs: int
    keeps_files: bool


Round = Mapping[Case, Trial]


def run(quick: bool) -> Report:
    """All sides in turn, then asyncgen with few jobs and with many."""
    files, ledger, *peers = _cases(_QUICK_JOBS if quick else _JOBS)
    few, many = (
        Case(f"{LABELS[ASYNCGEN]}, {jobs:,} jobs", ASYNCGEN, jobs, keeps_files=True)
        for jobs in ((_QUICK_FEW, _QUICK_MANY) if quick else (_FEW, _MANY))
    )
    with TemporaryDirectory(prefix="asyncgen-benchmark-") as folder:
        one = partial(_attempt, Path(folder))
        rounds = rounds_of([files, ledger, *peers], _QUICK_ROUNDS if quick else _ROUNDS, one, quick=quick)
        growth = rounds_of([few, many], 1, one, quick=quick)
    trials = [trial for each in (*rounds, *growth) for trial in each.values()]
    faults = faults_of(trials)
    notes = [
        f"{len(rounds)} rounds of {files.jobs} jobs, {CONCURRENCY} out; "
        f"one of {few.jobs:,} and of {many.jobs:,}; {machine()}"
    ]
    to_many, to_few = (growth[0][case].cpu_ms_per_image for case in (many, few))
    return Report(
        QUESTION,
        ("side", "jobs/core-second", "× official", "CPU ms/job", "jobs/s", "× official"),
        [
            *(_row(rounds, case, peers[0]) for case in (files, ledger, *peers)),
            *(_row(growth, case, None) for case in (few, many)),
        ],
        notes if faults else [*notes, verified(trials)],
        faults,
        samples=[
            trial.figures() | {"side": case.label, "jobs_per_core_second": _jobs_per_core_second(trial)}
            for each in (*rounds, *growth)
            for case, trial in each.items()
        ],
        targets=[
            Target("jobs per core-second, files and fsync", _middle(rounds, files), _TO_FILES, at_most=False),
            Target("jobs per core-second, ledger alone", _middle(rounds, ledger), _TO_LEDGER, at_most=False),
            Target(f"CPU per job at {many.jobs:,} × that at {few.jobs:,}", to_many / to_few, _GROWTH),
        ],
        plots=[Plot("jobs_per_core_second", "jobs per core-second"), Plot("images_per_second", "jobs per second")],
    )


def _cases(jobs: int) -> tuple[Case, ...]:
    return (
        Case(f"{LABELS[ASYNCGEN]}, files and fsync", ASYNCGEN, jobs, keeps_files=True),
        Case(f"{LABELS[ASYNCGEN]}, ledger alone", ASYNCGEN, jobs, keeps_files=False),
        Case(f"{LABELS[OFFICIAL]}, files", OFFICIAL, jobs, keeps_files=True),
        Case(f"{LABELS[PLAIN]}, in memory", PLAIN, jobs, keeps_files=False),
    )


def _attempt(folder: Path, case: Case) -> Trial:
    task = Task(case.jobs, CONCURRENCY, picture_bytes=SMALL_PICTURE_BYTES, keeps_files=case.keeps_files)
    return attempt(case.side, task, folder)


def _jobs_per_core_second(trial: Trial) -> float:
    return trial.jobs / trial.sample.cpu_seconds


def _pace(trial: Trial) -> float:
    return trial.images_per_second


def _middle(rounds: Sequence[Round], case: Case) -> float:
    return median(_jobs_per_core_second(each[case]) for each in rounds)


def _row(rounds: Sequence[Round], case: Case, official: Case | None) -> tuple[str, ...]:
    def cells(figure: Callable[[Trial], float]) -> tuple[str, str]:
        value = f"{median(figure(each[case]) for each in rounds):,.0f}"
        if official is None:
            return value, ""
        return value, f"{median(figure(each[case]) / figure(each[official]) for each in rounds):.2f}"

    cpu_ms = median(each[case].cpu_ms_per_image for each in rounds)
    return case.label, *cells(_jobs_per_core_second), f"{cpu_ms:.2f}", *cells(_pace)
