"""A folder of caption files as a prompt file: each `NAME.txt` below it is one prompt, and NAME is the caller's id."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

from asyncgen.errors import InputError
from asyncgen.prompts import BadRow, RawRow, Row, parsed_row

_SUFFIX: Final = ".txt"
_MOST_BYTES: Final = 64 * 1024  # a hundred times what any text encoder reads


class CaptionFolder:
    """The captions below a folder, sorted by their paths; see `PromptRows` for what is read of it.

    The id is the path relative to the folder, with `/` and without the suffix; the text is the whole file, with line
    ends as spaces. Hidden files and folders are left out, links to folders are not followed. A raw row's number counts
    the files. Paths are kept in a table that spills to disk.
    """

    def __init__(self, folder: Path, name: str, digest: bytes = b"") -> None:
        self.name, self._folder = name, folder
        self._hash = hashlib.blake2b(b"captions", digest_size=16, key=digest)

    def rows(self) -> Iterator[RawRow | BadRow]:
        for number, path in enumerate(_sorted_captions(self._folder), start=1):
            try:
                data = _read(self._folder / path)
            except InputError as error:
                yield BadRow(number, error.at(self._where(path)))
            else:
                key = self._hash.copy()
                key.update(os.fsencode(path) + b"\0" + data)
                yield RawRow(number, (path, data), key.digest())

    def parse(self, raw: RawRow | BadRow) -> Row | BadRow:
        if isinstance(raw, BadRow):
            return raw
        path, data = raw.content
        text = " ".join(data.decode("utf-8", "surrogateescape").removeprefix("\ufeff").splitlines()).strip()
        return parsed_row(raw, self._where(path), lambda: {"prompt": text, "id": path[: -len(_SUFFIX)]})

    def _where(self, path: str) -> str:
        return f"{self.name.rstrip('/')}/{path}"


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})") from error
    if len(data) > _MOST_BYTES:
        raise InputError(f"is longer than {_MOST_BYTES // 1024} KiB: no text encoder reads so much")
    return data


def _sorted_captions(folder: Path) -> Iterator[str]:
    with closing(sqlite3.connect("", check_same_thread=False)) as table:
        table.execute("CREATE TABLE caption (path BLOB PRIMARY KEY) WITHOUT ROWID")
        table.executemany("INSERT INTO caption VALUES (?)", ((os.fsencode(path),) for path in _captions(folder)))
        for (path,) in table.execute("SELECT path FROM caption ORDER BY path"):
            yield os.fsdecode(path)


def _captions(folder: Path) -> Iterator[str]:
    def refuse(error: OSError) -> None:
        raise InputError(f"cannot be read ({error.strerror})", where=str(error.filename)) from error

    for place, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if name.lower().endswith(_SUFFIX) and not name.startswith("."):
                yield Path(place, name).relative_to(folder).as_posix()
