"""Pictures: whole ones pass, anything less is refused with the right blame."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO

import pybase64
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from asyncgen.errors import FailureClass, FailureCode
from asyncgen.images import ImageFaultError, check, decode_base64, examine
from asyncgen.protocol import Completed, Failed, InlineImage, LinkedImage, Timing

MAGIC = b"\x89PNG\r\n\x1a\n"


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def header(width: int = 2, height: int = 2, depth: int = 8, colour: int = 2, interlace: int = 0) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace))


def encoded(image_format: str, size: tuple[int, int] = (33, 17), mode: str = "RGB", **options: object) -> bytes:
    file = BytesIO()
    picture = Image.radial_gradient("L").resize(size).convert(mode)
    picture.save(file, image_format, **options)
    return file.getvalue()


PIXELS = chunk(b"IDAT", zlib.compress(b"\0" * 14))
END = chunk(b"IEND", b"")
PNG = MAGIC + header() + PIXELS + END
JPEG = encoded("JPEG")
WEBP = encoded("WEBP")


def fault_of(data: bytes) -> ImageFaultError:
    with pytest.raises(ImageFaultError) as caught:
        check(data)
    return caught.value


@pytest.mark.parametrize(
    ("data", "image_format", "suffix"),
    [
        (encoded("PNG"), "png", ".png"),
        (encoded("PNG", mode="RGBA"), "png", ".png"),
        (encoded("PNG", mode="P"), "png", ".png"),
        (encoded("PNG", mode="1"), "png", ".png"),
        (JPEG, "jpeg", ".jpg"),
        (encoded("JPEG", progressive=True), "jpeg", ".jpg"),
        (WEBP, "webp", ".webp"),
        (encoded("WEBP", lossless=True), "webp", ".webp"),
        (encoded("WEBP", mode="RGBA"), "webp", ".webp"),
    ],
)
def test_a_whole_picture_is_known_by_format_suffix_and_size(data: bytes, image_format: str, suffix: str) -> None:
    picture = check(data)
    assert (picture.format, picture.suffix, picture.width, picture.height) == (image_format, suffix, 33, 17)
    assert picture.data is data


@pytest.mark.parametrize("data", [PNG, JPEG, WEBP], ids=["png", "jpeg", "webp"])
def test_a_picture_cut_at_any_byte_is_corrupt_and_worth_fetching_again(data: bytes) -> None:
    for length in range(len(data)):
        fault = fault_of(data[:length])
        assert (fault.code, fault.refetch_first) == (FailureCode.CORRUPT_IMAGE, True)


def test_a_picture_cut_inside_and_closed_again_does_not_decode() -> None:
    half = WEBP[8 : len(WEBP) // 2 * 2 - 200]
    for data in (
        b"RIFF" + struct.pack("<I", len(half)) + half,
        JPEG[:-40] + JPEG[:2] + JPEG[-2:],
        JPEG[:300] + JPEG[-2:],
    ):
        assert "decoded" in fault_of(data).message


@pytest.mark.parametrize("data", [PNG, JPEG, WEBP], ids=["png", "jpeg", "webp"])
def test_a_picture_with_bytes_after_its_end_is_corrupt(data: bytes) -> None:
    assert fault_of(data + b"\0").code is FailureCode.CORRUPT_IMAGE


def test_any_flipped_bit_of_a_png_is_seen() -> None:
    for position in range(len(PNG) * 8):
        damaged = bytearray(PNG)
        damaged[position // 8] ^= 1 << position % 8
        with pytest.raises(ImageFaultError):
            check(bytes(damaged))


@pytest.mark.parametrize(
    "data",
    [
        MAGIC + PIXELS + END,
        MAGIC + header() + END,
        MAGIC + header() + chunk(b"IDAT", b"") + END,
        MAGIC + header(0, 2) + PIXELS + END,
        MAGIC + header(depth=3) + PIXELS + END,
        MAGIC + header(colour=5) + PIXELS + END,
        MAGIC + header(interlace=2) + PIXELS + END,
        MAGIC + chunk(b"IHDR", b"short") + PIXELS + END,
        MAGIC + chunk(b"tEXt", header()[8:21]) + PIXELS + END,
        MAGIC + END,
        MAGIC + struct.pack(">I", 2**32 - 1) + b"IHDR",
        MAGIC + header(1360, 768) + PIXELS + END,
    ],
    ids=lambda data: str(len(data)),
)
def test_a_png_that_cannot_be_whole_is_corrupt(data: bytes) -> None:
    assert fault_of(data).code is FailureCode.CORRUPT_IMAGE


def test_a_png_of_one_colour_at_the_best_compression_passes() -> None:
    file = BytesIO()
    Image.new("RGB", (4096, 4096)).save(file, "PNG", compress_level=9)
    assert check(file.getvalue()).width == 4096


@pytest.mark.parametrize(
    "data",
    [
        MAGIC + header(32_769, 1) + PIXELS + END,
        MAGIC + header(30_000, 30_000) + PIXELS + END,
        WEBP[:26] + struct.pack("<HH", 16_383, 16_383) + WEBP[30:],
        JPEG[: JPEG.index(b"\xff\xc0") + 5] + struct.pack(">HH", 65_000, 65_000) + JPEG[JPEG.index(b"\xff\xc0") + 9 :],
    ],
    ids=["png side", "png area", "webp", "jpeg"],
)
def test_a_bomb_is_refused_by_its_stated_size_before_it_is_decoded(data: bytes) -> None:
    fault = fault_of(data)
    assert (fault.code, fault.refetch_first) == (FailureCode.CORRUPT_IMAGE, False)
    assert "pixels" in fault.message


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (encoded("GIF", mode="L"), "GIF"),
        (encoded("BMP"), "BMP"),
        (encoded("TIFF"), "TIFF"),
        (b"\0\0\0\x20ftypavif\0\0\0\0", "AVIF"),
        (b"<!DOCTYPE html>", "HTML"),
        (b'{"error":1}', "JSON"),
        (b"hello world", "68 65 6c 6c 6f"),
    ],
)
def test_another_format_is_named_and_not_fetched_again(data: bytes, name: str) -> None:
    fault = fault_of(data)
    assert (fault.code, fault.refetch_first) == (FailureCode.NOT_AN_IMAGE, False)
    assert name in fault.message


def test_base64_may_have_line_breaks_and_nothing_else() -> None:
    assert decode_base64("aGVsbG8g\r\nd29ybGQ=\n") == b"hello world"
    for text in ("aGVsbG8", "aGVs bG8=", "aGV!bG8=", "-_-_", "aGVsbG8=aGVs", "aGVsbG8=\0", "é" * 4, "\ud800"):
        with pytest.raises(ImageFaultError) as caught:
            decode_base64(text)
        assert caught.value.refetch_first, text


def inline(data: bytes) -> InlineImage:
    return InlineImage(pybase64.b64encode(data).decode())


def test_pictures_keep_their_order_and_links_are_left_to_the_caller() -> None:
    link = LinkedImage("https://bucket.example/a.png")
    pictures = examine(Completed((inline(PNG), link, inline(JPEG)), Timing()))
    assert isinstance(pictures, tuple)
    assert pictures == (check(PNG), link, check(JPEG))


def test_one_bad_picture_fails_the_result_names_it_and_keeps_the_others_aside() -> None:
    good, bad = inline(PNG), inline(PNG[:-1])
    outcome = examine(Completed((good, bad), Timing(execution_ms=7)))
    assert isinstance(outcome, Failed)
    assert (outcome.failure.kind, outcome.failure.code) == (FailureClass.ITEM, FailureCode.CORRUPT_IMAGE)
    assert outcome.failure.message.startswith("picture 2 of 2")
    assert (outcome.refetch_first, outcome.aside, outcome.timing) == (True, (good,), Timing(execution_ms=7))


def test_a_fault_can_be_told_as_a_failure() -> None:
    failure = fault_of(b"hello world").failure
    assert (failure.kind, failure.code) == (FailureClass.ITEM, FailureCode.NOT_AN_IMAGE)


@given(
    st.sampled_from([PNG, JPEG, WEBP, encoded("WEBP", lossless=True), encoded("WEBP", mode="RGBA")]),
    st.integers(0, 2000),
    st.binary(max_size=12),
    st.integers(0, 12),
)
def test_damaged_pictures_raise_the_one_error_or_are_pictures_still(
    data: bytes, position: int, new: bytes, dropped: int
) -> None:
    position %= len(data)
    try:
        assert check(data[:position] + new + data[position + dropped :]).width > 0
    except ImageFaultError as fault:
        assert fault.code in {FailureCode.CORRUPT_IMAGE, FailureCode.NOT_AN_IMAGE}


@given(st.binary(max_size=300))
def test_any_bytes_are_a_picture_or_the_one_error(data: bytes) -> None:
    for prefix in (b"", MAGIC, b"\xff\xd8\xff", b"RIFF\x20\0\0\0WEBPVP8 "):
        with pytest.raises(ImageFaultError):
            check(prefix + data)
