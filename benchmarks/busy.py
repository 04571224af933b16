"""How busy polling keeps the workers: makespan of 2,000 images against the ideal, on a virtual clock.

It is the shipped model of the queue that is run (`asyncgen.queue_model`), not the whole engine, in the simulator of
the benchmark `polling`: a worker that is free takes the next job that is out, and a job is replaced by the next one
when its end has been noticed. Ideal: all images × their time / workers + one cold start.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from benchmarks.pollers import GrowingPauses, Oracle, Planned
from benchmarks.queue_simulator import Outcome, Poller, Scenario, Simulation
from benchmarks.report import Plot, Report, Target

QUESTION: Final = "busy: how long do 2,000 images of 12 s take on 20 workers, against the ideal?"

_IMAGES, _QUICK_IMAGES = 2000, 200
_WORKERS: Final = 20
_SECONDS: Final = 12.0
_COLD_START_SECONDS: Final = 20.0
_MOST: Final = 1.02
_PLANNED: Final = "asyncgen"
_POLLERS: Final[dict[str, Callable[[Simulation], Poller]]] = {
    "fixed 1 s": lambda _: GrowingPauses(1.0, 1.0),
    "0.5 s growing to 5 s": lambda _: GrowingPauses(0.5, 5.0),
    _PLANNED: lambda _: Planned(),
    "oracle": Oracle,
}
#: Jobs out per worker: asyncgen keeps a few; with one, a worker is idle until its image has been noticed.
_JOBS_PER_WORKER: Final = (1, 2, 4)


def run(quick: bool) -> Report:
    """All pollers with 1, 2 and 4 jobs out per worker."""
    images = _QUICK_IMAGES if quick else _IMAGES
    ideal = images * _SECONDS / _WORKERS + _COLD_START_SECONDS
    outcomes = {
        (name, out): Simulation(_scenario(images, out), poller).run()
        for name, poller in _POLLERS.items()
        for out in _JOBS_PER_WORKER
    }
    return Report(
        QUESTION,
        ("side", *(f"× ideal, {out} out per worker" for out in _JOBS_PER_WORKER), "calls/image at 4"),
        [_row(name, outcomes, ideal) for name in _POLLERS],
        [f"virtual time: {images} images of {_SECONDS:g} s, {_WORKERS} workers, ideal {ideal:g} s; the shipped model"],
        [],
        samples=[
            {"side": name, "jobs_per_worker": out, "makespan_ratio": each.makespan / ideal, "calls": each.calls}
            for (name, out), each in outcomes.items()
        ],
        targets=[Target("makespan × ideal, 4 out per worker", outcomes[_PLANNED, 4].makespan / ideal, _MOST)],
        plots=[Plot("makespan_ratio", "makespan × ideal", parameter="jobs_per_worker", limit=_MOST)],
    )


def _scenario(images: int, jobs_per_worker: int) -> Scenario:
    return Scenario(
        "busy",
        _WORKERS,
        images,
        lambda _draw, _at: _SECONDS,
        jobs_per_worker=jobs_per_worker,
        cold_start_seconds=_COLD_START_SECONDS,
    )


def _row(name: str, outcomes: dict[tuple[str, int], Outcome], ideal: float) -> tuple[str, ...]:
    ratios = (f"{outcomes[name, out].makespan / ideal:.3f}" for out in _JOBS_PER_WORKER)
    return (name, *ratios, f"{outcomes[name, 4].calls_per_image:.2f}")
