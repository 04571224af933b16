"""A ComfyUI graph as a template: which node input takes which parameter, and a filled copy for each image.

A template is two files: the graph as ComfyUI exports it in API format, and `NAME.bindings.json` beside it::

    {"format": "asyncgen-bindings/1",
     "parameters": {"width": [{"node": "27", "input": "width"}, {"node": "30", "input": "width"}],
                    "model": [{"node": "1", "input": "unet_name", "file_suffix": ".safetensors"}]},
     "lora_stack": {"kind": "stack", "node": "43", "slots": 10, "count": "num_loras", "name": "lora_{slot}_name",
                    "strengths": ["lora_{slot}_strength"], "empty_name": "None", "empty_strength": 1},
     "outputs": ["38"],
     "images": {"init_image": [{"node": "20", "input": "image"}]}}

`images` are parameters too: their value is the name under which the picture is sent. `kind` leaves room for other ways
of loading LoRAs, such as a chain of LoraLoader nodes. Texts for people may stand beside these: title, description,
nodes, variables, usage_notes, warnings, model_urls.

Everything is pure but `Template.load`, which reads the two files.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeGuard

from asyncgen import assets
from asyncgen.errors import InputError, WorkflowError
from asyncgen.loras import Lora, stack_loras, with_suffix
from asyncgen.request import MAX_SEED, RANDOM_SEED

#: A graph in API format: node id → {"class_type": …, "inputs": {…}}.
Graph: TypeAlias = dict[str, dict[str, Any]]

BINDINGS_FORMAT: Final = "asyncgen-bindings/1"
DEFAULT_WORKFLOW: Final = "normal_image_v4_workflow"
ALIASES: Final[Mapping[str, str]] = {"v4": DEFAULT_WORKFLOW, "normal_image_v4": DEFAULT_WORKFLOW}

#: What an image is made with where neither the caller nor the style says anything.
DEFAULTS: Final[Mapping[str, Any]] = {
    "width": 1360,
    "height": 768,
    "steps": 20,
    "model": "flux1-dev-fp8",
    "sampler_name": "euler",
    "scheduler_name": "simple",
    "flux_guidance": 3.5,
    "batch_size": 1,
    "lora_strength": 1.0,
    "character_lora_strength": 0.85,
    "cine_lora_strength": 0.0,
}

_CONTAINERS: Final = frozenset({dict, list})
# Every image has its own: a template's example must never be sent in their place.
_REQUIRED: Final = ("positive_prompt", "seed")
_TEXT_KEYS: Final = ("title", "description", "nodes", "variables", "usage_notes", "warnings", "model_urls")
_KEYS: Final = ("format", "parameters", "lora_stack", "outputs", "images", *_TEXT_KEYS)
_STACK_KEYS: Final = ("kind", "node", "slots", "count", "name", "strengths", "empty_name", "empty_strength")

# Measured with ComfyUI-Easy-Use 1.3.7.
_CLASS_WARNINGS: Final[Mapping[str, tuple[str, ...]]] = {
    "easy loraStackApply": (
        "the node 'easy loraStackApply' gives every LoRA to the model but only the last one to CLIP: trigger words of "
        "the others work less well than with 'CR Apply LoRA Stack' or a chain of LoraLoader nodes",
        "the node 'easy loraStackApply' matches LoRA files by the end of their names: 'bob' may load 'AA_bob'; give "
        "files names of which none ends in another",
    ),
}


@dataclass(frozen=True, slots=True)
class Binding:
    """One node input that a parameter goes to.

    `literal` is the template's own value and decides the type that is sent. `file_suffix` is added to names without it.
    """

    parameter: str
    node: str
    input: str
    literal: str | int | float | bool | None
    file_suffix: str | None = None

    def converted(self, value: Any) -> Any:
        """The value in the literal's type. A fraction stays one where the export wrote 1 for 1.0.

        Raises `WorkflowError` naming node and input when the types have nothing in common.
        """
        if isinstance(self.literal, str) and isinstance(value, str):
            return with_suffix(value, self.file_suffix) if self.file_suffix else value
        if _is_number(self.literal) and _is_number(value):
            return _number_like(self.literal, value)
        if self.literal is None or type(value) is type(self.literal):
            return value
        wanted = "a number" if _is_number(self.literal) else f"like {self.literal!r}"
        raise WorkflowError(
            f"must be {wanted} for the input {self.input!r} of node {self.node}, not {value!r}", field=self.parameter
        )


@dataclass(frozen=True, slots=True)
class LoraSlot:
    """The inputs of one place in a LoRA stack node."""

    name: str
    strengths: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LoraStack:
    """A node that loads LoRAs from numbered slots, `count` of which it reads."""

    node: str
    count: str
    slots: tuple[LoraSlot, ...]
    empty_name: str
    empty_strength: int | float

    def assignments(self, loras: Sequence[Lora]) -> dict[str, Any]:
        """Every input of the node that LoRAs decide. Raises `WorkflowError` naming the LoRAs when they are too many."""
        if len(loras) > len(self.slots):
            names = ", ".join(lora.name for lora in loras)
            raise WorkflowError(
                f"{len(loras)} LoRAs do not fit into the workflow's {len(self.slots)} slots: {names}", field="loras"
            )
        inputs: dict[str, Any] = {self.count: max(1, len(loras))}
        for slot, lora in zip(self.slots, loras, strict=False):
            inputs[slot.name] = lora.name
            inputs.update(dict.fromkeys(slot.strengths, lora.strength))
        for slot in self.slots[len(loras) :]:
            inputs[slot.name] = self.empty_name
            inputs.update(dict.fromkeys(slot.strengths, self.empty_strength))
        return inputs


@dataclass(frozen=True, slots=True)
class Template:
    """A graph with its bindings. It is shared by all images: fill it, never change it.

    `digest` (32 hex digits) changes with anything that can change a picture, not with texts and node titles.
    """

    name: str
    graph: Graph
    bindings: Mapping[str, Any]
    parameters: Mapping[str, tuple[Binding, ...]]  # the input pictures among them
    required: tuple[str, ...]
    images: tuple[str, ...]
    lora_stack: LoraStack | None
    outputs: tuple[str, ...]
    digest: str

    @classmethod
    def load(cls, name_or_path: str | Path = DEFAULT_WORKFLOW, user_folder: Path | None = None) -> Template:
        """A shipped workflow by name or alias, one of `user_folder/workflows` by name, or any graph file.

        A file needs its bindings beside it. Raises `WorkflowError` naming file, node and input of what is wrong.
        """
        path = _located(name_or_path, user_folder)
        bindings_path = path.with_suffix(".bindings.json")
        if not bindings_path.is_file():
            raise WorkflowError(
                f"the bindings file is missing: write {bindings_path.name} beside the graph, to say which node input "
                "takes which parameter",
                where=str(path),
            )
        with _naming(path):
            graph = _read_json(path)
            _check_graph(graph)
        with _naming(bindings_path):
            return cls.from_json(path.stem, graph, _read_json(bindings_path))

    @classmethod
    def from_json(cls, name: str, graph: Any, bindings: Any) -> Template:
        """The template of a parsed graph and parsed bindings. Raises `WorkflowError` naming node and input."""
        _check_graph(graph)
        _check_bindings(bindings)
        images = bindings.get("images", {})
        places = {**bindings["parameters"], **images}
        parameters = {name: tuple(_bindings_of(graph, name, where)) for name, where in places.items()}
        _check_bound_once(binding for bound in parameters.values() for binding in bound)
        stack = bindings.get("lora_stack")
        return cls(
            name=name,
            graph=graph,
            bindings=bindings,
            parameters=parameters,
            required=tuple(name for name in parameters if name in _REQUIRED or name in images),
            images=tuple(images),
            lora_stack=None if stack is None else _lora_stack(graph, stack),
            outputs=tuple(_outputs(graph, bindings["outputs"])),
            digest=_digest(graph, bindings),
        )

    def binds(self, parameter: str) -> bool:
        """Whether the workflow takes this parameter."""
        return parameter in self.parameters


class WorkflowBuilder:
    """Builds the graph of one image from a template."""

    def __init__(self, template: Template | None = None, draw_seed: Callable[[], int] | None = None) -> None:
        """`template` None is the shipped V4 workflow. `draw_seed` supplies the seed where -1 is asked for."""
        self.template = template or Template.load()
        self._draw_seed = draw_seed

    def build_lora_stack(
        self,
        lora_name: str | None = None,
        lora_strength: float = 1.0,
        character_loras: Sequence[str] | None = None,
        character_lora_strength: float = 0.85,
        cine_lora_strength: float = 0.0,
    ) -> dict[str, Any]:
        """All inputs of the stack node for these LoRAs; see `asyncgen.loras.stack_loras` for order and strengths.

        Raises `InputError` for a strength out of range and `WorkflowError` naming the LoRAs when they are too many,
        or when the workflow takes none.
        """
        loras = stack_loras(lora_name, lora_strength, character_loras, character_lora_strength, cine_lora_strength)
        stack = self.template.lora_stack
        if stack is None:
            raise _no_lora_stack(loras)
        inputs: dict[str, Any] = _fresh(self.template.graph[stack.node]["inputs"])
        return inputs | stack.assignments(loras)

    def build_workflow(
        self,
        positive_prompt: str,
        width: int = 1360,
        height: int = 768,
        steps: int = 20,
        seed: int = RANDOM_SEED,
        model: str = "flux1-dev-fp8",
        sampler_name: str = "euler",
        scheduler_name: str = "simple",
        flux_guidance: float = 3.5,
        batch_size: int = 1,
        lora_name: str | None = None,
        lora_strength: float = 1.0,
        character_loras: Sequence[str] | None = None,
        character_lora_strength: float = 0.85,
        cine_lora_strength: float = 0.0,
        **parameters: Any,
    ) -> Graph:
        """A fresh graph, ready to be sent; `parameters` are further ones that the workflow binds.

        A default that the workflow does not bind is left out. Raises `InputError` or `WorkflowError` naming field and
        value of what is wrong.
        """
        usual = {
            "width": width,
            "height": height,
            "steps": steps,
            "model": model,
            "sampler_name": sampler_name,
            "scheduler_name": scheduler_name,
            "flux_guidance": flux_guidance,
            "batch_size": batch_size,
        }
        said = {name: value for name, value in usual.items() if self.template.binds(name) or value != DEFAULTS[name]}
        loras = stack_loras(lora_name, lora_strength, character_loras, character_lora_strength, cine_lora_strength)
        own = {"positive_prompt": positive_prompt, "seed": self._resolved(seed)}
        return fill(self.template, {**own, **said, **parameters}, loras)

    def _resolved(self, seed: int) -> int:
        if seed != RANDOM_SEED:
            return seed
        if self._draw_seed is None:
            raise InputError("the seed -1 must be drawn before a graph is built: give a seed", field="seed")
        return self._draw_seed()


def fill(template: Template, parameters: Mapping[str, Any], loras: Sequence[Lora] = ()) -> Graph:
    """A graph that shares nothing with the template, parameters and LoRAs in place; a None keeps its value.

    Raises `InputError` naming a value that is wrong, and `WorkflowError` naming a parameter that the workflow does not
    bind, a prompt, seed or picture that is missing, or LoRAs that do not fit.
    """
    _check_required(template, parameters)
    graph: Graph = _fresh(template.graph)
    for name, value in parameters.items():
        if value is None:
            continue
        bindings = template.parameters.get(name)
        if bindings is None:
            raise _not_bound(template, name)
        check_value(name, value)
        for binding in bindings:
            graph[binding.node]["inputs"][binding.input] = binding.converted(value)
    if template.lora_stack is not None:
        graph[template.lora_stack.node]["inputs"].update(template.lora_stack.assignments(loras))
    elif loras:
        raise _no_lora_stack(loras)
    return graph


def warnings(template: Template) -> tuple[str, ...]:
    """What the owner of a run should be told once: known traps of the graph's nodes, and the bindings' own warnings."""
    classes = dict.fromkeys(node["class_type"] for node in template.graph.values())
    known = (text for name in classes for text in _CLASS_WARNINGS.get(name, ()))
    return (*known, *template.bindings.get("warnings", ()))


# Values -----------------------------------------------------------------------------------------------------------


def check_value(name: str, value: object) -> None:
    """Refuse a parameter's value that no server should see. Raises `InputError` naming parameter and value.

    Parameters that only a workflow's bindings know must be a text, a finite number, or true or false.
    """
    _CHECKS.get(name, _check_plain)(name, value)


def _whole(low: int, high: int, multiple: int = 1) -> Callable[[str, object], None]:
    text = f"a whole number from {low} to {high}" + (f", a multiple of {multiple}" if multiple > 1 else "")

    def check(name: str, value: object) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high or value % multiple:
            raise InputError(f"must be {text}, not {value!r}", field=name)

    return check


def _check_seed(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_SEED:
        raise InputError(f"a seed that is sent is a whole number from 0 to {MAX_SEED}, not {value!r}", field=name)


def _check_guidance(name: str, value: object) -> None:
    if not _is_number(value) or not 0 <= value <= _MAX_GUIDANCE:
        raise InputError(f"must be a number from 0 to {_MAX_GUIDANCE}, not {value!r}", field=name)


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"must be a text that is not empty, not {value!r}", field=name)


def _check_plain(name: str, value: object) -> None:
    if not isinstance(value, str | int | float) or (isinstance(value, float) and not math.isfinite(value)):
        raise InputError(f"must be a text, a finite number, true or false, not {value!r}", field=name)


# The ranges of ComfyUI's own nodes (object_info.json), but for sizes: those not divisible by 8 are floored unasked.
_MAX_GUIDANCE: Final = 100
_CHECKS: Final[Mapping[str, Callable[[str, object], None]]] = {
    "positive_prompt": _check_text,
    "width": _whole(16, 16384, multiple=8),
    "height": _whole(16, 16384, multiple=8),
    "steps": _whole(1, 10_000),
    "batch_size": _whole(1, 4096),
    "seed": _check_seed,
    "flux_guidance": _check_guidance,
    "model": _check_text,
    "sampler_name": _check_text,
    "scheduler_name": _check_text,
}


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number_like(literal: int | float, value: int | float) -> int | float:
    """The value as int or float like the literal, unless that would change it."""
    other: int | float = float(value) if isinstance(literal, float) else int(value)
    return other if other == value else value


def _fresh(value: Any) -> Any:
    """A deep copy of parsed JSON; `copy.deepcopy` takes ten times as long."""
    if type(value) is dict:
        return {key: _fresh(item) if type(item) in _CONTAINERS else item for key, item in value.items()}
    if type(value) is list:
        return [_fresh(item) for item in value]
    return value


def _check_required(template: Template, parameters: Mapping[str, Any]) -> None:
    for name in template.required:
        if parameters.get(name) is None:
            raise InputError(f"the workflow {template.name} needs this: its example is never sent", field=name)


def _not_bound(template: Template, name: str) -> WorkflowError:
    bound = ", ".join(template.parameters)
    return WorkflowError(
        f"the workflow {template.name} does not take this parameter{_nearest(name, template.parameters)}; "
        f"it takes: {bound}",
        field=name,
    )


def _no_lora_stack(loras: Iterable[Lora]) -> WorkflowError:
    names = ", ".join(lora.name for lora in loras)
    return WorkflowError(f"the workflow takes no LoRAs, but these are wanted: {names or 'none'}", field="loras")


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


# Files ------------------------------------------------------------------------------------------------------------


def _located(name_or_path: str | Path, user_folder: Path | None) -> Path:
    """The graph file. A text with a separator or a suffix is a path, any other is a name."""
    path = Path(name_or_path)
    if isinstance(name_or_path, Path) or path.suffix == ".json" or path.name != str(name_or_path):
        if not path.is_file():
            raise WorkflowError("there is no such workflow file", field="workflow", where=str(path))
        return path
    file_name = f"{ALIASES.get(str(name_or_path), name_or_path)}.json"
    own = user_folder / "workflows" / file_name if user_folder is not None else None
    if own is not None and own.is_file():
        return own
    try:
        return assets.data_path("workflows", file_name)
    except FileNotFoundError:
        raise _no_such_workflow(str(name_or_path), user_folder) from None


def _no_such_workflow(name: str, user_folder: Path | None) -> WorkflowError:
    folders = [assets.data_path("workflows"), *([user_folder / "workflows"] if user_folder else [])]
    names = sorted(
        file.name.removesuffix(".bindings.json") for folder in folders for file in folder.glob("*.bindings.json")
    )
    known = ", ".join(dict.fromkeys([*names, *ALIASES]))
    return WorkflowError(f"there is no workflow {name!r}{_nearest(name, names)}; known: {known}", field="workflow")


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Adds the file's name to the errors inside."""
    try:
        yield
    except WorkflowError as error:
        raise error.at(str(path)) from error.__cause__


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"), parse_constant=_refuse_constant)
    except OSError as error:
        raise WorkflowError(f"cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise WorkflowError(f"is not valid JSON: {error}") from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number that JSON knows")


# Checks of a graph and its bindings ---------------------------------------------------------------------------------


def _check_graph(graph: Any) -> None:
    if not isinstance(graph, dict) or not graph:
        raise WorkflowError("is not a graph: an object of nodes is expected, as ComfyUI exports in API format")
    if isinstance(graph.get("nodes"), list):
        raise WorkflowError(
            "is an export of the user interface (it has 'nodes' and 'links'): in ComfyUI choose Workflow, "
            "Export (API), and use that file"
        )
    for name, node in graph.items():
        if not isinstance(node, dict) or not isinstance(node.get("class_type"), str):
            raise WorkflowError(f"the root key {name!r} is not a node (it has no class_type): take it out")
        if not isinstance(node.get("inputs"), dict):
            raise WorkflowError(f"node {name} ({node['class_type']}) has no inputs")


def _check_bindings(bindings: Any) -> None:
    if not isinstance(bindings, dict) or bindings.get("format") != BINDINGS_FORMAT:
        raise WorkflowError(f"the bindings are not of the format {BINDINGS_FORMAT!r}: set 'format' so")
    _check_keys(bindings, _KEYS, "the bindings")
    shapes = {"parameters": dict, "outputs": list, "images": dict, "warnings": list}
    for key, shape in shapes.items():
        if not isinstance(bindings.get(key, shape()), shape):
            wanted = "an object" if shape is dict else "a list"
            raise WorkflowError(f"{key!r} must be {wanted}, not {bindings[key]!r}")
    for key in ("parameters", "outputs"):
        if not bindings.get(key):
            raise WorkflowError(f"the bindings name no {key}")


def _check_keys(value: Mapping[str, Any], known: Sequence[str], what: str) -> None:
    for key in value:
        if key not in known:
            raise WorkflowError(f"{what} have no key {key!r}{_nearest(key, known)}; the keys are: {', '.join(known)}")


def _bindings_of(graph: Graph, parameter: str, places: Any) -> Iterator[Binding]:
    if not isinstance(places, list) or not places:
        raise WorkflowError(f'the parameter {parameter!r} needs a list of places: [{{"node": …, "input": …}}]')
    return (_binding(graph, parameter, place) for place in places)


def _binding(graph: Graph, parameter: str, place: Any) -> Binding:
    what = f"the places of {parameter!r}"
    if not isinstance(place, dict) or not {"node", "input"} <= place.keys():
        raise WorkflowError(f'{what} must be like {{"node": …, "input": …}}, not {place!r}')
    _check_keys(place, ("node", "input", "file_suffix"), what)
    suffix = place.get("file_suffix")
    literal = _literal(graph, place["node"], place["input"], f"the parameter {parameter!r}")
    if suffix is not None and not (isinstance(suffix, str) and suffix.startswith(".") and isinstance(literal, str)):
        raise WorkflowError(f"{what}: a file_suffix is like '.safetensors', on an input with a file name")
    return Binding(parameter, place["node"], place["input"], literal, suffix)


def _literal(graph: Graph, node: Any, name: Any, what: str) -> Any:
    """The template's value of one input. Raises `WorkflowError` when it is missing or not a plain value."""
    if not isinstance(node, str) or node not in graph:
        raise WorkflowError(f"{what} is bound to node {node!r}, which the graph does not have")
    inputs = graph[node]["inputs"]
    title = f"node {node} ({graph[node]['class_type']})"
    if not isinstance(name, str) or name not in inputs:
        raise WorkflowError(
            f"{what} is bound to the input {name!r}, which {title} does not have{_nearest(str(name), inputs)}"
        )
    if isinstance(inputs[name], list | dict):
        raise WorkflowError(
            f"{what} is bound to the input {name!r} of {title}, which is a link: links stay as they are"
        )
    return inputs[name]


def _check_bound_once(bindings: Iterable[Binding]) -> None:
    seen: set[tuple[str, str]] = set()
    for binding in bindings:
        place = (binding.node, binding.input)
        if place in seen:
            raise WorkflowError(f"the input {binding.input!r} of node {binding.node} is bound twice")
        seen.add(place)


def _lora_stack(graph: Graph, stack: Any) -> LoraStack:
    if not isinstance(stack, dict) or stack.get("kind") != "stack":
        raise WorkflowError("the lora_stack must be an object whose 'kind' is 'stack': other kinds are not known")
    _check_keys(stack, _STACK_KEYS, "the lora_stack")
    missing = [key for key in _STACK_KEYS if key not in stack]
    if missing:
        raise WorkflowError(f"the lora_stack lacks {', '.join(missing)}")
    _check_stack_values(stack)
    slots = tuple(
        LoraSlot(
            stack["name"].replace("{slot}", str(number)),
            tuple(name.replace("{slot}", str(number)) for name in stack["strengths"]),
        )
        for number in range(1, stack["slots"] + 1)
    )
    for name in (stack["count"], *(name for slot in slots for name in (slot.name, *slot.strengths))):
        _literal(graph, stack["node"], name, "the lora_stack")
    return LoraStack(stack["node"], stack["count"], slots, stack["empty_name"], stack["empty_strength"])


def _check_stack_values(stack: Mapping[str, Any]) -> None:
    good = {
        "slots": type(stack["slots"]) is int and stack["slots"] >= 1,
        "count": isinstance(stack["count"], str),
        "name": isinstance(stack["name"], str) and "{slot}" in stack["name"],
        "strengths": isinstance(stack["strengths"], list)
        and all(isinstance(name, str) and "{slot}" in name for name in stack["strengths"]),
        "empty_name": isinstance(stack["empty_name"], str),
        "empty_strength": _is_number(stack["empty_strength"]),
    }
    for key, is_good in good.items():
        if not is_good:
            raise WorkflowError(f"the lora_stack's {key} cannot be {stack[key]!r}")


def _outputs(graph: Graph, outputs: Sequence[Any]) -> Iterator[str]:
    for node in outputs:
        if not isinstance(node, str) or node not in graph:
            raise WorkflowError(f"the output node {node!r} is not in the graph")
        yield node


def _digest(graph: Graph, bindings: Mapping[str, Any]) -> str:
    working = {node: {"class_type": body["class_type"], "inputs": body["inputs"]} for node, body in graph.items()}
    bound = {key: value for key, value in bindings.items() if key not in _TEXT_KEYS}
    text = json.dumps([working, bound], sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
