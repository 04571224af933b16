"""Bounded fan-out: claims what is wanted, keeps so many jobs out, hands results on as they land, stops cleanly.

The limit is taken in the loop that starts jobs, so a million wants wait in their source, not in memory. Each job runs
in its own task of one task group; all coordination happens on the event loop.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Final

import anyio
from anyio.abc import TaskGroup

from asyncgen import logs
from asyncgen.checks import OF_PICTURE, next_seed
from asyncgen.concurrency import FEWEST_OUT, AutoConcurrency
from asyncgen.endpoint import Endpoint
from asyncgen.errors import (
    AsyncgenError,
    BudgetReachedError,
    Failure,
    InputError,
    LedgerError,
    RunPausedError,
    StoreError,
)
from asyncgen.intake import IndexedWant
from asyncgen.job import TAKEN_BACK, Job, Workbench
from asyncgen.lanes import StoppedLane
from asyncgen.lifecycle import FAILURES, State
from asyncgen.records import Batch, Item, Want
from asyncgen.results import ImageResult, result_of
from asyncgen.selection import Selection
from asyncgen.slots import Slots, WorkerWatch
from asyncgen.stopping import Stop, StoppedError
from asyncgen.tally import Added, Statistics, Withdrawn

log = logging.getLogger(__name__)

Deliver = Callable[[ImageResult], Awaitable[None]]
#: What stops a run but is no bug: it is raised once everything that is out has been collected.
_STOPPING_ERRORS: Final = (RunPausedError, BudgetReachedError, StoreError, LedgerError, InputError)
_SLEPT_SECONDS: Final = 60.0  # the wall clock may be set by less
_MOST_WITHDRAWALS: Final = 1000
_MOST_ADDED: Final = 100_000  # that wait to be taken in: their numbers are in memory
_PAGE: Final = 32


@dataclass(frozen=True, slots=True)
class Choices:
    """How many jobs are kept out (None: what the workers need), and what a run does with what an earlier one left."""

    concurrency: int | None
    retry_failed: bool = False
    rebuy_changed: bool = False


@dataclass(slots=True)
class _Flight:
    """One job in work, and the places in the input that wait for it: none for one that the input has not named yet."""

    job: Job
    places: list[int]
    is_added: bool = False
    is_added_again: bool = False  # while it was being taken back


@dataclass(frozen=True, slots=True, eq=False)
class _Coming:
    """An item that was claimed, and is taken as soon as those before it are; the first of several is being taken."""

    want: Want
    item: Item
    take: Callable[[], Awaitable[None]]


class Engine:
    """Runs one batch over one input. Build it inside the running event loop; `run` may be called once."""

    def __init__(self, bench: Workbench, batch: Batch, choices: Choices) -> None:
        self._bench, self._batch, self._choices = bench, batch, choices
        self._allowance = bench.allowance
        fixed = choices.concurrency
        if fixed is not None and (not isinstance(fixed, int) or fixed < 1):
            raise InputError(f"must be a whole number from 1, or 'auto', not {fixed!r}", field="concurrency")
        self._auto = self._new_auto() if fixed is None else None
        self._slots = Slots(FEWEST_OUT if fixed is None else fixed)
        self._run_id = 0
        self._flights: dict[int, _Flight] = {}
        # What landed since the last claim: claimed items of that chunk may still say otherwise.
        self._landed: dict[int, _Flight] = {}
        self._reattached: set[int] = set()
        self._withdrawals: list[Selection] = []
        self._only: Selection | None = None  # of what is out, only this is re-attached
        # What is claimed here is not taken back behind our back: while it is held, it is known what is in hand.
        self._claims = anyio.Lock(fast_acquire=True)
        # Items that were added and wait to be taken in, in order.
        self._added: dict[int, None] = {}
        # How many withdrawals came before an item was added: they do not mean it.
        self._added_after: dict[int, int] = {}
        # What is counted as cancelled: so many are known when they are added again.
        self._cancelled: set[int] = set()
        self._coming: list[_Coming] = []
        self._tasks: TaskGroup | None = None
        self._is_taking = False
        self.on_added: Callable[[], None] = lambda: None  # tells who waits for the input
        self.read_ahead: Callable[[], Sequence[Want]] = tuple  # of the input, and not claimed
        self._error: AsyncgenError | None = None
        self._ahead = self._seconds_ahead()
        self.stop = Stop()
        self.statistics = Statistics(
            spending=self._allowance.spending,
            budget=self._allowance.budget,
            price=self._allowance.price,
            unknown_usd=self._allowance.most_usd_of_unknown,
        )

    async def run(self, chunks: AsyncIterator[list[IndexedWant]], deliver: Deliver) -> None:
        """Work through the input. Everything that is out is collected before an error is raised.

        Raises `RunPausedError`, `StoreError` or `LedgerError` when going on is useless, `InputError` for a row that is
        wrong. Cancelling the task leaves the ledger true.
        """
        with anyio.CancelScope(shield=True):  # a run that is recorded as begun is recorded as ended
            run_id = self._run_id = await self._bench.ledger.begin_run(self._batch)
        outcome = "cancelled"
        try:
            await self._work(run_id, chunks, deliver)
            outcome = "stopped" if self.stop.requested else "ended"
        finally:
            self._count_unnamed()
            with anyio.CancelScope(shield=True):
                await self._end_run(run_id, outcome)
        if self._error is not None:
            raise self._error

    async def _work(self, run_id: int, chunks: AsyncIterator[list[IndexedWant]], deliver: Deliver) -> None:
        async with anyio.create_task_group() as watching:
            if self._auto is not None:
                watching.start_soon(self._watch_workers, self._auto)
            if self._bench.policy.cancel_on_stop:
                watching.start_soon(self._cancel_when_stopped, watching)
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                await self._taking(partial(self._take_all, tasks, run_id, chunks, deliver))
            self._tasks = None
            watching.cancel_scope.cancel()

    async def _taking(self, take: Callable[[], Awaitable[None]]) -> None:
        self._is_taking = True
        try:
            await take()
        except StoppedError:
            log.info("stopping: nothing new is submitted, what is out is settled")
        except _STOPPING_ERRORS as error:
            self._stop_for(error)
        finally:
            self._is_taking = False

    async def _take_all(
        self, tasks: TaskGroup, run_id: int, chunks: AsyncIterator[list[IndexedWant]], deliver: Deliver
    ) -> None:
        await self._count_earlier_runs()
        await self._reattach(tasks, run_id, deliver)
        await self._take_in(tasks, run_id, chunks, deliver)

    async def _end_run(self, run_id: int, outcome: str) -> None:
        try:
            await self._bench.ledger.end_run(run_id, outcome)
        except LedgerError as error:
            self._stop_for(error)  # after the first error, which says more

    async def take_kept(self, row_keys: Sequence[bytes]) -> dict[bytes, int]:
        """Count the rows of a prompt file whose images are all there, as they would be made today, as kept.

        Returns how many images each of those stands for; nothing is delivered for them. For the input of `run`, which
        must be going on: each row is taken once.
        """
        if self.stop.requested:
            raise StoppedError
        kept = await self._bench.ledger.take_kept(self._batch, self._run_id, row_keys, self._reattached)
        images = sum(kept.values())
        self.statistics.wanted += images
        self.statistics.kept += images
        return kept

    def request_stop(self) -> None:
        """Submit nothing new; `run` returns once what is out has been collected (or cancelled)."""
        self.stop.request()

    # -- commands to a run that goes on --------------------------------------------------------------------------

    def pause(self) -> None:
        """Send nothing new until `resume`; what is out is collected."""
        self.stop.pause()
        self.statistics.paused = True

    def resume(self) -> None:
        """Go on sending."""
        self.stop.resume()
        self.statistics.paused = False

    async def withdraw(self, selection: Selection) -> Withdrawn:
        """Take images back for this run: at the platform, before they are sent, and before their rows have been read.

        Returns once every job that was out has been asked to be cancelled. What has ended by then is kept.
        Raises `InputError` for more withdrawals than a run keeps in mind.
        """
        if len(self._withdrawals) >= _MOST_WITHDRAWALS:
            raise InputError(f"a run takes {_MOST_WITHDRAWALS:,} cancel commands: give several ids at once, or stop it")
        async with anyio.create_task_group() as tasks, self._claims:  # nothing else is claimed meanwhile
            ahead = [want for want in self.read_ahead() if self._withdraws_ahead(selection, want)]
            coming = self._count_coming(selection)
            self._withdrawals.append(selection)
            jobs = [flight.job for flight in self._flights.values()]
            meant = [job for job in jobs if selection.matches(job.want, job.item)]
            met = [job.item.state is not State.WANTED for job in meant if not job.withdrawn]
            for job in meant:
                tasks.start_soon(self._take_back, job.withdraw)
            unsent, error = await self._withdraw_unsent(selection, ahead)
        if error is not None:
            raise error
        return Withdrawn(sum(met), unsent + coming + len(met) - sum(met))

    def _withdraws_ahead(self, selection: Selection, want: Want) -> bool:
        """Whether it is the first to mean what has been read, and is in no ledger yet."""
        earlier = any(one.matches_unrecorded(want) for one in self._withdrawals)
        return selection.matches_unrecorded(want) and not earlier

    def _count_coming(self, selection: Selection) -> int:
        """What has been claimed and would have been sent."""
        return sum(
            one.item.state in (State.WANTED, State.CANCELLED)
            and selection.matches(one.want, one.item)
            and not self._is_withdrawn(one.item, one.want)
            for one in self._coming
        )

    async def _withdraw_unsent(self, selection: Selection, ahead: list[Want]) -> tuple[int, LedgerError | None]:
        """How many the ledger has or would have had; what is out is taken back whatever it says."""
        ledger, held = self._bench.ledger, self._in_hand
        try:
            unread = await ledger.count_unmade(self._batch, ahead) if ahead else 0
            return unread + await ledger.cancel_unsent(self._batch, selection.matches, held, TAKEN_BACK), None
        except LedgerError as error:
            return 0, error

    def prefer(self, is_meant: Callable[[Want], bool]) -> int:
        """Start these first of what has been claimed and not begun; how many they are."""
        self._coming.sort(key=lambda one: not is_meant(one.want))
        return sum(is_meant(one.want) for one in self._coming)

    async def take_back(self, selection: Selection, deliver: Deliver) -> Withdrawn:
        """Instead of `run`: cancel what is out of an earlier run, wait for its end, and take back what was not sent.

        What had ended meanwhile is collected. `statistics` count both.
        """
        self._only = selection
        self._withdrawals.append(selection)
        await self.run(_nothing(), deliver)
        unsent = await self._bench.ledger.cancel_unsent(self._batch, selection.matches, (), TAKEN_BACK)
        return Withdrawn(self.statistics.reattached, unsent)

    @property
    def _in_hand(self) -> frozenset[int]:
        """The items that are in work, and those that have been claimed and are about to be."""
        return frozenset(self._flights).union(one.item.id for one in self._coming)

    def _new_job(self, item: Item, want: Want) -> Job:
        job = Job(self._bench, item, want, self.stop)
        job.withdrawn = self._is_withdrawn(item, want)
        job.on_put_off = self._count_put_off
        return job

    def _is_withdrawn(self, item: Item, want: Want) -> bool:
        """By one of the withdrawals that came since it was last added."""
        return any(
            selection.matches(want, item) for selection in self._withdrawals[self._added_after.get(item.id, 0) :]
        )

    async def add(self, wants: Sequence[Want], scope: int) -> Added:
        """Want images that the input does not name: they are recorded when this returns, and come next.

        What the batch has already is not wanted again. Of equal wants that are added under one `scope`, a number below
        0, each is one more image, as in one input. Raises `InputError` where too many wait, and where the batch has
        another image under the id of one.
        """
        if len(self._added) + len(wants) > _MOST_ADDED:
            raise InputError(f"{_MOST_ADDED:,} images that were added wait: add more once they are on their way")
        async with self._claims:
            await self._bench.ledger.check_ids(self._batch, wants)
            items = await self._bench.ledger.claim(self._batch, scope, wants, self._in_hand.union(self._added))
            in_hand = self._in_hand.union(self._added)
            fresh = dict.fromkeys(
                item.id for want, item in zip(wants, items, strict=True) if self._is_fresh(want, item, in_hand)
            )
            is_taken = self._is_taking or (self._tasks is not None and bool(self._flights))
            is_taken = is_taken and not self.stop.requested
            if is_taken:
                self._add_all(fresh)
        return Added(len(fresh), len(items) - len(fresh), is_taken)

    def _is_fresh(self, want: Want, item: Item, in_hand: Collection[int]) -> bool:
        """Whether what is added is to be made, and nothing in hand is going to be it: what is taken back is not."""
        if item.id in in_hand:
            return self._is_withdrawn(item, want)
        return item.state in (State.WANTED, State.CANCELLED)

    def _add_all(self, item_ids: Iterable[int]) -> None:
        for item_id in item_ids:
            flight = self._flights.get(item_id)
            waits = item_id in self._added or (flight is not None and flight.is_added_again)
            self.statistics.wanted += not waits
            self.statistics.added += not waits
            if self._withdrawals:
                self._added_after[item_id] = len(self._withdrawals)
            if flight is None:
                self._added[item_id] = None
            else:  # it is made again once it has been taken back
                flight.is_added_again = True
        self._have_added_taken()

    def _have_added_taken(self) -> None:
        if self._is_taking:
            self.on_added()
        elif self._tasks is not None:  # the input has ended, and jobs are still out
            self._is_taking = True
            self._tasks.start_soon(self._taking, partial(self._take_added, self._tasks, _to_nobody))

    async def _take_added(self, tasks: TaskGroup, deliver: Deliver) -> None:
        """Start what was added, with the values that the ledger has of it."""
        while self._added:
            self._forget_landed()
            async with self._claims:  # until then they wait, and are not added again
                page = dict(islice(self._added.items(), _PAGE))
                recorded = await self._bench.ledger.recorded_by_id(list(page))
                wants = [self._bench.planner.recorded(one, todays_values=False) for one in recorded]
                items = await self._bench.ledger.claim(self._batch, self._run_id, wants, frozenset(self._flights))
                for item_id in page:
                    del self._added[item_id]
            take = partial(self._take_one_added, tasks, deliver)
            await self._take_each(
                _Coming(want, item, partial(take, want, item)) for want, item in zip(wants, items, strict=True)
            )

    async def _take_one_added(self, tasks: TaskGroup, deliver: Deliver, want: Want, item: Item) -> None:
        if item.id in self._flights or item.state not in (State.WANTED, State.CANCELLED):
            self.statistics.repeated += 1  # it was made, or tried, where the input names it
            return
        is_made = await self._is_to_be_made(want, item)
        if item.id in self._cancelled:  # and counted so, which it may be no longer
            self.statistics.repeated += 1
            self.statistics.cancelled -= is_made
            self._cancelled.difference_update([item.id] if is_made else ())
        elif not is_made:
            self._count_settled(item, made=False)
        if is_made and not self._allowance.stop_of(want.spec):
            await self._wait_for_place()
            self._launch(tasks, _Flight(self._new_job(item, want), [], is_added=True), deliver)

    # -- taking in -----------------------------------------------------------------------------------------------

    async def _count_earlier_runs(self) -> None:
        """What they have spent and learned; now, because no other run over the batch goes on."""
        ledger, price = self._bench.ledger, self._allowance.budget_price
        if price is not None:
            spent_usd = await ledger.committed_usd(self._batch, price.usd_per_second)
            self._allowance.count_earlier(spent_usd, await ledger.last_times(self._batch))

    async def _reattach(self, tasks: TaskGroup, run_id: int, deliver: Deliver) -> None:
        """First of all the jobs that an earlier process left out: they are paid for, and their results expire."""
        for item, want in await self._bench.ledger.items_out(self._batch, run_id):
            if self._only is not None and not self._only.matches(want, item):
                continue
            self.statistics.reattached += 1
            self._reattached.add(item.id)
            self._slots.take_beyond()  # which keeps new jobs waiting
            self._launch(tasks, _Flight(self._new_job(item, want), []), deliver)

    async def _take_in(
        self, tasks: TaskGroup, run_id: int, chunks: AsyncIterator[list[IndexedWant]], deliver: Deliver
    ) -> None:
        while True:
            await self._take_added(tasks, deliver)
            with self.stop.interruptible():
                chunk = await anext(chunks, None)
            if not chunk and (self._added or chunk is not None):
                continue  # it was woken for what was added
            if chunk is None:
                self.statistics.input_ended = True
                return
            self._forget_landed()
            wants, in_work = [wanted.want for wanted in chunk], frozenset(self._flights)
            async with self._claims:
                items = await self._bench.ledger.claim(self._batch, run_id, wants, in_work)
            first: dict[int, Item] = {}
            take = partial(self._take_claimed, tasks, first, deliver)
            await self._take_each(
                _Coming(wanted.want, item, partial(take, wanted, item))
                for wanted, item in zip(chunk, items, strict=True)
            )

    async def _take_each(self, coming: Iterable[_Coming]) -> None:
        """One after the other, in an order that a command may change."""
        self._coming = list(coming)
        while self._coming:
            present = self._coming[0]
            try:
                await present.take()
            finally:
                self._coming.remove(present)

    async def _take_claimed(
        self, tasks: TaskGroup, first: dict[int, Item], deliver: Deliver, wanted: IndexedWant, claimed: Item
    ) -> None:
        item = first.setdefault(claimed.id, claimed)
        if item is not claimed:  # which does not know yet what the image's first place has made of it
            item = replace(item, repeats=claimed.repeats, is_new=False)
        await self._take(tasks, wanted, item, deliver)

    def _forget_landed(self) -> None:
        """What is claimed from now on knows of them; but for those that nobody has named, which are still to count."""
        named = [item_id for item_id, flight in self._landed.items() if flight.places or flight.is_added]
        for item_id in named:
            del self._landed[item_id]

    async def _take(self, tasks: TaskGroup, wanted: IndexedWant, item: Item, deliver: Deliver) -> None:
        """Start what is to be made, join what is in work, hand on what is settled."""
        self._count_in(wanted, item)
        if flight := self._flights.get(item.id):
            flight.places.append(wanted.index)
        elif landed := self._landed.get(item.id):
            repeated = bool(landed.places) or landed.is_added
            landed.places.append(wanted.index)
            await self._hand_on(landed, wanted.index, deliver, repeated=repeated)
        elif not await self._is_to_be_made(wanted.want, item):
            self._count_settled(item, made=False)
            root = self._bench.store.root
            await deliver(result_of(wanted.index, item, wanted.want, root, kept=True, repeats=item.repeats))
        elif item.state is State.WANTED and (stopped := self._allowance.stop_of(wanted.want.spec)):
            self._count_settled(item, made=False)
            root, not_sent = self._bench.store.root, _not_sent(stopped)
            await deliver(result_of(wanted.index, item, wanted.want, root, repeats=item.repeats, not_sent=not_sent))
        else:
            await self._wait_for_place()
            flight = _Flight(self._new_job(item, wanted.want), [wanted.index])
            self._launch(tasks, flight, deliver)

    async def _wait_for_place(self) -> None:
        """Take a slot once there is one, and sending is allowed. Raises `StoppedError`."""
        await self.stop.wait_unpaused()
        with self.stop.interruptible():
            await self._slots.take()
        await self._allowance.wait_fetchable(self.stop)
        await self.stop.wait_unpaused()  # which may have begun while it waited

    async def _is_to_be_made(self, want: Want, item: Item) -> bool:
        item.changed = item.changed or item.was_delivered  # there is no file to keep
        if self._is_withdrawn(item, want):
            if item.state is State.WANTED:
                await self._bench.ledger.record_cancelled_unsent(item, TAKEN_BACK)
            return False
        if reason := self._reason_to_make_again(item):
            await self._bench.ledger.record_wanted_again(item, want, reason, self._next_seed(want, item))
        return item.state in (State.WANTED, State.ACCEPTED, State.STORING)

    def _count_in(self, wanted: IndexedWant, item: Item) -> None:
        if item.repeats and wanted.want.request.id is not None:
            raise InputError(f"the id {wanted.want.request.id!r} is used twice in this input", field="id")
        self.statistics.wanted += 1
        self.statistics.new += item.is_new
        if item.repeats:
            log.warning("%s: the same request with the same seed came before: it is one image", item.request_id)

    def _reason_to_make_again(self, item: Item) -> str | None:
        if item.repeats:  # it was decided at its first place in this input
            return None
        if item.state in FAILURES and self._choices.retry_failed:
            return "tried again, as told"
        if item.state is State.STORED and item.changed and self._choices.rebuy_changed:
            return "made again with today's values, as told"
        if item.state is State.UNKNOWN and self._bench.policy.resubmit_unknown:
            return "resubmitted, as told; it may be paid for twice"
        return "the batch was started again" if item.state is State.CANCELLED else None

    def _next_seed(self, want: Want, item: Item) -> int | None:
        """Of an image that is tried again after its picture was rejected: the same seed would make the same one."""
        is_rejected = item.state is State.FAILED and item.failure is not None and item.failure.code in OF_PICTURE
        may_roll = is_rejected and self._bench.policy.rerolls > 0 and not item.changed
        rolls_again = may_roll and self._bench.planner.has_seed(want.request)
        return next_seed(item.seed, item.rerolls + 1) if rolls_again else None

    # -- in work -------------------------------------------------------------------------------------------------

    def _launch(self, tasks: TaskGroup, flight: _Flight, deliver: Deliver) -> None:
        item = flight.job.item
        self._flights[item.id] = flight
        self._count_in_work(1)
        tasks.start_soon(self._fly, flight, deliver, name=item.request_id)

    async def _fly(self, flight: _Flight, deliver: Deliver) -> None:
        job = flight.job
        try:
            with logs.of_job(job.item.request_id):
                await self._settle(job)
        finally:
            del self._flights[job.item.id]
            self._count_in_work(-1)
        self._landed[job.item.id] = flight
        self._note_drain(job)
        self._report(job)
        if flight.is_added:
            self._count_settled(job.item, made=True)
        for number, place in enumerate(tuple(flight.places)):  # who names it from now on is handed it by `_take`
            await self._hand_on(flight, place, deliver, repeated=number > 0 or flight.is_added)
        self._slots.give_back()
        if flight.is_added_again:
            self._make_again(job.item)

    def _make_again(self, item: Item) -> None:
        """It was added while it was being taken back, which may have come too late."""
        if item.state is State.CANCELLED:
            self._added[item.id] = None
            self._have_added_taken()
        elif item.state is not State.WANTED:
            self.statistics.repeated += 1

    def _notice_sleep(self) -> None:
        """Only the wall clock goes on while a machine sleeps; jobs that ended meanwhile may have expired."""
        ahead = self._seconds_ahead()
        if ahead - self._ahead > _SLEPT_SECONDS:
            minutes = (ahead - self._ahead) / 60
            log.warning("the machine slept for %.0f min: results that had ended are kept for 30 min only", minutes)
        self._ahead = ahead

    def _seconds_ahead(self) -> float:
        clock = self._bench.ports.clock
        return clock.wall() - clock.now()

    def _count_in_work(self, change: int) -> None:
        self._notice_sleep()
        self.statistics.in_work += change
        self._note_in_work()
        self.statistics.stopped_lanes = self._allowance.stopped_lanes

    def _count_put_off(self, change: int) -> None:
        self.statistics.put_off += change
        self._note_in_work()

    def _note_in_work(self) -> None:
        self._allowance.note_in_work(self.statistics.in_work - self.statistics.put_off)

    async def _hand_on(self, flight: _Flight, place: int, deliver: Deliver, *, repeated: bool) -> None:
        job, root = flight.job, self._bench.store.root
        if repeated:
            self.statistics.repeated += 1
        else:
            self._count_settled(job.item, made=True)
        stopped = self._allowance.stop_of(job.want.spec) if job.item.state is State.WANTED else None
        result = result_of(
            place,
            job.item,
            job.want,
            root,
            timing=job.timing,
            delivered=job.delivered,
            repeats=repeated,
            not_sent=None if stopped is None else _not_sent(stopped),
        )
        await deliver(result)

    def _count_unnamed(self) -> None:
        """Re-attached jobs that the input has not named are nobody's result, and part of what this run has done."""
        for flight in self._landed.values():
            if not (flight.places or flight.is_added):
                self.statistics.wanted += 1
                self._count_settled(flight.job.item, made=True)

    async def _settle(self, job: Job) -> None:
        try:
            await job.settle()
        except StoppedError:
            log.debug("left as it was: the run is stopping")
        except _STOPPING_ERRORS as error:
            self._stop_for(error)

    def _report(self, job: Job) -> None:
        if job.item.state in FAILURES:
            log.error("%s failed: %s", job.item.request_id, job.item.failure)

    def _count_settled(self, item: Item, *, made: bool) -> None:
        statistics = self.statistics
        if item.repeats and not made:
            statistics.repeated += 1
            return
        match item.state:
            case State.STORED if made:
                statistics.made += 1
                statistics.pictures += len(item.pictures)
            case State.STORED:
                statistics.kept += 1
                statistics.changed += item.changed
            case State.UNKNOWN:
                statistics.held += 1
            case State.CANCELLED:
                statistics.cancelled += 1
                if len(self._cancelled) < _MOST_ADDED:
                    self._cancelled.add(item.id)
            case State.FAILED | State.GIVEN_UP | State.LOST:
                statistics.failed += 1

    # -- how many ------------------------------------------------------------------------------------------------

    def _new_auto(self) -> AutoConcurrency:
        return AutoConcurrency(self._bench.ports.clock.now(), self._endpoint.lag_seconds)

    @property
    def _endpoint(self) -> Endpoint:
        """Where new jobs go."""
        return self._bench.endpoint_at(self._allowance.endpoint)

    async def _watch_workers(self, auto: AutoConcurrency) -> None:
        clock = self._bench.ports.clock
        await WorkerWatch(clock, self._endpoint, self._allowance, auto, self._resize).run()

    def _resize(self, total: int) -> None:
        self.statistics.target = total
        self._slots.resize(total)

    def _note_drain(self, job: Job) -> None:
        if self._auto is not None and job.timing.execution_ms is not None:
            self._auto.note_end(self._bench.ports.clock.now(), job.timing.execution_ms / 1000)

    # -- stopping ------------------------------------------------------------------------------------------------

    def _stop_for(self, error: AsyncgenError) -> None:
        if self._error is None:
            self._error = error
            log.error("stopping: %s", error)
        self.stop.request()

    async def _cancel_when_stopped(self, tasks: TaskGroup) -> None:
        """Take back every job that is out when the stop comes; what is in the air then takes itself back."""
        await self.stop.wait_requested()
        for flight in self._flights.values():
            tasks.start_soon(self._take_back, flight.job.cancel)

    async def _take_back(self, cancel: Callable[[], Awaitable[None]]) -> None:
        try:
            await cancel()
        except _STOPPING_ERRORS as error:
            self._stop_for(error)


async def _to_nobody(result: ImageResult) -> None:
    """Nobody waits for what was added once the input has ended."""


async def _nothing() -> AsyncIterator[list[IndexedWant]]:
    """An input without a row."""
    chunks: Sequence[list[IndexedWant]] = ()
    for chunk in chunks:
        yield chunk


def _not_sent(stopped: StoppedLane) -> Failure:
    """Why an image of a stopped lane is pending."""
    return Failure(stopped.failure.kind, stopped.failure.code, f"not sent: {stopped}")
