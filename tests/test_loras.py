"""The order and the strengths of a LoRA stack."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncgen.errors import InputError
from asyncgen.loras import CINE_LORA, Lora, check_character_set, stack_loras, with_suffix
from asyncgen.request import parse_request

NAMES = st.from_regex(r"[A-Za-z][A-Za-z0-9_. -]{0,12}[A-Za-z0-9]", fullmatch=True).filter(lambda n: n.lower() != "none")
STRENGTHS = st.floats(-10, 10)
EMPTY = st.lists(st.sampled_from(["", "None"]), max_size=3)
CHARACTERS = st.tuples(st.lists(NAMES, max_size=6, unique=True), EMPTY).map(lambda parts: [*parts[0], *parts[1]])


def test_the_order_is_style_then_characters_then_film() -> None:
    names = [lora.name for lora in stack_loras("ink", 1.0, ["bob", "alice"], cine_lora_strength=0.5)]
    assert names == ["ink.safetensors", "bob.safetensors", "alice.safetensors", "FILM-V3-FLUX.safetensors"]


@pytest.mark.parametrize(("count", "factor"), [(1, 0.85), (2, 0.75), (3, 0.65), (4, 0.65), (7, 0.65)])
def test_characters_weaken_as_they_grow_in_number(count: int, factor: float) -> None:
    stack = stack_loras(character_loras=[f"c{number}" for number in range(count)], character_lora_strength=0.9)
    assert [lora.strength for lora in stack] == [round(0.9 * factor, 4)] * count


@pytest.mark.parametrize(("count", "factor"), [(0, 1.0), (1, 0.95), (2, 0.85), (3, 0.75), (5, 0.75)])
def test_the_cinematic_lora_weakens_as_characters_grow_in_number(count: int, factor: float) -> None:
    stack = stack_loras(character_loras=[f"c{number}" for number in range(count)], cine_lora_strength=0.8)
    assert stack[-1] == Lora("FILM-V3-FLUX.safetensors", round(0.8 * factor, 4))


def test_two_characters_at_the_usual_strength_are_those_of_the_v4_template() -> None:
    assert [lora.strength for lora in stack_loras(character_loras=["actor_a", "actor_b"])] == [0.6375, 0.6375]


@pytest.mark.parametrize("strength", [0.0, -0.5])
def test_the_cinematic_lora_is_left_out_at_zero_and_below(strength: float) -> None:
    assert stack_loras("ink", cine_lora_strength=strength) == (Lora("ink.safetensors", 1.0),)


@pytest.mark.parametrize("name", [None, "", "  ", "None", "none", " NONE "])
def test_empty_names_and_none_are_no_loras_and_do_not_count(name: str | None) -> None:
    given_characters = ["bob", *([name] if name is not None else [])]
    assert stack_loras(name, character_loras=given_characters) == (Lora("bob.safetensors", 0.7225),)


def test_a_character_of_its_own_strength_is_scaled_like_the_others() -> None:
    stack = stack_loras(character_loras=["bob:0.8", "alice"], character_lora_strength=0.4)
    assert stack == (Lora("bob.safetensors", 0.6), Lora("alice.safetensors", 0.3))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("a:b:0.5", "a:b"),
        ("a:v2:1", "a:v2"),
        ("2024:1", "2024"),
        ("bob.safetensors:1", "bob"),
        ("bob:\x1d.5\u3000", "bob"),
    ],
)
def test_what_follows_the_last_colon_is_the_strength(text: str, name: str) -> None:
    assert stack_loras(character_loras=["ann", text])[1].name == f"{name}.safetensors"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("ann:abc", "'ann:abc' is no NAME:STRENGTH: a strength is a number, such as ann:0.8"),
        ("a:b", "'a:b' is no NAME:STRENGTH"),
        ("a:2024_01", "'a:2024_01' is no NAME:STRENGTH"),
        ("ann:0,5", "'5' is no name: a strength is written with a point"),
        ("ann,ann", "'ann' is there twice"),
        ("ann:0.5,bob,ann.safetensors:0.5", "'ann.safetensors' is there twice"),
    ],
)
def test_a_row_is_refused_characters_that_an_option_is_refused(row: str, message: str) -> None:
    characters = parse_request({"prompt": "a fox", "character_loras": row}).character_loras
    with pytest.raises(InputError, match=message):
        stack_loras(character_loras=characters)
    with pytest.raises(InputError, match=f"in the set '{row}' of --character, {message}"):
        check_character_set(characters)


@pytest.mark.parametrize("text", ["bob:", ":0.5", "bob:11", "bob:-10.5", "bob:nan", "bob:inf", "bob:1e9"])
def test_a_character_with_a_bad_strength_is_refused_by_name(text: str) -> None:
    with pytest.raises(InputError, match="character_loras.*" + text):
        stack_loras(character_loras=[text])


@pytest.mark.parametrize("field", ["lora_strength", "character_lora_strength", "cine_lora_strength"])
@pytest.mark.parametrize("value", [10.01, -10.01, math.nan, math.inf, True, "1"])
def test_a_strength_out_of_range_is_refused_naming_field_and_value(field: str, value: float) -> None:
    with pytest.raises(InputError, match=repr(value)) as caught:
        stack_loras(**{field: value})
    assert caught.value.field == field


def test_one_text_in_place_of_a_list_of_characters_is_refused() -> None:
    with pytest.raises(InputError, match="list of names"):
        stack_loras(character_loras="bob")


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("ink", "ink.safetensors"),
        (" ink ", "ink.safetensors"),
        ("ink.safetensors", "ink.safetensors"),
        ("INK.SafeTensors", "INK.SafeTensors"),
        ("ink_v1.5", "ink_v1.5.safetensors"),
        ("sub/ink", "sub/ink.safetensors"),
        ("old.pt", "old.pt"),
    ],
)
def test_the_suffix_is_added_once(name: str, file: str) -> None:
    assert with_suffix(name) == file
    assert with_suffix(with_suffix(name)) == file


@given(st.none() | NAMES, STRENGTHS, CHARACTERS, STRENGTHS, STRENGTHS)
def test_every_named_lora_is_in_the_stack_once_and_in_order(
    style: str | None, strength: float, characters: list[str], character_strength: float, cine: float
) -> None:
    stack = stack_loras(style, strength, characters, character_strength, cine)
    wanted = [*([style] if style else []), *(name for name in characters if name not in ("", "None"))]
    wanted += [CINE_LORA] if cine > 0 else []
    assert [lora.name for lora in stack] == [with_suffix(name) for name in wanted]
    assert all(-10 <= lora.strength <= 10 and lora.strength == round(lora.strength, 4) for lora in stack)


@given(st.lists(NAMES, min_size=1, max_size=6, unique=True), STRENGTHS)
def test_an_own_strength_equal_to_the_usual_one_changes_nothing(names: list[str], strength: float) -> None:
    said = [f"{name}:{strength!r}" for name in names]
    assert stack_loras(character_loras=said) == stack_loras(character_loras=names, character_lora_strength=strength)
