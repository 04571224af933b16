"""The ledger's file: its settings, its versions, whose it is, and what can be wrong with it."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from asyncgen import assets
from asyncgen.errors import LedgerError, LedgerVersionError

VERSION: Final = 4
PRAGMAS: Final = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",  # NORMAL may lose acknowledged commits at a power cut: a paid job's id must not be one
    "PRAGMA fullfsync = ON",  # macOS: fsync alone does not reach the platter
    "PRAGMA foreign_keys = ON",
)


class PathTakenError(Exception):
    """A picture of the ledger has this path already. Never leaves the engine."""


def prepare(connection: sqlite3.Connection, output_root: str) -> None:
    """Bring an open connection and its file to where the ledger can work with them. Raises `LedgerError`."""
    check_identity(connection)
    for pragma in PRAGMAS:
        connection.execute(pragma)
    migrate(connection)
    prepare_scratch(connection)
    _check_output_root(connection, output_root)


def prepare_scratch(connection: sqlite3.Connection) -> None:
    """What a run has met of its batch, in tables that are the connection's own and spill to disk.

    `met`: its items; `again`: how often it has met a key again after that.
    """
    connection.execute(
        "PRAGMA temp_store = FILE"
    )  # inputs may have millions of rows, our memory must not grow with them
    connection.execute(
        "CREATE TEMP TABLE IF NOT EXISTS met (run_id INTEGER, item_id INTEGER, PRIMARY KEY (run_id, item_id)) "
        "WITHOUT ROWID"
    )
    connection.execute(
        "CREATE TEMP TABLE IF NOT EXISTS again (run_id INTEGER, content_key BLOB, count INTEGER, "
        "PRIMARY KEY (run_id, content_key)) WITHOUT ROWID"
    )


def check_identity(connection: sqlite3.Connection) -> None:
    """Refuse a database of somebody else's before anything is changed in it. Raises `LedgerError`."""
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    if tables and not {"batch", "item", "manifest"} <= tables:
        raise LedgerError("the file is a database, but no ledger: name another one with ASYNCGEN_LEDGER")


def _check_output_root(connection: sqlite3.Connection, output_root: str) -> None:
    """Paths and manifest of one ledger belong to one output root; the first to use it decides which."""
    connection.execute("UPDATE manifest SET output_root = ? WHERE output_root IS NULL", (output_root,))
    owner = connection.execute("SELECT output_root FROM manifest").fetchone()[0]
    if owner != output_root:
        owner = "the folder it is in" if owner == "." else owner
        raise LedgerError(f"the ledger belongs to another output root ({owner}): name that one, or another ledger")


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the schema up to date. Raises `LedgerVersionError` for a newer one."""
    found = check_version(connection)
    for version in range(found + 1, VERSION + 1):
        script = _migration(version).read_text(encoding="utf-8")
        connection.executescript(f"BEGIN IMMEDIATE;\n{script}\nPRAGMA user_version = {version};\nCOMMIT;")


def check_version(connection: sqlite3.Connection) -> int:
    """The version of the schema, 0 for an empty file. Raises `LedgerVersionError` for one that we do not know."""
    found = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if found > VERSION:
        raise LedgerVersionError(
            f"the ledger has version {found}, this asyncgen knows up to {VERSION}: install a newer asyncgen"
        )
    return found


def _migration(version: int) -> Path:
    folder = assets.data_path("resources", "sql")
    return next(folder.glob(f"{version:04d}_*.sql"))


def as_ledger_error(error: Exception) -> Exception:
    """SQLite's errors in words an owner can act on; a bug of ours stays what it is."""
    if isinstance(error, sqlite3.IntegrityError) and "image.path" in str(error):
        return PathTakenError()
    if not isinstance(error, sqlite3.Error) or isinstance(error, sqlite3.IntegrityError | sqlite3.ProgrammingError):
        return error
    return LedgerError(f"the ledger cannot be used ({error}): {cure_of(error)}")


def cure_of(error: sqlite3.Error) -> str:
    """What an owner can do about what SQLite says of a ledger's file."""
    cures = {
        "full": "free some space and start the run again; nothing that was recorded is lost",
        "locked": "another program has the file open for writing; close it",
        "readonly": "make the ledger file and its folder writable",
        "malformed": "the file is damaged; keep a copy of it, then rebuild it with `asyncgen verify --repair`",
        "not a database": "rebuild it with `asyncgen verify --repair`, or name another one with ASYNCGEN_LEDGER",
        "no such table": "it has nothing of a ledger in it; rebuild it with `asyncgen verify --repair`",
        "moved or removed": "put it back where it was and start the run again; what is out is known to it alone",
    }
    text = str(error)
    return next((cure for word, cure in cures.items() if word in text), "check the disk and the folder's permissions")
