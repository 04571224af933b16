"""What the owner tells a run while it goes on (`asyncgen queue`): to pause, to take images back, to make more; and what
must have come of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from anyio.abc import TaskGroup

from asyncgen.errors import AsyncgenError
from asyncgen.run import BatchRun
from asyncgen.selection import Selection

from .books import Asked, Job
from .broken import hold
from .plans import FREE_RATE, MANY, Wish, request_of
from .records import Record, Records

if TYPE_CHECKING:
    from .lives import Life
    from .loop import VirtualLoop
    from .world import World

WORDS = ("pause", "withdraw all", "withdraw some", "add", "withdraw and add")
_SOME = "SELECT request_id, json_extract(spec, '$.prompt_sent') FROM item ORDER BY id"
_ENDS = ("ended", "gone", "damaged")


@dataclass
class Told:
    """One command, from when it was told until it was answered; times are monotonic, and `done_at` None: it never was.

    `request_ids` are those of the images that were meant (None: all of them). `fresh` are images that were to be made
    because of it, if the run took them in (`is_taken`).
    """

    word: str
    at: float
    request_ids: frozenset[str] | None = None
    prompt: str | None = None
    done_at: float | None = None
    fresh: int = 0
    is_taken: bool = False

    def means(self, record: Record) -> bool:
        """Whether it is about this image."""
        if self.word == "add":
            return record.subject[0] == self.prompt
        return self.word == "withdraw" and (self.request_ids is None or record.request_id in self.request_ids)


@dataclass
class Owner:
    """Tells one life what is drawn. `tasks` are to be ended when it is over."""

    world: World
    loop: VirtualLoop
    run: BatchRun
    wishes: Sequence[Wish]
    told: list[Told]
    tasks: TaskGroup
    _scope: int = field(default=0, init=False)
    is_over: bool = field(default=False, init=False)

    def arrange(self) -> None:
        """Between one and four commands, each at some time."""
        for number in range(1 + self.world.pick(4, "commands")):
            word = self.world.pick.of(WORDS, "command", number)
            self.world.arrange(lambda word=word: self.loop.call_soon(self._begin, word), "command at", str(number))  # type: ignore[misc]

    def _begin(self, word: str) -> None:
        if self.is_over:
            return
        self.world.books.hit(f"command: {word}")
        if word == "pause":
            self._pause()
        elif word == "add":
            self.tasks.start_soon(self._add, self.world.pick.of(self.wishes, "added"))
        else:
            self._begin_withdrawal(is_all=word == "withdraw all", is_added_again=word == "withdraw and add")

    def _pause(self) -> None:
        """And go on after a while."""
        told = self._note(Told("pause", self.world.now))
        self.run.pause()

        def resume() -> None:
            if not self.is_over and told.done_at is None:
                told.done_at = self.world.now
                self.world.log("RESUME")
                self.run.resume()

        self.loop.call_later((1.0, 10.0, 200.0)[self.world.pick(3, "pause")], resume)

    def _begin_withdrawal(self, *, is_all: bool, is_added_again: bool) -> None:
        found = [] if is_all else self.world.ledger.rows(_SOME)
        ids, again = None, self.wishes[0]
        if found:
            request_id, prompt = self.world.pick.of(found, "withdrawn")
            ids, again = frozenset({request_id}), next(wish for wish in self.wishes if wish.prompt == prompt)
        told = self._note(Told("withdraw", self.world.now, ids))
        self.tasks.start_soon(self._withdraw, told, again if is_added_again else None)

    async def _withdraw(self, told: Told, again: Wish | None) -> None:
        """And add it again, most often before it has ended."""
        try:
            await self.run.withdraw(Selection(told.request_ids or frozenset()))
        except AsyncgenError as error:
            self.world.log("withdrew in part", type(error).__name__)
            return
        told.done_at = self.world.now
        self.world.log("WITHDRAWN")
        if again is not None:
            await self._add(again)

    async def _add(self, wish: Wish) -> None:
        if (request := request_of(wish)) is None:
            return
        told = self._note(Told("add", self.world.now, prompt=wish.prompt))
        self._scope -= 1
        try:
            added = await self.run.add([request], self._scope, check_only=False)
        except AsyncgenError as error:
            self.world.log("not added", type(error).__name__)
        else:
            told.fresh, told.is_taken, told.done_at = added.added, added.is_taken, self.world.now
            self.world.log("ADDED", added.added, added.there, added.is_taken)

    def _note(self, told: Told) -> Told:
        self.told.append(told)
        self.world.log("TOLD", told.word, *(told.request_ids or ()), told.prompt or "")
        return told


# -- what must hold --------------------------------------------------------------------------------------------------


def look_at(world: World, records: Records, lives: Sequence[Life]) -> None:
    """Raises `BrokenError`."""
    for life in lives:
        asked = [each for each in world.books.asked if each.life == life.number]
        for told in life.told:
            if told.word == "pause":
                _look_at_pause(world, life, told, asked)
            for record in records.items:
                if told.done_at is not None and told.means(record):
                    look = _look_at_withdrawal if told.word == "withdraw" else _look_at_addition
                    look(world, life, told, record)


def may_cancel(life: Life, record: Record) -> bool:
    """Whether an image was taken back by a command to this life."""
    return any(told.word == "withdraw" and told.means(record) for told in life.told)


def withdrawn_jobs(life: Life, records: Records) -> frozenset[str]:
    """The ids of the jobs that such a command may have taken back."""
    return frozenset(job.job_id for record in records.items if may_cancel(life, record) for job in record.jobs)


def additions(life: Life, record: Record) -> int:
    """How often an image was added to what this life makes."""
    return sum(told.is_taken and told.means(record) for told in life.told)


def _look_at_pause(world: World, life: Life, told: Told, asked: Sequence[Asked]) -> None:
    """While a run is paused nothing is sent but what was being recorded."""
    until = life.ended_at if told.done_at is None else told.done_at
    others = (other.done_at for other in life.told if other.word == "pause" and other.done_at is not None)
    until = min([until, *(at for at in others if at > told.at)])  # another pause that ends is the end of both
    since = told.at + 2 * world.slowest_seconds
    late = [each.subject for each in asked if each.operation in ("run", "retry") and since < each.sent_at < until]
    hold(not late, f"life {life.number} was paused, and bought {late}")


def _look_at_withdrawal(world: World, life: Life, told: Told, record: Record) -> None:
    """What was taken back is not bought any more, not left wanted, and taken back at the platform if it is there."""
    assert told.done_at is not None
    if not all(_is_over_before(other, told) for other in life.told if other.word == "add" and other.means(record)):
        return
    asked = [each for each in world.books.asked if each.life == life.number]
    since = told.done_at + 2 * world.slowest_seconds
    late = [each for each in asked if each.operation in ("run", "retry") and _is_of(each, record)]
    hold(all(each.sent_at <= since for each in late), f"life {life.number} bought what had been taken back: {record}")
    if life.ending == "ended":
        state = record.state_after(life.number)
        hold(state != "wanted", f"life {life.number} left {state} what had been taken back: {record}")
    if life.ending in ("ended", "stopped") and life.options.pace.cancel_rate >= FREE_RATE:
        for job in _out_at(world, told, record, life):
            cancelled = [each for each in asked if each.operation == "cancel" and each.job is job]
            hold(cancelled, f"life {life.number} did not take {job.job_id} back: {record}")


def _look_at_addition(world: World, life: Life, told: Told, record: Record) -> None:
    """What a run has taken in it makes, unless it is told to take it back again."""
    if life.ending != "ended" or not told.is_taken or life.options.lane_faults < MANY:
        return
    if not all(_is_over_before(other, told) for other in life.told if other.word == "withdraw" and other.means(record)):
        return
    state = record.state_after(life.number)
    if state == "cancelled" and not told.fresh:
        return  # it was out already, and an earlier run had taken it back
    hold(state not in ("wanted", "cancelled", None), f"life {life.number} left {state} what was added to it: {record}")


def _is_over_before(command: Told, other: Told) -> bool:
    return command.done_at is not None and command.done_at <= other.at


def _out_at(world: World, told: Told, record: Record, life: Life) -> Iterator[Job]:
    """The jobs of an image that were known to be out when it was taken back, and whose end was told only afterwards."""
    known_at = told.at - 2 * world.slowest_seconds
    for job in world.books.of_subjects(record.subjects):
        of_job = [each for each in world.books.asked if each.job is job]
        bought = [each for each in of_job if each.operation in ("run", "retry")]
        is_known = all(each.outcome == "accepted" and _before(each, known_at) for each in bought)
        ends = [each for each in of_job if each.operation == "status" and each.outcome in _ENDS]
        has_ended = any(each.life < life.number or _before(each, told.done_at) for each in ends)
        if is_known and not has_ended and any(each.life == life.number for each in ends):
            yield job


def _before(asked: Asked, at: float | None) -> bool:
    return asked.answered_at is not None and at is not None and asked.answered_at < at


def _is_of(asked: Asked, record: Record) -> bool:
    subject: Any = asked.job.subject if asked.job is not None else asked.subject
    return subject in record.subjects
