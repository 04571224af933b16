"""What is blank, what is the same, what looks alike: on encoded pictures as Pillow writes them."""

from __future__ import annotations

from io import BytesIO
from itertools import combinations
from typing import Any

import pytest
from PIL import Image, ImageDraw, PngImagePlugin
from PIL.Image import Image as Painting

from asyncgen.images import Picture, check
from asyncgen.looks import (
    NEAR_BITS,
    bits_apart,
    blank_fault,
    may_be_blank,
    perceptual_hash,
    pixel_data_bytes,
    pixels_hash,
)
from asyncgen.sandbox.comfy import Wish
from asyncgen.sandbox.painter import paint

SIZE = (320, 192)
FORMATS = ("PNG", "JPEG", "WEBP")


def saved(painting: Painting, kind: str = "PNG", **how: Any) -> Picture:
    buffer = BytesIO()
    painting.save(buffer, kind, **how)
    return check(buffer.getvalue())


def painting(prompt: str = "a fox", seed: int = 1, size: tuple[int, int] = SIZE) -> Painting:
    return Image.open(BytesIO(paint(Wish(prompt, seed, *size, 1, 1, ()))))


def fault_of(picture: Picture) -> str | None:
    """As it is asked for: only what compresses to next to nothing is decoded."""
    return blank_fault(picture) if may_be_blank(picture) else None


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("size", [SIZE, (64, 64), (16, 16), (1360, 768)])
@pytest.mark.parametrize(
    ("colour", "words"),
    [((0, 0, 0), "black"), ((255, 255, 255), "white"), ((127, 128, 126), "grey"), ((200, 10, 10), "one colour")],
)
def test_a_picture_of_one_colour_is_blank(kind: str, size: tuple[int, int], colour: Any, words: str) -> None:
    assert words in (fault_of(saved(Image.new("RGB", size, colour), kind)) or "")


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "LA", "1"])
def test_so_it_is_in_every_mode_of_a_png(mode: str) -> None:
    assert "black" in (fault_of(saved(Image.new("L", SIZE, 0).convert(mode))) or "")


def test_stray_pixels_and_a_faint_gradient_show_nothing() -> None:
    starred = Image.new("RGB", (512, 512))
    starred.putpixel((7, 7), (255, 255, 255))
    assert "black" in (fault_of(saved(starred)) or "")
    faint = Image.linear_gradient("L").resize(SIZE).point([120 + level // 32 for level in range(256)])
    assert "grey" in (fault_of(saved(faint)) or "")


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("size", [SIZE, (64, 64), (16, 16)])
def test_what_the_sandbox_paints_shows_something_and_is_mostly_not_decoded(kind: str, size: tuple[int, int]) -> None:
    picture = saved(painting(size=size).convert("RGB"), kind)
    assert blank_fault(picture) is None
    assert size != SIZE or not may_be_blank(picture)


def test_a_drawing_on_white_a_gradient_and_a_dark_room_show_something() -> None:
    drawing = Image.new("RGB", (1024, 1024), "white")
    ImageDraw.Draw(drawing).ellipse((300, 200, 900, 700), outline="black", width=5)
    assert fault_of(saved(drawing)) is None
    assert fault_of(saved(Image.linear_gradient("L").resize((1360, 768)))) is None
    room = Image.new("RGB", (1024, 1024), (5, 5, 6))
    ImageDraw.Draw(room).ellipse((500, 500, 520, 520), fill=(255, 220, 120))
    assert fault_of(saved(room)) is None


def test_what_is_too_small_too_large_or_of_16_bits_is_not_judged() -> None:
    assert fault_of(saved(Image.new("RGB", (8, 8)))) is None
    assert not may_be_blank(Picture(b"", "png", ".png", 16_000, 16_000, ""))
    assert fault_of(saved(Image.new("I;16", SIZE))) is None


def test_a_png_that_cannot_be_decoded_says_so() -> None:
    data = bytearray(saved(Image.new("RGB", SIZE)).data)
    start = data.index(b"IDAT") + 4
    data[start : start + 2] = b"\0\0"
    with pytest.raises(ValueError, match="cannot be decoded"):
        blank_fault(Picture(bytes(data), "png", ".png", *SIZE, ""))


# -- the same, and alike


@pytest.mark.parametrize("kind", FORMATS)
def test_the_hash_is_of_the_pixels_not_of_what_is_written_beside_them(kind: str) -> None:
    notes = PngImagePlugin.PngInfo()
    notes.add_itxt("prompt", "a fox, and all of the workflow")
    beside = {"pnginfo": notes} if kind == "PNG" else {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"}
    plain, noted = saved(painting().convert("RGB"), kind), saved(painting().convert("RGB"), kind, **beside)
    assert plain.sha256 != noted.sha256
    assert pixels_hash(plain) == pixels_hash(noted)
    assert pixel_data_bytes(plain) == pixel_data_bytes(noted)
    assert pixels_hash(plain) != pixels_hash(saved(painting(seed=2).convert("RGB"), kind))


def test_pictures_of_other_seeds_are_far_apart_and_the_same_one_encoded_anew_is_near() -> None:
    hashes = [perceptual_hash(saved(painting(seed=seed))) or "" for seed in range(8)]
    assert all(bits_apart(one, other) > NEAR_BITS for one, other in combinations(hashes, 2))
    again = painting(seed=0).convert("RGB")
    for near in (saved(again, "JPEG", quality=60), saved(again.resize((300, 180))), saved(again, "WEBP")):
        assert bits_apart(hashes[0], perceptual_hash(near) or "") <= NEAR_BITS
    assert all(len(found) == 16 for found in hashes)


def test_what_cannot_be_decoded_has_no_looks() -> None:
    assert perceptual_hash(Picture(b"no picture", "png", ".png", 8, 8, "")) is None
    assert perceptual_hash(Picture(b"", "png", ".png", 16_000, 16_000, "")) is None
