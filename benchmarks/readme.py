"""`python -m benchmarks.readme`: put the latest results into `benchmarks/README.md`, each between its two comments.

`<!-- results: NAME -->` … `<!-- end -->` takes the table and the notes of `benchmarks/results/NAME.json`, and the name
`targets` what all of them were to reach.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.report import Target
from benchmarks.results import RESULTS

README: Final = Path(__file__).parent / "README.md"
_BLOCK: Final = re.compile(r"(<!-- results: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_TARGETS: Final = "targets"
_NONE: Final = "Not measured yet.\n"


def with_results(text: str, folder: Path) -> str:
    """The text with every block written anew from the JSON files in the folder."""
    documents = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}

    def block(found: re.Match[str]) -> str:
        name = found[2]
        content = _targets(documents) if name == _TARGETS else _latest(name, documents.get(name))
        return f"{found[1]}{content}{found[3]}"

    return _BLOCK.sub(block, text)


def _targets(documents: dict[str, dict[str, Any]]) -> str:
    rows = [
        (
            name,
            target["what"],
            *Target(**{key: target[key] for key in ("what", "measured", "limit", "at_most")}).cells(),
        )
        for name, document in documents.items()
        for target in document["targets"]
    ]
    return _table(("benchmark", "figure", "measured", "to reach", "reached"), rows) if rows else _NONE


def _latest(name: str, document: dict[str, Any] | None) -> str:
    if document is None:
        return _NONE
    at = f"Latest, of {document['made_at'][:10]}, at commit {document['commit']}:"
    plot = f"![{name}](results/{name}.png)"
    notes = "".join(f"{note}\n\n" for note in (*document["notes"], *document["faults"]))
    return f"{at}\n\n{_table(document['table']['columns'], document['table']['rows'])}\n{notes}{plot}\n"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---", *("---:" for _ in columns[1:])], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    README.write_text(with_results(README.read_text(encoding="utf-8"), RESULTS), encoding="utf-8")
