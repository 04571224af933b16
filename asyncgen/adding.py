"""`asyncgen queue add`: more images for a batch, by the process that runs it, or recorded here for the next run."""

from __future__ import annotations

import json
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import IO, Any, Final

import anyio

from asyncgen.api import ImageGenerator
from asyncgen.console import say, with_exit_code
from asyncgen.control import Owner, connected, socket_path
from asyncgen.control_messages import MAX_LINE_BYTES, MAX_REQUESTS, Command, Verb
from asyncgen.errors import InputError
from asyncgen.exits import Exit
from asyncgen.intake import Intake
from asyncgen.lifecycle import State
from asyncgen.records import Want
from asyncgen.report import batch_statuses
from asyncgen.run import planned_to_add
from asyncgen.settings import load_settings, state_folder
from asyncgen.source import Source, SourceOptions
from asyncgen.streams import complain

_MOST_BAD_ROWS_SHOWN: Final = 20
_PAGE_BYTES: Final = MAX_LINE_BYTES // 2
_CHUNK: Final = 32


@with_exit_code
def add(
    overrides: Mapping[str, Any],
    batch: str,
    *,
    file: str | None,
    format: str | None,
    prompt: str | None,
    fields: Mapping[str, Any],
    sandbox: bool,
) -> Exit:
    """`asyncgen queue add`: look at everything first, then add it, by the process that owns the run or here."""
    if (file is None) == (prompt is None):
        raise InputError("give a file of prompts, or one --prompt", field="FILE")
    generator = ImageGenerator(load_settings(**overrides), sandbox=sandbox)
    with tempfile.TemporaryFile("w+", encoding="utf-8") as spool:  # however many there are
        if file is not None:
            source = Source(SourceOptions(file, format, None, False, fields))
            if not _keep_rows(source, generator, spool):
                return Exit.BAD_INPUT
        else:
            _keep(spool, Intake(generator.planner, fields, name="--prompt").plan(prompt or "")[0].want)
        say(anyio.run(_add, generator, batch, spool))
    return Exit.DONE


def _keep_rows(source: Source, generator: ImageGenerator, spool: IO[str]) -> bool:
    """The requests of a file that is good as a whole; False, with each bad row told, for one that is not."""
    count = 0

    def note_bad(error: InputError) -> None:
        nonlocal count
        count += 1
        if count <= _MOST_BAD_ROWS_SHOWN:
            complain(str(error))

    total = source.look_through(generator, None, note_bad, lambda _, wants: _keep(spool, wants[0]))
    if count:
        complain(f"{count} bad rows, nothing was added: mend them")
    elif not total:
        complain(f"{source.name}: there is no prompt in it")
    return bool(total) and not count


def _keep(spool: IO[str], want: Want) -> None:
    spool.write(f"{want.request.said_json()}\n")


def _pages(spool: IO[str]) -> Iterator[list[dict[str, Any]]]:
    """As many requests as one message takes."""
    spool.seek(0)
    page: list[dict[str, Any]] = []
    size = 0
    for line in spool:
        if page and (len(page) == MAX_REQUESTS or size + len(line.encode()) > _PAGE_BYTES):
            yield page
            page, size = [], 0
        page.append(json.loads(line))
        size += len(line.encode())
    if page:
        yield page


async def _add(generator: ImageGenerator, batch: str, spool: IO[str]) -> str:
    async with connected(socket_path(generator.ledger_path, state_folder())) as owner:
        if owner is None:
            return await _add_here(generator, batch, spool)
        return await _add_by(owner, batch, spool)


async def _add_by(owner: Owner, batch: str, spool: IO[str]) -> str:
    scope = -1 - secrets.randbits(48)
    for page in _pages(spool):
        await owner.ask(Command(verb=Verb.ADD, batch=batch, requests=page, check_only=True, scope=scope))
    added = there = 0
    is_taken = True
    for page in _pages(spool):
        reply = await owner.ask(Command(verb=Verb.ADD, batch=batch, requests=page, scope=scope))
        added, there, is_taken = added + reply["added"], there + reply["there"], is_taken and reply["is_taken"]
    await owner.ask(Command(verb=Verb.ADD, batch=batch, scope=scope))
    words = f"{added} added to the run of {batch}{_already(there)}"
    return words if is_taken else f"{words}; it has come to its end: {_next_run(batch)}"


async def _add_here(generator: ImageGenerator, batch: str, spool: IO[str]) -> str:
    """No run goes on: own the ledger for as long as it takes to record what is wanted."""
    added = there = 0
    async with generator:
        ledger, realm = generator.workspace.ledger, generator.target.realm
        known = [status.name for status in batch_statuses(generator.workspace.ledger_path) if status.realm == realm]
        if batch not in known:
            raise InputError(f"there is no batch {batch!r}; there is: {', '.join(known) or 'none'}", field="BATCH")
        opened = await ledger.open_batch(batch, realm)
        for chunk in _chunks(generator, spool):
            await ledger.check_ids(opened, chunk)
        for chunk in _chunks(generator, spool):
            items = await ledger.claim(opened, -1, chunk)
            fresh = sum(item.is_new or item.state is State.CANCELLED for item in items)
            added, there = added + fresh, there + len(items) - fresh
    return f"{added} are wanted of {batch}{_already(there)}; no run goes on: {_next_run(batch)}"


def _chunks(generator: ImageGenerator, spool: IO[str]) -> Iterator[list[Want]]:
    for request in (request for page in _pages(spool) for request in page):
        wants = planned_to_add(generator.planner, request)
        while chunk := list(islice(wants, _CHUNK)):
            yield chunk


def _already(there: int) -> str:
    return f", {there} it has already" if there else ""


def _next_run(batch: str) -> str:
    return f"`asyncgen retry {batch}` makes them"
