"""What a style is, and how its texts and the user's prompt become the prompt that is sent. Pure.

Entries of a registry file are kept raw by `asyncgen.registry`; the classes here are typed views of them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from asyncgen.errors import InputError
from asyncgen.loras import names_a_lora

_TRUTH: Final = {"true": True, "false": False, "yes": True, "no": False, "1": True, "0": False}
# A part that ends so needs no comma after it.
_SENTENCE_ENDS: Final = (".", "!", "?", ":", ";")


@dataclass(frozen=True, slots=True)
class Style:
    """One style of the registry. What an entry leaves out, leaves empty or sets to null is None here."""

    id: str
    title: str
    lora_name: str | None = None
    lora_file: str | None = None
    lora_version: str | None = None
    lora_weight: float | None = None
    character_lora_weight: float | None = None
    cine_lora_weight: float | None = None
    trigger_words: str | None = None
    monochrome: bool | None = None
    model: str | None = None
    frontpad: str | None = None
    backpad: str | None = None
    steps: int | None = None
    cfg: float | None = None
    guidance: float | None = None
    sampler_name: str | None = None
    scheduler_name: str | None = None

    @classmethod
    def from_entry(cls, entry: Mapping[str, Any], where: str) -> Style:
        """The typed view of a registry entry. Numbers may be written as text, as old files do.

        `where` names the file and the entry. Raises `InputError` naming the style and the field of a wrong type.
        """
        for required in ("id", "title"):
            if _text(entry.get(required), required, where) is None:
                raise InputError("a style needs this field: give it a text", field=required, where=where)
        where = f"{where} (style {_text(entry['id'], 'id', where)})"
        return cls(**_read(entry, _STYLE_READERS, where))

    @property
    def lora_to_load(self) -> str | None:
        """The LoRA that the style loads: `lora_file`, else `lora_name`; None for a style without one."""
        return next((name for name in (self.lora_file, self.lora_name) if names_a_lora(name)), None)


@dataclass(frozen=True, slots=True)
class LoraFile:
    """One entry of the registry's `loras`. What is left out, empty or null is None."""

    lora_name: str | None = None
    lora_file: str | None = None
    trigger_words: str | None = None
    version: str | None = None
    s3_url: str | None = None
    local_path: str | None = None

    @classmethod
    def from_entry(cls, entry: Mapping[str, Any], where: str) -> LoraFile:
        """The typed view of a `loras` entry. Raises `InputError` for a wrong type, or without name and file."""
        lora = cls(**_read(entry, _LORA_READERS, where))
        if lora.lora_name is None and lora.lora_file is None:
            raise InputError("a LoRA needs a lora_name or a lora_file", field="lora_name", where=where)
        return lora


def compose_prompt(style: Style | None, prompt: str, raw: bool = False) -> str:
    """The prompt that is sent: front text, trigger words, the user's prompt, back text.

    Parts are joined by ", " (by a space after a full stop), never doubling a comma or a space. Trigger words that the
    user's prompt already has are left out. With `raw`, without a style, or where the style has no texts, the prompt
    comes back untouched.
    """
    if raw or style is None:
        return prompt
    before = [style.frontpad, *_missing_trigger_words(style.trigger_words, prompt)]
    if not any((*before, style.backpad)):
        return prompt
    return _joined([*before, prompt, style.backpad])


def _missing_trigger_words(trigger_words: str | None, prompt: str) -> list[str]:
    words = (word.strip() for word in (trigger_words or "").split(","))
    return [word for word in words if word and not _has_phrase(prompt, word)]


def _has_phrase(prompt: str, phrase: str) -> bool:
    """Whether the phrase stands in the prompt as whole words, in any case."""
    return re.search(rf"(?<!\w){re.escape(phrase)}(?!\w)", prompt, re.IGNORECASE) is not None


def _joined(parts: list[str | None]) -> str:
    whole = ""
    for part in parts:
        text = (part or "").strip(", \t\r\n")
        if text and whole:
            whole += " " if whole.endswith(_SENTENCE_ENDS) else ", "
        whole += text
    return whole


def _read(entry: Mapping[str, Any], readers: Mapping[str, Any], where: str) -> dict[str, Any]:
    return {name: reader(entry.get(name), name, where) for name, reader in readers.items()}


def _text(value: object, field: str, where: str) -> str | None:
    """A text; a number is taken as its text, because old files write ids and versions so."""
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise InputError(f"must be a text, not {value!r}", field=field, where=where)
    return str(value)


def _words(value: object, field: str, where: str) -> str | None:
    """Trigger words as one comma-separated text; a list of texts is joined."""
    if isinstance(value, list):
        value = ", ".join(filter(None, (_text(word, field, where) for word in value)))
    return _text(value, field, where)


def _number(value: object, field: str, where: str) -> float | None:
    if value is None or value == "":
        return None
    try:
        number = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]  # that is the check
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"must be a number, not {value!r}", field=field, where=where)
    return number


def _whole_number(value: object, field: str, where: str) -> int | None:
    number = _number(value, field, where)
    if number is not None and not number.is_integer():
        raise InputError(f"must be a whole number, not {value!r}", field=field, where=where)
    return None if number is None else int(number)


def _truth(value: object, field: str, where: str) -> bool | None:
    if value is None or value == "":
        return None
    truth = _TRUTH.get(str(value).strip().lower())
    if truth is None:
        raise InputError(f"must be true or false, not {value!r}", field=field, where=where)
    return truth


_BY_TYPE: Final = {"str": _text, "str | None": _text, "float | None": _number, "int | None": _whole_number}
_STYLE_READERS: Final = {
    field.name: {"trigger_words": _words, "monochrome": _truth}.get(field.name) or _BY_TYPE[str(field.type)]
    for field in fields(Style)
}
_LORA_READERS: Final = {field.name: _words if field.name == "trigger_words" else _text for field in fields(LoraFile)}
