"""What a benchmark found: a table of texts, its targets, its raw samples, and whether what it saw and made is right."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

#: One run of one side as it was measured: "side", its parameters, and its figures by name. All of it JSON-able.
RawSample = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Target:
    """What a figure is to reach, beside what was measured. `what` names figure and unit."""

    what: str
    measured: float
    limit: float
    at_most: bool = True

    @property
    def is_reached(self) -> bool:
        """Whether the figure is on the right side of the limit, or on it."""
        return self.measured <= self.limit if self.at_most else self.measured >= self.limit

    def __str__(self) -> str:
        measured, limit, reached = self.cells()
        return f"{self.what}: {measured} ({limit}, {'reached' if reached == 'yes' else 'NOT REACHED'})"

    def cells(self) -> tuple[str, str, str]:
        """Measured, limit and whether it is reached, as a table shows them."""
        limit = f"{'≤' if self.at_most else '≥'} {_shown(self.limit)}"
        return _shown(self.measured), limit, "yes" if self.is_reached else "NO"


def _shown(figure: float) -> str:
    return f"{figure:,.0f}" if abs(figure) >= 100 else f"{figure:.3g}"


@dataclass(frozen=True, slots=True)
class Plot:
    """One way to draw the samples: the key of a figure, and what stands beside it.

    Without a `parameter` the figure is a bar per side (the median) with a dot per run; with one (the key of a number
    in the samples) it is a line per side over it. `panel` is the key of a value that divides the samples into plots of
    their own. `limit` is drawn as a line: a target in the figure's unit.
    """

    figure: str
    label: str
    parameter: str | None = None
    panel: str | None = None
    limit: float | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """One benchmark's answer. `faults` say what is wrong with what it made or saw, and are empty where nothing is.

    Without `plots` the first figure of the samples that differs is drawn.
    """

    question: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str]
    faults: Sequence[str]
    fault_heading: str = "WRONG FILES"
    samples: Sequence[RawSample] = ()
    targets: Sequence[Target] = ()
    plots: Sequence[Plot] = ()

    def show(self, console: Console) -> None:
        """Print the question, the table in Markdown, as `benchmarks/README.md` keeps it, targets, notes and faults."""
        console.print(self.question, highlight=False)
        console.print(markdown_table(self.columns, self.rows))
        for line in (
            *(f"target: {target}" for target in self.targets),
            *self.notes,
            *(f"{self.fault_heading}: {fault}" for fault in self.faults),
        ):
            console.print(line, highlight=False, markup=False, soft_wrap=True)


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """The first column left, the others right."""
    table = Table(box=box.MARKDOWN)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def machine() -> str:
    """The machine in a few words: processor, cores, system, Python."""
    processor = _processor() or platform.processor() or platform.machine()
    system = f"{platform.system()} {platform.release()}"
    return f"{processor}, {os.cpu_count()} cores, {system}, Python {platform.python_version()}"


def _processor() -> str | None:
    """The model as Linux names it."""
    cpu_info = Path("/proc/cpuinfo")
    lines = cpu_info.read_text(encoding="utf-8").splitlines() if cpu_info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)
