"""The graph that all sides post, without the help of what is measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

_FILE: Final = Path(__file__).resolve().parents[2] / "workflows" / "normal_image_v4_workflow.json"
_PROMPT_NODE, _SEED_NODE = "6", "25"


def template() -> dict[str, Any]:
    """The shipped workflow."""
    graph: dict[str, Any] = json.loads(_FILE.read_text(encoding="utf-8"))
    return graph


def filled(graph: dict[str, Any], prompt: str, seed: int) -> dict[str, Any]:
    """The template with a prompt and a seed; what stays the same is shared with it."""
    return graph | {
        _PROMPT_NODE: _changed(graph[_PROMPT_NODE], "text", prompt),
        _SEED_NODE: _changed(graph[_SEED_NODE], "noise_seed", seed),
    }


def _changed(node: dict[str, Any], name: str, value: object) -> dict[str, Any]:
    return node | {"inputs": node["inputs"] | {name: value}}
