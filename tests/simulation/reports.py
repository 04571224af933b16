"""What each life reported: counts, results, what it has spent. All of it must equal the ledger and the books."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from asyncgen.money import Use

from .broken import hold
from .commands import additions, may_cancel
from .plans import MANY, indexed
from .records import Move, Record, Records

if TYPE_CHECKING:
    from .lives import Life
    from .world import World

_STATUS = {
    "stored": "success", "failed": "failed", "given_up": "failed", "lost": "failed", "unknown": "held",
    "cancelled": "cancelled", "wanted": "pending",
}  # fmt: skip
_FINISHED = ("ended", "stopped", "RunPausedError", "BudgetReachedError", "StoreError")
#: What the ledger may say of a run, by how its life ended; whatever it says of others, it must say something.
_RUN_OUTCOMES = {
    "ended": ("ended",),
    "stopped": ("stopped", "ended"),
    "cancelled": ("cancelled", "stopped", "ended", "died"),  # died: it was cancelled while its row was being written
    "RunPausedError": ("stopped",),
    "BudgetReachedError": ("stopped",),
    "StoreError": ("stopped", "ended", "cancelled"),  # the manifest may fail when all is done
}


def look_at(world: World, records: Records, lives: Sequence[Life]) -> None:
    """Raises `BrokenError`."""
    _look_at_runs(world, records, lives)
    for life in lives:
        if life.ending in _FINISHED and not life.was_cancelled and life.statistics is not None:
            _look_at_made(world, records, life)
            _look_at_unique(life)
            if life.number not in world.ledger.failed_in:  # else what is counted may not be recorded
                _look_at_spending(records, life)
                _look_at_cancelled(world, records, life)
        if life.ending == "ended":
            _look_at_counts(life, records)
            _look_at_results(world, life, records)
            _look_at_found(life, records)
    _look_at_paths(records, lives[-1])


def _look_at_runs(world: World, records: Records, lives: Sequence[Life]) -> None:
    """The ledger has a row for each run that began, with how it ended."""
    outcomes = list(records.run_outcomes)
    hold(len(outcomes) == lives[-1].runs_begun, f"{lives[-1].runs_begun} runs began, {len(outcomes)} are recorded")
    hold(None not in outcomes, f"a run without an end is recorded: {outcomes}")
    for life in lives:
        is_new = life.runs_begun > (lives[life.number - 1].runs_begun if life.number else 0)
        allowed = _RUN_OUTCOMES.get(life.ending)
        if is_new and allowed and life.number not in world.ledger.failed_in:
            said = outcomes[life.runs_begun - 1]
            hold(said in allowed, f"life {life.number} {life.ending}, and its run is recorded as {said}")


def _made(records: Records, life: Life) -> list[Record]:
    return [
        record for record in records.items
        if record.state_after(life.number) == "stored" and any(move.target == "stored" for move in _moves(record, life))
    ]  # fmt: skip


def _moves(record: Record, life: Life) -> list[Move]:
    return [move for move in record.moves if move.life == life.number]


def _look_at_made(world: World, records: Records, life: Life) -> None:
    made, counted = _made(records, life), life.statistics
    assert counted is not None
    hold(counted.made == len(made), f"life {life.number} says it made {counted.made}, and made {len(made)}")
    pictures = sum(2 if record.subject[0] in world.doubles else 1 for record in made)
    hold(counted.pictures == pictures, f"life {life.number} says {counted.pictures} pictures, and there are {pictures}")
    hold(counted.out == 0, f"life {life.number} is over with {counted.out} jobs being worked on")


def _look_at_spending(records: Records, life: Life) -> None:
    """Every job that ended counts once, by what it was good for, and with its time if it was told to this run."""
    assert life.statistics is not None
    uses, milliseconds, untimed = Counter[str](), 0, 0
    for record in records.items:
        for use, spent_ms in _ends(record, life):
            uses[use] += 1
            milliseconds += spent_ms or 0
            untimed += spent_ms is None
    spending = life.statistics.spending
    said = {str(use): tally.jobs for use, tally in spending.tallies.items() if tally.jobs}
    hold(said == dict(uses), f"life {life.number} says it paid for {said}, the ledger {dict(uses)}")
    said_ms = spending.total.execution_ms
    hold(said_ms == milliseconds, f"life {life.number} says it paid for {said_ms} ms, the ledger {milliseconds} ms")
    said_untimed = spending.total.untimed
    hold(said_untimed == untimed, f"life {life.number} says {said_untimed} jobs gave no time, the ledger {untimed}")


def _look_at_cancelled(world: World, records: Records, life: Life) -> None:
    """The most that cancelled jobs can have cost is not less than what they ran; their times are never told."""
    if life.statistics is None or "clock: the wall clock jumped" in world.books.hits:
        return
    seconds = 0.0
    for record in records.items:
        if any(move.target == "cancelled" for move in _moves(record, life)):
            seconds += sum(
                max(0.0, min(job.executions[-1].ends_at, job.cancelled_at) - job.executions[-1].starts_at)
                for job in world.books.of_subjects(record.subjects)
                if job.cancelled_at is not None and life.began_true <= job.cancelled_at <= life.ended_true
            )
    tally = life.statistics.spending.tallies[Use.CANCELLED]
    most_ms = tally.execution_ms + tally.untimed_most_ms
    hold(1000 * seconds <= most_ms + 1, f"life {life.number} says at most {most_ms} ms of what ran {seconds} s")


def _ends(record: Record, life: Life) -> Iterator[tuple[str, int | None]]:
    """The jobs of an image that ended in a life: what for, and the milliseconds, None where none were told in it."""
    jobs, job, told_in = iter(record.jobs), None, -1
    for move in record.moves:
        if move.target == "accepted" and move.source == "submitting" and move not in record.never_taken:
            job = next(jobs, None)
        elif move.source == "accepted" and move.target == "storing":
            told_in = move.life
        if move.life != life.number:
            continue
        if (move.source, move.target) == ("submitting", "unknown") and not move.was_found:
            yield "unknown", None
        elif (move.source, move.target) == ("storing", "stored"):
            yield "made", job.execution_ms if job and told_in == life.number else None
        elif move.source == "accepted" and move.target != "storing" and not move.takes_back_retry:
            use = "lost" if move.is_loss else "cancelled" if move.target == "cancelled" else "failed"
            yield use, job.execution_ms if job else None


def _look_at_unique(life: Life) -> None:
    indexes = [result.index for result in life.results]
    hold(len(indexes) == len(set(indexes)), f"life {life.number} handed a row on twice: {indexes}")


def _look_at_counts(life: Life, records: Records) -> None:
    """The counts of a run over its whole input, one for each image that it was given or found out."""
    counted = life.statistics
    assert counted is not None
    named = {result.request_id for result in life.results}
    found = [record for record in records.items if record.request_id not in named and _was_out(record, life)]
    items = [record for record in records.items if record.request_id in named] + found
    states = Counter(record.state_after(life.number) for record in items)
    if any(told.word == "add" for told in life.told):  # of a stopped lane, the row and what was added to it are pending
        added = [record for record in records.items if record not in items and additions(life, record)]
        left = sum(record.state_after(life.number) == "wanted" for record in items + added)
        is_right = counted.pending == left or (life.options.lane_faults < MANY and counted.pending > left)
        hold(is_right, f"life {life.number} says {counted.pending} are pending, the ledger {left}")
        cancelled = [record for record in items + added if record.state_after(life.number) == "cancelled"]
        twice = sum(record in items and additions(life, record) > 0 for record in cancelled)  # its row came later
        most, least = len(cancelled) + twice, len(cancelled) if life.options.lane_faults == MANY else 0
        is_right = least <= counted.cancelled <= most
        hold(is_right, f"life {life.number} says {counted.cancelled} are cancelled, the ledger {least} to {most}")
        return
    made = len(_made(records, life))
    rows = len(indexed(life.options.given))
    expected = {
        "wanted": rows + len(found),
        "made": made,
        "kept": states["stored"] - made,
        "failed": states["failed"] + states["given_up"] + states["lost"],
        "held": states["unknown"],
        "cancelled": states["cancelled"],
        "repeated": rows - len(named),
        "pending": states["wanted"],
        "new": sum(record.moves[0].life == life.number for record in items),
        "reattached": sum(record.found_by(life.number) in ("accepted", "storing") for record in records.items),
    }
    said = {name: getattr(counted, name) for name in expected}
    if life.options.lane_faults < MANY and any(told.word == "withdraw" for told in life.told):
        pending = max(0, expected["cancelled"] - counted.cancelled)  # they were, when they had been told
        expected["cancelled"] -= pending
        expected["pending"] += pending
    hold(said == expected, f"life {life.number} counts {said}, the books {expected}")


def _was_out(record: Record, life: Life) -> bool:
    """Whether the life found a job of it out (or its picture half stored) and worked on it."""
    return any(move.source in ("accepted", "storing") for move in _moves(record, life))


def _look_at_results(world: World, life: Life, records: Records) -> None:
    """Each row of the input is answered once, with what became of it."""
    by_id = {record.request_id: record for record in records.items}
    rows = indexed(life.options.given)
    hold(sorted(result.index for result in life.results) == list(range(len(rows))), f"life {life.number}: not all told")
    for result in life.results:
        record = by_id[result.request_id]
        hold(record.subject[0] == rows[result.index].want.spec.prompt_sent, f"row {result.index} was told of {record}")
        status = _STATUS[str(record.state_after(life.number))]
        if _is_outdated(result.status, status, life, record):
            continue
        subject = record.subject[0], result.seed
        was_taken_back = may_cancel(life, record) and additions(life, record) > 0
        is_told = record.subject_after(life.number) in (subject, None)
        is_told = is_told or (was_taken_back and subject in record.subjects)
        hold(is_told, f"row {result.index} was told of seed {result.seed}: {record}")
        allowed = (status, "delivered") if result.kept or result.repeats else (status,)
        hold(result.status in allowed, f"life {life.number} said {result.status} of {record}")
        for number, delivered in enumerate(result.delivered):
            hold(delivered.data == world.platform.picture(subject, number), f"delivered something else: {record}")


def _is_outdated(told: str, status: str, life: Life, record: Record) -> bool:
    """Whether a command came after its row had been told: it was added again, or taken back while its lane stood."""
    is_made_again = told == "cancelled" != status and additions(life, record) > 0
    is_taken_back = (told, status) == ("pending", "cancelled")
    return may_cancel(life, record) and (is_made_again or is_taken_back)


def _look_at_found(life: Life, records: Records) -> None:
    """What an earlier run left is tried again where its owner said so, once; what was cancelled always is."""
    named, options = {result.request_id for result in life.results}, life.options
    again = {"cancelled": True, "unknown": options.resubmit}
    again |= dict.fromkeys(("failed", "given_up", "lost"), options.retry_failed)
    for record in records.items:
        moves = [move for move in _moves(record, life) if move.target == "wanted"]
        told = [move for move in moves if move.source in ("cancelled", "failed", "given_up", "lost", "stored")]
        hold(
            len(told) <= 1 + additions(life, record),
            f"life {life.number} was told once, and tried again {len(told)} times: {record}",
        )
        if record.request_id in named:
            found = str(record.found_by(life.number))
            is_left = may_cancel(life, record)
            hold(
                moves or is_left or not again.get(found), f"life {life.number} found it {found}, and left it: {record}"
            )


def _look_at_paths(records: Records, last: Life) -> None:
    """What the last run handed over are the pictures that are recorded now."""
    by_id = {record.request_id: record for record in records.items}
    for result in last.results:
        current = [(each.path, each.sha256) for each in by_id[result.request_id].files if each.state == "stored"]
        given = [(each.path, each.sha256) for each in result.pictures]
        hold(given == current, f"{given} were handed over, {current} are recorded: {by_id[result.request_id]}")
