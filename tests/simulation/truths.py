"""What must hold at the end of every seed, from the platform's books, the disk, and the ledger's durable image."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from .platform import picture
from .world import World

_FINAL = ("stored", "failed", "given_up", "lost", "unknown")


class BrokenError(Exception):
    """A truth does not hold."""


@dataclass(frozen=True)
class _Record:
    """What the ledger says of one wanted image."""

    prompt: str
    seed: int
    state: str
    files: tuple[tuple[str, str], ...]
    unknowns: int
    known_jobs: frozenset[str]
    failed_jobs: int


def look_at(world: World, prompts: Sequence[str], root: Path) -> None:
    """Raises `BrokenError` naming the first truth that does not hold."""
    records = _records(world)
    if sorted(record.prompt for record in records) != sorted(prompts):
        raise BrokenError(f"wanted {prompts}, recorded {records}")
    for record in records:
        _look_at_purchases(world, record)
        _look_at_files(world, record, root)
    _look_at_folder(world, records, root)


def _records(world: World) -> list[_Record]:
    if world.ledger_image is None:
        raise BrokenError("there is no ledger")
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.deserialize(world.ledger_image)
        rows = connection.execute("SELECT id, json_extract(spec, '$.prompt'), seed, state FROM item").fetchall()
        return [_record(connection, *row) for row in rows]


def _record(connection: sqlite3.Connection, item_id: int, prompt: str, seed: str, state: str) -> _Record:
    def rows(query: str) -> list[tuple[str, ...]]:
        return connection.execute(query, (item_id,)).fetchall()

    jobs = rows("SELECT job_id, outcome FROM job WHERE item_id = ?")
    return _Record(
        prompt=prompt,
        seed=int(seed),
        state=state,
        files=tuple(rows("SELECT path, sha256 FROM image WHERE item_id = ? AND state = 'stored'")),  # type: ignore[arg-type]
        unknowns=len(rows("SELECT 1 FROM event WHERE item_id = ? AND state = 'unknown'")),
        known_jobs=frozenset(job_id for job_id, _ in jobs),
        failed_jobs=sum(outcome not in (None, "completed") for _, outcome in jobs),
    )


def _look_at_purchases(world: World, record: _Record) -> None:
    bought = world.platform.of_prompt(record.prompt)
    if record.state not in _FINAL:
        raise BrokenError(f"{record.prompt} ended as {record.state}")
    if len(bought) > 1 + record.unknowns + record.failed_jobs:
        raise BrokenError(f"bought {len(bought)} times: {record}")
    forgotten = [run.job_id for run in bought if run.job_id not in record.known_jobs]
    if len(forgotten) > record.unknowns:
        raise BrokenError(f"paid jobs {forgotten} are not in the ledger: {record}")
    if record.state == "unknown" and record.unknowns == 0:
        raise BrokenError(f"unknown without a reason: {record}")


def _look_at_files(world: World, record: _Record, root: Path) -> None:
    if len(record.files) != (record.state == "stored"):
        raise BrokenError(f"{record.state} with {len(record.files)} pictures: {record}")
    for path, sha256 in record.files:
        file = world.disk.names.get(str(root / path))
        right = picture(record.prompt, record.seed)
        if file is None or bytes(file.live) != right or hashlib.sha256(right).hexdigest() != sha256:
            raise BrokenError(f"{path} is {'absent' if file is None else 'not its picture'}: {record}")


def _look_at_folder(world: World, records: Sequence[_Record], root: Path) -> None:
    paths = sorted(path for record in records for path, _ in record.files)
    manifest = world.disk.names.get(str(root / "manifest.jsonl"))
    lines = [json.loads(line) for line in bytes(manifest.live).splitlines()] if manifest else []
    if sorted(line["path"] for line in lines) != paths:
        raise BrokenError(f"the manifest lists {lines}, the ledger {paths}")
    belonging = {str(root / path) for path in (*paths, "manifest.jsonl")}
    if stray := sorted(world.disk.names.keys() - belonging):
        raise BrokenError(f"files that belong to nothing: {stray}")
