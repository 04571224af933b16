"""Reads a run's input ahead of the engine, so that images that need the same model and LoRAs come one after the other,
and those of a higher priority first.

What is bought and how often does not depend on the order, and each want keeps its index in the input.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from typing import Final, Self

import anyio

from asyncgen.errors import InputError
from asyncgen.intake import IndexedWant
from asyncgen.order import WINDOW, Prioritized, needs_of
from asyncgen.records import Want
from asyncgen.request import MAX_PRIORITY

_CHUNK: Final = 32
#: So long the first image may wait for others to be grouped with; a file is read that fast, a person is not.
_FIRST_SECONDS: Final = 0.5
_URGENT: Final = MAX_PRIORITY + 1
_MOST_URGENT: Final = 10_000


class LookAhead:
    """The chunks of an input in another order: iterate over it while `read` runs in a task of its own.

    At most `asyncgen.order.WINDOW` wants and one chunk are held. An error of the input is raised after everything that
    was read before it has been handed on.
    """

    def __init__(self, chunks: AsyncIterator[list[IndexedWant]]) -> None:
        self._chunks = chunks
        self._grouping: Prioritized[IndexedWant] = Prioritized()
        self._changed = anyio.Event()
        self._error: Exception | None = None
        self.has_ended = self._has_begun = self._is_woken = False  # whether all of the input has been read
        self._urgent_ids: frozenset[str] = frozenset()
        self._urgent_keys: frozenset[bytes] = frozenset()

    async def read(self) -> None:
        """Read to the end of the input, never further ahead than the window."""
        try:
            async for chunk in self._chunks:
                for wanted in chunk:
                    self._grouping.add(wanted, needs_of(wanted.want.spec), self._priority_of(wanted.want))
                self._tell()
                while self._is_full:
                    await self._changed.wait()
        except Exception as error:  # raised where the engine would have met it
            self._error = error
        finally:
            self.has_ended = True
            self._tell()

    def prefer(self, ids: Collection[str], content_keys: Collection[bytes]) -> int:
        """Hand on before all others what has one of these ids of its owner's, or is the image of one of these keys.

        What has not been read yet comes first once it is. Returns how many have been. Raises `InputError` for more than
        is kept in mind.
        """
        self._urgent_ids |= frozenset(ids)
        self._urgent_keys |= frozenset(content_keys)
        if len(self._urgent_ids) + len(self._urgent_keys) > 2 * _MOST_URGENT:
            raise InputError(f"a run keeps {_MOST_URGENT:,} urgent images in mind: give the rows a priority instead")
        return self._grouping.prefer(lambda wanted: self.is_urgent(wanted.want), _URGENT)

    def waiting(self) -> list[Want]:
        """What has been read and not been handed on."""
        return [wanted.want for wanted in self._grouping]

    def is_urgent(self, want: Want) -> bool:
        """Whether an image was preferred."""
        return want.request.id in self._urgent_ids or want.content_key in self._urgent_keys

    def _priority_of(self, want: Want) -> int:
        return _URGENT if self.is_urgent(want) else want.request.priority

    def wake(self) -> None:
        """Have whoever waits for the next chunk get an empty one."""
        self._is_woken = True
        self._tell()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[IndexedWant]:
        while not (self._grouping or self.has_ended or self._is_woken):
            await self._changed.wait()
        if self._is_woken:
            self._is_woken = False
            return []
        if not self._has_begun:
            self._has_begun = True
            with anyio.move_on_after(_FIRST_SECONDS):
                while not (self._is_full or self.has_ended):
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
