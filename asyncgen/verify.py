"""What is wrong with an output root: every file is hashed, folders and manifest are compared with the ledger.

It reads page by page, beside a run too, and changes nothing. Blocking; a few threads hash.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sqlite3
import stat
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Any, Final

from asyncgen import manifest
from asyncgen.documents import parse_json
from asyncgen.errors import LedgerError
from asyncgen.manifest_lines import MOST_LINE_BYTES
from asyncgen.schema import check_identity, check_version
from asyncgen.store import temporary_path

_PAGE: Final = 500
_THREADS: Final = 4
_PICTURE: Final = re.compile(r"(?P<hidden>\.?)(?P<picture>.+\.(?:png|jpe?g|webp))(?P<part>\.part)?", re.IGNORECASE)
_MOST_FAULTS: Final = 20
_STORED: Final = """
    SELECT image.id, item_id, path, sha256, size_bytes FROM image
    WHERE id > ? AND state = 'stored' AND path IS NOT NULL ORDER BY id LIMIT ?
"""
_WITHOUT_PICTURE: Final = """
    SELECT id, request_id FROM item
    WHERE state = 'stored' AND NOT EXISTS (SELECT 1 FROM image WHERE item_id = item.id AND state = 'stored')
"""
# A path without its file name: what is not a slash is taken off its end.
_FOLDERS: Final = "SELECT DISTINCT rtrim(path, replace(path, '/', '')) AS folder FROM image WHERE path IS NOT NULL"


class Kind(StrEnum):
    """What is wrong, and what `--repair` does about it."""

    LEDGER = "ledger"  # damaged or gone: rebuilt
    MISSING = "missing"  # a picture: its image is lost, and `--retry-failed` buys it again
    DAMAGED = "damaged"  # the same
    UNREADABLE = "unreadable"  # only told: the file may be whole
    MANIFEST = "manifest"  # written anew
    LEFT_OVER = "left_over"  # a temporary file of ours that nobody will come back for: removed
    UNKNOWN = "unknown"  # a picture that no record knows: only told, never touched


#: What makes `asyncgen verify` say that something is wrong; the others are told in passing.
WRONG: Final = frozenset({Kind.LEDGER, Kind.MISSING, Kind.DAMAGED, Kind.UNREADABLE, Kind.MANIFEST})


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is not as it should be. `path` is relative to the output root; `item_id` None: of no one image."""

    kind: Kind
    path: str
    words: str
    item_id: int | None = None


def ledger_problems(ledger_path: Path) -> list[Problem]:
    """What SQLite finds wrong with a ledger's file, or that there is none; empty where it is sound.

    Raises `LedgerError` where it cannot be read for another reason, or is a database of another program or version.
    """
    faults = _faults(ledger_path) if ledger_path.exists() else ["there is none"]
    return [Problem(Kind.LEDGER, ledger_path.name, fault) for fault in faults]


def _faults(ledger_path: Path) -> list[str]:
    try:
        with closing(sqlite3.connect(f"{ledger_path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            check_identity(connection)
            check_version(connection)
            if connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0:
                return ["it is empty"]
            found = [str(row[0]) for row in connection.execute(f"PRAGMA integrity_check({_MOST_FAULTS})")]
            orphans = connection.execute("PRAGMA foreign_key_check").fetchmany(_MOST_FAULTS)
    except UnicodeDecodeError:
        return ["a name in it cannot be read"]
    except sqlite3.Error as error:
        if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return [str(error)]
        raise LedgerError(f"{ledger_path} cannot be read ({error}): check the disk and its permissions") from error
    return [fault for fault in found if fault != "ok"] + [f"{row[0]} {row[1]} refers to nothing" for row in orphans]


class Verification:
    """One look at an output root through a connection to its ledger, as `asyncgen.report.reading` opens it."""

    def __init__(self, root: Path, connection: sqlite3.Connection) -> None:
        connection.rollback()  # from here each page is read at a moment of its own: a run's log must not pile up
        self._root, self._connection = root, connection
        self.pictures = 0

    def problems(self, *, with_manifest: bool = True) -> Iterator[Problem]:
        """Everything that is wrong, as it is found, so that it may be mended meanwhile."""
        if with_manifest:  # first, because mending files changes what it should say
            yield from self._manifest()
        yield from self._files()
        yield from self._folders()

    # -- files ---------------------------------------------------------------------------------------------------

    def _files(self) -> Iterator[Problem]:
        for row in self._connection.execute(_WITHOUT_PICTURE).fetchall():
            yield Problem(Kind.MISSING, row["request_id"], "the ledger has no picture of it", row["id"])
        after = 0
        with ThreadPoolExecutor(_THREADS, "asyncgen-verify") as threads:
            while page := self._connection.execute(_STORED, (after, _PAGE)).fetchall():
                after = page[-1]["id"]
                self.pictures += len(page)
                yield from filter(None, threads.map(self._problem_of, page))

    def _problem_of(self, row: sqlite3.Row) -> Problem | None:
        """Runs on a thread of its own."""
        try:
            fault = _looked_at(self._root / row["path"], row["size_bytes"], row["sha256"])
        except OSError as error:
            fault = Kind.UNREADABLE, f"cannot be read ({error.strerror})"
        return fault and Problem(fault[0], row["path"], fault[1], row["item_id"])

    # -- folders -------------------------------------------------------------------------------------------------

    def _folders(self) -> Iterator[Problem]:
        unfinished = temporary_path(self._root / manifest.FILE_NAME)
        if unfinished.exists():
            yield Problem(Kind.LEFT_OVER, unfinished.name, "a manifest that was not finished")
        ours = {folder for (folder,) in self._connection.execute(_FOLDERS).fetchall()}
        for folder in sorted({"", *ours}.union(*(self._below(f"{top}/") for top in _tops(ours)))):
            try:
                with os.scandir(self._root / folder) as entries:
                    names = (os.fsencode(entry.name).decode("utf-8", "replace") for entry in entries)
                    while page := list(islice(names, _PAGE)):
                        yield from self._strangers(folder, page, with_pictures=folder in ours)
            except FileNotFoundError:
                continue  # its pictures have been told
            except OSError as error:
                yield Problem(Kind.UNREADABLE, folder, f"cannot be read ({error.strerror})")

    def _below(self, top: str) -> Iterator[str]:
        """A folder and those in it, but for other output roots, whose runs we know nothing of."""
        for path, folders, files in os.walk(self._root / top):
            if manifest.FILE_NAME in files:
                folders.clear()
            elif os.fsencode(path).decode("utf-8", "replace") == path:  # ours have names that can be written
                yield f"{Path(path).relative_to(self._root).as_posix()}/"

    def _strangers(self, folder: str, names: list[str], *, with_pictures: bool) -> Iterator[Problem]:
        """The ledger knows of each file before there is one, and is asked later: what it lacks is nobody's.

        Pictures that it lacks are told only of folders that hold some of ours: any other may be somebody's collection.
        """
        found = [match for match in map(_PICTURE.fullmatch, names) if match]
        states = self._states({f"{folder}{path}" for match in found for path in (match[0], match["picture"])})
        for match in found:
            path = f"{folder}{match[0]}"
            if match["hidden"] and match["part"]:
                if states.get(f"{folder}{match['picture']}") != "storing":
                    yield Problem(Kind.LEFT_OVER, path, "a picture that was not finished")
            elif with_pictures and not match["part"] and path not in states:
                yield Problem(Kind.UNKNOWN, path, "no record knows this picture")

    def _states(self, paths: set[str]) -> dict[str, str]:
        """The states of the pictures that the ledger has under these paths."""
        query = f"SELECT path, state FROM image WHERE path IN ({', '.join('?' * len(paths))})"  # noqa: S608 - only places
        return {row["path"]: row["state"] for row in self._connection.execute(query, tuple(paths))}

    # -- the manifest --------------------------------------------------------------------------------------------

    def _manifest(self) -> Iterator[Problem]:
        """A run goes on adding lines: those before this moment must be there, later ones may."""
        written_event = self._connection.execute("SELECT event_id FROM manifest").fetchone()[0]
        with closing(sqlite3.connect("")) as found:  # spills to disk: a manifest may have millions of lines
            found.execute("CREATE TABLE line (request_id, number, place, text, PRIMARY KEY (request_id, number))")
            yield from _read_lines(self._root / manifest.FILE_NAME, found)
            take = "DELETE FROM line WHERE request_id = ? AND number = ? RETURNING place, text"
            for event_id, expected in manifest.lines(self._connection):
                line = found.execute(take, (expected["request_id"], expected["number"])).fetchall()
                if not line and event_id <= written_event:
                    yield _manifest_problem(f"there is no line for {expected['path'] or expected['request_id']}")
                elif line and not _agree(json.loads(line[0][1]), expected):
                    yield _manifest_problem(f"line {line[0][0]} differs from the ledger")
            for (place,) in found.execute("SELECT place FROM line ORDER BY place"):
                yield _manifest_problem(f"line {place} is of no picture that the ledger has")


def _tops(folders: Iterable[str]) -> set[str]:
    """The folders of the output root in which these are."""
    return {folder.partition("/")[0] for folder in folders if folder}


def _looked_at(path: Path, size_bytes: int, sha256: str) -> tuple[Kind, str] | None:
    """What is wrong with a file, None where it is whole. Raises `OSError` where that cannot be seen."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            return Kind.DAMAGED, "is no file"
        if found.st_size != size_bytes:
            return Kind.DAMAGED, f"has {found.st_size:,} bytes instead of {size_bytes:,}"
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                return Kind.DAMAGED, "has other content than was stored"
    except (FileNotFoundError, NotADirectoryError):
        return Kind.MISSING, "is not there"
    return None


def _read_lines(path: Path, found: sqlite3.Connection) -> Iterator[Problem]:
    """Put the lines of a manifest into the table, and tell those that are no line or come twice."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for place, text in enumerate(iter(lambda: file.readline(MOST_LINE_BYTES), b""), 1):
            try:
                line = parse_json(text.decode())
                row = (str(line["request_id"]), int(line["number"]), place, text.decode())
                is_new = found.execute("INSERT OR IGNORE INTO line VALUES (?, ?, ?, ?)", row).rowcount == 1
            except (ValueError, TypeError, KeyError, OverflowError):
                yield _manifest_problem(f"line {place} cannot be read")
                continue
            if not is_new:
                yield _manifest_problem(f"line {place} is of a picture that an earlier line has")


def _agree(line: dict[str, Any], expected: dict[str, Any]) -> bool:
    """Whether a line is true. One that an older asyncgen wrote says less."""
    return line.keys() <= expected.keys() and all(expected[name] == value for name, value in line.items())


def _manifest_problem(words: str) -> Problem:
    return Problem(Kind.MANIFEST, manifest.FILE_NAME, words)
