"""Asking a run to stop: waits that hold nothing paid for end at once, everything else runs to its end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import anyio


class StoppedError(Exception):
    """A wait was cut short because the run was asked to stop. Never leaves the engine."""


class Stop:
    """One run's stop request. Once made it stays made."""

    def __init__(self) -> None:
        self.requested = False
        self._waiting: dict[int, anyio.CancelScope] = {}
        self._entered = 0
        self._event = anyio.Event()

    async def wait_requested(self) -> None:
        """Return once a stop has been requested."""
        await self._event.wait()

    def request(self) -> None:
        """Cut short every interruptible block, now and from now on."""
        self.requested = True
        self._event.set()
        for scope in list(self._waiting.values()):
            scope.cancel()

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """A block that a stop request cuts short at its next await. Raises `StoppedError` when that happens."""
        if self.requested:
            raise StoppedError
        self._entered += 1
        ticket = self._entered
        with anyio.CancelScope() as scope:
            self._waiting[ticket] = scope
            try:
                yield
            finally:
                del self._waiting[ticket]
        if scope.cancelled_caught:
            raise StoppedError
