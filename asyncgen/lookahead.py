"""Reads a run's input ahead of the engine, so that images that need the same model and LoRAs come one after the other.

What is bought and how often does not depend on the order, and each want keeps its index in the input.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final, Self

import anyio

from asyncgen.intake import IndexedWant
from asyncgen.order import WINDOW, Grouping, needs_of

_CHUNK: Final = 32
#: So long the first image may wait for others to be grouped with; a file is read that fast, a person is not.
_FIRST_SECONDS: Final = 0.5


class LookAhead:
    """The chunks of an input in another order: iterate over it while `read` runs in a task of its own.

    At most `asyncgen.order.WINDOW` wants and one chunk are held. An error of the input is raised after everything that
    was read before it has been handed on.
    """

    def __init__(self, chunks: AsyncIterator[list[IndexedWant]]) -> None:
        self._chunks = chunks
        self._grouping: Grouping[IndexedWant] = Grouping()
        self._changed = anyio.Event()
        self._error: Exception | None = None
        self._has_ended = self._has_begun = False

    async def read(self) -> None:
        """Read to the end of the input, never further ahead than the window."""
        try:
            async for chunk in self._chunks:
                for wanted in chunk:
                    self._grouping.add(wanted, needs_of(wanted.want.spec))
                self._tell()
                while self._is_full:
                    await self._changed.wait()
        except Exception as error:  # raised where the engine would have met it
            self._error = error
        finally:
            self._has_ended = True
            self._tell()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[IndexedWant]:
        while not (self._grouping or self._has_ended):
            await self._changed.wait()
        if not self._has_begun:
            self._has_begun = True
            with anyio.move_on_after(_FIRST_SECONDS):
                while not (self._is_full or self._has_ended):
                    await self._changed.wait()
        if self._grouping:
            chunk = [self._grouping.take() for _ in range(min(_CHUNK, len(self._grouping)))]
            self._tell()
            return chunk
        if self._error is not None:
            raise self._error
        raise StopAsyncIteration

    @property
    def _is_full(self) -> bool:
        return len(self._grouping) >= WINDOW

    def _tell(self) -> None:
        """Wake whoever waits; there are two at the most, and each looks again at what it waits for."""
        self._changed.set()
        self._changed = anyio.Event()
