"""Ranges of time and money: from history or a rate, never from nothing."""

from __future__ import annotations

import pytest

from asyncgen.estimate import Basis, History, Span, Work, estimate, jobs_that_fit, span_of
from asyncgen.money import Price
from asyncgen.plan_display import estimate_lines

WORK = Work("v4", "flux1-dev-fp8", 1360, 768, 20, 1, 1)
OTHER = Work("v4", "flux1-dev-fp8", 1024, 1024, 20, 1, 1)
PRICE = Price(0.001, "a test")


def test_a_range_is_from_the_tenth_to_the_ninetieth_percentile_with_the_mean_as_likely() -> None:
    assert span_of([float(n) for n in range(1, 12)]) == Span(2.0, 6.0, 10.0)
    assert span_of([4.0]) == Span(4.0, 4.0, 4.0)
    assert span_of([]) is None


def test_a_mean_beyond_the_percentiles_widens_the_range() -> None:
    span = span_of([1.0] * 19 + [100.0])
    assert span is not None
    assert span.low == 1.0 < span.likely == span.high


def test_history_makes_seconds_and_dollars_and_workers_divide_the_time() -> None:
    found = estimate({WORK: 10}, History({WORK: [4.0, 5.0, 6.0]}), workers=4, price=PRICE)
    assert found.worker_seconds == Span(40.0, 50.0, 60.0)
    assert found.seconds == Span(10.0, 12.5, 15.0)
    assert found.usd is not None
    assert found.usd.likely == pytest.approx(0.05)
    assert (found.lanes[0].basis, found.lanes[0].jobs_seen) == (Basis.HISTORY, 3)


def test_without_workers_the_words_name_the_command_that_takes_their_number() -> None:
    words = " ".join(estimate_lines(estimate({WORK: 10, OTHER: 3}, History({WORK: [4.0]}))))
    assert "asyncgen plan --workers N" in words
    assert "asyncgen plan --seconds-per-image" in words


def test_more_workers_than_jobs_make_nothing_quicker() -> None:
    found = estimate({WORK: 2}, History({WORK: [4.0]}), workers=100)
    assert found.seconds == Span(4.0, 4.0, 4.0)


def test_what_has_no_history_is_unknown_and_in_no_sum() -> None:
    found = estimate({WORK: 10, OTHER: 3}, History({WORK: [4.0]}), price=PRICE)
    assert found.jobs_unknown == 3
    assert found.worker_seconds == Span(40.0, 40.0, 40.0)
    nothing = estimate({OTHER: 3}, History({}), price=PRICE)
    assert nothing.worker_seconds is None
    assert nothing.usd is None
    assert nothing.lanes[0].basis is Basis.UNKNOWN


def test_the_caller_s_rate_counts_before_history_and_is_per_image() -> None:
    batches_of_two = Work("v4", "flux1-dev-fp8", 512, 512, 20, 2, 0)
    found = estimate({batches_of_two: 5}, History({batches_of_two: [99.0]}), seconds_per_image=3.0)
    assert found.worker_seconds == Span(30.0, 30.0, 30.0)
    assert found.lanes[0].basis is Basis.RATE


def test_the_price_named_counts_before_the_history_s_and_without_any_it_is_unpriced() -> None:
    history = History({WORK: [4.0]}, price=Price(0.5, "old"))
    assert estimate({WORK: 1}, history, price=PRICE).price == PRICE
    assert estimate({WORK: 1}, history).price == history.price
    assert estimate({WORK: 1}, History({WORK: [4.0]})).usd is None


def test_each_worker_s_start_is_its_cold_start_and_five_idle_seconds() -> None:
    found = estimate({WORK: 1}, History({WORK: [4.0]}, cold_starts=[10.0, 20.0]), price=PRICE)
    assert found.overhead_usd_each is not None
    assert found.overhead_usd_each.likely == pytest.approx((15 + 5) * 0.001)
    assert estimate({WORK: 1}, History({}), price=PRICE).overhead_usd_each is None


def test_a_budget_pays_for_so_many_at_the_high_end() -> None:
    found = estimate({WORK: 10}, History({WORK: [4.0] * 5 + [8.0] * 5}), price=PRICE)
    assert jobs_that_fit(0.020, found.lanes, PRICE) == 2
    assert jobs_that_fit(1.0, found.lanes, PRICE) == 10
    assert jobs_that_fit(1.0, estimate({WORK: 10}, History({})).lanes, PRICE) is None
