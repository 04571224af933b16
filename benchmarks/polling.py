"""Status calls per image and how late an end is noticed: on a simulated queue, and on the live sandbox.

Simulated (`queue_simulator`): virtual time, 12 s a job, 4 jobs out per worker, every poller on the same jobs. What is
measured is the shipped model of the queue, which shares no code with the simulator. Live: `stream_many` and plain loops
over HTTP, each with an endpoint of its own in the same sandbox, counted in the sandbox's books; all at once, because
they wait and hardly work.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final

from benchmarks.live_polling import LIVE_KINDS, LiveRun, live_runs
from benchmarks.pollers import GrowingPauses, Oracle, Planned
from benchmarks.queue_simulator import Outcome, Poller, Scenario, Simulation
from benchmarks.report import Plot, RawSample, Report, Target

QUESTION: Final = "polling: how many status calls does an image take, and how late is its end noticed?"

PLANNED: Final = "asyncgen"
GROWING: Final = "0.5 s growing to 5 s"
POLLERS: Final[dict[str, Callable[[Simulation], Poller]]] = {
    "fixed 1 s": lambda _: GrowingPauses(1.0, 1.0),
    GROWING: lambda _: GrowingPauses(0.5, 5.0),
    PLANNED: lambda _: Planned(),
    "oracle": Oracle,
}
_MEAN_SECONDS: Final = 12.0
_WORKERS: Final = (20, 200)
_IMAGES_PER_WORKER, _QUICK_IMAGES_PER_WORKER = 40, 8
_SEEDS, _QUICK_SEEDS = 3, 1
_MOST_CALLS, _MOST_LAG_PERCENT = 2.2, 8.0
#: Predictions of order, or of times, are worth little there.
_UNPREDICTABLE: Final = ("random order", "last in, first out", "heavy tail")


def _varying(share: float) -> Callable[[random.Random, float], float]:
    return lambda draw, _at: max(0.2 * _MEAN_SECONDS, draw.gauss(_MEAN_SECONDS, share * _MEAN_SECONDS))


def _bimodal(draw: random.Random, _at: float) -> float:
    return draw.gauss(8.0, 0.4) if draw.random() < 0.6 else draw.gauss(18.0, 0.9)


def _drifting(draw: random.Random, at: float) -> float:
    return draw.gauss(_MEAN_SECONDS, 0.1 * _MEAN_SECONDS) * (1 + 0.5 * min(1.0, at / 400))


def _heavy_tail(draw: random.Random, _at: float) -> float:
    return _MEAN_SECONDS * draw.lognormvariate(0, 0.8)


def scenarios(workers: int, images: int) -> Iterator[Scenario]:
    """Everything that is simulated with so many workers."""
    ten = _varying(0.1)
    for share in (0.03, 0.1, 0.3):
        yield Scenario(f"{share:.0%}".replace("%", " %"), workers, images, _varying(share))
    yield Scenario("10 %, workers come over 2 min", workers, images, ten, scale_up_seconds=120 / workers)
    yield Scenario("10 %, half the GPUs half as fast", workers, images, ten, slow_share=0.5)
    yield Scenario("10 %, start not told", workers, images, ten, tells_start=False)
    yield Scenario("bimodal", workers, images, _bimodal)
    yield Scenario("drifting", workers, images, _drifting)
    yield Scenario("random order", workers, images, ten, order="random")
    yield Scenario("last in, first out", workers, images, ten, order="lifo")
    yield Scenario("heavy tail", workers, images, _heavy_tail)


@dataclass(frozen=True, slots=True)
class Simulated:
    """All seeds of one poller in one scenario."""

    scenario: Scenario
    side: str
    outcomes: Sequence[Outcome]

    @property
    def calls(self) -> float:
        """Status calls per image."""
        return fmean(each.calls_per_image for each in self.outcomes)

    @property
    def lag_percent(self) -> float:
        """Of the mean execution time."""
        return 100 * fmean(each.lag_share for each in self.outcomes)

    def sample(self, seed: int) -> RawSample:
        """One seed as raw figures."""
        each = self.outcomes[seed]
        return {
            "side": self.side,
            "where": f"simulated, {self.scenario.workers} workers",
            "scenario": self.scenario.name,
            "seed": seed,
            "calls_per_image": each.calls_per_image,
            "lag_percent": 100 * each.lag_share,
            "peak_calls_in_10_s": each.peak_calls,
        }


def run(quick: bool) -> Report:
    """All scenarios with 20 and 200 workers and 3 seeds, then the live sandbox; quick: one seed, few images."""
    per_worker, seeds = (_QUICK_IMAGES_PER_WORKER, _QUICK_SEEDS) if quick else (_IMAGES_PER_WORKER, _SEEDS)
    simulated = [
        Simulated(scenario, side, [Simulation(scenario, poller, seed).run() for seed in range(seeds)])
        for workers in (_WORKERS[:1] if quick else _WORKERS)
        for scenario in scenarios(workers, workers * per_worker)
        for side, poller in POLLERS.items()
    ]
    live = asyncio.run(live_runs(quick))
    return Report(
        QUESTION,
        ("where", *(f"{side}: calls, lag" for side in POLLERS)),
        [*_simulated_rows(simulated), *_live_rows(live)],
        [
            f"simulated: {per_worker} images a worker, {seeds} seeds, mean {_MEAN_SECONDS:g} s, 0.1 s there and back",
            *_worse_than_growing(simulated),
            *(each.terms for each in live[:1]),
        ],
        [fault for each in live for fault in each.faults],
        samples=[
            *(each.sample(seed) for each in simulated for seed in range(seeds)),
            *(each.sample() for each in live),
        ],
        targets=_targets(simulated, live),
        plots=[
            Plot("calls_per_image", "status calls per image", panel="where", limit=_MOST_CALLS),
            Plot("lag_percent", "lag, % of execution", panel="where", limit=_MOST_LAG_PERCENT),
        ],
    )


def _of(simulated: Sequence[Simulated], scenario: str, side: str, workers: int) -> Simulated:
    return next(
        each
        for each in simulated
        if (each.scenario.name, each.side, each.scenario.workers) == (scenario, side, workers)
    )


def _simulated_rows(simulated: Sequence[Simulated]) -> Iterator[tuple[str, ...]]:
    for at in range(0, len(simulated), len(POLLERS)):
        sides = simulated[at : at + len(POLLERS)]
        scenario = sides[0].scenario
        cells = (f"{each.calls:.2f}, {each.lag_percent:.1f} %" for each in sides)
        yield (f"{scenario.workers} workers, {scenario.name}", *cells)


def _live_rows(live: Sequence[LiveRun]) -> Iterator[tuple[str, ...]]:
    for kind in LIVE_KINDS:
        cells = {
            each.side: f"{each.calls_per_image:.2f}, {each.lag_percent:.1f} %" for each in live if each.kind == kind
        }
        yield (f"live sandbox, {kind}", *(cells.get(side, "–") for side in POLLERS))


def _worse_than_growing(simulated: Sequence[Simulated]) -> Iterator[str]:
    for each in simulated:
        if each.side == PLANNED:
            growing = _of(simulated, each.scenario.name, GROWING, each.scenario.workers)
            if each.calls > growing.calls or each.lag_percent > growing.lag_percent:
                yield f"worse than growing pauses: {each.scenario.workers} workers, {each.scenario.name}"


def _targets(simulated: Sequence[Simulated], live: Sequence[LiveRun]) -> list[Target]:
    ten = [each for each in simulated if (each.scenario.name, each.side) == ("10 %", PLANNED)]
    targets = [
        target
        for each in ten
        for target in (
            Target(f"status calls per image, {each.scenario.workers} workers, 10 %", each.calls, _MOST_CALLS),
            Target(f"lag, % of execution, {each.scenario.workers} workers, 10 %", each.lag_percent, _MOST_LAG_PERCENT),
        )
    ]
    ratios = [
        max(each.calls / growing.calls, each.lag_percent / growing.lag_percent)
        for each in simulated
        if each.side == PLANNED and each.scenario.name in _UNPREDICTABLE
        for growing in [_of(simulated, each.scenario.name, GROWING, each.scenario.workers)]
    ]
    targets.append(Target("where prediction fails, calls or lag × growing pauses", max(ratios), 1.0))
    live_ten = [each for each in live if each.side == PLANNED and each.kind == LIVE_KINDS[0]]
    targets += [Target("status calls per image, live, 10 %", each.calls_per_image, _MOST_CALLS) for each in live_ten]
    targets += [Target("lag, % of execution, live, 10 %", each.lag_percent, _MOST_LAG_PERCENT) for each in live_ten]
    return targets
