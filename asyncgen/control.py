"""The socket by which a process that owns an output root is told what to do: both of its ends.

A Unix-domain socket in the user's state folder, under a name made of a hash of the ledger's path. Folder and socket are
open to their owner alone. Whoever holds the root's lock makes the socket, so that one which is there already is left
over from a process that was killed.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import stat
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any, Final

import anyio

from asyncgen.control_messages import MAX_LINE_BYTES, Command, parse_command, parse_reply, to_line
from asyncgen.errors import AsyncgenError, InputError, LedgerLockedError
from asyncgen.ports import Clock

log = logging.getLogger(__name__)

Handle = Callable[[Command], Awaitable[Mapping[str, Any]]]
_LONGEST_PATH_BYTES: Final = 100  # 104 on macOS, 108 on Linux, with a NUL at the end
_CONNECTIONS: Final = 8
_IDLE_SECONDS: Final = 30.0
_STILL_WORKING_SECONDS: Final = 2.0
_ANSWER_SECONDS: Final = 30.0  # without a sign of life
_GONE: Final = (EOFError, ConnectionError)


def socket_path(ledger_path: Path, state_folder: Path) -> Path:
    """Where the owner of a ledger listens: in the state folder, or below the system's where that path is too long."""
    name = f"{hashlib.sha256(str(ledger_path.resolve()).encode()).hexdigest()[:24]}.sock"
    path = state_folder / "control" / name
    if len(os.fsencode(path)) <= _LONGEST_PATH_BYTES:
        return path
    return Path(tempfile.gettempdir()) / f"asyncgen-{os.getuid()}" / name


# -- the owner's end -----------------------------------------------------------------------------------------------


@asynccontextmanager
async def listening(path: Path, handle: Handle, clock: Clock) -> AsyncIterator[None]:
    """Take commands for the length of the block; where no socket can be made, without taking any."""
    limit = anyio.Semaphore(_CONNECTIONS)

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with limit:
            with suppress(*_GONE, TimeoutError), closing(writer):  # whoever leaves has left
                await _converse(reader, writer, handle, clock)

    async with anyio.create_task_group() as tasks:

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            tasks.start_soon(converse, reader, writer)

        # asyncio's sockets: anyio's complain in the log when they are cancelled just as something comes in.
        try:
            _prepare(path)
            server = await asyncio.start_unix_server(accept, path, limit=MAX_LINE_BYTES)
            _close_to_others(path)
        except (OSError, NotImplementedError) as error:
            log.warning("no commands are taken: %s cannot be a socket (%s)", path, error)
            yield
            return
        try:
            yield
        finally:
            server.close()
            tasks.cancel_scope.cancel()
            _remove(path)


def _prepare(path: Path) -> None:
    """A folder that is ours alone, and no socket of a process that was killed. Raises OSError."""
    _check_folder(path.parent)
    _remove(path)


def _close_to_others(path: Path) -> None:
    path.chmod(0o600)


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def _check_folder(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if _check_owner(folder) & 0o077:
        folder.chmod(0o700)


def _check_owner(folder: Path) -> int:
    """The folder's mode. Raises OSError where it is not ours: somebody else would hear what is said there."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise PermissionError(f"{folder} is somebody else's")
    return found.st_mode


async def _converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, handle: Handle, clock: Clock) -> None:
    """Answer the commands of one client, one after the other."""
    while True:
        try:
            with anyio.fail_after(_IDLE_SECONDS):
                line = await reader.readuntil(b"\n")
        except asyncio.LimitOverrunError:
            await _send(writer, {"error": f"a line is longer than {MAX_LINE_BYTES:,} bytes"})
            return
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_tell_working, writer, clock)
            reply = await _answer(line, handle)
            tasks.cancel_scope.cancel()
        await _send(writer, reply)


async def _send(writer: asyncio.StreamWriter, message: Command | Mapping[str, Any]) -> None:
    writer.write(to_line(message))
    await writer.drain()


async def _answer(line: bytes, handle: Handle) -> Mapping[str, Any]:
    """What became of a command. A bug of ours in one must not end the run that it was meant for."""
    try:
        return await handle(parse_command(line))
    except AsyncgenError as error:
        return {"error": str(error)}
    except Exception:
        log.exception("this is a bug of asyncgen's: please report it with these lines; the run goes on")
        return {"error": "a bug of asyncgen's, which the log of the run tells"}


async def _tell_working(writer: asyncio.StreamWriter, clock: Clock) -> None:
    """A client that leaves does not undo what it has asked for."""
    with suppress(*_GONE):
        while True:
            await clock.sleep(_STILL_WORKING_SECONDS)
            await _send(writer, {"working": True})


# -- the other end -------------------------------------------------------------------------------------------------


class Owner:
    """The process that owns a ledger, to be told what to do."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def ask(self, command: Command) -> dict[str, Any]:
        """Its answer, once the command is in effect or durable.

        Raises `InputError` with its words where it refuses, `LedgerLockedError` where it does not answer.
        """
        try:
            await _send(self._writer, command)
            while "working" in (reply := await self._reply()):
                pass
        except (*_GONE, TimeoutError, asyncio.LimitOverrunError) as error:
            raise LedgerLockedError(
                f"the process that owns the run does not answer ({type(error).__name__}): `asyncgen queue` shows what "
                "is so"
            ) from error
        if "error" in reply:
            raise InputError(str(reply["error"]))
        return reply

    async def _reply(self) -> dict[str, Any]:
        with anyio.fail_after(_ANSWER_SECONDS):
            return parse_reply(await self._reader.readuntil(b"\n"))


@asynccontextmanager
async def connected(path: Path) -> AsyncIterator[Owner | None]:
    """The process that listens there; None where none does."""
    try:
        _check_owner(path.parent)
        reader, writer = await asyncio.open_unix_connection(path, limit=MAX_LINE_BYTES)
    except OSError:
        yield None
        return
    with closing(writer):
        yield Owner(reader, writer)
