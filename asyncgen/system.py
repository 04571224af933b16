"""The real clock and threads behind the ports, and the wiring of all real ports."""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import aiofiles.os
import anyio

from asyncgen.disk import RealDisk
from asyncgen.ports import Ports, Transport

T = TypeVar("T")
_FILE_THREADS = 4


class SystemClock:
    """Monotonic time for pacing, Unix time for records, anyio's sleep."""

    def now(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)


class FileThreads:
    """Runs a blocking function on aiofiles' way to disk: one hop for a whole picture, not one for each file call."""

    def __init__(self, executor: ThreadPoolExecutor) -> None:
        self._executor = executor

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        result: T = await _call_on_file_thread(function, *args, executor=self._executor)
        return result


def _call(function: Callable[..., T], *args: Any) -> T:
    return function(*args)


_call_on_file_thread = aiofiles.os.wrap(_call)  # made once: wrapping takes as long as the hop


class OneThread:
    """Runs blocking functions one after the other on a thread of their own, as SQLite connections want it."""

    def __init__(self, executor: ThreadPoolExecutor) -> None:
        self._executor = executor

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, function, *args)


class _NamedFileConnection(sqlite3.Connection):
    """Commits only while its file is where it was opened: SQLite writes on to a file that has lost its name."""

    def watch(self, path: Path) -> None:
        """The file that was opened."""
        self._path, self._opened = path, path.stat()

    def commit(self) -> None:
        try:
            is_there = os.path.samestat(self._opened, self._path.stat())
        except OSError:
            is_there = False
        if not is_there:
            raise sqlite3.OperationalError("its file was moved or removed under the run")
        super().commit()


def connect_to_ledger(path: Path) -> sqlite3.Connection:
    """The writing connection; the file is made if need be. Raises `sqlite3.Error` before a damaged one is changed."""
    if path.exists():
        _check_whole(path)
    connection = sqlite3.connect(path, isolation_level=None, timeout=10.0, factory=_NamedFileConnection)
    connection.watch(path)
    return connection


def _check_whole(path: Path) -> None:
    """Look at every page, which takes some 3 s for a million images, through a connection that cannot write.

    A writing one would empty the write-ahead log into the damaged file as soon as it is closed.
    """
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
        (problem,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if problem != "ok":
        raise sqlite3.DatabaseError(f"database disk image is malformed: {problem}")


@asynccontextmanager
async def real_ports(transport: Transport, ledger_path: Path, output_root: Path | None = None) -> AsyncIterator[Ports]:
    """The ports of a production run; its threads end with the block. `output_root`: see `RealDisk`."""
    with (
        ThreadPoolExecutor(_FILE_THREADS, "asyncgen-files") as file_executor,
        ThreadPoolExecutor(1, "asyncgen-ledger") as ledger_executor,
    ):
        rng = random.Random()  # noqa: S311 - seeds and jitter, no secrets; begins from the system's entropy
        yield Ports(
            transport=transport,
            clock=SystemClock(),
            rng=rng,
            new_hex8=lambda: f"{rng.getrandbits(32):08x}",
            disk=RealDisk(output_root),
            file_threads=FileThreads(file_executor),
            ledger_thread=OneThread(ledger_executor),
            connect=partial(connect_to_ledger, ledger_path),
        )
