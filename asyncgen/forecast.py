"""How long jobs may run and exist, from what the run has seen. Pure; times are passed in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from asyncgen.protocol import EXECUTION_TIMEOUT_RANGE_MS, TTL_RANGE_MS
from asyncgen.records import Spec

#: How long RunPod keeps the result of a job sent with /run.
RETENTION_SECONDS: Final = 1800.0
#: Of that, what may be planned with: fetching does not always go as it went so far.
_PLANNED_SHARE: Final = 0.5
_SEEN_ENOUGH: Final = 8
# A first job on a worker loads its LoRAs, which others measured to take five times a warm job's time.
_TIMEOUT_FACTOR: Final = 10.0
_SHORTEST_TIMEOUT_SECONDS: Final = 60.0
_QUEUE_FACTOR: Final = 3.0
_COLD_START_SECONDS: Final = 600.0


@dataclass(slots=True)
class Forecast:
    """Learns how long jobs of this run take for each unit of their work (pixels by steps by pictures).

    `execution_timeout_seconds` is the longest that is ever sent, `ttl_seconds` the shortest.
    """

    execution_timeout_seconds: float
    ttl_seconds: float
    _seen: int = 0
    _longest_for_work: float = 0.0  # seconds for a unit of work
    _total_seconds: float = 0.0

    def learn(self, spec: Spec, execution_ms: int) -> None:
        """A job has ended and said how long it ran."""
        self._seen += 1
        self._total_seconds += execution_ms / 1000
        self._longest_for_work = max(self._longest_for_work, execution_ms / 1000 / _work(spec))

    def execution_timeout_ms(self, spec: Spec) -> int:
        """The most a job may run: ten times the slowest so far for its work, once enough have been seen."""
        seconds = self.execution_timeout_seconds
        if self._seen >= _SEEN_ENOUGH:
            learned = max(_SHORTEST_TIMEOUT_SECONDS, _TIMEOUT_FACTOR * self._longest_for_work * _work(spec))
            seconds = min(seconds, learned)
        return max(EXECUTION_TIMEOUT_RANGE_MS[0], int(seconds * 1000))

    def ttl_ms(self, jobs_ahead: int, execution_timeout_ms: int) -> int:
        """How long a job may exist, from its submission: its own run, and three times that of all those ahead of it.

        One worker is reckoned with, because there may be no more; a job whose time is up is deleted, run or not.
        """
        each = self._total_seconds / self._seen if self._seen >= _SEEN_ENOUGH else execution_timeout_ms / 1000
        needed = _COLD_START_SECONDS + execution_timeout_ms / 1000 + _QUEUE_FACTOR * each * jobs_ahead
        return min(TTL_RANGE_MS[1], int(max(self.ttl_seconds, needed) * 1000))


def most_out(results_per_second: float) -> int:
    """As many jobs as can be fetched, at this rate, before the first of them expires, if all ended at once."""
    return max(1, int(RETENTION_SECONDS * _PLANNED_SHARE * results_per_second))


def _work(spec: Spec) -> int:
    return max(1, spec.width * spec.height * spec.steps * spec.batch_size)
