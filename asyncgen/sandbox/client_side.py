"""The client side over HTTP: /v2/{endpoint}/run, status and the rest, as RunPod documents them.

Every request goes the same way: is it allowed, is it within its limits, does a fault hit it; then the operation
decides the answer, and the answer is sent (or spoilt on its way).
"""

from __future__ import annotations

import contextlib
import hmac
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import anyio
from aiohttp import web
from pydantic import BaseModel, Field, ValidationError

from asyncgen.sandbox import replies
from asyncgen.sandbox.books import Job
from asyncgen.sandbox.exchange import Exchange, Submission
from asyncgen.sandbox.faults import ANSWERS, BODIES, RESETS, FaultRule
from asyncgen.sandbox.workers import spoil_base64

_DAY_MS: Final = 86_400_000
_BODY_LIMITS: Final = {"run": (10 * 1024 * 1024, "10MiB"), "runsync": (20_000_000, "20MB")}
_RUNSYNC_WAIT_MS: Final = (1000, 300_000)
_STATUS_SYNC_WAIT_MS: Final = (1000, 90_000)
_DEFAULT_WAIT_MS: Final = 90_000
_SLOW_PIECES: Final = 20


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer not yet sent. `result_of` is the job whose finished result it carries."""

    body: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    content_type: str = "application/json"
    result_of: Job | None = None


class Policy(BaseModel):
    """`policy` of a run request, in the platform's own names and milliseconds."""

    execution_timeout: int = Field(600_000, alias="executionTimeout", ge=5000, le=7 * _DAY_MS)
    ttl: int = Field(_DAY_MS, ge=10_000, le=7 * _DAY_MS)
    low_priority: bool = Field(False, alias="lowPriority")


class RunBody(BaseModel):
    """The body of `/run` and `/runsync`; other keys are let through unread."""

    input: dict[str, Any] = Field(default_factory=dict)
    webhook: str | None = Field(None, pattern=r"^https?://")
    policy: Policy = Field(default_factory=lambda: Policy.model_validate({}))

    def submission(self, *, sync: bool) -> Submission:
        """The same in our words and seconds."""
        return Submission(
            job_input=self.input,
            sync=sync,
            webhook=self.webhook,
            ttl_seconds=self.policy.ttl / 1000,
            execution_timeout_seconds=self.policy.execution_timeout / 1000,
            low_priority=self.policy.low_priority,
        )


def _error(status: int, message: str, **headers: str) -> Answer:
    return Answer(replies.encode({"error": message}), status, headers)


_NO_SUCH_JOB: Final = _error(404, "job not found")


class ClientSide:
    """The operations of a client, on one exchange."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._settings = exchange.settings

    def routes(self) -> list[web.RouteDef]:
        """All client routes, each with the method that the documentation and the official clients use."""
        of_jobs = {
            "status": ("GET", self._status),
            "status-sync": ("GET", self._status_sync),
            "stream": ("GET", self._stream),
            "cancel": ("POST", self._cancel),
            "retry": ("POST", self._retry),
        }
        of_endpoints = {
            "run": ("POST", self._run),
            "runsync": ("POST", self._run),
            "purge-queue": ("POST", self._purge),
            "health": ("GET", self._health),
        }
        return [
            web.route(method, f"/v2/{{endpoint}}/{name}/{{job}}", partial(self._serve_job, name, operation))
            for name, (method, operation) in of_jobs.items()
        ] + [
            web.route(method, f"/v2/{{endpoint}}/{name}", partial(self._serve, name, operation))
            for name, (method, operation) in of_endpoints.items()
        ]

    # -- the way of every request --------------------------------------------------------------------------------

    async def _serve_job(
        self, name: str, operation: Callable[[web.Request, Job], Awaitable[Answer]], request: web.Request
    ) -> web.StreamResponse:
        async def on_job(request: web.Request) -> Answer:
            job = self._job(request)
            return _NO_SUCH_JOB if job is None else await operation(request, job)

        return await self._serve(name, on_job, request)

    async def _serve(
        self, name: str, operation: Callable[[web.Request], Awaitable[Answer]], request: web.Request
    ) -> web.StreamResponse:
        exchange, endpoint_id = self._exchange, request.match_info["endpoint"]
        exchange.books.counts[f"requests.{name}"] += 1
        refusal = self._refusal(name, request)
        if refusal is None and not exchange.limits.enter(exchange.now(), endpoint_id, name):
            refusal = self._too_many(self._settings.retry_after_seconds)
        if refusal is not None:
            exchange.books.counts[f"answers.{refusal.status}"] += 1
            return await self._send(request, refusal, None)
        try:
            return await self._answer(name, operation, request)
        finally:
            exchange.limits.leave(endpoint_id, name)

    def _refusal(self, name: str, request: web.Request) -> Answer | None:
        endpoint_id = request.match_info["endpoint"]
        if not self._key_fits(request.headers.get("Authorization", "")):
            return _error(401, "unauthorized")
        if self._settings.endpoints and endpoint_id not in self._settings.endpoints:
            return _error(404, "endpoint not found")
        if endpoint_id in self._settings.load_balancing:
            return _error(400, f"/{name} is not allowed for LB API, use load balancer endpoint")
        return None

    def _key_fits(self, authorization: str) -> bool:
        scheme, _, key = authorization.partition(" ")
        expected = self._settings.api_key
        if scheme.lower() != "bearer" or not key.strip():
            return False
        return expected is None or hmac.compare_digest(key.strip().encode(), expected.get_secret_value().encode())

    def _too_many(self, retry_after_seconds: float | None) -> Answer:
        headers = {} if retry_after_seconds is None else {"Retry-After": f"{retry_after_seconds:g}"}
        return Answer(ANSWERS["429"][1].encode(), 429, headers)

    async def _answer(
        self, name: str, operation: Callable[[web.Request], Awaitable[Answer]], request: web.Request
    ) -> web.StreamResponse:
        fault = self._exchange.faults.pick(name, request.match_info["endpoint"], await self._prompt(request))
        if fault is not None and fault.fault in ANSWERS:
            answer: Answer = self._scripted(fault)
        elif fault is not None and fault.fault == "reset_before_accept":
            return _cut(request)
        else:
            answer = await operation(request)
        if answer.result_of is not None and (fault is None or fault.fault not in RESETS | BODIES):
            order = answer.result_of.order
            fault = self._exchange.faults.pick("result", order.endpoint, order.prompt)
            if fault is not None and fault.fault in ANSWERS:
                answer = self._scripted(fault)
        self._exchange.books.counts[f"answers.{answer.status}"] += 1
        return await self._send(request, answer, fault)

    async def _prompt(self, request: web.Request) -> str:
        """What `prompt_contains` of a fault looks into: the job's prompt, or the body that would make a job."""
        job = self._exchange.books.jobs.get(request.match_info.get("job", ""))
        if job is not None:
            return job.order.prompt or ""
        return (await _body(request) or b"").decode(errors="replace")

    def _scripted(self, fault: FaultRule) -> Answer:
        if fault.fault == "429":
            return self._too_many(fault.retry_after_seconds)
        status, body = ANSWERS[fault.fault]
        headers = {} if fault.retry_after_seconds is None else {"Retry-After": f"{fault.retry_after_seconds:g}"}
        kind = "application/json" if body.startswith("{") else "text/html"
        return Answer(body.encode(), status, headers, kind)

    # -- sending -------------------------------------------------------------------------------------------------

    async def _send(self, request: web.Request, answer: Answer, fault: FaultRule | None) -> web.StreamResponse:
        kind = fault.fault if fault is not None else ""
        if kind in RESETS:
            return _cut(request)
        body = spoil_base64(answer.body) if kind == "wrong_base64" else answer.body
        if answer.result_of is None and kind not in BODIES:
            return web.Response(
                body=body, status=answer.status, headers=answer.headers, content_type=answer.content_type
            )
        response = web.StreamResponse(status=answer.status, headers=answer.headers)
        response.content_type, response.content_length = answer.content_type, len(body)
        with contextlib.suppress(ConnectionResetError):  # the client has left; what it did not get was not fetched
            await response.prepare(request)
            if kind == "cut_body":
                await response.write(body[: len(body) // 2])
                _close(request)
                return response
            await _write(response, body, fault.seconds if fault is not None and kind == "slow_body" else 0.0)
            if answer.result_of is not None and kind in {"", "slow_body"}:
                self._fetched(answer.result_of)
        return response

    def _fetched(self, job: Job) -> None:
        """A whole result has been handed to the network without an error: as much as a server can know."""
        job.fetches += 1
        self._exchange.books.counts["fetched"] += 1

    # -- operations ----------------------------------------------------------------------------------------------

    def _job(self, request: web.Request) -> Job | None:
        exchange, match = self._exchange, request.match_info
        exchange.tick()
        job = exchange.books.find(exchange.now(), match["endpoint"], match["job"])
        if job is not None and (matter := exchange.matters[job.id]).polls_hidden > 0:
            matter.polls_hidden -= 1
            return None
        return job

    async def _run(self, request: web.Request) -> Answer:
        sync = request.path.endswith("/runsync")
        limit, words = _BODY_LIMITS["runsync" if sync else "run"]
        body = await _body(request)
        if body is None or len(body) > limit:
            return _error(400, f"exceeded max body size of {words}")
        try:
            wanted = RunBody.model_validate_json(body)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            return _error(400, f"{'.'.join(map(str, first['loc'])) or 'body'}: {first['msg']}")
        job = await self._exchange.submit(request.match_info["endpoint"], wanted.submission(sync=sync))
        if not sync:
            return Answer(replies.encode({"id": job.id, "status": "IN_QUEUE"}))
        await self._exchange.wait_final(job, _wait_seconds(request, _RUNSYNC_WAIT_MS))
        return await self._record(job)

    async def _status(self, request: web.Request, job: Job) -> Answer:
        job.polls += 1
        ttl = request.query.get("ttl", "")
        if ttl.isdecimal():  # setting it is a side effect of reading: a trap that clients must not step into
            self._exchange.books.set_ttl(self._exchange.now(), job, int(ttl) / 1000)
            self._exchange.tick()
        return await self._record(job)

    async def _status_sync(self, request: web.Request, job: Job) -> Answer:
        job.polls += 1
        await self._exchange.wait_final(job, _wait_seconds(request, _STATUS_SYNC_WAIT_MS))
        return await self._record(job)

    async def _record(self, job: Job) -> Answer:
        body, is_result = await self._exchange.status_body(job, self._settings.paint_wait_seconds)
        return Answer(body, result_of=job if is_result else None)

    async def _stream(self, _request: web.Request, job: Job) -> Answer:
        matter = self._exchange.matters[job.id]
        chunks, matter.chunks = matter.chunks, []
        return Answer(replies.encode({"status": job.state, "stream": [{"output": chunk} for chunk in chunks]}))

    async def _cancel(self, _request: web.Request, job: Job) -> Answer:
        self._exchange.books.cancel(self._exchange.now(), job)
        self._exchange.tick()
        return Answer(replies.encode({"id": job.id, "status": job.state}))

    async def _retry(self, _request: web.Request, job: Job) -> Answer:
        if not self._exchange.retry(job):
            return _error(400, f"only FAILED and TIMED_OUT jobs can be retried, this one is {job.state}")
        return Answer(replies.encode({"id": job.id, "status": "IN_QUEUE"}))

    async def _purge(self, request: web.Request) -> Answer:
        removed = self._exchange.books.purge(self._exchange.now(), request.match_info["endpoint"])
        self._exchange.tick()
        return Answer(replies.encode({"removed": removed, "status": "completed"}))

    async def _health(self, request: web.Request) -> Answer:
        endpoint_id = request.match_info["endpoint"]
        self._exchange.tick()
        throttled = endpoint_id in self._settings.throttled
        return Answer(
            replies.encode(self._exchange.books.health(self._exchange.now(), endpoint_id, throttled=throttled))
        )


async def _body(request: web.Request) -> bytes | None:
    """The body, or None where it is longer than the server reads at all."""
    try:
        return await request.read()
    except web.HTTPRequestEntityTooLarge:
        return None


def _wait_seconds(request: web.Request, bounds: tuple[int, int]) -> float:
    said = request.query.get("wait", "")
    wanted = int(said) if said.isdecimal() else _DEFAULT_WAIT_MS
    return min(max(wanted, bounds[0]), bounds[1]) / 1000


async def _write(response: web.StreamResponse, body: bytes, seconds: float) -> None:
    step = len(body) // _SLOW_PIECES + 1 if seconds else len(body) or 1
    for start in range(0, len(body), step):
        await response.write(body[start : start + step])
        await anyio.sleep(seconds / _SLOW_PIECES)
    await response.write_eof()


def _cut(request: web.Request) -> web.StreamResponse:
    """Reset the connection: the client sees no reply at all."""
    if request.transport is not None:
        connection = request.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        request.transport.abort()
    return web.Response()


def _close(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.close()
