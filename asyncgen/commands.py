"""The commands that make images: they put the parts together, show what happens, and return an exit code."""

from __future__ import annotations

import logging
import signal
from collections.abc import AsyncGenerator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, Final, ParamSpec

import anyio
from anyio.abc import TaskGroup

from asyncgen import display, logs
from asyncgen.api import ImageGenerator
from asyncgen.axes import axes
from asyncgen.batch_input import STDIN
from asyncgen.console import ask, can_ask, print_json, with_exit_code
from asyncgen.display import Display, Moment
from asyncgen.errors import AsyncgenError, InputError, LedgerError
from asyncgen.exits import Exit, of_error, of_run
from asyncgen.intake import IndexedWant, Intake, TakeKept
from asyncgen.library import read_object_info
from asyncgen.pilot import Piloted, choose, contact_sheet, measured, pilot_fields, show_pilot
from asyncgen.plan_display import print_report, show_report
from asyncgen.planning import Assumed, Question, bought_fates, nothing_planned, surveyed
from asyncgen.records import PLATFORM, SANDBOX, Batch
from asyncgen.report import batch_statuses, jobs_out
from asyncgen.request import INPUT_PICTURES, parse_request
from asyncgen.results import ImageResult
from asyncgen.run import BatchRun
from asyncgen.scoring import load_scorer
from asyncgen.settings import Settings, load_settings
from asyncgen.source import Source, SourceOptions
from asyncgen.streams import complain
from asyncgen.tally import Statistics
from asyncgen.waking import WarmUp, warm_up, warm_up_of
from asyncgen.warming import JOB_SECONDS

P = ParamSpec("P")
_CHUNK: Final = 32
_LEVELS: Final = {-1: logging.ERROR, 0: logging.WARNING, 1: logging.INFO}


@dataclass(frozen=True, slots=True)
class Setup:
    """What every running command is told: settings that options replace, the sandbox, what to show and to log."""

    overrides: Mapping[str, Any]
    object_info: str | None  # file or URL
    sandbox: bool
    as_json: bool
    verbosity: int
    log_file: Path | None
    log_json: bool
    scorer: str | None = None  # MODULE:FUNCTION


@dataclass(frozen=True, slots=True)
class BatchOptions:
    """What `asyncgen batch` is told about its input and its set."""

    source: SourceOptions
    name: str | None
    again: bool
    retry_failed: bool
    rebuy_changed: bool
    model_urls: Sequence[str]  # NAME=URL each
    pilot: int | None = None  # so many images first
    yes: bool = False
    warm: int | None = None  # so many workers


@dataclass(frozen=True, slots=True)
class Wish:
    """What `asyncgen generate` is asked for: `size` is WIDTHxHEIGHT, `prompt` None where the workflow takes no text."""

    prompt: str | None
    size: str | None
    fields: Mapping[str, Any]
    name: str | None


def _refusing_in_json(command: Callable[Concatenate[Setup, P], Exit]) -> Callable[Concatenate[Setup, P], Exit]:
    """With `--json`, what ends a command before its run is an object on standard output too."""

    @wraps(command)
    def run(setup: Setup, /, *args: P.args, **kwargs: P.kwargs) -> Exit:
        try:
            return command(setup, *args, **kwargs)
        except AsyncgenError as error:
            display.display_for(as_json=setup.as_json, quiet=True).refused(str(error), [str(error)])
            raise

    return run


@with_exit_code
@_refusing_in_json
def run_batch(setup: Setup, options: BatchOptions) -> Exit:
    """`asyncgen batch`."""
    generator = _generator(setup, _model_urls(options.model_urls))
    source = Source(options.source)
    name = options.name or source.batch_name
    with _shown(setup, generator.settings) as shown:
        _check_options(generator, *source.samples(generator))
        for note in source.notes(generator):
            shown.notice(note)
        total = None
        if not source.is_stream:
            total = source.validate(generator, shown, name)
            if total is None:
                return Exit.BAD_INPUT
            if not source.has_kept_rows:
                generator.planner.model_urls.warn_of_unused()
            for text in source.unused_texts:
                complain(text)
    new_set, warming = options.again, None
    if options.warm is not None:
        warming = warm_up_of(_question(generator, options, Assumed()), options.warm, as_json=setup.as_json)
    if options.pilot is not None:
        piloted = _run_pilot(setup, options, generator, source, warming)
        if isinstance(piloted, Exit):
            return piloted
        name, new_set = piloted, False  # which the pilot has begun
    with _shown(setup, generator.settings) as shown:
        job = _RunPlan(
            name=name,
            new_set=new_set,
            retry_failed=options.retry_failed,
            rebuy_changed=options.rebuy_changed,
            total=total,
            chunks=lambda take_kept: source.chunks(generator, take_kept),
            skipped=lambda: source.skipped,
            warming=warming,
        )
        ended = anyio.run(_execute, generator, job, shown)
    return _settle_held(setup, options.model_urls, ended)


def _run_pilot(
    setup: Setup, options: BatchOptions, generator: ImageGenerator, source: Source, warming: WarmUp | None
) -> str | Exit:
    """The pilot, and the question whether the rest is to be made: the batch's name where it is, else an exit code."""
    assert options.pilot is not None
    results: list[ImageResult] = []
    with _shown(setup, generator.settings) as shown:
        chosen = choose(generator, source, options.pilot)
        job = _RunPlan(
            name=options.name or source.batch_name,
            new_set=options.again,
            retry_failed=options.retry_failed,
            rebuy_changed=options.rebuy_changed,
            total=len(chosen.wanted),
            chunks=lambda _: _in_chunks(chosen.wanted),
            landed=results.append,
            warming=warming,
        )
        ended = anyio.run(_execute, generator, job, shown)
    if ended.code not in (Exit.DONE, Exit.SOME_FAILED, Exit.HELD):
        return ended.code
    made, name = sum(result.ok for result in results), ended.batch.name
    workers = len(ended.statistics.spending.first_delay_ms) or None
    question = _question(
        generator, replace(options, name=name, again=False, pilot=None, warm=None), Assumed(workers=workers)
    )
    workspace, target = generator.workspace, generator.target
    question = replace(question, ledger_path=workspace.ledger_path, realm=target.realm, price=target.price)
    with surveyed(question) as rest:
        sheet = contact_sheet(workspace.root, name, results)
        piloted = Piloted(name, chosen, made, sheet, measured(generator, name, chosen), rest)
        if setup.as_json:
            print_json(pilot_fields(piloted))
        elif setup.verbosity >= 0:
            show_pilot(piloted)
    if rest.to_make and not made:
        complain(
            f"none of the pilot could be made, so the other {rest.to_make} images were not tried: mend what failed, "
            "then --retry-failed"
        )
    if rest.to_make == 0 or made == 0:
        return ended.code
    is_asked = not (options.yes or setup.as_json or setup.verbosity < 0) and can_ask()
    if options.yes or (is_asked and ask(f"make the other {rest.to_make} images?")):
        return name
    complain(f"the rest awaits a yes: the same command with --yes{_instead_of_again(options, name)} makes it")
    return Exit.PILOT


def _instead_of_again(options: BatchOptions, name: str) -> str:
    return f" --name {name}, and without --again," if options.again else ""


async def _in_chunks(wanted: Sequence[IndexedWant]) -> AsyncGenerator[list[IndexedWant], None]:
    for begin in range(0, len(wanted), _CHUNK):
        yield list(wanted[begin : begin + _CHUNK])


def _sized(fields: Mapping[str, Any], size: str | None) -> Mapping[str, Any]:
    """With the width and height that a size says. Raises `InputError`."""
    if size is None:
        return fields
    if fields.keys() & {"width", "height"}:
        raise InputError("--width and --height say it too: leave one of them out", field="--size")
    ((width, height),) = axes(sizes=[size]).sizes
    return {**fields, "width": width, "height": height}


@with_exit_code
@_refusing_in_json
def run_generate(setup: Setup, wish: Wish, urls: Sequence[str]) -> Exit:
    """`asyncgen generate`."""
    fields = _sized(wish.fields, wish.size)
    generator = _generator(setup, _model_urls(urls))
    with _shown(setup, generator.settings) as shown:
        _check_options(generator, fields)
        template = generator.planner.template()
        if wish.prompt is not None and not template.binds("positive_prompt"):
            raise InputError(f"{template.name} takes no text: leave the prompt out", field="prompt")
        wanted = Intake(generator.planner, fields, name="prompt").plan(fields if wish.prompt is None else wish.prompt)
        generator.planner.model_urls.warn_of_unused()
        job = _RunPlan(name=wish.name, total=len(wanted), chunks=lambda _: _one_chunk(wanted))
        ended = anyio.run(_execute, generator, job, shown)
    return _settle_held(setup, urls, ended)


@with_exit_code
@_refusing_in_json
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
            chunks=lambda _: generator.recorded_wants(name, todays_values=rebuy_changed),
            must_exist=True,
        )
        ended = anyio.run(_execute, generator, job, shown)
    return _settle_held(setup, urls, ended)


@with_exit_code
def run_plan(setup: Setup, options: BatchOptions, assumed: Assumed) -> Exit:
    """`asyncgen plan`: what `asyncgen batch` would do."""
    try:
        return _plan(setup, options, assumed)
    except AsyncgenError as error:
        if setup.as_json:
            file, problems = options.source.file, [str(error)]
            name = options.name or ("stdin" if file == STDIN else Path(file).stem)
            realm = SANDBOX if setup.sandbox else PLATFORM
            print_report(nothing_planned(name, realm, lambda: iter(problems), len(problems)))
        raise


def _plan(setup: Setup, options: BatchOptions, assumed: Assumed) -> Exit:
    generator = _generator(setup, _model_urls(options.model_urls))
    with _shown(replace(setup, as_json=False, verbosity=min(setup.verbosity, 0)), generator.settings):
        with surveyed(_question(generator, options, assumed)) as report:
            (print_report if setup.as_json else show_report)(report)
        return Exit.BAD_INPUT if report.stops else Exit.DONE


def _question(generator: ImageGenerator, options: BatchOptions, assumed: Assumed) -> Question:
    source = Source(options.source)
    stopped_by, notes = None, list(_first_steps(options))
    try:
        generator.planner.template()
        notes = [*source.notes(generator), *notes]
        _check_options(generator, *source.samples(generator))
    except InputError as error:
        stopped_by = error
    return Question(
        generator,
        source,
        options.name or source.batch_name,
        generator.ledger_path,
        generator.realm,
        bought_fates(
            retry_failed=options.retry_failed,
            rebuy_changed=options.rebuy_changed,
            resubmit_unknown=generator.settings.unknown == "resubmit",
        ),
        new_set=options.again,
        skip_bad=options.source.skip_bad,
        assumed=assumed,
        stopped_by=stopped_by,
        notes=notes,
    )


def _first_steps(options: BatchOptions) -> Iterator[str]:
    """What a run does before the batch itself, for who only plans it."""
    if options.warm is not None:
        yield (
            f"before that up to {options.warm} workers would be woken, for {JOB_SECONDS:.0f} s of execution each at "
            "the most, their cold starts apart"
        )
    if options.pilot is not None:
        yield f"{options.pilot} of them would be made first, as a pilot, and the rest only after a yes"


def _settle_held(setup: Setup, urls: Sequence[str], ended: _Ended) -> Exit:
    """Somebody who sits at a terminal is asked about submissions of unknown outcome; others get the exit code."""
    if not (ended.code is Exit.HELD and ended.held_ids) or setup.as_json or setup.verbosity < 0 or not can_ask():
        return ended.code
    held = len(ended.held_ids)
    most = display.most_cost_of_held(replace(ended.statistics, held=held))
    if not ask(f"send the {held} held submissions again? What was accepted after all is paid for twice: {most}"):
        return ended.code
    again = replace(setup, overrides={**setup.overrides, "unknown": "resubmit"})
    code = _resubmit(again, urls, ended)
    return of_run(_without_held(ended), stopped=False) if code is Exit.DONE else code


def _resubmit(setup: Setup, urls: Sequence[str], ended: _Ended) -> Exit:
    """A run over those items alone that the ended one has reported as held: nothing else was asked about."""
    generator = _generator(setup, _model_urls(urls))
    with _shown(setup, generator.settings) as shown:
        job = _RunPlan(
            name=ended.batch.name,
            total=len(ended.held_ids),
            chunks=lambda _: generator.recorded_wants(ended.batch.name, todays_values=False, only=ended.held_ids),
        )
        return anyio.run(_execute, generator, job, shown).code


def _without_held(ended: _Ended) -> Statistics:
    """What a run has come to once all that it reported as held is there."""
    s, held = ended.statistics, len(ended.held_ids)
    return replace(s, made=s.made + held, held=s.held - held)


@dataclass(frozen=True, slots=True)
class _RunPlan:
    """One run to execute: which batch, with which choices, over which input, less what is kept and told by nobody."""

    name: str | None
    total: int | None
    chunks: Callable[[TakeKept | None], AsyncGenerator[list[IndexedWant], None]]
    new_set: bool = False
    retry_failed: bool = False
    rebuy_changed: bool = False
    must_exist: bool = False
    skipped: Callable[[], int] = lambda: 0
    landed: Callable[[ImageResult], object] = lambda _: None
    warming: WarmUp | None = None


@dataclass(frozen=True, slots=True)
class _Ended:
    """One run that has come to its end."""

    code: Exit
    batch: Batch
    statistics: Statistics
    held_ids: Collection[str]  # the request ids of results that were reported as held


async def _execute(generator: ImageGenerator, job: _RunPlan, shown: Display) -> _Ended:
    async with generator:
        total = _recorded_total(generator, job) if job.must_exist else job.total
        run = await generator.open_run(
            job.name, new_set=job.new_set, retry_failed=job.retry_failed, rebuy_changed=job.rebuy_changed
        )
        root, clock = generator.workspace.root, generator.workspace.ports.clock
        began = clock.now()
        shown.opened(run.batch, root)
        if job.warming is not None:
            await warm_up(generator, run, job.warming, shown)
            began = clock.now()

        def moment() -> Moment:
            s = run.statistics
            return Moment(s, total and total + s.added, clock.now() - began, job.skipped())

        watch = _Watch(run, shown, job.landed)
        watch.stop_if_unseen()
        error: AsyncgenError | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch.signals, tasks)
            tasks.start_soon(watch.progress, moment)
            take_kept = None if shown.tells_each_result else run.take_kept
            async with aclosing(job.chunks(take_kept)) as chunks:
                try:
                    await run.run(chunks, watch.landed)
                except AsyncgenError as caught:
                    error = caught
            tasks.cancel_scope.cancel()
        shown.ended(run.batch, root, moment(), error)
        if not isinstance(error, LedgerError) and (out := jobs_out(generator.workspace.ledger_path, run.batch)):
            shown.notice(
                f"{out} jobs are out and being paid for; the same command collects them, within 30 minutes of their end"
            )
        if watch.stopped_now:
            code = Exit.STOPPED
        elif error is not None:
            complain(str(error))
            code = of_error(error)
        else:
            code = of_run(run.statistics, stopped=watch.stopping)
        return _Ended(code, run.batch, run.statistics, watch.held_ids)


def _check_options(generator: ImageGenerator, *samples: Mapping[str, Any]) -> None:
    """Options that are wrong are wrong for every row: say so once. Raises `InputError`."""
    for fields in samples:
        try:
            generator.planner.want(parse_request({"prompt": "any", **fields}), 0)
        except InputError as error:
            if error.field not in INPUT_PICTURES:  # which rows may still name
                raise


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

    def __init__(self, run: BatchRun, shown: Display, landed: Callable[[ImageResult], object]) -> None:
        self._run, self._shown, self._landed = run, shown, landed
        self.stopping = self.stopped_now = False
        self.held_ids: set[str] = set()

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

    def stop_if_unseen(self) -> None:
        """Where standard output has failed, whoever reads it has left or is in need: submit nothing new."""
        if self._shown.output.failed and not self.stopping:
            self.stopping = True
            self._run.request_stop()
            out = self._run.statistics.out
            complain(f"stopping: nothing new is sent, {out} in flight are collected; Ctrl-C stops now")

    async def progress(self, moment: Callable[[], Moment]) -> None:
        """Show the run four times a second."""
        while True:
            self._shown.tick(moment())
            self.stop_if_unseen()
            await anyio.sleep(display.REFRESH_SECONDS)

    async def landed(self, result: ImageResult) -> None:
        """One result."""
        if result.status == "held":
            self.held_ids.add(result.request_id)
        self._shown.landed(result)
        self._landed(result)
        self.stop_if_unseen()


async def _one_chunk(wanted: list[IndexedWant]) -> AsyncGenerator[list[IndexedWant], None]:
    yield wanted


def _model_urls(options: Sequence[str]) -> dict[str, str]:
    """What is wrong is not quoted: a URL may hold a secret."""
    pairs = [option.partition("=") for option in options]
    for number, (name, _, url) in enumerate(pairs, 1):
        if not name or "://" in name or not url.startswith(("https://", "http://", "s3://")):
            raise InputError(
                f"number {number} is not NAME=URL, with a URL that begins with https://, http:// or s3://",
                field="--model-url",
            )
    return {name: url for name, _, url in pairs}


def _generator(setup: Setup, urls: Mapping[str, str]) -> ImageGenerator:
    object_info = None if setup.object_info is None else read_object_info(setup.object_info)
    settings = load_settings(**setup.overrides)
    scorer = None if setup.scorer is None else load_scorer(setup.scorer)
    return ImageGenerator(settings, sandbox=setup.sandbox, model_urls=urls, object_info=object_info, scorer=scorer)


@contextmanager
def _shown(setup: Setup, settings: Settings) -> Iterator[Display]:
    """The display of a run, and its log: below a live line, log lines must go through the display's console."""
    shown = display.display_for(as_json=setup.as_json, quiet=setup.verbosity < 0)
    secrets = () if settings.api_key is None else (settings.api_key.get_secret_value(),)
    with shown.live():
        level = _LEVELS.get(setup.verbosity, logging.DEBUG)
        logs.configure(level, file=setup.log_file, as_json=setup.log_json, secrets=secrets)
        yield shown
