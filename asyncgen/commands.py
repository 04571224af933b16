"""What each command does: it puts the parts together, shows what happens, and returns an exit code."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sqlite3
import sys
import threading
import traceback
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import wraps
from itertools import islice
from pathlib import Path
from typing import IO, Any, Final, ParamSpec, TypeVar

import anyio
from anyio.abc import TaskGroup
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from asyncgen import check, display, logs
from asyncgen.api import ImageGenerator
from asyncgen.display import Display, Moment
from asyncgen.errors import AsyncgenError, InputError
from asyncgen.exits import Exit, of_error, of_run
from asyncgen.intake import IndexedWant, Intake
from asyncgen.lifecycle import FAILURES, OUT, State
from asyncgen.prompts import BadRow, PromptFormat, Row, format_of, read_rows
from asyncgen.records import PLATFORM, SANDBOX, Batch
from asyncgen.registry import StylesRegistry
from asyncgen.report import batch_statuses, style_history
from asyncgen.request import INPUT_PICTURES, parse_request
from asyncgen.results import ImageResult
from asyncgen.run import LEDGER_NAME, BatchRun, output_root
from asyncgen.settings import Settings, load_settings
from asyncgen.styles import Style

P = ParamSpec("P")
T = TypeVar("T")
_STDIN: Final = "-"
_MOST_BAD_ROWS_SHOWN: Final = 20
_READ_AHEAD_ROWS: Final = 64
_PIPE_WIDTH: Final = 240
_LEVELS: Final = {-1: logging.ERROR, 0: logging.WARNING, 1: logging.INFO}


@dataclass(frozen=True, slots=True)
class Setup:
    """What every running command is told: settings that options replace, the sandbox, what to show and to log."""

    overrides: Mapping[str, Any]
    sandbox: bool
    as_json: bool
    verbosity: int
    log_file: Path | None
    log_json: bool


@dataclass(frozen=True, slots=True)
class BatchOptions:
    """What `asyncgen batch` is told about its input and its set."""

    file: str
    name: str | None
    format: str | None
    again: bool
    retry_failed: bool
    rebuy_changed: bool
    limit: int | None
    skip_bad: bool
    fields: Mapping[str, Any]
    model_urls: Sequence[str] = ()  # NAME=URL each


def _with_exit_code(command: Callable[P, Exit]) -> Callable[P, Exit]:
    """Errors made on purpose become a line and an exit code; anything else is a bug, and shows its traceback."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> Exit:
        try:
            return command(*args, **kwargs)
        except AsyncgenError as error:
            _complain(str(error))
            return of_error(error)
        except KeyboardInterrupt:
            return Exit.STOPPED
        except Exception:
            traceback.print_exc()
            _complain("this is a bug of asyncgen's: please report it with the lines above; the ledger is true")
            return Exit.BUG

    return run


# -- commands that make images -------------------------------------------------------------------------------------


@_with_exit_code
def run_batch(setup: Setup, options: BatchOptions) -> Exit:
    """`asyncgen batch`."""
    generator = _generator(setup, _model_urls(options.model_urls))
    source = _Source(options)
    with _shown(setup, generator.settings) as shown:
        _check_options(generator, options.fields)
        total = None
        if not source.is_stream:
            total = source.validate(generator, shown)
            if total is None:
                return Exit.BAD_INPUT
        job = _RunPlan(
            name=options.name or source.batch_name,
            new_set=options.again,
            retry_failed=options.retry_failed,
            rebuy_changed=options.rebuy_changed,
            total=total,
            chunks=lambda: source.chunks(generator),
            skipped=lambda: source.skipped,
        )
        return anyio.run(_execute, generator, job, shown)


@_with_exit_code
def run_generate(setup: Setup, prompt: str, name: str | None, fields: Mapping[str, Any], urls: Sequence[str]) -> Exit:
    """`asyncgen generate`."""
    generator = _generator(setup, _model_urls(urls))
    with _shown(setup, generator.settings) as shown:
        _check_options(generator, fields)
        wanted = Intake(generator.planner, fields, name="prompt").plan(prompt)
        job = _RunPlan(name=name, total=len(wanted), chunks=lambda: _one_chunk(wanted))
        return anyio.run(_execute, generator, job, shown)


@_with_exit_code
def run_retry(setup: Setup, name: str, urls: Sequence[str], *, rebuy_changed: bool) -> Exit:
    """`asyncgen retry`: the whole batch once more from the ledger, where what is there is kept.

    What failed is tried with the values it was recorded with, or, with `rebuy_changed`, with today's.
    """
    generator = _generator(setup, _model_urls(urls))
    with _shown(setup, generator.settings) as shown:
        job = _RunPlan(
            name=name,
            retry_failed=True,
            rebuy_changed=rebuy_changed,
            total=None,
            chunks=lambda: generator.recorded_wants(name, todays_values=rebuy_changed),
            must_exist=True,
        )
        return anyio.run(_execute, generator, job, shown)


@dataclass(frozen=True, slots=True)
class _RunPlan:
    """One run to execute: which batch, with which choices, over which input."""

    name: str | None
    total: int | None
    chunks: Callable[[], AsyncGenerator[list[IndexedWant], None]]
    new_set: bool = False
    retry_failed: bool = False
    rebuy_changed: bool = False
    must_exist: bool = False
    skipped: Callable[[], int] = lambda: 0


async def _execute(generator: ImageGenerator, job: _RunPlan, shown: Display) -> Exit:
    async with generator:
        total = _recorded_total(generator, job) if job.must_exist else job.total
        run = await generator.open_run(
            job.name, new_set=job.new_set, retry_failed=job.retry_failed, rebuy_changed=job.rebuy_changed
        )
        root, clock = generator.workspace.root, generator.workspace.ports.clock
        began = clock.now()
        shown.opened(run.batch, root)

        def moment() -> Moment:
            return Moment(run.statistics, total, clock.now() - began, job.skipped())

        watch = _Watch(run, shown)
        error: AsyncgenError | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch.signals, tasks)
            tasks.start_soon(watch.progress, moment)
            async with aclosing(job.chunks()) as chunks:
                try:
                    await run.run(chunks, watch.landed)
                except AsyncgenError as caught:
                    error = caught
            tasks.cancel_scope.cancel()
        shown.ended(run.batch, root, moment(), error)
        if out := _jobs_out(generator, run.batch):
            shown.notice(
                f"{out} jobs are out and being paid for; the same command collects them, within 30 minutes of their end"
            )
        if watch.stopped_now:
            return Exit.STOPPED
        if error is not None:
            raise error
        return of_run(run.statistics, stopped=watch.stopping)


def _check_options(generator: ImageGenerator, fields: Mapping[str, Any]) -> None:
    """Options that are wrong are wrong for every row: say so once. Raises `InputError`."""
    try:
        generator.planner.want(parse_request({"prompt": "any", **fields}), 0)
    except InputError as error:
        if error.field not in INPUT_PICTURES:  # which rows may still name
            raise


def _jobs_out(generator: ImageGenerator, batch: Batch) -> int:
    statuses = batch_statuses(generator.workspace.ledger_path)
    states = next(status.states for status in statuses if (status.name, status.realm) == (batch.name, batch.realm))
    return sum(states.get(state, 0) for state in OUT)


def _recorded_total(generator: ImageGenerator, job: _RunPlan) -> int:
    """How many jobs the ledger has of a batch. Raises `InputError` naming those that exist."""
    path, realm = generator.workspace.ledger_path, generator.target.realm
    totals = {status.name: status.wanted for status in batch_statuses(path) if status.realm == realm}
    if job.name not in totals:
        known = ", ".join(totals) or "none"
        raise InputError(f"{path} has no batch {job.name!r} made by {realm}; it has: {known}", field="name")
    return totals[job.name]


class _Watch:
    """What goes on beside a run: signals, and the progress display."""

    def __init__(self, run: BatchRun, shown: Display) -> None:
        self._run, self._shown = run, shown
        self.stopping = self.stopped_now = False

    async def signals(self, tasks: TaskGroup) -> None:
        """The first Ctrl-C (or SIGTERM) submits nothing new; the second stops now."""
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as received:
            async for _ in received:
                if self.stopping:
                    self.stopped_now = True
                    tasks.cancel_scope.cancel()
                    return
                self.stopping = True
                self._run.request_stop()
                out = self._run.statistics.out
                self._shown.notice(f"stopping: nothing new is sent, {out} in flight; once more stops now")

    async def progress(self, moment: Callable[[], Moment]) -> None:
        """Show the run four times a second."""
        while True:
            self._shown.tick(moment())
            await anyio.sleep(display.REFRESH_SECONDS)

    async def landed(self, result: ImageResult) -> None:
        """One result."""
        self._shown.landed(result)


# -- prompts -------------------------------------------------------------------------------------------------------


class _Source:
    """The input of a batch: a file, which is looked at whole before anything is sent, or a stream."""

    def __init__(self, options: BatchOptions) -> None:
        self._options = options
        self.is_stream = options.file == _STDIN
        self._format: PromptFormat = _format(options)
        self.batch_name = "stdin" if self.is_stream else Path(options.file).stem
        self.skipped = 0

    def validate(self, generator: ImageGenerator, shown: Display) -> int | None:
        """Count the wanted jobs, planning every row. None, with each bad row told, if any is bad and none may be."""
        bad: list[InputError] = []
        intake = Intake(generator.planner, self._options.fields, name=self._name, skip_bad=True, on_bad=bad.append)
        total = 0
        with self._open() as rows:
            for row in rows:
                total += len(intake.plan(row))
        self.skipped = len(bad)
        for error in bad[:_MOST_BAD_ROWS_SHOWN]:
            _complain(str(error))
        if len(bad) > _MOST_BAD_ROWS_SHOWN:
            _complain(f"and {len(bad) - _MOST_BAD_ROWS_SHOWN} more")
        if bad and not self._options.skip_bad:
            _complain(f"{len(bad)} bad rows, nothing was sent: mend them, or leave them out with --skip-bad")
            return None
        if bad:
            shown.notice(f"{len(bad)} bad rows are left out")
        if total == 0:
            _complain(f"{self._name}: there is no prompt in it")
            return None
        return total

    async def chunks(self, generator: ImageGenerator) -> AsyncGenerator[list[IndexedWant], None]:
        """The planned rows, read lazily. A stream's bad rows are told as they come, if they may be skipped."""

        def tell(error: InputError) -> None:
            self.skipped += 1
            _complain(str(error))

        options = self._options
        intake = Intake(
            generator.planner,
            options.fields,
            name=self._name,
            skip_bad=options.skip_bad,
            on_bad=tell if self.is_stream else None,
        )
        ports = generator.workspace.ports
        with self._open() as rows:
            planned = intake.of_prompts(_arriving(rows), ports) if self.is_stream else intake.of_rows(rows, ports)
            async with aclosing(planned) as chunks:
                async for chunk in chunks:
                    yield chunk

    @property
    def _name(self) -> str:
        return "stdin" if self.is_stream else self._options.file

    @contextmanager
    def _open(self) -> Iterator[Iterator[Row | BadRow]]:
        with _opened(self._options.file) as lines:
            rows = _with_own_ids(read_rows(lines, self._format, self._name), self._name)
            yield rows if self._options.limit is None else islice(rows, self._options.limit)


def _with_own_ids(rows: Iterator[Row | BadRow], name: str) -> Iterator[Row | BadRow]:
    """The rows, bad ones where an id comes twice or no file is wanted. Ids are kept in a table that spills to disk."""
    with closing(sqlite3.connect("", check_same_thread=False)) as connection:  # rows are read by one thread at a time
        connection.execute("CREATE TABLE seen (id TEXT PRIMARY KEY) WITHOUT ROWID")
        insert = "INSERT OR IGNORE INTO seen VALUES (?)"
        for row in rows:
            own_id = row.request.id if isinstance(row, Row) else None
            if own_id is not None and connection.execute(insert, (own_id,)).rowcount == 0:
                yield _bad_row(row.line, name, "id", "this id is used twice")
            elif isinstance(row, Row) and not row.request.save_to_style:
                yield _bad_row(row.line, name, "save_to_style", "a picture in memory can only be had from Python")
            else:
                yield row


def _bad_row(line: int, name: str, field: str, message: str) -> BadRow:
    return BadRow(line, InputError(message, field=field, where=f"{name}:{line}"))


@contextmanager
def _opened(file: str) -> Iterator[IO[str]]:
    if file == _STDIN:
        # Not `sys.stdin`, and never closed: the thread that reads it may wait for a line until the process ends.
        yield open(sys.stdin.fileno(), encoding="utf-8", errors="surrogateescape", newline="", closefd=False)  # noqa: SIM115 - as said
        return
    try:
        with Path(file).open(encoding="utf-8", errors="surrogateescape", newline="") as lines:
            yield lines
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror}): name a .txt, .csv or .jsonl file", where=file) from error


async def _arriving(rows: Iterator[T]) -> AsyncGenerator[T, None]:
    """The rows of a stream, each as it comes, from a thread that nobody waits for: a pipe may stay silent for ever."""
    loop = asyncio.get_running_loop()
    arrived: asyncio.Queue[T | Exception | None] = asyncio.Queue()
    room = threading.Semaphore(_READ_AHEAD_ROWS)

    def hand_over(row: T | Exception | None) -> None:
        with suppress(RuntimeError):  # the loop is closed: the run has ended
            loop.call_soon_threadsafe(arrived.put_nowait, row)

    def read() -> None:
        try:
            for row in rows:
                room.acquire()
                hand_over(row)
        except Exception as error:
            hand_over(error)
        else:
            hand_over(None)

    threading.Thread(target=read, name="asyncgen-stdin", daemon=True).start()
    while (row := await arrived.get()) is not None:
        if isinstance(row, OSError):
            raise InputError(f"cannot be read further ({row.strerror})", where="stdin") from row
        if isinstance(row, Exception):
            raise row
        room.release()
        yield row


def _format(options: BatchOptions) -> PromptFormat:
    if options.format is not None:
        return format_of(f"prompts.{options.format}")
    return "txt" if options.file == _STDIN else format_of(options.file)


async def _one_chunk(wanted: list[IndexedWant]) -> AsyncGenerator[list[IndexedWant], None]:
    yield wanted


def _model_urls(options: Sequence[str]) -> dict[str, str]:
    pairs = [option.partition("=") for option in options]
    for name, equals, url in pairs:
        if not (name and equals and url.startswith(("https://", "http://", "s3://"))):
            raise InputError(f"{name}{equals}{url} is not NAME=URL", field="--model-url")
    return {name: url for name, _, url in pairs}


# -- commands that show things -------------------------------------------------------------------------------------


@_with_exit_code
def show_status(overrides: Mapping[str, Any], *, on_sandbox: bool, as_json: bool) -> Exit:
    """`asyncgen status`."""
    statuses = batch_statuses(_ledger_path(load_settings(**overrides), on_sandbox))
    if as_json:
        for status in statuses:
            _print_json({**asdict(status), "wanted": status.wanted})
        return Exit.DONE
    table = _table("batch", "made by", "begun (UTC)", "wanted", "stored", "out", "failed", "held", "to do", "GPU time")
    for status in statuses:
        counts = status.states
        table.add_row(
            status.name,
            status.realm,
            _moment_text(status.created_at),
            str(status.wanted),
            str(counts.get(State.STORED, 0)),
            str(sum(counts.get(state, 0) for state in OUT)),
            str(sum(counts.get(state, 0) for state in FAILURES)),
            str(counts.get(State.UNKNOWN, 0)),
            str(sum(counts.get(state, 0) for state in (State.WANTED, State.CANCELLED))),
            display.duration(status.gpu_ms / 1000),
        )
    _console().print(table)
    return Exit.DONE


@_with_exit_code
def show_styles(overrides: Mapping[str, Any], *, as_json: bool) -> Exit:
    """`asyncgen styles`."""
    registry = StylesRegistry.load(load_settings(**overrides).styles)
    if as_json:
        for style in registry.get_all_styles():
            _print_json(asdict(style))
        return Exit.DONE
    table = _table("id", "title", "LoRA", "weight", "trigger words", "model", "steps", "guidance")
    for style in registry.get_all_styles():
        table.add_row(
            style.id,
            style.title,
            style.lora_to_load or "–",
            _text(style.lora_weight),
            style.trigger_words or "–",
            style.model or "–",
            _text(style.steps),
            _text(style.guidance),
        )
    _console().print(table)
    return Exit.DONE


@_with_exit_code
def show_style(overrides: Mapping[str, Any], style_id: str, *, on_sandbox: bool, as_json: bool) -> Exit:
    """`asyncgen styles show ID`."""
    settings = load_settings(**overrides)
    ledger_path = _ledger_path(settings, on_sandbox)
    registry = StylesRegistry.load(settings.styles, history_reader=lambda style: style_history(ledger_path, style))
    style, uses = registry.get_style_by_id(style_id), registry.history(style_id)
    if as_json:
        _print_json({"style": asdict(style), "history": [asdict(use) for use in uses]})
        return Exit.DONE
    console = _console()
    console.print(_style_table(style))
    console.print(f"\nhistory: {len(uses)} images")
    history = _table("made (UTC)", "prompt", "seed", "GPU time", "file")
    for use in uses:
        gpu_time = "not said" if use.execution_ms is None else display.duration(use.execution_ms / 1000)
        history.add_row(_moment_text(use.stored_at), use.prompt, str(use.seed), gpu_time, use.path or "(in memory)")
    console.print(history)
    return Exit.DONE


@_with_exit_code
def run_check(overrides: Mapping[str, Any], *, as_json: bool) -> Exit:
    """`asyncgen check`: exit code 0 when nothing stands in the way of a run, else 2."""
    settings = load_settings(**overrides)
    shown = check.shown_settings(settings, overrides)
    found = anyio.run(check.findings, settings)
    if as_json:
        _print_json({"settings": [asdict(setting) for setting in shown], "findings": [asdict(f) for f in found]})
    else:
        _print_check(shown, found)
    return Exit.BAD_INPUT if any(finding.level == "problem" for finding in found) else Exit.DONE


def _print_check(shown: Sequence[check.SettingShown], found: Sequence[check.Finding]) -> None:
    console = _console()
    table = _table("setting", "value", "from")
    for setting in shown:
        table.add_row(setting.variable, setting.value, setting.source)
    console.print(table)
    for finding in found:
        console.print(f"{finding.level:8}{finding.text}", markup=False)
        if finding.cure:
            console.print(f"{'':8}→ {finding.cure}", markup=False)


@_with_exit_code
def run_sandbox(values: Mapping[str, Any], options: Sequence[str]) -> Exit:
    """`asyncgen sandbox`."""
    from asyncgen.sandbox import SandboxSettings, run_forever  # noqa: PLC0415 - as everywhere

    further: dict[str, Any] = dict(option.partition("=")[::2] for option in options)
    for name, field_info in SandboxSettings.model_fields.items():
        if name in further and field_info.annotation == tuple[str, ...]:
            further[name] = tuple(further[name].split(","))
    try:
        settings = SandboxSettings.model_validate({**values, **further})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise InputError(first["msg"], field=str(first["loc"][0])) from None
    try:
        anyio.run(run_forever, settings, _announce)
    except OSError as error:
        raise InputError(
            f"cannot listen on {settings.host}:{settings.port} ({error.strerror})", field="port"
        ) from error
    return Exit.DONE


# -- common --------------------------------------------------------------------------------------------------------


def _generator(setup: Setup, urls: Mapping[str, str]) -> ImageGenerator:
    return ImageGenerator(load_settings(**setup.overrides), sandbox=setup.sandbox, model_urls=urls)


@contextmanager
def _shown(setup: Setup, settings: Settings) -> Iterator[Display]:
    """The display of a run, and its log: below a live line, log lines must go through the display's console."""
    shown = display.display_for(as_json=setup.as_json, quiet=setup.verbosity < 0)
    secrets = () if settings.api_key is None else (settings.api_key.get_secret_value(),)
    with shown.live():
        level = _LEVELS.get(setup.verbosity, logging.DEBUG)
        logs.configure(level, file=setup.log_file, as_json=setup.log_json, secrets=secrets)
        yield shown


def _ledger_path(settings: Settings, on_sandbox: bool) -> Path:
    return settings.ledger or output_root(settings, SANDBOX if on_sandbox else PLATFORM) / LEDGER_NAME


def _style_table(style: Style) -> Table:
    table = _table("field", "value")
    for name, value in asdict(style).items():
        table.add_row(name, _text(value))
    return table


def _console() -> Console:
    """A console whose tables are not squeezed where nobody looks at them: in pipes and files."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else _PIPE_WIDTH)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _text(value: object) -> str:
    return "–" if value is None else str(value)


def _moment_text(unix_seconds: float) -> str:
    return datetime.fromtimestamp(unix_seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _print_json(value: object) -> None:
    print(json.dumps(value, ensure_ascii=False))  # noqa: T201 - this is the output


def _announce(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - this is the output


def _complain(text: str) -> None:
    print(f"asyncgen: {text}", file=sys.stderr)  # noqa: T201 - errors go to standard error
