"""What a host application feels: the delay of a 1 ms heartbeat in its event loop while images land.

The blocking sides run in a thread of the host's, as their users run them. At 100 a second it is the server that sets
the pace: it answers so many `/run` a second, whatever a side's way of polling.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from statistics import median, quantiles
from typing import Final

from benchmarks.report import Plot, Report, Target, machine
from benchmarks.sides import ASYNCGEN, FLOOR, LABELS, OFFICIAL, PLAIN, REQUESTS
from benchmarks.trial import LARGE_PICTURE_BYTES, Task, Trial, attempt, faults_of, rounds_of, verified

QUESTION: Final = "loop: how late is a 1 ms heartbeat of the host while 1.8 MB images land?"

CONCURRENCY: Final = 32
SIDES: Final = (ASYNCGEN, PLAIN, OFFICIAL, REQUESTS, FLOOR)
FLAT_OUT, PACED = "flat out", "100 a second"
_RUNS_PER_SECOND: Final[Mapping[str, float | None]] = {FLAT_OUT: None, PACED: 100.0}
_JOBS, _ROUNDS = 1000, 3
_QUICK_JOBS, _QUICK_ROUNDS = 40, 1

#: A pace and a side.
Case = tuple[str, str]
Round = Mapping[Case, Trial]


def run(quick: bool) -> Report:
    """All sides at both paces, in turn."""
    jobs = _QUICK_JOBS if quick else _JOBS
    cases = list(product((FLAT_OUT, PACED), SIDES))
    rounds = rounds_of(
        cases,
        _QUICK_ROUNDS if quick else _ROUNDS,
        lambda case: attempt(
            case[1], Task(jobs, CONCURRENCY, runs_per_second=_RUNS_PER_SECOND[case[0]], heartbeat=True)
        ),
        quick=quick,
    )
    trials = [trial for each in rounds for trial in each.values()]
    faults = faults_of(trials)
    notes = [
        f"{len(rounds)} rounds of {jobs} jobs of {LARGE_PICTURE_BYTES / 1e6:g} MB, {CONCURRENCY} out; medians over the "
        f"rounds; {machine()}"
    ]
    return Report(
        QUESTION,
        ("side", "pace", "images/s", "median ms", "p99 ms", "worst ms"),
        [_row(rounds, case) for case in cases],
        notes if faults else [*notes, verified(trials)],
        faults,
        samples=[
            trial.figures() | {"pace": case[0]} | delays_ms(trial) for each in rounds for case, trial in each.items()
        ],
        targets=[
            Target("p99 ms flat out", _middle(rounds, (FLAT_OUT, ASYNCGEN), "p99_ms"), 8),
            Target("worst ms flat out", _middle(rounds, (FLAT_OUT, ASYNCGEN), "worst_ms"), 25),
            Target("p99 ms at 100 a second", _middle(rounds, (PACED, ASYNCGEN), "p99_ms"), 3),
        ],
        plots=[
            Plot("p99_ms", "p99 of the delay, ms", panel="pace"),
            Plot("worst_ms", "worst delay, ms", panel="pace"),
        ],
    )


def delays_ms(trial: Trial) -> dict[str, float]:
    """Median, p99 and worst lateness of the heartbeat, and how often it beat."""
    late = trial.sample.late_seconds
    hundredths = quantiles(late, n=100, method="inclusive")
    return {
        "median_ms": median(late) * 1000,
        "p99_ms": hundredths[-1] * 1000,
        "worst_ms": max(late) * 1000,
        "beats": len(late),
    }


def _middle(rounds: Sequence[Round], case: Case, figure: str) -> float:
    return median(delays_ms(each[case])[figure] for each in rounds)


def _row(rounds: Sequence[Round], case: Case) -> tuple[str, ...]:
    pace, side = case
    return (
        LABELS[side],
        pace,
        f"{median(each[case].images_per_second for each in rounds):.1f}",
        *(f"{_middle(rounds, case, figure):.2f}" for figure in ("median_ms", "p99_ms", "worst_ms")),
    )
