"""What `POST /prompt` lets through, and what it refuses: all of it is found before anything is sent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from asyncgen import assets
from asyncgen.errors import WorkflowError
from asyncgen.graph import Graph
from asyncgen.graph_check import Problem, problems, refuse
from asyncgen.node_schema import NodeSchemas, parse_object_info

GRAPHS = {path.stem: json.loads(path.read_text("utf-8")) for path in (Path(__file__).parent / "graphs").glob("*.json")}
OBJECT_INFO: dict[str, Any] = assets.read_json("workflows", "object_info.json")
OURS = parse_object_info(OBJECT_INFO, is_own=False)
#: The schemas, taken for those of the server that will run the graph.
THEIRS = parse_object_info(OBJECT_INFO, is_own=True)
TEXT2IMG: Graph = GRAPHS["text2img"]


def changed(node: str, graph: Graph = TEXT2IMG, **inputs: Any) -> Graph:
    return {**graph, node: {**graph[node], "inputs": {**graph[node]["inputs"], **inputs}}}


def without(node: str, name: str, graph: Graph = TEXT2IMG) -> Graph:
    inputs = {key: value for key, value in graph[node]["inputs"].items() if key != name}
    return {**graph, node: {**graph[node], "inputs": inputs}}


def renamed(node: str, old: str, new: str) -> Graph:
    value = TEXT2IMG[node]["inputs"][old]
    return changed(node, without(node, old), **{new: value})


@pytest.mark.parametrize("name", sorted(GRAPHS))
def test_a_graph_that_a_server_ran_has_no_problem(name: str) -> None:
    assert problems(GRAPHS[name], OURS) == []


@pytest.mark.parametrize("name", sorted(set(GRAPHS) - {"normal_image_v4"}))
def test_nor_on_the_server_that_ran_it(name: str) -> None:
    assert problems(GRAPHS[name], THEIRS) == []


@pytest.mark.parametrize(
    ("graph", "node", "name", "words"),
    [
        (renamed("4", "lora_1_strength", "lora_1_strenght"), "4", "lora_1_strenght", "did you mean lora_1_strength"),
        (renamed("13", "noise_seed", "seed"), "13", "noise_seed", "is missing"),
        (without("4", "lora_2_strength"), "4", "lora_2_strength", "fail on the GPU"),
        (
            without("4", "lora_1_clip_strength", changed("4", mode="advanced")),
            "4",
            "lora_1_clip_strength",
            "on the GPU",
        ),
        (changed("4", num_loras=2), "4", "lora_3_name", "num_loras is 2"),
        (changed("4", toggle="false"), "4", "toggle", "true or false"),
        (changed("12", steps="20"), "12", "steps", "whole number, not '20'"),
        (changed("12", steps=20.5), "12", "steps", "whole number"),
        (changed("12", steps=True), "12", "steps", "whole number"),
        (changed("9", guidance="3.5"), "9", "guidance", "must be a number"),
        (changed("8", text=7), "8", "text", "must be a text"),
        (changed("13", noise_seed=-1), "13", "noise_seed", "outside 0 to 18446744073709551615"),
        (changed("13", noise_seed=2**64), "13", "noise_seed", "outside 0"),
        (changed("12", denoise=1.5), "12", "denoise", "outside 0.0 to 1.0"),
        (changed("14", width=1365), "14", "width", "would make 1360 of it"),
        (changed("7", height=765), "7", "height", "multiple of 8"),
        (changed("11", sampler_name="eular"), "11", "sampler_name", "did you mean euler"),
        (changed("11", sampler_name=5), "11", "sampler_name", "5 is not one of euler"),
        (changed("12", scheduler=5.5), "12", "scheduler", "5.5 is not one of"),
        (changed("12", scheduler=10**30), "12", "scheduler", "is not one of simple"),
        (changed("2", type=5), "2", "type", "5 is not one of"),
        (changed("1", unet_name=None), "1", "unet_name", "must be the name of a file, not None"),
        (changed("1", unet_name=True), "1", "unet_name", "must be the name of a file, not True"),
        (changed("1", unet_name=5), "1", "unet_name", "must be the name of a file, not 5"),
        (changed("1", unet_name=""), "1", "unet_name", "must be the name of a file, not ''"),
        (changed("30", GRAPHS["text2img_upscale"], model_name=["31", 9]), "30", "model_name", "has 1"),
        (changed("7", model=["99", 0]), "7", "model", "node 99, which the graph does not have"),
        (changed("7", model=["6", 3]), "7", "model", r"output 3 of node 6 \(TeaCache\), which has 1"),
        (changed("7", model=["3", 0]), "7", "model", r"takes MODEL, and output 0 of node 3 \(VAELoader\) is VAE"),
        (changed("7", model=["6"]), "7", "model", "is not a link"),
        (changed("7", model="6"), "7", "model", "needs a link to a MODEL"),
        (changed("17", filename_prefix="../../x"), "17", "filename_prefix", "leaves the server's output folder"),
        (changed("17", filename_prefix="/x"), "17", "filename_prefix", "leaves"),
        (changed("17", filename_prefix="a/%date:yyyy%"), "17", "filename_prefix", "by the browser only"),
    ],
)
def test_a_wrong_input_is_named_with_its_node_and_title(graph: Graph, node: str, name: str, words: str) -> None:
    found = [problem for problem in problems(graph, OURS) if (problem.node, problem.input) == (node, name)]
    assert len(found) == 1
    with pytest.raises(WorkflowError, match=words) as caught:
        refuse(found)
    body = graph[node]
    title = body["_meta"]["title"]
    named = "" if title == body["class_type"] else f" {title!r}"
    assert f"node {node}{named} ({body['class_type']}), input {name}: " in str(caught.value)


def test_a_prefix_with_words_that_the_server_knows_is_fine() -> None:
    assert problems(changed("17", filename_prefix="set/%year%-%month%/%width%x%height%"), OURS) == []


def test_files_are_compared_only_with_the_lists_of_the_server_that_will_run_the_graph() -> None:
    graph = changed("1", unet_name="flux1-dev-fp9.safetensors")
    assert problems(graph, OURS) == []
    (problem,) = problems(graph, THEIRS)
    assert (problem.node, problem.input) == ("1", "unet_name")
    assert "did you mean flux1-dev-fp8.safetensors" in problem.message
    (number,) = problems(changed("1", unet_name=7), THEIRS)
    assert number.message.startswith("7 is not one of")


def test_choices_in_the_new_spelling_are_checked_as_those_in_the_old() -> None:
    graph = changed("30", GRAPHS["text2img_upscale"], model_name="5x.pth")
    assert problems(graph, OURS) == []
    (problem,) = problems(graph, THEIRS)
    assert (problem.node, problem.input) == ("30", "model_name")


def test_a_picture_that_is_sent_along_need_not_be_on_the_server() -> None:
    graph = changed("20", GRAPHS["img2img"], image="0123456789abcdef.png")
    assert [problem.input for problem in problems(graph, THEIRS)] == ["image"]
    assert problems(graph, THEIRS, sent_pictures=[("20", "image")]) == []


def test_a_node_that_no_output_needs_is_told() -> None:
    graph = {**TEXT2IMG, "90": {"class_type": "RandomNoise", "inputs": {"noise_seed": 1}}}
    (problem,) = problems(graph, OURS)
    assert (problem.node, problem.input) == ("90", None)
    assert "no output needs it" in str(problem)


def test_a_graph_without_an_output_is_told() -> None:
    graph = {node: body for node, body in TEXT2IMG.items() if body["class_type"] != "SaveImage"}
    assert [str(problem) for problem in problems(graph, OURS)] == [
        "the graph has no output: add a node that saves the picture, such as SaveImage"
    ]


def test_a_circle_of_links_is_told() -> None:
    graph = changed("6", model=["7", 0])
    (problem,) = [problem for problem in problems(graph, OURS) if problem.node is None]
    assert "7 → 6 → 7" in problem.message or "6 → 7 → 6" in problem.message


def test_a_class_that_is_not_known_is_the_servers_fault_only_if_it_is_that_server() -> None:
    graph = {**TEXT2IMG, "6": {**TEXT2IMG["6"], "class_type": "TeaCash"}}
    (ours,) = problems(graph, OURS)
    assert ours.is_unknown_class
    assert "did you mean TeaCache" in ours.message
    assert "--object-info" in ours.message
    (theirs,) = problems(graph, THEIRS)
    assert not theirs.is_unknown_class
    assert "the server has no such node class (did you mean TeaCache?)" in theirs.message


def test_the_rows_of_a_list_that_grows_in_the_browser_are_in_no_schema() -> None:
    info = {
        "Power Loader": {"input": {"required": {"model": ["MODEL"]}}, "output": ["MODEL"], "output_node": False},
        **OBJECT_INFO,
    }
    rows = {"lora_1": {"on": True, "lora": "ink.safetensors", "strength": 0.8}}
    node = {"class_type": "Power Loader", "inputs": {"model": ["1", 0], **rows}}
    graph = changed("5", {**TEXT2IMG, "60": node}, model=["60", 0])
    assert problems(graph, parse_object_info(info, is_own=True)) == []


def test_many_problems_are_counted_and_the_first_are_shown() -> None:
    found = [Problem(f"number {number}") for number in range(9)]
    with pytest.raises(WorkflowError, match=r"number 0; .*number 4 \(and 4 more\)"):
        refuse(found)
    refuse([])


@pytest.mark.parametrize("value", [[], {}, "x", None, {"A": 1}, {"A": {"output": []}}])
def test_what_is_no_object_info_is_refused(value: Any) -> None:
    with pytest.raises(WorkflowError, match="object_info"):
        parse_object_info(value, is_own=True)


def test_a_schema_of_another_making_is_read_as_far_as_it_goes() -> None:
    odd = {"A": {"input": {"required": {"a": ["INT,FLOAT", {}], "b": [], "c": "STRING"}, "hidden": {"p": "PROMPT"}}}}
    schemas: NodeSchemas = parse_object_info(odd, is_own=True)
    known = schemas.get("A")
    assert known is not None
    assert list(known.inputs) == ["a", "b", "c"]
    assert known.outputs == ()
    assert schemas.get("B") is None
