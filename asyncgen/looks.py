"""What a picture looks like, as far as it can be told without a model: blank or not, how alike two of them are. Pure.

Decoding a full-size picture takes 25 to 30 ms, three times what all else of a job takes, so the encoded size decides
first. What has one colour compresses to next to nothing, and only what does is decoded: measured at 1360x768 with
Pillow, bytes of pixel data per pixel,

======  ============  =========================  =========================
format  one colour    a landscape blurred (20)   the sandbox's landscapes
======  ============  =========================  =========================
PNG     0.003–0.015   0.37–0.47                  0.9–1.0
JPEG    0.016         0.03–0.08                  0.10–0.37
WebP    0.0001–0.002  0.01–0.21                  0.10–0.57
======  ============  =========================  =========================

`_MOST_FLAT_BYTES` is six times, three times and ten times the first column, and a fixed part for what a small picture
has beside its pixels. Nothing above it is decoded; what is below it and is no blank picture costs its decoding.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Iterator
from functools import cache
from io import BytesIO
from itertools import product
from typing import Final

from asyncgen.images import MAX_DECODED_PIXELS, Picture

_MOST_FLAT_BYTES: Final = {"png": 0.1, "jpeg": 0.05, "webp": 0.02}  # for each pixel; see above
_FIXED_BYTES: Final = 1024  # Huffman and quantization tables of a JPEG, a palette
#: The smallest size that can be asked for; what is smaller is no picture to judge.
_SMALLEST_SIDE: Final = 16
#: Levels of 255. Between the darkest and the lightest of one colour channel there are no more than so many ...
_FLAT_RANGE: Final = 8
#: ... or next to all pixels are alike: the standard deviation, for a picture with a few stray ones.
_FLAT_DEVIATION: Final = 0.5
_BLACK_LEVEL: Final = 8
_WHITE_LEVEL: Final = 247

_PNG_MAGIC_BYTES: Final = 8
_UINT32: Final = struct.Struct(">I")
_PNG_PIXELS: Final = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT"})
_WEBP_PIXELS: Final = frozenset({b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF"})
_JPEG_SCAN: Final = 0xDA
_JPEG_BESIDE: Final = frozenset({*range(0xE0, 0xF0), 0xFE})  # APPn and comments
#: Bits of 64 in which two pictures differ that look the same.
NEAR_BITS: Final = 4
_SIDE: Final = 32
_LOW: Final = 8


def pixels_hash(picture: Picture) -> bytes:
    """16 bytes that two files of the same pixels, encoded alike, have in common, whatever prompt or seed they carry."""
    digest = hashlib.blake2b(digest_size=16)
    for part, _ in _parts(picture):
        digest.update(part)
    return digest.digest()


def pixel_data_bytes(picture: Picture) -> int:
    """The size of the pixels as the file holds them, without what is written beside them."""
    return sum(size_bytes for _, size_bytes in _parts(picture))


def _parts(picture: Picture) -> Iterator[tuple[bytes | memoryview, int]]:
    of_format = {"png": _png_parts, "jpeg": _jpeg_parts, "webp": _webp_parts}[picture.format]
    return of_format(memoryview(picture.data))


def may_be_blank(picture: Picture) -> bool:
    """Whether the picture must be decoded to know that it is not blank."""
    pixels = picture.width * picture.height
    if min(picture.width, picture.height) < _SMALLEST_SIDE or pixels > MAX_DECODED_PIXELS:
        return False
    return pixel_data_bytes(picture) <= _FIXED_BYTES + _MOST_FLAT_BYTES[picture.format] * pixels


def blank_fault(picture: Picture) -> str | None:
    """What a picture of one colour is, in words; None for one that shows something. Decodes it.

    Raises `ValueError` where it cannot be decoded: a PNG has only been walked over until now.
    """
    from PIL import Image, ImageStat  # noqa: PLC0415 - most runs never need it

    try:
        with Image.open(BytesIO(picture.data)) as image:
            if image.mode.startswith(("I", "F")):  # 16 bits and more: Pillow has no true way to 8
                return None
            pixels = image.convert("RGB")
    except Exception as error:  # as in `images`: a decoder's exceptions are of a dozen types
        raise ValueError(f"it cannot be decoded ({type(error).__name__}: {error})") from error
    extremes = pixels.getextrema()
    is_flat = all(high - low <= _FLAT_RANGE for low, high in extremes)  # type: ignore[misc]
    means = ImageStat.Stat(pixels)
    if not is_flat and max(means.stddev) > _FLAT_DEVIATION:
        return None
    return _colour_words([round(mean) for mean in means.mean])


def _colour_words(means: list[int]) -> str:
    if max(means) <= _BLACK_LEVEL:
        return "it is black all over"
    if min(means) >= _WHITE_LEVEL:
        return "it is white all over"
    if max(means) - min(means) <= _FLAT_RANGE:
        return f"it is grey all over (level {means[0]} of 255)"
    return f"it has one colour all over (#{means[0]:02x}{means[1]:02x}{means[2]:02x})"


# -- how it looks


def perceptual_hash(picture: Picture) -> str | None:
    """16 hex digits that differ in few bits for pictures that look the same. Decodes it; None where it cannot.

    The signs, about their median, of the 64 lowest frequencies of a picture of 32x32 grey pixels (pHash).
    """
    from PIL import Image  # noqa: PLC0415 - as above

    if picture.width * picture.height > MAX_DECODED_PIXELS:
        return None
    try:
        with Image.open(BytesIO(picture.data)) as image:
            image.draft("L", (_SIDE * 8, _SIDE * 8))  # a JPEG is decoded no larger than is needed
            small = image.convert("L").resize((_SIDE, _SIDE), Image.Resampling.BOX)
    except Exception:
        return None
    low = _low_frequencies(small.tobytes())
    median = sorted(low)[len(low) // 2]
    bits = sum((value > median) << place for place, value in enumerate(low))
    return f"{bits:016x}"


def bits_apart(one: str, other: str) -> int:
    """In how many of 64 bits two perceptual hashes differ."""
    return (int(one, 16) ^ int(other, 16)).bit_count()


def _low_frequencies(grey: bytes) -> list[float]:
    """A discrete cosine transform, as far as it is wanted; the mean, which says nothing of the shapes, is left out."""
    waves = _waves()
    rows = [grey[start : start + _SIDE] for start in range(0, _SIDE * _SIDE, _SIDE)]
    across = [[sum(map(float.__mul__, wave, map(float, row))) for row in rows] for wave in waves]
    found = [sum(map(float.__mul__, waves[y], across[x])) for y, x in product(range(_LOW), repeat=2)]
    return [0.0, *found[1:]]


@cache
def _waves() -> list[list[float]]:
    return [[math.cos(math.pi / _SIDE * (place + 0.5) * wave) for place in range(_SIDE)] for wave in range(_LOW)]


# -- the encoded pixels; the pictures are known to be whole


def _png_parts(data: memoryview) -> Iterator[tuple[bytes | memoryview, int]]:
    """Length, type and checksum of each chunk of pixels: the checksums stand for the bytes, and cost nothing."""
    start = _PNG_MAGIC_BYTES
    while start < len(data):
        (length,) = _UINT32.unpack_from(data, start)
        kind, end = bytes(data[start + 4 : start + 8]), start + 12 + length
        if kind in _PNG_PIXELS:
            yield bytes(data[start : start + 8]) + bytes(data[end - 4 : end]), length if kind == b"IDAT" else 0
        start = end


def _jpeg_parts(data: memoryview) -> Iterator[tuple[bytes | memoryview, int]]:
    start = 2
    while start + 4 <= len(data) and data[start] == 0xFF and data[start + 1] != _JPEG_SCAN:
        end = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
        if data[start + 1] not in _JPEG_BESIDE:
            yield data[start:end], end - start
        start = end
    yield data[start:], len(data) - start


def _webp_parts(data: memoryview) -> Iterator[tuple[bytes | memoryview, int]]:
    start = 12
    while start + 8 <= len(data):
        length = int.from_bytes(data[start + 4 : start + 8], "little")
        end = start + 8 + length
        if bytes(data[start : start + 4]) in _WEBP_PIXELS:
            yield data[start:end], length
        start = end + length % 2
