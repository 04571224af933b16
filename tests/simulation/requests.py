"""Pace: what the wire saw of each life stays within every limit, and nothing is asked again faster than is fair.

A new process knows nothing of what the last one sent, so limits are looked at life by life.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from .books import Asked, Job
from .broken import hold
from .commands import withdrawn_jobs
from .plans import FREE_RATE
from .records import Record, Records

if TYPE_CHECKING:
    from .lives import Life
    from .world import World

_WINDOW_SECONDS = 10.0
_SHORTEST_BACKOFF_SECONDS = 0.25
_LONGEST_BACKOFF_SECONDS = 15.0
# a job may rest for as long as six jobs take, none of which takes longer than 31 s here, and may then wait its turn
_LONGEST_PAUSE_SECONDS = 6 * 31.0 + 31.0
_ROUNDING = 1e-6
_FAULTS = ("fault", "hidden", "gone", "stale", "refused")
_GATES = {"retry": "run"}  # what buys shares one limit
_TRIES_OF_A_DAMAGED_RESULT = 3
_TRIES_OF_A_LIKENESS = 8  # the same failure after a retry is taken for the old answer for half a minute


def look_at(world: World, records: Records, lives: Sequence[Life]) -> None:
    """Raises `BrokenError`."""
    for life in lives:
        asked = [each for each in world.books.asked if each.life == life.number]
        for (endpoint, operation), group in _grouped(asked).items():
            _look_at_rate(world, life, f"{operation} at {endpoint}", group)
            _look_at_pauses(world, f"{operation} at {endpoint}", group)
        _look_at_repetition(life, asked)
        found = [record for record in records.items if record.found_by(life.number) in ("accepted", "storing")]
        _look_at_jobs_out(life, asked, found)
        _look_at_fetches(world, records, asked)
        _look_at_cancels(world, records, life, asked)


def _grouped(asked: Iterable[Asked]) -> dict[tuple[str, str], list[Asked]]:
    groups: dict[tuple[str, str], list[Asked]] = defaultdict(list)
    for each in asked:
        groups[each.endpoint, _GATES.get(each.operation, each.operation)].append(each)
    return groups


def _look_at_rate(world: World, life: Life, name: str, group: Sequence[Asked]) -> None:
    pace, operation = life.options.pace, _GATES.get(group[0].operation, group[0].operation)
    window_seconds = _WINDOW_SECONDS - _seconds_to_the_wire(world, operation)
    rates = {"run": pace.run_rate, "cancel": pace.cancel_rate}  # downloads share the gate of `/status`
    at_once = {"run": 160, "cancel": 16}.get(operation, pace.downloads_at_once)
    allowed = max(1, int(rates.get(operation, pace.status_rate) * pace.rate_share))
    times = [each.sent_at for each in group]
    for first, time in enumerate(times[: max(0, len(times) - allowed)]):
        seconds = times[first + allowed] - time
        hold(seconds >= window_seconds - _ROUNDING, f"{name}: {allowed + 1} requests within {seconds:.3f} s")
    out = _most_at_once(
        (each.sent_at, life.ended_at if each.answered_at is None else each.answered_at)
        for each in group
        if not each.is_held
    )
    hold(out <= at_once, f"{name}: {out} requests at once")


def _seconds_to_the_wire(world: World, operation: str) -> float:
    """Between a purchase's leave to be sent and the wire stands its intent, which takes up to two commits."""
    return 2 * world.slowest_seconds if operation in ("run", "retry") else 0.0


def _most_at_once(spans: Iterable[tuple[float, float]]) -> int:
    """Of spans that touch, one has ended before the other begins."""
    changes = sorted(change for begin, end in spans for change in ((begin, 1), (end, -1)) if end > begin)
    out = most = 0
    for _, change in changes:
        out += change
        most = max(most, out)
    return most


def _look_at_pauses(world: World, name: str, group: Sequence[Asked]) -> None:
    """While a Retry-After of a 429 lasts, nothing of the same operation is sent."""
    for told in group:
        if told.retry_after_seconds and told.fault == "429 with Retry-After" and told.answered_at is not None:
            until = told.answered_at + told.retry_after_seconds
            since = told.answered_at + _seconds_to_the_wire(world, told.operation)
            early = [each for each in group if since < each.sent_at < until - _ROUNDING]
            hold(not early, f"{name}: sent within the Retry-After of {told.retry_after_seconds} s")


def _ran_again(retries: Sequence[Asked], first: Asked) -> bool:
    """Whether the first cancel was for a run that had ended: the run that was bought meanwhile is cancelled as well."""
    return any(each.answered_at is not None and each.answered_at >= first.sent_at for each in retries)


def _look_at_repetition(life: Life, asked: Sequence[Asked]) -> None:
    """One and the same request: after a fault with a growing pause, else not before the polling interval."""
    resumed_at = [told.done_at for told in life.told if told.word == "pause" and told.done_at is not None]
    is_slowed = any(each.fault and each.fault.startswith("429") for each in asked)
    chains: dict[tuple[object, str], list[Asked]] = defaultdict(list)
    for each in asked:
        chains[each.subject, each.operation].append(each)
    retries = {subject: chain for (subject, operation), chain in chains.items() if operation == "retry"}
    for (subject, operation), chain in chains.items():
        faults, last_at = 0, chain[0].sent_at
        for before, after in pairwise(chain):
            if before.answered_at is None or (operation == "cancel" and _ran_again(retries.get(subject, ()), chain[0])):
                continue
            faults = faults + 1 if before.outcome in _FAULTS else 0
            if operation == "run" and any(last_at < at <= before.sent_at for at in resumed_at):
                faults = min(faults, 1)  # what waited for the end of a pause is sent as if for the first time
            last_at = before.sent_at
            floor = 0.0
            if faults:
                grown = _SHORTEST_BACKOFF_SECONDS * 2.0 ** (faults - 1)
                floor = max(min(grown, _LONGEST_BACKOFF_SECONDS), before.retry_after_seconds)
            elif before.outcome == "pending":
                floor = 0.9 * life.options.pace.polling_interval_seconds
            pause = after.sent_at - before.answered_at
            is_due = operation == "status" and before.outcome in ("pending", *_FAULTS)
            if is_due and life.options.pace.run_rate >= FREE_RATE and not is_slowed:
                longest = max(_LONGEST_PAUSE_SECONDS, 1.1 * before.retry_after_seconds)
                hold(pause <= longest, f"{subject} was not asked about for {pause:.0f} s")
            hold(pause >= floor - _ROUNDING, f"{operation} of {subject} again after {pause:.3f} s, not {floor:.3f} s")


def _look_at_jobs_out(life: Life, asked: Sequence[Asked], found: Sequence[Record]) -> None:
    """From its `/run` to the last word on it a job takes one of the places; jobs found out at the start may be more.

    Taking it back is no word on it: that may be tried once more when it has ended by itself.
    """
    spans: dict[object, tuple[float, float]] = {}
    names: dict[str, object] = {}
    for each in asked:
        if each.operation == "cancel":
            continue
        if each.operation == "run":
            key: object = (each.subject, each.sent_at)
            if each.job is not None:
                names[each.job.job_id] = key
        else:
            job_id = str(each.subject).partition("/")[0]
            key = names.get(job_id, job_id)
        begin, end = spans.get(key, (each.sent_at, each.sent_at))
        spans[key] = (begin, max(end, each.answered_at or each.sent_at))
    if life.options.concurrency is None:
        return
    most = _most_at_once(spans.values())
    allowed = max(life.options.concurrency, len(found))
    again = {subject for record in found for subject in record.subjects}
    new = [span for key, span in spans.items() if isinstance(key, tuple) and key[0] not in again]
    bought = _most_at_once(new)
    hold(bought <= life.options.concurrency, f"{bought} jobs of life {life.number} out, of {life.options.concurrency}")
    hold(most <= allowed, f"{most} jobs out in life {life.number}, {allowed} allowed, {len(found)} found")


def _look_at_cancels(world: World, records: Records, life: Life, asked: Sequence[Asked]) -> None:
    """What is out is taken back where its owner said so, once the run stops or by a command, and never else."""
    meant = withdrawn_jobs(life, records)
    cancels = [each for each in asked if each.operation == "cancel"]
    unasked = [each.subject for each in cancels if each.subject not in meant]
    hold(life.options.cancel_on_stop or not unasked, f"life {life.number} cancelled {unasked}")
    if life.stopped_at is None or not life.options.cancel_on_stop or life.options.pace.cancel_rate < FREE_RATE:
        return
    if life.ending == "stopped" and not any(each.retry_after_seconds for each in cancels):
        taken_back = {each.subject for each in cancels}
        until = life.stopped_at + 2 * world.slowest_seconds + 1.0
        out = {each.subject for each in asked if each.outcome == "pending" and each.sent_at > until}
        hold(out <= taken_back, f"life {life.number} was stopped, and left {out - taken_back} running")


def _may_run_again(world: World, records: Records, job: Job) -> bool:
    """Whether it was asked to run again, or the run meant to and cannot know that it never did."""
    in_the_air = {bought.job_id for record in records.items for bought in record.jobs if not bought.is_confirmed}
    is_asked = any(each.operation == "retry" and each.job is job for each in world.books.asked)
    was_meant_to = any(record.never_taken and job.subject in record.subjects for record in records.items)
    return is_asked or was_meant_to or job.job_id in in_the_air


def _look_at_fetches(world: World, records: Records, asked: Sequence[Asked]) -> None:
    """A result is fetched once in a life; again only if it came damaged, or its file could not be put in place.

    A failure of a job that was to run again is asked for again: it may be the old one.
    """
    fetched: dict[str, list[Asked]] = defaultdict(list)
    for each in asked:
        if each.operation != "status" or each.outcome not in ("ended", "damaged") or each.job is None:
            continue
        if each.whole_result or each.outcome == "damaged" or not _may_run_again(world, records, each.job):
            fetched[each.job.job_id].append(each)
    for job_id, fetches in fetched.items():
        allowed = _fetches_allowed(world, world.books.jobs[job_id])
        hold(len(fetches) <= allowed, f"the result of {job_id} was fetched {len(fetches)} times in one life")


def _fetches_allowed(world: World, job: Job) -> int:
    tries = _TRIES_OF_A_DAMAGED_RESULT if job.executions[-1].fate == "damaged" else 1 + job.damaged_replies
    retries = len(job.executions) - 1
    disk_failed = any(name.startswith("disk: ") for name in world.books.hits)  # under the name that another was to get
    return tries + retries + (_TRIES_OF_A_LIKENESS if retries else 0) + len(world.foreign) + disk_failed
