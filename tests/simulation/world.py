"""One simulated world: virtual time, a platform, a disk, a ledger's durable image, and the accidents between them.

The engine reaches it only through `Ports`. Every effect begins, travels, is applied once (even if its caller has been
cancelled: threads and sent requests go on), travels back, and answers. The power can be cut before and after every
apply, between any two disk operations, and before any step of the event loop.
"""

from __future__ import annotations

import errno
import random
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import anyio

from asyncgen.ports import HttpReply, HttpRequest, InterruptedReplyError, NotSentError, Ports

from .choices import Choices, Key
from .disk import SimulatedDisk
from .loop import VirtualLoop
from .platform import Platform, Reply

T = TypeVar("T")
EPOCH_SECONDS = 1_780_000_000.0
_REQUEST_FAULTS = (
    "refused connection", "lost request", "lost reply", "cut reply", "429", "429 with Retry-After", "503", "500 before",
    "502 after",
)  # fmt: skip


class PowerCut(BaseException):
    """The machine is off; nothing that runs now has any effect."""


@dataclass
class _Effect:
    """Something on its way: what it will do, and what kind it is."""

    apply: Callable[[], Any]
    kind: str


class World:
    """Everything outside the engine. The same seed and `fixed` give the same bytes."""

    def __init__(self, seed: int, fixed: Mapping[Key, int] | None = None) -> None:
        self.pick = pick = Choices(seed, fixed)
        self.now = 0.0
        self.dead = False
        self.was_cut = False
        self.incarnation = 0
        self.trace: list[tuple[object, ...]] = []
        self.hits: dict[str, int] = {}
        self.fault_percent = (0.0, 3.0, 10.0, 25.0)[pick(4, "fault percent")]
        self._latency_unit = (0.001, 0.01, 0.1)[pick(3, "latency")]
        self._chaos = pick(3, "chaos") == 2
        self.platform = Platform(pick, self.fault_percent)
        self.disk = SimulatedDisk(self._disk_step)
        self.ledger_image: bytes | None = None
        self._effects: list[_Effect] = []
        self._ticks_left: int | None = None
        self._cut_at = float("inf")
        self.calm = False

    # -- the mains (see loop.Mains) ------------------------------------------------------------------------------

    def tick(self) -> None:
        """A moment at which the power may go."""
        if self._ticks_left is not None:
            self._ticks_left -= 1
        if self._ticks_left == 0 or self.now >= self._cut_at:
            self.dead = self.was_cut = True

    def shuffled(self, count: int) -> int:
        """Which of the callbacks that are ready runs first: asyncio's own order, but for one world in three."""
        return self.pick(count, "schedule") if self._chaos else 0

    def arm(self) -> None:
        """Draw when this incarnation ends: after so many ticks, or at a moment."""
        scale = self.pick(4, "crash scale")
        if scale == 3:
            self._cut_at = self.now + self.pick(900, "crash at") / 10
        else:
            self._ticks_left = 1 + self.pick((60, 400, 2000)[scale], "crash at")

    def disarm(self) -> None:
        """No crash any more, and no faults: what is wanted must now come to its end."""
        self._ticks_left, self._cut_at, self.calm = None, float("inf"), True
        self.platform.fault_percent = 0.0

    def end_life(self, *, died: bool) -> None:
        """An incarnation is over. If it died, the machine comes up again with what is durable."""
        if died:
            self._crash()
        self.incarnation += 1
        self.dead = self.was_cut = False
        self._ticks_left, self._cut_at = None, float("inf")

    def _crash(self) -> None:
        power_cut = self.pick(3, "power or kill") != 2
        for effect in self._effects:  # on the wire, or in the kernel: it may still land
            if effect.kind in ("http", "file") and self.pick(2, "lands", effect.kind):
                try:
                    effect.apply()
                except (Exception, PowerCut) as error:
                    self.log("landed with", type(error).__name__)
        self._effects.clear()
        self.disk = self.disk.after(self.pick, power_cut=power_cut, step=self._disk_step)
        self.log("CRASH", "power cut" if power_cut else "kill")
        self._hit("crash: power cut" if power_cut else "crash: kill")
        self.now += (1.0, 10.0, 100.0, 3000.0)[self.pick(4, "down")] * (0.1 + self.pick.unit("down for"))

    # -- ports ---------------------------------------------------------------------------------------------------

    def ports(self, loop: VirtualLoop) -> Ports:
        """The doors of one incarnation; they close for good when it dies."""
        incarnation = self.incarnation
        hexes = iter(range(1 << 31))
        rng = random.Random(self.pick(1 << 30, "rng"))

        class Connection(sqlite3.Connection):
            def commit(connection) -> None:  # noqa: N805 - `self` is the world here
                self._guard(incarnation)
                super().commit()
                self.ledger_image = connection.serialize()
                self.log("commit")
                self.tick()

        def connect() -> sqlite3.Connection:
            connection = sqlite3.connect(":memory:", isolation_level=None, factory=Connection)
            if self.ledger_image is not None:
                connection.deserialize(self.ledger_image)
            return connection

        return Ports(
            transport=_Transport(self, loop, incarnation),
            clock=_Clock(self),
            rng=rng,
            new_hex8=lambda: f"{incarnation:02x}{next(hexes):06x}",
            disk=self.disk,
            file_threads=_Threads(self, loop, incarnation, "file"),
            ledger_thread=_Threads(self, loop, incarnation, "ledger"),
            connect=connect,
        )

    def effect(
        self, loop: VirtualLoop, incarnation: int, kind: str, apply: Callable[[], T], *, slow: float = 1.0
    ) -> Any:
        """Start `apply` on its way; the future it answers."""
        self._guard(incarnation)
        future = loop.create_future()
        effect = _Effect(apply, kind)
        self._effects.append(effect)

        def arrive() -> None:
            self.tick()
            if self.dead:
                return
            self._effects.remove(effect)
            result, error = None, None
            try:
                result = apply()
            except PowerCut:
                return
            except Exception as caught:
                error = caught
            self.tick()
            loop.call_later(self._delay(kind, "back") * slow, answer, result, error)

        def answer(result: Any, error: Exception | None) -> None:
            if not future.done():
                if error is None:
                    future.set_result(result)
                else:
                    future.set_exception(error)

        loop.call_later(self._delay(kind, "there") * slow, arrive)
        return future

    def log(self, *words: object) -> None:
        self.trace.append((round(self.now, 4), *words))

    def fault(self, *key: object) -> str | None:
        """The fault that a request meets, None for none."""
        if self.calm or not self.pick.chance(self.fault_percent, "request", *key):
            return None
        fault = _REQUEST_FAULTS[self.pick(len(_REQUEST_FAULTS), "request fault", *key)]
        self._hit(f"request: {fault}")
        return fault

    def _delay(self, *key: object) -> float:
        return self.pick(40, "latency", *key) * self._latency_unit

    def _guard(self, incarnation: int) -> None:
        if self.dead or incarnation != self.incarnation:
            raise PowerCut

    def _disk_step(self, operation: str, path: Path) -> int | None:
        if self.dead:
            raise PowerCut
        self.tick()
        if self.dead:
            raise PowerCut
        self.log(operation, path.name)
        if (
            not self.calm
            and operation in ("write", "create", "append")
            and self.pick.chance(self.fault_percent / 20, "disk full")
        ):
            self._hit("disk: full")
            return errno.ENOSPC
        return None

    def _hit(self, name: str) -> None:
        self.hits[name] = self.hits.get(name, 0) + 1


class _Clock:
    def __init__(self, world: World) -> None:
        self._world = world
        self._skew = world.pick(3, "skew") * 1000.0

    def now(self) -> float:
        return self._world.now

    def wall(self) -> float:
        return EPOCH_SECONDS + self._world.now + self._skew

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)


class _Threads:
    def __init__(self, world: World, loop: VirtualLoop, incarnation: int, kind: str) -> None:
        self._world, self._loop, self._incarnation, self._kind = world, loop, incarnation, kind

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        world = self._world

        def apply() -> T:
            world._guard(self._incarnation)
            return function(*args)

        result: T = await world.effect(self._loop, self._incarnation, self._kind, apply)
        return result


class _Transport:
    def __init__(self, world: World, loop: VirtualLoop, incarnation: int) -> None:
        self._world, self._loop, self._incarnation = world, loop, incarnation

    async def send(self, request: HttpRequest) -> HttpReply:
        world = self._world
        operation = request.url.rsplit("/", 2)[-1 if request.method == "POST" and request.url.endswith("/run") else -2]
        fault = world.fault(operation)
        world.log(request.method, operation, fault or "")

        def apply() -> Reply:
            canned = _canned(fault)
            if canned is not None:
                return canned
            reply = world.platform.answer(request.method, request.url, request.body, world.now)
            world.log("answered", operation, reply.status)
            return Reply(502, b"<html>bad gateway</html>") if fault == "502 after" else reply

        if fault == "refused connection":
            raise NotSentError("connection refused")
        if fault == "lost request":
            await anyio.sleep(request.timeout_seconds)
            raise InterruptedReplyError("timed out")
        reply = await world.effect(self._loop, self._incarnation, "http", apply, slow=5.0)
        if fault == "lost reply":
            raise InterruptedReplyError("reset")
        if fault == "cut reply":
            raise InterruptedReplyError("the body was cut")
        return HttpReply(reply.status, reply.headers, reply.body)


def _canned(fault: str | None) -> Reply | None:
    match fault:
        case "429":
            return Reply(429, b'{"error":"too many requests"}')
        case "429 with Retry-After":
            return Reply(429, b"", {"retry-after": "7"})
        case "503":
            return Reply(503, b"<html>unavailable</html>")
        case "500 before":
            return Reply(500, b"oops")
        case _:
            return None
