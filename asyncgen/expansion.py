"""The rows of a prompt file, each in every cell of a matrix; pure and lazy like `asyncgen.prompts`.

A row in a cell is a raw row of its own, whose key is made of the row's and the cell's: what is kept of a matrix is
neither parsed nor planned again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import islice
from typing import Protocol

from asyncgen.cells import Matrix, said_by
from asyncgen.errors import InputError
from asyncgen.prompts import BadRow, RawRow, Row


class PromptRows(Protocol):
    """Rows as they stand in a file, once, and the request of each; `name` is the file's, for errors."""

    name: str

    def rows(self) -> Iterator[RawRow | BadRow]: ...
    def parse(self, raw: RawRow | BadRow) -> Row | BadRow: ...


class Expansion:
    """The rows of `file`, of the first `limit` of them, in the cells of a matrix; see `PromptRows`.

    A row that is wrong comes in every cell, since it is found to be wrong when it is parsed.
    """

    def __init__(self, file: PromptRows, matrix: Matrix, limit: int | None = None) -> None:
        self.name, self._file, self._matrix, self._limit = file.name, file, matrix, limit
        self._last: tuple[RawRow, Row | BadRow] | None = None

    def rows(self) -> Iterator[RawRow | BadRow]:
        for raw in islice(self._file.rows(), self._limit):
            if isinstance(raw, BadRow):
                yield raw
            else:
                for number, cell in enumerate(self._matrix.cells):
                    key = hashlib.blake2b(raw.key + cell.digest, digest_size=16).digest()
                    yield RawRow(raw.line, (raw, number), key)

    def parse(self, raw: RawRow | BadRow) -> Row | BadRow:
        if isinstance(raw, BadRow):
            return raw
        own, number = raw.content
        row = self._parsed(own)
        if isinstance(row, BadRow):
            return row
        try:
            request = self._matrix.cells[number].request(self._matrix.shared, said_by(row.request))
        except InputError as error:
            return BadRow(raw.line, error.at(row.where or f"{self.name}:{raw.line}"))
        return Row(raw.line, request, raw.key, row.where)

    def _parsed(self, own: RawRow) -> Row | BadRow:
        """The cells of a row come one after the other."""
        if self._last is None or self._last[0] is not own:
            self._last = (own, self._file.parse(own))
        return self._last[1]
