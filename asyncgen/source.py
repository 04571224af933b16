"""The input of `asyncgen batch`: a prompt file, looked at whole before anything is sent, or a stream as it comes."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import threading
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any, Final, TypeVar

from asyncgen.api import ImageGenerator
from asyncgen.display import Display
from asyncgen.errors import InputError
from asyncgen.intake import IndexedWant, Intake
from asyncgen.prompts import BadRow, PromptFormat, Row, format_of, read_rows
from asyncgen.streams import complain

T = TypeVar("T")
_STDIN: Final = "-"
_MOST_BAD_ROWS_SHOWN: Final = 20
_READ_AHEAD_ROWS: Final = 64


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """What `asyncgen batch` is told about its input: `-` is standard input, `fields` hold for rows that say nothing."""

    file: str
    format: str | None
    limit: int | None
    skip_bad: bool
    fields: Mapping[str, Any]


class Source:
    """The input of a batch: a file, which is looked at whole before anything is sent, or a stream."""

    def __init__(self, options: SourceOptions) -> None:
        self._options = options
        self.is_stream = options.file == _STDIN
        self._format: PromptFormat = _format(options)
        self.batch_name = "stdin" if self.is_stream else Path(options.file).stem
        self.skipped = 0

    def validate(self, generator: ImageGenerator, shown: Display) -> int | None:
        """Count the wanted jobs, planning every row. None, with each bad row told, if any is bad and none may be."""
        bad: list[InputError] = []
        intake = Intake(generator.planner, self._options.fields, name=self._name, skip_bad=True, on_bad=bad.append)
        total = 0
        with self._open() as rows:
            for row in rows:
                total += len(intake.plan(row))
        self.skipped = len(bad)
        for error in bad[:_MOST_BAD_ROWS_SHOWN]:
            complain(str(error))
        if len(bad) > _MOST_BAD_ROWS_SHOWN:
            complain(f"and {len(bad) - _MOST_BAD_ROWS_SHOWN} more")
        if bad and not self._options.skip_bad:
            complain(f"{len(bad)} bad rows, nothing was sent: mend them, or leave them out with --skip-bad")
            return None
        if bad:
            shown.notice(f"{len(bad)} bad rows are left out")
        if total == 0:
            complain(f"{self._name}: there is no prompt in it")
            return None
        return total

    async def chunks(self, generator: ImageGenerator) -> AsyncGenerator[list[IndexedWant], None]:
        """The planned rows, read lazily. A stream's bad rows are told as they come, if they may be skipped."""

        def tell(error: InputError) -> None:
            self.skipped += 1
            complain(str(error))

        options = self._options
        intake = Intake(
            generator.planner,
            options.fields,
            name=self._name,
            skip_bad=options.skip_bad,
            on_bad=tell if self.is_stream else None,
        )
        ports = generator.workspace.ports
        with self._open() as rows:
            planned = intake.of_prompts(_arriving(rows), ports) if self.is_stream else intake.of_rows(rows, ports)
            async with aclosing(planned) as chunks:
                async for chunk in chunks:
                    yield chunk

    @property
    def _name(self) -> str:
        return "stdin" if self.is_stream else self._options.file

    @contextmanager
    def _open(self) -> Iterator[Iterator[Row | BadRow]]:
        with _opened(self._options.file) as lines:
            rows = _with_own_ids(read_rows(lines, self._format, self._name), self._name)
            yield rows if self._options.limit is None else islice(rows, self._options.limit)


def _with_own_ids(rows: Iterator[Row | BadRow], name: str) -> Iterator[Row | BadRow]:
    """The rows, bad ones where an id comes twice or no file is wanted. Ids are kept in a table that spills to disk."""
    with closing(sqlite3.connect("", check_same_thread=False)) as connection:  # rows are read by one thread at a time
        connection.execute("CREATE TABLE seen (id TEXT PRIMARY KEY) WITHOUT ROWID")
        insert = "INSERT OR IGNORE INTO seen VALUES (?)"
        for row in rows:
            own_id = row.request.id if isinstance(row, Row) else None
            if own_id is not None and connection.execute(insert, (own_id,)).rowcount == 0:
                yield _bad_row(row.line, name, "id", "this id is used twice")
            elif isinstance(row, Row) and not row.request.save_to_style:
                yield _bad_row(row.line, name, "save_to_style", "a picture in memory can only be had from Python")
            else:
                yield row


def _bad_row(line: int, name: str, field: str, message: str) -> BadRow:
    return BadRow(line, InputError(message, field=field, where=f"{name}:{line}"))


@contextmanager
def _opened(file: str) -> Iterator[IO[str]]:
    if file == _STDIN:
        # Not `sys.stdin`, and never closed: the thread that reads it may wait for a line until the process ends.
        yield open(sys.stdin.fileno(), encoding="utf-8", errors="surrogateescape", newline="", closefd=False)  # noqa: SIM115 - as said
        return
    try:
        with Path(file).open(encoding="utf-8", errors="surrogateescape", newline="") as lines:
            yield lines
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror}): name a .txt, .csv or .jsonl file", where=file) from error


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


def _format(options: SourceOptions) -> PromptFormat:
    if options.format is not None:
        return format_of(f"prompts.{options.format}")
    return "txt" if options.file == _STDIN else format_of(options.file)
