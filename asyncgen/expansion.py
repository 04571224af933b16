"""The rows of a prompt file, each in every cell of a matrix and with every choice; pure and lazy like the rows.

A row in a cell is a raw row of its own, whose key is made of the row's and the cell's: what is kept of a matrix is
neither parsed nor planned again. Only where prompts have choices they must be resolved to be known.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Protocol

from asyncgen.cell_ids import UsualOf, usual_by_name
from asyncgen.cells import Cell, Matrix
from asyncgen.errors import InputError
from asyncgen.prompts import BadRow, RawRow, Row
from asyncgen.request import ImageRequest, parse_request


class PromptRows(Protocol):
    """Rows as they stand in a file, once, and the request of each; `name` is the file's, for errors."""

    name: str

    def rows(self) -> Iterator[RawRow | BadRow]: ...
    def parse(self, raw: RawRow | BadRow) -> Row | BadRow: ...


@dataclass(frozen=True, slots=True)
class Choice:
    """One text that a prompt with choices is made into, and what was chosen, by the choice as it is written."""

    text: str
    values: Mapping[str, str]


class Chooser(Protocol):
    """Resolves the choices of a prompt: one for each number, or all that there are. Raises `InputError`."""

    is_random: bool

    def choices(self, text: str, own_id: str | None, number: int) -> Iterator[Choice]: ...


class Expansion:
    """The rows of `file`, of the first `limit` of them, in the cells of a matrix; see `PromptRows`.

    `chooser` None: prompts are plain texts. `usual_of` is the run's. A row that is wrong may come in every cell,
    since it is found to be wrong when it is parsed.
    """

    def __init__(
        self,
        file: PromptRows,
        matrix: Matrix,
        limit: int | None = None,
        chooser: Chooser | None = None,
        usual_of: UsualOf = usual_by_name,
    ) -> None:
        self._usual_of = usual_of
        self.name, self._file, self._matrix, self._limit, self._chooser = file.name, file, matrix, limit, chooser
        self._last: tuple[RawRow, Row | BadRow] | None = None

    def rows(self) -> Iterator[RawRow | BadRow]:
        for raw in islice(self._file.rows(), self._limit):
            if isinstance(raw, BadRow):
                yield raw
            elif self._chooser is not None or self._matrix.may_repeat:
                yield from self._made(raw)
            else:
                for number, cell in enumerate(self._matrix.cells):
                    key = hashlib.blake2b(raw.key + cell.digest, digest_size=16).digest()
                    yield RawRow(raw.line, (raw, number), key)

    def parse(self, raw: RawRow | BadRow) -> Row | BadRow:
        if isinstance(raw, BadRow):
            return raw
        if isinstance(raw.content, Row):
            return raw.content
        own, number = raw.content
        row = self._parsed(own)
        if isinstance(row, BadRow):
            return row
        try:
            request = self._matrix.cells[number].request(self._matrix.shared, row.request, self._usual_of)
        except InputError as error:
            return self._bad(row, error)
        return Row(raw.line, request, raw.key, row.where)

    def _parsed(self, own: RawRow) -> Row | BadRow:
        """The cells of a row come one after the other."""
        if self._last is None or self._last[0] is not own:
            self._last = (own, self._file.parse(own))
        return self._last[1]

    def _made(self, raw: RawRow) -> Iterator[RawRow | BadRow]:
        """How often a row is made depends on its text."""
        row = self._file.parse(raw)
        if isinstance(row, BadRow):
            yield row
            return
        try:
            for request in requests_of(self._matrix, row.request, self._chooser, self._usual_of):
                key = hashlib.blake2b(raw.key + request.said_json().encode(), digest_size=16).digest()
                yield RawRow(raw.line, Row(raw.line, request, key, row.where), key)
        except InputError as error:
            yield self._bad(row, error)

    def _bad(self, row: Row, error: InputError) -> BadRow:
        return BadRow(row.line, error.at(row.where or f"{self.name}:{row.line}"))


def requests_of(
    matrix: Matrix, row: ImageRequest, chooser: Chooser | None, usual_of: UsualOf = usual_by_name
) -> Iterator[ImageRequest]:
    """The requests of a row in every cell and with every choice. Raises `InputError`.

    Each is made once: a prompt without a variable is the same for all its values.
    """
    made = (request for cell in matrix.cells for request in _in_cell(matrix, cell, row, chooser, usual_of))
    if not matrix.may_repeat:
        yield from made
        return
    seen: set[str] = set()
    for request in made:
        text = request.said_json()
        if text not in seen:
            seen.add(text)
            yield request


def _in_cell(
    matrix: Matrix, cell: Cell, row: ImageRequest, chooser: Chooser | None, usual_of: UsualOf
) -> Iterator[ImageRequest]:
    """At random each image chooses anew, so that `images` of a row are made like so many seeds."""
    if chooser is None:
        yield cell.request(matrix.shared, row, usual_of)
        return
    for one, own in _images(matrix, cell, row) if chooser.is_random else [(cell, row)]:
        request = one.request(matrix.shared, own, usual_of)
        for choice in chooser.choices(request.prompt, row.id, one.seed):
            yield _resolved(request, choice, chooser)


def _images(matrix: Matrix, cell: Cell, row: ImageRequest) -> Iterator[tuple[Cell, ImageRequest]]:
    images = cell.request(matrix.shared, row).images
    if images > 1 and matrix.has_seeds:
        raise InputError("with seeds, each of which chooses anew, there is one image of each", field="images")
    if images == 1:
        yield cell, row
        return
    single = row.model_copy(update={"images": 1})
    yield from ((replace(cell, seed=number), single) for number in range(images))


def _resolved(request: ImageRequest, choice: Choice, chooser: Chooser) -> ImageRequest:
    if not choice.values and choice.text == request.prompt:
        return request
    text = hashlib.blake2b(choice.text.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()
    fields = {name: getattr(request, name) for name in request.model_fields_set} | {
        "prompt": choice.text,
        "template": request.template or request.prompt,
        "variables": {**request.variables, **choice.values},
    }
    if request.id is not None and choice.values and not chooser.is_random:
        fields["id"] = f"{request.id}/text-{text}"
    return parse_request(fields)
