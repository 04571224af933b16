"""Ledger, store and manifest on real files, and the small values their tests are made of."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from asyncgen.adopted_rows import give_picture
from asyncgen.errors import Failure, FailureClass, FailureCode
from asyncgen.images import Picture
from asyncgen.ledger import Ledger
from asyncgen.lifecycle import State
from asyncgen.plan import Planner
from asyncgen.ports import HttpReply, HttpRequest, NotSentError, Ports
from asyncgen.protocol import Timing
from asyncgen.records import ADOPTED, PLATFORM, Batch, Item, StoredPicture, Terms, Want
from asyncgen.registry import StylesRegistry
from asyncgen.request import parse_request
from asyncgen.store import Store
from asyncgen.system import real_ports

LEDGER = "ledger.sqlite3"
ADDRESS = "https://api.example/v2/ep"
TERMS = Terms(ADDRESS, execution_timeout_ms=600_000, ttl_ms=86_400_000)
FAILURE = Failure(FailureClass.ITEM, FailureCode.WORKER_ERROR, "because")
_numbers = itertools.count()
PLANNER = Planner(StylesRegistry.load(), "normal_image_v4_workflow")


class NoNetwork:
    """A transport for parts that send nothing."""

    async def send(self, request: HttpRequest) -> HttpReply:
        raise NotSentError(f"there is no network here for {request.url}")


@dataclass
class Desk:
    """An open ledger with its writer running, and the store of the same root."""

    root: Path
    ports: Ports
    ledger: Ledger
    store: Store
    batch: Batch
    run_id: int
    in_the_air: int = 0

    async def claim(self, *wants: Want) -> list[Item]:
        return await self.ledger.claim(self.batch, self.run_id, wants)

    async def next_run(self) -> None:
        """Another run over the same batch."""
        await self.ledger.end_run(self.run_id, "ended")
        self.run_id = await self.ledger.begin_run(self.batch)

    async def item(self, prompt: str = "a fox", **fields: Any) -> Item:
        (item,) = await self.claim(want(prompt, **fields))
        return item

    async def accept(self, item: Item, job_id: str | None = None) -> Item:
        await self.ledger.record_intent(item, TERMS)
        await self.ledger.record_accepted(item, job_id or f"job-{next(_numbers)}")
        return item

    async def move(self, item: Item, target: State) -> None:
        """The ledger's own way from where the item stands to a state."""
        ledger = self.ledger
        match item.state, target:
            case State.ACCEPTED, State.SUBMITTING:
                await ledger.record_retry_intent(item, TERMS, FAILURE, Timing())
            case _, State.SUBMITTING:
                await ledger.record_intent(item, TERMS)
            case State.STORING, State.ACCEPTED:
                await ledger.record_not_stored(item)
            case _, State.ACCEPTED:
                await ledger.record_accepted(item, f"job-{item.id}")
            case _, State.STORING:
                await ledger.record_storing(item, [record(path=f"{item.request_id}.png")], Timing())
            case State.WANTED, State.STORED:
                await self.adopted(item, f"{item.request_id}.png")
            case State.WANTED, State.CANCELLED:
                await ledger.record_cancelled_unsent(item, "taken back")
            case _, State.STORED:
                await ledger.record_stored(item)
            case _, State.UNKNOWN:
                await ledger.record_unknown(item, FAILURE)
            case State.SUBMITTING, State.WANTED:
                await ledger.record_refused(item, "429")
            case _:
                await ledger.record_ended(item, target, FAILURE, Timing())

    async def adopted(self, item: Item, path: str) -> None:
        """Give an item that was never sent a picture that was made elsewhere."""
        picture, at = record(path=path), self.ports.clock.wall()
        await self.ledger.transact(lambda connection: give_picture(connection, item.id, picture, "adopted", at))
        item.state, item.endpoint, item.job_id, item.pictures = State.STORED, ADOPTED, picture.sha256, (picture,)

    async def stored(self, item: Item, path: str | None = None, *, count: int = 1) -> Item:
        """Take an item through the whole lifecycle, without files."""
        await self.accept(item)
        pictures = [record(number, f"{path or item.request_id}_{number}.png") for number in range(count)]
        await self.ledger.record_storing(item, pictures, Timing(120, 4700, "w1"))
        await self.ledger.record_stored(item)
        return item


@asynccontextmanager
async def desk(
    root: Path, *, batch: str = "set", change: Callable[[Ports], Ports] | None = None
) -> AsyncIterator[Desk]:
    """Open the ledger of a root as a run does; `change` may put another port in."""
    root.mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240 - nothing else runs yet
    async with real_ports(NoNetwork(), root / LEDGER) as ports:
        ports = change(ports) if change else ports
        ledger = Ledger(ports)
        in_the_air = await ledger.open()
        writer = asyncio.create_task(ledger.run_writer())
        try:
            opened = await ledger.open_batch(batch, PLATFORM)
            run_id = await ledger.begin_run(opened)
            yield Desk(root, ports, ledger, Store(ports, root), opened, run_id, in_the_air)
        finally:
            writer.cancel()
            with suppress(asyncio.CancelledError):
                await writer
            await ledger.close()


def want(prompt: str = "a fox", replica: int = 0, **fields: Any) -> Want:
    """A want as the planner makes it from the shipped styles and workflow."""
    return PLANNER.want(parse_request({"prompt": prompt, **fields}), replica)


def with_other_steps(wanted: Want, steps: int = 99) -> Want:
    """The same want, after a style was edited."""
    return replace(wanted, spec=replace(wanted.spec, steps=steps))


def picture(data: bytes = b"not looked into", suffix: str = ".png") -> Picture:
    """What the store is given; it never looks into the bytes."""
    return Picture(data, "png", suffix, 8, 8, hashlib.sha256(data).hexdigest())


def record(number: int = 0, path: str | None = "a.png") -> StoredPicture:
    """A picture's record with made-up measures."""
    return StoredPicture(number, path, "0" * 64, 10, "png", 8, 8)


def rows(root: Path, query: str) -> list[tuple[Any, ...]]:
    """What a second connection sees in the ledger's file: only what is committed."""
    with closing(sqlite3.connect(f"file:{root / LEDGER}?mode=ro", uri=True)) as connection:
        return connection.execute(query).fetchall()


def files_of(root: Path) -> set[str]:
    """Every file under a root that is not the ledger's, relative."""
    return {str(p.relative_to(root)) for p in root.rglob("*") if p.is_file() and not p.name.startswith(LEDGER)}


def write_version_1(root: Path) -> None:
    """A ledger that version 1 wrote; see the dump's own words."""
    script = (Path(__file__).parent / "ledgers" / "version_1.sql").read_text(encoding="utf-8")
    with closing(sqlite3.connect(root / LEDGER)) as connection:
        connection.executescript(script)


def path_to(state: State) -> list[State]:
    """The moves that bring a new item into a state."""
    bought = [State.SUBMITTING, State.ACCEPTED]
    return {
        State.WANTED: [],
        State.SUBMITTING: [State.SUBMITTING],
        State.ACCEPTED: bought,
        State.STORING: [*bought, State.STORING],
        State.STORED: [*bought, State.STORING, State.STORED],
        State.FAILED: [State.FAILED],
        State.GIVEN_UP: [*bought, State.GIVEN_UP],
        State.CANCELLED: [*bought, State.CANCELLED],
        State.LOST: [*bought, State.LOST],
        State.UNKNOWN: [State.SUBMITTING, State.UNKNOWN],
    }[state]
