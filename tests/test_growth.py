"""A set may get any axis later: what it has is kept, and only the new cells are bought.

The identities of what a run would buy are compared, as the planner makes them of files and options; nothing is sent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from asyncgen.batch_input import opened, read_input
from asyncgen.expansion import Expansion
from asyncgen.plan import Planner
from asyncgen.prompts import Row
from asyncgen.registry import StylesRegistry
from asyncgen.template import DEFAULT_WORKFLOW

PLAIN: Final = {"seeds": 1}
#: An axis → what is said of it at first, then, and how many images that makes of one row.
GROWTHS: Final[Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any], int]]] = {
    "styles, by the control": (PLAIN, {"seeds": 1, "styles": ["1", "16"], "control": True}, 3),
    "styles, from one": ({"seeds": 1, "styles": ["1"]}, {"seeds": 1, "styles": ["16", "1"]}, 2),
    "characters": (PLAIN, {"seeds": 1, "characters": ["none", "ann,bob:0.6"]}, 2),
    "sizes": (PLAIN, {"seeds": 1, "sizes": ["1360x768", "64x64"]}, 2),
    "sizes, from the usual one": ({"seeds": 1, "sizes": ["1360x768"]}, {"seeds": 1, "sizes": ["64x64", "1360x768"]}, 2),
    "sizes, from another one": ({"seeds": 1, "sizes": ["64x64"]}, {"seeds": 1, "sizes": ["64x64", "128x64"]}, 2),
    "sizes, beside a style": ({"styles": ["1", "16"]}, {"styles": ["1", "16"], "sizes": ["64x64", "1360x768"]}, 4),
    "sizes of another workflow": (
        {"seeds": 1, "workflows": ["poster_frame"]},
        {"seeds": 1, "workflows": ["poster_frame"], "sizes": ["1360x768", "1024x1024"]},
        2,
    ),
    "workflows, one": (PLAIN, {"seeds": 1, "workflows": ["v4"]}, 1),
    "workflows": (PLAIN, {"seeds": 1, "workflows": ["text2img_core_only", "v4"]}, 2),
    "workflows, by another name": (
        {"seeds": 1, "workflows": ["v4"]},
        {"seeds": 1, "workflows": [DEFAULT_WORKFLOW, "text2img_core_only", "v4"]},
        2,
    ),
    "workflows and sizes": (PLAIN, {"seeds": 2, "workflows": ["v4", "schnell"], "sizes": ["64x64", "1360x768"]}, 8),
    "seeds": ({"styles": ["1", "16"]}, {"styles": ["1", "16"], "seeds": 3}, 6),
    "control": ({"styles": ["1", "16"]}, {"styles": ["1", "16"], "control": True}, 3),
}


def keys(
    folder: Path, said: Mapping[str, Any], *, has_ids: bool, in_file: bool, workflow: str = DEFAULT_WORKFLOW
) -> list[bytes]:
    """The identity of each image that a batch of these axes wants."""
    rows = [{"prompt": prompt, **({"id": f"p-{prompt}"} if has_ids else {})} for prompt in ("a fox", "an owl")]
    if in_file:
        file = folder / "set.json"
        file.write_text(json.dumps({"prompts": rows, **said}))
        source = read_input(str(file), None, {}, {}, None, None, None)
    else:
        file = folder / "rows.jsonl"
        file.write_text("\n".join(map(json.dumps, rows)))
        source = read_input(str(file), None, {}, said, None, None, None)
    planner = Planner(StylesRegistry.load(), workflow)
    with opened(source, b"", takes_text=True) as lines:
        rows_of = lines if source.matrix is None else Expansion(lines, source.matrix, usual_of=planner.usual)
        parsed = [rows_of.parse(raw) for raw in rows_of.rows()]
        return [want.content_key for row in parsed if isinstance(row, Row) for want in planner.wants(row.request)]


@pytest.mark.parametrize("in_file", [False, True], ids=["options", "file"])
@pytest.mark.parametrize("has_ids", [False, True], ids=["content", "ids"])
@pytest.mark.parametrize("axis", GROWTHS)
def test_every_axis_may_come_later_and_changes_no_image_that_is_there(
    tmp_path: Path, axis: str, has_ids: bool, in_file: bool
) -> None:
    first, then, each = GROWTHS[axis]
    before = keys(tmp_path, first, has_ids=has_ids, in_file=in_file)
    after = keys(tmp_path, then, has_ids=has_ids, in_file=in_file)
    assert (len(after), len(set(after))) == (2 * each, 2 * each)
    assert set(before) <= set(after)


@pytest.mark.parametrize("has_ids", [False, True], ids=["content", "ids"])
def test_the_run_s_own_workflow_counts_as_if_it_had_been_said(tmp_path: Path, has_ids: bool) -> None:
    of_run = keys(tmp_path, PLAIN, has_ids=has_ids, in_file=False, workflow="schnell")
    said = {"seeds": 1, "workflows": ["v4", "schnell"]}
    assert set(of_run) < set(keys(tmp_path, said, has_ids=has_ids, in_file=False))
    assert not set(of_run) & set(keys(tmp_path, PLAIN, has_ids=has_ids, in_file=False))


@pytest.mark.parametrize("size", ["1360x768", "64x64"])
@pytest.mark.parametrize("in_file", [False, True], ids=["options", "file"])
def test_one_size_alone_keeps_rows_as_they_are_and_grows(tmp_path: Path, size: str, in_file: bool) -> None:
    before = keys(tmp_path, {"sizes": [size]}, has_ids=False, in_file=in_file)
    after = keys(tmp_path, {"sizes": ["64x64", "1360x768"], "seeds": 2}, has_ids=False, in_file=in_file)
    assert set(before) < set(after)
    usual = keys(tmp_path, {}, has_ids=False, in_file=in_file)
    assert (before == usual) is (size == "1360x768")


def test_one_size_on_the_command_line_leaves_a_row_its_id(tmp_path: Path) -> None:
    plain = keys(tmp_path, {}, has_ids=True, in_file=False)
    assert keys(tmp_path, {"sizes": ["64x64"]}, has_ids=True, in_file=False) == plain
