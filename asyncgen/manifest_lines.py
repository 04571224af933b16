"""A line of `manifest.jsonl` read back: what it takes to make the ledger's rows of one picture again. Pure.

The file lies among the pictures, where anybody may edit it: nothing in it is believed before it is checked.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import PurePosixPath
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from asyncgen.documents import parse_json
from asyncgen.errors import InputError
from asyncgen.records import Spec, StoredPicture, Want
from asyncgen.request import INPUT_PICTURES, MAX_SEED, content_key, parse_request
from asyncgen.template import DEFAULT_WORKFLOW
from asyncgen.workflow import DEFAULTS

#: What is longer was never a line of ours: a request is at most the 10 MiB that the platform takes.
MOST_LINE_BYTES: Final = 16 * 1024 * 1024
_SPEC_FIELDS: Final = tuple(field.name for field in fields(Spec) if field.name not in ("sent_pictures", "unused"))
# Values that a style can fill too: without a style, one that is not the default was said.
_SAID_WITHOUT_STYLE: Final = ("steps", "model", "sampler_name", "scheduler_name", "flux_guidance")
_ALWAYS_SAID: Final = ("width", "height", "batch_size")


@dataclass(frozen=True, slots=True)
class Recorded:
    """One picture as the manifest has it, and the job it came from. `stored_at` is Unix seconds."""

    request_id: str
    batch: str
    realm: str
    want: Want
    occurrence: int
    seed: int
    picture: StoredPicture
    stored_at: float
    endpoint: str
    job_id: str
    delay_ms: int | None
    execution_ms: int | None
    cost_usd: float | None
    rerolls: int


def _inside(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path or ":" in parts[0] or "\0" in path:
        raise ValueError("the path leads out of the output root")
    return path


_Whole = Annotated[int, Field(ge=0, lt=2**62)]  # well within SQLite's integers


class _Line(BaseModel):
    """The members of a line that are not the values it was made with; old lines lack those with a default."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    path: Annotated[str, AfterValidator(_inside)] | None
    request_id: str = Field(pattern=r"^img_[0-9a-f]{8}$")
    batch: str
    realm: Literal["runpod", "sandbox"]
    number: _Whole
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size_bytes: _Whole
    format: str
    width: _Whole
    height: _Whole
    seed: int = Field(ge=0, le=MAX_SEED)
    stored_at: float
    endpoint: str
    job_id: str
    delay_ms: _Whole | None
    execution_ms: _Whole | None
    cost_usd: float | None = Field(None, gt=0)
    request: dict[str, Any] | None = None
    replica: _Whole = 0
    occurrence: _Whole = 0
    rerolls: _Whole = 0
    wanted_width: _Whole | None = None
    wanted_height: _Whole | None = None
    unused: dict[str, Any] = {}


def read_line(text: bytes) -> Recorded:
    """What a line says. Raises `ValueError` for one that is cut, edited into nonsense, or of another program."""
    try:
        members = parse_json(text.decode())
        json.dumps(members, ensure_ascii=False).encode()  # halves of surrogate pairs, which no database takes
        line = _Line.model_validate(members)
        spec = _spec(members, line)
        request = parse_request(line.request or _said_by_old(members))
    except (InputError, KeyError, TypeError) as error:
        raise ValueError(f"this is no line of a manifest ({error})") from None
    want = Want(request, line.replica, spec, content_key(request, line.replica, spec.workflow), None)
    picture = StoredPicture(**{field.name: getattr(line, field.name) for field in fields(StoredPicture)})
    same = {name: getattr(line, name) for name in Recorded.__slots__ if name not in ("want", "picture")}
    return Recorded(want=want, picture=picture, **same)


def _spec(members: dict[str, Any], line: _Line) -> Spec:
    """The values it was made with. The picture's own size may be another than was wanted: a workflow may enlarge."""
    values = {name: members[name] for name in _SPEC_FIELDS} | line.unused
    values["unused"] = tuple(line.unused)
    values["sent_pictures"] = members.get("sent_pictures", {})
    values["width"] = line.width if line.wanted_width is None else line.wanted_width
    values["height"] = line.height if line.wanted_height is None else line.wanted_height
    return Spec.from_json(json.dumps(values))


def _said_by_old(members: dict[str, Any]) -> dict[str, Any]:
    """The request of a line written before lines held it, as well as it can be guessed from the values it led to."""
    names = _ALWAYS_SAID if members["style_id"] is not None else (*_ALWAYS_SAID, *_SAID_WITHOUT_STYLE)
    said = {name: members[name] for name in names if members[name] != DEFAULTS[name]}
    said |= {name: members[name] for name in ("prompt", "id", "style_id") if members[name] is not None}
    said |= {name: path for name, path in members["input_pictures"].items() if name in INPUT_PICTURES}
    if members["workflow"] != DEFAULT_WORKFLOW:
        said["workflow"] = members["workflow"]
    return said | {"parameters": members["parameters"]}
