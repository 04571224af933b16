"""The ledger's pictures that one is compared with: those that other seeds have made of its prompt."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence
from typing import Final

from asyncgen import rows
from asyncgen.records import Item, Look, Sibling
from asyncgen.request import INPUT_PICTURES, ImageRequest

_COMPARED: Final = 64  # pictures of its prompt, old and new each, that one is compared with; the same is always found
_NEWEST: Final = 512  # pictures of the ledger, among which the new ones are
_SAME_INPUTS: Final = " AND ".join(f"json_extract(other.said, '$.{name}') IS ?" for name in INPUT_PICTURES)
_SIBLING_COLUMNS: Final = "image.id, other.request_id, number, path, pixels_hash, perceptual_hash"
_ARE_SIBLINGS: Final = f"""image.state IN ('storing', 'stored') AND other.id <> item.id
    AND other.batch_id = item.batch_id AND other.seed <> ? AND {_SAME_INPUTS}"""
_SAME_PICTURES: Final = f"""
    SELECT {_SIBLING_COLUMNS}
    FROM item JOIN image ON image.fingerprint = item.fingerprint JOIN item AS other ON other.id = image.item_id
    WHERE item.id = ? AND {_ARE_SIBLINGS} AND pixels_hash IN
"""  # noqa: S608 - the names are ours
#: Some of the prompt's pictures, chosen before one of them is looked at: all, or as many as the index gives at once,
#: and the newest, which are found where the ledger ends. Whatever else it holds, that takes as long.
_SOME_PICTURES: Final = f"""
    SELECT {_SIBLING_COLUMNS}
    FROM item CROSS JOIN (
        SELECT id AS some FROM (SELECT id FROM image WHERE fingerprint = ? LIMIT {_COMPARED})
        UNION SELECT id FROM (
            SELECT id FROM image WHERE +fingerprint = ? AND id > (SELECT max(id) FROM image) - {_NEWEST}
            ORDER BY id DESC LIMIT {_COMPARED})
    ) CROSS JOIN image ON image.id = some JOIN item AS other ON other.id = image.item_id
    WHERE item.id = ? AND {_ARE_SIBLINGS}
"""  # noqa: S608 - the names are ours


def siblings_of(
    connection: sqlite3.Connection,
    item: Item,
    looks: Sequence[Look],
    request: ImageRequest,
    compared: Collection[int] = (),
) -> list[Sibling]:
    """Pictures of the item's prompt that other seeds have made in its batch, from the same input pictures.

    All that are the same as one of its own, and some others: see `_SOME_PICTURES`; without those that have been
    `compared` with it, by image id.
    """
    parameters = (item.id, str(item.seed), *(request.input_pictures.get(name) for name in INPUT_PICTURES))
    hashes = [look.pixels_hash for look in looks]
    same = f"{_SAME_PICTURES} {rows.places(hashes)} LIMIT {_COMPARED}"
    found = connection.execute(same, (*parameters, *hashes)).fetchall()
    (prompt,) = connection.execute("SELECT fingerprint FROM item WHERE id = ?", (item.id,)).fetchone()
    found += connection.execute(_SOME_PICTURES, (prompt, prompt, *parameters)).fetchall()
    return [
        Sibling(image_id, request_id, number, path, Look(*hashes))
        for image_id, request_id, number, path, *hashes in map(tuple, found)
        if image_id not in compared
    ]
