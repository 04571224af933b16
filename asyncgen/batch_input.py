"""What the input of a batch comes to: the options of a command and, where there is one, a batch file, put together."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from asyncgen.axes import Axes, axes
from asyncgen.batch_file import BatchFile, WildcardMode, is_batch_file, read_batch_file, wildcard_mode
from asyncgen.captions import CaptionFolder
from asyncgen.cell_ids import UsualOf
from asyncgen.cells import Matrix
from asyncgen.errors import InputError
from asyncgen.expansion import Chooser, PromptRows
from asyncgen.parquet import ParquetRows
from asyncgen.prompts import PromptFile, PromptFormat, format_of
from asyncgen.wildcards import wildcards_of

InputFormat: TypeAlias = PromptFormat | Literal["parquet", "captions"]
STDIN: Final = "-"
_MOST_BYTES: Final = 16 * 1024 * 1024


@dataclass(frozen=True)
class BatchInput:
    """Where prompts come from, `prompts` being JSON lines where they stand in a batch file, and what is made of them.

    `name` is told in errors, `batch_name` is the set's unless another is given. `fields` hold for rows that say
    nothing; fields of the command win over those of the file, as its axes do. `matrix` None: each row is made as it is.
    """

    file: str
    format: InputFormat
    name: str
    batch_name: str
    is_batch_file: bool = False
    prompts: tuple[str, ...] | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    axes: Axes = field(default_factory=Axes)
    template: str | None = None
    wildcards: WildcardMode | None = None
    wildcards_folder: Path | None = None

    @property
    def is_stream(self) -> bool:
        """Whether it can be read only once."""
        return self.file == STDIN and self.prompts is None

    @cached_property
    def matrix(self) -> Matrix | None:
        """The cells of each row. Raises `InputError`."""
        several = self.axes.is_matrix or self.is_batch_file or self.wildcards is not None
        if several or self.axes.sizes:  # one size is in a request only where the row's workflow has another
            return Matrix(self.axes, self.fields, is_single=not several)
        return None

    @cached_property
    def chooser(self) -> Chooser | None:
        """What resolves the choices of prompts; None: they are plain text. Raises `InputError`."""
        return wildcards_of(self.wildcards, self.wildcards_folder)

    def samples(self, usual_of: UsualOf) -> list[dict[str, Any]]:
        """The fields that requests may have in common, one for each way that a row is made. Raises `InputError`."""
        if self.matrix is None:
            return [dict(self.fields)]
        different = {tuple(map(repr, (cell.fields, cell.usual))): cell for cell in self.matrix.cells}
        shared = self.matrix.shared
        own = [(cell, {**cell.usual, **cell.fields}) for cell in different.values()]
        usuals = [usual_of({**shared, **fields}.get("workflow")) for _, fields in own]
        return [{**cell.of_shared(shared, usual), **fields} for (cell, fields), usual in zip(own, usuals, strict=True)]


def read_input(
    file: str,
    format: str | None,
    given: Mapping[str, Any],
    matrix: Mapping[str, Any],
    template: str | None,
    wildcards: str | None,
    wildcards_folder: Path | None,
) -> BatchInput:
    """The input that a file (`-`: standard input), its format, fields and axes stand for.

    `matrix` are arguments of `asyncgen.axes.axes`. Raises `InputError`.
    """
    chosen, mode = axes(**matrix), wildcard_mode(wildcards)
    if not is_batch_file(file):
        plain = BatchInput(
            file=file,
            format=_format(file, format),
            name="stdin" if file == STDIN else file,
            batch_name="stdin" if file == STDIN else _stem(Path(file)),
            fields=given,
            axes=_with_paths(chosen, Path()),
            template=template,
            wildcards=mode,
            wildcards_folder=wildcards_folder,
        )
        return replace(plain, fields=_with_single(plain))
    path, said = Path(file), _read(file)
    from_list = not isinstance(said.prompts, str)
    prompts = file if from_list else str(path.parent / str(said.prompts))
    return BatchInput(
        file=prompts,
        format="jsonl" if from_list else _format(prompts, format),
        name=f"{file} prompts" if from_list else prompts,
        batch_name=path.stem,
        is_batch_file=True,
        prompts=said.prompts if isinstance(said.prompts, tuple) else None,
        fields={**said.defaults, **given},
        axes=_over(_with_paths(said.axes, path.parent), _with_paths(chosen, Path())),
        template=template or said.template,
        wildcards=mode or said.wildcards,
        wildcards_folder=wildcards_folder or (path.parent / said.wildcards_folder if said.wildcards_folder else None),
    )


@contextmanager
def opened(said: BatchInput, digest: bytes, *, takes_text: bool) -> Iterator[PromptRows]:
    """The rows of an input as they stand there; `digest` is for their keys. Raises `InputError`.

    `takes_text`: whether a workflow of the run takes a prompt.
    """
    given: dict[str, Any] = {"template": said.template, "declared": said.axes.variables, "takes_text": takes_text}
    if said.format == "captions":
        yield CaptionFolder(Path(said.file), said.name, digest)
    elif said.format == "parquet":
        with ParquetRows(Path(said.file), said.name, digest, **given) as rows:
            yield rows
    else:
        with _lines(said) as lines:
            yield PromptFile(lines, said.format, said.name, digest, **given)


@contextmanager
def _lines(said: BatchInput) -> Iterator[Iterable[str]]:
    if said.prompts is not None:
        yield said.prompts
        return
    if said.is_stream:
        # Not `sys.stdin`, and never closed: the thread that reads it may wait for a line until the process ends.
        yield open(sys.stdin.fileno(), encoding="utf-8", errors="surrogateescape", newline="", closefd=False)  # noqa: SIM115 - as said
        return
    try:
        with Path(said.file).open(encoding="utf-8", errors="surrogateescape", newline="") as lines:
            yield lines
    except OSError as error:
        message = f"cannot be read ({error.strerror}): name a .txt, .csv, .jsonl or .parquet file, or a folder"
        raise InputError(message, where=said.file) from error


def _stem(path: Path) -> str:
    return path.resolve().name if path.is_dir() else path.stem


def _with_single(plain: BatchInput) -> Mapping[str, Any]:
    """Axes of one value are fields like any other where they make no matrix."""
    if plain.matrix is not None or plain.axes == Axes():
        return plain.fields
    return Matrix(plain.axes, plain.fields).shared


def _read(file: str) -> BatchFile:
    try:
        with Path(file).open(encoding="utf-8") as lines:
            text = lines.read(_MOST_BYTES + 1)
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=file) from error
    except UnicodeDecodeError:
        raise InputError("is not UTF-8: save the file in that encoding", where=file) from None
    if len(text) > _MOST_BYTES:
        raise InputError("is too large for a batch file: keep the prompts in a file of their own", where=file)
    return read_batch_file(text, file)


def _format(file: str, format: str | None) -> InputFormat:
    if file != STDIN and Path(file).is_dir():
        return "captions"
    chosen = Path(file).suffix.lower() if format is None else f".{format.lower()}"
    if chosen == ".parquet":
        if file == STDIN:
            raise InputError("Parquet cannot be read from standard input: name a file", field="--format")
        return "parquet"
    if format is not None:
        return format_of(f"prompts.{format}")
    return "txt" if file == STDIN else format_of(file)


def _over(said: Axes, chosen: Axes) -> Axes:
    """What the command says of an axis replaces what the file says of it."""
    changed = {one.name: value for one in fields(Axes) if (value := getattr(chosen, one.name))}
    if chosen.seeds:
        changed["own_seeds"] = chosen.own_seeds
    return replace(said, **changed)


def _with_paths(said: Axes, folder: Path) -> Axes:
    """A workflow that is a file of that folder by its path, wherever it is named."""

    def path(name: object) -> object:
        file = folder / str(name)
        return str(file.resolve()) if file.is_file() else name

    def entries(given: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, Any], ...]:
        return tuple({key: path(value) if key == "workflow" else value for key, value in one.items()} for one in given)

    workflows = tuple(str(path(name)) for name in said.workflows)
    return replace(said, workflows=workflows, include=entries(said.include), exclude=entries(said.exclude))
