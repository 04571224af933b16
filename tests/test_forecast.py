"""How long jobs may run and exist: bounds that hold whatever was seen, and what times that were seen change."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from parts import want

from asyncgen.forecast import RETENTION_SECONDS, Forecast, most_out
from asyncgen.protocol import EXECUTION_TIMEOUT_RANGE_MS, TTL_RANGE_MS
from asyncgen.records import Spec

SPEC = want("a fox", width=1024, height=1024, steps=20).spec
ENOUGH = 8

specs = st.builds(
    lambda width, height, steps, batch: replace(SPEC, width=width, height=height, steps=steps, batch_size=batch),
    *(st.integers(64, 2048), st.integers(64, 2048), st.integers(1, 150), st.integers(1, 8)),
)
seen = st.lists(st.tuples(specs, st.integers(0, 700_000)), max_size=30)
timeouts = st.floats(5, 604_800)


def forecast(timeout_seconds: float = 600, ttl_seconds: float = 3600) -> Forecast:
    return Forecast(timeout_seconds, ttl_seconds)


def after(jobs: list[tuple[Spec, int]], timeout_seconds: float = 600, ttl_seconds: float = 3600) -> Forecast:
    it = forecast(timeout_seconds, ttl_seconds)
    for spec, execution_ms in jobs:
        it.learn(spec, execution_ms)
    return it


# -- the execution timeout ------------------------------------------------------------------------------------------


@given(seen, specs, timeouts)
def test_a_timeout_is_one_that_the_platform_takes_and_never_longer_than_the_settings(
    jobs: list[tuple[Spec, int]], spec: Spec, timeout_seconds: float
) -> None:
    timeout_ms = after(jobs, timeout_seconds).execution_timeout_ms(spec)
    assert EXECUTION_TIMEOUT_RANGE_MS[0] <= timeout_ms <= EXECUTION_TIMEOUT_RANGE_MS[1]
    assert timeout_ms <= max(EXECUTION_TIMEOUT_RANGE_MS[0], timeout_seconds * 1000)


@given(st.lists(st.integers(1, 60_000), min_size=ENOUGH, max_size=20))
def test_no_job_like_those_that_were_seen_is_cut_off(times_ms: list[int]) -> None:
    it = after([(SPEC, ms) for ms in times_ms])
    assert it.execution_timeout_ms(SPEC) >= min(600_000, 5 * max(times_ms))


@given(seen, specs, st.integers(0, 600_000))
def test_a_slower_job_makes_no_timeout_shorter(jobs: list[tuple[Spec, int]], spec: Spec, longer: int) -> None:
    quick = after([*[(SPEC, 100)] * ENOUGH, *jobs])
    slow = after([*[(SPEC, 100)] * ENOUGH, *jobs, (SPEC, longer)])
    assert slow.execution_timeout_ms(spec) >= quick.execution_timeout_ms(spec)


@given(seen, st.integers(1, 8))
def test_more_work_is_given_no_less_time(jobs: list[tuple[Spec, int]], pictures: int) -> None:
    it = after(jobs)
    more = replace(SPEC, batch_size=pictures)
    assert it.execution_timeout_ms(more) >= it.execution_timeout_ms(SPEC)


def test_before_enough_were_seen_the_settings_hold() -> None:
    assert after([(SPEC, 4700)] * (ENOUGH - 1)).execution_timeout_ms(SPEC) == 600_000
    assert after([(SPEC, 4700)] * ENOUGH).execution_timeout_ms(SPEC) < 600_000


def test_once_enough_were_seen_it_is_a_multiple_of_the_slowest_but_long_enough_for_a_worker_that_starts() -> None:
    assert after([(SPEC, 9_000)] * (ENOUGH - 1) + [(SPEC, 12_000)]).execution_timeout_ms(SPEC) == 120_000
    assert after([(SPEC, 1_000)] * ENOUGH).execution_timeout_ms(SPEC) == 60_000


@pytest.mark.parametrize("twice", [{"steps": 40}, {"width": 2048}, {"height": 2048}, {"batch_size": 2}])
def test_what_a_job_takes_says_what_one_of_twice_the_work_may(twice: dict[str, Any]) -> None:
    it = after([(SPEC, 9_000)] * ENOUGH)
    assert it.execution_timeout_ms(replace(SPEC, **twice)) == 2 * it.execution_timeout_ms(SPEC)


# -- the time to live -----------------------------------------------------------------------------------------------


@given(seen, st.integers(0, 100_000), st.integers(5_000, 604_800_000), st.floats(10, 604_800))
def test_a_ttl_is_one_that_the_platform_takes_and_never_shorter_than_the_settings(
    jobs: list[tuple[Spec, int]], ahead: int, timeout_ms: int, ttl_seconds: float
) -> None:
    ttl_ms = after(jobs, ttl_seconds=ttl_seconds).ttl_ms(ahead, timeout_ms)
    assert TTL_RANGE_MS[0] <= ttl_ms <= TTL_RANGE_MS[1]
    assert ttl_ms >= int(ttl_seconds * 1000)


@given(seen, st.integers(0, 2_000), st.integers(0, 2_000))
def test_a_longer_queue_makes_no_ttl_shorter(jobs: list[tuple[Spec, int]], ahead: int, more: int) -> None:
    it = after(jobs)
    assert it.ttl_ms(ahead + more, 600_000) >= it.ttl_ms(ahead, 600_000)


@given(st.integers(1, 120_000), st.integers(0, 2_000))
def test_one_worker_alone_gets_through_the_queue_ahead_before_a_job_s_time_is_up(each_ms: int, ahead: int) -> None:
    ttl_ms = after([(SPEC, each_ms)] * ENOUGH, ttl_seconds=10).ttl_ms(ahead, 600_000)
    assert ttl_ms >= min(TTL_RANGE_MS[1], each_ms * ahead + 600_000)


def test_before_enough_were_seen_every_job_ahead_may_take_its_whole_timeout() -> None:
    assert forecast(ttl_seconds=10).ttl_ms(100, 600_000) >= 100 * 600_000


# -- how many can be fetched ----------------------------------------------------------------------------------------


@given(st.floats(0, 1000))
def test_what_is_out_can_be_fetched_before_the_first_of_it_expires(results_per_second: float) -> None:
    jobs = most_out(results_per_second)
    assert jobs == 1 or jobs / results_per_second < RETENTION_SECONDS


@given(st.floats(0, 1000), st.floats(0, 1000))
def test_slower_fetching_lets_no_more_out(slow: float, fast: float) -> None:
    slow, fast = sorted((slow, fast))
    assert 1 <= most_out(slow) <= most_out(fast)
