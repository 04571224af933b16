"""A reply's JSON without its pictures: their base64 stays where it arrived, and is never copied into a text. Pure.

Parsed whole, a reply of 2.4 MB costs a second copy of it, and page faults that take longer than parsing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from asyncgen.diagnosis import BASE64_IMAGE_STARTS, json_object

_SHORTEST_LIFTED_BYTES: Final = 16 * 1024  # what is shorter is parsed like everything else
_MOST_TEXTS_LOOKED_AT: Final = 4096  # so that a hostile reply costs no more than another
_DATA_URL: Final = b"data:"
_MOST_DATA_URL_BYTES: Final = 100  # up to its comma
_STARTS: Final = (_DATA_URL, *(start.encode() for start in BASE64_IMAGE_STARTS))
_BACKSLASH: Final = ord("\\")
#: What stands in a picture's place: a data URL, which nothing takes for words.
_MARK: Final = "data:lifted,"

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class LiftedObject:
    """A JSON object in which marks stand for long pictures. `pictures`: mark → its base64, a view into the reply."""

    record: Mapping[str, Any]
    pictures: Mapping[str, memoryview] = field(default_factory=dict)


def lifted_object(body: bytes) -> LiftedObject | None:
    """The JSON object in `body`, or None where there is none (see `json_object`)."""
    spans = list(_picture_texts(body))
    skeleton = _with_marks(body, spans)
    if not spans or skeleton.count(_MARK.encode()) != len(spans):  # somebody else writes such marks
        record = json_object(body)
        return None if record is None else LiftedObject(record)
    record = json_object(skeleton)
    if record is None:
        return None
    view = memoryview(body)
    return LiftedObject(record, {_mark(n): view[_base64_start(body, *span) : span[1]] for n, span in enumerate(spans)})


def _picture_texts(body: bytes) -> Iterator[Span]:
    """Where the long texts lie that are pictures and hold no escapes: from each text's first byte to its quote."""
    if len(body) < _SHORTEST_LIFTED_BYTES:
        return
    position = 0
    for _ in range(_MOST_TEXTS_LOOKED_AT):
        start = body.find(b'"', position) + 1
        end = _closing_quote(body, start) if start else -1
        if end < 0:
            return
        is_long = end - start >= _SHORTEST_LIFTED_BYTES
        if is_long and body.startswith(_STARTS, start) and body.find(b"\\", start, end) < 0:
            yield start, end
        position = end + 1


def _closing_quote(body: bytes, start: int) -> int:
    end = body.find(b'"', start)
    while end > start and _is_escaped(body, start, end):
        end = body.find(b'"', end + 1)
    return end


def _is_escaped(body: bytes, start: int, place: int) -> bool:
    before = place
    while before > start and body[before - 1] == _BACKSLASH:
        before -= 1
    return (place - before) % 2 == 1


def _with_marks(body: bytes, spans: Sequence[Span]) -> bytes:
    pieces, position = [], 0
    for number, (start, end) in enumerate(spans):
        pieces += [body[position:start], _mark(number).encode()]
        position = end
    return b"".join([*pieces, body[position:]]) if spans else b""


def _mark(number: int) -> str:
    return f"{_MARK}{number}"


def _base64_start(body: bytes, start: int, end: int) -> int:
    """Behind a data URL's comma; one without any is no picture, and decoding it says so."""
    if not body.startswith(_DATA_URL, start):
        return start
    comma = body.find(b",", start, min(end, start + _MOST_DATA_URL_BYTES))
    return start if comma < 0 else comma + 1
