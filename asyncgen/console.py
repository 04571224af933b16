"""How commands speak: tables and JSON on standard output, complaints on standard error, and their exit code."""

from __future__ import annotations

import json
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from functools import wraps
from typing import Final, ParamSpec

from rich.console import Console
from rich.table import Table
from rich.text import Text

from asyncgen.errors import AsyncgenError
from asyncgen.exits import Exit, of_error
from asyncgen.streams import Output, OutputError, complain, is_terminal, tell

P = ParamSpec("P")
_PIPE_WIDTH: Final = 240


def with_exit_code(command: Callable[P, Exit]) -> Callable[P, Exit]:
    """Errors made on purpose become a line and an exit code; anything else is a bug, and shows its traceback."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> Exit:
        try:
            _take_interrupts()
            code = command(*args, **kwargs)
            Output().flush()  # while its error can still be told
            return code
        except AsyncgenError as error:
            complain(str(error))
            return of_error(error)
        except OutputError as error:
            complain(str(error))
            return Exit.UNUSABLE
        except KeyboardInterrupt:
            return Exit.STOPPED
        except Exception:
            tell(traceback.format_exc())
            complain("this is a bug of asyncgen's: please report it with the lines above; the ledger is true")
            return Exit.BUG

    return run


def _take_interrupts() -> None:
    """From here on Ctrl-C raises `KeyboardInterrupt`; so far it has ended the process (`asyncgen.__main__`)."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)


def can_ask() -> bool:
    """Whether somebody sits at both ends of a terminal."""
    return is_terminal(sys.stdin) and is_terminal(sys.stdout)


def ask(question: str) -> bool:
    """A question that is answered with yes or no; no answer is a no, and so are Ctrl-C and the end of input."""
    try:
        output = Output()  # `input` would ask on standard error
        output.write(f"{question} [y/N] ")
        output.flush()
        return input().strip().lower() in ("y", "yes")
    except (EOFError, KeyboardInterrupt):
        say("")  # what is written next begins a line of its own
        return False


def print_json(value: object) -> None:
    """One JSON value, on a line of its own."""
    Output().write(f"{json.dumps(value, ensure_ascii=False)}\n")


def say(text: str) -> None:
    """One line, at once."""
    Output().line(text)


def printable(text: str) -> str:
    """A text out of a file that comes from anywhere: what would move a terminal's cursor is shown as what it is."""
    return "".join(mark if mark.isprintable() or mark == "\n" else repr(mark)[1:-1] for mark in text)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str | None]]) -> None:
    """A table without borders. Values are folded rather than cut, and are never read as markup; None is a dash.

    In pipes and files, where nobody looks at it, it is not squeezed into the width of a terminal.
    """
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text("–" if value is None else value) for value in row))
    output = Output()
    Console(file=output.file, highlight=False, width=None if output.isatty() else _PIPE_WIDTH).print(table)


def utc(unix_seconds: float) -> str:
    """Unix time as date and time of day, UTC."""
    return datetime.fromtimestamp(unix_seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
