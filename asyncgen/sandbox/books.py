"""The books of the sandbox: every job, every worker, and what becomes of them as a function of the time passed in.

Pure: nothing here reads a clock. Each call takes `now` (seconds, never going back) and first settles everything that
was due until then: cold starts that end, jobs that end, workers that fall asleep, records that expire. So the state
at any moment is decided by the calls made before it, and a test or a simulation can jump through days.

Facts: `reference/runpod-api.md` (states, times, retention, ttl, retry, health).
"""

from __future__ import annotations

import heapq
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from itertools import islice
from typing import Any, Final, Literal, NamedTuple


class JobState(StrEnum):
    """The platform's own words."""

    IN_QUEUE = "IN_QUEUE"
    IN_PROGRESS = "IN_PROGRESS"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    TIMED_OUT = "TIMED_OUT"


FINAL: Final = frozenset({JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED, JobState.TIMED_OUT})
RETRYABLE: Final = frozenset({JobState.FAILED, JobState.TIMED_OUT})
#: A job whose worker vanishes is given to another one this many times before it fails.
RESTARTS: Final = 1


@dataclass(frozen=True, slots=True)
class Terms:
    """How endpoints treat their jobs. Seconds; `speed` divides the worker times alone, never retention or ttl.

    With `real_workers` nothing starts by itself: jobs wait until a worker takes them, and a worker that has not been
    heard of for `worker_lost_seconds` loses its jobs. Endpoints in `stalled` have no worker to give, ever.
    """

    workers: int = 8
    cold_start_seconds: float = 5.0
    idle_timeout_seconds: float = 5.0
    speed: float = 1.0
    retention_seconds: float = 1800.0
    sync_retention_seconds: float = 60.0
    real_workers: bool = False
    worker_lost_seconds: float = 60.0
    stalled: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Plan:
    """What a simulated worker will do with a job: how long it takes at speed 1, how it ends, and what it says then."""

    execution_seconds: float
    ends: JobState = JobState.COMPLETED
    error: str | None = None
    restarts: int = 0  # how often the platform is said to have restarted it


@dataclass(frozen=True, slots=True)
class Order:
    """A job as accepted. `plan` is None where a real worker decides. `sync` shortens how long the result is kept."""

    endpoint: str
    input_digest: str
    plan: Plan | None = None
    prompt: str | None = None
    seed: int | None = None
    sync: bool = False
    ttl_seconds: float = 86_400.0
    execution_timeout_seconds: float = 600.0
    low_priority: bool = False


@dataclass(slots=True, eq=False)
class Job:
    """One accepted job. Times are those of the `now` passed in; None means it has not come to that yet."""

    id: str
    order: Order
    accepted_at: float
    plan: Plan | None
    ttl_seconds: float
    state: JobState = JobState.IN_QUEUE
    queued_at: float = 0.0
    started_at: float | None = None
    finished_at: float | None = None
    worker: Worker | None = None
    error: str | None = None
    gone: bool = False  # expired or lost: the platform answers 404
    starts: int = 0
    restarts: int = 0
    polls: int = 0
    fetches: int = 0
    cancels: int = 0
    retries: int = 0

    def gone_at(self, terms: Terms) -> float:
        """When the platform forgets it: at its ttl in any state, or when its result has been kept long enough."""
        kept = terms.sync_retention_seconds if self.order.sync else terms.retention_seconds
        ttl_ends = self.accepted_at + self.ttl_seconds
        return ttl_ends if self.finished_at is None else min(ttl_ends, self.finished_at + kept)


@dataclass(slots=True, eq=False)
class Worker:
    """A simulated worker that is up (or starting), or a real one that has been heard of."""

    id: str
    seen_at: float
    unhealthy: bool = False  # a real one has said so of itself
    idle_since: float | None = None
    jobs: dict[str, Job] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Endpoint:
    """One queue and its workers; `idle` holds simulated workers that are warm, the last to fall idle at its end."""

    id: str
    queue: OrderedDict[str, Job] = field(default_factory=OrderedDict)
    workers: dict[str, Worker] = field(default_factory=dict)
    idle: OrderedDict[str, Worker] = field(default_factory=OrderedDict)
    initializing: int = 0
    hired: int = 0
    counts: Counter[str] = field(default_factory=Counter)


class Change(NamedTuple):
    """Something that happened to a job; each happening is reported once, in order."""

    job: Job
    what: Literal["queued", "finished", "gone"]


class Books:
    """Every job ever accepted, by id in order of acceptance, and every endpoint ever named."""

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self.jobs: dict[str, Job] = {}
        self.endpoints: dict[str, Endpoint] = {}
        self.counts: Counter[str] = Counter()
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._sequence = 0
        self._changes: list[Change] = []

    # -- time ----------------------------------------------------------------------------------------------------

    def advance(self, now: float) -> None:
        """Settle everything that was due until `now`."""
        while self._events and self._events[0][0] <= now:
            at, _, event = heapq.heappop(self._events)
            event(at)

    def next_event_at(self) -> float | None:
        """When `advance` may next have something to do; None: only after another call."""
        return self._events[0][0] if self._events else None

    def changes(self) -> list[Change]:
        """What happened since the last call."""
        changes, self._changes = self._changes, []
        return changes

    def _at(self, when: float, event: Callable[[float], None]) -> None:
        self._sequence += 1  # events of one instant happen in the order they were arranged
        heapq.heappush(self._events, (when, self._sequence, event))

    # -- the client side -----------------------------------------------------------------------------------------

    def endpoint(self, endpoint_id: str) -> Endpoint:
        """The endpoint of that id, made on first use."""
        return self.endpoints.setdefault(endpoint_id, Endpoint(endpoint_id))

    def accept(self, now: float, job_id: str, order: Order) -> Job:
        """Take a job into the queue of its endpoint. From here on it counts as bought."""
        self.advance(now)
        job = Job(job_id, order, accepted_at=now, plan=order.plan, ttl_seconds=order.ttl_seconds)
        self.jobs[job_id] = job
        self.counts["accepted"] += 1
        self._at(job.gone_at(self.terms), partial(self._expire, job))
        self._enqueue(job, now)
        return job

    def find(self, now: float, endpoint_id: str, job_id: str) -> Job | None:
        """The job as it stands, or None where the platform answers 404."""
        self.advance(now)
        job = self.jobs.get(job_id)
        return None if job is None or job.gone or job.order.endpoint != endpoint_id else job

    def cancel(self, now: float, job: Job) -> None:
        """Take a queued or running job back; a finished one stays as it is."""
        self.advance(now)
        job.cancels += 1
        if job.state not in FINAL:
            self._finish(job, JobState.CANCELLED, now, None)

    def retry(self, now: float, job: Job, plan: Plan | None) -> bool:
        """Queue a FAILED or TIMED_OUT job again under its own id; False where it is neither."""
        self.advance(now)
        if job.state not in RETRYABLE or job.gone:
            return False
        job.retries += 1
        job.plan, job.restarts, job.error, job.finished_at = plan, 0, None, None
        self.endpoint(job.order.endpoint).counts["retried"] += 1
        self._enqueue(job, now)
        return True

    def purge(self, now: float, endpoint_id: str) -> int:
        """Cancel every queued job of the endpoint; returns how many."""
        self.advance(now)
        queued = list(self.endpoint(endpoint_id).queue.values())
        for job in queued:
            self._finish(job, JobState.CANCELLED, now, None)
        return len(queued)

    def set_ttl(self, now: float, job: Job, ttl_seconds: float) -> None:
        """Count the time to live anew: `/status?ttl=` does this."""
        job.ttl_seconds = ttl_seconds
        self._at(max(now, job.gone_at(self.terms)), partial(self._expire, job))

    def forget(self, job: Job) -> None:
        """Lose the job at once: it answers 404 from now on, though it was accepted (and paid for)."""
        self._drop(job, job.accepted_at, "lost by the platform")

    # -- real workers --------------------------------------------------------------------------------------------

    def contact(self, now: float, endpoint_id: str, worker_id: str) -> Worker:
        """A real worker has been heard of."""
        self.advance(now)
        worker = self.endpoint(endpoint_id).workers.setdefault(worker_id, Worker(worker_id, now))
        worker.seen_at = now
        return worker

    def take(self, now: float, endpoint_id: str, worker_id: str) -> Job | None:
        """Give the oldest queued job to a real worker; None where the queue is empty."""
        worker = self.contact(now, endpoint_id, worker_id)
        endpoint = self.endpoint(endpoint_id)
        if not endpoint.queue or endpoint_id in self.terms.stalled:
            return None
        job = next(iter(endpoint.queue.values()))
        self._start(job, worker, now)
        return job

    def deliver(self, now: float, worker_id: str, job: Job, error: str | None) -> bool:
        """A real worker has finished a job. False where the job is no longer its own (cancelled, timed out)."""
        self.advance(now)
        if job.state is not JobState.IN_PROGRESS or job.worker is None or job.worker.id != worker_id:
            return False
        self._finish(job, JobState.COMPLETED if error is None else JobState.FAILED, now, error)
        return True

    # -- what happens by itself ----------------------------------------------------------------------------------

    def _enqueue(self, job: Job, at: float, *, in_front: bool = False) -> None:
        endpoint = self.endpoint(job.order.endpoint)
        job.state, job.queued_at, job.started_at, job.worker = JobState.IN_QUEUE, at, None, None
        endpoint.queue[job.id] = job
        if in_front:
            endpoint.queue.move_to_end(job.id, last=False)
        self._changes.append(Change(job, "queued"))
        if not self.terms.real_workers and endpoint.id not in self.terms.stalled:
            self._dispatch(endpoint, at)
            if not job.order.low_priority:
                self._scale_up(endpoint, at)

    def _scale_up(self, endpoint: Endpoint, at: float) -> None:
        if len(endpoint.queue) <= endpoint.initializing or len(endpoint.workers) >= self.terms.workers:
            return
        endpoint.hired += 1
        worker = Worker(f"sandbox-{endpoint.hired}", at)
        endpoint.workers[worker.id] = worker
        endpoint.initializing += 1
        ready_at = at + self.terms.cold_start_seconds / self.terms.speed
        self._at(ready_at, partial(self._become_ready, endpoint, worker))

    def _become_ready(self, endpoint: Endpoint, worker: Worker, at: float) -> None:
        endpoint.initializing -= 1
        self._rest(endpoint, worker, at)

    def _rest(self, endpoint: Endpoint, worker: Worker, at: float) -> None:
        worker.idle_since = at
        endpoint.idle[worker.id] = worker
        self._dispatch(endpoint, at)
        if worker.idle_since is not None:
            sleeps_at = at + self.terms.idle_timeout_seconds / self.terms.speed
            self._at(sleeps_at, partial(self._fall_asleep, endpoint, worker, at))

    def _fall_asleep(self, endpoint: Endpoint, worker: Worker, idle_since: float, _at: float) -> None:
        if worker.idle_since == idle_since:
            del endpoint.idle[worker.id], endpoint.workers[worker.id]

    def _dispatch(self, endpoint: Endpoint, at: float) -> None:
        while endpoint.queue and endpoint.idle:
            _, worker = endpoint.idle.popitem()
            worker.idle_since = None
            self._start(next(iter(endpoint.queue.values())), worker, at)

    def _start(self, job: Job, worker: Worker, at: float) -> None:
        del self.endpoint(job.order.endpoint).queue[job.id]
        job.state, job.started_at, job.worker = JobState.IN_PROGRESS, at, worker
        job.starts += 1
        worker.jobs[job.id] = job
        timeout = job.order.execution_timeout_seconds
        if job.plan is None:
            self._at(at + self.terms.worker_lost_seconds, partial(self._check_worker, job, job.starts))
        elif job.plan.execution_seconds <= timeout:
            ends_at = at + job.plan.execution_seconds / self.terms.speed
            self._at(ends_at, partial(self._end, job, job.starts, job.plan))
            return
        timed_out = Plan(timeout, JobState.TIMED_OUT, "job timed out: executionTimeout exceeded")
        self._at(at + timeout / self.terms.speed, partial(self._end, job, job.starts, timed_out))

    def _end(self, job: Job, start: int, plan: Plan, at: float) -> None:
        if job.state is JobState.IN_PROGRESS and job.starts == start:
            job.restarts += plan.restarts
            self._finish(job, plan.ends, at, plan.error)

    def _check_worker(self, job: Job, start: int, at: float) -> None:
        if job.state is not JobState.IN_PROGRESS or job.starts != start or job.worker is None:
            return
        lost_at = job.worker.seen_at + self.terms.worker_lost_seconds
        if lost_at > at:
            self._at(lost_at, partial(self._check_worker, job, start))
        elif job.restarts < RESTARTS:
            job.restarts += 1
            self._leave_worker(job, at)
            self._enqueue(job, at, in_front=True)
        else:
            self._finish(job, JobState.FAILED, at, f"job timed out after {RESTARTS} retries")

    def _finish(self, job: Job, state: JobState, at: float, error: str | None) -> None:
        endpoint = self.endpoint(job.order.endpoint)
        endpoint.queue.pop(job.id, None)
        endpoint.counts[state.value] += 1
        job.state, job.finished_at, job.error = state, at, error
        self._at(job.gone_at(self.terms), partial(self._expire, job))
        self._changes.append(Change(job, "finished"))
        self._leave_worker(job, at)

    def _leave_worker(self, job: Job, at: float) -> None:
        if job.worker is None or job.id not in job.worker.jobs:
            return
        del job.worker.jobs[job.id]
        if not self.terms.real_workers:
            self._rest(self.endpoint(job.order.endpoint), job.worker, at)

    def _expire(self, job: Job, at: float) -> None:
        if not job.gone and job.gone_at(self.terms) <= at:
            self._drop(job, at, "deleted: its time to live is over")

    def _drop(self, job: Job, at: float, why: str) -> None:
        job.gone = True
        if job.state not in FINAL:
            self._finish(job, JobState.CANCELLED, at, why)
        self._changes.append(Change(job, "gone"))

    # -- what can be read ----------------------------------------------------------------------------------------

    def delay_ms(self, job: Job) -> int | None:
        """Time spent waiting, in the workers' time: what passed between queue and start, times `speed`."""
        return None if job.started_at is None else self._ms(job.started_at - job.queued_at)

    def execution_ms(self, job: Job) -> int | None:
        """Time spent on a worker, in the worker's time; None until the job has ended."""
        if job.started_at is None or job.finished_at is None:
            return None
        return self._ms(job.finished_at - job.started_at)

    def _ms(self, seconds: float) -> int:
        return round(seconds * self.terms.speed * 1000)

    def health(self, now: float, endpoint_id: str, *, throttled: bool = False) -> dict[str, dict[str, int]]:
        """The reply of `/health`. A worker that is asleep counts as idle, as it does at RunPod."""
        self.advance(now)
        endpoint = self.endpoint(endpoint_id)
        running = sum(1 for worker in endpoint.workers.values() if worker.jobs)
        idle = self._able_workers(now, endpoint) - running - endpoint.initializing
        if throttled or endpoint_id in self.terms.stalled:
            idle = 0
        workers = {"idle": idle, "initializing": endpoint.initializing, "ready": idle, "running": running}
        unhealthy = sum(1 for worker in endpoint.workers.values() if worker.unhealthy)
        workers |= {"throttled": self.terms.workers if throttled else 0, "unhealthy": unhealthy}
        counts = endpoint.counts
        jobs = {"completed": counts["COMPLETED"], "failed": counts["FAILED"] + counts["TIMED_OUT"]}
        in_progress = sum(len(worker.jobs) for worker in endpoint.workers.values())
        jobs |= {"inProgress": in_progress, "inQueue": len(endpoint.queue), "retried": counts["retried"]}
        return {"jobs": jobs, "workers": workers}

    def _able_workers(self, now: float, endpoint: Endpoint) -> int:
        if not self.terms.real_workers:
            return self.terms.workers
        heard_since = now - self.terms.worker_lost_seconds
        healthy = [worker for worker in endpoint.workers.values() if not worker.unhealthy]
        return sum(1 for worker in healthy if worker.jobs or worker.seen_at > heard_since)

    def totals(self) -> dict[str, Any]:
        """Counts of everything: requests by operation, refusals, accepted jobs, results delivered whole."""
        return dict(sorted(self.counts.items()))

    def entries(self, since: int = 0) -> Iterable[dict[str, Any]]:
        """One dict per job in order of acceptance, from the `since`-th (counting from 0)."""
        return map(self._entry, islice(self.jobs.values(), since, None))

    def _entry(self, job: Job) -> dict[str, Any]:
        order, worker = job.order, job.worker
        said = {"prompt": order.prompt, "seed": order.seed, "input_digest": order.input_digest}
        times = {"accepted_at": job.accepted_at, "started_at": job.started_at, "finished_at": job.finished_at}
        measured = {"delay_ms": self.delay_ms(job), "execution_ms": self.execution_ms(job)}
        met = {"polls": job.polls, "fetches": job.fetches, "cancels": job.cancels, "retries": job.retries}
        state = {"state": job.state, "gone": job.gone, "error": job.error, "starts": job.starts}
        whose = {"id": job.id, "endpoint": order.endpoint, "worker_id": worker and worker.id}
        return whose | said | state | times | measured | met
