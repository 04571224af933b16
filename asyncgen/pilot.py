"""A pilot: a few images of a batch, made first, so that its cost, its time and its looks are known before the rest.

They are the batch's own images, chosen by their content hashes and spread over all lanes: the same command chooses the
same ones again, and the rest keeps them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from asyncgen import naming
from asyncgen.api import ImageGenerator
from asyncgen.console import print_table, say
from asyncgen.contact_sheet import MOST_TILES, Tile, write_contact_sheet
from asyncgen.display import duration
from asyncgen.errors import InputError
from asyncgen.estimate import Span, span_of
from asyncgen.intake import IndexedWant
from asyncgen.money import Price, dollars
from asyncgen.outlook import looking
from asyncgen.plan_display import counted, counts, estimate_fields, range_text, show_estimate
from asyncgen.planning import Report
from asyncgen.records import Want
from asyncgen.results import ImageResult
from asyncgen.sampling import MOST_LANES, Sample, SampleLane, lane_of
from asyncgen.source import Source

_FOLDER: Final = "pilots"
_COLUMNS: Final = ("images", "each", "cost of each", "lane")


@dataclass(frozen=True, slots=True)
class Chosen:
    """The images of a pilot, and how many lanes its batch has; `is_full`: those beyond `MOST_LANES` count as one."""

    wanted: Sequence[IndexedWant]
    lanes: int
    is_full: bool

    @property
    def lanes_covered(self) -> int:
        """How many lanes have an image in it."""
        return len({lane_of(indexed.want.spec) for indexed in self.wanted})


def choose(generator: ImageGenerator, source: Source, count: int) -> Chosen:
    """The pilot of a prompt file, in one pass over it. Raises `InputError` for a stream, which is read once."""
    if source.is_stream:
        raise InputError("a pilot needs a file: standard input can be read only once", field="--pilot")
    sample: Sample[Want] = Sample(count)

    def meet(_place: str, wants: list[Want]) -> None:
        for want in wants:
            sample.add(lane_of(want.spec), want.content_key, want)

    source.look_through(generator, None, lambda _: None, meet)
    wanted = [IndexedWant(index, want) for index, want in enumerate(sample.chosen())]
    return Chosen(wanted, sample.lanes, sample.is_full)


@dataclass(frozen=True, slots=True)
class Measured:
    """What the pilot's images of one lane took: seconds of execution of each."""

    lane: SampleLane
    images: int
    seconds_each: Span


@dataclass(frozen=True, slots=True)
class Piloted:
    """A pilot that has been run. `sheet` None: it made no picture. `rest` is what the batch would buy after it."""

    batch: str
    chosen: Chosen
    made: int
    sheet: Path | None
    measured: Sequence[Measured]
    rest: Report

    @property
    def price(self) -> Price | None:
        """By which its cost is told."""
        return None if self.rest.estimate is None else self.rest.estimate.price


def contact_sheet(root: Path, batch: str, results: Sequence[ImageResult]) -> Path | None:
    """Write the pictures of a pilot on one sheet under the output root; None: there are none. Raises `StoreError`."""
    made = sorted((result for result in results if result.ok and result.paths), key=lambda result: result.index)
    tiles = [
        Tile(path, (result.style_title or result.style_id or "no style", f"seed {result.seed}", result.prompt))
        for result in made
        for path in result.paths
    ]
    if not tiles:
        return None
    path = root / _FOLDER / f"{naming.safe_name(batch)}.jpg"
    write_contact_sheet(path, tiles)
    return path


def measured(generator: ImageGenerator, batch: str, chosen: Chosen) -> list[Measured]:
    """What the pilot's images took, lane by lane, by the ledger: also those that an earlier run has made."""
    times: dict[SampleLane, list[float]] = {}
    with looking(generator.workspace.ledger_path, batch, generator.target.realm) as outlook:
        for spec, seconds in outlook.seconds_of([indexed.want.content_key for indexed in chosen.wanted]):
            times.setdefault(lane_of(spec), []).append(seconds)
    found = ((lane, len(seconds), span_of(seconds)) for lane, seconds in times.items())
    return [Measured(lane, images, span) for lane, images, span in found if span is not None]


def show_pilot(piloted: Piloted) -> None:
    """For people: what was made and measured, how typical it is, and what the rest will take."""
    say("")
    for line in _lines(piloted):
        say(line)
    print_table(_COLUMNS, (_row(measured, piloted.price) for measured in piloted.measured))
    say(f"\nthe whole batch: {piloted.rest.wanted} wanted: {counts(piloted.rest)}")
    if piloted.rest.estimate is not None:
        show_estimate(piloted.rest.estimate)
    for note in piloted.rest.notes:
        say(note)


def pilot_fields(piloted: Piloted) -> dict[str, Any]:
    """A pilot as `--json` shows it."""
    chosen, rest = piloted.chosen, piloted.rest
    return {
        "event": "pilot",
        "batch": piloted.batch,
        "images": len(chosen.wanted),
        "made": piloted.made,
        "contact_sheet": None if piloted.sheet is None else str(piloted.sheet),
        "lanes": chosen.lanes,
        "lanes_covered": chosen.lanes_covered,
        "measured": [
            {"lane": str(lane.lane), "images": lane.images, "seconds_each": asdict(lane.seconds_each)}
            for lane in piloted.measured
        ],
        "to_make": rest.to_make,
        "estimate": None if rest.estimate is None else estimate_fields(rest.estimate),
        "notes": list(rest.notes),
    }


def _lines(piloted: Piloted) -> Iterator[str]:
    chosen = piloted.chosen
    yield f"pilot of {piloted.batch}: {piloted.made} of {len(chosen.wanted)} images are there"
    if piloted.sheet is not None:
        yield f"contact sheet: {piloted.sheet}"
    if piloted.made > MOST_TILES:
        yield f"it shows the first {MOST_TILES}"
    yield f"it covers {chosen.lanes_covered} of {counted(chosen.lanes, 'lane')} (style, LoRAs, workflow, size)"
    if chosen.is_full:
        yield f"lanes beyond {MOST_LANES} were drawn from as if they were one"
    few = sum(lane.images < 3 for lane in piloted.measured)
    if few:
        yield f"of {counted(few, 'lane')} fewer than 3 images were measured: their spread is a guess, more tell more"


def _row(lane: Measured, price: Price | None) -> tuple[str | None, ...]:
    cost = None if price is None else range_text(lane.seconds_each.times(price.usd_per_second), dollars)
    return str(lane.images), range_text(lane.seconds_each, duration), cost, str(lane.lane)
