"""The real clock and threads behind the ports, and the wiring of all real ports."""

from __future__ import annotations

import asyncio
import random
import secrets
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import aiofiles.os
import anyio

from asyncgen.disk import RealDisk
from asyncgen.ports import Ports, Transport

T = TypeVar("T")
_FILE_THREADS = 4  # fsync waits on the device, not on the CPU: a few overlap well


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
        result: T = await aiofiles.os.wrap(function)(*args, executor=self._executor)
        return result


class OneThread:
    """Runs blocking functions one after the other on a thread of their own, as SQLite connections want it."""

    def __init__(self, executor: ThreadPoolExecutor) -> None:
        self._executor = executor

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, function, *args)


@asynccontextmanager
async def real_ports(transport: Transport, ledger_path: Path) -> AsyncIterator[Ports]:
    """The ports of a production run; its threads end with the block."""

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(ledger_path, isolation_level=None, timeout=10.0)

    with (
        ThreadPoolExecutor(_FILE_THREADS, "asyncgen-files") as file_executor,
        ThreadPoolExecutor(1, "asyncgen-ledger") as ledger_executor,
    ):
        yield Ports(
            transport=transport,
            clock=SystemClock(),
            rng=random.SystemRandom(),
            new_hex8=lambda: secrets.token_hex(4),
            disk=RealDisk(),
            file_threads=FileThreads(file_executor),
            ledger_thread=OneThread(ledger_executor),
            connect=connect,
        )
