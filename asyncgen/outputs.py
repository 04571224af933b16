"""Where workers put their pictures: a bounded walk over a job's output, in whatever shape it comes.

Only the keys named here are followed, so that pictures which are no result (an echoed input, parameters) are not taken
for one. No recursion: a deep output costs steps, not stack.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Final

from asyncgen.diagnosis import BASE64_IMAGE_STARTS, cleaned, diagnose, words_of
from asyncgen.errors import Failure, FailureClass, FailureCode
from asyncgen.protocol import InlineImage, LinkedImage

Image = InlineImage | LinkedImage

MAX_IMAGES: Final = 1024
MAX_URL_CHARACTERS: Final = 8192
_MAX_NODES: Final = 20_000
_MAX_NOTES: Final = 8

# What stands under these keys, or as the data of an image there, has to be a picture ...
_IMAGE_KEYS: Final = ("images", "image", "image_base64")
_IMAGE_DATA_KEYS: Final = ("data", "base64", "b64_json", "url")
# ... and what stands under these may be one, or a text, or hold more.
_OTHER_KEYS: Final = ("image_url", "image_urls", "data_url", "links", "output", "job_results", "result", "results")
#: Pictures are looked for here only where nothing else has any: most workers put words here.
_LAST_RESORT: Final = "message"
_FOLLOWED: Final = (*_IMAGE_KEYS, *_IMAGE_DATA_KEYS, *_OTHER_KEYS, _LAST_RESORT)

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,15}://[^\s\x00-\x1f\x7f]+")
_ERROR_WORDS: Final = frozenset({"error", "failed", "failure"})
_NOTHING_SAVED: Final = "success_no_images"


@dataclass(frozen=True, slots=True)
class Findings:
    """What an output holds. `failure`: the worker itself says that the job failed; `notes`: what it complains about."""

    images: tuple[Image, ...]
    notes: tuple[str, ...]
    failure: Failure | None


@dataclass(frozen=True, slots=True)
class _Node:
    """A value under a followed key. `place` is the innermost list it stands in and its index there."""

    key: str
    value: object
    must_be_image: bool = False
    place: tuple[int, int] | None = None


def find_images(output: object, lifted: Mapping[str, memoryview]) -> Findings:
    """Every picture in a job's output, in order, each once: the same bytes count again only within one list.

    `lifted`: the pictures that marks stand for in it (`asyncgen.lifting`).
    """
    nodes = list(islice(_walk(output), _MAX_NODES + 1))
    found = [(image, node.place) for node in nodes if (image := _image(node, lifted)) and node.key != _LAST_RESORT]
    found = found or [(image, node.place) for node in nodes if (image := _image(node, lifted))]
    images, reports = _without_repeats(found[:MAX_IMAGES]), [n.value for n in nodes if isinstance(n.value, dict)]
    notes = [cleaned(words, 200) for report in reports for words in _complaints(report)]
    if len(nodes) > _MAX_NODES or len(found) > MAX_IMAGES:
        notes.insert(0, "the output is too large to be read to its end")
    return Findings(tuple(images), tuple(dict.fromkeys(notes))[:_MAX_NOTES], _own_failure(reports))


def _walk(output: object) -> Iterator[_Node]:
    """The nodes of an output, a holder before what it holds."""
    stack = [iter((_Node("output", output),))]
    while stack:
        node = next(stack[-1], None)
        if node is None:
            stack.pop()
            continue
        yield node
        if isinstance(node.value, dict):
            stack.append(_members(node, node.value))
        elif isinstance(node.value, list):
            stack.append(_elements(node, node.value))


def _members(holder: _Node, members: dict[str, object]) -> Iterator[_Node]:
    for key in _FOLLOWED:
        if members.get(key):
            must_be_image = key in _IMAGE_KEYS or (holder.must_be_image and key in _IMAGE_DATA_KEYS)
            yield _Node(key, members[key], must_be_image, holder.place)


def _elements(holder: _Node, elements: list[object]) -> Iterator[_Node]:
    for index, element in enumerate(elements):
        yield _Node(holder.key, element, holder.must_be_image, (id(elements), index))


def _image(node: _Node, lifted: Mapping[str, memoryview]) -> Image | None:
    text = node.value
    if not isinstance(text, str):
        return None
    if text in lifted:
        return InlineImage(lifted[text])
    if text[:5].lower() == "data:":
        return InlineImage(text.partition(",")[2])
    if len(text) <= MAX_URL_CHARACTERS and _URL.fullmatch(text):
        return LinkedImage(text)
    return InlineImage(text) if node.must_be_image or text.startswith(BASE64_IMAGE_STARTS) else None


def _without_repeats(found: list[tuple[Image, tuple[int, int] | None]]) -> Iterator[Image]:
    kept: list[tuple[Image, tuple[int, int] | None]] = []
    for image, place in found:
        if not any(_is_repeat(place, other_place) and image == other for other, other_place in kept):
            kept.append((image, place))
            yield image


def _is_repeat(place: tuple[int, int] | None, other: tuple[int, int] | None) -> bool:
    """Whether equal bytes at these two places are one picture; side by side in one list they are two."""
    return place is None or other is None or place[0] != other[0] or place == other


def _complaints(report: dict[str, object]) -> Iterator[str]:
    for key in ("error", "errors"):
        value = report.get(key)
        for part in value[:_MAX_NOTES] if isinstance(value, list) else [value]:
            if words := words_of(part):
                yield words


def _own_failure(reports: list[dict[str, object]]) -> Failure | None:
    for report in reports:
        status = report.get("status")
        word = status[:40].lower() if isinstance(status, str) else ""
        if word in _ERROR_WORDS:
            return diagnose(words_of(report) or f"the worker reports status {word!r} and gives no reason")
        if word == _NOTHING_SAVED:
            message = "the workflow ran and saved no picture: its SaveImage node is missing or was not reached"
            return Failure(FailureClass.ITEM, FailureCode.NO_IMAGE, message)
    return None
