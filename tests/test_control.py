"""The socket by which a run is told what to do: only whole commands are carried out, and nothing it is sent ends it."""

from __future__ import annotations

import asyncio
import socket
import stat
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import anyio
import pytest

from asyncgen.control import connected, listening, socket_path
from asyncgen.control_messages import MAX_LINE_BYTES, Command, Verb
from asyncgen.errors import InputError, LedgerLockedError
from asyncgen.system import SystemClock

PAUSE = Command(verb=Verb.PAUSE, batch="set")


class Heard:
    """Carries nothing out, and remembers what it was told."""

    def __init__(self) -> None:
        self.commands: list[Command] = []

    async def handle(self, command: Command) -> Mapping[str, Any]:
        self.commands.append(command)
        if command.verb is Verb.CANCEL:
            raise InputError("no such batch")
        if command.verb is Verb.ADD:
            raise RuntimeError("a bug")
        return {"batches": [command.batch]}


@asynccontextmanager
async def owner(tmp_path: Path) -> AsyncIterator[tuple[Path, Heard]]:
    path, heard = socket_path(tmp_path / "ledger.sqlite3", tmp_path / "state"), Heard()
    async with listening(path, heard.handle, SystemClock()):
        yield path, heard


async def said(path: Path, data: bytes) -> bytes:
    """The line that comes back for these bytes."""
    reader, writer = await asyncio.open_unix_connection(path)
    with closing(writer):
        writer.write(data)
        return await reader.readline()


@pytest.mark.anyio
async def test_a_command_is_carried_out_and_answered(tmp_path: Path) -> None:
    async with owner(tmp_path) as (path, heard), connected(path) as there:
        assert there is not None
        assert await there.ask(PAUSE) == {"batches": ["set"]}
        assert await there.ask(Command(verb=Verb.STATE)) == {"batches": [None]}
    assert heard.commands == [PAUSE, Command(verb=Verb.STATE)]


@pytest.mark.anyio
async def test_only_its_owner_can_connect_and_nothing_is_left_behind(tmp_path: Path) -> None:
    async with owner(tmp_path) as (path, _):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert not path.exists()
    async with connected(path) as there:
        assert there is None


@pytest.mark.anyio
async def test_a_refusal_and_a_bug_are_told_and_the_owner_goes_on(tmp_path: Path) -> None:
    async with owner(tmp_path) as (path, _), connected(path) as there:
        assert there is not None
        with pytest.raises(InputError, match="no such batch"):
            await there.ask(Command(verb=Verb.CANCEL))
        with pytest.raises(InputError, match="a bug of asyncgen's"):
            await there.ask(Command(verb=Verb.ADD))
        assert await there.ask(PAUSE) == {"batches": ["set"]}


@pytest.mark.anyio
@pytest.mark.parametrize(
    "garbage",
    [
        b"\xff\xfe\x00\n",
        b"[]\n",
        b'{"verb": "shutdown"}\n',
        b'{"verb": "pause", "key": "value"}\n',
        b'{"verb": "cancel", "ids": "x"}\n',
        b'{"verb": "pause", "batch": ""}\n',
        b"[" * 100_000 + b"\n",
        b"x" * (MAX_LINE_BYTES + 100_000),
    ],
    ids=lambda garbage: garbage[:24].decode("ascii", "replace"),
)
async def test_garbage_is_refused_and_hurts_nobody(tmp_path: Path, garbage: bytes) -> None:
    async with owner(tmp_path) as (path, heard):
        assert b'"error"' in await said(path, garbage)
        async with connected(path) as there:
            assert there is not None
            assert await there.ask(PAUSE) == {"batches": ["set"]}
    assert heard.commands == [PAUSE]


@pytest.mark.anyio
async def test_half_a_command_is_no_command(tmp_path: Path) -> None:
    async with owner(tmp_path) as (path, heard):
        _, writer = await asyncio.open_unix_connection(path)
        writer.write(b'{"verb": "pause"')
        writer.close()
        await writer.wait_closed()
        async with connected(path) as there:
            assert there is not None
            await there.ask(PAUSE)
    assert heard.commands == [PAUSE]


@pytest.mark.anyio
async def test_commands_of_two_clients_are_both_carried_out(tmp_path: Path) -> None:
    async with owner(tmp_path) as (path, heard), connected(path) as one, connected(path) as other:
        assert one is not None
        assert other is not None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one.ask, PAUSE)
            tasks.start_soon(other.ask, Command(verb=Verb.CONTINUE))
    assert {command.verb for command in heard.commands} == {Verb.PAUSE, Verb.CONTINUE}


@pytest.mark.anyio
async def test_the_socket_of_a_killed_process_is_nobody_and_is_replaced(tmp_path: Path) -> None:
    path = socket_path(tmp_path / "ledger.sqlite3", tmp_path / "state")
    path.parent.mkdir(parents=True, exist_ok=True)
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(path))
    async with connected(path) as there:
        assert there is None
    async with owner(tmp_path) as (path, _), connected(path) as there:
        assert there is not None
        assert await there.ask(PAUSE) == {"batches": ["set"]}


@pytest.mark.anyio
async def test_an_owner_that_leaves_in_the_middle_is_told_as_such(tmp_path: Path) -> None:
    path = socket_path(tmp_path / "ledger.sqlite3", tmp_path / "state")
    path.parent.mkdir(parents=True, exist_ok=True)

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.close()

    async with await asyncio.start_unix_server(hang_up, path), connected(path) as there:
        assert there is not None
        with pytest.raises(LedgerLockedError, match="does not answer"):
            await there.ask(PAUSE)


def test_a_path_fits_into_a_socket_address_wherever_the_state_folder_is(tmp_path: Path) -> None:
    long = tmp_path / ("a" * 100)
    paths = {
        socket_path(tmp_path / name / "ledger", folder) for name in "ab" for folder in (Path("/home/u/state"), long)
    }
    assert len(paths) == 4
    assert all(len(str(path)) <= 103 for path in paths), paths
