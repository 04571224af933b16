"""The lane of the real SQLite file: the shipped ledger on a disk that forgets, cut off at any operation of SQLite's.

Jobs walk through the lifecycle by the ledger's public methods, several at once, so that commits are shared. After each
power cut what is left is opened: SQLite's own check must pass, every acknowledged operation must be there, and the
whole database must be, byte for byte, as it was at the last acknowledged commit or at one that was being tried.
"""

from __future__ import annotations

import itertools
import random
import sqlite3
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import cache
from hashlib import blake2b
from typing import Any, TypeVar, cast

import anyio
import anyio.lowlevel

from asyncgen.errors import Failure, FailureClass, FailureCode, LedgerError
from asyncgen.ledger import Ledger
from asyncgen.lifecycle import State
from asyncgen.plan import Planner
from asyncgen.ports import Ports
from asyncgen.protocol import Timing
from asyncgen.records import PLATFORM, Item, StoredPicture, Terms, Want
from asyncgen.registry import StylesRegistry
from asyncgen.request import parse_request

from .choices import Choices
from .vfs import ANY, ApswConnection, ForgetfulDisk
from .world import EPOCH_SECONDS, PowerCut

T = TypeVar("T")
PATH = "/out/ledger.sqlite3"
_FAILURE = Failure(FailureClass.INFRASTRUCTURE, FailureCode.OUT_OF_MEMORY, "CUDA out of memory")
_TERMS = Terms(
    "https://api.simulated/v2/endpoint", execution_timeout_ms=600_000, ttl_ms=3_600_000, usd_per_second=0.001
)
_TIMING = Timing(delay_ms=10, execution_ms=20, worker_id="w1")
_WITH_A_JOB = (State.SUBMITTING, State.ACCEPTED, State.STORING, State.STORED)  # in the air: of a retry
_WITH_PICTURES = (State.STORING, State.STORED)
# Of the database header, what SQLite fills in while it commits: the change counter, and where and by whom it was set.
_HEADER_FIELDS = (slice(24, 28), slice(92, 100))


@dataclass
class Finding:
    """What one seed gave: how many cuts, during which operations, how many faults, and what was found after each.

    `verdicts` counts "kept", "lost" (an acknowledged commit is not there) and "corrupt"; `problems` says what was not
    kept. A seed ends with its first problem.
    """

    cuts: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    moves: Counter[tuple[State, State]] = field(default_factory=Counter)
    errors_told: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)


def crash(seed: int, *, synchronous: str | None = None, lives: int = 4) -> Finding:
    """Run one seed: so many lives of the ledger, one after the other, on one disk. The same seed gives the same."""
    return _Story(seed, synchronous).told(lives)


def pragmas_in_force(names: Sequence[str]) -> dict[str, object]:
    """What SQLite says of these pragmas once the ledger has been opened in this lane."""
    story = _Story(0, None)
    found: dict[str, object] = {}

    async def ask(ledger: Ledger) -> None:
        await ledger.open()
        async with anyio.create_task_group() as writer:
            writer.start_soon(ledger.run_writer)
            for name in names:
                found[name] = await ledger.transact(lambda connection, name=name: _pragma(connection, name))  # type: ignore[misc]  # the default binds it
            writer.cancel_scope.cancel()
        await ledger.close()

    with story._booted(ForgetfulDisk({}, Choices(0)), _Books()) as ledger:
        anyio.run(ask, ledger)
    return found


@dataclass(frozen=True)
class _Standing:
    """Where an item stands, as far as that must survive."""

    state: State
    job_id: str | None = None
    paths: tuple[str | None, ...] = ()

    @classmethod
    def of(cls, item: Item) -> _Standing:
        return cls(
            item.state,
            item.job_id if item.state in _WITH_A_JOB else None,
            tuple(picture.path for picture in item.pictures) if item.state in _WITH_PICTURES else (),
        ).when_opened()

    def when_opened(self) -> _Standing:
        """What `Ledger.open` makes of it: of a submission in the air nothing is known, of a retry its id tells."""
        if self.state is not State.SUBMITTING:
            return self
        return _Standing(State.UNKNOWN) if self.job_id is None else _Standing(State.ACCEPTED, self.job_id)


#: What is tried: where it leads, and how it is done.
_Try = tuple[_Standing, Callable[[], Awaitable[None]]]


class _Books:
    """What was acknowledged, and what was being tried since: of each item, and of the database as a whole."""

    def __init__(self) -> None:
        self.standing: dict[str, _Standing] = {}
        self.tried: dict[str, set[_Standing]] = {}
        self.committed: bytes | None = None  # the database as the last acknowledged commit left it
        self.commits_tried: set[bytes] = set()
        self.past: set[bytes] = set()
        self.is_opening = True  # what a commit of these would make of the database is not known beforehand

    def try_move(self, prompt: str, standing: _Standing) -> None:
        self.tried.setdefault(prompt, set()).add(standing)

    def acknowledge(self, prompt: str, item: Item) -> None:
        self.standing[prompt] = _Standing.of(item)
        self.tried[prompt] = set()

    def try_commit(self, database: bytes) -> None:
        self.commits_tried.add(database)
        self.past.add(database)

    def acknowledge_commit(self, database: bytes) -> None:
        self.committed = database
        self.commits_tried.clear()
        self.past.add(database)

    def verdict_on(self, found: Mapping[str, _Standing], database: bytes) -> tuple[str, str]:
        """The verdict, and what is wrong."""
        for prompt, standing in self.standing.items():
            if found.get(prompt) not in {standing, *self.tried[prompt]}:
                return "lost", f"{prompt}: {standing} was acknowledged, {found.get(prompt)} is there"
        if self.committed is None or database in {self.committed, *self.commits_tried}:
            return "kept", ""
        if database in self.past:
            return "lost", "the database is as it was some commits ago"
        return ("kept", "") if self.is_opening else ("corrupt", "the database is as it never was")

    def go_on_from(self, database: bytes) -> None:
        """The next boot begins with what was found."""
        self.acknowledge_commit(database)
        self.is_opening = True


class _WatchedConnection(ApswConnection):
    """Writes into the books what each commit makes of the database."""

    def __init__(self, disk: ForgetfulDisk, books: _Books, **options: Any) -> None:
        super().__init__(disk, PATH, **options)
        self._books = books

    def commit(self) -> None:
        self._books.is_opening = False
        self._books.try_commit(digest(self.serialize()))
        super().commit()

    def executescript(self, script: str) -> None:
        self._books.try_commit(digest(self.serialize()))  # an empty file with a write-ahead log: promised to nobody
        super().executescript(script)

    def has_committed(self) -> None:
        self._books.acknowledge_commit(digest(self.serialize()))


def digest(database: bytes) -> bytes:
    """A hash of all pages, without what only the commit itself fills in."""
    pages = bytearray(database)
    for part in _HEADER_FIELDS:
        pages[part] = bytes(part.stop - part.start)
    return blake2b(pages, digest_size=16).digest()


class _Story:
    """One seed."""

    def __init__(self, seed: int, synchronous: str | None) -> None:
        self._pick = pick = Choices(seed)
        self._synchronous = synchronous
        self._prompts = [f"prompt {number}" for number in range(1 + pick(5, "jobs"))]
        self._steps = 2 + pick(12, "steps")
        self._checkpoint_pages = (1000, 8, 24)[pick(3, "checkpoint")]
        self._fault_percent = (0.0, 0.0, 0.5, 3.0)[pick(4, "faults")]
        self._books, self._finding = _Books(), Finding()
        self._clock, self._hexes, self._numbers = _Clock(), itertools.count(), itertools.count()

    def told(self, lives: int) -> Finding:
        at_rest: Mapping[str, bytes] = {}
        for _ in range(lives):
            disk = ForgetfulDisk(at_rest, self._pick)
            disk.cut_at = self._cut()
            disk.fault_percent = self._fault_percent
            self._live(disk)
            at_rest = disk.at_rest
            self._finding.faults.update(disk.faults)
            if disk.cut_during is not None:
                self._finding.cuts[disk.cut_during] += 1
                if not self._is_kept(at_rest):
                    break
        return self._finding

    def _cut(self) -> tuple[str, int]:
        """Where the power goes: in half of the lives at one of the rarer operations, which the writes would hide."""
        if self._pick(2, "cut at a kind"):
            kind, most = (("sync", 30), ("create", 2), ("truncate", 2), ("delete", 2))[self._pick(4, "cut kind")]
            return kind, 1 + self._pick(most, "cut at")
        return ANY, 1 + self._pick((40, 200, 800)[self._pick(3, "cut scale")], "cut at")

    # -- a life ----------------------------------------------------------------------------------------------------

    def _live(self, disk: ForgetfulDisk) -> None:
        """A life ends with its work, with the power, or with an error that was told."""
        try:
            with self._booted(disk, self._books) as ledger:
                anyio.run(self._life, ledger)
        except (PowerCut, LedgerError, BaseExceptionGroup) as ending:
            if not (disk.is_off or isinstance(_only(ending), LedgerError)):
                raise

    @contextmanager
    def _booted(self, disk: ForgetfulDisk, books: _Books) -> Iterator[Ledger]:
        """The shipped ledger on this disk; with the block its process ends and the machine goes off."""
        connections: list[ApswConnection] = []

        def connect() -> sqlite3.Connection:
            options = {"checkpoint_pages": self._checkpoint_pages, "synchronous": self._synchronous}
            connection = _WatchedConnection(disk, books, **options)
            connections.append(connection)
            return cast(sqlite3.Connection, connection)

        thread = _Thread(disk, self._pick)
        unused: Any = None  # the ledger sends nothing and stores no pictures
        try:
            yield Ledger(
                Ports(
                    transport=unused,
                    clock=self._clock,
                    rng=random.Random(self._pick(1 << 30, "rng")),
                    new_hex8=lambda: f"{next(self._hexes):08x}",
                    disk=unused,
                    file_threads=unused,
                    ledger_thread=thread,
                    connect=connect,
                )
            )
        finally:
            for connection in connections:
                connection.close()
            disk.shut_down()

    async def _life(self, ledger: Ledger) -> None:
        await ledger.open()
        async with anyio.create_task_group() as writer:
            writer.start_soon(ledger.run_writer)
            items = await self._claimed(ledger)
            for prompt, item in items.items():
                self._books.acknowledge(prompt, item)
            async with anyio.create_task_group() as jobs:
                for prompt, item in items.items():
                    jobs.start_soon(self._walk, ledger, prompt, item)
            writer.cancel_scope.cancel()
        await ledger.close()

    async def _claimed(self, ledger: Ledger) -> dict[str, Item]:
        """The items of all prompts, recorded now where they were not."""
        batch = await ledger.open_batch("plan", PLATFORM)
        run_id = await ledger.begin_run(batch)
        items = await ledger.claim(batch, run_id, [_want(prompt) for prompt in self._prompts])
        return dict(zip(self._prompts, items, strict=True))

    async def _walk(self, ledger: Ledger, prompt: str, item: Item) -> None:
        """So many steps through the lifecycle. What could not be recorded is tried again, as after a full disk."""
        for _ in range(self._steps):
            before, (target, move) = item.state, self._next_move(ledger, prompt, item)
            self._books.try_move(prompt, target.when_opened())
            try:
                await move()
            except LedgerError:
                if ledger.is_closed:
                    raise
                self._finding.errors_told += 1
                continue
            self._books.acknowledge(prompt, item)
            self._finding.moves[before, item.state] += 1
            for _ in range(self._pick(3, "pause", prompt)):
                await anyio.lowlevel.checkpoint()

    def _next_move(self, ledger: Ledger, prompt: str, item: Item) -> _Try:
        """One of the ways on from here."""
        number = next(self._numbers)
        here = _ways_on(ledger, item, _want(prompt), f"job-{number}", _picture(f"{number}.png"))[item.state]
        return here[self._pick(len(here), "move", prompt)]

    # -- after the cut ---------------------------------------------------------------------------------------------

    def _is_kept(self, at_rest: Mapping[str, bytes]) -> bool:
        try:
            database = self._database(at_rest)
            verdict, problem = self._books.verdict_on(self._found(at_rest), database)
            self._books.go_on_from(database)
        except (sqlite3.Error, LedgerError, _DamagedError, BaseExceptionGroup) as error:
            if not isinstance(_only(error), sqlite3.Error | LedgerError | _DamagedError):
                raise
            verdict, problem = "corrupt", repr(_only(error))
        self._finding.verdicts[verdict] += 1
        if verdict != "kept":
            self._finding.problems.append(f"cut {sum(self._finding.cuts.values())}: {verdict}: {problem}")
        return verdict == "kept"

    def _database(self, at_rest: Mapping[str, bytes]) -> bytes:
        """A hash of the database that SQLite makes of what is left. Raises where it is damaged."""
        disk = ForgetfulDisk(at_rest, self._pick)
        try:
            with closing(ApswConnection(disk, PATH)) as connection:
                for check in ("integrity_check", "foreign_key_check"):
                    told = connection.execute(f"PRAGMA {check}").fetchall()
                    if told not in ([], [("ok",)]):
                        raise _DamagedError(told)
                return digest(connection.serialize())
        finally:
            disk.shut_down()

    def _found(self, at_rest: Mapping[str, bytes]) -> dict[str, _Standing]:
        """Where each item stands for the next run, by the ledger's own words; an item that is not there is absent."""
        found: dict[str, _Standing] = {}

        async def ask(ledger: Ledger) -> None:
            await ledger.open()
            async with anyio.create_task_group() as writer:
                writer.start_soon(ledger.run_writer)
                items = await self._claimed(ledger)
                found.update({prompt: _Standing.of(item) for prompt, item in items.items() if not item.is_new})
                writer.cancel_scope.cancel()
            await ledger.close()

        with self._booted(ForgetfulDisk(at_rest, self._pick), _Books()) as ledger:
            anyio.run(ask, ledger)
        return found


def _ways_on(
    ledger: Ledger, item: Item, want: Want, job_id: str, picture: StoredPicture
) -> Mapping[State, Sequence[_Try]]:
    """From each state every move but those of `asyncgen verify`: where the item stands then, and how it gets there."""
    wanted, failed, paths = _Standing(State.WANTED), _Standing(State.FAILED), tuple(p.path for p in item.pictures)
    again = [(wanted, lambda: ledger.record_wanted_again(item, want, "again"))]

    def ended(target: State) -> _Try:
        return _Standing(target), lambda: ledger.record_ended(item, target, _FAILURE, _TIMING)

    return {
        State.WANTED: [
            (_Standing(State.SUBMITTING), lambda: ledger.record_intent(item, _TERMS)),
            (failed, lambda: ledger.record_refused_here(item, _FAILURE)),
        ],
        State.SUBMITTING: [
            (_Standing(State.ACCEPTED, job_id), lambda: ledger.record_accepted(item, job_id)),
            (_Standing(State.UNKNOWN), lambda: ledger.record_unknown(item, _FAILURE)),
            (wanted, lambda: ledger.record_refused(item, "429")),
            (failed, lambda: ledger.record_rejected(item, _FAILURE)),
        ],
        State.UNKNOWN: [(wanted, lambda: ledger.record_resubmission(item))],
        State.ACCEPTED: [
            (
                _Standing(State.STORING, item.job_id, (picture.path,)),
                lambda: ledger.record_storing(item, [picture], _TIMING),
            ),
            (
                _Standing(State.SUBMITTING, item.job_id),
                lambda: ledger.record_retry_intent(item, _TERMS, _FAILURE, _TIMING),
            ),
            *map(ended, (State.WANTED, State.FAILED, State.GIVEN_UP, State.LOST, State.CANCELLED)),
        ],
        State.STORING: [
            (_Standing(State.STORED, item.job_id, paths), lambda: ledger.record_stored(item)),
            (_Standing(State.ACCEPTED, item.job_id), lambda: ledger.record_not_stored(item)),
        ],
        **dict.fromkeys((State.STORED, State.FAILED, State.GIVEN_UP, State.LOST, State.CANCELLED), again),
    }


class _DamagedError(Exception):
    """SQLite's own checks find something wrong."""


class _Clock:
    """Time goes on by a second whenever it is asked for."""

    def __init__(self) -> None:
        self._seconds = itertools.count()

    def now(self) -> float:
        return float(next(self._seconds))

    def wall(self) -> float:
        return EPOCH_SECONDS + self.now()

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("the ledger waits for nothing but its commits")


class _Thread:
    """The ledger's thread: what arrives while a commit is on its way shares the next one. It dies with the power."""

    def __init__(self, disk: ForgetfulDisk, pick: Choices) -> None:
        self._disk, self._pick = disk, pick

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        for _ in range(self._pick(4, "commit takes")):
            await anyio.lowlevel.checkpoint()
        result = function(*args)
        if self._disk.is_off:
            raise PowerCut
        return result


def _pragma(connection: sqlite3.Connection, name: str) -> object:
    return connection.execute(f"PRAGMA {name}").fetchone()[0]


@cache
def _planner() -> Planner:
    return Planner(StylesRegistry.load(), "normal_image_v4_workflow")


@cache
def _want(prompt: str) -> Want:
    return _planner().want(parse_request({"prompt": prompt}), 0)


def _picture(path: str) -> StoredPicture:
    return StoredPicture(0, path, "0" * 64, 10, "png", 8, 8)


def _only(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
