"""Readers of the ledger: true counts beside a run, and nothing of a file that is no ledger."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from parts import LEDGER, TERMS, Desk, desk, record, want

from asyncgen.errors import Failure, FailureClass, FailureCode, LedgerError, LedgerVersionError
from asyncgen.lifecycle import State
from asyncgen.money import Cost, Label, Use
from asyncgen.protocol import Timing
from asyncgen.records import SANDBOX, Terms
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


# -- what a batch has cost -----------------------------------------------------------------------------------------

PRICED = replace(TERMS, usd_per_second=0.001)
OUT_OF_TIME = Failure(FailureClass.INFRASTRUCTURE, FailureCode.LOST, "expired")
TAKEN_BACK = Failure(FailureClass.ITEM, FailureCode.CANCELLED, "cancelled at the platform")
NO_REPLY = Failure(FailureClass.TRANSPORT, FailureCode.UNREACHABLE, "reset")


async def paid(at: Desk, name: str, failure: Failure | None, execution_ms: int | None, terms: Terms = PRICED) -> None:
    """One item whose job ended like this."""
    item = await at.item(name)
    await at.ledger.record_intent(item, terms)
    if failure is NO_REPLY:
        await at.ledger.record_unknown(item, failure)
        return
    await at.ledger.record_accepted(item, name)
    timing = Timing(10, execution_ms, "w1")
    if failure is None:
        await at.ledger.record_storing(item, [record(path=f"{name}.png")], timing)
        await at.ledger.record_stored(item)
    else:
        targets = {OUT_OF_TIME.code: State.LOST, TAKEN_BACK.code: State.CANCELLED}
        await at.ledger.record_ended(item, targets.get(failure.code, State.FAILED), failure, timing)


@pytest.mark.anyio
async def test_what_gave_no_picture_is_counted_apart_with_how_sure_that_is(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        await paid(at, "one", None, 4000)
        await paid(at, "two", None, 6000)
        await paid(at, "bad", FAILURE, 3000)
        await paid(at, "gone", OUT_OF_TIME, None)
        await paid(at, "held", NO_REPLY, None)
        await paid(at, "taken back", TAKEN_BACK, 5000)
        (status,) = batch_statuses(tmp_path / LEDGER)
    assert status.costs == {
        Use.MADE: Cost(0.010, Label.MEASURED),
        Use.FAILED: Cost(0.003, Label.MEASURED),
        Use.CANCELLED: Cost(0.005, Label.MEASURED),
        Use.LOST: Cost(None, Label.LOWER_BOUND, 0.6),
        Use.UNKNOWN: Cost(None, Label.LOWER_BOUND, 0.6),
    }
    assert status.cost.usd == pytest.approx(0.018)
    assert status.cost.label is Label.LOWER_BOUND
    assert status.cost.most_usd == pytest.approx(1.218)
    assert status.cost.bounds == "at least $0.0180, at most $1.22"
    assert status.costs[Use.LOST].bounds == "not known, at most $0.6000"


@pytest.mark.anyio
async def test_one_job_without_a_price_leaves_a_batch_unpriced(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        await paid(at, "one", None, 4000)
        assert str(batch_statuses(tmp_path / LEDGER)[0].cost) == "$0.0040"
        await paid(at, "two", None, 4000, TERMS)
        assert batch_statuses(tmp_path / LEDGER)[0].cost == Cost(None, Label.UNPRICED)


@pytest.mark.anyio
async def test_each_job_is_priced_as_it_was_when_it_was_bought(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        await paid(at, "one", None, 4000)
        await paid(at, "two", None, 4000, replace(TERMS, usd_per_second=0.002))
        assert batch_statuses(tmp_path / LEDGER)[0].cost.usd == pytest.approx(0.012)
        assert await at.ledger.committed_usd(at.batch, 9.0) == pytest.approx(0.012)
        await paid(at, "three", None, 4000, TERMS)
        assert await at.ledger.committed_usd(at.batch, 0.003) == pytest.approx(0.024)


@pytest.mark.anyio
async def test_what_was_never_timed_is_committed_at_the_most_it_can_have_cost(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        await paid(at, "gone", OUT_OF_TIME, None, replace(PRICED, execution_timeout_ms=60_000))
        await paid(at, "held", NO_REPLY, None)
        refused = await at.item("refused")
        await at.ledger.record_intent(refused, PRICED)
        await at.ledger.record_refused(refused, "429")
        await at.ledger.record_intent(await at.item("in the air"), PRICED)
        assert await at.ledger.committed_usd(at.batch, 1.0) == pytest.approx(0.06 + 0.6)


@pytest.mark.anyio
@pytest.mark.parametrize(("seconds", "most_ms"), [(2.0, 2000), (700.0, 600_000), (-5.0, 600_000)])
async def test_a_cancelled_job_can_have_cost_no_more_than_it_was_there_for(
    tmp_path: Path, seconds: float, most_ms: int
) -> None:
    """Where the wall clock was set back meanwhile, that says nothing, and its whole time limit stays the bound."""
    async with desk(tmp_path) as at:
        await paid(at, "taken back", TAKEN_BACK, None)
        await at.ledger.transact(
            lambda connection: connection.execute("UPDATE job SET ended_at = submitted_at + ?", (seconds,))
        )
        assert await at.ledger.committed_usd(at.batch, 1.0) == pytest.approx(most_ms / 1000 * 0.001)
        (status,) = batch_statuses(tmp_path / LEDGER)
    assert list(status.costs) == [Use.CANCELLED]
    assert status.costs[Use.CANCELLED].most_usd == pytest.approx(most_ms / 1000 * 0.001)


@pytest.mark.anyio
async def test_what_is_out_has_not_said_yet_what_it_costs(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        await at.accept(await at.item())
        (status,) = batch_statuses(tmp_path / LEDGER)
    assert (status.cost.usd, str(status.cost)) == (None, "not known")
