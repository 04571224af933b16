"""What a failure text of a worker or the platform means: from its words to a `Failure` that its owner can act on.

The texts are those of worker-comfyui 5, ComfyUI, the official worker SDK and the platform itself. Everything here is
bounded: a text is read up to `_MAX_READ_CHARACTERS`, and no pattern can take more than linear time on it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Final

from pydantic_core import from_json

from asyncgen.errors import Failure, FailureClass, FailureCode
from asyncgen.url_secrets import redacted

MAX_MESSAGE_CHARACTERS: Final = 600
#: What base64 of PNG, JPEG and RIFF (WebP) begins with: tells a picture from words where either may stand.
BASE64_IMAGE_STARTS: Final = ("iVBORw0KGgo", "/9j/", "UklGR")
_MAX_READ_CHARACTERS: Final = 16 * 1024
_MAX_NAMES_READ: Final = 64
_MAX_NAMES_SHOWN: Final = 8
_MAX_FAULTS_SHOWN: Final = 3

# A Python repr of a string, as it stands in the reprs that worker-comfyui puts into its texts.
_REPR = r"""(?:'(?:[^'\\]|\\.){0,4000}'|"(?:[^"\\]|\\.){0,4000}")"""
_NODE_ERRORS = re.compile(r"Node (?P<node>[^\s()]{1,40}) \(errors\): ")
_NODE_CLASS = re.compile(r"Node (?P<node>[^\s()]{1,40}) \(class_type\): (?P<name>[^\n]{1,80})")
_NODE_FAULT = re.compile(rf"'message': (?P<message>{_REPR}), 'details': (?P<details>{_REPR})")
_NOT_IN_LIST = re.compile(
    r"(?P<input>[\w .]{1,80}): '(?P<value>.{0,255}?)' not in "  # ComfyUI quotes the value without escaping it
    rf"(?P<known>\[(?:{_REPR}(?:, )?)*\]?|\(list of length \d{{1,9}}\))"
)
_QUOTED = re.compile(_REPR)
_ESCAPED = re.compile(r"\\(['\"\\])")
_MODEL_FILE = re.compile(r"\.(?:safetensors|sft|ckpt|pth?|bin|gguf|onnx)$", re.IGNORECASE)
_MODEL_INPUT = re.compile(r"(?!sampler|scheduler)\w{1,60}_name\d?$")
_MODEL_IN_FOLDER = re.compile(
    r"Model in folder '(?P<folder>[^'\n]{1,80})' with filename '(?P<file>[^'\n]{1,255})' not found"
)
_RUNNING_NODE = re.compile(r"Node Type: (?P<name>[^,\n]{1,80}), Node ID: (?P<node>[^,\n]{1,40})")
_NO_NODE_CLASS = re.compile(
    r"because node (?P<name>\S.{0,99}?) does not exist|Node '(?P<quoted>[^'\n]{1,100})' not found", re.IGNORECASE
)
_WORKFLOW_REFUSED = re.compile(
    r"workflow validation failed|missing 'workflow'|invalid JSON format in input"
    r"|prompt[_ ]outputs[_ ]failed[_ ]validation|invalid_prompt|prompt_no_outputs",
    re.IGNORECASE,
)
_TRACEBACK = "Traceback (most recent call last)"

# Where workers and the platform put their words, in the order they are told. Traceback and hostname are no one's help.
_WORD_KEYS: Final = (
    "error_type",
    "error_message",
    "error",
    "exception_message",
    "message",
    "detail",
    "details",
    "errors",
)
_MAX_WORDS_DEPTH: Final = 6
_MAX_WORDS_PARTS: Final = 16


@dataclass(frozen=True, slots=True)
class _Rule:
    pattern: re.Pattern[str]
    kind: FailureClass
    code: FailureCode
    advice: str = ""


def _rule(words: str, kind: FailureClass, code: FailureCode, advice: str = "") -> _Rule:
    return _Rule(re.compile(words, re.IGNORECASE), kind, code, advice)


# The first rule that matches decides.
_RULES: Final = (
    _rule(
        r"out of memory|OutOfMemory|allocation on device|not enough memory|CUBLAS_STATUS_ALLOC_FAILED",
        FailureClass.INFRASTRUCTURE,
        FailureCode.OUT_OF_MEMORY,
        "if it happens again, use a smaller size or batch, or a GPU with more memory",
    ),
    _rule(
        r"not reachable after multiple retries|ComfyUI (?:server )?(?:is )?(?:not (?:reachable|ready|running))"
        r"|ComfyUI (?:server )?(?:is )?unreachable|ComfyUI HTTP unreachable|failed to connect to ComfyUI",
        FailureClass.INFRASTRUCTURE,
        FailureCode.WORKER_NOT_READY,
        "ComfyUI did not start on the worker; its log at RunPod says why",
    ),
    _rule(
        r"execution ?timeout|exceeded (?:the |its )?(?:execution|time)|job (?:has )?timed out(?! after \d)",
        FailureClass.INFRASTRUCTURE,
        FailureCode.TIMED_OUT,
        "raise the execution timeout if the job needs longer",
    ),
    _rule(
        r"job timed out after \d|\bevicted\b|\b(?:exit code 137|SIGKILL|no heartbeat)\b|process may have crashed"
        r"|worker (?:\S{1,40} )?(?:was |has |is )?(?:crash|exit|died|dead|kill|lost|terminat|stopped|not responding)"
        r"|worker (?:\S{1,40} )?(?:was |has |is )?(?:unhealthy|unresponsive)|connection (?:refused|reset)"
        r"|websocket (?:communication error|connection (?:lost|closed))|CUDA (?:error|driver)|no CUDA|NVIDIA driver"
        r"|no space left on device",
        FailureClass.INFRASTRUCTURE,
        FailureCode.PLATFORM_FAILED,
    ),
    _rule(
        r"error decoding base64|cannot identify image|invalid image file|upload one or more input images"
        r"|'images' must be|is not a valid input option",
        FailureClass.ITEM,
        FailureCode.INPUT_REFUSED,
        "look at the input pictures and the keys of the job input",
    ),
)


def cleaned(text: str, limit: int = MAX_MESSAGE_CHARACTERS) -> str:
    """The text as one line of at most `limit` characters, without control, format and other unprintable ones.

    What may be secret in URLs is left out.
    """
    line = redacted(text[: 4 * limit])
    if not line.isprintable():
        line = "".join(mark if mark.isprintable() else " " for mark in line)
    line = " ".join(line.split())
    return line if len(line) <= limit and len(text) <= 4 * limit else line[: limit - 2].rstrip() + " …"


def json_object(data: str | bytes) -> dict[str, Any] | None:
    """The JSON object in `data`, or None: broken, nested deeper than about 200 levels, or no object."""
    try:
        value = from_json(data)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def words_of(value: object, depth: int = _MAX_WORDS_DEPTH) -> str:
    """What an `error`, or an object with one, says in words: a text, a JSON object in a text, a dict, or a list.

    Empty where it says nothing.
    """
    if isinstance(value, str):
        return _words_of_text(value, depth)
    if not depth or not isinstance(value, dict | list):
        return ""
    parts = [value[key] for key in _WORD_KEYS if key in value] if isinstance(value, dict) else value[:_MAX_WORDS_PARTS]
    return "; ".join(dict.fromkeys(words for part in parts if (words := words_of(part, depth - 1))))


def _words_of_text(text: str, depth: int) -> str:
    text = text.strip()
    if text.startswith((*BASE64_IMAGE_STARTS, "data:")):
        return ""
    if depth and text.startswith("{") and (words := words_of(json_object(text), depth - 1)):
        return words
    return text.removeprefix("<class '").removesuffix("'>") if text.startswith("<class '") else text


def diagnose(text: str) -> Failure:
    """The failure that a job's error text tells of; one we do not know is the item's own. Tracebacks are left out."""
    text = _readable_part(text)
    if not cleaned(text):
        message = "the platform reports the job as failed and gives no reason"
        return Failure(FailureClass.INFRASTRUCTURE, FailureCode.PLATFORM_FAILED, message)
    return _refused_workflow(text) or _matched_rule(text) or _item(FailureCode.WORKER_ERROR, text)


def _readable_part(text: str) -> str:
    if len(text) > _MAX_READ_CHARACTERS:
        text = text[: _MAX_READ_CHARACTERS // 2] + "\n…\n" + text[-_MAX_READ_CHARACTERS // 2 :]
    head, marker, trace = text.partition(_TRACEBACK)
    return f"{head.rstrip()}\n{(trace.strip().splitlines() or [''])[-1]}" if marker else text


def _item(code: FailureCode, message: str) -> Failure:
    return Failure(FailureClass.ITEM, code, cleaned(message))


def _matched_rule(text: str) -> Failure | None:
    for rule in _RULES:
        if rule.pattern.search(text):
            return Failure(rule.kind, rule.code, _advised(text, rule.advice))
    return None


def _advised(text: str, advice: str) -> str:
    if not advice:
        return cleaned(text)
    return f"{cleaned(text, MAX_MESSAGE_CHARACTERS - len(advice) - 3)} ({advice})"


def _refused_workflow(text: str) -> Failure | None:
    if found := _NO_NODE_CLASS.search(text):
        name = found["name"] or found["quoted"]
        advice = "install its custom node on the worker, or choose another workflow"
        return _item(FailureCode.INVALID_WORKFLOW, f"the worker has no node class {name!r}: {advice}")
    if found := _MODEL_IN_FOLDER.search(text):
        return _item(FailureCode.MODEL_NOT_FOUND, _missing_file(text, found["folder"], found["file"]))
    if _WORKFLOW_REFUSED.search(text):
        return _validation_failure(text)
    return None


def _missing_file(text: str, folder: str, file: str) -> str:
    node = _RUNNING_NODE.search(text)
    where = f"node {node['node']} ({node['name']}): " if node else ""
    return f"{where}the worker has no {file!r} in models/{folder}: put it there, or name a file it has"


def _validation_failure(text: str) -> Failure:
    classes = {found["node"]: found["name"].strip() for found in _NODE_CLASS.finditer(text)}
    faults: list[tuple[FailureCode, str]] = []
    for node, part in _nodes_with_errors(text):
        where = f"node {node} ({classes[node]})" if node in classes else f"node {node}"
        faults += [(code, f"{where}, {what}") for code, what in _node_faults(part)]
    if not faults:
        return _matched_rule(text) or _item(FailureCode.INVALID_WORKFLOW, text)
    first_code = faults[0][0]
    more = f"; and {len(faults) - _MAX_FAULTS_SHOWN} more faults" if len(faults) > _MAX_FAULTS_SHOWN else ""
    return _item(first_code, "; ".join(what for _, what in faults[:_MAX_FAULTS_SHOWN]) + more)


def _nodes_with_errors(text: str) -> Iterator[tuple[str, str]]:
    """Each node id with the text that follows its `(errors)`, up to the next node's."""
    starts = list(_NODE_ERRORS.finditer(text))
    for start, following in zip_longest(starts, starts[1:]):
        yield start["node"], text[start.end() : following.start() if following else len(text)]


def _node_faults(part: str) -> Iterator[tuple[FailureCode, str]]:
    for found in _NODE_FAULT.finditer(part):
        message, details = _unquoted(found["message"]), _unquoted(found["details"])
        if unlisted := _NOT_IN_LIST.match(details):
            yield _unlisted_value(unlisted["input"].strip(), unlisted["value"], unlisted["known"])
        else:
            refused = "invalid image file" in details.lower()
            yield FailureCode.INPUT_REFUSED if refused else FailureCode.INVALID_WORKFLOW, f"{message}: {details}"


def _unquoted(text: str) -> str:
    return _ESCAPED.sub(r"\1", text[1:-1])


def _unlisted_value(input_name: str, value: str, known: str) -> tuple[FailureCode, str]:
    names = [_unquoted(found[0])[:100] for found in _QUOTED.finditer(known)][:_MAX_NAMES_READ]
    said = f"input {input_name}: the worker has no {value[:100]!r}"
    is_model = any(map(_MODEL_FILE.search, (value, *names))) or _MODEL_INPUT.match(input_name)
    code = FailureCode.MODEL_NOT_FOUND if is_model else FailureCode.INVALID_WORKFLOW
    if names:
        what_to_do = "use one of these, or add the file to the worker" if is_model else "use one of these"
        return code, f"{said}; it has {_nearest_first(value[:100], names)}: {what_to_do}"
    return code, f"{said} and does not say what it has ({known[:40]})"


def _nearest_first(value: str, names: list[str]) -> str:
    shown = difflib.get_close_matches(value, names, n=_MAX_NAMES_SHOWN, cutoff=0.0)
    more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    return ", ".join(shown) + more
