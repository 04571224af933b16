"""Names of files and folders, made safe on every file system. Pure.

Whatever a user, a registry or a server supplies, a name that comes out of here has no separators, no control
characters and no `..`, is no device name, and fits 143 bytes with room for an id and a suffix.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Final

from asyncgen.errors import SettingsError
from asyncgen.records import Spec

NO_STYLE: Final = "no_style"
PATH_FIELDS: Final = (
    "style", "style_id", "style_title", "time", "date", "hex8", "hex2", "id", "seed", "batch", "width", "height",
)  # fmt: skip
_MAX_NAME_BYTES: Final = 112  # leaves room for numbers, an id and suffixes in the 143 bytes of encrypted home folders
_UNSAFE: Final = re.compile(
    r'[<>:"/\\|?*\x00-\x1f\x7f-\x9f\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb]'
)
_UNASSIGNED: Final = "Cn"  # code points that are no characters: APFS refuses them
_EDGES: Final = re.compile(r"^[\s.]+|[\s.]+$")  # hidden on one system, dropped on another
_DOTS: Final = re.compile(r"\.{2,}")
_FIELD: Final = re.compile(r"\{([^{}]*)\}")
_RESERVED: Final = frozenset(
    {
        "con",
        "prn",
        "aux",
        "nul",
        "conin$",
        "conout$",
        *(f"{port}{n}" for port in ("com", "lpt") for n in "123456789¹²³"),
    }
)
_PICTURE_SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".webp")


@lru_cache
def safe_name(text: str) -> str:
    """One path component that any file system takes; never empty. Different texts may give the same name."""
    known = "".join("_" if unicodedata.category(mark) == _UNASSIGNED else mark for mark in text)
    name = _DOTS.sub("_", _EDGES.sub("", _UNSAFE.sub("_", unicodedata.normalize("NFC", known))))
    name = _EDGES.sub("", name.encode("utf-8")[:_MAX_NAME_BYTES].decode("utf-8", "ignore"))
    if not name:
        return "unnamed"
    return f"_{name}" if name.partition(".")[0].strip().lower() in _RESERVED else name


def style_folder(style_id: str | None, style_title: str | None) -> str:
    """`{style_id}_{title in lower case with underscores}`; a folder of its own for images without a style."""
    if style_id is None:
        return NO_STYLE
    title = "_".join((style_title or "").lower().split())
    return safe_name(f"{style_id}_{title}" if title else style_id)


def check_path_template(template: str) -> None:
    """Raises `SettingsError` for an unknown or half-written field, an absolute path or one that leaves the root."""
    parts = template.split("/")
    if unknown := [field for field in _FIELD.findall(template) if field not in PATH_FIELDS]:
        raise SettingsError(
            f"there is no field {{{unknown[0]}}}; the fields are {{{'} {'.join(PATH_FIELDS)}}}",
            field="ASYNCGEN_PATH_TEMPLATE",
        )
    if set("{}") & set(_FIELD.sub("", template)):
        raise SettingsError(f"{template!r} has a brace without its partner", field="ASYNCGEN_PATH_TEMPLATE")
    if any(part.strip() in ("", ".", "..") for part in parts) or "\\" in template:
        raise SettingsError(
            f"{template!r} must be a relative path without empty parts, '.' or '..'", field="ASYNCGEN_PATH_TEMPLATE"
        )


def path_fields(
    spec: Spec, *, request_id: str, caller_id: str | None, seed: int, batch: str, wall_seconds: float
) -> dict[str, str]:
    """The values of the template's fields for one item; `wall_seconds` is Unix time, shown in UTC."""
    moment = datetime.fromtimestamp(wall_seconds, UTC)
    hex8 = request_id.removeprefix("img_")
    return {
        "style": style_folder(spec.style_id, spec.style_title),
        "style_id": spec.style_id or NO_STYLE,
        "style_title": spec.style_title or NO_STYLE,
        "time": moment.strftime("%Y%m%d_%H%M%S"),
        "date": moment.strftime("%Y%m%d"),
        "hex8": hex8,
        "hex2": hex8[:2],
        "id": caller_id or hex8,
        "seed": str(seed),
        "batch": batch,
        "width": str(spec.width),
        "height": str(spec.height),
    }


def render_path(template: str, fields: Mapping[str, str], *, filename: str | None, number: int, count: int) -> str:
    """A relative path without suffix. `filename` replaces the last part; `number` tells apart the `count` pictures."""
    parts = [safe_name(_FIELD.sub(lambda match: fields[match[1]], part)) for part in template.split("/")]
    if filename is not None:
        parts[-1] = safe_name(_without_suffix(filename))
    if count > 1:
        parts[-1] = f"{parts[-1]}_{number + 1}"
    return str(PurePosixPath(*parts))


def _without_suffix(filename: str) -> str:
    stem, dot, suffix = filename.rpartition(".")
    return stem if f"{dot}{suffix}".lower() in _PICTURE_SUFFIXES and stem else filename
