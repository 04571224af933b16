"""What must hold at the end of every seed, told from the platform's books, the disk and the ledger's durable image.

    purchases   what was bought, and why; what each image ended as
    requests    pace: limits, backoff, requests at once, jobs out
    folder      files, manifest
    runs        how each life ended
    reports     what each life said of itself: counts, results, money
    limits      the owner's: budget, faults in a row
    commands    what a life was told while it went on

What must hold at every instant is in `watch`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from . import commands, folder, limits, purchases, reports, requests, runs
from .broken import BrokenError
from .plans import Plan
from .records import read

if TYPE_CHECKING:
    from .lives import Life
    from .world import World

__all__ = ["BrokenError", "look_at"]


def look_at(world: World, plan: Plan, lives: Sequence[Life]) -> None:
    """Raises `BrokenError` naming the first truth that does not hold; counts the lifecycle's moves that were met."""
    records = read(world, lives)
    purchases.look_at(world, records, lives)
    requests.look_at(world, records, lives)
    folder.look_at(world, records)
    runs.look_at(world, plan, records, lives)
    reports.look_at(world, records, lives)
    limits.look_at(world, records, lives)
    commands.look_at(world, records, lives)
    for record in records.items:
        for move in record.moves[1:]:
            world.books.hit(f"move: {move.source} -> {move.target}")
            if move.takes_back_retry:
                world.books.hit("retry: never taken")
            if move.rolls_on:
                world.books.hit("rejected: tried again with another seed")
            if move.rejects:
                world.books.hit(f"rejected: {move.target}")
        for job in record.jobs:
            if job.is_rejected:
                world.books.hit(f"rejected: {job.outcome}")
