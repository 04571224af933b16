"""Takes a folder of pictures that were made elsewhere into a batch: files are read, put in place, and recorded.

No file of the folder is moved or changed. What lies in the output root stays where it is; all else gets a second name
in it (a hard link), or is copied where the file system has none. A file is in place before the ledger knows it.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Final

import anyio

from asyncgen import images
from asyncgen.adopted_rows import Outcome, adopt, sizes_of
from asyncgen.adoption import Adoptable, Adoption, NotAdoptableError
from asyncgen.images import ImageFaultError, Picture
from asyncgen.input_pictures import FOLDER as INPUTS_FOLDER
from asyncgen.job import REJECTED_FOLDER
from asyncgen.manifest import FILE_NAME as MANIFEST_NAME
from asyncgen.naming import safe_name
from asyncgen.origins import origin_of
from asyncgen.ports import Disk
from asyncgen.records import Batch, StoredPicture
from asyncgen.store import cannot_write, temporary_path
from asyncgen.workspace import Workspace

#: Where files go that lie outside of the output root.
FOLDER: Final = "adopted"
_ASIDE: Final = frozenset({REJECTED_FOLDER, INPUTS_FOLDER})
_SUFFIXES: Final = frozenset({".png", ".jpg", ".jpeg", ".webp"})
_PAGE: Final = 16
_MOST_CAPTION_BYTES: Final = 1 << 20
_MOST_FILE_BYTES: Final = 1 << 30
_MOST_REMEMBERED: Final = 4096
_WORDS: Final = {
    Outcome.TAKEN: "the batch has its image already, or a job for it is out",
    Outcome.REPLACED: "it is not what the ledger has under this path (see `asyncgen verify`)",
}


@dataclass(frozen=True, slots=True)
class Seen:
    """One file: what it was wanted as and the picture in it, or why it cannot be taken."""

    path: Path
    adoptable: Adoptable | None = None
    picture: Picture | None = None
    why_not: str | None = None


@dataclass(frozen=True, slots=True)
class Adopted:
    """What became of one file. `outcome` None: it was skipped, for what `words` say, or only looked at."""

    seen: Seen
    outcome: Outcome | None
    words: str | None = None


def pictures_below(folder: Path) -> Iterator[Path]:
    """Every picture's path, folder by folder, in the order of their names.

    Hidden ones are nobody's pictures; of an output root what was put in does not count, nor what was rejected.
    """
    for top, folders, names in os.walk(folder):
        aside = _ASIDE if MANIFEST_NAME in names else frozenset()
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in aside)
        for name in sorted(names):
            path = Path(top, name)
            if path.suffix.lower() in _SUFFIXES and not name.startswith("."):
                yield path


def look_at(path: Path, adoption: Adoption) -> Seen:
    """Read one file, and find out what it was wanted as. Blocking."""
    try:
        if not path.is_file() or path.is_symlink():
            return Seen(path, why_not="it is no file of its own")
        str(path).encode()
        if path.stat().st_size > _MOST_FILE_BYTES:
            return Seen(path, why_not="it has more than a gigabyte")
        picture = images.check(path.read_bytes())
        found = origin_of(picture.data), _caption(path), (picture.width, picture.height)
        return Seen(path, adoption.adoptable(PurePosixPath(path.as_posix()), *found), picture)
    except (NotAdoptableError, ImageFaultError) as error:
        return Seen(path, why_not=error.message if isinstance(error, ImageFaultError) else str(error))
    except UnicodeEncodeError:
        return Seen(path, why_not="its name cannot be written down")
    except OSError as error:
        return Seen(path, why_not=f"it cannot be read ({error.strerror})")


def _caption(path: Path) -> str | None:
    """The text beside a picture, as data sets for training have it."""
    with suppress(OSError, UnicodeDecodeError):
        beside = path.with_suffix(".txt")
        if beside.stat().st_size <= _MOST_CAPTION_BYTES:
            return beside.read_text(encoding="utf-8-sig").strip() or None
    return None


class Adopter:
    """Takes pictures into one batch of an output root that is in use by us. Raises `StoreError` and `LedgerError`."""

    def __init__(self, workspace: Workspace, batch: Batch, folder: Path, adoption: Adoption) -> None:
        self._workspace, self._batch, self._adoption = workspace, batch, adoption
        self._folder, self._root = folder, workspace.root.resolve()
        self._used: dict[bytes, int] = {}  # of the last requests: how many replicas of each are taken

    async def run(self) -> AsyncIterator[Adopted]:
        """Every picture of the folder, in order; each is recorded by the time that it is told."""
        paths = pictures_below(self._folder)
        threads = self._workspace.ports.file_threads
        while page := await threads.run(lambda: list(islice(paths, _PAGE))):
            known = await self._known(page)
            looked_at = await self._looked_at([path for path in page if path not in known])
            became = {path: Adopted(Seen(path), Outcome.THERE) for path in known}
            became |= {seen.path: Adopted(seen, None, seen.why_not) for seen in looked_at}
            became |= await self._taken_in([seen for seen in looked_at if seen.why_not is None])
            for path in page:
                yield became[path]

    async def _known(self, page: Sequence[Path]) -> set[Path]:
        """Those that the ledger has, by path and size: they need not be read again."""
        threads, places = self._workspace.ports.file_threads, {path: self._place(path) for path in page}
        sizes = await self._workspace.ledger.transact(partial(sizes_of, places=tuple(places.values())))
        found = await threads.run(lambda: {path: _size_of(path) for path in page})
        return {path for path, place in places.items() if place in sizes and sizes[place] == found[path]}

    async def _looked_at(self, paths: Sequence[Path]) -> list[Seen]:
        seen: dict[Path, Seen] = {}

        async def look(path: Path) -> None:
            seen[path] = await self._workspace.ports.file_threads.run(look_at, path, self._adoption)

        async with anyio.create_task_group() as tasks:
            for path in paths:
                tasks.start_soon(look, path)
        return [seen[path] for path in paths]

    async def _taken_in(self, seen: Sequence[Seen]) -> dict[Path, Adopted]:
        """Files first, then one transaction for all of them."""
        places = {each.path: self._place(each.path) for each in seen}
        ports = self._workspace.ports
        try:
            refused = await ports.file_threads.run(_put_in_place, ports.disk, self._root, seen, places)
        except OSError as error:
            raise cannot_write(self._root, error) from error
        in_place = [each for each in seen if each.path not in refused]
        hex8s, at = [ports.new_hex8() for _ in in_place], ports.clock.wall()
        outcomes = await self._workspace.ledger.transact(
            lambda connection: [
                self._record(connection, each, places[each.path], hex8, at)
                for each, hex8 in zip(in_place, hex8s, strict=True)
            ]
        )
        became = {each.path: Adopted(each, None, refused[each.path]) for each in seen if each.path in refused}
        for each, (outcome, replica) in zip(in_place, outcomes, strict=True):
            became[each.path] = Adopted(each, outcome, _WORDS.get(outcome))
            self._remember(each, replica)
        return became

    def _record(
        self, connection: sqlite3.Connection, seen: Seen, place: str, hex8: str, at: float
    ) -> tuple[Outcome, int]:
        picture, found = seen.picture, seen.adoptable
        assert picture is not None
        assert found is not None
        stored = StoredPicture(
            found.number, place, picture.sha256, picture.size_bytes, picture.format, picture.width, picture.height
        )
        first = self._used.get(found.want(0).content_key, 0)
        return adopt(connection, self._workspace.ports, self._batch, found, stored, first, hex8, at)

    def _remember(self, seen: Seen, replica: int) -> None:
        """Where to look for a free place for the next equal one: else each would go through all before it."""
        if seen.adoptable is not None and seen.adoptable.replica_is_free:
            if len(self._used) >= _MOST_REMEMBERED:
                self._used.clear()
            self._used[seen.adoptable.want(0).content_key] = replica

    def _place(self, path: Path) -> str:
        """Where the picture of a file is, relative to the output root."""
        resolved = path.resolve()
        if resolved.is_relative_to(self._root):
            return resolved.relative_to(self._root).as_posix()
        below = path.relative_to(self._folder)
        return PurePosixPath(FOLDER, safe_name(self._batch.name), *below.parts).as_posix()


def _size_of(path: Path) -> int | None:
    with suppress(OSError):
        return path.stat().st_size
    return None


def _put_in_place(disk: Disk, root: Path, seen: Sequence[Seen], places: Mapping[Path, str]) -> dict[Path, str]:
    """Give the files names in the output root, durably. Returns why some cannot have theirs."""
    refused, folders = {}, set()
    for each in seen:
        place, picture = places[each.path], each.picture
        assert picture is not None
        target = root / place
        if "\\" in place or ":" in PurePosixPath(place).parts[0]:
            refused[each.path] = "its path has a backslash or a colon, which not every system takes"
        elif each.path.resolve() == target:
            continue
        elif not disk.exists(target):
            disk.make_directory(target.parent)
            _name(disk, each.path, target, picture)
            folders.add(target.parent)
        elif hashlib.sha256(disk.read(target)).hexdigest() != picture.sha256:
            refused[each.path] = f"{place} is another file already"
    for folder in folders:
        disk.fsync_directory(folder)
    return refused


def _name(disk: Disk, source: Path, target: Path, picture: Picture) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        temporary = temporary_path(target)
        disk.unlink(temporary)
        disk.write_new(temporary, picture.file_pieces)
        disk.fsync(temporary)
        disk.link(temporary, target)
        disk.unlink(temporary)
    else:
        disk.fsync(target)
