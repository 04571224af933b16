"""The points at which the power may go, by what is being done."""

from __future__ import annotations

ON_ITS_WAY, DONE = "on its way", "done, not known"
_DISK = ("make_directory", "create", "write", "fsync", "link", "unlink", "fsync_directory", "append", "replace")
_EFFECTS = ("run request", "status request", "cancel request", "retry request", "download request", "ledger", "files")
CRASH_POINTS = (
    "before a commit",
    "after a commit",
    *(f"disk {operation}" for operation in _DISK),
    *(f"{effect} {stage}" for effect in _EFFECTS for stage in (ON_ITS_WAY, DONE)),
)
