"""What is done with the input pictures of a job before they are sent, and which ones are refused. Pure.

Either a workflow scales its `init_image` to the wanted width and height, or the picture's own size is that of the
result: then whoever wants another size must let it be resized. A mask has the size of its `init_image`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

from asyncgen.errors import InputError
from asyncgen.graph import consumers
from asyncgen.input_pixels import JPEG, WEBP_LOSSLESS, PictureFacts
from asyncgen.protocol import MAX_RUN_BODY_BYTES, body_too_large
from asyncgen.records import SentPicture
from asyncgen.template import Template

INIT, MASK, POSE = "init_image", "mask_image", "pose_image"
Resize = Literal["never", "crop", "stretch"]
NEVER: Final = "never"
#: What is kept free in a body for what is added when the job is sent: times, and URLs that are signed then.
RESERVED_BYTES: Final = 16 * 1024
_LATENT_PIXELS: Final = 8  # of a picture's side go into one of a latent's; what is left over is cut off
_LEAST_SIDE: Final = 16
#: Nodes that take a size and make no picture of it.
_SIZE_IS_ADVICE: Final = frozenset({"ModelSamplingFlux"})
_SAME_PROPORTIONS: Final = 0.01
#: Behind these black may be what is made anew.
_TURNS_MASKS: Final = frozenset({"InvertMask", "MaskComposite"})


@dataclass(frozen=True, slots=True)
class PictureRules:
    """What may be done with input pictures; `reencode` is never, webp-lossless or jpeg:QUALITY."""

    resize: Resize = NEVER
    reencode: str = NEVER


@dataclass(frozen=True, slots=True)
class Fitted:
    """The pictures as they are to be sent, the size of what is made of them in pixels, and what is worth a warning."""

    pictures: Mapping[str, SentPicture]
    size: tuple[int, int]
    warnings: Mapping[str, str]


def fitted(
    template: Template,
    facts: Mapping[str, PictureFacts],
    said: tuple[int | None, int | None],
    wanted: tuple[int, int],
    rules: PictureRules,
) -> Fitted:
    """`said` is the size that the request says (None: nothing), `wanted` that with defaults filled in.

    Raises `InputError` naming the picture, for one that has not the size it must have and may not be resized, and for a
    mask that masks nothing.
    """
    if MASK in facts:
        _check_mask(template, facts[MASK])
    init = facts.get(INIT)
    makes = wanted if init is None or not picture_decides_size(template) else _size_made(init, said, rules)
    targets: dict[str, tuple[int, int] | None] = {INIT: _init_size(template, init, makes, rules)}
    if POSE in facts and _is_scaled(template, POSE) and rules.resize != NEVER:
        targets[POSE] = makes
    if init is not None and MASK in facts:
        targets[MASK] = _mask_size(init, facts[MASK], targets[INIT], rules)
    sent = {name: _sent(picture, targets.get(name), rules) for name, picture in facts.items()}
    return Fitted(sent, makes, dict(_cut(template, facts, makes, rules)))


def picture_decides_size(template: Template) -> bool:
    """Whether what is made has the size of the `init_image`, because no node makes anything of the wanted one."""
    places = template.parameters.get("width", ())
    return INIT in template.images and all(_class_of(template, place.node) in _SIZE_IS_ADVICE for place in places)


def within_body(
    pictures: Mapping[str, SentPicture],
    base64_bytes: Callable[[str, SentPicture], int],
    graph_bytes: int,
    rules: PictureRules,
) -> Mapping[str, SentPicture]:
    """The pictures so that the job is no larger than the platform takes: as they are, else re-encoded as is allowed.

    `base64_bytes` tells how many bytes of the job one is. Raises `InputError` naming the largest.
    """
    room = MAX_RUN_BODY_BYTES - RESERVED_BYTES - graph_bytes
    tried = [pictures] if rules.reencode == NEVER else [pictures, _encoded(pictures, rules)]
    for sent in tried:
        lengths = {name: base64_bytes(name, picture) for name, picture in sent.items()}
        if sum(lengths.values()) <= room:
            return sent
    if room < 0:
        total = sum(lengths.values())
        raise body_too_large(MAX_RUN_BODY_BYTES - room + total, total)
    largest = max(lengths, key=lambda name: lengths[name])
    cures = {NEVER: [f"{WEBP_LOSSLESS} or {JPEG}:90"], WEBP_LOSSLESS: [f"{JPEG}:90"]}.get(rules.reencode, [])
    cures = [f"let it be re-encoded (--reencode-inputs {how})" for how in cures]
    cures += ["let it be resized (--resize-inputs crop)"] if rules.resize == NEVER else []
    raise InputError(
        f"is {lengths[largest]:,} bytes in base64, and the job {sum(lengths.values()) - room:,} more than the 10 MiB "
        f"that the platform takes: {' or '.join([*cures, 'send a smaller one'])}",
        field=largest,
    )


def _encoded(pictures: Mapping[str, SentPicture], rules: PictureRules) -> dict[str, SentPicture]:
    """A mask keeps every pixel."""
    how = {name: WEBP_LOSSLESS if name == MASK else rules.reencode for name in pictures}
    return {name: replace(picture, encoded=how[name]) for name, picture in pictures.items()}


def _class_of(template: Template, node: str) -> str:
    return str(template.graph[node]["class_type"])


def _scaling_nodes(template: Template, name: str) -> list[str]:
    """The nodes right behind a picture whose size is the wanted one."""
    sized = {place.node for place in template.parameters.get("width", ())}
    loads = {place.node for place in template.parameters.get(name, ())}
    return [node for load in loads for node, _, _ in consumers(template.graph, load) if node in sized]


def _is_scaled(template: Template, name: str) -> bool:
    return bool(_scaling_nodes(template, name))


def _size_made(init: PictureFacts, said: tuple[int | None, int | None], rules: PictureRules) -> tuple[int, int]:
    own = _floored(init.size)
    width, height = (own[side] if pixels is None else pixels for side, pixels in enumerate(said))
    if min(own) < _LEAST_SIDE:
        raise InputError(f"is {init.width}x{init.height}: a side has at least {_LEAST_SIDE} pixels", field=INIT)
    if (width, height) != own and rules.resize == NEVER:
        raise InputError(
            f"is {init.width}x{init.height}, and this workflow makes a picture of its size, {own[0]}x{own[1]}, not "
            f"{width}x{height}: leave width and height out, or let it be resized (--resize-inputs crop or stretch)",
            field=INIT,
        )
    return width, height


def _init_size(
    template: Template, init: PictureFacts | None, makes: tuple[int, int], rules: PictureRules
) -> tuple[int, int] | None:
    """What the picture must be resized to; None: it is sent as it is."""
    if init is None or rules.resize == NEVER:
        return None
    if picture_decides_size(template):  # what is left over of a side is cut off by the worker
        return None if _floored(init.size) == makes else makes
    return makes if _is_scaled(template, INIT) else None


def _mask_size(
    init: PictureFacts, mask: PictureFacts, init_target: tuple[int, int] | None, rules: PictureRules
) -> tuple[int, int]:
    """What the mask must be resized to: what its picture is when it is sent."""
    if init.size != mask.size and rules.resize == NEVER:
        raise InputError(
            f"is {mask.width}x{mask.height}, but its init_image is {init.width}x{init.height}: make them of one size, "
            "or let them be resized (--resize-inputs stretch)",
            field=MASK,
        )
    return init_target or init.size


def _check_mask(template: Template, mask: PictureFacts) -> None:
    """Without anything to be made anew the job would be paid for, and give the picture that there is."""
    nodes = [template.graph[place.node] for place in template.parameters[MASK]]
    channels = {str(node["inputs"].get("channel")) for node in nodes}
    classes = {node["class_type"] for node in template.graph.values()}
    if channels <= mask.unmasked and not classes & _TURNS_MASKS:
        what = "opaque" if channels == {"alpha"} else "black"
        paint = "transparent" if channels == {"alpha"} else "white"
        raise InputError(
            f"is {what} all over, so that nothing would be made anew: paint {paint} what is to be, or all of it",
            field=MASK,
        )


def _sent(picture: PictureFacts, target: tuple[int, int] | None, rules: PictureRules) -> SentPicture:
    whole = SentPicture(picture.sha256, picture.format, picture.width, picture.height, picture.size_bytes)
    if target is None or picture.size == target:
        return whole
    return replace(whole, resized=f"{rules.resize}:{target[0]}x{target[1]}")


def _floored(size: tuple[int, int]) -> tuple[int, int]:
    return size[0] - size[0] % _LATENT_PIXELS, size[1] - size[1] % _LATENT_PIXELS


def _cut(
    template: Template, facts: Mapping[str, PictureFacts], makes: tuple[int, int], rules: PictureRules
) -> Iterator[tuple[str, str]]:
    """What a workflow takes off a picture of other proportions, or does to them."""
    if rules.resize != NEVER:
        return
    for name, picture in facts.items():
        for node in _scaling_nodes(template, name):
            ratio = picture.width * makes[1] / (picture.height * makes[0])
            if abs(ratio - 1) > _SAME_PROPORTIONS:
                crops = template.graph[node]["inputs"].get("crop", "disabled") != "disabled"
                what = "its middle is used" if crops else "it is distorted"
                yield name, f"{name} is {picture.width}x{picture.height} and is scaled to {makes[0]}x{makes[1]}: {what}"
