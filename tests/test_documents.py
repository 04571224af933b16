"""JSON of files: what is no plain value is refused in words, however deep or long it is."""

from __future__ import annotations

import pytest

from asyncgen.documents import MAX_NESTING, parse_json


def nested(levels: int) -> str:
    return "[" * levels + "]" * levels


def test_plain_json_comes_back_as_it_stands_in_order() -> None:
    value = parse_json('{"b": [1, 1.5, null, true, "é"], "a": {"b": 1}}')
    assert value == {"b": [1, 1.5, None, True, "é"], "a": {"b": 1}}
    assert list(value) == ["b", "a"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "Expecting value"),
        ("{", "Expecting"),
        ("NaN", "NaN is not a number"),
        ('{"a": -Infinity}', "Infinity is not a number"),
        ("[1e999]", "1e999 is not a number"),
        ("9" * 5000, "4300"),
        ('{"a": 1, "b": 2, "a": 1}', "'a' stands twice"),
        (nested(MAX_NESTING + 1), "deeper than 100"),
        ('{"a":' * 900 + "1" + "}" * 900, "deeper than 100"),
        (nested(100_000), "deeper than 100"),
        ("[" * 100_000, "deeper than 100"),
    ],
)
def test_anything_else_is_refused_with_the_reason(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_json(text)


def test_the_deepest_that_is_taken_is_taken() -> None:
    assert parse_json(nested(MAX_NESTING)) is not None
