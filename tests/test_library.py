"""The shipped workflows and the user's own: against the graphs they were started from, and end to end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest
from aiohttp import web
from support import Ran, run_cli, site, true_output

from asyncgen import WorkflowError, assets
from asyncgen.errors import InputError
from asyncgen.graph import Graph
from asyncgen.loras import Lora
from asyncgen.plan import Planner
from asyncgen.registry import StylesRegistry
from asyncgen.request import parse_request
from asyncgen.sandbox.comfy import check_graph
from asyncgen.template import Template
from asyncgen.workflow import fill

GRAPHS = Path(__file__).parent / "graphs"
OBJECT_INFO = assets.data_path("workflows", "object_info.json")
#: Each shipped workflow and the graph of a real server that it was started from.
ORIGINS = {
    "img2img": "img2img",
    "inpaint": "inpaint",
    "inpaint_fill": "inpaint_fill",
    "normal_image_v4_workflow": "normal_image_v4",
    "pose": "pose",
    "poster_frame": "text2img",
    "schnell": "schnell",
    "text2img_checkpoint": "text2img_checkpoint",
    "text2img_checkpoint_core_only": "text2img_core_only",
    "text2img_core_only": "text2img_core_only",
    "text2img_cr_apply": "text2img_cr_apply",
    "text2img_upscale": "text2img_upscale",
    "upscale": "upscale",
}
#: What a shipped graph says otherwise than its origin; `CHECKPOINT` stands in the place of three loaders.
OTHERWISE: dict[str, dict[str, Any]] = {
    "poster_frame": {
        "width": 1024, "height": 1024, "steps": 22, "guidance": 6.5, "filename_prefix": "asyncgen/poster_frame",
    },
    "text2img_checkpoint_core_only": {"clip": ["1", 1], "vae": ["1", 2]},
}  # fmt: skip
CHECKPOINT = {"text2img_checkpoint_core_only": {"1"}}
REPLACED = {"text2img_checkpoint_core_only": {"1", "2", "3"}}
LORAS = tuple(Lora(f"{name}.safetensors", 0.5 + number / 10) for number, name in enumerate(("ink", "ann", "bob")))


def graph_of(name: str) -> Graph:
    graph: Graph = json.loads((GRAPHS / f"{name}.json").read_text("utf-8"))
    return graph


def values_for(template: Template) -> dict[str, Any]:
    said = {"positive_prompt": "a red fox", "seed": 7, **dict.fromkeys(template.images, "sent.png")}
    return {name: value for name, value in said.items() if template.binds(name)}


def filled(name: str, loras: tuple[Lora, ...] = (), **values: Any) -> Graph:
    template = Template.load(name)
    return fill(template, {**values_for(template), **values}, loras if template.lora_stack else ())


@pytest.mark.parametrize("name", sorted(ORIGINS))
def test_a_shipped_graph_is_the_one_it_was_started_from_node_by_node(name: str) -> None:
    whole, origin = Template.load(name).graph, graph_of(ORIGINS[name])
    shipped = {node: body for node, body in whole.items() if node not in CHECKPOINT.get(name, ())}
    assert shipped.keys() == origin.keys() - REPLACED.get(name, set())
    assert {node: whole[node] for node in CHECKPOINT.get(name, ())} in ({}, {"1": graph_of("text2img_checkpoint")["1"]})
    for node, body in shipped.items():
        changed = {key: value for key, value in body["inputs"].items() if value != origin[node]["inputs"][key]}
        assert changed == {key: OTHERWISE[name][key] for key in changed}
        assert body["class_type"] == origin[node]["class_type"]
        assert body["inputs"].keys() == origin[node]["inputs"].keys()


@pytest.mark.parametrize("name", sorted(ORIGINS))
@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_filled_graph_passes_the_sandboxs_checker(name: str, count: int) -> None:
    assert check_graph(filled(name, LORAS[:count]), {"input": ["sent.png"]}) is None


@pytest.mark.parametrize("name", [name for name, origin in ORIGINS.items() if "6" in graph_of(origin)])
def test_without_teacache_what_it_fed_is_fed_by_what_fed_it(name: str) -> None:
    template = Template.load(name)
    if not template.switches:
        pytest.skip("the workflow has no TeaCache")
    node = template.switches["teacache"].node
    graph = filled(name, LORAS, teacache=False)
    assert graph.keys() == template.graph.keys() - {node}
    source = template.graph[node]["inputs"]["model"]
    fed = [
        (other, key) for other, body in template.graph.items() for key, v in body["inputs"].items() if v == [node, 0]
    ]
    assert fed
    assert all(graph[other]["inputs"][key] == source for other, key in fed)
    assert check_graph(graph, {"input": ["sent.png"]}) is None
    assert filled(name, LORAS, teacache=True) == filled(name, LORAS)


@pytest.mark.parametrize("value", ["false", 0, 1])
def test_teacache_is_true_or_false(value: Any) -> None:
    with pytest.raises(InputError, match="must be true or false"):
        filled("pose", teacache=value)


# -- chains of LoRA loaders -----------------------------------------------------------------------------------------


def test_a_chain_with_the_loras_of_the_example_is_the_example() -> None:
    origin = graph_of("text2img_core_only")
    loras = [
        Lora(origin[node]["inputs"]["lora_name"], origin[node]["inputs"]["strength_model"])
        for node in ("40", "41", "42", "43")
    ]
    said = {"positive_prompt": origin["8"]["inputs"]["text"], "seed": origin["13"]["inputs"]["noise_seed"]}
    assert fill(Template.load("text2img_core_only"), said, loras) == origin


@pytest.mark.parametrize("count", [0, 1, 2, 4, 5, 12])
def test_a_chain_has_a_loader_for_each_lora_in_their_order(count: int) -> None:
    loras = tuple(Lora(f"number_{number}.safetensors", number / 20) for number in range(count))
    graph = filled("text2img_core_only", loras)
    model, clip = graph["7"]["inputs"]["model"], graph["8"]["inputs"]["clip"]
    met = []
    while model[0] != "1":
        inputs = graph[model[0]]["inputs"]
        assert clip == [model[0], 1]
        assert inputs["strength_model"] == inputs["strength_clip"]
        met.append(Lora(inputs["lora_name"], inputs["strength_model"]))
        model, clip = inputs["model"], inputs["clip"]
    assert tuple(reversed(met)) == loras
    assert clip == ["2", 0]
    assert len(graph) == len(graph_of("text2img_core_only")) - 4 + count


def test_a_chain_of_model_only_loaders_leaves_clip_as_it_is() -> None:
    graph = {
        "1": {"class_type": "UNETLoader", "inputs": {"unet_name": "flux.safetensors"}},
        "2": {
            "class_type": "LoraLoaderModelOnly",
            "inputs": {"model": ["1", 0], "lora_name": "x.safetensors", "strength_model": 1},
        },
        "3": {"class_type": "End", "inputs": {"model": ["2", 0], "seed": 1}},
    }
    bindings = {
        "format": "asyncgen-bindings/1",
        "parameters": {"seed": [{"node": "3", "input": "seed"}]},
        "lora_stack": {"kind": "chain", "nodes": ["2"]},
        "outputs": ["3"],
    }
    template = Template.from_json("own", graph, bindings)
    assert fill(template, {"seed": 1})["3"]["inputs"]["model"] == ["1", 0]
    two = fill(template, {"seed": 1}, LORAS[:2])
    assert two["3"]["inputs"]["model"] == ["4", 0]
    assert two["4"]["inputs"] == {"model": ["2", 0], "lora_name": "ann.safetensors", "strength_model": 0.6}


def chain(**changes: Any) -> tuple[Graph, dict[str, Any]]:
    template = Template.load("text2img_core_only")
    return template.graph, {**template.bindings, "lora_stack": {"kind": "chain", "nodes": ["40", "41"], **changes}}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"nodes": []}, "list of different loaders"),
        ({"nodes": ["40", "40"]}, "list of different loaders"),
        ({"nodes": ["40", "99"]}, "node '99'"),
        ({"nodes": ["8"]}, "'lora_name'"),
        ({"nodes": ["40", "42"]}, "node 42 'LoRA 3' .LoraLoader. does not follow node 40"),
        ({"more": 1}, "no key 'more'"),
    ],
)
def test_a_chain_that_is_none_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(WorkflowError, match=words):
        Template.from_json("own", *chain(**changes))


def test_a_node_that_takes_the_model_from_the_middle_of_a_chain_is_told() -> None:
    graph, bindings = chain(nodes=["40", "41", "42", "43"])
    tapped = {**graph, "7": {**graph["7"], "inputs": {**graph["7"]["inputs"], "model": ["41", 0]}}}
    with pytest.raises(WorkflowError, match=r"node 7 .* from the middle"):
        Template.from_json("own", tapped, bindings)


def test_a_stack_that_is_switched_off_is_switched_on_by_loras() -> None:
    graph = graph_of("text2img_nolora")
    stack = {**Template.load("schnell").bindings["lora_stack"], "toggle": "toggle"}
    bindings = {**Template.load("schnell").bindings, "lora_stack": stack, "parameters": {}}
    bindings["parameters"] = {"seed": [{"node": "13", "input": "noise_seed"}]}
    bindings["keeps"] = []
    template = Template.from_json("own", graph, bindings)
    assert fill(template, {"seed": 1}, LORAS)["4"]["inputs"]["toggle"] is True
    assert fill(template, {"seed": 1})["4"]["inputs"]["toggle"] is False


# -- what a workflow says by itself ---------------------------------------------------------------------------------


@pytest.fixture
def planner() -> Planner:
    return Planner(StylesRegistry.load(), "v4")


@pytest.mark.parametrize(
    ("workflow", "said"),
    [
        ("schnell", {"steps": 4, "model": "flux1-schnell-fp8.safetensors"}),
        ("poster_frame", {"width": 1024, "height": 1024, "steps": 22, "flux_guidance": 6.5}),
        ("v4", {"width": 1360, "height": 768, "steps": 20, "model": "flux1-dev-fp8", "flux_guidance": 3.5}),
    ],
)
def test_a_workflow_is_made_with_its_own_values_whatever_the_style_says(
    planner: Planner, workflow: str, said: dict[str, Any]
) -> None:
    for style in ({}, {"style_id": "1"}):
        spec = planner.spec(parse_request({"prompt": "a fox", "workflow": workflow, **style}))
        assert {name: getattr(spec, name) for name in said} == said


def test_the_caller_says_more_than_the_workflow(planner: Planner) -> None:
    spec = planner.spec(parse_request({"prompt": "a fox", "workflow": "schnell", "steps": 6, "style_id": "1"}))
    assert spec.steps == 6


def test_denoise_strength_and_teacache_go_to_the_graph(planner: Planner) -> None:
    request = parse_request(
        {"prompt": "a fox", "workflow": "img2img", "init_image": "a.png", "denoise": 0.3, "teacache": False}
    )
    graph = planner.graph(request, planner.spec(request), 1, {"init_image": "sent.png"})
    assert graph["12"]["inputs"]["denoise"] == 0.3
    assert "6" not in graph
    with pytest.raises(WorkflowError, match="strength"):
        planner.spec(parse_request({"prompt": "a fox", "workflow": "schnell", "strength": 0.5}))


def test_a_workflow_without_text_needs_no_prompt_and_one_with_text_does(planner: Planner) -> None:
    assert planner.spec(parse_request({"init_image": "a.png", "workflow": "upscale"})).prompt == ""
    with pytest.raises(InputError, match="needs a prompt"):
        planner.spec(parse_request({"init_image": "a.png", "workflow": "img2img"}))


def test_a_value_that_the_server_would_refuse_costs_nothing(planner: Planner) -> None:
    with pytest.raises(WorkflowError, match=r"sampler_name: 'eular' is not one of .*did you mean euler"):
        planner.spec(parse_request({"prompt": "a fox", "sampler_name": "eular"}))


# -- end to end -----------------------------------------------------------------------------------------------------


def cli(folder: Path, *arguments: str) -> Ran:
    """The command line of a user who has a folder of their own."""
    return run_cli(*arguments, cwd=folder, env={"ASYNCGEN_USER_FOLDER": str(folder / "user")})


# -- asyncgen workflows ---------------------------------------------------------------------------------------------


def test_the_list_names_every_workflow_with_what_it_needs(tmp_path: Path) -> None:
    done = cli(tmp_path, "workflows", "--json")
    listed = {entry["name"]: entry["needs"] for entry in map(json.loads, done.out.splitlines())}
    assert set(ORIGINS) == set(listed)
    assert listed["pose"]["pictures"] == ["pose_image"]
    assert listed["text2img_core_only"]["custom_nodes"] == []
    assert listed["text2img_core_only"]["lora_slots"] is None
    assert listed["upscale"] == {
        "custom_nodes": [],
        "model_files": ["4x-UltraSharp.pth"],
        "pictures": ["init_image"],
        "lora_slots": 0,
        "takes_prompt": False,
    }
    assert "ComfyUI-TeaCache" in cli(tmp_path, "workflows").out


def own(tmp_path: Path, name: str = "text2img_ksampler") -> Path:
    path = tmp_path / "my_api.json"
    path.write_text((GRAPHS / f"{name}.json").read_text("utf-8"), encoding="utf-8")
    return path


def test_a_graph_of_ones_own_is_added_shown_checked_and_used(tmp_path: Path) -> None:
    own(tmp_path)
    added = cli(tmp_path, "workflows", "add", "my_api.json", "--name", "mine")
    assert added.code == 0, added.err
    assert "15 seed" in added.out
    assert "use it with --workflow mine" in added.out
    again = cli(tmp_path, "workflows", "add", "my_api.json", "--name", "mine")
    assert again.code == 2
    assert "--replace" in again.err
    assert cli(tmp_path, "workflows", "add", "my_api.json", "--name", "mine", "--replace").code == 0
    assert "cfg" in cli(tmp_path, "workflows", "show", "mine").out
    assert cli(tmp_path, "workflows", "check", "mine").code == 0
    size = ("--width", "64", "--height", "64")
    made = cli(tmp_path, "generate", "a fox", "--sandbox", "--workflow", "mine", "--out", "o", *size)
    assert made.code == 0, made.err
    assert true_output(tmp_path / "o")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("schnell", "asyncgen ships a workflow of the name 'schnell'"),
        ("v4", "'v4' already means normal_image_v4_workflow"),
        ("../../escaped", "is no name for a workflow"),
        ("..", "is no name for a workflow"),
        ("x.json", "no .json at its end"),
    ],
)
def test_a_name_that_means_another_workflow_or_leads_out_of_the_folder_is_refused(
    tmp_path: Path, name: str, words: str
) -> None:
    own(tmp_path)
    refused = cli(tmp_path, "workflows", "add", "my_api.json", "--name", name)
    assert refused.code == 2
    assert words in refused.err
    assert list(tmp_path.rglob("*escaped*")) == []
    assert not (tmp_path / "user" / "workflows").exists()


def test_a_class_of_another_spelling_and_a_missing_strength_are_told_with_node_and_nearest_name(tmp_path: Path) -> None:
    path = own(tmp_path)
    graph = json.loads(path.read_text("utf-8"))
    stack = next(body for body in graph.values() if body["class_type"] == "easy loraStack")
    del stack["inputs"]["lora_1_strength"]
    path.write_text(json.dumps(graph), encoding="utf-8")
    assert (
        "'LoRA Stack' (easy loraStack), input lora_1_strength: is missing"
        in cli(tmp_path, "workflows", "add", "my_api.json").out
    )
    graph["15"]["class_type"] = "KSamplr"
    path.write_text(json.dumps(graph), encoding="utf-8")
    told = cli(tmp_path, "workflows", "add", "my_api.json", "--object-info", str(OBJECT_INFO))
    assert told.code == 2
    assert "node 15 'KSampler' (KSamplr): the server has no such node class (did you mean KSampler?)" in told.out


@pytest.mark.anyio
async def test_the_schemas_of_ones_own_server_are_kept_with_the_workflow(tmp_path: Path) -> None:
    own(tmp_path, "text2img")

    async def answer(_: web.Request) -> web.Response:
        return web.json_response(text=OBJECT_INFO.read_text("utf-8"))

    async with site({"/object_info": answer}) as url:
        added = await anyio.to_thread.run_sync(
            lambda: cli(tmp_path, "workflows", "add", "my_api.json", "--object-info", f"{url}/object_info")
        )
    assert added.code == 0, added.err
    checked = cli(tmp_path, "workflows", "check", "my_api", "--json")
    assert json.loads(checked.out)["problems"] == []
    refused = cli(tmp_path, "generate", "a fox", "--sandbox", "--workflow", "my_api", "--model", "other", "--out", "o")
    assert refused.code == 2
    assert "'other.safetensors' is not one of" in refused.err


def test_what_is_wrong_with_a_graph_keeps_it_from_being_added(tmp_path: Path) -> None:
    path = own(tmp_path)
    graph = json.loads(path.read_text("utf-8"))
    graph["15"]["inputs"]["sampler_nam"] = graph["15"]["inputs"].pop("sampler_name")
    path.write_text(json.dumps(graph), encoding="utf-8")
    refused = cli(tmp_path, "workflows", "add", "my_api.json")
    assert refused.code == 2
    assert "input sampler_nam: the class has no such input" in refused.out
    assert "was not added" in refused.out


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"nodes": [], "links": []}', "an export of the user interface"),
        ("{", "is not valid JSON"),
        ("[]", "is not a graph"),
        ('{"1": {"class_type": "EmptyImage", "inputs": {}}}', "add a node that saves the picture"),
    ],
)
def test_what_is_no_graph_is_refused_with_the_reason(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "my_api.json").write_text(content, encoding="utf-8")
    refused = cli(tmp_path, "workflows", "add", "my_api.json")
    assert refused.code == 2
    assert words in refused.out + refused.err
    assert "my_api.json" in refused.out + refused.err


@pytest.mark.parametrize(
    ("conditioning", "words"),
    [
        (["8", 7], r"leads to output 7 of node 8 (CLIPTextEncode), which has 1"),
        (["999", 0], "leads to node 999, which the graph does not have"),
        (["3", 0], "takes CONDITIONING, and output 0 of node 3 (VAELoader) is VAE"),
        (["9", 0], "the links go round in a circle: 9 → 9"),
    ],
)
def test_a_broken_link_on_the_way_of_the_text_is_named_and_not_the_text_that_is_missed(
    tmp_path: Path, conditioning: list[Any], words: str
) -> None:
    path = own(tmp_path, "text2img")
    graph = json.loads(path.read_text("utf-8"))
    graph["9"]["inputs"]["conditioning"] = conditioning
    path.write_text(json.dumps(graph), encoding="utf-8")
    for command in ("add", "check"):
        refused = cli(tmp_path, "workflows", command, "my_api.json")
        assert refused.code == 2, refused.err
        assert words in refused.out
        assert "circle" in words or "node 9 (FluxGuidance), input conditioning: " in refused.out
        assert "no text leads" not in refused.out + refused.err


def test_a_graph_without_bindings_is_checked_and_told_how_to_get_them(tmp_path: Path) -> None:
    own(tmp_path)
    checked = cli(tmp_path, "workflows", "check", "my_api.json")
    assert checked.code == 2
    assert "the bindings file is missing" in checked.out
    assert "`asyncgen workflows add my_api.json`" in checked.out
    assert "my_api: 1 problems" in checked.out


@pytest.mark.parametrize("source", ["nothing.json", "http://127.0.0.1:9/object_info"])
def test_an_object_info_that_cannot_be_had_is_told(tmp_path: Path, source: str) -> None:
    own(tmp_path)
    refused = cli(tmp_path, "workflows", "add", "my_api.json", "--object-info", source)
    assert refused.code == 2
    assert "--object-info: cannot be read" in refused.err
