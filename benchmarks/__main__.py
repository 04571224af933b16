"""`python -m benchmarks [NAME] [--quick]`: run one benchmark, or all but the soak, print and keep what they found."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console

from benchmarks import busy, lanes, loop, memory, overhead, planning, polling, resume, soak, start, wire
from benchmarks.report import Report, markdown_table
from benchmarks.results import QUICK_RESULTS, RESULTS, can_draw, write_results

#: Each takes whether it is to be quick.
BENCHMARKS: Final[dict[str, Callable[[bool], Report]]] = {
    "wire": wire.run,
    "memory": memory.run,
    "loop": loop.run,
    "overhead": overhead.run,
    "start": start.run,
    "polling": polling.run,
    "busy": busy.run,
    "lanes": lanes.run,
    "resume": resume.run,
    "planning": planning.run,
}
#: Runs for as long as it is told to, and only when it is named.
SOAK: Final = "soak"
_SETTINGS: Final = ("RUNPOD_", "ASYNCGEN_", "POLLING_", "MAX_POLLING_", "SYNC_TIMEOUT")
_OPEN_FILES: Final = 8192
_WIDTH: Final = 160  # a table that is cut to a pipe's 80 columns could not be read

app = typer.Typer(add_completion=False)


@app.command()
def main(
    name: Annotated[
        str | None, typer.Argument(help=f"One of: {', '.join([*BENCHMARKS, SOAK])}. Default: all but {SOAK}.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="All within two minutes: shows that it works.")] = False,
    minutes: Annotated[float, typer.Option("--minutes", min=1, help=f"How long {SOAK} lasts.")] = 60,
    results: Annotated[
        Path | None,
        typer.Option(
            "--results",
            help="Folder for NAME.json and NAME.png. Default: benchmarks/results, and its folder quick for --quick.",
        ),
    ] = None,
) -> None:
    """Measure asyncgen; exit code 1 where files were wrong, or something grew in a soak. No target counts."""
    if name not in (None, SOAK, *BENCHMARKS):
        raise typer.BadParameter(f"there is no benchmark {name!r}; there are: {', '.join([*BENCHMARKS, SOAK])}")
    if not can_draw():
        raise typer.BadParameter("the plots need matplotlib: pip install '.[bench]'")
    _forget_settings()
    _allow_many_connections()
    console, folder = Console(width=_WIDTH), results or (QUICK_RESULTS if quick else RESULTS)
    reports = {}
    for chosen in [name] if name else BENCHMARKS:
        began = time.monotonic()
        reports[chosen] = soak.run(minutes, quick=quick) if chosen == SOAK else BENCHMARKS[chosen](quick)
        reports[chosen].show(console)
        write_results(folder, chosen, reports[chosen], quick=quick)
        console.print(f"{time.monotonic() - began:.0f} s\n", highlight=False)
    _show_targets(console, reports, quick=quick)
    raise typer.Exit(1 if any(report.faults for report in reports.values()) else 0)


def _show_targets(console: Console, reports: dict[str, Report], *, quick: bool) -> None:
    rows = [
        (f"{name}: {target.what}", *target.cells()) for name, report in reports.items() for target in report.targets
    ]
    if quick and rows:
        console.print("--quick: these figures mean nothing")
    if rows:
        console.print(markdown_table(("target", "measured", "limit", "reached"), rows))


def _forget_settings() -> None:
    """What is measured must not depend on the keys and settings of whoever measures."""
    for variable in [name for name in os.environ if name.startswith(_SETTINGS)]:
        del os.environ[variable]


def _allow_many_connections() -> None:
    """With 1,024 jobs in flight most sides hold as many connections, and so does their server; both inherit this."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


if __name__ == "__main__":
    app()
