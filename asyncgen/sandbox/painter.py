"""Pictures for simulated workers: a small landscape generator, so that a finished batch is worth looking at.

Every picture follows from the `Wish` and its index alone: the LoRAs and the prompt choose the palette, words of the
prompt choose the motif (a city, water, trees, rain, snow, night), the seed moves every hill, and the prompt stands
below in plain letters. The same wish gives the same bytes in every process with the same Pillow. A LoRA named for
ink paints in black and white. Grain gives a PNG the weight of a real one (1360 x 768: about 1.1 MB).
"""

from __future__ import annotations

import colorsys
import hashlib
import io
import json
import math
import re
import struct
import unicodedata
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from statistics import NormalDist
from typing import Final

from PIL import Image, ImageChops, ImageDraw, ImageFont

from asyncgen.sandbox.comfy import Wish

Colour = tuple[int, int, int]
Point = tuple[float, float]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

# (sky, horizon) hues in turns that look well together; the hash of prompt and style picks one.
_HUES: Final = (
    (0.62, 0.06),
    (0.70, 0.95),
    (0.56, 0.11),
    (0.47, 0.13),
    (0.78, 0.04),
    (0.60, 0.52),
    (0.95, 0.10),
    (0.53, 0.80),
    (0.02, 0.09),
    (0.66, 0.12),
)
_WORDS: Final = {
    "city": "city street neon tower skyline urban rooftop cyberpunk alley detective",
    "water": "sea ocean lake river harbour harbor ship boat beach island coast lighthouse pier canal wave",
    "trees": "forest tree trees wood woods pine jungle garden park fox deer wolf cabin autumn",
    "night": "night midnight star stars moon moonlit space galaxy lantern neon aurora dark",
    "rain": "rain rainy storm thunder monsoon drizzle",
    "snow": "snow snowy winter ice blizzard frozen frost",
}
_INK: Final = re.compile(r"(?<![a-z])ink", re.IGNORECASE)  # ink_wash, style-ink; not pink
_LAYERS: Final = 5
_GRAIN_TILE: Final = 512
_GRAIN_STRENGTH: Final = 5.0  # standard deviation, in levels of 255; decides how much a PNG weighs
_SMALLEST_CAPTIONED: Final = 96  # pixels of the shorter side; below it nothing could be read
_LONGEST_CAPTION: Final = 600  # characters that are laid out; no picture has room for more


def paint(wish: Wish, index: int = 0) -> bytes:
    """The picture `wish` asks for, a PNG of exactly its size; `index` counts the pictures of its batch from 0."""
    dice = _Dice(f"{index}\0{wish.seed}\0{_style(wish)}\0{wish.prompt}")
    image = _with_grain(_landscape((wish.width, wish.height), dice, _palette(wish)), dice)
    if min(image.size) >= _SMALLEST_CAPTIONED:
        _write_caption(image, wish)
    return _png(image)


def flat(wish: Wish, colour: Colour = (0, 0, 0)) -> bytes:
    """A PNG of the size asked for that is black, or of another colour, all over: what NaN in a model leads to."""
    return _png(Image.new("RGB", (wish.width, wish.height), colour))


def stamp_copy(base: bytes, wish: Wish, index: int = 0, size_bytes: int | None = None) -> bytes:
    """The PNG `base` with prompt, seed and index in a text chunk: the same picture as a different file, at once.

    With `size_bytes` it is filled up with noise in a private chunk that every reader skips, to that size or at most
    11 bytes beyond it; a picture that is larger already stays as it is.
    """
    said = json.dumps({"prompt": wish.prompt, "seed": wish.seed, "index": index})
    chunks = _chunk(b"tEXt", b"asyncgen\0" + said.encode("ascii"))
    missing = 0 if size_bytes is None else size_bytes - len(base) - len(chunks)
    if missing > 0:
        chunks += _chunk(_PADDING_CHUNK, _noise(said, max(missing - _CHUNK_OVERHEAD, 0)))
    return base[:_AFTER_HEADER] + chunks + base[_AFTER_HEADER:]


# --- PNG -------------------------------------------------------------------------------------------------------------

_AFTER_HEADER: Final = 8 + 25  # the signature and the IHDR chunk, which must come first (PNG specification, 5.6)
_CHUNK_OVERHEAD: Final = 12  # length, type and checksum
_PADDING_CHUNK: Final = b"paDd"  # by its cases: ancillary, private, safe to copy (PNG specification, 5.4)
_NOISE_BLOCK: Final = 1 << 20


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _chunk(kind: bytes, data: bytes) -> bytes:
    checksum = zlib.crc32(data, zlib.crc32(kind))
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def _noise(key: str, size: int) -> bytes:
    """`size` bytes that do not compress, begun with a digest of `key`."""
    digest = hashlib.blake2b(key.encode()).digest()
    block = _noise_block()
    return (digest + block * (size // len(block) + 1))[:size]


@cache
def _noise_block() -> bytes:
    return hashlib.shake_128(b"asyncgen padding").digest(_NOISE_BLOCK)


# --- chance and colour -----------------------------------------------------------------------------------------------


class _Dice:
    """Numbers that follow from a key, the same on every machine."""

    def __init__(self, key: str) -> None:
        self._key = hashlib.blake2b(key.encode("utf-8", "surrogatepass")).digest()
        self._numbers = self._draw()

    def _draw(self) -> Iterator[float]:
        for block in range(1 << 32):
            for (number,) in struct.iter_unpack("<I", self.bytes(4096, b"%d" % block)):
                yield number / 2**32

    def bytes(self, size: int, purpose: bytes) -> bytes:
        return hashlib.shake_128(self._key + purpose).digest(size)

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * next(self._numbers)


@dataclass(frozen=True, slots=True)
class _Palette:
    sky: Colour
    horizon: Colour
    sun: Colour
    far: Colour
    near: Colour
    mist: Colour
    window: Colour
    weather: Colour
    glow: int  # how strong the light around the sun is, of 255
    mistiness: float  # how much of a far range vanishes at its foot, of 1
    motifs: frozenset[str]


def _style(wish: Wish) -> str:
    return "\0".join(name for name, _ in wish.loras)


def _motifs(wish: Wish, dice: _Dice) -> frozenset[str]:
    words = set("".join(char if char.isalpha() else " " for char in wish.prompt.lower()).split())
    found = {motif for motif, hints in _WORDS.items() if words.intersection(hints.split())}
    if dice.between(0, 1) < 0.3 and not found:
        found.add("water")
    if dice.between(0, 1) < 0.35 and "city" not in found:
        found.add("trees")
    return frozenset(found)


def _palette(wish: Wish) -> _Palette:
    """Colours and motifs, the same for every seed of a prompt in a style."""
    dice = _Dice(f"{_style(wish)}\0{wish.prompt}")
    motifs = _motifs(wish, dice)
    if any(_INK.search(name) for name, _ in wish.loras):
        return _ink_palette(motifs)
    sky, horizon = _HUES[int(dice.between(0, len(_HUES)))]
    turn = dice.between(-0.03, 0.03)
    light = 0.5 if "night" in motifs else dice.between(0.85, 1.0)
    return _Palette(
        sky=_colour(sky + turn, 0.66, 0.62 * light),
        horizon=_colour(horizon + turn, 0.50, light),
        sun=_colour(horizon + turn, 0.16, 1.0),
        far=_colour(sky + turn, 0.40, 0.70 * light),
        near=_colour(sky + turn + 0.02, 0.72, 0.14),
        mist=_colour(horizon + turn, 0.28, 0.95 * light),
        window=_colour(0.12, 0.45, 1.0),
        weather=_grey(255),
        glow=170,
        mistiness=0.75,
        motifs=motifs,
    )


def _ink_palette(motifs: frozenset[str]) -> _Palette:
    """Black ink on white paper."""
    return _Palette(
        sky=_grey(206),
        horizon=_grey(243),
        sun=_grey(252),
        far=_grey(150),
        near=_grey(6),
        mist=_grey(248),
        window=_grey(250),
        weather=_grey(70 if "rain" in motifs else 250),
        glow=240,
        mistiness=1.0,
        motifs=motifs,
    )


def _grey(level: int) -> Colour:
    return level, level, level


def _colour(hue: float, saturation: float, value: float) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def _mix(first: Colour, second: Colour, share: float) -> Colour:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


# --- the landscape ---------------------------------------------------------------------------------------------------


def _landscape(size: tuple[int, int], dice: _Dice, palette: _Palette) -> Image.Image:
    shore = round(size[1] * (0.72 if "water" in palette.motifs else 1))
    image = _gradient(size, (palette.sky, _mix(palette.sky, palette.horizon, 0.6), palette.horizon, palette.mist))
    if "night" in palette.motifs:
        _add_stars(image, dice, palette)
    _add_clouds(image, dice, palette)
    _add_sun(image, dice, palette)
    for layer in range(_LAYERS):
        _add_range(image, dice, palette, layer / (_LAYERS - 1), shore)
    if shore < size[1]:
        _add_water(image, dice, palette, shore)
    _add_weather(image, dice, palette)
    return image


def _gradient(size: tuple[int, int], stops: tuple[Colour, ...], depth: int | None = None) -> Image.Image:
    """Colours flowing into each other from the top down to `depth` pixels (None: the bottom), the last one below it."""
    strip = Image.new("RGB", (1, len(stops)))
    strip.putdata(stops)
    column = Image.new("RGB", (1, size[1]), stops[-1])
    box = (0, 0.5, 1, len(stops) - 0.5)
    column.paste(strip.resize((1, max(1, size[1] if depth is None else depth)), Image.Resampling.BILINEAR, box))
    return column.resize(size, Image.Resampling.NEAREST)


def _add_stars(image: Image.Image, dice: _Dice, palette: _Palette) -> None:
    draw = ImageDraw.Draw(image)
    for _ in range(160):
        x, y = dice.between(0, image.width), image.height * dice.between(0, 0.8) ** 2
        radius = max(0.5, image.height / 700) * dice.between(0.3, 1.3) ** 2
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=palette.sun)


def _add_clouds(image: Image.Image, dice: _Dice, palette: _Palette) -> None:
    """Streaks of haze: a few random levels, stretched far more sideways than upwards."""
    size = (max(1, image.width // 4), max(1, image.height // 8))
    levels = Image.frombytes("L", (5, 12), dice.bytes(50, b"clouds") + bytes(10))  # none at the lower edge
    soft = levels.resize(size, Image.Resampling.BICUBIC).point([max(0, level - 150) for level in range(256)])
    haze = soft.resize((image.width, math.ceil(image.height / 2)), Image.Resampling.BILINEAR)
    image.paste(_mix(palette.horizon, palette.sun, 0.5), (0, 0), haze)


def _add_sun(image: Image.Image, dice: _Dice, palette: _Palette) -> None:
    width, height = image.size
    radius = max(2, round(min(width, height) * dice.between(0.06, 0.13)))
    x, y = round(width * dice.between(0.18, 0.82)), round(height * dice.between(0.14, 0.40))
    reach = radius * 5
    # Pillow's radial gradient is 0 in the middle and 181 at the nearest edge.
    glow = Image.radial_gradient("L").point([max(0, 181 - level) ** 2 * palette.glow // 181**2 for level in range(256)])
    image.paste(palette.sun, (x - reach, y - reach), glow.resize((2 * reach, 2 * reach), Image.Resampling.BILINEAR))
    disc = Image.new("L", (4 * radius, 4 * radius))
    ImageDraw.Draw(disc).ellipse((0, 0, 4 * radius - 1, 4 * radius - 1), fill=240)
    image.paste(palette.sun, (x - radius, y - radius), disc.reduce(2))


def _add_range(image: Image.Image, dice: _Dice, palette: _Palette, nearness: float, shore: int) -> None:
    """One range of hills or houses from edge to edge; `nearness` is 0 for the farthest and 1 for the nearest."""
    width, height = image.size
    is_city = "city" in palette.motifs
    base = shore * (0.50 + 0.40 * nearness)
    reach = min(height, 0.75 * width) * shore / height
    ridge = _skyline(width, base, reach, dice) if is_city else _ridge(width, base, reach, dice, nearness)
    shapes = [[(-1, height + 1), *ridge, (width + 1, height + 1)]]
    if "trees" in palette.motifs and nearness > 0.7 and not is_city:
        shapes += _trees(ridge, reach * 0.13 * nearness, dice)
    top = max(0, math.floor(min(y for shape in shapes for _, y in shape)))
    # The next range, 0.1 of the height lower, hides the rest of this one.
    bottom = height if nearness == 1 else min(height, math.ceil(base + 0.1 * shore + 0.3 * reach))
    if top >= bottom:
        return
    colour = _mix(palette.far, palette.near, nearness)
    foot = _mix(colour, palette.mist, palette.mistiness * (1 - 0.8 * nearness**2))
    depth = round(min(shore, base + 0.3 * reach)) - top
    fill = _gradient((width, bottom - top), (colour, colour, foot, foot), depth)
    image.paste(fill, (0, top), _mask(shapes, fill.size, top))
    if is_city and nearness > 0.4:
        _add_windows(image, ridge, dice, _mix(palette.window, colour, 0.5 - 0.4 * nearness))


def _mask(shapes: list[list[Point]], size: tuple[int, int], top: int) -> Image.Image:
    """The shapes in white on black, drawn at twice the size so that their edges are smooth."""
    mask = Image.new("L", (2 * size[0], 2 * size[1]))
    draw = ImageDraw.Draw(mask)
    for shape in shapes:
        draw.polygon([(2 * x, 2 * (y - top)) for x, y in shape], fill=255)
    return mask.reduce(2)


def _ridge(width: int, base: float, reach: float, dice: _Dice, nearness: float) -> list[Point]:
    """Hills as a sum of waves, each finer and lower than the one before; far ridges are the more jagged."""
    waves = [
        (0.11 * reach * 0.5**octave * dice.between(0.6, 1.2), 2**octave * dice.between(1.1, 2.6), dice.between(0, 7))
        for octave in range(4 if nearness > 0.5 else 6)
    ]
    step = max(1.0, width / 200)
    xs = [index * step for index in range(math.ceil(width / step) + 2)]
    return [(x, base - sum(a * math.sin(f * math.tau * x / width + p) for a, f, p in waves)) for x in xs]


def _skyline(width: int, base: float, reach: float, dice: _Dice) -> list[Point]:
    """Roofs: pairs of points, the left and the right end of each."""
    roofs: list[Point] = []
    x = -reach * dice.between(0, 0.1)
    while x < width:
        wide, y = max(2.0, reach * dice.between(0.05, 0.13)), base - reach * dice.between(-0.06, 0.62) ** 2
        roofs += [(x, y), (x + wide, y)]
        x += wide
    return roofs


def _add_windows(image: Image.Image, roofs: list[Point], dice: _Dice, light: Colour) -> None:
    draw, pane = ImageDraw.Draw(image), max(2, image.height // 130)
    for (left, top), (right, _) in zip(roofs[::2], roofs[1::2], strict=True):
        for x in range(round(left) + pane, round(right) - 2 * pane, 3 * pane):
            for y in range(round(top) + 2 * pane, min(image.height, round(top) + 30 * pane), 4 * pane):
                if dice.between(0, 1) < 0.3:
                    draw.rectangle((x, y, x + pane - 1, y + 2 * pane - 1), fill=light)


def _trees(ridge: list[Point], tall: float, dice: _Dice) -> list[list[Point]]:
    """Firs along a ridge, single ones and groves."""
    grove = dice.between(0, 7)
    feet = [foot for number, foot in enumerate(ridge) if dice.between(-0.6, 1.2) < math.sin(number / 17 + grove)]
    return [_fir(x, y + tall * 0.08, tall * dice.between(0.45, 1.15)) for x, y in feet]


def _fir(x: float, y: float, tall: float) -> list[Point]:
    right = [
        (0.0, 1.0),
        (0.10, 0.72),
        (0.05, 0.72),
        (0.16, 0.42),
        (0.08, 0.42),
        (0.22, 0.10),
        (0.03, 0.10),
        (0.03, 0.0),
    ]
    sides = right + [(-dx, dy) for dx, dy in reversed(right)]
    return [(x + dx * tall, y - dy * tall) for dx, dy in sides]


def _add_water(image: Image.Image, dice: _Dice, palette: _Palette, shore: int) -> None:
    """Everything above the shore once more, upside down, darker, and shaken by waves."""
    width, height = image.size
    mirror = image.crop((0, max(0, 2 * shore - height), width, shore)).transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    mirror = Image.blend(mirror, Image.new("RGB", mirror.size, _mix(palette.sky, palette.near, 0.45)), 0.4)
    image.paste(mirror, (0, shore))
    band, phase = max(1, height // 250), dice.between(0, 7)
    for y in range(0, mirror.height, band):
        shift = round(math.sin(y / band * 1.9 + phase) * width * 0.006 * (0.3 + y / mirror.height))
        image.paste(mirror.crop((0, y, width, min(y + band, mirror.height))), (shift, shore + y))
    draw = ImageDraw.Draw(image)
    for _ in range(70):
        y = shore + (height - shore) * dice.between(0.02, 1) ** 1.5
        x, half = dice.between(0, width), width * dice.between(0.004, 0.03)
        draw.line((x - half, y, x + half, y), fill=_mix(palette.sun, palette.horizon, dice.between(0.3, 1)))


def _add_weather(image: Image.Image, dice: _Dice, palette: _Palette) -> None:
    if not palette.motifs & {"rain", "snow"}:
        return
    width, height = image.size
    mask = Image.new("L", image.size)
    draw = ImageDraw.Draw(mask)
    for _ in range(400):
        x, y, strength = dice.between(0, 1.1) * width, dice.between(-0.1, 1) * height, dice.between(0, 1)
        if "snow" in palette.motifs:
            radius = height * (0.03 + 0.04 * strength) ** 2
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=round(110 + 120 * strength))
        else:
            long = height * (0.03 + 0.06 * strength)
            draw.line((x, y, x - long * 0.22, y + long), fill=round(95 - 60 * strength))
    image.paste(palette.weather, (0, 0, width, height), mask)


# --- grain and caption -----------------------------------------------------------------------------------------------


# What Unicode does not take apart into a letter and its accent.
_SPELLINGS: Final = str.maketrans(
    {"ß": "ss", "æ": "ae", "Æ": "AE", "œ": "oe", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "đ": "d", "–": "-", "—": "-"}
)


@cache
def _grain_levels() -> list[int]:
    """For each of 256 equally likely bytes, a level around 128 on the bell curve."""
    curve = NormalDist(128, _GRAIN_STRENGTH)
    return [round(curve.inv_cdf((byte + 0.5) / 256)) for byte in range(256)]


def _with_grain(image: Image.Image, dice: _Dice) -> Image.Image:
    tile = Image.frombytes("L", (_GRAIN_TILE, _GRAIN_TILE), dice.bytes(_GRAIN_TILE**2, b"grain"))
    tile = tile.point(_grain_levels())
    grain = Image.new("L", image.size)
    for x in range(0, image.width, _GRAIN_TILE):
        for y in range(0, image.height, _GRAIN_TILE):
            grain.paste(tile, (x, y))
    return ImageChops.add(image, Image.merge("RGB", (grain,) * 3), offset=-128)


@lru_cache(maxsize=64)
def _font(size: int) -> Font:
    return ImageFont.load_default(size)


def _write_caption(image: Image.Image, wish: Wish) -> None:
    size = max(10, round(min(image.size) / 24))
    margin, pitch, small = round(1.4 * size), round(1.3 * size), max(9, round(size * 0.58))
    lines = _wrap(_plain(wish.prompt), _font(size), image.width - 2 * margin, max(1, image.height // (3 * pitch)))
    height = min(image.height, pitch * len(lines) + margin + 3 * small)
    shade = Image.new("L", (1, 8))
    shade.putdata((0, 100, 165, 185, 195, 200, 205, 210))
    shade = shade.resize((1, height), Image.Resampling.BILINEAR).resize((image.width, height))
    image.paste(_grey(10), (0, image.height - height), shade)
    draw = ImageDraw.Draw(image)
    for number, line in enumerate(reversed(lines)):
        y = image.height - 3 * small - (number + 1) * pitch
        draw.text((margin, y), line, font=_font(size), fill=_grey(255))
    names = ", ".join(name.removesuffix(".safetensors") for name, _ in wish.loras) or "no LoRA"
    footer = _wrap(_plain(f"asyncgen sandbox · seed {wish.seed} · {names}"), _font(small), image.width - 2 * margin, 1)
    draw.text((margin, image.height - 2.3 * small), footer[0], font=_font(small), fill=_grey(208))


def _plain(text: str) -> str:
    """The text in characters that Pillow's font can show: no accents, a space for what is invisible.

    The font knows ASCII and a few signs; letters of other scripts appear as boxes.
    """
    letters = unicodedata.normalize("NFKD", text[:_LONGEST_CAPTION].translate(_SPELLINGS))
    return "".join(char if char.isprintable() else " " for char in letters if not unicodedata.combining(char))


def _wrap(text: str, font: Font, width: float, most_lines: int) -> list[str]:
    """At most `most_lines` lines no wider than `width` pixels; what is cut off is marked by an ellipsis."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        elif len(lines) < most_lines:
            lines.append(word)
        else:
            lines[-1] += " …"
            break
    return [_fitted(line, font, width) for line in lines]


def _fitted(line: str, font: Font, width: float) -> str:
    while len(line) > 1 and font.getlength(line) > width:
        line = line[: min(len(line) - 2, len(line) * 9 // 10)] + "…"
    return line
