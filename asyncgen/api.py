"""What `import asyncgen` offers: one await for many images, a stream of them, or a generator that stays open.

Every function takes its settings from the environment and `.env` unless told otherwise, and `sandbox=True` runs
everything against the embedded sandbox, without key or account.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
from collections.abc import AsyncGenerator, Callable, Collection, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

import anyio

from asyncgen import run, workflow
from asyncgen._version import __version__
from asyncgen.endpoint import Endpoint
from asyncgen.errors import Failure, FailureClass, FailureCode, GenerationError, InputError
from asyncgen.input_pictures import InputPictures
from asyncgen.intake import IndexedWant, Intake, Prompts
from asyncgen.matrix_requests import MatrixRequests
from asyncgen.model_urls import Presign
from asyncgen.node_schema import parse_object_info
from asyncgen.records import PLATFORM, SANDBOX
from asyncgen.registry import StylesRegistry
from asyncgen.report import style_history
from asyncgen.request import KEY_VERSION, ImageRequest
from asyncgen.results import ImageResult
from asyncgen.run import BatchRun, Target, new_input_pictures, new_planner, open_run, open_target
from asyncgen.scoring import Scorer
from asyncgen.settings import Concurrency, Settings, load_settings
from asyncgen.template import Template
from asyncgen.url_secrets import recordable
from asyncgen.workspace import Workspace, ledger_path_of, output_root

if TYPE_CHECKING:
    from asyncgen.plan import Planner
    from asyncgen.sandbox import SandboxSettings

T = TypeVar("T")

#: Names of batches that calls without `batch=` make begin so.
_CALL_BATCH: Final = "call"
_PENDING: Final = Failure(FailureClass.TRANSPORT, FailureCode.UNREACHABLE, "the run was stopped before it was made")


class ImageGenerator:
    """An open connection to one endpoint and one output root; `async with` it, and call its methods side by side.

    `settings` None reads the environment and `.env`; `overrides` replace single settings by name (`concurrency=8`,
    `output_root=Path("images")`). `sandbox` True, or a `SandboxSettings`, uses the embedded sandbox. `styles` is a
    registry, a registry file, or None for the settings'. `model_urls` maps LoRA names to URLs for the workers;
    `presign` is given a LoRA's name and its URL, and returns the URL to send (it may be async); neither is recorded.
    `object_info` is what your ComfyUI answers to `GET /object_info`, parsed: graphs are checked against it before
    anything is sent; None: against what asyncgen knows. `scorer` is a function of yours that may reject a picture
    (`asyncgen.scoring` says what it is called with, and what it may return).

    Entering raises `SettingsError` for what is missing, `LedgerLockedError` when another process uses the output root.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        sandbox: bool | SandboxSettings = False,
        styles: StylesRegistry | Path | str | None = None,
        model_urls: Mapping[str, str] | None = None,
        presign: Presign | None = None,
        object_info: Mapping[str, Any] | None = None,
        scorer: Scorer | None = None,
        **overrides: Any,
    ) -> None:
        self._schemas = None if object_info is None else parse_object_info(object_info, is_own=True)
        self.settings = load_settings(**overrides) if settings is None else settings.changed(**overrides)
        self._sandbox = _sandbox_settings(sandbox)
        self._styles, self._model_urls, self._presign, self._scorer = styles, model_urls, presign, scorer
        self._stack = AsyncExitStack()
        self._streams: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self.planner.template()  # a workflow that is wrong is found now, not at the first image
        self._workspace, self._target = await self._stack.enter_async_context(open_target(self.settings, self._sandbox))
        self._pictures.root = self._workspace.root
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        for task in list(self._streams):  # a stream that was left early, and that nobody has closed yet
            await _ended(task)
        await self._stack.aclose()

    @cached_property
    def styles(self) -> StylesRegistry:
        """The registry in use. Raises `InputError` where its file is wrong."""
        if isinstance(self._styles, StylesRegistry):
            return self._styles
        path = Path(self._styles) if self._styles is not None else self.settings.styles
        return StylesRegistry.load(path, history_reader=self._history)

    @cached_property
    def planner(self) -> Planner:
        """What fills styles and defaults in and refuses what is wrong; usable before anything is opened."""
        return new_planner(self.settings, self.styles, self._model_urls, self._schemas, self._pictures, self._presign)

    @cached_property
    def _pictures(self) -> InputPictures:
        """Before entering their root is that of a run, unless the endpoint turns out to be a sandbox."""
        return new_input_pictures(self.settings, output_root(self.settings, self.realm))

    def digest(self, fields: Mapping[str, Any]) -> bytes:
        """A hash (16 bytes) of all that decides, beside a row itself, what it wants; `fields` are those of every row.

        A workflow that a row names itself is not in it. Raises `WorkflowError`.
        """
        said = [__version__, KEY_VERSION, self.planner.template().name, self.planner.template().digest]
        said += [self.styles.digest.hex(), self.settings.workflow_name(), self.settings.result_limit_bytes]
        urls = {
            name: recordable(url) for name, url in (self._model_urls or {}).items()
        }  # a new signature changes nothing
        text = json.dumps([*said, urls, dict(fields)], sort_keys=True)
        return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()

    @property
    def ledger_path(self) -> Path:
        """Where the ledger is. Before entering: where it is unless the endpoint turns out to be a sandbox."""
        return ledger_path_of(self.settings, self.realm)

    @property
    def realm(self) -> str:
        """Whose images its batches are of; before entering as `ledger_path`."""
        return PLATFORM if self._sandbox is None else SANDBOX

    @property
    def workspace(self) -> Workspace:
        """The output root in use."""
        return self._workspace

    @property
    def target(self) -> Target:
        """Where jobs go."""
        return self._target

    # -- many ----------------------------------------------------------------------------------------------------

    async def generate_many(
        self,
        prompts: Prompts,
        *,
        batch: str | None = None,
        concurrency: Concurrency | None = None,
        retry_failed: bool = False,
        rebuy_changed: bool = False,
        keep_order: bool | None = None,
        **fields: Any,
    ) -> list[ImageResult]:
        """All results, in input order; a failed image is a result with its `failure`.

        `prompts` are texts, dicts or `ImageRequest`s in any iterable or async iterable; `fields` are those of
        `ImageRequest` and hold for each that does not say otherwise. A sequence is checked whole before anything is
        sent. `batch` names a set that is continued if it exists; without it every call makes a new one. Images are
        started grouped by model and LoRAs, so that workers load less (`asyncgen.order` says how far from their places
        at the most), or in input order with `keep_order`; None leaves that to the settings.

        Raises `InputError` for a request that is wrong, `RunPausedError` when the account or the endpoint refuses work,
        `StoreError` or `LedgerError` when disk or ledger do; what was made by then is in the ledger and is not bought
        again by the same call with the same `batch`.
        """
        results: list[ImageResult] = []

        async def deliver(result: ImageResult) -> None:
            results.append(result)

        await self._check(prompts, fields)
        batch_run = await self.open_run(
            batch, concurrency, retry_failed=retry_failed, rebuy_changed=rebuy_changed, keep_order=keep_order
        )
        async with aclosing(self._intake(fields).of_prompts(self._in_run(prompts), self._workspace.ports)) as chunks:
            await batch_run.run(chunks, deliver)
        return sorted(results, key=lambda result: result.index)

    async def stream_many(
        self,
        prompts: Prompts,
        *,
        batch: str | None = None,
        concurrency: Concurrency | None = None,
        retry_failed: bool = False,
        rebuy_changed: bool = False,
        keep_order: bool | None = None,
        **fields: Any,
    ) -> AsyncGenerator[ImageResult, None]:
        """The results as they land; see `generate_many`.

        Prompts are read no faster than images are made: 2,048 ahead of them at the most, 32 with `keep_order`.

        Leaving the loop early, or cancelling the task, leaves jobs that are out known to the ledger by their ids.
        """
        await self._check(prompts, fields)
        batch_run = await self.open_run(
            batch, concurrency, retry_failed=retry_failed, rebuy_changed=rebuy_changed, keep_order=keep_order
        )
        send, receive = anyio.create_memory_object_stream[ImageResult](0)

        async def work() -> None:
            async with (
                send,
                aclosing(self._intake(fields).of_prompts(self._in_run(prompts), self._workspace.ports)) as chunks,
            ):
                await batch_run.run(chunks, send.send)

        # A task, because a generator may be left in another task than it was begun in, and a task group may not.
        task = asyncio.create_task(work(), name="asyncgen-stream")
        self._streams.add(task)
        task.add_done_callback(self._streams.discard)
        try:
            async for result in receive:
                yield result
            await task
        finally:
            try:
                await _ended(task)  # its error, if any, has been raised above
            finally:
                receive.close()

    async def generate_batch(self, prompts: Prompts, style_id: str | None = None, **kwargs: Any) -> list[ImageResult]:
        """`generate_many` by the name and arguments of the system we grew out of."""
        return await self.generate_many(prompts, style_id=style_id, **kwargs)

    # -- one -----------------------------------------------------------------------------------------------------

    async def generate_image(
        self,
        prompt: str,
        style_id: str | None = None,
        width: int | None = None,
        height: int | None = None,
        steps: int | None = None,
        seed: int = -1,
        character_loras: Sequence[str] | None = None,
        save_to_style: bool = True,
        filename: str | None = None,
        *,
        batch: str | None = None,
        **fields: Any,
    ) -> ImageResult:
        """One image. None leaves a value to the style, then to the defaults; a seed of -1 is drawn.

        With `save_to_style=False` no file is written: the picture is in `result.delivered`. Raises `GenerationError`
        when the image is not made, otherwise as `generate_many`.
        """
        request = {
            "prompt": prompt,
            "style_id": style_id,
            "width": width,
            "height": height,
            "steps": steps,
            "seed": seed,
            "character_loras": tuple(character_loras or ()),
            "save_to_style": save_to_style,
            "filename": filename,
            **fields,
        }
        if fields.get("images", 1) != 1:
            raise InputError("this makes one image: use generate_many for several", field="images")
        (result,) = await self.generate_many([request], batch=batch, concurrency=1)
        if not result.ok:
            raise GenerationError(result.failure or _PENDING, result.request_id)
        return result

    async def generate_image_with_style(self, prompt: str, style_id: str, **kwargs: Any) -> ImageResult:
        """`generate_image` with a style that must be given."""
        return await self.generate_image(prompt, style_id, **kwargs)

    # -- the parts, for the command line -------------------------------------------------------------------------

    async def open_run(
        self,
        batch: str | None,
        concurrency: Concurrency | None = None,
        *,
        new_set: bool = False,
        retry_failed: bool = False,
        rebuy_changed: bool = False,
        keep_order: bool | None = None,
    ) -> BatchRun:
        """A run over the batch of that name, not yet begun; None makes a batch of its own."""
        workspace = self._workspace
        name = batch or f"{_CALL_BATCH}-{workspace.ports.new_hex8()}"
        opened = await workspace.ledger.open_batch(name, self._target.realm, new_set=new_set)
        return await open_run(
            workspace,
            self.settings,
            self._target,
            self.planner,
            opened,
            concurrency=concurrency,
            retry_failed=retry_failed,
            rebuy_changed=rebuy_changed,
            keep_order=keep_order,
            scorer=self._scorer,
        )

    async def recorded_wants(
        self, batch: str, *, todays_values: bool, only: Collection[str] | None = None
    ) -> AsyncGenerator[list[IndexedWant], None]:
        """Everything that a batch has ever wanted, with the values it was recorded with or with today's.

        `only` what has one of these request ids; None: all.
        """
        ledger, intake, after = self._workspace.ledger, self._intake({}), 0
        opened = await ledger.open_batch(batch, self._target.realm)
        until = await ledger.last_item(opened)
        while page := await ledger.recorded_wants(opened, after, until, only):
            after = page[-1].item_id
            if todays_values:
                requests = [recorded.request for recorded in page]
                await self._workspace.ports.file_threads.run(intake.look_at_pictures, requests)
            yield [intake.plan_recorded(recorded, todays_values=todays_values) for recorded in page]

    def _intake(self, fields: Mapping[str, Any]) -> Intake:
        return Intake(self.planner, fields)

    def _in_run(self, prompts: Prompts) -> Prompts:
        """A matrix is told what the workflows of this run have by themselves."""
        return prompts.in_run(self.planner.usual) if isinstance(prompts, MatrixRequests) else prompts

    async def _check(self, prompts: Prompts, fields: Mapping[str, Any]) -> None:
        """A whole sequence is looked at before anything is sent, without holding the loop: bad input costs no money."""
        again = isinstance(prompts, MatrixRequests) and prompts.can_be_read_again
        if not (again or isinstance(prompts, Sequence | Mapping | ImageRequest)):
            return  # it can be read only once
        ids: set[str] = set()
        async for chunk in self._intake(fields).of_prompts(self._in_run(prompts), self._workspace.ports):
            for own_id in (wanted.want.request.id for wanted in chunk if wanted.want.replica == 0):
                if own_id is not None and own_id in ids:
                    raise InputError(f"the id {own_id!r} is used twice in this input", field="id")
                ids |= {own_id} if own_id is not None else set()
        self.planner.model_urls.warn_of_unused()

    def _history(self, style_id: str) -> Any:
        return style_history(self._workspace.ledger_path, style_id)


async def generate_many(prompts: Prompts, *, style: str | None = None, **kwargs: Any) -> list[ImageResult]:
    """All results, in input order. `kwargs` are those of `ImageGenerator` and of `ImageGenerator.generate_many`."""
    own, call = _divided(kwargs)
    async with ImageGenerator(**own) as generator:
        return await generator.generate_many(prompts, **_with_style(style, call))


async def stream_many(
    prompts: Prompts, *, style: str | None = None, **kwargs: Any
) -> AsyncGenerator[ImageResult, None]:
    """The results as they land; see `generate_many` and `ImageGenerator.stream_many`."""
    own, call = _divided(kwargs)
    async with (
        ImageGenerator(**own) as generator,
        aclosing(generator.stream_many(prompts, **_with_style(style, call))) as results,
    ):
        async for result in results:
            yield result


async def generate_image(
    prompt: str,
    style_id: str | None = None,
    width: int | None = None,
    height: int | None = None,
    steps: int | None = None,
    seed: int = -1,
    character_loras: Sequence[str] | None = None,
    save_to_style: bool = True,
    filename: str | None = None,
    **kwargs: Any,
) -> ImageResult:
    """One image; raises `GenerationError` when it is not made.

    The arguments are those of `ImageGenerator.generate_image`; `kwargs` also those of `ImageGenerator`.
    """
    own, call = _divided(kwargs)
    async with ImageGenerator(**own) as generator:
        return await generator.generate_image(
            prompt, style_id, width, height, steps, seed, character_loras, save_to_style, filename, **call
        )


async def generate_image_with_style(prompt: str, style_id: str, **kwargs: Any) -> ImageResult:
    """`generate_image` with a style that must be given."""
    return await generate_image(prompt, style_id, **kwargs)


@asynccontextmanager
async def open_endpoint(
    settings: Settings | None = None, *, sandbox: bool | SandboxSettings = False, **overrides: Any
) -> AsyncGenerator[Endpoint, None]:
    """The bare endpoint: `submit`, `runsync`, `wait_output`, `cancel`, `retry`, `health`, and no ledger that remembers.

    Bodies are made by `asyncgen.protocol.job_body`. Raises `SettingsError` for what is missing.
    """
    chosen = load_settings(**overrides) if settings is None else settings.changed(**overrides)
    async with run.open_endpoint(chosen, _sandbox_settings(sandbox)) as endpoint:
        yield endpoint


def run_many(prompts: Prompts, *, style: str | None = None, **kwargs: Any) -> list[ImageResult]:
    """`generate_many` for scripts and notebooks: blocks until all images are there.

    Works inside a running event loop too (a notebook's), in a thread of its own.
    """
    return _run(generate_many, prompts, style=style, **kwargs)


def run_image(prompt: str, style_id: str | None = None, *args: Any, **kwargs: Any) -> ImageResult:
    """`generate_image`, with its arguments, for scripts and notebooks: blocks until the image is there."""
    return _run(generate_image, prompt, style_id, *args, **kwargs)


class WorkflowBuilder(workflow.WorkflowBuilder):
    """The builder of graphs, with seeds: -1 draws one, as it always did."""

    def __init__(self, template: Template | None = None, draw_seed: Callable[[], int] | None = None) -> None:
        super().__init__(template, draw_seed or partial(secrets.randbits, 64))


async def _ended(task: asyncio.Task[None]) -> None:
    """Cancel a task and wait until what it has in the air is recorded."""
    task.cancel()
    with anyio.CancelScope(shield=True):
        await asyncio.wait([task])  # unlike `await task`, this hands no cancellation of ours on to the task
    if not task.cancelled():
        task.exception()


def _run(function: Callable[..., Coroutine[Any, Any, T]], *args: Any, **kwargs: Any) -> T:
    def call() -> T:
        return asyncio.run(function(*args, **kwargs))

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return call()
    with ThreadPoolExecutor(1, "asyncgen-notebook") as executor:
        return executor.submit(call).result()


_GENERATOR_ARGUMENTS: Final = {"settings", "sandbox", "styles", "model_urls", "presign", "object_info", "scorer"}
# These are settings, and arguments of a call at the same time: the call's meaning wins.
_CALL_ARGUMENTS: Final = {"concurrency", "keep_order", "workflow"}


def _divided(kwargs: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arguments of the generator, settings among them, and those of the call."""
    settings = Settings.model_fields.keys() - _CALL_ARGUMENTS
    own = {name: value for name, value in kwargs.items() if name in _GENERATOR_ARGUMENTS or name in settings}
    return own, {name: value for name, value in kwargs.items() if name not in own}


def _with_style(style: str | None, call: dict[str, Any]) -> dict[str, Any]:
    return call if style is None else {"style_id": style, **call}


def _sandbox_settings(sandbox: bool | SandboxSettings) -> SandboxSettings | None:
    if sandbox is False:
        return None
    from asyncgen.sandbox import SandboxSettings  # noqa: PLC0415 - only those who use the sandbox pay for its import

    return SandboxSettings(speed=8.0, rate_limit_scale=0) if sandbox is True else sandbox
