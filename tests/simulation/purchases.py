"""Money: every purchase has its reason in the books, every image ends as they say it must, no paid job is forgotten.

An item's events are walked from the first to the last. For each move the books must show what allows it; for each job,
the fate that the move stands for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from .books import FATES, Asked, Execution, Job
from .broken import hold
from .commands import may_cancel
from .records import Bought, Move, Record, Records

if TYPE_CHECKING:
    from .lives import Life
    from .world import World

_DOWNLOAD_TRIES = 8
_CODES_OF_LOOKS = {"blank": "blank_image", "stuck": "duplicate_image"}
FINAL = ("stored", "failed", "given_up", "lost", "unknown", "cancelled")
_FAILURES = ("failed", "given_up", "lost")


def look_at(world: World, records: Records, lives: Sequence[Life]) -> None:
    """Raises `BrokenError`."""
    subjects = [subject for record in records.items for subject in record.subjects]
    hold(len(subjects) == len(set(subjects)), f"one image is recorded twice: {subjects}")
    for asked in world.books.asked:
        hold(asked.operation != "run" or asked.subject in subjects, f"sent and not recorded: {asked.subject}")
    for record in records.items:
        hold(record.state in FINAL, f"it ended as {record.state}: {record}")
        _look_at_counts(world, record)
        _Walk(world, record, lives).walk()
    _look_at_likeness(world, records)


def _look_at_counts(world: World, record: Record) -> None:
    """The bound that the owner is promised, whatever the reasons: invariant 2."""
    jobs = world.books.of_subjects(record.subjects)
    runs = [run for job in jobs for run in job.executions]
    failed = sum(FATES[run.fate].fault_of == "infrastructure" for run in runs)
    lost = sum(job.is_gone(world.time) and job.job_id in _ids(record, "lost") for job in jobs)
    unknown = sum(move.target == "unknown" for move in record.moves)
    owner = sum(move.target == "wanted" and move.source in (*_FAILURES, "stored", "cancelled") for move in record.moves)
    rerolled = sum(move.is_reroll for move in record.moves)
    hold(len(runs) <= 1 + failed + lost + unknown + owner + rerolled, f"bought {len(runs)} times: {record}")
    forgotten = [job.job_id for job in jobs if job.job_id not in _ids(record)]
    hold(len(forgotten) <= unknown, f"paid jobs {forgotten} are forgotten: {record}")


def _look_at_likeness(world: World, records: Records) -> None:
    """Of one prompt no two seeds count with the same picture, and none is rejected that was not there before it."""
    for record in records.items:
        others = [other for other in records.items if other is not record and other.subject[0] == record.subject[0]]
        if record.state == "stored" and world.platform.look(record.subject) == "stuck":
            same = [o for o in others if o.state == "stored" and world.platform.look(o.subject) == "stuck"]
            hold(not same, f"the same picture counts twice: {record}, {same and same[0]}")
        if any(job.outcome == "duplicate_image" for job in record.jobs):
            stored = [o for o in others if any(move.target == "storing" for move in o.moves)]
            is_like = any(world.platform.look(subject) == "stuck" for other in stored for subject in other.subjects)
            hold(is_like, f"a duplicate of nothing: {record}")


def _ids(record: Record, outcome: str | None = None) -> list[str]:
    return [job.job_id for job in record.jobs if outcome in (None, job.outcome)]


class _Walk:
    """Along the events of one item. `codes` are the faults of its jobs, and `bought` the purchases that were or may
    have been made, since its owner last wanted it made.
    """

    def __init__(self, world: World, record: Record, lives: Sequence[Life]) -> None:
        self._world, self._record, self._lives = world, record, lives
        self._sent = [asked for asked in world.books.asked if _buys(asked, record)]
        self._jobs: Iterator[Bought] = iter(record.jobs)
        self._job: Bought | None = None
        self._codes: list[str] = []
        self._bought = self._rerolled = self._rolled_on = 0
        self._seeds: list[int] = []
        self._was_found_dead = False
        self._runs: dict[str, int] = {}
        self._unconfirmed: list[int] = []
        self._run: Execution | None = None
        self._is_run_anew = True  # and not the one before it, once more
        self._never_taken = record.never_taken

    def walk(self) -> None:
        moves = self._record.moves
        hold(moves[0].target == "wanted", f"it begins as {moves[0].target}: {self._record}")
        hold(moves[-1].target == self._record.state, f"its last event is not its state: {self._record}")
        for before, move in pairwise(moves):
            self._look_at(before, move)
        self._look_at_submissions()
        hold(next(self._jobs, None) is None, f"more jobs than it was accepted: {self._record}")

    def _look_at(self, before: Move, move: Move) -> None:
        match move.source, move.target:
            case "wanted", "submitting":
                self._buy(move)
            case "wanted", "cancelled":
                self._hold(may_cancel(self._lives[move.life], self._record), "taken back, unasked")
            case "wanted", "failed":
                self._hold(self._is_unsendable(), "failed without being sent")
            case "submitting", "wanted":
                self._bought -= 1
                self._hold(
                    self._told(move.life, "refused", "paused", "gone", "hidden"), "wanted again, and not refused"
                )
            case "submitting", "failed":
                self._hold(self._told(move.life, "rejected"), "failed at submission, and not rejected")
            case "submitting", "accepted":
                self._accept(before, move)
            case "submitting", "unknown":
                self._look_at_unknown(before, move)
            case "unknown", "wanted":
                self._hold(self._lives[move.life].options.resubmit, "an unknown submission was sent again, unasked")
                if before.life < move.life or self._was_found_dead:
                    self._begin_anew()
            case "accepted", _:
                self._look_at_end(move)
            case "storing", "stored":
                assert self._run is not None
                self._look_at_outcome("completed", self._run.milliseconds)
            case (("failed" | "given_up" | "lost"), "wanted"):
                self._hold(self._lives[move.life].options.retry_failed, f"{move.source} was tried again, unasked")
                self._roll_on(move) if move.rolls_on else self._begin_anew()
            case "stored", "wanted":
                self._hold(self._lives[move.life].options.rebuy_changed, "made again, unasked")
                self._begin_anew()
            case "cancelled", "wanted":
                self._begin_anew()

    def _buy(self, move: Move) -> None:
        self._bought += 1
        options = self._lives[move.life].options
        allowed = options.max_attempts + self._rerolled
        allowed_rerolls = options.rerolls + self._rolled_on
        self._hold(self._rerolled <= allowed_rerolls, f"rolled again {self._rerolled} times")
        self._hold(self._bought <= allowed, f"bought {self._bought} times, {allowed} allowed")

    @property
    def _tries(self) -> int:
        """Purchases, but for those that another seed asked for."""
        return self._bought - self._rerolled

    def _begin_anew(self) -> None:
        self._bought, self._rerolled, self._rolled_on, self._codes, self._seeds = 0, 0, 0, [], []

    def _roll_on(self, move: Move) -> None:
        """What its last picture was rejected for would be so again: as if it had been rolled again at once."""
        self._hold(self._job is not None and self._job.is_rejected, "another seed after a good picture, or none")
        self._hold(self._lives[move.life].options.rerolls > 0, "another seed, unasked")
        self._rerolled += 1
        self._rolled_on += 1

    def _accept(self, before: Move, move: Move) -> None:
        """The next purchase that the ledger knows is the next execution of its job in the books.

        A retry that nobody confirmed may not have arrived: then the ledger has no purchase more. Where that was never
        found out, because the job was cancelled or lost, its last execution goes on counting.
        """
        if move in self._never_taken:
            self._look_at_unconfirmed(before, move)
            return
        self._job = next(self._jobs, None)
        self._hold(self._job is not None, "accepted without a job")
        assert self._job is not None
        job = self._world.books.jobs.get(self._job.job_id)
        subject = self._record.subject[0], self._job.seed
        self._hold(job is not None and job.subject == subject, f"a job that was never: {self._job}")
        self._look_at_seed(self._job.seed)
        assert job is not None
        number, self._is_run_anew = self._runs.get(job.job_id, -1) + 1, True
        if not self._job.is_confirmed:
            self._look_at_unconfirmed(before, move)
            self._is_run_anew = number < len(job.executions)
            number = min(number, len(job.executions) - 1)
        self._hold(number < len(job.executions), f"{job.job_id} never ran again")
        self._runs[job.job_id], self._run = number, job.executions[number]

    def _look_at_seed(self, seed: int) -> None:
        """Each reroll has a seed of its own, and nothing else changes it."""
        if len(self._seeds) <= self._rerolled:
            self._hold(seed not in self._seeds, f"rolled again with the seed {seed}, once more")
            self._seeds.append(seed)
        self._hold(self._seeds[-1] == seed, f"a job with the seed {seed}, not {self._seeds[-1]}")

    def _look_at_unconfirmed(self, before: Move, move: Move) -> None:
        self._unconfirmed.append(move.life)
        if before.life < move.life:
            life = self._lives[before.life]
            self._hold(self._may_forget(life), f"a retry left in the air by a life that {life.ending}")
        else:
            self._hold(self._told(move.life, "unknown"), "a retry that was answered, and not confirmed")

    # -- what became of submissions ------------------------------------------------------------------------------

    def _look_at_unknown(self, before: Move, move: Move) -> None:
        self._was_found_dead = before.life < move.life
        if self._was_found_dead:
            life = self._lives[before.life]
            self._hold(self._may_forget(life), f"left in the air by a life that {life.ending}")
        else:
            self._hold(self._told(move.life, "unknown"), "said to be unknown, and its outcome was told")

    def _look_at_submissions(self) -> None:
        """What was told must be known, unless the machine died or the ledger failed before it was written down."""
        for life in self._lives:
            told = sum(asked.outcome == "accepted" for asked in self._sent if asked.life == life.number)
            known = self._count("submitting", "accepted", life.number) - self._unconfirmed.count(life.number)
            excused = int(self._may_forget(life))
            self._hold(known <= told <= known + excused, f"told {told} ids in life {life.number}, recorded {known}")
            sent = sum(asked.life == life.number for asked in self._sent)
            intended = sum(move.target == "submitting" for move in self._record.moves if move.life == life.number)
            self._hold(
                intended - excused <= sent <= intended, f"{intended} intents and {sent} sent in life {life.number}"
            )
            in_the_air = sum(asked.outcome is None for asked in self._sent if asked.life == life.number)
            self._hold(in_the_air <= excused, f"life {life.number} {life.ending} with a submission in the air")

    def _may_forget(self, life: Life) -> bool:
        """Whether the machine died, or the ledger could not be written, so that what was told may not be known."""
        return life.ending == "crashed" or life.number in self._world.ledger.failed_in

    def _count(self, source: str, target: str, life: int) -> int:
        return sum((move.source, move.target, move.life) == (source, target, life) for move in self._record.moves)

    def _told(self, life: int, *outcomes: str) -> bool:
        return any(asked.outcome in outcomes and asked.life == life for asked in self._sent)

    def _is_unsendable(self) -> bool:
        return self._record.subject[0] in self._world.unsendable

    # -- what became of jobs -------------------------------------------------------------------------------------

    def _look_at_end(self, move: Move) -> None:
        assert self._job is not None and self._run is not None
        job, run = self._world.books.jobs[self._job.job_id], self._run
        if move.takes_back_retry:
            self._hold(job.executions[-1] is run, f"{job.job_id} ran again, and that is not counted")
            self._bought -= 1
            return
        told = [each for each in self._world.books.asked if each.job is job and each.operation == "status"]
        told = [each for each in told if each.life <= move.life]
        match move.target:
            case "storing":
                self._hold(run.fate == "done" and any(each.whole_result for each in told), "stored what never came")
                self._hold(self._world.platform.look(job.subject) != "blank", "a blank picture is stored")
            case "cancelled":
                life = self._lives[move.life]
                is_asked = life.options.cancel_on_stop or may_cancel(life, self._record) or job.cancelled_at is not None
                self._hold(is_asked, "taken back, unasked")
                self._hold(job.cancelled_at is not None, "said to be cancelled")
                self._hold(self._job.execution_ms is None, "cancelled, and with the time of another run")
            case "lost":
                self._look_at_loss(job, told, is_last=True)
            case "wanted" | "submitting" | "failed" | "given_up":
                self._look_at_failure(move, job, told)
        if move.target == "submitting":
            self._buy(move)

    def _look_at_failure(self, move: Move, job: Job, told: Sequence[Asked]) -> None:
        assert self._run is not None and self._job is not None
        fate, is_bought_again = FATES[self._run.fate], move.target in ("wanted", "submitting")
        if self._job.outcome == "lost":
            self._hold(move.target == "wanted", f"a lost job ended as {move.target}")
            self._look_at_loss(job, told, is_last=False)
            return
        self._hold(any(each.outcome in ("ended", "damaged") for each in told), "its end was never told")
        run_ended_at = job.executions[-1].ends_at  # after it, a reply that was older still may say that it runs
        was_misled = any(each.outcome == "pending" and each.sent_at >= run_ended_at for each in told)
        self._hold(self._is_run_anew or was_misled, "one failure counts twice")
        if self._job.is_rejected:
            self._look_at_rejection(move, job)
            return
        if self._run.fate == "done":
            self._look_at_downloads(move, job)
            return
        if fate.fault_of == "item":
            self._hold(move.target == "failed", f"the image's own fault ({self._run.fate}) led to {move.target}")
        else:
            self._hold(fate.fault_of == "infrastructure", f"{self._run.fate} led to {move.target}")
            may = fate.code not in self._codes and self._tries < self._lives[move.life].options.max_attempts
            self._hold(is_bought_again == may, f"{self._run.fate} led to {move.target}")
            self._hold(
                (move.target == "failed") == (fate.code in self._codes), f"{self._run.fate} led to {move.target}"
            )
        self._codes.append(fate.code)
        self._look_at_outcome(fate.code, self._run.milliseconds)
        if move is self._record.moves[-1]:
            self._hold(self._record.code == fate.code, f"{fate.code} is reported as {self._record.code}")

    def _look_at_rejection(self, move: Move, job: Job) -> None:
        """A picture that does not count is paid for, and bought with another seed as often as its owner allows."""
        assert self._run is not None
        code = _CODES_OF_LOOKS.get(self._world.platform.look(job.subject), "completed")
        self._hold(self._run.fate == "done", f"{self._run.fate}: a picture that was not made is rejected")
        self._look_at_outcome(code, self._run.milliseconds)
        may = self._rerolled < self._lives[move.life].options.rerolls
        self._hold(move.target == ("wanted" if may else "failed"), f"a rejected picture led to {move.target}")
        self._rerolled += move.is_reroll

    def _look_at_downloads(self, move: Move, job: Job) -> None:
        """A good picture may be given up only where its own site, which is not the platform's, has kept failing."""
        tries = [each for each in self._world.books.asked if each.job is job and each.operation == "download"]
        last = [each.outcome for each in tries if each.life == move.life][-_DOWNLOAD_TRIES:]
        self._hold(last == ["fault"] * _DOWNLOAD_TRIES, f"a good picture ended as {move.target}")
        self._hold(move.target == "failed", f"a failed download led to {move.target}")

    def _look_at_outcome(self, code: str, milliseconds: int) -> None:
        assert self._job is not None
        self._hold(self._job.outcome == code, f"{code} is recorded as {self._job.outcome}")
        said = self._job.execution_ms
        self._hold(said == milliseconds, f"{self._job.job_id} ran {milliseconds} ms, and {said} are recorded")

    def _look_at_loss(self, job: Job, told: Sequence[Asked], *, is_last: bool) -> None:
        self._hold(bool(told) and told[-1].outcome == "gone", f"{job.job_id} is said to be lost, and was not")
        has_said = any(each.outcome == "damaged" or each.execution is self._run for each in told)
        said = self._job.execution_ms if self._job else None
        self._hold(said is None or has_said, f"{job.job_id} was lost, and {said} ms are recorded")
        may_be_bought = "lost" not in self._codes and self._tries < self._lives[-1].options.max_attempts
        self._hold(is_last != may_be_bought, "a lost job was bought again, or given up, once too often")
        self._codes.append("lost")

    def _hold(self, truth: object, words: str) -> None:
        hold(truth, f"{words}: {self._record}")


def _buys(asked: Asked, record: Record) -> bool:
    """Whether a request is about buying this image."""
    if asked.operation == "retry":
        return asked.job is not None and asked.job.subject in record.subjects
    return asked.operation == "run" and asked.subject in record.subjects
