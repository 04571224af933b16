"""Pictures that were made elsewhere, in the ledger: the SQL that takes them in, in a transaction of somebody else's."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from enum import StrEnum
from itertools import count
from typing import Final

from asyncgen import rows
from asyncgen.adoption import Adoptable
from asyncgen.lifecycle import FAILURES, State
from asyncgen.ports import Ports
from asyncgen.records import ADOPTED, Batch, StoredPicture, Want

#: Where nothing is out for an image and it has no picture, so that one can be given to it.
_WITHOUT_PICTURE: Final = frozenset({State.WANTED, State.CANCELLED, *FAILURES})


class Outcome(StrEnum):
    """What became of a file."""

    ADOPTED = "adopted"
    ADDED = "added"  # to the other pictures of its job, which were adopted before
    THERE = "there"  # the ledger has it already
    TAKEN = "taken"  # the batch has another picture of its image, or a job for it is out
    REPLACED = "replaced"  # the ledger has its path with other content


def sizes_of(connection: sqlite3.Connection, places: Sequence[str]) -> dict[str, int]:
    """The sizes in bytes of the pictures that the ledger has under these paths."""
    query = f"SELECT path, size_bytes FROM image WHERE path IN ({', '.join('?' * len(places))})"  # noqa: S608 - places
    return {row["path"]: row["size_bytes"] for row in connection.execute(query, tuple(places))}


def adopt(
    connection: sqlite3.Connection,
    ports: Ports,
    batch: Batch,
    found: Adoptable,
    picture: StoredPicture,
    first_replica: int,
    hex8: str,
    at: float,
) -> tuple[Outcome, int]:
    """Take a picture in: its item is stored, has no job and cost nothing. Also returns which replica it is.

    Of equal images it is the first from `first_replica` on that has no picture. `hex8` is for its request id.
    """
    known = connection.execute("SELECT sha256 FROM image WHERE path = ?", (picture.path,)).fetchone()
    if known is not None:
        return (Outcome.THERE if known["sha256"] == picture.sha256 else Outcome.REPLACED), first_replica
    for replica in count(first_replica) if found.replica_is_free else (found.replica,):
        want = found.want(replica)
        item_id = _item_for(connection, ports, batch, want, hex8, at)
        if item_id is not None:
            _store(connection, item_id, want, picture, f"adopted: made elsewhere, by what {found.said_by} says", at)
            return Outcome.ADOPTED, replica
        if _is_added(connection, batch, want, picture):
            return Outcome.ADDED, replica
    return Outcome.TAKEN, first_replica


def _item_for(
    connection: sqlite3.Connection, ports: Ports, batch: Batch, want: Want, hex8: str, at: float
) -> int | None:
    """The item of this want, new or waiting for a picture; None where it has one, or a job for it is out."""
    query = "SELECT id, state FROM item WHERE batch_id = ? AND content_key = ? AND occurrence = 0"
    row = connection.execute(query, (batch.id, want.content_key)).fetchone()
    if row is None:
        return rows.insert_item(connection, ports, batch, want, 0, hex8, 0, at).id
    if State(row["state"]) not in _WITHOUT_PICTURE:
        return None
    if row["state"] != State.WANTED:
        _update(connection, row["id"], state=State.WANTED, state_at=at, detail="a picture of it was found elsewhere")
    return int(row["id"])


def _is_added(connection: sqlite3.Connection, batch: Batch, want: Want, picture: StoredPicture) -> bool:
    """Whether the want's item has been adopted with pictures of the same job, and now has this one too."""
    query = (
        "SELECT id FROM item WHERE batch_id = ? AND content_key = ? AND occurrence = 0 AND state = 'stored' "
        "AND endpoint = ? AND seed = ? AND NOT EXISTS "
        "(SELECT 1 FROM image WHERE item_id = item.id AND number = ? AND state = 'stored')"
    )
    parameters = (batch.id, want.content_key, ADOPTED, str(want.fixed_seed), picture.number)
    row = connection.execute(query, parameters).fetchone()
    if row is not None:
        rows.insert_pictures(connection, row["id"], [picture], "stored")
    return row is not None


def _store(
    connection: sqlite3.Connection, item_id: int, want: Want, picture: StoredPicture, detail: str, at: float
) -> None:
    assert want.fixed_seed is not None
    _update(connection, item_id, **rows.columns_of(want, want.fixed_seed), **rows.failure_columns(None))
    give_picture(connection, item_id, picture, detail, at)


def give_picture(connection: sqlite3.Connection, item_id: int, picture: StoredPicture, detail: str, at: float) -> None:
    """A wanted item is stored with a picture that was made elsewhere, and whose file is in place."""
    place = {"endpoint": ADOPTED, "job_id": picture.sha256}
    _update(connection, item_id, state=State.STORED, state_at=at, detail=detail, **place)
    rows.insert_pictures(connection, item_id, [picture], "stored")


def _update(connection: sqlite3.Connection, item_id: int, **columns: object) -> None:
    assignments = ", ".join(f"{name} = ?" for name in columns)
    connection.execute(f"UPDATE item SET {assignments} WHERE id = ?", (*columns.values(), item_id))  # noqa: S608 - ours
