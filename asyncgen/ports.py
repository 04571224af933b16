"""The only doors to the outside world: HTTP, time, randomness, disk, threads and the ledger's connection.

The engine, the endpoint, the ledger and the store are given a `Ports` and import none of the modules behind it, so
that the very code that ships can run under a virtual clock against a simulated platform and disk. `asyncgen.system`
holds the real adapters; a simulation brings its own.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """One request. `body` None sends none; the reply is refused past `max_reply_bytes`.

    `public_hosts_only` makes the transport refuse to connect to loopback, private and link-local addresses, whatever
    name they hide behind.
    """

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)  # carries the key: never printed
    body: bytes | None = field(default=None, repr=False)
    timeout_seconds: float = 60.0
    max_reply_bytes: int = 32 * 1024 * 1024
    public_hosts_only: bool = False


@dataclass(frozen=True, slots=True)
class HttpReply:
    """A whole reply. Header names are lower case; redirects are never followed by the transport."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = field(default=b"", repr=False)


class TransportError(Exception):
    """No whole reply came. The two subclasses tell whether the server can have acted on the request."""


class NotSentError(TransportError):
    """The server certainly never saw the request: no address, connection refused, TLS failed."""


class InterruptedReplyError(TransportError):
    """The request may have been acted on: reset, timeout, or a reply cut short."""


class ReplyTooLargeError(InterruptedReplyError):
    """The reply went past `max_reply_bytes` and was not read further."""


class AddressRefusedError(NotSentError):
    """The host resolves to an address that `public_hosts_only` forbids."""


class Transport(Protocol):
    """Sends one request and returns its whole reply. Raises only `TransportError`."""

    async def send(self, request: HttpRequest) -> HttpReply: ...


class Clock(Protocol):
    """Time. `now` is monotonic seconds for pacing and deadlines; `wall` is Unix time in seconds for records."""

    def now(self) -> float: ...
    def wall(self) -> float: ...
    async def sleep(self, seconds: float) -> None: ...


class Disk(Protocol):
    """The few file operations the store needs, blocking; called only inside functions given to `Blocking.run`.

    Each one is a point at which a machine can die, so none does two things.
    """

    def make_directory(self, path: Path) -> None:
        """Create it and its parents, durably; it may exist."""
        ...

    def write_new(self, path: Path, pieces: Iterable[bytes | memoryview]) -> None:
        """Create a file that must not exist and write the pieces; nothing is durable yet."""
        ...

    def fsync(self, path: Path) -> None: ...
    def link(self, source: Path, target: Path) -> None:
        """Give the file a second name. Raises FileExistsError rather than replace."""
        ...

    def unlink(self, path: Path) -> None:
        """Remove a name; a missing one is not an error."""
        ...

    def fsync_directory(self, path: Path) -> None: ...
    def exists(self, path: Path) -> bool: ...
    def read(self, path: Path) -> bytes: ...
    def append(self, path: Path, data: bytes) -> None: ...
    def size_bytes(self, path: Path) -> int | None:
        """None where there is no such file, or it is none (a folder, a device)."""
        ...

    def replace(self, source: Path, target: Path) -> None: ...


class Blocking(Protocol):
    """Runs a blocking function off the event loop and returns its result.

    When the caller is cancelled, the function runs on in its thread: who needs its end must shield the call.
    """

    async def run(self, function: Callable[..., T], *args: Any) -> T: ...


@dataclass(frozen=True, slots=True)
class Ports:
    """Everything the engine may touch.

    `new_hex8` returns 8 random hex digits; `rng` supplies jitter and seeds; `connect` opens the ledger's one writing
    connection and is called, like everything that uses it, on the one thread of `ledger_thread`.
    """

    transport: Transport
    clock: Clock
    rng: random.Random
    new_hex8: Callable[[], str]
    disk: Disk
    file_threads: Blocking
    ledger_thread: Blocking
    connect: Callable[[], sqlite3.Connection]
