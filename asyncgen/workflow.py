"""One image's graph: a template filled with parameters and LoRAs, every value checked before any server sees it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from asyncgen.errors import InputError, WorkflowError
from asyncgen.graph import Graph, is_number, nearest
from asyncgen.lora_nodes import LoraChain
from asyncgen.loras import Lora, stack_loras
from asyncgen.request import MAX_SEED, RANDOM_SEED
from asyncgen.template import Template

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
# Measured with ComfyUI-Easy-Use 1.3.7.
_CLASS_WARNINGS: Final[Mapping[str, tuple[str, ...]]] = {
    "easy loraStackApply": (
        "'easy loraStackApply' gives CLIP only the last LoRA, and finds LoRA files by the end of their names, so that "
        "'bob' may load 'AA_bob' (docs/lora-stack.md)",
    ),
}


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
        if isinstance(stack, LoraChain):
            raise WorkflowError("the workflow loads LoRAs one after the other, not in a stack node: use build_workflow")
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
    """A graph that shares nothing with the template; otherwise as `filled`."""
    graph: Graph = _fresh(filled(template, parameters, loras))
    return graph


def filled(template: Template, parameters: Mapping[str, Any], loras: Sequence[Lora] = ()) -> Graph:
    """The graph with parameters and LoRAs in place, to be sent and not changed: it shares what stays as it was.

    A parameter that is None keeps the template's value. Raises `InputError` naming a value that is wrong, and
    `WorkflowError` naming a parameter that the workflow does not bind, a prompt, seed or picture that is missing, or
    LoRAs that do not fit.
    """
    _check_required(template, parameters)
    changes: dict[str, dict[str, Any]] = {}
    for name, value in parameters.items():
        if value is None or name in template.switches:
            continue
        bindings = template.parameters.get(name)
        if bindings is None:
            raise _not_bound(template, name)
        check_value(name, value)
        for binding in bindings:
            changes.setdefault(binding.node, {})[binding.input] = binding.converted(value)
    nodes = template.graph
    changed = {name: {**nodes[name], "inputs": {**nodes[name]["inputs"], **inputs}} for name, inputs in changes.items()}
    graph = {**nodes, **changed}
    if template.lora_stack is not None:
        graph = template.lora_stack.loaded(graph, loras)
    elif loras:
        raise _no_lora_stack(loras)
    for name, switch in template.switches.items():
        if not _is_on(name, parameters.get(name)):
            graph = switch.bypassed(graph)
    return graph


def _is_on(name: str, value: object) -> bool:
    if not isinstance(value, bool | None):
        raise InputError(f"must be true or false, not {value!r}", field=name)
    return value is not False


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
    if not is_number(value) or not 0 <= value <= _MAX_GUIDANCE:
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
        f"the workflow {template.name} does not take this parameter{nearest(name, template.parameters)}; "
        f"it takes: {bound}",
        field=name,
    )


def _no_lora_stack(loras: Iterable[Lora]) -> WorkflowError:
    names = ", ".join(lora.name for lora in loras)
    return WorkflowError(f"the workflow takes no LoRAs, but these are wanted: {names or 'none'}", field="loras")
