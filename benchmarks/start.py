"""What it costs to start: the command's help, and the import, each in a fresh process.

Whole processes are measured, the interpreter's own start included; `python -c pass` says how much that is.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from tempfile import TemporaryDirectory
from typing import Final

from benchmarks.measuring import checkout_environment
from benchmarks.report import Plot, Report, Target, machine

QUESTION: Final = "start: how long until the command's help is there, or the package imported?"

HELP: Final = "python -m asyncgen --help"
IMPORT: Final = "import asyncgen"
OFFICIAL: Final = "import runpod"
#: Importing asyncgen loads what is asked for and no more: this asks for what makes images.
ENGINE: Final = "from asyncgen import generate_many"
PYTHON: Final = "pass"
COMMANDS: Final[Mapping[str, Sequence[str]]] = {
    HELP: ("-m", "asyncgen", "--help"),
    IMPORT: ("-c", IMPORT),
    ENGINE: ("-c", ENGINE),
    OFFICIAL: ("-c", OFFICIAL),
    PYTHON: ("-c", PYTHON),
}
_ROUNDS, _QUICK_ROUNDS = 20, 1
_HELP_MS, _IMPORT_MS = 200, 120


@dataclass(frozen=True, slots=True)
class Start:
    """One process from its start to its end, in milliseconds; CPU is user and system time."""

    wall_ms: float
    cpu_ms: float


Round = Mapping[str, Start]


def run(quick: bool) -> Report:
    """All commands in turn, after one round that only fills the caches."""
    rounds = [{name: _start(name) for name in COMMANDS} for _ in range(1 + (_QUICK_ROUNDS if quick else _ROUNDS))][1:]
    return Report(
        QUESTION,
        ("process", "wall ms", "× import runpod", "CPU ms", "× import runpod"),
        [_row(rounds, name) for name in COMMANDS],
        [f"{len(rounds)} fresh processes of each, caches warm; {machine()}"],
        [],
        samples=[
            {"side": name, "wall_ms": start.wall_ms, "cpu_ms": start.cpu_ms}
            for each in rounds
            for name, start in each.items()
        ],
        targets=[
            Target(f"wall ms of {HELP}", median(each[HELP].wall_ms for each in rounds), _HELP_MS),
            Target(f"wall ms of {IMPORT}", median(each[IMPORT].wall_ms for each in rounds), _IMPORT_MS),
        ],
        plots=[Plot("wall_ms", "wall time, ms"), Plot("cpu_ms", "CPU, ms")],
    )


def _start(name: str) -> Start:
    with TemporaryDirectory(prefix="asyncgen-benchmark-") as folder:  # away from a `.env`
        wall, cpu = time.perf_counter(), _cpu_seconds_of_children()
        command = [sys.executable, *COMMANDS[name]]
        subprocess.run(command, cwd=folder, env=checkout_environment(), stdout=subprocess.DEVNULL, check=True)
        return Start((time.perf_counter() - wall) * 1000, (_cpu_seconds_of_children() - cpu) * 1000)


def _cpu_seconds_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _row(rounds: Sequence[Round], name: str) -> tuple[str, ...]:
    return (
        name if name != PYTHON else "python -c pass",
        f"{median(each[name].wall_ms for each in rounds):.0f}",
        f"{median(each[name].wall_ms / each[OFFICIAL].wall_ms for each in rounds):.2f}",
        f"{median(each[name].cpu_ms for each in rounds):.0f}",
        f"{median(each[name].cpu_ms / each[OFFICIAL].cpu_ms for each in rounds):.2f}",
    )
