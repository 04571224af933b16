"""A disk that forgets: what was not flushed may be lost at a power cut, in the ways file systems lose things.

A file has live bytes and durable bytes; a flush copies them. A directory's changes are a journal until it is flushed.
After a power cut a prefix of the journal survives, and each unflushed file is whole, empty, or a mix of sectors. After
a kill everything that was written is there: the page cache outlives the process.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

SECTOR_BYTES = 64


@dataclass(eq=False)
class _File:
    live: bytearray = field(default_factory=bytearray)
    durable: bytes = b""
    is_poisoned: bool = False  # a flush of it has failed: its pages count as clean now, and were never written


class SimulatedDisk:
    """The `Disk` port. `step` is called around each operation, and may cut the power; it may return an errno."""

    def __init__(self, step: Callable[[str, Path], int | None]) -> None:
        self._step = step
        self.names: dict[str, _File] = {}
        self._durable_names: dict[str, _File] = {}
        self._journal: list[tuple[str, _File | None]] = []
        self._folders: set[str] = set()

    # -- the port ------------------------------------------------------------------------------------------------

    def make_directory(self, path: Path) -> None:
        self._begin("make_directory", path)
        self._folders |= {str(path), *map(str, path.parents)}

    def write_new(self, path: Path, pieces: Iterable[bytes | memoryview]) -> None:
        self._begin("create", path)
        if str(path) in self.names:
            raise FileExistsError(errno.EEXIST, "File exists", str(path))
        file = _File()
        self._name(path, file)
        for piece in pieces:
            self._begin("write", path)
            file.live += piece

    def fsync(self, path: Path) -> None:
        file = self._existing(path)
        try:
            self._begin("fsync", path)
        except OSError:
            file.is_poisoned = True
            raise
        if not file.is_poisoned:
            file.durable = bytes(file.live)

    def link(self, source: Path, target: Path) -> None:
        self._begin("link", target)
        if str(target) in self.names:
            raise FileExistsError(errno.EEXIST, "File exists", str(target))
        self._name(target, self._existing(source))

    def unlink(self, path: Path) -> None:
        if str(path) in self.names:
            self._begin("unlink", path)
            self._name(path, None)

    def fsync_directory(self, path: Path) -> None:
        self._begin("fsync_directory", path)
        kept = []
        for name, file in self._journal:
            if Path(name).parent == path:
                self._apply(self._durable_names, name, file)
            else:
                kept.append((name, file))
        self._journal = kept

    def exists(self, path: Path) -> bool:
        return str(path) in self.names or str(path) in self._folders

    def read(self, path: Path) -> bytes:
        return bytes(self._existing(path).live)

    def append(self, path: Path, data: bytes) -> None:
        self._begin("append", path)
        file = self.names.get(str(path))
        if file is None:
            file = _File()
            self._name(path, file)
        file.live += data

    def truncate(self, path: Path, size_bytes: int) -> None:
        self._begin("truncate", path)
        del self._existing(path).live[size_bytes:]

    def size_bytes(self, path: Path) -> int | None:
        file = self.names.get(str(path))
        return None if file is None else len(file.live)

    def replace(self, source: Path, target: Path) -> None:
        self._begin("replace", target)
        file = self._existing(source)
        self._name(source, None)
        self._name(target, file)

    # -- what the truths ask ------------------------------------------------------------------------------------

    def surviving(self, path: Path) -> bytes | None:
        """What the file certainly holds after a power cut now; None: its name may be gone."""
        file = self._durable_names.get(str(path))
        return None if file is None or self.names.get(str(path)) is not file else file.durable

    def may_come_back(self, path: Path) -> bool:
        """Whether a name that was removed may be there again after a power cut now."""
        was_named = any(name == str(path) and file is not None for name, file in self._journal)
        return str(path) not in self.names and (was_named or str(path) in self._durable_names)

    @property
    def is_durable(self) -> bool:
        """Whether a power cut now would lose nothing."""
        files = self.names.values()
        is_flushed = all(file.live == file.durable and not file.is_poisoned for file in files)
        return not self._journal and is_flushed and self.names == self._durable_names

    def live_and_durable(self, path: Path) -> tuple[bytes, bytes]:
        """What the file holds, and what of it a power cut now would leave, if it leaves its name."""
        file = self.names.get(str(path), _File())
        return bytes(file.live), self._durable_names.get(str(path), file).durable

    def put(self, path: Path, content: bytes) -> None:
        """Somebody else's file, there for good."""
        self.names[str(path)] = self._durable_names[str(path)] = _File(bytearray(content), content)

    # -- the accident --------------------------------------------------------------------------------------------

    def after(
        self, draw: Callable[..., int], *, power_cut: bool, step: Callable[[str, Path], int | None]
    ) -> SimulatedDisk:
        """The disk that the next process finds; the dead incarnation keeps this one and can no longer reach that."""
        found = SimulatedDisk(step)
        found._folders = self._folders  # the port makes them durable at once
        if not power_cut:  # the page cache outlives the process; what was not flushed is still in danger
            found.names, found._durable_names = dict(self.names), dict(self._durable_names)
            found._journal = list(self._journal)
            return found
        names = dict(self._durable_names)
        for name, file in self._journal[: len(self._journal) - draw(len(self._journal) + 1, "disk", "journal lost")]:
            self._apply(names, name, file)
        survivors: dict[int, _File] = {}
        for name, file in names.items():
            if id(file) not in survivors:
                content = _survivor(file, draw)
                survivors[id(file)] = _File(bytearray(content), content)
            found.names[name] = survivors[id(file)]
        found._durable_names = dict(found.names)
        return found

    def _begin(self, operation: str, path: Path) -> None:
        number = self._step(operation, path)
        if number is not None:
            raise OSError(number, errno.errorcode[number], str(path))

    def _existing(self, path: Path) -> _File:
        if str(path) not in self.names:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))
        return self.names[str(path)]

    def _name(self, path: Path, file: _File | None) -> None:
        self._apply(self.names, str(path), file)
        self._journal.append((str(path), file))

    @staticmethod
    def _apply(names: dict[str, _File], name: str, file: _File | None) -> None:
        if file is None:
            names.pop(name, None)
        else:
            names[name] = file


def _survivor(file: _File, draw: Callable[..., int]) -> bytes:
    live = bytes(file.live)
    if live == file.durable:
        return live
    match draw(3, "disk", "unflushed"):
        case 0:
            return live
        case 1:
            return file.durable
        case _:
            return b"".join(
                live[at : at + SECTOR_BYTES]
                if draw(2, "disk", "sector") == 0
                else bytes(len(live[at : at + SECTOR_BYTES]))
                for at in range(0, len(live), SECTOR_BYTES)
            )
