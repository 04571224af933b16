"""What a batch would do, found out without doing it: nothing is sent, nothing written, no lock taken.

One pass over the input, in constant memory: rows of which the ledger knows that they are there are counted by their
keys, all others are planned as a run would, and looked up.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from asyncgen.api import ImageGenerator
from asyncgen.display import SAME_PICTURE
from asyncgen.errors import InputError
from asyncgen.estimate import Estimate, Work, estimate, jobs_that_fit, work_of
from asyncgen.money import Price, dollars
from asyncgen.outlook import BLOCK, Fate, Outlook, looking
from asyncgen.plan import Planner
from asyncgen.prices import price_named
from asyncgen.protocol import MAX_RUN_BODY_BYTES, body_too_large
from asyncgen.records import Spec, Want
from asyncgen.request import MAX_SEED, ImageRequest
from asyncgen.sampling import Sample, lane_of
from asyncgen.settings import Concurrency, Settings
from asyncgen.source import IdTwiceError, Source

SAMPLES: Final = 5
_MOST_WORKS: Final = 1024
_JSON: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))  # as `protocol.job_body`


@dataclass(frozen=True, slots=True)
class Assumed:
    """What the caller knows better: seconds of one image, and workers; None: nothing."""

    seconds_per_image: float | None = None
    workers: int | None = None


@dataclass(frozen=True, slots=True)
class Shown:
    """One image of the input as it would be sent. `place` is its `file:line`."""

    place: str
    prompt: str
    loras: tuple[str, ...]
    lane: str
    body_bytes: int


@dataclass(frozen=True, slots=True)
class Question:
    """A batch to be looked at. `new_set`: a new one whatever there is. `buys` are the fates whose images are made.

    `price` is the endpoint's, where it has been asked for. `stopped_by` is what is wrong with every row, options or
    workflow; then rows are only read.
    """

    generator: ImageGenerator
    source: Source
    batch: str
    ledger_path: Path
    realm: str
    buys: Collection[Fate]
    price: Price | None = None
    new_set: bool = False
    skip_bad: bool = False
    assumed: Assumed = Assumed()
    stopped_by: InputError | None = None
    notes: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """What a batch would do. `is_new` and `fates` None: nothing could be planned. `stops`: a problem would stop it.

    `to_make` jobs would be bought, `first` of them in the input's order. `problems` are read one by one, there may be
    as many as rows. `lanes` are those of the planned images (`asyncgen.sampling`), over which the samples are spread.
    """

    batch: str
    realm: str
    is_new: bool | None
    fates: Counter[Fate] | None
    to_make: int
    first: Want | None
    stops: bool
    estimate: Estimate | None
    lanes: int
    samples: Sequence[Shown]
    largest: Shown | None
    problems: Callable[[], Iterator[str]]
    problem_count: int
    notes: Sequence[str]

    @property
    def wanted(self) -> int:
        """All images of the input."""
        return 0 if self.fates is None else self.fates.total()


def bought_fates(*, retry_failed: bool, rebuy_changed: bool, resubmit_unknown: bool) -> frozenset[Fate]:
    """What a run with these choices buys."""
    also = {Fate.FAILED: retry_failed, Fate.CHANGED: rebuy_changed, Fate.HELD: resubmit_unknown}
    return frozenset({Fate.NEW, Fate.PENDING, Fate.CANCELLED, *(fate for fate, is_bought in also.items() if is_bought)})


class _Problems:
    """Every problem found, in a table that spills to disk: a file may have a million bad rows."""

    def __init__(self, table: sqlite3.Connection) -> None:
        self._table, self.count = table, 0
        table.execute("CREATE TABLE IF NOT EXISTS problem (id INTEGER PRIMARY KEY, text TEXT)")
        table.execute("DELETE FROM problem")

    def add(self, error: InputError) -> None:
        self.count += 1
        self._table.execute("INSERT INTO problem (text) VALUES (?)", (str(error),))

    def texts(self) -> Iterator[str]:
        for (text,) in self._table.execute("SELECT text FROM problem ORDER BY id"):
            yield text


class _Survey:
    """What one pass over the input finds."""

    def __init__(self, planner: Planner, outlook: Outlook, buys: Collection[Fate], bodies: _Bodies) -> None:
        self._planner, self._outlook, self._buys, self._bodies = planner, outlook, buys, bodies
        self._waiting: list[tuple[str, Want]] = []
        self.fates: Counter[Fate] = Counter()
        self.works: Counter[Work] = Counter()
        self.sample: Sample[tuple[str, Want]] = Sample(SAMPLES)
        self.first: Want | None = None
        self.overfull = 0  # jobs of lanes beyond `_MOST_WORKS`

    def meet(self, place: str, wants: list[Want]) -> None:
        """The wants of one row."""
        for want in wants:
            self._waiting.append((place, want))
            if len(self._waiting) == BLOCK:
                self.flush()

    def flush(self) -> None:
        """Look up what waits."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        for (place, want), fate in zip(waiting, self._outlook.fates([want for _, want in waiting]), strict=True):
            self.fates[fate] += 1
            if want.replica == 0:
                self._bodies.weigh(place, want)
                self.sample.add(lane_of(want.spec), want.content_key, (place, want))
            if fate in self._buys:
                self.first = self.first or want
                self._count(work_of(want.spec))

    def _count(self, work: Work) -> None:
        if work in self.works or len(self.works) < _MOST_WORKS:
            self.works[work] += 1
        else:
            self.overfull += 1


class _Bodies:
    """How large jobs are, without building each: those of one graph differ by their texts and pictures alone."""

    def __init__(self, planner: Planner, settings: Settings, on_too_large: Callable[[InputError], None]) -> None:
        self._planner, self._on_too_large = planner, on_too_large
        self._ttl_ms = int(settings.job_ttl_seconds * 1000)
        self._timeout_ms = int(settings.execution_timeout_seconds * 1000)
        self._bases: dict[object, int] = {}
        self._largest: tuple[int, str, Want] | None = None

    def weigh(self, place: str, want: Want) -> None:
        """Reckon with one job; tell of one that no endpoint would take, and of pictures that cannot be read."""
        try:
            size = self._size(want.request, want.spec)
        except InputError as error:
            self._on_too_large(error.at(place))
            return
        if size > MAX_RUN_BODY_BYTES:
            told = body_too_large(size, self._pictures(want.request, want.spec))
            message = f"{told.message}; the image would fail, and cost nothing"
            self._on_too_large(InputError(message, field=told.field, where=place))
        if self._largest is None or size > self._largest[0]:
            self._largest = (size, place, want)

    @property
    def largest(self) -> Shown | None:
        """The largest that there was."""
        if self._largest is None:
            return None
        _, place, want = self._largest
        return self.shown(place, want)

    def shown(self, place: str, want: Want) -> Shown:
        """One job, its size exact but for the digits of a seed that is still to be drawn: then it is the most."""
        spec = want.spec
        loras = tuple(f"{lora.name}:{lora.strength:g}" for lora in spec.loras)
        size = self._exact(want.request, spec) + self._pictures(want.request, spec)
        return Shown(place, spec.prompt_sent, loras, str(lane_of(spec)), size)

    def _size(self, request: ImageRequest, spec: Spec) -> int:
        texts = self._texts(request, spec) + self._pictures(request, spec)
        graph = (spec.workflow, spec.model, spec.loras, spec.model_urls)
        base = self._bases.get(graph)
        if base is None:
            base = self._exact(request, spec) - self._texts(request, spec)
            if len(self._bases) < _MOST_WORKS:
                self._bases[graph] = base
        return base + texts

    def _texts(self, request: ImageRequest, spec: Spec) -> int:
        places = len(self._planner.template(request.workflow).parameters.get("positive_prompt", ()))
        own = len(json.dumps(dict(spec.parameters))) if spec.parameters else 0
        return places * len(_JSON.encode(spec.prompt_sent).encode()) + own

    def _pictures(self, request: ImageRequest, spec: Spec) -> int:
        pictures, named = self._planner.pictures, request.named_pictures
        if pictures is None or not spec.sent_pictures:
            return 0
        return sum(pictures.base64_bytes(name, named[name], sent) for name, sent in spec.sent_pictures.items())

    def _exact(self, request: ImageRequest, spec: Spec) -> int:
        """Of a job without the bytes of its pictures."""
        pictures = dict.fromkeys(request.input_pictures, (f"{'0' * 16}.png", ""))
        seed = MAX_SEED if request.seed is None else request.seed
        job_input = self._planner.job_input(request, spec, seed, pictures)
        policy = {"ttl": self._ttl_ms, "executionTimeout": self._timeout_ms}
        return len(_JSON.encode({"input": job_input, "policy": policy}).encode())


@contextmanager
def surveyed(question: Question) -> Iterator[Report]:
    """A look at what a batch would do, for as long as its problems may be asked for.

    Raises `LedgerError` for a ledger that cannot be read, `InputError` for a file that cannot, or a wrong price.
    """
    with ExitStack() as stack:
        table = stack.enter_context(closing(sqlite3.connect("", isolation_level=None)))
        if question.stopped_by is not None:
            yield _of_stopped(question, _Problems(table))
            return
        try:
            with _looking(question) as outlook:
                report = _report(question, outlook, outlook, _Problems(table))
        except IdTwiceError:  # where, only who plans every row can tell
            with _looking(question) as outlook:
                report = _report(question, outlook, None, _Problems(table))
        yield report


def _looking(question: Question) -> AbstractContextManager[Outlook]:
    name = None if question.new_set else question.batch
    return looking(question.ledger_path, name, question.realm)


def _of_stopped(question: Question, problems: _Problems) -> Report:
    """The input as it stands there, where options or workflow are wrong and nothing can be planned."""
    assert question.stopped_by is not None
    problems.add(question.stopped_by)
    question.source.look_for_bad_rows(problems.add)
    notes = ["rows are read, and not planned: what is wrong above is wrong for all of them"]
    return nothing_planned(question.batch, question.realm, problems.texts, problems.count, notes)


def nothing_planned(
    batch: str, realm: str, problems: Callable[[], Iterator[str]], problem_count: int, notes: Sequence[str] = ()
) -> Report:
    """The report of a batch that cannot be planned."""
    return Report(
        batch=batch,
        realm=realm,
        is_new=None,
        fates=None,
        to_make=0,
        first=None,
        stops=True,
        estimate=None,
        lanes=0,
        samples=[],
        largest=None,
        problems=problems,
        problem_count=problem_count,
        notes=notes,
    )


def _report(question: Question, outlook: Outlook, known: Outlook | None, problems: _Problems) -> Report:
    generator, settings, assumed = question.generator, question.generator.settings, question.assumed
    bodies = _Bodies(generator.planner, settings, problems.add)
    survey = _Survey(generator.planner, outlook, question.buys, bodies)
    bad_rows = 0

    def note_bad(error: InputError) -> None:
        nonlocal bad_rows
        bad_rows += 1
        problems.add(error)

    is_planned = None if question.source.is_stream else known
    total = question.source.look_through(generator, is_planned, note_bad, survey.meet)
    survey.flush()
    survey.fates[Fate.KEPT] += total - survey.fates.total()
    if total == 0 and not bad_rows:
        problems.add(InputError("there is no prompt in it", where=question.source.name))
    price = question.price or price_named(settings.usd_per_second, settings.gpu)
    found = estimate(
        survey.works,
        outlook.history(survey.works),
        seconds_per_image=assumed.seconds_per_image,
        workers=_workers(assumed.workers, settings.concurrency),
        price=price,
    )
    return Report(
        batch=question.batch,
        realm=outlook.realm,
        is_new=outlook.is_new,
        fates=survey.fates,
        to_make=survey.works.total() + survey.overfull,
        first=survey.first,
        stops=(bad_rows > 0 and not question.skip_bad) or total == 0,
        estimate=found,
        lanes=survey.sample.lanes,
        samples=[bodies.shown(place, want) for place, want in survey.sample.chosen()],
        largest=bodies.largest,
        problems=problems.texts,
        problem_count=problems.count,
        notes=[*_notes(question, survey, found, outlook.rejected), *question.notes],
    )


def _workers(said: int | None, concurrency: Concurrency) -> int | None:
    """Never more workers are busy than jobs are out."""
    if said is None or not isinstance(concurrency, int):
        return said
    return min(said, concurrency)


def _notes(question: Question, survey: _Survey, found: Estimate, rejected: int) -> Iterator[str]:
    fates, buys = survey.fates, question.buys
    if fates[Fate.FAILED] and Fate.FAILED not in buys:
        yield f"{fates[Fate.FAILED]} failed before and are left: --retry-failed tries them again"
    if rejected and question.generator.settings.rerolls == 0:
        yield SAME_PICTURE.format(rejected)
    yield from question.source.unused_texts
    if fates[Fate.CHANGED] and Fate.CHANGED not in buys:
        yield f"{fates[Fate.CHANGED]} are there, made with other values than today's: --rebuy-changed makes them again"
    if fates[Fate.HELD] and Fate.HELD not in buys:
        yield f"{fates[Fate.HELD]} are held, their outcome was never learned: --unknown resubmit sends them again"
    if fates[Fate.OUT]:
        yield f"{fates[Fate.OUT]} are out, or were when their run ended: they are collected, not bought again"
    if survey.overfull:
        yield f"{survey.overfull} images of more than {_MOST_WORKS} lanes are in no estimate"
    budget = question.generator.settings.budget_usd
    if budget is None:
        return
    if found.price is None:
        yield "a budget needs a price: without --usd-per-second or --gpu the run asks the management API for it"
    elif (fitting := jobs_that_fit(budget, found.lanes, found.price)) is not None and fitting < found.jobs:
        yield (
            f"the budget of {dollars(budget)}, less what earlier runs of the batch have cost, pays for at least "
            f"{fitting} of them at the high end of the range"
        )
