"""How many jobs to keep out, for `--concurrency auto`: enough that no worker waits, and not many more. Pure.

What it goes by: how many workers `/health` counts, how fast jobs end, and whether `/run` answers 429. Times are
monotonic seconds, and passed in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final

from asyncgen.protocol import Health, WorkerCounts

#: Jobs out before anything is known, and never fewer but after a 429.
FEWEST_OUT: Final = 8
#: Never more, whatever the workers: each takes memory and polls, and 800 polls in 5 s are what the limits leave us.
MOST_OUT: Final = 1000
_FIRST_LOOK_SECONDS: Final = 1.0
_LONGEST_LOOK_SECONDS: Final = 15.0
_STALE_SECONDS: Final = 60.0  # a look that is older says nothing of the workers
# One runs, the others are queued: the next starts while we learn that one has ended and send another. A longer queue
# is tried as far as the second figure, because a platform that counts requests starts no worker without one.
_PER_WORKER: Final = 4
_REFILL_SECONDS: Final = 3.0  # from the news that a job has ended to another one in the queue, at the worst
_MOST_PER_WORKER: Final = 16
_TRIAL_SECONDS: Final = 60.0
_NEXT_TRIAL_SECONDS: Final = 1800.0
_MORE: Final = 1.1  # so many times as many workers are more than a worker between two jobs
_PEAK_KEPT: Final = 0.9
_QUEUED_PER_WORKER: Final = 500  # past so many for each of the workers the platform answers 429
_SHORTEST_MEMORY_SECONDS: Final = 30.0
_SHORTEST_SPAN_SECONDS: Final = 5.0
_AFTER_429: Final = 0.5
_RECOVERY_PER_SECOND: Final = 1.0
_VOLLEY_SECONDS: Final = 10.0


@dataclass(slots=True)
class Drain:
    """Jobs that end: how many a second, and how many workers that keeps busy; the older, the less they count.

    What is older than 30 s, or than a job takes where that is more, has all but faded.
    """

    since: float
    _jobs: float = 0.0
    _execution_seconds: float = 0.0
    _span_seconds: float = 0.0

    def note_end(self, now: float, execution_seconds: float) -> None:
        """A job has ended that a worker spent so long on."""
        self._fade(now)
        self._jobs += 1.0
        self._execution_seconds += execution_seconds

    def per_second(self, now: float) -> float:
        """Jobs that end in a second."""
        self._fade(now)
        return self._jobs / max(self._span_seconds, _SHORTEST_SPAN_SECONDS)

    def busy_workers(self, now: float) -> float:
        """Seconds of execution that end in a second: as many workers were at work for us."""
        self._fade(now)
        return self._execution_seconds / max(self._span_seconds, _SHORTEST_SPAN_SECONDS)

    def _fade(self, now: float) -> None:
        mean_seconds = self._execution_seconds / self._jobs if self._jobs else 0.0
        memory_seconds = max(_SHORTEST_MEMORY_SECONDS, mean_seconds)
        kept = math.exp(-max(0.0, now - self.since) / memory_seconds)
        self._jobs *= kept
        self._execution_seconds *= kept
        self._span_seconds = self._span_seconds * kept + memory_seconds * (1.0 - kept)
        self.since = max(self.since, now)


@dataclass(frozen=True, slots=True)
class _Trial:
    """A longer queue is being tried, since this moment and with so many workers awake."""

    since: float
    awake_workers: float


@dataclass(slots=True)
class AutoConcurrency:
    """The number of jobs to keep out, for one run that began at `since`.

    Each worker gets four, and more where four would be done before others can take their place: the end of a job may
    be noticed `lag_seconds` late. While jobs are queued there and no worker starts, a longer queue is tried: it stays
    if that wakes workers within a minute, and is given up for half an hour if it does not. A 429 to `/run` halves the
    number, a volley of them once; it grows back by one job a second.
    """

    since: float
    lag_seconds: float
    drain: Drain = field(init=False)
    _health: Health | None = None
    _seen_at: float = -math.inf
    _out: int = 0
    _look_pause_seconds: float = _FIRST_LOOK_SECONDS
    _per_worker: int = _PER_WORKER
    _peak_awake: float = 0.0  # the most workers that were awake lately
    _trial: _Trial | None = None
    _next_trial_at: float = -math.inf
    _cap: float = math.inf  # what 429s have left, when the last one came
    _cut_at: float = -math.inf

    def __post_init__(self) -> None:
        self.drain = Drain(self.since)

    # -- what is seen --------------------------------------------------------------------------------------------

    def note_end(self, now: float, execution_seconds: float) -> None:
        """A job has ended that a worker spent so long on."""
        self.drain.note_end(now, execution_seconds)

    def note_health(self, now: float, health: Health) -> None:
        """What `/health` has answered. Looks are taken more often while the number of workers changes."""
        has_changed = self._health is None or _able(health.workers) != _able(self._health.workers)
        self._health, self._seen_at = health, now
        self._try_longer_queue(now, health)
        self._peak_awake = max(_awake(health.workers), self._peak_awake * _PEAK_KEPT)
        if has_changed:
            self._look_pause_seconds = _FIRST_LOOK_SECONDS

    def next_look_seconds(self) -> float:
        """How long to wait before `/health` is asked again: 1 s, then twice as long each time, 15 s at the most."""
        pause_seconds = self._look_pause_seconds
        self._look_pause_seconds = min(2.0 * pause_seconds, _LONGEST_LOOK_SECONDS)
        return pause_seconds

    def note_429(self, now: float, out: int) -> None:
        """`/run` has answered 429 with so many jobs out."""
        if now - self._cut_at < _VOLLEY_SECONDS:
            return
        allowed = min(self._allowed(now), max(out, 1))
        self._cap, self._cut_at = max(1.0, allowed * _AFTER_429), now
        self._trial, self._per_worker = None, _PER_WORKER

    def is_slowed(self, now: float) -> bool:
        """Whether 429s still keep the number below what the workers could use."""
        return self._allowed(now) < self._wanted(now)

    # -- what follows --------------------------------------------------------------------------------------------

    def target(self, now: float, out: int, most_out: int | None) -> int:
        """How many jobs to keep out now. So many are; `most_out` can be fetched before they expire, None: not known."""
        self._out = out
        bounds = [self._wanted(now), self._allowed(now), MOST_OUT]
        return max(1, int(min(bounds if most_out is None else [*bounds, most_out])))

    def _wanted(self, now: float) -> float:
        """What keeps the workers busy, 429s apart."""
        workers = self._able_workers(now)
        until_refilled = workers + self.drain.per_second(now) * (self.lag_seconds + _REFILL_SECONDS)
        wanted = max(FEWEST_OUT, self._per_worker * workers, until_refilled)
        return min(wanted, MOST_OUT, _QUEUED_PER_WORKER * max(1.0, workers))

    def _able_workers(self, now: float) -> float:
        """Those that work, can, or soon will; those that are busy for us where `/health` does not tell."""
        health = self._recent_health(now)
        return self.drain.busy_workers(now) if health is None else _able(health.workers)

    def _recent_health(self, now: float) -> Health | None:
        return self._health if now - self._seen_at <= _STALE_SECONDS else None

    def _allowed(self, now: float) -> float:
        return self._cap + max(0.0, now - self._cut_at) * _RECOVERY_PER_SECOND

    # -- trying a longer queue -----------------------------------------------------------------------------------

    def _try_longer_queue(self, now: float, health: Health) -> None:
        if self._trial is not None:
            self._judge_trial(now, health.workers, self._trial)
        elif self._may_try(now, health):
            self._trial = _Trial(now, max(_awake(health.workers), self._peak_awake))
            self._per_worker *= 2

    def _may_try(self, now: float, health: Health) -> bool:
        """Whether jobs are queued for which no worker starts, and more of them are allowed."""
        is_free = now >= self._next_trial_at and not self.is_slowed(now) and 2 * self._per_worker <= _MOST_PER_WORKER
        is_full = self._out >= self._wanted(now)
        return is_free and is_full and health.jobs.in_queue > 0 and not health.workers.initializing

    def _judge_trial(self, now: float, workers: WorkerCounts, trial: _Trial) -> None:
        if _awake(workers) > trial.awake_workers * _MORE:
            self._trial = None
        elif now - trial.since >= _TRIAL_SECONDS:
            self._per_worker //= 2
            self._trial, self._next_trial_at = None, now + _NEXT_TRIAL_SECONDS


def _awake(workers: WorkerCounts) -> int:
    return workers.running + workers.initializing


def _able(workers: WorkerCounts) -> int:
    """Asleep ones count as idle; a platform may count running ones as ready as well, or not."""
    return max(workers.ready, workers.idle + workers.running) + workers.initializing
