"""The real file system behind the `Disk` port."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable
from pathlib import Path

if sys.platform == "darwin":
    import fcntl


class RealDisk:
    """One system call's worth of work per method, so that each is a point at which a machine can die."""

    def make_directory(self, path: Path) -> None:
        """Create it and its parents; each new entry is flushed in its parent."""
        if path.is_dir():
            return
        self.make_directory(path.parent)
        path.mkdir(exist_ok=True)
        self.fsync_directory(path.parent)

    def write_new(self, path: Path, pieces: Iterable[bytes]) -> None:
        with path.open("xb", buffering=0) as file:
            for piece in pieces:
                _write_all(file.fileno(), piece)

    def fsync(self, path: Path) -> None:
        _fsync(path)

    def link(self, source: Path, target: Path) -> None:
        """Raises FileExistsError rather than replace. File systems without hard links get a rename after a check."""
        try:
            os.link(source, target)
        except FileExistsError:
            raise
        except OSError:  # exFAT, some network and container file systems
            if target.exists():
                raise FileExistsError(target) from None
            source.rename(target)

    def unlink(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def fsync_directory(self, path: Path) -> None:
        if os.name != "nt":  # Windows cannot open folders; NTFS journals its own entries
            _fsync(path)

    def exists(self, path: Path) -> bool:
        return os.path.lexists(path)  # a link to nowhere takes the name as well

    def read(self, path: Path) -> bytes:
        return path.read_bytes()

    def append(self, path: Path, data: bytes) -> None:
        with path.open("ab", buffering=0) as file:
            _write_all(file.fileno(), data)

    def size_bytes(self, path: Path) -> int | None:
        with contextlib.suppress(FileNotFoundError):
            return path.stat().st_size
        return None

    def replace(self, source: Path, target: Path) -> None:
        source.replace(target)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _fsync(path: Path) -> None:
    # Windows flushes only what is open for writing; macOS leaves data in the drive's cache unless it is told fully.
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        if sys.platform == "darwin":
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
        else:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
