"""One process owns an output root at a time, by a lock file that the system releases when the process dies."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from asyncgen.errors import LedgerLockedError, StoreError
from asyncgen.store import cannot_write


@contextmanager
def locked(root: Path, ledger_path: Path) -> Iterator[None]:
    """Own a ledger and its root, both made if need be, for the length of the block.

    Raises `LedgerLockedError` naming the process that does, or `StoreError` where nothing can be written.
    """
    lock_path = ledger_path.with_name(f".{ledger_path.name}.lock")
    holder_path = ledger_path.with_name(f".{ledger_path.name}.holder")
    try:
        root.mkdir(parents=True, exist_ok=True)
        ledger_path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(lock_path, timeout=0)
        lock.acquire()
        holder_path.write_text(json.dumps(_myself()), encoding="utf-8")
    except Timeout:
        raise LedgerLockedError(
            f"{ledger_path} is in use by {_holder(holder_path)}: wait for it, stop it, or name another output root"
        ) from None
    except FileNotFoundError as error:
        raise StoreError(
            f"{error.filename} cannot be made ({error.strerror}): name another folder with --out or "
            "ASYNCGEN_OUTPUT_ROOT"
        ) from error
    except OSError as error:
        raise StoreError(
            f"{cannot_write(root, error)}; or name another folder with --out or ASYNCGEN_OUTPUT_ROOT"
        ) from error
    try:
        yield
    finally:
        holder_path.unlink(missing_ok=True)
        lock.release()


def _myself() -> dict[str, object]:
    script = Path(sys.argv[0])
    program = script.parent.name if script.name == "__main__.py" else script.name  # of `python -m NAME`
    return {"pid": os.getpid(), "host": socket.gethostname(), "program": program or "python"}


def _holder(holder_path: Path) -> str:
    try:
        holder = json.loads(holder_path.read_text(encoding="utf-8"))
        return f"process {holder['pid']} ({holder['program']}) on {holder['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
