"""What both sides of the counter share: the books, the limits, the faults, the pictures, and the passing of time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final
from uuid import uuid4

import anyio
import anyio.to_thread

from asyncgen.sandbox import replies
from asyncgen.sandbox.books import FINAL, Books, Job, JobState, Order, Plan
from asyncgen.sandbox.comfy import read_models
from asyncgen.sandbox.faults import FAILURES, PICTURES, FaultRule, Faults, draw, read_faults, spoil_plan
from asyncgen.sandbox.limits import Limits
from asyncgen.sandbox.settings import SandboxSettings
from asyncgen.sandbox.workers import Results, Style, Task, make_output, parse_execution, plan_for, understand

#: An empty input is stripped by the platform, and the job fails after some 42 billed seconds (live trace).
_EMPTY_INPUT: Final = Plan(42.0, JobState.FAILED, FAILURES["platform"].error, FAILURES["platform"].restarts)
_SOONEST_SECONDS: Final = 0.001


@dataclass(slots=True, eq=False)
class Matter:
    """What a job carries that is no business of the books: its input, its answer, its readers. Gone with the job."""

    job_input: bytes
    task: Task | None  # None: a real worker will see to it
    fault: FaultRule | None = None
    webhook: str | None = None
    progress: bytes | None = None  # what a real worker says while it is at it
    chunks: list[Any] = field(default_factory=list)  # partial output not yet read from /stream
    polls_hidden: int = 0
    finished: anyio.Event = field(default_factory=anyio.Event)


@dataclass(frozen=True, slots=True)
class Submission:
    """A job input with what was said beside it, checked."""

    job_input: Mapping[str, Any]
    sync: bool = False
    webhook: str | None = None
    ttl_seconds: float = 86_400.0
    execution_timeout_seconds: float = 600.0
    low_priority: bool = False


class Exchange:
    """The state of one sandbox. `now` gives seconds that never go back."""

    def __init__(
        self, settings: SandboxSettings, now: Callable[[], float], pool: ThreadPoolExecutor, spool: Path
    ) -> None:
        self.settings = settings
        self.now = now
        self.spool = spool
        self.books = Books(settings.terms())
        self.limits = Limits(settings.rate_limit_scale)
        self.faults = Faults(settings.seed)
        self.faults.add(read_faults(settings.faults_file) if settings.faults_file else ())
        self.faults.add(settings.faults)
        self.matters: dict[str, Matter] = {}
        self.results = Results(pool, settings.result_keep_seconds, settings.result_memory_bytes)
        self.arrivals: dict[str, anyio.Event] = {}
        self.listeners: list[Callable[[Job, Matter], None]] = []  # told of each job that reaches a final state
        self._models = read_models(settings.models_file) if settings.models_file else None
        self.execution = parse_execution(settings.execution)
        self._style = Style(settings.pictures == "stamped", settings.picture_bytes)
        self._wake = anyio.Event()
        self._asleep_until: float | None = None

    # -- time ----------------------------------------------------------------------------------------------------

    async def keep_time(self) -> None:
        """Settle what falls due, as it falls due, for ever."""
        while True:
            self.tick()
            self._wake = anyio.Event()
            self._asleep_until = self._due()
            with anyio.move_on_after(self._pause_seconds()):
                await self._wake.wait()

    def _pause_seconds(self) -> float | None:
        return None if self._asleep_until is None else max(_SOONEST_SECONDS, self._asleep_until - self.now())

    def tick(self) -> None:
        """Settle what is due now, and tell those who wait for it. Call it after every change to the books."""
        self.books.advance(self.now())
        for job, what in self.books.changes():
            matter = self.matters[job.id]
            if what == "queued":
                self.arrivals.pop(job.order.endpoint, anyio.Event()).set()
            elif what == "finished":
                matter.finished.set()
                for listener in self.listeners:
                    listener(job, matter)
            else:
                self._forget(job)
        self.results.sweep(self.now())
        self._wake_if_sooner()

    def _forget(self, job: Job) -> None:
        del self.matters[job.id]
        self.results.drop(job.id)
        self._spooled(job).unlink(missing_ok=True)

    def _due(self) -> float | None:
        dues = (self.books.next_event_at(), self.results.next_sweep_at())
        return min((due for due in dues if due is not None), default=None)

    def _wake_if_sooner(self) -> None:
        due = self._due()
        if due is not None and (self._asleep_until is None or due < self._asleep_until):
            self._wake.set()

    def arrival(self, endpoint_id: str) -> anyio.Event:
        """Set when the next job joins the endpoint's queue."""
        return self.arrivals.setdefault(endpoint_id, anyio.Event())

    # -- jobs ----------------------------------------------------------------------------------------------------

    async def submit(self, endpoint_id: str, submission: Submission) -> Job:
        """Accept a job, or with a fault: accept it and spoil it."""
        job_input = submission.job_input
        task = None if self.settings.real_workers else await self._understood(job_input)
        prompt = task.wish.prompt if task and task.wish else None
        fault = self.faults.pick("job", endpoint_id, prompt)
        order = Order(
            endpoint=endpoint_id,
            input_digest=hashlib.sha256(_canonical(job_input)).hexdigest(),
            plan=self._plan(len(self.books.jobs), job_input, task, fault),
            prompt=prompt,
            seed=task.wish.seed if task and task.wish else None,
            sync=submission.sync,
            ttl_seconds=submission.ttl_seconds,
            execution_timeout_seconds=submission.execution_timeout_seconds,
            low_priority=submission.low_priority,
        )
        job_id = f"sync-{uuid4()}-u1" if submission.sync else f"{uuid4()}-u1"
        self.matters[job_id] = Matter(json.dumps(job_input).encode(), task, fault, submission.webhook)
        job = self.books.accept(self.now(), job_id, order)
        self._apply_fate(job, fault)
        self.tick()
        return job

    async def _understood(self, job_input: Mapping[str, Any]) -> Task:
        return await anyio.to_thread.run_sync(understand, job_input, self._models)

    def _plan(
        self, number: int, job_input: Mapping[str, Any], task: Task | None, fault: FaultRule | None
    ) -> Plan | None:
        if task is None:
            return None
        if not job_input:
            return _EMPTY_INPUT
        seconds = self.execution(draw(self.settings.seed, "execution", number))
        return spoil_plan(fault, plan_for(task, seconds))

    def _apply_fate(self, job: Job, fault: FaultRule | None) -> None:
        if fault is not None and fault.fault == "lost_job":
            self.books.forget(job)
        if fault is not None and fault.fault == "not_found_at_first":
            self.matters[job.id].polls_hidden = fault.times

    def retry(self, job: Job) -> bool:
        """Queue a failed job again; whether it fails again is decided anew. False where it has not failed."""
        matter = self.matters[job.id]
        fault = self.faults.pick("job", job.order.endpoint, job.order.prompt)
        plan = self._plan(job.starts + len(self.books.jobs), json.loads(matter.job_input), matter.task, fault)
        if not self.books.retry(self.now(), job, plan):
            return False
        matter.fault, matter.progress, matter.finished = fault, None, anyio.Event()
        self._spooled(job).unlink(missing_ok=True)
        self.tick()
        return True

    async def wait_final(self, job: Job, seconds: float) -> None:
        """Return when the job is in a final state, or after `seconds`."""
        if job.state not in FINAL and (matter := self.matters.get(job.id)):
            with anyio.move_on_after(seconds):
                await matter.finished.wait()

    async def status_body(self, job: Job, wait_seconds: float | None) -> tuple[bytes, bool]:
        """The body of `/status`, and whether it carries a result.

        Where the picture is not painted yet, `wait_seconds` is how long to wait for it (None: for ever); after that
        the job is said to be IN_PROGRESS still.
        """
        matter = self.matters.get(job.id)
        if matter is None or job.state is not JobState.COMPLETED or matter.task is None:
            output = None if matter is None else await self._said(job, matter)
            return replies.status(
                self.books, job, None if output is None else [output]
            ), job.state is JobState.COMPLETED
        body = await self.results.get(self.now(), job.id, partial(self._build, job, matter), wait_seconds)
        self._wake_if_sooner()
        if body is None:
            return replies.status(self.books, job, None, still_running=True), False
        return body, True

    async def _said(self, job: Job, matter: Matter) -> bytes | None:
        """The output that is not a painted picture: a real worker's, its progress, or what stands beside an error."""
        if job.state not in FINAL:
            return matter.progress
        if matter.task is None:
            path = anyio.Path(self._spooled(job))
            return await path.read_bytes() if await path.exists() else None
        failed = FAILURES.get((matter.fault.fault if matter.fault else "").removeprefix("failed:"))
        output = failed.output if failed else matter.task.error_output
        return json.dumps(output).encode() if output is not None and job.state is JobState.FAILED else None

    async def keep_output(self, job: Job, output: bytes) -> None:
        """Keep what a real worker made, on disk, until the job is gone; too big a result is dropped."""
        if len(output) <= self.settings.result_limit_bytes:
            await anyio.Path(self._spooled(job)).write_bytes(output)

    def _spooled(self, job: Job) -> Path:
        return self.spool / job.id

    def _build(self, job: Job, matter: Matter) -> bytes:
        fault = matter.fault.fault if matter.fault and matter.fault.fault in PICTURES else None
        if fault == "no_output" or matter.task is None or matter.task.wish is None:
            return replies.status(self.books, job, None)
        output = make_output(matter.task.wish, self._style, fault)
        is_kept = sum(map(len, output)) <= self.settings.result_limit_bytes
        return replies.status(self.books, job, output if is_kept else None)


def _canonical(job_input: Mapping[str, Any]) -> bytes:
    return json.dumps(job_input, sort_keys=True, separators=(",", ":")).encode()


@asynccontextmanager
async def open_exchange(settings: SandboxSettings, now: Callable[[], float]) -> AsyncIterator[Exchange]:
    """An exchange whose painters and files on disk end with it."""
    pool = ThreadPoolExecutor(settings.painters, thread_name_prefix="painter")
    try:
        with TemporaryDirectory(prefix="asyncgen-sandbox-") as spool:
            yield Exchange(settings, now, pool, Path(spool))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
