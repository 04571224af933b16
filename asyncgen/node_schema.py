"""What a ComfyUI server says of its node classes in `GET /object_info`: inputs, ranges, choices, outputs.

Pure but for reading the shipped ones.

Both spellings of a choice are read: `[["a", "b"], {…}]` and `["COMBO", {"options": ["a", "b"]}]`. Measured against
ComfyUI 0.3.64 (`workflows/object_info.json`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from asyncgen import assets
from asyncgen.errors import WorkflowError
from asyncgen.graph import nearest

COMBO: Final = "COMBO"
#: A type that goes with every other.
ANY: Final = "*"
#: The types of values that stand in the graph itself; every other type comes through a link.
VALUE_KINDS: Final = frozenset({"INT", "FLOAT", "STRING", "BOOLEAN", COMBO})
_FILE_SUFFIXES: Final = (
    *(".safetensors", ".sft", ".ckpt", ".pt", ".pt2", ".pth", ".bin", ".pkl", ".gguf", ".onnx"),
    *(".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp"),
)


@dataclass(frozen=True, slots=True)
class InputSchema:
    """One input of a node class.

    `kind` is one of `VALUE_KINDS`, or a type of link such as "MODEL". `choices` None: no list; `minimum` and `maximum`
    None: no limit. `multiple_of` is the step of the widget, in the input's own unit.
    """

    name: str
    kind: str
    is_required: bool
    choices: tuple[Any, ...] | None = None
    minimum: float | None = None
    maximum: float | None = None
    multiple_of: float | None = None

    @property
    def takes_value(self) -> bool:
        """Whether a value may stand in the graph itself."""
        return self.kind in VALUE_KINDS or self.kind == ANY

    @property
    def lists_files(self) -> bool:
        """Whether the choices are the files of the server that was asked: those of another one differ."""
        return self.choices is not None and (
            not self.choices or any(str(choice).lower().endswith(_FILE_SUFFIXES) for choice in self.choices)
        )


@dataclass(frozen=True, slots=True)
class NodeSchema:
    """A node class. `outputs` are (name, type) by slot; `package` is None for ComfyUI's own nodes."""

    class_type: str
    inputs: Mapping[str, InputSchema]
    outputs: tuple[tuple[str, str], ...]
    is_output: bool
    package: str | None = None

    def inputs_of(self, kind: str) -> tuple[str, ...]:
        """The names of the inputs of one type, in the class's order."""
        return tuple(name for name, schema in self.inputs.items() if schema.kind == kind)

    def output_kind(self, slot: int) -> str | None:
        """The type of one output; None where there is none."""
        return self.outputs[slot][1] if 0 <= slot < len(self.outputs) else None


@dataclass(frozen=True, slots=True)
class NodeSchemas:
    """The node classes that one server has.

    `is_own`: it is the server that will run the graph, so that a class or a file that is missing is missing there.
    """

    classes: Mapping[str, NodeSchema]
    is_own: bool

    def get(self, class_type: str) -> NodeSchema | None:
        """The class of that name, None where it is not known."""
        return self.classes.get(class_type)

    def why_unknown(self, class_type: str) -> str:
        """What to say of a class that is not known, with the nearest name and what to do."""
        hint = nearest(class_type, self.classes)
        if self.is_own:
            return f"the server has no such node class{hint}: install its custom node, or correct the name"
        return (
            f"the class is not among those that asyncgen knows{hint}: have it checked against your own server's with "
            "--object-info http://HOST:8188/object_info"
        )


def parse_object_info(value: Any, *, is_own: bool) -> NodeSchemas:
    """The answer of `GET /object_info`, parsed. Raises `WorkflowError` for what is none."""
    if not isinstance(value, Mapping) or not value:
        raise WorkflowError("is not an object_info: an object of node classes is expected, as GET /object_info answers")
    return NodeSchemas({name: _node_class(str(name), body) for name, body in value.items()}, is_own)


@cache
def shipped_schemas() -> NodeSchemas:
    """The node classes that asyncgen knows by itself; not those of the server that will run a graph."""
    return parse_object_info(assets.read_json("workflows", "object_info.json"), is_own=False)


def _node_class(name: str, body: Any) -> NodeSchema:
    if not isinstance(body, Mapping) or not isinstance(body.get("input"), Mapping):
        raise WorkflowError(f"is not an object_info: the class {name!r} says nothing of its inputs")
    kinds = [_kind(kind) for kind in _listed(body.get("output"))]
    names = [str(text) for text in _listed(body.get("output_name"))] or kinds
    module = str(body.get("python_module", "nodes"))
    return NodeSchema(
        name,
        {schema.name: schema for schema in _inputs(body["input"])},
        tuple(zip(names, kinds, strict=False)),
        is_output=bool(body.get("output_node")),
        package=module.removeprefix("custom_nodes.") if module.startswith("custom_nodes.") else None,
    )


def _inputs(sections: Mapping[str, Any]) -> Iterator[InputSchema]:
    for section in ("required", "optional"):
        declared = sections.get(section)
        for name, spec in declared.items() if isinstance(declared, Mapping) else ():
            yield _input(str(name), spec, is_required=section == "required")


def _input(name: str, spec: Any, *, is_required: bool) -> InputSchema:
    first, *rest = spec if isinstance(spec, Sequence) and not isinstance(spec, str) and spec else (spec,)
    options = rest[0] if rest and isinstance(rest[0], Mapping) else {}
    kind, choices = _kind(first), None
    if isinstance(first, list):
        choices = tuple(first)
    elif kind == COMBO:
        listed = options.get("options")
        choices = tuple(listed) if isinstance(listed, list) else None
    limits = (_number(options.get(key)) for key in ("min", "max", "step"))
    return InputSchema(name, kind, is_required, choices, *limits)


def _kind(value: Any) -> str:
    if isinstance(value, list):
        return COMBO
    return value if isinstance(value, str) and value else ANY


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
