"""`python -m benchmarks [NAME] [--quick]`: run one benchmark, or all but the soak, and print what they found."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Annotated, Final

import typer
from rich.console import Console

from benchmarks import soak, throughput
from benchmarks.report import Report

#: Each takes whether it is to be quick.
BENCHMARKS: Final[dict[str, Callable[[bool], Report]]] = {"throughput": throughput.run}
#: Runs for as long as it is told to, and only when it is named.
SOAK: Final = "soak"
_SETTINGS: Final = ("RUNPOD_", "ASYNCGEN_", "POLLING_", "MAX_POLLING_", "SYNC_TIMEOUT")
_WIDTH: Final = 140  # a table that is cut to a pipe's 80 columns could not be read

app = typer.Typer(add_completion=False)


@app.command()
def main(
    name: Annotated[
        str | None, typer.Argument(help=f"One of: {', '.join([*BENCHMARKS, SOAK])}. Default: all but {SOAK}.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A minute at most: shows that it works.")] = False,
    minutes: Annotated[float, typer.Option("--minutes", min=1, help=f"How long {SOAK} lasts.")] = 60,
) -> None:
    """Measure asyncgen; exit code 1 where files were wrong, or something grew in a soak."""
    if name not in (None, SOAK, *BENCHMARKS):
        raise typer.BadParameter(f"there is no benchmark {name!r}; there are: {', '.join([*BENCHMARKS, SOAK])}")
    _forget_settings()
    console, verified = Console(width=_WIDTH), True
    for chosen in [name] if name else BENCHMARKS:
        report = soak.run(minutes, quick=quick) if chosen == SOAK else BENCHMARKS[chosen](quick)
        report.show(console)
        verified = verified and not report.faults
    raise typer.Exit(0 if verified else 1)


def _forget_settings() -> None:
    """What is measured must not depend on the keys and settings of whoever measures."""
    for variable in [name for name in os.environ if name.startswith(_SETTINGS)]:
        del os.environ[variable]


if __name__ == "__main__":
    app()
