"""Variables: columns in braces, and texts that hold them."""

from __future__ import annotations

import io

import pytest

from asyncgen.errors import InputError
from asyncgen.prompts import BadRow, PromptFile, PromptFormat, Row
from asyncgen.variables import fill, variable_of


def read(text: str, format: PromptFormat, template: str | None = None) -> list[Row | BadRow]:
    file = PromptFile(io.StringIO(text, newline=""), format, f"in.{format}", template=template)
    return list(map(file.parse, file.rows()))


def prompts(text: str, format: PromptFormat, template: str | None = None) -> list[str]:
    return [row.request.prompt if isinstance(row, Row) else str(row.error) for row in read(text, format, template)]


def test_a_column_in_braces_is_a_variable_of_the_row_s_prompt() -> None:
    text = "prompt,{color}, { big animal } \na {color} {big animal},red,fox\nplain {{color}} {|},blue,\n"
    assert prompts(text, "csv") == ["a red fox", "plain {color} {|}"]
    row = read(text, "csv")[0]
    assert isinstance(row, Row)
    assert row.request.said() == {
        "prompt": "a red fox", "template": "a {color} {big animal}", "variables": {"color": "red", "big animal": "fox"},
    }  # fmt: skip


def test_a_key_in_braces_is_one_too() -> None:
    lines = '{"prompt": "{n} {color} foxes", "{color}": "red", "{n}": 3}\n{"prompt": "a {color} fox"}\n"a {color} owl"'
    assert prompts(lines, "jsonl") == ["3 red foxes", "a {color} fox", "a {color} owl"]


def test_a_template_is_the_prompt_of_rows_that_have_none() -> None:
    assert prompts("{color}\nred\nblue\n", "csv", "a {color} fox") == ["a red fox", "a blue fox"]
    assert prompts('{"{color}": "red"}\n{"prompt": "an owl"}', "jsonl", "a {color} fox") == ["a red fox", "an owl"]


def test_a_value_is_never_looked_into() -> None:
    assert prompts("prompt,{a},{b}\n{a} {b},{b},x\n", "csv") == ["{b} x"]


@pytest.mark.parametrize(
    ("text", "format", "told"),
    [
        ("prompt,{color}\na {colour} fox,red", "csv", "in.csv:2:prompt: there is no variable {colour} here; did"),
        ("prompt,{color}\na {size} fox,red", "csv", "in.csv:2:prompt: there is no variable {size} here; there are: "),
        ("prompt,{color}\n\na {color} fox,\n", "csv", "in.csv:3:prompt: the row gives {color} no value"),
        ('{"prompt": "{a}", "{a}": [1]}', "jsonl", "in.jsonl:1:{a}: a variable is a text or a number"),
        ("{color}\nred\n", "csv", "in.csv:1:prompt: the header (the first line) must name a column 'prompt'"),
        ("prompt,{a},{ a }\nx,y,z\n", "csv", "in.csv:1:{a}: this column stands twice"),
        ("prompt,template\nx,y\n", "csv", "in.csv:1:header: the header names a column 'template' that does not exist"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_line_and_the_nearest_name(text: str, format: PromptFormat, told: str) -> None:
    (bad,) = (row for row in read(text, format) if isinstance(row, BadRow))
    assert str(bad.error).startswith(told)


def test_without_variables_braces_are_text() -> None:
    assert prompts("prompt\na {color} {{fox}} {\n", "csv") == ["a {color} {{fox}} {"]


def test_a_variable_that_gets_its_value_later_stays() -> None:
    assert fill("{a} {b} {{a}}", {"a": "x"}, others=("b",)) == "x {b} {{a}}"
    with pytest.raises(InputError):
        fill("{c}", {"a": "x"}, others=("b",))


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("{color}", "color"),
        (" { two words } ", "two words"),
        ("color", None),
        ("{}", None),
        ("{a|b}", None),
        ("{a}{b}", None),
    ],
)
def test_a_header_in_braces_declares_a_variable(header: str, name: str | None) -> None:
    assert variable_of(header) == name
