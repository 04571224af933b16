"""A ComfyUI graph in API format: its nodes, the links between them, and what makes a graph of a JSON file. Pure."""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias, TypeGuard

from asyncgen.errors import WorkflowError

#: Node id → {"class_type": …, "inputs": {…}}.
Graph: TypeAlias = dict[str, dict[str, Any]]


def check_shape(graph: Any) -> None:
    """Raises `WorkflowError` saying what a parsed file is instead of a graph in API format."""
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


def link(value: object) -> tuple[str, int] | None:
    """The node and the output slot that an input's value leads to; None for a value that is no link."""
    match value:
        case [str(node), int(slot)] if not isinstance(slot, bool):
            return node, slot
    return None


def sources(graph: Graph, node: str) -> list[str]:
    """The nodes that a node's links lead to and that are there, in the order of its inputs."""
    links = (link(value) for value in graph[node]["inputs"].values())
    return [found[0] for found in links if found is not None and found[0] in graph]


def consumers(graph: Graph, node: str) -> Iterator[tuple[str, str, int]]:
    """Where a node's outputs go: node, input, and the slot of the output."""
    for other, body in graph.items():
        for name, value in body["inputs"].items():
            found = link(value)
            if found is not None and found[0] == node:
                yield other, name, found[1]


def upstream(graph: Graph, nodes: Collection[str]) -> dict[str, None]:
    """The nodes and all that they need, nearest first."""
    found = dict.fromkeys(nodes)
    waiting = list(found)
    for node in waiting:
        new = dict.fromkeys(source for source in sources(graph, node) if source not in found)
        found.update(new)
        waiting.extend(new)
    return found


def literal(graph: Graph, node: Any, name: Any, what: str) -> Any:
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


def title_of(body: Mapping[str, Any]) -> str | None:
    """The title that a node's owner gave it, None where it has none."""
    meta = body.get("_meta")
    title = meta.get("title") if isinstance(meta, Mapping) else None
    return title if isinstance(title, str) and title else None


def called(graph: Graph, node: str) -> str:
    """How a message names a node: id, title and class."""
    body = graph[node]
    title = title_of(body)
    named = f" {title!r}" if title and title != body["class_type"] else ""
    return f"node {node}{named} ({body['class_type']})"


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a value is a number in JSON's sense: true and false are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint at the closest known name, to be put behind a message; empty where none is close."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def check_keys(value: Mapping[str, Any], known: Sequence[str], what: str) -> None:
    """Raises `WorkflowError` naming the first key of a part of the bindings that is not known."""
    for key in value:
        if key not in known:
            raise WorkflowError(f"{what} have no key {key!r}{nearest(key, known)}; the keys are: {', '.join(known)}")
