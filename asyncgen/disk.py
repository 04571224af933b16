"""The real file system behind the `Disk` port."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
from collections.abc import Iterable
from pathlib import Path

if sys.platform == "darwin":
    import fcntl


_NO_HARD_LINKS = {errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK}


class RealDisk:
    """The operations of the port, each as little as one system call where the file system allows it.

    `output_root` was there when the run began. Where it is gone (removed, or its disk taken out) it is never made anew:
    what went there would be apart from what it belongs to.
    """

    def __init__(self, output_root: Path | None = None) -> None:
        self._output_root = output_root

    def make_directory(self, path: Path) -> None:
        """Create it and its parents; each new entry is flushed in its parent."""
        if path.is_dir():
            return
        if path == self._output_root:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        self.make_directory(path.parent)
        path.mkdir(exist_ok=True)
        self.fsync_directory(path.parent)

    def write_new(self, path: Path, pieces: Iterable[bytes | memoryview]) -> None:
        with path.open("xb", buffering=0) as file:
            for piece in pieces:
                _write_all(file.fileno(), piece)

    def fsync(self, path: Path) -> None:
        _fsync(path)

    def link(self, source: Path, target: Path) -> None:
        """Raises FileExistsError rather than replace.

        File systems without hard links (exFAT, some network ones) get a rename after a look that the name is free:
        there, and only there, a file that somebody else makes in that very moment would be replaced.
        """
        try:
            os.link(source, target)
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS:
                raise
            if self.exists(target):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from None
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
            status = path.stat()
            return status.st_size if stat.S_ISREG(status.st_mode) else None
        return None

    def replace(self, source: Path, target: Path) -> None:
        source.replace(target)


def _write_all(descriptor: int, data: bytes | memoryview) -> None:
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
