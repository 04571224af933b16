"""One seed: the engine lives, dies and lives again until its work is done, then the truths are looked at."""

from __future__ import annotations

import hashlib
import traceback
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field

import anyio
from anyio.abc import TaskGroup

from asyncgen.errors import AsyncgenError
from asyncgen.intake import IndexedWant
from asyncgen.ledger import Ledger
from asyncgen.manifest import Manifest
from asyncgen.money import Price
from asyncgen.ports import Ports
from asyncgen.records import PLATFORM
from asyncgen.results import ImageResult
from asyncgen.run import BatchRun, Target, open_run
from asyncgen.settings import Settings
from asyncgen.store import Store
from asyncgen.tally import Statistics
from asyncgen.workspace import Workspace

from .alone import Alone
from .choices import Key
from .commands import Owner, Told
from .loop import StuckError, VirtualLoop, seed_hashes
from .network import draw_storm
from .plans import MET_ONCE, USD_PER_SECOND, Options, Plan, indexed, planner
from .truths import BrokenError, look_at
from .watch import API_KEY, BASE_URL, ROOT
from .world import World


@dataclass
class Life:
    """What is known of one incarnation from outside.

    `was_cancelled`: stopped twice, so that it cannot know of every change whether it was made.

    `ending`: ended, stopped, cancelled (stopped twice), crashed, or the name of the error that ended it, with its text
    in `said`. When it was over, `last_event` was the ledger's newest event, `runs_begun` its count of runs, and
    `most_usd` the most that all jobs in it can have cost, `unlisted` its images that the manifest does not have; times
    are monotonic, but for `began_true` and `ended_true`. `told` are the commands that it was given.
    """

    number: int
    options: Options
    calm: bool
    began_at: float
    began_true: float
    ended_true: float = 0.0
    ending: str = "crashed"
    said: str = ""
    ended_at: float = 0.0
    stopped_at: float | None = None
    was_cancelled: bool = False
    statistics: Statistics | None = None
    results: list[ImageResult] = field(default_factory=list)
    last_event: int = 0
    runs_begun: int = 0
    most_usd: float = 0.0
    unlisted: int = 0
    temporary_files: list[str] = field(default_factory=list)
    told: list[Told] = field(default_factory=list)


@dataclass(frozen=True)
class Outcome:
    """What a seed gave. `error` is None where every truth held; `ticks` are those of all lives.

    `changed_at` and `first_crash_was_durable` are those of `World`.
    """

    error: str | None
    trace: list[tuple[object, ...]]
    used: Mapping[Key, int]
    hits: Mapping[str, int]
    ticks: int
    changed_at: list[int]
    first_crash_was_durable: bool | None

    @property
    def digest(self) -> str:
        """Equal for equal runs, whatever process they ran in."""
        return hashlib.sha256(repr((self.error, self.trace)).encode()).hexdigest()[:16]


def simulate(
    seed: int,
    fixed: Mapping[Key, int] | None = None,
    *,
    others_are_0: bool = False,
    crash: tuple[int, bool] | None = None,
) -> Outcome:
    """Run one seed to its end. The same arguments give the same outcome, byte for byte.

    `fixed` and `others_are_0` are those of `Choices`; `crash` cuts the first life off at this tick, by a power cut or
    else a kill, in place of its drawn crash.
    """
    seed_hashes(seed)
    world = World(seed, fixed, others_are_0)
    lives = Lives(world, crash)
    error = None
    try:
        lives.live()
        look_at(world, lives.plan, lives.past)
    except (BrokenError, StuckError) as caught:
        error = f"{type(caught).__name__}: {caught}"
    except Exception as error_of_ours:
        bug = _only(error_of_ours)
        error = f"bug: {bug!r}\n{''.join(traceback.format_exception(bug)[-4:])}"
    return Outcome(
        error,
        world.trace,
        world.pick.used,
        world.books.hits,
        world.ticks,
        world.changed_at,
        world.first_crash_was_durable,
    )


class Lives:
    """All lives of one seed."""

    def __init__(self, world: World, crash: tuple[int, bool] | None) -> None:
        self._world, self._crash = world, crash
        self.plan = Plan(world.seed, world.pick)
        self.past: list[Life] = []
        wishes = self.plan.wishes
        world.lora_sets = {wish.prompt: wish.lora for wish in wishes if wish.lora is not None}
        if world.lora_sets:
            world.platform.break_out()
        world.doubles = frozenset(wish.prompt for wish in wishes if wish.kind == "two pictures")
        world.in_memory = frozenset(wish.prompt for wish in wishes if wish.kind == "in memory")
        world.unsendable = frozenset(wish.prompt for wish in wishes if wish.kind in ("oversize", "edited workflow"))

    def live(self) -> None:
        """Lives with accidents, then a calm one, which must come to its end; and sometimes one more, for nothing."""
        world = self._world
        for _ in range(max(self.plan.lives, 1 if self._crash else 0)):
            self._live(self.plan.options())
            world.stay_down()
            if world.pick.chance(10, "plants while down"):
                world.plant_file()
            if world.pick.chance(15, "spoils the manifest"):
                world.spoil_manifest()
        world.become_calm()
        options = self.plan.options(calm=True)
        self._live(options)
        if world.pick.chance(20, "once more"):
            self._live(options)

    def _live(self, options: Options) -> None:
        world = self._world
        life = Life(len(self.past), options, world.calm, world.now, world.time)
        self.past.append(life)
        world.log("LIFE", life.number, *(wish.prompt[:40] for wish in options.given))
        loop = VirtualLoop(world)
        try:
            if not loop.drive(_Incarnation(world, loop, life, self._crash).live()):
                life.ending = "crashed"
        finally:
            life.ended_at, life.ended_true = world.now, world.time
        world.end_life(crashed=life.ending == "crashed")
        life.last_event, life.runs_begun = world.ledger.last_event(), world.ledger.runs_begun()
        life.most_usd, life.unlisted = world.ledger.most_usd(), world.ledger.unlisted()
        life.temporary_files = [name for name in world.disk.names if name.endswith(".part")]
        world.log("over", life.ending, life.said)
        world.books.hit(f"life: {life.ending}")
        if world.wrongs:
            raise BrokenError("; ".join(dict.fromkeys(world.wrongs)))


class _Incarnation:
    """The shipped parts on the world's ports, wired by `asyncgen.run` as they are on real ones."""

    def __init__(self, world: World, loop: VirtualLoop, life: Life, crash: tuple[int, bool] | None) -> None:
        self._world, self._loop, self._life, self._crash = world, loop, life, crash

    async def live(self) -> None:
        world, options = self._world, self._life.options
        storm = None if world.calm else draw_storm(world.pick, world.now)
        ports = world.ports(self._loop, storm)
        ledger = Ledger(ports)
        if not world.calm:
            self._arrange_crash()
        try:
            await ledger.open()
            async with anyio.create_task_group() as writer:
                writer.start_soon(ledger.run_writer)
                async with anyio.create_task_group() as commands:
                    with anyio.CancelScope() as scope:
                        await self._run(ports, ledger, options, scope, commands)
                    commands.cancel_scope.cancel()
                if scope.cancelled_caught or (scope.cancel_called and self._life.ending == "stopped"):
                    self._life.ending = "cancelled"  # nothing may have been left to cancel but what was out
                writer.cancel_scope.cancel()
            await ledger.close()
        except (AsyncgenError, BaseExceptionGroup) as caught:
            error = _only(caught)
            if not isinstance(error, AsyncgenError):
                raise
            self._life.ending, self._life.said = type(error).__name__, str(error)

    async def _run(
        self, ports: Ports, ledger: Ledger, options: Options, scope: anyio.CancelScope, commands: TaskGroup
    ) -> None:
        life = self._life
        run = await _open_run(ports, ledger, options)
        life.statistics = run.statistics
        owner = Owner(self._world, self._loop, run, options.known, life.told, commands)
        if not self._world.calm:
            self._arrange_the_rest(run, scope, owner)
        try:
            await run.run(self._chunks(ports), self._deliver)
        finally:
            owner.is_over = True
        life.ending = "ended" if life.stopped_at is None else "stopped"

    def _arrange_crash(self) -> None:
        world = self._world
        if self._crash is not None:
            tick, power_cut = self._crash
            world.crash_with(power_cut)
            world.arrange_at(world.cut, tick=tick)
            return
        if point := self._life.options.crash_point:
            world.cut_at(point, 1 + world.pick(1 if point in MET_ONCE else 3, "crash point met"))
        elif world.pick.chance(60, "crashes"):
            world.arrange(world.cut, "crash")

    def _arrange_the_rest(self, run: BatchRun, scope: anyio.CancelScope, owner: Owner) -> None:
        world, loop = self._world, self._loop

        def stop() -> None:
            if self._life.stopped_at is None:
                self._life.stopped_at = world.now
                world.log("STOP")
                run.request_stop()

        def cancel() -> None:
            stop()
            world.log("CANCEL")
            self._life.was_cancelled = True
            scope.cancel()

        options = self._life.options
        if world.pick.chance(options.stop_percent, "stops") or "cancel" in (options.crash_point or ""):
            has_price = options.budget_usd is not None  # so it should come while jobs run, not between two steps
            world.arrange(lambda: loop.call_soon(stop), "stop", at_a_moment=has_price)
            if world.pick.chance(40, "stops twice"):
                world.arrange(lambda: loop.call_soon(cancel), "second stop")
        if world.pick.chance(25, "has commands"):
            owner.arrange()
        if world.pick.chance(8, "sleeps"):
            world.arrange(world.sleep_machine, "sleep")
        if world.pick.chance(8, "turns the clock"):
            world.arrange(world.turn_clock, "turn")
        if world.pick.chance(8, "plants"):
            world.arrange(world.plant_file, "plant")

    async def _chunks(self, ports: Ports) -> AsyncGenerator[list[IndexedWant], None]:
        rows, options = indexed(self._life.options.given), self._life.options
        for begin in range(0, len(rows), options.chunk):
            yield rows[begin : begin + options.chunk]
            await ports.clock.sleep(options.slow_input_seconds)

    async def _deliver(self, result: ImageResult) -> None:
        self._life.results.append(result)


async def _open_run(ports: Ports, ledger: Ledger, options: Options) -> BatchRun:
    """As `asyncgen.run` wires it; only the ports are others."""
    store, manifest = Store(ports, ROOT), Manifest(ports, ledger, ROOT)
    workspace = Workspace(ROOT, ROOT / "ledger", ports, ledger, store, manifest, None, Alone(ports, ROOT))
    target = Target(PLATFORM, f"{BASE_URL}/{options.endpoint}", API_KEY, Price(USD_PER_SECOND, "drawn"))
    return await open_run(
        workspace,
        _settings(options),
        target,
        planner(),
        await ledger.open_batch("plan", target.realm),
        concurrency=options.concurrency,
        retry_failed=options.retry_failed,
        rebuy_changed=options.rebuy_changed,
        keep_order=options.keep_order,
    )


def _settings(options: Options) -> Settings:
    """Those of one life, whatever this machine's environment says."""
    pace = options.pace
    return Settings.model_construct(
        path_template="images/generated_{hex8}",
        max_attempts=options.max_attempts,
        rerolls=options.rerolls,
        unknown="resubmit" if options.resubmit else "hold",
        on_stop="cancel" if options.cancel_on_stop else "collect",
        metadata="none",  # files are compared with what the platform has made
        execution_timeout_seconds=options.execution_timeout_seconds,
        job_ttl_seconds=options.ttl_seconds,
        budget_usd=options.budget_usd,
        lane_faults=options.lane_faults,
        unreachable_seconds=pace.unreachable_seconds,
        run_rate=int(pace.run_rate),
        status_rate=int(pace.status_rate),
        cancel_rate=int(pace.cancel_rate),
        downloads_at_once=pace.downloads_at_once,
    )


def _only(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
