"""The lane of the real aiohttp adapter: its errors must say the truth about what a misbehaving server has seen.

    exchange                     requests one by one and side by side, on virtual time
    exchange_real                the same over real sockets, for the kernel's own ways of losing a connection
    exchange_after_stray_reply   on a connection that holds a reply nobody asked for
    run                          the shipped engine as `asyncgen.run` wires it, over the adapter, to the end of its work

`NotSentError` means that an image may be bought again, so it may only be said of a request that the server has never
read; and a `POST` that is sent once must never be read twice.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import logging
import random
import sqlite3
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeVar

import anyio
import anyio.lowlevel
from PIL import Image

from asyncgen.intake import IndexedWant, Intake
from asyncgen.ledger import Ledger
from asyncgen.manifest import Manifest
from asyncgen.plan import Planner
from asyncgen.ports import HttpReply, HttpRequest, NotSentError, Ports, Transport, TransportError
from asyncgen.records import PLATFORM
from asyncgen.registry import StylesRegistry
from asyncgen.results import ImageResult
from asyncgen.run import Target, new_planner, open_run
from asyncgen.settings import Settings, load_settings
from asyncgen.store import Store
from asyncgen.transport import aiohttp_transport
from asyncgen.workspace import Workspace

from .alone import Alone
from .choices import Choices
from .disk import SimulatedDisk
from .loop import seed_hashes
from .misbehaving import FAULTS, SHORTENED, SILENT, UNASKED, WHOLE, Books, Request, Server
from .sockets import Fares, SocketLoop
from .world import EPOCH_SECONDS

T = TypeVar("T")
_HOST = "http://127.0.0.1:8000"
_KEY, _ENDPOINT, _ROOT = "key", "endpoint", Path("/out")
_MOST_REPLY_BYTES = 300_000
_NO_CONNECTION: Final[tuple[Fares, Fares]] = ("refused", "silent")
_CALM_RUNS = 6  # so often may a run be started again once nothing goes wrong any more
_FINAL = frozenset({"stored", "unknown"})  # nothing is wrong with these jobs but the wire
#: The request that is being sent, for those who see only its connection.
_name_now: ContextVar[str] = ContextVar("name")


@dataclass
class Sent:
    """One `send`: what became of it, and how its attempts to open a connection fared."""

    name: str
    method: str
    outcome: HttpReply | TransportError | None = None
    connecting: list[str] = field(default_factory=list)

    @property
    def word(self) -> str:
        return type(self.outcome).__name__


@dataclass
class Finding:
    """What one seed gave. `problems` are the claims that do not hold."""

    problems: list[str] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)


def wrong(sent: Sent, books: Books) -> str | None:
    """What is not true of what the adapter said of a request; None where all is."""
    reads, met = books.read[sent.name], books.met.get(sent.name, [""])[-1]
    if reads > (1 if sent.method == "POST" else 2):
        return f"read {reads} times"
    match sent.outcome:
        case HttpReply(status=status, body=body) if not _was_said(status, body, met, books.said.get(sent.name)):
            return f"the reply {status} {body[:40]!r} is not its own"
        case NotSentError() if reads and sent.method == "POST":  # a GET may be repeated within, and then be refused
            return f"{sent.outcome!r}, and it was read"
        case TransportError() if not isinstance(sent.outcome, NotSentError) and _never_left(sent):
            return f"{sent.outcome!r}, and there was no connection"
        case TransportError() if reads and met in {"", *WHOLE} - {"reset while idle"}:
            return f"{sent.outcome!r}, and its whole reply was on the way"
    return None


def _was_said(status: int, body: bytes, met: str, said: tuple[int, bytes] | None) -> bool:
    return said is not None and (
        (status, body) == said or (met in SHORTENED and status == said[0] and said[1].startswith(body))
    )


def _never_left(sent: Sent) -> bool:
    return bool(sent.connecting) and "connected" not in sent.connecting and sent.method == "POST"


class _Network:
    """What a seed draws about connections, and the names of what is sent over them."""

    def __init__(self, pick: Choices, fault_percent: float, sent: dict[str, Sent]) -> None:
        self._pick, self.fault_percent, self.sent = pick, fault_percent, sent

    def connecting(self) -> Fares:
        goes_wrong = self._pick.chance(self.fault_percent / 2, "connection")
        fares: Fares = _NO_CONNECTION[self._pick(2, "connection fault")] if goes_wrong else "connected"
        self.sent[_name_now.get()].connecting.append(fares)
        return fares


class _Named:
    """The adapter, with a name on each request."""

    def __init__(self, transport: Transport, sent: dict[str, Sent]) -> None:
        self._transport, self._sent = transport, sent

    async def send(self, request: HttpRequest) -> HttpReply:
        name = f"send-{len(self._sent)}"
        sent = self._sent[name] = Sent(name, request.method)
        _name_now.set(name)
        try:
            reply = await self._transport.send(replace(request, headers={**request.headers, "X-Send": name}))
        except TransportError as error:
            sent.outcome = error
            raise
        sent.outcome = reply
        return reply


@dataclass
class _Mains:
    """The power is always on. aiohttp counts on asyncio's order of callbacks, so it is asyncio's."""

    now: float = 0.0
    dead: bool = False

    def tick(self) -> None: ...

    def shuffled(self, count: int) -> int:
        return 0


# -- requests by themselves ----------------------------------------------------------------------------------------


def exchange(seed: int, *, fault_percent: float | None = None) -> Finding:
    """Requests of every kind against one server on virtual time. `fault_percent` None: drawn."""
    seed_hashes(seed)
    pick = Choices(seed)
    percent = (3.0, 15.0, 40.0)[pick(3, "fault percent")] if fault_percent is None else fault_percent
    network = _Network(pick, percent, {})
    server = Server(pick, _echo, fault_percent=percent)
    loop = SocketLoop(_Mains(), pick, server.connection, network.connecting)
    loop.drive(_talk(network.sent, pick, _HOST))
    return _finding(network.sent, server)


async def exchange_real(seed: int) -> Finding:
    """The same over real sockets, in the loop that runs. Nothing waits for a timeout here."""
    pick, sent = Choices(seed), dict[str, Sent]()
    quick = tuple(fault for fault in FAULTS if fault not in SILENT or fault == "endless body")
    server = Server(pick, _echo, fault_percent=30.0, faults=quick, pause_seconds=0.0001)
    listening = await asyncio.get_running_loop().create_server(server.connection, "127.0.0.1", 0)
    async with listening:
        await _talk(sent, pick, f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}", most_pause_seconds=0.004)
    return _finding(sent, server)


def exchange_after_stray_reply(seed: int) -> Finding:
    """A connection on which, while it is idle, a reply comes that nobody asked for; then a request."""
    pick, sent = Choices(seed), dict[str, Sent]()
    server = Server(pick, _echo, fault_percent=100.0, faults=(UNASKED,))
    loop = SocketLoop(_Mains(), pick, server.connection, _Network(pick, 0.0, sent).connecting)

    async def talk() -> None:
        async with aiohttp_transport() as transport:
            named = _Named(transport, sent)
            for method in ("GET", "POST"):
                await named.send(HttpRequest(method, f"{_HOST}/", {}, b"body"))
                server.fault_percent = 0.0
                await anyio.sleep(1.0)

    loop.drive(talk())
    return _finding(sent, server)


def _echo(request: Request) -> tuple[int, bytes]:
    return 200 + len(request.body) % 3, f'{{"you": "{request.name}", "bytes": {len(request.body)}}}'.encode() * 3


async def _talk(sent: dict[str, Sent], pick: Choices, host: str, *, most_pause_seconds: float = 0.4) -> None:
    """Three clients side by side on one pool of connections, each with eight requests."""

    async def client(number: int) -> None:
        for _ in range(8):
            await anyio.sleep(most_pause_seconds * pick.unit("pause", number))
            method = ("POST", "GET")[pick(2, "method", number)]
            body = bytes((0, 1, 900, 70_000, 1_200_000)[pick(5, "body", number)]) if method == "POST" else None
            timeout = (60.0, 5.0)[pick(2, "timeout", number)]
            request = HttpRequest(method, f"{host}/{number}", {}, body, timeout, _MOST_REPLY_BYTES)
            try:
                await named.send(request)
            except TransportError:
                continue  # it is in `sent`

    async with aiohttp_transport() as transport:
        named = _Named(transport, sent)
        async with anyio.create_task_group() as clients:
            for number in range(3):
                clients.start_soon(client, number)


def _finding(sent: dict[str, Sent], server: Server) -> Finding:
    finding = Finding(faults=server.books.faults)
    for each in sent.values():
        finding.outcomes[each.word] += 1
        if each.outcome is None:
            finding.problems.append(f"{each.name} has no outcome")
        elif problem := wrong(each, server.books):
            finding.problems.append(f"{each.method} {each.name} {server.books.met.get(each.name)}: {problem}")
    return finding


# -- the engine ----------------------------------------------------------------------------------------------------


def run(seed: int) -> Finding:
    """One batch over the adapter: with faults first, then without until everything is final."""
    seed_hashes(seed)
    batch = _Batch(seed)
    loop = SocketLoop(_Mains(), batch.pick, batch.server.connection, batch.network.connecting)
    loop.drive(batch.live(loop))
    return batch.finding


@dataclass
class _Bought:
    """One job that the platform has accepted."""

    job_id: str
    prompt: str
    seed: int
    ends_at: float


class _Platform:
    """Accepts every job and makes its picture; nothing goes wrong here, only on the way."""

    def __init__(self, pick: Choices, now: Callable[[], float]) -> None:
        self._pick, self._now = pick, now
        self.bought: dict[str, _Bought] = {}

    def answer(self, request: Request) -> tuple[int, bytes]:
        operation, *rest = request.path.split("/")[3:]
        if operation == "run":
            return _json(200, self._accept(json.loads(request.body)))
        job = self.bought.get(rest[0])
        return _json(404, {"error": "job not found"}) if job is None else _json(200, self._status(job))

    def _accept(self, body: dict[str, Any]) -> dict[str, Any]:
        graph, job_id = body["input"]["workflow"], f"job-{len(self.bought)}"
        prompt, seed = graph["6"]["inputs"]["text"], graph["25"]["inputs"]["noise_seed"]
        self.bought[job_id] = _Bought(job_id, prompt, seed, self._now() + self._pick(40, "work"))
        return {"id": job_id, "status": "IN_QUEUE"}

    def _status(self, job: _Bought) -> dict[str, Any]:
        if self._now() < job.ends_at:
            return {"id": job.job_id, "status": "IN_PROGRESS"}
        image = {
            "filename": "a.png",
            "type": "base64",
            "data": base64.b64encode(_picture(job.prompt, job.seed)).decode(),
        }
        return {"id": job.job_id, "status": "COMPLETED", "output": {"images": [image]}, "executionTime": 900}


class _Batch:
    """One seed's batch, the world it runs in, and what must hold at its end."""

    def __init__(self, seed: int) -> None:
        self.pick = pick = Choices(seed)
        percent = (3.0, 10.0, 25.0)[pick(3, "fault percent")]
        self.network = _Network(pick, percent, {})
        self.platform = _Platform(pick, lambda: asyncio.get_running_loop().time())
        self.server = Server(pick, self.platform.answer, fault_percent=percent)
        self._disk = SimulatedDisk(lambda operation, path: None)
        self._prompts = [f"prompt {number}" for number in range(1 + pick(6, "jobs"))]
        self._settings = _settings("resubmit" if pick(2, "resubmit") else "hold")
        self.finding = Finding()

    async def live(self, loop: SocketLoop) -> None:
        async with aiohttp_transport() as transport, self._workspace(loop, transport) as workspace:
            await self._run(workspace)
            self.network.fault_percent = self.server.fault_percent = 0.0
            for _ in range(_CALM_RUNS):
                await self._run(workspace)
            self.finding = _finding(self.network.sent, self.server)
            await self._look_at(workspace.ledger)

    @asynccontextmanager
    async def _workspace(self, loop: SocketLoop, transport: Transport) -> AsyncIterator[Workspace]:
        ports = Ports(
            transport=_Named(transport, self.network.sent),
            clock=_Clock(loop),
            rng=random.Random(self.pick(1 << 30, "rng")),
            new_hex8=iter([f"{number:08x}" for number in range(1000)]).__next__,
            disk=self._disk,
            file_threads=_Inline(),
            ledger_thread=_Inline(),
            connect=lambda: sqlite3.connect(":memory:", isolation_level=None),
        )
        ledger = Ledger(ports)
        await ledger.open()
        async with anyio.create_task_group() as writer:
            writer.start_soon(ledger.run_writer)
            manifest = Manifest(ports, ledger, _ROOT)
            store, alone = Store(ports, _ROOT), Alone(ports, _ROOT)
            yield Workspace(_ROOT, _ROOT / "ledger.sqlite3", ports, ledger, store, manifest, None, alone)
            writer.cancel_scope.cancel()
        await ledger.close()

    async def _run(self, workspace: Workspace) -> None:
        target = Target(PLATFORM, f"{_HOST}/v2/{_ENDPOINT}", _KEY)
        batch = await workspace.ledger.open_batch("plan", PLATFORM)
        shipped = await open_run(workspace, self._settings, target, _planner(), batch)
        await shipped.run(self._chunks(), _ignore)

    async def _chunks(self) -> AsyncGenerator[list[IndexedWant], None]:
        intake = Intake(_planner(), {"width": 16, "height": 16})
        for prompt in self._prompts:
            yield intake.plan(prompt)

    async def _look_at(self, ledger: Ledger) -> None:
        query = (
            "SELECT json_extract(spec, '$.prompt') AS prompt, seed, state, "
            "(SELECT count(*) FROM event WHERE item_id = item.id AND state = 'unknown') AS unknowns, "
            "(SELECT group_concat(path) FROM image WHERE item_id = item.id AND state = 'stored') AS paths FROM item"
        )
        rows = await ledger.transact(lambda connection: [tuple(row) for row in connection.execute(query)])
        if sorted(row[0] for row in rows) != self._prompts:
            self.finding.problems.append(f"wanted {self._prompts}, recorded {rows}")
        for prompt, seed, state, unknowns, paths in rows:
            self.finding.ends[state] += 1
            self._look_at_one(prompt, int(seed), state, unknowns, paths)
        files = [name for name in self._disk.names if name.endswith(".png")]
        if len(files) != self.finding.ends["stored"] or any(name.endswith(".part") for name in self._disk.names):
            self.finding.problems.append(f"files: {sorted(self._disk.names)}")

    def _look_at_one(self, prompt: str, seed: int, state: str, unknowns: int, paths: str | None) -> None:
        bought = [job for job in self.platform.bought.values() if job.prompt == prompt]
        if state not in _FINAL:
            self.finding.problems.append(f"{prompt} ended as {state}")
        if len(bought) > 1 + unknowns:
            self.finding.problems.append(f"{prompt} was bought {len(bought)} times, with {unknowns} unknown outcomes")
        file = self._disk.names.get(str(_ROOT / paths)) if paths else None
        if (state == "stored") != (file is not None and bytes(file.live) == _picture(prompt, seed)):
            self.finding.problems.append(f"{prompt} is {state}, and its file {paths} is not its picture")


class _Clock:
    """The loop's virtual time."""

    def __init__(self, loop: SocketLoop) -> None:
        self._loop = loop

    def now(self) -> float:
        return self._loop.time()

    def wall(self) -> float:
        return EPOCH_SECONDS + self._loop.time()

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)


class _Inline:
    """Threads that are not: what blocks is done on the spot."""

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        await anyio.lowlevel.checkpoint()
        return function(*args)


async def _ignore(result: ImageResult) -> None:
    """Nobody waits for the results; the ledger is looked at."""


def _json(status: int, value: dict[str, Any]) -> tuple[int, bytes]:
    return status, json.dumps(value).encode()


@cache
def _picture(prompt: str, seed: int) -> bytes:
    """The one right picture of a prompt and a seed."""
    file = io.BytesIO()
    Image.frombytes("RGB", (16, 16), random.Random(f"{prompt} {seed}").randbytes(768)).save(file, "PNG")
    return file.getvalue()


@cache
def _settings(unknown: str) -> Settings:
    return load_settings(
        api_key=_KEY,
        endpoint=_ENDPOINT,
        endpoint_base_url=f"{_HOST}/v2",
        output_root=_ROOT,
        path_template="images/generated_{hex8}",
        unknown=unknown,
        metadata="none",  # files are compared with what the platform has made
        concurrency=64,  # `auto` asks for /health, and lets go of the question when the run ends
    )


@cache
def _planner() -> Planner:
    """Planning is pure: one planner serves all seeds."""
    logging.getLogger("asyncgen").setLevel(logging.CRITICAL + 1)
    return new_planner(_settings("hold"), StylesRegistry.load())
