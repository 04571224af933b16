"""One case: drawn from its seed, judged, and held to what it may cost and what it may raise."""

from __future__ import annotations

import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Final

#: CPU, not wall time: machines are shared. A hundred times what an ordinary case takes.
MAX_CASE_SECONDS: Final = 1.0
#: The decoders of JPEG and WebP may take 256 MiB (`asyncgen.images`), and nothing else comes near.
MAX_CASE_BYTES: Final = 512 << 20
_HANGING_AFTER_SECONDS: Final = 20.0
MAX_MESSAGE_CHARACTERS: Final = 2_000


@dataclass(frozen=True, slots=True)
class Target:
    """`make` draws a case; `judge` raises for what must not be, and returns words for what it saw."""

    name: str
    make: Callable[[Random], Any]
    judge: Callable[[Any], Iterable[str]]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one case. `error` None: everything held."""

    target: str
    seed: int
    cpu_seconds: float
    seen: tuple[str, ...]
    error: str | None


class CaseHangsError(Exception):
    """A case has taken `_HANGING_AFTER_SECONDS` of CPU and was given up."""


def run_case(target: Target, seed: int) -> Verdict:
    """Draw the case of this seed and judge it. Only `judge` is timed."""
    case = target.make(Random(f"{target.name} {seed}"))
    seen: tuple[str, ...] = ()
    error: str | None = None
    signal.setitimer(signal.ITIMER_VIRTUAL, _HANGING_AFTER_SECONDS)
    began = time.process_time()
    try:
        seen = tuple(target.judge(case))
    except Exception:
        error = traceback.format_exc().encode("utf-8", "backslashreplace").decode()
    finally:
        spent = time.process_time() - began
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    if error is None and spent > MAX_CASE_SECONDS:
        error = f"it took {spent:.1f} s of CPU; {MAX_CASE_SECONDS} are allowed\n"
    return Verdict(target.name, seed, spent, seen, error)


def confine() -> None:
    """For a process that runs cases: no case hangs, and none takes more memory than `MAX_CASE_BYTES`."""

    def give_up(*_: object) -> None:
        raise CaseHangsError

    signal.signal(signal.SIGVTALRM, give_up)
    statistics = Path("/proc/self/statm")
    if statistics.exists():  # elsewhere only the peak is reported
        address_space = int(statistics.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (address_space + MAX_CASE_BYTES, resource.RLIM_INFINITY))


def peak_bytes() -> int:
    """The most memory that this process has ever had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def check_message(message: str) -> None:
    """What an error says goes to terminals and logs: one line, printable, and no longer than anyone reads."""
    assert 0 < len(message) <= MAX_MESSAGE_CHARACTERS, f"a message of {len(message)} characters: {message[:200]!r}"
    assert message.isprintable(), f"a message that is not printable: {message!r}"
