"""What a benchmark found: one table of texts, and whether the files it made are what they should be."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Report:
    """One benchmark's answer. `faults` are what is wrong with the files, empty where every file was verified."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str]
    faults: Sequence[str]

    def show(self, console: Console) -> None:
        """Print the table in Markdown, as `benchmarks/README.md` keeps it, with its notes."""
        table = Table(box=box.MARKDOWN)
        for number, column in enumerate(self.columns):
            table.add_column(column, justify="right" if number else "left", no_wrap=True)
        for row in self.rows:
            table.add_row(*row)
        console.print(self.title, highlight=False)
        console.print(table)
        for line in (*self.notes, *(f"WRONG FILES: {fault}" for fault in self.faults)):
            console.print(line, highlight=False, soft_wrap=True)


def machine(cpu_info: Path = Path("/proc/cpuinfo")) -> str:
    """The machine in a few words: processor, cores, system, Python."""
    lines = cpu_info.read_text(encoding="utf-8").splitlines() if cpu_info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name, cores = (models[0], len(models)) if models else (platform.processor() or platform.machine(), os_cores())
    return f"{name}, {cores} cores, {platform.system()} {platform.release()}, Python {platform.python_version()}"
