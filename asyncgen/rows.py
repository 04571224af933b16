"""The rows of the ledger: the SQL behind its operations, on a connection inside a transaction of somebody else's."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from asyncgen.checks import seed_after
from asyncgen.errors import Failure, FailureClass, FailureCode
from asyncgen.lifecycle import State
from asyncgen.ports import Ports
from asyncgen.protocol import Timing
from asyncgen.records import Batch, Item, Look, Sibling, Spec, StoredPicture, Terms, Want
from asyncgen.request import MAX_SEED, ImageRequest

#: What belongs to a move: more SQL of the same transaction, given the time of the move.
Also = Callable[[sqlite3.Connection, float], object]
#: Pictures that an item has not been compared with yet.
Unlike = Callable[[sqlite3.Connection], list[Sibling]]
#: The row of an item's last submission: what it was bought with, or may have been.
LAST_JOB: Final = "job.id = (SELECT max(id) FROM job WHERE item_id = item.id)"
#: How many milliseconds an ended job has run, or can have run at the most where it never said: the limit that was sent
#: with it, and for one that was cancelled no longer than it was there. A wall clock that was set back tells nothing.
MOST_MS: Final = """coalesce(execution_ms, CASE WHEN outcome = 'cancelled' AND ended_at >= submitted_at
    THEN min(job.execution_timeout_ms, (ended_at - submitted_at) * 1000) ELSE job.execution_timeout_ms END)"""
_PAGE: Final = 256
_WITH_PICTURES: Final = (State.STORED, State.STORING)
_THIS_JOB: Final = "id = (SELECT max(id) FROM job WHERE item_id = ?)"
_NEVER_LEARNED: Final = (
    "the process ended while the submission was in the air; whether it was accepted was never learned"
)
_ID_TELLS: Final = "the process ended while POST /retry was in the air: the job's id tells whether it runs again"
_UNKNOWN_JOB: Final = f"UPDATE job SET outcome = 'unknown' WHERE {_THIS_JOB}"  # noqa: S608 - the names are ours


def failure_columns(failure: Failure | None) -> dict[str, Any]:
    """What an item says of its failure, None for none."""
    if failure is None:
        return {"failure_class": None, "failure_code": None, "failure_message": None}
    return {"failure_class": failure.kind, "failure_code": failure.code, "failure_message": failure.message}


@lru_cache
def move_statement(columns: tuple[str, ...]) -> str:
    """Sets these columns of one item, which must be in a state that is named last; there are a dozen such sets."""
    assignments = ", ".join(f"{name} = ?" for name in columns)
    return f"UPDATE item SET {assignments} WHERE id = ? AND state = ?"  # noqa: S608 - the names are ours


def settle_in_the_air(connection: sqlite3.Connection, at: float) -> int:
    """Whether what a process that has ended had in the air was accepted.

    Of a submission that will never be known; returns how many there were. Of a retry the job's id tells.
    """
    connection.execute("BEGIN IMMEDIATE")
    query = "SELECT id, job_id FROM item WHERE batch_id IN (SELECT id FROM batch) AND state = ?"  # which has an index
    found = connection.execute(query, (State.SUBMITTING,)).fetchall()
    submissions = [row["id"] for row in found if row["job_id"] is None]
    failure = Failure(FailureClass.TRANSPORT, FailureCode.UNREACHABLE, _NEVER_LEARNED)
    unknown = {"state": State.UNKNOWN, "state_at": at, "detail": failure.message, **failure_columns(failure)}
    _update_items(connection, submissions, unknown)
    connection.executemany(_UNKNOWN_JOB, [(item_id,) for item_id in submissions])
    retries = [row["id"] for row in found if row["job_id"] is not None]
    unconfirmed = {"state": State.ACCEPTED, "state_at": at, "detail": _ID_TELLS, "accepted_at": None}
    _update_items(connection, retries, unconfirmed)
    connection.execute("UPDATE run SET ended_at = ?, outcome = 'died' WHERE ended_at IS NULL", (at,))
    connection.commit()
    return len(submissions)


def _update_items(connection: sqlite3.Connection, item_ids: Sequence[int], columns: Mapping[str, Any]) -> None:
    assignments = ", ".join(f"{name} = ?" for name in columns)
    connection.executemany(
        f"UPDATE item SET {assignments} WHERE id = ?",  # noqa: S608 - the names are ours
        [(*columns.values(), item_id) for item_id in item_ids],
    )


def open_batch(connection: sqlite3.Connection, name: str, realm: str, new_set: bool, at: float) -> Batch:
    """The batch of that name, or a new one of the next free name."""
    wanted, number = name, 1
    while row := connection.execute("SELECT id FROM batch WHERE realm = ? AND name = ?", (realm, wanted)).fetchone():
        if not new_set:
            return Batch(row[0], wanted, realm, is_new=False)
        number += 1
        wanted = f"{name}-{number}"
    cursor = connection.execute("INSERT INTO batch (name, realm, created_at) VALUES (?, ?, ?)", (wanted, realm, at))
    return Batch(_row_id(cursor), wanted, realm, is_new=True)


def begin_run(connection: sqlite3.Connection, batch_id: int, at: float) -> int:
    """A run of a batch begins; its number."""
    return _row_id(connection.execute("INSERT INTO run (batch_id, started_at) VALUES (?, ?)", (batch_id, at)))


def end_run(connection: sqlite3.Connection, run_id: int, outcome: str, at: float) -> None:
    """A run has ended, and what it has met is forgotten."""
    connection.execute("UPDATE run SET ended_at = ?, outcome = ? WHERE id = ?", (at, outcome, run_id))
    connection.execute("DELETE FROM met WHERE run_id = ?", (run_id,))
    connection.execute("DELETE FROM again WHERE run_id = ?", (run_id,))


def _row_id(cursor: sqlite3.Cursor) -> int:
    assert cursor.lastrowid is not None
    return cursor.lastrowid


def claim(
    connection: sqlite3.Connection,
    ports: Ports,
    batch: Batch,
    run_id: int,
    wants: Sequence[Want],
    in_work: Collection[int],
    drawn: Sequence[tuple[str, int]],
    at: float,
) -> list[Item]:
    """See `Ledger.claim`; `drawn` are an id and a seed for each want that turns out to be new."""
    found = _find(connection, batch, run_id, wants)
    items, first = [], []
    for want, (hex8, seed) in zip(wants, drawn, strict=True):
        row = found.by_key.get(want.content_key) if want.item_id is None else found.by_id[want.item_id]
        again = want.item_id is None and want.content_key in found.met_keys
        one_image = want.fixed_seed is not None or want.request.id is not None
        occurrence = 0
        if again:
            occurrence = 0 if one_image else _count_again(connection, run_id, want.content_key)
            row = _row_of(connection, batch, want.content_key, occurrence)
        if row is None:
            item = insert_item(connection, ports, batch, want, occurrence, hex8, seed, at)
            item.run_id = run_id
        else:
            item = _found_item(connection, row, run_id, want, found.pictures, in_work)
        item.repeats = again and one_image
        items.append(item)
        if want.item_id is None and not again:
            found.met_keys.add(want.content_key)
            first.append(item.id)
    _note_met(connection, run_id, first)
    return items


def take_kept(
    connection: sqlite3.Connection, batch_id: int, run_id: int, row_keys: Sequence[bytes], but: Collection[int] = ()
) -> dict[bytes, int]:
    """See `Ledger.take_kept`."""
    query = (
        "SELECT row_key, row_images, id FROM item INDEXED BY item_by_row "  # by its state it would read the whole batch
        "WHERE batch_id = ? AND state = 'stored' AND occurrence = 0 "
        "AND NOT EXISTS (SELECT 1 FROM met WHERE run_id = ? AND item_id = item.id) AND row_key IN "
    )
    cursor = connection.cursor()
    cursor.row_factory = None  # plain tuples: there may be a million
    found = [
        row for row in cursor.execute(query + places(row_keys), (batch_id, run_id, *row_keys)) if row[2] not in but
    ]
    stored = Counter(row_key for row_key, images, _ in found if images > 1)
    kept = {row_key: images for row_key, images, _ in found if images == 1 or stored[row_key] == images}
    _note_met(connection, run_id, sorted(item_id for row_key, _, item_id in found if row_key in kept))
    return kept


@dataclass(slots=True)
class _Found:
    """What the ledger has of some wants: rows by id where they name one, else by content key (the first occurrence).

    `met_keys` are those that the run has met before, `pictures` those of the items that have some.
    """

    by_id: dict[int, sqlite3.Row]
    by_key: dict[bytes, sqlite3.Row]
    met_keys: set[bytes]
    pictures: Mapping[int, tuple[StoredPicture, ...]]


def _find(connection: sqlite3.Connection, batch: Batch, run_id: int, wants: Sequence[Want]) -> _Found:
    """In a few statements for all of them: a statement for each took longer than all else that a claim does."""
    ids = [want.item_id for want in wants if want.item_id is not None]
    keys = [want.content_key for want in wants if want.item_id is None]
    query = "SELECT *, NULL AS met_by FROM item WHERE id IN "
    by_id = {row["id"]: row for row in connection.execute(query + places(ids), ids)}
    query = (
        "SELECT item.*, met.run_id AS met_by FROM item LEFT JOIN met ON met.run_id = ? AND met.item_id = item.id "
        "WHERE batch_id = ? AND occurrence = 0 AND content_key IN "
    )
    found = connection.execute(query + places(keys), (run_id, batch.id, *keys)).fetchall()
    by_key = {row["content_key"]: row for row in found}
    met_keys = {row["content_key"] for row in found if row["met_by"] is not None}
    stored = [row["id"] for row in (*by_id.values(), *found) if row["state"] in _WITH_PICTURES]
    return _Found(by_id, by_key, met_keys, _pictures(connection, stored))


def places(values: Sized) -> str:
    """A list of so many parameters."""
    return f"({', '.join('?' * len(values))})"


def _note_met(connection: sqlite3.Connection, run_id: int, item_ids: Iterable[int]) -> None:
    connection.executemany("INSERT OR IGNORE INTO met VALUES (?, ?)", [(run_id, item_id) for item_id in item_ids])


def _count_again(connection: sqlite3.Connection, run_id: int, content_key: bytes) -> int:
    """How often this run has met the key after the first time."""
    row = connection.execute(
        "INSERT INTO again VALUES (?, ?, 1) ON CONFLICT DO UPDATE SET count = count + 1 RETURNING count",
        (run_id, content_key),
    ).fetchone()
    return int(row[0])


def _row_of(connection: sqlite3.Connection, batch: Batch, content_key: bytes, occurrence: int) -> sqlite3.Row | None:
    query = "SELECT * FROM item WHERE batch_id = ? AND content_key = ? AND occurrence = ?"
    row: sqlite3.Row | None = connection.execute(query, (batch.id, content_key, occurrence)).fetchone()
    return row


def _found_item(
    connection: sqlite3.Connection,
    row: sqlite3.Row,
    run_id: int,
    want: Want,
    pictures: Mapping[int, tuple[StoredPicture, ...]],
    in_work: Collection[int],
) -> Item:
    item = item_of(connection, row, run_id, pictures.get(row["id"]))
    item.changed = row["fingerprint"] != want.fingerprint or not _has_seed(item, want.fixed_seed)
    if item.changed and item.state is State.WANTED and item.id not in in_work:
        _refresh(connection, item, want)
    elif row["row_key"] != want.row_key:
        _note_row(connection, item, want)
    return item


def id_with_other_values(connection: sqlite3.Connection, batch_id: int, wants: Sequence[Want]) -> str | None:
    """The first id of these wants under which the batch has another request, made otherwise; None: there is none."""
    named = {want.content_key: want for want in wants if want.request.id is not None}
    query = "SELECT * FROM item WHERE batch_id = ? AND occurrence = 0 AND content_key IN "
    for row in connection.execute(query + places(named), (batch_id, *named)):
        want, item = named[row["content_key"]], item_of(connection, row, pictures=())
        differs = row["fingerprint"] != want.fingerprint or not _has_seed(item, want.fixed_seed)
        if differs and row["said"] != want.request.said_json():
            return want.request.id
    return None


def _has_seed(item: Item, fixed_seed: int | None) -> bool:
    """Whether the item has the seed that is asked for, or the one that its rerolls have led to from there."""
    return fixed_seed is None or seed_after(fixed_seed, item.rerolls) == item.seed


def _note_row(connection: sqlite3.Connection, item: Item, want: Want) -> None:
    """Today's row wants what the item was made with: it need not be planned again. No row wants a picture in memory."""
    if want.row_key is None:
        if want.request.save_to_style:
            return
    elif item.changed or item.was_delivered:
        return
    columns = (want.row_key, want.row_key and want.request.images, item.id)
    connection.execute("UPDATE item SET row_key = ?, row_images = ? WHERE id = ?", columns)


def _refresh(connection: sqlite3.Connection, item: Item, want: Want) -> None:
    """What was never bought has no old values to keep: it will be made with today's."""
    if not _has_seed(item, want.fixed_seed):
        item.seed, item.rerolls = want.fixed_seed or 0, 0
    columns = {**columns_of(want, item.seed), "rerolls": item.rerolls}
    assignments = ", ".join(f"{name} = ?" for name in columns)
    connection.execute(f"UPDATE item SET {assignments} WHERE id = ?", (*columns.values(), item.id))  # noqa: S608 - names are ours
    item.changed = False


def columns_of(want: Want, seed: int) -> dict[str, Any]:
    """What an item is made with; it changes as one."""
    return {
        "said": want.request.said_json(),
        "spec": want.spec_json,
        "fingerprint": want.fingerprint,
        "style_id": want.spec.style_id,
        "seed": str(seed),
        "row_key": want.row_key,
        "row_images": want.row_key and want.request.images,
    }


def items_out(connection: sqlite3.Connection, batch_id: int, run_id: int) -> list[tuple[Item, Want]]:
    """See `Ledger.items_out`."""
    found = connection.execute(
        f"SELECT item.*, submitted_at FROM item LEFT JOIN job ON {LAST_JOB} "  # noqa: S608 - the names are ours
        "WHERE batch_id = ? AND state IN (?, ?) ORDER BY item.accepted_at",
        (batch_id, State.ACCEPTED, State.STORING),
    ).fetchall()
    return [(_out(item_of(connection, row, run_id), row["submitted_at"]), want_of(row)) for row in found]


def _out(item: Item, submitted_at: float | None) -> Item:
    item.submitted_at = submitted_at
    return item


def keys_in_hand(connection: sqlite3.Connection, batch_id: int, keys: Sequence[bytes]) -> set[bytes]:
    """The content keys of these that an item has which is not taken back."""
    query = "SELECT content_key FROM item WHERE batch_id = ? AND occurrence = 0 AND state <> ? AND content_key IN "
    return {row[0] for row in connection.execute(query + places(keys), (batch_id, State.CANCELLED, *keys))}


def cancel_unsent(
    connection: sqlite3.Connection,
    *,
    batch_id: int,
    after: int,
    is_meant: Callable[[Want, Item], bool],
    but: Collection[int],
    at: float,
    reason: str,
) -> tuple[int | None, int]:
    """A page of `Ledger.cancel_unsent`: the last item that it has looked at, None at the end, and how many it took."""
    query = "SELECT * FROM item WHERE batch_id = ? AND state = ? AND id > ? ORDER BY id LIMIT ?"
    found = connection.execute(query, (batch_id, State.WANTED, after, _PAGE)).fetchall()
    meant = [row["id"] for row in found if row["id"] not in but and is_meant(want_of(row), item_of(connection, row))]
    failure = Failure(FailureClass.ITEM, FailureCode.CANCELLED, reason)
    changes = {"state": State.CANCELLED, "state_at": at, "detail": str(failure), **failure_columns(failure)}
    _update_items(connection, meant, changes)
    return found[-1]["id"] if found else None, len(meant)


def item_of(
    connection: sqlite3.Connection,
    row: sqlite3.Row,
    run_id: int | None = None,
    pictures: tuple[StoredPicture, ...] | None = None,
) -> Item:
    """The item of a row of its table, with its pictures; None: they are still to be read."""
    code, state = row["failure_code"], State(row["state"])
    if pictures is None and state in _WITH_PICTURES:
        pictures = _pictures(connection, [row["id"]]).get(row["id"])
    return Item(
        id=row["id"],
        request_id=row["request_id"],
        state=state,
        state_at=row["state_at"],
        seed=int(row["seed"]),
        attempts=row["attempts"],
        endpoint=row["endpoint"],
        job_id=row["job_id"],
        accepted_at=row["accepted_at"],
        failure=code and Failure(FailureClass(row["failure_class"]), FailureCode(code), row["failure_message"]),
        execution_timeout_ms=row["execution_timeout_ms"],
        rerolls=row["rerolls"],
        run_id=run_id,
        pictures=pictures or (),
    )


def want_of(row: sqlite3.Row) -> Want:
    """What an item was wanted as when it was last bought."""
    request = ImageRequest.model_validate_json(row["said"])
    return Want(request, row["replica"], Spec.from_json(row["spec"]), row["content_key"], None)


def _pictures(connection: sqlite3.Connection, item_ids: Sequence[int]) -> dict[int, tuple[StoredPicture, ...]]:
    columns = "item_id, number, path, sha256, size_bytes, format, width, height"
    condition = f"item_id IN {places(item_ids)} AND state IN ('storing', 'stored')"
    query = f"SELECT {columns} FROM image WHERE {condition} ORDER BY item_id, number"  # noqa: S608 - the names are ours
    pictures: dict[int, tuple[StoredPicture, ...]] = {}
    for item_id, *picture in connection.execute(query, item_ids):
        pictures[item_id] = (*pictures.get(item_id, ()), StoredPicture(*picture))
    return pictures


def insert_item(
    connection: sqlite3.Connection,
    ports: Ports,
    batch: Batch,
    want: Want,
    occurrence: int,
    hex8: str,
    random_seed: int,
    at: float,
) -> Item:
    """A new item, with a request id and a seed that were drawn for it."""
    seed = random_seed if want.fixed_seed is None else want.fixed_seed
    assert 0 <= seed <= MAX_SEED
    while connection.execute("SELECT 1 FROM item WHERE request_id = ?", (f"img_{hex8}",)).fetchone():
        hex8 = ports.new_hex8()  # 32 bits: at a million images some do meet
    row = {
        "request_id": f"img_{hex8}",
        "batch_id": batch.id,
        "content_key": want.content_key,
        "occurrence": occurrence,
        "replica": want.replica,
        "state": State.WANTED,
        "state_at": at,
        **columns_of(want, seed),
    }
    names, places = ", ".join(row), ", ".join("?" * len(row))
    cursor = connection.execute(
        f"INSERT INTO item ({names}) VALUES ({places})",  # noqa: S608 - the names are ours
        tuple(row.values()),
    )
    return Item(_row_id(cursor), f"img_{hex8}", State.WANTED, at, seed, 0, None, None, None, None, is_new=True)


def insert_job(
    connection: sqlite3.Connection, item: Item, attempt: int, terms: Terms, job_id: str | None, at: float
) -> None:
    """A submission is about to be sent; `job_id` None: the platform will say it."""
    connection.execute(
        "INSERT INTO job (item_id, run_id, attempt, endpoint, job_id, submitted_at, execution_timeout_ms, "
        "usd_per_second, seed) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            item.id,
            item.run_id,
            attempt,
            terms.endpoint,
            job_id,
            at,
            terms.execution_timeout_ms,
            terms.usd_per_second,
            str(item.seed),
        ),
    )


def accept_job(item: Item, job_id: str) -> Also:
    """The platform took the submission under this id."""
    statement = f"UPDATE job SET job_id = ?, accepted_at = ? WHERE {_THIS_JOB}"  # noqa: S608 - the names are ours
    return lambda connection, at: connection.execute(statement, (job_id, at, item.id))


def unknown_job(item: Item) -> Also:
    """Whether there is a job will never be known."""
    return lambda connection, at: connection.execute(_UNKNOWN_JOB, (item.id,))


def supersede_pictures(item: Item) -> Also:
    """The item's pictures count no longer; their files stay."""
    statement = "UPDATE image SET state = 'superseded' WHERE item_id = ? AND state <> 'rejected'"
    return lambda connection, at: connection.execute(statement, (item.id,))


def forget_job(item: Item) -> Also:
    """The submission was certainly not accepted: there is no job."""
    return lambda connection, at: connection.execute(f"DELETE FROM job WHERE {_THIS_JOB}", (item.id,))  # noqa: S608 - ours


def insert_pictures(
    connection: sqlite3.Connection,
    item_id: int,
    pictures: Sequence[StoredPicture],
    state: str,
    looks: Sequence[Look] = (),
) -> None:
    """Pictures of an item, made with the values that it has now; `looks` is empty where nobody has looked at them."""
    connection.executemany(
        "INSERT INTO image (item_id, number, path, sha256, size_bytes, format, width, height, state, pixels_hash, "
        "perceptual_hash, fingerprint) SELECT id, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, fingerprint FROM item WHERE id = ?",
        [
            (p.number, p.path, p.sha256, p.size_bytes, p.format, p.width, p.height, state,
             look.pixels_hash, look.perceptual_hash, item_id)
            for p, look in zip(pictures, looks or [Look(None)] * len(pictures), strict=True)
        ],
    )  # fmt: skip


def reopen_job(connection: sqlite3.Connection, item_id: int) -> None:
    """Its result is wanted again, and has no files."""
    connection.execute("DELETE FROM image WHERE item_id = ? AND state = 'storing'", (item_id,))
    connection.execute(f"UPDATE job SET ended_at = NULL, outcome = NULL WHERE {_THIS_JOB}", (item_id,))  # noqa: S608 - ours


def end_job(item: Item, failure: Failure | None, timing: Timing, connection: sqlite3.Connection, at: float) -> None:
    """How the item's job ended: the code of its failure, or `completed`."""
    outcome = "completed" if failure is None else failure.code
    connection.execute(
        "UPDATE job SET ended_at = ?, outcome = ?, delay_ms = ?, execution_ms = ?, worker_id = ? "  # noqa: S608 - ours
        f"WHERE {_THIS_JOB}",
        (at, outcome, timing.delay_ms, timing.execution_ms, timing.worker_id, item.id),
    )
