"""A ComfyUI graph as a template: which node input takes which parameter, and a filled copy for each image.

A template is two files, or three: the graph as ComfyUI exports it in API format, and `NAME.bindings.json` beside it::

    {"format": "asyncgen-bindings/1",
     "parameters": {"width": [{"node": "27", "input": "width"}, {"node": "30", "input": "width"}],
                    "model": [{"node": "1", "input": "unet_name", "file_suffix": ".safetensors"}]},
     "lora_stack": {"kind": "stack", "node": "43", "slots": 10, "count": "num_loras", "name": "lora_{slot}_name",
                    "strengths": ["lora_{slot}_strength"], "empty_name": "None", "empty_strength": 1},
     "outputs": ["38"],
     "images": {"init_image": [{"node": "20", "input": "image"}]}}

and, where it was added with them, the node classes of the server that it is for (`NAME.object_info.json`).
`images` are parameters too: their value is the name under which the picture is sent. A lora_stack of the kind "chain"
names LoraLoader `nodes` that follow each other. `"switches": {"teacache": {"node": "6", "input": "model"}}` is a
parameter, true or false, of a node that can be left out, and `"keeps": ["model"]` names parameters whose value in the
graph no style changes. Texts for people may stand beside these: title, description, nodes, variables, usage_notes,
warnings, model_urls.

Everything is pure but `Template.load`, which reads the files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from asyncgen import assets
from asyncgen.documents import parse_json
from asyncgen.errors import WorkflowError
from asyncgen.graph import Graph, called, check_keys, check_shape, consumers, is_number, link, literal, nearest
from asyncgen.lora_nodes import LoraChain, LoraStack, parse_lora_stack
from asyncgen.loras import with_suffix
from asyncgen.node_schema import NodeSchemas, parse_object_info

BINDINGS_FORMAT: Final = "asyncgen-bindings/1"
#: The folder of workflows, among the data files and in the user's folder; and what stands beside a graph there.
FOLDER: Final = "workflows"
BINDINGS_SUFFIX: Final = ".bindings.json"
SCHEMAS_SUFFIX: Final = ".object_info.json"
DEFAULT_WORKFLOW: Final = "normal_image_v4_workflow"
ALIASES: Final[Mapping[str, str]] = {"v4": DEFAULT_WORKFLOW, "normal_image_v4": DEFAULT_WORKFLOW}

# Every image has its own: a template's example must never be sent in their place.
_REQUIRED: Final = ("positive_prompt", "seed")
_TEXT_KEYS: Final = ("title", "description", "nodes", "variables", "usage_notes", "warnings", "model_urls")
# A switch does nothing until a parameter says so, and what a style may not change is in the values that are recorded.
_WITHOUT_EFFECT: Final = (*_TEXT_KEYS, "switches", "keeps")
_KEYS: Final = ("format", "parameters", "lora_stack", "outputs", "images", "switches", "keeps", *_TEXT_KEYS)


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
class Switch:
    """A node that can be left out: what it feeds is fed by what `input` is linked to."""

    node: str
    input: str

    def bypassed(self, graph: Graph) -> Graph:
        """The graph without the node; it shares what stays as it was."""
        source = graph[self.node]["inputs"][self.input]
        result = {node: body for node, body in graph.items() if node != self.node}
        for node, name, _ in consumers(graph, self.node):
            body = result[node]
            result[node] = {**body, "inputs": {**body["inputs"], name: source}}
        return result


@dataclass(frozen=True, slots=True)
class Template:
    """A graph with its bindings. It is shared by all images: fill it, never change it.

    `keeps` are the parameters whose value in the graph no style changes: only a caller does. `digest` (32 hex digits)
    changes with anything that can change a picture, not with texts and node titles. `schemas` are the node classes of
    the server that it was made on; None where they are not known.
    """

    name: str
    graph: Graph
    bindings: Mapping[str, Any]
    parameters: Mapping[str, tuple[Binding, ...]]  # the input pictures among them
    required: tuple[str, ...]
    images: tuple[str, ...]
    lora_stack: LoraStack | LoraChain | None
    switches: Mapping[str, Switch]
    keeps: frozenset[str]
    outputs: tuple[str, ...]
    digest: str
    schemas: NodeSchemas | None

    @classmethod
    def load(cls, name_or_path: str | Path = DEFAULT_WORKFLOW, user_folder: Path | None = None) -> Template:
        """A shipped workflow by name or alias, one of `user_folder/workflows` by name, or any graph file.

        A file needs its bindings beside it. Raises `WorkflowError` naming file, node and input of what is wrong.
        """
        path = _located(name_or_path, user_folder)
        graph = _read_graph(path)
        bindings_path, schemas_path = path.with_suffix(BINDINGS_SUFFIX), path.with_suffix(SCHEMAS_SUFFIX)
        if not bindings_path.is_file():
            raise WorkflowError(
                f"the bindings file is missing, which says which node input takes which parameter: `asyncgen workflows "
                f"add {path.name}` finds that out and keeps the graph as a workflow; or write {bindings_path.name} "
                "beside the graph",
                where=str(path),
            )
        schemas = None
        if schemas_path.is_file():
            with _naming(schemas_path):
                schemas = parse_object_info(_read_json(schemas_path), is_own=True)
        with _naming(bindings_path):
            return cls.from_json(path.stem, graph, _read_json(bindings_path), schemas)

    @classmethod
    def from_json(cls, name: str, graph: Any, bindings: Any, schemas: NodeSchemas | None = None) -> Template:
        """The template of a parsed graph and parsed bindings. Raises `WorkflowError` naming node and input."""
        check_shape(graph)
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
            lora_stack=None if stack is None else parse_lora_stack(graph, stack),
            switches={name: _switch(graph, name, where) for name, where in bindings.get("switches", {}).items()},
            keeps=frozenset(_kept(parameters, bindings.get("keeps", []))),
            outputs=tuple(_outputs(graph, bindings["outputs"])),
            digest=_digest(graph, bindings),
            schemas=schemas,
        )

    def binds(self, parameter: str) -> bool:
        """Whether the workflow takes this parameter."""
        return parameter in self.parameters or parameter in self.switches

    @property
    def sent_pictures(self) -> list[tuple[str, str]]:
        """The inputs, as (node, input), whose picture is sent along with the job."""
        return [(bound.node, bound.input) for name in self.images for bound in self.parameters[name]]

    def own_value(self, parameter: str) -> str | int | float | bool | None:
        """What stands in the graph for a parameter; None where it takes none."""
        places = self.parameters.get(parameter)
        return places[0].literal if places else None


def _number_like(literal: int | float, value: int | float) -> int | float:
    """The value as int or float like the literal, unless that would change it."""
    other: int | float = float(value) if isinstance(literal, float) else int(value)
    return other if other == value else value


def load_graph(name_or_path: str | Path, user_folder: Path | None = None) -> Graph:
    """The graph alone of a workflow that `Template.load` finds, with bindings or without. Raises `WorkflowError`."""
    return _read_graph(_located(name_or_path, user_folder))


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
    own = user_folder / FOLDER / file_name if user_folder is not None else None
    if own is not None and own.is_file():
        return own
    try:
        return assets.data_path(FOLDER, file_name)
    except FileNotFoundError:
        raise _no_such_workflow(str(name_or_path), user_folder) from None


def _no_such_workflow(name: str, user_folder: Path | None) -> WorkflowError:
    folders = [assets.data_path(FOLDER), *([user_folder / FOLDER] if user_folder else [])]
    names = sorted(
        file.name.removesuffix(BINDINGS_SUFFIX) for folder in folders for file in folder.glob(f"*{BINDINGS_SUFFIX}")
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


def _read_graph(path: Path) -> Graph:
    with _naming(path):
        graph: Graph = _read_json(path)
        check_shape(graph)
    return graph


def _read_json(path: Path) -> Any:
    try:
        return parse_json(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise WorkflowError(f"cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise WorkflowError(f"is not valid JSON: {error}") from error


# Checks of a graph and its bindings ---------------------------------------------------------------------------------


def _check_bindings(bindings: Any) -> None:
    if not isinstance(bindings, dict) or bindings.get("format") != BINDINGS_FORMAT:
        raise WorkflowError(f"the bindings are not of the format {BINDINGS_FORMAT!r}: set 'format' so")
    check_keys(bindings, _KEYS, "the bindings")
    shapes = {"parameters": dict, "outputs": list, "images": dict, "switches": dict, "keeps": list, "warnings": list}
    for key, shape in shapes.items():
        if not isinstance(bindings.get(key, shape()), shape):
            wanted = "an object" if shape is dict else "a list"
            raise WorkflowError(f"{key!r} must be {wanted}, not {bindings[key]!r}")
    for key in ("parameters", "outputs"):
        if key not in bindings or not (bindings[key] or bindings.get("images")):
            raise WorkflowError(f"the bindings name no {key}")


def _bindings_of(graph: Graph, parameter: str, places: Any) -> Iterator[Binding]:
    if not isinstance(places, list) or not places:
        raise WorkflowError(f'the parameter {parameter!r} needs a list of places: [{{"node": …, "input": …}}]')
    return (_binding(graph, parameter, place) for place in places)


def _binding(graph: Graph, parameter: str, place: Any) -> Binding:
    what = f"the places of {parameter!r}"
    if not isinstance(place, dict) or not {"node", "input"} <= place.keys():
        raise WorkflowError(f'{what} must be like {{"node": …, "input": …}}, not {place!r}')
    check_keys(place, ("node", "input", "file_suffix"), what)
    suffix = place.get("file_suffix")
    own = literal(graph, place["node"], place["input"], f"the parameter {parameter!r}")
    if suffix is not None and not (isinstance(suffix, str) and suffix.startswith(".") and isinstance(own, str)):
        raise WorkflowError(
            f"{what}: a file_suffix is like '.safetensors', on an input with a file name, and "
            f"{called(graph, place['node'])}, input {place['input']}, has {own!r}"
        )
    return Binding(parameter, place["node"], place["input"], own, suffix)


def _check_bound_once(bindings: Iterable[Binding]) -> None:
    seen: set[tuple[str, str]] = set()
    for binding in bindings:
        place = (binding.node, binding.input)
        if place in seen:
            raise WorkflowError(f"the input {binding.input!r} of node {binding.node} is bound twice")
        seen.add(place)


def _switch(graph: Graph, name: str, where: Any) -> Switch:
    what = f"the switch {name!r}"
    if not isinstance(where, dict) or where.keys() != {"node", "input"}:
        raise WorkflowError(f'{what} must be like {{"node": …, "input": …}}, not {where!r}')
    node, source = where["node"], where["input"]
    are_names = isinstance(node, str) and isinstance(source, str)
    if not are_names or node not in graph or link(graph[node]["inputs"].get(source)) is None:
        raise WorkflowError(f"{what}: the input {source!r} of node {node!r} is no link of the graph")
    if any(slot != 0 for _, _, slot in consumers(graph, node)):
        raise WorkflowError(f"{what}: node {node!r} feeds others with more than its first output")
    return Switch(node, source)


def _kept(parameters: Mapping[str, Any], names: Sequence[Any]) -> Iterator[str]:
    for name in names:
        if not isinstance(name, str) or name not in parameters:
            raise WorkflowError(f"'keeps' names {name!r}, which is no parameter{nearest(str(name), parameters)}")
        yield name


def _outputs(graph: Graph, outputs: Sequence[Any]) -> Iterator[str]:
    for node in outputs:
        if not isinstance(node, str) or node not in graph:
            raise WorkflowError(f"the output node {node!r} is not in the graph")
        yield node


def _digest(graph: Graph, bindings: Mapping[str, Any]) -> str:
    working = {node: {"class_type": body["class_type"], "inputs": body["inputs"]} for node, body in graph.items()}
    bound = {key: value for key, value in bindings.items() if key not in _WITHOUT_EFFECT}
    text = json.dumps([working, bound], sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
