"""One simulated world: time, a platform and its wire, a disk, a ledger file, and the accidents between them.

The engine reaches it only through `Ports`. Every effect begins, travels, is applied once (even if its caller has been
cancelled: threads and sent requests go on), travels back, and answers. The power can be cut before and after every
apply, between any two disk operations, around every commit, and before any step of the event loop.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from errno import EIO, ENOSPC
from pathlib import Path
from typing import Any, TypeVar

import anyio

from asyncgen.ports import Ports

from .books import Books
from .choices import Choices, Key
from .disk import SimulatedDisk
from .ledger_file import LedgerFile
from .loop import VirtualLoop
from .network import Network, Storm
from .platform import Platform
from .points import DONE, ON_ITS_WAY
from .watch import ROOT, Watch

T = TypeVar("T")
EPOCH_SECONDS = 1_780_000_000.0
_NEVER = float("inf")
_DISK_LATENCY = 0.2  # of the latency unit; the network's is 5
_FOREIGN = b"this is not yours"
_KEPT_ASIDE = "SELECT path FROM image WHERE state = 'rejected' AND path IS NOT NULL"
_DISK_FAULTS = {
    "write": ENOSPC,
    "create": ENOSPC,
    "append": ENOSPC,
    "link": ENOSPC,
    "fsync": EIO,
    "fsync_directory": EIO,
}


class PowerCut(BaseException):
    """The machine is off; nothing that runs now has any effect."""


@dataclass
class _Effect:
    """Something on its way: what it will do, what it is, and whether it has been done already."""

    apply: Callable[[], Any]
    name: str
    is_applied: bool = False


@dataclass
class _Accident:
    """Something that happens once, at a tick or at a moment (monotonic seconds)."""

    happen: Callable[[], None]
    at_tick: float = _NEVER
    at_second: float = _NEVER


@dataclass
class World:
    """Everything outside the engine. The same seed and `fixed` give the same bytes.

    `now` is the machine's monotonic clock; `time` is the true one, which goes on while the machine sleeps.
    """

    seed: int
    fixed: Mapping[Key, int] | None = None
    others_are_0: bool = False
    now: float = 0.0
    slept_seconds: float = 0.0
    clock_error_seconds: float = 0.0
    dead: bool = False
    calm: bool = False
    incarnation: int = 0
    trace: list[tuple[object, ...]] = field(default_factory=list)
    wrongs: list[str] = field(default_factory=list)  # truths that were seen broken while it ran
    foreign: dict[str, bytes] = field(default_factory=dict)  # files that are not the engine's
    doubles: frozenset[str] = frozenset()  # prompts whose jobs make two pictures
    in_memory: frozenset[str] = frozenset()  # prompts whose pictures get no files
    unsendable: frozenset[str] = frozenset()  # prompts of which no job can be made
    lora_sets: Mapping[str, str] = field(default_factory=dict)  # of each prompt that has one

    def __post_init__(self) -> None:
        self.pick = pick = Choices(self.seed, self.fixed, others_are_0=self.others_are_0)
        self.fault_percent = (0.0, 3.0, 10.0, 25.0)[pick(4, "fault percent")]
        self._latency_unit = (0.001, 0.01, 0.1)[pick(3, "latency")]
        self._chaos = pick(3, "chaos") == 2
        self.books = Books()
        self.platform = Platform(pick, self.books, self.fault_percent)
        self.disk = SimulatedDisk(self._disk_step)
        self.ledger = LedgerFile(self)
        self.watch = Watch(self)
        self.ticks = 0
        #: The ticks of the first life at which the world was not as at the tick before, or the disk was at work: a
        #: crash at any other tick is the crash at the last of these, as what the engine had in memory is lost in both.
        self.changed_at: list[int] = []
        self._outside: tuple[float, ...] = ()
        #: What the first crash found was flushed, so that kill and power cut are one; None: nothing has crashed.
        self.first_crash_was_durable: bool | None = None
        self._effects: list[_Effect] = []
        self._accidents: list[_Accident] = []
        self._crash_point: list[Any] = ["", 0]
        self._point: str | None = None
        self._crash_draw: Callable[[], bool] = lambda: pick(2, "power or kill") == 0

    @property
    def time(self) -> float:
        return self.now + self.slept_seconds

    @property
    def slowest_seconds(self) -> float:
        """The longest that a call of the disk or the ledger may take."""
        return 80 * self._latency_unit * _DISK_LATENCY

    # -- the mains (see loop.Mains) ------------------------------------------------------------------------------

    def tick(self, point: str | None = None) -> None:
        """A moment at which something may happen. `point` says what is being done; None: whatever is on its way."""
        self.ticks += 1
        self._point = point
        if self.incarnation == 0:
            self._note_change()
        if point is not None:
            self._reach(point)
        for accident in self._accidents:
            if self.ticks >= accident.at_tick or self.now >= accident.at_second:
                self._accidents.remove(accident)
                accident.happen()
                self._outside = ()
                return

    def _note_change(self) -> None:
        """Whatever happens outside the engine is begun with a draw or a line of the trace, or takes time."""
        outside = len(self.trace), len(self.pick.used), len(self._effects), self.now
        if outside != self._outside or self._point is not None:
            self.changed_at.append(self.ticks)
        self._outside = outside

    def shuffled(self, count: int) -> int:
        """Which of the callbacks that are ready runs first: asyncio's own order, but for one world in three."""
        return self.pick(count, "schedule") if self._chaos else 0

    # -- accidents -----------------------------------------------------------------------------------------------

    def arrange(self, happen: Callable[[], None], *key: str, at_a_moment: bool = False) -> None:
        """Something is to happen once in this life, after a drawn number of ticks or at a drawn moment."""
        scale = 3 if at_a_moment else self.pick(4, *key, "scale")
        if scale == 3:
            self.arrange_at(happen, second=self.now + self.pick(900, *key, "at") / 10)
        else:
            self.arrange_at(happen, tick=self.ticks + 1 + self.pick((60, 400, 2000)[scale], *key, "at"))

    def arrange_at(self, happen: Callable[[], None], *, tick: float = _NEVER, second: float = _NEVER) -> None:
        self._accidents.append(_Accident(happen, tick, second))

    def cut_at(self, point: str, times: int) -> None:
        """The power goes when this has been reached so many times."""
        self._crash_point = [point, times]

    def _reach(self, point: str) -> None:
        if self._crash_point[0] == point:
            self._crash_point[1] -= 1
            if self._crash_point[1] == 0:
                self._point = point
                self.cut()

    def cut(self) -> None:
        """The power goes, or the process is killed, now."""
        self.dead = True
        for point in [self._point] if self._point else self._points_on_the_way() or ["waiting"]:
            self.books.hit(f"crash point: {point}")
            self.log("cut at", point)

    def crash_with(self, power_cut: bool) -> None:
        """Settle what a crash is: for sweeps, which draw nothing."""
        self._crash_draw = lambda: power_cut

    def become_calm(self) -> None:
        """No accident any more: what is wanted must now come to its end."""
        self.calm = True
        self.platform.fault_percent = 0.0

    def end_life(self, *, crashed: bool) -> None:
        """An incarnation is over; what it sent is still on its way. If it crashed, the machine comes up again."""
        power_cut = crashed and self._crash_draw()
        for effect in self._effects:
            if not effect.is_applied and effect.name != "ledger" and self.pick(2, "lands", effect.name):
                self._land(effect)
        self._effects.clear()
        self._accidents.clear()
        self._crash_point = ["", 0]
        self.ledger.end_life()
        if crashed:
            self.books.hit("crash: power cut" if power_cut else "crash: kill")
            self.log("CRASH", "power cut" if power_cut else "kill")
            aside = {name for name in self.disk.names if "/rejected/" in name and not name.endswith(".part")}
            if aside and aside - {str(ROOT / path) for (path,) in self.ledger.rows(_KEPT_ASIDE)} - self.foreign.keys():
                self.books.hit("crash: between a rejected file and its record")
            if self.first_crash_was_durable is None:
                self.first_crash_was_durable = self.disk.is_durable and self.ledger.is_durable
            self.ledger.after_crash(self.pick, power_cut=power_cut)
        self.disk = self.disk.after(self.pick, power_cut=power_cut, step=self._disk_step)
        self.incarnation += 1
        self.dead = False

    def stay_down(self) -> None:
        """Time passes until the next incarnation; results may expire."""
        self.now += (1.0, 10.0, 100.0, 3000.0)[self.pick(4, "down")] * (0.1 + self.pick.unit("down for"))

    def sleep_machine(self) -> None:
        """The lid is closed: the monotonic clock stands still, the platform goes on."""
        self.slept_seconds += 600.0 + self.pick(4000, "sleeps for")
        self.books.hit("clock: the machine slept")

    def turn_clock(self) -> None:
        """The wall clock is set, an hour forwards or back."""
        self.clock_error_seconds += self.pick.of((3600.0, -3600.0), "clock turned")
        self.books.hit("clock: the wall clock jumped")

    def plant_file(self) -> None:
        """Somebody else takes a name: one that a picture is about to get, or that two rows of the input ask for."""
        names = [path for (path,) in self.ledger.rows("SELECT path FROM image WHERE state = 'storing'") if path]
        free = [path for path in (*names, "images/the same name.png") if not self.disk.exists(ROOT / path)]
        if free:
            self._take_name(ROOT / free[0])

    def spoil_manifest(self) -> None:
        """Its owner cuts the manifest short, in an editor."""
        path = ROOT / "manifest.jsonl"
        if size_bytes := self.disk.size_bytes(path):
            self.disk.put(path, self.disk.read(path)[: self.pick(size_bytes, "manifest cut at")])
            self.books.hit("disk: the manifest was edited")

    def _take_name(self, path: Path) -> None:
        self.foreign[str(path)] = _FOREIGN
        self.disk.put(path, _FOREIGN)
        self.books.hit("disk: somebody else's file")

    def _land(self, effect: _Effect) -> None:
        was_dead, self.dead = self.dead, False  # on the wire, or in the kernel
        try:
            effect.apply()
        except (Exception, PowerCut) as error:
            self.log("landed with", type(error).__name__)
        self.dead = was_dead

    def _points_on_the_way(self) -> list[str]:
        points = (f"{each.name} {DONE if each.is_applied else ON_ITS_WAY}" for each in self._effects)
        return list(dict.fromkeys(points))

    # -- ports ---------------------------------------------------------------------------------------------------

    def ports(self, loop: VirtualLoop, storm: Storm | None) -> Ports:
        """The doors of one incarnation; they close for good when it dies."""
        life = self.incarnation
        return Ports(
            transport=Network(self, loop, storm),
            clock=_Clock(self),
            rng=random.Random(self.pick(1 << 30, "rng")),
            new_hex8=_hexes(life).__next__,
            disk=self.disk,
            file_threads=_Threads(self, loop, "files"),
            ledger_thread=_Threads(self, loop, "ledger"),
            connect=lambda: self.ledger.connect(life),
        )

    def effect(self, loop: VirtualLoop, life: int, name: str, apply: Callable[[], T], *, slow: float = 1.0) -> Any:
        """Start `apply` on its way; the future it answers."""
        self.guard(life)
        future = loop.create_future()
        effect = _Effect(apply, name)
        self._effects.append(effect)
        self._reach(f"{name} {ON_ITS_WAY}")

        def arrive() -> None:
            self.tick()
            if self.dead:
                return
            result, error = None, None
            effect.is_applied = True  # if the power goes in the midst of it, that is how far it came
            try:
                result = apply()
            except PowerCut:
                return
            except Exception as caught:
                error = caught
            self._point = None
            self._reach(f"{name} {DONE}")
            loop.call_later(self._delay(name, "back") * slow, answer, result, error)

        def answer(result: Any, error: Exception | None) -> None:
            self._effects.remove(effect)
            if future.done():
                return
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        loop.call_later(self._delay(name, "there") * slow, arrive)
        return future

    def guard(self, life: int) -> None:
        """Raises `PowerCut` for whoever belongs to a life that is over."""
        if self.dead or life != self.incarnation:
            raise PowerCut

    def log(self, *words: object) -> None:
        self.trace.append((round(self.now, 4), *words))

    def accuse(self, wrong: str) -> None:
        """A truth is broken; the seed has failed, whatever comes."""
        self.wrongs.append(wrong)

    def _delay(self, *key: object) -> float:
        return self.pick(40, "latency", *key) * self._latency_unit

    def _disk_step(self, operation: str, path: Path) -> int | None:
        if self.dead:
            raise PowerCut
        self.tick(f"disk {operation}")
        if self.dead:
            raise PowerCut
        self.log(operation, path.name)
        if operation == "create" and path.parent != ROOT and not self.calm and self.pick.chance(2, "name taken"):
            self._take_name(path.with_name(path.name.removeprefix(".").removesuffix(".part")))
        if self.calm or operation not in _DISK_FAULTS or not self.pick.chance(self.fault_percent / 12, "disk fault"):
            return None
        self.books.hit(f"disk: {operation} fails")
        return _DISK_FAULTS[operation]


def _hexes(life: int) -> Iterator[str]:
    return (f"{life:02x}{number:06x}" for number in range(1 << 24))


class _Clock:
    def __init__(self, world: World) -> None:
        self._world = world

    def now(self) -> float:
        return self._world.now

    def wall(self) -> float:
        return EPOCH_SECONDS + self._world.time + self._world.clock_error_seconds

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)


class _Threads:
    def __init__(self, world: World, loop: VirtualLoop, name: str) -> None:
        self._world, self._loop, self._life, self._name = world, loop, world.incarnation, name

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        def apply() -> T:
            self._world.guard(self._life)
            return function(*args)

        result: T = await self._world.effect(self._loop, self._life, self._name, apply, slow=_DISK_LATENCY)
        return result
