"""Texts, JSON values and bytes that are wrong in the ways that files, people and servers make them wrong."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Final

#: Stands for raw JSON that no Python value can be dumped to; `encoded` puts it in.
_RAW: Final = "\x01raw\x01"
_DEPTHS: Final = (20, 90, 150, 210, 330, 490, 950, 990, 3_000, 100_000)
_NUMBERS: Final = (b"1" * 5_000, b"1e999", b"-1e999", b"NaN", b"-Infinity", b"1." + b"3" * 3_000, b"0x10", b"01")

TEXTS: Final = (
    "", " ", ".", "..", "../../etc/passwd", "/etc/passwd", "C:\\x", "a/../../b", "%2e%2e%2f", "~", "~root", "$HOME",
    "con", "NUL.png", "a\0b", "\x1b[2J\x1b]0;t\x07", "\r\n", "\t", "\u202egnp", "\u2028", "\ufeff", "\ufffe",
    "\u0378", "\ud800", "\udcff", "\U0010ffff", "\U000e0041", "e\u0301" * 60, "\u0344" * 80, "画" * 200, "x" * 5_000,
    "{style}", "{id}/..", "{0.__class__}", "None", "nan", "-inf", "1e999", "1_000", "٣", "'", '"', ",", ":", "a:1.5",
    "a:1e9", "=1+1", "https://127.0.0.1/", "file:///etc/passwd", "COMPLETED", "FAILED", "error", "{}",
    '{"error":"x"}', "<script>",
)  # fmt: skip
VALUES: Final[tuple[Any, ...]] = (
    None, True, False, 0, 1, -1, 7, 16_384, 10**9, 2**63, 2**64, 2**70, 10**300, 0.5, -0.0, 1e308,
    float("inf"), float("nan"), [], {}, [[[]]], [{}], {"": None}, [None] * 3,
)  # fmt: skip
_PIECES: Final = (
    b"\0", b"\xff", b"\xfe\xff", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\r", b"\n", b"\r\n", b'"', b"'", b",", b"{",
    b"}", b"[", b"]", b":", b"\\", b"\\u0000", b"\\ud800", b"\x1b[31m", b"\xe2\x80\xa8", b"\x85", b"#", b"-",
)  # fmt: skip


def text(rng: Random) -> str:
    """A troublesome text, or random characters of any plane."""
    kind = rng.randrange(8)
    if kind < 5:
        return rng.choice(TEXTS)
    if kind == 5:
        return "".join(rng.choice(TEXTS)[:80] for _ in range(rng.randrange(6)))
    return "".join(
        chr(rng.choice((rng.randrange(128), rng.randrange(0x3000), rng.randrange(0x110000)))) for _ in range(40)
    )


def mutated_text(rng: Random, value: str) -> str:
    """The text with a troublesome one put in, or in its place."""
    at = rng.randrange(len(value) + 1)
    return rng.choice((text(rng), value[:at] + text(rng) + value[at:], value[:at]))


def mutate(rng: Random, value: Any, leaves: Sequence[Any] = (), keys: Sequence[str] = ()) -> None:
    """Change one place of a JSON value, in place: another value, a key more, fewer or renamed, an element twice."""
    while isinstance(value, dict | list) and value:
        place = rng.choice(list(value) if isinstance(value, dict) else range(len(value)))
        inner = value[place]
        if isinstance(inner, dict | list) and inner and rng.random() < 0.75:
            value = inner
            continue
        _change(rng, value, place, leaves, keys)
        return


def _change(rng: Random, holder: Any, place: Any, leaves: Sequence[Any], keys: Sequence[str]) -> None:
    kind = rng.randrange(8)
    if kind == 0:
        del holder[place]
    elif kind == 1 and isinstance(holder, dict):
        holder[rng.choice(keys) if keys and rng.random() < 0.7 else text(rng)] = _leaf(rng, leaves)
    elif kind == 1:
        holder.insert(place, copy.deepcopy(holder[place]))
    elif kind == 2 and isinstance(holder[place], str):
        holder[place] = mutated_text(rng, holder[place])
    else:
        holder[place] = _leaf(rng, leaves)


def _leaf(rng: Random, leaves: Sequence[Any]) -> Any:
    if leaves and rng.random() < 0.5:
        return copy.deepcopy(rng.choice(leaves))
    if rng.random() < 0.15:
        return _RAW
    return copy.deepcopy(rng.choice(VALUES)) if rng.random() < 0.5 else text(rng)


def encoded(rng: Random, value: Any) -> bytes:
    """The value as JSON, with raw pieces that no dump would write: huge numbers, NaN, nesting up to 1e5 deep."""
    data = json.dumps(value, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    return data.replace(json.dumps(_RAW).encode(), _raw(rng))


def _raw(rng: Random) -> bytes:
    if rng.random() < 0.4:
        return rng.choice(_NUMBERS)
    depth, opening, closing = (
        rng.choice(_DEPTHS),
        *rng.choice(((b"[", b"]"), (b'{"a":', b"}"), (b'{"output":[', b"]}"))),
    )
    return opening * depth + b"1" + closing * depth


def mutated_bytes(rng: Random, data: bytes, changes: int) -> bytes:
    """The bytes with so many places changed."""
    for _ in range(changes):
        data = rng.choice(_BYTE_CHANGES)(rng, data)
    return data


def _spliced(rng: Random, data: bytes) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.randbytes(rng.randrange(6)) + data[at + rng.randrange(6) :]


def _with_piece(rng: Random, data: bytes) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.choice(_PIECES) * rng.choice((1, 1, 2, 300)) + data[at:]


def _flipped(rng: Random, data: bytes) -> bytes:
    if not data:
        return data
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def _cut(rng: Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _doubled(rng: Random, data: bytes) -> bytes:
    start = rng.randrange(len(data) + 1)
    end = min(len(data), start + rng.randrange(200))
    return data[:end] + data[start:end] * rng.choice((1, 1, 40)) + data[end:]


_BYTE_CHANGES: Final[tuple[Callable[[Random, bytes], bytes], ...]] = (
    _spliced, _spliced, _with_piece, _with_piece, _flipped, _cut, _doubled,
)  # fmt: skip


def reencoded(rng: Random, data: bytes) -> bytes:
    """The same text as another program would save it: with a byte order mark, in UTF-16 or Latin-1,
    gzipped by name."""
    decoded = data.decode("utf-8", "replace")
    encoding = rng.choice(("utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1", "cp037"))
    return decoded.encode(encoding, "replace")
