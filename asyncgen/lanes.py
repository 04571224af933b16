"""Systematic faults: the same one over and over in one style, LoRA set, workflow or endpoint stops that lane. Pure.

Each ended job is noted in its lanes. A style or a LoRA set stops by itself; a workflow or an endpoint, which hold
many of those, only stops when the faults come from more than one of them: in an unbroken row, or as a large share to
which all of them contribute theirs; or when one after the other has stopped for the same fault. What is stopped stays
so for the run.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from asyncgen.errors import Failure, FailureCode
from asyncgen.records import Spec

WINDOW: Final = 50
_STOPS_IN_A_ROW: Final = 3


class LaneKind(StrEnum):
    """What the jobs of a lane share; the words are for people."""

    STYLE = "style"
    LORA_SET = "LoRA set"
    WORKFLOW = "workflow"
    ENDPOINT = "endpoint"


_WIDE: Final = frozenset({LaneKind.WORKFLOW, LaneKind.ENDPOINT})


@dataclass(frozen=True, slots=True)
class Lane:
    """Jobs that share one thing, which may be what is wrong."""

    kind: LaneKind
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True)
class StoppedLane:
    """A lane in which nothing more is bought, the last of its faults, and how often it came."""

    lane: Lane
    failure: Failure
    count: str

    def __str__(self) -> str:
        return f"{self.lane} is stopped, {self.count}: {self.failure}"


@dataclass(slots=True)
class _History:
    """The last outcomes of a lane, oldest first, None for a good one; and the narrowest lane each came from."""

    outcomes: deque[tuple[FailureCode | None, Lane]] = field(default_factory=lambda: deque(maxlen=WINDOW))
    stops: list[StoppedLane] = field(default_factory=list)  # of narrower lanes, since the last good outcome

    def in_a_row(self, code: FailureCode) -> list[Lane]:
        """Where the latest unbroken run of this fault came from."""
        origins = []
        for outcome, origin in reversed(self.outcomes):
            if outcome is not code:
                break
            origins.append(origin)
        return origins

    def count(self, code: FailureCode) -> int:
        """How often this fault came, in the whole window."""
        return sum(outcome is code for outcome, _ in self.outcomes)

    def shares(self, code: FailureCode) -> dict[Lane, float]:
        """Of what came from each narrowest lane, the share that was this fault, in the whole window."""
        jobs = Counter(origin for _, origin in self.outcomes)
        faults = Counter(origin for outcome, origin in self.outcomes if outcome is code)
        return {origin: faults[origin] / jobs[origin] for origin in jobs}


class Lanes:
    """Watches the lanes of one run. `faults_in_a_row` of one kind stop a lane, or `fault_share` of its last 50."""

    def __init__(self, faults_in_a_row: int, fault_share: float) -> None:
        self._faults_in_a_row, self._fault_share = faults_in_a_row, fault_share
        self._histories: dict[Lane, _History] = {}
        self.stopped: dict[Lane, StoppedLane] = {}

    def stop_of(self, spec: Spec, endpoint: str) -> StoppedLane | None:
        """Why jobs like this one are not to be bought; None where they are."""
        if not self.stopped:
            return None
        return next((self.stopped[lane] for lane in lanes_of(spec, endpoint) if lane in self.stopped), None)

    def note(self, spec: Spec, endpoint: str, failure: Failure | None) -> StoppedLane | None:
        """A job has ended, well (None) or not; the lane that this stops, if it does."""
        if failure is None and not self._histories:
            return None  # lanes without faults need no memory
        lanes = lanes_of(spec, endpoint)
        if any(lane in self.stopped for lane in lanes):
            return None  # what was out when its lane stopped says nothing of the lanes around it
        for lane in lanes:
            if stopped := self._note_in(lane, lanes[0], failure):
                return self._stop(stopped, lanes)
        return None

    def note_unknown(self, endpoint: str, failure: Failure) -> StoppedLane | None:
        """A submission's outcome was never learned: only the endpoint can be at fault, whatever was submitted."""
        lane = Lane(LaneKind.ENDPOINT, endpoint)
        stopped = self._note_in(lane, lane, failure)
        return self._stop(stopped, [lane]) if stopped and lane not in self.stopped else None

    def _note_in(self, lane: Lane, origin: Lane, failure: Failure | None) -> StoppedLane | None:
        history = self._histories.get(lane)
        if failure is None:
            if history is not None:
                history.outcomes.append((None, origin))
                history.stops.clear()
            return None
        history = history or self._histories.setdefault(lane, _History())
        history.outcomes.append((failure.code, origin))
        in_a_row = history.in_a_row(failure.code)
        if len(in_a_row) >= self._faults_in_a_row and self._speaks_for(lane, in_a_row):
            return StoppedLane(lane, failure, f"{len(in_a_row)} times the same in a row")
        if len(history.outcomes) == WINDOW and self._is_at_fault(lane, history, failure.code):
            return StoppedLane(lane, failure, f"{history.count(failure.code)} times the same in the last {WINDOW}")
        return None

    def _is_at_fault(self, lane: Lane, history: _History, code: FailureCode) -> bool:
        """Whether the share of this fault in a full window is the lane's own: good ones in it must not stop with it."""
        if history.count(code) < self._fault_share * WINDOW:
            return False
        shares = history.shares(code)
        if lane.kind not in _WIDE or history.outcomes.count((code, lane)) >= self._fault_share * WINDOW:
            return True
        return len(shares) > 1 and all(share >= self._fault_share for share in shares.values())

    @staticmethod
    def _speaks_for(lane: Lane, origins: list[Lane]) -> bool:
        return lane.kind not in _WIDE or lane in origins or len(set(origins)) > 1

    def _stop(self, stopped: StoppedLane, lanes: list[Lane]) -> StoppedLane:
        """A stopped lane takes its faults with it: the wide ones of `lanes`, those around it, begin anew.

        They stop too if it is the third in them, without a good outcome in between. Returns the widest that stops.
        """
        self.stopped[stopped.lane] = stopped
        for lane in lanes:
            if lane.kind in _WIDE and lane not in self.stopped:
                history = self._histories.setdefault(lane, _History())
                history.outcomes.clear()
                if lane.kind is LaneKind.ENDPOINT and stopped.lane.kind is not LaneKind.WORKFLOW:
                    continue  # that is for its workflow to count
                history.stops.append(stopped)
                same = [stop for stop in history.stops if stop.failure.code is stopped.failure.code]
                if len(same) >= _STOPS_IN_A_ROW:
                    stopped = StoppedLane(lane, stopped.failure, f"{len(same)} lanes in it stopped for the same")
                    self.stopped[lane] = stopped
        return stopped


def lanes_of(spec: Spec, endpoint: str) -> list[Lane]:
    """The lanes of a job, the narrowest first; it may have no style and no LoRAs."""
    loras = " + ".join(sorted(lora.name for lora in spec.loras))
    named = (
        (LaneKind.STYLE, spec.style_id),
        (LaneKind.LORA_SET, loras),
        (LaneKind.WORKFLOW, spec.workflow),
        (LaneKind.ENDPOINT, endpoint),
    )
    return [Lane(kind, name) for kind, name in named if name]
