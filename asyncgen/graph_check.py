"""Everything in a graph that would cost money and make no picture, or another one than was wanted. Pure.

ComfyUI's `POST /prompt` lets much of it through: names of inputs that it does not know, texts where a truth or a number
belongs, nodes that nothing needs, sizes that it floors. Measured against ComfyUI 0.3.64.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from asyncgen.errors import WorkflowError
from asyncgen.graph import Graph, called, is_number, link, nearest, sources, upstream
from asyncgen.loras import names_a_lora
from asyncgen.node_schema import ANY, COMBO, InputSchema, NodeSchema, NodeSchemas

_LATENT_GRID: Final = 8
_MOST_CHOICES_SHOWN: Final = 12
_MOST_PROBLEMS_SHOWN: Final = 5
# What the server fills in; `%date:…%` and `%Node.widget%` are the browser's.
_PREFIX_WORDS: Final = frozenset({"width", "height", "year", "month", "day", "hour", "minute", "second", "batch_num"})


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a graph: in `input` of the node that `place` describes, or, without, as a whole.

    `is_unknown_class`: only that the node's class is not in a schema that is not the server's own.
    """

    message: str
    node: str | None = None
    place: str | None = None
    input: str | None = None
    is_unknown_class: bool = False

    def __str__(self) -> str:
        places = (self.place, self.input and f"input {self.input}")
        place = ", ".join(part for part in places if part)
        return f"{place}: {self.message}" if place else self.message


def problems(graph: Graph, schemas: NodeSchemas, sent_pictures: Collection[tuple[str, str]] = ()) -> list[Problem]:
    """What is wrong with a graph, by node in its order, then as a whole.

    `sent_pictures` are the inputs, as (node, input), whose file is sent along with the job. Names of files are compared
    with the schema's lists only where those are of the server that will run the graph (`schemas.is_own`).
    """
    check = _Check(graph, schemas, frozenset(sent_pictures))
    return [*(problem for node in graph for problem in check.of_node(node)), *check.as_a_whole()]


def refuse(found: Collection[Problem]) -> None:
    """Raises `WorkflowError` with what was found, if anything was."""
    if not found:
        return
    shown = [str(problem) for problem in found][:_MOST_PROBLEMS_SHOWN]
    more = f" (and {len(found) - len(shown)} more)" if len(found) > len(shown) else ""
    raise WorkflowError("; ".join(shown) + more)


@dataclass(frozen=True, slots=True)
class _Check:
    graph: Graph
    schemas: NodeSchemas
    sent_pictures: frozenset[tuple[str, str]]

    def of_node(self, node: str) -> Iterator[Problem]:
        schema = self._schema(node)
        if schema is None:
            yield self._unknown_class(node)
            return
        inputs: Mapping[str, Any] = self.graph[node]["inputs"]
        for name in schema.inputs:
            if schema.inputs[name].is_required and name not in inputs:
                yield self._problem(node, "is missing", name)
        for name, value in inputs.items():
            declared = schema.inputs.get(name)
            if declared is None:
                if not isinstance(value, Mapping):  # the rows of a list that its owner lengthens are in no schema
                    yield self._problem(node, _unknown_input(name, schema), name)
            elif message := self._fault(node, declared, value):
                yield self._problem(node, message, name)
        for name, message in _slot_faults(inputs):
            yield self._problem(node, message, name)

    def as_a_whole(self) -> Iterator[Problem]:
        outputs = [node for node in self.graph if (schema := self._schema(node)) is not None and schema.is_output]
        if not outputs:
            if all(self._schema(node) is not None for node in self.graph):
                yield Problem("the graph has no output: add a node that saves the picture, such as SaveImage")
            return
        if circle := self._circle():
            yield Problem(f"the links go round in a circle: {' → '.join(circle)}")
        needed = upstream(self.graph, outputs)
        for node in self.graph:
            if node not in needed and self._schema(node) is not None:
                yield self._problem(node, "no output needs it, so it does nothing and is never checked: take it out")

    def _schema(self, node: str) -> NodeSchema | None:
        return self.schemas.get(self.graph[node]["class_type"])

    def _problem(self, node: str, message: str, name: str | None = None) -> Problem:
        return Problem(message, node, called(self.graph, node), name)

    def _unknown_class(self, node: str) -> Problem:
        message = self.schemas.why_unknown(self.graph[node]["class_type"])
        return Problem(message, node, called(self.graph, node), None, not self.schemas.is_own)

    def _fault(self, node: str, declared: InputSchema, value: Any) -> str | None:
        if isinstance(value, list):
            return self._link_fault(declared, value)
        if not declared.takes_value:
            return f"needs a link to a {declared.kind}, not {value!r}"
        return self._value_fault(node, declared, value)

    def _link_fault(self, declared: InputSchema, value: list[Any]) -> str | None:
        found = link(value)
        if found is None:
            return f"{value!r} is not a link: [node id, number of the output]"
        source, slot = found
        if source not in self.graph:
            return f"leads to node {source}, which the graph does not have"
        schema = self._schema(source)
        if schema is None:
            return None
        kind = schema.output_kind(slot)
        where = f"node {source} ({schema.class_type})"
        if kind is None:
            return f"leads to output {slot} of {where}, which has {len(schema.outputs)}"
        return None if _fit(kind, declared.kind) else f"takes {declared.kind}, and output {slot} of {where} is {kind}"

    def _value_fault(self, node: str, declared: InputSchema, value: Any) -> str | None:
        message = _type_fault(declared.kind, value)
        if message is not None:
            return message
        if declared.choices is not None:
            return self._choice_fault(node, declared, declared.choices, value)
        if is_number(value):
            return _range_fault(declared, value)
        if declared.name == "filename_prefix" and isinstance(value, str):
            return _prefix_fault(value)
        return None

    def _choice_fault(self, node: str, declared: InputSchema, listed: Collection[Any], value: Any) -> str | None:
        if value in listed or (node, declared.name) in self.sent_pictures:
            return None
        if declared.lists_files and not self.schemas.is_own:
            return None if isinstance(value, str) and value else f"must be the name of a file, not {value!r}"
        choices = [str(choice) for choice in listed]
        if not choices:
            return f"{value!r} is not there: the server has no file for this input"
        shown = ", ".join(choices[:_MOST_CHOICES_SHOWN]) + (", …" if len(choices) > _MOST_CHOICES_SHOWN else "")
        return f"{value!r} is not one of {shown}{nearest(str(value), choices)}"

    def _circle(self) -> list[str] | None:
        """The nodes of one circle of links, None where there is none."""
        done: set[str] = set()
        for start in self.graph:
            path: list[str] = []
            stack = [(start, False)]
            while stack:
                node, is_done = stack.pop()
                if is_done:
                    done.add(path.pop())
                elif node in path:
                    return [*path[path.index(node) :], node]
                elif node not in done:
                    path.append(node)
                    stack.append((node, True))
                    stack.extend((source, False) for source in sources(self.graph, node))
        return None


def _unknown_input(name: str, schema: NodeSchema) -> str:
    return f"the class has no such input, and the server would pass over it{nearest(name, schema.inputs)}"


def _fit(given: str, wanted: str) -> bool:
    if ANY in (given, wanted):
        return True
    return not {part.strip() for part in given.split(",")}.isdisjoint(part.strip() for part in wanted.split(","))


def _type_fault(kind: str, value: Any) -> str | None:
    if kind == "BOOLEAN" and not isinstance(value, bool):
        return f"must be true or false, not {value!r} (a server takes any text for true)"
    if kind == "INT" and not (is_number(value) and value == int(value)):
        return f"must be a whole number, not {value!r}"
    if kind == "FLOAT" and not is_number(value):
        return f"must be a number, not {value!r}"
    if kind == "STRING" and not isinstance(value, str):
        return f"must be a text, not {value!r}"
    if kind == COMBO and isinstance(value, Mapping):
        return f"must be one of its choices, not {value!r}"
    return None


def _range_fault(declared: InputSchema, value: float) -> str | None:
    low, high = declared.minimum, declared.maximum
    if (low is not None and value < low) or (high is not None and value > high):
        return f"{value} is outside {'…' if low is None else low} to {'…' if high is None else high}"
    is_size = declared.name in ("width", "height") and (declared.multiple_of or 0) % _LATENT_GRID == 0
    if is_size and declared.multiple_of and value % _LATENT_GRID:
        return f"{value} is not a multiple of 8: the server would make {value // _LATENT_GRID * _LATENT_GRID} of it"
    return None


def _prefix_fault(prefix: str) -> str | None:
    if prefix.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", prefix):
        return f"{prefix!r} leaves the server's output folder, which fails once the picture is made"
    unknown = [word for word in re.findall(r"%([^%]+)%", prefix) if word not in _PREFIX_WORDS]
    if unknown:
        return f"%{unknown[0]}% is filled in by the browser only, and would stand in the file's name"
    return None


def _slot_faults(inputs: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What numbered LoRA slots can have wrong that no schema says: it is a TypeError on the GPU, or no LoRA."""
    count = inputs.get("num_loras")
    slots = sorted(int(found[1]) for name in inputs if (found := re.fullmatch(r"lora_(\d+)_name", name)))
    if not isinstance(count, int) or not slots:
        return
    needed = ("model_strength", "clip_strength") if inputs.get("mode") == "advanced" else ("strength",)
    for slot in slots:
        name = inputs[f"lora_{slot}_name"]
        if not isinstance(name, str) or not names_a_lora(name):
            continue
        if slot > count:
            yield f"lora_{slot}_name", f"num_loras is {count}, so {name!r} would not be loaded"
        for strength in needed:
            if slot <= count and f"lora_{slot}_{strength}" not in inputs:
                yield f"lora_{slot}_{strength}", f"is missing, and {name!r} would fail on the GPU"
