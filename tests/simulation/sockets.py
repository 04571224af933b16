"""Connections in memory on virtual time, for programs that open real ones: an event loop with a network of its own.

asyncio's transports as TCP gives them: bytes arrive in order, late and in pieces of any size; an end that closes sends
what it has and then says so; one that aborts takes back what has not left; who writes to a dead end is reset.
"""

from __future__ import annotations

import asyncio
import errno
from collections import deque
from collections.abc import Callable
from typing import Any, Literal

from .choices import Choices
from .loop import Mains, VirtualLoop

#: How an attempt to connect fares; a silent host never answers.
Fares = Literal["connected", "refused", "silent"]
_Sign = Literal["closed", "reset"]
_MOST_PIECES = 4
_SILENT_SECONDS = 3600.0  # of a host that does not answer: whoever connects gives up long before


class SocketLoop(VirtualLoop):
    """`serve` makes the server's protocol for each connection; `connecting` says how an attempt to connect fares."""

    def __init__(
        self,
        mains: Mains,
        pick: Choices,
        serve: Callable[[], asyncio.Protocol],
        connecting: Callable[[], Fares],
    ) -> None:
        super().__init__(mains)
        self.pick, self._serve, self._connecting = pick, serve, connecting

    async def sock_connect(self, sock: Any, address: Any) -> None:
        await asyncio.sleep(self.latency())
        match self._connecting():
            case "refused":
                raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
            case "silent":
                await asyncio.sleep(_SILENT_SECONDS)

    async def create_connection(self, protocol_factory: Any, *args: Any, sock: Any = None, **kwargs: Any) -> Any:
        """The client's end of a new connection; `sock` has only been a place to connect."""
        sock.close()
        client, server = _End(self, protocol_factory()), _End(self, self._serve())
        client.other, server.other = server, client
        server.protocol.connection_made(server)
        client.protocol.connection_made(client)
        return client, client.protocol

    def latency(self) -> float:
        return self.pick(20, "wire", "latency") * 0.001


class _End(asyncio.Transport):
    """One end of a connection."""

    other: _End

    def __init__(self, loop: SocketLoop, protocol: Any) -> None:
        super().__init__()
        self._loop, self.protocol = loop, protocol
        self._arriving: deque[bytes | _Sign] = deque()  # on its way to this end, or here and not yet read
        self._due = 0  # how many of these have arrived while reading was paused
        self._last_at = 0.0
        self._paused = self._closing = self._is_lost = False

    # -- what a protocol asks of its transport -----------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        if not self._closing:
            for piece in self._pieces(bytes(data)):
                self.other.expect(piece)

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self.other.expect("closed")
            self._loop.call_soon(self._lose, None)

    def abort(self) -> None:
        if not self._closing:
            self.other.take_back()
            self.other.expect("reset")
        self._closing = True
        self._loop.call_soon(self._lose, None)

    def is_closing(self) -> bool:
        return self._closing

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        self._paused = False
        for _ in range(self._due):
            self._loop.call_soon(self._read)
        self._due = 0

    def is_reading(self) -> bool:
        return not (self._paused or self._closing)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default  # there is no socket whose options could be set

    def get_write_buffer_size(self) -> int:
        return 0

    def can_write_eof(self) -> bool:
        return False

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self.protocol  # type: ignore[no-any-return]  # whatever the program under test has made

    # -- the wire ----------------------------------------------------------------------------------------------------

    def expect(self, what: bytes | _Sign) -> None:
        """Something is on its way to this end; it overtakes nothing."""
        self._arriving.append(what)
        self._last_at = max(self._last_at, self._loop.time() + self._loop.latency())
        self._loop.call_at(self._last_at, self._read)

    def take_back(self) -> None:
        """The other end has aborted: what it had not sent is never sent. What the calls for it find is what is left."""
        kept = self._loop.pick(len(self._arriving) + 1, "wire", "already sent")
        while len(self._arriving) > kept:
            self._arriving.pop()

    def _read(self) -> None:
        if self._paused and not self._closing:
            self._due += 1
        elif self._arriving:
            self._take(self._arriving.popleft())

    def _take(self, what: bytes | _Sign) -> None:
        if what == "reset":
            self._closing = True
            self._lose(ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"))
        elif self._closing:
            if what != "closed":
                self.other.expect("reset")
        elif what == "closed":
            if not self.protocol.eof_received():
                self.close()
        else:
            self.protocol.data_received(what)

    def _lose(self, error: Exception | None) -> None:
        if not self._is_lost:
            self._is_lost = True
            self.protocol.connection_lost(error)

    def _pieces(self, data: bytes) -> list[bytes]:
        """The data as it will arrive."""
        pick = self._loop.pick
        cuts = sorted(pick(len(data) + 1, "wire", "cut") for _ in range(pick(_MOST_PIECES, "wire", "pieces")))
        pieces = [data[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
        return [piece for piece in pieces if piece]
