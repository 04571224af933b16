"""How fast requests may leave: never more in any 10 s than the platform allows, whatever happens in between."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncgen.pacing import WINDOW_SECONDS, TokenBucket, backoff_seconds, polling_pause_seconds

PAUSES = st.sampled_from([0.0, 0.0, 0.001, 0.1, 1.0, 9.99, 10.0, 60.0]) | st.floats(0, 30)
#: What happens next: so many requests at once, or a 429 with or without a Retry-After in seconds.
EVENTS = st.integers(1, 60) | st.none() | st.floats(0, 40)


def fullest_window(sent: list[float]) -> int:
    """The most requests in any window of 10 s, less what rounding may shift."""
    return max((sum(start <= at < start + WINDOW_SECONDS - 1e-6 for at in sent) for start in sent), default=0)


def sending_times(bucket: TokenBucket, arrivals: list[float]) -> list[float]:
    return [now + bucket.reserve(now) for now in arrivals]


@settings(max_examples=150)
@given(limit=st.floats(1, 120), start=st.floats(0, 1e6), steps=st.lists(st.tuples(PAUSES, EVENTS), max_size=40))
def test_no_window_of_10_s_ever_holds_more_than_the_limit(
    limit: float, start: float, steps: list[tuple[float, int | float | None]]
) -> None:
    bucket, now, sent = TokenBucket(limit), start, list[float]()
    for pause, event in steps:
        now += pause
        if isinstance(event, int):
            sent += sending_times(bucket, [now] * event)
        else:
            bucket.slow_down(now, event)
    assert fullest_window(sent) <= limit


@given(limit=st.floats(1, 2000), arrivals=st.lists(PAUSES, min_size=1, max_size=60))
def test_requests_leave_in_the_order_in_which_they_came(limit: float, arrivals: list[float]) -> None:
    sent = sending_times(TokenBucket(limit), list(itertools.accumulate(arrivals)))
    assert sent == sorted(sent)


@pytest.mark.parametrize("limit", [10, 80, 800, 1600])
def test_a_crowd_is_let_through_at_the_full_limit(limit: int) -> None:
    sent = sending_times(TokenBucket(limit), [0.0] * limit)
    assert sent[limit // 10 - 1] == 0, "a tenth goes at once"
    assert sent[-1] == pytest.approx(WINDOW_SECONDS, rel=0.02), "and all of them within one window"


def test_a_bucket_that_has_rested_holds_no_more_than_one_burst() -> None:
    bucket = TokenBucket(100)
    sending_times(bucket, [0.0] * 100)
    assert sending_times(bucket, [1000.0] * 20).count(1000.0) == 10


def test_a_request_to_a_rested_bucket_waits_for_nothing() -> None:
    for limit in (1, 2, 8, 800):
        assert TokenBucket(limit).reserve(5.0) == 0


def test_a_429_slows_to_70_percent_and_a_second_one_further() -> None:
    bucket = TokenBucket(100)
    bucket.slow_down(0.0)
    assert bucket.factor(0.0) == pytest.approx(0.7)
    bucket.slow_down(1.0)
    assert bucket.factor(1.0) == pytest.approx(0.71 * 0.7)


def test_a_volley_of_429s_counts_once() -> None:
    bucket = TokenBucket(100)
    for answer in range(64):
        bucket.slow_down(5.0 + answer / 100)
    assert bucket.factor(5.64) == pytest.approx(0.7 + 0.0064)


def test_what_has_its_token_waits_for_retry_after_as_well() -> None:
    bucket = TokenBucket(100)
    bucket.reserve(0.0)
    assert bucket.paused_for(0.0) == 0
    bucket.slow_down(0.0, 7.0)
    assert bucket.paused_for(2.0) == pytest.approx(5.0)
    assert bucket.paused_for(8.0) == 0


def test_a_429_grants_no_new_burst() -> None:
    bucket = TokenBucket(1000)
    sending_times(bucket, [0.0] * 100)
    for _ in range(9):
        bucket.slow_down(0.0)
    assert bucket.reserve(0.0) > 0


def test_however_many_429s_come_the_pace_does_not_end() -> None:
    bucket = TokenBucket(100)
    for second in range(1000):
        bucket.slow_down(float(second))
    assert bucket.factor(999.0) == pytest.approx(0.05)
    sent = sending_times(bucket, [999.0] * 20)
    assert sent[-1] - sent[-2] == pytest.approx(WINDOW_SECONDS / 90 / 0.05)


def test_the_pace_recovers_by_a_percentage_point_a_second_and_no_further_than_all_of_it() -> None:
    bucket = TokenBucket(100)
    bucket.slow_down(50.0)
    assert bucket.factor(60.0) == pytest.approx(0.8)
    assert bucket.factor(80.0) == pytest.approx(1.0)
    assert bucket.factor(9999.0) == 1.0


@given(seconds=st.floats(0, 300), count=st.integers(1, 30))
def test_nothing_is_sent_before_retry_after_has_passed(seconds: float, count: int) -> None:
    bucket = TokenBucket(50)
    bucket.slow_down(100.0, seconds)
    assert min(sending_times(bucket, [100.0] * count)) >= 100.0 + seconds - 1e-9


def test_a_shorter_retry_after_does_not_end_a_longer_one() -> None:
    bucket = TokenBucket(50)
    bucket.slow_down(0.0, 30.0)
    bucket.slow_down(1.0, 2.0)
    assert bucket.reserve(1.0) == pytest.approx(29.0)


def test_what_waited_for_retry_after_does_not_leave_all_at_once() -> None:
    bucket = TokenBucket(1000)
    bucket.slow_down(0.0, 60.0)
    sent = sending_times(bucket, [0.0] * 500)
    assert sent.count(60.0) <= 100


@given(attempt=st.integers(1, 10_000), jitter=st.floats(0, 1, exclude_max=True))
def test_a_backoff_lies_between_half_and_all_of_its_ceiling_and_under_the_cap(attempt: int, jitter: float) -> None:
    ceiling = min(30.0, 0.5 * 2.0 ** min(attempt - 1, 60))
    assert ceiling / 2 <= backoff_seconds(attempt, jitter) <= ceiling <= 30.0


def test_a_backoff_doubles_until_its_cap() -> None:
    pauses = [backoff_seconds(n, 0.0, base_seconds=2.0, cap_seconds=16.0) for n in range(1, 6)]
    assert pauses == [1.0, 2.0, 4.0, 8.0, 8.0]


@given(attempt=st.integers(1, 10_000), jitter=st.floats(0, 1, exclude_max=True), first=st.floats(0.01, 60))
def test_a_polling_pause_stays_between_the_first_and_the_longest(attempt: int, jitter: float, first: float) -> None:
    pause = polling_pause_seconds(attempt, jitter, first_seconds=first, longest_seconds=5.0)
    assert 0.9 * first <= pause + 1e-9
    assert pause <= 1.1 * max(first, 5.0) + 1e-9


def test_polling_pauses_grow_by_half_each_time() -> None:
    pauses = [polling_pause_seconds(n, 0.5, first_seconds=1.0, longest_seconds=3.0) for n in range(1, 6)]
    assert pauses == pytest.approx([1.0, 1.5, 2.25, 3.0, 3.0])
