"""A batch file, in TOML or JSON: which prompts are to be made in which ways. Pure: its text in, values out."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from inspect import signature
from pathlib import PurePath
from typing import Any, Final, Literal, TypeAlias, get_args

from asyncgen.axes import Axes, axes
from asyncgen.cells import Matrix
from asyncgen.documents import parse_json
from asyncgen.errors import InputError
from asyncgen.request import FIELD_NAMES, RECORD_FIELDS

WildcardMode: TypeAlias = Literal["random", "combinatorial"]
SUFFIXES: Final = (".toml", ".json")
_AXES: Final = tuple(signature(axes).parameters)
_KEYS: Final = ("prompts", *_AXES, "template", "wildcards", "wildcards_folder", "defaults")
_LINE: Final = re.compile(r"\(at line ([0-9]+)|line ([0-9]+) column")


@dataclass(frozen=True, slots=True)
class BatchFile:
    """What a batch file says. `prompts` is a prompt file, relative to the batch file, or JSON lines.

    `defaults` are fields of a request for rows that say nothing.
    """

    prompts: str | tuple[str, ...]
    axes: Axes = field(default_factory=Axes)
    template: str | None = None
    wildcards: WildcardMode | None = None
    wildcards_folder: str | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)


def is_batch_file(path: str) -> bool:
    """Whether a path is a batch file's, by its suffix."""
    return PurePath(path).suffix.lower() in SUFFIXES


def read_batch_file(text: str, name: str) -> BatchFile:
    """What the text of a batch file of this name says. Raises `InputError` with file, and line or key."""
    values = _parsed(text, name)
    try:
        return _batch_file(values)
    except InputError as error:
        raise error.at(error.where or name) from None


def wildcard_mode(said: str | None) -> WildcardMode | None:
    """The mode of that name. Raises `InputError`."""
    for mode in get_args(WildcardMode):
        if said == mode:
            return mode  # type: ignore[no-any-return]  # get_args is untyped
    if said is not None:
        raise InputError(f"is one of {', '.join(get_args(WildcardMode))}, not {said!r:.60}", field="wildcards")
    return None


def _parsed(text: str, name: str) -> Mapping[str, Any]:
    is_toml = PurePath(name).suffix.lower() == ".toml"
    try:
        values = tomllib.loads(text) if is_toml else parse_json(text)
    except (ValueError, RecursionError) as error:
        found = _LINE.search(str(error))
        where = f"{name}:{found[1] or found[2]}" if found else name
        raise InputError(f"is not valid {'TOML' if is_toml else 'JSON'}: {error}", where=where) from None
    if not isinstance(values, dict):
        raise InputError("a batch file is an object of keys", where=name)
    return values


def _batch_file(values: Mapping[str, Any]) -> BatchFile:
    for key in values.keys() - {*_KEYS}:
        raise InputError(_unknown(key, _KEYS), field=key)
    given = {key: value for key, value in values.items() if key in _AXES}
    if not isinstance(given.get("variables", {}), dict):
        raise InputError("must be a table of lists, such as color = ['red', 'green']", field="variables")
    chosen = axes(**given)
    Matrix(chosen)  # whatever is wrong with it is wrong in this file
    template = _text_of(values, "template")
    return BatchFile(
        prompts=_prompts(values.get("prompts"), template),
        axes=chosen,
        template=template,
        wildcards=wildcard_mode(_text_of(values, "wildcards")),
        wildcards_folder=_text_of(values, "wildcards_folder"),
        defaults=_defaults(values.get("defaults", {})),
    )


def _prompts(value: object, template: str | None) -> str | tuple[str, ...]:
    if value is None:
        if template is None:
            raise InputError("say which: a file's name, or a list of prompts", field="prompts")
        return ("{}",)  # one row that says nothing: it gets the template
    if isinstance(value, str):
        return value
    if not isinstance(value, Sequence) or not value:
        raise InputError(f"is a file's name, or a list of prompts, not {value!r:.60}", field="prompts")
    return tuple(json.dumps(prompt, ensure_ascii=False, default=str) for prompt in value)


def _defaults(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError("must be a table of fields, such as steps = 30", field="defaults")
    for key in value:
        if key not in FIELD_NAMES or FIELD_NAMES[key] in {"prompt", "id", *RECORD_FIELDS}:
            raise InputError(_unknown(key, FIELD_NAMES), field=f"defaults.{key}")
    return {FIELD_NAMES[key]: item for key, item in value.items()}


def _text_of(values: Mapping[str, Any], key: str) -> str | None:
    value = values.get(key)
    if value is not None and not (isinstance(value, str) and value.strip()):
        raise InputError(f"must be a text, not {value!r:.60}", field=key)
    return value


def _unknown(key: str, known: Sequence[str] | Mapping[str, str]) -> str:
    close = get_close_matches(key, list(known), n=1)
    return f"there is no such key; {f'did you mean {close[0]!r}?' if close else 'there are: ' + ', '.join(known)}"
