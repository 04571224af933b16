"""Bindings found by themselves, against the graphs that a real ComfyUI server ran (`tests/graphs`)."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from asyncgen import assets
from asyncgen.binding import find_bindings
from asyncgen.errors import WorkflowError
from asyncgen.graph import Graph
from asyncgen.loras import Lora
from asyncgen.node_schema import NodeSchemas, parse_object_info
from asyncgen.template import DEFAULT_WORKFLOW, Template
from asyncgen.workflow import fill

GRAPHS = {path.stem: json.loads(path.read_text("utf-8")) for path in (Path(__file__).parent / "graphs").glob("*.json")}
SCHEMAS = parse_object_info(assets.read_json("workflows", "object_info.json"), is_own=False)
SHIPPED = sorted(
    path.name.removesuffix(".bindings.json") for path in assets.data_path("workflows").glob("*.bindings.json")
)
VALUES: dict[str, Any] = {
    "positive_prompt": "a red fox",
    "negative_prompt": "blurry",
    "seed": 42,
    "steps": 7,
    "width": 640,
    "height": 448,
    "flux_guidance": 5.5,
    "sampler_name": "heun",
    "scheduler_name": "beta",
    "model": "another",
    "batch_size": 3,
    "denoise": 0.3,
    "strength": 0.9,
    "control_start": 0.1,
    "control_end": 0.8,
    "grow_mask": 9,
    "scale_by": 0.25,
    "init_image": "start.png",
    "mask_image": "hole.png",
    "pose_image": "stand.png",
}
LORAS = (Lora("ink.safetensors", 0.7), Lora("ann.safetensors", 0.6))


def found(graph: Graph, schemas: NodeSchemas = SCHEMAS) -> dict[str, Any]:
    return find_bindings(graph, schemas).bindings


def renumbered(graph: Graph, seed: int) -> tuple[Graph, dict[str, str]]:
    """The graph with other ids, titles, order of nodes and of inputs; and its ids by the old ones."""
    rng = random.Random(seed)
    ids = rng.sample(range(1, 10_000), len(graph))
    new = dict(zip(graph, map(str, ids), strict=True))
    nodes = list(graph.items())
    rng.shuffle(nodes)
    result: Graph = {}
    for node, body in nodes:
        inputs = list(body["inputs"].items())
        rng.shuffle(inputs)
        moved = {name: [new[v[0]], v[1]] if isinstance(v, list) else v for name, v in inputs}
        title = rng.choice(["seed", "Positive Prompt", "steps", "Save", f"node {rng.random()}"])
        result[new[node]] = {"class_type": body["class_type"], "inputs": moved, "_meta": {"title": title}}
    return result, new


def places(bindings: dict[str, Any], ids: dict[str, str] | None = None) -> dict[str, Any]:
    """Bindings without the order in which places are listed, in the ids of another numbering."""

    def named(node: str) -> str:
        return node if ids is None else ids[node]

    listed = {
        name: {(named(place["node"]), place["input"], place.get("file_suffix")) for place in bound}
        for name, bound in (bindings["parameters"] | bindings.get("images", {})).items()
    }
    stack = dict(bindings.get("lora_stack", {}))
    if "node" in stack:
        stack["node"] = named(stack["node"])
    if "nodes" in stack:
        stack["nodes"] = [named(node) for node in stack["nodes"]]
    switches = {name: (named(at["node"]), at["input"]) for name, at in bindings.get("switches", {}).items()}
    return {
        "places": listed,
        "stack": stack,
        "switches": switches,
        "outputs": {named(node) for node in bindings["outputs"]},
    }


@pytest.mark.parametrize("name", sorted(GRAPHS))
@pytest.mark.parametrize("seed", range(5))
def test_a_graph_that_is_renumbered_and_retitled_has_the_same_bindings(name: str, seed: int) -> None:
    graph, ids = renumbered(GRAPHS[name], seed)
    assert places(found(graph)) == places(found(GRAPHS[name]), ids)


@pytest.mark.parametrize("name", sorted(GRAPHS))
def test_changed_values_arrive_in_the_nodes_that_they_are_for_and_nowhere_else(name: str) -> None:
    graph, ids = renumbered(GRAPHS[name], 1)
    bindings = found(graph)
    template = Template.from_json(name, graph, bindings)
    values = {parameter: value for parameter, value in VALUES.items() if template.binds(parameter)}
    filled = fill(template, values, LORAS if template.lora_stack else ())

    changed = {
        (node, input_name)
        for node, body in filled.items()
        for input_name, value in body["inputs"].items()
        if node in graph and graph[node]["inputs"].get(input_name) != value
    }
    wanted = {
        (place["node"], place["input"])
        for parameter, bound in (bindings["parameters"] | bindings.get("images", {})).items()
        if parameter in values
        for place in bound
    }
    stack = bindings.get("lora_stack", {})
    loaders = {stack.get("node"), *stack.get("nodes", ())}
    of_loras = {place for place in changed if place[0] in loaders}
    after_chain = {(node, name) for node, name in changed if stack.get("kind") == "chain" and name in ("model", "clip")}
    assert changed - of_loras - after_chain == wanted
    assert {node for node in ids.values() if node not in loaders} <= filled.keys()


def test_the_sampler_of_each_kind_says_where_its_values_are() -> None:
    single = found(GRAPHS["text2img_ksampler"])["parameters"]
    assert single["seed"] == [{"node": "15", "input": "seed"}]
    assert single["steps"] == [{"node": "15", "input": "steps"}]
    assert single["cfg"] == [{"node": "15", "input": "cfg"}]
    split = found(GRAPHS["text2img"])["parameters"]
    assert split["seed"] == [{"node": "13", "input": "noise_seed"}]
    assert split["steps"] == [{"node": "12", "input": "steps"}]
    assert split["width"] == [{"node": "7", "input": "width"}, {"node": "14", "input": "width"}]


def test_denoise_is_bound_only_where_a_picture_is_begun_with() -> None:
    assert "denoise" in found(GRAPHS["img2img"])["parameters"]
    assert "denoise" not in found(GRAPHS["text2img"])["parameters"]


def test_the_part_of_a_picture_is_told_by_where_it_goes() -> None:
    assert found(GRAPHS["inpaint"])["images"].keys() == {"init_image", "mask_image"}
    assert found(GRAPHS["pose"])["images"].keys() == {"pose_image"}
    assert found(GRAPHS["upscale"])["images"].keys() == {"init_image"}


def test_a_negative_text_of_its_own_is_bound_and_a_zeroed_positive_one_is_not() -> None:
    graph = GRAPHS["text2img_ksampler"]
    assert "negative_prompt" not in found(graph)["parameters"]
    own = {"class_type": "CLIPTextEncode", "inputs": {"text": "blurry", "clip": ["5", 1]}}
    sampler = {**graph["15"], "inputs": {**graph["15"]["inputs"], "negative": ["99", 0]}}
    bindings = found({**graph, "99": own, "15": sampler})
    assert bindings["parameters"]["negative_prompt"] == [{"node": "99", "input": "text"}]
    assert bindings["parameters"]["positive_prompt"] == [{"node": "8", "input": "text"}]


def test_what_no_output_needs_is_not_bound() -> None:
    graph = {**GRAPHS["text2img"], "90": {"class_type": "RandomNoise", "inputs": {"noise_seed": 1}}}
    assert places(found(graph)) == places(found(GRAPHS["text2img"]))


def test_a_second_sampler_shares_text_and_seed_and_keeps_its_steps() -> None:
    graph = json.loads(json.dumps(GRAPHS["text2img_ksampler"]))
    second = json.loads(json.dumps(graph["15"]))
    second["inputs"] |= {"latent_image": ["15", 0], "steps": 8, "denoise": 0.4}
    graph["50"] = second
    graph["16"]["inputs"]["samples"] = ["50", 0]
    findings = find_bindings(graph, SCHEMAS)
    parameters = findings.bindings["parameters"]
    assert parameters["seed"] == [{"node": "15", "input": "seed"}, {"node": "50", "input": "seed"}]
    assert parameters["steps"] == [{"node": "15", "input": "steps"}]
    assert "node 50" in findings.notes[0]
    assert "refines" in findings.notes[0]


def without(graph: Graph, node: str, name: str) -> Graph:
    body = graph[node]
    inputs = {key: value for key, value in body["inputs"].items() if key != name}
    return {**graph, node: {**body, "inputs": inputs}}


def with_input(graph: Graph, node: str, **inputs: Any) -> Graph:
    return {**graph, node: {**graph[node], "inputs": {**graph[node]["inputs"], **inputs}}}


SECOND_TEXT = {"class_type": "CLIPTextEncode", "inputs": {"text": "too", "clip": ["5", 1]}}
SECOND_PICTURE = {"class_type": "LoadImage", "inputs": {"image": "more.png"}}
PREVIEW = {"class_type": "PreviewImage", "inputs": {"images": ["16", 0]}}


@pytest.mark.parametrize(
    ("graph", "words"),
    [
        ({**GRAPHS["text2img"], "17": PREVIEW}, "saves a picture"),
        (without(GRAPHS["text2img"], "10", "conditioning"), "no text leads to node 15"),
        (with_input(GRAPHS["text2img"], "9", conditioning=["8", 7]), "no text leads to node 15"),
        (without(GRAPHS["text2img"], "15", "noise"), "no seed"),
        ({**GRAPHS["text2img"], "3": {"class_type": "MyLoader", "inputs": {}}}, "node 3 .MyLoader.*--object-info"),
        (
            {
                **with_input(GRAPHS["text2img_ksampler"], "15", positive=["70", 0]),
                "70": {"class_type": "ControlNetApplyAdvanced", "inputs": {"positive": ["71", 0]}},
                "71": {"class_type": "InpaintModelConditioning", "inputs": {"positive": ["70", 0]}},
            },
            "no text leads",
        ),
        (
            {
                **with_input(GRAPHS["img2img"], "22", pixels=["81", 0]),
                "81": {"class_type": "ImageUpscaleWithModel", "inputs": {"image": ["82", 0]}},
                "82": SECOND_PICTURE,
                "17": {"class_type": "SaveImage", "inputs": {"images": ["20", 0], "filename_prefix": "a"}},
                "83": {"class_type": "SaveImage", "inputs": {"images": ["16", 0], "filename_prefix": "b"}},
            },
            "several pictures play the part of init_image",
        ),
        (with_input(GRAPHS["text2img_core_only"], "42", model=["40", 0]), "no chain"),
    ],
)
def test_what_cannot_be_bound_is_refused_with_the_reason(graph: Graph, words: str) -> None:
    with pytest.raises(WorkflowError, match=words):
        found(graph)


@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_bindings_are_those_that_are_found(name: str) -> None:
    graph, bindings = (assets.read_json("workflows", f"{name}{suffix}") for suffix in (".json", ".bindings.json"))
    assert places(bindings) == places(found(graph))


def test_the_default_workflow_is_among_the_shipped_ones() -> None:
    assert DEFAULT_WORKFLOW in SHIPPED
    assert len(SHIPPED) == 13
