"""What jobs have cost, by run, style, LoRA or day: a reader of the ledger for `asyncgen cost`.

A job belongs to the run that sent it and to the day (UTC) it was sent on; style and LoRAs are those that its image is
made with now. Money is computed as `asyncgen status` does: by `report.COSTS_OF_JOBS`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from itertools import groupby
from pathlib import Path
from typing import Final

from asyncgen.money import Cost, Use
from asyncgen.report import COSTS_OF_JOBS, check_batch, cost_of, cost_with_out, reading
from asyncgen.rows import LAST_JOB


class By(StrEnum):
    """What costs are grouped by."""

    RUN = "run"
    STYLE = "style"
    LORA = "lora"
    DAY = "day"


_LORAS: Final = "LEFT JOIN json_each(item.spec, '$.loras') AS lora"
# The key of a group, and what must be joined for it. NULL is told in words: see `_NOTHING`.
_KEYS: Final = {
    By.RUN: ("job.run_id", ""),
    By.STYLE: ("item.style_id", ""),
    By.LORA: ("json_extract(lora.value, '$.name')", _LORAS),
    By.DAY: ("date(job.submitted_at, 'unixepoch')", ""),
}
_NOTHING: Final = {
    By.RUN: "(before runs were recorded)",
    By.STYLE: "(no style)",
    By.LORA: "(no LoRA)",
    By.DAY: "(day not known)",
}
_KEPT: Final = f"""CASE WHEN outcome = 'completed' AND {LAST_JOB}
    THEN (SELECT count(*) FROM image WHERE image.item_id = item.id AND image.state = 'stored') ELSE 0 END"""  # noqa: S608 - the names are ours


@dataclass(frozen=True, slots=True)
class CostLine:
    """The jobs of one group, or of all (`name` None).

    `jobs` are those that have ended and `out` those that have not, whose cost nobody knows yet. `kept` counts the
    pictures that are there. `untimed` jobs never said how long they ran, `unpriced` ones were bought without a price.
    `priced_usd` is what is known of the cost in any case: times that were said, at prices that were named.
    """

    name: str | None
    jobs: int
    out: int
    kept: int
    gpu_ms: int
    untimed: int
    unpriced: int
    priced_usd: float
    costs: dict[Use, Cost]

    @property
    def cost(self) -> Cost:
        """Of all its jobs, whatever became of them; as sure as the least sure of them."""
        return cost_with_out(self.costs.values(), self.out)

    @property
    def cost_of_kept(self) -> Cost | None:
        """All that was paid, for each picture that is there; None where there is none."""
        cost = self.cost
        if not self.kept:
            return None
        usd, most_usd = (None if value is None else value / self.kept for value in (cost.usd, cost.most_usd))
        return Cost(usd, cost.label, most_usd)

    @property
    def no_picture(self) -> Cost:
        """What of the cost gave no picture: failed, cancelled, lost, or of unknown outcome."""
        return cost_with_out([cost for use, cost in self.costs.items() if use is not Use.MADE], 0)


class Costs:
    """The costs of a ledger at one moment; of one batch, or of all (None)."""

    def __init__(self, connection: sqlite3.Connection, batch: str | None) -> None:
        self._connection, self._batch = connection, batch

    def lines(self, by: By) -> Iterator[CostLine]:
        """One for each group, in order. A job with two LoRAs is in the lines of both."""
        for key, rows in groupby(self._rows(*_KEYS[by]), key=lambda row: row["name"]):
            name = _NOTHING[by] if key is None else self._run_name(key) if by is By.RUN else str(key)
            yield _line(name, rows)

    def total(self) -> CostLine:
        """Every job once."""
        return _line(None, self._rows("1", ""))

    def _rows(self, key: str, join: str) -> Iterator[sqlite3.Row]:
        """For each group one row for each thing that became of its jobs."""
        query = (
            f"SELECT {key} AS name, {COSTS_OF_JOBS}, sum({_KEPT}) AS kept "  # noqa: S608 - the names are ours
            f"FROM job JOIN item ON item.id = job.item_id {join} "
            "WHERE ?1 IS NULL OR item.batch_id IN (SELECT id FROM batch WHERE name = ?1) "
            "GROUP BY name, became ORDER BY name"
        )
        return iter(self._connection.execute(query, (self._batch,)))

    def _run_name(self, run_id: int) -> str:
        query = "SELECT name, started_at FROM run JOIN batch ON batch.id = batch_id WHERE run.id = ?"
        name, started_at = self._connection.execute(query, (run_id,)).fetchone()
        return f"{name}, {datetime.fromtimestamp(started_at, UTC):%Y-%m-%d %H:%M:%S} (run {run_id})"


def _line(name: str | None, rows: Iterable[sqlite3.Row]) -> CostLine:
    by_use = {row["became"]: row for row in rows}
    out = by_use.pop("out", None)

    def total(column: str) -> int:
        return sum(row[column] for row in by_use.values())

    return CostLine(
        name=name,
        jobs=total("jobs"),
        out=0 if out is None else out["jobs"],
        kept=total("kept"),
        gpu_ms=total("execution_ms"),
        untimed=total("untimed"),
        unpriced=total("unpriced"),
        priced_usd=sum(row["usd"] for row in by_use.values()),
        costs={Use(became): cost_of(row) for became, row in by_use.items()},
    )


@contextmanager
def costs(ledger_path: Path, batch: str | None = None) -> Iterator[Costs]:
    """The costs of a ledger, for the length of the block.

    Raises `InputError` where it has no such batch, and `LedgerError` where there is none to read.
    """
    with reading(ledger_path) as connection:
        if batch is not None:
            check_batch(connection, ledger_path, batch)
        yield Costs(connection, batch)
