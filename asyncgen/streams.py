"""Standard output and standard error, either of which may be closed, full, or a pipe that nobody reads any more."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO, TextIO, cast


class OutputError(Exception):
    """Standard output cannot be written. Never leaves the command line."""


class Output:
    """Standard output for whoever prints. After its first error it is a file that forgets what is written to it.

    That error is raised as `OutputError`; in the output of a run, which must not end for it, it is told on standard
    error and remembered in `failed`.
    """

    def __init__(self, *, of_run: bool = False) -> None:
        self.failed = False
        self._of_run = of_run
        self._stream: TextIO | None = sys.stdout  # None: it was closed before we began

    @property
    def file(self) -> IO[str]:
        """Itself, for libraries: it has what they use of a file."""
        return cast("IO[str]", self)

    @property
    def encoding(self) -> str:
        """Of the stream; decides which characters rich draws with."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        """Whether somebody looks at it."""
        return self._stream is not None and self._stream.isatty()

    def write(self, text: str) -> int:
        """Write a text, buffered. Raises `OutputError` unless it is a run's."""
        if self._stream is None:
            self._fail(OSError(errno.EBADF, os.strerror(errno.EBADF)))
        else:
            self._attempt(partial(self._stream.write, text))
        return len(text)

    def flush(self) -> None:
        """Write what is buffered. Raises `OutputError` unless it is a run's."""
        if self._stream is not None:
            self._attempt(self._stream.flush)

    def line(self, text: str) -> None:
        """Write a line, at once. Raises `OutputError` unless it is a run's."""
        self.write(f"{text}\n")
        self.flush()

    def _attempt(self, action: Callable[[], object]) -> None:
        if self.failed:
            return
        try:
            action()
        except OSError as error:
            self._fail(error)

    def _fail(self, error: OSError) -> None:
        if self.failed:
            return
        self.failed = True
        words = give_up(self._stream, error)
        if not self._of_run:
            raise OutputError(words) from None
        complain(words)


def give_up(stream: TextIO | None, error: OSError) -> str:
    """Let standard output forget what is written to it from now on, for this error; the words for it.

    What is still buffered must go somewhere: Python writes it when it ends, and would complain of the same error.
    """
    if stream is not None:
        with suppress(OSError), Path(os.devnull).open("wb") as nowhere:  # there may be no file behind it
            os.dup2(nowhere.fileno(), stream.fileno())
    return f"standard output cannot be written ({error.strerror})"


def complain(text: str) -> None:
    """One line about what is wrong."""
    tell(f"asyncgen: {text}")


def tell(text: str) -> None:
    """One line on standard error, for people; lost where that cannot be written either."""
    with suppress(OSError):
        if sys.stderr is not None:
            print(text, file=sys.stderr)  # noqa: T201 - this is where it is printed


def is_terminal(stream: TextIO | None) -> bool:
    """Whether somebody sits at it; None is a stream that was closed before we began."""
    return stream is not None and stream.isatty()
