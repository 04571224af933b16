"""Wakes an endpoint's workers before a batch.

The platform has no command for that: it starts workers for jobs that wait, so small jobs are sent, which load what the
batch loads. The management API could keep workers switched on, but a process that dies would leave them so; a job ends
by itself. Nothing of these jobs is kept: they are no images, and neither ledger nor manifest knows of them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import anyio

from asyncgen.endpoint import Endpoint
from asyncgen.errors import FailureClass, InputError, RunPausedError
from asyncgen.plan import Planner
from asyncgen.ports import Ports, TransportError
from asyncgen.protocol import (
    Accepted,
    Cancelled,
    Completed,
    Failed,
    Health,
    Missing,
    Refused,
    Rejected,
    Unknown,
    job_body,
)
from asyncgen.records import Want
from asyncgen.stopping import Stop

log = logging.getLogger(__name__)

#: A job may run so long: loading a model can take a minute.
JOB_SECONDS: Final = 120.0
#: So long workers are waited for; what is out then is cancelled.
WAIT_SECONDS: Final = 300.0
_SIZE, _STEPS = 64, 1
_LANE: Final = "warming"  # what is learned of these jobs must not be taken for what images take


@dataclass(slots=True)
class Warmed:
    """What came of it. `awake`: so many workers were awake before, and nothing was sent if they were enough.

    `workers` are those that said they ran one of the `jobs`. `untimed` of these never said how long they ran;
    `cancelled` and `left` were out at its end, and could be cancelled or could not.
    """

    awake: int = 0
    jobs: int = 0
    workers: set[str] = field(default_factory=set)
    execution_ms: int = 0
    untimed: int = 0
    cancelled: int = 0
    left: int = 0
    faults: list[str] = field(default_factory=list)

    def seconds(self) -> float:
        """Of execution that were paid for, at the most."""
        return self.execution_ms / 1000 + self.untimed * JOB_SECONDS


def small_job(planner: Planner, want: Want, model_urls: Mapping[str, str] | None = None) -> bytes:
    """The body of a job that loads what this image's does, and makes a picture of 64x64 in one step.

    `model_urls` as `Planner.job_input` takes them. Raises `InputError` where the workflow needs an input picture.
    """
    if want.request.input_pictures:
        message = "a workflow with input pictures cannot be warmed up: leave --warm out"
        raise InputError(message, field="--warm")
    spec = replace(want.spec, width=_SIZE, height=_SIZE, steps=_STEPS, batch_size=1)
    job_input = planner.job_input(want.request, spec, 0, {}, model_urls)
    return job_body(job_input, ttl_ms=int(2 * WAIT_SECONDS * 1000), execution_timeout_ms=int(JOB_SECONDS * 1000))


async def wake(endpoint: Endpoint, ports: Ports, body: bytes, count: int, warmed: Warmed | None = None) -> Warmed:
    """Send `count` small jobs at once and wait for their ends, unless as many workers are awake already.

    `warmed` is kept up to date, for who wants to tell of it when this is cancelled; None: a new one.

    What is out after `WAIT_SECONDS`, or when this is cancelled, is taken back; after a crash the platform ends each job
    by its time limits. Raises `RunPausedError` where the endpoint refuses all work.
    """
    warmed = Warmed() if warmed is None else warmed
    warmed.awake = await _awake(endpoint)
    if warmed.awake >= count:
        return warmed
    round_ = _Round(endpoint, ports.clock.now, body, warmed)
    try:
        async with anyio.create_task_group() as waiting:
            waiting.start_soon(_give_up, ports, waiting.cancel_scope)
            async with anyio.create_task_group() as tasks:
                for _ in range(count):
                    tasks.start_soon(round_.send_one)
            waiting.cancel_scope.cancel()
    finally:
        with anyio.CancelScope(shield=True):
            await round_.take_back()
    if round_.error is not None:
        raise round_.error
    return warmed


async def _give_up(ports: Ports, scope: anyio.CancelScope) -> None:
    await ports.clock.sleep(WAIT_SECONDS)
    log.warning("workers have not come up within %.0f s: the batch begins without them", WAIT_SECONDS)
    scope.cancel()


async def _awake(endpoint: Endpoint) -> int:
    try:
        health = await endpoint.health()
    except TransportError:
        return 0
    if not isinstance(health, Health):
        return 0
    return health.workers.running  # an idle one is not paid for, and starts as a sleeping one does


class _Round:
    """The small jobs of one warming-up, and what is out of them."""

    def __init__(self, endpoint: Endpoint, now: Callable[[], float], body: bytes, warmed: Warmed) -> None:
        self._endpoint, self._now, self._body, self._warmed = endpoint, now, body, warmed
        self._out: set[str] = set()
        self.error: RunPausedError | None = None

    # as `endpoint.Journal`: what is known of a job is durable nowhere, because it ends by itself

    async def intend(self) -> None:
        """Nothing is recorded."""

    async def learn(self, outcome: Accepted | Refused | Unknown | Rejected | Missing) -> None:
        """Whatever may have been bought counts from here on."""
        match outcome:
            case Accepted(job_id):
                self._warmed.jobs += 1
                self._out.add(job_id)
            case Unknown(reason):
                self._warmed.jobs += 1
                self._warmed.untimed += 1
                self._warmed.faults.append(f"whether a job was taken was never learned ({reason})")

    async def send_one(self) -> None:
        """One job to its end; an error that all would meet is kept for whoever started them."""
        try:
            await self._send()
        except RunPausedError as error:
            self.error = error

    async def _send(self) -> None:
        outcome = await self._endpoint.submit(self._body, self, Stop())
        match outcome:
            case Rejected(failure) if failure.kind is not FailureClass.ITEM:
                raise RunPausedError(failure)
            case Rejected(failure):
                self._warmed.faults.append(str(failure))
            case Accepted(job_id):
                ending = await self._endpoint.wait_output(job_id, lane=_LANE, submitted_at=self._now())
                self._out.discard(job_id)
                self._note(ending)

    async def take_back(self) -> None:
        """Cancel what is out; how long it ran is not known then."""
        for job_id in list(self._out):
            self._out.discard(job_id)
            self._warmed.untimed += 1
            if isinstance(await self._endpoint.cancel(job_id), Cancelled):
                self._warmed.cancelled += 1
            else:
                self._warmed.left += 1

    def _note(self, ending: Any) -> None:
        if isinstance(ending, Completed | Failed | Cancelled) and ending.timing.execution_ms is not None:
            self._warmed.execution_ms += ending.timing.execution_ms
        else:
            self._warmed.untimed += 1
        if isinstance(ending, Completed) and ending.timing.worker_id is not None:
            self._warmed.workers.add(ending.timing.worker_id)
        if isinstance(ending, Failed | Rejected):
            self._warmed.faults.append(str(ending.failure))
