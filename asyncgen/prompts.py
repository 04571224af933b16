"""Prompt files, row by row: text, CSV and JSON lines become requests. Pure and lazy: a row is given and forgotten.

A row that is wrong does not stop the reading: it comes as a `BadRow`, and the caller decides. The caller opens the
file with `encoding="utf-8", errors="surrogateescape", newline=""`, so that bytes which are not UTF-8 are found here,
in their row.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, get_args

from pydantic import AliasChoices

from asyncgen.documents import parse_json
from asyncgen.errors import InputError
from asyncgen.request import ImageRequest, parse_request

PromptFormat: TypeAlias = Literal["txt", "csv", "jsonl"]

# Text encoders take tabs and line ends as spaces; any other control character is an accident, and NUL breaks programs.
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_SURROGATE: Final = re.compile(r"[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Row:
    """A request and the number, from 1, of the line it begins at."""

    line: int
    request: ImageRequest


@dataclass(frozen=True, slots=True)
class BadRow:
    """What is wrong with the row that begins at `line`; `error.where` is `file:line`.

    `is_header`: it is the header of a CSV file, and without it no row can be read.
    """

    line: int
    error: InputError
    is_header: bool = False


def format_of(path: str | Path) -> PromptFormat:
    """The format of a prompt file by its suffix. Raises `InputError` listing the formats."""
    suffix = Path(path).suffix.lower().removeprefix(".")
    for known in get_args(PromptFormat):
        if suffix == known:
            return known  # type: ignore[no-any-return]  # get_args is untyped
    formats = ", ".join(f".{known}" for known in get_args(PromptFormat))
    raise InputError(f"a prompt file ends in one of {formats}, not in {suffix!r}", where=str(path))


def read_rows(lines: Iterable[str], format: PromptFormat, name: str) -> Iterator[Row | BadRow]:
    """The rows of a file, from its lines with or without their ends; `name` is the file's, for errors.

    - txt: a prompt a line; blank lines and lines that begin with `#` are skipped
    - csv: a header of `ImageRequest` fields or their aliases; an empty cell is left out; `parameters` is JSON
    - jsonl: an object of such fields, or a text, a line

    Raises nothing by itself: what is wrong comes as a `BadRow`.
    """
    reader = {"txt": _txt_rows, "csv": _csv_rows, "jsonl": _jsonl_rows}[format]
    return reader(_without_bom(lines), name)


def _txt_rows(lines: Iterable[str], name: str) -> Iterator[Row | BadRow]:
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if text and not text.startswith("#"):
            yield _row({"prompt": text}, name, number)


def _jsonl_rows(lines: Iterable[str], name: str) -> Iterator[Row | BadRow]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            fields = _json_fields(line)
        except InputError as error:
            yield _bad(error, name, number)
        else:
            yield _row(fields, name, number)


def _csv_rows(lines: Iterable[str], name: str) -> Iterator[Row | BadRow]:
    rows = _numbered_csv(lines)
    number, header = next(((number, cells) for number, cells in rows if cells), (1, None))
    if header is None:
        return
    try:
        columns = _columns(header)
    except InputError as error:
        yield _bad(error, name, number, is_header=True)
        return
    for number, cells in rows:
        if isinstance(cells, InputError):
            yield _bad(cells, name, number)
        elif any(cell.strip() for cell in cells):
            yield _csv_row(columns, cells, name, number)


def _numbered_csv(lines: Iterable[str]) -> Iterator[tuple[int, list[str] | InputError]]:
    """Cells, or what is wrong with them, and the line each row begins at."""
    ended = (line if line.endswith(("\n", "\r")) else line + "\n" for line in lines)
    reader = csv.reader(ended, strict=True)
    while True:
        first_line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield first_line, InputError(f"is not valid CSV: {error}; is a quote missing?")
        else:
            yield first_line, cells


def _columns(header: list[str] | InputError) -> list[str]:
    if isinstance(header, InputError):
        raise header
    columns = [_COLUMNS.get(cell.strip(), "") for cell in header]
    for cell, column in zip(header, columns, strict=True):
        if not column:
            raise _unknown_column(cell.strip())
        if columns.count(column) > 1:
            raise InputError("this column stands twice in the header", field=column)
    if "prompt" not in columns:
        raise InputError("the header (the first line) must name a column 'prompt'", field="prompt")
    return columns


def _unknown_column(cell: str) -> InputError:
    close = get_close_matches(cell.lower(), _COLUMNS, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"the columns are: {', '.join(_COLUMNS)}"
    return InputError(f"the header names a column {cell[:80]!r} that does not exist; {hint}", field="header")


def _csv_row(columns: list[str], cells: list[str], name: str, number: int) -> Row | BadRow:
    if len(cells) > len(columns):
        message = f"the row has {len(cells)} cells, the header {len(columns)}: put texts with commas in double quotes"
        return _bad(InputError(message), name, number)
    fields: dict[str, Any] = {
        column: cell.strip() for column, cell in zip(columns, cells, strict=False) if cell.strip()
    }
    try:
        if "parameters" in fields:
            fields["parameters"] = _parsed_json(fields["parameters"], "parameters")
    except InputError as error:
        return _bad(error, name, number)
    return _row(fields, name, number)


def _json_fields(line: str) -> Mapping[str, Any]:
    value = _parsed_json(line, None)
    if isinstance(value, str):
        return {"prompt": value}
    if not isinstance(value, dict):
        raise InputError(f"a line is an object of fields or a text, not {line.strip()[:80]!r}")
    return value


def _parsed_json(text: str, field: str | None) -> Any:
    try:
        return parse_json(text)
    except ValueError as error:
        raise InputError(f"is not valid JSON: {error}", field=field) from None


def _row(fields: Mapping[str, Any], name: str, number: int) -> Row | BadRow:
    try:
        _check_characters(fields)
        return Row(number, parse_request(fields))
    except InputError as error:
        return _bad(error, name, number)
    except (RecursionError, ValueError):  # pydantic's serializer calls its own depth limit a ValueError
        return _bad(InputError("is nested too deeply"), name, number)


def _bad(error: InputError, name: str, number: int, is_header: bool = False) -> BadRow:
    return BadRow(number, error.at(f"{name}:{number}"), is_header)


def _check_characters(fields: Mapping[str, Any]) -> None:
    """Refuse what cannot be stored or shown: bytes that are not UTF-8, and control characters."""
    for field, value in fields.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        if _SURROGATE.search(field) or _SURROGATE.search(text):
            raise InputError("is not UTF-8: save the file in that encoding", field=ascii(field)[1:-1])
        if found := _CONTROL.search(text):
            raise InputError(f"contains the control character U+{ord(found[0]):04X}: take it out", field=field)


def _without_bom(lines: Iterable[str]) -> Iterator[str]:
    for number, line in enumerate(lines):
        yield line if number else line.removeprefix("\ufeff")


def _names_of_fields() -> Iterator[tuple[str, str]]:
    for name, info in ImageRequest.model_fields.items():
        yield name, name
        if isinstance(info.validation_alias, AliasChoices):
            yield from ((str(alias), name) for alias in info.validation_alias.choices)


# Every name a column may have → the field it stands for.
_COLUMNS: Final[Mapping[str, str]] = dict(_names_of_fields())
