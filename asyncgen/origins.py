"""How a picture was made, read back from its file: our own record, ComfyUI's graph, or A1111's text. Pure.

Files come from anywhere. What cannot be read is None, and nothing in them is believed beyond what it says.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar
from xml.etree import ElementTree

from asyncgen.binding import find_bindings
from asyncgen.containers import Contents, contents_of
from asyncgen.errors import WorkflowError
from asyncgen.exif import texts_in
from asyncgen.graph import Graph, check_shape, is_number
from asyncgen.lora_nodes import LoraChain, LoraStack, parse_lora_stack
from asyncgen.loras import Lora, names_a_lora, with_suffix
from asyncgen.node_schema import shipped_schemas
from asyncgen.provenance import FORMAT, IPTC_NAMESPACE, NAMESPACE, RECORD_KEYWORD, SAMPLERS, SCHEDULERS

T = TypeVar("T")
Program = Literal["asyncgen", "ComfyUI", "A1111"]

_MOST_PACKET_BYTES: Final = 16 * 1024 * 1024
_FEWEST_SETTINGS: Final = 3  # of a line that A1111 has written
_SETTING: Final = re.compile(r'\s*(\w[\w /-]{0,60}):\s*("(?:\\.|[^\\"])*"|[^,]*)(?:,|$)')
_LORA_TAG: Final = re.compile(r"\s*<lora:([^:<>]+):([^:<>]+)(?::[^<>]*)?>")
_NEGATIVE: Final = "Negative prompt:"
_SIZE: Final = re.compile(r"(\d{1,6})\s*x\s*(\d{1,6})")
_SAMPLER_OF: Final = {name: ours for ours, name in SAMPLERS.items()}
_SCHEDULER_OF: Final = {name: ours for ours, name in SCHEDULERS.items()}


@dataclass(frozen=True, slots=True)
class Origin:
    """How a picture was made, by its file. What the file does not say, or what could not be read, is None.

    `program` is who has written that, None where only the source type is known. `prompt` is what somebody asked for,
    `prompt_sent` what was sent: only our own record tells them apart. `record` is all of ours. `notes` say what could
    not be read.
    """

    program: Program | None = None
    prompt: str | None = None
    prompt_sent: str | None = None
    negative_prompt: str | None = None
    style_id: str | None = None
    style_title: str | None = None
    loras: tuple[Lora, ...] = ()
    workflow: str | None = None
    model: str | None = None
    seed: int | None = None
    steps: int | None = None
    sampler_name: str | None = None
    scheduler_name: str | None = None
    flux_guidance: float | None = None
    width: int | None = None
    height: int | None = None
    digital_source_type: str | None = None
    record: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()

    @property
    def says_something(self) -> bool:
        """Whether there is anything to tell."""
        return self.program is not None or self.digital_source_type is not None or bool(self.notes)


def origin_of(data: bytes) -> Origin:
    """How the picture in this PNG, JPEG or WebP file was made. Raises `ValueError` for any other file."""
    contents = contents_of(data)
    if contents is None:
        raise ValueError("it is no PNG, JPEG or WebP picture")
    texts = _texts(contents)
    source_type = texts.get("source type")
    notes: list[str] = []
    if RECORD_KEYWORD in texts:
        if (record := _record(texts[RECORD_KEYWORD])) is not None:
            return _of_record(record, source_type)
        notes.append("its asyncgen record is damaged")
    if "prompt" in texts:
        try:
            return _of_graph(texts["prompt"], source_type)
        except ValueError as error:
            notes.append(f"its ComfyUI graph cannot be read: {error}")
    elif "workflow" in texts:
        notes.append("of ComfyUI it has the drawing (`workflow`) only, not the graph that was run (`prompt`)")
    if (origin := _of_parameters(texts.get("parameters", ""), source_type)) is not None:
        return origin
    return Origin(digital_source_type=source_type, notes=tuple(notes))


def _texts(contents: Contents) -> dict[str, str]:
    """Everything that may tell, by PNG's keywords, whatever the format."""
    comment, fields = texts_in(contents.exif or b"")
    texts = {} if comment is None else {"parameters": comment}
    for text in fields:
        keyword, _, value = text.partition(":")
        if keyword.lower() in ("prompt", "workflow"):
            texts[keyword.lower()] = value
    return {**texts, **_properties(contents.packet or b""), **contents.texts}


def _properties(packet: bytes) -> dict[str, str]:
    """What is of interest in an XMP packet, written as elements or as attributes; nothing where it is no XML."""
    names = {
        f"{{{IPTC_NAMESPACE}}}DigitalSourceType": "source type",
        f"{{{NAMESPACE}}}Record": RECORD_KEYWORD,
        f"{{{NAMESPACE}}}Graph": "prompt",
    }
    if len(packet) > _MOST_PACKET_BYTES or b"<!DOCTYPE" in packet or b"<!ENTITY" in packet:
        return {}  # entities may grow without end, and XMP has none
    try:
        root = ElementTree.fromstring(packet.strip(b"\0 \r\n\t"))  # noqa: S314 - as above
    except (ElementTree.ParseError, ValueError, LookupError):
        return {}
    found: dict[str, str] = {}
    for element in root.iter():
        for name, text in ((element.tag, element.text), *element.attrib.items()):
            if name in names and text and text.strip():
                found.setdefault(names[name], text.strip())
    return found


# -- our own


def _record(text: str) -> Mapping[str, Any] | None:
    value = _json(text)
    return value if isinstance(value, dict) and value.get("format") == FORMAT else None


def _of_record(record: Mapping[str, Any], source_type: str | None) -> Origin:
    def text(name: str) -> str | None:
        return _of_type(record.get(name), str)

    loras = record.get("loras")
    return Origin(
        program="asyncgen",
        prompt=text("prompt"),
        prompt_sent=text("prompt_sent"),
        style_id=text("style_id"),
        style_title=text("style_title"),
        loras=tuple(_recorded_loras(loras if isinstance(loras, list) else ())),
        workflow=text("workflow"),
        model=text("model"),
        sampler_name=text("sampler_name"),
        scheduler_name=text("scheduler_name"),
        flux_guidance=_number(record.get("flux_guidance")),
        seed=_whole(record.get("seed")),
        steps=_whole(record.get("steps")),
        width=_whole(record.get("width")),
        height=_whole(record.get("height")),
        digital_source_type=source_type or text("digital_source_type"),
        record=record,
    )


def _recorded_loras(loras: Any) -> Iterator[Lora]:
    for lora in loras:
        if isinstance(lora, dict) and isinstance(lora.get("name"), str) and is_number(lora.get("strength")):
            yield Lora(lora["name"], float(lora["strength"]))


def _of_type(value: object, kind: type[T]) -> T | None:
    return value if isinstance(value, kind) and not isinstance(value, bool) else None


def _whole(value: object) -> int | None:
    number = _of_type(value, int)
    return number if number is not None and 0 <= number < 2**64 else None


def _number(value: object) -> float | None:
    return float(value) if is_number(value) else None


def _json(text: str) -> Any:
    """The value of a JSON text; None for what is none. ComfyUI itself writes NaN into it."""
    try:
        return json.loads(text, parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        return None


# -- ComfyUI's


def _of_graph(text: str, source_type: str | None) -> Origin:
    """Raises `ValueError` for a graph that is none, or cannot be understood."""
    graph: Graph = _json(text)
    try:
        check_shape(graph)
        bindings = find_bindings(graph, shipped_schemas()).bindings
        loras = tuple(_loaded(graph, bindings.get("lora_stack")))
    except (WorkflowError, RecursionError) as error:
        raise ValueError(str(error)) from None

    def value(name: str) -> Any:
        places = bindings["parameters"].get(name)
        return graph[places[0]["node"]]["inputs"].get(places[0]["input"]) if places else None

    return Origin(
        program="ComfyUI",
        prompt_sent=_of_type(value("positive_prompt"), str),
        negative_prompt=_of_type(value("negative_prompt"), str),
        loras=loras,
        model=_of_type(value("model"), str),
        sampler_name=_of_type(value("sampler_name"), str),
        scheduler_name=_of_type(value("scheduler_name"), str),
        flux_guidance=_number(value("flux_guidance")),
        seed=_whole(value("seed")),
        steps=_whole(value("steps")),
        width=_whole(value("width")),
        height=_whole(value("height")),
        digital_source_type=source_type,
    )


def _loaded(graph: Graph, lora_stack: Any) -> Iterator[Lora]:
    """The LoRAs that the graph loads, in its order."""
    if lora_stack is None:
        return
    stack = parse_lora_stack(graph, lora_stack)
    for name, strength in _chained(graph, stack) if isinstance(stack, LoraChain) else _stacked(graph, stack):
        if isinstance(name, str) and names_a_lora(name) and is_number(strength):
            yield Lora(name, float(strength))


def _chained(graph: Graph, chain: LoraChain) -> Iterator[tuple[Any, Any]]:
    for node in chain.nodes:
        inputs = graph[node]["inputs"]
        yield inputs.get("lora_name"), inputs.get("strength_model")


def _stacked(graph: Graph, stack: LoraStack) -> Iterator[tuple[Any, Any]]:
    inputs = graph[stack.node]["inputs"]
    count = _whole(inputs.get(stack.count)) or 0
    if stack.toggle is not None and inputs.get(stack.toggle) in (False, "Off"):
        return
    for slot in stack.slots[:count]:
        yield inputs.get(slot.name), inputs.get(slot.strengths[0])


# -- A1111's


def _of_parameters(text: str, source_type: str | None) -> Origin | None:
    """None for a text that A1111 has not written."""
    body, _, last = text.strip().rpartition("\n")
    settings = {name: _unquoted(value) for name, value in _SETTING.findall(last)}
    if len(settings) < _FEWEST_SETTINGS or "Steps" not in settings:
        return None
    prompt, _, negative = body.partition(f"\n{_NEGATIVE}")
    if body.startswith(_NEGATIVE):
        prompt, negative = "", body.removeprefix(_NEGATIVE)
    size = _SIZE.fullmatch(settings.get("Size", ""))
    sampler, scheduler = settings.get("Sampler"), settings.get("Schedule type")
    return Origin(
        program="A1111",
        prompt_sent=_LORA_TAG.sub("", prompt).strip() or None,
        negative_prompt=negative.strip() or None,
        loras=tuple(_tagged(prompt)),
        model=settings.get("Model"),
        seed=_read_whole(settings.get("Seed")),
        steps=_read_whole(settings.get("Steps")),
        sampler_name=None if sampler is None else _SAMPLER_OF.get(sampler, sampler),
        scheduler_name=None if scheduler is None else _SCHEDULER_OF.get(scheduler, scheduler),
        flux_guidance=_read_number(settings.get("Distilled CFG Scale")),
        width=None if size is None else int(size[1]),
        height=None if size is None else int(size[2]),
        digital_source_type=source_type,
    )


def _tagged(prompt: str) -> Iterator[Lora]:
    for name, strength in _LORA_TAG.findall(prompt):
        if (number := _read_number(strength)) is not None:
            yield Lora(with_suffix(name), number)


def _unquoted(value: str) -> str:
    value = value.strip()
    unquoted = _json(value) if value.startswith('"') else None
    return unquoted if isinstance(unquoted, str) else value


def _read_whole(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() and int(text[:21]) < 2**64 else None


def _read_number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if abs(number) < 1e9 else None
