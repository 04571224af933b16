"""A stop request: it cuts short what may be cut short, at once and from then on, and nothing else."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest

from asyncgen.stopping import Stop, StoppedError


async def wait_cut_short(stop: Stop, log: list[str], name: str) -> None:
    try:
        with stop.interruptible():
            await anyio.sleep_forever()
    except StoppedError:
        log.append(name)


@pytest.mark.anyio
async def test_a_stop_cuts_short_every_wait_that_is_going_on() -> None:
    stop, log = Stop(), list[str]()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            for name in "abc":
                tasks.start_soon(wait_cut_short, stop, log, name)
            await anyio.wait_all_tasks_blocked()
            assert not log
            stop.request()
    assert sorted(log) == ["a", "b", "c"]


@pytest.mark.anyio
async def test_after_a_stop_a_wait_does_not_even_begin() -> None:
    stop = Stop()
    stop.request()
    with pytest.raises(StoppedError), stop.interruptible():
        pytest.fail("the block must not run")


@pytest.mark.anyio
async def test_what_is_not_interruptible_runs_to_its_end() -> None:
    stop, done = Stop(), list[str]()

    async def paid_for() -> None:
        await anyio.lowlevel.checkpoint()
        await anyio.lowlevel.checkpoint()
        done.append("collected")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(paid_for)
        stop.request()
    assert done == ["collected"]


@pytest.mark.anyio
async def test_a_block_that_ends_before_its_next_await_keeps_its_result() -> None:
    stop = Stop()
    with stop.interruptible():
        await anyio.lowlevel.checkpoint()
        stop.request()
        result = "there"
    assert result == "there"


@pytest.mark.anyio
async def test_an_error_of_the_block_is_not_hidden_by_a_stop() -> None:
    stop = Stop()
    with pytest.raises(ZeroDivisionError), stop.interruptible():
        stop.request()
        raise ZeroDivisionError


@pytest.mark.anyio
async def test_a_cancellation_from_outside_is_not_taken_for_a_stop() -> None:
    stop, log = Stop(), list[str]()
    with anyio.move_on_after(0) as scope:
        await wait_cut_short(stop, log, "stopped")
    assert scope.cancelled_caught
    assert (log, stop.requested) == ([], False)


@pytest.mark.anyio
async def test_blocks_within_blocks_are_all_cut_short() -> None:
    stop = Stop()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_request_when_blocked, stop)
            with pytest.raises(StoppedError), stop.interruptible(), stop.interruptible():
                await anyio.sleep_forever()


async def _request_when_blocked(stop: Stop) -> None:
    await anyio.wait_all_tasks_blocked()
    stop.request()


@pytest.mark.anyio
async def test_a_stop_can_be_waited_for_before_and_after_it_came_and_asked_for_twice() -> None:
    stop = Stop()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_request_when_blocked, stop)
            await stop.wait_requested()
        stop.request()
        await stop.wait_requested()
    assert stop.requested
