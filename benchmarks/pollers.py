"""The ways of polling that are compared: at a fixed pace, in growing pauses, by asyncgen's model, and by an oracle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from asyncgen.queue_model import QueueModel, WaitedJob
from benchmarks.queue_simulator import Answer, Simulation

#: asyncgen's own defaults, and its stretch of the pauses of slow jobs.
_POLLING_INTERVAL_SECONDS: Final = 1.0
_POLLING_INTERVAL_MAX_SECONDS: Final = 5.0
_SLOW_FACTOR: Final = 3.0


class GrowingPauses:
    """Each job for itself: the first pause, and each next one half as long again, up to the longest."""

    def __init__(self, first_seconds: float, longest_seconds: float) -> None:
        self._first, self._longest = first_seconds, longest_seconds
        self._pauses: dict[int, float] = {}
        self._poll_at: dict[int, float] = {}

    def submitted(self, job: int, now: float) -> None:
        """Begin with the first pause."""
        self._pauses[job], self._poll_at[job] = self._first, now + self._first

    def next_poll_at(self, job: int, now: float) -> float:
        """The end of the present pause."""
        return self._poll_at[job]

    def answered(self, job: int, asked_at: float, now: float, answer: Answer) -> None:
        """A longer pause begins."""
        self._pauses[job] = min(self._longest, 1.5 * self._pauses[job])
        self._poll_at[job] = now + self._pauses[job]

    def hastened(self) -> Sequence[int]:
        """None: jobs know nothing of each other."""
        return ()


class Oracle:
    """Knows when each job ends, and asks for it then: the least there can be."""

    def __init__(self, simulation: Simulation) -> None:
        self._jobs = simulation.jobs

    def submitted(self, job: int, now: float) -> None:
        """It knew."""

    def next_poll_at(self, job: int, now: float) -> float:
        """The job's end; while it is in the queue, a moment later."""
        ends_at = self._jobs[job].ends_at
        return now + 0.5 if ends_at is None else ends_at

    def answered(self, job: int, asked_at: float, now: float, answer: Answer) -> None:
        """It knew."""

    def hastened(self) -> Sequence[int]:
        """None."""
        return ()


class Planned:
    """asyncgen's shipped model of the queue, with its default settings."""

    def __init__(self) -> None:
        self._model = QueueModel(_POLLING_INTERVAL_SECONDS, _POLLING_INTERVAL_MAX_SECONDS, _SLOW_FACTOR)
        self._jobs: dict[int, WaitedJob] = {}
        self._numbers: dict[WaitedJob, int] = {}

    def submitted(self, job: int, now: float) -> None:
        """One lane: all jobs do the same work."""
        waited = self._model.submitted("lane", now, now)
        self._jobs[job], self._numbers[waited] = waited, job

    def next_poll_at(self, job: int, now: float) -> float:
        """As the model says."""
        return self._model.next_poll_at(self._jobs[job], now)

    def answered(self, job: int, asked_at: float, now: float, answer: Answer) -> None:
        """Tell the model, as the endpoint does."""
        waited, said = self._jobs[job], answer
        self._model.asked(waited, asked_at, 0.0)
        match answer.word:
            case "COMPLETED":
                self._model.ended(waited, now, said.delay_ms, said.execution_ms, said.worker_id, completed=True)
            case "IN_QUEUE":
                self._model.queued(waited, now)
            case _:
                self._model.running(waited, now, said.delay_ms, said.worker_id)

    def hastened(self) -> Sequence[int]:
        """As the model says."""
        return [self._numbers[waited] for waited in self._model.hastened()]
