"""Styles registries, loaded from their bytes, searched, changed, planned with, saved and loaded again."""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Iterator
from functools import cache
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any, Final, NamedTuple

from asyncgen import assets
from asyncgen.errors import InputError
from asyncgen.plan import Planner
from asyncgen.registry import REGISTRY_FILE, StylesRegistry
from asyncgen.request import ImageRequest
from asyncgen.template import DEFAULT_WORKFLOW

from . import mutations
from .bounds import check_message

_SHIPPED: Final = json.loads(assets.data_path("resources", REGISTRY_FILE).read_text(encoding="utf-8"))
_SMALL: Final[dict[str, Any]] = _SHIPPED | {"styles": _SHIPPED["styles"][:3], "loras": _SHIPPED["loras"][:3]}
_KEYS: Final = (*_SHIPPED["styles"][0], *_SHIPPED["loras"][0], "styles", "loras", "previous_loras")
_LEAVES: Final = ("1", "yes", "0.5", 4, ["a", "b"], "a" * 3_000, "s3://b/a.safetensors", 1.5, {"previous_loras": 7})


class Case(NamedTuple):
    """A registry file and one change to make to its first style."""

    data: bytes
    changes: dict[str, Any]


def make(rng: Random) -> Case:
    """A registry with 0 to 4 places changed, then 0 to 2 changes of its bytes; or noise."""
    if rng.random() < 0.04:
        return Case(rng.randbytes(rng.randrange(500)), {})
    registry = copy.deepcopy(_SMALL)
    for _ in range(rng.choice((0, 1, 1, 2, 4))):
        mutations.mutate(rng, registry, _LEAVES, _KEYS)
    data = mutations.encoded(rng, registry)
    if rng.random() < 0.05:
        data = mutations.reencoded(rng, data)
    value = rng.choice((*_LEAVES, mutations.text(rng), rng.choice(mutations.VALUES)))
    changes = {rng.choice(_KEYS): value} if rng.random() < 0.5 else {}
    return Case(mutations.mutated_bytes(rng, data, rng.choice((0, 0, 0, 1, 2))), changes)


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="asyncgen-fuzz-")


def judge(case: Case) -> Iterator[str]:
    """A registry that can be used in every way, or an `InputError` that names the file."""
    path = Path(_folder().name) / "registry.json"
    path.write_bytes(case.data)
    try:
        registry = StylesRegistry.load(path)
    except InputError as error:
        assert error.where is not None
        assert error.where.startswith(str(path))
        check_message(str(error))
        yield "file refused"
        return
    yield "file taken"
    yield from _searched(registry)
    yield from _changed(registry, case.changes)
    try:
        saved = registry.save(path.with_name("saved.json"))
    except InputError as error:
        check_message(str(error))
        assert case.changes, "what was loaded can be saved"
        yield "save refused"
    else:
        assert StylesRegistry.load(saved).get_all_styles() == registry.get_all_styles()
        yield "saved"


def _searched(registry: StylesRegistry) -> Iterator[str]:
    planner = Planner(registry, DEFAULT_WORKFLOW)
    for style in registry.get_all_styles():
        assert registry.get_style_by_id(style.id) is style
        registry.get_style_by_lora_name(style.lora_to_load or "x")
        try:
            request = ImageRequest(prompt="a fox", style_id=style.id, width=64, height=64)
            wants = list(islice(planner.wants(request), 1))
            planner.job_input(request, wants[0].spec, 7, {})
        except InputError as error:
            check_message(str(error))
            yield "style refused by the plan"
        else:
            yield "style planned"
    try:
        registry.get_style_by_id("no such style")
    except InputError as error:
        check_message(str(error))


def _changed(registry: StylesRegistry, changes: dict[str, Any]) -> Iterator[str]:
    before = registry.get_all_styles()
    if not before or not changes:
        return
    try:
        registry.update_style(before[0].id, **changes)
        registry.mark_trained(before[0].id, "new", "new.safetensors", version="2")
    except InputError as error:
        check_message(str(error))
        assert len(registry.get_all_styles()) == len(before)
        yield "change refused"
    else:
        yield "change made"
