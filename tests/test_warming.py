"""Workers are woken by small jobs that are no images, and that are taken back where they are not wanted any more."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import anyio
import pytest
from PIL import Image
from support import JumpClock, Wired, bought, eventually, fault, files, open_sandbox, request, wired

from asyncgen.errors import InputError, RunPausedError
from asyncgen.ports import Ports
from asyncgen.sandbox import Sandbox
from asyncgen.warming import JOB_SECONDS, WAIT_SECONDS, small_job, wake

pytestmark = pytest.mark.anyio


@dataclass
class LongPause(JumpClock):
    """A clock whose long pause, that for workers to come up, ends when somebody says so."""

    ends: Callable[[], Awaitable[None]] = field(default=anyio.sleep_forever)

    async def sleep(self, seconds: float) -> None:
        await (self.ends() if seconds >= WAIT_SECONDS else super().sleep(seconds))


def ports_of(parts: Wired, ends: Callable[[], Awaitable[None]] = anyio.sleep_forever) -> Ports:
    return replace(parts.ports, clock=LongPause(ends=ends))


def body_of(parts: Wired, **fields: object) -> bytes:
    planner = parts.bench.planner
    return small_job(planner, planner.want(request("a fox", steps=20, **fields), 0))


async def two_are_out(sandbox: Sandbox) -> None:
    await eventually(lambda: len(bought(sandbox)) == 2)


def outcomes(sandbox: Sandbox) -> list[str]:
    return [str(job["state"]) for job in bought(sandbox)]


async def test_a_small_job_loads_what_the_image_loads_and_its_picture_is_kept_nowhere(tmp_path: Path) -> None:
    async with open_sandbox() as sandbox, wired(sandbox, tmp_path) as parts:
        warmed = await wake(parts.endpoint, ports_of(parts), body_of(parts, style="1"), 3)
        assert (warmed.jobs, warmed.untimed, warmed.faults) == (3, 0, [])
        assert 1 <= len(warmed.workers) <= 3
        assert 0 < warmed.seconds() < 3 * JOB_SECONDS
        assert outcomes(sandbox) == ["COMPLETED"] * 3
    assert files(tmp_path, "*.png") == []


async def test_what_does_not_come_up_in_time_is_taken_back_and_counts_at_the_most(tmp_path: Path) -> None:
    async with open_sandbox(fault("stuck")) as sandbox, wired(sandbox, tmp_path) as parts:
        warmed = await wake(parts.endpoint, ports_of(parts, lambda: two_are_out(sandbox)), body_of(parts), 2)
        assert (warmed.jobs, warmed.untimed, warmed.seconds()) == (2, 2, 2 * JOB_SECONDS)
        assert outcomes(sandbox) == ["CANCELLED"] * 2


async def test_cancelled_it_leaves_nothing_out(tmp_path: Path) -> None:
    async with open_sandbox(fault("stuck")) as sandbox, wired(sandbox, tmp_path) as parts:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wake, parts.endpoint, ports_of(parts), body_of(parts), 2)
            await two_are_out(sandbox)
            tasks.cancel_scope.cancel()
        assert outcomes(sandbox) == ["CANCELLED"] * 2


async def test_an_endpoint_that_refuses_all_work_is_told_as_by_any_run(tmp_path: Path) -> None:
    async with open_sandbox(fault("no_credit")) as sandbox, wired(sandbox, tmp_path) as parts:
        with pytest.raises(RunPausedError, match="credit"):
            await wake(parts.endpoint, ports_of(parts), body_of(parts), 2)


async def test_a_workflow_with_input_pictures_is_refused(tmp_path: Path) -> None:
    async with open_sandbox() as sandbox, wired(sandbox, tmp_path) as parts:
        Image.new("RGB", (64, 64)).save(tmp_path / "x.png")
        with pytest.raises(InputError, match="--warm"):
            body_of(parts, workflow="img2img", init_image=str(tmp_path / "x.png"))
