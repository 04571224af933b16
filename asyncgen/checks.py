"""What a picture must be to count, and which seed is tried after one that was rejected. Pure.

How a picture looks is told by `asyncgen.looks`, and what its size must be by `asyncgen.expected_size`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from asyncgen.errors import Failure, FailureClass, FailureCode
from asyncgen.looks import NEAR_BITS, bits_apart
from asyncgen.records import Look, Sibling
from asyncgen.request import MAX_SEED


class CheckLevel(StrEnum):
    """How much is asked of a picture. Whole, and of the size that its workflow makes, it must always be."""

    STRICT = "strict"  # what looks like a picture of another seed fails too
    STANDARD = "standard"  # blank ones and exact duplicates fail, near ones are told
    WARN = "warn"  # all of that is told, and nothing of it fails
    OFF = "off"  # nothing of it is looked for


class Fault(StrEnum):
    """What can be wrong with a whole picture."""

    BLANK = "blank"
    DUPLICATE = "duplicate"
    NEAR = "near"


_CODES: Final = {
    Fault.BLANK: FailureCode.BLANK_IMAGE,
    Fault.DUPLICATE: FailureCode.DUPLICATE_IMAGE,
    Fault.NEAR: FailureCode.DUPLICATE_IMAGE,
}
#: What an image fails with whose picture does not count: the same seed makes the same picture again.
OF_PICTURE: Final = frozenset({*_CODES.values(), FailureCode.REJECTED_BY_SCORER})
_FAILING: Final[Mapping[CheckLevel, frozenset[Fault]]] = {
    CheckLevel.STRICT: frozenset(Fault),
    CheckLevel.STANDARD: frozenset({Fault.BLANK, Fault.DUPLICATE}),
    CheckLevel.WARN: frozenset(),
    CheckLevel.OFF: frozenset(),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """A fault of a job's pictures, in words for its owner."""

    fault: Fault
    words: str

    def failure_at(self, level: CheckLevel) -> Failure | None:
        """What the image fails with; None where it is only told."""
        return item_failure(_CODES[self.fault], self.words) if self.fault in _FAILING[level] else None


def item_failure(code: FailureCode, words: str) -> Failure:
    """A picture's own fault."""
    return Failure(FailureClass.ITEM, code, words)


def size_failure(sizes: Sequence[tuple[int, int]], expected: frozenset[tuple[int, int]] | None) -> Failure | None:
    """Width and height of each picture against those that the workflow makes; `expected` None: they are not known."""
    wrong = next((size for size in sizes if expected and size not in expected), None)
    if wrong is None or not expected:
        return None
    made = " or ".join(f"{width}x{height}" for width, height in sorted(expected))
    words = f"the picture has {wrong[0]}x{wrong[1]} pixels, and the workflow makes {made}"
    return item_failure(FailureCode.WRONG_SIZE, words)


def blank_finding(faults: Sequence[str | None], batch_size: int) -> Finding | None:
    """`faults` says of each picture of a job how it is blank, None where it is not.

    The sampler makes `batch_size` pictures; where there are more, the others are a mask or a map, and may be blank.
    """
    blank = [fault for fault in faults if fault is not None]
    if not blank or (len(faults) > batch_size and len(blank) < len(faults)):
        return None
    words = f"the picture shows nothing: {blank[0]}"
    return Finding(Fault.BLANK, words if len(faults) == 1 else f"{len(blank)} of {len(faults)} pictures: {words}")


def likeness(looks: Sequence[Look], siblings: Sequence[Sibling]) -> Finding | None:
    """The worst likeness of a job's pictures to those of another seed of the same prompt.

    A job is a duplicate where each of its pictures is one of the same number: a map that every seed has does not count.
    """
    by_item: dict[str, dict[int, Look]] = {}
    for sibling in siblings:
        by_item.setdefault(sibling.request_id, {})[sibling.number] = sibling.look
    near = None
    for request_id, theirs in by_item.items():
        pairs = [(look, theirs.get(number)) for number, look in enumerate(looks)]
        if all(other is not None and _is_same(look, other) for look, other in pairs):
            return Finding(Fault.DUPLICATE, f"it is the picture of another seed, that of {request_id}")
        if near is None and all(other is not None and _is_near(look, other) for look, other in pairs):
            near = Finding(Fault.NEAR, f"it looks like the picture of another seed, that of {request_id}")
    return near


def _is_same(one: Look, other: Look) -> bool:
    return one.pixels_hash == other.pixels_hash


def _is_near(one: Look, other: Look) -> bool:
    if _is_same(one, other):
        return True
    if one.perceptual_hash is None or other.perceptual_hash is None:
        return False
    return bits_apart(one.perceptual_hash, other.perceptual_hash) <= NEAR_BITS


# -- another seed


def next_seed(seed: int, reroll: int) -> int:
    """The seed after one whose picture was rejected, `reroll` counting from 1: the same whenever it is asked for."""
    digest = hashlib.blake2b(f"{seed}:{reroll}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") & MAX_SEED


def seed_after(seed: int, rerolls: int) -> int:
    """The seed that so many rerolls lead to."""
    for reroll in range(1, rerolls + 1):
        seed = next_seed(seed, reroll)
    return seed
