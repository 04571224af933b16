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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeGuard

from asyncgen import assets
from asyncgen.documents import parse_json
from asyncgen.errors import WorkflowError
from asyncgen.loras import Lora, with_suffix

#: A graph in API format: node id → {"class_type": …, "inputs": {…}}.
Graph: TypeAlias = dict[str, dict[str, Any]]

BINDINGS_FORMAT: Final = "asyncgen-bindings/1"
DEFAULT_WORKFLOW: Final = "normal_image_v4_workflow"
ALIASES: Final[Mapping[str, str]] = {"v4": DEFAULT_WORKFLOW, "normal_image_v4": DEFAULT_WORKFLOW}

# Every image has its own: a template's example must never be sent in their place.
_REQUIRED: Final = ("positive_prompt", "seed")
_TEXT_KEYS: Final = ("title", "description", "nodes", "variables", "usage_notes", "warnings", "model_urls")
_KEYS: Final = ("format", "parameters", "lora_stack", "outputs", "images", *_TEXT_KEYS)
_MAX_SLOTS: Final = 1000
_STACK_KEYS: Final = ("kind", "node", "slots", "count", "name", "strengths", "empty_name", "empty_strength")


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
        if is_number(self.literal) and is_number(value):
            return _number_like(self.literal, value)
        if self.literal is None or type(value) is type(self.literal):
            return value
        wanted = "a number" if is_number(self.literal) else f"like {self.literal!r}"
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
        with _naming(path):
            graph = _read_json(path)
            _check_graph(graph)
        bindings_path = path.with_suffix(".bindings.json")
        if not bindings_path.is_file():
            raise WorkflowError(
                f"the bindings file is missing: write {bindings_path.name} beside the graph, to say which node input "
                "takes which parameter",
                where=str(path),
            )
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


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a value is a number in JSON's sense: true and false are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number_like(literal: int | float, value: int | float) -> int | float:
    """The value as int or float like the literal, unless that would change it."""
    other: int | float = float(value) if isinstance(literal, float) else int(value)
    return other if other == value else value


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint at the closest known name, to be put behind a message; empty where none is close."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


# Files ------------------------------------------------------------------------------------------------------------


def _located(name_or_path: str | Path, user_folder: Path | None) -> Path:
    """The graph file. A text with a separator or a suffix is a path, any other is a name."""
    try:
        return _found(name_or_path, user_folder)
    except OSError as error:  # a name that no file system takes
        raise WorkflowError(
            f"cannot be looked for: {error.strerror}", field="workflow", where=str(name_or_path)
        ) from None


def _found(name_or_path: str | Path, user_folder: Path | None) -> Path:
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
    return WorkflowError(f"there is no workflow {name!r}{nearest(name, names)}; known: {known}", field="workflow")


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Adds the file's name to the errors inside."""
    try:
        yield
    except WorkflowError as error:
        raise error.at(str(path)) from error.__cause__


def _read_json(path: Path) -> Any:
    try:
        return parse_json(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise WorkflowError(f"cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise WorkflowError(f"is not valid JSON: {error}") from error


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
    try:
        json.dumps(graph, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise WorkflowError("holds half of a surrogate pair, which no server takes: repair the text") from None


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
            raise WorkflowError(f"{what} have no key {key!r}{nearest(key, known)}; the keys are: {', '.join(known)}")


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
            f"{what} is bound to the input {name!r}, which {title} does not have{nearest(str(name), inputs)}"
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
        "slots": type(stack["slots"]) is int and 1 <= stack["slots"] <= _MAX_SLOTS,
        "count": isinstance(stack["count"], str),
        "name": isinstance(stack["name"], str) and "{slot}" in stack["name"],
        "strengths": isinstance(stack["strengths"], list)
        and all(isinstance(name, str) and "{slot}" in name for name in stack["strengths"]),
        "empty_name": isinstance(stack["empty_name"], str),
        "empty_strength": is_number(stack["empty_strength"]),
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
