"""What a benchmark found, kept: `NAME.json` with the raw samples, `NAME.png` with plots of them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Final

from benchmarks.report import Plot, RawSample, Report, machine

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Beside the code, and kept in git; the figures of `--quick` mean nothing and go to a folder that is not.
RESULTS: Final = Path(__file__).parent / "results"
QUICK_RESULTS: Final = RESULTS / "quick"
_SIDE: Final = "side"
_INCHES: Final = (9.0, 3.2)  # of one plot
_DOTS_PER_INCH: Final = 110
_LARGE: Final = 100_000  # numbers from here on are written as powers of ten


def can_draw() -> bool:
    """Whether matplotlib is installed; it is large, and imported only to draw."""
    return find_spec("matplotlib") is not None


def write_results(folder: Path, name: str, report: Report, *, quick: bool) -> None:
    """Write `NAME.json`, and `NAME.png` where there are figures to draw; see `can_draw`."""
    folder.mkdir(parents=True, exist_ok=True)
    document = {
        "benchmark": name,
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "machine": machine(),
        "quick": quick,
        "question": report.question,
        "table": {"columns": list(report.columns), "rows": [list(row) for row in report.rows]},
        "targets": [asdict(target) | {"is_reached": target.is_reached} for target in report.targets],
        "notes": list(report.notes),
        "faults": list(report.faults),
        "samples": [dict(sample) for sample in report.samples],
    }
    text = json.dumps(document, ensure_ascii=False, indent=1)
    (folder / f"{name}.json").write_text(f"{text}\n", encoding="utf-8")
    if plots := list(_panels(report)):
        _draw(folder / f"{name}.png", report.question, plots)


def _commit() -> str | None:
    """What is measured; "+" where files differ from it, None where that cannot be told."""
    command = ["git", "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=RESULTS.parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


# -- plots


def _panels(report: Report) -> Iterable[tuple[Plot, str, list[RawSample]]]:
    """Each plot with its title and its samples."""
    for plot in report.plots or _plot_of_first_figure(report.samples):
        having = [sample for sample in report.samples if isinstance(sample.get(plot.figure), int | float)]
        panels = dict.fromkeys(sample.get(plot.panel) for sample in having) if plot.panel else (None,)
        for panel in panels:
            title = plot.label if panel is None else f"{plot.label}, {panel}"
            chosen = [sample for sample in having if plot.panel is None or sample.get(plot.panel) == panel]
            if chosen:
                yield plot, title, chosen


def _plot_of_first_figure(samples: Sequence[RawSample]) -> list[Plot]:
    names = [name for name, value in (samples[0] if samples else {}).items() if isinstance(value, float)]
    differing = [name for name in names if len({sample.get(name) for sample in samples}) > 1]
    return [Plot(name, name.replace("_", " ")) for name in (differing or names)[:1]]


def _draw(path: Path, question: str, plots: Sequence[tuple[Plot, str, list[RawSample]]]) -> None:
    from matplotlib.figure import Figure  # noqa: PLC0415 - large, and wanted last

    figure = Figure((_INCHES[0], _INCHES[1] * len(plots) + 0.6), layout="constrained", dpi=_DOTS_PER_INCH)
    figure.suptitle(question, fontsize=10)
    columns = figure.subplots(len(plots), 1, squeeze=False)
    for (plot, title, samples), axes in zip(plots, columns[:, 0], strict=True):
        if plot.parameter is None:
            _draw_bars(axes, plot, samples)
        else:
            _draw_lines(axes, plot, plot.parameter, samples)
        axes.set_title(title, fontsize=9)
        axes.grid(visible=True, alpha=0.3)
    figure.savefig(path)


def _draw_bars(axes: Axes, plot: Plot, samples: Sequence[RawSample]) -> None:
    sides = list(dict.fromkeys(str(sample[_SIDE]) for sample in samples))
    for side in sides:
        values = [_number(sample, plot.figure) for sample in samples if str(sample[_SIDE]) == side]
        axes.barh([side], [median(values)], color="tab:blue", alpha=0.45)
        axes.plot(values, [side] * len(values), "k.", markersize=5)
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    if plot.limit is not None:
        axes.axvline(plot.limit, color="tab:red", linestyle="--", linewidth=1)


def _draw_lines(axes: Axes, plot: Plot, parameter: str, samples: Sequence[RawSample]) -> None:
    for side in dict.fromkeys(str(sample[_SIDE]) for sample in samples):
        own = [sample for sample in samples if str(sample[_SIDE]) == side]
        values = sorted({_number(sample, parameter) for sample in own})
        runs = [[_number(s, plot.figure) for s in own if _number(s, parameter) == value] for value in values]
        (line,) = axes.plot(values, [median(run) for run in runs], label=side, linewidth=1.2)
        dots = [(value, figure) for value, run in zip(values, runs, strict=True) for figure in run]
        axes.plot(*zip(*dots, strict=True), ".", color=line.get_color())
    values = sorted({_number(sample, parameter) for sample in samples})
    if values[0] > 0:
        axes.set_xscale("log")
    axes.set_xticks(values, [f"{value:,g}" if value < _LARGE else f"{value:.0e}" for value in values])
    axes.minorticks_off()
    axes.set_xlabel(parameter.replace("_", " "))
    axes.set_ylim(0, 1.1 * max(_number(sample, plot.figure) for sample in samples))
    axes.legend(fontsize=7)
    if plot.limit is not None:
        axes.axhline(plot.limit, color="tab:red", linestyle="--", linewidth=1)


def _number(sample: RawSample, key: str) -> float:
    value = sample[key]
    assert isinstance(value, int | float)
    return float(value)
