"""How a graph loads LoRAs: through numbered slots of one node, or through loaders that follow each other. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from asyncgen.errors import WorkflowError
from asyncgen.graph import Graph, called, check_keys, consumers, is_number, link, literal
from asyncgen.loras import Lora

_MAX_SLOTS: Final = 1000
_STACK_KEYS: Final = ("kind", "node", "slots", "count", "name", "strengths", "empty_name", "empty_strength")
_CHAIN_KEYS: Final = ("kind", "nodes")
# The inputs of ComfyUI's LoraLoader and, without those of CLIP, LoraLoaderModelOnly; they put them out in this order.
_NAME, _MODEL, _CLIP = "lora_name", "model", "clip"
_STRENGTHS: Final = ("strength_model", "strength_clip")


@dataclass(frozen=True, slots=True)
class LoraSlot:
    """The inputs of one place in a LoRA stack node."""

    name: str
    strengths: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LoraStack:
    """A node that loads LoRAs from numbered slots, `count` of which it reads.

    `toggle` is the input that switches the node on; None where the graph has it on.
    """

    node: str
    count: str
    slots: tuple[LoraSlot, ...]
    empty_name: str
    empty_strength: int | float
    toggle: str | None = None

    @property
    def node_ids(self) -> tuple[str, ...]:
        """The nodes that hold LoRAs."""
        return (self.node,)

    def assignments(self, loras: Sequence[Lora]) -> dict[str, Any]:
        """Every input of the node that LoRAs decide. Raises `WorkflowError` naming the LoRAs when they are too many."""
        if len(loras) > len(self.slots):
            names = ", ".join(lora.name for lora in loras)
            raise WorkflowError(
                f"{len(loras)} LoRAs do not fit into the workflow's {len(self.slots)} slots: {names}", field="loras"
            )
        inputs: dict[str, Any] = {self.count: max(1, len(loras))}
        if self.toggle is not None:
            inputs[self.toggle] = bool(loras)
        for slot, lora in zip(self.slots, loras, strict=False):
            inputs[slot.name] = lora.name
            inputs.update(dict.fromkeys(slot.strengths, lora.strength))
        for slot in self.slots[len(loras) :]:
            inputs[slot.name] = self.empty_name
            inputs.update(dict.fromkeys(slot.strengths, self.empty_strength))
        return inputs

    def loaded(self, graph: Graph, loras: Sequence[Lora]) -> Graph:
        """The graph with these LoRAs in its slots; it shares what stays as it was. Raises as `assignments`."""
        body = graph[self.node]
        return {**graph, self.node: {**body, "inputs": {**body["inputs"], **self.assignments(loras)}}}


@dataclass(frozen=True, slots=True)
class LoraChain:
    """Loaders of one class, each taking the model (and CLIP) of the one before. As many as there are LoRAs are sent."""

    nodes: tuple[str, ...]

    @property
    def node_ids(self) -> tuple[str, ...]:
        """The nodes that hold LoRAs."""
        return self.nodes

    def loaded(self, graph: Graph, loras: Sequence[Lora]) -> Graph:
        """The graph with a loader for each LoRA; it shares what stays as it was.

        The template's own loaders come first; what is fed by the last of them is fed by the last that there is, or by
        what feeds the first where there is none.
        """
        first, last = graph[self.nodes[0]], self.nodes[-1]
        strengths = [name for name in _STRENGTHS if name in first["inputs"]]
        ends = [first["inputs"][name] for name in (_MODEL, _CLIP) if name in first["inputs"]]
        result = {node: body for node, body in graph.items() if node not in self.nodes}
        fed = [place for place in consumers(graph, last) if place[0] in result]
        for node, lora in zip(self._ids(graph, len(loras)), loras, strict=True):
            links = dict(zip((_MODEL, _CLIP), ends, strict=False))
            values = {_NAME: lora.name, **dict.fromkeys(strengths, lora.strength)}
            body = graph.get(node, {key: value for key, value in first.items() if key != "_meta"})
            result[node] = {**body, "inputs": {**first["inputs"], **links, **values}}
            ends = [[node, slot] for slot in range(len(ends))]
        for node, name, slot in fed:
            body = result[node]
            result[node] = {**body, "inputs": {**body["inputs"], name: ends[slot]}}
        return result

    def _ids(self, graph: Graph, count: int) -> Sequence[str]:
        """Those of the template's loaders, then new ones."""
        new = 1 + max((int(node) for node in graph if node.isdecimal()), default=0)
        return [*self.nodes, *(str(new + number) for number in range(count - len(self.nodes)))][:count]


def parse_lora_stack(graph: Graph, value: Any) -> LoraStack | LoraChain:
    """The `lora_stack` of a bindings file. Raises `WorkflowError` naming node and input."""
    kind = value.get("kind") if isinstance(value, Mapping) else None
    if kind == "stack":
        return _stack(graph, value)
    if kind == "chain":
        return _chain(graph, value)
    raise WorkflowError(
        "the lora_stack must be an object whose 'kind' is 'stack' or 'chain': other kinds are not known"
    )


def _stack(graph: Graph, stack: Mapping[str, Any]) -> LoraStack:
    check_keys(stack, (*_STACK_KEYS, "toggle"), "the lora_stack")
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
    toggle = stack.get("toggle")
    switch = () if toggle is None else (toggle,)
    for name in (stack["count"], *switch, *(name for slot in slots for name in (slot.name, *slot.strengths))):
        literal(graph, stack["node"], name, "the lora_stack")
    return LoraStack(stack["node"], stack["count"], slots, stack["empty_name"], stack["empty_strength"], toggle)


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


def _chain(graph: Graph, chain: Mapping[str, Any]) -> LoraChain:
    check_keys(chain, _CHAIN_KEYS, "the lora_stack")
    nodes = chain.get("nodes")
    if not isinstance(nodes, list) or not nodes or len(set(map(str, nodes))) < len(nodes):
        raise WorkflowError(f"the lora_stack's nodes must be a list of different loaders, not {nodes!r}")
    for node in nodes:
        for name in (_NAME, *(name for name in _STRENGTHS if name == _STRENGTHS[0] or _has(graph, node, _CLIP))):
            literal(graph, node, name, "the lora_stack")
        if link(graph[node]["inputs"].get(_MODEL)) is None:
            raise WorkflowError(f"{called(graph, node)} takes its model from nowhere: link it")
    for before, node in pairwise(nodes):
        for slot, name in enumerate(name for name in (_MODEL, _CLIP) if _has(graph, nodes[0], name)):
            if link(graph[node]["inputs"].get(name)) != (before, slot):
                raise WorkflowError(f"{called(graph, node)} does not follow {called(graph, before)} in the LoRA chain")
        if others := [other for other, _, _ in consumers(graph, before) if other != node]:
            raise WorkflowError(f"{called(graph, others[0])} takes a model from the middle of the LoRA chain")
    return LoraChain(tuple(nodes))


def _has(graph: Graph, node: Any, name: str) -> bool:
    return isinstance(node, str) and node in graph and name in graph[node]["inputs"]
