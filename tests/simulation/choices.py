"""Where every accident of a simulated world comes from: draws keyed by what they decide.

The i-th draw for a key depends on the seed, the key and i, never on other keys, so that taking one job or one fault out
of a failing run leaves the rest of it as it was. 0 is always the harmless value: shrinking is setting draws to 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import TypeVar

T = TypeVar("T")
Key = tuple[object, ...]


class Choices:
    """Draws of one run. `fixed` maps full keys (the last part is i) to values and wins over the seed.

    With `others_are_0` the seed decides nothing: what is not fixed is harmless.
    """

    def __init__(self, seed: int, fixed: Mapping[Key, int] | None = None, *, others_are_0: bool = False) -> None:
        self._seed = b"%d" % seed
        self._fixed, self._others_are_0 = dict(fixed or {}), others_are_0
        self._drawn: dict[Key, int] = {}
        self.used: dict[Key, int] = {}

    def __call__(self, sides: int, *key: object) -> int:
        """A number from 0 to `sides` - 1."""
        number = self._drawn.get(key, 0)
        self._drawn[key] = number + 1
        full = (*key, number)
        value = self._fixed.get(full, 0 if self._others_are_0 else None)
        if value is None:
            digest = blake2b(repr(full).encode(), digest_size=6, key=self._seed).digest()
            value = int.from_bytes(digest, "big")
        self.used[full] = value % sides
        return value % sides

    def chance(self, percent: float, *key: object) -> bool:
        """Whether something that happens in `percent` of all cases happens now."""
        return self(10_000, *key) >= 10_000 - round(percent * 100)

    def of(self, values: Sequence[T], *key: object) -> T:
        """One of the values; the first is the harmless one."""
        return values[self(len(values), *key)]

    def unit(self, *key: object) -> float:
        """A number in [0, 1)."""
        return self(1 << 24, *key) / (1 << 24)
