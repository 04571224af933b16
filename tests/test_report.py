"""Readers of the ledger: true counts beside a run, and nothing of a file that is no ledger."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from parts import LEDGER, TERMS, desk, want

from asyncgen.errors import Failure, FailureClass, FailureCode, LedgerError, LedgerVersionError
from asyncgen.lifecycle import State
from asyncgen.protocol import Timing
from asyncgen.records import SANDBOX
from asyncgen.report import batch_statuses, style_history
from asyncgen.schema import VERSION

FAILURE = Failure(FailureClass.ITEM, FailureCode.NO_IMAGE, "nothing there")


@pytest.mark.anyio
async def test_a_batch_is_counted_by_state_while_its_run_goes_on(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        await at.item("wanted")
        await at.accept(await at.item("out"))
        await at.stored(await at.item("there"), count=3)
        failed = await at.accept(await at.item("failed"))
        await at.ledger.record_ended(failed, State.FAILED, FAILURE, Timing(10, 300))
        await at.ledger.record_intent(await at.item("in the air"), TERMS)
        await at.ledger.open_batch("other", SANDBOX)
        mine, other = batch_statuses(tmp_path / LEDGER)
    assert (mine.name, mine.realm, mine.wanted, mine.pictures) == ("set", "runpod", 5, 3)
    assert mine.gpu_ms == 4700 + 300, "work that failed was paid for too"
    assert mine.states == {State.WANTED: 1, State.ACCEPTED: 1, State.STORED: 1, State.FAILED: 1, State.SUBMITTING: 1}
    assert (other.name, other.realm, other.wanted, other.pictures, other.gpu_ms) == ("other", "sandbox", 0, 0, 0)


@pytest.mark.anyio
async def test_reading_changes_nothing(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        await at.ledger.record_intent(await at.item(), TERMS)
        batch_statuses(tmp_path / LEDGER)
        assert batch_statuses(tmp_path / LEDGER)[0].states == {State.SUBMITTING: 1}, "only a run settles it"


@pytest.mark.anyio
async def test_a_styles_history_is_its_own_newest_first_with_what_it_cost(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        for number in range(3):
            await at.stored(
                await at.item(f"fox {number}", style_id="1", seed=2**64 - 1 - number), f"f{number}", count=2
            )
        await at.stored(await at.item("other", style_id="16"))
        await at.item("not made", style_id="1")
        uses = style_history(tmp_path / LEDGER, "1")
    assert [use.prompt for use in uses] == ["fox 2"] * 2 + ["fox 1"] * 2 + ["fox 0"] * 2
    assert {use.path for use in uses if use.prompt == "fox 0"} == {"f0_0.png", "f0_1.png"}
    assert (uses[0].seed, uses[0].delay_ms, uses[0].execution_ms, uses[0].batch) == (2**64 - 3, 120, 4700, "set")


@pytest.mark.anyio
async def test_a_picture_that_changed_its_style_moves_to_the_other_history(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        item = await at.stored(await at.item("a fox", id="mine", style_id="1"))
        await at.ledger.record_wanted_again(item, want("a fox", id="mine", style_id="16"), "as told")
        await at.stored(item, "new")
    assert style_history(tmp_path / LEDGER, "1") == []
    assert [use.path for use in style_history(tmp_path / LEDGER, "16")] == ["new_0.png"]


def test_where_there_is_no_ledger_there_is_no_history_and_no_file_appears(tmp_path: Path) -> None:
    assert style_history(tmp_path / LEDGER, "1") == []
    with pytest.raises(LedgerError, match=r"no ledger at .*--out"):
        batch_statuses(tmp_path / LEDGER)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_ledger_is_told(tmp_path: Path) -> None:
    (tmp_path / LEDGER).write_bytes(b"my holiday pictures" * 100)
    with pytest.raises(LedgerError, match="cannot be read as a ledger"):
        batch_statuses(tmp_path / LEDGER)


@pytest.mark.anyio
async def test_a_newer_ledger_is_told(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        await at.item()
    with closing(sqlite3.connect(tmp_path / LEDGER)) as connection:
        connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    for read in (batch_statuses, lambda path: style_history(path, "1")):
        with pytest.raises(LedgerVersionError, match="newer asyncgen"):
            read(tmp_path / LEDGER)


@pytest.mark.anyio
async def test_a_folder_with_signs_of_its_own_is_read_too(tmp_path: Path) -> None:
    root = tmp_path / "50% #1? & more"
    async with desk(root) as at:
        await at.item()
    assert batch_statuses(root / LEDGER)[0].wanted == 1
