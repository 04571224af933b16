"""Requests and their keys: what makes two requests the same one, and what does not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncgen.errors import InputError
from asyncgen.request import KEY_VERSION, MAX_SEED, ImageRequest, content_key, parse_request

WORKFLOW = "normal_image_v4_workflow"
TEXT = st.text(max_size=30)
PATHS = TEXT.filter(lambda text: bool(text) and "\0" not in text)
WORDS = st.text(min_size=1, max_size=30).filter(str.strip)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
INTEGERS = st.integers(-(2**70), 2**70)
SCALARS = st.booleans() | INTEGERS | FLOATS | TEXT
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "id": WORDS,
    "style_id": TEXT,
    "raw_prompt": st.booleans(),
    "width": INTEGERS,
    "height": INTEGERS,
    "steps": INTEGERS,
    "seed": st.integers(-1, MAX_SEED),
    "images": st.integers(1, 10_000),
    "batch_size": INTEGERS,
    "model": TEXT,
    "sampler_name": TEXT,
    "scheduler_name": TEXT,
    "flux_guidance": FLOATS,
    "lora_name": TEXT,
    "lora_strength": FLOATS,
    "character_loras": st.lists(TEXT, max_size=4),
    "character_lora_strength": FLOATS,
    "cine_lora_strength": FLOATS,
    "workflow": TEXT,
    "parameters": st.dictionaries(TEXT, SCALARS, max_size=4),
    "init_image": PATHS,
    "mask_image": PATHS,
    "pose_image": PATHS,
    "save_to_style": st.booleans(),
    "filename": TEXT,
}
SAID = st.fixed_dictionaries({"prompt": WORDS}, optional=FIELDS)
#: Anything at all, as a careless program may hand it over.
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)) | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
#: One value for each field that is content, and another.
CONTENT = {
    "style_id": ("1", "16"),
    "raw_prompt": (False, True),
    "denoise": (0.5, 0.6),
    "strength": (0.5, 0.6),
    "teacache": (False, None),
    "width": (64, 128),
    "height": (64, 128),
    "steps": (10, 20),
    "seed": (1, 2),
    "batch_size": (1, 2),
    "model": ("a", "b"),
    "sampler_name": ("euler", "heun"),
    "scheduler_name": ("simple", "beta"),
    "flux_guidance": (3.5, 4.0),
    "lora_name": ("a", "None"),
    "lora_strength": (0.5, 1.0),
    "character_loras": (["ann", "bob"], ["bob", "ann"]),
    "character_lora_strength": (0.5, 1.0),
    "cine_lora_strength": (0.0, 0.5),
    "workflow": ("mine", "yours"),
    "parameters": ({"shift": 1}, {"shift": 2}),
    "init_image": ("a.png", "b.png"),
    "mask_image": ("a.png", "b.png"),
    "pose_image": ("a.png", "b.png"),
}
NOT_CONTENT: dict[str, tuple[Any, Any]] = {
    "filename": ("a", "b"),
    "save_to_style": (True, False),
    "images": (1, 5),
    "priority": (0, 5),
    "template": ("a {animal}", None),
    "variables": ({"animal": "fox"}, {}),
}


def key(replica: int = 0, workflow: str = WORKFLOW, **said: Any) -> bytes:
    return content_key(parse_request({"prompt": "a fox", **said}), replica, workflow)


# -- what is said, and said again


@given(SAID)
def test_what_was_said_makes_the_same_request_and_the_same_key_again(said: dict[str, Any]) -> None:
    request = parse_request(said)
    again = parse_request(json.loads(request.said_json()))
    assert again == request
    assert ImageRequest.model_validate_json(request.said_json()) == request
    assert again.said_json() == request.said_json()
    assert content_key(again, 3, "w") == content_key(request, 3, "w")


@given(SAID)
def test_the_order_of_fields_does_not_matter(said: dict[str, Any]) -> None:
    backwards = dict(reversed(said.items()))
    assert content_key(parse_request(backwards), 0, "w") == content_key(parse_request(said), 0, "w")


@given(JUNK)
def test_junk_is_refused_with_a_typed_error_or_makes_a_request_that_can_be_kept(junk: Any) -> None:
    for value in (junk, {"prompt": junk}, {"prompt": "a fox", "parameters": junk}, {"prompt": "a fox", "id": junk}):
        try:
            request = parse_request(value)
        except InputError:
            continue
        assert parse_request(json.loads(request.said_json())) == request


def test_deep_and_endless_values_are_refused_with_a_typed_error() -> None:
    deep: dict[str, Any] = {}
    for _ in range(50_000):
        deep = {"a": deep}
    for said in ({"prompt": deep}, {"parameters": deep}, {"width": 10**5000}, {"prompt": 10**5000}, {"seed": 10**5000}):
        with pytest.raises(InputError):
            parse_request({"prompt": "a fox", **said})


def test_a_text_is_a_prompt_and_a_request_is_itself() -> None:
    request = parse_request("a fox")
    assert request.said() == {"prompt": "a fox"}
    assert parse_request(request) is request


def test_the_names_people_use_are_understood() -> None:
    said = {"prompt": "a fox", "style": 1, "guidance": 4, "character_lora": "ann:0.8, bob ;cid", "cine_strength": "0.2"}
    request = parse_request(said)
    assert (request.style_id, request.flux_guidance, request.cine_lora_strength) == ("1", 4.0, 0.2)
    assert request.character_loras == ("ann:0.8", "bob", "cid")


def test_only_pictures_that_were_given_are_sent_along() -> None:
    assert parse_request({"prompt": "a fox", "pose_image": "p.png"}).input_pictures == {"pose_image": "p.png"}


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": " \n\t"}, "prompt"),
        ({}, "prompt"),
        ({"prompt": "a fox", "id": " "}, "id"),
        ({"prompt": "a fox", "id": True}, "id"),
        ({"prompt": "a fox", "seed": -2}, "seed"),
        ({"prompt": "a fox", "seed": 2**64}, "seed"),
        ({"prompt": "a fox", "seed": 1.5}, "seed"),
        ({"prompt": "a fox", "images": 0}, "images"),
        ({"prompt": "a fox", "steps": "many"}, "steps"),
        ({"prompt": "a fox", "flux_guidance": float("nan")}, "flux_guidance"),
        ({"prompt": "a fox", "lora_strength": float("inf")}, "lora_strength"),
        ({"prompt": "a fox", "colour": "red"}, "colour"),
    ],
)
def test_what_is_wrong_is_refused_naming_field_and_value(said: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_request(said)
    assert caught.value.field == field
    if field in ("seed", "images", "steps", "flux_guidance", "lora_strength"):
        assert str(said[field]) in str(caught.value)


@pytest.mark.parametrize("field", ["init_image", "mask_image", "pose_image"])
def test_a_path_with_a_nul_character_is_refused(field: str) -> None:
    with pytest.raises(InputError, match="NUL") as caught:
        parse_request({"prompt": "a fox", field: "a\0b"})
    assert caught.value.field == field


def test_half_a_surrogate_pair_is_refused() -> None:
    for said in ({"prompt": "fox \ud83e"}, {"prompt": "a fox", "parameters": {"a": "\udc00"}}):
        with pytest.raises(InputError):
            parse_request(said)


# -- keys


def test_a_key_is_16_bytes_that_this_version_and_every_later_one_makes() -> None:
    """If this fails, existing ledgers would buy every image again: raise `KEY_VERSION` and migrate them instead."""
    assert KEY_VERSION == 1
    assert key().hex() == "39f46caca1d62e12e9197664a026dc86"
    assert (
        key(2, "mine", style_id="1", seed=7, width=64, character_loras=["ann:0.5"]).hex()
        == "d3c24e05e9cb31636db87ef7482670e5"
    )
    assert key(1, id="row-17").hex() == "05f0b50eede8f173c14acafda3461456"


@pytest.mark.parametrize("field", sorted(CONTENT))
def test_a_field_that_decides_what_is_painted_is_in_the_key(field: str) -> None:
    first, second = CONTENT[field]
    assert key(**{field: first}) != key(**{field: second})


@pytest.mark.parametrize("field", sorted(NOT_CONTENT))
def test_a_field_that_only_says_where_or_how_often_is_not_in_the_key(field: str) -> None:
    assert {key(**{field: value}) for value in NOT_CONTENT[field]} == {key()}


def test_every_field_is_either_content_or_not() -> None:
    assert {*CONTENT, *NOT_CONTENT, "prompt", "id", "seed_number"} == set(ImageRequest.model_fields)


def test_of_a_derived_seed_its_number_is_in_the_key_and_number_0_is_no_seed() -> None:
    assert key(seed=7, seed_number=0) == key(seed=8, seed_number=0) == key()
    assert key(seed=7, seed_number=1) == key(seed=8, seed_number=1) != key()
    with pytest.raises(InputError, match="seed_number"):
        parse_request({"prompt": "a fox", "seed_number": 1})


def test_prompt_replica_and_workflow_are_in_the_key() -> None:
    keys = {key(), key(prompt="a cat"), key(1), key(workflow="mine"), key(prompt="a fox ")}
    assert len(keys) == 5


def test_a_value_that_is_said_differs_from_one_that_is_left_to_the_style() -> None:
    assert key(steps=20) != key()
    assert key(flux_guidance=None) == key()


def test_one_value_in_two_spellings_is_one_key() -> None:
    assert key(seed="7", flux_guidance=4, style="1") == key(seed=7, flux_guidance=4.0, style_id="1")
    assert key(character_loras="ann, bob") == key(character_loras=["ann", "bob"])
    assert key(seed=-1) == key(seed=None) == key()


@given(SAID, SAID)
def test_a_callers_id_alone_decides(one: dict[str, Any], other: dict[str, Any]) -> None:
    keys = {content_key(parse_request({**said, "id": "mine"}), 4, name) for said, name in ((one, "w"), (other, "v"))}
    assert len(keys) == 1
    assert content_key(parse_request({**one, "id": "yours"}), 4, "w") not in keys
    assert content_key(parse_request({**one, "id": "mine"}), 5, "w") not in keys


def test_an_id_never_meets_the_key_of_a_content() -> None:
    assert key(id="a fox") != key()


def test_a_priority_is_recorded_and_is_a_whole_number_in_its_range() -> None:
    assert parse_request({"prompt": "a fox", "priority": "5"}).said() == {"prompt": "a fox", "priority": 5}
    for wrong in (1001, -1001, "high", True, 1.5):
        with pytest.raises(InputError, match="priority"):
            parse_request({"prompt": "a fox", "priority": wrong})


@pytest.mark.parametrize(
    ("field", "words"), [("wdith", "did you mean 'width'"), ("Stlye", "'style'"), ("q", "are: pro")]
)
def test_a_field_that_is_misspelt_is_refused_with_the_nearest_name(field: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        parse_request({"prompt": "a", field: 512})
    assert caught.value.field == field
