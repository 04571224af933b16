"""The arguments of `asyncgen queue` and its commands; what those do is in `queue_commands` and `adding`."""

from __future__ import annotations

from typing import Annotated

import typer

from asyncgen import options

queue_app = typer.Typer(invoke_without_command=True, help="Show what is out and what waits, by endpoint and lane.")

_RunOf = Annotated[
    str | None, typer.Option("--batch", help="The run of this batch. [default: every run of the output root]")
]


@queue_app.callback()
def queue_list(
    context: typer.Context,
    batch: Annotated[str | None, typer.Option("--batch", help="Of this batch alone.")] = None,
    jobs: Annotated[int, typer.Option("--jobs", min=0, help="So many of the oldest jobs are listed.")] = 20,
    out: options.Out = None,
    sandbox: options.OfSandbox = False,
    json: options.AsJson = False,
) -> None:
    """Show what is out and what waits, by endpoint and lane, with ages and when results expire. Works beside a run."""
    from asyncgen import queue_commands  # noqa: PLC0415 - `--help` need not load the engine

    if context.invoked_subcommand is None:
        where = {"output_root": out}
        raise typer.Exit(
            queue_commands.show_queue(where, realm=options.realm(sandbox), batch=batch, jobs=jobs, as_json=json)
        )


@queue_app.command("pause")
def queue_pause(batch: _RunOf = None, out: options.Out = None, sandbox: options.OfSandbox = False) -> None:
    """Have a run send nothing new. What is out is collected, and the run waits."""
    from asyncgen import queue_commands  # noqa: PLC0415 - as above

    raise typer.Exit(queue_commands.pause_run({"output_root": out}, realm=options.realm(sandbox), batch=batch))


@queue_app.command("continue")
def queue_continue(batch: _RunOf = None, out: options.Out = None, sandbox: options.OfSandbox = False) -> None:
    """Have a paused run go on."""
    from asyncgen import queue_commands  # noqa: PLC0415 - as above

    raise typer.Exit(queue_commands.continue_run({"output_root": out}, realm=options.realm(sandbox), batch=batch))


@queue_app.command("cancel")
def queue_cancel(
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="ID", help="Request ids (img_…), your own ids, or job ids.")
    ] = None,
    style: Annotated[str | None, typer.Option("--style", help="What is of this style.")] = None,
    lora: Annotated[str | None, typer.Option("--lora", help="What loads this LoRA.")] = None,
    workflow: Annotated[str | None, typer.Option("--workflow", help="What is made by this workflow.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Everything that is not there yet.")] = False,
    batch: _RunOf = None,
    endpoint: options.EndpointOption = None,
    mode: options.Mode = None,
    out: options.Out = None,
    sandbox: options.OfSandbox = False,
) -> None:
    """Take images back: jobs that are out are cancelled, what was not sent is not sent, rows not read yet included.

    Several options narrow it down. What has ended by then is kept. Without a run this does it itself, and waits until
    every job has ended. The batch's own command wants them again.
    """
    from asyncgen import queue_commands, selection  # noqa: PLC0415 - as above

    wanted = selection.Selection(frozenset(ids or ()), style, lora, workflow)
    where = {"output_root": out, "endpoint": endpoint, "mode": mode}
    raise typer.Exit(queue_commands.cancel(where, sandbox=sandbox, batch=batch, wanted=wanted, everything=everything))


@queue_app.command("urgent")
def queue_urgent(
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Your own ids, or request ids (img_…).")],
    batch: _RunOf = None,
    out: options.Out = None,
    sandbox: options.OfSandbox = False,
) -> None:
    """Have a run start these images before all others that it has not started.

    What it has read ahead comes next, after at most 32 that are on their way; what it has not read yet, once it has.
    """
    from asyncgen import queue_commands  # noqa: PLC0415 - as above

    raise typer.Exit(queue_commands.prefer({"output_root": out}, realm=options.realm(sandbox), batch=batch, ids=ids))


@queue_app.command("add")
def queue_add(
    batch: Annotated[str, typer.Argument(metavar="BATCH", help="Name of the batch (see `asyncgen status`).")],
    file: Annotated[
        str | None, typer.Argument(metavar="FILE", help="Prompts, in any form that `asyncgen batch` reads.")
    ] = None,
    prompt: Annotated[str | None, typer.Option("--prompt", help="One prompt, instead of a file.")] = None,
    format: Annotated[str | None, typer.Option("--format", help="As for `asyncgen batch`.")] = None,
    id: Annotated[str | None, typer.Option("--id", help="Your own id for the one prompt.")] = None,
    priority: Annotated[
        int | None, typer.Option("--priority", help="Higher is started first, -1000 to 1000. [default: 0]")
    ] = None,
    style: options.Style = None,
    width: options.Width = None,
    height: options.Height = None,
    steps: options.Steps = None,
    seed: options.Seed = None,
    images: options.Images = None,
    workflow: options.WorkflowOption = None,
    styles: options.Styles = None,
    endpoint: options.EndpointOption = None,
    mode: options.Mode = None,
    out: options.Out = None,
    sandbox: options.OfSandbox = False,
) -> None:
    """Add images to a batch while it is run; without a run they are recorded, and `asyncgen retry BATCH` makes them.

    All are looked at before any is added. What the batch has already is not made again.
    """
    from asyncgen import adding  # noqa: PLC0415 - as above

    said = {"style": style, "width": width, "height": height, "steps": steps, "seed": seed, "images": images}
    said |= {"id": id, "priority": priority}
    fields = {name: value for name, value in said.items() if value is not None}
    where = {"output_root": out, "styles": styles, "workflow": workflow, "endpoint": endpoint, "mode": mode}
    items = {"file": file, "format": format, "prompt": prompt}
    raise typer.Exit(adding.add(where, batch, **items, fields=fields, sandbox=sandbox))
