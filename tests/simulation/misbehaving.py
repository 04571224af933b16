"""An HTTP server that does to each request what it is told: bytes in, a fault, a reply out; and its own books.

It is an asyncio protocol, so that the same server stands behind real sockets and behind those in memory. Every request
names itself in its `X-Send` header; what the server has seen of it is in the books under that name.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .choices import Choices

# The request is not acted on.
BEFORE = (
    "reset at once", "closed at once", "reset amid the request", "closed before acting", "reset before acting",
    "silent before acting",
)  # fmt: skip
# The request is acted on, and the reply is not whole.
NOT_WHOLE = (
    "closed after acting", "reset after acting", "cut and closed", "cut and reset", "cut and silent", "endless body",
    "endless head", "length too long", "length garbled", "lengths differ", "chunk garbled", "garbage",
)  # fmt: skip
# The reply looks whole and is not: nothing in it tells.
SHORTENED = ("length too short", "cut without a length")
# The reply is whole; what comes after it may harm the next request on the connection.
WHOLE = (
    "dribbled", "early hints first", "chunked", "without a length", "closed behind it", "closed while idle",
    "reset while idle",
)  # fmt: skip
#: Behind a whole reply another one, which answers nothing. One that comes while a request is out cannot be told from
#: its answer, whoever the client is, so this is never drawn.
UNASKED = "a second reply behind it"
#: What only a client that waits for its timeout gets out of.
SILENT = ("silent before acting", "cut and silent", "endless head", "endless body")
FAULTS = (*BEFORE, *NOT_WHOLE, *SHORTENED, *WHOLE)
#: After these the server closes its end.
_LAST = ("length too long", "cut without a length", "without a length", "chunk garbled", "garbage")
_LONGEST_CUT, _NEVER = 3000, 1 << 40  # bytes


@dataclass(frozen=True)
class Request:
    """One whole request as it was read. `name` is its `X-Send` header."""

    name: str
    method: str
    path: str
    body: bytes


@dataclass
class Books:
    """What the server has seen, by the names of the requests: `read` whole, `acted` upon; and the faults it has made.

    `said` is the last whole reply to a request, `met` the faults of each time that it was read.
    """

    read: Counter[str] = field(default_factory=Counter)
    acted: Counter[str] = field(default_factory=Counter)
    said: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    met: dict[str, list[str]] = field(default_factory=dict)
    faults: Counter[str] = field(default_factory=Counter)


class Server:
    """`answer` acts on a request: its status and body. `pause_seconds` is the unit of every delay."""

    def __init__(
        self,
        pick: Choices,
        answer: Callable[[Request], tuple[int, bytes]],
        *,
        fault_percent: float,
        faults: tuple[str, ...] = FAULTS,
        pause_seconds: float = 0.01,
    ) -> None:
        self.pick, self.answer, self.pause_seconds = pick, answer, pause_seconds
        self.fault_percent, self._faults = fault_percent, faults
        self.books = Books()

    def connection(self) -> Connection:
        """The protocol of one connection."""
        return Connection(self)

    def draw(self) -> str:
        """What the next request meets, '' for nothing."""
        if not self.pick.chance(self.fault_percent, "http"):
            return ""
        fault = self._faults[self.pick(len(self._faults), "http fault")]
        self.books.faults[fault] += 1
        return fault


class Connection(asyncio.Protocol):
    """One connection: requests are read one after the other, each with a fault drawn at its first byte."""

    def __init__(self, server: Server) -> None:
        self._server, self._pick, self._books = server, server.pick, server.books
        self._buffer = b""
        self._fault: str | None = None  # of the request that is being read; None between two
        self._requests = 0  # begun so far
        self._transport: Any = None
        self._is_lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_lost = True

    def data_received(self, data: bytes) -> None:
        if self._transport.is_closing():
            return
        if self._fault is None:
            self._requests += 1
            self._fault = self._server.draw()
            self._leave_after = {
                "reset at once": 0,
                "closed at once": 0,
                "reset amid the request": self._pick(_LONGEST_CUT, "http", "request cut"),
            }.get(self._fault, _NEVER)
        self._buffer += data
        if len(self._buffer) > self._leave_after:
            self._leave(self._fault)
        elif (request := _whole_request(self._buffer)) is not None:
            self._buffer = b""
            self._serve(request)

    def _serve(self, request: Request) -> None:
        fault, books = self._fault or "", self._books
        books.read[request.name] += 1
        books.met.setdefault(request.name, []).append(fault)
        if fault not in BEFORE:
            books.acted[request.name] += 1
            books.said[request.name] = self._server.answer(request)
            self._fault = None
            self._say(fault, *books.said[request.name])
        elif fault != "silent before acting":
            self._leave(fault)

    def _leave(self, fault: str) -> None:
        if "reset" in fault:
            self._transport.abort()
        else:
            self._transport.close()

    def _leave_idle(self, fault: str, begun: int) -> None:
        if begun == self._requests:
            self._leave(fault)

    def _say(self, fault: str, status: int, body: bytes) -> None:
        whole = _reply(status, body)
        cut = self._pick(len(whole), "http", "reply cut")
        match fault:
            case "closed after acting" | "reset after acting" | "cut and closed" | "cut and reset" | "cut and silent":
                self._write(whole[:cut] if fault.startswith("cut") else b"")
                if fault != "cut and silent":
                    self._leave(fault)
            case "endless body" | "endless head" | "dribbled":
                self._go_on(fault, whole)
            case "closed behind it":
                self._write(whole)
                self._leave(fault)
            case "closed while idle" | "reset while idle":
                self._write(whole)
                begun = self._requests
                self._later(lambda: self._leave_idle(fault, begun), self._pick(60, "http", "idle"))
            case _:
                self._write(_spoilt(fault, status, body, self._pick))
                if fault in _LAST:
                    self._leave(fault)

    def _go_on(self, fault: str, whole: bytes) -> None:
        """Bytes, and more bytes after a pause: of the reply, or for as long as anybody listens."""
        if self._is_lost or self._transport.is_closing():
            return
        match fault:
            case "dribbled":
                size = 1 + len(whole) // 10
                self._write(whole[:size])
                if len(whole) > size:
                    self._later(lambda: self._go_on(fault, whole[size:]), 1)
            case "endless head":
                self._write(b"HTTP/1.1 200 OK\r\n" if whole else b"X-More: of this\r\n")
                self._later(lambda: self._go_on(fault, b""), 50)
            case _:
                self._write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" if whole else _chunk(bytes(65536)))
                self._later(lambda: self._go_on(fault, b""), 1)

    def _write(self, data: bytes) -> None:
        if data:
            self._transport.write(data)

    def _later(self, do: Callable[[], object], pauses: int) -> None:
        asyncio.get_running_loop().call_later(pauses * self._server.pause_seconds, do)


def _whole_request(data: bytes) -> Request | None:
    head, end, body = data.partition(b"\r\n\r\n")
    if not end:
        return None
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    if len(body) < int(headers.get("content-length", 0)):
        return None
    method, path, _ = first.split(" ")
    return Request(headers["x-send"], method, path, body)


def _reply(status: int, body: bytes, headers: Mapping[str, str] | None = None) -> bytes:
    """A whole reply; `headers` None: with the right length."""
    headers = {"Content-Length": str(len(body))} if headers is None else headers
    lines = [f"HTTP/1.1 {status} Said", "Content-Type: application/json", *(f"{k}: {v}" for k, v in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def _spoilt(fault: str, status: int, body: bytes, pick: Choices) -> bytes:
    """The reply with something done to it."""
    chunked, half = {"Transfer-Encoding": "chunked"}, len(body) // 2
    match fault:
        case "":
            return _reply(status, body)
        case "chunked":
            return _reply(status, b"", chunked) + _chunk(body[:half]) + _chunk(body[half:]) + b"0\r\n\r\n"
        case "chunk garbled":
            return _reply(status, b"", chunked) + _chunk(body[:half]) + b"zz\r\n" + body[half:]
        case "early hints first":
            return b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + _reply(status, body)
        case _ if fault == UNASKED:
            return _reply(status, body) + _reply(503, b"nobody asked for this")
        case "without a length":
            return _reply(status, body, {"Connection": "close"})
        case "cut without a length":
            return _reply(status, body[: pick(len(body), "http", "body cut")], {"Connection": "close"})
        case "length too long":
            return _reply(status, body, {"Content-Length": str(len(body) + 1 + pick(1000, "http", "too long"))})
        case "length too short":
            return _reply(status, body, {"Content-Length": str(pick(len(body), "http", "too short"))})
        case "length garbled":
            return _reply(status, body, {"Content-Length": ("nine", "-1", "1e3", "")[pick(4, "http", "garbled")]})
        case "lengths differ":
            return _reply(status, body, {"Content-Length": str(len(body)), "content-length": "3"})
        case "garbage":
            return bytes(pick(256, "http", "garbage") for _ in range(1 + pick(200, "http", "garbage length")))
        case _:
            raise AssertionError(f"no such fault: {fault}")
