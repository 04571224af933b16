"""What must hold after any number of kills: the sandbox's books against the ledger, the files, and what was reported.

The books are what the sandbox says over HTTP; the ledger is believed in nothing that they can be asked.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from tests.faults.fates import Fate
from tests.support import Ran, files, ledger_rows, true_output

MAX_ATTEMPTS = 3  # the default of ASYNCGEN_MAX_ATTEMPTS
_FAILED = {"failed", "given_up", "lost"}
Job = Mapping[str, Any]


@dataclass(frozen=True)
class Record:
    """What the ledger says of one wanted image. `known_jobs` are its purchases by job id; a retry has the same id.

    `unconfirmed` counts the retries that no reply came to: whether they were taken, the job's state told later.
    """

    prompt: str
    seed: int
    state: str
    code: str | None
    attempts: int
    job_id: str | None
    paths: tuple[str, ...]
    unknowns: int
    unconfirmed: int
    known_jobs: Counter[str]


def check_wreck(root: Path, sold: Sequence[Job]) -> None:
    """Right after a kill: whatever has a final name is a whole picture of something that was sold."""
    known = {(job["prompt"], job["seed"]) for job in sold}
    for path in files(root, "*.png"):
        if not path.name.startswith("."):
            assert _prompt_and_seed(path) in known, f"{path} is a picture of nothing that was sold"


def check_round(
    root: Path, sold: Sequence[Job], fates: Mapping[str, Fate], ran: Ran, *, resubmitted: bool
) -> Counter[str]:
    """Everything, after a run that came to its end; the figures. Raises AssertionError naming what is wrong.

    `resubmitted` says whether anybody has ever told it to send again what was held.
    """
    records = _records(root)
    assert sorted(record.prompt for record in records) == sorted(fates), "not every prompt is one record"
    by_prompt: dict[str, list[Job]] = {prompt: [] for prompt in fates}
    for job in sold:
        by_prompt[job["prompt"]].append(job)
    figures = _figures(records, sold)
    for record in records:
        jobs, fate = by_prompt[record.prompt], fates[record.prompt]
        assert resubmitted or record.unknowns == (record.state == "unknown"), f"sent again without a word: {record}"
        figures += _purchases(record, jobs, fate, may_resubmit=resubmitted)
        _check_ending(record, jobs, fate)
        _check_pictures(record, jobs, root)
    _check_folder(root, records)
    _check_report(records, ran)
    return figures


def _records(root: Path) -> list[Record]:
    items = ledger_rows(
        root,
        "SELECT id, json_extract(spec, '$.prompt'), seed, state, failure_code, attempts, job_id FROM item ORDER BY id",
    )
    return [_record(root, *item) for item in items]


def _record(root: Path, item_id: int, prompt: str, seed: str, state: str, *rest: Any) -> Record:
    def of_item(query: str) -> list[Any]:
        return [value for (value,) in ledger_rows(root, f"{query} AND item_id = ?", item_id)]

    return Record(
        prompt,
        int(seed),
        state,
        *rest,
        paths=tuple(of_item("SELECT path FROM image WHERE state = 'stored'")),
        unknowns=len(of_item("SELECT 1 FROM event WHERE state = 'unknown'")),
        unconfirmed=len(of_item("SELECT 1 FROM event WHERE state = 'accepted' AND detail LIKE '%POST /retry%'")),
        known_jobs=Counter(of_item("SELECT job_id FROM job WHERE job_id IS NOT NULL AND outcome IS NOT 'unknown'")),
    )


def _purchases(record: Record, jobs: Sequence[Job], fate: Fate, *, may_resubmit: bool) -> Counter[str]:
    """How often it was bought again: for a reason, or twice, which must never be."""
    assert len({job["input_digest"] for job in jobs}) <= 1, f"sent in different words: {record}"
    purchases = _sold(jobs)
    never_sold = (record.known_jobs - purchases).total()
    assert never_sold <= record.unconfirmed, f"jobs that were never sold: {record}, sold {purchases}"
    forgotten = (purchases - record.known_jobs).total()
    assert forgotten <= record.unknowns, f"paid jobs are forgotten: {record}, sold {purchases}"
    again = max(0, purchases.total() - 1)
    failed = sum(job["state"] != "COMPLETED" for job in jobs) + sum(job["retries"] for job in jobs)
    reasons = failed - (record.state in _FAILED) if fate.platform else 0
    twice = max(0, again - reasons - (record.unknowns if may_resubmit else 0))
    if twice:
        print(f"bought twice: {record}, sold {jobs}", file=sys.stderr)
    return Counter({"bought again for a reason": again - twice, "bought twice": twice})


def _sold(jobs: Sequence[Job]) -> Counter[str]:
    """How often the platform ran each job, by its own books."""
    return Counter({job["id"]: 1 + job["retries"] for job in jobs})


def _check_ending(record: Record, jobs: Sequence[Job], fate: Fate) -> None:
    if record.state == "unknown":
        assert record.unknowns, f"held without a reason: {record}"
    elif record.state in {"given_up", "lost"}:
        assert fate.platform and record.attempts >= MAX_ATTEMPTS, f"given up too soon: {record}"
    elif fate.code is None:
        assert record.state == "stored", f"should be stored: {record}, {fate}"
    else:
        assert (record.state, record.code) == ("failed", fate.code), f"should have failed: {record}, {fate}"


def _check_pictures(record: Record, jobs: Sequence[Job], root: Path) -> None:
    assert len(record.paths) == (record.state == "stored"), f"the wrong number of files: {record}"
    for path in record.paths:
        assert _prompt_and_seed(root / path) == (record.prompt, record.seed), f"another one's picture: {record}"
        (job,) = (job for job in jobs if job["id"] == record.job_id)
        assert (job["state"], job["seed"]) == ("COMPLETED", record.seed), f"its job says otherwise: {job}"


def _check_folder(root: Path, records: Sequence[Record]) -> None:
    """The manifest is true, whole files only, and nothing is left over; hashes are compared on the way."""
    listed = {(line["path"], line["prompt"], int(line["seed"]), line["job_id"]) for line in true_output(root)}
    assert listed == {(path, r.prompt, r.seed, r.job_id) for r in records for path in r.paths}, "the manifest lies"
    assert files(root, "*.part") == files(root, ".*.part") == [], "temporary files outlived the run"


def _check_report(records: Sequence[Record], ran: Ran) -> None:
    """What the last run said is what the ledger has: above all, every submission that is held was reported."""
    counts, summary = Counter(record.state for record in records), ran.summary
    said = {entry["metadata"]["prompt"] for entry in ran.json if entry.get("status") == "held"}
    assert said == {record.prompt for record in records if record.state == "unknown"}, "held and not reported"
    failed = sum(counts[state] for state in _FAILED)
    told = (summary["held"], summary["failed"], summary["made"] + summary["kept"])
    assert told == (counts["unknown"], failed, counts["stored"]), f"the summary is wrong: {summary}, {counts}"


def _prompt_and_seed(path: Path) -> tuple[str, int]:
    """What the sandbox wrote into a picture, after decoding all of it."""
    with Image.open(path) as picture:
        picture.load()
        said = json.loads(picture.info["asyncgen"])
    return said["prompt"], said["seed"]


def _figures(records: Sequence[Record], sold: Sequence[Job]) -> Counter[str]:
    states = Counter(f"ended {record.state}" for record in records)
    return states + Counter({"images": len(records), "accepted": len(sold)})
