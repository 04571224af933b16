"""The id of an image in a matrix: the caller's, and what its cell is in effect, whatever axes say it. Pure.

A part that is what every image has where nothing is said is left out, so that an axis may come later: the size that the
workflow has by itself, V4, no character. Names count as what they stand for: `v4` is `normal_image_v4_workflow`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, TypeAlias

from asyncgen.loras import names_a_lora
from asyncgen.naming import NO_STYLE
from asyncgen.request import INPUT_PICTURES
from asyncgen.template import ALIASES, DEFAULT_WORKFLOW
from asyncgen.workflow import DEFAULTS


@dataclass(frozen=True, slots=True)
class Usual:
    """A workflow's own name, and the width and height in pixels where nobody says one; None: not known.

    `lacks` are the fields of a request that it takes nowhere, as far as they are known. `has_seed` False: it makes the
    same picture each time.
    """

    workflow: str
    size: tuple[int, int] | None
    lacks: frozenset[str] = frozenset()
    has_seed: bool = True


#: What a workflow has by itself, by the name or file that was said; None: the run's. Raises `WorkflowError`.
UsualOf: TypeAlias = Callable[[str | None], Usual]


def usual_by_name(said: str | None) -> Usual:
    """What is known of a workflow without reading it, where the run's is V4."""
    name = workflow_name(said or DEFAULT_WORKFLOW)
    return Usual(name, (DEFAULTS["width"], DEFAULTS["height"]) if name == DEFAULT_WORKFLOW else None)


def workflow_name(said: str) -> str:
    """The name of a workflow that is said by an alias or as a file."""
    return PurePath(said).stem if said.endswith(".json") else ALIASES.get(said, said)


def is_usual_size(merged: Mapping[str, Any], usual: Usual) -> bool:
    """Whether the size that fields say is the one without them. Beside an input picture, whose size counts, none is."""
    return _size(merged, usual) == usual.size and not _has_pictures(merged)


def cell_id(merged: Mapping[str, Any], added: Mapping[str, Any], seed: str, usual: Usual) -> str:
    """`fox/1/A+B/1024x1024/seed-0`. `merged` are all fields, `added` what is in the id by its name."""
    characters = "+".join(name.strip() for name in merged.get("character_loras") or () if names_a_lora(name))
    parts = [str(merged["id"]), str(merged.get("style_id") or NO_STYLE)]
    parts += [characters] if characters else []
    if (merged.get("width") or merged.get("height")) and not is_usual_size(merged, usual):
        width, height = _size(merged, usual)
        parts.append(f"{width or ''}x{height or ''}")
    parts += [f"workflow={usual.workflow}"] if usual.workflow != DEFAULT_WORKFLOW else []
    parts += [f"{name}={value}" for name, value in sorted(added.items())]
    return "/".join([*parts, seed])


def _size(merged: Mapping[str, Any], usual: Usual) -> tuple[int | None, int | None]:
    """Width and height in effect. What an input picture makes of one side is not known here."""
    width, height = merged.get("width"), merged.get("height")
    if usual.size is None or _has_pictures(merged):
        return width, height
    return width or usual.size[0], height or usual.size[1]


def _has_pictures(merged: Mapping[str, Any]) -> bool:
    return any(merged.get(name) for name in INPUT_PICTURES)
