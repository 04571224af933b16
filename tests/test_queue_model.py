"""When to ask for a job: learned from what replies say, and never far off where that says nothing."""

from __future__ import annotations

import pickle
import random
from collections import deque
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncgen.queue_model import QueueModel, WaitedJob

SHORTEST, LONGEST, SLOW = 1.0, 5.0, 3.0


def model() -> QueueModel:
    return QueueModel(SHORTEST, LONGEST, SLOW)


def run_one(
    queue: QueueModel, submitted_at: float, start: float, end: float, *, worker: str = "w", lag: float = 0.0
) -> None:
    """One job of lane "a" from its submission to the reply that tells of its end."""
    job = queue.submitted("a", submitted_at, submitted_at)
    queue.asked(job, end + lag, 0.0)
    queue.ended(job, end + lag, _ms(start - submitted_at), _ms(end - start), worker, completed=True)


def _ms(seconds: float) -> int:
    return round(1000 * seconds)


def taught(jobs: int = 16, seconds: float = 10.0) -> tuple[QueueModel, float]:
    """A model that has seen one worker do so many jobs one after the other, and when the last one ended."""
    queue, now = model(), 0.0
    for _ in range(jobs):
        run_one(queue, now, now, now + seconds)
        now += seconds
    return queue, now


def polls_until(queue: QueueModel, job: WaitedJob, end: float, say: Callable[[float], object]) -> list[float]:
    """When a job is asked about that ends then; each call before that is answered at once, by `say`."""
    polls, now = list[float](), job.asked_at
    while not polls or polls[-1] < end:
        while (due := queue.next_poll_at(job, now)) > now:
            now = due
        polls.append(now)
        queue.asked(job, now, 0.0)
        if now < end:
            say(now)
    return polls


# -- while nothing is known -----------------------------------------------------------------------------------------


def test_the_first_jobs_are_asked_about_after_the_interval_and_then_ever_less_often() -> None:
    queue = model()
    job = queue.submitted("a", 0.0, 0.0)
    polls = polls_until(queue, job, 30.0, lambda now: queue.queued(job, now))
    assert polls[:5] == pytest.approx([1.0, 2.5, 4.75, 8.125, 13.125])
    assert polls[-1] - polls[-2] == pytest.approx(LONGEST)


def test_while_nothing_is_known_a_few_jobs_are_asked_about_for_all() -> None:
    queue = model()
    jobs = [queue.submitted("a", 0.0, 0.0) for _ in range(1000)]
    assert sum(queue.next_poll_at(job, 0.0) <= SHORTEST for job in jobs) < 20


def test_a_job_of_unknown_age_is_asked_about_at_once() -> None:
    queue, now = taught()
    assert queue.next_poll_at(queue.submitted("a", now, None), now) <= now


def test_the_first_end_wakes_all_who_wait() -> None:
    queue = model()
    jobs = [queue.submitted("a", 0.0, 0.0) for _ in range(100)]
    queue.asked(jobs[0], 12.0, 0.0)
    queue.ended(jobs[0], 12.0, 0, 12_000, "w", completed=True)
    assert set(jobs[1:]) <= set(queue.hastened())


# -- what is learned ------------------------------------------------------------------------------------------------


def test_a_job_whose_start_is_known_is_asked_about_once_it_should_have_ended() -> None:
    queue, now = taught(seconds=10.0)
    job = queue.submitted("a", now, now)
    queue.asked(job, now + 3.0, 0.0)
    queue.running(job, now + 3.0, 2000, "w")
    assert queue.next_poll_at(job, now + 3.0) == pytest.approx(now + 12.0, abs=0.2)


def test_a_job_starts_when_the_one_before_it_has_ended() -> None:
    """One worker, four jobs out, none asked about before its turn: one call each."""
    queue, now = taught(seconds=10.0)
    waiting = deque((queue.submitted("a", now, now), now) for _ in range(4))
    calls = 0
    for number in range(12):
        (job, submitted_at), start = waiting.popleft(), now + 10.0 * number
        at = polls_until(queue, job, start + 10.0, partial(queue.running, job, delay_ms=None, worker_id="w"))
        calls += len(at)
        assert at[-1] - (start + 10.0) < 1.5
        queue.ended(job, at[-1], _ms(start - submitted_at), 10_000, "w", completed=True)
        waiting.append((queue.submitted("a", at[-1], at[-1]), at[-1]))
    assert calls <= 14


def test_lanes_are_learned_apart_and_a_new_one_begins_with_growing_pauses() -> None:
    queue, now = taught(seconds=10.0)
    job = queue.submitted("another", now, now)
    queue.asked(job, now + 1.0, 0.0)
    queue.running(job, now + 1.0, 0, "w")
    assert queue.next_poll_at(job, now + 1.0) < now + 3.0


def test_a_slower_worker_is_given_more_time() -> None:
    queue, now = model(), 0.0
    for number in range(60):
        worker, seconds = ("slow", 20.0) if number % 2 else ("quick", 10.0)
        run_one(queue, now, now, now + seconds, worker=worker)
        now += seconds
    due = {}
    for worker in ("slow", "quick"):
        job = queue.submitted("a", now, now)
        queue.asked(job, now + 1.0, 0.0)
        queue.running(job, now + 1.0, 0, worker)
        due[worker] = queue.next_poll_at(job, now + 1.0) - now
    assert due["slow"] == pytest.approx(20.0, rel=0.15)
    assert due["quick"] == pytest.approx(10.0, rel=0.15)


def test_of_two_usual_times_both_are_asked_at() -> None:
    queue, now = model(), 0.0
    for number in range(64):
        seconds = 20.0 if number % 3 == 0 else 5.0
        run_one(queue, now, now, now + seconds)
        now += seconds
    job = queue.submitted("a", now, now)
    queue.asked(job, now + 1.0, 0.0)
    queue.running(job, now + 1.0, 0, None)
    first, *_, last = polls_until(queue, job, now + 20.0, lambda at: queue.running(job, at, 0, None))
    assert first - now == pytest.approx(5.0, abs=0.5)
    assert last - now == pytest.approx(20.0, abs=0.5)


def test_a_job_in_the_queue_is_left_alone_for_as_long_as_a_quick_one_takes() -> None:
    queue, now = taught(seconds=10.0)
    job = queue.submitted("a", now, now)
    queue.asked(job, now + 12.0, 0.0)
    queue.queued(job, now + 12.0)
    assert queue.next_poll_at(job, now + 12.0) >= now + 12.0 + 9.9


# -- when it is wrong -----------------------------------------------------------------------------------------------


def test_a_job_that_outlives_its_prediction_is_asked_about_in_growing_pauses() -> None:
    queue, now = taught(seconds=10.0)
    job = queue.submitted("a", now, now)
    queue.asked(job, now + 1.0, 0.0)
    queue.running(job, now + 1.0, 0, "w")
    polls = polls_until(queue, job, now + 60.0, lambda at: queue.running(job, at, 0, "w"))
    pauses = [after - before for before, after in pairwise(polls)]
    assert pauses == sorted(pauses)
    assert pauses[0] <= 2.0
    assert pauses[-1] == pytest.approx(LONGEST)


def test_a_slow_job_is_asked_about_a_third_as_often() -> None:
    queue = model()
    job = queue.submitted("a", 0.0, 0.0)
    for second in range(20):
        queue.asked(job, float(second), 0.0)
        queue.running(job, float(second), None, None)
    job.is_slow = True
    assert queue.next_poll_at(job, 19.0) - 19.0 == pytest.approx(SLOW * LONGEST)


def test_times_that_do_not_fit_our_clock_teach_nothing() -> None:
    """A platform that counts in other units, or from another moment, than it is taken for."""
    queue = model()
    for number in range(20):
        job = queue.submitted("a", float(number), float(number))
        queue.asked(job, number + 0.5, 0.0)
        queue.ended(job, number + 0.5, 50_000, 70_000, "w", completed=True)
    job = queue.submitted("a", 20.0, 20.0)
    assert queue.next_poll_at(job, 20.0) == pytest.approx(21.0)


def test_order_is_not_believed_where_the_last_comes_first() -> None:
    queue, now = taught(seconds=10.0)
    for _ in range(12):
        early, late = queue.submitted("a", now, now), queue.submitted("a", now, now)
        for job, start in ((late, now), (early, now + 10.0)):
            queue.asked(job, start + 10.0, 0.0)
            queue.ended(job, start + 10.0, _ms(start - now), 10_000, "w", completed=True)
        now += 20.0
    jobs = [queue.submitted("a", now, now) for _ in range(5)]
    assert max(queue.next_poll_at(job, now) for job in jobs) <= now + 10.5, "each by itself: it cannot end before"


def test_calls_that_must_wait_for_their_turn_are_made_less_often() -> None:
    queue = model()
    jobs = [queue.submitted("a", 0.0, None) for _ in range(100)]
    for job in jobs:
        queue.asked(job, 10.0, 3.0)
        queue.running(job, 10.0, None, None)
    assert queue.next_poll_at(jobs[-1], 10.0) > 20.0


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), workers=st.integers(1, 5), spread=st.floats(0, 1.5))
def test_no_job_is_asked_about_before_the_interval_nor_forgotten(seed: int, workers: int, spread: float) -> None:
    """Whatever the platform does: any order, any times, restarts, replies without times."""
    draw, queue, now = random.Random(seed), model(), 0.0
    ends, asked = dict[WaitedJob, float](), dict[WaitedJob, float]()
    for _ in range(300):
        if len(ends) < 4 * workers:
            job = queue.submitted(draw.choice("ab"), now, now)
            ends[job], asked[job] = now + 10.0 * workers * draw.lognormvariate(0, spread), now
        job, due = min(((job, queue.next_poll_at(job, now)) for job in ends), key=lambda pair: pair[1])
        assert due - asked[job] >= SHORTEST - 1e-9
        assert due - now < 3600, "it is asked about again"
        if due > now:
            now = due
            continue
        queue.asked(job, now, 0.0)
        asked[job] = now
        delay_ms = draw.choice([None, draw.randrange(60_000)])
        if now >= ends[job]:
            queue.ended(
                job, now, delay_ms, draw.choice([None, draw.randrange(30_000)]), "w", completed=draw.random() < 0.9
            )
            del ends[job]
        elif draw.random() < 0.5:
            queue.queued(job, now)
        else:
            queue.running(job, now, delay_ms, draw.choice([None, "w", "v"]))


# -- memory ---------------------------------------------------------------------------------------------------------


def test_memory_does_not_grow_with_the_jobs_that_have_ended() -> None:
    queue, sizes = model(), list[int]()
    for number in range(20_000):
        run_one(queue, float(number), float(number), number + 1.0, worker=f"worker {number}")
        queue.hastened()
        if number % 10_000 == 9_999:
            sizes.append(len(pickle.dumps(queue)))
    assert sizes[1] < 1.1 * sizes[0]


def test_a_job_that_is_waited_for_no_longer_is_forgotten() -> None:
    queue = model()
    jobs = [queue.submitted("a", 0.0, 0.0) for _ in range(10)]
    for job in jobs[1:]:
        queue.forget(job)
    queue.ended(jobs[0], 5.0, 0, 5000, "w", completed=True)
    assert queue.hastened() == []
