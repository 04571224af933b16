"""Workflow graphs and their bindings, loaded from their bytes and filled with parameters."""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, Final, NamedTuple

from asyncgen import assets
from asyncgen.errors import InputError
from asyncgen.loras import Lora
from asyncgen.protocol import job_body
from asyncgen.template import DEFAULT_WORKFLOW, Template
from asyncgen.workflow import fill, warnings

from . import mutations
from .bounds import check_message

_GRAPH: Final = json.loads(assets.data_path("workflows", f"{DEFAULT_WORKFLOW}.json").read_text(encoding="utf-8"))
_BINDINGS: Final = json.loads(
    assets.data_path("workflows", f"{DEFAULT_WORKFLOW}.bindings.json").read_text(encoding="utf-8")
)
_GRAPH_KEYS: Final = ("class_type", "inputs", "_meta", "nodes", "links", *_GRAPH)
_GRAPH_LEAVES: Final = (
    ["27", 0],
    ["no", 0],
    ["27"],
    "euler",
    20,
    1.0,
    {"class_type": "X", "inputs": {}},
    {"inputs": {}},
)
_KEYS: Final = (
    *_BINDINGS,
    *_BINDINGS["lora_stack"],
    *_BINDINGS["parameters"],
    "node",
    "input",
    "file_suffix",
    "images",
)
_LEAVES: Final = (
    "27",
    "width",
    ".safetensors",
    [{"node": "27", "input": "width"}],
    "stack",
    "{slot}",
    10,
    10**7,
    ["38"],
)
_PARAMETERS: Final[dict[str, Any]] = {
    "positive_prompt": "a fox", "seed": 7, "width": 512, "height": 512, "steps": 4, "model": "flux1-dev-fp8",
    "sampler_name": "euler", "scheduler_name": "simple", "flux_guidance": 3.5, "batch_size": 1,
}  # fmt: skip


class Case(NamedTuple):
    """The two files of a workflow and what to fill it with."""

    graph: bytes
    bindings: bytes
    parameters: dict[str, Any]
    loras: int


def make_graph(rng: Random) -> Case:
    """A graph that is wrong, with the bindings it had."""
    graph = _file(rng, _GRAPH, _GRAPH_LEAVES, _GRAPH_KEYS)
    return Case(graph, json.dumps(_BINDINGS).encode(), _parameters(rng), rng.choice((0, 1, 10, 11)))


def make_bindings(rng: Random) -> Case:
    """Bindings that are wrong, for the graph they had."""
    bindings = _file(rng, _BINDINGS, _LEAVES, _KEYS)
    return Case(json.dumps(_GRAPH).encode(), bindings, _parameters(rng), rng.choice((0, 1, 10, 11)))


def _file(rng: Random, document: Any, leaves: Any, keys: Any) -> bytes:
    if rng.random() < 0.03:
        return rng.randbytes(rng.randrange(500))
    document = copy.deepcopy(document)
    for _ in range(rng.choice((0, 1, 1, 2, 4))):
        mutations.mutate(rng, document, leaves, keys)
    data = mutations.encoded(rng, document)
    if rng.random() < 0.04:
        data = mutations.reencoded(rng, data)
    return mutations.mutated_bytes(rng, data, rng.choice((0, 0, 0, 0, 1, 2)))


def _parameters(rng: Random) -> dict[str, Any]:
    parameters = copy.deepcopy(_PARAMETERS)
    if rng.random() < 0.3:
        mutations.mutate(rng, parameters, (), tuple(_PARAMETERS))
    return parameters


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="asyncgen-fuzz-")


def judge(case: Case) -> Iterator[str]:
    """A template that fills into a graph that can be sent, or a typed error; the template itself never changes."""
    path = Path(_folder().name) / "mine.json"
    path.write_bytes(case.graph)
    path.with_name("mine.bindings.json").write_bytes(case.bindings)
    try:
        template = Template.load(path)
    except InputError as error:
        assert error.where is not None
        assert error.where.startswith(str(path.parent))
        check_message(str(error))
        yield "file refused"
        return
    yield "file taken"
    for text in warnings(template):
        check_message(text)
    yield _filled(template, case)


def _filled(template: Template, case: Case) -> str:
    before = json.dumps(template.graph)
    loras = [Lora(f"{number}.safetensors", 0.5) for number in range(case.loras)]
    try:
        graph = fill(template, case.parameters, loras)
        job_body({"workflow": graph}, ttl_ms=None, execution_timeout_ms=None)
    except InputError as error:
        check_message(str(error))
        return "parameters refused"
    finally:
        assert json.dumps(template.graph) == before
    assert graph.keys() == template.graph.keys()
    return "filled"
