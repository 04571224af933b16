"""The bytes of an input picture: whether a worker can use them, what they show, and what is sent instead. Pure.

`LoadImage` turns a picture as its EXIF data says, and makes a batch of the frames of a moving one: here too a size is
that of the picture as it is shown, and a moving picture is refused.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Final

from asyncgen import images
from asyncgen.errors import FailureCode, InputError
from asyncgen.images import MAX_DECODED_PIXELS, MAX_SIDE_PIXELS, ImageFaultError, TooManyPixelsError

if TYPE_CHECKING:
    from PIL.Image import Image

WEBP_LOSSLESS: Final = "webp-lossless"
JPEG: Final = "jpeg"
SUFFIXES: Final = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}
_FORMATS: Final = ("PNG", "JPEG", "WEBP")
_ORIENTATION: Final = 0x0112
_ON_ITS_SIDE: Final = frozenset({5, 6, 7, 8})
_MAX_WEBP_SIDE: Final = 16_383
_CHANNELS: Final = ("red", "green", "blue", "alpha")
_ALPHA: Final = "alpha"
#: What is darker is black: the black of a JPEG is seldom 0.
_LEAST_SEEN: Final = 8


@dataclass(frozen=True, slots=True)
class PictureFacts:
    """A whole picture: hash of its bytes (hex), how many they are, `png`, `jpeg` or `webp`, pixels as it is shown.

    `unmasked` are the channels (red, green, blue, alpha) in which it would mask nothing: black all over, or opaque.
    """

    sha256: str
    size_bytes: int
    format: str
    width: int
    height: int
    unmasked: frozenset[str] = frozenset()

    @property
    def size(self) -> tuple[int, int]:
        return self.width, self.height


def facts_of(data: bytes) -> PictureFacts:
    """What a picture is, after all of it has been decoded. Raises `InputError` saying why a worker cannot use it."""
    try:
        found = images.check(data)
    except TooManyPixelsError as fault:
        raise _too_large(*fault.size) from None
    except ImageFaultError as fault:
        raise InputError(_told(fault)) from None
    if found.width * found.height > MAX_DECODED_PIXELS:
        raise _too_large(found.width, found.height)
    try:
        frames, width, height, unmasked = _decoded(data)
    except Exception as error:  # a decoder meets hostile bytes with a dozen exception types; none of them is ours
        raise InputError(f"cannot be decoded ({type(error).__name__}: {error})") from None
    if frames > 1:
        raise InputError("is a moving picture, of which a worker would take every frame: give one of them")
    return PictureFacts(found.sha256, len(data), found.format, width, height, unmasked)


def converted(data: bytes, resized: str | None, encoded: str | None, *, is_mask: bool) -> tuple[bytes, str]:
    """The bytes to send for a picture, and their suffix; see `SentPicture` for the two words.

    Pictures are resized with Lanczos, masks to the nearest pixel, so that no grey comes between black and white. A
    mask, and a picture with transparent parts, is never made a JPEG: it becomes a lossless WebP.
    """
    from PIL import Image, ImageOps  # noqa: PLC0415 - only those who send changed pictures pay for the import

    with _opened(data) as opened:
        image = _in_eight_bits(ImageOps.exif_transpose(opened))
    if resized is not None:
        image = _fitted(image, resized, Image.Resampling.NEAREST if is_mask else Image.Resampling.LANCZOS)
    out = BytesIO()
    quality = _jpeg_quality(encoded)
    if encoded is None or max(image.size) > _MAX_WEBP_SIDE:
        image.save(out, "PNG")
        return out.getvalue(), ".png"
    if quality is None or is_mask or image.mode == "RGBA":
        image.save(out, "WEBP", lossless=True, exact=True)
        return out.getvalue(), ".webp"
    image.save(out, "JPEG", quality=quality, subsampling=0)
    return out.getvalue(), ".jpg"


def name_of(data: bytes, suffix: str) -> str:
    """The file name that says what is in it: equal pictures have equal ones, and no two others do."""
    return f"{hashlib.sha256(data).hexdigest()[:16]}{suffix}"


def _too_large(width: int, height: int) -> InputError:
    return InputError(
        f"is too large: {width}x{height} pixels, and sides up to {MAX_SIDE_PIXELS:,} and {MAX_DECODED_PIXELS:,} pixels "
        "in all can be used: give a smaller one"
    )


def _told(fault: ImageFaultError) -> str:
    """What `images` says of a worker's picture, said of somebody's own."""
    what = fault.message.partition(": ")[2] or fault.message
    if fault.code is FailureCode.NOT_AN_IMAGE:
        return f"is no PNG, JPEG or WebP picture: {what}"
    return f"is damaged: {what}"


def _decoded(data: bytes) -> tuple[int, int, int, frozenset[str]]:
    """How many frames, the size in pixels as it is shown, and `unmasked`, once all of it has been decoded."""
    with _opened(data) as image:
        image.load()
        width, height = image.size
        if image.getexif().get(_ORIENTATION) in _ON_ITS_SIDE:
            width, height = height, width
        return getattr(image, "n_frames", 1), width, height, _unmasked(_in_eight_bits(image))


def _unmasked(image: Image) -> frozenset[str]:
    """As ComfyUI's `LoadImageMask` reads channels: alpha the other way round, and what has none is opaque."""
    bands = dict(zip(_CHANNELS, image.split(), strict=False))
    found = {name for name, band in bands.items() if name != _ALPHA and not any(band.histogram()[_LEAST_SEEN:])}
    if _ALPHA not in bands or not any(bands[_ALPHA].histogram()[:-_LEAST_SEEN]):
        found.add(_ALPHA)
    return frozenset(found)


def _opened(data: bytes) -> Image:
    from PIL import Image  # noqa: PLC0415 - as above

    return Image.open(BytesIO(data), formats=_FORMATS)


def _in_eight_bits(image: Image) -> Image:
    if image.mode.startswith("I"):  # 16 bits of grey, which `convert` would cut off instead of scaling down
        return image.convert("I").point(lambda value: value * (1 / 256)).convert("L").convert("RGB")
    has_alpha = "A" in image.getbands() or "transparency" in image.info
    return image.convert("RGBA" if has_alpha else "RGB")


def _fitted(image: Image, resized: str, method: int) -> Image:
    """Band by band: colours under transparent pixels are part of a picture that is to be inpainted."""
    from PIL import Image, ImageOps  # noqa: PLC0415 - as above

    how, _, size_text = resized.partition(":")
    width, height = map(int, size_text.split("x"))
    if how == "crop":
        bands = [ImageOps.fit(band, (width, height), Image.Resampling(method)) for band in image.split()]
    else:
        bands = [band.resize((width, height), Image.Resampling(method)) for band in image.split()]
    return Image.merge(image.mode, bands)


def _jpeg_quality(encoded: str | None) -> int | None:
    how, _, quality = (encoded or "").partition(":")
    return int(quality) if how == JPEG else None
