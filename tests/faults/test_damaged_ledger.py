"""A ledger that is damaged, lost or newer is refused with its cure, and nothing in the folder is changed."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from support import LEDGER, SMALL, account, open_sandbox, prompts, run_cli, sandbox_in_a_thread, settings_for, states

from asyncgen import ImageGenerator, LedgerError
from asyncgen.errors import LedgerVersionError
from asyncgen.exits import Exit, of_error
from asyncgen.sandbox import Sandbox
from asyncgen.schema import VERSION

WAL = f"{LEDGER}-wal"
MANIFEST = "manifest.jsonl"
_EVIDENCE = (LEDGER, WAL, MANIFEST)


async def make(sandbox: Sandbox, root: Path, count: int = 8) -> None:
    async with ImageGenerator(settings_for(sandbox, root)) as g:
        await g.generate_many(prompts(count), batch="set", **SMALL)


def evidence(root: Path) -> dict[str, bytes]:
    """What a repair can work with: the ledger, its write-ahead log, the manifest."""
    return {name: (root / name).read_bytes() for name in _EVIDENCE if (root / name).exists()}


async def check_refused(sandbox: Sandbox, root: Path, *words: str) -> None:
    """Nothing is sent, the message has these words, and the evidence is as it was."""
    before, accepted = evidence(root), sandbox.books.counts["accepted"]
    with pytest.raises(LedgerError) as caught:
        await make(sandbox, root)
    assert of_error(caught.value) is Exit.UNUSABLE
    assert all(word in str(caught.value) for word in words), caught.value
    assert {name: data for name, data in evidence(root).items() if data or name in before} == before
    assert sandbox.books.counts["accepted"] == accepted


def truncated(data: bytes) -> bytes:
    return data[: len(data) // 2]


def cut_within_a_page(data: bytes) -> bytes:
    return data[:-1000]


def not_a_database(data: bytes) -> bytes:
    return b"my holiday pictures " * (len(data) // 20)


def without_its_first_page(data: bytes) -> bytes:
    return bytes(4096) + data[4096:]


@pytest.mark.anyio
@pytest.mark.parametrize("damage", [truncated, cut_within_a_page, not_a_database, without_its_first_page])
async def test_a_damaged_ledger_is_refused_and_left_alone(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    async with open_sandbox() as sandbox:
        await make(sandbox, tmp_path)
        path = tmp_path / LEDGER
        path.write_bytes(damage(path.read_bytes()))
        await check_refused(sandbox, tmp_path, "asyncgen verify --repair")


@pytest.mark.anyio
@pytest.mark.parametrize("table", ["item", "job", "image", "event", "manifest"])
@pytest.mark.parametrize("with_log", [False, True])
async def test_an_overwritten_page_is_noticed_before_anything_is_bought(
    tmp_path: Path, table: str, with_log: bool
) -> None:
    """A write-ahead log beside it, as a killed run leaves it, must not be emptied into the file either."""
    async with open_sandbox() as sandbox:
        await make(sandbox, tmp_path)
        path = tmp_path / LEDGER
        with closing(sqlite3.connect(path)) as connection:
            (page,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)).fetchone()
            if with_log:
                connection.execute("CREATE TABLE other (number)")
                shutil.copy(tmp_path / WAL, tmp_path / "log")
        data = bytearray(path.read_bytes())
        data[(page - 1) * 4096 : page * 4096] = b"\xa5" * 4096
        path.write_bytes(data)
        if with_log:
            (tmp_path / "log").rename(tmp_path / WAL)
        await check_refused(sandbox, tmp_path, "malformed", "asyncgen verify --repair")


@pytest.mark.anyio
@pytest.mark.parametrize("is_there", [True, False])
@pytest.mark.parametrize("witness", [MANIFEST, WAL])
async def test_an_empty_or_missing_ledger_is_not_taken_for_a_new_one_where_there_was_one(
    tmp_path: Path, is_there: bool, witness: str
) -> None:
    async with open_sandbox() as sandbox:
        await make(sandbox, tmp_path)
        (tmp_path / LEDGER).unlink()
        if is_there:
            (tmp_path / LEDGER).touch()
        if witness == WAL:
            (tmp_path / MANIFEST).rename(tmp_path / WAL)
        await check_refused(sandbox, tmp_path, witness, "asyncgen verify --repair")


@pytest.mark.anyio
async def test_a_process_that_died_while_it_made_its_ledger_is_no_hindrance(tmp_path: Path) -> None:
    """SQLite makes an empty file first, then its first page, and only then what we tell it to."""
    async with open_sandbox() as sandbox:
        for number, begin in enumerate((lambda path: path.touch(), _first_page)):
            root = tmp_path / str(number)
            root.mkdir()
            begin(root / LEDGER)
            await make(sandbox, root)
            assert states(root) == {"stored": 8}


def _first_page(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    assert path.stat().st_size == 4096


@pytest.mark.anyio
async def test_a_newer_ledger_is_not_called_damaged(tmp_path: Path) -> None:
    async with open_sandbox() as sandbox:
        await make(sandbox, tmp_path)
        with closing(sqlite3.connect(tmp_path / LEDGER)) as connection:
            connection.execute(f"PRAGMA user_version = {VERSION + 1}")
        before = evidence(tmp_path)
        with pytest.raises(LedgerVersionError, match="install a newer asyncgen") as caught:
            await make(sandbox, tmp_path)
        assert of_error(caught.value) is Exit.UNUSABLE
        assert evidence(tmp_path) == before


def test_the_command_line_says_so_in_one_line_with_exit_code_6(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / LEDGER).write_bytes(b"not a ledger" * 1000)
    with sandbox_in_a_thread() as sandbox:
        for command in (("generate", "a fox"), ("status",)):
            ran = run_cli(*command, "--out", "out", cwd=tmp_path, env=account(sandbox))
            assert (ran.code, ran.out, ran.err.count("\n")) == (6, "", 1), ran
            assert "asyncgen verify --repair" in ran.err
