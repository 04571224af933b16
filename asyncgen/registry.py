"""The styles registry: a JSON file of styles and LoRAs that people and other programs edit too.

Entries are kept as they were read, so that what this version does not know survives a load and a save, in order. The
typed views of `asyncgen.styles` are made from them. The registry that ships with asyncgen is never written: what is
changed in it is saved to the user's folder, from where it is loaded the next time.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, TypeAlias

from asyncgen import assets
from asyncgen.documents import parse_json
from asyncgen.errors import InputError, StyleNotFoundError
from asyncgen.loras import names_a_lora, with_suffix
from asyncgen.settings import user_folder
from asyncgen.styles import LoraFile, Style

REGISTRY_FILE: Final = "styles_registry.json"

_STYLE_FIELDS: Final = (*(field.name for field in fields(Style)), "training_data", "metadata")


@dataclass(frozen=True, slots=True)
class StyleUse:
    """One image that was made in a style, as the ledger has it.

    `stored_at` is Unix time in seconds; `path` is None for a picture that was delivered in memory; the two times are
    milliseconds, None where the platform did not say.
    """

    request_id: str
    prompt: str
    seed: int
    stored_at: float
    path: str | None
    delay_ms: int | None
    execution_ms: int | None
    batch: str


HistoryReader: TypeAlias = Callable[[str], Sequence[StyleUse]]
_Entry: TypeAlias = dict[str, Any]


class StylesRegistry:
    """Styles and LoRAs of one registry file. Nothing is written before `save`."""

    def __init__(self, document: _Entry, source: Path, history_reader: HistoryReader | None = None) -> None:
        """`document` is the parsed file, kept and changed in place; `source` is its path, for errors and for `save`.

        Raises `InputError` naming file, entry and field of what is malformed.
        """
        self._document, self.source, self._history_reader = document, source, history_reader
        self._styles: dict[str, Style] = {}
        self._entries: dict[str, _Entry] = {}
        for number, entry in enumerate(_entries(document, "styles", source), start=1):
            self._take(entry, f"{source}: style {number}")
        for number, entry in enumerate(_entries(document, "loras", source), start=1):
            LoraFile.from_entry(entry, f"{source}: LoRA {number}")

    @classmethod
    def load(cls, path: Path | None = None, history_reader: HistoryReader | None = None) -> StylesRegistry:
        """The registry of a file; None is the user's own registry where there is one, else the shipped one.

        Raises `InputError` naming the file and what is wrong with it.
        """
        source = path or _usual_file()
        return cls(_read_document(source), source, history_reader)

    @property
    def digest(self) -> bytes:
        """A hash (16 bytes) of all its styles and LoRAs as they are now."""
        return hashlib.blake2b(json.dumps(self._document, sort_keys=True).encode(), digest_size=16).digest()

    def get_all_styles(self) -> list[Style]:
        """Every style, in the order of the file."""
        return list(self._styles.values())

    def get_style_by_id(self, style_id: str) -> Style:
        """The style. Raises `StyleNotFoundError` naming close ones."""
        try:
            return self._styles[style_id]
        except KeyError:
            raise self._not_found(style_id) from None

    def get_style_by_lora_name(self, lora_name: str) -> Style | None:
        """The first style with this `lora_name` or `lora_file`, with or without suffix; None where there is none."""
        wanted = with_suffix(lora_name)
        return next((style for style in self._styles.values() if _goes_by(style, wanted)), None)

    def get_lora_info(self, lora_name: str) -> LoraFile | None:
        """The registry's LoRA with this name or file, with or without suffix; None where it is not listed."""
        entry = self._lora_entry(lora_name)
        return None if entry is None else LoraFile.from_entry(entry, f"{self.source}: LoRA {lora_name}")

    def history(self, style_id: str) -> Sequence[StyleUse]:
        """What was generated in this style, when and at what cost.

        Raises `StyleNotFoundError`, and `InputError` when the registry was loaded without a ledger to ask.
        """
        self.get_style_by_id(style_id)
        if self._history_reader is None:
            raise InputError("this registry was loaded without a ledger: give it a history_reader", field="history")
        return self._history_reader(style_id)

    def add_style(self, entry: Mapping[str, Any]) -> Style:
        """Append a style. Raises `InputError` when it is malformed or its id is taken."""
        own = dict(entry)
        style = self._take(own, f"{self.source}: new style")
        self._listed("styles").append(own)
        return style

    def update_style(self, style_id: str, **changes: Any) -> Style:
        """Change fields of a style; None empties one. Other fields stay as they are.

        Raises `InputError` for a wrong type, for a field that styles do not have and this one has not either, and for
        `id`, because images that were made are recorded under it.
        """
        self.get_style_by_id(style_id)
        entry = self._entries[style_id]
        self._check_fields(entry, changes)
        changed = entry | changes
        style = Style.from_entry(changed, f"{self.source}: style {style_id}")
        entry.update(changes)
        self._styles[style_id] = style
        return style

    def update_lora_file(self, style_id: str, lora_file: str, version: str | None = None) -> Style:
        """Give the style another LoRA file, in its own entry and in the list of LoRAs; a version of None stays."""
        style = self.get_style_by_id(style_id)
        self._note_lora(style.lora_name or lora_file, lora_file, version=version)
        return self.update_style(style_id, lora_file=lora_file, **_given(lora_version=version))

    def mark_trained(
        self,
        style_id: str,
        lora_name: str,
        lora_file: str,
        *,
        version: str | None = None,
        trigger_words: str | None = None,
        s3_url: str | None = None,
        trained_at: str | None = None,
    ) -> Style:
        """Make a newly trained LoRA the style's own and list it; what is None stays as it was.

        The style's `training_data` says what was trained (`trained_at` as the caller writes times), and its `metadata`
        lists the LoRA it had before. Either is left alone where it holds something other than an object.
        """
        style = self.get_style_by_id(style_id)
        entry = self._entries[style_id]
        notes = _training_notes(entry, style, lora_name, lora_file, _given(version=version, trained_at=trained_at))
        self._note_lora(lora_name, lora_file, version=version, trigger_words=trigger_words, s3_url=s3_url)
        return self.update_style(
            style_id,
            lora_name=lora_name,
            lora_file=lora_file,
            **_given(lora_version=version, trigger_words=trigger_words),
            **notes,
        )

    def save(self, path: Path | None = None) -> Path:
        """Write the registry whole or not at all, and return where. None is the file it was loaded from.

        A registry that was loaded from the shipped file goes to the user's folder. Raises `InputError` when the shipped
        file itself is named, or when the file cannot be written.
        """
        target = path or (user_folder() / REGISTRY_FILE if _is_shipped(self.source) else self.source)
        if _is_shipped(target):
            raise InputError("this file belongs to asyncgen itself: name another one", where=str(target))
        try:
            _write_whole(target.resolve(), _encoded(self._document))
        except OSError as error:
            raise InputError(f"the registry cannot be written: {error.strerror}", where=str(target)) from error
        self.source = target
        return target

    def _take(self, entry: _Entry, where: str) -> Style:
        style = Style.from_entry(entry, where)
        if style.id in self._styles:
            raise InputError(
                f"the id {style.id!r} is taken by {self._styles[style.id].title!r}", field="id", where=where
            )
        self._styles[style.id], self._entries[style.id] = style, entry
        return style

    def _check_fields(self, entry: _Entry, changes: Mapping[str, Any]) -> None:
        if "id" in changes:
            raise InputError("the id of a style stays: images are recorded under it; add a new style", field="id")
        for name in changes:
            if name not in _STYLE_FIELDS and name not in entry:
                close = difflib.get_close_matches(name, _STYLE_FIELDS, n=1)
                hint = f"; did you mean {close[0]}?" if close else f"; the fields are: {', '.join(_STYLE_FIELDS)}"
                raise InputError(f"styles have no such field{hint}", field=name)

    def _listed(self, key: str) -> list[_Entry]:
        """The raw list of the document, put there where it is missing or null."""
        listed: list[_Entry] = self._document.get(key) or []
        self._document[key] = listed
        return listed

    def _lora_entry(self, lora_name: str) -> _Entry | None:
        wanted = with_suffix(lora_name)
        return next(
            (entry for entry in self._listed("loras") if _goes_by(LoraFile.from_entry(entry, ""), wanted)), None
        )

    def _note_lora(self, lora_name: str, lora_file: str, **told: str | None) -> None:
        """List the LoRA, or bring its entry up to date. Where its file has changed, the old file's places go."""
        if not names_a_lora(lora_name) or not names_a_lora(lora_file):
            raise InputError(
                f"a trained LoRA has a name and a file, not {lora_name!r} and {lora_file!r}", field="lora_file"
            )
        entry = self._lora_entry(lora_name)
        if entry is None:
            entry = {"lora_name": lora_name}
            self._listed("loras").append(entry)
        elif entry.get("lora_file") != lora_file:
            entry.update({place: None for place in ("s3_url", "local_path") if place in entry})
        entry.update({"lora_file": lora_file, **_given(**told)})

    def _not_found(self, style_id: str) -> StyleNotFoundError:
        names = {name.casefold(): style for style in self._styles.values() for name in (style.id, style.title)}
        wanted = style_id.casefold()
        close = [name for name in names if wanted in name] if len(wanted) > 1 else []
        close = (close or difflib.get_close_matches(wanted, names))[:3]
        styles = dict.fromkeys(names[name] for name in close) or self._styles.values()
        listed = ", ".join(f"{style.id} ({style.title})" for style in styles)
        hint = f"did you mean {listed}?" if close else f"there are: {listed or 'none'}"
        return StyleNotFoundError(f"there is no style {style_id!r}; {hint}", field="style_id")


def _usual_file() -> Path:
    own = user_folder() / REGISTRY_FILE
    return own if own.exists() else assets.data_path("resources", REGISTRY_FILE)


def _is_shipped(path: Path) -> bool:
    return path.resolve() == assets.data_path("resources", REGISTRY_FILE).resolve()


def _goes_by(named: Style | LoraFile, file_name: str) -> bool:
    return any(name is not None and with_suffix(name) == file_name for name in (named.lora_name, named.lora_file))


def _given(**values: str | None) -> dict[str, str]:
    return {name: value for name, value in values.items() if value is not None}


def _training_notes(entry: _Entry, style: Style, lora_name: str, lora_file: str, told: dict[str, str]) -> _Entry:
    """The new `training_data` and `metadata` of a style, each only where it may be changed."""
    notes: _Entry = {}
    training, metadata = entry.get("training_data") or {}, entry.get("metadata") or {}
    if isinstance(training, dict):
        notes["training_data"] = training | {"lora_name": lora_name, "lora_file": lora_file, **told}
    before = _given(lora_name=style.lora_name, lora_file=style.lora_file, lora_version=style.lora_version)
    earlier = metadata.get("previous_loras", []) if isinstance(metadata, dict) else None
    if before and isinstance(earlier, list):
        notes["metadata"] = metadata | {"previous_loras": [*earlier, before]}
    return notes


# Files ------------------------------------------------------------------------------------------------------------


def _read_document(path: Path) -> _Entry:
    try:
        document = parse_json(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"the styles registry cannot be read: {error.strerror}", where=str(path)) from error
    except ValueError as error:
        raise InputError(f"is not a valid JSON file: {error}", where=str(path)) from error
    if not isinstance(document, dict):
        raise InputError('a styles registry is an object: {"version": …, "styles": […], "loras": […]}', where=str(path))
    return document


def _entries(document: _Entry, key: str, path: Path) -> Iterator[_Entry]:
    listed = document.get(key) or []
    if not isinstance(listed, list):
        raise InputError(f"must be a list, not {listed!r:.80}", field=key, where=str(path))
    for number, entry in enumerate(listed, start=1):
        if not isinstance(entry, dict):
            raise InputError(f"entry {number} must be an object, not {entry!r:.80}", field=key, where=str(path))
        yield entry


def _encoded(document: _Entry) -> bytes:
    """Raises `InputError` for what a change has put in and no registry could be loaded with."""
    try:
        text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        parse_json(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"the registry holds a value that its file cannot carry: {error}") from error
    try:
        return text.encode()
    except UnicodeEncodeError:  # half a surrogate pair, which JSON can carry only as an escape
        return (json.dumps(document, indent=2) + "\n").encode()


def _write_whole(path: Path, data: bytes) -> None:
    """Replace the file in one step; after a crash either the old or the new one is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(mode)
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
