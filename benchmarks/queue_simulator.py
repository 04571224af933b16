"""A queue, its workers and one client's polls on virtual time: what a way of polling costs, without waiting for it.

Event-driven: thousands of jobs take a second. It shares no code with asyncgen's model of the queue, which sees of it
only what `/status` would say. Times are seconds.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Literal, Protocol

#: Of a request or a reply on the wire.
ONE_WAY_SECONDS: Final = 0.05
_WINDOW_SECONDS: Final = 10.0
_SAME_MOMENT_SECONDS: Final = 1e-6


@dataclass(frozen=True, slots=True)
class Scenario:
    """What an endpoint is like, and what is asked of it.

    `execution` draws the seconds of one job that starts at a time, on a GPU of full speed; `slow_share` of the workers
    have one that takes twice as long. Worker n (from 0) is up after `cold_start_seconds` + n × `scale_up_seconds`.
    `tells_start`: a running job's status carries its `delayTime`.
    """

    name: str
    workers: int
    images: int
    execution: Callable[[random.Random, float], float]
    jobs_per_worker: int = 4
    cold_start_seconds: float = 20.0
    scale_up_seconds: float = 0.0
    slow_share: float = 0.0
    order: Literal["fifo", "random", "lifo"] = "fifo"
    tells_start: bool = True


@dataclass(frozen=True, slots=True)
class Answer:
    """What a status call says: the platform's word, milliseconds and worker; None where it says nothing of them."""

    word: str
    delay_ms: int | None = None
    execution_ms: int | None = None
    worker_id: str | None = None


class Poller(Protocol):
    """A way of polling. Jobs are numbered from 0 in order of submission."""

    def submitted(self, job: int, now: float) -> None:
        """`/run` was answered now."""
        ...

    def next_poll_at(self, job: int, now: float) -> float:
        """When to ask for the job. It is asked again then: where the answer is later by then, no call is made yet."""
        ...

    def answered(self, job: int, asked_at: float, now: float, answer: Answer) -> None:
        """What a call said."""
        ...

    def hastened(self) -> Sequence[int]:
        """Jobs whose next call may have come nearer since this was last called."""
        ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one run came to, in seconds. `peak_calls`: the most status calls in any 10 s."""

    images: int
    calls: int
    peak_calls: int
    mean_lag: float
    mean_execution: float
    makespan: float

    @property
    def calls_per_image(self) -> float:
        """Status calls, the one that brings the image included."""
        return self.calls / self.images

    @property
    def lag_share(self) -> float:
        """How late an end is noticed on average, as a share of the mean execution time."""
        return self.mean_lag / self.mean_execution


@dataclass(slots=True)
class SimulatedJob:
    """One job as the platform has it; None: it has not come to that yet."""

    number: int
    queued_at: float
    ends_at: float | None = None
    started_at: float | None = None
    worker: int | None = None
    plan: int = 0  # its present plan; alarms set by older ones are void
    is_asked: bool = False  # a call for it is in the air
    is_over: bool = False


@dataclass
class Simulation:
    """One run of a scenario. The same seed gives the same jobs to every poller. `run` may be called once."""

    scenario: Scenario
    poller_for: Callable[[Simulation], Poller]
    seed: int = 0
    jobs: list[SimulatedJob] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._tie = itertools.count()  # events of one instant happen in the order they were arranged
        self._queue: list[SimulatedJob] = []
        self._idle: list[int] = []
        self._order = random.Random(f"order {self.seed}")
        speeds = random.Random(f"speeds {self.seed}")
        self._factors = [1.0 + (speeds.random() < self.scenario.slow_share) for _ in range(self.scenario.workers)]
        self._calls: list[float] = []
        self._lags: list[float] = []
        self._executions: list[float] = []
        self._now = 0.0
        self._poller = self.poller_for(self)

    def run(self) -> Outcome:
        """Until the last image has been noticed."""
        scenario = self.scenario
        for worker in range(scenario.workers):
            self._at(scenario.cold_start_seconds + worker * scenario.scale_up_seconds, partial(self._free, worker))
        for _ in range(min(scenario.images, scenario.workers * scenario.jobs_per_worker)):
            self._submit(0.0)
        while len(self._lags) < scenario.images:
            self._now, _, event = heapq.heappop(self._events)
            event(self._now)
        images = len(self._lags)
        means = sum(self._lags) / images, sum(self._executions) / images
        return Outcome(images, len(self._calls), self._peak_calls(), *means, self._now)

    def _at(self, when: float, event: Callable[[float], None]) -> None:
        heapq.heappush(self._events, (when, next(self._tie), event))

    def _peak_calls(self) -> int:
        peak = first = 0
        for last, at in enumerate(self._calls):
            while self._calls[first] <= at - _WINDOW_SECONDS:
                first += 1
            peak = max(peak, last - first + 1)
        return peak

    # -- the platform --------------------------------------------------------------------------------------------

    def _enqueue(self, job: SimulatedJob, now: float) -> None:
        self._queue.append(job)
        if self._idle:
            self._free(self._idle.pop(), now)

    def _free(self, worker: int, now: float) -> None:
        if not self._queue:
            self._idle.append(worker)
            return
        last = len(self._queue) - 1
        job = self._queue.pop({"fifo": 0, "lifo": last, "random": self._order.randint(0, last)}[self.scenario.order])
        seconds = self.scenario.execution(random.Random(f"work {self.seed} {job.number}"), now) * self._factors[worker]
        job.started_at, job.ends_at, job.worker = now, now + seconds, worker
        self._executions.append(seconds)
        self._at(job.ends_at, partial(self._free, worker))

    def _status(self, job: SimulatedJob, now: float) -> Answer:
        if job.started_at is None or job.ends_at is None:
            return Answer("IN_QUEUE")
        delay_ms, worker_id = int(1000 * (job.started_at - job.queued_at)), f"w{job.worker}"
        if now < job.ends_at:
            return Answer("IN_PROGRESS", delay_ms if self.scenario.tells_start else None, None, worker_id)
        return Answer("COMPLETED", delay_ms, int(1000 * (job.ends_at - job.started_at)), worker_id)

    # -- the client ----------------------------------------------------------------------------------------------

    def _submit(self, now: float) -> None:
        job = SimulatedJob(len(self.jobs), now + ONE_WAY_SECONDS)
        self.jobs.append(job)
        self._at(job.queued_at, partial(self._enqueue, job))
        self._at(now + 2 * ONE_WAY_SECONDS, partial(self._accepted, job))

    def _accepted(self, job: SimulatedJob, now: float) -> None:
        self._poller.submitted(job.number, now)
        self._plan(job, now)

    def _plan(self, job: SimulatedJob, now: float) -> None:
        job.plan += 1
        when = max(now, self._poller.next_poll_at(job.number, now))
        self._at(when, partial(self._wake, job, job.plan))

    def _wake(self, job: SimulatedJob, plan: int, now: float) -> None:
        if job.plan != plan or job.is_asked:
            return
        if self._poller.next_poll_at(job.number, now) > now + _SAME_MOMENT_SECONDS:
            self._plan(job, now)
            return
        job.is_asked = True
        self._calls.append(now)
        self._at(now + ONE_WAY_SECONDS, partial(self._reply, job, now))

    def _reply(self, job: SimulatedJob, asked_at: float, now: float) -> None:
        self._at(now + ONE_WAY_SECONDS, partial(self._answered, job, asked_at, self._status(job, now)))

    def _answered(self, job: SimulatedJob, asked_at: float, answer: Answer, now: float) -> None:
        job.is_asked = False
        self._poller.answered(job.number, asked_at, now, answer)
        if answer.word == "COMPLETED":
            self._over(job, now)
        else:
            self._plan(job, now)
        for other in (self.jobs[number] for number in self._poller.hastened()):
            if not (other.is_over or other.is_asked):
                self._plan(other, now)

    def _over(self, job: SimulatedJob, now: float) -> None:
        assert job.ends_at is not None
        job.is_over = True
        self._lags.append(now - job.ends_at)
        if len(self.jobs) < self.scenario.images:
            self._submit(now)
