"""One RunPod endpoint: submit, wait for the output, cancel, retry, health, runsync, download.

All jobs on an endpoint share its gates: a token bucket and a limit on requests at once for each operation. Every
request goes through `asyncgen.calls`. What a reply means is decided in `asyncgen.replies`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Collection, Hashable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, Protocol, TypeVar

import anyio
from tenacity import RetryCallState, stop_after_attempt

from asyncgen import protocol, replies
from asyncgen.calls import Calls, outcome_of
from asyncgen.errors import Failure, FailureClass, FailureCode, JobStillRunningError
from asyncgen.gate import Gate, Place
from asyncgen.pacing import WINDOW_SECONDS
from asyncgen.ports import (
    AddressRefusedError,
    HttpRequest,
    Ports,
    ReplyTooLargeError,
    TransportError,
)
from asyncgen.protocol import (
    Accepted,
    Cancelled,
    Completed,
    Downloaded,
    EndpointAddress,
    Failed,
    Health,
    Missing,
    Pending,
    Ran,
    Redirected,
    Refused,
    Rejected,
    Timing,
    Transient,
    Unknown,
)
from asyncgen.queue_model import QueueModel, WaitedJob
from asyncgen.stopping import Stop

log = logging.getLogger(__name__)
T = TypeVar("T")
B = TypeVar("B", bound=Accepted | Refused | Unknown | Rejected | Missing)

#: How long a job may be unknown to `/status` before it counts as lost: soon after `/run` a 404 can be propagation
#: (RunPod's own client retries it over about 31 s).
MISSING_GRACE_SECONDS: Final = 35.0
_MAX_RUN_AT_ONCE: Final = 200  # the platform's limits on requests at once
_MAX_STATUS_AT_ONCE: Final = 400
_MAX_CANCEL_AT_ONCE: Final = 20
_RUNSYNC_RATE: Final = 2000  # requests per 10 s
_MAX_RUNSYNC_AT_ONCE: Final = 400
_MAX_REDIRECTS: Final = 5
_CANCEL_TRIES: Final = 4
_DOWNLOAD_TRIES: Final = 8  # over about a minute: a result's own site may stay down, and must not hold the run up
_SLOW_FACTOR: Final = 3.0
_LEARNING_SHARE: Final = 0.1  # of the newest in a running mean
_REFUSED_REPORT_AFTER_SECONDS: Final = 30.0
_SLOW_REPORT_EVERY_SECONDS: Final = 300.0
_SHORTEST_SLEEP_SECONDS: Final = 1e-3
_HELD_SECONDS: Final = 30.0  # at a time: what stands between may cut a connection on which nothing moves for longer
_SHORTEST_HOLD_SECONDS: Final = 1.0
_HELD_AT_ONCE: Final = 4  # with more out than that, calls at the right time cost as little and hold no connections

Submitted = Accepted | Unknown | Rejected
JobEnding = Completed | Failed | Cancelled | Missing | Rejected
KnownEnd = tuple[FailureCode, Timing]  # how a job ended before it was run again


@dataclass(frozen=True, slots=True)
class Pace:
    """How hard an endpoint may be worked: seconds, requests per 10 s, requests at once, bytes. See `Settings`."""

    polling_interval_seconds: float = 1.0
    polling_interval_max_seconds: float = 5.0
    slow_after_seconds: float = 180.0
    slow_after_polls: int = 120
    sync_timeout_seconds: float = 700.0
    request_timeout_seconds: float = 60.0
    unreachable_seconds: float = 300.0
    run_rate: float = 1000
    status_rate: float = 2000
    cancel_rate: float = 100
    rate_share: float = 0.8
    downloads_at_once: int = 8
    max_result_bytes: int = 64 * 1024 * 1024
    allow_private_urls: bool = False
    status_sync: bool = False


class Journal(Protocol):
    """Who writes down what a submission is about to do and what became of it; durable when the call returns."""

    async def intend(self) -> None:
        """A `POST /run` or `/retry` is about to be sent."""
        ...

    async def learn(self, outcome: Accepted | Refused | Unknown | Rejected | Missing) -> None:
        """What is known of it now. Missing: a job that cannot be run again."""
        ...


@dataclass(slots=True)
class _Wait:
    """What one wait for a job has seen so far; times are monotonic seconds."""

    job: WaitedJob
    since: float
    deadline: float
    before_retry: Collection[KnownEnd] = ()
    faults_in_a_row: int = 0
    missing_since: float | None = None
    was_pending: bool = False


class Endpoint:
    """All verbs of one endpoint. They raise `RunPausedError` once nothing has answered for `unreachable_seconds`.

    `sharers` tells how many use the endpoint's limits now, this one included.
    """

    def __init__(
        self,
        ports: Ports,
        address: EndpointAddress,
        api_key: str,
        pace: Pace,
        sharers: Callable[[], int] = lambda: 1,
    ) -> None:
        self._ports, self.address, self._api_key, self._pace = ports, address, api_key, pace
        self._sharers = sharers
        self._calls = Calls(ports, address.base_url, pace.request_timeout_seconds, pace.unreachable_seconds)

        def gate(per_window: float, at_once: int, own_at_once: int | None = None) -> Gate:
            share = pace.rate_share
            return Gate(ports, per_window * share, at_once * share, sharers, own_at_once)

        self._run_gate = gate(pace.run_rate, _MAX_RUN_AT_ONCE)
        # a status reply may carry pictures: this gate is what keeps memory and the loop's delay low
        self._status_gate = gate(pace.status_rate, _MAX_STATUS_AT_ONCE, pace.downloads_at_once)
        self._runsync_gate = gate(_RUNSYNC_RATE, _MAX_RUNSYNC_AT_ONCE)
        self._cancel_gate = gate(pace.cancel_rate, _MAX_CANCEL_AT_ONCE)
        self._queue = QueueModel(pace.polling_interval_seconds, pace.polling_interval_max_seconds, _SLOW_FACTOR)
        self._waited: dict[str, WaitedJob] = {}
        self._asleep: dict[WaitedJob, anyio.CancelScope] = {}
        self._has_status_sync = pace.status_sync  # undocumented: until the endpoint shows that it does not have it
        self._result_seconds: float | None = None
        self._refused_since: float | None = None
        self._slow_reported_at: float | None = None

    # -- submit --------------------------------------------------------------------------------------------------

    async def submit(self, body: bytes, journal: Journal, stop: Stop) -> Submitted:
        """Send one job, again for as long as it is certainly not accepted, never after an outcome that is unknown.

        The journal is told before and after each `POST /run`; from the one to the other nothing can be cancelled.
        Raises `StoppedError` when a stop is requested while nothing is in the air.
        """

        async def sleep(seconds: float) -> None:
            with stop.interruptible():
                await self._ports.clock.sleep(seconds)

        outcome = await self._calls.repeated(lambda: self._submit_once(body, journal, stop), Refused, sleep=sleep)
        assert not isinstance(outcome, Refused)
        return outcome

    async def retry(self, job_id: str, journal: Journal, stop: Stop) -> Submitted | Refused | Missing:
        """Have a FAILED or TIMED_OUT job run again, and pay again, under its id. Sent once; else as `submit`."""
        request = protocol.retry_request(self.address, self._api_key, job_id, self._pace.request_timeout_seconds)
        return await self._journalled(
            lambda: self._calls.buy(request, replies.decipher_retry, self._run_gate), journal, stop
        )

    async def _submit_once(self, body: bytes, journal: Journal, stop: Stop) -> Submitted | Refused:
        return await self._journalled(lambda: self._post_run(body), journal, stop)

    async def _journalled(self, send: Callable[[], Awaitable[B]], journal: Journal, stop: Stop) -> B:
        with stop.interruptible():
            await self._run_gate.enter()
        try:
            self._calls.give_up_on_silence()  # each submission that nobody answers is one more that is held
            with anyio.CancelScope(shield=True):
                await journal.intend()
                outcome = await send()
                await journal.learn(outcome)
        finally:
            self._run_gate.leave()
        return outcome

    async def _post_run(self, body: bytes) -> Submitted | Refused:
        request = protocol.run_request(self.address, self._api_key, body, self._pace.request_timeout_seconds)
        outcome = await self._calls.buy(request, replies.decipher_submission, self._run_gate)
        self._report_refusals(outcome)
        return outcome

    def _report_refusals(self, outcome: object) -> None:
        """Refusals are waited out for as long as they last, so whoever waits must be told why nothing moves."""
        if not isinstance(outcome, Refused):
            self._refused_since = None
            return
        log.info("a submission was refused and is tried again: %s", outcome.reason)
        now = self._ports.clock.now()
        if self._refused_since is None:
            self._refused_since = now
        elif now - self._refused_since > _REFUSED_REPORT_AFTER_SECONDS:
            self._refused_since = now
            log.warning("the endpoint takes no jobs and is asked again and again: %s", outcome.reason)

    # -- wait ----------------------------------------------------------------------------------------------------

    def place(self) -> Place:
        """The place of one job's result among those that are in memory at once."""
        return self._status_gate.place()

    async def wait_output(
        self,
        job_id: str,
        place: Place | None = None,
        *,
        lane: Hashable = None,
        submitted_at: float | None = None,
        before_retry: Collection[KnownEnd] = (),
    ) -> JobEnding:
        """Poll until the job has ended; the reply that says so is the download.

        `lane` is the same for jobs that do the same work; `submitted_at` is on the monotonic clock, and where it is not
        given the job is polled at once. A failed poll is polled again. `Missing` is returned only once `/status` has
        not known the job for `MISSING_GRACE_SECONDS`, and for as long a failure of `before_retry` is taken for an old
        answer; one that lasts is `Failed.is_of_before`. A job is never abandoned: past `slow_after_*` it is only polled
        less often. When it has completed, its `place` stays taken until whoever gave it has put the result away (None:
        that is nobody's concern).
        """
        with self.place() as own:
            ending: JobEnding = await self._polled(
                job_id,
                place or own,
                lane=lane,
                submitted_at=submitted_at,
                before_retry=before_retry,
                deadline=math.inf,
            )
        return ending

    async def _polled(
        self,
        job_id: str,
        place: Place,
        *,
        deadline: float,
        lane: Hashable = None,
        submitted_at: float | None = None,
        before_retry: Collection[KnownEnd] = (),
    ) -> Any:
        """How the job ended, or, once the deadline has passed, what the last poll said (Pending or Transient)."""
        now = self._ports.clock.now()
        job = self._queue.submitted(lane, now, submitted_at, self._ports.rng.random())
        wait, self._waited[job_id] = _Wait(job, now, deadline, before_retry), job
        try:
            await self._sleep(wait, self._due_in(wait))
            return await self._calls.repeated(
                lambda: self._poll(job_id, wait, place),
                (Pending, Transient),
                wait=lambda state: self._poll_pause(wait, state),
                sleep=lambda seconds: self._sleep(wait, seconds),
                stop=lambda _: self._ports.clock.now() >= deadline,
            )
        finally:
            self._queue.forget(job)
            self._waited.pop(job_id, None)

    async def _poll(self, job_id: str, wait: _Wait, place: Place) -> JobEnding | Pending | Transient:
        if self._may_be_held(wait):
            return await self._held(job_id, wait, place)
        request = protocol.status_request(self.address, self._api_key, job_id, self._pace.request_timeout_seconds)
        due_at = self._ports.clock.now()
        await place.take()
        asked_at = self._ports.clock.now()
        self._queue.asked(wait.job, asked_at, asked_at - due_at)
        outcome = await self._calls.ask(request, replies.decipher_status, self._status_gate)
        if isinstance(outcome, Completed):
            self._learn_result_seconds(self._ports.clock.now() - asked_at)
        else:
            place.give_back()
        return self._noted(outcome, wait, asked_at)

    def _may_be_held(self, wait: _Wait) -> bool:
        """Whether a call may be held until the job ends: where few are out, and this one was asked about before."""
        is_known = wait.job.polls and not wait.faults_in_a_row and wait.missing_since is None
        return bool(self._has_status_sync and is_known and len(self._waited) <= _HELD_AT_ONCE)

    async def _held(self, job_id: str, wait: _Wait, place: Place) -> JobEnding | Pending | Transient:
        """What `/status-sync` says, held by the server; Transient where the endpoint does not have it after all.

        It counts as a status call, but keeps no place of those that results are received in: it would keep it for long.
        """
        await place.take()
        place.give_back()
        left_seconds = wait.deadline - self._ports.clock.now()
        request = protocol.status_sync_request(
            self.address,
            self._api_key,
            job_id,
            self._pace.request_timeout_seconds,
            int(min(_HELD_SECONDS, left_seconds) * 1000),
        )
        async with self._runsync_gate:
            began_at = self._ports.clock.now()
            outcome = await self._calls.ask(request, replies.decipher_status, self._status_gate)
        now = self._ports.clock.now()
        of_account = isinstance(outcome, Rejected) and outcome.failure.kind is FailureClass.ACCOUNT
        if isinstance(outcome, Missing | Rejected) and not of_account:
            outcome = Transient("the endpoint does not hold status calls")
        came_at_once = now - began_at < _SHORTEST_HOLD_SECONDS and isinstance(outcome, Pending)
        self._has_status_sync = not (came_at_once or isinstance(outcome, Transient))
        self._queue.asked(wait.job, now, 0.0)
        if isinstance(outcome, Completed):
            await place.take()
        return self._noted(outcome, wait, now)

    def _noted(
        self, outcome: JobEnding | Pending | Transient, wait: _Wait, asked_at: float
    ) -> JobEnding | Pending | Transient:
        """What is believed of a reply, once all who can learn from it have."""
        outcome = self._believed(outcome, wait, asked_at)
        wait.faults_in_a_row = wait.faults_in_a_row + 1 if isinstance(outcome, Transient) else 0
        self._learn_of_queue(wait.job, outcome, self._ports.clock.now())
        return outcome

    def _learn_of_queue(self, job: WaitedJob, outcome: JobEnding | Pending | Transient, now: float) -> None:
        """Tell the model what a poll said, and wake those for whom it makes a difference."""
        match outcome:
            case Pending(_, "IN_QUEUE"):
                self._queue.queued(job, now)
            case Pending(_, _, timing):
                self._queue.running(job, now, timing.delay_ms, timing.worker_id)
            case Completed(_, timing) | Failed(_, timing):
                completed = isinstance(outcome, Completed)
                self._queue.ended(job, now, timing.delay_ms, timing.execution_ms, timing.worker_id, completed=completed)
        self._wake_hastened()

    def _wake_hastened(self) -> None:
        for hastened in self._queue.hastened():
            if scope := self._asleep.get(hastened):
                scope.cancel()

    def _believed(
        self, outcome: JobEnding | Pending | Transient, wait: _Wait, asked_at: float
    ) -> JobEnding | Pending | Transient:
        """A 404 is believed once it has lasted; so is, after retries, a failure that came before one.

        How long it has lasted is counted to when it was asked: a reply may be slow, and old when it comes.
        """
        if isinstance(outcome, Failed) and (outcome.failure.code, outcome.timing) in wait.before_retry:
            if asked_at - wait.since < MISSING_GRACE_SECONDS:
                return Transient("/status says what it said before a retry")
            outcome = replace(outcome, is_of_before=not wait.was_pending and outcome.timing != Timing())
        wait.was_pending = wait.was_pending or isinstance(outcome, Pending)
        if not isinstance(outcome, Missing):
            wait.missing_since = None if not isinstance(outcome, Transient) else wait.missing_since
            return outcome
        wait.missing_since = asked_at if wait.missing_since is None else wait.missing_since
        missing_for = asked_at - wait.missing_since
        return outcome if missing_for >= MISSING_GRACE_SECONDS else Transient("/status does not know the job (yet)")

    def _learn_result_seconds(self, seconds: float) -> None:
        before = seconds if self._result_seconds is None else self._result_seconds
        self._result_seconds = before + _LEARNING_SHARE * (seconds - before)

    @property
    def results_per_second(self) -> float | None:
        """How fast finished results can be fetched, from how long fetching takes; None before the first."""
        if not self._result_seconds:
            return None
        pace = self._pace
        polls_per_second = pace.status_rate * pace.rate_share / WINDOW_SECONDS / self._sharers()
        return min(pace.downloads_at_once / self._result_seconds, polls_per_second)

    def _poll_pause(self, wait: _Wait, state: RetryCallState) -> float:
        """tenacity's wait strategy: until the model of the queue thinks it worth asking, or a fault may be over."""
        outcome = outcome_of(state)
        if isinstance(outcome, Transient):
            return self._calls.pause_after_fault(wait.faults_in_a_row, outcome.retry_after_seconds)
        wait.job.is_slow = self._is_slow(wait)
        return self._due_in(wait)

    def _due_in(self, wait: _Wait) -> float:
        now = self._ports.clock.now()
        return min(self._queue.next_poll_at(wait.job, now), wait.deadline) - now

    async def _sleep(self, wait: _Wait, seconds: float) -> None:
        """Sleep until the job is due. When that is changes while it sleeps; a pause after a fault does not."""
        if wait.faults_in_a_row:
            await self._ports.clock.sleep(seconds)
            return
        while seconds > _SHORTEST_SLEEP_SECONDS:
            with anyio.CancelScope() as scope:
                self._asleep[wait.job] = scope
                try:
                    await self._ports.clock.sleep(seconds)
                finally:
                    del self._asleep[wait.job]
            seconds = self._due_in(wait)

    def _is_slow(self, wait: _Wait) -> bool:
        waited = self._ports.clock.now() - wait.since
        if waited < self._pace.slow_after_seconds and wait.job.polls < self._pace.slow_after_polls:
            return False
        reported = self._slow_reported_at
        if reported is None or self._ports.clock.now() - reported > _SLOW_REPORT_EVERY_SECONDS:
            self._slow_reported_at = self._ports.clock.now()
            log.warning(
                "a job has been out for %.0f s (%d polls) and is waited for; `asyncgen check` tells whether the "
                "endpoint has workers",
                waited,
                wait.job.polls,
            )
        return True

    @property
    def lag_seconds(self) -> float:
        """How late the end of a job may be noticed, at the worst."""
        return self._pace.polling_interval_max_seconds

    @property
    def run_refusals(self) -> int:
        """How often `/run` or `/retry` has been answered 429 so far."""
        return self._run_gate.refusals

    # -- other verbs ---------------------------------------------------------------------------------------------

    async def health(self) -> Health | Transient | Rejected:
        """What `/health` says now; asked once. Raises `TransportError` when there is no reply."""
        request = protocol.health_request(self.address, self._api_key, self._pace.request_timeout_seconds)
        # not `_send`: jobs of which nothing is heard for long are no better off for it
        return replies.decipher_health(await self._ports.transport.send(request))

    async def cancel(self, job_id: str) -> Cancelled | Pending | Missing | Transient | Rejected:
        """Take a job back. Pending: it was not cancelled (it may have finished); `wait_output` has the truth."""
        request = protocol.cancel_request(self.address, self._api_key, job_id, self._pace.request_timeout_seconds)

        async def ask() -> Cancelled | Pending | Missing | Transient | Rejected:
            async with self._cancel_gate:
                return await self._calls.ask(request, replies.decipher_cancel, self._cancel_gate)

        outcome = await self._calls.repeated(ask, Transient, stop=stop_after_attempt(_CANCEL_TRIES))
        if job := self._waited.get(job_id):
            self._queue.cancelled(job, self._ports.clock.now())
            self._wake_hastened()
        return outcome

    async def runsync(self, body: bytes) -> JobEnding | Unknown | Refused:
        """Send one job and wait for its end, `sync_timeout_seconds` in all: held by the server first, then polled.

        Sent once. Unknown: no reply came, and the job may be running and paid for. Raises `JobStillRunningError`, which
        carries the id to wait for, when the time is up.
        """
        began = self._ports.clock.now()
        timeout = self._pace.sync_timeout_seconds
        wait_ms = int(min(timeout * 1000, protocol.RUNSYNC_WAIT_RANGE_MS[1]))
        request = protocol.runsync_request(
            self.address, self._api_key, body, self._pace.request_timeout_seconds, wait_ms
        )
        async with self._runsync_gate:
            outcome = await self._calls.buy(request, replies.decipher_runsync, self._runsync_gate)
        if not isinstance(outcome, Ran):
            return outcome
        if not isinstance(outcome.outcome, Pending):
            return outcome.outcome
        assert outcome.job_id is not None
        return await self._wait_rest(outcome.job_id, began + timeout)

    async def _wait_rest(self, job_id: str, deadline: float) -> JobEnding:
        """The rest of a /runsync job: waits held by the server while it offers them, then polling."""
        while (left := deadline - self._ports.clock.now()) > 1:
            request = protocol.status_sync_request(
                self.address, self._api_key, job_id, self._pace.request_timeout_seconds, int(left * 1000)
            )
            async with self._runsync_gate:  # held for long: it must not keep polls waiting
                outcome = await self._calls.ask(request, replies.decipher_status, self._runsync_gate)
            if isinstance(outcome, Missing | Transient):
                self._has_status_sync = False
                break  # undocumented: an endpoint may not have it
            if not isinstance(outcome, Pending):
                return outcome
        with self.place() as place:
            ending: JobEnding | Pending | Transient = await self._polled(job_id, place, deadline=deadline)
        if isinstance(ending, Pending | Transient):
            raise JobStillRunningError(job_id, self._pace.sync_timeout_seconds)
        return ending

    async def download(self, url: str, place: Place | None = None) -> bytes | Rejected:
        """The bytes behind a result's URL, not yet checked. Rejected: a fault of the job's that no waiting mends.

        https only, every redirect checked, no private addresses unless allowed, size-capped; `place` as for
        `wait_output`.
        """
        with self.place() as own:
            return await self._downloaded(url, place or own)

    async def _downloaded(self, url: str, place: Place) -> bytes | Rejected:
        for _ in range(_MAX_REDIRECTS + 1):
            once = partial(self._download_once, url, place)
            match await self._calls.repeated(once, Transient, stop=stop_after_attempt(_DOWNLOAD_TRIES)):
                case Downloaded(data):
                    return data
                case Redirected(target):
                    url = target
                case Rejected() as rejected:
                    return rejected
                case Transient(reason):
                    return _refused_url(f"{url} could not be downloaded in {_DOWNLOAD_TRIES} tries ({reason})")
        return _refused_url(f"it redirects more than {_MAX_REDIRECTS} times")

    async def _download_once(self, url: str, place: Place) -> Downloaded | Redirected | Rejected | Transient:
        request = protocol.download_request(
            url,
            timeout_seconds=self._pace.request_timeout_seconds,
            max_reply_bytes=self._pace.max_result_bytes,
            allow_private=self._pace.allow_private_urls,
        )
        if isinstance(request, Rejected):
            return request
        await place.take()
        outcome = await self._fetched(request, url)
        if isinstance(outcome, Transient):  # others may go on while this one waits
            place.give_back()
        return outcome

    async def _fetched(self, request: HttpRequest, url: str) -> Downloaded | Redirected | Rejected | Transient:
        try:  # not by `_send`: its silence is not the endpoint's
            return replies.decipher_download(await self._ports.transport.send(request), url)
        except AddressRefusedError as error:
            return _refused_url(str(error))
        except ReplyTooLargeError as error:
            return Rejected(Failure(FailureClass.ITEM, FailureCode.RESULT_TOO_LARGE, f"the result's file: {error}"))
        except TransportError as error:
            return Transient(str(error))


def _refused_url(problem: str) -> Rejected:
    message = f"the worker's result URL was not taken: {problem}"
    return Rejected(Failure(FailureClass.ITEM, FailureCode.RESULT_URL_REFUSED, message))
