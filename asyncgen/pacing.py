"""Arithmetic of pace: how long to wait before the next request. Pure; the time is always passed in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

WINDOW_SECONDS: Final = 10.0  # the platform counts requests per 10 s
_BURST_SHARE: Final = 0.1
_SLOWEST: Final = 0.05
_AFTER_429: Final = 0.7
_RECOVERY_PER_SECOND: Final = 0.01
_VOLLEY_SECONDS: Final = 1.0


@dataclass(slots=True)
class TokenBucket:
    """A limit of `limit_per_window` requests in any 10 s, spread evenly, with bursts of a tenth of it.

    A generic cell rate algorithm: one number, the time at which the next token falls due. A token may be used ahead of
    that by the burst, counted in steps of the full pace. Pace and burst are cut from the same limit, and a slower pace
    only sets tokens further apart, so that no window of 10 s ever holds more than `limit_per_window` requests.
    A 429 slows it to 70 % at once, a volley of them within a second only once; it recovers by one percentage point a
    second.
    """

    limit_per_window: float
    _next_at: float = field(default=0.0, init=False)
    _paused_until: float = field(default=0.0, init=False)
    _factor: float = field(default=1.0, init=False)
    _factor_at: float = field(default=-_VOLLEY_SECONDS, init=False)

    def reserve(self, now: float) -> float:
        """Take one token; returns the seconds to wait before it may be used."""
        burst = max(1.0, self.limit_per_window * _BURST_SHARE)
        interval = WINDOW_SECONDS / max(self.limit_per_window - burst, 0.1)
        due_at = max(self._next_at, self._paused_until, now)
        self._next_at = due_at + interval / self.factor(now)
        ahead = (burst - 1.0) * interval
        return max(0.0, due_at - ahead - now, self._paused_until - now)

    def slow_down(self, now: float, retry_after_seconds: float | None = None) -> None:
        """The platform answered 429: take the pace down, and send nothing before `retry_after_seconds` have passed."""
        if now - self._factor_at >= _VOLLEY_SECONDS:
            self._factor, self._factor_at = max(_SLOWEST, self.factor(now) * _AFTER_429), now
        if retry_after_seconds is not None:
            self._paused_until = max(self._paused_until, now + retry_after_seconds)

    def paused_for(self, now: float) -> float:
        """Seconds for which nothing may be sent, not even what has its token already."""
        return max(0.0, self._paused_until - now)

    def factor(self, now: float) -> float:
        """The present pace as a fraction of the full one."""
        return min(1.0, self._factor + max(0.0, now - self._factor_at) * _RECOVERY_PER_SECOND)


def backoff_seconds(attempt: int, jitter: float, *, base_seconds: float = 0.5, cap_seconds: float = 30.0) -> float:
    """Exponential backoff with full jitter over its upper half: `attempt` counts from 1, `jitter` is in [0, 1)."""
    ceiling = min(cap_seconds, base_seconds * 2.0 ** min(attempt - 1, 16))
    return ceiling * (0.5 + 0.5 * jitter)


def polling_pause_seconds(attempt: int, jitter: float, *, first_seconds: float, longest_seconds: float) -> float:
    """The pause before a job's next status call: grows by half each time up to `longest_seconds`, ±10 % jitter."""
    pause = min(max(longest_seconds, first_seconds), first_seconds * 1.5 ** min(attempt - 1, 32))
    return pause * (0.9 + 0.2 * jitter)
