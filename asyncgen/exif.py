"""The places of EXIF where image programs keep how a picture was made: user comment, and camera model. Pure.

A1111 writes its text as a user comment; ComfyUI writes `prompt:{…}` where the model of a camera would stand.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

#: Texts of the first directory that are read: image description, make and model of the camera, in this order.
_TEXT_TAGS: Final = (0x010E, 0x010F, 0x0110)
_MODEL: Final = 0x0110
_EXIF_POINTER: Final = 0x8769
_USER_COMMENT: Final = 0x9286
_ASCII, _LONG, _UNDEFINED = 2, 4, 7
_UNICODE: Final = b"UNICODE\0"
_HEADER: Final = b"MM\0*\0\0\0\x08"  # big-endian, as the programs write that read it; the first directory follows
_ENTRY_BYTES: Final = 12
_MOST_ENTRIES: Final = 512


def exif_of(user_comment: str | None, model: str | None = None) -> bytes:
    """A TIFF structure with these texts. `model` must be ASCII, since nothing says how it is encoded otherwise."""
    comment = b"" if user_comment is None else _UNICODE + user_comment.encode("utf-16-be", "replace")
    first = [] if model is None else [(_MODEL, _ASCII, model.encode("ascii", "replace") + b"\0")]
    texts_at = len(_HEADER) + _directory_bytes(len(first) + 1)
    directory_at = texts_at + sum(len(_even(body)) for _, _, body in first)
    pointer = (_EXIF_POINTER, _LONG, struct.pack(">I", directory_at))
    second = [(_USER_COMMENT, _UNDEFINED, comment)]
    return _HEADER + _directory([*first, pointer], texts_at) + _directory(second, directory_at + _directory_bytes(1))


def _directory_bytes(entries: int) -> int:
    return 2 + _ENTRY_BYTES * entries + 4


def _directory(entries: list[tuple[int, int, bytes]], values_at: int) -> bytes:
    """A directory and, from `values_at` on, the values that do not fit into it."""
    rows, values = [], b""
    for tag, kind, body in entries:
        count = 1 if kind == _LONG else len(body)
        if len(body) <= 4:
            rows.append(struct.pack(">HHI", tag, kind, count) + body.ljust(4, b"\0"))
        else:
            rows.append(struct.pack(">HHII", tag, kind, count, values_at + len(values)))
            values += _even(body)
    return struct.pack(">H", len(rows)) + b"".join(rows) + bytes(4) + values


def _even(value: bytes) -> bytes:
    """TIFF wants values to begin at even places."""
    return value + bytes(len(value) % 2)


def texts_in(tiff: bytes) -> tuple[str | None, list[str]]:
    """The user comment (None: there is none), and the texts of the first directory. What is damaged is left out."""
    comment, texts = None, []
    with suppress(struct.error):
        order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
        if order is None:
            return None, []
        (first,) = struct.unpack_from(f"{order}I", tiff, 4)
        for tag, body in _values(tiff, order, first):
            if tag in _TEXT_TAGS:
                texts.append(body.rstrip(b"\0").decode("utf-8", "replace"))
            elif tag == _EXIF_POINTER and len(body) == 4:
                (second,) = struct.unpack(f"{order}I", body)
                comment = next(
                    (_comment(body) for tag, body in _values(tiff, order, second) if tag == _USER_COMMENT), None
                )
    return comment, texts


def _values(tiff: bytes, order: str, start: int) -> Iterator[tuple[int, bytes]]:
    """Tag and bytes of the values of one directory that are texts, numbers of four bytes or of no kind."""
    (count,) = struct.unpack_from(f"{order}H", tiff, start)
    for number in range(min(count, _MOST_ENTRIES)):
        entry = start + 2 + number * _ENTRY_BYTES
        tag, kind, length = struct.unpack_from(f"{order}HHI", tiff, entry)
        if kind not in (_ASCII, _LONG, _UNDEFINED):
            continue
        size = length * 4 if kind == _LONG else length
        at = entry + 8 if size <= 4 else struct.unpack_from(f"{order}I", tiff, entry + 8)[0]
        if at + size <= len(tiff):
            yield tag, tiff[at : at + size]


def _comment(body: bytes) -> str:
    code, text = body[:8], body[8:]
    if code != _UNICODE:
        return text.rstrip(b"\0").decode("utf-8", "replace")
    # Its byte order is said nowhere: that of most writers, unless the zero bytes of plain letters say otherwise.
    little = text[1::2].count(0) > text[0::2].count(0)
    return text.decode("utf-16-le" if little else "utf-16-be", "replace")
