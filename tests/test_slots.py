"""So many jobs out: slots are neither lost nor found, and with `auto` their number follows what the endpoint says."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import anyio
import pytest
from support import KEY, SMALL, bought, fault, most_out_at_once, open_sandbox, prompts, settings_for, wired

from asyncgen import ImageGenerator, ImageResult, InputError
from asyncgen.concurrency import FEWEST_OUT
from asyncgen.engine import Choices, Engine
from asyncgen.intake import Intake
from asyncgen.sandbox import Sandbox
from asyncgen.slots import Slots
from asyncgen.stopping import Stop, StoppedError

pytestmark = pytest.mark.anyio

A_THIRD = {"execution": "fixed:300"}  # at the speed of the tests' sandboxes


async def ignore(result: ImageResult) -> None:
    assert result.ok


def generator(sandbox: Sandbox, root: Path, **settings: Any) -> ImageGenerator:
    return ImageGenerator(settings_for(sandbox, root, **settings))


# -- slots ---------------------------------------------------------------------------------------------------------


async def test_a_slot_is_waited_for_and_taken_when_one_is_given_back_or_added() -> None:
    slots, taken = Slots(1), []

    async def take(name: str) -> None:
        await slots.take()
        taken.append(name)

    async with anyio.create_task_group() as tasks:
        await slots.take()
        tasks.start_soon(take, "given back")
        await anyio.wait_all_tasks_blocked()
        assert taken == []
        slots.give_back()
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(take, "added")
        await anyio.wait_all_tasks_blocked()
        assert taken == ["given back"]
        slots.resize(2)
    assert taken == ["given back", "added"]


async def test_what_is_out_already_takes_slots_beyond_the_total_and_keeps_others_waiting() -> None:
    slots = Slots(2)
    for _ in range(4):
        slots.take_beyond()
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(slots.take)
            for _ in range(2):
                slots.give_back()
                await anyio.wait_all_tasks_blocked()
            assert slots.taken == 2
            slots.give_back()
            await anyio.wait_all_tasks_blocked()
            assert slots.taken == 2
            scope.cancel()


@pytest.mark.parametrize("given_back_as_well", [False, True])
async def test_a_stop_ends_the_wait_for_a_slot_and_none_is_lost(given_back_as_well: bool) -> None:
    slots, stop, outcomes = Slots(1), Stop(), []
    await slots.take()

    async def wait() -> None:
        try:
            with stop.interruptible():
                await slots.take()
            outcomes.append("taken")
        except StoppedError:
            outcomes.append("stopped")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        if given_back_as_well:
            slots.give_back()
        stop.request()
    assert slots.taken == outcomes.count("taken") + (not given_back_as_well)
    assert given_back_as_well or outcomes == ["stopped"]


async def test_fewer_slots_than_are_taken_take_none_away() -> None:
    slots = Slots(3)
    for _ in range(3):
        await slots.take()
    slots.resize(1)
    assert (slots.taken, slots.total) == (3, 1)


# -- auto ----------------------------------------------------------------------------------------------------------


async def test_auto_keeps_about_four_jobs_out_for_each_worker(tmp_path: Path) -> None:
    async with open_sandbox(workers=6, **A_THIRD) as sandbox, generator(sandbox, tmp_path) as g:
        run = await g.open_run("set")
        await run.run(Intake(g.planner, SMALL).of_prompts(prompts(50), g.workspace.ports), ignore)
        assert (run.statistics.made, run.statistics.target in range(4 * 6, 20 * 6)) == (50, True)
        assert most_out_at_once(bought(sandbox)) < 20 * 6


async def test_auto_without_health_grows_by_the_drain(tmp_path: Path) -> None:
    down = fault("500", operation="health", nth=range(2, 100))  # the first asks who it is
    async with open_sandbox(down, workers=64, **A_THIRD) as sandbox, generator(sandbox, tmp_path) as g:
        run = await g.open_run("set")
        await run.run(Intake(g.planner, SMALL).of_prompts(prompts(60), g.workspace.ports), ignore)
        assert (run.statistics.made, (run.statistics.target or 0) > FEWEST_OUT) == (60, True)


async def test_a_429_slows_auto_down_and_one_line_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "asyncgen.slots")
    crowded = fault("429", operation="run", nth=range(10, 30))
    async with open_sandbox(crowded, workers=8, **A_THIRD) as sandbox, generator(sandbox, tmp_path) as g:
        results = await g.generate_many(prompts(60), **SMALL)
        assert all(result.ok for result in results)
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert line.startswith("the endpoint answers 429 to /run")
    assert KEY not in caplog.text


async def test_a_number_is_kept_to_and_health_is_not_asked(tmp_path: Path) -> None:
    async with open_sandbox(workers=64, **A_THIRD) as sandbox, generator(sandbox, tmp_path) as g:
        asked = sandbox.books.totals()["requests.health"]
        await g.generate_many(prompts(8), concurrency=3, **SMALL)
        assert most_out_at_once(bought(sandbox)) == 3
        assert sandbox.books.totals()["requests.health"] == asked


async def test_a_call_may_say_auto_where_the_settings_say_a_number(tmp_path: Path) -> None:
    async with open_sandbox(workers=6, **A_THIRD) as sandbox, generator(sandbox, tmp_path, concurrency=1) as g:
        await g.generate_many(prompts(20), concurrency="auto", **SMALL)
        assert most_out_at_once(bought(sandbox)) > 1


async def test_auto_keeps_no_more_out_than_can_be_fetched_before_they_expire(tmp_path: Path) -> None:
    async with open_sandbox() as sandbox, wired(sandbox, tmp_path) as parts:
        parts.bench.allowance._results_per_second = lambda: 3 / 900
        engine = Engine(parts.bench, parts.batch, Choices(None))
        await parts.run(prompts(20), engine)
        assert engine.statistics.target == 3
        assert most_out_at_once(bought(sandbox)) <= 3


@pytest.mark.parametrize("wrong", [0, -1, "many", "8", 2.5])
async def test_anything_else_is_refused_naming_the_field(tmp_path: Path, wrong: Any) -> None:
    async with open_sandbox() as sandbox, generator(sandbox, tmp_path) as g:
        with pytest.raises(InputError, match="concurrency: must be a whole number from 1, or 'auto'"):
            await g.generate_many(prompts(1), concurrency=wrong, **SMALL)
