"""The size that a graph makes, from its links alone; where it is not certain there is none."""

from __future__ import annotations

from typing import Any

import pytest

from asyncgen.assets import read_json
from asyncgen.expected_size import expected_sizes
from asyncgen.graph import Graph

SHIPPED = {
    "normal_image_v4_workflow": (1360, 768),
    "schnell": (1360, 768),
    "pose": (1360, 768),
    "text2img_upscale": (2720, 1536),
    "img2img": (1360, 768),
    "poster_frame": (1024, 1024),
}


def sizes(graph: Graph, **pictures: tuple[int, int]) -> frozenset[tuple[int, int]] | None:
    outputs = [node for node, body in graph.items() if body["class_type"] == "SaveImage"]
    return expected_sizes(graph, outputs, pictures)


def chain(*nodes: tuple[str, dict[str, Any]]) -> Graph:
    """Nodes of which each takes what the one before makes, by the input that has no value yet, to a SaveImage."""
    graph: Graph = {"m": {"class_type": "UpscaleModelLoader", "inputs": {"model_name": "4x-UltraSharp.pth"}}}
    for number, (kind, inputs) in enumerate((*nodes, ("SaveImage", {"images": None}))):
        linked = {name: [str(number - 1), 0] if value is None else value for name, value in inputs.items()}
        graph[str(number)] = {"class_type": kind, "inputs": linked}
    return graph


PICTURE = ("LoadImage", {"image": "p"})


@pytest.mark.parametrize(("name", "size"), SHIPPED.items())
def test_the_shipped_workflows_make_what_they_say(name: str, size: tuple[int, int]) -> None:
    assert sizes(read_json("workflows", f"{name}.json")) == {size}


@pytest.mark.parametrize("name", ["inpaint", "inpaint_fill", "upscale"])
def test_what_begins_with_a_picture_of_unknown_size_has_none(name: str) -> None:
    assert sizes(read_json("workflows", f"{name}.json")) is None


@pytest.mark.parametrize(
    ("nodes", "size"),
    [
        ([PICTURE, ("ImageScaleBy", {"image": None, "scale_by": 1.5})], (150, 92)),
        ([PICTURE, ("ImageUpscaleWithModel", {"image": None, "upscale_model": ["m", 0]})], (400, 244)),
        ([PICTURE, ("VAEEncode", {"pixels": None}), ("VAEDecode", {"samples": None})], (96, 56)),
        ([PICTURE, ("ImageScale", {"image": None, "width": 0, "height": 0})], (100, 61)),
        ([PICTURE, ("ImageScale", {"image": None, "width": 30, "height": 0})], None),
        ([PICTURE, ("VAEEncode", {"pixels": None}), ("LatentUpscaleBy", {"samples": None, "scale_by": 1.5}),
          ("VAEDecode", {"samples": None})], (144, 80)),
        ([PICTURE, ("SomebodysNode", {"image": None})], None),
        ([("EmptyLatentImage", {"width": 1001, "height": 515}), ("VAEDecode", {"samples": None})], (1000, 512)),
        ([("EmptyLatentImage", {"width": ["9", 0], "height": 512}), ("VAEDecode", {"samples": None})], None),
    ],
)  # fmt: skip
def test_each_node_does_to_the_size_what_comfyui_does(
    nodes: list[tuple[str, dict[str, Any]]], size: tuple[int, int] | None
) -> None:
    assert sizes(chain(*nodes), p=(100, 61)) == (size and {size})


@pytest.mark.parametrize(
    ("model", "factor"),
    [("4x-UltraSharp.pth", 4), ("RealESRGAN_x2plus.pth", 2), ("4xLSDIR.pth", 4), ("1x_DeJPG.pth", 1),
     ("remacri.pth", None), ("2x4x.pth", None), ("model_2024x.pth", None)],
)  # fmt: skip
def test_an_upscale_model_s_factor_is_what_its_name_says_if_it_says_one(model: str, factor: int | None) -> None:
    graph = chain(PICTURE, ("ImageUpscaleWithModel", {"image": None, "upscale_model": ["m", 0]}))
    graph["m"]["inputs"]["model_name"] = model
    assert sizes(graph, p=(10, 10)) == (factor and {(10 * factor, 10 * factor)})


def test_two_outputs_may_have_two_sizes_and_a_circle_has_none() -> None:
    graph = chain(PICTURE, ("ImageScaleBy", {"image": None, "scale_by": 2.0}))
    graph["base"] = {"class_type": "SaveImage", "inputs": {"images": ["0", 0]}}
    assert sizes(graph, p=(10, 10)) == {(10, 10), (20, 20)}
    graph["base"]["inputs"]["images"] = ["base", 0]
    assert sizes(graph, p=(10, 10)) is None
