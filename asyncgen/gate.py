"""The gate that all requests of one operation go through: so many in 10 s, so many at once."""

from __future__ import annotations

import anyio

from asyncgen.pacing import TokenBucket
from asyncgen.ports import Ports


class Gate:
    """Admits the requests of one operation: so many in 10 s, so many at once. `async with` enters and leaves.

    `refusals` counts its 429s.
    """

    def __init__(self, ports: Ports, per_window: float, at_once: int) -> None:
        self._ports, self._bucket = ports, TokenBucket(max(1.0, per_window))
        self._limiter = anyio.CapacityLimiter(max(1, at_once))
        self.refusals = 0

    async def enter(self) -> None:
        """Wait for a place and for a token, if need be. Every `enter` that returns needs a `leave`."""
        try:
            self._limiter.acquire_nowait()  # hands the event loop to nobody: that alone would take longer than the rest
        except anyio.WouldBlock:
            await self._limiter.acquire()
        try:
            while pause := self._bucket.reserve(self._ports.clock.now()):
                await self._ports.clock.sleep(pause)
                if not self._bucket.paused_for(self._ports.clock.now()):
                    break  # else a 429 came meanwhile, and all tokens that fell due in its pause would be used at once
        except BaseException:
            self._limiter.release()
            raise

    def leave(self) -> None:
        """Give the place back."""
        self._limiter.release()

    async def __aenter__(self) -> None:
        await self.enter()

    async def __aexit__(self, *_: object) -> None:
        self.leave()

    def slow_down(self, retry_after_seconds: float | None) -> None:
        """The platform answered 429."""
        self.refusals += 1
        self._bucket.slow_down(self._ports.clock.now(), retry_after_seconds)
