"""Prompt files, row by row: text, CSV and JSON lines become requests. Pure and lazy: a row is given and forgotten.

Reading has two steps, because most rows of a batch that is continued need only the first: a `RawRow` is cut out of the
file and has a key, by which a ledger may know it; `PromptFile.parse` makes a request of it.

A row that is wrong does not stop the reading: it comes as a `BadRow`, and the caller decides. The caller opens the
file with `encoding="utf-8", errors="surrogateescape", newline=""`, so that bytes which are not UTF-8 are found here,
in their row.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import chain, islice
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, TypeAlias, get_args

from asyncgen.documents import parse_json
from asyncgen.errors import InputError
from asyncgen.request import FIELD_NAMES, INPUT_PICTURES, RECORD_FIELDS, ImageRequest, parse_request
from asyncgen.variables import made_of, variable_of

PromptFormat: TypeAlias = Literal["txt", "csv", "jsonl"]

# Text encoders take tabs and line ends as spaces; any other control character is an accident, and NUL breaks programs.
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_NUMBERS: Final = frozenset({int, float, bool})
_CELL_END: Final = "\x1f"  # which no cell of a row that is right can hold
_SURROGATE: Final = re.compile(r"[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Row:
    """A request and the number, from 1, of the line it begins at; `key` is that of its `RawRow`.

    `where` is its place, for errors; None: `file:line`.
    """

    line: int
    request: ImageRequest
    key: bytes | None = dataclasses.field(default=None, compare=False)
    where: str | None = dataclasses.field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class BadRow:
    """What is wrong with the row that begins at `line`; `error.where` is `file:line`.

    `is_header`: it is the header of a CSV file, and without it no row can be read.
    """

    line: int
    error: InputError
    is_header: bool = False


def format_of(path: str | Path) -> PromptFormat:
    """The format of a prompt file of text by its suffix. Raises `InputError` listing all formats."""
    suffix = Path(path).suffix.lower().removeprefix(".")
    for known in get_args(PromptFormat):
        if suffix == known:
            return known  # type: ignore[no-any-return]  # get_args is untyped
    formats = ", ".join(f".{known}" for known in get_args(PromptFormat))
    message = f"a prompt file ends in one of {formats}, .parquet, or is a folder of captions; not in {suffix!r}"
    raise InputError(message, where=str(path))


class RawRow(NamedTuple):
    """A row as it stands in the file, from its line on: a text, or the cells of a CSV row; only its reader needs it.

    `key` (16 bytes) is a hash of that, and of the digest that the file was opened with.
    """

    line: int
    content: Any
    key: bytes


class PromptFile:
    """A prompt file's rows, once, from its lines with or without their ends; `name` is the file's, for errors.

    - txt: a prompt a line; blank lines and lines that begin with `#` are skipped
    - csv: a header of `ImageRequest` fields or their aliases; an empty cell is left out; `parameters` is JSON
    - jsonl: an object of such fields, or a text, a line

    A column or key in braces is a variable of the row's prompt, or of `template` where the row has none; `declared`
    variables get their values later (`asyncgen.variables`). Where no workflow `takes_text`, a column of input pictures
    does for that of prompts.

    `digest` (up to 64 bytes) stands for whatever else decides what a row means: equal keys are then equal wants.
    Raises nothing by itself: what is wrong comes as a `BadRow`.
    """

    def __init__(
        self,
        lines: Iterable[str],
        format: PromptFormat,
        name: str,
        digest: bytes = b"",
        *,
        template: str | None = None,
        declared: Collection[str] = (),
        takes_text: bool = True,
    ) -> None:
        self._lines, self._format, self.name = _without_bom(lines), format, name
        self._hash = hashlib.blake2b(format.encode(), digest_size=16, key=digest)
        self._template, self._declared, self._takes_text = template, declared, takes_text
        self._columns: list[str] = []
        self._variables: tuple[str, ...] = ()  # that are columns

    def rows(self) -> Iterator[RawRow | BadRow]:
        """The rows as they stand there."""
        return {"txt": self._txt_rows, "csv": self._csv_rows, "jsonl": self._jsonl_rows}[self._format]()

    def parse(self, raw: RawRow | BadRow) -> Row | BadRow:
        """The request of a row."""
        if isinstance(raw, BadRow):
            return raw
        return parsed_row(raw, f"{self.name}:{raw.line}", lambda: self._made(self._fields(raw.content)))

    def _txt_rows(self) -> Iterator[RawRow]:
        for number, line in enumerate(self._lines, start=1):
            text = line.strip()
            if text and text[0] != "#":
                yield RawRow(number, text, self._key(text))

    def _jsonl_rows(self) -> Iterator[RawRow]:
        for number, line in enumerate(self._lines, start=1):
            if line.strip():
                text = line.rstrip("\r\n")
                yield RawRow(number, text, self._key(text))

    def _csv_rows(self) -> Iterator[RawRow | BadRow]:
        rows = _numbered_csv(self._lines)
        number, header = next(((number, cells) for number, cells in rows if cells), (1, None))
        if header is None:
            return
        try:
            self._columns = columns_of(header, has_template=self._template is not None, takes_text=self._takes_text)
        except InputError as error:
            yield _bad(error, self.name, number, is_header=True)
            return
        self._variables = tuple(name for column in self._columns if (name := variable_of(column)) is not None)
        self._hash.update(_CELL_END.join([*self._columns, ""]).encode())
        for number, cells in rows:
            if isinstance(cells, InputError):
                yield _bad(cells, self.name, number)
            elif any(cell.strip() for cell in cells):
                yield RawRow(number, cells, self._key(_CELL_END.join([str(len(cells)), *cells])))

    def _key(self, text: str) -> bytes:
        own = self._hash.copy()
        own.update(text.encode("utf-8", "surrogatepass"))
        return own.digest()

    def _fields(self, content: str | list[str]) -> Mapping[str, Any]:
        if isinstance(content, list):
            return _csv_fields(self._columns, content)
        return {"prompt": content} if self._format == "txt" else _json_fields(content)

    def _made(self, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        if not self._variables and self._template is None and not any(key.startswith("{") for key in fields):
            return fields
        return made_of(fields, template=self._template, columns=self._variables, others=self._declared)


def read_rows(lines: Iterable[str], format: PromptFormat, name: str) -> Iterator[Row | BadRow]:
    """The requests of a file's rows; see `PromptFile`."""
    file = PromptFile(lines, format, name)
    return map(file.parse, file.rows())


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


def columns_of(header: list[str] | InputError, *, has_template: bool, takes_text: bool) -> list[str]:
    """The fields that the columns of a table stand for, variables in their braces. Raises `InputError`.

    There must be a prompt, unless a template makes it, or nothing takes it and there are input pictures.
    """
    if isinstance(header, InputError):
        raise header
    columns = [column_of(cell.strip()) for cell in header]
    for cell, column in zip(header, columns, strict=True):
        if not column:
            raise _unknown_column(cell.strip())
        if columns.count(column) > 1:
            raise InputError("this column stands twice in the header", field=column)
    are_pictures = not takes_text and any(name in columns for name in INPUT_PICTURES)
    if "prompt" not in columns and not has_template and not are_pictures:
        raise InputError("the header (the first line) must name a column 'prompt'", field="prompt")
    return columns


def column_of(cell: str) -> str:
    """The field of a column, or its variable in braces; an empty text for neither."""
    name = variable_of(cell)
    return _COLUMNS.get(cell, "") if name is None else f"{{{name}}}"


def _unknown_column(cell: str) -> InputError:
    close = get_close_matches(cell.lower(), _COLUMNS, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"the columns are: {', '.join(_COLUMNS)}"
    return InputError(f"the header names a column {cell[:80]!r} that does not exist; {hint}", field="header")


def _csv_fields(columns: list[str], cells: list[str]) -> Mapping[str, Any]:
    if len(cells) > len(columns):
        raise InputError(
            f"the row has {len(cells)} cells, the header {len(columns)}: put texts with commas in double quotes"
        )
    fields: dict[str, Any] = {
        column: cell.strip() for column, cell in zip(columns, cells, strict=False) if cell.strip()
    }
    if "parameters" in fields:
        fields["parameters"] = parsed_json(fields["parameters"], "parameters")
    return fields


def _json_fields(line: str) -> Mapping[str, Any]:
    value = parsed_json(line, None)
    if isinstance(value, str):
        return {"prompt": value}
    if not isinstance(value, dict):
        raise InputError(f"a line is an object of fields or a text, not {line.strip()[:80]!r}")
    return value


def parsed_json(text: str, field: str | None) -> Any:
    """The value of a JSON text. Raises `InputError` for the field."""
    try:
        return parse_json(text)
    except ValueError as error:
        raise InputError(f"is not valid JSON: {error}", field=field) from None


def parsed_row(raw: RawRow, where: str, fields: Callable[[], Mapping[str, Any]]) -> Row | BadRow:
    """The row that these fields make, or what is wrong with them; `where` is its place."""
    try:
        said = fields()
        _check_characters(said)
        return Row(raw.line, parse_request(said), raw.key, where)
    except InputError as error:
        return BadRow(raw.line, error.at(where))
    except (RecursionError, ValueError):  # pydantic's serializer calls its own depth limit a ValueError
        return BadRow(raw.line, InputError("is nested too deeply", where=where))


def _bad(error: InputError, name: str, number: int, is_header: bool = False) -> BadRow:
    return BadRow(number, error.at(f"{name}:{number}"), is_header)


def _check_characters(fields: Mapping[str, Any]) -> None:
    """Refuse what cannot be stored or shown: bytes that are not UTF-8, and control characters."""
    for field, value in fields.items():
        if type(value) in _NUMBERS and field.isascii():
            continue
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        if _SURROGATE.search(field) or _SURROGATE.search(text):
            raise InputError("is not UTF-8: save the file in that encoding", field=ascii(field)[1:-1])
        if found := _CONTROL.search(text):
            raise InputError(f"contains the control character U+{ord(found[0]):04X}: take it out", field=field)


def _without_bom(lines: Iterable[str]) -> Iterator[str]:
    rest = iter(lines)
    first = (line.removeprefix("\ufeff") for line in islice(rest, 1))
    return chain(first, rest)


# Every name a column may have → the field it stands for.
_COLUMNS: Final[Mapping[str, str]] = {
    name: column for name, column in FIELD_NAMES.items() if column not in RECORD_FIELDS
}
