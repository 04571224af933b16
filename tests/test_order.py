"""Grouping: nothing is lost, groups stay together, and nobody waits for ever."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from parts import want

from asyncgen import order
from asyncgen.loras import Lora
from asyncgen.order import Grouping, Needs, Prioritized, needs_of

OLDER, NEWER = "older.safetensors", "newer.safetensors"
A, B = Needs("a", ()), Needs("b", ())


def needs(name: str, model: str = OLDER, strength: float = 1.0) -> Needs:
    return Needs(model, (Lora(name, strength),))


def grouped(wanted: Sequence[Needs], window: int) -> list[int]:
    """The places of what is wanted in the order it is taken, never more than `window` being in there."""
    grouping: Grouping[int] = Grouping()
    taken = []
    for place, each in enumerate(wanted):
        if len(grouping) == window:
            taken.append(grouping.take())
        grouping.add(place, each)
    return taken + [grouping.take() for _ in range(len(grouping))]


def changes(wanted: Iterable[Needs]) -> int:
    """How often something else must be loaded."""
    return len(list(groupby(wanted)))


NEEDS = st.builds(needs, st.sampled_from("abcd"), st.sampled_from((OLDER, NEWER)), st.sampled_from((0.5, 1.0)))


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds that inputs of a test's size reach."""
    monkeypatch.setattr(order, "LATEST", 12)
    monkeypatch.setattr(order, "_LATE", 6)
    monkeypatch.setattr(order, "_SHORTEST_TURN", 2)


_narrow = pytest.mark.usefixtures("narrow")


@given(st.lists(NEEDS, max_size=80), st.integers(1, 9))
def test_everything_is_taken_once_and_what_is_alike_keeps_its_order(wanted: list[Needs], window: int) -> None:
    taken = grouped(wanted, window)
    assert sorted(taken) == list(range(len(wanted)))
    for each in set(wanted):
        places = [place for place in taken if wanted[place] == each]
        assert places == sorted(places)


@_narrow
@pytest.mark.parametrize("window", [1, 5, 20])
def test_nothing_is_taken_later_than_its_place_and_the_bound(window: int) -> None:
    @given(st.lists(NEEDS, max_size=120))
    def holds(wanted: list[Needs]) -> None:
        for number, place in enumerate(grouped(wanted, window)):
            assert place - window < number <= place + order.LATEST

    holds()


@_narrow
def test_what_is_needed_once_does_not_wait_for_the_end_of_what_is_needed_all_the_time() -> None:
    wanted = [needs("often")] * 3 + [needs("once")] + [needs("often")] * 60
    assert 6 <= grouped(wanted, window=8).index(3) <= 3 + order.LATEST


def test_an_input_that_alternates_is_sorted_into_its_groups() -> None:
    names = [f"style {number % 12}" for number in range(960)]
    taken = grouped([needs(name) for name in names], order.WINDOW)
    assert [name for name, _ in groupby(names[place] for place in taken)] == names[:12]


def test_an_input_longer_than_the_window_is_sorted_as_far_as_it_is_seen() -> None:
    wanted = [needs(f"style {number % 12}") for number in range(20_000)]
    assert changes(wanted[place] for place in grouped(wanted, order.WINDOW)) < 20_000 / 60


def test_models_are_changed_less_often_than_loras() -> None:
    wanted = [needs(f"style {number % 6}", (OLDER, NEWER)[number % 2]) for number in range(600)]
    taken = grouped(wanted, order.WINDOW)
    assert len(list(groupby(wanted[place].model for place in taken))) == 2
    assert changes(wanted[place] for place in taken) == 6


def test_the_same_lora_at_another_strength_and_the_same_ones_in_another_order_are_other_things_to_load() -> None:
    """ComfyUI patches a model anew for each of them."""
    first: dict[str, Any] = {"lora_name": "one", "character_loras": ("other",)}
    second: dict[str, Any] = {"lora_name": "two", "character_loras": ("other",)}
    alike = needs_of(want("a fox", **first).spec)
    assert needs_of(want("a cat", seed=7, steps=3, **first).spec) == alike
    assert needs_of(want("a fox", **first, character_lora_strength=0.3).spec) != alike
    assert needs_of(want("a fox", **second).spec) != alike
    assert needs_of(want("a fox", **first, model="another").spec) != alike


def test_a_higher_priority_comes_first_and_equal_ones_are_grouped() -> None:
    waiting: Prioritized[str] = Prioritized()
    for name, needs, priority in (("a1", A, 0), ("b1", B, 0), ("a2", A, 0), ("b2", B, 5), ("a3", A, 5), ("low", A, -1)):
        waiting.add(name, needs, priority)
    waiting.add("a4", A, 5)
    assert [waiting.take() for _ in range(len(waiting))] == ["b2", "a3", "a4", "a1", "a2", "b1", "low"]


def test_what_is_preferred_comes_next_and_what_it_leaves_keeps_its_place() -> None:
    waiting: Prioritized[int] = Prioritized()
    for number in range(200):
        waiting.add(number, (A, B)[number % 2])
    assert [waiting.take() for _ in range(3)] == [0, 2, 4]
    assert waiting.prefer(lambda number: number in (1, 90, 151, 4), 9) == 3
    assert waiting.prefer(lambda number: number in (1, 90, 151), 9) == 0, "it is already"
    rest = [waiting.take() for _ in range(len(waiting))]
    assert rest[:4] == [1, 151, 90, 6]
    assert sorted(rest) == sorted(set(range(200)) - {0, 2, 4})
    assert [number for number in rest[3:] if number % 2] == [n for n in range(3, 200, 2) if n != 151]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(-1, 1)), max_size=60), st.integers(0, 3), st.data())
def test_nothing_is_lost_or_given_twice_whatever_is_preferred_when(
    entries: list[tuple[int, int]], meant: int, data: st.DataObject
) -> None:
    waiting: Prioritized[int] = Prioritized()
    for place, (needs, priority) in enumerate(entries):
        waiting.add(place, Needs(str(needs % 2), (Lora(str(needs), 1.0),)), priority)
    taken = []
    while waiting:
        if data.draw(st.booleans()):
            waiting.prefer(lambda place: place % 4 == meant, data.draw(st.integers(-1, 3)))
        taken.append(waiting.take())
    assert sorted(taken) == list(range(len(entries)))
