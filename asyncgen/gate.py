"""The gate that all requests of one operation go through: so many in 10 s, so many at once, shared with other runs."""

from __future__ import annotations

from collections.abc import Callable

import anyio

from asyncgen.pacing import TokenBucket
from asyncgen.ports import Ports


class Gate:
    """Admits the requests of one operation: so many in 10 s, so many at once. `async with` enters and leaves.

    `refusals` counts its 429s.

    Both limits are divided by `sharers()`, how many use the endpoint now. `own_at_once` is a limit of ours on requests
    at once, which concerns nobody else.
    """

    def __init__(
        self,
        ports: Ports,
        per_window: float,
        at_once: float,
        sharers: Callable[[], int],
        own_at_once: int | None = None,
    ) -> None:
        self._ports, self._per_window, self._at_once = ports, per_window, at_once
        self._sharers, self._own_at_once = sharers, own_at_once
        self._shared_by = sharers()
        self._bucket = TokenBucket(self._share_per_window)
        self._limiter = anyio.CapacityLimiter(self._share_at_once)
        self._turn = anyio.Lock(fast_acquire=True)
        self.refusals = 0

    @property
    def _share_per_window(self) -> float:
        return max(1.0, self._per_window / self._shared_by)

    @property
    def _share_at_once(self) -> int:
        share = max(1, int(self._at_once / self._shared_by))
        return share if self._own_at_once is None else min(share, self._own_at_once)

    def _take_share(self) -> None:
        if (sharers := self._sharers()) != self._shared_by:
            self._shared_by = sharers
            self._bucket.limit_per_window = self._share_per_window
            self._limiter.total_tokens = self._share_at_once

    async def enter(self) -> None:
        """Wait for a place and for a token, if need be. Every `enter` that returns needs a `leave`."""
        self._take_share()
        try:
            self._limiter.acquire_nowait()  # hands the event loop to nobody: that alone would take longer than the rest
        except anyio.WouldBlock:
            await self._limiter.acquire()
        try:
            await self.wait_for_token()
        except BaseException:
            self._limiter.release()
            raise

    async def wait_for_token(self) -> None:
        """Wait, if need be, until one more request may be sent; for whoever has a place already."""
        async with (
            self._turn
        ):  # one after the other, so that a pace which changes holds for all that wait but the first
            await self._wait_for_token()

    async def _wait_for_token(self) -> None:
        self._take_share()
        while pause := self._bucket.reserve(self._ports.clock.now()):
            await self._ports.clock.sleep(pause)
            if not self._bucket.paused_for(self._ports.clock.now()):
                break  # else a 429 came meanwhile, and what was waited for fell due in its pause

    def leave(self) -> None:
        """Give the place back."""
        self._limiter.release()

    async def __aenter__(self) -> None:
        await self.enter()

    async def __aexit__(self, *_: object) -> None:
        self.leave()

    def place(self) -> Place:
        """A place of one's own, to be taken when it is needed."""
        return Place(self)

    def slow_down(self, retry_after_seconds: float | None) -> None:
        """The platform answered 429."""
        self.refusals += 1
        self._bucket.slow_down(self._ports.clock.now(), retry_after_seconds)


class Place:
    """One holder's place at a gate, kept over more than one request; given back at the end of its `with` block."""

    def __init__(self, gate: Gate) -> None:
        self._gate, self._is_taken = gate, False

    async def take(self) -> None:
        """For each request: enter the gate, or, where the place is taken already, wait for a token only."""
        if self._is_taken:
            await self._gate.wait_for_token()
        else:
            await self._gate.enter()
            self._is_taken = True

    def give_back(self) -> None:
        """Leave the gate, if the place is taken."""
        if self._is_taken:
            self._is_taken = False
            self._gate.leave()

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *_: object) -> None:
        self.give_back()
