"""Whether bytes are a whole picture: base64, magic bytes, and enough decoding to know that nothing is missing.

A picture ends where its format says it ends; bytes after that are refused like missing ones.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from io import BytesIO
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import pybase64

from asyncgen.containers import Piece
from asyncgen.errors import Failure, FailureClass, FailureCode
from asyncgen.protocol import Completed, DecodedImage, Failed, InlineImage, LinkedImage

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

MAX_SIDE_PIXELS: Final = 32_768
#: A PNG is only walked over, never inflated, so that its size costs nothing here.
MAX_PNG_PIXELS: Final = 2**28
#: JPEG and WebP are decoded: this bounds the memory of that to about 256 MB.
MAX_DECODED_PIXELS: Final = 2**26
#: A progressive JPEG has about ten; each takes a few bytes to write and a pass over all pixels to decode.
MAX_JPEG_SCANS: Final = 64

_PNG_MAGIC: Final = b"\x89PNG\r\n\x1a\n"
_JPEG_MAGIC: Final = b"\xff\xd8\xff"
_JPEG_END: Final = b"\xff\xd9"
_JPEG_SCAN: Final = b"\xff\xda"  # cannot stand in pixel data
_RIFF_HEADER_BYTES: Final = 8  # before what its length counts
_RIFF_TYPE_END: Final = 12
# The formats we can name without being able to use them: (offset, magic, name).
_OTHER_FORMATS: Final = (
    (0, b"GIF8", "GIF"),
    (0, b"BM", "BMP"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (4, b"ftypavif", "AVIF"),
    (4, b"ftyp", "HEIF or MP4"),
    (0, b"\x1aE\xdf\xa3", "WebM"),
    (0, b"%PDF", "PDF"),
    (0, b"PK\x03\x04", "ZIP"),
    (0, b"<", "HTML, XML or SVG"),
    (0, b"{", "JSON"),
)
# Samples per pixel and legal bit depths of each PNG colour type (ISO/IEC 15948, table 11.1).
_PNG_COLOURS: Final = {
    0: (1, (1, 2, 4, 8, 16)),
    2: (3, (8, 16)),
    3: (1, (1, 2, 4, 8)),
    4: (2, (8, 16)),
    6: (4, (8, 16)),
}
_IHDR: Final = struct.Struct(">IIBBBBB")
_UINT32: Final = struct.Struct(">I")
_CHUNK_FRAME_BYTES: Final = 12  # length, type and CRC
#: Deflate cannot do better than 258 bytes for 2 bits.
_MAX_DEFLATE_RATIO: Final = 1032


Format = Literal["png", "jpeg", "webp"]
#: The pieces of a file that says how its picture was made, from the worker's bytes, their format, width and height.
Mark: TypeAlias = Callable[[bytes, Format, int, int], tuple[Piece, ...]]
#: The mark of each picture of a job, by its number from 1.
Marks: TypeAlias = Callable[[int], Mark]


@dataclass(frozen=True, slots=True)
class Picture:
    """A whole picture. `data` is what the worker sent; `suffix` is that of its format, sizes are in pixels.

    `pieces` are the file that is kept of it, where that is not `data` itself; `sha256` (hex) is the file's.
    """

    data: bytes = field(repr=False)
    format: Format
    suffix: Literal[".png", ".jpg", ".webp"]
    width: int
    height: int
    sha256: str
    pieces: tuple[Piece, ...] = field(default=(), repr=False)

    @property
    def file_pieces(self) -> tuple[Piece, ...]:
        """The file that is kept of it."""
        return self.pieces or (self.data,)

    @property
    def size_bytes(self) -> int:
        """Of that file."""
        return sum(map(len, self.file_pieces))

    def as_file(self) -> Picture:
        """The same with that file as its data."""
        return replace(self, data=b"".join(self.pieces), pieces=()) if self.pieces else self


class ImageFaultError(Exception):
    """These bytes are no whole picture. `refetch_first`: they may be damaged by the way here, and fetching is free."""

    def __init__(self, code: FailureCode, message: str, *, refetch_first: bool) -> None:
        self.code, self.message, self.refetch_first = code, message, refetch_first
        super().__init__(message)

    @property
    def failure(self) -> Failure:
        """The fault as what became of the image."""
        return Failure(FailureClass.ITEM, self.code, self.message)


class TooManyPixelsError(ImageFaultError):
    """More than are accepted, whole or not; `size` is width and height."""

    def __init__(self, size: tuple[int, int], max_pixels: int) -> None:
        self.size = size
        text = (
            f"the picture says it is {size[0]}x{size[1]} pixels; sides up to {MAX_SIDE_PIXELS} and {max_pixels} pixels "
            "in all are accepted"
        )
        super().__init__(FailureCode.CORRUPT_IMAGE, text, refetch_first=False)


def decoded(completed: Completed) -> Completed:
    """The same result with the bytes of its inline pictures, so that the reply they came in can be forgotten.

    One whose base64 is damaged stays as it is, for `examine` to say so.
    """
    return replace(completed, images=tuple(map(_decoded, completed.images)))


def _decoded(image: InlineImage | DecodedImage | LinkedImage) -> InlineImage | DecodedImage | LinkedImage:
    if isinstance(image, InlineImage):
        with suppress(ImageFaultError):
            return DecodedImage(decode_base64(image.base64_text))
    return image


def examine(completed: Completed, marks: Marks | None = None) -> tuple[Picture | LinkedImage, ...] | Failed:
    """The pictures of a result, in order, every inline one decoded, checked and marked; or why one of them is none.

    `LinkedImage`s are left for the caller to download and `check`.
    """
    pictures: list[Picture | LinkedImage] = []
    for number, image in enumerate(completed.images, 1):
        try:
            mark = None if marks is None else marks(number)
            pictures.append(image if isinstance(image, LinkedImage) else check(_bytes_of(image), mark))
        except ImageFaultError as fault:
            message = f"picture {number} of {len(completed.images)}: {fault.message}"
            failure = Failure(FailureClass.ITEM, fault.code, message)
            return Failed(
                failure, completed.timing, refetch_first=fault.refetch_first, aside=_others(completed, number)
            )
    return tuple(pictures)


def _bytes_of(image: InlineImage | DecodedImage) -> bytes:
    return image.data if isinstance(image, DecodedImage) else decode_base64(image.base64_text)


def decode_base64(text: str | memoryview) -> bytes:
    """Strict base64: standard alphabet, padded; line breaks are allowed and nothing else. Raises `ImageFaultError`."""
    if isinstance(text, str) and ("\n" in text or "\r" in text):
        text = text.replace("\r", "").replace("\n", "")
    try:
        return pybase64.b64decode(text, validate=True)
    except ValueError as error:  # binascii.Error is one
        raise _corrupt(f"its base64 cannot be decoded ({error})") from error


def check(data: bytes, mark: Mark | None = None) -> Picture:
    """The picture in `data`: PNG, JPEG or WebP, whole, and marked. Raises `ImageFaultError`."""
    if data.startswith(_PNG_MAGIC):
        return _picture(data, "png", ".png", _png_size(data), mark)
    if data.startswith(_JPEG_MAGIC):
        return _picture(data, "jpeg", ".jpg", _jpeg_size(data), mark)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _picture(data, "webp", ".webp", _webp_size(data), mark)
    raise _not_a_picture(data)


def _picture(
    data: bytes,
    file_format: Format,
    suffix: Literal[".png", ".jpg", ".webp"],
    size: tuple[int, int],
    mark: Mark | None,
) -> Picture:
    """Marked and hashed while the bytes are still in the processor's cache."""
    pieces = () if mark is None else mark(data, file_format, *size)
    sha256 = hashlib.sha256()
    for piece in pieces or (data,):
        sha256.update(piece)
    return Picture(data, file_format, suffix, *size, sha256.hexdigest(), pieces)


def _corrupt(what: str) -> ImageFaultError:
    message = f"the picture came damaged: {what}"
    return ImageFaultError(FailureCode.CORRUPT_IMAGE, message, refetch_first=True)


def _not_a_picture(data: bytes) -> ImageFaultError:
    a_beginning = any(magic.startswith(data) for magic in (_PNG_MAGIC, _JPEG_MAGIC, b"RIFF"))
    if a_beginning or (data.startswith(b"RIFF") and len(data) < _RIFF_TYPE_END):
        return _corrupt(f"only {len(data)} bytes of it are there")
    seen = next((name for offset, magic, name in _OTHER_FORMATS if data.startswith(magic, offset)), None)
    what = f"it is {seen}" if seen else f"{len(data)} bytes beginning {data[:8].hex(' ')}"
    message = f"what the worker sent is no PNG, JPEG or WebP picture: {what}"
    return ImageFaultError(FailureCode.NOT_AN_IMAGE, message, refetch_first=False)


def _others(completed: Completed, number: int) -> tuple[InlineImage | DecodedImage | LinkedImage, ...]:
    return completed.images[: number - 1] + completed.images[number:]


# -- PNG


def _png_size(data: bytes) -> tuple[int, int]:
    """Width and height, after every chunk has been found whole (CRC-32) and in its place."""
    chunks = _png_chunks(data)
    kind, header = next(chunks)
    if kind != b"IHDR" or len(header) != _IHDR.size:
        raise _corrupt("a PNG without its header")
    width, height, row_bytes = _png_geometry(header)
    pixel_data_bytes = sum(len(body) for kind, body in chunks if kind == b"IDAT")
    if pixel_data_bytes * _MAX_DEFLATE_RATIO < height * (row_bytes + 1):
        raise _corrupt(f"{pixel_data_bytes} bytes of pixel data cannot hold {width}x{height} pixels")
    return width, height


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Type and body of each chunk up to IEND, which must be there and be the end of the data."""
    view, start, kind = memoryview(data), len(_PNG_MAGIC), b""
    while kind != b"IEND":
        if len(data) - start < _CHUNK_FRAME_BYTES:
            raise _corrupt(f"the PNG is cut off after {len(data)} bytes")
        (length,) = _UINT32.unpack_from(data, start)
        body_start, body_end = start + 8, start + 8 + length
        if body_end + 4 > len(data):
            raise _corrupt(f"the PNG is cut off after {len(data)} bytes")
        if zlib.crc32(view[start + 4 : body_end]) != _UINT32.unpack_from(data, body_end)[0]:
            raise _corrupt(f"wrong checksum in the PNG chunk at byte {start}")
        kind = data[start + 4 : body_start]
        yield kind, view[body_start:body_end]
        start = body_end + 4
    if start != len(data):
        raise _corrupt(f"{len(data) - start} bytes follow the end of the PNG")


def _png_geometry(header: memoryview) -> tuple[int, int, int]:
    """Width, height, and bytes of a row before its filter byte."""
    width, height, depth, colour, compression, filtering, interlace = _IHDR.unpack(header)
    samples, depths = _PNG_COLOURS.get(colour, (0, ()))
    if depth not in depths or compression or filtering or interlace > 1:
        raise _corrupt("its PNG header makes no sense")
    _bound_size(width, height, MAX_PNG_PIXELS)
    return width, height, (width * samples * depth + 7) // 8


def _bound_size(width: int, height: int, max_pixels: int) -> None:
    if width <= 0 or height <= 0:
        raise _corrupt(f"it says it is {width}x{height} pixels")
    if max(width, height) > MAX_SIDE_PIXELS or width * height > max_pixels:
        raise TooManyPixelsError((width, height), max_pixels)


# -- JPEG and WebP


def _jpeg_size(data: bytes) -> tuple[int, int]:
    if not data.endswith(_JPEG_END):
        raise _corrupt(f"the JPEG is cut off after {len(data)} bytes, or something follows its end")
    scans = data.count(_JPEG_SCAN)
    if scans > MAX_JPEG_SCANS:
        message = f"the JPEG has {scans} scans; up to {MAX_JPEG_SCANS} are decoded"
        raise ImageFaultError(FailureCode.CORRUPT_IMAGE, message, refetch_first=False)
    from PIL.JpegImagePlugin import JpegImageFile  # noqa: PLC0415 - 20 ms that a set of PNGs need not pay

    return _decoded_size(JpegImageFile, data)


def _webp_size(data: bytes) -> tuple[int, int]:
    (size,) = struct.unpack_from("<I", data, 4)
    if len(data) != size + _RIFF_HEADER_BYTES:
        raise _corrupt(f"a WebP of {len(data)} bytes says it has {size + _RIFF_HEADER_BYTES}")
    _bound_size(*_webp_canvas(data), MAX_DECODED_PIXELS)  # Pillow sets the canvas aside before it tells the size
    from PIL.WebPImagePlugin import WebPImageFile  # noqa: PLC0415 - as above

    return _decoded_size(WebPImageFile, data)


def _webp_canvas(data: bytes) -> tuple[int, int]:
    """Width and height as the first chunk states them (RFC 9649); one that is cut short fails later."""
    head = data[:30].ljust(30, b"\0")
    if head[12:16] == b"VP8X":
        return 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
    if head[12:16] == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if head[12:16] == b"VP8 ":
        return int.from_bytes(head[26:28], "little") & 0x3FFF, int.from_bytes(head[28:30], "little") & 0x3FFF
    raise _corrupt("a WebP without pixels")


def _decoded_size(image_file: Callable[[BytesIO], ImageFile], data: bytes) -> tuple[int, int]:
    """Width and height, after Pillow has decoded the whole picture.

    The class is called directly because `Image.open` reports large pictures through the process-wide warning filters.
    """
    try:
        with image_file(BytesIO(data)) as image:
            _bound_size(*image.size, MAX_DECODED_PIXELS)
            image.load()
            return image.size
    except ImageFaultError:
        raise
    except Exception as error:  # a decoder meets hostile bytes with a dozen exception types; none of them is ours
        raise _corrupt(f"it cannot be decoded ({type(error).__name__}: {error})") from error
