"""What jobs have cost: the sums of `asyncgen cost`, the same as those of `asyncgen status`, each job counted once."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from parts import FAILURE, LEDGER, TERMS, Desk, desk, record, want
from support import run_cli, sandbox_in_a_thread

from asyncgen.costs import By, CostLine, costs
from asyncgen.errors import InputError
from asyncgen.lifecycle import State
from asyncgen.money import Cost, Label, Use
from asyncgen.protocol import Timing
from asyncgen.records import Item
from asyncgen.report import batch_statuses

PRICED = replace(TERMS, usd_per_second=0.001)


async def made(at: Desk, item: Item, *, ms: int | None = 1000, pictures: int = 1) -> None:
    """A priced job that gave pictures."""
    await at.ledger.record_intent(item, PRICED)
    await at.ledger.record_accepted(item, f"job-{item.id}")
    records = [record(number, f"{item.request_id}_{number}.png") for number in range(pictures)]
    await at.ledger.record_storing(item, records, Timing(0, ms, "w1"))
    await at.ledger.record_stored(item)


async def ended(at: Desk, item: Item, target: State, *, ms: int | None = 500) -> None:
    """A priced job that gave none."""
    await at.ledger.record_intent(item, PRICED)
    await at.ledger.record_accepted(item, f"job-{item.id}")
    await at.ledger.record_ended(item, target, FAILURE, Timing(0, ms, "w1"))


@asynccontextmanager
async def of_everything(root: Path) -> AsyncIterator[Desk]:
    """Two runs over one batch: made, failed, made again, without a style, with two LoRAs, and one that is out."""
    async with desk(root) as at:
        await made(at, await at.item("fox", style_id="1"), pictures=2)
        await made(at, await at.item("owl", character_loras=("a", "b")), ms=3000)
        again = await at.item("again", style_id="1")
        await ended(at, again, State.FAILED)
        await at.next_run()
        (again,) = await at.claim(want("again", style_id="1"))
        await at.ledger.record_wanted_again(again, want("again", style_id="1"), "as told")
        await made(at, again, ms=2000)
        out = await at.item("out")
        await at.ledger.record_intent(out, PRICED)
        yield at


def by_name(root: Path, by: By) -> dict[str | None, CostLine]:
    with costs(root / LEDGER) as found:
        return {line.name: line for line in found.lines(by)}


def total(root: Path, batch: str | None = None) -> CostLine:
    with costs(root / LEDGER, batch) as found:
        return found.total()


@pytest.mark.anyio
@pytest.mark.parametrize("by", [By.RUN, By.STYLE, By.DAY])
async def test_every_job_is_in_one_line_and_the_lines_add_up_to_what_status_says(tmp_path: Path, by: By) -> None:
    async with of_everything(tmp_path):
        lines, whole = by_name(tmp_path, by).values(), total(tmp_path)
        (status,) = batch_statuses(tmp_path / LEDGER)
    assert whole.cost == status.cost == Cost(pytest.approx(0.0065), Label.LOWER_BOUND)
    assert sum(line.cost.usd or 0 for line in lines) == pytest.approx(whole.cost.usd)
    assert (sum(line.jobs for line in lines), sum(line.out for line in lines)) == (whole.jobs, whole.out) == (4, 1)
    assert (sum(line.kept for line in lines), whole.kept, whole.gpu_ms) == (4, 4, status.gpu_ms)


@pytest.mark.anyio
async def test_a_job_with_two_loras_counts_for_each_and_once_in_the_total(tmp_path: Path) -> None:
    async with of_everything(tmp_path):
        lines, whole = by_name(tmp_path, By.LORA), total(tmp_path)
    assert lines["a.safetensors"].cost == lines["b.safetensors"].cost == Cost(pytest.approx(0.003), Label.MEASURED)
    assert whole.jobs == 4
    assert lines["(no LoRA)"].out == 1


@pytest.mark.anyio
async def test_a_kept_image_costs_its_part_of_all_that_was_paid_failures_too(tmp_path: Path) -> None:
    async with of_everything(tmp_path):
        line = by_name(tmp_path, By.STYLE)["1"]
        run_1, run_2 = by_name(tmp_path, By.RUN).values()
    assert (line.kept, line.cost.usd) == (3, pytest.approx(0.0035))
    assert line.cost_of_kept == Cost(pytest.approx(0.0035 / 3), Label.MEASURED)
    assert line.costs[Use.FAILED].usd == line.no_picture.usd == pytest.approx(0.0005)
    assert run_1.costs[Use.FAILED].usd == pytest.approx(0.0005), "the failure belongs to the run that paid for it"
    assert (run_1.kept, run_2.kept, run_2.no_picture) == (3, 1, Cost(0.0, Label.MEASURED))


@pytest.mark.anyio
async def test_pictures_that_were_replaced_are_not_kept_and_their_cost_stays(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        item = await at.item("fox")
        await made(at, item)
        await at.ledger.record_wanted_again(item, want("fox"), "as told")
        await ended(at, item, State.FAILED)
        whole = total(tmp_path)
    assert (whole.kept, whole.cost_of_kept, whole.cost.usd) == (0, None, pytest.approx(0.0015))


@pytest.mark.anyio
async def test_jobs_without_a_price_or_a_time_make_a_sum_less_sure_and_are_counted(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        await made(at, await at.item("timed"))
        await made(at, await at.item("untimed"), ms=None)
        assert total(tmp_path).cost == Cost(pytest.approx(0.001), Label.LOWER_BOUND, pytest.approx(0.601))
        await at.stored(await at.item("unpriced"))
        whole = total(tmp_path)
        (status,) = batch_statuses(tmp_path / LEDGER)
    assert whole.cost == status.cost == Cost(None, Label.UNPRICED)
    assert (whole.untimed, whole.unpriced, whole.priced_usd) == (1, 1, pytest.approx(0.001))


@pytest.mark.anyio
async def test_one_batch_alone_and_an_unknown_one_is_refused(tmp_path: Path) -> None:
    async with of_everything(tmp_path) as at:
        await at.ledger.open_batch("other", "runpod")
        assert total(tmp_path, "set").jobs == 4
        assert total(tmp_path, "other") == CostLine(None, 0, 0, 0, 0, 0, 0, 0, {})
        with pytest.raises(InputError, match="no batch 'sat'; it has: set, other"):
            total(tmp_path, "sat")


def test_the_command_tells_it_as_a_table_as_csv_and_as_json(tmp_path: Path) -> None:
    with sandbox_in_a_thread() as sandbox:
        env = {"RUNPOD_API_KEY": "k" * 20, "RUNPOD_SERVER_100_ID": "ep", "RUNPOD_ENDPOINT_BASE_URL": sandbox.base_url}
        (tmp_path / "p.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b", "style": "1", "images": 2}\n')
        size = ("--width=64", "--height=64", "--usd-per-second=0.001")
        ran = run_cli("batch", "p.jsonl", *size, "--out=out", "--json", cwd=tmp_path, env=env)
    assert ran.code == 0, ran
    spent = ran.summary["cost"]["execution"]["usd"]
    lines = run_cli("cost", "--by=style", "--out=out", "--json", cwd=tmp_path).json
    assert [(line["name"], line["kept"]) for line in lines] == [("(no style)", 1), ("1", 2), (None, 3)]
    assert lines[-1]["cost"]["usd"] == pytest.approx(spent)
    rows = list(csv.DictReader(io.StringIO(run_cli("cost", "--csv", "--out=out", cwd=tmp_path).out)))
    assert [float(row["cost_usd"]) for row in rows] == [pytest.approx(spent)]
    assert float(rows[0]["usd_per_kept"]) == pytest.approx(spent / 3)
    table = run_cli("cost", "--by=lora", "--out=out", cwd=tmp_path).out
    assert "total" in table and "a job with several LoRAs counts for each" in table
