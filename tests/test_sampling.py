"""A sample is spread over lanes, drawn by content, and held in bounded memory."""

from __future__ import annotations

import hashlib
import random

from hypothesis import given
from hypothesis import strategies as st

from asyncgen import sampling
from asyncgen.sampling import MOST_LANES, Sample


def key(thing: str) -> bytes:
    return hashlib.blake2b(thing.encode(), digest_size=16).digest()


def sample_of(things: list[tuple[str, str]], count: int) -> list[tuple[str, str]]:
    sample: Sample[tuple[str, str]] = Sample(count)
    for lane, thing in things:
        sample.add(lane, key(thing), (lane, thing))
    return sample.chosen()


@given(st.integers(1, 30), st.randoms(use_true_random=False))
def test_the_order_of_the_input_changes_nothing(count: int, order: random.Random) -> None:
    things = [(f"lane {n % 7}", f"thing {n}") for n in range(60)]
    shuffled = things[:]
    order.shuffle(shuffled)
    assert set(sample_of(shuffled, count)) == set(sample_of(things, count))


def test_every_lane_has_one_before_any_has_two() -> None:
    things = [("large", f"thing {n}") for n in range(500)] + [(f"small {n}", f"rare {n}") for n in range(9)]
    assert {lane for lane, _ in sample_of(things, 10)} == {lane for lane, _ in things}
    assert len({lane for lane, _ in sample_of(things, 4)}) == 4


def test_lanes_that_run_out_leave_their_turns_to_others() -> None:
    things = [("large", f"thing {n}") for n in range(500)] + [("small", "rare")]
    chosen = sample_of(things, 20)
    assert len(chosen) == len(set(chosen)) == 20


def test_of_fewer_things_than_asked_for_all_are_chosen() -> None:
    assert sorted(sample_of([("a", "1"), ("b", "2")], 10)) == [("a", "1"), ("b", "2")]
    assert sample_of([], 10) == []


def test_lanes_beyond_the_most_are_one_and_memory_stays_bounded() -> None:
    sample: Sample[int] = Sample(50)
    for n in range(3 * MOST_LANES):
        sample.add(f"lane {n}", key(str(n)), n)
    assert sample.is_full
    assert sample.lanes == MOST_LANES + 1
    held = sum(len(held.found) for held in sample._lanes.values())
    assert held <= sampling._MOST_HELD
    assert len(sample.chosen()) == 50
