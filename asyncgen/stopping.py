"""Asking a run to stop or to pause: waits that hold nothing paid for end at once, everything else runs to its end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import anyio


class StoppedError(Exception):
    """A wait was cut short because the run was asked to stop. Never leaves the engine."""


class Stop:
    """One run's stop request, which stays made once it is, and whether the run is paused."""

    def __init__(self) -> None:
        self.requested = self.paused = False
        self._continued = anyio.Event()
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

    def pause(self) -> None:
        """Send nothing new until `resume`."""
        if not self.paused:
            self.paused, self._continued = True, anyio.Event()

    def resume(self) -> None:
        """Go on."""
        self.paused = False
        self._continued.set()

    async def wait_unpaused(self) -> None:
        """Return once the run is not paused. Raises `StoppedError`."""
        while self.paused:
            with self.interruptible():
                await self._continued.wait()

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
