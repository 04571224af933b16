"""Where pictures go: whole files under final names, or nothing.

A picture is written under a temporary name beside its final one, flushed, given its final name without ever replacing
a file, and its folder is flushed. All of that is one blocking function, so one hop to a thread for each job.
"""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import chain, count
from pathlib import Path
from typing import Final, TypeVar

from asyncgen.containers import Piece
from asyncgen.errors import StoreError
from asyncgen.images import Picture
from asyncgen.ports import Disk, Ports
from asyncgen.records import StoredPicture

Prepared = tuple[StoredPicture, ...]
T = TypeVar("T")

_SUFFIXES: Final = (".png", ".jpg", ".webp")  # see `Picture.suffix`
_PART_BYTES: Final = 1 << 20
_CURES: Final = {
    errno.ENOSPC: "the disk is full: free some space and start the run again",
    errno.EDQUOT: "the disk quota is used up: free some space and start the run again",
    errno.EROFS: "the file system is read-only: make it writable",
    errno.EACCES: "permission denied: make the output folder writable",
    errno.EPERM: "not permitted: make the output folder writable",
    errno.ENOENT: "the output folder was removed under the run: put it back and start the run again",
}


class Store:
    """Writes pictures under one output root. Raises `StoreError` for what the file system refuses."""

    def __init__(self, ports: Ports, root: Path) -> None:
        self._ports, self.root = ports, root
        self._reserved: set[str] = set()

    async def prepare(self, pictures: Sequence[Picture], names: Sequence[str | None], hex8: str) -> Prepared:
        """Find a free path, relative to the root, for each name; reserved until `release`.

        A name is a path without suffix; None is a picture that gets no file. Where a path is taken, by a file or by a
        picture on its way, `_{hex8}` is added.
        """
        wanted = [(name, picture.suffix) for name, picture in zip(names, pictures, strict=True) if name is not None]
        paths = iter(await self._reserve(wanted, hex8) if wanted else ())
        return tuple(
            _record(number, picture, None if name is None else next(paths))
            for number, (picture, name) in enumerate(zip(pictures, names, strict=True))
        )

    async def _reserve(self, wanted: Sequence[tuple[str, str]], hex8: str) -> Sequence[str]:
        while True:
            taken = frozenset(self._reserved)
            paths = await self._guarded(_free_paths, self._ports.disk, self.root, wanted, hex8, taken)
            if self._reserved.isdisjoint(paths):  # nobody took one of them meanwhile
                self._reserved.update(paths)
                return paths

    async def keep_rejected(
        self, pictures: Sequence[Picture], names: Sequence[str | None], taken: Collection[str]
    ) -> Prepared:
        """Put pictures that do not count in place, durably, under names that only their job has.

        A file with the same content, of a process that died before it could record it, is taken for what it is. `taken`
        are paths that the ledger has for other pictures.
        """
        work = [(name, picture) for picture, name in zip(pictures, names, strict=True) if name]
        paths = iter(await self._guarded(_keep_rejected, self._ports.disk, self.root, work, taken) if work else ())
        return tuple(
            _record(number, picture, next(paths) if name else None)
            for number, (picture, name) in enumerate(zip(pictures, names, strict=True))
        )

    async def forget_half_kept(self, names: Sequence[str | None]) -> None:
        """Remove what a process that died while it kept rejected pictures left half written: their job is gone."""
        paths = [temporary_path(self.root / f"{name}{suffix}") for name in names if name for suffix in _SUFFIXES]
        if paths:
            await self._guarded(_remove, self._ports.disk, paths)

    def release(self, prepared: Prepared) -> None:
        """Forget the reservations: the files exist now, or never will."""
        self._reserved.difference_update(picture.path for picture in prepared if picture.path is not None)

    async def write(self, stored: Sequence[StoredPicture], pictures: Sequence[Picture]) -> bool:
        """Put every picture in place, durably, or none of them: a job's pictures are recorded together.

        False if a file that is not ours appeared under one of the names.
        """
        work = [
            (self.root / s.path, p.file_pieces) for s, p in zip(stored, pictures, strict=True) if s.path is not None
        ]
        return not work or await self._guarded(_write_all, self._ports.disk, work)

    async def are_in_place(self, stored: Sequence[StoredPicture]) -> bool:
        """After a crash: whether every file is there whole, by its hash.

        Temporary files are removed on the way; so are whole pictures of a job of which others are missing, because its
        result is fetched again and gets other names.
        """
        work = [(self.root / s.path, s.sha256) for s in stored if s.path is not None]
        return len(work) == len(stored) and await self._guarded(_are_in_place, self._ports.disk, work)

    async def _guarded(self, function: Callable[..., T], *args: object) -> T:
        try:
            return await self._ports.file_threads.run(function, *args)
        except OSError as error:
            raise cannot_write(self.root, error) from error


def _record(number: int, picture: Picture, path: str | None) -> StoredPicture:
    size = picture.width, picture.height
    return StoredPicture(number, path, picture.sha256, picture.size_bytes, picture.format, *size)


def cannot_write(path: Path, error: OSError) -> StoreError:
    """What the file system refused, with the cure; `path` is named where the error itself names none."""
    cure = _CURES.get(error.errno or 0, "check the disk and the folder's permissions")
    return StoreError(f"cannot write {error.filename or path} ({error.strerror}): {cure}")


def _free_paths(
    disk: Disk, root: Path, wanted: Sequence[tuple[str, str]], hex8: str, taken: frozenset[str]
) -> Sequence[str]:
    return [_free_path(disk, root, name, suffix, hex8, taken) for name, suffix in wanted]


def _free_path(disk: Disk, root: Path, name: str, suffix: str, hex8: str, taken: frozenset[str]) -> str:
    endings = chain(("", f"_{hex8}"), (f"_{hex8}_{number}" for number in count(2)))
    candidates = (f"{name}{ending}{suffix}" for ending in endings)
    return next(path for path in candidates if path not in taken and not disk.exists(root / path))


def temporary_path(path: Path) -> Path:
    """Where a picture is written before it gets its name: hidden, beside it, and found again after a crash."""
    return path.with_name(f".{path.name}.part")


def _write_all(disk: Disk, work: Sequence[tuple[Path, Sequence[Piece]]]) -> bool:
    placed: list[Path] = []
    try:
        for path, pieces in work:
            if not _write_one(disk, path, pieces):
                break
            placed.append(path)
    finally:
        if len(placed) < len(work):
            _take_back(disk, placed)
    return len(placed) == len(work)


def _take_back(disk: Disk, paths: Sequence[Path]) -> None:
    for path in paths:
        disk.unlink(path)
        disk.fsync_directory(path.parent)


def _remove(disk: Disk, paths: Sequence[Path]) -> None:
    _take_back(disk, [path for path in paths if disk.exists(path)])


def _write_one(disk: Disk, path: Path, pieces: Sequence[Piece]) -> bool:
    temporary = temporary_path(path)
    disk.make_directory(path.parent)
    disk.unlink(temporary)
    try:
        disk.write_new(temporary, (part for piece in pieces for part in _parts(piece)))
        disk.fsync(temporary)
        disk.link(temporary, path)
        is_placed = True
    except FileExistsError:
        is_placed = False
    finally:
        disk.unlink(temporary)
    disk.fsync_directory(path.parent)  # the new name, and that the temporary one is gone
    return is_placed


def _parts(piece: Piece) -> Iterator[memoryview]:
    view = memoryview(piece)
    return (view[start : start + _PART_BYTES] for start in range(0, len(view), _PART_BYTES))


def _keep_rejected(
    disk: Disk, root: Path, work: Sequence[tuple[str, Picture]], taken: Collection[str]
) -> Sequence[str]:
    return [_keep_one(disk, root, name, picture, taken) for name, picture in work]


def _keep_one(disk: Disk, root: Path, name: str, picture: Picture, taken: Collection[str]) -> str:
    for ending in chain(("",), (f"_{number}" for number in count(2))):
        path = f"{name}{ending}{picture.suffix}"
        if path in taken:
            continue
        is_placed = _write_one(disk, root / path, picture.file_pieces)
        if is_placed or hashlib.sha256(disk.read(root / path)).hexdigest() == picture.sha256:
            return path
    raise AssertionError("there is always a further number")


def _are_in_place(disk: Disk, work: Sequence[tuple[Path, str]]) -> bool:
    whole = []
    for path, sha256 in work:
        disk.unlink(temporary_path(path))
        if disk.exists(path.parent):  # neither its name nor the end of the temporary one may have been durable yet
            disk.fsync_directory(path.parent)
        if disk.exists(path) and hashlib.sha256(disk.read(path)).hexdigest() == sha256:
            whole.append(path)
    if len(whole) < len(work):
        _take_back(disk, whole)
    return len(whole) == len(work)
