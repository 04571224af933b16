"""The size of the pictures that a graph makes, found by walking back from what saves them. Pure.

Only what is certain counts: a node that is not known here, or a picture whose size is not, makes it unknown, and then
no size is asked of the picture. The arithmetic is that of ComfyUI 0.3.64 (`nodes.py`, `comfy_extras`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

from asyncgen.graph import Graph, is_number, link

Size = tuple[int, int]
#: Stands for a size that is not known, where a node may say another one.
_UNSAID: Final = (0, 0)
_SIZED: Final = frozenset({"ImageScale", "LatentUpscale"})
_CELL: Final = 8  # a latent holds whole cells of 8 pixels: odd sizes are floored
_FACTOR: Final = re.compile(r"(?<![0-9a-z])(?:(\d{1,2})x(?!\d)|x(\d{1,2})(?![0-9x]))", re.IGNORECASE)
_MOST_NODES: Final = 100  # on one way; a graph that goes round in a circle has no end
#: Classes through which a picture or a latent passes as it is, and the input that it comes in by.
_PASSES: Final[Mapping[str, str]] = {
    "SaveImage": "images",
    "PreviewImage": "images",
    "VAEDecode": "samples",
    "VAEDecodeTiled": "samples",
    "KSampler": "latent_image",
    "KSamplerAdvanced": "latent_image",
    "SamplerCustom": "latent_image",
    "SamplerCustomAdvanced": "latent_image",
    "SetLatentNoiseMask": "samples",
    "RepeatLatentBatch": "samples",
    "LatentFromBatch": "samples",
    "RepeatImageBatch": "image",
    "ImageFromBatch": "image",
    "ImageSharpen": "image",
    "ImageBlur": "image",
    "ImageInvert": "image",
}
_EMPTY_LATENTS: Final = frozenset({"EmptyLatentImage", "EmptySD3LatentImage"})
_ENCODERS: Final = frozenset({"VAEEncode", "VAEEncodeTiled", "VAEEncodeForInpaint", "InpaintModelConditioning"})


def expected_sizes(
    graph: Graph, outputs: Collection[str], pictures: Mapping[str, Size] | None = None
) -> frozenset[Size] | None:
    """Width and height, in pixels, of what the `outputs` save; None where that of one of them is not known.

    `pictures` are the sizes of input pictures by the file name that `LoadImage` has.
    """
    sizes = [_Walk(graph, pictures or {}).size(node, _MOST_NODES) for node in outputs]
    known = frozenset(size for size in sizes if size is not None)
    return known if known and None not in sizes else None


class _Walk:
    def __init__(self, graph: Graph, pictures: Mapping[str, Size]) -> None:
        self._graph, self._pictures = graph, pictures

    def size(self, node: str, steps: int) -> Size | None:
        """Of the picture, or of the pixels of the latent, that leaves a node."""
        body = self._graph.get(node)
        if body is None or steps == 0:
            return None
        kind, inputs = body["class_type"], body["inputs"]
        before = self._before(kind, inputs, steps)
        if kind in _PASSES:
            return before
        if kind in _EMPTY_LATENTS:
            return _in_cells(_numbers(inputs, "width", "height"))
        if kind == "LoadImage":
            return self._pictures.get(str(inputs.get("image")))
        if kind in _SIZED and before is None:
            before = _UNSAID
        rule = _RULES.get(kind)
        size = None if rule is None or before is None else self._ruled(rule, before, inputs)
        return None if size == _UNSAID else size

    def _before(self, kind: str, inputs: Mapping[str, Any], steps: int) -> Size | None:
        name = _PASSES.get(kind) or _CARRIED.get(kind)
        source = link(inputs.get(name)) if name else None
        return None if source is None else self.size(source[0], steps - 1)

    def _ruled(self, rule: _Rule, before: Size, inputs: Mapping[str, Any]) -> Size | None:
        loader = link(inputs.get("upscale_model"))
        model = self._graph.get(loader[0], {}).get("inputs", {}).get("model_name") if loader else None
        return rule(before, {**inputs, "model_name": model})


_Rule = Callable[[Size, Mapping[str, Any]], Size | None]


def _in_cells(numbers: tuple[float, float] | None) -> Size | None:
    if numbers is None:
        return None
    width, height = (int(number) // _CELL * _CELL for number in numbers)
    return (width, height) if width and height else None


def _numbers(inputs: Mapping[str, Any], *names: str) -> tuple[float, float] | None:
    values = [inputs.get(name) for name in names]
    one, other = values if len(values) == 2 else (values[0], values[0])
    return (one, other) if is_number(one) and is_number(other) else None


def _encoded(before: Size, _: Mapping[str, Any]) -> Size | None:
    return _in_cells(before)


def _scaled(before: Size, inputs: Mapping[str, Any]) -> Size | None:
    """`ImageScale`, `LatentUpscale`: a side of 0 follows the other one, by a rounding of their own."""
    wanted = _numbers(inputs, "width", "height")
    if wanted is None or 0 in wanted:
        return before if wanted == (0, 0) else None
    return int(wanted[0]), int(wanted[1])


def _latent_scaled(before: Size, inputs: Mapping[str, Any]) -> Size | None:
    size = _scaled(before, inputs)
    return None if size is None else _in_cells(size)


def _scaled_by(before: Size, inputs: Mapping[str, Any]) -> Size | None:
    factor = _numbers(inputs, "scale_by")
    return None if factor is None else (round(before[0] * factor[0]), round(before[1] * factor[0]))


def _latent_scaled_by(before: Size, inputs: Mapping[str, Any]) -> Size | None:
    cells = _scaled_by((before[0] // _CELL, before[1] // _CELL), inputs)
    return None if cells is None else (cells[0] * _CELL, cells[1] * _CELL)


def _upscaled(before: Size, inputs: Mapping[str, Any]) -> Size | None:
    """By the factor that the model's file name says (`4x-UltraSharp`, `RealESRGAN_x4plus`), if it says just one."""
    found = {int(one or other) for one, other in _FACTOR.findall(str(inputs["model_name"]).replace("_", " "))}
    factor = found.pop() if len(found) == 1 else None
    return None if factor is None else (before[0] * factor, before[1] * factor)


_RULES: Final[Mapping[str, _Rule]] = {
    **dict.fromkeys(_ENCODERS, _encoded),
    "ImageScale": _scaled,
    "ImageScaleBy": _scaled_by,
    "ImageUpscaleWithModel": _upscaled,
    "LatentUpscale": _latent_scaled,
    "LatentUpscaleBy": _latent_scaled_by,
}
_CARRIED: Final[Mapping[str, str]] = {
    **dict.fromkeys(_ENCODERS, "pixels"),
    "ImageScale": "image",
    "ImageScaleBy": "image",
    "ImageUpscaleWithModel": "image",
    "LatentUpscale": "samples",
    "LatentUpscaleBy": "samples",
}
