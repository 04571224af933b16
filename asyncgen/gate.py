"""The gate that all requests of one operation go through: so many in 10 s, so many at once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from asyncgen.pacing import TokenBucket
from asyncgen.ports import Ports


class Gate:
    """Admits the requests of one operation: so many in 10 s, so many at once."""

    def __init__(self, ports: Ports, per_window: float, at_once: int) -> None:
        self._ports, self._bucket = ports, TokenBucket(max(1.0, per_window))
        self._limiter = anyio.CapacityLimiter(max(1, at_once))

    async def enter(self) -> None:
        """Wait for a place and for a token. Every `enter` that returns needs a `leave`."""
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

    @asynccontextmanager
    async def admitted(self) -> AsyncIterator[None]:
        """`enter`, and `leave` at the end of the block."""
        await self.enter()
        try:
            yield
        finally:
            self.leave()

    def slow_down(self, retry_after_seconds: float | None) -> None:
        """The platform answered 429."""
        self._bucket.slow_down(self._ports.clock.now(), retry_after_seconds)
