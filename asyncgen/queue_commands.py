"""`asyncgen queue`: what is out and what waits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from asyncgen.console import print_json, print_table, say, with_exit_code
from asyncgen.display import duration
from asyncgen.exits import Exit
from asyncgen.lifecycle import State
from asyncgen.outstanding import Group, JobOut, outstanding
from asyncgen.run import ledger_path_of
from asyncgen.settings import load_settings
from asyncgen.system import SystemClock

_MOST_GROUPS: Final = 30
_GROUP_COLUMNS: Final = ("batch", "state", "jobs", "oldest", "endpoint", "workflow", "style", "LoRAs")
_JOB_COLUMNS: Final = ("image", "your id", "job", "state", "age", "result safe for", "deleted in")


@with_exit_code
def show_queue(overrides: Mapping[str, Any], *, realm: str, batch: str | None, jobs: int, as_json: bool) -> Exit:
    """`asyncgen queue`."""
    settings = load_settings(**overrides)
    ledger_path, now = ledger_path_of(settings, realm), SystemClock().wall()
    with outstanding(ledger_path, batch) as found:
        groups, oldest = list(found.groups()), list(found.oldest(jobs, settings.job_ttl_seconds))
    if as_json:
        print_json({"at": now, "groups": list(map(asdict, groups)), "oldest": list(map(asdict, oldest))})
    else:
        _print_queue(groups, oldest, now)
    return Exit.DONE


def _print_queue(groups: list[Group], oldest: list[JobOut], now: float) -> None:
    out = sum(group.jobs for group in groups if group.state is not State.WANTED)
    waiting = sum(group.jobs for group in groups) - out
    say(f"{out} out, {waiting} wanted and not sent")
    if groups:
        say("")
        print_table(_GROUP_COLUMNS, (_group_row(group, now) for group in groups[:_MOST_GROUPS]))
    if len(groups) > _MOST_GROUPS:
        say(f"and {len(groups) - _MOST_GROUPS} more groups")
    if oldest:
        say(f"\nthe {len(oldest)} oldest of {out} that are out")
        print_table(_JOB_COLUMNS, (_job_row(job, now) for job in oldest))
    if any(job.safe_until is not None and job.safe_until < now for job in oldest):
        say("the result of a job that ended half an hour ago is gone: a run of its batch collects what is there")


def _group_row(group: Group, now: float) -> tuple[str | None, ...]:
    return (
        group.batch,
        group.state,
        str(group.jobs),
        duration(max(0.0, now - group.oldest_at)),
        group.endpoint,
        group.workflow,
        group.style_id,
        group.loras,
    )


def _job_row(job: JobOut, now: float) -> tuple[str | None, ...]:
    return (
        job.request_id,
        job.id,
        job.job_id,
        job.state,
        None if job.submitted_at is None else duration(max(0.0, now - job.submitted_at)),
        _left(job.safe_until, now, "may be gone"),
        _left(job.deleted_at, now, "deleted"),
    )


def _left(until: float | None, now: float, over: str) -> str | None:
    """The time until then, or in words that it is over."""
    return None if until is None else over if until <= now else duration(until - now)
