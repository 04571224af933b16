"""What must have been met in a run of many seeds: moves of the lifecycle, crash points, and every kind of accident."""

from __future__ import annotations

from collections.abc import Mapping

from asyncgen.lifecycle import MOVES

from .books import FATES
from .commands import WORDS
from .network import REQUEST_FAULTS, STORMS
from .points import CRASH_POINTS
from .records import REJECTED

#: With fewer seeds than this a rare accident may be missing.
ENOUGH_SEEDS = 2000
#: `asyncgen verify --repair`, `asyncgen adopt`.
ONLY_BY_COMMAND = {"stored -> lost", "wanted -> stored"}
_ENDINGS = (
    "ended", "stopped", "cancelled", "crashed", "RunPausedError", "BudgetReachedError", "StoreError", "LedgerError",
)  # fmt: skip
_REQUIRED = (
    *(f"move: {name}" for name in (f"{move.source} -> {move.target}" for move in MOVES) if name not in ONLY_BY_COMMAND),
    *(f"crash point: {point}" for point in (*CRASH_POINTS, "waiting")),
    "crash: kill",
    "crash: power cut",
    *(f"fate: {fate}" for fate in FATES),
    *(f"{operation}: {fault}" for operation, faults in REQUEST_FAULTS.items() for fault in faults),
    *(f"storm: {fault}" for fault in STORMS),
    *(f"disk: {name} fails" for name in ("write", "create", "append", "link", "fsync", "fsync_directory", "commit")),
    *(f"rejected: {what}" for what in (*REJECTED, "wanted", "failed")),
    "rejected: tried again with another seed",
    "retry: never taken",
    *(f"command: {word}" for word in WORDS),
    "crash: between a rejected file and its record",
    "disk: somebody else's file",
    "disk: the manifest was edited",
    "clock: the machine slept",
    "clock: the wall clock jumped",
    *(f"life: {ending}" for ending in _ENDINGS),
)


def table(hits: Mapping[str, int]) -> str:
    """How often each thing was met, what must be met and was not with 0."""
    names = sorted({*hits, *_REQUIRED})
    return "\n".join(f"{hits.get(name, 0):9} {name}" for name in names)


def missing(hits: Mapping[str, int]) -> list[str]:
    """What was never met."""
    return [name for name in _REQUIRED if not hits.get(name)]
