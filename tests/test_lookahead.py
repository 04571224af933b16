"""The input read ahead: grouped where it is there, handed on where it is not, and true to its errors."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from parts import PLANNER

from asyncgen import lookahead
from asyncgen.errors import InputError
from asyncgen.intake import IndexedWant, Intake
from asyncgen.lookahead import LookAhead
from asyncgen.order import WINDOW
from asyncgen.request import parse_request

STYLES = ("1", "8", "16")


async def source(prompts: Iterable[Any], after: Callable[[], Any] | None = None) -> AsyncIterator[list[IndexedWant]]:
    """A chunk for each prompt, numbers being prompts of alternating styles; `after` is awaited behind the last one."""
    intake = Intake(PLANNER)
    for prompt in prompts:
        fields = {"prompt": f"a fox {prompt}", "style_id": STYLES[prompt % 3]} if isinstance(prompt, int) else prompt
        yield intake.plan(fields)
        await anyio.lowlevel.checkpoint()
    if after is not None:
        await after()


async def read(chunks: AsyncIterator[list[IndexedWant]], into: list[IndexedWant]) -> None:
    ahead = LookAhead(chunks)
    async with anyio.create_task_group() as reading:
        reading.start_soon(ahead.read)
        async for chunk in ahead:
            assert 1 <= len(chunk) <= 32
            into += chunk


@pytest.mark.anyio
async def test_what_is_there_is_grouped_and_keeps_its_index() -> None:
    taken: list[IndexedWant] = []
    await read(source(range(90)), taken)
    assert [wanted.index for wanted in taken] == [*range(0, 90, 3), *range(1, 90, 3), *range(2, 90, 3)]


@pytest.mark.anyio
async def test_an_empty_input_ends() -> None:
    taken: list[IndexedWant] = []
    await read(source([]), taken)
    assert taken == []


@pytest.mark.anyio
async def test_the_first_image_does_not_wait_for_an_input_that_says_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookahead, "_FIRST_SECONDS", 0.01)
    ahead = LookAhead(source([0], after=anyio.sleep_forever))
    async with anyio.create_task_group() as reading:
        reading.start_soon(ahead.read)
        with anyio.fail_after(10):
            assert [wanted.index for wanted in await anext(ahead)] == [0]
        reading.cancel_scope.cancel()


@pytest.mark.anyio
async def test_an_input_without_end_is_read_no_further_than_the_window() -> None:
    ahead = LookAhead(source(itertools.count()))
    async with anyio.create_task_group() as reading:
        reading.start_soon(ahead.read)
        first = await anext(ahead)
        await anyio.wait_all_tasks_blocked()
        assert len(first) == 32
        assert {wanted.index % 3 for wanted in first} == {0}
        assert len(ahead._grouping) == WINDOW
        reading.cancel_scope.cancel()


@pytest.mark.anyio
async def test_what_came_before_a_row_that_is_wrong_is_handed_on_before_the_error() -> None:
    taken: list[IndexedWant] = []
    with pytest.raises(ExceptionGroup) as caught:
        await read(source([*range(70), {"prompt": "a fox", "width": 9}, 71]), taken)
    (error,) = caught.value.exceptions
    assert isinstance(error, InputError)
    assert str(error).startswith("prompt 71:width: ")
    assert sorted(wanted.index for wanted in taken) == list(range(70))


@pytest.mark.anyio
async def test_a_wait_for_input_that_is_cut_short_loses_nothing() -> None:
    """As a stop request does."""
    more = anyio.Event()
    ahead = LookAhead(source([0], after=more.wait))
    async with anyio.create_task_group() as reading:
        reading.start_soon(ahead.read)
        with anyio.move_on_after(0):
            await anext(ahead)
        more.set()
        assert [wanted.index for wanted in await anext(ahead)] == [0]
        with pytest.raises(StopAsyncIteration):
            await anext(ahead)


@pytest.mark.anyio
async def test_rows_of_a_higher_priority_and_urgent_ones_come_first_read_or_not() -> None:
    rows = [{"prompt": f"fox {number}", "id": str(number), "priority": 2 * (number == 5)} for number in range(8)]
    may_go_on = anyio.Event()

    async def chunks() -> AsyncIterator[list[IndexedWant]]:
        async for chunk in source(rows[:6]):
            yield chunk
        await may_go_on.wait()
        async for chunk in source(rows[6:]):
            yield chunk

    ahead, ids = LookAhead(chunks()), []
    async with anyio.create_task_group() as reading:
        reading.start_soon(ahead.read)
        await anyio.wait_all_tasks_blocked()
        assert ahead.prefer(["3", "7"], [PLANNER.want(parse_request({"prompt": "x", "id": "1"}), 0).content_key]) == 2
        ids += [wanted.want.request.id for wanted in await anext(ahead)]
        may_go_on.set()
        await anyio.wait_all_tasks_blocked()
        async for chunk in ahead:
            ids += [wanted.want.request.id for wanted in chunk]
    assert ids == ["1", "3", "5", "0", "2", "4", "7", "6"]


@pytest.mark.anyio
async def test_who_waits_for_the_next_chunk_can_be_woken_and_loses_nothing() -> None:
    may_go_on = anyio.Event()

    async def chunks() -> AsyncIterator[list[IndexedWant]]:
        await may_go_on.wait()
        async for chunk in source([1]):
            yield chunk

    ahead = LookAhead(chunks())
    async with anyio.create_task_group() as reading:
        reading.start_soon(ahead.read)
        await anyio.wait_all_tasks_blocked()
        ahead.wake()
        assert await anext(ahead) == []
        may_go_on.set()
        assert [len(chunk) async for chunk in ahead] == [1]
