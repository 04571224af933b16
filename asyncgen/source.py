"""The input of `asyncgen batch`: a prompt file, looked at whole before anything is sent, or a stream as it comes."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, closing, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from asyncgen.api import ImageGenerator
from asyncgen.batch_input import opened, read_input
from asyncgen.cell_ids import usual_by_name
from asyncgen.display import Display
from asyncgen.errors import InputError
from asyncgen.expansion import Expansion, PromptRows
from asyncgen.intake import BLOCK, IndexedWant, Intake, TakeKept
from asyncgen.prompts import BadRow, RawRow, Row
from asyncgen.records import Want
from asyncgen.resume import KnownRows, known_rows
from asyncgen.streams import complain

T = TypeVar("T")
_MOST_BAD_ROWS_SHOWN: Final = 20
_READ_AHEAD_ROWS: Final = 64
_LOOKED_AT_ONCE: Final = 32  # rows whose pictures are downloaded together


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """What `asyncgen batch` is told about its input: `-` is standard input, `fields` hold for rows that say nothing.

    `matrix` are arguments of `asyncgen.axes.axes`, `template` is the prompt of rows that have only variables,
    and `wildcards` how their choices are resolved, None: not at all.
    """

    file: str
    format: str | None
    limit: int | None
    skip_bad: bool
    fields: Mapping[str, Any]
    matrix: Mapping[str, Any] = field(default_factory=dict)
    template: str | None = None
    wildcards: str | None = None
    wildcards_folder: Path | None = None


class Source:
    """The input of a batch: a file, which is looked at whole before anything is sent, or a stream.

    Raises `InputError` for options or a batch file that are wrong.
    """

    def __init__(self, options: SourceOptions) -> None:
        self._options = options
        self._input = read_input(
            options.file,
            options.format,
            options.fields,
            options.matrix,
            options.template,
            options.wildcards,
            options.wildcards_folder,
        )
        self._matrix, self._chooser = self._input.matrix, self._input.chooser
        self.is_stream, self.batch_name = self._input.is_stream, self._input.batch_name
        self.skipped = 0
        self.has_kept_rows = False  # which were not planned when it was looked through
        self._has_id_twice = False
        self._template_is_used = False
        self._without_text: set[str] = set()  # workflows that take no text, and were given some

    def validate(self, generator: ImageGenerator, shown: Display, batch_name: str) -> int | None:
        """Count the wanted jobs, planning every row that the batch does not know to be there.

        None, with each bad row told, if any is bad and none may be.
        """
        with known_rows(generator.ledger_path, batch_name) as known:
            try:
                total, bad = self._look_through(generator, known)
            except IdTwiceError:  # where, only who reads every row can tell
                total, bad = self._look_through(generator, None)
        self.skipped = len(bad)
        for error in bad[:_MOST_BAD_ROWS_SHOWN]:
            complain(str(error))
        if len(bad) > _MOST_BAD_ROWS_SHOWN:
            complain(f"and {len(bad) - _MOST_BAD_ROWS_SHOWN} more")
        refusal = None
        if bad and not self._options.skip_bad:
            refusal = f"{len(bad)} bad rows, nothing was sent: mend them, or leave them out with --skip-bad"
        elif bad:
            shown.notice(f"{len(bad)} bad rows are left out")
        if total == 0 and refusal is None:
            refusal = f"{self.name}: there is no prompt in it"
        if refusal is None:
            return total
        complain(refusal)
        shown.refused(refusal, [str(error) for error in bad] or [refusal])
        return None

    def _look_through(self, generator: ImageGenerator, known: KnownRows | None) -> tuple[int, list[InputError]]:
        """The number of wanted jobs, and what is wrong with the bad rows."""
        bad: list[InputError] = []
        return self.look_through(generator, known, bad.append), bad

    def look_through(
        self,
        generator: ImageGenerator,
        known: Known | None,
        on_bad: Callable[[InputError], None],
        on_wants: Callable[[str, list[Want]], None] | None = None,
    ) -> int:
        """Read the whole input, and count the wanted jobs; `on_wants` is told those of each planned row and its place.

        Raises `IdTwiceError` where a row has the id of one that `known` has taken: look once more, with None.
        """
        intake = self._intake(generator, skip_bad=True, on_bad=on_bad)
        total = 0
        with self._open(generator) as file:
            while block := list(islice(file.rows, BLOCK)):
                kept = {} if known is None else known.take([row.key for row in block if isinstance(row, RawRow)])
                total += sum(kept.values())
                self.has_kept_rows = self.has_kept_rows or bool(kept)
                others = (row for row in block if not (isinstance(row, RawRow) and kept.pop(row.key, 0)))
                while parsed := list(map(file.parse, islice(others, _LOOKED_AT_ONCE))):
                    intake.look_at_pictures(parsed)
                    for row in parsed:
                        wants = _planned(intake, row, known)
                        total += len(wants)
                        self._note_template(row)
                        self._note_prompt(generator, row, wants)
                        if on_wants is not None and isinstance(row, Row) and wants:
                            on_wants(row.where or f"{self.name}:{row.line}", wants)
            self._has_id_twice = file.has_id_twice
        return total

    def _note_template(self, row: Row | BadRow) -> None:
        made = row.request if isinstance(row, Row) else None
        if made is not None and self._input.template in (made.template, made.prompt):
            self._template_is_used = True

    def _note_prompt(self, generator: ImageGenerator, row: Row | BadRow, wants: list[Want]) -> None:
        if isinstance(row, Row) and row.request.prompt and wants:
            template = generator.planner.template(row.request.workflow)
            if not template.binds("positive_prompt"):
                self._without_text.add(template.name)

    @property
    def unused_texts(self) -> list[str]:
        """Words about texts that went nowhere, once all of the input has been looked through."""
        prompts = [
            f"the prompts of rows are left out for {name}: it takes no text" for name in sorted(self._without_text)
        ]
        return [*filter(None, [self._unused_template]), *prompts]

    @property
    def _unused_template(self) -> str | None:
        """Words about a template that no row has needed, once all of the input has been looked through, else None."""
        if self._input.template is None or self._template_is_used or self.has_kept_rows or self.is_stream:
            return None
        return "the template is not used: every row has a prompt of its own"

    async def chunks(
        self, generator: ImageGenerator, take_kept: TakeKept | None
    ) -> AsyncGenerator[list[IndexedWant], None]:
        """The planned rows, read lazily. A stream's bad rows are told as they come, if they may be skipped.

        Rows of a file that `take_kept` takes are left out; None: it takes none.
        """

        def tell(error: InputError) -> None:
            self.skipped += 1
            complain(str(error))

        on_bad = tell if self.is_stream else None
        intake = self._intake(generator, skip_bad=self._options.skip_bad, on_bad=on_bad)
        ports = generator.workspace.ports
        with self._open(generator) as file:
            if self.is_stream:
                planned = intake.of_prompts(_arriving(map(file.parse, file.rows)), ports)
            else:
                # A row that is left out because its id comes twice must be found by its id.
                planned = intake.of_rows(file.rows, file.parse, ports, None if self._has_id_twice else take_kept)
            async with aclosing(planned) as chunks:
                async for chunk in chunks:
                    yield chunk

    @property
    def name(self) -> str:
        """What errors call it."""
        return self._input.name

    def samples(self, generator: ImageGenerator) -> list[dict[str, Any]]:
        """The fields that rows may have in common, for each way that a row is made. Raises `InputError`."""
        return self._input.samples(generator.planner.usual)

    def notes(self, generator: ImageGenerator) -> list[str]:
        """What its owner should know of options that hold for all rows. Raises `InputError`."""
        return [] if self._matrix is None else self._matrix.notes(generator.planner.usual)

    def _intake(
        self, generator: ImageGenerator, *, skip_bad: bool, on_bad: Callable[[InputError], None] | None
    ) -> Intake:
        """Rows of a matrix have been given what holds for all."""
        shared = self._input.fields if self._matrix is None else {}
        once = None if on_bad is None else _once(on_bad)
        return Intake(generator.planner, shared, name=self.name, skip_bad=skip_bad, on_bad=once)

    def _digest(self, generator: ImageGenerator) -> bytes:
        said, shared = self._input, self._input.fields if self._matrix is None else self._matrix.shared
        return generator.digest({**shared, "template": said.template, "declared": sorted(said.axes.variables)})

    def _takes_text(self, generator: ImageGenerator) -> bool:
        """Whether a workflow that is chosen for all rows takes a prompt."""
        workflows = {fields.get("workflow") for fields in self.samples(generator)}
        return any(generator.planner.template(name).binds("positive_prompt") for name in workflows)

    def look_for_bad_rows(self, on_bad: Callable[[InputError], None]) -> int:
        """Read the whole input as text alone, where nothing can be planned; how many rows there are."""
        count, tell = 0, _once(on_bad)
        with self._open(None) as file:
            for raw in file.rows:
                count += 1
                if isinstance(row := file.parse(raw), BadRow):
                    tell(row.error)
        return count

    @contextmanager
    def _open(self, generator: ImageGenerator | None) -> Iterator[_OpenFile]:
        """The input's rows, whose requests are those of the generator's workflow; None: as text alone."""
        digest, usual_of = (
            (b"", usual_by_name) if generator is None else (self._digest(generator), generator.planner.usual)
        )
        limit = self._options.limit
        takes_text = generator is not None and self._takes_text(generator)
        with opened(self._input, digest, takes_text=takes_text) as file, closing(_ids_table()) as ids:
            if self._matrix is None:
                yield _OpenFile(file, ids, limit)
            else:
                yield _OpenFile(Expansion(file, self._matrix, limit, self._chooser, usual_of), ids)


class _OpenFile:
    """The rows of an open file, up to its limit. `has_id_twice`: an id has come twice in those that were parsed."""

    def __init__(self, file: PromptRows, ids: sqlite3.Connection, limit: int | None = None) -> None:
        self.rows = file.rows() if limit is None else islice(file.rows(), limit)
        self._file, self._name, self._ids = file, file.name, ids
        self.has_id_twice = False

    def parse(self, raw: RawRow | BadRow) -> Row | BadRow:
        """The request of a row, a bad row where an id comes twice or no file is wanted."""
        row = self._file.parse(raw)
        if isinstance(row, BadRow):
            return row
        if row.request.id is not None and not self._is_new(row.request.id):
            self.has_id_twice = True
            return _bad_row(row, self._name, "id", "this id is used twice")
        if not row.request.save_to_style:
            return _bad_row(row, self._name, "save_to_style", "a picture in memory can only be had from Python")
        return row

    def _is_new(self, own_id: str) -> bool:
        return self._ids.execute("INSERT OR IGNORE INTO seen VALUES (?)", (own_id,)).rowcount > 0


class IdTwiceError(Exception):
    """A row has the id of one that was not read because its image is there. Never leaves the command line."""


class Known(Protocol):
    """What knows of rows whose images are there; see `asyncgen.resume.KnownRows`."""

    def take(self, row_keys: Sequence[bytes]) -> dict[bytes, int]: ...
    def meet(self, content_key: bytes) -> bool: ...


def _planned(intake: Intake, row: Row | BadRow, known: Known | None) -> list[Want]:
    wants = [indexed.want for indexed in intake.plan(row)]
    if known is not None and wants and wants[0].request.id is not None and known.meet(wants[0].content_key):
        raise IdTwiceError
    return wants


def _ids_table() -> sqlite3.Connection:
    """Ids are kept in a table that spills to disk."""
    connection = sqlite3.connect("", check_same_thread=False)  # rows are parsed by one thread at a time
    connection.execute("CREATE TABLE seen (id TEXT PRIMARY KEY) WITHOUT ROWID")
    return connection


def _bad_row(row: Row, name: str, field: str, message: str) -> BadRow:
    return BadRow(row.line, InputError(message, field=field, where=row.where or f"{name}:{row.line}"))


def _once(tell: Callable[[InputError], None]) -> Callable[[InputError], None]:
    """Tells what is wrong with a row once: it is found in every cell of a matrix, one after the other."""
    last = ""

    def told(error: InputError) -> None:
        nonlocal last
        if str(error) != last:
            tell(error)
        last = str(error)

    return told


async def _arriving(rows: Iterator[T]) -> AsyncGenerator[T, None]:
    """The rows of a stream, each as it comes, from a thread that nobody waits for: a pipe may stay silent for ever."""
    loop = asyncio.get_running_loop()
    arrived: asyncio.Queue[T | Exception | None] = asyncio.Queue()
    room = threading.Semaphore(_READ_AHEAD_ROWS)

    def hand_over(row: T | Exception | None) -> None:
        with suppress(RuntimeError):  # the loop is closed: the run has ended
            loop.call_soon_threadsafe(arrived.put_nowait, row)

    def read() -> None:
        try:
            for row in rows:
                room.acquire()
                hand_over(row)
        except Exception as error:
            hand_over(error)
        else:
            hand_over(None)

    threading.Thread(target=read, name="asyncgen-stdin", daemon=True).start()
    while (row := await arrived.get()) is not None:
        if isinstance(row, OSError):
            raise InputError(f"cannot be read further ({row.strerror})", where="stdin") from row
        if isinstance(row, Exception):
            raise row
        room.release()
        yield row
