"""Prompts in a Parquet file: its columns are fields of a request, its rows are read in record batches."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final

from asyncgen.errors import InputError
from asyncgen.prompts import BadRow, RawRow, Row, column_of, columns_of, parsed_json, parsed_row
from asyncgen.variables import made_of, variable_of

_ROWS_AT_ONCE: Final = 1024


class ParquetRows(AbstractContextManager["ParquetRows"]):
    """The rows of a Parquet file, numbered from 1; see `PromptRows` for what is read of it. Closed by leaving it.

    Columns are those of a CSV file, of numbers, truths, texts or lists of texts; nulls and NaN are left out, and
    `parameters` is a struct, a map or JSON. Takes the memory of one row group.

    Raises `InputError` for what is no Parquet file, and where the `parquet` extra is missing.
    """

    def __init__(
        self,
        path: Path,
        name: str,
        digest: bytes = b"",
        *,
        template: str | None = None,
        declared: Collection[str] = (),
        takes_text: bool = True,
    ) -> None:
        try:
            import pyarrow.parquet  # noqa: PLC0415 - an extra, and slow to import
        except ImportError:
            message = "a Parquet file needs pyarrow: pip install 'asyncgen[parquet]'"
            raise InputError(message, where=name) from None
        self.name, self._template, self._declared, self._takes_text = name, template, declared, takes_text
        self._hash = hashlib.blake2b(b"parquet", digest_size=16, key=digest)
        self._columns: list[str] = []
        self._variables: tuple[str, ...] = ()
        try:
            self._file = pyarrow.parquet.ParquetFile(path, pre_buffer=False)
        except OSError as error:
            raise InputError(f"cannot be read ({error.strerror or error})", where=name) from error
        except pyarrow.ArrowException as error:
            raise InputError(f"is no Parquet file: {error}", where=name) from None

    def __exit__(self, *exc_info: object) -> None:
        self._file.close()

    def rows(self) -> Iterator[RawRow | BadRow]:
        header = list(self._file.schema_arrow.names)
        try:
            self._columns = columns_of(header, has_template=self._template is not None, takes_text=self._takes_text)
        except InputError as error:
            yield BadRow(1, error.at(self.name), is_header=True)
            return
        self._variables = tuple(name for column in self._columns if (name := variable_of(column)) is not None)
        for number, values in enumerate(self._values(), start=1):
            said = {column_of(name): value for name, value in values.items() if not _is_empty(value)}
            key = self._hash.copy()
            key.update(json.dumps(said, sort_keys=True, default=repr).encode("utf-8", "surrogatepass"))
            yield RawRow(number, said, key.digest())

    def _values(self) -> Iterator[Mapping[str, Any]]:
        from pyarrow import ArrowException  # noqa: PLC0415 - as above

        batches = self._file.iter_batches(batch_size=_ROWS_AT_ONCE, use_threads=False)
        try:
            for batch in batches:
                yield from batch.to_pylist()
        except (ArrowException, OSError, ValueError, OverflowError) as error:
            raise InputError(f"is damaged, or holds what Python cannot: {error}", where=self.name) from None

    def parse(self, raw: RawRow | BadRow) -> Row | BadRow:
        if isinstance(raw, BadRow):
            return raw
        return parsed_row(raw, f"{self.name}:{raw.line}", lambda: self._made(raw.content))

    def _made(self, said: Mapping[str, Any]) -> Mapping[str, Any]:
        fields = {name: _checked(name, value) for name, value in said.items()}
        if isinstance(text := fields.get("parameters"), str):
            fields["parameters"] = parsed_json(text, "parameters")
        if not self._variables and self._template is None:
            return fields
        return made_of(fields, template=self._template, columns=self._variables, others=self._declared)


def _is_empty(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value)) or value in ("", [], {})


def _checked(name: str, value: object) -> object:
    """Maps come as lists of pairs; what no request can hold, such as bytes and dates, is refused here."""
    if name == "parameters" and isinstance(value, list):
        value = {key: item for key, item in value if item is not None}
    elif isinstance(value, dict):
        value = {key: item for key, item in value.items() if item is not None}
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        message = f"is a {type(value).__name__}: use numbers, truths, texts and lists of texts"
        raise InputError(message, field=name) from None
    return value
