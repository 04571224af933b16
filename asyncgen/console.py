"""How commands speak: tables and JSON on standard output, complaints on standard error, and their exit code."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from functools import wraps
from typing import Final, ParamSpec

from rich.console import Console
from rich.table import Table

from asyncgen.errors import AsyncgenError
from asyncgen.exits import Exit, of_error

P = ParamSpec("P")
_PIPE_WIDTH: Final = 240


def with_exit_code(command: Callable[P, Exit]) -> Callable[P, Exit]:
    """Errors made on purpose become a line and an exit code; anything else is a bug, and shows its traceback."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> Exit:
        try:
            return command(*args, **kwargs)
        except AsyncgenError as error:
            complain(str(error))
            return of_error(error)
        except KeyboardInterrupt:
            return Exit.STOPPED
        except Exception:
            traceback.print_exc()
            complain("this is a bug of asyncgen's: please report it with the lines above; the ledger is true")
            return Exit.BUG

    return run


def complain(text: str) -> None:
    """One line about what is wrong."""
    print(f"asyncgen: {text}", file=sys.stderr)  # noqa: T201 - errors go to standard error


def print_json(value: object) -> None:
    """One JSON value, on a line of its own."""
    print(json.dumps(value, ensure_ascii=False))  # noqa: T201 - this is the output


def new_console() -> Console:
    """A console whose tables are not squeezed where nobody looks at them: in pipes and files."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else _PIPE_WIDTH)


def new_table(*columns: str) -> Table:
    """A table of columns without borders, whose values are folded rather than cut."""
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def text_of(value: object) -> str:
    """A value in a table; None is a dash."""
    return "–" if value is None else str(value)


def utc(unix_seconds: float) -> str:
    """Unix time as date and time of day, UTC."""
    return datetime.fromtimestamp(unix_seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
