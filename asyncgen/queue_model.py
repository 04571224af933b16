"""When to ask for each job that is out: a model of an endpoint's queue, learned from its replies. Pure.

What it goes by, from the surest to the least sure:

1. A job whose start is known (a reply gave its `delayTime`) ends after one execution time of its lane, on its worker.
2. The platform takes jobs in order of submission. With n places, the job of rank k starts when n fewer than k have
   ended, on the worker that became free then; what finished replies reveal of starts gives n.
3. A job that was in the queue when it was asked for cannot end within a short execution time from then on.

A job is asked for at the times at which calls and lateness together cost least, over the execution times seen lately
(`_Schedule`). Where nothing is known, and where a job has outlived what was seen, pauses grow exponentially. Order is
believed for as long as it predicts starts. Times are seconds on the client's monotonic clock, and are passed in.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import OrderedDict, deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median_low
from typing import Final, NamedTuple

from asyncgen.pacing import polling_pause_seconds

#: A status call is worth so much lateness, as a share of the execution time.
_CALL_PRICE: Final = 0.035
_LOWEST_PRICE: Final = 0.001
#: Where times vary so much that jobs would be noticed later than this share of the longest pause, calls count less.
_LATEST_SHARE: Final = 0.2
_SAMPLE_SIZES: Final = (64, 512)  # the least and the most execution times that a schedule is made from
_POINTS: Final = 24  # of them, the quantiles that are reckoned with
_OLDEST_AGE: Final = 4.0  # what is more is the miss of a prediction
_TRUSTED_SHARE: Final = 0.92  # the rarest say too little of where the gaps between them are
_RENEW_EVERY: Final = 8
_REVIEW_SHARE: Final = 0.9
_GROWTH: Final = 1.5
_FIRST_SCOUTS: Final = 2
_SCOUTS: Final = frozenset(4**power - 1 for power in range(2, 12))
_UNKNOWN_PAUSES: Final = 4  # longest pauses for which all but the scouts wait while nothing is known
_UNRELIABLE: Final = 0.35  # the mean error of predicted starts, in execution times, past which order is not believed
_SLACK: Final = 0.1  # of the shortest pause
_MOST_AHEAD: Final = 6.0  # execution times for which a job in the queue is not asked about
_WORST_ERROR: Final = 2.0
_STARTS_FOR_PLACES: Final = 7
_LEARNING_SHARE: Final = 0.05  # of the newest in a running mean
_WAITS_FOR_TURN: Final = 4.0
_CLOCK_TOLERANCE_SECONDS: Final = 1.0  # a reply that tells of later than this counts time otherwise than we do
_MOST_LANES: Final = 256
_MOST_WORKERS: Final = 2048
_MOST_REMEMBERED: Final = 4096  # ends, and starts
_MOMENT_SECONDS: Final = 0.02  # ends that come closer than this may have come in the other order

# -- execution times -----------------------------------------------------------------------------------------------

#: How far jobs are taken to vary before enough of them have been seen; 1.0: as long as expected.
_PRIOR_AGES: Final = (0.8, 0.9, 1.0, 1.1, 1.25)


class _Schedule:
    """The ages at which to ask for a job, from the ages at which such jobs ended; an age of 1.0 is as expected.

    Found by dynamic programming: what calls (at `price` each, an age too) and lateness cost together is least.
    """

    __slots__ = ("_ages", "_asks", "lateness")

    def __init__(self, sample: Sequence[float], price: float) -> None:
        ages = self._ages = _quantiles(sorted(sample))
        sums = [0.0]
        for age in ages:
            sums.append(sums[-1] + age)
        count = len(ages)
        costs, asks = [0.0] * (count + 1), [0.0] * count
        for ended in range(count - 1, -1, -1):
            costs[ended], asks[ended] = min(
                (
                    (count - ended) * price + (upto - ended) * ages[upto - 1] - sums[upto] + sums[ended] + costs[upto],
                    ages[upto - 1],
                )
                for upto in range(ended + 1, count + 1)
            )
        self._asks = asks
        self.lateness = (self._noticed() - sums[-1]) / count

    def next_age(self, age: float) -> float | None:
        """When to ask next for a job that had not ended at that age; None once it has outlived the schedule."""
        ended = bisect_right(self._ages, age)
        return self._asks[ended] if ended < _TRUSTED_SHARE * len(self._asks) else None

    def _noticed(self) -> float:
        """The sum of the ages at which the jobs of the sample are noticed."""
        ended, total = 0, 0.0
        while ended < len(self._ages):
            upto = bisect_right(self._ages, self._asks[ended])
            total += (upto - ended) * self._asks[ended]
            ended = upto
        return total


def _quantiles(ordered: Sequence[float]) -> list[float]:
    """Evenly spaced, and none from the rarest at either end: a gap among those is no sign that nothing ends there."""
    if len(ordered) <= _POINTS:
        return list(ordered)
    return [ordered[round((number + 0.5) / _POINTS * len(ordered) - 0.5)] for number in range(_POINTS)]


def _schedule(sample: Sequence[float], latest: float) -> _Schedule:
    """One by which jobs of the sample are noticed `latest` late on average (an age) or less, if calls can buy that."""
    price = _CALL_PRICE
    schedule = _Schedule(sample, price)
    while schedule.lateness > latest and price > _LOWEST_PRICE:
        price /= 2
        schedule = _Schedule(sample, price)
    return schedule


def _is_time_to_renew(seen: int) -> bool:
    """Often at first; then the work is shared by a few jobs."""
    return seen < _RENEW_EVERY or seen % _RENEW_EVERY == 0


def _prior() -> _Schedule:
    return _Schedule(_PRIOR_AGES, _CALL_PRICE)


def _recent() -> deque[tuple[float, float]]:
    return deque(maxlen=_SAMPLE_SIZES[1])


@dataclass(slots=True)
class _Lane:
    """The execution times of jobs that do the same work.

    `seconds` is the mean on a worker of the usual speed, 0.0 where nothing is known; hardly any job takes less than
    `quick_seconds`, whatever its worker. Ages in the schedule `running` count from known starts, in `in_order` from
    predicted ones.
    """

    seconds: float = 0.0
    quick_seconds: float = 0.0
    running: _Schedule = field(default_factory=_prior)
    in_order: _Schedule | None = None  # None: not known to be another
    _times: deque[tuple[float, float]] = field(default_factory=_recent)  # a job's, and what is usual for it
    _ages: deque[tuple[float, float]] = field(default_factory=_recent)  # a job's, in seconds, and what was expected
    _seen: int = 0
    _predicted: int = 0

    def learn(self, seconds: float, factor: float, sample_size: int, latest_seconds: float) -> None:
        """A job took so long on a worker that takes `factor` times as long as the usual one.

        Schedules are made from the newest `sample_size` jobs, so that they are noticed `latest_seconds` late at most.
        """
        self._times.append((seconds, seconds / factor))
        self._seen += 1
        if _is_time_to_renew(self._seen):
            newest = [*self._times][-sample_size:]
            self.seconds = fmean(usual for _, usual in newest)
            self.quick_seconds = sorted(newest)[len(newest) // 20][0] * (1.0 if self._is_known else _PRIOR_AGES[0])
            ages = [usual / self.seconds for _, usual in newest]
            self.running = _schedule(ages if self._is_known else [*ages, *_PRIOR_AGES], latest_seconds / self.seconds)

    def learn_prediction(self, age: float, expected: float, sample_size: int, latest_seconds: float) -> None:
        """A job ended `age` seconds after its predicted start, where `expected` seconds had been expected."""
        self._ages.append((age, expected))
        self._predicted += 1
        if self._predicted % _RENEW_EVERY == 0:
            ages = [min(age / expected, _OLDEST_AGE) for age, expected in [*self._ages][-sample_size:]]
            self.in_order = _schedule(ages, latest_seconds / self.seconds)

    @property
    def _is_known(self) -> bool:
        return self._seen >= _RENEW_EVERY


class _Worker(NamedTuple):
    """The time it takes as a multiple of the usual one: the mean over so many jobs, and the newest."""

    mean: float
    newest: float
    seen: int


@dataclass(slots=True)
class _Workers:
    """Which workers are slower than others, where they differ by more than chance."""

    spread: float = 0.0  # mean square of how far a job's time is from the usual one, as a share of it
    spread_within: float = 0.0  # the same between two jobs of one worker, halved
    known: OrderedDict[str, _Worker] = field(default_factory=OrderedDict)

    def factor(self, worker_id: str | None) -> float:
        """The time that this worker is expected to take, as a multiple of the usual one."""
        worker, between = self.known.get(worker_id or ""), self.spread - self.spread_within
        if worker is None or between <= 0:
            return 1.0
        return 1 + (worker.mean - 1) * between / (between + self.spread_within / worker.seen)

    def learn(self, worker_id: str | None, factor: float) -> None:
        factor = min(factor, 5.0)
        self.spread += _LEARNING_SHARE / 2 * ((factor - 1) ** 2 - self.spread)
        if worker_id is None:
            return
        mean, newest, seen = self.known.pop(worker_id, _Worker(factor, factor, 0))
        if seen:
            self.spread_within += _LEARNING_SHARE / 2 * ((factor - newest) ** 2 / 2 - self.spread_within)
        seen = min(seen + 1, 16)
        self.known[worker_id] = _Worker(mean + (factor - mean) / seen, factor, seen)
        if len(self.known) > _MOST_WORKERS:
            self.known.popitem(last=False)


# -- the queue -----------------------------------------------------------------------------------------------------


class _Place(NamedTuple):
    """Where a job is believed to have started: when, and on which worker, None where that is not known."""

    at: float
    worker_id: str | None


@dataclass(slots=True)
class _Order:
    """Who starts when, if the endpoint takes jobs in order of submission. A job's rank is its number in that order.

    `count` is the number of places: of jobs of ours that run at the same time; 0 where it is not known.
    """

    count: int = 0
    error: float = 0.0  # of predicted starts, a running mean in execution times
    _counts: deque[int] = field(default_factory=lambda: deque(maxlen=_STARTS_FOR_PLACES))
    _ends: list[tuple[float, str]] = field(default_factory=list)  # in order of time, each with its worker
    _dropped: int = 0  # ends that are remembered no longer
    _starts: list[tuple[int, float]] = field(default_factory=list)  # in order of rank
    _freed_at: OrderedDict[str, float] = field(default_factory=OrderedDict)  # when each worker's last job ended

    @property
    def is_reliable(self) -> bool:
        return self.error <= _UNRELIABLE

    @property
    def has_ended(self) -> bool:
        """Whether any job has."""
        return bool(self._ends)

    @property
    def started(self) -> int:
        """All ranks below this one have started, if there is an order."""
        freed = self._dropped + len(self._ends) + self.count if self.count else 0
        return max(freed, self._starts[-1][0] + 1 if self._starts else 0)

    def place(self, rank: int) -> _Place | None:
        """Where the job of that rank has started; None: it has not yet, as far as is known.

        Its own end in the sequence of ends, held between the known starts of the jobs before and after it.
        """
        index = bisect_left(self._starts, (rank, 0.0))
        lowest = self._starts[index - 1][1] if index else None
        highest = self._starts[index][1] if index < len(self._starts) else None
        freed = self._freed(rank)
        if freed is None or (highest is not None and freed.at > highest):
            return None if highest is None else _Place(highest, None)
        return _Place(lowest, None) if lowest is not None and freed.at < lowest else freed

    def predicted_start(self, rank: int, each_seconds: float) -> float | None:
        """When a job will start whose place is not free yet; `each_seconds` is how long a job takes."""
        if not self._starts or not self.count:
            return None
        last_rank, started_at = self._starts[-1]
        return started_at + (rank - last_rank) * each_seconds / self.count

    def note_start(self, rank: int, at: float, worker_id: str | None, each_seconds: float) -> None:
        """A job has started then: that is certain."""
        freed = self._freed(rank)
        if freed is not None:
            self.note_error(abs(freed.at - at), each_seconds)
        self._note_count(*self._counts_for(rank, at, worker_id))
        insort(self._starts, (rank, at))
        if len(self._starts) > _MOST_REMEMBERED:
            del self._starts[: _MOST_REMEMBERED // 2]

    def note_queued(self, rank: int, now: float, each_seconds: float) -> None:
        """A job has not started yet: no more than those before it have a place."""
        if (place := self.place(rank)) is not None:
            self.note_error(max(0.0, now - place.at), each_seconds)
        most = rank - self._dropped - len(self._ends)
        if most < self.count:
            self._note_count(1, most)

    def note_end(self, at: float, worker_id: str | None) -> None:
        """A job has ended, and its place is free."""
        insort(self._ends, (at, worker_id or ""))
        if len(self._ends) > _MOST_REMEMBERED:
            del self._ends[: _MOST_REMEMBERED // 2]
            self._dropped += _MOST_REMEMBERED // 2
        if worker_id is not None:
            self._freed_at[worker_id] = at
            self._freed_at.move_to_end(worker_id)
            if len(self._freed_at) > _MOST_WORKERS:
                self._freed_at.popitem(last=False)

    def note_error(self, seconds: float, each_seconds: float) -> None:
        """A start was predicted wrongly by so much."""
        if each_seconds:
            self.error += _LEARNING_SHARE * (min(_WORST_ERROR, seconds / each_seconds) - self.error)

    def _note_count(self, least: int, most: int) -> None:
        """There are so many places, as far as one job tells; what the last one told is kept where it fits."""
        last = self._counts[-1] if self._counts else 0
        self._counts.append(max(1, min(max(last, least), most)))
        self.count = median_low(self._counts)

    def _freed(self, rank: int) -> _Place | None:
        index = rank - self.count - self._dropped
        if not self.count or not 0 <= index < len(self._ends):
            return None
        at, worker_id = self._ends[index]
        return _Place(at, worker_id or None)

    def _counts_for(self, rank: int, started_at: float, worker_id: str | None) -> tuple[int, int]:
        """How many places there are at the least and at the most if the job of that rank started then.

        That is one more than those before it that had not ended; which of the ends of one moment came before, is open.
        """
        freed_at = self._freed_at.get(worker_id or "")
        made_room = freed_at is not None and abs(freed_at - started_at) < _CLOCK_TOLERANCE_SECONDS
        moment = freed_at if freed_at is not None and made_room else started_at
        earliest = bisect_left(self._ends, (moment - _MOMENT_SECONDS, "")) + self._dropped
        latest = bisect_left(self._ends, (moment + _MOMENT_SECONDS, "")) + self._dropped
        return rank - latest + 1, rank - earliest + (not made_room)


# -- the jobs ------------------------------------------------------------------------------------------------------


class _Decision(NamedTuple):
    """A call that was decided on by the queue's order after so many polls, and the start and length believed in."""

    polls: int
    started_at: float
    expected_seconds: float
    poll_at: float


@dataclass(slots=True, eq=False)
class WaitedJob:
    """One job that is out, as the model knows it. `is_slow`, the caller's to set, makes its pauses longer."""

    rank: int
    lane: _Lane
    submitted_at: float | None  # None: not known
    asked_at: float  # or submitted
    answered_at: float
    jitter: float
    is_scout: bool
    is_slow: bool = False
    is_running: bool = False
    polls: int = 0
    polls_before: int = 0  # of them, those before it was known or believed to run: pauses grow from there
    queued_at: float | None = None  # when it was last seen in the queue
    started_at: float | None = None
    cancelled_at: float | None = None
    worker_id: str | None = None
    decision: _Decision | None = None


class QueueModel:
    """One for all jobs that a client has out at an endpoint. Memory is bounded, but for the jobs; no call is O(jobs),
    but the few that change what is known of all of them.

    No two calls for one job come closer than `shortest_pause`; where nothing can be predicted, pauses grow from it to
    `longest_pause`, and to `slow_factor` times that for slow jobs.
    """

    def __init__(self, shortest_pause: float, longest_pause: float, slow_factor: float = 1.0) -> None:
        self._shortest, self._longest = shortest_pause, max(longest_pause, shortest_pause)
        self._slow_factor = slow_factor
        self._jobs: dict[WaitedJob, None] = {}  # in the order they came: a set would have another in each process
        self._without_place: OrderedDict[int, WaitedJob] = OrderedDict()  # by rank
        self._hastened: list[WaitedJob] = []
        self._lanes: OrderedDict[Hashable, _Lane] = OrderedDict()
        self._workers, self._order = _Workers(), _Order()
        self._next_rank = 0
        self._each_seconds = 0.0  # a job of whatever lane; 0.0: not known
        self._for_turn = 0.0  # how long calls have had to wait for their turn lately

    # -- what it is told -----------------------------------------------------------------------------------------

    def submitted(self, lane: Hashable, now: float, submitted_at: float | None, jitter: float = 0.5) -> WaitedJob:
        """A job is waited for from now on. None: when it was submitted is not known, so it may be asked for at once.

        `jitter`, in [0, 1), keeps the growing pauses of jobs that were submitted together apart.
        """
        asked_at = now - self._shortest if submitted_at is None else submitted_at
        rank = self._next_rank
        self._next_rank += 1
        # a few, and ever fewer towards the end of the queue, in case it is not worked off from its head
        is_scout = submitted_at is None or len(self._jobs) < _FIRST_SCOUTS or rank in _SCOUTS
        job = WaitedJob(rank, self._lane(lane), submitted_at, asked_at, asked_at, jitter, is_scout)
        self._jobs[job] = None
        self._without_place[rank] = job
        return job

    def asked(self, job: WaitedJob, now: float, waited_for_turn: float) -> None:
        """A call for the job is sent now, after it had to wait for its turn."""
        job.asked_at = now
        job.polls += 1
        self._for_turn += _LEARNING_SHARE * (waited_for_turn - self._for_turn)

    def queued(self, job: WaitedJob, now: float) -> None:
        """The call that was sent last, answered now, found the job in the queue."""
        job.answered_at = now
        job.queued_at, job.started_at, job.is_running = job.asked_at, None, False
        was_reliable = self._order.is_reliable
        self._order.note_queued(job.rank, job.asked_at, self._each_seconds)
        self._doubt(was_reliable)

    def running(self, job: WaitedJob, now: float, delay_ms: int | None, worker_id: str | None) -> None:
        """The call that was sent last, answered now, found the job running, started `delay_ms` after its submission."""
        job.answered_at, job.worker_id, job.is_running = now, worker_id, True
        started_at = self._told_start(job, delay_ms)
        if started_at is not None and started_at <= now + _CLOCK_TOLERANCE_SECONDS:
            self._learn_start(job, started_at, worker_id)

    def ended(
        self,
        job: WaitedJob,
        now: float,
        delay_ms: int | None,
        execution_ms: int | None,
        worker_id: str | None,
        *,
        completed: bool,
    ) -> None:
        """The job has ended, as a reply says that came now. Milliseconds as the platform gives them, None: not given.

        Only those that completed tell how long such jobs take; all of them made room for another.
        """
        self.forget(job)
        started_at, ended_at = self._told_start(job, delay_ms), now
        if started_at is not None and execution_ms:
            told_end = started_at + execution_ms / 1000
            if told_end <= now + _CLOCK_TOLERANCE_SECONDS:
                ended_at = min(now, told_end)
                self._learn_start(job, started_at, worker_id)
                if completed:
                    self._learn_execution(job, started_at, execution_ms / 1000, worker_id)
        if not self._order.has_ended:
            self._hastened += self._jobs
        self._order.note_end(ended_at, worker_id)
        self._hasten_started()

    def cancelled(self, job: WaitedJob, now: float) -> None:
        """The job has been taken back, so its end is near, whatever was predicted."""
        job.cancelled_at, job.polls_before = now, job.polls
        self._hastened.append(job)

    def forget(self, job: WaitedJob) -> None:
        """The job is waited for no longer."""
        self._jobs.pop(job, None)
        self._without_place.pop(job.rank, None)

    def hastened(self) -> list[WaitedJob]:
        """Jobs whose next call may have come nearer since this was last asked."""
        hastened, self._hastened = self._hastened, []
        return hastened

    # -- what it is asked ----------------------------------------------------------------------------------------

    def next_poll_at(self, job: WaitedJob, now: float) -> float:
        """When to ask for the job. Ask this again then, and when it is hastened: by then more may be known."""
        if job.submitted_at is None and not job.polls:
            return now
        earliest = job.answered_at + self._shortest
        if job.cancelled_at is not None:
            return self._grown(job, job.cancelled_at)
        if not self._order.has_ended and not job.is_scout and not job.is_slow:
            return max(earliest, job.asked_at + _UNKNOWN_PAUSES * self._longest)
        if job.polls:
            earliest += _WAITS_FOR_TURN * self._for_turn  # what cannot be sent yet must not pile up
        return max(earliest, self._wanted_at(job, now))

    def _wanted_at(self, job: WaitedJob, now: float) -> float:
        if job.started_at is not None:
            expected = job.lane.seconds * self._workers.factor(job.worker_id)
            return self._while_running(job, job.started_at, expected, job.lane.running)
        if job.decision is not None and job.decision.polls == job.polls:
            return job.decision.poll_at
        place = self._order.place(job.rank) if self._order.is_reliable else None
        if place is not None and job.queued_at is not None and place.at < job.queued_at - _CLOCK_TOLERANCE_SECONDS:
            place = None  # it was still in the queue then
        if place is None:
            return self._grown(job, job.asked_at) if job.is_running else self._while_queued(job)
        return self._decided(job, place, now)

    def _decided(self, job: WaitedJob, place: _Place, now: float) -> float:
        """Decides once, and as late as it can: ends that are noticed late change who has got which place."""
        lane = job.lane
        if not lane.seconds:
            return self._grown(job, place.at)
        review_at = place.at + _REVIEW_SHARE * lane.quick_seconds
        if now < review_at:
            return review_at
        expected = lane.seconds * self._workers.factor(place.worker_id)
        poll_at = self._while_running(job, place.at, expected, lane.in_order or lane.running)
        if job.decision is None:
            job.polls_before = job.polls
        job.decision = _Decision(job.polls, place.at, expected, poll_at)
        return poll_at

    def _while_running(self, job: WaitedJob, started_at: float, expected: float, schedule: _Schedule) -> float:
        age = schedule.next_age((job.asked_at - started_at) / expected) if expected else None
        if age is None:
            return self._grown(job, started_at)
        return started_at + age * expected + _SLACK * self._shortest  # a moment too early costs a whole pause

    def _while_queued(self, job: WaitedJob) -> float:
        """It is in the queue, as far as is known: it was when it was last asked for, or submitted."""
        seen_at, lane = job.asked_at if job.queued_at is None else job.queued_at, job.lane
        soonest = seen_at + lane.quick_seconds if lane.seconds else self._grown(job, seen_at)
        if not self._order.is_reliable:
            return soonest
        start = self._order.predicted_start(job.rank, self._each_seconds)
        if start is None:
            return soonest
        end = start + lane.seconds + _SLACK * self._shortest
        return max(soonest, min(end, seen_at + _MOST_AHEAD * self._each_seconds))

    def _grown(self, job: WaitedJob, since: float) -> float:
        longest = self._longest * (self._slow_factor if job.is_slow else 1.0)
        grown = job.polls - job.polls_before
        pause = polling_pause_seconds(1 + grown, job.jitter, first_seconds=self._shortest, longest_seconds=longest)
        if not grown:
            pause = self._shortest
        return max(job.answered_at, since) + pause

    # -- learning ------------------------------------------------------------------------------------------------

    def _told_start(self, job: WaitedJob, delay_ms: int | None) -> float | None:
        if job.submitted_at is None or delay_ms is None:
            return None
        return job.submitted_at + delay_ms / 1000

    def _learn_start(self, job: WaitedJob, started_at: float, worker_id: str | None) -> None:
        if job.started_at is not None:
            return
        job.started_at, job.polls_before = started_at, job.polls
        was_reliable = self._order.is_reliable
        self._order.note_start(job.rank, started_at, worker_id, self._each_seconds)
        self._doubt(was_reliable)
        self._hasten_started()

    def _doubt(self, was_reliable: bool) -> None:
        """What waits for its turn in an order that is believed no longer is planned anew."""
        if was_reliable and not self._order.is_reliable:
            self._hastened += self._jobs

    def _hasten_started(self) -> None:
        started = self._order.started
        while self._without_place:
            rank, job = next(iter(self._without_place.items()))
            if rank >= started:
                return
            del self._without_place[rank]
            self._hastened.append(job)

    def _learn_execution(self, job: WaitedJob, started_at: float, seconds: float, worker_id: str | None) -> None:
        lane, sample_size, latest_seconds = job.lane, self._sample_size(), _LATEST_SHARE * self._longest
        lane.learn(seconds, self._workers.factor(worker_id), sample_size, latest_seconds)
        if (decision := job.decision) is not None:
            age = started_at + seconds - decision.started_at
            lane.learn_prediction(age, decision.expected_seconds, sample_size, latest_seconds)
        self._workers.learn(worker_id, seconds / lane.seconds)
        share = _LEARNING_SHARE if self._each_seconds else 1.0
        self._each_seconds += share * (seconds - self._each_seconds)

    def _sample_size(self) -> int:
        """Two waves of jobs that started together, because the quick ones of a wave end first."""
        return min(max(2 * self._order.count, _SAMPLE_SIZES[0]), _SAMPLE_SIZES[1])

    def _lane(self, key: Hashable) -> _Lane:
        lane = self._lanes.pop(key, None) or _Lane()
        self._lanes[key] = lane
        if len(self._lanes) > _MOST_LANES:
            self._lanes.popitem(last=False)
        return lane
