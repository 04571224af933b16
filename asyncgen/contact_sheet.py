"""A contact sheet: thumbnails of pictures in one JPEG file, each with its labels. Blocking; needs no event loop."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Final

from PIL import Image, ImageDraw, ImageFont

from asyncgen.store import cannot_write

#: Thumbnails on one sheet at the most; of more pictures the first are shown.
MOST_TILES: Final = 200
_THUMB: Final = 240
_GAP: Final = 12
_TEXT_SIZE: Final = 13
_LINE: Final = 17
_COLUMNS: Final = 5
_PAPER, _INK, _FAINT = (250, 250, 248), (30, 30, 30), (225, 225, 222)
_QUALITY: Final = 82
_LONGEST: Final = 200  # characters of a line that are looked at
#: Beside Pillow's own font, which has no accents: found wherever the system keeps fonts, if it has any of them.
_WIDER_FONTS: Final = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "LiberationSans-Regular.ttf", "Arial.ttf")
_NO_CHARACTER: Final = "\uffff"  # drawn as what the font lacks
#: What has no base letter in Unicode's own tables.
_PLAIN: Final = str.maketrans(
    {"ß": "ss", "Æ": "AE", "æ": "ae", "Œ": "OE", "œ": "oe", "Ø": "O", "ø": "o", "Đ": "D", "đ": "d", "Ł": "L", "ł": "l"}
    | {"ı": "i", "Þ": "Th", "þ": "th", "–": "-", "—": "-", "‘": "'", "’": "'", "“": '"', "”": '"', "…": "..."}
)
_UNSHOWN: Final = "?"


@dataclass(frozen=True, slots=True)
class Tile:
    """One picture's file, and the lines below it."""

    path: Path
    lines: tuple[str, ...]


def write_contact_sheet(path: Path, tiles: Sequence[Tile]) -> None:
    """Write the sheet whole, replacing an older one. Raises `StoreError` where the file cannot be written."""
    data = _drawn(tiles[:MOST_TILES])
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with suppress(OSError):
            unfinished.unlink()


def _drawn(tiles: Sequence[Tile]) -> bytes:
    """JPEG of all tiles, row by row, each row as high as the highest thumbnail."""
    thumbs = [_thumb(tile.path) for tile in tiles]
    columns = max(1, min(_COLUMNS, len(tiles)))
    label_height = _LINE * max((len(tile.lines) for tile in tiles), default=0) + _GAP
    width, place = _THUMB + _GAP, max((thumb.height for thumb in thumbs), default=_THUMB)
    height, rows = place + label_height + _GAP, max(1, -(-len(tiles) // columns))
    sheet = Image.new("RGB", (columns * width + _GAP, rows * height + _GAP), _PAPER)
    draw, fonts = ImageDraw.Draw(sheet), _fonts()
    for number, (tile, thumb) in enumerate(zip(tiles, thumbs, strict=True)):
        left, top = _GAP + number % columns * width, _GAP + number // columns * height
        sheet.paste(thumb, (left + (_THUMB - thumb.width) // 2, top + place - thumb.height))
        for row, line in enumerate(tile.lines):
            text, font = _lettered(line[:_LONGEST], fonts)
            draw.text((left, top + place + 4 + row * _LINE), _fitting(text, font), fill=_INK, font=font)
    written = BytesIO()
    sheet.save(written, "JPEG", quality=_QUALITY, optimize=True)
    return written.getvalue()


def _thumb(path: Path) -> Image.Image:
    """A small copy of a picture; an empty one where its file cannot be read any more."""
    try:
        with Image.open(path) as picture:
            picture.draft("RGB", (_THUMB, _THUMB))
            small = picture.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError):
        return Image.new("RGB", (_THUMB, _THUMB), _FAINT)
    small.thumbnail((_THUMB, _THUMB))
    return small


class _Font:
    """A font, and which characters it can draw."""

    def __init__(self, drawn: ImageFont.FreeTypeFont) -> None:
        self.drawn = drawn
        self._lacking = self._look_of(_NO_CHARACTER)
        self._known: dict[str, bool] = {}

    def has(self, mark: str) -> bool:
        if mark not in self._known:
            self._known[mark] = mark.isprintable() and self._look_of(mark) != self._lacking
        return self._known[mark]

    def lacks(self, line: str) -> int:
        """How many characters of the line it cannot draw."""
        return sum(not (mark.isspace() or self.has(mark)) for mark in line)

    def readable(self, mark: str) -> str:
        """The character, or what it can draw instead: the letter without its accents, else a question mark."""
        if mark.isspace():
            return " "
        if self.has(mark):
            return mark
        plain = unicodedata.normalize("NFKD", mark).translate(_PLAIN)
        return "".join(letter for letter in plain if self.has(letter)) or _UNSHOWN

    def _look_of(self, mark: str) -> bytes:
        return bytes(self.drawn.getmask(mark))


def _fonts() -> list[_Font]:
    """Pillow's own, then those of the system."""
    found = [_Font(ImageFont.load_default(_TEXT_SIZE))]  # type: ignore[arg-type]
    for name in _WIDER_FONTS:
        with suppress(OSError):
            found.append(_Font(ImageFont.truetype(name, _TEXT_SIZE)))
    return found


def _lettered(line: str, fonts: Sequence[_Font]) -> tuple[str, ImageFont.FreeTypeFont]:
    """The line as it can be drawn, in the first font that has most of it."""
    composed = unicodedata.normalize("NFC", line)
    font = min(fonts, key=lambda font: font.lacks(composed))
    return "".join(map(font.readable, composed)), font.drawn


def _fitting(text: str, font: ImageFont.FreeTypeFont) -> str:
    """The text, cut where it would run into the next picture."""
    if font.getlength(text) <= _THUMB:
        return text
    while text and font.getlength(f"{text}...") > _THUMB:
        text = text[:-1]
    return f"{text}..."
