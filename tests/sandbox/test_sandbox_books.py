"""What becomes of jobs and workers as time passes. No clock, no sleep: time is a number."""

from __future__ import annotations

from itertools import count, pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncgen.sandbox.books import FINAL, Books, Job, JobState, Order, Plan, Terms

TERMS = Terms(workers=2, cold_start_seconds=10.0, idle_timeout_seconds=5.0)


class Desk:
    """Books with ids that count up, on one endpoint."""

    def __init__(self, terms: Terms = TERMS) -> None:
        self.books = Books(terms)
        self._numbers = count(1)

    def order(self, now: float, seconds: float | None = 4.0, **order: Any) -> Job:
        plan = None if seconds is None else Plan(seconds)
        return self.books.accept(now, f"job-{next(self._numbers)}", Order("ep", "digest", **{"plan": plan, **order}))

    def found(self, now: float, job: Job) -> Job | None:
        return self.books.find(now, "ep", job.id)

    def state(self, now: float, job: Job) -> str:
        found = self.found(now, job)
        return "404" if found is None else found.state

    def workers(self, now: float) -> dict[str, int]:
        return self.books.health(now, "ep")["workers"]


def test_a_job_waits_for_a_cold_start_then_runs_then_completes() -> None:
    desk = Desk()
    job = desk.order(0)
    assert [desk.state(now, job) for now in (0, 9.9, 10, 13.9, 14)] == [
        "IN_QUEUE",
        "IN_QUEUE",
        "IN_PROGRESS",
        "IN_PROGRESS",
        "COMPLETED",
    ]
    assert (desk.books.delay_ms(job), desk.books.execution_ms(job)) == (10_000, 4000)


def test_a_warm_worker_takes_the_next_job_at_once() -> None:
    desk = Desk()
    desk.order(0)
    later = desk.order(16)
    assert desk.state(16, later) == "IN_PROGRESS"
    assert desk.books.delay_ms(later) == 0


def test_a_worker_without_work_falls_asleep_and_the_next_job_pays_a_cold_start() -> None:
    desk = Desk()
    desk.order(0)  # done at 14, asleep at 19
    later = desk.order(19.1)
    assert desk.state(29, later) == "IN_QUEUE"
    assert desk.state(29.1, later) == "IN_PROGRESS"


def test_work_that_comes_before_the_idle_time_is_over_keeps_a_worker_awake() -> None:
    desk = Desk()
    desk.order(0)
    desk.order(18)  # ends at 22
    assert desk.state(26.9, desk.order(26.9)) == "IN_PROGRESS"


def test_the_queue_is_first_in_first_out_over_all_workers() -> None:
    desk = Desk()
    jobs = [desk.order(0) for _ in range(5)]
    assert [desk.state(15, job) for job in jobs] == ["COMPLETED"] * 2 + ["IN_PROGRESS"] * 2 + ["IN_QUEUE"]


def test_health_counts_workers_and_jobs() -> None:
    desk = Desk()
    for _ in range(3):
        desk.order(0)
    assert desk.workers(1) == {"idle": 0, "initializing": 2, "ready": 0, "running": 0, "throttled": 0, "unhealthy": 0}
    assert desk.workers(11) == {"idle": 0, "initializing": 0, "ready": 0, "running": 2, "throttled": 0, "unhealthy": 0}
    assert desk.workers(15) == {"idle": 1, "initializing": 0, "ready": 1, "running": 1, "throttled": 0, "unhealthy": 0}
    jobs = desk.books.health(15, "ep")["jobs"]
    assert jobs == {"completed": 2, "failed": 0, "inProgress": 1, "inQueue": 0, "retried": 0}


def test_a_cancelled_job_leaves_the_queue() -> None:
    desk = Desk()
    first, second = desk.order(0), desk.order(0)
    third = desk.order(0)
    desk.books.cancel(5, second)
    assert [desk.state(10, job) for job in (first, second, third)] == ["IN_PROGRESS", "CANCELLED", "IN_PROGRESS"]


def test_a_cancelled_running_job_frees_its_worker() -> None:
    desk = Desk(Terms(workers=1, cold_start_seconds=0))
    running, waiting = desk.order(0, seconds=100), desk.order(0)
    desk.books.cancel(1, running)
    assert (desk.state(1, running), desk.state(1, waiting)) == ("CANCELLED", "IN_PROGRESS")


def test_cancelling_a_finished_job_changes_nothing() -> None:
    desk = Desk()
    job = desk.order(0)
    desk.books.cancel(20, job)
    assert desk.state(20, job) == "COMPLETED"


@pytest.mark.parametrize(("sync", "kept_seconds"), [(False, 1800), (True, 60)])
def test_a_result_is_kept_as_long_as_documented_and_then_answers_404(sync: bool, kept_seconds: int) -> None:
    desk = Desk()
    job = desk.order(0, sync=sync)
    assert desk.state(14 + kept_seconds - 0.1, job) == "COMPLETED"
    assert desk.state(14 + kept_seconds, job) == "404"


def test_the_time_to_live_deletes_a_waiting_job_and_a_running_one() -> None:
    desk = Desk(Terms(workers=1, cold_start_seconds=0))
    running, waiting = desk.order(0, seconds=100, ttl_seconds=30), desk.order(0, ttl_seconds=20)
    untouched = desk.order(0)
    assert (desk.state(19, running), desk.state(19, waiting)) == ("IN_PROGRESS", "IN_QUEUE")
    assert (desk.state(20, running), desk.state(20, waiting)) == ("IN_PROGRESS", "404")
    assert (desk.state(30, running), desk.state(30, untouched)) == ("404", "IN_PROGRESS")


def test_a_new_time_to_live_replaces_the_old_one() -> None:
    desk = Desk()
    longer, shorter = desk.order(0, ttl_seconds=20), desk.order(0)
    desk.books.set_ttl(1, longer, 100)
    desk.books.set_ttl(1, shorter, 10)
    assert (desk.state(15, shorter), desk.state(50, longer), desk.state(100, longer)) == ("404", "COMPLETED", "404")


def test_an_execution_over_its_timeout_ends_as_timed_out() -> None:
    desk = Desk(Terms(workers=1, cold_start_seconds=0))
    job = desk.order(0, seconds=100, execution_timeout_seconds=5)
    assert desk.state(4.9, job) == "IN_PROGRESS"
    assert desk.state(5, job) == "TIMED_OUT"


def test_a_failed_job_can_be_retried_under_its_own_id_and_others_cannot() -> None:
    desk = Desk(Terms(workers=1, cold_start_seconds=0))
    failed, completed = desk.order(0, plan=Plan(1, JobState.FAILED, "broken")), desk.order(0, seconds=1)
    assert desk.state(2, failed) == "FAILED"
    assert desk.books.retry(2, failed, Plan(1))
    assert not desk.books.retry(2, completed, Plan(1))
    assert (desk.state(3, failed), failed.error, failed.retries) == ("COMPLETED", None, 1)
    assert desk.books.health(3, "ep")["jobs"]["retried"] == 1


def test_a_job_retried_late_does_not_expire_while_it_runs_again() -> None:
    desk = Desk(Terms(workers=1, cold_start_seconds=0))
    job = desk.order(0, plan=Plan(1, JobState.FAILED, "broken"))  # would be forgotten at 1801
    assert desk.state(1799, job) == "FAILED"
    assert desk.books.retry(1799, job, Plan(10))
    assert (desk.state(1805, job), desk.state(1810, job)) == ("IN_PROGRESS", "COMPLETED")
    assert (desk.state(1809 + 1799, job), desk.state(1809 + 1800, job)) == ("COMPLETED", "404")


def test_speed_divides_worker_times_but_not_retention_and_is_not_seen_in_reported_times() -> None:
    desk = Desk(Terms(workers=1, cold_start_seconds=10, speed=10))
    job = desk.order(0)
    assert desk.state(1.39, job) == "IN_PROGRESS"
    assert desk.state(1.4, job) == "COMPLETED"
    assert (desk.books.delay_ms(job), desk.books.execution_ms(job)) == (10_000, 4000)
    assert (desk.state(1801.3, job), desk.state(1801.4, job)) == ("COMPLETED", "404")


def test_a_low_priority_job_starts_no_worker_but_uses_one_that_is_awake() -> None:
    desk = Desk()
    low = desk.order(0, low_priority=True)
    assert desk.state(1000, low) == "IN_QUEUE"
    desk.order(1000)
    assert desk.state(1010, low) == "IN_PROGRESS"


def test_an_endpoint_without_workers_keeps_its_jobs_waiting() -> None:
    desk = Desk(Terms(stalled=frozenset({"ep"})))
    job = desk.order(0)
    assert desk.state(80_000, job) == "IN_QUEUE"
    assert sum(desk.workers(1).values()) == 0


def test_purging_cancels_what_waits_and_nothing_else() -> None:
    desk = Desk(Terms(workers=1, cold_start_seconds=0))
    jobs = [desk.order(0) for _ in range(3)]
    assert desk.books.purge(1, "ep") == 2
    assert [desk.state(1, job) for job in jobs] == ["IN_PROGRESS", "CANCELLED", "CANCELLED"]


def test_a_lost_job_is_accepted_and_then_unknown() -> None:
    desk = Desk()
    job = desk.order(0)
    desk.books.forget(job)
    assert desk.state(0, job) == "404"
    assert [(entry["id"], entry["gone"]) for entry in desk.books.entries()] == [(job.id, True)]


REAL = Terms(real_workers=True, worker_lost_seconds=60)


def test_a_real_worker_takes_the_oldest_job_and_delivers_it() -> None:
    desk = Desk(REAL)
    first, second = desk.order(0, None), desk.order(0, None)
    assert desk.books.take(1, "ep", "w1") is first
    assert desk.state(1, second) == "IN_QUEUE"
    assert desk.books.deliver(3, "w1", first, None)
    assert (desk.state(3, first), desk.books.execution_ms(first)) == ("COMPLETED", 2000)
    assert desk.books.take(4, "ep", "w2") is second
    assert desk.books.deliver(5, "w2", second, "broken")
    assert (desk.state(5, second), second.error) == ("FAILED", "broken")
    assert desk.books.take(6, "ep", "w1") is None


def test_what_a_worker_delivers_after_the_job_was_taken_from_it_is_ignored() -> None:
    desk = Desk(REAL)
    job = desk.order(0, None)
    desk.books.take(0, "ep", "w1")
    desk.books.cancel(1, job)
    assert not desk.books.deliver(2, "w1", job, None)
    assert desk.state(2, job) == "CANCELLED"


def test_a_worker_that_falls_silent_loses_its_job_to_another_once_and_then_the_job_fails() -> None:
    desk = Desk(REAL)
    job = desk.order(0, None)
    desk.books.take(0, "ep", "w1")
    desk.books.contact(30, "ep", "w1")
    assert (desk.state(89, job), desk.state(90, job)) == ("IN_PROGRESS", "IN_QUEUE")
    assert desk.books.take(95, "ep", "w2") is job
    assert not desk.books.deliver(96, "w1", job, None)  # the first one wakes up: too late
    assert desk.state(155, job) == "FAILED"
    assert job.error == "job timed out after 1 retries"


def test_a_real_worker_over_the_execution_timeout_loses_the_job() -> None:
    desk = Desk(REAL)
    job = desk.order(0, None, execution_timeout_seconds=5)
    desk.books.take(1, "ep", "w1")
    assert desk.state(6, job) == "TIMED_OUT"


def test_a_job_whose_worker_vanished_goes_before_those_that_came_later() -> None:
    desk = Desk(REAL)
    first = desk.order(0, None)
    desk.books.take(0, "ep", "w1")
    desk.order(1, None)
    assert desk.state(60, first) == "IN_QUEUE"
    assert desk.books.take(61, "ep", "w2") is first


def test_what_was_due_for_an_earlier_start_does_not_end_a_later_one() -> None:
    desk = Desk(REAL)
    job = desk.order(0, None)
    desk.books.take(0, "ep", "w1")  # would time out at 600
    desk.books.deliver(1, "w1", job, "broken")
    desk.books.retry(2, job, None)
    desk.books.take(590, "ep", "w1")
    assert desk.state(601, job) == "IN_PROGRESS"


def test_a_job_is_unknown_at_another_endpoint() -> None:
    desk = Desk()
    job = desk.order(0)
    assert desk.books.find(0, "another", job.id) is None


times = st.floats(0, 30, allow_nan=False)


@given(st.lists(st.tuples(times, st.floats(0.01, 20)), max_size=25), st.integers(1, 4), times)
def test_jobs_start_in_order_never_on_more_workers_than_there_are_and_all_end(
    plans: list[tuple[float, float]], workers: int, cold_start_seconds: float
) -> None:
    desk = Desk(Terms(workers=workers, cold_start_seconds=cold_start_seconds))
    jobs = [desk.order(at, seconds) for at, seconds in sorted(plans)]
    desk.books.advance(1500)
    starts = [job.started_at for job in jobs if job.started_at is not None]
    assert all(job.state in FINAL for job in jobs)
    assert len(starts) == len(jobs)
    assert all(earlier <= later for earlier, later in pairwise(starts))
    for start in starts:
        running = [
            job for job in jobs if job.started_at is not None and job.started_at <= start < (job.finished_at or 0)
        ]
        assert len(running) <= workers


@given(st.lists(st.tuples(times, st.floats(0.01, 20)), max_size=15), st.lists(st.floats(0, 100), max_size=20))
def test_looking_does_not_change_what_happens(plans: list[tuple[float, float]], looks: list[float]) -> None:
    def ends(looks: list[float]) -> list[tuple[float | None, float | None]]:
        desk = Desk(TERMS)
        moments = sorted([(at, index, seconds) for index, (at, seconds) in enumerate(plans)])
        jobs = []
        for at, _, seconds in moments:
            for look in sorted(looks):
                if (jobs and jobs[-1].accepted_at <= look < at) or (not jobs and look < at):
                    desk.books.advance(look)
            jobs.append(desk.order(at, seconds))
        for look in sorted(look for look in looks if not moments or look >= moments[-1][0]):
            desk.books.advance(look)
        desk.books.advance(1500)
        return [(job.started_at, job.finished_at) for job in jobs]

    assert ends(looks) == ends([])
