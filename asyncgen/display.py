"""What a run shows: a live line on a terminal, plain lines otherwise, or one JSON object a line."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Protocol

from rich.console import Console
from rich.live import Live
from rich.text import Text

from asyncgen.checks import OF_PICTURE
from asyncgen.errors import AsyncgenError
from asyncgen.money import Use, dollars
from asyncgen.records import SANDBOX, Batch
from asyncgen.results import ImageResult
from asyncgen.streams import Output, is_terminal, tell
from asyncgen.tally import Statistics

REFRESH_SECONDS: Final = 0.25
_PLAIN_EVERY_SECONDS: Final = 10.0
_BAR_WIDTH: Final = 24
_WIDTH_WITH_BAR: Final = 120
#: What --retry-failed comes to for images whose picture was rejected.
SAME_PICTURE: Final = (
    "of the failed, {} had a picture that was rejected: --retry-failed takes another seed only with --rerolls 1 or more"
)
#: What became of jobs that cost something and gave no picture.
_NO_PICTURE: Final = {
    Use.FAILED: "failed and were paid for",
    Use.CANCELLED: "were cancelled; what they ran until then cost",
    Use.LOST: "were lost, or had expired before they could be fetched, and were paid for",
}


@dataclass(frozen=True, slots=True)
class Moment:
    """A run at one moment.

    `total` is how many jobs the input wants, None while nobody knows; `skipped` counts its bad rows.
    """

    statistics: Statistics
    total: int | None
    elapsed_seconds: float
    skipped: int = 0

    @property
    def settled(self) -> int:
        """Wanted jobs that need nothing more."""
        return self.statistics.wanted - self.statistics.pending

    @property
    def pending(self) -> int:
        """Wanted jobs that are neither there nor settled, those that the run has not come to among them."""
        return self.statistics.pending if self.total is None else max(0, self.total - self.settled)

    @property
    def images_per_second(self) -> float:
        """Pictures stored by this run, over its whole length so far."""
        return self.statistics.pictures / self.elapsed_seconds if self.elapsed_seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """At the pace so far; None while there is none, or no total."""
        worked = self.statistics.made + self.statistics.failed
        if self.total is None or worked == 0:
            return None
        return max(0, self.total - self.settled) * self.elapsed_seconds / worked

    @property
    def queued(self) -> int | None:
        """Wanted jobs that nobody works on yet, or that wait for a pause to end."""
        in_work = self.statistics.in_work - self.statistics.put_off
        return None if self.total is None else max(0, self.total - self.settled - in_work)


class Display(Protocol):
    """What the command line tells a run to show. `output` says whether it still can.

    `tells_each_result`: `landed` must be called for kept images too.
    """

    output: Output
    tells_each_result: bool

    def opened(self, batch: Batch, root: Path) -> None: ...
    def landed(self, result: ImageResult) -> None: ...
    def tick(self, moment: Moment) -> None: ...
    def notice(self, text: str) -> None: ...
    def refused(self, message: str, problems: Sequence[str]) -> None: ...
    def ended(self, batch: Batch, root: Path, moment: Moment, error: AsyncgenError | None) -> None: ...
    def live(self) -> AbstractContextManager[None]: ...


class JsonDisplay:
    """One JSON object a line on standard output, and nothing else there: results as they land, then a summary."""

    tells_each_result = True

    def __init__(self) -> None:
        self.output = Output(of_run=True)

    def opened(self, batch: Batch, root: Path) -> None:
        self._print({"event": "start", "batch": batch.name, "realm": batch.realm, "output_root": str(root)})

    def landed(self, result: ImageResult) -> None:
        self._print({"event": "result", **result_fields(result)})

    def tick(self, moment: Moment) -> None:
        """Results tell it all."""

    def notice(self, text: str) -> None:
        tell(text)  # standard output is for programs

    def refused(self, message: str, problems: Sequence[str]) -> None:
        """Nothing is run, and why: the only object then, as the summary is the last one of a run."""
        self._print({"event": "error", "error": message, "problems": list(problems)})

    def ended(self, batch: Batch, root: Path, moment: Moment, error: AsyncgenError | None) -> None:
        self._print({"event": "summary", "batch": batch.name, **summary_fields(moment), "error": _text_or_none(error)})

    @contextmanager
    def live(self) -> Iterator[None]:
        yield

    def _print(self, entry: dict[str, object]) -> None:
        self.output.line(json.dumps(entry, ensure_ascii=False))


class PlainDisplay:
    """For logs and pipes: a line now and then, and a summary. `quiet` leaves only the summary of what went wrong."""

    tells_each_result = False

    def __init__(self, *, quiet: bool = False) -> None:
        self.output = Output(of_run=True)
        self.console = Console(file=self.output.file, highlight=False, soft_wrap=True, quiet=quiet)
        self._last_line_at = 0.0
        self._rejected = 0

    def opened(self, batch: Batch, root: Path) -> None:
        state = "a new batch" if batch.is_new else "continued"
        where = " on the sandbox" if batch.realm == SANDBOX else ""
        self.console.print(Text(f"{batch.name}: {state}{where}; images go to {root}/"))

    def landed(self, result: ImageResult) -> None:
        """A line for each image would drown the log; `-v` logs them."""
        self._rejected += result.failure is not None and result.failure.code in OF_PICTURE

    def tick(self, moment: Moment) -> None:
        if moment.elapsed_seconds - self._last_line_at >= _PLAIN_EVERY_SECONDS:
            self._last_line_at = moment.elapsed_seconds
            self.console.print(Text(progress_line(moment)))

    def notice(self, text: str) -> None:
        self.console.print(Text(text))

    def refused(self, message: str, problems: Sequence[str]) -> None:
        """Standard error tells it."""

    def ended(self, batch: Batch, root: Path, moment: Moment, error: AsyncgenError | None) -> None:
        for line in summary_lines(batch, root, moment, self._rejected):
            self.console.print(Text(line))

    @contextmanager
    def live(self) -> Iterator[None]:
        yield


class TerminalDisplay(PlainDisplay):
    """A line that is redrawn four times a second, below whatever is printed meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self._live = Live(console=self.console, auto_refresh=False, transient=True)

    def tick(self, moment: Moment) -> None:
        bar = f"{_bar(moment)} " if self.console.width >= _WIDTH_WITH_BAR else ""
        self._live.update(Text(f"{bar}{progress_line(moment)}"), refresh=True)

    @contextmanager
    def live(self) -> Iterator[None]:
        with self._live:
            yield


def display_for(*, as_json: bool, quiet: bool) -> Display:
    """The display that suits standard output."""
    if as_json:
        return JsonDisplay()
    return TerminalDisplay() if is_terminal(sys.stdout) and not quiet else PlainDisplay(quiet=quiet)


def progress_line(moment: Moment) -> str:
    """Done, failed, in flight, waiting for the budget, queued, pace, time left and GPU time, in one line."""
    statistics = moment.statistics
    total = "" if moment.total is None else f"/{moment.total}"
    parts = [f"{statistics.made + statistics.kept + statistics.repeated}{total} done", f"{statistics.failed} failed"]
    if statistics.paused:
        parts.insert(0, "paused")
    if statistics.held:
        parts.append(f"{statistics.held} held")
    of_target = "" if statistics.target is None else f" of {statistics.target}"
    parts.append(f"{statistics.out}{of_target} in flight")
    if statistics.waiting:
        parts.append(f"{statistics.waiting} waiting for the budget")
    if moment.queued is not None:
        parts.append(f"{moment.queued} queued")
    parts.append(f"{moment.images_per_second:.1f} images/s")
    if moment.seconds_left is not None:
        parts.append(f"{duration(moment.seconds_left)} left")
    paid = statistics.spending.total
    parts.append(f"GPU {duration(paid.execution_ms / 1000)}")
    if statistics.price is not None:
        parts.append(str(paid.cost(statistics.price)))
    return " · ".join(parts)


def summary_lines(batch: Batch, root: Path, moment: Moment, rejected: int = 0) -> list[str]:
    """What a run did, for people; `rejected` of what has failed had a picture that did not count."""
    s = moment.statistics
    wanted = f"{batch.name}: {s.wanted} wanted: {s.new} new, {s.kept} kept, {s.changed} changed"
    if s.added:
        wanted += f", {s.added} added"
    if s.repeated:
        wanted += f", {s.repeated} repeated"
    if moment.skipped:
        wanted += f", {moment.skipped} bad rows skipped"
    if s.reattached:
        wanted += f", {s.reattached} re-attached"
    pace = f"{s.pictures} images in {duration(moment.elapsed_seconds)} ({moment.images_per_second:.1f}/s)"
    gpu_time = duration(s.spending.total.execution_ms / 1000)
    lines = [wanted, f"{pace}, {s.failed} failed, GPU time {gpu_time}", *_cost_lines(s)]
    if s.changed:
        lines.append(
            f"{s.changed} kept images were made with other values than today's; --rebuy-changed makes them again"
        )
    if s.failed:
        lines.append(f"{s.failed} failed; --retry-failed tries them again")
    if rejected:
        lines.append(SAME_PICTURE.format(rejected))
    if s.held:
        lines.append(
            f"{s.held} held: sent, but whether they were accepted was never learned; --unknown resubmit sends them "
            f"again and may pay twice: {most_cost_of_held(s)}"
        )
    lines += map(str, s.stopped_lanes)
    if to_do := moment.pending + s.cancelled:
        lines.append(f"{to_do} still to do; the same command continues")
    return [*lines, f"images and manifest.jsonl: {root}/"]


def _cost_lines(s: Statistics) -> list[str]:
    """What the run has cost, how sure that is, and what of it gave no picture; no line where nothing was bought."""
    spending, lines = s.spending, []
    if spending.total.jobs == 0:
        return []
    if s.price is None:
        lines.append("cost: unpriced (--usd-per-second or --gpu names a price)")
    else:
        of_price = f"GPU time at ${s.price.usd_per_second:g} a second ({s.price.source})"
        lines.append(f"cost: {spending.total.cost(s.price).in_full}, {of_price}")
        if (overhead := spending.overhead(s.price)).usd is not None:
            lines.append(f"beside it {overhead} estimated for cold starts and idle workers")
    for use, words in _NO_PICTURE.items():
        if jobs := spending.tallies[use].jobs:
            lines.append(f"{jobs} jobs {words}: {spending.tallies[use].cost(s.price).in_full}")
    return lines


def most_cost_of_held(s: Statistics) -> str:
    """What settling the held submissions can cost."""
    return "unpriced" if s.unknown_usd is None else f"{dollars(s.held * s.unknown_usd)} at the most"


def result_fields(result: ImageResult) -> dict[str, object]:
    """A result as `--json` shows it."""
    return {
        "index": result.index,
        "id": result.id,
        **result.to_dict(),
        "saved_paths": [str(path) for path in result.paths],
        "state": str(result.state),
        "kept": result.kept,
        "changed": result.changed,
        "failure": None
        if result.failure is None
        else {"class": result.failure.kind, "code": result.failure.code, "message": result.failure.message},
        "delay_ms": result.delay_ms,
        "execution_ms": result.execution_ms,
    }


def summary_fields(moment: Moment) -> dict[str, object]:
    """The counts of a run as `--json` shows them."""
    s = moment.statistics
    return {
        "wanted": s.wanted,
        "new": s.new,
        "kept": s.kept,
        "changed": s.changed,
        "repeated": s.repeated,
        "added": s.added,
        "skipped": moment.skipped,
        "reattached": s.reattached,
        "made": s.made,
        "failed": s.failed,
        "held": s.held,
        "cancelled": s.cancelled,
        "pending": moment.pending,
        "pictures": s.pictures,
        "elapsed_seconds": round(moment.elapsed_seconds, 3),
        "gpu_seconds": s.spending.total.execution_ms / 1000,
        "cost": {
            "price": None if s.price is None else asdict(s.price),
            "execution": asdict(s.spending.total.cost(s.price)),
            **{str(use): asdict(tally.cost(s.price)) for use, tally in s.spending.tallies.items()},
            "cold_starts_and_idle": asdict(s.spending.overhead(s.price)),
            "held_at_most_usd": None if s.unknown_usd is None else s.held * s.unknown_usd,
        },
        "stopped_lanes": [
            {"lane": str(stopped.lane), "count": stopped.count, "failure": asdict(stopped.failure)}
            for stopped in s.stopped_lanes
        ],
    }


def duration(seconds: float) -> str:
    """4.2 s, 3 min 20 s, 2 h 05 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"


def _bar(moment: Moment) -> str:
    if not moment.total:
        return "…"
    filled = round(_BAR_WIDTH * min(1.0, moment.settled / moment.total))
    return "━" * filled + "╌" * (_BAR_WIDTH - filled)


def _text_or_none(error: AsyncgenError | None) -> str | None:
    return None if error is None else str(error)
