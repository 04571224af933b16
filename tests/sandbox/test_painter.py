"""The pictures of simulated workers: right size, whole, repeatable, distinct, and readable below."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import zlib
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageChops, ImageStat

from asyncgen.sandbox.comfy import Wish
from asyncgen.sandbox.painter import flat, paint, stamp_copy

WISH = Wish("a fox in a snowy pine forest", 7, 320, 192, 1, 20, (("style_dynamic.safetensors", 1.0),))


def opened(png: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(png))
    image.load()
    assert image.format == "PNG"
    return image


def caption(png: bytes) -> Image.Image:
    """The band that holds the prompt."""
    image = opened(png).convert("L")
    return image.crop((0, round(image.height * 0.78), image.width, round(image.height * 0.9)))


SIZES = [(1, 1), (8, 8), (16, 16), (16, 2048), (2048, 16), (95, 96), (96, 96), (97, 300), (1360, 768), (768, 1360)]


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_a_picture_has_exactly_the_size_asked_for(width: int, height: int) -> None:
    wish = replace(WISH, prompt="city lake trees night rain snow", width=width, height=height)
    assert opened(paint(wish)).size == (width, height)
    assert opened(flat(wish)).size == (width, height)


def test_a_very_large_picture_can_be_painted() -> None:
    assert opened(paint(replace(WISH, width=4096, height=4096))).size == (4096, 4096)


def test_the_same_wish_gives_the_same_bytes_in_another_process() -> None:
    code = (
        "import hashlib; from asyncgen.sandbox.comfy import Wish; from asyncgen.sandbox.painter import paint;"
        f"print(hashlib.sha256(paint({WISH!r})).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            check=True,
            capture_output=True,
            env=os.environ | {"PYTHONHASHSEED": seed},
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1
    assert paint(WISH) == paint(replace(WISH))


OTHERS = [
    replace(WISH, prompt="a fox in a snowy pine forest."),
    replace(WISH, seed=8),
    replace(WISH, loras=(("style_ink_intensity.safetensors", 1.0),)),
    replace(WISH, loras=()),
]


@pytest.mark.parametrize("other", OTHERS)
def test_prompt_seed_and_style_each_change_the_picture(other: Wish) -> None:
    mine, theirs = opened(paint(WISH)), opened(paint(other))
    assert ImageStat.Stat(ImageChops.difference(mine, theirs).convert("L")).mean[0] > 3  # not the grain alone


def test_the_pictures_of_a_batch_differ() -> None:
    assert len({paint(WISH, index) for index in range(4)}) == 4


def test_an_ink_style_paints_in_black_and_white() -> None:
    ink = opened(paint(replace(WISH, loras=(("Style_INK_intensity.safetensors", 1.0),)))).convert("HSV")
    assert ink.getextrema()[1] == (0, 0)
    pink = opened(paint(replace(WISH, loras=(("pink_dreams.safetensors", 1.0),)))).convert("HSV")
    assert ImageStat.Stat(pink).mean[1] > 20


def brightest_of_caption(prompt: str, width: int = 1360, height: int = 768) -> float:
    return ImageStat.Stat(caption(paint(replace(WISH, prompt=prompt, width=width, height=height)))).extrema[0][1]


def test_the_prompt_is_written_below() -> None:
    assert brightest_of_caption("W" * 20) == 255
    assert brightest_of_caption(" ") < 200


def test_control_characters_are_not_written() -> None:
    assert brightest_of_caption("\x01\x07\x1b\x7f") < 200


@pytest.mark.parametrize(("side", "has_text"), [(95, False), (96, True)])
def test_a_tiny_picture_gets_no_text(side: int, has_text: bool) -> None:
    image = opened(paint(replace(WISH, prompt="W" * 20, width=side, height=side))).convert("L")
    lowest = image.crop((0, round(side * 0.6), side, side))
    assert (ImageStat.Stat(lowest).extrema[0][1] > 240) is has_text


def sky(wish: Wish) -> tuple[int, ...]:
    top = opened(paint(wish)).crop((0, 0, wish.width, 2))
    return tuple(round(mean) for mean in ImageStat.Stat(top).mean)


def test_the_colours_belong_to_the_prompt_in_its_style_and_not_to_the_seed() -> None:
    def apart(first: Wish, second: Wish) -> int:
        return max(abs(a - b) for a, b in zip(sky(first), sky(second), strict=True))

    assert apart(WISH, replace(WISH, seed=8)) < 25  # but for clouds
    styles = [replace(WISH, loras=((f"style_{number}.safetensors", 1.0),)) for number in range(6)]
    assert max(apart(WISH, style) for style in styles) > 60


def test_a_black_picture_is_black() -> None:
    assert opened(flat(WISH)).getextrema() == ((0, 0), (0, 0), (0, 0))


def test_a_usual_picture_weighs_as_much_as_a_real_one() -> None:
    for loras in ((), (("ink.safetensors", 1.0),)):
        assert 800_000 < len(paint(replace(WISH, width=1360, height=768, loras=loras))) < 2_000_000


@settings(deadline=None, max_examples=60)
@given(prompt=st.text(max_size=200), lora=st.text(max_size=20), seed=st.integers(0, 2**64 - 1))
def test_any_prompt_can_be_painted_and_stamped(prompt: str, lora: str, seed: int) -> None:
    wish = Wish(prompt, seed, 128, 104, 1, 20, ((lora, 1.0),))
    png = paint(wish)
    assert opened(png).size == (128, 104)
    assert opened(stamp_copy(png, wish, 3, len(png) + 500)).size == (128, 104)


@pytest.mark.parametrize(
    "prompt", ["word " * 3000, "x" * 100_000, "夜の東京、雨", "صياد", "\ud800 lone surrogate", "\0\r\n\t\x1b"]
)
def test_long_foreign_and_broken_prompts_are_painted(prompt: str) -> None:
    wish = replace(WISH, prompt=prompt)
    assert opened(paint(wish)).size == (320, 192)
    assert opened(stamp_copy(paint(WISH), wish)).size == (320, 192)


# --- stamped copies --------------------------------------------------------------------------------------------------

BASE = paint(WISH)


def test_a_stamped_copy_shows_the_same_picture_and_tells_its_prompt_and_seed() -> None:
    copy = opened(stamp_copy(BASE, replace(WISH, prompt="größer\n夜", seed=99), 2))
    assert copy.tobytes() == opened(BASE).tobytes()
    assert copy.info["asyncgen"] == r'{"prompt": "gr\u00f6\u00dfer\n\u591c", "seed": 99, "index": 2}'


def test_stamped_copies_are_distinct_and_repeatable() -> None:
    wishes = [replace(WISH, seed=seed, prompt=prompt) for seed in range(3) for prompt in ("a", "b")]
    copies = [stamp_copy(BASE, wish, index, 200_000) for wish in wishes for index in range(2)]
    assert len(set(copies)) == len(copies)
    assert copies[0] == stamp_copy(BASE, wishes[0], 0, 200_000)


@given(extra=st.integers(0, 40) | st.integers(0, 3_000_000))
@settings(deadline=None, max_examples=40)
def test_a_stamped_copy_reaches_the_size_asked_for(extra: int) -> None:
    bare = len(stamp_copy(BASE, WISH))
    copy = stamp_copy(BASE, WISH, 0, bare + extra)
    assert len(copy) == bare + (extra if extra >= 12 or extra == 0 else 12)  # no chunk is smaller than 12 bytes
    with Image.open(io.BytesIO(copy)) as image:
        image.verify()  # reads every checksum


def test_a_picture_that_is_larger_already_is_only_stamped() -> None:
    assert stamp_copy(BASE, WISH, 0, 10) == stamp_copy(BASE, WISH)


def test_the_padding_does_not_compress() -> None:
    copy = stamp_copy(BASE, WISH, 0, 4_000_000)
    assert len(zlib.compress(copy, 6)) > 0.98 * len(copy)
