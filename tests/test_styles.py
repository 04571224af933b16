"""Styles as typed views of registry entries, and the prompt they compose."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncgen.errors import InputError
from asyncgen.styles import LoraFile, Style, compose_prompt

INK = Style("1", "Ink", frontpad="ink drawing", trigger_words="inkint, brush", backpad="deep shadows")
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=("Cc",)), max_size=30)


def test_the_prompt_is_front_text_trigger_words_prompt_and_back_text() -> None:
    assert compose_prompt(INK, "a cat") == "ink drawing, inkint, brush, a cat, deep shadows"


def test_a_raw_prompt_is_sent_untouched() -> None:
    assert compose_prompt(INK, "  a cat, ", raw=True) == "  a cat, "


@pytest.mark.parametrize("style", [None, Style("6", "Plain"), Style("6", "Plain", frontpad="", trigger_words=" , ")])
def test_without_texts_to_add_the_prompt_is_untouched(style: Style | None) -> None:
    assert compose_prompt(style, " a cat ,") == " a cat ,"


def test_commas_and_spaces_are_not_doubled() -> None:
    style = Style("1", "Ink", frontpad="ink drawing, ", trigger_words=",inkint,,", backpad=" , shadows ,")
    assert compose_prompt(style, " a cat,\n") == "ink drawing, inkint, a cat, shadows"


def test_a_sentence_is_followed_by_a_space_instead_of_a_comma() -> None:
    assert compose_prompt(INK, "A cat sleeps.") == "ink drawing, inkint, brush, A cat sleeps. deep shadows"


def test_commas_inside_the_users_prompt_stay_as_they_are() -> None:
    assert "a cat,  a dog,,b" in compose_prompt(INK, "a cat,  a dog,,b")


@pytest.mark.parametrize("prompt", ["an InkInt cat", "inkint", "cat (inkint)"])
def test_trigger_words_that_the_prompt_has_are_not_repeated(prompt: str) -> None:
    assert compose_prompt(INK, prompt) == f"ink drawing, brush, {prompt}, deep shadows"


def test_a_trigger_word_inside_another_word_is_not_the_trigger_word() -> None:
    assert "brush," in compose_prompt(INK, "brushes and inkints")


@given(TEXTS, TEXTS, TEXTS, TEXTS.filter(str.strip))
def test_every_text_of_the_user_is_in_the_prompt_that_is_sent(front: str, words: str, back: str, prompt: str) -> None:
    composed = compose_prompt(Style("1", "x", frontpad=front, trigger_words=words, backpad=back), prompt)
    assert prompt.strip(", \t\r\n") in composed


def test_an_entry_is_read_with_its_types() -> None:
    style = Style.from_entry(
        {"id": 7, "title": "Old", "steps": "24", "guidance": "3", "cfg": 1, "monochrome": "true"}, "f"
    )
    assert (style.id, style.steps, style.guidance, style.cfg, style.monochrome) == ("7", 24, 3.0, 1.0, True)
    assert (type(style.steps), type(style.guidance), type(style.cfg)) == (int, float, float)


def test_what_an_entry_leaves_out_leaves_empty_or_sets_to_null_is_none() -> None:
    style = Style.from_entry({"id": "7", "title": "Old", "lora_name": "", "steps": None, "lora_weight": ""}, "f")
    assert style == Style("7", "Old")


def test_trigger_words_may_be_a_list() -> None:
    assert Style.from_entry({"id": "7", "title": "x", "trigger_words": ["a", "b c"]}, "f").trigger_words == "a, b c"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", "many"),
        ("steps", 20.5),
        ("steps", True),
        ("guidance", float("nan")),
        ("guidance", "inf"),
        ("lora_weight", []),
        ("lora_weight", 10**400),
        ("monochrome", "perhaps"),
        ("frontpad", ["a"]),
        ("model", True),
        ("trigger_words", [{}]),
    ],
)
def test_a_wrong_type_is_refused_naming_style_and_field(field: str, value: Any) -> None:
    with pytest.raises(InputError, match="style 16") as caught:
        Style.from_entry({"id": "16", "title": "x", field: value}, "styles.json: style 2")
    assert caught.value.field == field
    assert str(caught.value.where).startswith("styles.json: style 2")


@pytest.mark.parametrize("field", ["id", "title"])
def test_a_style_without_id_or_title_is_refused(field: str) -> None:
    with pytest.raises(InputError) as caught:
        Style.from_entry({"id": "1", "title": "x"} | {field: ""}, "f")
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("name", "file", "loaded"),
    [
        ("a", "b.safetensors", "b.safetensors"),
        ("a", None, "a"),
        (None, "b", "b"),
        ("None", " ", None),
        (None, None, None),
    ],
)
def test_the_lora_file_wins_over_the_lora_name(name: str | None, file: str | None, loaded: str | None) -> None:
    assert Style("1", "x", lora_name=name, lora_file=file).lora_to_load == loaded


def test_a_lora_entry_needs_a_name_or_a_file() -> None:
    assert LoraFile.from_entry({"lora_file": "a.safetensors", "s3_url": ""}, "f") == LoraFile(lora_file="a.safetensors")
    with pytest.raises(InputError, match="LoRA"):
        LoraFile.from_entry({"version": "1"}, "f")
