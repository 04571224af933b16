"""Reads whatever SQLite can still read of a damaged database: ranges of rows, halved until what fails is alone."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final

#: SQLite's word for what it cannot read; the other comes from a damaged name in that word.
UNREADABLE: Final = (sqlite3.DatabaseError, UnicodeDecodeError)
_RANGE_ROWS: Final = 512
#: A table has at most one row for so many bytes of the file, and few gaps between them.
_LEAST_ROW_BYTES: Final = 16
_MOST_ROWS_GUESSED: Final = 100_000


class Salvage:
    """The rows of a damaged database. `unreadable` counts, by table, those that cannot be read; it may count gaps."""

    def __init__(self, connection: sqlite3.Connection, size_bytes: int) -> None:
        self._connection, self._size_bytes = connection, size_bytes
        self.unreadable: Counter[str] = Counter()

    def rows(self, table: str) -> Iterator[sqlite3.Row]:
        """The rows of a table of ours that can be read, by their ids; none where the table itself cannot be found."""
        last = self._last_row(table)
        for first in range(1, last + 1, _RANGE_ROWS):
            yield from self._between(table, first, min(last, first + _RANGE_ROWS - 1))

    def _between(self, table: str, first: int, last: int) -> Iterator[sqlite3.Row]:
        query = f"SELECT * FROM {table} NOT INDEXED WHERE rowid BETWEEN ? AND ?"  # noqa: S608 - the names are ours
        ranges = [(first, last)]
        while ranges:
            low, high = ranges.pop()
            try:
                rows = self._connection.execute(query, (low, high)).fetchall()
            except UNREADABLE:
                if low == high:
                    self.unreadable[table] += 1
                    continue
                middle = (low + high) // 2
                ranges += [(middle + 1, high), (low, middle)]
            else:
                yield from rows

    def _last_row(self, table: str) -> int:
        """The highest id: of the table, or, where that page is gone, of an index, which has pages of its own."""
        possible = self._size_bytes // _LEAST_ROW_BYTES
        places = ["NOT INDEXED", *(f'INDEXED BY "{index}"' for index in self._indexes(table))]
        for place in places:
            with suppress(*UNREADABLE):
                query = f"SELECT max(rowid) FROM {table} {place}"  # noqa: S608 - the names are ours
                last = int(self._connection.execute(query).fetchone()[0] or 0)
                if last <= possible:  # else it was read from where the damage is
                    return last
        return min(_MOST_ROWS_GUESSED, possible) if self._has(table) else 0

    def _indexes(self, table: str) -> list[str]:
        return self._names("SELECT name FROM sqlite_schema WHERE type = 'index' AND tbl_name = ?", table)

    def _has(self, table: str) -> bool:
        return bool(self._names("SELECT name FROM sqlite_schema WHERE type = 'table' AND name = ?", table))

    def _names(self, query: str, table: str) -> list[str]:
        with suppress(*UNREADABLE):
            return [row["name"] for row in self._connection.execute(query, (table,))]
        return []


@contextmanager
def salvaging(path: Path) -> Iterator[Salvage]:
    """Open a damaged database, with the write-ahead log that may be beside it, and change neither."""
    is_alone = not path.with_name(f"{path.name}-wal").exists()  # then SQLite need not make files beside it
    address = f"{path.resolve().as_uri()}?mode=ro{'&immutable=1' if is_alone else ''}"
    with closing(sqlite3.connect(address, uri=True)) as connection:
        connection.row_factory = sqlite3.Row
        yield Salvage(connection, path.stat().st_size)
