"""One seed: the engine lives, dies and lives again until its work is done, then the truths are looked at."""

from __future__ import annotations

import hashlib
import logging
import traceback
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import anyio

from asyncgen.allowance import Allowance
from asyncgen.endpoint import Endpoint, Pace
from asyncgen.engine import Choices as RunChoices
from asyncgen.engine import Engine
from asyncgen.errors import AsyncgenError, StoreError
from asyncgen.forecast import Forecast
from asyncgen.intake import IndexedWant, Intake
from asyncgen.job import Policy, Workbench
from asyncgen.lanes import Lanes
from asyncgen.ledger import Ledger
from asyncgen.manifest import Manifest
from asyncgen.money import Budget
from asyncgen.plan import Planner
from asyncgen.ports import Ports
from asyncgen.protocol import EndpointAddress
from asyncgen.registry import StylesRegistry
from asyncgen.results import ImageResult
from asyncgen.store import Store

from .choices import Key
from .loop import StuckError, VirtualLoop, seed_hashes
from .truths import BrokenError, look_at
from .world import World

ROOT = Path("/out")
_BASE_URL, _ENDPOINT = "https://api.simulated/v2", "endpoint"
_CALM_LIVES = 6  # so often may a run be started again once nothing goes wrong any more


@dataclass(frozen=True)
class Outcome:
    """What a seed gave. `error` is None where every truth held; `steps` counts those of all lives."""

    error: str | None
    trace: list[tuple[object, ...]]
    used: Mapping[Key, int]
    hits: Mapping[str, int]
    steps: int

    @property
    def digest(self) -> str:
        """Equal for equal runs, whatever process they ran in."""
        return hashlib.sha256(repr((self.error, self.trace)).encode()).hexdigest()[:16]


def simulate(seed: int, fixed: Mapping[Key, int] | None = None) -> Outcome:
    """Run one seed to its end. The same arguments give the same outcome, byte for byte."""
    seed_hashes(seed)
    world = World(seed, fixed)
    plan = _Plan(world)
    error = None
    try:
        plan.live_through(world)
        look_at(world, plan.prompts, ROOT)
    except (BrokenError, StuckError) as caught:
        error = f"{type(caught).__name__}: {caught}"
    except Exception as bug:
        error = f"bug: {bug!r}\n{''.join(traceback.format_exception(bug)[-4:])}"
    return Outcome(error, world.trace, world.pick.used, {**world.hits, **world.platform.hits}, plan.steps)


class _Plan:
    """What the engine is asked to do in this seed, over all its lives."""

    def __init__(self, world: World) -> None:
        pick = world.pick
        self.prompts = [f"prompt {number}" for number in range(1 + pick(6, "jobs"))]
        self._crashes = pick(4, "crashes")
        self._concurrency = 1 + pick(4, "concurrency")
        self._resubmit = pick(2, "resubmit") == 1
        self.steps = 0

    def live_through(self, world: World) -> None:
        """Lives that are cut off at a drawn moment, then calm ones until the run comes to its end."""
        for _ in range(self._crashes):
            world.arm()
            self._live(world)
        world.disarm()
        if not any(self._live(world) for _ in range(_CALM_LIVES)):
            raise BrokenError(f"not done after {_CALM_LIVES} lives without any fault")

    def _live(self, world: World) -> bool:
        """One incarnation. Whether the run came to its end; an error made on purpose ends a life as well."""
        loop = VirtualLoop(world)
        try:
            done = loop.drive(self._life(world, loop))
        except (AsyncgenError, BaseExceptionGroup) as caught:
            error = _only(caught)
            if not isinstance(error, AsyncgenError):
                raise
            world.log("ended by", repr(error))
            done = False
        finally:
            self.steps += loop.steps
        world.end_life(died=not done and world.was_cut)
        return done

    async def _life(self, world: World, loop: VirtualLoop) -> None:
        """The shipped parts on the world's ports, wired as `asyncgen.run` wires them on real ones."""
        ports = world.ports(loop)
        ledger = Ledger(ports)
        await ledger.open()
        async with anyio.create_task_group() as writer:
            writer.start_soon(ledger.run_writer)
            await self._run(ports, ledger)
            writer.cancel_scope.cancel()
        await ledger.close()

    async def _run(self, ports: Ports, ledger: Ledger) -> None:
        endpoint = Endpoint(ports, EndpointAddress(_BASE_URL, _ENDPOINT), "key", Pace())
        policy = Policy(
            batch_name="plan",
            path_template="images/generated_{hex8}",
            max_attempts=3,
            resubmit_unknown=self._resubmit,
            cancel_on_stop=False,
        )
        allowance = Allowance(
            f"{_BASE_URL}/{_ENDPOINT}", None, Budget(None), Lanes(10, 0.5), Forecast(600, 86_400), lambda: None
        )
        bench = Workbench(ports, ledger, Store(ports, ROOT), _planner(), lambda address: endpoint, allowance, policy)
        engine = Engine(bench, await ledger.open_batch("plan", "runpod"), RunChoices(self._concurrency))
        try:
            await engine.run(self._chunks(), _ignore)
        finally:
            with anyio.CancelScope(shield=True):
                await _update_manifest(ports, ledger)

    async def _chunks(self) -> AsyncGenerator[list[IndexedWant], None]:
        intake = Intake(_planner(), {"width": 16, "height": 16})
        for prompt in self.prompts:
            yield intake.plan(prompt)


@cache
def _planner() -> Planner:
    """Planning is pure: one planner serves all worlds."""
    logging.getLogger("asyncgen").setLevel(logging.CRITICAL + 1)
    planner = Planner(StylesRegistry.load(), "normal_image_v4_workflow")
    planner.template()
    return planner


async def _update_manifest(ports: Ports, ledger: Ledger) -> None:
    try:
        await Manifest(ports, ledger, ROOT).bring_up_to_date()
    except OSError as error:
        raise StoreError(str(error)) from error


async def _ignore(result: ImageResult) -> None:
    """Nobody waits for the results; the truths are looked at from outside."""


def _only(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
