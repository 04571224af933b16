"""The sandbox refuses what ComfyUI refuses, in worker-comfyui's words, and finds in a graph what it asks for."""

from __future__ import annotations

import base64
import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncgen.assets import data_path, read_json
from asyncgen.errors import InputError
from asyncgen.sandbox.comfy import Wish, check_graph, check_input, read_models, read_wish, upload_errors

GRAPHS = Path(__file__).parent.parent / "graphs"
NAMES = sorted(path.stem for path in GRAPHS.glob("*.json"))
#: The sizes of the graphs that start from a picture that was sent; nothing in them says how large it is.
FROM_A_PICTURE = {"inpaint", "inpaint_fill", "inpaint_vaeencode", "upscale"}


def graph(name: str = "text2img") -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((GRAPHS / f"{name}.json").read_text())
    return loaded


def changed(node: str, name: str, value: object, graph_name: str = "text2img") -> dict[str, Any]:
    edited = graph(graph_name)
    edited[node]["inputs"][name] = value
    return edited


# --- what is accepted ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_graph_that_ran_on_a_real_server_is_accepted(name: str) -> None:
    assert check_graph(graph(name)) is None


@pytest.mark.parametrize("name", NAMES)
def test_checking_and_reading_leave_the_graph_as_it_is(name: str) -> None:
    before = graph(name)
    after = copy.deepcopy(before)
    check_graph(after, {"loras": ["a.safetensors"]})
    read_wish(after)
    assert after == before


def test_unknown_input_names_are_ignored() -> None:
    assert check_graph(changed("12", "stepps", "nonsense")) is None


def test_text_that_holds_a_number_is_a_number() -> None:
    assert check_graph(changed("12", "steps", "20")) is None


def test_a_node_that_no_output_needs_is_not_validated() -> None:
    stray = graph() | {"99": {"class_type": "BasicScheduler", "inputs": {"steps": 0}}}
    assert check_graph(stray) is None


def test_one_good_output_is_enough() -> None:
    two = graph() | {"99": {"class_type": "SaveImage", "inputs": {}}}
    assert check_graph(two) is None


def test_model_files_are_not_checked_without_a_list_of_them() -> None:
    anything = changed("1", "unet_name", "nobody-has-this.safetensors")
    assert check_graph(anything) is None
    assert check_graph(anything, {"vae": ["ae.safetensors"]}) is None


# --- what is refused -------------------------------------------------------------------------------------------------


def test_the_failure_text_of_a_missing_model_is_the_workers() -> None:
    text = check_graph(changed("1", "unet_name", "missing.safetensors"), {"unet": ["flux1-dev-fp8.safetensors"]})
    assert text is not None
    first, errors, outputs, class_type = text.split("\n")
    assert first == "Workflow validation failed:"
    assert errors.startswith(
        "• Node 1 (errors): [{'type': 'value_not_in_list', 'message': 'Value not in list', 'details': "
        "\"unet_name: 'missing.safetensors' not in ['flux1-dev-fp8.safetensors']\", 'extra_info': {"
    )
    assert outputs == "• Node 1 (dependent_outputs): ['17']"
    assert class_type == "• Node 1 (class_type): UNETLoader"


def test_a_missing_checkpoint_names_those_that_exist() -> None:
    text = check_graph(graph("text2img_checkpoint"), {"checkpoints": ["b.safetensors", "a.safetensors"]})
    assert text is not None
    assert text.endswith("\n\nAvailable checkpoint models: a.safetensors, b.safetensors")
    text = check_graph(graph("text2img_checkpoint"), {"checkpoints": []})
    assert text is not None
    assert text.endswith("\n\nNo checkpoint models appear to be available. Please check your model installation.")


CATEGORIES = [
    ("text2img", "1", "unet_name", "unet"),
    ("text2img", "2", "clip_name1", "clip"),
    ("text2img", "2", "clip_name2", "clip"),
    ("text2img", "3", "vae_name", "vae"),
    ("text2img", "4", "lora_1_name", "loras"),
    ("text2img", "4", "lora_10_name", "loras"),
    ("text2img_core_only", "40", "lora_name", "loras"),
    ("text2img_checkpoint", "1", "ckpt_name", "checkpoints"),
    ("pose", "22", "control_net_name", "controlnet"),
    ("upscale", "2", "model_name", "upscale_models"),
    ("upscale", "1", "image", "input"),
]


@pytest.mark.parametrize(("graph_name", "node", "name", "category"), CATEGORIES)
def test_every_kind_of_model_file_is_looked_up_in_its_category(
    graph_name: str, node: str, name: str, category: str
) -> None:
    edited = changed(node, name, "mine.safetensors", graph_name)
    others = [value for inputs in (each["inputs"] for each in edited.values()) for value in inputs.values()]
    there = {str(value) for value in others}
    assert check_graph(edited, {category: there}) is None
    text = check_graph(edited, {category: there - {"mine.safetensors"}})
    assert text is not None
    assert f"Node {node} (errors)" in text
    assert name in text
    assert "mine.safetensors" in text


def test_an_empty_lora_slot_and_a_built_in_vae_need_no_file() -> None:
    assert check_graph(graph("text2img_nolora"), {"loras": []}) is None
    assert check_graph(changed("3", "vae_name", "pixel_space"), {"vae": []}) is None


REFUSALS = [
    ("12", "steps", 0, "'value_smaller_than_min', 'message': 'Value 0 smaller than min of 1', 'details': 'steps'"),
    ("12", "denoise", 1.5, "'value_bigger_than_max', 'message': 'Value 1.5 bigger than max of 1.0'"),
    ("13", "noise_seed", -1, "'value_smaller_than_min'"),
    ("13", "noise_seed", 2**64, "'value_bigger_than_max'"),
    ("14", "width", 8, "'value_smaller_than_min'"),
    ("14", "width", 20000, "'value_bigger_than_max'"),
    ("12", "steps", "many", "'Failed to convert an input value to a INT value'"),
    ("12", "steps", None, "'invalid_input_type'"),
    ("12", "denoise", "half", "'Failed to convert an input value to a FLOAT value'"),
    ("11", "sampler_name", "oiler", "\"sampler_name: 'oiler' not in (list of length 42)\""),
    ("12", "scheduler", "plain", "\"scheduler: 'plain' not in ['simple', 'sgm_uniform',"),
    ("2", "type", "fluxx", "not in ['sdxl', 'sd3', 'flux',"),
    ("4", "mode", "easy", "not in ['simple', 'advanced']"),
    ("16", "samples", ["15"], "'Bad linked input, must be a length-2 list of [node_id, slot_index]'"),
    ("16", "samples", ["3", 0], "'samples, received_type(VAE) mismatch input_type(LATENT)'"),
    ("16", "samples", ["404", 0], "'Exception when validating inner node', 'details': \"'404'\""),
    ("16", "samples", ["15", 7], "'tuple index out of range'"),
    ("17", "images", ["404", 0], "'Exception when validating node', 'details': \"'404'\""),
    ("16", "samples", [["15"], 0], "'exception_during_inner_validation'"),
]


@pytest.mark.parametrize(("node", "name", "value", "expected"), REFUSALS)
def test_a_wrong_value_is_refused_in_comfyuis_words(node: str, name: str, value: object, expected: str) -> None:
    text = check_graph(changed(node, name, value))
    assert text is not None
    assert text.startswith(f"Workflow validation failed:\n• Node {node} (errors): [{{'type': ")
    assert expected in text
    assert text.count("(errors)") == 1  # nodes below a bad one are not blamed


@pytest.mark.parametrize("name", ["scheduler", "steps", "model"])
def test_a_missing_required_input_is_refused_by_name(name: str) -> None:
    edited = graph()
    del edited["12"]["inputs"][name]
    expected = f"{{'type': 'required_input_missing', 'message': 'Required input is missing', 'details': '{name}'"
    assert expected in str(check_graph(edited))


def test_a_missing_optional_input_is_accepted() -> None:
    edited = graph()
    del edited["2"]["inputs"]["device"]
    assert check_graph(edited) is None


def test_a_node_without_inputs_is_refused() -> None:
    edited = graph()
    del edited["12"]["inputs"]
    assert "'exception_during_inner_validation'" in str(check_graph(edited))


def test_choices_in_the_new_spelling_are_checked_too() -> None:
    scaled = graph("upscale")
    scaled["4"] = {
        "class_type": "ImageScaleToTotalPixels",
        "inputs": {"image": ["3", 0], "upscale_method": "magic", "megapixels": 1.0},
    }
    assert "\"upscale_method: 'magic' not in ['nearest-exact'," in str(check_graph(scaled))


def test_every_fault_of_every_node_is_told_with_the_outputs_it_spoils() -> None:
    edited = changed("12", "steps", 0) | {
        "99": {"class_type": "PreviewImage", "inputs": {"images": ["16", 0]}},
    }
    edited["12"]["inputs"]["denoise"] = 2
    edited["8"]["inputs"]["clip"] = ["1", 0]
    text = str(check_graph(edited))
    assert text.count("(errors)") == 2
    assert "'value_smaller_than_min'" in text
    assert "'value_bigger_than_max'" in text
    assert "• Node 8 (dependent_outputs): ['17', '99']" in text


def test_a_fault_behind_a_negative_prompt_is_told_with_its_output() -> None:
    edited = changed("18", "conditioning", ["1", 0], "pose")
    assert "• Node 18 (dependent_outputs): ['17']" in str(check_graph(edited))


def test_a_graph_that_goes_round_in_a_circle_is_refused() -> None:
    edited = graph("upscale")
    edited["3"]["inputs"]["image"] = ["4", 0]
    assert "maximum recursion depth exceeded" in str(check_graph(edited))


def test_an_unknown_class_is_refused_with_the_raw_response() -> None:
    edited = graph()
    edited["12"]["class_type"] = "NoSuchNode"
    text = str(check_graph(edited))
    head, _, raw = text.partition(" Raw response: ")
    assert head == "Cannot execute because node NoSuchNode does not exist.."
    assert json.loads(raw)["error"]["details"] == "Node ID '#12'"


@pytest.mark.parametrize("entry", ["made with love", [], {"title": "no class"}])
def test_a_root_entry_that_is_not_a_node_is_refused(entry: object) -> None:
    text = str(check_graph(graph() | {"_comment": entry}))
    assert text.startswith("Cannot execute because a node is missing the class_type property.. Raw response: {")
    assert "Node ID '#_comment'" in text


def test_a_graph_without_an_output_is_refused() -> None:
    edited = graph()
    del edited["17"]
    assert str(check_graph(edited)).startswith('Prompt has no outputs. Raw response: {"error": {"type": "prompt_no')
    assert str(check_graph({})).startswith("Prompt has no outputs. ")


UI_EXPORT = {"id": "f3", "revision": 0, "last_node_id": 9, "nodes": [{"id": 1, "type": "KSampler"}], "links": []}


@pytest.mark.parametrize("root", [UI_EXPORT, ["nodes"], "text", 7, graph() | {"version": 0.4}])
def test_what_is_no_api_graph_breaks_the_server(root: object) -> None:
    assert str(check_graph(root)).startswith("Error queuing workflow: 500 Server Error")


# --- the whole input -------------------------------------------------------------------------------------------------

PICTURE = base64.b64encode(b"any bytes").decode()


@pytest.mark.parametrize("extra", [{}, {"images": None}, {"images": []}, {"force_download": True}])
def test_a_job_input_with_a_good_graph_is_accepted(extra: dict[str, Any]) -> None:
    assert check_input({"workflow": graph(), **extra}) is None


@pytest.mark.parametrize("job_input", [{}, {"workflow": None}, {"prompt": "a cat"}, '{"prompt": "a cat"}'])
def test_an_input_without_a_workflow_is_refused(job_input: object) -> None:
    assert check_input(job_input) == "Missing 'workflow' parameter"


def test_an_input_that_is_no_object_is_refused() -> None:
    assert check_input(None) == "Please provide input"
    assert check_input("{") == "Invalid JSON format in input"


def test_models_are_checked_in_a_whole_input_too() -> None:
    assert "unet_name" in str(check_input({"workflow": graph()}, {"unet": ["other.safetensors"]}))


@pytest.mark.parametrize("images", [{}, "x.png", [{"name": "x.png"}], [{"image": PICTURE}], ["x.png"]])
def test_pictures_of_another_shape_are_refused(images: object) -> None:
    expected = "'images' must be a list of objects with 'name' and 'image' keys"
    assert check_input({"workflow": graph(), "images": images}) == expected


@pytest.mark.parametrize(
    ("data", "reason"),
    [("abc", "Error decoding base64 for x.png: Incorrect padding"), (5, "Unexpected error uploading x.png: ")],
)
def test_a_picture_that_does_not_decode_is_refused_and_named(data: object, reason: str) -> None:
    job_input = {"workflow": graph(), "images": [{"name": "y.png", "image": PICTURE}, {"name": "x.png", "image": data}]}
    assert check_input(job_input) == "Failed to upload one or more input images"
    (fault,) = upload_errors(job_input)
    assert fault.startswith(reason)


def test_a_graph_may_load_the_pictures_that_came_with_it_and_no_others() -> None:
    img2img = graph("img2img")
    sent = [{"name": "input.png", "image": f"data:image/png;base64,{PICTURE}"}]
    assert check_input({"workflow": img2img, "images": sent}) is None
    assert "image - Invalid image file: input.png" in str(check_input({"workflow": img2img}))
    assert check_input({"workflow": img2img}, {"input": ["input.png"]}) is None


# --- what is asked for -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(set(NAMES) - FROM_A_PICTURE - {"modelfree", "text2img_upscale"}))
def test_the_wish_of_a_graph_is_found_whatever_its_ids(name: str) -> None:
    renamed = json.dumps(graph(name))
    for node_id in graph(name):
        renamed = renamed.replace(f'"{node_id}": {{"inputs"', f'"n{node_id}": {{"inputs"')
        renamed = renamed.replace(f'["{node_id}", ', f'["n{node_id}", ')
    assert not set(json.loads(renamed)) & set(graph(name))
    wish = read_wish(json.loads(renamed))
    assert wish == read_wish(graph(name))
    assert (wish.width, wish.height, wish.seed) == (1360, 768, 123456789)
    assert wish.prompt == "film still of alice and bob in a rainy neon street"
    assert wish.steps == (4 if name == "schnell" else 20)
    assert wish.batch_size == (4 if name.endswith("batch4") else 1)


def test_the_original_template_asks_for_its_three_loras_in_order() -> None:
    assert read_wish(graph("normal_image_v4")).loras == (
        ("style_ink_intensity.safetensors", 1.0),
        ("actor_a.safetensors", 0.6375),
        ("actor_b.safetensors", 0.6375),
    )


def test_a_stack_and_a_chain_of_the_same_loras_ask_for_the_same() -> None:
    assert read_wish(graph("text2img_core_only")) == read_wish(graph("text2img"))
    assert len(read_wish(graph("text2img")).loras) == 4


def test_a_stack_counts_only_the_slots_it_says_and_only_when_switched_on() -> None:
    assert len(read_wish(changed("4", "num_loras", 2)).loras) == 2
    assert read_wish(changed("4", "toggle", False)).loras == ()


def test_the_advanced_mode_of_a_stack_uses_the_model_strength() -> None:
    edited = changed("4", "mode", "advanced")
    edited["4"]["inputs"]["lora_1_model_strength"] = 0.31
    assert read_wish(edited).loras[0][1] == 0.31


@pytest.mark.parametrize(("width", "finished"), [(1365, 1360), (1360, 1360), (1367, 1360), (1368, 1368)])
def test_latents_are_floored_to_whole_cells(width: int, finished: int) -> None:
    assert read_wish(changed("14", "width", width)).width == finished


def test_sizes_follow_the_picture_through_upscaling() -> None:
    assert (read_wish(graph("text2img_upscale")).width, read_wish(graph("text2img_upscale")).height) == (2720, 1536)
    assert read_wish(changed("1", "width", 777, "modelfree")).width == 777


def test_the_positive_prompt_is_meant_even_where_the_negative_one_stands_first() -> None:
    edited = graph("text2img_ksampler")
    sampler = next(node for node in edited.values() if node["class_type"] == "KSampler")
    clip = edited["8"]["inputs"]["clip"]
    negative = {"class_type": "CLIPTextEncode", "inputs": {"text": "blurry", "clip": clip}}
    sampler["inputs"] = {"negative": ["0", 0]} | sampler["inputs"] | {"negative": ["0", 0]}
    assert read_wish({"0": negative} | edited).prompt == "film still of alice and bob in a rainy neon street"


def test_the_picture_that_is_saved_counts_and_not_a_preview() -> None:
    preview = {
        "90": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0}},
        "91": {"class_type": "PreviewImage", "inputs": {"images": ["90", 0]}},
    }
    assert read_wish(preview | graph()) == read_wish(graph())
    assert read_wish(preview).width == 64


@pytest.mark.parametrize("factor", [float("nan"), float("inf"), "nan", 1e308, None, {}])
def test_a_senseless_scale_gives_a_size_all_the_same(factor: object) -> None:
    wish = read_wish(changed("4", "scale_by", factor, "upscale"))
    assert 1 <= wish.width <= 16384


def test_a_graph_that_says_nothing_gets_the_defaults() -> None:
    assert read_wish({"1": {"class_type": "SaveImage", "inputs": {}}}) == Wish("", 0, 1024, 1024, 1, 1, ())
    assert read_wish({}) == Wish("", 0, 1024, 1024, 1, 1, ())


def json_values() -> st.SearchStrategy[Any]:
    plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(NAMES)
    return st.recursive(plain, lambda inner: st.lists(inner, max_size=3), max_leaves=4)


def odd_inputs() -> st.SearchStrategy[Any]:
    links = st.tuples(st.sampled_from("12345"), st.integers(-1, 3)).map(list)
    known = sorted({name for node in graph().values() for name in node["inputs"]} | {"scale_by", "megapixels", "image"})
    return st.dictionaries(st.sampled_from(known), links | json_values(), max_size=8)


def odd_graphs() -> st.SearchStrategy[Any]:
    classes = st.sampled_from(sorted(read_json("workflows", "object_info.json")))
    nodes = st.fixed_dictionaries({"class_type": classes, "inputs": odd_inputs()})
    save = st.just({"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}})
    return st.dictionaries(st.sampled_from("12345"), nodes | save | json_values(), max_size=5)


@settings(deadline=None, max_examples=300)
@given(odd_graphs())
def test_no_graph_breaks_the_sandbox(odd: Any) -> None:
    text = check_graph(odd, {"loras": [], "input": []})
    assert text is None or text
    wish = read_wish(odd)
    assert 1 <= wish.width <= 16384
    assert 1 <= wish.height <= 16384
    assert wish.batch_size >= 1


# --- files -----------------------------------------------------------------------------------------------------------


def test_a_models_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "models.json"
    file.write_text('{"loras": ["a.safetensors", "b.safetensors"], "unet": []}')
    assert read_models(file) == {"loras": frozenset({"a.safetensors", "b.safetensors"}), "unet": frozenset()}


@pytest.mark.parametrize(
    ("content", "field"),
    [("[]", "models"), ("{", "models"), ('{"loras": "a"}', "loras"), ('{"unet": [1]}', "unet"), (None, "models")],
)
def test_a_bad_models_file_is_refused_by_field(tmp_path: Path, content: str | None, field: str) -> None:
    file = tmp_path / "models.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(InputError) as caught:
        read_models(file)
    assert caught.value.field == field
    assert caught.value.where == str(file)


def test_data_files_are_found_and_missing_ones_named() -> None:
    assert data_path("workflows", "object_info.json").is_file()
    with pytest.raises(FileNotFoundError, match=r"workflows/nothing\.json is missing .* install asyncgen again"):
        data_path("workflows", "nothing.json")
    with pytest.raises(ValueError, match="workflows and resources"):
        data_path("tests")
