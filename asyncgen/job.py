"""READ FIRST. One image, from the wish for it to the file: every step a job takes, in order.

A job starts wherever the ledger says the image stands, after a crash too, and goes on until it is settled. Each step
ends with a durable move to the next state (`asyncgen.lifecycle`), so dying between any two lines loses nothing that the
ledger does not know of.

    wanted ──intend──▶ submitting ──/run──▶ accepted ──/status──▶ storing ──fsync, link──▶ stored

A picture is looked at before it counts (`asyncgen.inspection`): one that is rejected leads back to wanted, or fails.

What it may buy, and on which terms, it asks of `Allowance`.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
from collections.abc import Awaitable, Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import anyio

from asyncgen import images, naming
from asyncgen.allowance import Allowance
from asyncgen.checks import next_seed
from asyncgen.endpoint import Endpoint
from asyncgen.errors import Failure, FailureClass, FailureCode, InputError, LedgerError, RunPausedError
from asyncgen.gate import Place
from asyncgen.images import ImageFaultError, Mark, Marks, Picture
from asyncgen.inspection import Inspector
from asyncgen.ledger import Ledger
from asyncgen.lifecycle import State
from asyncgen.marking import Marking
from asyncgen.plan import Planner
from asyncgen.ports import Ports
from asyncgen.protocol import (
    Accepted,
    Cancelled,
    Completed,
    Failed,
    LinkedImage,
    Missing,
    Pending,
    Refused,
    Rejected,
    Timing,
    Unknown,
    job_body,
)
from asyncgen.provenance import Level
from asyncgen.records import Item, Look, Spec, Terms, Want
from asyncgen.schema import PathTakenError
from asyncgen.sibling_rows import siblings_of
from asyncgen.stopping import Stop, StoppedError
from asyncgen.store import Prepared, Store

log = logging.getLogger(__name__)
TAKEN_BACK: Final = "taken back before it was sent, as told"
_FETCHES: Final = 3  # of a result that came damaged: fetching is free, buying is not
#: Where pictures are kept that do not count, in the output root.
REJECTED_FOLDER: Final = "rejected"
_EXAMINED_AT_ONCE: Final = 32 * 1024  # bytes: 0.03 ms


@dataclass(frozen=True, slots=True)
class Policy:
    """What a run does where there is a choice.

    `max_attempts`: how often one image may be bought in all, but for up to `rerolls` purchases with another seed.
    `metadata`: how much a picture's file says of how it was made.
    """

    batch_name: str
    path_template: str
    max_attempts: int
    resubmit_unknown: bool
    cancel_on_stop: bool
    metadata: Level
    realm: str
    rerolls: int = 0


@dataclass(frozen=True, slots=True)
class Workbench:
    """What every job of a run works with. `endpoint_at` finds an endpoint by the address stored with a job."""

    ports: Ports
    ledger: Ledger
    store: Store
    planner: Planner
    endpoint_at: Callable[[str], Endpoint]
    allowance: Allowance
    inspector: Inspector
    policy: Policy


class Job:
    """Takes one item from where it stands to a settled state."""

    def __init__(self, bench: Workbench, item: Item, want: Want, stop: Stop) -> None:
        self._bench, self._ledger, self._stop = bench, bench.ledger, stop
        self.item, self.want = item, want
        self.delivered: tuple[Picture, ...] = ()
        self.timing = Timing()
        self._out_since: float | None = None  # monotonic seconds; None: it may have ended long ago
        self._cancel_sent = self._put_off = False
        self._picture_names: dict[str, str] = {}  # under which input pictures were sent
        self._waiting: anyio.CancelScope | None = None  # for leave to buy: a withdrawal cuts that short
        self.withdrawn = False  # its owner no longer wants it
        self.on_put_off: Callable[[int], None] = lambda _: None  # 1 when it waits for a pause to end, -1 afterwards
        self._terms: Terms | None = None  # of the job that is out: what it can cost is set aside
        if item.state is State.ACCEPTED:
            self._terms = bench.allowance.take_over(item)

    async def settle(self) -> None:
        """Step until nothing is left to do; the outcome is in `item` (and `delivered`, for pictures without a file).

        Raises `StoppedError` where a stop leaves it wanted, `RunPausedError` for faults that every job would meet,
        `StoreError` and `LedgerError` when disk or ledger refuse.
        """
        with self._bench.inspector.in_work(self.want):
            while step := self._next_step():
                try:
                    await step()
                except StoppedError:
                    if self.withdrawn and self.item.state is State.WANTED:
                        await self._ledger.record_cancelled_unsent(self.item, TAKEN_BACK)
                    elif not self._put_off:
                        raise
                    self._put_off = False

    def _next_step(self) -> Callable[[], Awaitable[None]] | None:
        match self.item.state:
            case State.WANTED:
                return self._buy
            case State.ACCEPTED:
                return self._collect
            case State.STORING:
                return self._finish_storing
            case State.UNKNOWN if self._may_resubmit():
                return self._resubmit
            case _:
                return None

    # -- buy: wanted → submitting → accepted ---------------------------------------------------------------------

    async def _buy(self) -> None:
        terms = await self._leave_to_buy()
        with self._paying(terms):
            try:
                body = await self._body(terms)
            except InputError as error:
                code = FailureCode.BODY_TOO_LARGE if error.field == "input" else FailureCode.INPUT_REFUSED
                await self._ledger.record_refused_here(self.item, _item_failure(code, str(error)))
                return
            outcome = await self._bench.endpoint_at(terms.endpoint).submit(body, _Submission(self, terms), self._stop)
        self._look_at(outcome, terms)

    async def _leave_to_buy(self) -> Terms:
        """Wait until it may be bought. Raises `StoppedError`, for a withdrawal too."""
        if self.withdrawn:
            raise StoppedError
        with anyio.CancelScope() as self._waiting:
            await self._wait_unpaused()
            return await self._bench.allowance.reserve(self.want.spec, self._stop)
        raise StoppedError

    async def _wait_unpaused(self) -> None:
        if not self._stop.paused:
            return
        self.on_put_off(1)
        try:
            await self._stop.wait_unpaused()
        finally:
            self.on_put_off(-1)

    def _check_not_held_back(self) -> None:
        """What waited for the endpoint may have been paused or withdrawn meanwhile. Raises `StoppedError`."""
        self._put_off = self._stop.paused and not self._stop.requested
        if self._put_off or self.withdrawn:
            raise StoppedError

    async def intend(self, terms: Terms) -> None:
        """The intent, made durable; a submission that was refused for a while may find that it may not be sent now."""
        self._check_not_held_back()
        if self._bench.allowance.stop_of(self.want.spec) is not None:
            raise StoppedError
        await self._ledger.record_intent(self.item, terms)

    @contextmanager
    def _paying(self, terms: Terms) -> Iterator[None]:
        """What the job can cost is set aside by now; it is given back unless the job may have been bought."""
        try:
            yield
        finally:
            if self.item.state in (State.ACCEPTED, State.UNKNOWN):
                self._terms = terms
            else:
                self._bench.allowance.give_back(terms)

    def _look_at(self, outcome: Accepted | Refused | Unknown | Rejected | Missing, terms: Terms) -> None:
        """Raises `RunPausedError` where what became of a submission concerns more than this image."""
        if isinstance(outcome, Rejected) and outcome.failure.kind is not FailureClass.ITEM:
            raise RunPausedError(outcome.failure)
        if isinstance(outcome, Unknown):
            self._bench.allowance.note_unknown(terms, _unreachable(outcome.reason))

    async def learn(self, outcome: Accepted | Refused | Unknown | Rejected | Missing) -> None:
        """What became of a submission, made durable."""
        match outcome:
            case Accepted(job_id):
                await self._record_accepted(job_id)
                self._is_out_now()
                log.debug("accepted as job %s", job_id)
            case Refused(reason):
                await self._ledger.record_refused(self.item, reason)
            case Missing():
                await self._ledger.record_refused(self.item, "the platform cannot run this job again")
            case Unknown(reason):
                await self._ledger.record_unknown(self.item, _unreachable(reason))
                log.warning("the submission's outcome is unknown (%s): held, not sent again", reason)
            case Rejected(failure) if failure.kind is FailureClass.ITEM:
                await self._ledger.record_rejected(self.item, failure)
            case Rejected(failure):
                await self._ledger.record_refused(self.item, str(failure))

    async def intend_retry(self, terms: Terms, ending: Failed) -> None:
        """The intent to have a failed job run again, made durable."""
        self._check_not_held_back()
        await self._ledger.record_retry_intent(self.item, terms, ending.failure, ending.timing)

    async def learn_of_retry(self, outcome: Accepted | Refused | Unknown | Rejected | Missing) -> None:
        """What became of a retry. Its job has an id, so what no reply has told `/status` will."""
        if isinstance(outcome, Unknown):
            await self._ledger.record_unconfirmed(self.item, outcome.reason)
            self._is_out_now()
        else:
            await self.learn(outcome)

    def _is_out_now(self) -> None:
        self.timing, self._out_since, self._cancel_sent = Timing(), self._bench.ports.clock.now(), False

    async def _record_accepted(self, job_id: str) -> None:
        try:
            await self._ledger.record_accepted(self.item, job_id)
        except LedgerError:
            log.critical("job %s was accepted, and the ledger cannot take it down: keep this line", job_id)
            raise

    def _may_resubmit(self) -> bool:
        policy = self._bench.policy
        return policy.resubmit_unknown and self._attempts < policy.max_attempts

    @property
    def _attempts(self) -> int:
        """Purchases, but for those that another seed asked for."""
        return self.item.attempts - self.item.rerolls

    async def _resubmit(self) -> None:
        await self._ledger.record_resubmission(self.item)

    async def _body(self, terms: Terms) -> bytes:
        planner, threads = self._bench.planner, self._bench.ports.file_threads
        request, spec = self.want.request, self.want.spec
        planner.check_workflow(request, spec)
        urls = await planner.model_urls.to_send(spec.model_urls, threads)
        pictures = {
            name: await threads.run(self._input_picture, name, reference)
            for name, reference in request.named_pictures.items()
        }
        self._picture_names = {name: file_name for name, (file_name, _) in pictures.items()}
        return job_body(
            planner.job_input(request, spec, self.item.seed, pictures, urls),
            ttl_ms=terms.ttl_ms,
            execution_timeout_ms=terms.execution_timeout_ms,
        )

    def _input_picture(self, name: str, reference: str) -> tuple[str, str]:
        """The name and the base64 of what is sent. Blocks. Raises `InputError` where it is not what was wanted."""
        pictures = self._bench.planner.pictures
        if pictures is None:
            raise InputError("no input pictures can be sent from here", field=name)
        return pictures.to_send(name, reference, self.want.spec.sent_pictures.get(name))

    # -- collect: accepted → storing → stored --------------------------------------------------------------------

    async def _collect(self) -> None:
        """A result keeps its place at the endpoint until it is on disk, so that few are in memory at once."""
        assert self.item.endpoint is not None
        endpoint = self._bench.endpoint_at(self.item.endpoint)
        for fetch in itertools.count(1):
            with endpoint.place() as place:
                ending = await self._result(endpoint, place)
                if isinstance(ending, tuple):
                    await self._keep(ending)
                    return
            if not (isinstance(ending, Failed) and ending.refetch_first and fetch < _FETCHES):
                await self._settle_without_picture(ending)
                return
            log.info("the result came damaged and is fetched again: %s", ending.failure)

    async def _result(self, endpoint: Endpoint, place: Place) -> tuple[Picture, ...] | Failed | Cancelled | Missing:
        """The job's pictures, whole and checked, or how it ended without."""
        assert self.item.job_id is not None
        if self.withdrawn or (self._stop.requested and self._bench.policy.cancel_on_stop):
            await self.cancel()
        before_retry = await self._ledger.ends_before_retry(self.item) if self.item.attempts > 1 else ()
        ending = await endpoint.wait_output(
            self.item.job_id,
            place,
            lane=_work(self.want.spec),
            submitted_at=self._out_since,
            before_retry=before_retry,
        )
        self._out_since = None
        match ending:
            case Rejected(failure):
                raise RunPausedError(failure)
            case Completed():
                self.timing = ending.timing
                for note in ending.notes:
                    log.warning("a picture may be missing; the worker says: %s", note)
                # On the event loop (0.15 ms for 1.8 MB): malloc keeps what a thread frees for that thread, and for a
                # few of them that is more memory, and more page faults, than all pictures in hand.
                ending = images.decoded(ending)
                return await self._whole(ending, endpoint, place)
            case Failed() | Cancelled():
                self.timing = ending.timing
        return ending

    async def _whole(self, completed: Completed, endpoint: Endpoint, place: Place) -> tuple[Picture, ...] | Failed:
        marks = self._marks(len(completed.images))
        found = await self._examined(completed, marks)
        if isinstance(found, Failed):
            return found
        pictures = []
        for number, picture in enumerate(found, 1):
            whole: Picture | Failed
            if isinstance(picture, LinkedImage):
                whole = await self._downloaded(picture, endpoint, place, None if marks is None else marks(number))
            else:
                whole = picture
            if isinstance(whole, Failed):
                return whole
            pictures.append(whole)
        return tuple(pictures)

    def _marks(self, count: int) -> Marks | None:
        """What the files of the job's pictures say of how they were made."""
        policy, item = self._bench.policy, self.item
        if policy.metadata == "none":
            return None
        made = Marking(self._bench.planner, policy.metadata, policy.realm, policy.batch_name, self._picture_names)
        return made.marks(self.want, item.request_id, item.seed, count)

    async def _examined(self, completed: Completed, marks: Marks | None) -> tuple[Picture | LinkedImage, ...] | Failed:
        """Off the event loop, unless the hop there would take longer."""
        if completed.image_bytes <= _EXAMINED_AT_ONCE:
            return images.examine(completed, marks)
        return await self._bench.ports.file_threads.run(images.examine, completed, marks)

    async def _downloaded(
        self, link: LinkedImage, endpoint: Endpoint, place: Place, mark: Mark | None
    ) -> Picture | Failed:
        data = await endpoint.download(link.url, place)
        if isinstance(data, Rejected):
            return Failed(data.failure, self.timing)
        try:
            return await self._bench.ports.file_threads.run(images.check, data, mark)
        except ImageFaultError as fault:
            return Failed(fault.failure, self.timing, refetch_first=fault.refetch_first)

    async def _keep(self, pictures: tuple[Picture, ...]) -> None:
        store, inspector = self._bench.store, self._bench.inspector
        if failure := await inspector.fault(pictures, self.want, self.item.seed):
            await self._reject(pictures, failure)
            return
        looks = await inspector.looks(pictures, self.want)
        prepared = await store.prepare(pictures, self._names(len(pictures)), self._hex8)
        try:
            failure = await self._record_storing(prepared, pictures, looks)
        except PathTakenError:
            return  # by a picture whose file is gone: the name stays reserved, and the next round takes another
        except BaseException:
            store.release(prepared)
            raise
        if failure is not None:
            store.release(prepared)
            await self._reject(pictures, failure)
            return
        with anyio.CancelScope(shield=True):  # the thread writes on anyway: leave no file without its record
            try:
                in_place = await store.write(prepared, pictures)
            finally:
                store.release(prepared)
            if in_place:
                await self._stored(pictures)
            else:  # a file of somebody else's came in between
                await self._ledger.record_not_stored(self.item)

    async def _record_storing(
        self, prepared: Prepared, pictures: tuple[Picture, ...], looks: tuple[Look, ...]
    ) -> Failure | None:
        """Recorded, unless it is what another seed has made already; in between, another may land."""
        compared: set[int] = set()
        while True:
            unlike = partial(siblings_of, item=self.item, looks=looks, request=self.want.request, compared=compared)
            siblings = await self._ledger.record_storing(
                self.item, prepared, self.timing, looks, unlike if looks else None
            )
            if not siblings:
                return None
            looks, failure = await self._bench.inspector.compared(pictures, looks, siblings)
            if failure is not None:
                return failure
            compared.update(sibling.image_id for sibling in siblings)

    async def _stored(self, pictures: tuple[Picture, ...]) -> None:
        await self._ledger.record_stored(self.item)
        self._note_end(None)
        if not self.want.request.save_to_style:
            self.delivered = tuple(picture.as_file() for picture in pictures)
        log.info("stored %s", ", ".join(picture.path or "(in memory)" for picture in self.item.pictures))

    async def _finish_storing(self) -> None:
        """An earlier process died between recording the files and recording that they are there."""
        if await self._bench.store.are_in_place(self.item.pictures):
            await self._stored(())
        else:
            await self._ledger.record_not_stored(self.item)

    # -- a picture that does not count: accepted → failed, or wanted with another seed ----------------------------

    async def _reject(self, pictures: tuple[Picture, ...], failure: Failure) -> None:
        """It is paid for, so it is kept, aside; the file comes first, and what follows is one step."""
        item, taken = self.item, set[str]()
        rolls_again = item.rerolls < self._bench.policy.rerolls and self._bench.planner.has_seed(self.want.request)
        seed = next_seed(item.seed, item.rerolls + 1) if rolls_again else None
        with anyio.CancelScope(shield=True):  # as in `_keep`
            while True:
                kept = await self._bench.store.keep_rejected(pictures, self._rejected_names(len(pictures)), taken)
                paths = [picture.path for picture in kept if picture.path is not None]
                told = replace(failure, message=f"{failure.message}; kept as {', '.join(paths)}") if paths else failure
                try:
                    await self._ledger.record_picture_rejected(item, told, kept, self.timing, seed)
                    break
                except PathTakenError:
                    taken.update(paths)
        if seed is None and not self.want.request.save_to_style:
            self.delivered = tuple(picture.as_file() for picture in pictures)
        if seed is not None:
            log.warning("bought again with another seed after %s", told)
        self._note_end(told)

    def _rejected_names(self, count: int) -> list[str | None]:
        """As they would have been, in a folder of their own; the same again for the same job, and for no other."""
        assert self.item.job_id is not None
        mark = hashlib.blake2b(self.item.job_id.encode(), digest_size=4).hexdigest()
        names = self._names(count, self.item.accepted_at)
        return [None if name is None else f"{REJECTED_FOLDER}/{name}_{mark}" for name in names]

    def _names(self, count: int, wall_seconds: float | None = None) -> list[str | None]:
        request = self.want.request
        if not request.save_to_style:
            return [None] * count
        fields = naming.path_fields(
            self.want.spec,
            request_id=self.item.request_id,
            caller_id=request.id,
            seed=self.item.seed,
            batch=self._bench.policy.batch_name,
            wall_seconds=self._bench.ports.clock.wall() if wall_seconds is None else wall_seconds,
        )
        template = self._bench.policy.path_template
        return [
            naming.render_path(template, fields, filename=request.filename, number=number, count=count)
            for number in range(count)
        ]

    @property
    def _hex8(self) -> str:
        return self.item.request_id.removeprefix("img_")

    # -- no picture: accepted → wanted (bought again), failed, given up, lost, cancelled -------------------------

    async def _settle_without_picture(self, ending: Failed | Cancelled | Missing) -> None:
        match ending:
            case Cancelled():
                failure = _item_failure(FailureCode.CANCELLED, "the job was cancelled at the platform")
                await self._end_with(State.CANCELLED, failure)
            case Missing():
                await self._bench.store.forget_half_kept(self._rejected_names(self.want.spec.batch_size))
                await self._bought_again_or(State.LOST, Failed(self._lost()))
            case Failed(failure) if failure.kind is FailureClass.INFRASTRUCTURE:
                await self._bought_again_or(State.GIVEN_UP, ending)
            case Failed(failure):
                await self._end_with(State.FAILED, failure)

    async def withdraw(self) -> None:
        """Its owner no longer wants it: it is taken back at the platform where it is out, and not sent where it is not.

        What is being fetched or stored by now is kept.
        """
        self.withdrawn = True
        if self._waiting is not None:
            self._waiting.cancel()
        await self.cancel()

    async def cancel(self) -> None:
        """Take the job back at the platform, once, if it is out; its polling learns what became of that."""
        item = self.item
        if item.state is State.ACCEPTED and item.endpoint and item.job_id and not self._cancel_sent:
            self._cancel_sent = True
            outcome = await self._bench.endpoint_at(item.endpoint).cancel(item.job_id)
            if not isinstance(outcome, Cancelled):
                word = outcome.status if isinstance(outcome, Pending) else type(outcome).__name__.lower()
                log.warning("job %s was not cancelled (%s): it is waited for", item.job_id, word)

    async def _bought_again_or(self, otherwise: State, ending: Failed) -> None:
        """The platform's fault: bought again, unless the image has met the same one before or was bought enough."""
        failure = ending.failure
        if ending.is_of_before and self.item.accepted_at is None:  # no reply has said that the retry was taken
            await self._buy_instead(failure)
        elif await self._ledger.has_job_ended_with(self.item, failure.code):
            repeated = Failure(failure.kind, failure.code, f"{failure.message} (the second time: not bought again)")
            await self._end_with(State.LOST if otherwise is State.LOST else State.FAILED, repeated)
        elif self._attempts >= self._bench.policy.max_attempts:
            await self._end_with(otherwise, failure)
        elif (terms := self._terms_of_retry(ending)) is not None:
            await self._retry(ending, terms)
        else:
            log.warning("bought again after %s", failure)
            await self._end_with(State.WANTED, failure)

    async def _buy_instead(self, failure: Failure) -> None:
        """The retry was never taken: nothing was bought by it."""
        log.warning("job %s was not run again: bought again after %s", self.item.job_id, failure)
        await self._ledger.record_retry_not_taken(self.item, failure)
        if self._terms is not None:
            self._bench.allowance.give_back(self._terms)
            self._terms = None

    def _terms_of_retry(self, ending: Failed) -> Terms | None:
        """What a job that runs again was sent with; None where another one must be submitted in its place."""
        terms, allowance = self._terms, self._bench.allowance
        if terms is None or not ending.may_be_retried or terms.endpoint != allowance.endpoint:
            return None
        cut_off = ending.failure.code is FailureCode.TIMED_OUT and allowance.may_take_longer(terms)
        is_held_back = self._stop.requested or self._stop.paused or self.withdrawn
        return None if is_held_back or cut_off else terms

    async def _retry(self, ending: Failed, terms: Terms) -> None:
        """Have the failed job run again under its id: its input need not be sent a second time."""
        job_id, timing, allowance = self.item.job_id, self.timing, self._bench.allowance
        assert job_id is not None
        end_without_retry = partial(self._ledger.record_ended, self.item, State.WANTED, ending.failure, timing)
        try:
            self._note_end(ending.failure)
        except RunPausedError:
            await end_without_retry()
            raise
        if allowance.stop_of(self.want.spec) is not None or not allowance.reserve_at_once(terms):
            await end_without_retry()
            return
        log.warning("job %s is run again after %s", job_id, ending.failure)
        journal = _Retry(self, terms, ending)
        with self._paying(terms):
            try:
                outcome = await self._bench.endpoint_at(terms.endpoint).retry(job_id, journal, self._stop)
            except StoppedError:
                await end_without_retry()
                raise
        if not isinstance(outcome, Unknown):
            self._look_at(outcome, terms)

    def _lost(self) -> Failure:
        wall, accepted_at = self._bench.ports.clock.wall(), self.item.accepted_at
        age = "" if accepted_at is None else f", {(wall - accepted_at) / 60:.0f} min after it was accepted"
        message = f"the platform no longer knows the job{age}: its result expired or was lost, and was paid for"
        return Failure(FailureClass.INFRASTRUCTURE, FailureCode.LOST, message)

    async def _end_with(self, target: State, failure: Failure) -> None:
        await self._ledger.record_ended(self.item, target, failure, self.timing)
        self._note_end(failure)

    def _note_end(self, failure: Failure | None) -> None:
        """Raises `RunPausedError` where the run has now seen enough of this endpoint."""
        terms, self._terms = self._terms, None
        self._bench.allowance.note_end(self.item, self.want.spec, failure, self.timing, terms)


@dataclass(frozen=True, slots=True)
class _Submission:
    """The endpoint's journal of a `POST /run`."""

    job: Job
    terms: Terms

    async def intend(self) -> None:
        await self.job.intend(self.terms)

    async def learn(self, outcome: Accepted | Refused | Unknown | Rejected | Missing) -> None:
        await self.job.learn(outcome)


@dataclass(frozen=True, slots=True)
class _Retry:
    """The endpoint's journal of a `POST /retry`, after which the job has ended as `ending` says, or runs again."""

    job: Job
    terms: Terms
    ending: Failed

    async def intend(self) -> None:
        await self.job.intend_retry(self.terms, self.ending)

    async def learn(self, outcome: Accepted | Refused | Unknown | Rejected | Missing) -> None:
        await self.job.learn_of_retry(outcome)


def _item_failure(code: FailureCode, message: str) -> Failure:
    return Failure(FailureClass.ITEM, code, message)


def _unreachable(reason: str) -> Failure:
    return Failure(FailureClass.TRANSPORT, FailureCode.UNREACHABLE, reason)


def _work(spec: Spec) -> Hashable:
    """The same for jobs that take about as long on the same worker."""
    size = spec.width, spec.height, spec.batch_size
    return spec.workflow_digest, spec.model, spec.steps, size, len(spec.loras)
