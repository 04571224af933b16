"""Files: every stored picture is there, whole and the right one; the manifest lists exactly those; nothing else is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

from .broken import hold
from .plans import USD_PER_SECOND
from .platform import SPOILT
from .records import Record, Records, StoredFile
from .watch import ROOT

if TYPE_CHECKING:
    from .world import World

MANIFEST = "manifest.jsonl"
REJECTED_FOLDER = "rejected/"
_ROUNDING_USD = 1e-6


def look_at(world: World, records: Records) -> None:
    """Raises `BrokenError`."""
    for record in records.items:
        _look_at_pictures(world, record)
    _look_at_manifest(world, records)
    _look_for_strays(world, records)


def _look_at_pictures(world: World, record: Record) -> None:
    current = [file for file in record.files if file.state not in ("superseded", "rejected")]
    wanted = 2 if record.subject[0] in world.doubles else 1
    hold(len(current) == (wanted if record.state == "stored" else 0), f"{len(current)} pictures of {record}")
    hold(all(file.state == "stored" for file in current), f"a picture still being stored: {record}")
    for file in record.files:
        subjects = {record.subject} if file.state == "stored" else record.subjects
        right = {world.platform.picture(subject, file.number) for subject in subjects}
        hashes = {hashlib.sha256(data).hexdigest() for data in right}
        hold(file.sha256 in hashes, f"the wrong hash for {file.path}: {record}")
        if file.path is not None:
            found = world.disk.names.get(str(ROOT / file.path))
            hold(found is not None, f"{file.path} is not there: {record}")
            is_right = found is not None and hashlib.sha256(bytes(found.live)).hexdigest() == file.sha256
            hold(is_right, f"{file.path} is not its picture: {record}")
    _look_at_rejected(world, record)


def _look_at_rejected(world: World, record: Record) -> None:
    """Each job whose picture does not count has left it, in a folder of its own; and no other job has."""
    made = [
        hashlib.sha256(world.platform.picture((record.subject[0], job.seed), number)).hexdigest()
        for job in record.jobs
        if job.is_rejected
        for number in range(world.books.jobs[job.job_id].pictures)
    ]
    kept = [file for file in record.files if file.state == "rejected"]
    hold(sorted(file.sha256 for file in kept) == sorted(made), f"{len(made)} rejected, {len(kept)} kept: {record}")
    is_filed = record.subject[0] not in world.in_memory
    in_folder = all((file.path or "").startswith(REJECTED_FOLDER) == is_filed for file in kept)
    hold(in_folder, f"a rejected picture is not where it belongs: {record}")


def _look_at_manifest(world: World, records: Records) -> None:
    manifest = world.disk.names.get(str(ROOT / MANIFEST))
    lines = [json.loads(line) for line in bytes(manifest.live).splitlines()] if manifest else []
    listed = sorted((line["request_id"], line["path"] or "", line["sha256"], line["seed"]) for line in lines)
    stored = sorted(
        (record.request_id, file.path or "", file.sha256, record.subject[1]) for record, file in _stored_files(records)
    )
    hold(listed == stored, f"the manifest lists {listed}, the ledger {stored}")
    by_id = {record.request_id: record for record in records.items}
    for line in lines:
        _look_at_purchase(line, by_id[line["request_id"]])


def _look_at_purchase(line: dict[str, Any], record: Record) -> None:
    """A line says which job made the picture, and what all jobs of it have cost; nothing where one never said."""
    if all((move.source, move.target) != ("unknown", "wanted") for move in record.moves):
        hold(line["rerolls"] == record.rerolls, f"the manifest says {line['rerolls']} rerolls: {record}")
    last, times = record.jobs[-1], [job.execution_ms for job in record.jobs]
    told = [each for each in times if each is not None]
    is_known = len(told) == len(times) and all(move.target != "unknown" for move in record.moves)
    usd = sum(told) / 1000 * USD_PER_SECOND if is_known else None
    said = line["job_id"], line["endpoint"].rpartition("/")[2], line["execution_ms"], line["cost_usd"]
    right = last.job_id, last.endpoint.rpartition("/")[2], last.execution_ms
    hold(said[:3] == right, f"the manifest says {said}, the ledger {right}: {record}")
    is_right = said[3] is None if usd is None else said[3] is not None and abs(said[3] - usd) < _ROUNDING_USD
    hold(is_right, f"the manifest says that {record} has cost {said[3]}, and it is {usd}")


def _look_for_strays(world: World, records: Records) -> None:
    """Every file belongs to a record (also of a picture that was made again since), or to somebody else."""
    known = {str(ROOT / file.path) for record in records.items for file in record.files if file.path is not None}
    stray = world.disk.names.keys() - known - {str(ROOT / MANIFEST)} - world.foreign.keys()
    stray -= _never_recorded(world, records, stray)
    hold(not stray, f"files that belong to nothing: {sorted(stray)}")
    for name, content in world.foreign.items():
        found = world.disk.names.get(name)
        hold(found is not None and bytes(found.live) == content, f"somebody else's file {name} was touched")


def _never_recorded(world: World, records: Records, stray: Collection[str]) -> set[str]:
    """Rejected pictures of a process that died before it could record them, whose jobs ended otherwise in the end.

    The platform had forgotten a job when the next one came; or what its picture was like did not come to count itself.
    """
    jobs = [world.books.jobs[job.job_id] for record in records.items for job in record.jobs if not job.is_rejected]
    jobs = [job for job in jobs if world.platform.look(job.subject) in SPOILT]
    made = {world.platform.picture(job.subject, number) for job in jobs for number in range(job.pictures)}
    aside = (name for name in stray if name.startswith(str(ROOT / REJECTED_FOLDER)))
    return {name for name in aside if bytes(world.disk.names[name].live) in made}


def _stored_files(records: Records) -> Iterable[tuple[Record, StoredFile]]:
    return ((record, file) for record in records.items for file in record.files if file.state == "stored")
