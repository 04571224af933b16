"""`asyncgen verify`: what it prints, and its exit code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Final

import anyio

from asyncgen.console import print_json, say, with_exit_code
from asyncgen.errors import InputError, LedgerError
from asyncgen.exits import Exit
from asyncgen.manifest import FILE_NAME
from asyncgen.rebuild import Rebuilt
from asyncgen.repair import mend, rebuild_ledger
from asyncgen.report import reading
from asyncgen.settings import load_settings
from asyncgen.streams import OutputError
from asyncgen.verify import WRONG, Kind, Problem, Verification, ledger_problems
from asyncgen.workspace import ledger_path_of, output_root

_WHAT_NEXT: Final = {
    Kind.LEDGER: "--repair makes a new ledger of what can be read and of the manifest",
    Kind.MISSING: "put the files back, or --repair marks their images as lost, which --retry-failed buys again",
    Kind.DAMAGED: "put whole files there, or --repair marks their images as lost, which --retry-failed buys again",
    Kind.UNREADABLE: "mend the disk or the permissions",
    Kind.MANIFEST: "--repair writes it anew",
    Kind.LEFT_OVER: "--repair removes them",
    Kind.UNKNOWN: "they are yours, or a lost ledger's; never touched",
}
_MENDED: Final = {
    Kind.LEDGER: "a new ledger has been made",
    Kind.MISSING: "their images are lost now; --retry-failed or `asyncgen retry NAME` buys them again",
    Kind.DAMAGED: "their images are lost now, the files kept; --retry-failed or `asyncgen retry NAME` buys them again",
    Kind.UNREADABLE: "left as they are: mend the disk or the permissions",
    Kind.MANIFEST: "written anew",
    Kind.LEFT_OVER: "removed",
    Kind.UNKNOWN: "left as they are",
}


@with_exit_code
def run_verify(overrides: Mapping[str, Any], realm: str, *, repair: bool, as_json: bool) -> Exit:
    """`asyncgen verify`: exit code 0 when all is well, 1 when something is, or was, wrong."""
    settings = load_settings(**overrides)
    root, ledger_path = output_root(settings, realm), ledger_path_of(settings, realm)
    if not root.is_dir():
        raise InputError(f"{root} is not there: name the output root, or mount its disk", field="out")
    if not ledger_path.exists() and not (root / FILE_NAME).exists():
        raise LedgerError(f"{root} has neither ledger nor manifest: name the output root with --out (or --sandbox)")
    shown = _Shown(as_json, repair)
    for problem in ledger_problems(ledger_path):
        shown.problem(problem)
    if repair:
        if is_damaged := bool(shown.counts):
            shown.rebuilt(*rebuild_ledger(root, ledger_path))
        shown.end(anyio.run(partial(mend, root, ledger_path, shown.problem, with_manifest=not is_damaged)))
    else:
        shown.end(0 if shown.counts else _look(root, ledger_path, shown))
    return Exit.SOME_FAILED if shown.counts.keys() & WRONG else Exit.DONE


def _look(root: Path, ledger_path: Path, shown: _Shown) -> int:
    with reading(ledger_path) as connection:
        verification = Verification(root, connection)
        for problem in verification.problems():
            shown.problem(problem)
        return verification.pictures


class _Shown:
    """What one verification prints: a line for each problem as it is found, then a summary."""

    def __init__(self, as_json: bool, repair: bool) -> None:
        self._as_json, self._repair = as_json, repair
        self.counts: Counter[Kind] = Counter()
        self._unsaid: OutputError | None = None

    def problem(self, problem: Problem) -> None:
        """One thing that is wrong."""
        self.counts[problem.kind] += 1
        entry = {"event": "problem", "kind": problem.kind, "path": problem.path, "words": problem.words}
        self._print(entry, [f"{problem.kind:<10} {problem.path}: {problem.words}"])

    def rebuilt(self, rebuilt: Rebuilt, aside: Path | None) -> None:
        """A new ledger stands in the place of the damaged one, which is kept `aside`."""
        entry = {"event": "rebuilt", "kept_as": None if aside is None else str(aside), **asdict(rebuilt)}
        self._print(entry, _rebuilt_lines(rebuilt, aside))

    def end(self, pictures: int) -> None:
        """Everything has been looked at, so many pictures among it. Raises `OutputError` for what could not be said."""
        next_steps = _MENDED if self._repair else _WHAT_NEXT
        entry = {"event": "summary", "pictures": pictures, "repaired": self._repair, "problems": self.counts}
        self._print(
            entry,
            [
                f"{pictures} pictures looked at{'' if self.counts else ': all is well'}",
                *(f"{number} {kind.replace('_', ' ')}: {next_steps[kind]}" for kind, number in self.counts.items()),
            ],
        )
        if self._unsaid is not None:
            raise self._unsaid

    def _print(self, entry: Mapping[str, object], lines: Sequence[str]) -> None:
        """Nobody needs a look that cannot be told; a repair goes on to its end."""
        try:
            if self._as_json:
                print_json(entry)
                return
            for line in lines:
                say(line)
        except OutputError as error:
            if not self._repair:
                raise
            self._unsaid = error


def _rebuilt_lines(rebuilt: Rebuilt, aside: Path | None) -> list[str]:
    """What a new ledger has, and, as far as it can be counted, what nobody knows any more."""
    kept = "there was none" if aside is None else f"the damaged one is kept as {aside.name}"
    lines = [
        f"a new ledger ({kept}): {rebuilt.salvaged['item']} images of the old one, {rebuilt.from_manifest} that only "
        "the manifest knew"
    ]
    if rebuilt.unreadable:
        tables = ", ".join(f"{number} of {table}" for table, number in rebuilt.unreadable.items())
        lines.append(f"rows that could not be read: at most {tables}")
    if gone := max(0, rebuilt.unreadable["item"] - rebuilt.from_manifest):
        lines.append(f"at most {gone} images nobody knows any more: what was out for them may be bought again")
    if rebuilt.jobs_forgotten:
        lines.append(f"{rebuilt.jobs_forgotten} jobs were out for images that could not be read: paid for, and gone")
    if rebuilt.lines_unreadable:
        lines.append(f"{rebuilt.lines_unreadable} lines of the manifest could not be read")
    if rebuilt.without_ledger:
        lines.append("jobs that were out, and images that were held or failed, are forgotten: they may be bought again")
    return lines
