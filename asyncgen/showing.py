"""`asyncgen show`: what the files of pictures say of how they were made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from asyncgen.console import print_json, printable, say, with_exit_code
from asyncgen.exits import Exit
from asyncgen.origins import Origin, origin_of
from asyncgen.provenance import MADE_BY_AI, MADE_WITH_AI
from asyncgen.records import SANDBOX
from asyncgen.streams import complain

_NAME_WIDTH: Final = 17
_SOURCES: Final = {MADE_BY_AI: "made by AI", MADE_WITH_AI: "made with AI out of a picture"}


@with_exit_code
def show_files(paths: Sequence[Path], *, as_json: bool) -> Exit:
    """`asyncgen show`: exit code 0 when every file says how it was made, 1 when one does not or cannot be read."""
    code = Exit.DONE
    for number, path in enumerate(paths):
        try:
            origin = origin_of(path.read_bytes())
        except (OSError, ValueError) as error:
            complain(f"{path} cannot be read: {(error.strerror if isinstance(error, OSError) else None) or error}")
            code = Exit.SOME_FAILED
            continue
        if origin.program is None:
            code = Exit.SOME_FAILED
        if as_json:
            print_json({"path": str(path), **asdict(origin)})
        else:
            _print(path, origin, is_first=number == 0)
    return code


def _print(path: Path, origin: Origin, *, is_first: bool) -> None:
    if not is_first:
        say("")
    source = origin.digital_source_type
    known = None if source is None else _SOURCES.get(source, source)
    if origin.program is None:
        words = "it does not say how it was made" if known is None else f"it says only that it was {known}"
    else:
        words = ", ".join(filter(None, (f"written by {_program(origin)}", known)))
    say(printable(f"{path}: {words}"))
    for note in origin.notes:
        say(printable(f"- {note}"))
    for name, value in _rows(origin):
        if value is not None:
            say(f"  {name:<{_NAME_WIDTH}}{printable(value)}")


def _program(origin: Origin) -> str:
    version = (origin.record or {}).get("asyncgen")
    of_sandbox = " in its sandbox" if (origin.record or {}).get("realm") == SANDBOX else ""
    return f"asyncgen {version}{of_sandbox}" if isinstance(version, str) else str(origin.program)


def _rows(origin: Origin) -> Iterator[tuple[str, str | None]]:
    record = origin.record or {}
    yield "request", _joined(" ", record.get("request_id"), _named("of the batch", record.get("batch")))
    yield "your id", _joined("", record.get("id"))
    yield "picture", _joined(" of ", record.get("number"), record.get("of"))
    yield "prompt", origin.prompt
    yield "as it was sent", origin.prompt_sent if origin.prompt_sent != origin.prompt else None
    yield "negative prompt", origin.negative_prompt
    yield "style", _joined(", ", origin.style_id, origin.style_title)
    yield "LoRAs", _joined(", ", *(f"{lora.name} {lora.strength:g}" for lora in origin.loras))
    yield "workflow", _joined(", ", origin.workflow, _named("digest", record.get("workflow_digest")))
    yield "model", origin.model
    yield "seed", _joined("", origin.seed)
    yield "size", _joined("x", origin.width, origin.height)
    yield "steps", _joined("", origin.steps)
    yield "sampler", _joined(", ", origin.sampler_name, origin.scheduler_name)
    yield "guidance", None if origin.flux_guidance is None else f"{origin.flux_guidance:g}"
    yield "began with", _joined(", ", *map(_input_picture, _mapping(record, "input_pictures").items()))
    yield "parameters", _joined(", ", *(f"{name} {value}" for name, value in _mapping(record, "parameters").items()))


def _input_picture(named: tuple[str, Any]) -> str:
    name, picture = named
    sha256 = picture.get("sha256") if isinstance(picture, dict) else None
    return name if sha256 is None else f"{name} (sha256 {sha256})"


def _mapping(record: Any, name: str) -> dict[str, Any]:
    value = record.get(name)
    return value if isinstance(value, dict) else {}


def _named(words: str, value: object) -> str | None:
    return None if value is None else f"{words} {value}"


def _joined(separator: str, *values: object) -> str | None:
    return separator.join(str(value) for value in values if value is not None) or None
