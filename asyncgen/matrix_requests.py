"""A matrix from Python: prompts in every cell, for `generate_many` and `stream_many`."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from asyncgen.axes import axes
from asyncgen.batch_file import wildcard_mode
from asyncgen.cell_ids import UsualOf, usual_by_name
from asyncgen.cells import Matrix
from asyncgen.errors import InputError
from asyncgen.expansion import Chooser, requests_of
from asyncgen.request import ImageRequest, parse_request
from asyncgen.wildcards import wildcards_of

log = logging.getLogger(__name__)


class MatrixRequests(Iterable[ImageRequest]):
    """The requests of prompts in a matrix, made as they are read; as often as the prompts can be read."""

    def __init__(
        self,
        prompts: Iterable[str | Mapping[str, Any] | ImageRequest],
        matrix: Matrix,
        chooser: Chooser | None,
        usual_of: UsualOf = usual_by_name,
    ) -> None:
        self._usual_of = usual_of
        self._prompts, self._matrix, self._chooser = prompts, matrix, chooser
        self.can_be_read_again = isinstance(prompts, Sequence)
        self._told: set[str] = set()

    def in_run(self, usual_of: UsualOf) -> MatrixRequests:
        """The same, for a run that tells what its workflows have by themselves. Raises `InputError`."""
        for note in self._matrix.notes(usual_of):
            if note not in self._told:
                log.warning("%s", note)
            self._told.add(note)
        return MatrixRequests(self._prompts, self._matrix, self._chooser, usual_of)

    def __iter__(self) -> Iterator[ImageRequest]:
        for number, prompt in enumerate(self._prompts, start=1):
            try:
                yield from requests_of(self._matrix, parse_request(prompt), self._chooser, self._usual_of)
            except InputError as error:
                raise (error if error.where else error.at(f"prompt {number}")) from None


def matrix(
    prompts: Iterable[str | Mapping[str, Any] | ImageRequest],
    *,
    styles: Sequence[str | int] = (),
    characters: Sequence[str | Sequence[str]] = (),
    sizes: Sequence[str | Sequence[int]] = (),
    workflows: Sequence[str] = (),
    seeds: int | Sequence[int] | None = None,
    control: bool = False,
    variables: Mapping[str, Sequence[Any]] | None = None,
    include: Sequence[Mapping[str, Any]] = (),
    exclude: Sequence[Mapping[str, Any]] = (),
    wildcards: str | None = None,
    wildcards_folder: Path | str | None = None,
    **fields: Any,
) -> MatrixRequests:
    """Every prompt in every style, character set, size, workflow and seed, for `generate_many` and `stream_many`.

    `characters` are sets, `"A,B:0.8"` or a list of names, `"none"` the empty one; `sizes` are `"1024x768"` or two
    numbers; `seeds` is how many seeds are derived from each prompt, or a list of seeds. `control` adds cells without
    style and LoRAs. `variables` are values for `{name}` in prompts. `exclude` and `include` are partial cells such as
    `{"style": "16", "size": "1024x768"}`; what an include says beyond that is added to the cells that it fits, and
    where it fits none it is a cell of its own. `wildcards`, "random" or "combinatorial", resolves choices such as
    `{red|green}` and wildcards of files in a folder, with the `wildcards` extra. `fields` hold for each prompt that
    does not say otherwise.

    Raises `InputError` for axes that are wrong; a prompt that is wrong is told when it is read.
    """
    if isinstance(prompts, str | Mapping | ImageRequest):
        raise InputError(f"give a list of prompts, not a single {type(prompts).__name__}", field="prompts")
    chosen = axes(
        styles=styles,
        characters=characters,
        sizes=sizes,
        workflows=workflows,
        seeds=seeds,
        control=control,
        variables=variables,
        include=include,
        exclude=exclude,
    )
    folder = None if wildcards_folder is None else Path(wildcards_folder)
    return MatrixRequests(prompts, Matrix(chosen, fields), wildcards_of(wildcard_mode(wildcards), folder))
