"""Prompt files: every row is a request or says what is wrong and where."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncgen.errors import InputError
from asyncgen.prompts import BadRow, PromptFormat, Row, format_of, read_rows
from asyncgen.request import ImageRequest, parse_request

FORMATS: tuple[PromptFormat, ...] = get_args(PromptFormat)
PLAIN = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), min_size=1).filter(str.strip)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


def read(text: str, format: PromptFormat) -> list[Row | BadRow]:
    return list(read_rows(io.StringIO(text, newline=""), format, f"in.{format}"))


def requests(text: str, format: PromptFormat) -> list[ImageRequest]:
    rows = read(text, format)
    assert not [row.error for row in rows if isinstance(row, BadRow)]
    return [row.request for row in rows if isinstance(row, Row)]


def only_fault(text: str, format: PromptFormat) -> BadRow:
    (fault,) = (row for row in read(text, format) if isinstance(row, BadRow))
    return fault


@given(st.text(st.characters()), st.sampled_from(FORMATS))
def test_no_text_makes_a_reader_raise(text: str, format: PromptFormat) -> None:
    for row in read(text, format):
        assert row.line >= 1
        assert isinstance(row, Row) or row.error.where == f"in.{format}:{row.line}"


@given(st.lists(st.text(st.characters())), st.sampled_from(FORMATS))
def test_no_lines_make_a_reader_raise(lines: list[str], format: PromptFormat) -> None:
    assert all(1 <= row.line <= len(lines) for row in read_rows(lines, format, "in"))


@given(st.lists(st.lists(st.text(st.sampled_from('a", \n\r\x00')), max_size=4), max_size=6))
def test_no_csv_below_a_good_header_makes_the_reader_raise(rows: list[list[str]]) -> None:
    text = "prompt,seed,parameters\n" + "\n".join(",".join(cells) for cells in rows)
    assert all(row.line >= 2 for row in read(text, "csv"))


@given(st.sampled_from(sorted({*ImageRequest.model_fields, "style", "zzz"})), JSON)
def test_no_json_value_makes_the_reader_raise(field: str, value: object) -> None:
    for row in read(json.dumps({"prompt": "x", field: value}) + "\n" + json.dumps(value), "jsonl"):
        str(row.error).encode() if isinstance(row, BadRow) else row.request.said_json().encode()


@given(st.lists(PLAIN.map(str.strip).filter(lambda text: not text.startswith("#"))))
def test_prompts_of_a_text_file_come_back_as_they_were_written(prompts: list[str]) -> None:
    assert [request.prompt for request in requests("\r\n".join(prompts), "txt")] == [
        prompt.removeprefix("\ufeff") if number == 0 else prompt for number, prompt in enumerate(prompts)
    ]


@given(st.lists(PLAIN | st.from_regex(r"a[\n\t]b\r\nc", fullmatch=True)))
def test_prompts_of_json_lines_come_back_as_they_were_written(prompts: list[str]) -> None:
    lines = "\n".join(json.dumps({"prompt": prompt}) for prompt in prompts)
    assert [request.prompt for request in requests(lines, "jsonl")] == prompts


def test_a_text_file_has_a_prompt_a_line_with_comments_and_blank_lines() -> None:
    text = "\ufeff# cats\r\n\r\n  a cat, asleep \r\n   # not this\r\na dog #1"
    assert read(text, "txt") == [Row(3, parse_request("a cat, asleep")), Row(5, parse_request("a dog #1"))]


def test_the_byte_order_mark_is_not_part_of_the_first_prompt_or_column() -> None:
    assert requests("\ufeffa cat", "txt") == [parse_request("a cat")]
    assert requests("\ufeffprompt\na cat", "csv") == [parse_request("a cat")]
    assert requests('\ufeff"a cat"', "jsonl") == [parse_request("a cat")]


def test_a_csv_row_names_fields_and_leaves_empty_cells_out() -> None:
    header = "prompt,style, width ,character_lora,seed,raw_prompt,parameters"
    text = header + '\n"a, b",1,1024,"x,y:0.8",,true,"{""vae"": ""v""}"\nc\n'
    first, second = requests(text, "csv")
    assert first.said() == {
        "prompt": "a, b",
        "style_id": "1",
        "width": 1024,
        "character_loras": ["x", "y:0.8"],
        "raw_prompt": True,
        "parameters": {"vae": "v"},
    }
    assert second.said() == {"prompt": "c"}


def test_a_csv_row_is_named_by_its_first_line() -> None:
    text = 'prompt,width\r\n"two\r\nlines",8\r\n\r\n,,\r\nx,y\r\n'
    rows = read(text, "csv")
    assert [row.line for row in rows] == [2, 6]  # a row of empty cells is blank
    assert isinstance(rows[0], Row)
    assert rows[0].request.prompt == "two\r\nlines"
    assert [row.error.field for row in rows if isinstance(row, BadRow)] == ["width"]


def test_a_line_break_in_a_cell_survives_lines_without_ends() -> None:
    (row,) = read_rows(["prompt", '"two', 'lines"'], "csv", "in.csv")
    assert isinstance(row, Row)
    assert row.request.prompt == "two\nlines"


@pytest.mark.parametrize(
    ("header", "field", "words"),
    [
        ("prompt,widht", "header", "'widht'.*did you mean 'width'"),
        ("Prompt", "header", "did you mean 'prompt'"),
        ("prompt,", "header", "''.*the columns are: prompt"),
        ("text here,zzzz", "header", "does not exist"),
        ("width,height", "prompt", "column 'prompt'"),
        ("prompt,style,style_id", "style_id", "twice"),
        ('prompt,"width', None, "CSV"),
    ],
)
def test_a_bad_header_is_reported_once_and_ends_the_reading(header: str, field: str | None, words: str) -> None:
    (row,) = read(f"\n{header}\na\nb\n", "csv")
    assert isinstance(row, BadRow)
    assert (row.line, row.is_header, row.error.field, row.error.where) == (2, True, field, "in.csv:2")
    with pytest.raises(InputError, match=words):
        raise row.error


@pytest.mark.parametrize(
    ("text", "format", "line", "field"),
    [
        ("prompt,width\nx,wide\n", "csv", 2, "width"),
        ("prompt,width\nx,8\n  ,8\n", "csv", 3, "prompt"),
        ("prompt\nx,y\n", "csv", 2, None),
        ('prompt\n"a"b\nc\n', "csv", 2, None),
        ('prompt\na\n"b\nc\n', "csv", 3, None),
        ("prompt,parameters\nx,{\n", "csv", 2, "parameters"),
        ("prompt,seed\nx,-2\n", "csv", 2, "seed"),
        ('"x"\n{"prompt": "x", "styl": 1}\n', "jsonl", 2, "styl"),
        ('{"prompt": "x"\n', "jsonl", 1, None),
        ("[1]\n", "jsonl", 1, None),
        ("\n\nnull\n", "jsonl", 3, None),
        ('{"width": 8}\n', "jsonl", 1, "prompt"),
        ('{"prompt": "x", "cine_strength": NaN}\n', "jsonl", 1, None),
        ('{"prompt": "x", "seed": ' + "9" * 5000 + "}\n", "jsonl", 1, None),
        ("[" * 100_000, "jsonl", 1, None),
        ('{"prompt": ' + "[" * 900 + "]" * 900 + "}", "jsonl", 1, None),
    ],
)
def test_a_bad_row_names_file_line_and_field(text: str, format: PromptFormat, line: int, field: str | None) -> None:
    fault = only_fault(text, format)
    assert (fault.line, fault.error.where, fault.error.field, fault.is_header) == (
        line,
        f"in.{format}:{line}",
        field,
        False,
    )


def test_no_depth_of_nesting_makes_the_reader_raise() -> None:
    for depth in range(sys.getrecursionlimit() - 200, sys.getrecursionlimit(), 1):
        line = '{"prompt": "a", "parameters": {"b": ' + "[" * depth + "]" * depth + "}}"
        (row,) = read(line, "jsonl")
        assert row.line == 1


def test_good_rows_around_a_bad_one_are_read() -> None:
    rows = read("prompt,width\na,8\nb,wide\nc,8\n", "csv")
    assert [row.request.prompt for row in rows if isinstance(row, Row)] == ["a", "c"]


@pytest.mark.parametrize("format", FORMATS)
def test_bytes_that_are_not_utf8_are_found_in_their_row(format: PromptFormat) -> None:
    head = {"txt": b"a\n", "csv": b"prompt\n", "jsonl": b'"a"\n'}[format]
    tail = b'"caf\xe9"\n' if format == "jsonl" else b"caf\xe9\n"
    text = (head + tail).decode(errors="surrogateescape")
    fault = only_fault(text, format)
    assert (fault.line, fault.error.field) == (2, "prompt")
    assert "UTF-8" in str(fault.error)


def test_half_a_surrogate_pair_is_refused_wherever_it_stands() -> None:
    for line in (r'"\ud83d"', r'{"prompt": "a", "parameters": {"b": ["\ud83d"]}}', r'{"prompt": "a", "\ud83d": 1}'):
        fault = only_fault(line, "jsonl")
        assert "UTF-8" in str(fault.error).encode().decode()


@pytest.mark.parametrize("character", ["\x00", "\x07", "\x1b", "\x7f", "\x85"])
def test_control_characters_are_refused_by_number(character: str) -> None:
    for text, format in ((f"a{character}b", "txt"), (json.dumps(f"a{character}b"), "jsonl")):
        fault = only_fault(text, format)  # type: ignore[arg-type]  # both are formats
        assert f"U+{ord(character):04X}" in str(fault.error)
        assert fault.error.field == "prompt"


def test_tabs_and_line_ends_inside_a_prompt_are_kept() -> None:
    assert requests(json.dumps("a\tb\r\nc"), "jsonl") == [parse_request("a\tb\r\nc")]


@pytest.mark.parametrize("format", FORMATS)
def test_an_empty_file_has_no_rows(format: PromptFormat) -> None:
    assert read("", format) == []
    assert read("\n \n\n"[: 4 if format != "csv" else 1], format) == []


@pytest.mark.parametrize("format", FORMATS)
def test_rows_are_read_one_by_one_from_an_endless_file(format: PromptFormat) -> None:
    taken = 0

    def endless() -> Iterator[str]:
        nonlocal taken
        yield "prompt\n" if format == "csv" else '"a"\n'
        while True:
            taken += 1
            yield f'"prompt {taken}"\n'

    assert len(list(islice(read_rows(endless(), format, "in"), 1000))) == 1000
    assert taken <= 1000


@pytest.mark.parametrize("name", ["a.txt", "A.CSV", "x/y.b.jsonl"])
def test_the_suffix_names_the_format(name: str) -> None:
    assert format_of(name) == format_of(Path(name)) == name.rpartition(".")[2].lower()


@pytest.mark.parametrize("name", ["a.xlsx", "prompts", "-"])
def test_another_suffix_is_refused_with_the_formats(name: str) -> None:
    with pytest.raises(InputError, match=r"\.txt, \.csv, \.jsonl"):
        format_of(name)


def test_the_example_prompts_are_good_and_distinct() -> None:
    path = Path(__file__).parent.parent / "examples" / "prompts.txt"
    prompts = [request.prompt for request in requests(path.read_text(encoding="utf-8"), "txt")]
    assert len(prompts) >= 24
    assert len(set(prompts)) == len(prompts)
