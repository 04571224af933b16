"""`asyncgen cost`: what jobs have cost, by run, style, LoRA or day, for people, for spreadsheets and for programs."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any, Final, cast

from asyncgen.console import print_json, print_table, say, with_exit_code
from asyncgen.costs import By, CostLine, Costs, costs
from asyncgen.display import duration
from asyncgen.exits import Exit
from asyncgen.money import Label, Use, dollars
from asyncgen.settings import load_settings
from asyncgen.streams import Output
from asyncgen.workspace import ledger_path_of

_COLUMNS: Final = ("jobs", "out", "kept", "GPU time", "cost", "without a picture", "per kept image")
_CSV_COLUMNS: Final = (
    "jobs", "out", "kept", "gpu_seconds", "cost_usd", "label", "most_usd", "usd_per_kept", "priced_usd", "untimed",
    "unpriced", *(f"{use}_usd" for use in Use),
)  # fmt: skip


@with_exit_code
def show_cost(
    overrides: Mapping[str, Any], *, realm: str, by: str, batch: str | None, as_csv: bool, as_json: bool
) -> Exit:
    """`asyncgen cost`."""
    group = By(by)
    with costs(ledger_path_of(load_settings(**overrides), realm), batch) as found:
        if as_json:
            for line in (*found.lines(group), found.total()):
                print_json({"by": group, "name": line.name, **_fields(line)})
        elif as_csv:
            _write_csv(group, found)
        else:
            _print_lines(group, found)
    return Exit.DONE


def _print_lines(by: By, found: Costs) -> None:
    total = found.total()
    rows = ((line.name or "", *_cells(line)) for line in found.lines(by))
    print_table((by, *_COLUMNS), _with_total(rows, total))
    if by is By.LORA:
        say("a job with several LoRAs counts for each of them, and once in the total")
    if total.unpriced:
        say(f"{total.unpriced} jobs were bought without a price (--usd-per-second or --gpu names one)")
    if total.untimed:
        say(f"{total.untimed} jobs never said how long they ran")
    if total.out:
        say(f"{total.out} jobs are out: what they cost is known once they have ended")


def _with_total(rows: Iterator[tuple[str, ...]], total: CostLine) -> Iterator[tuple[str, ...]]:
    yield from rows
    yield ("total", *_cells(total))


def _cells(line: CostLine) -> tuple[str, ...]:
    per_kept = line.cost_of_kept
    return (
        str(line.jobs),
        str(line.out),
        str(line.kept),
        duration(line.gpu_ms / 1000),
        _cost(line),
        str(line.no_picture),
        "–" if per_kept is None else str(per_kept),
    )


def _cost(line: CostLine) -> str:
    is_known_in_part = line.cost.label is Label.UNPRICED and line.priced_usd
    return f"unpriced, {dollars(line.priced_usd)} of it known" if is_known_in_part else line.cost.bounds


def _write_csv(by: By, found: Costs) -> None:
    """One line for each group and no total, which a spreadsheet would add up again."""
    writer = csv.writer(cast("Any", Output()))
    writer.writerow((by, *_CSV_COLUMNS))
    for line in found.lines(by):
        cost, per_kept, of_use = line.cost, line.cost_of_kept, line.costs
        writer.writerow(
            (
                line.name,
                line.jobs,
                line.out,
                line.kept,
                line.gpu_ms / 1000,
                _rounded(cost.usd),
                cost.label,
                _rounded(cost.most_usd),
                None if per_kept is None else _rounded(per_kept.usd),
                _rounded(line.priced_usd),
                line.untimed,
                line.unpriced,
                *(_rounded(of_use[use].usd) if use in of_use else 0.0 for use in Use),
            )
        )


def _rounded(usd: float | None) -> float | None:
    return None if usd is None else round(usd, 9)


def _fields(line: CostLine) -> dict[str, Any]:
    per_kept = line.cost_of_kept
    return {
        "jobs": line.jobs,
        "out": line.out,
        "kept": line.kept,
        "gpu_seconds": line.gpu_ms / 1000,
        "cost": asdict(line.cost),
        "cost_of_kept": None if per_kept is None else asdict(per_kept),
        "without_picture": asdict(line.no_picture),
        "priced_usd": line.priced_usd,
        "untimed": line.untimed,
        "unpriced": line.unpriced,
        **{str(use): asdict(cost) for use, cost in line.costs.items()},
    }
