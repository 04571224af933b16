"""The composition root: wires concrete classes together, one run over one batch in a `Workspace`."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import anyio

from asyncgen import naming, protocol
from asyncgen.allowance import Allowance
from asyncgen.checks import CheckLevel
from asyncgen.endpoint import Endpoint, Pace
from asyncgen.engine import Choices, Deliver, Engine
from asyncgen.errors import (
    AsyncgenError,
    Failure,
    FailureClass,
    FailureCode,
    InputError,
    LedgerLockedError,
    RunPausedError,
)
from asyncgen.forecast import Forecast
from asyncgen.input_pictures import InputPictures
from asyncgen.input_rules import PictureRules
from asyncgen.inspection import Inspector
from asyncgen.intake import IndexedWant
from asyncgen.job import Policy, Workbench
from asyncgen.lanes import Lanes
from asyncgen.lookahead import LookAhead
from asyncgen.model_urls import Presign
from asyncgen.money import Budget, Price
from asyncgen.node_schema import NodeSchemas
from asyncgen.plan import Pictures, Planner, Styles
from asyncgen.ports import Transport, TransportError
from asyncgen.prices import find_price
from asyncgen.protocol import EndpointAddress
from asyncgen.records import PLATFORM, SANDBOX, Batch, Want
from asyncgen.request import parse_request
from asyncgen.scoring import Scorer
from asyncgen.selection import Selection
from asyncgen.settings import AUTO, RUNPOD_BASE_URL, Concurrency, Settings, user_folder
from asyncgen.system import real_ports
from asyncgen.tally import Added, Withdrawn
from asyncgen.transport import AiohttpTransport, aiohttp_transport
from asyncgen.workspace import (
    IN_PROCESS,
    LEDGER_NAME,
    Workspace,
    output_root,
    serve_sandbox,
    shared_workspace,
    use_sharing,
)

if TYPE_CHECKING:
    from asyncgen.sandbox import SandboxSettings

log = logging.getLogger(__name__)
T = TypeVar("T")

_SANDBOX_ENDPOINT: Final = "sandbox"
_SANDBOX_KEY: Final = "no-key-needed"
_SANDBOX_HEADER: Final = "x-asyncgen-sandbox"
_ADDED_AT_ONCE: Final = 32


@dataclass(frozen=True, slots=True)
class Target:
    """Where jobs go. `realm` keeps sandbox images apart; `address` is what the ledger stores with a job.

    `price` is that of one of its workers, None where it is not known.
    """

    realm: str
    address: str
    api_key: str = field(repr=False)
    price: Price | None = None


def planned_to_add(planner: Planner, fields: Mapping[str, Any]) -> Iterator[Want]:
    """The wants of a request that is added to a batch. Raises `InputError`."""
    request = parse_request(fields)
    if not request.save_to_style:
        raise InputError("a picture in memory can only be had from Python", field="save_to_style")
    return planner.wants(request)


class BatchRun:
    """One run over one batch, ready to start; `keep_order`: in the order of its input, else grouped."""

    def __init__(
        self, workspace: Workspace, batch: Batch, engine: Engine, planner: Planner, *, keep_order: bool
    ) -> None:
        self.workspace, self.batch, self._engine, self._keep_order = workspace, batch, engine, keep_order
        self._planner = planner
        self.statistics = engine.statistics
        self.request_stop = engine.request_stop
        self.take_kept = engine.take_kept
        self._ahead: LookAhead | None = None
        self.pause, self.resume, self.withdraw = engine.pause, engine.resume, engine.withdraw

    @property
    def is_read(self) -> bool:
        """Whether all of the input has been read."""
        return self.statistics.input_ended or (self._ahead is not None and self._ahead.has_ended)

    async def unknown_ids(self, ids: Collection[str]) -> set[str]:
        """Those of these that nothing is called of what has been read, or is recorded."""
        ahead = () if self._ahead is None else self._ahead.waiting()
        return await self.workspace.ledger.unknown_ids({*ids}.difference(want.request.id for want in ahead), self.batch)

    async def run(self, chunks: AsyncIterator[list[IndexedWant]], deliver: Deliver) -> None:
        """See `Engine.run`. The manifest is brought up to date whatever happens."""
        await self._owning(partial(self._run_ordered, chunks, deliver))

    async def take_back(self, selection: Selection, deliver: Deliver) -> Withdrawn:
        """See `Engine.take_back`."""
        return await self._owning(partial(self._engine.take_back, selection, deliver))

    async def prefer(self, ids: Collection[str]) -> int:
        """Start these images (by request id or their owner's) before all others, once their rows have been read.

        Returns how many of them have been read ahead. Raises `InputError` for a run that keeps the order of its input.
        """
        if self._ahead is None:
            raise InputError(f"{self.batch.name} is run in the order of its input (--keep-order): nothing comes first")
        ahead = self._ahead.prefer(ids, await self.workspace.ledger.keys_of(self.batch, ids))
        return ahead + self._engine.prefer(self._ahead.is_urgent)

    async def add(self, requests: Sequence[Mapping[str, Any]], scope: int, *, check_only: bool) -> Added:
        """Have the run make what these requests want too; see `Engine.add`. `check_only`: only look at them.

        Raises `InputError` for the first that is wrong, what stands before it being added by then.
        """
        added = Added(0, 0, is_taken=True)
        for fields in requests:
            try:
                wants = planned_to_add(self._planner, fields)
            except InputError as error:
                raise error.at(repr(fields.get("id") or fields.get("prompt"))[:60]) from None
            while chunk := list(islice(wants, _ADDED_AT_ONCE)):
                if check_only:
                    await self.workspace.ledger.check_ids(self.batch, chunk)
                    continue
                more = await self._engine.add(chunk, scope)
                added = Added(added.added + more.added, added.there + more.there, added.is_taken and more.is_taken)
        if not requests:
            await self.workspace.ledger.forget_met(scope)
        return added

    async def _owning(self, work: Callable[[], Awaitable[T]]) -> T:
        async with self.workspace.using(self.batch, self), self.workspace.sharing.in_use():
            try:
                result = await work()
            except BaseException as error:
                await self._update_manifest_after(error)
                if isinstance(error, BaseExceptionGroup):
                    raise _only_error(error) from None
                raise
            with anyio.CancelScope(shield=True):
                await self.workspace.update_manifest()
            return result

    async def _run_ordered(self, chunks: AsyncIterator[list[IndexedWant]], deliver: Deliver) -> None:
        if self._keep_order:
            await self._engine.run(chunks, deliver)
            return
        ahead = self._ahead = LookAhead(chunks)
        self._engine.on_added, self._engine.read_ahead = ahead.wake, ahead.waiting
        async with anyio.create_task_group() as reading:
            reading.start_soon(ahead.read)
            await self._engine.run(ahead, deliver)
            reading.cancel_scope.cancel()

    async def _update_manifest_after(self, error: BaseException) -> None:
        """As far as it can be done: what ended the run is what must be told."""
        with anyio.CancelScope(shield=True):
            try:
                await self.workspace.update_manifest()
            except AsyncgenError as further:
                log.warning("after %s: %s", type(error).__name__, further)


def _only_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one error in a group of groups, so that callers see it as itself; a group of several stays one."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


async def open_run(
    workspace: Workspace,
    settings: Settings,
    target: Target,
    planner: Planner,
    batch: Batch,
    *,
    concurrency: Concurrency | None = None,
    retry_failed: bool = False,
    rebuy_changed: bool = False,
    keep_order: bool | None = None,
    scorer: Scorer | None = None,
) -> BatchRun:
    """A run over `batch` that sends what is new to `target`. Concurrency and order None: the settings'."""
    concurrency = settings.concurrency if concurrency is None else concurrency
    pace = pace_of(settings)
    policy = Policy(
        batch_name=batch.name,
        path_template=settings.path_template,
        max_attempts=settings.max_attempts,
        resubmit_unknown=settings.unknown == "resubmit",
        cancel_on_stop=settings.on_stop == "cancel",
        metadata=settings.metadata,
        realm=batch.realm,
        rerolls=settings.rerolls,
    )
    bench = Workbench(
        ports=workspace.ports,
        ledger=workspace.ledger,
        store=workspace.store,
        planner=planner,
        endpoint_at=lambda address: workspace.endpoint_at(_reachable(address, target), target.api_key, pace),
        allowance=_allowance(workspace, settings, target, pace),
        inspector=_inspector(workspace, settings, planner, scorer),
        policy=policy,
    )
    choices = Choices(
        None if concurrency == AUTO else concurrency,
        retry_failed=retry_failed,
        rebuy_changed=rebuy_changed,
    )
    in_order = settings.keep_order if keep_order is None else keep_order
    return BatchRun(workspace, batch, Engine(bench, batch, choices), planner, keep_order=in_order)


def _allowance(workspace: Workspace, settings: Settings, target: Target, pace: Pace) -> Allowance:
    """What the run may buy."""
    endpoint = workspace.endpoint_at(target.address, target.api_key, pace)
    return Allowance(
        target.address,
        target.price,
        Budget(settings.budget_usd),
        Lanes(settings.lane_faults, settings.lane_fault_share),
        Forecast(settings.execution_timeout_seconds, settings.job_ttl_seconds),
        lambda: endpoint.results_per_second,
    )


def _inspector(workspace: Workspace, settings: Settings, planner: Planner, scorer: Scorer | None) -> Inspector:
    """What looks at the run's pictures."""
    return Inspector(
        workspace.ports,
        workspace.ledger,
        workspace.root,
        CheckLevel(settings.check),
        lambda want: planner.expected_sizes(want.request, want.spec),
        scorer,
    )


def _reachable(address: str, target: Target) -> str:
    """The jobs of a sandbox inside an earlier process died with it: any other sandbox says it does not know them."""
    return target.address if address.startswith(IN_PROCESS) else address


def new_planner(
    settings: Settings,
    styles: Styles,
    model_urls: Mapping[str, str] | None = None,
    schemas: NodeSchemas | None = None,
    pictures: Pictures | None = None,
    presign: Presign | None = None,
) -> Planner:
    """The planner of one run. Raises `SettingsError` for a misspelt mode."""
    settings.check_mode()
    if settings.unknown_mode is not None:
        log.warning("%s", settings.unknown_mode)
    workflow = settings.workflow_name()
    return Planner(
        styles,
        str(Path(workflow).resolve()) if Path(workflow).is_file() else workflow,
        model_urls=model_urls,
        presign=presign,
        user_folder=user_folder(),
        max_result_bytes=settings.result_limit_bytes,
        schemas=schemas,
        pictures=pictures,
    )


def new_input_pictures(settings: Settings, root: Path) -> InputPictures:
    """The input pictures of runs over one output root."""
    return InputPictures(
        root,
        PictureRules(settings.resize_inputs, settings.reencode_inputs),
        max_bytes=settings.max_result_bytes,
        allow_private=settings.allow_private_urls,
        timeout_seconds=settings.request_timeout_seconds,
    )


def pace_of(settings: Settings) -> Pace:
    """The part of the settings that an endpoint needs."""
    return Pace(
        polling_interval_seconds=settings.polling_interval_seconds,
        polling_interval_max_seconds=settings.polling_interval_max_seconds,
        slow_after_seconds=settings.max_polling_duration_seconds,
        slow_after_polls=settings.max_polling_attempts,
        sync_timeout_seconds=settings.sync_timeout_seconds,
        request_timeout_seconds=settings.request_timeout_seconds,
        unreachable_seconds=settings.unreachable_seconds,
        run_rate=settings.run_rate,
        status_rate=settings.status_rate,
        cancel_rate=settings.cancel_rate,
        rate_share=settings.rate_share,
        downloads_at_once=settings.downloads_at_once,
        max_result_bytes=settings.max_result_bytes,
        allow_private_urls=settings.allow_private_urls,
        status_sync=settings.status_sync,
    )


# -- targets --------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def open_target(
    settings: Settings, sandbox: SandboxSettings | None = None
) -> AsyncIterator[tuple[Workspace, Target]]:
    """The workspace and the target that the settings name; `sandbox` runs our own endpoint inside this process.

    Raises `SettingsError` for what is missing, `InputError` for a budget without a price, `LedgerLockedError`,
    `LedgerError` or `StoreError` for an output root that cannot be used.
    """
    naming.check_path_template(settings.path_template)
    if sandbox is not None:
        target = Target(SANDBOX, f"{IN_PROCESS}/{_SANDBOX_ENDPOINT}", _SANDBOX_KEY)
    else:
        target = await find_target(settings)
    async with shared_workspace(output_root(settings, target.realm), settings.ledger, sandbox) as workspace:
        if sandbox is not None and workspace.sandbox_base_url is None:
            raise LedgerLockedError(
                f"{workspace.root} is in use in this process without the sandbox: wait for that, or name another root"
            )
        yield workspace, replace(target, price=await _price(workspace.ports.transport, settings, target))


async def _price(transport: Transport, settings: Settings, target: Target) -> Price | None:
    """What a worker of the target costs. Raises `InputError` for a budget that there is no price for."""
    base_url, _, endpoint_id = target.address.rpartition("/")
    price = await find_price(
        transport,
        usd_per_second=settings.usd_per_second,
        gpu=settings.gpu,
        management_url=settings.management_url,
        endpoint_id=endpoint_id,
        api_key=target.api_key,
        on_platform=base_url == RUNPOD_BASE_URL,
    )
    if price is None and settings.budget_usd is not None:
        raise InputError(
            "a budget needs a price: name it with --usd-per-second, or the endpoint's GPU with --gpu", field="budget"
        )
    return price


@asynccontextmanager
async def open_endpoint(settings: Settings, sandbox: SandboxSettings | None = None) -> AsyncIterator[Endpoint]:
    """The bare endpoint that the settings name: its verbs, without ledger, store or batch. Raises `SettingsError`."""
    async with AsyncExitStack() as stack:
        transport = await stack.enter_async_context(aiohttp_transport())
        ports = await stack.enter_async_context(real_ports(transport, Path(LEDGER_NAME)))  # which nobody opens
        if sandbox is None:
            address = EndpointAddress(settings.endpoint_base_url, settings.endpoint_id())
            sharing = await use_sharing(stack, ports)
            await stack.enter_async_context(sharing.in_use())
            key, pace = settings.require_api_key(), pace_of(settings)
            yield Endpoint(ports, address, key, pace, sharing.join(address))
        else:
            address = EndpointAddress(await serve_sandbox(stack, sandbox), _SANDBOX_ENDPOINT)
            yield Endpoint(ports, address, _SANDBOX_KEY, pace_of(settings))


async def find_target(settings: Settings) -> Target:
    """The endpoint that the settings name, and whether our sandbox stands behind it.

    Raises `SettingsError` for what is missing, and `RunPausedError` where nothing answers.
    """
    endpoint_id, api_key = settings.endpoint_id(), settings.require_api_key()
    address = EndpointAddress(settings.endpoint_base_url, endpoint_id)
    async with aiohttp_transport() as transport:
        realm = await _realm_of(transport, address, api_key, settings.request_timeout_seconds)
    return Target(realm, f"{address.base_url}/{endpoint_id}", api_key)


async def _realm_of(transport: AiohttpTransport, address: EndpointAddress, api_key: str, timeout_seconds: float) -> str:
    """What the sandbox makes must never pass for what a real endpoint made, so the sandbox says who it is."""
    try:
        reply = await transport.send(protocol.health_request(address, api_key, min(timeout_seconds, 15.0)))
    except TransportError as error:
        raise RunPausedError(
            Failure(
                FailureClass.TRANSPORT,
                FailureCode.UNREACHABLE,
                f"{address.base_url} cannot be reached ({error}): check the network and RUNPOD_ENDPOINT_BASE_URL",
            )
        ) from error
    return SANDBOX if _SANDBOX_HEADER in reply.headers else PLATFORM
