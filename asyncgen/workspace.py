"""One output root in use: its lock, ledger, store, manifest, transport and endpoints, and for the sandbox its server.

All generators of a process that name the same root share one `Workspace`, because a ledger has one writer and an
endpoint one set of rate limits. It lives in a task of its own, so that whoever opened it first may also leave first.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

import anyio

from asyncgen.control import listening, socket_path
from asyncgen.endpoint import Endpoint, Pace
from asyncgen.errors import LedgerError, LedgerLockedError
from asyncgen.ledger import Ledger
from asyncgen.locking import locked
from asyncgen.manifest import FILE_NAME as MANIFEST_NAME
from asyncgen.manifest import Manifest
from asyncgen.ports import Ports
from asyncgen.protocol import EndpointAddress
from asyncgen.records import PLATFORM, SANDBOX, Batch
from asyncgen.settings import Settings, state_folder
from asyncgen.sharing import Sharing
from asyncgen.steering import Steered, Steering
from asyncgen.store import Store, cannot_write
from asyncgen.system import real_ports
from asyncgen.transport import aiohttp_transport

if TYPE_CHECKING:
    from asyncgen.sandbox import SandboxSettings

#: What the ledger calls the address of the sandbox in this process, whatever port it has got this time.
IN_PROCESS: Final = "sandbox:"
OUTPUT_ROOTS: Final = {PLATFORM: Path("asyncgen-images"), SANDBOX: Path("asyncgen-sandbox")}
LEDGER_NAME: Final = "ledger.sqlite3"
_LEAVING_SECONDS: Final = 2.0


@dataclass(slots=True)
class Workspace:
    """One output root in use; see the module's text. `sandbox_base_url` None: no sandbox runs in this process."""

    root: Path
    ledger_path: Path
    ports: Ports
    ledger: Ledger
    store: Store
    manifest: Manifest
    sandbox_base_url: str | None
    sharing: Sharing
    manifest_lock: anyio.Lock = field(default_factory=anyio.Lock)
    endpoints: dict[tuple[str, str, Pace], Endpoint] = field(default_factory=dict)
    batches_in_use: set[int] = field(default_factory=set)
    runs: dict[int, Steered] = field(default_factory=dict)  # those that go on, by their batch
    run_ended: anyio.Event = field(default_factory=anyio.Event)

    def endpoint_at(self, address: str, api_key: str, pace: Pace) -> Endpoint:
        """The endpoint of a stored address; all jobs on it share its limits."""
        key = (address, api_key, pace)
        if key not in self.endpoints:
            base_url, _, endpoint_id = address.rpartition("/")
            if base_url == IN_PROCESS and self.sandbox_base_url is not None:
                base_url = self.sandbox_base_url
            where = EndpointAddress(base_url, endpoint_id)
            self.endpoints[key] = Endpoint(self.ports, where, api_key, pace, self.sharing.join(where))
        return self.endpoints[key]

    async def update_manifest(self) -> None:
        """Bring the manifest up to date. Raises `StoreError`."""
        if self.ledger.is_closed:
            return  # with its event loop; the next run finds out
        async with self.manifest_lock:
            try:
                await self.manifest.bring_up_to_date()
            except OSError as error:
                raise cannot_write(self.manifest.path, error) from error

    @asynccontextmanager
    async def using(self, batch: Batch, run: Steered) -> AsyncIterator[None]:
        """Two runs over one batch at the same time would buy everything twice. Raises `LedgerLockedError`."""
        with anyio.move_on_after(_LEAVING_SECONDS):  # a stream that somebody breaks out of ends a moment later
            while batch.id in self.batches_in_use:
                await self._a_run_ends()
        if batch.id in self.batches_in_use:
            raise LedgerLockedError(f"the batch {batch.name!r} is being run already in this process: wait for its end")
        self.batches_in_use.add(batch.id)
        self.runs[batch.id] = run
        try:
            yield
        finally:
            self.batches_in_use.discard(batch.id)
            del self.runs[batch.id]
            self.run_ended.set()

    async def wait_unused(self) -> None:
        """Return once no run is left: a ledger must not be closed under one."""
        while self.batches_in_use:
            await self._a_run_ends()

    async def _a_run_ends(self) -> None:
        if self.run_ended.is_set():
            self.run_ended = anyio.Event()
        await self.run_ended.wait()


def output_root(settings: Settings, realm: str) -> Path:
    """The output root of a realm: the settings', else one of its own for each realm."""
    return settings.output_root or OUTPUT_ROOTS[realm]


def ledger_path_of(settings: Settings, realm: str) -> Path:
    """Where the ledger of a realm's output root is: in it, unless the settings say otherwise."""
    return settings.ledger or output_root(settings, realm) / LEDGER_NAME


@dataclass(slots=True)
class _Host:
    """The task that a shared workspace lives in, and how many use it."""

    ready: asyncio.Future[Workspace]
    leave: asyncio.Event
    task: asyncio.Task[None] | None = None
    users: int = 0


_hosts: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Path, _Host]] = WeakKeyDictionary()


@asynccontextmanager
async def shared_workspace(
    root: Path, ledger_path: Path | None = None, sandbox: SandboxSettings | None = None
) -> AsyncIterator[Workspace]:
    """The workspace of an output root, opened if nobody in this event loop has it open, closed by its last user."""
    hosts = _hosts.setdefault(asyncio.get_running_loop(), {})
    key = (ledger_path or root / LEDGER_NAME).resolve()
    while (host := hosts.get(key)) is not None and host.leave.is_set() and host.task is not None:
        await asyncio.wait([host.task])  # its last user has just left
    if host is None:
        host = hosts[key] = _Host(asyncio.get_running_loop().create_future(), asyncio.Event())
        host.task = asyncio.create_task(_live(host, root, key, sandbox), name="asyncgen-workspace")
        host.task.add_done_callback(lambda _: hosts.pop(key, None))
    host.users += 1
    try:
        yield await asyncio.shield(host.ready)
    finally:
        host.users -= 1
        if host.users == 0:
            host.leave.set()
            with anyio.CancelScope(shield=True):
                assert host.task is not None
                await asyncio.wait([host.task])  # unlike `await`, this hands no cancellation of ours on to the task
                host.task.result()


async def _live(host: _Host, root: Path, ledger_path: Path, sandbox: SandboxSettings | None) -> None:
    """The life of one workspace. What goes wrong while opening it is told to those who wait for it."""
    try:
        async with _workspace(root, ledger_path, sandbox) as workspace:
            host.ready.set_result(workspace)
            await host.leave.wait()
            await workspace.wait_unused()
    except Exception as error:
        if host.ready.done():
            raise
        host.ready.set_exception(error)


@asynccontextmanager
async def _workspace(root: Path, ledger_path: Path, sandbox: SandboxSettings | None) -> AsyncIterator[Workspace]:
    async with AsyncExitStack() as stack:
        stack.enter_context(locked(root, ledger_path))
        _check_not_lost(root, ledger_path)
        transport = await stack.enter_async_context(aiohttp_transport())
        ports = await stack.enter_async_context(real_ports(transport, ledger_path, root))
        sandbox_base_url = None if sandbox is None else await serve_sandbox(stack, sandbox)
        ledger = Ledger(ports)
        await ledger.open(_root_seen_from(ledger_path, root))
        stack.push_async_callback(ledger.close)
        await _in_background(stack, ledger.run_writer)
        manifest, sharing = Manifest(ports, ledger, root), await use_sharing(stack, ports)
        store = Store(ports, root)
        workspace = Workspace(root, ledger_path, ports, ledger, store, manifest, sandbox_base_url, sharing)
        commands = listening(socket_path(ledger_path, state_folder()), Steering(workspace.runs).handle, ports.clock)
        await stack.enter_async_context(commands)
        yield workspace


async def use_sharing(stack: AsyncExitStack, ports: Ports) -> Sharing:
    """Who else uses the endpoints of this user, counted for as long as the stack lasts."""
    sharing = Sharing(ports, state_folder() / "sharing")
    await _in_background(stack, sharing.keep_counting)
    return sharing


async def _in_background(stack: AsyncExitStack, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Do this for as long as the stack lasts."""
    tasks = await stack.enter_async_context(anyio.create_task_group())
    tasks.start_soon(work)
    stack.callback(tasks.cancel_scope.cancel)


def _check_not_lost(root: Path, ledger_path: Path) -> None:
    """Raises `LedgerError` where a new ledger would forget what is paid for, and its manifest replace the old one."""
    if _size_bytes(ledger_path):
        return
    for witness in (root / MANIFEST_NAME, ledger_path.with_name(f"{ledger_path.name}-wal")):
        if _size_bytes(witness):
            raise LedgerError(
                f"{ledger_path} is {'empty' if ledger_path.exists() else 'not there'}, but {witness} is of an earlier "
                "run: put the ledger back, rebuild it with `asyncgen verify --repair`, or name another output root"
            )


def _size_bytes(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _root_seen_from(ledger_path: Path, root: Path) -> str:
    """What the ledger remembers of its output root: '.' where it lies in it, so that both can be moved."""
    return "." if ledger_path.parent == root.resolve() else str(root.resolve())


async def serve_sandbox(stack: AsyncExitStack, sandbox: SandboxSettings) -> str:
    """Start the sandbox for as long as the stack lasts; its base URL."""
    from asyncgen.sandbox import serve  # noqa: PLC0415 - only those who use the sandbox pay for its import

    return (await stack.enter_async_context(serve(sandbox))).base_url
