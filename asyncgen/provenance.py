"""What a picture's file says of how it was made, in the forms that others read as well as in our own. Pure.

Our own is a JSON object, the *record*. Beside it stand what A1111 writes (`parameters`), what ComfyUI writes (`prompt`,
the graph) and XMP with IPTC's digital source type. A PNG has each in a chunk of its own; in JPEG and WebP the record is
in the XMP packet, A1111's text is the user comment of EXIF, and the graph is where ComfyUI looks for it in a WebP.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal
from xml.sax.saxutils import escape

from pydantic_core import to_json

from asyncgen._version import __version__
from asyncgen.containers import (
    XMP_KEYWORD,
    Piece,
    contents_of,
    exif_fits_jpeg,
    jpeg_with,
    packet_fits_jpeg,
    png_with,
    webp_with,
)
from asyncgen.exif import exif_of, texts_in
from asyncgen.graph import Graph
from asyncgen.records import SANDBOX, Spec, Want
from asyncgen.request import INPUT_PICTURES
from asyncgen.url_secrets import without_secrets

#: How much is written: everything, only that and by what it was made, or nothing.
Level = Literal["full", "basic", "none"]

FORMAT: Final = "asyncgen-provenance/1"
RECORD_KEYWORD: Final = "asyncgen"
NAMESPACE: Final = "urn:asyncgen:provenance:1:"
IPTC_NAMESPACE: Final = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
_SOURCE_TYPE: Final = "http://cv.iptc.org/newscodes/digitalsourcetype/"
MADE_BY_AI: Final = f"{_SOURCE_TYPE}trainedAlgorithmicMedia"
#: A picture that was put in is part of what came out.
MADE_WITH_AI: Final = f"{_SOURCE_TYPE}compositeWithTrainedAlgorithmicMedia"

# What A1111 calls ComfyUI's samplers and schedulers; others keep their names.
SAMPLERS: Final[Mapping[str, str]] = {
    "euler": "Euler",
    "euler_ancestral": "Euler a",
    "heun": "Heun",
    "lms": "LMS",
    "ddim": "DDIM",
    "uni_pc": "UniPC",
    "dpmpp_2m": "DPM++ 2M",
    "dpmpp_2m_sde": "DPM++ 2M SDE",
    "dpmpp_sde": "DPM++ SDE",
    "dpmpp_2s_ancestral": "DPM++ 2S a",
}
SCHEDULERS: Final[Mapping[str, str]] = {
    "simple": "Simple",
    "normal": "Normal",
    "karras": "Karras",
    "exponential": "Exponential",
    "sgm_uniform": "SGM Uniform",
    "beta": "Beta",
    "ddim_uniform": "DDIM",
}
_NO_XML: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_SECRET: Final = re.compile(r"api_?key|password|secret|token$|credential", re.IGNORECASE)
#: Where none of these is in the JSON of a graph, neither a secret's name nor a URL is.
_SUSPECT: Final = ("apikey", "api_key", "password", "secret", "token", "credential", "http://", "https://")
# The realm is said of what the sandbox has made: it must never pass for a real picture.
_BASIC: Final = ("format", "asyncgen", "request_id", "realm", "seed", "digital_source_type")
_NOT_TOLD: Final = frozenset({"model_urls", "sent_pictures", "unused"})
# The prompt stands beside the request; the others may say where its owner keeps files.
_LEFT_OUT_OF_REQUEST: Final = frozenset({"prompt", *INPUT_PICTURES, "filename"})


@dataclass(frozen=True, slots=True)
class Provenance:
    """How a picture was made: the record, and the graph, None where it is not known.

    `others_are_kept`: what the worker has written beside what we write stays in the file.
    """

    record: Mapping[str, Any]
    graph: str | None
    others_are_kept: bool = True

    def numbered(self, number: int, count: int) -> Provenance:
        """The same for one of several pictures of a job, counted from 1."""
        return self if count == 1 else replace(self, record={**self.record, "number": number, "of": count})


def provenance_of(
    want: Want,
    graph: Graph | None,
    *,
    request_id: str,
    seed: int,
    batch: str,
    realm: str,
    level: Level,
) -> Provenance:
    """What is written of a picture at this level. `graph` is the one that made it; None where that is not known.

    No URL of a model, no path of this machine, and of URLs in the graph neither user nor query.
    """
    spec, request = want.spec, want.request
    source = MADE_WITH_AI if request.init_image is not None else MADE_BY_AI
    record = {
        "format": FORMAT,
        "asyncgen": __version__,
        "request_id": request_id,
        "id": request.id,
        "batch": batch,
        "realm": realm,
        "seed": seed,
        **_values(spec),
        "input_pictures": {name: _input_picture(spec, name) for name in sorted(request.input_pictures)},
        "digital_source_type": source,
        "request": _said(want),
        "replica": want.replica,
    }
    if level == "basic":
        basic = {name: record[name] for name in _BASIC if name != "realm" or realm == SANDBOX}
        return Provenance(basic, None, others_are_kept=False)
    return Provenance(record, None if graph is None else _graph_json(graph))


def _values(spec: Spec) -> dict[str, Any]:
    """Nothing is said of values that the workflow takes nowhere."""
    values = {name: getattr(spec, name) for name in Spec.__slots__ if name not in _NOT_TOLD}
    values["loras"] = [{"name": lora.name, "strength": lora.strength} for lora in spec.loras]
    values["workflow"], values["model"] = _without_folder(spec.workflow), _cleaned("model", spec.model)
    values["parameters"] = {name: _cleaned(name, value) for name, value in spec.parameters.items()}
    return values | dict.fromkeys(spec.unused)


def _input_picture(spec: Spec, name: str) -> dict[str, Any]:
    """Its hash and what was done to it, not where it was."""
    return spec.sent_pictures[name].to_json() if name in spec.sent_pictures else {}


def _said(want: Want) -> dict[str, Any]:
    """The request but for its prompt, as far as it may leave this machine."""
    said = {name: value for name, value in want.request.said().items() if name not in _LEFT_OUT_OF_REQUEST}
    if "workflow" in said:
        said["workflow"] = _without_folder(said["workflow"])
    if "parameters" in said:
        said["parameters"] = {name: _cleaned(name, value) for name, value in said["parameters"].items()}
    return said


def _without_folder(name: str) -> str:
    return re.split(r"[/\\]", name)[-1]


def _graph_json(graph: Graph) -> str:
    text = _ascii_json(graph)
    lowered = text.lower()
    if not any(word in lowered for word in _SUSPECT):  # which is nearly always so
        return text
    return _ascii_json({node: _without_secrets(body) for node, body in graph.items()})


def _without_secrets(node: Mapping[str, Any]) -> dict[str, Any]:
    return {**node, "inputs": {name: _cleaned(name, value) for name, value in node["inputs"].items()}}


def _cleaned(name: str, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if _SECRET.search(name):
        return ""
    return without_secrets(value) if value.lower().startswith(("http://", "https://")) else value


# -- into the file


def marked(data: bytes, file_format: str, size: tuple[int, int], provenance: Provenance) -> tuple[Piece, ...]:
    """The pieces of a checked picture's file (png, jpeg or webp; width and height in pixels) with its provenance."""
    keeps = provenance.others_are_kept
    parameters = parameters_text(provenance.record)
    if file_format == "png":
        texts = {"parameters": parameters, "prompt": provenance.graph, RECORD_KEYWORD: _json(provenance.record)}
        said = {keyword: text for keyword, text in texts.items() if text is not None}
        return png_with(data, {**said, XMP_KEYWORD: packet_of(provenance.record)}, keep_others=keeps)
    keeps_exif = keeps and not _is_generators(data)
    if file_format == "jpeg":
        exif = None if parameters is None else exif_of(parameters)
        if exif is not None and not exif_fits_jpeg(exif):
            exif = None
        return jpeg_with(data, exif, _fitting_packet(provenance), keep_exif=keeps_exif)
    graph = None if provenance.graph is None else f"prompt:{provenance.graph}"
    exif = None if parameters is None else exif_of(parameters, graph)
    packet = packet_of(provenance.record, record_json=_ascii_json(provenance.record))
    return webp_with(data, size, exif, packet.encode(), keep_exif=keeps_exif)


def _is_generators(data: bytes) -> bool:
    """Whether the EXIF says how the picture was made, as A1111 or ComfyUI would: then ours takes its place."""
    contents = contents_of(data)
    comment, texts = texts_in((contents and contents.exif) or b"")
    return "Steps: " in (comment or "") or any(text.startswith(("prompt:", "workflow:")) for text in texts)


def _fitting_packet(provenance: Provenance) -> bytes:
    """What a segment of a JPEG can hold: first the graph gives way, then the prompts."""
    record = provenance.record
    short = {name: value for name, value in record.items() if name in _BASIC} | {"left_out": "too long for a JPEG"}
    packets = (
        packet_of(record, record_json=_ascii_json(record), graph=provenance.graph),
        packet_of(record, record_json=_ascii_json(record)),
        packet_of(short, record_json=_ascii_json(short)),
    )
    return next(packet for packet in (packet.encode() for packet in packets) if packet_fits_jpeg(packet))


_escaped_json: Final = json.JSONEncoder(separators=(",", ":")).encode


def _json(value: Any) -> str:
    return to_json(value).decode()  # takes a tenth of the time of `json`


def _ascii_json(value: Any) -> str:
    """For XML, which cannot hold every character, and for programs that do not say how they read others."""
    text = _json(value)
    return text if text.isascii() else _escaped_json(value)


# -- A1111's form


def parameters_text(record: Mapping[str, Any]) -> str | None:
    """The record as A1111 writes it, its LoRAs as tags after the prompt; None where it says no prompt.

    FLUX is guided without a negative prompt: A1111's CFG scale is 1, and Forge calls FLUX's guidance distilled.
    """
    if "prompt_sent" not in record:
        return None
    tags = (f"<lora:{_lora_stem(lora['name'])}:{lora['strength']:g}>" for lora in record["loras"])
    prompt = " ".join(filter(None, (record["prompt_sent"].replace("\0", " "), *tags)))
    sampler, scheduler, guidance = (record[name] for name in ("sampler_name", "scheduler_name", "flux_guidance"))
    settings = {
        "Steps": record["steps"],
        "Sampler": sampler and _quoted(SAMPLERS.get(sampler, sampler)),
        "Schedule type": scheduler and _quoted(SCHEDULERS.get(scheduler, scheduler)),
        "CFG scale": 1,
        "Distilled CFG Scale": guidance if guidance is None else f"{guidance:g}",
        "Seed": record["seed"],
        "Size": record["width"] and f"{record['width']}x{record['height']}",
        "Model": record["model"] and _quoted(record["model"]),
        "Version": f"asyncgen {record['asyncgen']}",
    }
    return f"{prompt}\n" + ", ".join(f"{name}: {value}" for name, value in settings.items() if value is not None)


def _lora_stem(name: str) -> str:
    return name.removesuffix(".safetensors")


def _quoted(text: str) -> str:
    text = text.replace("\0", " ")
    return _json(text) if any(mark in text for mark in ",\n:") else text


# -- XMP


def packet_of(record: Mapping[str, Any], *, record_json: str | None = None, graph: str | None = None) -> str:
    """The XMP packet of a record: what IPTC has a property for, and, where they are given, record and graph as JSON.

    Characters that XML cannot hold become U+FFFD in IPTC's properties; the JSON texts are ASCII and say them exactly.
    """
    properties = {
        "xmp:CreatorTool": f"asyncgen {record['asyncgen']}",
        "Iptc4xmpExt:DigitalSourceType": record["digital_source_type"],
        "Iptc4xmpExt:AISystemUsed": record.get("model"),
        "Iptc4xmpExt:AIPromptInformation": record.get("prompt_sent"),
        "asyncgen:Record": record_json,
        "asyncgen:Graph": graph,
    }
    said = "".join(f"<{name}>{_xml(text)}</{name}>" for name, text in properties.items() if text)
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" '
        f'xmlns:Iptc4xmpExt="{IPTC_NAMESPACE}" xmlns:asyncgen="{NAMESPACE}">'
        f'{said}</rdf:Description></rdf:RDF></x:xmpmeta>\n<?xpacket end="w"?>'
    )


def _xml(text: str) -> str:
    return escape(_NO_XML.sub("\ufffd", text), {"\r": "&#13;"})
