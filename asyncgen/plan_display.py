"""How a look at a batch before it is made is shown: for people, or as one JSON object."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import Any, Final

from asyncgen.console import print_table, say
from asyncgen.display import duration
from asyncgen.estimate import Basis, Estimate, LaneEstimate, Span
from asyncgen.money import IDLE_TAIL_SECONDS, dollars
from asyncgen.outlook import Fate
from asyncgen.planning import Report, Shown
from asyncgen.protocol import MAX_RUN_BODY_BYTES
from asyncgen.records import SANDBOX
from asyncgen.streams import Output

_LANE_COLUMNS: Final = ("images", "each", "in all", "basis", "lane")
_MOST_OF_PROMPT: Final = 600  # characters; --json has it whole
_SAMPLE_COLUMNS: Final = ("row", "bytes", "LoRAs", "prompt as it is sent")
_MOST_LANES_SHOWN: Final = 12
_WORDS: Final = {Fate.PENDING: "recorded and never bought", Fate.FAILED: "failed before"}
_ALWAYS: Final = (Fate.NEW, Fate.CHANGED, Fate.KEPT, Fate.FAILED)


def show_report(report: Report) -> None:
    """For people."""
    state = {True: "a new batch", False: "there is a batch of that name", None: "a batch"}[report.is_new]
    where = " on the sandbox" if report.realm == SANDBOX else ""
    say(f"{report.batch}: {state}{where}; this is a plan, nothing was sent")
    if report.fates is not None:
        say(f"{report.wanted} wanted: {counts(report)}")
    if report.problem_count:
        say(f"\n{counted(report.problem_count, 'problem')}")
        for text in report.problems():
            say(text)
        say("nothing would be sent: mend them first" if report.stops else "the rest would be made")
    else:
        say("no problems")
    if report.estimate is not None:
        say("")
        show_estimate(report.estimate)
    for note in report.notes:
        say(note)
    if report.samples:
        of_lanes = f"{counted(len(report.samples), 'sample')} of {counted(report.lanes, 'lane')}"
        say(f"\n{of_lanes} (style, LoRAs, workflow, size)")
        print_table(_SAMPLE_COLUMNS, map(_sample_row, report.samples))
    if report.largest is not None:
        largest = report.largest
        say(f"\nthe largest body is {largest.body_bytes:,} of {MAX_RUN_BODY_BYTES:,} bytes ({largest.place})")


def print_report(report: Report) -> None:
    """As one JSON object; its problems come last, and are written one by one."""
    head = {
        "batch": report.batch,
        "realm": report.realm,
        "is_new": report.is_new,
        "wanted": None if report.fates is None else report.wanted,
        "images": None if report.fates is None else {str(fate): report.fates[fate] for fate in Fate},
        "to_make": report.to_make,
        "would_stop": report.stops,
        "estimate": None if report.estimate is None else estimate_fields(report.estimate),
        "notes": list(report.notes),
        "lanes": report.lanes,
        "samples": [asdict(shown) for shown in report.samples],
        "largest_body": None if report.largest is None else asdict(report.largest),
        "most_body_bytes": MAX_RUN_BODY_BYTES,
        "problem_count": report.problem_count,
    }
    output = Output()
    output.write(f'{json.dumps(head, ensure_ascii=False)[:-1]}, "problems": [')
    for number, text in enumerate(report.problems()):
        output.write(f"{', ' if number else ''}{json.dumps(text, ensure_ascii=False)}")
    output.line("]}")


def counts(report: Report) -> str:
    """The images by what a run would find of them."""
    fates: Mapping[Fate, int] = report.fates or {}
    return ", ".join(
        f"{fates.get(fate, 0)} {_WORDS.get(fate, fate)}" for fate in Fate if fates.get(fate) or fate in _ALWAYS
    )


def show_estimate(found: Estimate) -> None:
    """Time and money of what is to be made, and what that is based on."""
    if not found.jobs:
        say("nothing is to be made")
        return
    for line in estimate_lines(found):
        say(line)
    print_table(_LANE_COLUMNS, map(_lane_row, found.lanes[:_MOST_LANES_SHOWN]))
    if len(found.lanes) > _MOST_LANES_SHOWN:
        say(f"and {len(found.lanes) - _MOST_LANES_SHOWN} lanes more (all with --json)")


def estimate_lines(found: Estimate) -> Iterator[str]:
    """Images, time, cost, and what is beside them."""
    known = found.jobs - found.jobs_unknown
    yield f"{counted(found.jobs, 'job')} to buy"
    if found.jobs_unknown:
        yield (
            f"time and cost of {found.jobs_unknown} of them are unknown: the ledger has no finished job of their lane; "
            "--pilot N measures, asyncgen plan --seconds-per-image says"
        )
    if known and found.worker_seconds is not None:
        of_known = "" if not found.jobs_unknown else f", of the {known} that are known"
        yield f"GPU time {range_text(found.worker_seconds, duration)}{of_known}"
        if found.seconds is not None:
            on_workers = f"on {counted(found.workers or 0, 'worker')}"
            yield f"{on_workers} {range_text(found.seconds, duration)}, their cold starts apart"
        else:
            yield "so long on one worker; divide by as many as work at once (asyncgen plan --workers N)"
        yield _cost_line(found)
    yield _cold_start_line(found)


def estimate_fields(found: Estimate) -> dict[str, Any]:
    """An estimate as `--json` shows it; None for whatever is not known."""
    return {
        "jobs": found.jobs,
        "jobs_unknown": found.jobs_unknown,
        "workers": found.workers,
        "gpu_seconds": _fields(found.worker_seconds),
        "seconds": _fields(found.seconds),
        "price": None if found.price is None else asdict(found.price),
        "usd": _fields(found.usd),
        "cold_start_seconds": _fields(found.cold_start),
        "usd_each_worker_start": _fields(found.overhead_usd_each),
        "lanes": [
            {
                **asdict(lane.work),
                "jobs": lane.jobs,
                "seconds_each": _fields(lane.seconds_each),
                "basis": str(lane.basis),
                "jobs_seen": lane.jobs_seen,
            }
            for lane in found.lanes
        ],
    }


def _cost_line(found: Estimate) -> str:
    if found.price is None or found.usd is None:
        return "cost: unpriced (--usd-per-second or --gpu names a price)"
    of_price = f"at ${found.price.usd_per_second:g} a second ({found.price.source})"
    return f"cost {range_text(found.usd, dollars)} {of_price}"


def _cold_start_line(found: Estimate) -> str:
    beside = f"beside it each worker that starts is paid for its cold start and {IDLE_TAIL_SECONDS:g} s of idling"
    if found.cold_start is None:
        return f"{beside}; how long one takes here is unknown"
    in_money = "" if found.overhead_usd_each is None else f", {range_text(found.overhead_usd_each, dollars)}"
    return f"{beside}: {range_text(found.cold_start, duration)} from the first delays of workers{in_money}"


def counted(number: int, what: str) -> str:
    """1 lane, 2 lanes."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _lane_row(lane: LaneEstimate) -> tuple[str | None, ...]:
    each, total = lane.seconds_each, lane.seconds
    basis = f"{counted(lane.jobs_seen, 'job')} before" if lane.basis is Basis.HISTORY else str(lane.basis)
    return (
        str(lane.jobs),
        None if each is None else range_text(each, duration),
        None if total is None else range_text(total, duration),
        basis,
        str(lane.work),
    )


def _sample_row(shown: Shown) -> tuple[str | None, ...]:
    return shown.place, f"{shown.body_bytes:,}", ", ".join(shown.loras) or None, _shortened(shown.prompt)


def _shortened(text: str) -> str:
    return text if len(text) <= _MOST_OF_PROMPT else f"{text[:_MOST_OF_PROMPT]}… ({len(text):,} characters)"


def range_text(span: Span, text: Callable[[float], str]) -> str:
    """A range of seconds or dollars in words; one figure where both ends read alike."""
    low, likely, high = text(span.low), text(span.likely), text(span.high)
    return likely if low == high else f"{low} to {high}, likely {likely}"


def _fields(span: Span | None) -> dict[str, float] | None:
    return None if span is None else {name: round(value, 6) for name, value in asdict(span).items()}
