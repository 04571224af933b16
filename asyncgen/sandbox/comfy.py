"""What a ComfyUI worker makes of a job input: which inputs it refuses and in which words, and what it is to paint.

The rules are those of ComfyUI 0.3.64 `POST /prompt`, with the node classes of `workflows/object_info.json`; the words
are those of worker-comfyui 5, as they arrive in `error` of a FAILED job. Like the real thing it ignores input names it
does not know, coerces `"42"` to 42, looks only at nodes that an output needs, and accepts a graph when one of its
outputs is good. One difference: choices in the new spelling (`["COMBO", {"options": …}]`) are checked as newer
releases do, which 0.3.64 did not.

*Models* in this module are what `--models FILE` lists: category (`unet`, `vae`, `clip`, `checkpoints`, `loras`,
`controlnet`, `upscale_models`, `input` for pictures) to file names. A category that is not listed is not checked.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

from asyncgen.assets import read_json
from asyncgen.errors import InputError

Models = Mapping[str, Collection[str]]

_CATEGORIES: Final = {
    "unet_name": "unet",
    "vae_name": "vae",
    "clip_name": "clip",
    "ckpt_name": "checkpoints",
    "control_net_name": "controlnet",
    "model_name": "upscale_models",
    "lora_name": "loras",
    "image": "input",
}
_MODEL_SUFFIXES: Final = (".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin", ".gguf", ".png")
_COERCIONS: Final = {"INT": int, "FLOAT": float, "STRING": str, "BOOLEAN": bool}
# A longer list of choices is not printed: https://github.com/comfyanonymous/ComfyUI, execution.py
_LONGEST_PRINTED_LIST: Final = 20
# What a graph with missing nodes, slots or inputs, or one that goes round in a circle, raises inside ComfyUI.
_BROKEN_GRAPH: Final = (KeyError, IndexError, TypeError, AttributeError, RecursionError)
_SERVER_ERROR: Final = (
    "Error queuing workflow: 500 Server Error: Internal Server Error for url: http://127.0.0.1:8188/prompt"
)


@dataclass(frozen=True, slots=True)
class Wish:
    """What a graph asks to be painted. Sizes are pixels of the finished picture; `loras` are (file, strength)."""

    prompt: str
    seed: int
    width: int
    height: int
    batch_size: int
    steps: int
    loras: tuple[tuple[str, float], ...]


def read_models(path: Path) -> dict[str, frozenset[str]]:
    """The models file: one JSON object, category to a list of file names. Raises `InputError` naming what is wrong."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"the models file cannot be read: {error}", field="models", where=str(path)) from error
    if not isinstance(content, dict):
        raise InputError('expected an object like {"loras": ["a.safetensors"]}', field="models", where=str(path))
    for category, names in content.items():
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise InputError("expected a list of file names", field=category, where=str(path))
    return {category: frozenset(names) for category, names in content.items()}


# --- the job input ---------------------------------------------------------------------------------------------------


def check_input(job_input: object, models: Models | None = None) -> str | None:
    """The `error` a worker answers this job input with, or None when it would start to paint.

    `LoadImage` may name only pictures sent along in `images`, and those that `models` lists as `input`.
    """
    if isinstance(job_input, str):
        try:
            job_input = json.loads(job_input)
        except ValueError:
            return "Invalid JSON format in input"
    if not isinstance(job_input, Mapping):
        return "Please provide input"
    if job_input.get("workflow") is None:
        return "Missing 'workflow' parameter"
    pictures = job_input.get("images")
    if pictures is None:
        pictures = []
    if not isinstance(pictures, list) or not all(_is_picture(picture) for picture in pictures):
        return "'images' must be a list of objects with 'name' and 'image' keys"
    if upload_errors(job_input):
        return "Failed to upload one or more input images"
    sent = {str(picture["name"]) for picture in pictures}
    known = models or {}
    return check_graph(job_input["workflow"], {**known, "input": sent.union(known.get("input", ()))})


def upload_errors(job_input: Mapping[str, Any]) -> list[str]:
    """Why pictures of a job input cannot be used, one sentence each: what arrives in `output.details`."""
    return [fault for picture in job_input.get("images") or [] if (fault := _upload_error(picture)) is not None]


def _is_picture(picture: object) -> bool:
    return isinstance(picture, Mapping) and "name" in picture and "image" in picture


def _upload_error(picture: Mapping[str, Any]) -> str | None:
    name, data = picture["name"], picture["image"]
    try:
        base64.b64decode(data.rpartition(",")[2])
    except binascii.Error as error:
        return f"Error decoding base64 for {name}: {error}"
    except (AttributeError, ValueError) as error:
        return f"Unexpected error uploading {name}: {error}"
    return None


# --- the graph -------------------------------------------------------------------------------------------------------


def check_graph(graph: object, models: Models | None = None) -> str | None:
    """The `error` a worker answers this graph with, or None when ComfyUI accepts it."""
    if not isinstance(graph, dict) or _is_ui_export(graph):
        return _SERVER_ERROR
    for node_id, node in graph.items():
        if (fault := _class_fault(node_id, node)) is not None:
            return fault
    outputs = [node_id for node_id, node in graph.items() if _schema()[node["class_type"]]["output_node"]]
    if not outputs:
        return _refusal("prompt_no_outputs", "Prompt has no outputs", "")
    return _Validation(graph, models or {}).report(outputs)


def _class_fault(node_id: str, node: object) -> str | None:
    """What is wrong with a root entry before anything is validated: every one must be a node of a known class."""
    if not isinstance(node, (dict, list, str)):
        return _SERVER_ERROR
    where = f"Node ID '#{node_id}'"
    if not isinstance(node, dict) or "class_type" not in node:
        return _refusal("invalid_prompt", "Cannot execute because a node is missing the class_type property.", where)
    class_type = node["class_type"]
    if isinstance(class_type, (dict, list)):
        return _SERVER_ERROR
    if class_type not in _schema():
        return _refusal("invalid_prompt", f"Cannot execute because node {class_type} does not exist.", where)
    return None


@cache
def _schema() -> dict[str, Any]:
    schema: dict[str, Any] = read_json("workflows", "object_info.json")
    return schema


def _is_ui_export(graph: Mapping[str, Any]) -> bool:
    return isinstance(graph.get("nodes"), list) and "links" in graph


def _refusal(kind: str, message: str, details: str) -> str:
    error = {"type": kind, "message": message, "details": details, "extra_info": {}}
    return f"{message}. Raw response: {json.dumps({'error': error, 'node_errors': {}})}"


Reason = dict[str, Any]


@dataclass(slots=True)
class _Validation:
    """One walk, from the outputs upwards, over a graph whose classes are all known."""

    graph: Mapping[str, Any]
    models: Models
    faults: dict[str, list[Reason]] = field(default_factory=dict)  # a node's own faults, in the order found
    sound: dict[str, bool] = field(default_factory=dict)  # whether the node and all upstream of it are good
    visiting: set[str] = field(default_factory=set)

    def report(self, outputs: list[str]) -> str | None:
        node_errors: dict[str, Any] = {}
        if any(self._is_sound(output, "exception_during_validation", "node") for output in outputs):
            return None
        for node_id, reasons in self.faults.items():
            dependent = [output for output in outputs if node_id in _upstream(self.graph, output)]
            class_type = self.graph[node_id]["class_type"]
            node_errors[node_id] = {"errors": reasons, "dependent_outputs": dependent, "class_type": class_type}
        return _failure_text(node_errors, self.models)

    def _is_sound(self, node_id: str, kind: str, what: str) -> bool:
        """Whether the node and all it needs are good; what is wrong is then in `faults`."""
        if node_id not in self.sound:
            try:
                self._visit(node_id)
            except _BROKEN_GRAPH as error:
                about = {"exception_type": type(error).__name__, "traceback": []}
                self.faults[node_id] = [_reason(kind, f"Exception when validating {what}", str(error), about)]
                self.sound[node_id] = False
            finally:
                self.visiting.discard(node_id)
        return self.sound[node_id]

    def _visit(self, node_id: str) -> None:
        if node_id in self.visiting:
            raise RecursionError("maximum recursion depth exceeded")
        self.visiting.add(node_id)
        upstream: list[str] = []
        reasons = list(self._reasons(self.graph[node_id], upstream))
        if reasons:
            self.faults[node_id] = reasons
        are_sound = [self._is_sound(above, "exception_during_inner_validation", "inner node") for above in upstream]
        self.sound[node_id] = all(are_sound) and not reasons

    def _reasons(self, node: Mapping[str, Any], upstream: list[str]) -> Iterator[Reason]:
        """The node's own faults; the nodes its good links lead to are added to `upstream`."""
        declared, inputs = _schema()[node["class_type"]]["input"], node["inputs"]
        for name in declared.get("required", {}):
            if name not in inputs:
                yield _reason("required_input_missing", "Required input is missing", name, {"input_name": name})
        for name, spec in (declared.get("required", {}) | declared.get("optional", {})).items():
            if name not in inputs:
                continue
            value = inputs[name]
            check = self._link_fault if isinstance(value, list) else self._value_fault
            if fault := check(name, spec, value):
                yield fault
            elif isinstance(value, list):
                upstream.append(value[0])

    def _link_fault(self, name: str, spec: list[Any], link: list[Any]) -> Reason | None:
        if len(link) != 2:
            message = "Bad linked input, must be a length-2 list of [node_id, slot_index]"
            return _reason("bad_linked_input", message, name, _about(name, spec, link))
        received = tuple(_schema()[self.graph[link[0]]["class_type"]]["output"])[link[1]]
        if received == spec[0] or "*" in (received, spec[0]):
            return None
        about = {"input_name": name, "input_config": _config(spec), "received_type": received, "linked_node": link}
        details = f"{name}, received_type({received}) mismatch input_type({spec[0]})"
        return _reason("return_type_mismatch", "Return type mismatch between linked nodes", details, about)

    def _value_fault(self, name: str, spec: list[Any], value: Any) -> Reason | None:
        kind, limits = _config(spec)
        try:
            value = _COERCIONS[kind](value) if isinstance(kind, str) and kind in _COERCIONS else value
        except (TypeError, ValueError, OverflowError) as error:
            message, details = f"Failed to convert an input value to a {kind} value", f"{name}, {value}, {error}"
            return _reason("invalid_input_type", message, details, _about(name, spec, value))
        if "min" in limits and value < limits["min"]:
            message = f"Value {value} smaller than min of {limits['min']}"
            return _reason("value_smaller_than_min", message, name, _about(name, spec, value))
        if "max" in limits and value > limits["max"]:
            message = f"Value {value} bigger than max of {limits['max']}"
            return _reason("value_bigger_than_max", message, name, _about(name, spec, value))
        return self._choice_fault(name, spec, value)

    def _choice_fault(self, name: str, spec: list[Any], value: Any) -> Reason | None:
        choices, category = _choices(spec), _category(name)
        if choices is not None and category is not None:
            choices = _installed(choices, self.models[category]) if category in self.models else None
        if choices is None or value in choices:
            return None
        if category == "input":
            details = f"{name} - Invalid image file: {value}"
            message = "Custom validation failed for node"
            return _reason("custom_validation_failed", message, details, {"input_name": name})
        is_long = len(choices) > _LONGEST_PRINTED_LIST
        printed = f"(list of length {len(choices)})" if is_long else str(choices)
        about = _about(name, spec, value) | {"input_config": None if is_long else [choices, _config(spec)[1]]}
        return _reason("value_not_in_list", "Value not in list", f"{name}: {value!r} not in {printed}", about)


def _reason(kind: str, message: str, details: str, extra_info: dict[str, Any]) -> Reason:
    return {"type": kind, "message": message, "details": details, "extra_info": extra_info}


def _about(name: str, spec: list[Any], value: Any) -> dict[str, Any]:
    return {"input_name": name, "input_config": _config(spec), "received_value": value}


def _config(spec: list[Any]) -> list[Any]:
    return [spec[0], spec[1] if len(spec) > 1 else {}]


def _choices(spec: list[Any]) -> list[Any] | None:
    """What a combo offers, in the old spelling (`[[…], {…}]`) or the new; None for any other input."""
    kind, options = _config(spec)
    if isinstance(kind, list):
        return kind
    return list(options.get("options", [])) if kind == "COMBO" else None


def _category(name: str) -> str | None:
    """The models category an input chooses from: `lora_3_name` and `clip_name1` are numbered."""
    return _CATEGORIES.get(re.sub(r"_\d+_name$", "_name", re.sub(r"\d+$", "", name)))


def _installed(choices: list[Any], files: Collection[str]) -> list[Any]:
    built_in = [choice for choice in choices if not str(choice).endswith(_MODEL_SUFFIXES)]  # "None", "pixel_space"
    return built_in + sorted(files)


def _failure_text(node_errors: Mapping[str, Mapping[str, Any]], models: Models) -> str:
    bullets = [f"• Node {node} ({key}): {value}" for node, about in node_errors.items() for key, value in about.items()]
    text = "\n".join(["Workflow validation failed:", *bullets])
    if not any("not in list" in bullet and "ckpt_name" in bullet for bullet in bullets):
        return text
    files = sorted(models.get("checkpoints", ()))
    if files:
        return f"{text}\n\nAvailable checkpoint models: {', '.join(files)}"
    return f"{text}\n\nNo checkpoint models appear to be available. Please check your model installation."


# --- what it asks for ------------------------------------------------------------------------------------------------

_DEFAULT_SIZE: Final = (1024, 1024)
_MAX_SIDE: Final = 16384
_LATENT_GRID: Final = 8  # a latent holds whole cells of 8 pixels: odd sizes are floored
_TEXT_INPUTS: Final = ("text", "t5xxl", "clip_l", "prompt")
# The inputs that carry the picture through a node, on the way back from the output to where its size is decided.
_PICTURE_INPUTS: Final = ("images", "image", "pixels", "samples", "latent_image", "latent")


def read_wish(graph: Mapping[str, Any], sizes: Mapping[str, tuple[int, int]] | None = None) -> Wish:
    """What to paint, found by following the links back from the node that saves, whatever the ids and titles are.

    `sizes` are those of the pictures that a `LoadImage` may name. Never raises on a graph that `check_graph` accepts;
    what it cannot find is "" or 0 or 1, and 1024 x 1024.
    """
    output = _output_node(graph)
    nodes = [_inputs(graph, node_id) for node_id in _upstream(graph, output, without=("negative",))]
    width, height, batch_size = _read_size(graph, output, sizes or {})
    return Wish(
        prompt=_first_text(nodes),
        seed=_first_number(nodes, ("noise_seed", "seed"), 0),
        width=width,
        height=height,
        batch_size=batch_size,
        steps=_first_number(nodes, ("steps",), 1),
        loras=tuple(lora for node in nodes for lora in _loras(node)),
    )


def _inputs(graph: Mapping[str, Any], node_id: str) -> Mapping[str, Any]:
    node = graph.get(node_id)
    inputs = node.get("inputs") if isinstance(node, Mapping) else None
    return inputs if isinstance(inputs, Mapping) else {}


def _class_type(graph: Mapping[str, Any], node_id: str) -> str:
    node = graph.get(node_id)
    return str(node.get("class_type", "")) if isinstance(node, Mapping) else ""


def _linked(value: object) -> str | None:
    """The id of the node that a link leads to, or None when the value is not a link."""
    return value[0] if isinstance(value, list) and value and isinstance(value[0], str) else None


def _output_node(graph: Mapping[str, Any]) -> str:
    """The node whose picture the worker returns: one that saves, else one that previews, else the last."""
    schema = _schema()
    classes = {node_id: _class_type(graph, node_id) for node_id in graph}
    outputs = [node_id for node_id, name in classes.items() if schema.get(name, {}).get("output_node")]
    saving = [node_id for node_id, name in classes.items() if name.startswith("Save")]
    return next(iter([*saving, *outputs, *reversed(classes)]), "")


def _upstream(graph: Mapping[str, Any], output: str, without: Collection[str] = ()) -> list[str]:
    """The node and all it needs, each after what it needs itself; inputs named in `without` are not followed."""
    order: dict[str, None] = {}
    seen: set[str] = set()
    stack = [(output, False)]
    while stack:
        node_id, is_done = stack.pop()
        if is_done:
            order[node_id] = None
        elif node_id in graph and node_id not in seen:
            seen.add(node_id)
            stack.append((node_id, True))
            links = [_linked(value) for name, value in _inputs(graph, node_id).items() if name not in without]
            stack += [(link, False) for link in reversed(links) if link is not None]
    return list(order)


def _picture_path(graph: Mapping[str, Any], output: str) -> list[str]:
    """The nodes the picture passes through, from where it begins to the output."""
    path: list[str] = []
    node_id: str | None = output
    while node_id is not None and node_id in graph and node_id not in path:
        path.append(node_id)
        inputs = _inputs(graph, node_id)
        node_id = next((link for name in _PICTURE_INPUTS if (link := _linked(inputs.get(name)))), None)
    return path[::-1]


def _read_size(graph: Mapping[str, Any], output: str, sizes: Mapping[str, tuple[int, int]]) -> tuple[int, int, int]:
    """Width, height and number of the pictures that leave `output`."""
    size, batch_size = _DEFAULT_SIZE, 1
    for node_id in _picture_path(graph, output):
        inputs = _inputs(graph, node_id)
        size = sizes.get(str(inputs.get("image")), _size_after(graph, node_id, size))
        batch_size = int(_number(inputs, "batch_size", batch_size) * _number(inputs, "amount", 1))
    return (*size, max(batch_size, 1))


def _size_after(graph: Mapping[str, Any], node_id: str, size: tuple[int, int]) -> tuple[int, int]:
    inputs, class_type = _inputs(graph, node_id), _class_type(graph, node_id)
    width, height = (int(_number(inputs, name, 0)) for name in ("width", "height"))
    if width <= 0 or height <= 0:
        factor = min(_scale_factor(graph, inputs, size), _MAX_SIDE)
        width, height = (round(side * factor) for side in size)
    grid = _LATENT_GRID if "Latent" in class_type or class_type.startswith(("VAEEncode", "Inpaint")) else 1
    width, height = (min(max(side // grid * grid, 1), _MAX_SIDE) for side in (width, height))
    return width, height


def _scale_factor(graph: Mapping[str, Any], inputs: Mapping[str, Any], size: tuple[int, int]) -> float:
    if "megapixels" in inputs:
        return math.sqrt(max(_number(inputs, "megapixels", 1.0), 0) * 1024 * 1024 / (size[0] * size[1]))
    loader = _linked(inputs.get("upscale_model"))
    if loader is not None:
        named = re.search(r"(\d{1,2})x|x(\d{1,2})", str(_inputs(graph, loader).get("model_name")), re.IGNORECASE)
        return float(named[1] or named[2]) if named else 4.0
    return _number(inputs, "scale_by", 1.0)


def _number(inputs: Mapping[str, Any], name: str, default: float) -> float:
    """The number an input holds (`"42"` counts, as it does for ComfyUI), or `default`."""
    try:
        number = type(default)(inputs[name])
        return number if math.isfinite(number) else default
    except (KeyError, TypeError, ValueError, OverflowError):
        return default


def _first_number(nodes: list[Mapping[str, Any]], names: Collection[str], default: int) -> int:
    holders = ((node, name) for node in nodes for name in names if isinstance(node.get(name), (int, float, str)))
    return next((int(_number(node, name, default)) for node, name in holders), default)


def _first_text(nodes: list[Mapping[str, Any]]) -> str:
    texts = (node.get(name) for name in _TEXT_INPUTS for node in nodes)
    return next((text for text in texts if isinstance(text, str) and text), "")


def _loras(node: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The LoRAs one node applies, in its order: a loader's one, or the filled slots of a stack that is switched on."""
    if isinstance(node.get("lora_name"), str):
        yield node["lora_name"], _number(node, "strength_model", 1.0)
    if not node.get("toggle", True):
        return
    kind = "model_strength" if node.get("mode") == "advanced" else "strength"
    for slot in range(1, min(int(_number(node, "num_loras", 0)), len(node)) + 1):
        name = node.get(f"lora_{slot}_name")
        if isinstance(name, str) and name not in ("", "None"):
            yield name, _number(node, f"lora_{slot}_{kind}", 1.0)
