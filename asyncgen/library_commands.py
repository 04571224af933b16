"""`asyncgen workflows`: what there is, what is in one, whether it would run, and adding one of your own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from asyncgen import library
from asyncgen.console import print_json, print_table, say, with_exit_code
from asyncgen.errors import WorkflowError
from asyncgen.exits import Exit
from asyncgen.graph_check import Problem
from asyncgen.lora_nodes import LoraStack
from asyncgen.node_schema import NodeSchemas, parse_object_info, shipped_schemas
from asyncgen.settings import user_folder
from asyncgen.template import Template, load_graph
from asyncgen.workflow import warnings

_COLUMNS = ("workflow", "what it does", "pictures", "LoRAs", "custom nodes", "model files")


@with_exit_code
def list_workflows(*, as_json: bool) -> Exit:
    """`asyncgen workflows`."""
    found = list(library.workflows(user_folder()))
    if as_json:
        for template in found:
            print_json({"name": template.name, **_texts(template), "needs": asdict(library.needs(template))})
    else:
        print_table(_COLUMNS, map(_row, found))
    return Exit.DONE


def _texts(template: Template) -> dict[str, Any]:
    return {key: template.bindings.get(key) for key in ("title", "description")}


def _row(template: Template) -> tuple[str | None, ...]:
    needs = library.needs(template)
    listed = (", ".join(names) or None for names in (needs.pictures, needs.custom_nodes, needs.model_files))
    pictures, custom_nodes, model_files = listed
    return template.name, template.bindings.get("title"), pictures, _lora_words(template), custom_nodes, model_files


def _lora_words(template: Template) -> str | None:
    stack = template.lora_stack
    if stack is None:
        return None
    return f"up to {len(stack.slots)}" if isinstance(stack, LoraStack) else "any number"


@with_exit_code
def show_workflow(name: str, *, as_json: bool) -> Exit:
    """`asyncgen workflows show`."""
    template = Template.load(name, user_folder())
    if as_json:
        print_json({"name": template.name, "bindings": template.bindings, "needs": asdict(library.needs(template))})
        return Exit.DONE
    title, description = _texts(template).values()
    say(f"{template.name}: {title or 'no title'}")
    if description:
        say(description)
    say("")
    _print_bindings(template)
    for note in (*template.bindings.get("usage_notes", ()), *warnings(template)):
        say(f"- {note}")
    return Exit.DONE


def _print_bindings(template: Template) -> None:
    meanings: Mapping[str, str] = template.bindings.get("variables", {})
    rows = ((name, places, own, meanings.get(name)) for name, places, own in _parameters(template))
    print_table(("parameter", "goes to", "in the graph", "meaning"), rows)
    say("")


def _parameters(template: Template) -> Iterator[tuple[str, str, str | None]]:
    """What can be chosen: its name, where it goes, and what stands there."""
    for name, bound in template.parameters.items():
        places = ", ".join(f"{place.node} {place.input}" for place in bound)
        yield name, places, None if bound[0].literal is None else str(bound[0].literal)
    for name, switch in template.switches.items():
        yield name, f"node {switch.node}", "true"
    if (stack := template.lora_stack) is not None:
        yield "LoRAs", ", ".join(f"node {node}" for node in stack.node_ids), _lora_words(template)


@with_exit_code
def check_workflow(name: str, object_info: str | None, *, as_json: bool) -> Exit:
    """`asyncgen workflows check`."""
    _, schemas = _schemas(object_info)
    known = schemas or shipped_schemas()
    try:
        template = Template.load(name, user_folder())
    except WorkflowError as error:
        graph = load_graph(name, user_folder())
        called, problems = Path(name).stem, [*library.faults_of_graph(graph, known), Problem(str(error))]
    else:
        known = schemas or library.schemas_of(template)
        called, problems = template.name, library.faults(template, known)
    if as_json:
        print_json({"name": called, "problems": [asdict(problem) for problem in problems]})
    else:
        _print_problems(problems)
        whose = "your server's" if known.is_own else "asyncgen's own"
        say(f"{called}: {len(problems) or 'no'} problems, by {whose} list of node classes")
    return Exit.BAD_INPUT if problems else Exit.DONE


def _print_problems(problems: list[Problem]) -> None:
    for problem in problems:
        say(str(problem))


@with_exit_code
def add_workflow(file: Path, name: str | None, object_info: str | None, *, replace: bool, as_json: bool) -> Exit:
    """`asyncgen workflows add`."""
    value, schemas = _schemas(object_info)
    known = schemas or shipped_schemas()
    graph = load_graph(file)
    if problems := library.faults_of_graph(graph, known):
        _print_problems(problems)
        say(f"{file} was not added: mend this first")
        return Exit.BAD_INPUT
    findings = library.bound(file, graph, known)
    template = Template.from_json(name or file.stem, graph, findings.bindings, schemas)
    paths = library.add(template.name, graph, findings.bindings, value, user_folder(), replace=replace)
    if as_json:
        print_json(
            {
                "name": template.name,
                "bindings": findings.bindings,
                "notes": findings.notes,
                "files": [str(path) for path in paths],
            }
        )
        return Exit.DONE
    _print_bindings(template)
    for note in (*findings.notes, *warnings(template)):
        say(f"- {note}")
    for path in paths:
        say(f"wrote {path}")
    say(f"use it with --workflow {template.name}")
    return Exit.DONE


def _schemas(object_info: str | None) -> tuple[Any, NodeSchemas | None]:
    """What the option names, as it is and parsed; None for both where it names nothing."""
    if object_info is None:
        return None, None
    value = library.read_object_info(object_info)
    return value, parse_object_info(value, is_own=True)
