"""Rate limits as RunPod documents them: requests per 10 s and at once, per endpoint and operation. Pure.

The window slides: no 10 s, wherever they begin, hold more than the limit. That is the strictest reading of the
documentation, so a client that stays below it stays below any other.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

WINDOW_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Limit:
    """`requests` in any 10 s and `at_once` in progress; None means no limit."""

    requests: int
    at_once: int | None


#: Source: `reference/runpod-api.md`, base values. Operations that share a lane share its limit.
BASE: Final = {
    "run": Limit(1000, 200),
    "runsync": Limit(2000, 400),
    "status": Limit(2000, 400),
    "cancel": Limit(100, 20),
    "purge-queue": Limit(2, None),
}
LANES: Final = {"stream": "status", "status-sync": "status"}


@dataclass(slots=True)
class _Lane:
    times: deque[float] = field(default_factory=deque)
    in_progress: int = 0


class Limits:
    """Counts requests by (endpoint, lane). `scale` multiplies the documented base; 0 switches all limits off."""

    def __init__(self, scale: float) -> None:
        self._scale = scale
        self._lanes: dict[tuple[str, str], _Lane] = {}

    def enter(self, now: float, endpoint_id: str, operation: str) -> bool:
        """Whether the request is within its limits; if so it counts, and `leave` must follow when it is answered."""
        lane_name = LANES.get(operation, operation)
        limit = BASE.get(lane_name)
        if limit is None or self._scale == 0:
            return True
        lane = self._lanes.setdefault((endpoint_id, lane_name), _Lane())
        while lane.times and lane.times[0] <= now - WINDOW_SECONDS:
            lane.times.popleft()
        crowded = limit.at_once is not None and lane.in_progress >= max(1, limit.at_once * self._scale)
        if crowded or len(lane.times) >= max(1, limit.requests * self._scale):
            return False
        lane.times.append(now)
        lane.in_progress += 1
        return True

    def leave(self, endpoint_id: str, operation: str) -> None:
        """The request that `enter` let in has been answered."""
        lane = self._lanes.get((endpoint_id, LANES.get(operation, operation)))
        if lane is not None:
            lane.in_progress -= 1
