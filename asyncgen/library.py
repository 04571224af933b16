"""The workflows that there are: shipped ones and the user's own, what each needs, and how one more is added.

A workflow of the user's is three files in `workflows` of the user's folder: the graph, its bindings, and, where it was
added with the schemas of their server, `NAME.object_info.json` with the node classes that it uses.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

from asyncgen import assets
from asyncgen.binding import Findings, find_bindings, picture_places
from asyncgen.documents import parse_json
from asyncgen.errors import WorkflowError
from asyncgen.graph import Graph
from asyncgen.graph_check import Problem, problems
from asyncgen.lora_nodes import LoraStack
from asyncgen.node_schema import NodeSchemas, parse_object_info, shipped_schemas
from asyncgen.template import ALIASES, BINDINGS_SUFFIX, FOLDER, SCHEMAS_SUFFIX, Template

_TIMEOUT_SECONDS: Final = 30.0
_MOST_BYTES: Final = 64 * 1024 * 1024
_NAME: Final = re.compile(r"\w[\w .-]*")


@dataclass(frozen=True, slots=True)
class Needs:
    """What a worker and a request must have for a workflow. `lora_slots` None: any number; 0: it takes no LoRAs."""

    custom_nodes: tuple[str, ...]
    model_files: tuple[str, ...]
    pictures: tuple[str, ...]
    lora_slots: int | None
    takes_prompt: bool


def workflows(user_folder: Path) -> Iterator[Template]:
    """Every workflow that can be named, by name; one of the user's stands for the shipped one that is called alike."""
    names: dict[str, None] = {}
    for folder in (assets.data_path(FOLDER), user_folder / FOLDER):
        names |= dict.fromkeys(file.name.removesuffix(BINDINGS_SUFFIX) for file in folder.glob(f"*{BINDINGS_SUFFIX}"))
    return (Template.load(name, user_folder) for name in sorted(names))


def schemas_of(template: Template) -> NodeSchemas:
    """The node classes to check a workflow against: those that it was added with, else the shipped ones."""
    return template.schemas or shipped_schemas()


def read_object_info(source: str) -> Any:
    """The `object_info` of a server, from a file or from its URL. Raises `WorkflowError` where it cannot be had."""
    is_url = urlsplit(source).scheme in ("http", "https")
    try:
        text = _fetched(source) if is_url else Path(source).read_bytes()
        value = parse_json(text.decode("utf-8-sig"))
        parse_object_info(value, is_own=True)
    except (URLError, OSError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise WorkflowError(f"cannot be read: {reason}", field="--object-info", where=_public(source)) from None
    except ValueError as error:
        raise WorkflowError(f"is not valid JSON: {error}", field="--object-info", where=_public(source)) from None
    except WorkflowError as error:
        raise error.at(_public(source)) from None
    return value


def needs(template: Template) -> Needs:
    """What a workflow needs, as far as its node classes are known."""
    schemas, files = schemas_of(template), dict[str, None]()
    used = [schema for body in template.graph.values() if (schema := schemas.get(body["class_type"])) is not None]
    sent = template.sent_pictures
    loras = set(template.lora_stack.node_ids) if template.lora_stack else set()
    for node, body in template.graph.items():
        schema = schemas.get(body["class_type"])
        for name, declared in schema.inputs.items() if schema is not None and node not in loras else ():
            value = body["inputs"].get(name)
            if declared.lists_files and isinstance(value, str) and "." in value and (node, name) not in sent:
                files[value] = None
    stack = template.lora_stack
    return Needs(
        tuple(sorted({schema.package for schema in used if schema.package is not None})),
        tuple(files),
        template.images,
        0 if stack is None else len(stack.slots) if isinstance(stack, LoraStack) else None,
        template.binds("positive_prompt"),
    )


def faults(template: Template, schemas: NodeSchemas | None = None) -> list[Problem]:
    """What is wrong with the graph as it stands; `schemas` None: those that it was added with, else the shipped."""
    return problems(template.graph, schemas or schemas_of(template), template.sent_pictures)


def faults_of_graph(graph: Graph, schemas: NodeSchemas) -> list[Problem]:
    """What is wrong with a graph that has no bindings, the pictures that they would send apart."""
    return problems(graph, schemas, picture_places(graph, schemas))


def bound(graph_file: Path, graph: Graph, schemas: NodeSchemas) -> Findings:
    """The bindings of a file's graph. Raises `WorkflowError` naming the file, for what cannot be bound."""
    try:
        return find_bindings(graph, schemas)
    except WorkflowError as error:
        raise error.at(str(graph_file)) from None


def add(
    name: str, graph: Any, bindings: Any, object_info: Any, user_folder: Path, *, replace: bool = False
) -> list[Path]:
    """Write a workflow into the user's folder; returns its files. `object_info` None: only the shipped schemas.

    Raises `WorkflowError` for a name that is none, and where one of that name is there, unless it is to be replaced: a
    shipped one is stood in for, and stays as it is.
    """
    _check_name(name)
    folder = user_folder / FOLDER
    contents = {f"{name}.json": graph, f"{name}{BINDINGS_SUFFIX}": bindings}
    if object_info is not None:
        used = {body["class_type"] for body in graph.values()}
        contents[f"{name}{SCHEMAS_SUFFIX}"] = {key: value for key, value in object_info.items() if key in used}
    paths = [folder / file for file in contents]
    if not replace and (_is_shipped(name) or any(path.exists() for path in paths)):
        whose = "asyncgen ships a workflow" if _is_shipped(name) else "there is a workflow"
        raise WorkflowError(
            f"{whose} of the name {name!r} already: choose another with --name, or --replace it", where=str(folder)
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, content in zip(paths, contents.values(), strict=True):
            part = path.with_name(f".{path.name}.part")
            part.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            part.replace(path)
        if object_info is None:
            (folder / f"{name}{SCHEMAS_SUFFIX}").unlink(missing_ok=True)
    except OSError as error:
        raise WorkflowError(f"cannot be written: {error.strerror}", where=str(folder)) from None
    return paths


def _check_name(name: str) -> None:
    """A file in the user's folder is called so, and `--workflow` must find it by that."""
    if name in ALIASES:
        raise WorkflowError(f"{name!r} already means {ALIASES[name]}: choose another with --name", field="--name")
    if not _NAME.fullmatch(name) or name.endswith(".json"):
        raise WorkflowError(
            f"{name!r} is no name for a workflow: letters, digits, spaces, '.', '_' and '-', and no .json at its end",
            field="--name",
        )


def _is_shipped(name: str) -> bool:
    return any(file.name == f"{name}{BINDINGS_SUFFIX}" for file in assets.data_path(FOLDER).glob(f"*{BINDINGS_SUFFIX}"))


def _fetched(url: str) -> bytes:
    with urlopen(url, timeout=_TIMEOUT_SECONDS) as reply:  # noqa: S310 - http and https only, as was looked at
        data: bytes = reply.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise OSError(None, f"it is longer than {_MOST_BYTES:,} bytes")
    return data


def _public(source: str) -> str:
    """Without what may be secret in a URL."""
    parts = urlsplit(source)
    return (
        f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        if parts.scheme in ("http", "https")
        else os.fspath(source)
    )
