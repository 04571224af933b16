"""What one large image costs a client when the server costs nothing: CPU and wall time, over HTTP and over HTTPS.

Each side makes the same jobs of 1.8 MB pictures on a static server whose jobs are finished at once. asyncgen does all
it does for real: ledger on, files fsynced, every picture hashed and checked, manifest written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from statistics import median
from typing import Final

from benchmarks.report import Plot, Report, Target, machine
from benchmarks.sides import ASYNCGEN, FLOOR, LABELS, OFFICIAL, OFFICIAL_OUTPUT
from benchmarks.trial import LARGE_PICTURE_BYTES, Task, Trial, attempt, faults_of, rounds_of, verified

QUESTION: Final = "wire: how much CPU and wall time does one 1.8 MB image take, 32 in flight?"

CONCURRENCY: Final = 32
_JOBS, _ROUNDS = 600, 5
_QUICK_JOBS, _QUICK_ROUNDS = 40, 1
HTTP, HTTPS = "HTTP", "HTTPS"
_CPU_TO_FLOOR: Final = {HTTP: 2.2, HTTPS: 1.6}
_CPU_TO_OFFICIAL, _PACE_TO_OFFICIAL = 1 / 3, 3.0

#: A scheme and a side.
Case = tuple[str, str]
Round = Mapping[Case, Trial]

_COLUMNS: Final = (
    "side",
    "over",
    "CPU ms/image",
    "× floor",
    "× official",
    "images/s",
    "× official",
    "status calls/image",
    "server CPU ms/image",
    "server busy",
)


def run(quick: bool) -> Report:
    """All sides over both schemes, in turn."""
    jobs = _QUICK_JOBS if quick else _JOBS
    cases = list(product((HTTP, HTTPS), LABELS))
    rounds = rounds_of(
        cases,
        _QUICK_ROUNDS if quick else _ROUNDS,
        lambda case: attempt(case[1], Task(jobs, CONCURRENCY, https=case[0] == HTTPS)),
        quick=quick,
    )
    trials = [trial for each in rounds for trial in each.values()]
    faults = faults_of(trials)
    notes = [f"{len(rounds)} rounds of {jobs} jobs of {LARGE_PICTURE_BYTES / 1e6:g} MB, {CONCURRENCY} out; {machine()}"]
    return Report(
        QUESTION,
        _COLUMNS,
        [_row(rounds, case) for case in cases],
        notes if faults else [*notes, verified(trials)],
        faults,
        samples=[trial.figures() | {"scheme": case[0]} for each in rounds for case, trial in each.items()],
        targets=[target for scheme in (HTTP, HTTPS) for target in _targets(rounds, scheme)],
        plots=[
            Plot("cpu_ms_per_image", "CPU ms per image", panel="scheme"),
            Plot("images_per_second", "images per second", panel="scheme"),
        ],
    )


def _targets(rounds: Sequence[Round], scheme: str) -> Iterator[Target]:
    """The official client's documentation shows the one way to wait for a result, its code suggests the other."""
    ours = (scheme, ASYNCGEN)
    to_floor = _ratio(rounds, _cpu, ours, (scheme, FLOOR))
    yield Target(f"CPU × the floor, over {scheme}", to_floor, _CPU_TO_FLOOR[scheme])
    for side in (OFFICIAL, OFFICIAL_OUTPUT):
        cpu, pace = (_ratio(rounds, figure, ours, (scheme, side)) for figure in (_cpu, _pace))
        yield Target(f"CPU × {LABELS[side]}, over {scheme}", cpu, _CPU_TO_OFFICIAL)
        yield Target(f"images/s × {LABELS[side]}, over {scheme}", pace, _PACE_TO_OFFICIAL, at_most=False)


def _cpu(trial: Trial) -> float:
    return trial.cpu_ms_per_image


def _pace(trial: Trial) -> float:
    return trial.images_per_second


def _ratio(rounds: Sequence[Round], figure: Callable[[Trial], float], case: Case, to: Case) -> float:
    """The median of the ratios within each round."""
    return median(figure(each[case]) / figure(each[to]) for each in rounds)


def _row(rounds: Sequence[Round], case: Case) -> tuple[str, ...]:
    scheme, side = case
    trials = [each[case] for each in rounds]
    floor, official = (scheme, FLOOR), (scheme, OFFICIAL)
    return (
        LABELS[side],
        scheme,
        f"{median(map(_cpu, trials)):.2f}",
        f"{_ratio(rounds, _cpu, case, floor):.2f}",
        f"{_ratio(rounds, _cpu, case, official):.2f}",
        f"{median(map(_pace, trials)):.1f}",
        f"{_ratio(rounds, _pace, case, official):.2f}",
        f"{median(trial.status_calls / trial.jobs for trial in trials):.2f}",
        *_server_cells(trials),
    )


def _server_cells(trials: Sequence[Trial]) -> tuple[str, str]:
    per_image = [trial.server_cpu_ms_per_image for trial in trials if trial.server_cpu_ms_per_image is not None]
    shares = [trial.server_share for trial in trials if trial.server_share is not None]
    return (f"{median(per_image):.2f}", f"{median(shares):.0%}") if shares else ("not known", "not known")
