"""What a command does to the runs of this process."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Protocol

from asyncgen.control_messages import Command, Verb
from asyncgen.errors import InputError
from asyncgen.records import Batch
from asyncgen.selection import Selection
from asyncgen.tally import Added, Statistics, Withdrawn


class Steered(Protocol):
    """A run that goes on, as far as commands concern it."""

    batch: Batch
    statistics: Statistics

    @property
    def is_read(self) -> bool: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    async def withdraw(self, selection: Selection) -> Withdrawn: ...
    async def unknown_ids(self, ids: Collection[str]) -> set[str]: ...
    async def prefer(self, ids: Collection[str]) -> int: ...
    async def add(self, requests: Sequence[Mapping[str, Any]], scope: int, *, check_only: bool) -> Added: ...


class Steering:
    """Carries commands out. `runs` are those that go on, by the id of their batch, and change while they do."""

    def __init__(self, runs: Mapping[int, Steered]) -> None:
        self._runs = runs

    async def handle(self, command: Command) -> Mapping[str, Any]:
        """Carry one out; what it did, once it is in effect or durable. Raises `InputError` where it cannot be."""
        if command.verb is Verb.STATE:
            return {"runs": [_state(run) for run in self._runs.values()]}
        runs = self._meant(command.batch)
        match command.verb:
            case Verb.PAUSE:
                for run in runs:
                    run.pause()
            case Verb.CONTINUE:
                for run in runs:
                    run.resume()
            case Verb.CANCEL:
                met = [await run.withdraw(command.selection) for run in runs]
                counts = {"out": sum(one.out for one in met), "unsent": sum(one.unsent for one in met)}
                return {**counts, **await _unknown(runs, command.ids)}
            case Verb.URGENT:
                ahead = sum([await run.prefer(command.ids) for run in runs])
                return {"read_ahead": ahead, **await _unknown(runs, command.ids)}
            case Verb.ADD:
                return asdict(
                    await self._only(runs).add(command.requests, command.scope, check_only=command.check_only)
                )
        return {"batches": [run.batch.name for run in runs]}

    def _meant(self, batch: str | None) -> list[Steered]:
        found = [run for run in self._runs.values() if batch in (None, run.batch.name)]
        if not found:
            going_on = ", ".join(run.batch.name for run in self._runs.values()) or "none"
            raise InputError(f"no run of the batch {batch or 'any'!r} goes on in this process; there is: {going_on}")
        return found

    def _only(self, runs: list[Steered]) -> Steered:
        if len(runs) > 1:
            raise InputError("name the batch: several are being run")
        return runs[0]


async def _unknown(runs: Sequence[Steered], ids: Sequence[str]) -> dict[str, Any]:
    """The ids that nothing is called, and whether that is final: rows that are still to be read may have them."""
    unknown = set(ids).intersection(*[await run.unknown_ids(ids) for run in runs]) if ids else set()
    return {"unknown": sorted(unknown), "is_read": all(run.is_read for run in runs)}


def _state(run: Steered) -> dict[str, Any]:
    s = run.statistics
    return {
        "batch": run.batch.name,
        "paused": s.paused,
        "out": s.out,
        "waiting_for_budget": s.waiting,
        "made": s.made,
        "failed": s.failed,
        "cancelled": s.cancelled,
    }
