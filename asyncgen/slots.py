"""The slots that jobs out take, and how their number follows the workers where it is `auto`.

A run takes a slot before it starts a job and gives it back once the result is handed on. What to do with what is seen
is decided in `asyncgen.concurrency`; this looks, and says so when it slows down.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

import anyio
from anyio.lowlevel import checkpoint

from asyncgen.allowance import Allowance
from asyncgen.concurrency import AutoConcurrency
from asyncgen.endpoint import Endpoint
from asyncgen.ports import Clock, TransportError
from asyncgen.protocol import Health

log = logging.getLogger(__name__)
_ADJUST_SECONDS: Final = 1.0


class Slots:
    """So many jobs may be out. `total` may change: fewer than are taken only keep new jobs waiting for longer."""

    def __init__(self, total: int) -> None:
        self.total, self.taken = total, 0
        self._changed = anyio.Event()

    async def take(self) -> None:
        """Wait for a free slot and take it. Cut short, it takes none."""
        await checkpoint()
        while self.taken >= self.total:
            self._changed = anyio.Event()
            await self._changed.wait()
        self.taken += 1

    def take_beyond(self) -> None:
        """Take a slot, free or not: for what is out already, and needs no leave to be."""
        self.taken += 1

    def give_back(self) -> None:
        """One that was taken is free again."""
        self.taken -= 1
        self._changed.set()

    def resize(self, total: int) -> None:
        """So many jobs may be out from now on."""
        self.total = total
        self._changed.set()


class WorkerWatch:
    """Follows the workers of one endpoint for as long as `run` does, and tells `resize` how many jobs to keep out."""

    def __init__(
        self,
        clock: Clock,
        endpoint: Endpoint,
        allowance: Allowance,
        auto: AutoConcurrency,
        resize: Callable[[int], None],
    ) -> None:
        self._clock, self._endpoint, self._allowance = clock, endpoint, allowance
        self._auto, self._resize = auto, resize
        self._refusals = endpoint.run_refusals
        self._is_slowed = False

    async def run(self) -> None:
        """Look and adjust until cancelled. Submissions never wait for either."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._keep_looking)
            while True:
                self._adjust()
                await self._clock.sleep(_ADJUST_SECONDS)

    async def _keep_looking(self) -> None:
        await self._look()
        while True:
            await self._clock.sleep(self._auto.next_look_seconds())
            if self._allowance.out:
                await self._look()

    async def _look(self) -> None:
        """Ask `/health`; where it does not tell, the drain alone has to."""
        try:
            health = await self._endpoint.health()
        except TransportError as error:
            log.debug("/health did not answer: %s", error)
            return
        if isinstance(health, Health):
            self._auto.note_health(self._clock.now(), health)
            self._adjust()
        else:
            log.debug("/health does not tell how many workers there are: %s", health)

    def _adjust(self) -> None:
        now, out = self._clock.now(), self._allowance.out
        before, refusals = self._auto.target(now, out, self._allowance.most_out), self._endpoint.run_refusals
        if refusals > self._refusals:
            self._refusals = refusals
            self._auto.note_429(now, out)
        target = self._auto.target(now, out, self._allowance.most_out)
        self._tell(before, target, is_slowed=self._auto.is_slowed(now))
        self._resize(target)

    def _tell(self, before: int, target: int, *, is_slowed: bool) -> None:
        """One line when 429s slow the run down, one when that is over."""
        if is_slowed and not self._is_slowed:
            log.warning(
                "the endpoint answers 429 to /run (too many requests, or too many jobs queued): %d jobs are kept out "
                "instead of %d, and one more each second while it does not",
                target,
                before,
            )
        elif self._is_slowed and not is_slowed:
            log.info("no longer slowed by 429s: %d jobs are kept out", target)
        self._is_slowed = is_slowed
