"""The ledger's file: the real SQLite in memory, and what of it is durable.

`commit` is the only moment at which anything becomes durable, as with `synchronous = FULL`. A connection that asks for
less may lose its last commits at a power cut, which is what WAL does then.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import cache
from typing import TYPE_CHECKING, Any

from asyncgen.schema import migrate

if TYPE_CHECKING:
    from .world import World

_FULL = 2
_MOST_USD = """
    SELECT coalesce(sum(usd_per_second * coalesce(execution_ms, CASE
        WHEN outcome = 'cancelled' AND ended_at >= submitted_at
        THEN min(execution_timeout_ms, 1000 * (ended_at - submitted_at)) ELSE execution_timeout_ms END)), 0) / 1000
    FROM job
"""  # what was cancelled cost no more than the time it was out

_UNLISTED = "SELECT count(*) FROM event JOIN manifest WHERE event.id > manifest.event_id AND state = 'stored'"


@cache
def _empty_ledger() -> bytes:
    """As the engine makes it when there is none; making one takes a tenth of a seed's time."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        migrate(connection)
        return connection.serialize()


class LedgerFile:
    """`image` is the database as the next process finds it, None while there is none."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.image = None if world.pick.chance(10, "no ledger yet") else _empty_ledger()
        self.failed_in: set[int] = set()  # lives in which a commit failed
        self._synced = self.image
        self._unsynced: list[bytes] = []
        self._open: sqlite3.Connection | None = None

    def connect(self, life: int) -> sqlite3.Connection:
        """The port: the one writing connection of a life."""
        file, world = self, self._world

        class Connection(sqlite3.Connection):
            def commit(self) -> None:
                world.guard(life)
                world.tick("before a commit")
                world.guard(life)
                if not world.calm and world.pick.chance(world.fault_percent / 60, "ledger full"):
                    world.books.hit("disk: commit fails")
                    file.failed_in.add(life)
                    raise sqlite3.OperationalError("database or disk is full")
                super().commit()
                file._keep(self)
                world.log("commit")
                world.watch.committed()
                world.tick("after a commit")

            def close(self) -> None:
                file._open = None
                super().close()

        connection = sqlite3.connect(":memory:", isolation_level=None, factory=Connection)
        if self.image is not None:
            connection.deserialize(self.image)
        self._open = connection
        return connection

    def rows(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """What the durable ledger says now."""
        if self._open is not None and not self._open.in_transaction:
            return self._open.execute(query, parameters).fetchall()
        if self.image is None:
            return []
        connection = sqlite3.connect(":memory:")
        connection.deserialize(self.image)
        try:
            return connection.execute(query, parameters).fetchall()
        finally:
            connection.close()

    def last_event(self) -> int:
        """The id of the newest event, 0 where there is none."""
        return self.rows("SELECT coalesce(max(id), 0) FROM event")[0][0] if self.image else 0

    def runs_begun(self) -> int:
        """How many runs have been recorded."""
        return self.rows("SELECT count(*) FROM run")[0][0] if self.image else 0

    def unlisted(self) -> int:
        """How many images were stored since the manifest was last brought up to date."""
        return self.rows(_UNLISTED)[0][0] if self.image else 0

    def most_usd(self) -> float:
        """The most that every job in it, and whatever may have become one, can have cost."""
        return self.rows(_MOST_USD)[0][0] if self.image else 0.0

    def end_life(self) -> None:
        """Its connection is gone with the process."""
        self._open = None

    @property
    def is_durable(self) -> bool:
        """Whether a power cut now would lose nothing."""
        return not self._unsynced

    def after_crash(self, draw: Callable[..., int], *, power_cut: bool) -> None:
        """What the next process finds: everything, but for commits that asked for less than a flush."""
        if power_cut and self._unsynced:
            kept = len(self._unsynced) - draw(len(self._unsynced) + 1, "commits lost")
            self.image = self._unsynced[kept - 1] if kept else self._synced
        self._synced, self._unsynced = self.image, []

    def _keep(self, connection: sqlite3.Connection) -> None:
        self.image = connection.serialize()
        if connection.execute("PRAGMA synchronous").fetchone()[0] >= _FULL:
            self._synced, self._unsynced = self.image, []
        else:
            self._unsynced.append(self.image)
