"""Pictures made to cost much more than they weigh; see tests/test_images.py for sizes that are only stated."""

from __future__ import annotations

import struct
import time
import tracemalloc
import zlib
from collections.abc import Callable
from io import BytesIO

import pytest
from PIL import Image

from asyncgen.errors import FailureCode
from asyncgen.images import MAX_JPEG_SCANS, ImageFaultError, check

MIB = 2**20


def encoded(kind: str, size: tuple[int, int] = (64, 64), **options: object) -> bytes:
    out = BytesIO()
    Image.new("L" if kind == "JPEG" else "RGB", size, 7).save(out, kind, **options)
    return out.getvalue()


def with_chunk(kind: bytes, body: bytes) -> bytes:
    """A PNG with one chunk more behind its header."""
    png = encoded("PNG")
    chunk = struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return png[:33] + chunk + png[33:]


def bomb(kind: bytes) -> bytes:
    return with_chunk(kind, b"x\0\0" + zlib.compress(bytes(200 * MIB), 9))


def with_segments(marker: bytes, count: int) -> bytes:
    """A JPEG with as many segments of 64 KiB behind its start."""
    jpeg = encoded("JPEG")
    return jpeg[:2] + (marker + struct.pack(">H", 0xFFFF) + b"ICC_PROFILE\0" + bytes(0xFFFF - 14)) * count + jpeg[2:]


def with_riff_chunk(kind: bytes, size: int) -> bytes:
    """An extended WebP with a chunk of so many bytes behind its pixels."""
    webp = encoded("WEBP", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0")
    body = webp[8:] + kind + struct.pack("<I", size) + bytes(size)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def with_scans(count: int, side: int = 2048) -> bytes:
    """A progressive JPEG whose last scan is repeated: about a hundred bytes each, and a pass over all pixels."""
    jpeg = encoded("JPEG", (side, side), progressive=True)
    last = jpeg[jpeg.rindex(b"\xff\xda") : -2]
    return jpeg[:-2] + last * count + jpeg[-2:]


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"iCCP"])
def test_what_would_inflate_to_200_mib_beside_the_pixels_is_not_inflated(kind: bytes) -> None:
    data = bomb(kind)
    assert len(data) < MIB
    assert cost_in_mib(lambda: check(data)) < 2


@pytest.mark.parametrize(
    "data",
    [with_segments(b"\xff\xe2", 300), with_segments(b"\xff\xfe", 300), with_riff_chunk(b"ICCP", 20 * MIB)],
    ids=["jpeg icc", "jpeg comments", "webp icc"],
)
def test_20_mib_of_metadata_cost_a_few_times_their_size(data: bytes) -> None:
    assert cost_in_mib(lambda: looked_at(data)) < 4 * 20


def test_a_jpeg_of_more_scans_than_any_encoder_writes_is_refused_before_it_is_decoded() -> None:
    data = with_scans(50_000)
    began = time.process_time()
    with pytest.raises(ImageFaultError, match="scans") as caught:
        check(data)
    assert time.process_time() - began < 1, "each of them is a pass over four million pixels"
    assert (caught.value.code, caught.value.refetch_first) == (FailureCode.CORRUPT_IMAGE, False)


def test_a_progressive_jpeg_is_a_picture_however_its_encoder_splits_it() -> None:
    assert check(encoded("JPEG", progressive=True)).format == "jpeg"
    assert check(with_scans(MAX_JPEG_SCANS - 10, side=64)).format == "jpeg"


def test_an_animation_of_ten_thousand_frames_costs_one() -> None:
    """A frame of one colour weighs a few dozen bytes; decoding all of them would take seconds."""
    frame = encoded("WEBP", (1024, 1024), lossless=True)
    one = b"ANMF" + struct.pack("<I", 16 + len(frame) - 12) + bytes(6) + b"\xff\x03\0" * 2 + b"\x01\0\0\0" + frame[12:]
    canvas = b"VP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + b"\xff\x03\0" * 2
    body = b"WEBP" + canvas + b"ANIM" + struct.pack("<I", 6) + bytes(6) + one * 10_000
    began = time.process_time()
    looked_at(b"RIFF" + struct.pack("<I", len(body)) + body)
    assert time.process_time() - began < 2


def looked_at(data: bytes) -> None:
    try:
        check(data)
    except ImageFaultError as fault:
        assert fault.code is FailureCode.CORRUPT_IMAGE  # or a picture: both are fair, so long as they are cheap


def cost_in_mib(act: Callable[[], object]) -> float:
    """The most memory that Python had beyond what it had before."""
    tracemalloc.start()
    try:
        act()
        return tracemalloc.get_traced_memory()[1] / MIB
    finally:
        tracemalloc.stop()
