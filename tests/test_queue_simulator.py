"""The simulated queue of the benchmarks `polling` and `busy` does what it says, before anything is measured on it."""

from __future__ import annotations

import pytest

from benchmarks import busy, polling
from benchmarks.pollers import GrowingPauses, Oracle, Planned
from benchmarks.queue_simulator import ONE_WAY_SECONDS, Outcome, Scenario, Simulation


def scenario(**changes: object) -> Scenario:
    """Two workers, ten jobs of 10 s, all at the ready after 5 s."""
    given = {"name": "x", "workers": 2, "images": 10, "execution": lambda _draw, _at: 10.0, "cold_start_seconds": 5.0}
    return Scenario(**{**given, **changes})  # type: ignore[arg-type]  # the values' types are the fields'


def growing(first: float, longest: float, **changes: object) -> Outcome:
    return Simulation(scenario(**changes), lambda _: GrowingPauses(first, longest)).run()


def test_an_oracle_asks_once_and_is_late_by_the_way_there_and_back() -> None:
    outcome = Simulation(scenario(), Oracle).run()
    assert outcome.calls_per_image == 1
    assert outcome.mean_lag == pytest.approx(2 * ONE_WAY_SECONDS)


def test_workers_work_side_by_side_and_one_job_after_the_other() -> None:
    assert Simulation(scenario(), Oracle).run().makespan == pytest.approx(5 + 5 * 10, abs=0.2)
    assert Simulation(scenario(scale_up_seconds=20.0), Oracle).run().makespan > 60


def test_polls_at_a_fixed_pace_are_counted_and_half_a_pause_late() -> None:
    outcome = growing(1.0, 1.0, images=400, execution=lambda draw, _at: draw.uniform(8, 12))
    assert outcome.mean_lag == pytest.approx(0.5, abs=0.15)
    assert outcome.calls_per_image == pytest.approx(4 * outcome.mean_execution, rel=0.2)
    assert 70 <= outcome.peak_calls <= 80, "eight are out, asked about each 1.1 s"


def test_every_poller_gets_the_same_jobs() -> None:
    varying = scenario(execution=lambda draw, _at: draw.uniform(5, 15), images=50)
    outcomes = [Simulation(varying, poller, 3).run() for poller in (Oracle, lambda _: GrowingPauses(1.0, 1.0))]
    assert outcomes[0].mean_execution == pytest.approx(outcomes[1].mean_execution)


@pytest.mark.parametrize("order", ["fifo", "lifo", "random"])
def test_whatever_the_order_every_image_is_noticed(order: str) -> None:
    for each in (Planned(), GrowingPauses(0.5, 5.0)):
        outcome = Simulation(scenario(order=order, images=60), lambda _, each=each: each).run()  # type: ignore[misc]
        assert outcome.images == 60


def test_the_model_of_the_queue_beats_growing_pauses_in_calls_and_in_lateness() -> None:
    """Far from the figures that are aimed at: those are the benchmark's, and few images are mostly beginning."""
    for each in polling.scenarios(10, 200):
        planned = Simulation(each, polling.POLLERS[polling.PLANNED]).run()
        other = Simulation(each, polling.POLLERS[polling.GROWING]).run()
        assert planned.calls < 0.6 * other.calls, each.name
        assert planned.lag_share < 1.1 * other.lag_share, each.name


def test_busy_reports_what_its_target_is_about() -> None:
    report = busy.run(quick=True)
    assert [target.what for target in report.targets] == ["makespan × ideal, 4 out per worker"]
    assert 0.99 < report.targets[0].measured < 1.2
