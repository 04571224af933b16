"""Prompt files, from their bytes to the body that would be sent and the path that the picture would get."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from functools import cache
from io import BytesIO, TextIOWrapper
from itertools import islice
from pathlib import PurePosixPath
from random import Random
from typing import Any, Final, NamedTuple

from asyncgen.errors import InputError
from asyncgen.naming import path_fields, render_path
from asyncgen.plan import Planner
from asyncgen.prompts import PromptFormat, Row, read_rows
from asyncgen.protocol import job_body
from asyncgen.records import Want
from asyncgen.registry import StylesRegistry
from asyncgen.request import ImageRequest, content_key
from asyncgen.template import DEFAULT_WORKFLOW

from . import mutations
from .bounds import check_message

_ROW: Final[dict[str, Any]] = {
    "prompt": "a fox in the snow", "id": "fox-1", "style": "1", "width": 512, "height": 512, "steps": 4, "seed": 7,
    "images": 2, "batch_size": 1, "guidance": 3.5, "character_loras": "a:0.8, b", "lora_strength": 0.5,
    "model": "flux1-dev-fp8", "filename": "fox.png", "raw_prompt": True, "parameters": {},
}  # fmt: skip
_KEYS: Final = (*_ROW, "workflow", "init_image", "lora_name", "save_to_style", "cine_strength", "style_id", "Prompt")
_LEAVES: Final = ("2", "images", 10_000, 2, "true", "a fox", ["a"], {"sampler": 1}, "v4", "/dev/zero", "0", -1)
_FORMATS: Final[tuple[PromptFormat, ...]] = ("txt", "csv", "jsonl")
_MOST_ROWS_PLANNED: Final = 5


class Case(NamedTuple):
    """The bytes of a prompt file and what it is read as."""

    data: bytes
    format: PromptFormat


def make(rng: Random) -> Case:
    """A file of up to 5 rows, some of them wrong; then its bytes changed, or saved in another encoding; or noise."""
    format = rng.choice(_FORMATS)
    if rng.random() < 0.05:
        return Case(rng.randbytes(rng.randrange(2_000)), format)
    if rng.random() < 0.02:
        return Case(rng.choice((b"a", b'"', b"[", b"a,", b"\0", b'{"a":')) * rng.choice((1_000, 150_000)), format)
    data = _FILES[format](rng)
    if rng.random() < 0.1:
        data = mutations.reencoded(rng, data)
    return Case(mutations.mutated_bytes(rng, data, rng.choice((0, 0, 1, 2, 5))), format)


def _row(rng: Random) -> dict[str, Any]:
    row = {name: copy.copy(_ROW[name]) for name in rng.sample(list(_ROW), rng.randrange(1, 6))} | {"prompt": "a fox"}
    for _ in range(rng.choice((0, 0, 1, 2))):
        mutations.mutate(rng, row, _LEAVES, _KEYS)
    return row


def _txt(rng: Random) -> bytes:
    lines = [mutations.mutated_text(rng, "a fox") if rng.random() < 0.4 else "a fox" for _ in range(rng.randrange(6))]
    return _joined(rng, [line.encode("utf-8", "surrogatepass") for line in lines])


def _jsonl(rng: Random) -> bytes:
    return _joined(rng, [mutations.encoded(rng, _row(rng)) for _ in range(rng.randrange(1, 6))])


def _csv(rng: Random) -> bytes:
    header = ["prompt", *rng.sample(_KEYS, rng.randrange(4))]
    if rng.random() < 0.2:
        header[rng.randrange(len(header))] = mutations.text(rng)
    rows = [header, *([_cell(rng, name) for name in header] for _ in range(rng.randrange(5)))]
    return _joined(rng, [",".join(cells).encode("utf-8", "surrogatepass") for cells in rows])


def _cell(rng: Random, column: str) -> str:
    if rng.random() < 0.2:
        return mutations.text(rng)
    if rng.random() < 0.1:
        return '"' + mutations.text(rng).replace('"', '""') + '"'
    value = _ROW.get(column, "a fox")
    return value if isinstance(value, str) and "," not in value else json.dumps(value).replace(",", ";")


def _joined(rng: Random, lines: list[bytes]) -> bytes:
    return rng.choice((b"\n", b"\n", b"\r\n", b"\r")).join(lines)


_FILES: Final = {"txt": _txt, "jsonl": _jsonl, "csv": _csv}


def judge(case: Case) -> Iterator[str]:
    """Rows in the order of their lines, good or with an error that names the line; good ones are planned."""
    lines = TextIOWrapper(BytesIO(case.data), encoding="utf-8", errors="surrogateescape", newline="")
    last_line, planned, words = 0, 0, set[str]()
    for row in read_rows(lines, case.format, "prompts"):
        assert row.line > last_line
        last_line = row.line
        if not isinstance(row, Row):
            assert row.error.where == f"prompts:{row.line}"
            check_message(str(row.error))
            words.add(f"{case.format} bad row")
            continue
        words.add(f"{case.format} row")
        if planned < _MOST_ROWS_PLANNED:
            planned += 1
            words.add(_planned(row.request))
    yield from words or {f"{case.format} nothing"}


@cache
def _planner() -> Planner:
    return Planner(StylesRegistry.load(), DEFAULT_WORKFLOW)


def _planned(request: ImageRequest) -> str:
    assert len(content_key(request, 0, "workflow")) == 16
    assert request.said_json().encode()
    planner = _planner()
    try:
        for want in islice(planner.wants(request), 2):
            body = job_body(
                planner.job_input(want.request, want.spec, want.replica, {}), ttl_ms=None, execution_timeout_ms=None
            )
            assert json.loads(body)["input"]["workflow"]
            _check_path(want)
    except InputError as error:
        check_message(str(error))
        return "refused by the plan"
    return "planned"


def _check_path(want: Want) -> None:
    fields = path_fields(
        want.spec, request_id="img_0123abcd", caller_id=want.request.id, seed=7, batch="set", wall_seconds=1e9
    )
    path = render_path("{style}/{id}", fields, filename=want.request.filename, number=0, count=1)
    assert len(PurePosixPath(path).parts) == 2
    assert ".." not in PurePosixPath(path).parts
