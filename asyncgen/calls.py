"""Requests to one endpoint, repeated where that costs nothing: backoff, 429s, and silence.

tenacity drives every backoff, here and nowhere else, on the clock and the randomness of the ports.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_result, stop_never

from asyncgen.errors import Failure, FailureClass, FailureCode, RunPausedError
from asyncgen.gate import Gate
from asyncgen.pacing import backoff_seconds
from asyncgen.ports import HttpReply, HttpRequest, NotSentError, Ports, ReplyTooLargeError, TransportError
from asyncgen.protocol import Refused, Transient, Unknown

T = TypeVar("T")
_LONGEST_PAUSE_SECONDS: Final = 60.0  # between two tries of one request
_TOO_MANY_REQUESTS: Final = 429


class Calls:
    """What all operations of an endpoint share. It raises `RunPausedError` after `unreachable_seconds` of silence."""

    def __init__(self, ports: Ports, base_url: str, request_timeout_seconds: float, unreachable_seconds: float) -> None:
        self._ports, self._base_url = ports, base_url
        self._request_timeout_seconds, self._unreachable_seconds = request_timeout_seconds, unreachable_seconds
        self._silent_since: float | None = None
        self._failed_at = -math.inf

    async def repeated(
        self,
        once: Callable[[], Awaitable[T]],
        passing: type | tuple[type, ...],
        *,
        wait: Callable[[RetryCallState], float] | None = None,
        sleep: Callable[[float], Any] | None = None,
        stop: Callable[[RetryCallState], bool] = stop_never,
    ) -> T:
        """The outcome of `once`, had again for as long as it is of a `passing` type; when stopped, the last one.

        tenacity, on our clock and randomness, comes in with the second try: it takes longer than a request.
        """
        outcome = await once()
        if not isinstance(outcome, passing):
            return outcome
        first = [outcome]

        async def first_or_next() -> T:
            return first.pop() if first else await once()

        retrying = AsyncRetrying(
            retry=retry_if_result(lambda outcome: isinstance(outcome, passing)),
            wait=wait or self._backoff,
            sleep=sleep or self._ports.clock.sleep,
            stop=stop,
            before_sleep=lambda _: self.give_up_on_silence(),
            retry_error_callback=outcome_of,
        )
        settled: T = await retrying(first_or_next)
        return settled

    async def buy(self, request: HttpRequest, decipher: Callable[[HttpReply], T], gate: Gate) -> T | Refused | Unknown:
        """Send, once, a request that makes a job run: Refused if it certainly has not arrived, else Unknown."""
        try:
            reply = await self.send(request)
        except NotSentError as error:
            return Refused(f"the endpoint cannot be reached ({error})")
        except TransportError as error:
            return Unknown(f"no reply came ({error})")
        outcome = decipher(reply)
        if isinstance(outcome, Refused):
            self._slow_down(gate, reply, outcome.retry_after_seconds)
        return outcome

    async def ask(self, request: HttpRequest, decipher: Callable[[HttpReply], T], gate: Gate) -> T | Transient:
        """Send a request that costs nothing and may be repeated; no reply is a `Transient`."""
        try:
            reply = await self.send(request)
        except TransportError as error:
            return Transient(str(error))
        outcome = decipher(reply)
        if isinstance(outcome, Transient):
            self._slow_down(gate, reply, outcome.retry_after_seconds)
        return outcome

    async def send(self, request: HttpRequest) -> HttpReply:
        """One request; whether it is answered counts for silence. Raises `TransportError`."""
        try:
            reply = await self._ports.transport.send(request)
        except ReplyTooLargeError:
            raise  # it did answer
        except TransportError:
            self._note_silence()
            raise
        self._silent_since = None
        return reply

    def _note_silence(self) -> None:
        """A request has had no answer. Silence lasts while we keep asking: a pause in which nobody asked ends it."""
        now = self._ports.clock.now()
        if self._silent_since is None or self._has_paused(now):
            self._silent_since = now
        self._failed_at = now

    def _has_paused(self, now: float) -> bool:
        """Whether nobody has asked for so long that what was silent then may answer now."""
        return now - self._failed_at > 2 * self._request_timeout_seconds + _LONGEST_PAUSE_SECONDS

    def _slow_down(self, gate: Gate, reply: HttpReply, retry_after_seconds: float | None) -> None:
        if reply.status == _TOO_MANY_REQUESTS:
            gate.slow_down(retry_after_seconds)

    def _backoff(self, state: RetryCallState) -> float:
        outcome = outcome_of(state)
        return self.pause_after_fault(state.attempt_number, outcome.retry_after_seconds)

    def pause_after_fault(self, faults_in_a_row: int, retry_after_seconds: float | None) -> float:
        """Seconds to wait after so many faults, and no shorter than the server asks for."""
        jitter = self._ports.rng.random()
        return max(backoff_seconds(faults_in_a_row, jitter), (retry_after_seconds or 0.0) * (1 + 0.1 * jitter))

    def give_up_on_silence(self) -> None:
        """Raises `RunPausedError` once nothing has answered for too long."""
        now = self._ports.clock.now()
        if self._silent_since is None or self._has_paused(now):
            return
        silent_for = now - self._silent_since
        if silent_for > self._unreachable_seconds:
            raise RunPausedError(
                Failure(
                    FailureClass.TRANSPORT,
                    FailureCode.UNREACHABLE,
                    f"{self._base_url} has not answered for {silent_for:.0f} s: check the network, then start "
                    "the run again; what is out stays known by its id",
                )
            )


def outcome_of(state: RetryCallState) -> Any:
    """What the last try gave."""
    assert state.outcome is not None
    return state.outcome.result()
