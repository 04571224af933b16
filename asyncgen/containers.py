"""Where PNG, JPEG and WebP files keep texts beside their pixels: put there, and found again, pixels untouched. Pure.

A file with texts comes as pieces, most of them views of the file as it was: nothing is copied, nothing encoded anew.
Files that are written into have been checked (`asyncgen.images`); those that are read may be anything.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

Piece = bytes | memoryview

#: The keyword of XMP in a PNG.
XMP_KEYWORD: Final = "XML:com.adobe.xmp"
#: A segment of a JPEG holds so many bytes, its length included.
_SEGMENT_BYTES: Final = 65_535
_MOST_TEXT_BYTES: Final = 16 * 1024 * 1024  # inflated

_PNG_MAGIC: Final = b"\x89PNG\r\n\x1a\n"
_PNG_BODY: Final = len(_PNG_MAGIC) + 25  # after the header chunk, which is always the first
_PNG_TEXTS: Final = (b"tEXt", b"zTXt", b"iTXt")
_PNG_EXIF: Final = b"eXIf"
_JPEG_MAGIC: Final = b"\xff\xd8"
_APP0, _APP1, _SOS, _EOI = 0xE0, 0xE1, 0xDA, 0xD9
_WITHOUT_BODY: Final = frozenset({0x01, *range(0xD0, 0xD8)})
_EXIF_MARK: Final = b"Exif\0\0"
_XMP_MARK: Final = b"http://ns.adobe.com/xap/1.0/\0"
_MORE_XMP_MARK: Final = b"http://ns.adobe.com/xmp/extension/\0"
_RIFF_HEAD_BYTES: Final = 12
_WEBP_XMP, _WEBP_EXIF = b"XMP ", b"EXIF"
_FLAG_XMP, _FLAG_EXIF, _FLAG_ALPHA = 0x04, 0x08, 0x10


@dataclass(frozen=True, slots=True)
class Contents:
    """The texts of a file: of a PNG by keyword; the bytes of its EXIF and of its XMP packet, None where it has none."""

    format: str
    texts: Mapping[str, str] = field(default_factory=dict)
    exif: bytes | None = None
    packet: bytes | None = None


def contents_of(data: bytes) -> Contents | None:
    """The texts of a PNG, JPEG or WebP file, as far as it can be read; None for any other file."""
    if data.startswith(_PNG_MAGIC):
        return _png_contents(data)
    if data.startswith(_JPEG_MAGIC):
        return _jpeg_contents(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp_contents(data)
    return None


# -- PNG


def png_with(data: bytes, texts: Mapping[str, str], *, keep_others: bool) -> tuple[Piece, ...]:
    """A PNG with these texts, which replace its own of the same keywords.

    Texts of Latin-1 that are not XMP or JSON of ours become tEXt, as the programs write them that read them; all others
    iTXt. Without `keep_others` all other texts of the file go, and its EXIF.
    """
    view, start = memoryview(data), _PNG_BODY
    pieces: list[Piece] = [view[:_PNG_BODY], *(_text_chunk(keyword, text) for keyword, text in texts.items())]
    for begin, end, kind in _png_chunks(data):
        if _is_dropped(kind, view[begin + 8 : end - 4], texts, keep_others=keep_others):
            pieces.append(view[start:begin])
            start = end
    return (*pieces, view[start:])


def _is_dropped(kind: bytes, body: memoryview, texts: Collection[str], *, keep_others: bool) -> bool:
    if kind == _PNG_EXIF:
        return not keep_others
    return kind in _PNG_TEXTS and (not keep_others or _keyword(body) in texts)


def _keyword(body: memoryview) -> str:
    return bytes(body[:80]).partition(b"\0")[0].decode("latin-1")


def _png_chunks(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Where each chunk after the header begins and ends, and its type."""
    start = _PNG_BODY
    while start + 12 <= len(data):
        end = start + 12 + int.from_bytes(data[start : start + 4])
        yield start, end, data[start + 4 : start + 8]
        start = end


def _text_chunk(keyword: str, text: str) -> bytes:
    name = keyword.encode("latin-1")
    is_plain = keyword in ("parameters", "prompt")
    try:
        latin = text.encode("latin-1") if is_plain else None
    except UnicodeEncodeError:
        latin = None
    if latin is not None:
        return _chunk(b"tEXt", name + b"\0" + latin)
    return _chunk(b"iTXt", name + b"\0\0\0\0\0" + text.encode("utf-8", "replace"))


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))


def _png_contents(data: bytes) -> Contents:
    texts: dict[str, str] = {}
    exif = None
    for begin, end, kind in _png_chunks(data):
        body = data[begin + 8 : end - 4] if kind in _PNG_TEXTS or kind == _PNG_EXIF else b""
        if kind == _PNG_EXIF:
            exif = body
        elif body and (text := _text(kind, body)) is not None:
            texts.setdefault(_keyword(memoryview(body)), text)
    packet = texts.pop(XMP_KEYWORD, None)
    return Contents("png", texts, exif, None if packet is None else packet.encode())


def _text(kind: bytes, body: bytes) -> str | None:
    """The text of a chunk, None where it is damaged."""
    _, _, rest = body.partition(b"\0")
    if kind == b"tEXt":
        return rest.decode("latin-1")
    if kind == b"zTXt":
        inflated = _inflated(rest[1:])
        return None if inflated is None else inflated.decode("latin-1")
    is_compressed, parts = rest[:1] == b"\1", rest[2:].split(b"\0", 2)
    if len(parts) < 3:
        return None
    text = _inflated(parts[2]) if is_compressed else parts[2]
    return None if text is None else text.decode("utf-8", "replace")


def _inflated(data: bytes) -> bytes | None:
    try:
        return zlib.decompressobj().decompress(data, _MOST_TEXT_BYTES)
    except zlib.error:
        return None


# -- JPEG


def jpeg_with(data: bytes, exif: bytes | None, packet: bytes, *, keep_exif: bool) -> tuple[Piece, ...]:
    """A JPEG with this XMP packet, which replaces its own, and with this EXIF where it has none that is kept.

    Each must fit into a segment: `fits_jpeg`.
    """
    view, start = memoryview(data), len(_JPEG_MAGIC)
    segments = list(_jpeg_segments(data))
    if segments and segments[0][2] == _APP0:  # JFIF wants to be the first
        start = segments[0][1]
    rest: list[Piece] = []
    begin_kept, has_exif = start, False
    for begin, end, marker in segments:
        body = bytes(view[begin + 4 : min(end, begin + 4 + len(_MORE_XMP_MARK))])
        is_exif = marker == _APP1 and body.startswith(_EXIF_MARK)
        has_exif |= is_exif
        is_xmp = marker == _APP1 and body.startswith((_XMP_MARK, _MORE_XMP_MARK))
        if is_xmp or (is_exif and not keep_exif):
            rest.append(view[begin_kept:begin])
            begin_kept = end
    new = [] if exif is None or (has_exif and keep_exif) else [_segment(_EXIF_MARK + exif)]
    return (view[:start], *new, _segment(_XMP_MARK + packet), *rest, view[begin_kept:])


def exif_fits_jpeg(exif: bytes) -> bool:
    """Whether a JPEG can hold it."""
    return len(_EXIF_MARK) + len(exif) + 2 <= _SEGMENT_BYTES


def packet_fits_jpeg(packet: bytes) -> bool:
    """Whether a JPEG can hold it in one segment, which is where every reader looks."""
    return len(_XMP_MARK) + len(packet) + 2 <= _SEGMENT_BYTES


def _segment(body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, _APP1, len(body) + 2) + body


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Where each segment before the pixels begins and ends, and its marker."""
    start = len(_JPEG_MAGIC)
    while start + 4 <= len(data) and data[start] == 0xFF:
        marker = data[start + 1]
        if marker == 0xFF:  # a fill byte
            start += 1
            continue
        end = start + 2 + int.from_bytes(data[start + 2 : start + 4])
        if marker in (_SOS, _EOI) or marker in _WITHOUT_BODY or end < start + 4 or end > len(data):
            return
        yield start, end, marker
        start = end


def _jpeg_contents(data: bytes) -> Contents:
    exif = packet = None
    for begin, end, marker in _jpeg_segments(data):
        body = data[begin + 4 : end] if marker == _APP1 else b""
        if exif is None and body.startswith(_EXIF_MARK):
            exif = body.removeprefix(_EXIF_MARK)
        if packet is None and body.startswith(_XMP_MARK):
            packet = body.removeprefix(_XMP_MARK)
    return Contents("jpeg", {}, exif, packet)


# -- WebP


def webp_with(
    data: bytes, size: tuple[int, int], exif: bytes | None, packet: bytes, *, keep_exif: bool
) -> tuple[Piece, ...]:
    """A WebP of this width and height with this XMP packet, and with this EXIF where it has none that is kept.

    A file of the simple format becomes one of the extended format (RFC 9649), with its pixels as they are.
    """
    view, start = memoryview(data), _RIFF_HEAD_BYTES
    kept: list[Piece] = []
    has_exif, last = False, start
    for begin, end, name, _ in _webp_chunks(data):
        last = end
        is_exif = name == _WEBP_EXIF
        has_exif |= is_exif
        if name in (b"VP8X", _WEBP_XMP) or (is_exif and not keep_exif):
            kept.append(view[start:begin])
            start = end
    kept.append(view[start:])
    if last > len(data):  # its last chunk has an odd length, and not the byte that makes it even
        kept.append(b"\0")
    if has_exif and keep_exif:
        exif = None
    pieces: list[Piece] = [_extended_header(data, size, with_exif=exif is not None or (has_exif and keep_exif)), *kept]
    pieces += [] if exif is None else [_riff_chunk(_WEBP_EXIF, exif)]
    pieces.append(_riff_chunk(_WEBP_XMP, packet))
    return (b"RIFF" + struct.pack("<I", 4 + sum(map(len, pieces))) + b"WEBP", *pieces)


def _webp_contents(data: bytes) -> Contents:
    found = {
        name: data[begin + 8 : begin + 8 + size]
        for begin, _, name, size in _webp_chunks(data)
        if name in (_WEBP_EXIF, _WEBP_XMP)
    }
    exif = found.get(_WEBP_EXIF)
    return Contents("webp", {}, exif and exif.removeprefix(_EXIF_MARK), found.get(_WEBP_XMP))


def _extended_header(data: bytes, size: tuple[int, int], *, with_exif: bool) -> bytes:
    if data[12:16] == b"VP8X":
        body = bytearray(data[20:30])
    else:
        has_alpha = data[12:16] == b"VP8L" and data[24] & 0x10
        width, height = (side - 1 for side in size)
        body = bytearray(struct.pack("<I", _FLAG_ALPHA if has_alpha else 0))
        body += width.to_bytes(3, "little") + height.to_bytes(3, "little")
    body[0] = body[0] & ~_FLAG_EXIF | _FLAG_XMP | (_FLAG_EXIF if with_exif else 0)
    return _riff_chunk(b"VP8X", bytes(body))


def _riff_chunk(name: bytes, body: bytes) -> bytes:
    return name + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)


def _webp_chunks(data: bytes) -> Iterator[tuple[int, int, bytes, int]]:
    """Where each chunk begins and ends, its name, and the length of its body."""
    start = _RIFF_HEAD_BYTES
    while start + 8 <= len(data):
        size = int.from_bytes(data[start + 4 : start + 8], "little")
        end = start + 8 + size + size % 2
        yield start, end, data[start : start + 4], size
        start = end
