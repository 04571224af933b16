"""`--concurrency auto`: workers are kept busy by few jobs, whatever the platform tells, and a 429 is heeded."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from asyncgen.concurrency import FEWEST_OUT, MOST_OUT, AutoConcurrency, Drain
from asyncgen.protocol import Health, JobCounts, WorkerCounts

LAG_SECONDS = 5.0
STEP_SECONDS = 0.25


def health(running: int = 0, idle: int = 0, initializing: int = 0, ready: int = 0, in_queue: int = 0) -> Health:
    workers = WorkerCounts(idle=idle, initializing=initializing, ready=ready, running=running)
    return Health(JobCounts(in_queue=in_queue, in_progress=running), workers)


def new(since: float = 0.0) -> AutoConcurrency:
    return AutoConcurrency(since, LAG_SECONDS)


@dataclass
class Platform:
    """A FIFO queue and its workers. The client learns of an end `LAG_SECONDS` later, and looks and adjusts as it does.

    `awake` says how many workers there are, by time and jobs out.
    """

    execution_seconds: float
    awake: Callable[[float, int], int]
    tells: bool = True
    auto: AutoConcurrency = field(default_factory=new)
    now: float = 0.0
    queue: int = 0
    running: list[float] = field(default_factory=list)
    unnoticed: list[float] = field(default_factory=list)
    target: int = FEWEST_OUT
    most: int = 0
    awake_workers: list[int] = field(default_factory=list)
    busy_workers: list[int] = field(default_factory=list)
    _look_at: float = 0.0

    @property
    def out(self) -> int:
        return self.queue + len(self.running) + len(self.unnoticed)

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until:
            self._end_jobs()
            if self.tells and self.now >= self._look_at:
                self._look()
            if self.now == int(self.now):
                self.target = self.auto.target(self.now, self.out, None)
            self.queue += max(0, self.target - self.out)
            self.most = max(self.most, self.out)
            workers = self.awake(self.now, self.out)
            while self.queue and len(self.running) < workers:
                self.queue -= 1
                heapq.heappush(self.running, self.now + self.execution_seconds)
            self.awake_workers.append(workers)
            self.busy_workers.append(len(self.running))
            self.now += STEP_SECONDS

    def _end_jobs(self) -> None:
        while self.running and self.running[0] <= self.now:
            self.unnoticed.append(heapq.heappop(self.running) + LAG_SECONDS)
        while self.unnoticed and self.unnoticed[0] <= self.now:
            self.unnoticed.pop(0)
            self.auto.note_end(self.now, self.execution_seconds)

    def _look(self) -> None:
        workers = self.awake(self.now, self.out)
        busy = len(self.running)
        self.auto.note_health(self.now, health(busy, max(0, workers - busy), in_queue=self.queue))
        self._look_at = self.now + self.auto.next_look_seconds()

    def share_busy(self, seconds: float) -> float:
        """Of the time that workers were awake lately, the share in which they worked."""
        steps = int(seconds / STEP_SECONDS)
        return sum(self.busy_workers[-steps:]) / sum(self.awake_workers[-steps:])


@pytest.mark.parametrize("tells", [True, False])
@pytest.mark.parametrize("execution_seconds", [0.5, 4.75, 12.0, 60.0])
@pytest.mark.parametrize("workers", [1, 8, 20, 50])
def test_every_worker_is_kept_busy(workers: int, execution_seconds: float, tells: bool) -> None:
    platform = Platform(execution_seconds, lambda _now, _out: workers, tells)
    platform.run(240 + 6 * execution_seconds)
    platform.run(120)
    assert platform.share_busy(120) > 0.99


@pytest.mark.parametrize("workers", [1, 8, 20, 50])
def test_what_is_out_stays_a_few_times_the_workers(workers: int) -> None:
    platform = Platform(12.0, lambda _now, _out: workers)
    platform.run(300)
    assert platform.most <= 8 * max(2, workers)
    assert platform.target == max(FEWEST_OUT, 4 * workers)


def test_what_drains_before_it_is_refilled_is_queued() -> None:
    platform = Platform(0.5, lambda _now, _out: 20)
    platform.run(240)
    assert 40 * LAG_SECONDS < platform.target < 40 * 3 * LAG_SECONDS


@pytest.mark.parametrize("requests_per_worker", [4, 6])
def test_a_platform_that_wakes_a_worker_for_so_many_requests_wakes_them_all(requests_per_worker: int) -> None:
    platform = Platform(12.0, lambda _now, out: min(20, math.ceil(out / requests_per_worker)))
    platform.run(900)
    assert platform.awake_workers[-1] == 20
    assert platform.most <= 16 * 20


def test_a_longer_queue_that_brings_nothing_is_given_up() -> None:
    platform = Platform(2.0, lambda _now, _out: 4)
    platform.run(120)
    tried = platform.most
    platform.run(120)
    assert tried > 30 > platform.target


def test_it_shrinks_with_the_workers_and_grows_with_them() -> None:
    platform = Platform(12.0, lambda now, _out: 4 if 300 <= now < 600 else 20)
    platform.run(299)
    before = platform.target
    platform.run(240)
    during = platform.target
    platform.run(360)
    assert (before >= 80, during <= 16 * 4, platform.target >= 80) == (True, True, True)
    assert during < before


def test_workers_that_are_coming_are_counted() -> None:
    auto = new()
    auto.note_health(0.0, health(running=1, initializing=9))
    assert auto.target(0.0, 0, None) == 40


def test_running_workers_are_not_counted_twice_where_they_are_ready_as_well() -> None:
    auto = new()
    auto.note_health(0.0, health(running=10, ready=10))
    assert auto.target(0.0, 0, None) == 40


def test_nothing_known_is_a_few_and_never_none() -> None:
    auto = new()
    assert auto.target(0.0, 0, None) == FEWEST_OUT
    auto.note_health(0.0, health())
    assert auto.target(0.0, 0, None) == FEWEST_OUT


def test_old_counts_of_workers_are_forgotten() -> None:
    auto = new()
    auto.note_health(0.0, health(running=100))
    assert auto.target(59.0, 0, None) == 400
    assert auto.target(61.0, 0, None) == FEWEST_OUT


def test_never_more_than_can_be_fetched_watched_or_queued() -> None:
    auto = new()
    auto.note_health(0.0, health(running=800))
    assert auto.target(0.0, 0, 23) == 23
    assert auto.target(0.0, 0, None) == MOST_OUT
    auto.note_health(1.0, health(running=1))
    for second in range(300):
        for _ in range(200):
            auto.note_end(second / 1.0, 0.005)
    assert auto.target(300.0, 0, None) == 500


def test_a_429_halves_it_a_volley_once_and_it_grows_back_by_one_a_second() -> None:
    auto = new()
    auto.note_health(0.0, health(running=20))
    for moment in (1.0, 1.1, 5.0, 9.0):
        auto.note_429(moment, 80)
    assert auto.target(1.0, 80, None) == 40
    assert auto.is_slowed(1.0)
    auto.note_health(31.0, health(running=20))
    assert auto.target(31.0, 70, None) == 70
    assert not auto.is_slowed(41.0)
    assert auto.target(41.0, 70, None) == 80


def test_429s_that_go_on_take_it_down_to_one() -> None:
    auto = new()
    for volley in range(12):
        auto.note_429(10.0 * volley, 1)
    assert auto.target(110.0, 1, None) == 1


def test_a_429_counts_from_what_is_out_where_that_is_less_than_what_might_be() -> None:
    auto = new()
    auto.note_health(0.0, health(running=100))
    auto.note_429(0.0, 60)
    assert auto.target(0.0, 60, None) == 30


def test_looks_grow_rare_and_are_frequent_again_when_the_workers_change() -> None:
    auto = new()
    assert [auto.next_look_seconds() for _ in range(7)] == [1, 2, 4, 8, 15, 15, 15]
    auto.note_health(0.0, health(running=3))
    assert auto.next_look_seconds() == 1
    auto.note_health(0.0, health(running=3, in_queue=9))
    assert auto.next_look_seconds() == 2


def test_the_drain_is_what_it_was_lately() -> None:
    drain = Drain(0.0)
    for tenth in range(1200):
        drain.note_end(tenth / 10, 4.0)
    assert drain.per_second(120.0) == pytest.approx(10.0, rel=0.05)
    assert drain.busy_workers(120.0) == pytest.approx(40.0, rel=0.05)
    assert drain.per_second(300.0) < 0.1


def test_a_first_job_that_ends_at_once_is_not_taken_for_a_torrent() -> None:
    drain = Drain(0.0)
    drain.note_end(0.001, 0.001)
    assert drain.per_second(0.001) <= 0.2
