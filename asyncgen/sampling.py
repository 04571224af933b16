"""A few of many, spread over lanes: chosen by content, never by place, in bounded memory. Pure.

Whoever comes with the lowest key of its lane is taken, then the second lowest of each, and so on. Keys are hashes, so
that is a fair draw, and it is the same one wherever a row stands and however often the input is read.
"""

from __future__ import annotations

import hashlib
from bisect import insort
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from asyncgen.loras import Lora
from asyncgen.records import Spec

T = TypeVar("T")

#: Lanes that are told apart; what belongs to further ones is one lane together.
MOST_LANES: Final = 1024
_MOST_HELD: Final = 4096


@dataclass(frozen=True, slots=True)
class SampleLane:
    """What images share that should look alike and take alike: style, LoRAs with strengths, workflow and size."""

    style: str | None
    loras: tuple[Lora, ...]
    workflow: str
    width: int
    height: int

    def __str__(self) -> str:
        loras = " + ".join(f"{lora.name.removesuffix('.safetensors')}:{lora.strength:g}" for lora in self.loras)
        return f"{self.style or 'no style'}, {loras or 'no LoRA'}, {self.workflow}, {self.width}x{self.height}"


def lane_of(spec: Spec) -> SampleLane:
    """The lane of one job."""
    return SampleLane(spec.style_title or spec.style_id, spec.loras, spec.workflow, spec.width, spec.height)


@dataclass(slots=True)
class _Held(Generic[T]):
    """The candidates of one lane by key, lowest first; of equal keys the one that came first."""

    order: bytes
    found: list[tuple[bytes, int, T]] = field(default_factory=list)


class Sample(Generic[T]):
    """Takes in any number of things, and gives back `count` of them."""

    def __init__(self, count: int) -> None:
        self._count, self._added = count, 0
        self._lanes: dict[Hashable, _Held[T]] = {}
        self.is_full = False  # there are lanes beyond `MOST_LANES`

    @property
    def lanes(self) -> int:
        """How many lanes there are; those beyond `MOST_LANES` are one."""
        return len(self._lanes)

    def add(self, lane: Hashable, key: bytes, thing: T) -> None:
        """Take one in; `key` is a hash of its content."""
        if lane not in self._lanes and len(self._lanes) >= MOST_LANES:
            lane, self.is_full = None, True
        if (held := self._lanes.get(lane)) is None:
            held = self._lanes[lane] = _Held(hashlib.blake2b(str(lane).encode(), digest_size=8).digest())
            self._trim_all()
        self._added += 1
        entry = (key, self._added, thing)
        if len(held.found) < self._most_of_a_lane:
            insort(held.found, entry, key=_place)
        elif _place(entry) < _place(held.found[-1]):
            insort(held.found, entry, key=_place)
            held.found.pop()

    def chosen(self) -> list[T]:
        """Those that are chosen, lane by lane in turn: as many as were asked for, or all there are."""
        lanes = sorted(self._lanes.values(), key=lambda held: held.order)
        turns = (held.found[turn][2] for turn in range(self._count) for held in lanes if turn < len(held.found))
        return [thing for thing, _ in zip(turns, range(self._count), strict=False)]

    @property
    def _most_of_a_lane(self) -> int:
        return max(1, min(self._count, _MOST_HELD // len(self._lanes)))

    def _trim_all(self) -> None:
        most = self._most_of_a_lane
        for held in self._lanes.values():
            del held.found[most:]


def _place(entry: tuple[bytes, int, object]) -> tuple[bytes, int]:
    return entry[:2]
