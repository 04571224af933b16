"""The arguments of `asyncgen styles` and `asyncgen workflows`; what those do is in `tables` and `library_commands`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from asyncgen import options

styles_app = typer.Typer(invoke_without_command=True, help="List the styles of the registry, or show one.")
workflows_app = typer.Typer(invoke_without_command=True, help="List the workflows, show, check or add one.")


@styles_app.callback()
def styles_list(context: typer.Context, styles: options.Styles = None, json: options.AsJson = False) -> None:
    """List the styles of the registry."""
    from asyncgen import tables  # noqa: PLC0415 - `--help` need not load the engine

    context.obj = styles
    if context.invoked_subcommand is None:
        raise typer.Exit(tables.show_styles({"styles": styles}, as_json=json))


@styles_app.command("show")
def styles_show(
    context: typer.Context,
    style_id: Annotated[str, typer.Argument(metavar="ID", help="Style id.")],
    styles: options.Styles = None,
    out: options.Out = None,
    sandbox: Annotated[bool, typer.Option("--sandbox", help="History of the sandbox's output root.")] = False,
    json: options.AsJson = False,
) -> None:
    """Show one style and what was generated in it."""
    from asyncgen import tables  # noqa: PLC0415 - as above

    overrides = {"styles": styles or context.obj, "output_root": out}
    raise typer.Exit(tables.show_style(overrides, style_id, realm=options.realm(sandbox), as_json=json))


@workflows_app.callback()
def workflows_list(context: typer.Context, json: options.AsJson = False) -> None:
    """List the workflows, shipped ones and your own, with what each needs on the worker."""
    from asyncgen import library_commands  # noqa: PLC0415 - as above

    if context.invoked_subcommand is None:
        raise typer.Exit(library_commands.list_workflows(as_json=json))


@workflows_app.command("show")
def workflows_show(
    name: Annotated[str, typer.Argument(metavar="NAME|FILE", help="A workflow's name, or its graph file.")],
    json: options.AsJson = False,
) -> None:
    """Show the parameters of a workflow: where each goes, and what stands in the graph."""
    from asyncgen import library_commands  # noqa: PLC0415 - as above

    raise typer.Exit(library_commands.show_workflow(name, as_json=json))


@workflows_app.command("check")
def workflows_check(
    name: Annotated[str, typer.Argument(metavar="NAME|FILE", help="A workflow's name, or its graph file.")],
    object_info: options.ObjectInfo = None,
    json: options.AsJson = False,
) -> None:
    """Tell everything that is wrong with a workflow's graph, also what ComfyUI lets through. Spends nothing."""
    from asyncgen import library_commands  # noqa: PLC0415 - as above

    raise typer.Exit(library_commands.check_workflow(name, object_info, as_json=json))


@workflows_app.command("add")
def workflows_add(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A graph, exported from ComfyUI in API format.")],
    name: Annotated[str | None, typer.Option("--name", help="Its name. [default: the file's]")] = None,
    object_info: options.ObjectInfo = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace the one of that name.")] = False,
    json: options.AsJson = False,
) -> None:
    """Find out which inputs of your own graph take which parameter, and keep it as a workflow.

    With --object-info it is checked against your own server, now and before each run.
    """
    from asyncgen import library_commands  # noqa: PLC0415 - as above

    raise typer.Exit(library_commands.add_workflow(file, name, object_info, replace=replace, as_json=json))
