"""Titles, ids, templates and file names: the path stays under its root, and every file system takes it."""

from __future__ import annotations

import os
import tempfile
import unicodedata
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, Final, NamedTuple

from asyncgen.errors import InputError, SettingsError
from asyncgen.loras import stack_loras
from asyncgen.naming import PATH_FIELDS, check_path_template, path_fields, render_path
from asyncgen.plan import Planner
from asyncgen.registry import StylesRegistry
from asyncgen.request import ImageRequest
from asyncgen.settings import DEFAULT_PATH_TEMPLATE
from asyncgen.store import temporary_path
from asyncgen.template import DEFAULT_WORKFLOW

from . import mutations
from .bounds import check_message

#: ext4 and APFS both: bytes of one name, in UTF-8.
_MAX_NAME_BYTES: Final = 255
_SPEC: Final = Planner(StylesRegistry.load(), DEFAULT_WORKFLOW).spec(ImageRequest(prompt="a fox"))


class Case(NamedTuple):
    """What users, registries and servers name; `on_disk` tries the path out."""

    template: str
    texts: dict[str, Any]
    filename: str | None
    lora: str
    count: int
    on_disk: bool


def make(rng: Random) -> Case:
    """A template, mostly a good one, and a text for each of its fields."""
    parts = [*(f"{{{name}}}" for name in PATH_FIELDS), "x", "-", "/", "/"]
    template = rng.choice((DEFAULT_PATH_TEMPLATE, "/".join(rng.sample(parts, 4)), "".join(rng.choices(parts, k=6))))
    if rng.random() < 0.2:
        template = mutations.mutated_text(rng, template)
    names = ("style_id", "style_title", "caller_id", "batch")
    texts = {name: mutations.mutated_text(rng, "Ink Intensity") for name in names if rng.random() < 0.9}
    filename = mutations.mutated_text(rng, "fox.png") if rng.random() < 0.5 else None
    return Case(
        template, texts, filename, mutations.mutated_text(rng, "a:0.5"), rng.choice((1, 1, 12)), rng.random() < 0.1
    )


def judge(case: Case) -> Iterator[str]:
    """A refused template, or a path of as many harmless names as the template has."""
    yield _lora(case.lora)
    try:
        check_path_template(case.template)
    except SettingsError as error:
        check_message(str(error))
        yield "template refused"
        return
    paths = [_rendered(case, number) for number in range(case.count)]
    assert len(set(paths)) == case.count
    for path in paths:
        parts = Path(path).parts
        assert not Path(path).is_absolute()
        assert len(parts) == len(case.template.split("/"))
        longest = temporary_path(Path(f"{path}_0123abcd_99.webp"))
        for name in (*parts, longest.name):
            _check_name(name)
    yield "path"
    if case.on_disk:
        _try_out(paths)
        yield "written"


def _lora(text: str) -> str:
    try:
        stack_loras(text, 1.0, [text])
    except InputError as error:
        check_message(str(error))
        return "LoRA refused"
    return "LoRA taken"


def _rendered(case: Case, number: int) -> str:
    spec = replace(_SPEC, style_id=case.texts.get("style_id"), style_title=case.texts.get("style_title"))
    fields = path_fields(
        spec,
        request_id="img_0123abcd",
        caller_id=case.texts.get("caller_id"),
        seed=2**64 - 1,
        batch=case.texts.get("batch", "set"),
        wall_seconds=1_700_000_000.0,
    )
    return render_path(case.template, fields, filename=case.filename, number=number, count=case.count)


def _check_name(name: str) -> None:
    assert name not in ("", ".", "..")
    assert not set(name) & set('/\\:*?"<>|'), name
    assert len(name.encode("utf-8")) <= _MAX_NAME_BYTES
    assert len(unicodedata.normalize("NFD", name).encode("utf-16-le")) / 2 <= _MAX_NAME_BYTES, "as HFS+ counts"
    # control characters, halves of pairs, and code points that APFS refuses because they are none
    assert not {unicodedata.category(character) for character in name} & {"Cc", "Cs", "Cn", "Zl", "Zp"}, ascii(name)


def _try_out(paths: list[str]) -> None:
    with tempfile.TemporaryDirectory(prefix="asyncgen-fuzz-") as folder:
        root = Path(folder)
        for path in paths:
            target = temporary_path(root / f"{path}_0123abcd_99.webp")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(b"")
        found = [Path(parent) / name for parent, _, names in os.walk(root) for name in names]
        assert len(found) == len(paths)
        assert all(path.resolve().is_relative_to(root.resolve()) for path in found)
