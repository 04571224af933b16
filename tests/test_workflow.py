"""Graphs from templates: V4 as it ran on a real server, and any other graph with bindings."""

from __future__ import annotations

import copy
import inspect
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncgen.assets import data_path
from asyncgen.errors import InputError, WorkflowError
from asyncgen.graph import Graph
from asyncgen.loras import Lora
from asyncgen.template import Template
from asyncgen.workflow import DEFAULTS, WorkflowBuilder, fill, warnings

V4 = Template.load()
GRAPHS = Path(__file__).parent / "graphs"
LORAS = st.lists(st.builds(Lora, st.text(min_size=1), st.floats(-10, 10)), max_size=10)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "width": st.integers(2, 2048).map(lambda units: units * 8),
    "height": st.integers(2, 2048).map(lambda units: units * 8),
    "steps": st.integers(1, 10_000),
    "batch_size": st.integers(1, 64),
    "flux_guidance": st.integers(0, 100) | st.floats(0, 100),
    "model": st.text(min_size=1).filter(str.strip),
    "sampler_name": st.text(min_size=1).filter(str.strip),
    "max_shift": st.integers(-5, 5) | st.floats(-5, 5),
}
REQUIRED = st.fixed_dictionaries({"positive_prompt": st.text().filter(str.strip), "seed": st.integers(0, 2**64 - 1)})
PARAMETERS = st.builds(lambda a, b: a | b, REQUIRED, st.fixed_dictionaries({}, optional=VALUES))
SAID = {"positive_prompt": "a cat", "seed": 7}


def built(**said: Any) -> Graph:
    return WorkflowBuilder(V4).build_workflow(**{**SAID, **said})


def bindings(**changes: Any) -> dict[str, Any]:
    """The V4 bindings with changes; a change to None takes the key out."""
    changed = {**V4.bindings, **changes}
    return {key: value for key, value in changed.items() if value is not None}


def types_of(graph: Graph) -> dict[tuple[str, str], type]:
    return {(node, name): type(value) for node, body in graph.items() for name, value in body["inputs"].items()}


def links_of(graph: Graph) -> dict[tuple[str, str], list[Any]]:
    inputs = ((node, name, value) for node, body in graph.items() for name, value in body["inputs"].items())
    return {(node, name): value for node, name, value in inputs if isinstance(value, list)}


def test_the_shipped_v4_graph_is_the_one_that_ran_on_a_real_server() -> None:
    assert json.loads((GRAPHS / "normal_image_v4.json").read_text(encoding="utf-8")) == V4.graph


def test_the_v4_graph_is_the_one_of_its_own_values() -> None:
    graph = WorkflowBuilder(V4).build_workflow(
        "film still of alice and bob in a rainy neon street",
        seed=123456789,
        lora_name="style_ink_intensity",
        character_loras=["actor_a", "actor_b"],
    )
    assert graph == V4.graph
    assert types_of(graph) == types_of(V4.graph)


def test_the_bindings_of_v4_explain_every_node_and_every_parameter() -> None:
    assert set(V4.bindings["nodes"]) == set(V4.graph)
    assert set(V4.bindings["variables"]) == {*V4.parameters, *V4.switches}
    assert V4.bindings["usage_notes"]
    assert V4.bindings["model_urls"][0].keys() == {"id", "url"}


def test_every_value_arrives_at_its_node() -> None:
    names = {"model": "other", "sampler_name": "heun", "scheduler_name": "beta"}
    graph = built(width=1024, height=512, steps=8, flux_guidance=2, batch_size=4, **names)
    inputs = {node: body["inputs"] for node, body in graph.items()}
    assert inputs["6"]["text"] == "a cat"
    assert inputs["25"] == {"noise_seed": 7}
    assert inputs["27"] == {"width": 1024, "height": 512, "batch_size": 4}
    assert (inputs["30"]["width"], inputs["30"]["height"]) == (1024, 512)
    assert inputs["17"]["steps"] == 8
    assert (inputs["16"]["sampler_name"], inputs["17"]["scheduler"]) == ("heun", "beta")
    assert inputs["26"]["guidance"] == 2.0
    assert inputs["1"]["unet_name"] == "other.safetensors"


def test_further_parameters_of_the_bindings_arrive_too() -> None:
    graph = built(t5xxl="t5xxl_fp8_e4m3fn", teacache_threshold=0)
    assert graph["3"]["inputs"]["clip_name2"] == "t5xxl_fp8_e4m3fn.safetensors"
    assert graph["41"]["inputs"]["rel_l1_thresh"] == 0.0


@given(PARAMETERS, LORAS)
def test_types_are_kept_links_stay_and_every_root_key_is_a_node(parameters: dict[str, Any], loras: list[Lora]) -> None:
    graph = fill(V4, parameters, loras)
    changed = {("43", name) for name in graph["43"]["inputs"] if "strength" in name}  # 1 in a slot that is not used
    kinds, template_kinds = types_of(graph), types_of(V4.graph)
    assert {place: kind for place, kind in kinds.items() if place not in changed} == {
        place: kind for place, kind in template_kinds.items() if place not in changed
    }
    assert all(kinds[place] in (int, float) for place in changed)
    assert links_of(graph) == links_of(V4.graph)
    assert graph.keys() == V4.graph.keys()
    assert json.loads(json.dumps(graph)) == graph


@given(PARAMETERS, LORAS)
def test_the_template_is_never_mutated(parameters: dict[str, Any], loras: list[Lora]) -> None:
    before = copy.deepcopy(V4.graph)
    graph = fill(V4, parameters, loras)
    assert V4.graph == before
    for body in graph.values():
        for value in body["inputs"].values():
            if isinstance(value, list):
                value.clear()
        body["inputs"].clear()
        body.clear()
    assert V4.graph == before


def test_a_large_seed_and_a_whole_guidance_keep_their_digits() -> None:
    graph = built(seed=2**64 - 1, flux_guidance=3)
    assert graph["25"]["inputs"]["noise_seed"] == 2**64 - 1
    assert repr(graph["26"]["inputs"]["guidance"]) == "3.0"


def test_a_fraction_stays_one_where_the_export_wrote_a_whole_number() -> None:
    graph = copy.deepcopy(V4.graph)
    graph["26"]["inputs"]["guidance"] = 4
    template = Template.from_json("own", graph, V4.bindings)
    assert fill(template, SAID | {"flux_guidance": 3.5})["26"]["inputs"]["guidance"] == 3.5
    assert repr(fill(template, SAID | {"flux_guidance": 3.0})["26"]["inputs"]["guidance"]) == "3"


def test_defaults_of_the_signature_are_the_defaults() -> None:
    names = {**inspect.signature(WorkflowBuilder.build_workflow).parameters}
    stack = {**inspect.signature(WorkflowBuilder.build_lora_stack).parameters}
    assert {name: names[name].default for name in DEFAULTS} == DEFAULTS
    assert all(stack[name].default == names[name].default for name in stack)


def test_a_random_seed_is_drawn_once_by_what_was_given() -> None:
    seeds = iter([5, 6])
    builder = WorkflowBuilder(V4, draw_seed=lambda: next(seeds))
    assert [builder.build_workflow("a cat")["25"]["inputs"]["noise_seed"] for _ in range(2)] == [5, 6]


def test_a_random_seed_without_a_source_is_refused() -> None:
    with pytest.raises(InputError, match="give a seed"):
        built(seed=-1)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("positive_prompt", ""),
        ("positive_prompt", " \n"),
        ("width", 8),
        ("width", 16392),
        ("width", 1365),
        ("height", 12),
        ("height", 768.0),
        ("height", "768"),
        ("steps", 0),
        ("steps", True),
        ("batch_size", 0),
        ("seed", -2),
        ("seed", 2**64),
        ("flux_guidance", math.nan),
        ("flux_guidance", -1),
        ("flux_guidance", "3.5"),
        ("model", ""),
        ("lora_strength", 10.5),
        ("character_lora_strength", -11),
        ("cine_lora_strength", math.inf),
        ("weight_dtype", 3),
        ("max_shift", "1.15"),
        ("max_shift", math.inf),
        ("max_shift", True),
        ("vae", ["2", 0]),
    ],
)
def test_a_bad_value_is_refused_naming_field_and_value(field: str, value: Any) -> None:
    with pytest.raises(InputError) as caught:
        built(**{field: value})
    assert caught.value.field == field
    assert repr(value) in caught.value.message


def test_an_unknown_parameter_is_refused_with_the_nearest_and_all_others() -> None:
    with pytest.raises(
        WorkflowError, match=r"teacache_treshold.*did you mean teacache_threshold.*positive_prompt, width"
    ):
        built(teacache_treshold=0.2)


@pytest.mark.parametrize("missing", ["positive_prompt", "seed"])
def test_the_templates_own_prompt_and_seed_are_never_sent(missing: str) -> None:
    with pytest.raises(InputError) as caught:
        fill(V4, {name: value for name, value in SAID.items() if name != missing})
    assert caught.value.field == missing


def test_a_none_leaves_the_templates_own_value() -> None:
    assert fill(V4, SAID | {"steps": None})["17"]["inputs"]["steps"] == 20


# LoRA stack ---------------------------------------------------------------------------------------------------------


def test_the_stack_node_gets_names_equal_strengths_and_their_count() -> None:
    inputs = WorkflowBuilder(V4).build_lora_stack("ink", 0.9, ["bob", "None", ""], cine_lora_strength=0.5)
    assert inputs["num_loras"] == 3
    assert (inputs["toggle"], inputs["mode"]) == (True, "simple")
    slots = {1: ("ink.safetensors", 0.9), 2: ("bob.safetensors", 0.7225), 3: ("FILM-V3-FLUX.safetensors", 0.475)}
    slots |= dict.fromkeys(range(4, 11), ("None", 1))
    for slot, (name, strength) in slots.items():
        assert inputs[f"lora_{slot}_name"] == name
        assert {inputs[f"lora_{slot}_{kind}strength"] for kind in ("", "model_", "clip_")} == {strength}
    assert inputs.keys() == V4.graph["43"]["inputs"].keys()


def test_without_any_lora_the_count_is_one_and_every_slot_is_empty() -> None:
    inputs = WorkflowBuilder(V4).build_lora_stack()
    assert inputs["num_loras"] == 1
    assert {inputs[f"lora_{slot}_name"] for slot in range(1, 11)} == {"None"}
    assert {inputs[f"lora_{slot}_clip_strength"] for slot in range(1, 11)} == {1}


def test_the_graph_carries_the_stack_that_is_built_alone() -> None:
    said: dict[str, Any] = {"lora_name": "ink", "character_loras": ["bob:0.3", "al"], "cine_lora_strength": 1}
    assert built(**said)["43"]["inputs"] == WorkflowBuilder(V4).build_lora_stack(**said)


def test_a_built_stack_may_be_changed_without_touching_the_template() -> None:
    graph = copy.deepcopy(V4.graph)
    graph["43"]["inputs"]["optional_lora_stack"] = ["44", 0]
    builder = WorkflowBuilder(Template.from_json("own", graph, V4.bindings))
    stack = builder.build_lora_stack("ink")
    stack["mode"] = "advanced"
    stack["optional_lora_stack"].clear()
    assert builder.build_lora_stack("ink")["mode"] == "simple"
    assert builder.build_lora_stack("ink")["optional_lora_stack"] == ["44", 0]


def test_ten_loras_fit_and_eleven_are_refused_by_name() -> None:
    characters = [f"c{number}" for number in range(9)]
    assert built(lora_name="ink", character_loras=characters)["43"]["inputs"]["num_loras"] == 10
    with pytest.raises(
        WorkflowError, match=r"11 LoRAs.*10 slots: ink\.safetensors, c0\.saf.*FILM-V3-FLUX\.safetensors"
    ):
        built(lora_name="ink", character_loras=characters, cine_lora_strength=0.1)


def test_a_workflow_without_a_stack_refuses_loras_by_name() -> None:
    template = Template.from_json("plain", V4.graph, bindings(lora_stack=None))
    assert fill(template, SAID)["6"]["inputs"]["text"] == "a cat"
    with pytest.raises(WorkflowError, match=r"takes no LoRAs.*ink\.safetensors"):
        WorkflowBuilder(template).build_workflow("a cat", seed=1, lora_name="ink")
    with pytest.raises(WorkflowError, match="takes no LoRAs"):
        WorkflowBuilder(template).build_lora_stack()


# Other workflows ----------------------------------------------------------------------------------------------------


def test_a_users_own_graph_with_bindings_works_without_code(tmp_path: Path) -> None:
    graph = json.loads((GRAPHS / "text2img_cr_apply.json").read_text(encoding="utf-8"))
    own = {
        "format": "asyncgen-bindings/1",
        "parameters": {
            "positive_prompt": [{"node": "8", "input": "text"}],
            "seed": [{"node": "13", "input": "noise_seed"}],
            "width": [{"node": "14", "input": "width"}, {"node": "7", "input": "width"}],
        },
        "lora_stack": {**V4.bindings["lora_stack"], "node": "4"},
        "outputs": ["17"],
    }
    (tmp_path / "mine.json").write_text(json.dumps(graph), encoding="utf-8")
    (tmp_path / "mine.bindings.json").write_text("\ufeff" + json.dumps(own), encoding="utf-8")
    template = Template.load(tmp_path / "mine.json")
    filled = WorkflowBuilder(template).build_workflow("a dog", width=640, seed=3, lora_name="ink")
    assert (filled["8"]["inputs"]["text"], filled["14"]["inputs"]["width"], filled["7"]["inputs"]["width"]) == (
        "a dog",
        640,
        640,
    )
    assert filled["4"]["inputs"]["num_loras"] == 1
    assert (template.name, template.outputs, warnings(template)) == ("mine", ("17",), ())
    with pytest.raises(WorkflowError, match="steps"):
        WorkflowBuilder(template).build_workflow("a dog", seed=3, steps=30)


def test_input_pictures_are_parameters_that_must_be_given() -> None:
    graph = json.loads((GRAPHS / "img2img.json").read_text(encoding="utf-8"))
    node = next(name for name, body in graph.items() if body["class_type"] == "LoadImage")
    own = {
        "format": "asyncgen-bindings/1",
        "parameters": {"denoise": [{"node": "12", "input": "denoise"}]},
        "outputs": [next(name for name, body in graph.items() if body["class_type"] == "SaveImage")],
        "images": {"init_image": [{"node": node, "input": "image"}]},
    }
    template = Template.from_json("img2img", graph, own)
    assert template.images == ("init_image",)
    assert fill(template, {"init_image": "x.png"})[node]["inputs"]["image"] == "x.png"
    with pytest.raises(InputError) as caught:
        fill(template, {"denoise": 0.5})
    assert caught.value.field == "init_image"


@pytest.mark.parametrize("name", ["v4", "normal_image_v4", "normal_image_v4_workflow"])
def test_v4_has_aliases(name: str) -> None:
    assert Template.load(name).digest == V4.digest
    assert Template.load(name).name == "normal_image_v4_workflow"


def test_a_users_own_workflow_is_found_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "workflows"
    folder.mkdir()
    shipped = data_path("workflows")
    for suffix in (".json", ".bindings.json"):
        (folder / f"mine{suffix}").write_bytes((shipped / f"normal_image_v4_workflow{suffix}").read_bytes())
    assert Template.load("mine", user_folder=tmp_path).digest == V4.digest
    with pytest.raises(WorkflowError, match=r"no workflow 'mien' .did you mean mine.*v4"):
        Template.load("mien", user_folder=tmp_path)


def test_the_digest_follows_what_decides_the_picture_and_nothing_else() -> None:
    titled, changed = copy.deepcopy(V4.graph), copy.deepcopy(V4.graph)
    titled["6"]["_meta"] = {"title": "Another title"}
    changed["41"]["inputs"]["rel_l1_thresh"] = 0.4
    assert Template.from_json("a", titled, bindings(description="other", warnings=["w"])).digest == V4.digest
    assert Template.from_json("a", changed, V4.bindings).digest != V4.digest
    assert Template.from_json("a", V4.graph, bindings(lora_stack=None)).digest != V4.digest


def test_the_traps_of_easy_lora_stack_apply_are_warned_of() -> None:
    texts = warnings(Template.from_json("a", V4.graph, bindings(warnings=["mind the gap"])))
    assert len(texts) == 2
    assert "CLIP only the last LoRA" in texts[0]
    assert "end of their names" in texts[0]
    assert texts[1] == "mind the gap"


@pytest.mark.parametrize(
    ("graph", "words"),
    [
        ([], "not a graph"),
        ({}, "not a graph"),
        ({"nodes": [], "links": [], "version": 0.4}, r"user interface.*Export \(API\)"),
        ({**V4.graph, "_comment": "hello"}, "'_comment' is not a node"),
        ({**V4.graph, "extra": {"inputs": {}}}, "'extra' is not a node"),
        ({**V4.graph, "99": {"class_type": "X"}}, "node 99 .X. has no inputs"),
    ],
)
def test_what_is_not_an_api_graph_is_refused(graph: Any, words: str) -> None:
    with pytest.raises(WorkflowError, match=words):
        Template.from_json("bad", graph, V4.bindings)


STACK = V4.bindings["lora_stack"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": "asyncgen-bindings/9"}, "asyncgen-bindings/1"),
        ({"parameter": {}}, "no key 'parameter' .did you mean parameters"),
        ({"parameters": {}}, "name no parameters"),
        ({"parameters": []}, "'parameters' must be an object"),
        ({"outputs": None}, "name no outputs"),
        ({"outputs": ["99"]}, "output node '99'"),
        ({"outputs": "38"}, "'outputs' must be a list"),
        ({"warnings": "w"}, "'warnings' must be a list"),
        ({"parameters": {"seed": {"node": "25"}}}, "'seed' needs a list"),
        ({"parameters": {"seed": []}}, "'seed' needs a list"),
        ({"parameters": {"seed": [{"node": "25"}]}}, "'seed' must be like"),
        ({"parameters": {"seed": [{"node": "25", "input": "noise_seed", "sufix": ""}]}}, "no key 'sufix'"),
        ({"parameters": {"seed": [{"node": 25, "input": "noise_seed"}]}}, "'seed' is bound to node 25"),
        ({"parameters": {"seed": [{"node": "99", "input": "noise_seed"}]}}, "'seed' is bound to node '99'"),
        (
            {"parameters": {"seed": [{"node": "25", "input": "noise_sed"}]}},
            r"'seed' is bound to the input 'noise_sed', which node 25 \(RandomNoise\).*did you mean noise_seed",
        ),
        (
            {"parameters": {"seed": [{"node": "6", "input": "clip"}]}},
            r"'clip' of node 6 \(CLIPTextEncode\), which is a link",
        ),
        (
            {"parameters": {name: [{"node": "25", "input": "noise_seed"}] for name in ("seed", "other")}},
            "'noise_seed' of node 25 is bound twice",
        ),
        ({"parameters": {"seed": [{"node": "25", "input": "noise_seed", "file_suffix": ".x"}]}}, "file_suffix"),
        ({"images": {"init_image": [{"node": "99", "input": "image"}]}}, "'init_image' is bound to node '99'"),
        ({"lora_stack": {**STACK, "kind": "tower"}}, "'kind' is 'stack' or 'chain'"),
        ({"switches": {"teacache": {"node": "41"}}}, "the switch 'teacache' must be like"),
        ({"switches": {"teacache": {"node": "41", "input": "rel_l1_thresh"}}}, "is no link"),
        ({"switches": {"clip": {"node": "40", "input": "model"}}}, "more than its first output"),
        ({"keeps": ["step"]}, "did you mean steps"),
        ({"lora_stack": {**STACK, "node": "99"}}, "lora_stack is bound to node '99'"),
        ({"lora_stack": {**STACK, "slots": 11}}, "'lora_11_name'"),
        ({"lora_stack": {**STACK, "slots": 0}}, "slots cannot be 0"),
        ({"lora_stack": {**STACK, "slots": 10**9}}, "slots cannot be 1000000000"),
        ({"lora_stack": {**STACK, "count": "num_lora"}}, "'num_lora'"),
        ({"lora_stack": {**STACK, "name": "lora_name"}}, "name cannot be"),
        ({"lora_stack": {**STACK, "strengths": "x"}}, "strengths cannot be"),
        ({"lora_stack": {"kind": "stack", "node": "43"}}, "lora_stack lacks slots"),
        ({"lora_stack": {**STACK, "more": 1}}, "no key 'more'"),
    ],
)
def test_bindings_that_do_not_fit_the_graph_are_refused(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    (tmp_path / "own.json").write_text(json.dumps(V4.graph), encoding="utf-8")
    (tmp_path / "own.bindings.json").write_text(json.dumps(bindings(**change)), encoding="utf-8")
    with pytest.raises(WorkflowError, match=r"own\.bindings\.json: .*" + words):
        Template.load(tmp_path / "own.json")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "JSON"),
        ('{"1": NaN}', "NaN"),
        ('{"1": 1e999}', "1e999"),
        ("[" * 100_000, "JSON"),
        ('{"1": {"class_type": "X", "inputs": {"a": ' + "[" * 400 + "]" * 400 + "}}}", "nested deeper"),
        ('{"1": {"class_type": "X", "inputs": {"a": "\\ud800"}}}', "surrogate"),
        ("3", "not a graph"),
    ],
)
def test_a_graph_file_that_cannot_be_read_is_refused_by_name(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "own.json").write_text(text, encoding="utf-8")
    (tmp_path / "own.bindings.json").write_text("{}", encoding="utf-8")
    with pytest.raises(WorkflowError, match=r"own\.json: .*" + words):
        Template.load(str(tmp_path / "own.json"))


@pytest.mark.parametrize("name", ["x" * 5000, "x" * 5000 + ".json", "a/" * 5000])
def test_a_name_that_no_file_system_takes_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(WorkflowError, match="workflow"):
        Template.load(name, tmp_path)


def test_a_missing_graph_or_bindings_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(WorkflowError, match=r"gone\.json.*no such workflow file"):
        Template.load(tmp_path / "gone.json")
    (tmp_path / "own.json").write_text(json.dumps(V4.graph), encoding="utf-8")
    with pytest.raises(WorkflowError, match=r"write own\.bindings\.json"):
        Template.load(tmp_path / "own.json")
