"""JSON in files that anybody may have written: read strictly, and no deeper than what walks over it can go. Pure.

And JSON that we write to be compared or hashed: one text for equal values.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable
from typing import Any, Final

#: Graphs, registries and prompts need about six levels; Python's stack ends between 300 and 1,000.
MAX_NESTING: Final = 100
_CANONICAL: Final = json.JSONEncoder(sort_keys=True, ensure_ascii=False, check_circular=False, separators=(",", ":"))


def parse_json(text: str) -> Any:
    """The value of a JSON text.

    Raises ValueError for what is no JSON, for NaN, infinities and numbers out of a float's range, for a key that stands
    twice in an object, and for nesting deeper than `MAX_NESTING`.
    """
    try:
        value = json.loads(
            text, parse_constant=_refused, parse_float=_finite, object_pairs_hook=_object_without_duplicates
        )
    except RecursionError:
        raise _too_deep() from None
    _check_nesting(value)
    return value


def canonical_json(value: Any) -> str:
    """The text of a value, the same for equal ones. Ledgers keep hashes of it: it must never change."""
    return _CANONICAL.encode(value)


def _check_nesting(value: object) -> None:
    level = [value]
    for _ in range(MAX_NESTING):
        level = [inner for holder in level for inner in _held_by(holder) if isinstance(inner, dict | list)]
        if not level:
            return
    raise _too_deep()


def _held_by(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _too_deep() -> ValueError:
    return ValueError(f"it is nested deeper than {MAX_NESTING} levels")


def _object_without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        name, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key {name!r} stands twice in an object")
    return value


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refused(text)


def _refused(text: str) -> float:
    raise ValueError(f"{text[:40]} is not a number that can be kept")
