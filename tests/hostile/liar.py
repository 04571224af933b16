"""An endpoint that answers what a test tells it to, byte by byte where it must, and remembers what it was asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

#: What one connection is answered with: pieces, each sent once the one before it has left.
Pieces = AsyncIterator[bytes]


@dataclass
class Asked:
    """One request as it came over the wire."""

    method: str
    path: str
    authorization: str
    body: bytes

    @property
    def prompt(self) -> str:
        """What the job is to paint; empty for a request without a job."""
        graph = json.loads(self.body)["input"]["workflow"] if self.body else {}
        texts = (str(value) for node in graph.values() for value in node["inputs"].values())
        return max((text for text in texts if "study" in text), default="")


@dataclass
class Liar:
    """A server on loopback. `answer` gives the pieces of each reply; the connection ends with them."""

    base_url: str = ""
    asked: list[Asked] = field(default_factory=list)
    pieces_sent: int = 0


Answer = Callable[[Asked], Pieces]


@asynccontextmanager
async def lying(answer: Answer) -> AsyncIterator[Liar]:
    """The server, for as long as the block lasts."""
    liar = Liar()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            asked = await _read(reader)
            liar.asked.append(asked)
            async for piece in answer(asked):
                writer.write(piece)
                liar.pieces_sent += 1
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    liar.base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v2"
    try:
        yield liar
    finally:
        server.close()


async def _read(reader: asyncio.StreamReader) -> Asked:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    method, path, _ = head.split(" ", 2)
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head.splitlines()[1:])}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Asked(method, path, headers.get("authorization", ""), body)


async def whole(body: Any, status: int = 200, **headers: str) -> Pieces:
    """A reply in one piece: bytes as they are, anything else as JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    head = [f"HTTP/1.1 {status} So", f"Content-Length: {len(data)}", "Connection: close", *lines]
    yield "\r\n".join(head).encode() + b"\r\n\r\n" + data


async def endless(head: bytes, piece: bytes, pause_seconds: float = 0.0) -> Pieces:
    """A reply that never ends, as fast as it is read or in drops."""
    yield head
    while True:
        await asyncio.sleep(pause_seconds)
        yield piece
