"""`asyncgen queue`: what is out and what waits; commands to the process that owns the run, or done here without one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import anyio

from asyncgen.api import ImageGenerator
from asyncgen.console import print_json, print_table, say, with_exit_code
from asyncgen.control import connected, socket_path
from asyncgen.control_messages import MAX_IDS, Command, Verb
from asyncgen.display import duration
from asyncgen.errors import InputError
from asyncgen.exits import Exit
from asyncgen.lifecycle import State
from asyncgen.outstanding import Group, JobOut, outstanding
from asyncgen.records import PLATFORM, SANDBOX
from asyncgen.results import ImageResult
from asyncgen.selection import Selection
from asyncgen.settings import load_settings, state_folder
from asyncgen.system import SystemClock
from asyncgen.workspace import ledger_path_of

_MOST_GROUPS: Final = 30
_MOST_NAMED: Final = 10
_GROUP_COLUMNS: Final = ("batch", "state", "jobs", "oldest", "endpoint", "workflow", "style", "LoRAs")
_JOB_COLUMNS: Final = ("image", "your id", "job", "state", "age", "result safe for", "deleted in*")


@with_exit_code
def show_queue(overrides: Mapping[str, Any], *, realm: str, batch: str | None, jobs: int, as_json: bool) -> Exit:
    """`asyncgen queue`."""
    settings = load_settings(**overrides)
    ledger_path, now = ledger_path_of(settings, realm), SystemClock().wall()
    with outstanding(ledger_path, batch) as found:
        groups, oldest = list(found.groups()), list(found.oldest(jobs, settings.job_ttl_seconds))
    state = anyio.run(_ask, ledger_path, [Command(verb=Verb.STATE)])
    runs = [] if state is None else [run for run in state[0]["runs"] if batch in (None, run["batch"])]
    if as_json:
        values = {"groups": list(map(asdict, groups)), "oldest": list(map(asdict, oldest))}
        print_json({"at": now, "runs": runs, **values})
    else:
        _print_queue(groups, oldest, now)
        _print_runs(runs)
    return Exit.DONE


@with_exit_code
def pause_run(overrides: Mapping[str, Any], *, realm: str, batch: str | None) -> Exit:
    """`asyncgen queue pause`."""
    _tell_owner(overrides, realm, Command(verb=Verb.PAUSE, batch=batch), "paused", "nothing is sent until `continue`")
    return Exit.DONE


@with_exit_code
def continue_run(overrides: Mapping[str, Any], *, realm: str, batch: str | None) -> Exit:
    """`asyncgen queue continue`."""
    _tell_owner(overrides, realm, Command(verb=Verb.CONTINUE, batch=batch), "goes on", "")
    return Exit.DONE


@with_exit_code
def cancel(
    overrides: Mapping[str, Any], *, sandbox: bool, batch: str | None, wanted: Selection, everything: bool
) -> Exit:
    """`asyncgen queue cancel`: by the process that owns the run, or here where none does."""
    if (wanted != Selection()) == everything:
        raise InputError("name ids, --style, --lora or --workflow, or give --all for everything", field="--all")
    settings = load_settings(**overrides)
    ledger_path = ledger_path_of(settings, SANDBOX if sandbox else PLATFORM)
    lanes = {"style": wanted.style, "lora": wanted.lora, "workflow": wanted.workflow}
    commands = [Command(verb=Verb.CANCEL, batch=batch, ids=ids, **lanes) for ids in _pages(sorted(wanted.ids)) or [[]]]
    replies = anyio.run(_ask, ledger_path, commands)
    if replies is None:
        with outstanding(ledger_path, batch) as found:
            names = sorted({group.batch for group in found.groups()})
        replies = anyio.run(_cancel_here, ImageGenerator(settings, sandbox=sandbox), names, wanted)
    out, unsent = (sum(reply[name] for reply in replies) for name in ("out", "unsent"))
    say(f"{out} that were out are cancelled at the platform, unless they had ended; {unsent} wanted are not sent")
    if out or unsent:
        say("they are wanted again as soon as their batch is started again")
    _check_known(replies)
    return Exit.DONE


@with_exit_code
def prefer(overrides: Mapping[str, Any], *, realm: str, batch: str | None, ids: Sequence[str]) -> Exit:
    """`asyncgen queue urgent`."""
    ledger_path = ledger_path_of(load_settings(**overrides), realm)
    commands = [Command(verb=Verb.URGENT, batch=batch, ids=page) for page in _pages(list(ids))]
    replies = anyio.run(_ask, ledger_path, commands)
    if replies is None:
        raise InputError(f"no run goes on over {ledger_path}: give the rows a priority, which the next run goes by")
    ahead = sum(reply["read_ahead"] for reply in replies)
    if ahead or not any(reply["unknown"] for reply in replies):
        say(f"{ahead} of {len(ids)} are read already and come next; the others do as soon as their rows are read")
    _check_known(replies)
    return Exit.DONE


def _check_known(replies: Sequence[Mapping[str, Any]]) -> None:
    """Raises `InputError` for ids that nothing is called; where rows are still to be read, only says so."""
    unknown = [name for reply in replies for name in reply["unknown"]]
    if not unknown:
        return
    more = len(unknown) - _MOST_NAMED
    names = ", ".join(unknown[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
    if all(reply["is_read"] for reply in replies):
        raise InputError(f"nothing is called {names}: `asyncgen queue --jobs 20` tells what is out", field="ID")
    say(f"nothing that has been read yet is called {names}; rows that are still to be read are meant too")


async def _cancel_here(generator: ImageGenerator, batches: Sequence[str], wanted: Selection) -> list[dict[str, Any]]:
    """No process owns the ledger: own it, and do what a run would do."""
    replies: list[dict[str, Any]] = []
    async with generator:
        unknown = await generator.workspace.ledger.unknown_ids(wanted.ids, None)
        replies.append({"out": 0, "unsent": 0, "unknown": sorted(unknown), "is_read": True})
        for name in batches:
            run = await generator.open_run(name)
            met = asdict(await run.take_back(wanted, _not_delivered))
            replies.append({**met, "unknown": [], "is_read": True})
    return replies


async def _not_delivered(result: ImageResult) -> None:
    """What had ended is stored; nobody waits for it here."""


def _tell_owner(overrides: Mapping[str, Any], realm: str, command: Command, done: str, more: str) -> None:
    ledger_path = ledger_path_of(load_settings(**overrides), realm)
    replies = anyio.run(_ask, ledger_path, [command])
    if replies is None:
        raise InputError(f"no run goes on over {ledger_path}: there is nothing to {command.verb}")
    for name in replies[0]["batches"]:
        say(f"{name}: {done}{more and f'; {more}'}")


async def _ask(ledger_path: Path, commands: Sequence[Command]) -> list[dict[str, Any]] | None:
    """What the process that owns a ledger answers; None where there is none."""
    async with connected(socket_path(ledger_path, state_folder())) as owner:
        return None if owner is None else [await owner.ask(command) for command in commands]


def _pages(ids: list[str]) -> list[list[str]]:
    return [ids[begin : begin + MAX_IDS] for begin in range(0, len(ids), MAX_IDS)]


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
        say("* by today's ASYNCGEN_JOB_TTL: the ledger does not keep what a job was sent with, which may be longer")
    if any(job.safe_until is not None and job.safe_until < now for job in oldest):
        say("the result of a job that ended half an hour ago is gone: a run of its batch collects what is there")


def _print_runs(runs: Sequence[Mapping[str, Any]]) -> None:
    for run in runs:
        state = "paused: nothing is sent until `asyncgen queue continue`" if run["paused"] else "going on"
        say(f"{run['batch']}: a run is {state}, {run['out']} out, {run['made']} made, {run['failed']} failed")
    if not runs:
        say("no run is going on")


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
