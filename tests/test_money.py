"""What jobs cost: sums with their label, what a run has spent, and a budget that no order of events can pass."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from asyncgen.money import IDLE_TAIL_SECONDS, Budget, Cost, Label, Price, Spending, Tally, Use, dollars, sum_of
from asyncgen.protocol import Timing

PRICE = Price(0.0004, "--usd-per-second")
MOST_MS = 600_000
_USD = st.floats(1e-7, 1e4)
_EXECUTION_MS = st.none() | st.integers(0, 600_000)


# -- sums and their labels ------------------------------------------------------------------------------------------


@given(_USD)
def test_a_sum_that_is_not_nothing_never_looks_like_nothing(usd: float) -> None:
    shown = dollars(usd)
    assert shown.startswith("$")
    assert float(shown[1:].replace(",", "")) == pytest.approx(usd, rel=0.5)


@pytest.mark.parametrize(
    ("usd", "shown"),
    [(0, "$0"), (1234.5, "$1,234.50"), (1, "$1.00"), (0.999, "$0.9990"), (0.00031, "$0.0003"), (0.000004, "$4e-06")],
)
def test_dollars_show_as_many_digits_as_say_something(usd: float, shown: str) -> None:
    assert dollars(usd) == shown


@given(st.lists(_EXECUTION_MS), st.booleans())
def test_a_sum_says_how_sure_it_is(jobs: list[int | None], is_priced: bool) -> None:
    tally = tally_of(jobs)
    cost = tally.cost(PRICE if is_priced else None)
    if jobs and not is_priced:
        assert (cost.usd, cost.label, str(cost)) == (None, Label.UNPRICED, "unpriced")
        return
    known = sum(ms for ms in jobs if ms is not None) / 1000 * PRICE.usd_per_second
    if None not in jobs:
        assert cost.usd == pytest.approx(known)
        assert (cost.label, str(cost)[0]) == (Label.MEASURED, "$")
    elif known:
        assert cost.usd == pytest.approx(known)
        assert (cost.label, str(cost)[:10]) == (Label.LOWER_BOUND, "at least $")
    else:
        assert (cost.usd, cost.label, str(cost)) == (None, Label.LOWER_BOUND, "not known"), "that is not $0"


def test_an_estimate_says_that_it_is_one() -> None:
    assert str(Cost(0.25, Label.ESTIMATED)) == "about $0.2500"


def test_without_a_price_nothing_but_nothing_has_a_sum() -> None:
    """Where nothing was bought, nothing was spent, whatever it would have cost."""
    assert Tally().cost(None) == Cost(0.0, Label.MEASURED)


@given(st.lists(st.tuples(_USD, st.integers(0, 3), st.integers(0, 3)), max_size=6))
def test_a_sum_of_sums_is_as_sure_as_the_least_sure_of_them(parts: list[tuple[float, int, int]]) -> None:
    costs = [Cost.of_jobs(usd, untimed=untimed, unpriced=unpriced) for usd, untimed, unpriced in parts]
    total = sum_of(iter(costs))
    if any(cost.label is Label.UNPRICED for cost in costs):
        assert total == Cost(None, Label.UNPRICED)
        return
    assert total.usd == pytest.approx(sum(usd for usd, _, _ in parts))
    is_lower_bound = any(cost.label is Label.LOWER_BOUND for cost in costs)
    assert total.label is (Label.LOWER_BOUND if is_lower_bound else Label.MEASURED)


def test_what_is_not_known_makes_a_sum_a_lower_bound() -> None:
    not_known = Cost(None, Label.LOWER_BOUND)
    assert sum_of([not_known, not_known]) == not_known
    assert sum_of([not_known, Cost(0.5, Label.MEASURED)]) == Cost(0.5, Label.LOWER_BOUND)


@given(st.lists(_EXECUTION_MS), st.lists(_EXECUTION_MS))
def test_a_lower_bound_says_what_it_can_be_at_the_most(some: list[int | None], others: list[int | None]) -> None:
    jobs = some + others
    cost = tally_of(jobs).cost(PRICE)
    most_usd = sum(MOST_MS if ms is None else ms for ms in jobs) / 1000 * PRICE.usd_per_second
    assert cost.most_usd == (pytest.approx(most_usd) if None in jobs else None)
    added = sum_of([tally_of(some).cost(PRICE), tally_of(others).cost(PRICE)])
    assert added.most_usd == (pytest.approx(most_usd) if None in jobs else None)


def tally_of(jobs: Iterable[int | None]) -> Tally:
    tally = Tally()
    for execution_ms in jobs:
        tally.add(execution_ms, MOST_MS)
    return tally


# -- what a run has spent -------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.sampled_from(Use), _EXECUTION_MS)))
def test_failed_and_lost_work_are_counted_apart_and_are_parts_of_the_total(jobs: list[tuple[Use, int | None]]) -> None:
    spending = Spending()
    for use, execution_ms in jobs:
        spending.add(use, Timing(None, execution_ms, "w1"), MOST_MS)
    for use in Use:
        assert spending.tallies[use] == tally_of(ms for became, ms in jobs if became is use)
    assert spending.total == tally_of(ms for _, ms in jobs)


def test_a_worker_costs_one_cold_start_and_one_idle_tail_however_many_jobs_it_runs() -> None:
    spending = Spending()
    for delay_ms, worker_id in [(12_000, "w1"), (90_000, "w1"), (20_000, "w2"), (5, None)]:
        spending.add(Use.MADE, Timing(delay_ms, 4700, worker_id), MOST_MS)
    overhead = spending.overhead(PRICE)
    assert overhead.label is Label.ESTIMATED
    assert overhead.usd == pytest.approx((12 + 20 + 2 * IDLE_TAIL_SECONDS) * PRICE.usd_per_second)


def test_a_first_delay_of_many_minutes_was_a_queue_and_no_cold_start() -> None:
    spending = Spending()
    spending.add(Use.MADE, Timing(1_800_000, 4700, "w1"), MOST_MS)
    assert spending.overhead(PRICE).usd == pytest.approx((60 + IDLE_TAIL_SECONDS) * PRICE.usd_per_second)


def test_cold_starts_and_idle_workers_are_unpriced_without_a_price() -> None:
    spending = Spending()
    spending.add(Use.MADE, Timing(12_000, 4700, "w1"), MOST_MS)
    assert spending.overhead(None) == Cost(None, Label.UNPRICED)


def test_what_cold_starts_cost_is_not_known_where_no_job_named_its_worker() -> None:
    spending = Spending()
    assert spending.overhead(PRICE).usd == 0, "nothing has run"
    spending.add(Use.LOST, Timing(), MOST_MS)
    assert spending.overhead(PRICE) == Cost(None, Label.ESTIMATED)
    assert str(spending.overhead(PRICE)) == "not known"


# -- the budget -----------------------------------------------------------------------------------------------------


class AnyOrder(RuleBasedStateMachine):
    """Jobs begin and end in any order, each costing at the most what was set aside for it."""

    def __init__(self) -> None:
        super().__init__()
        self.budget = Budget(10.0)
        self.out: list[float] = []
        self.spent = 0.0

    @rule(usd=st.floats(0.001, 12.0))
    def reserve(self, usd: float) -> None:
        before = self.budget.committed_usd, self.budget.reserved_usd
        fits = self.spent + math.fsum(self.out) + usd <= 10.0
        if self.budget.reserve(usd):
            self.out.append(usd)
            assert fits or self.spent + math.fsum(self.out) == pytest.approx(10.0), "it had to be refused"
        else:
            assert not fits or self.spent + math.fsum(self.out) + usd == pytest.approx(10.0), "it would have fitted"
            assert (self.budget.committed_usd, self.budget.reserved_usd) == before

    @precondition(lambda self: self.out)
    @rule(which=st.integers(0), share=st.floats(0, 1))
    def settle(self, which: int, share: float) -> None:
        usd = self.out.pop(which % len(self.out))
        self.budget.settle(usd, usd * share)
        self.spent += usd * share

    @invariant()
    def what_is_spent_and_what_is_out_never_pass_the_cap(self) -> None:
        assert self.spent + math.fsum(self.out) <= 10.0 + 1e-6

    @invariant()
    def nothing_drifts(self) -> None:
        assert self.budget.committed_usd == pytest.approx(self.spent, abs=1e-9)
        assert self.budget.reserved_usd == pytest.approx(math.fsum(self.out), abs=1e-9)
        assert self.budget.reservations == len(self.out)
        assert self.out or self.budget.reserved_usd == 0.0

    @invariant()
    def it_is_reached_when_no_end_of_what_is_out_can_help(self) -> None:
        for usd in (0.01, 5.0, 10.0):
            if self.budget.is_reached(usd) and self.out:
                assert self.spent + usd >= 10.0 - 1e-6


TestAnyOrderOfJobs = AnyOrder.TestCase


def test_a_million_small_jobs_do_not_wear_a_budget_down() -> None:
    """Reserved sums overlap, so that the sum is never set back to nothing on the way."""
    budget = Budget(1.0)
    assert budget.reserve(0.1)
    for _ in range(100_000):
        assert budget.reserve(0.3)
        budget.settle(0.3, 0.0)
    assert budget.reserved_usd == pytest.approx(0.1, abs=1e-9)
    budget.settle(0.1, 0.0)
    assert (budget.reserved_usd, budget.committed_usd) == (0.0, 0.0)


def test_a_cap_can_be_used_up_to_the_last_cent() -> None:
    budget = Budget(0.3)
    assert all(budget.reserve(0.1) for _ in range(3)), "0.1 + 0.1 + 0.1 is more than 0.3 in binary, and is not"
    assert not budget.reserve(0.0001)


def test_without_a_cap_everything_fits() -> None:
    budget = Budget(None)
    assert all(budget.reserve(1e9) for _ in range(3))


def test_what_an_earlier_run_bought_counts_even_where_it_passes_today_s_cap() -> None:
    budget = Budget(1.0, committed_usd=0.5)
    budget.hold(0.7)
    assert not budget.reserve(0.01)
    assert not budget.is_reached(0.4), "it may turn out to have cost less"
    budget.settle(0.7, 0.05)
    assert budget.reserve(0.45)
    assert not budget.reserve(0.01)


def test_a_budget_is_reached_where_nothing_is_out_that_could_give_something_back() -> None:
    budget = Budget(1.0)
    assert not budget.reserve(1.5)
    assert budget.is_reached(1.5)
