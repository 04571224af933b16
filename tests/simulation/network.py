"""The wire between the engine and the platform: latency, faults of single requests, and storms that last a while.

Whatever happens to a request is written into the books as what the engine was told. A request that has left goes on
whether or not anybody waits for its reply.
"""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import anyio

from asyncgen.ports import HttpReply, HttpRequest, InterruptedReplyError, NotSentError

from .books import Asked, Job, Subject
from .choices import Choices
from .platform import Platform, Reply

if TYPE_CHECKING:
    from .loop import VirtualLoop
    from .world import World

_FOR_ALL = (
    "refused connection", "lost request", "lost reply", "cut reply", "garbled reply", "429", "429 with Retry-After",
    "503", "503 with Retry-After", "500 before", "502 after", "HTML",
)  # fmt: skip
REQUEST_FAULTS = {
    "run": _FOR_ALL,
    "status": (*_FOR_ALL, "stale status", "damaged result", "stray 404"),
    "cancel": _FOR_ALL,
    "retry": (*_FOR_ALL, *("400",) * 4),
    "download": ("refused connection", "lost request", "lost reply", "cut reply", "429", "503", "500 before",
                 "damaged result"),
}  # fmt: skip
HEALTH_FAULTS = ("refused connection", "lost reply", "500", "HTML")
#: What a storm does to every request it meets: the network's and the platform's faults, and the account's.
STORMS = (
    "503", "429", "429 with Retry-After", "500 before",
    "refused connection", "lost request", "HTML", "401", "402", "400",
)  # fmt: skip
_RARE_PERCENT = {"cancel": 40.0, "retry": 60.0, "download": 40.0}  # asked so seldom that their faults would be
_STORM_SECONDS = (5.0, 30.0, 120.0, 900.0)
_STALE_SECONDS = 25.0
_LONGEST_RETRY_AFTER_SECONDS = 40
_MAX_DAMAGED_REPLIES = 2  # the engine may take a result that came damaged three times for what it is


@dataclass(frozen=True)
class Storm:
    """Every request to one of the operations meets this fault, from one moment to another (monotonic seconds)."""

    fault: str
    operations: tuple[str, ...]
    begins_at: float
    ends_at: float


def draw_storm(pick: Choices, now: float) -> Storm | None:
    """The storm of one life, None for fair weather. A refused account refuses `/run`, or everything."""
    if not pick.chance(20, "storm"):
        return None
    begins_at = now + 60.0 * pick.unit("storm begins")
    return Storm(
        fault=pick.of(STORMS, "storm kind"),
        operations=pick.of((("run",), ("run", "status", "cancel", "retry"), ("status",)), "storm where"),
        begins_at=begins_at,
        ends_at=begins_at + pick.of(_STORM_SECONDS, "storm lasts"),
    )


class Network:
    """The transport of one incarnation."""

    def __init__(self, world: World, loop: VirtualLoop, storm: Storm | None) -> None:
        self._world, self._loop, self._storm = world, loop, storm
        self._life = world.incarnation
        self._forgets = bool(world.fault_percent) and not world.calm and world.pick.chance(50, "forgets jobs")

    async def send(self, request: HttpRequest) -> HttpReply:
        """The port: one request, its whole reply."""
        if request.url.endswith("/health"):
            return await self._health(request)
        if "/status-sync/" in request.url and not self._world.platform.holds_status_calls:
            await anyio.sleep(0.01)
            return HttpReply(404, {}, b'{"error":"not found"}')
        asked = self._note(request)
        self._world.watch.sending(asked, request)
        try:
            reply = await self._exchange(request, asked)
        except NotSentError:
            self._tell(asked, _refusal(asked))
            raise
        except InterruptedReplyError:
            self._tell(asked, _doubt(asked))
            raise
        asked.retry_after_seconds = float(reply.headers.get("retry-after", 0))
        asked.job = asked.job or reply.job
        asked.execution = reply.execution
        asked.whole_result, asked.has_reply = reply.whole_result, True
        self._tell(asked, reply.outcome)
        return HttpReply(reply.status, reply.headers, reply.body)

    async def _health(self, request: HttpRequest) -> HttpReply:
        """What changes nothing at the platform, and decides nothing that a truth is about, is in no book."""
        world, pick = self._world, self._world.pick
        world.guard(self._life)
        await anyio.sleep(5.0 * pick.unit("health takes"))
        fault = None if world.calm or not pick.chance(40, "health fails") else pick.of(HEALTH_FAULTS, "health fault")
        world.books.hit(f"health: {fault or 'answered'}")
        world.log("health", fault or "")
        match fault:
            case "refused connection":
                raise NotSentError("connection refused")
            case "lost reply":
                raise InterruptedReplyError("timed out")
            case "500":
                return HttpReply(500, {}, b"oops")
            case "HTML":
                return HttpReply(200, {}, b"<html><title>One moment</title></html>")
        return HttpReply(200, {}, world.platform.health(urlsplit(request.url).path.split("/")[2], world.time))

    async def _exchange(self, request: HttpRequest, asked: Asked) -> Reply:
        world, fault = self._world, asked.fault
        if fault == "refused connection":
            await anyio.sleep(0.01)
            raise NotSentError("connection refused")
        if fault == "lost request":
            await anyio.sleep(request.timeout_seconds)
            raise InterruptedReplyError("timed out")
        await self._hold(request, asked)
        reply: Reply = await world.effect(
            self._loop, self._life, f"{asked.operation} request", lambda: self._arrive(request, asked), slow=5.0
        )
        if fault == "lost reply":
            raise InterruptedReplyError("reset")
        if fault == "cut reply":
            raise InterruptedReplyError(f"cut after {world.pick(len(reply.body) + 1, 'cut at')} bytes")
        return reply

    async def _hold(self, request: HttpRequest, asked: Asked) -> None:
        """`/status-sync` is answered when the job has ended, or its wait is over."""
        if asked.is_held and asked.job is not None:
            wait_seconds = int(parse_qs(urlsplit(request.url).query)["wait"][0]) / 1000
            left_seconds = asked.job.executions[-1].ends_at - self._world.time
            await anyio.sleep(max(0.0, min(wait_seconds, left_seconds)))

    def _arrive(self, request: HttpRequest, asked: Asked) -> Reply:
        """At the platform: what it does, and what it (or something in between) answers."""
        world, fault = self._world, asked.fault
        if canned := _canned(asked, world.pick):
            return canned
        reply = world.platform.answer(request.method, request.url, request.body, world.time)
        is_stale = fault == "stale status" or self._runs_again_unnoticed(asked, reply)
        if is_stale and reply.job is not None and reply.outcome in ("pending", "ended"):
            reply = self._stale(reply.job)
        if reply.outcome == "pending" and self._is_forgotten(asked):
            reply = Reply(404, b'{"error":"job not found"}', "hidden", reply.job)
        world.log("answered", asked.operation, reply.status, reply.outcome)
        if asked.operation == "run":
            asked.job = reply.job
        return self._spoilt(reply, asked)

    def _runs_again_unnoticed(self, asked: Asked, reply: Reply) -> bool:
        """Soon after a retry every third answer is still the one before it."""
        if self._world.calm or asked.operation != "status" or reply.job is None or len(reply.job.executions) == 1:
            return False
        again_since = reply.job.executions[-1].bought_at
        return self._world.time < again_since + _STALE_SECONDS and self._world.pick.chance(33, "stale after a retry")

    def _is_forgotten(self, asked: Asked) -> bool:
        """Whether a job that is there is not found this once."""
        if asked.operation != "status" or not self._was_just_known(asked):
            return False
        return asked.fault == "stray 404" or (self._forgets and self._world.pick.chance(30, "forgotten"))

    def _was_just_known(self, asked: Asked) -> bool:
        """Whether the last word on the job was that it is pending: then a 404 says nothing yet."""
        earlier = [each for each in self._world.books.asked if each.job is asked.job and each.operation == "status"]
        told = [each.outcome for each in earlier if each is not asked and each.life == self._life]
        return told[-1:] == ["pending"]

    def _stale(self, job: Job) -> Reply:
        """What was true a while ago: another word, or, after a retry, the failure before it."""
        time = max(self._world.time - _STALE_SECONDS, job.executions[-2:][0].bought_at)
        if job.run_at(time) is not job.executions[-1]:
            time = max(time, job.run_at(time).ends_at)
        reply = self._world.platform.status(job, time)
        if reply.outcome == "ended" and job.run_at(time) is not job.executions[-1]:
            reply.outcome = "stale"
        return reply

    def _spoilt(self, reply: Reply, asked: Asked) -> Reply:
        """The platform has acted; what of its answer comes through."""
        pick = self._world.pick
        match asked.fault:
            case "502 after":
                return _spoilt(asked, 502, b"<html>bad gateway</html>")
            case "HTML":
                return _spoilt(asked, 200, b"<html><title>One moment</title></html>")
            case "garbled reply" if reply.status == 200:
                return _spoilt(asked, reply.status, reply.body[: pick(len(reply.body), "garbled at")])
            case "damaged result" if reply.job is not None and (asked.operation == "download" or reply.whole_result):
                return _damaged(reply, reply.job, self._world.platform)
        return reply

    def _note(self, request: HttpRequest) -> Asked:
        world = self._world
        _, endpoint, operation, *rest = urlsplit(request.url).path.strip("/").split("/")
        operation, is_held = ("status", True) if operation == "status-sync" else (operation, False)
        body = request.body or b""
        subject: Subject | str = "/".join(rest) if rest else world.watch.subject_of(body)
        asked = Asked(self._life, operation, endpoint, subject, world.now, len(body))
        asked.job = world.books.jobs.get(rest[0]) if rest else None
        asked.is_held, asked.fault = is_held, self._fault(operation)
        world.books.asked.append(asked)
        world.log("sent", operation, subject, asked.fault or "")
        return asked

    def _tell(self, asked: Asked, outcome: str) -> None:
        asked.outcome, asked.answered_at = outcome, self._world.now

    def _fault(self, operation: str) -> str | None:
        world, storm = self._world, self._storm
        if storm and operation in storm.operations and storm.begins_at <= world.now < storm.ends_at:
            world.books.hit(f"storm: {storm.fault}")
            return storm.fault
        percent = _RARE_PERCENT.get(operation, world.fault_percent) if world.fault_percent else 0.0
        if world.calm or not world.pick.chance(percent, "request", operation):
            return None
        fault = world.pick.of(REQUEST_FAULTS[operation], "request fault", operation)
        world.books.hit(f"{operation}: {fault}")
        return fault


def _canned(asked: Asked, pick: Choices) -> Reply | None:
    """What is answered before the platform has done anything; None where it does act."""
    match asked.fault:
        case "429":
            return Reply(429, b'{"error":"too many requests"}', _refusal(asked))
        case "429 with Retry-After":
            return _later(asked, 429, pick)
        case "503 with Retry-After":
            return _later(asked, 503, pick)
        case "503":
            return Reply(503, b"<html>unavailable</html>", _refusal(asked))
        case "500 before":
            return _spoilt(asked, 500, b"oops")
        case "401":
            return Reply(401, b'{"error":"unauthorized"}', "paused")
        case "402":
            return Reply(402, b'{"error":"insufficient balance"}', "paused")
        case "400":
            outcome = {"run": "paused", "retry": "refused"}.get(asked.operation, "fault")  # a job may not be retryable
            return Reply(400, b'{"error":"something nobody has seen before"}', outcome)
        case _:
            return None


def _later(asked: Asked, status: int, pick: Choices) -> Reply:
    seconds = 1 + pick(_LONGEST_RETRY_AFTER_SECONDS, "Retry-After")
    return Reply(status, b"", _refusal(asked), headers={"retry-after": str(seconds)})


def _buys(asked: Asked) -> bool:
    return asked.operation in ("run", "retry")


def _refusal(asked: Asked) -> str:
    return "refused" if _buys(asked) else "fault"


def _doubt(asked: Asked) -> str:
    return "unknown" if _buys(asked) else "fault"


def _spoilt(asked: Asked, status: int, body: bytes) -> Reply:
    return Reply(status, body, _doubt(asked))


def _damaged(reply: Reply, job: Job, platform: Platform) -> Reply:
    """A result of which a bit was turned on the way: JSON still, if it was, and no picture any more."""
    if job.damaged_replies >= _MAX_DAMAGED_REPLIES:
        return reply
    whole = platform.picture(job.subject)
    damaged = whole[:-20] + bytes([whole[-20] ^ 1]) + whole[-19:]
    body = reply.body.replace(whole, damaged).replace(b64encode(whole), b64encode(damaged))
    if body == reply.body:
        return reply
    job.damaged_replies += 1
    return Reply(200, body, "damaged", job, reply.headers)
