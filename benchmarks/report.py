"""What a benchmark found: one table of texts, and whether what it saw and made is as it should be."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Report:
    """One benchmark's answer. `faults` say what is wrong with what it made or saw, and are empty where nothing is."""

    question: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str]
    faults: Sequence[str]
    fault_heading: str = "WRONG FILES"

    def show(self, console: Console) -> None:
        """Print the question, the table in Markdown, as `benchmarks/README.md` keeps it, the notes and the faults."""
        table = Table(box=box.MARKDOWN)
        for number, column in enumerate(self.columns):
            table.add_column(column, justify="right" if number else "left", no_wrap=True)
        for row in self.rows:
            table.add_row(*row)
        console.print(self.question, highlight=False)
        console.print(table)
        for line in (*self.notes, *(f"{self.fault_heading}: {fault}" for fault in self.faults)):
            console.print(line, highlight=False, markup=False, soft_wrap=True)


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
