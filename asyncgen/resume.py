"""What a ledger knows of a prompt file's rows, for whoever looks at the file before a run: it need not plan them again.

Only an aid: where the ledger cannot be read, is older or has no such batch, nothing is known. The run asks again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final

from asyncgen import rows
from asyncgen.schema import VERSION, prepare_scratch

_LOOK: Final = 0  # what is met belongs to a run, and a look is none: this connection has no other


class KnownRows:
    """Rows of one batch whose images are there, and which other rows name the same images."""

    def __init__(self, connection: sqlite3.Connection, batch_id: int) -> None:
        self._connection, self._batch_id = connection, batch_id

    def take(self, row_keys: Sequence[bytes]) -> dict[bytes, int]:
        """Of these keys, those that need no planning, and how many images each stands for. A key is taken once."""
        try:
            return rows.take_kept(self._connection, self._batch_id, _LOOK, row_keys)
        except sqlite3.Error:  # the run says what is wrong with the ledger
            return {}

    def meet(self, content_key: bytes) -> bool:
        """A row names the image of this key; whether one has named it before, or has been taken for it."""
        query = "SELECT id FROM item WHERE batch_id = ? AND content_key = ? AND occurrence = 0"
        found = self._connection.execute(query, (self._batch_id, content_key)).fetchone()
        if found is None:
            return False
        return self._connection.execute("INSERT OR IGNORE INTO met VALUES (?, ?)", (_LOOK, *found)).rowcount == 0


@contextmanager
def known_rows(ledger_path: Path, batch_name: str) -> Iterator[KnownRows | None]:
    """What the ledger knows of the batch of this name; None: nothing, or not which batch is meant."""
    if not ledger_path.exists():
        yield None
        return
    uri = f"{ledger_path.resolve().as_uri()}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as connection:
        batch_id = None
        with suppress(sqlite3.Error):
            batch_id = _opened(connection, batch_name)
        yield None if batch_id is None else KnownRows(connection, batch_id)


def _opened(connection: sqlite3.Connection, batch_name: str) -> int | None:
    if connection.execute("PRAGMA user_version").fetchone()[0] != VERSION:
        return None
    prepare_scratch(connection)
    connection.execute("BEGIN")  # one moment of a ledger that another run may be writing
    found = connection.execute("SELECT id FROM batch WHERE name = ?", (batch_name,)).fetchall()
    return int(found[0][0]) if len(found) == 1 else None
