"""Logging through the standard library: every line of a job carries its request id, and no line carries a key."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Final

from asyncgen.errors import InputError

#: The request id of the job that the current task works on.
request_id: Final[ContextVar[str | None]] = ContextVar("asyncgen_request_id", default=None)

_TEXT: Final = "%(asctime)s %(levelname)-7s %(request)s%(message)s"
_REDACTED: Final = "[key]"
_SHORTEST_SECRET: Final = 6


@contextmanager
def of_job(request: str) -> Iterator[None]:
    """Log lines of the block carry this request id."""
    token = request_id.set(request)
    try:
        yield
    finally:
        request_id.reset(token)


class _Redacting(logging.Formatter):
    """Replaces secrets wherever they stand, in tracebacks too: a server may echo what it was sent."""

    def __init__(self, secrets: tuple[str, ...]) -> None:
        super().__init__(_TEXT)
        self.converter = time.gmtime
        long_enough = {secret for secret in map(str.strip, secrets) if len(secret) >= _SHORTEST_SECRET}
        self._secrets = sorted(long_enough, key=len, reverse=True)  # one may begin with another

    def format(self, record: logging.LogRecord) -> str:
        request = request_id.get()
        record.request = f"{request} " if request else ""
        return self.redacted(super().format(record))

    def redacted(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, _REDACTED)
        return text


class _RedactingJson(_Redacting):
    """One JSON object a line: time (UTC), level, logger, request_id, message, and the traceback where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)),
            "level": record.levelname,
            "logger": record.name,
            "request_id": request_id.get(),
            "message": self.redacted(record.getMessage()),  # before JSON writes its characters in another way
        }
        if record.exc_info:
            entry["traceback"] = self.redacted(self.formatException(record.exc_info))
        return json.dumps(entry, ensure_ascii=False)


def configure(
    level: int, *, file: Path | None = None, as_json: bool = False, secrets: tuple[str, ...] = ()
) -> logging.Handler:
    """Send asyncgen's log lines of `level` and above to a file, else to standard error. For the command line only.

    Returns the handler, so that a live display can take the place of standard error. Raises `InputError` for a file
    that cannot be written: without it the first line to be logged would stop the run.
    """
    try:
        handler: logging.Handler = (
            logging.StreamHandler() if file is None else logging.FileHandler(file, encoding="utf-8")
        )
    except OSError as error:
        raise InputError(f"cannot write {file}: {error.strerror}", field="log_file") from error
    handler.setFormatter((_RedactingJson if as_json else _Redacting)(secrets))
    logger = logging.getLogger("asyncgen")
    for before in logger.handlers:  # a command that runs twice opens its log file twice
        before.close()
    logger.handlers[:] = [handler]
    logger.setLevel(level)
    logger.propagate = False
    return handler
