"""`asyncgen adopt`: pictures that were made elsewhere become part of a batch. What it prints, and its exit code."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import anyio

from asyncgen.adopted_rows import Outcome
from asyncgen.adopter import Adopted, Adopter, look_at, pictures_below
from asyncgen.adoption import Adoption
from asyncgen.console import print_json, printable, say, with_exit_code
from asyncgen.errors import InputError
from asyncgen.exits import Exit
from asyncgen.registry import StylesRegistry
from asyncgen.run import new_planner
from asyncgen.settings import Settings, load_settings
from asyncgen.workspace import ledger_path_of, output_root, shared_workspace

_SHOWN_CHARACTERS: Final = 80


@dataclass(frozen=True, slots=True)
class AdoptOptions:
    """What `asyncgen adopt` is told. `name` None: the batch is called like the folder."""

    folder: Path
    name: str | None
    realm: str
    fixed_seeds: bool
    dry_run: bool
    as_json: bool


@with_exit_code
def run_adopt(overrides: Mapping[str, Any], options: AdoptOptions) -> Exit:
    """`asyncgen adopt`: exit code 0 when every picture is in the batch, 1 when some were skipped."""
    settings = load_settings(**overrides)
    if not options.folder.is_dir():
        raise InputError(f"{options.folder} is no folder: name the one that holds the pictures", field="DIR")
    styles = StylesRegistry.load(settings.styles)
    adoption = Adoption(new_planner(settings, styles), styles, options.realm, fixed_seeds=options.fixed_seeds)
    shown = _Shown(options)
    with _nothing_sent():
        if options.dry_run:
            for path in pictures_below(options.folder):
                seen = look_at(path, adoption)
                shown.file(Adopted(seen, None, seen.why_not))
        else:
            anyio.run(_adopt, settings, options, adoption, shown)
    shown.end(output_root(settings, options.realm))
    return Exit.SOME_FAILED if shown.skipped else Exit.DONE


@contextmanager
def _nothing_sent() -> Iterator[None]:
    """What is said of workflows is for those who send them."""
    planning = logging.getLogger("asyncgen.plan")
    before = planning.level
    planning.setLevel(logging.ERROR)
    try:
        yield
    finally:
        planning.setLevel(before)


async def _adopt(settings: Settings, options: AdoptOptions, adoption: Adoption, shown: _Shown) -> None:
    root = output_root(settings, options.realm)
    async with shared_workspace(root, ledger_path_of(settings, options.realm)) as workspace:
        batch = await workspace.ledger.open_batch(shown.batch_name, options.realm)
        try:
            async for adopted in Adopter(workspace, batch, options.folder, adoption).run():
                shown.file(adopted)
        finally:
            with anyio.CancelScope(shield=True):
                await workspace.update_manifest()
                if shown.counts[Outcome.ADDED]:  # to what the manifest may have told of already
                    await workspace.manifest.write_anew()


@dataclass(slots=True)
class _Shown:
    """What one adoption prints: a line for each file that was skipped, and in a dry run for all; then a summary."""

    options: AdoptOptions
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def batch_name(self) -> str:
        return self.options.name or self.options.folder.resolve().name or "adopted"

    @property
    def skipped(self) -> int:
        return self.counts["skipped"]

    def file(self, adopted: Adopted) -> None:
        """One file."""
        found, became = adopted.seen.adoptable, _became(adopted, dry_run=self.options.dry_run)
        self.counts[became] += 1
        if self.options.as_json:
            request = None if found is None else found.request.said()
            print_json(
                {
                    "event": became,
                    "path": str(adopted.seen.path),
                    "words": adopted.words,
                    "request": request,
                    "seed": None if found is None else found.seed,
                    "said_by": None if found is None else found.said_by,
                }
            )
        elif became == "skipped":
            say(printable(f"skipped {adopted.seen.path}: {adopted.words}"))
        elif self.options.dry_run and found is not None:
            style = f", style {found.request.style_id}" if found.request.style_id is not None else ""
            prompt = found.request.prompt[:_SHOWN_CHARACTERS]
            say(printable(f"{adopted.seen.path}: {prompt!r}{style}, seed {found.seed} (by {found.said_by})"))

    def end(self, root: Path) -> None:
        """Everything has been looked at."""
        files, counts = self.counts.total(), self.counts
        if self.options.as_json:
            print_json({"event": "summary", "batch": self.batch_name, "files": files, **counts})
            return
        taken = counts[Outcome.ADOPTED] + counts[Outcome.ADDED]
        what = (
            f"{counts['usable']} can be taken into {self.batch_name!r}"
            if self.options.dry_run
            else f"{taken} adopted into {self.batch_name!r} in {root}/, {counts[Outcome.THERE]} were there already"
        )
        say(printable(f"{files} pictures: {what}, {self.skipped} skipped"))


def _became(adopted: Adopted, *, dry_run: bool) -> str:
    if adopted.outcome in (Outcome.ADOPTED, Outcome.ADDED, Outcome.THERE):
        return str(adopted.outcome)
    return "usable" if dry_run and adopted.words is None else "skipped"
