"""`manifest.jsonl`: one JSON object for each picture, with all that is known of it, beside the pictures.

The ledger remembers how far the file has been written, so that a run appends only what is new. Where the file does not
match that, or a picture it lists has been superseded, it is written anew, whole, under a temporary name first. A line
holds all that is needed to make its item's row again (`asyncgen.rebuild`).
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from asyncgen.ledger import Ledger
from asyncgen.ports import Disk, Ports
from asyncgen.request import INPUT_PICTURES
from asyncgen.rows import LAST_JOB
from asyncgen.store import temporary_path

FILE_NAME: Final = "manifest.jsonl"
_PAGE: Final = 500
_LAST_IMAGE: Final = 2**63 - 1  # a position after every picture of an event
# In the order they were stored. What is stored while the pages are read has later events and waits for the next time;
# an item that was stored twice counts where it was stored last.
_QUERY: Final = f"""
    SELECT event.id, image.id, item.request_id, item.said, batch.name, batch.realm, image.number, image.path,
           image.sha256, image.size_bytes, image.format, image.width, image.height, item.seed, item.spec, item.state_at,
           item.endpoint, item.job_id, item.replica, item.occurrence, job.delay_ms, job.execution_ms,
           (SELECT iif(count(*) = count(execution_ms * usd_per_second), sum(execution_ms * usd_per_second) / 1000, NULL)
            FROM job AS bought WHERE bought.item_id = item.id) AS cost_usd, item.rerolls
    FROM event JOIN image ON image.item_id = event.item_id JOIN item ON item.id = event.item_id
         JOIN batch ON batch.id = item.batch_id
         LEFT JOIN job ON {LAST_JOB}
    WHERE event.id BETWEEN :event AND :last_event AND (event.id, image.id) > (:event, :image)
          AND event.state = 'stored' AND image.state = 'stored'
          AND NOT EXISTS (SELECT 1 FROM event AS later WHERE later.item_id = event.item_id AND later.state = 'stored'
                          AND later.id > event.id AND later.id <= :last_event)
    ORDER BY event.id, image.id LIMIT :page
"""  # noqa: S608 - the names are ours


class Manifest:
    """Keeps the manifest of one output root true. Raises `OSError` where it cannot be written."""

    def __init__(self, ports: Ports, ledger: Ledger, root: Path) -> None:
        self._ports, self._ledger, self.path = ports, ledger, root / FILE_NAME
        self._temporary = temporary_path(self.path)

    async def bring_up_to_date(self) -> None:
        """Write what the ledger has and the file has not. Calls must not overlap."""
        written_event, written_bytes, last_event, superseded = await self._ledger.transact(_position)
        disk, threads = self._ports.disk, self._ports.file_threads
        await threads.run(disk.unlink, self._temporary)  # a process may have died while it wrote the file anew
        if written_bytes != (await threads.run(disk.size_bytes, self.path) or 0) or superseded:
            size_bytes = await self._write_anew(last_event)
        elif last_event > written_event:
            size_bytes = await self._append(self.path, written_bytes, written_event, last_event)
            if size_bytes > written_bytes:
                await threads.run(disk.fsync, self.path)
            # an earlier process may have put the file in place, and failed to flush that it is there
            await threads.run(disk.fsync_directory, self.path.parent)
        else:
            return
        await self._remember(last_event, size_bytes)

    async def write_anew(self) -> None:
        """Write the whole file, whatever it holds. Calls must not overlap, nor with `bring_up_to_date`."""
        await self._ports.file_threads.run(self._ports.disk.unlink, self._temporary)
        _, _, last_event, _ = await self._ledger.transact(_position)
        await self._remember(last_event, await self._write_anew(last_event))

    async def _remember(self, last_event: int, size_bytes: int) -> None:
        statement = "UPDATE manifest SET event_id = ?, size_bytes = ?"
        await self._ledger.transact(lambda connection: connection.execute(statement, (last_event, size_bytes)))

    async def _write_anew(self, last_event: int) -> int:
        disk, threads = self._ports.disk, self._ports.file_threads
        await threads.run(disk.write_new, self._temporary, ())
        size_bytes = await self._append(self._temporary, 0, 0, last_event)
        await threads.run(_put_in_place, disk, self._temporary, self.path)
        return size_bytes

    async def _append(self, path: Path, size_bytes: int, after_event: int, last_event: int) -> int:
        """Append what was stored after one event, up to another; returns the size of the file."""
        position = {"event": after_event, "image": _LAST_IMAGE, "last_event": last_event, "page": _PAGE}
        while rows := await self._ledger.transact(lambda connection: connection.execute(_QUERY, position).fetchall()):
            data = "".join(f"{json.dumps(_line(row), ensure_ascii=False)}\n" for row in rows).encode()
            await self._ports.file_threads.run(self._ports.disk.append, path, data)
            size_bytes += len(data)
            position["event"], position["image"] = rows[-1][:2]
        return size_bytes


def lines(connection: sqlite3.Connection) -> Iterator[tuple[int, dict[str, Any]]]:
    """What the file has to say by what the ledger has now: each line, after the event that it belongs to, in order."""
    last_event = connection.execute("SELECT coalesce(max(id), 0) FROM event").fetchone()[0]
    position = {"event": 0, "image": _LAST_IMAGE, "last_event": last_event, "page": _PAGE}
    while rows := connection.execute(_QUERY, position).fetchall():
        yield from ((row[0], _line(row)) for row in rows)
        position["event"], position["image"] = rows[-1][:2]


def _position(connection: sqlite3.Connection) -> tuple[int, int, int, bool]:
    event_id, size_bytes = connection.execute("SELECT event_id, size_bytes FROM manifest").fetchone()
    last = connection.execute("SELECT coalesce(max(id), 0) FROM event").fetchone()[0]
    superseded = connection.execute(
        "SELECT EXISTS (SELECT 1 FROM event JOIN image ON image.item_id = event.item_id "
        "WHERE event.id > ? AND event.state IN ('wanted', 'lost') AND image.state = 'superseded')",
        (event_id,),
    ).fetchone()[0]
    return event_id, size_bytes, last, bool(superseded)


def _put_in_place(disk: Disk, temporary: Path, path: Path) -> None:
    disk.fsync(temporary)
    disk.replace(temporary, path)
    disk.fsync_directory(path.parent)


def _line(row: tuple[Any, ...]) -> dict[str, Any]:
    (_, _, request_id, said, batch, realm, number, path, sha256, size_bytes, picture_format, width, height,
     seed, spec, stored_at, endpoint, job_id, replica, occurrence, delay_ms, execution_ms, cost_usd,
     rerolls) = row  # fmt: skip
    request = json.loads(said)
    made_with = json.loads(spec)
    unused = {name: made_with[name] for name in made_with.get("unused", ())}  # which is told beside the others
    return {
        "path": path,
        "request_id": request_id,
        "id": request.get("id"),
        "batch": batch,
        "realm": realm,
        "number": number,
        "sha256": sha256,
        "size_bytes": size_bytes,
        "format": picture_format,
        "seed": int(seed),
        **made_with,
        **({**dict.fromkeys(unused), "unused": unused} if unused else {}),
        "input_pictures": {name: request[name] for name in INPUT_PICTURES if name in request},
        "width": width,
        "height": height,
        "stored_at": stored_at,
        "endpoint": endpoint,
        "job_id": job_id,
        "delay_ms": delay_ms,
        "execution_ms": execution_ms,
        "cost_usd": cost_usd,
        "request": request,
        "replica": replica,
        "occurrence": occurrence,
        "rerolls": rerolls,
        "wanted_width": made_with["width"],
        "wanted_height": made_with["height"],
    }
