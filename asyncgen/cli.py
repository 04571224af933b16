"""The command line: arguments in, exit codes out. What the commands do is in `commands`, `tables` and `serving`.

Those that make images are in `making_cli`, `asyncgen queue`, `styles` and `workflows` in `queue_cli` and `library_cli`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from asyncgen import library_cli, making_cli, options, queue_cli
from asyncgen._version import __version__

app = typer.Typer(
    name="asyncgen",
    help="A list of prompts in, a finished image data set out, on RunPod serverless GPUs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Exit codes: 0 all done; 1 some images failed; 2 bad input (of a file nothing was sent, a stream keeps what "
    "it has made); 3 stopped, work is pending; 4 the account refuses work, everything is pending; 5 submissions are "
    "held whose outcome is unknown; 6 the ledger, the output folder, the network or standard output cannot be used; "
    "7 the budget is used up, the rest is pending; 8 the pilot is done, the rest awaits a yes; 70 a bug of asyncgen's.",
)
app.add_typer(library_cli.styles_app, name="styles")
app.add_typer(library_cli.workflows_app, name="workflows")
app.add_typer(queue_cli.queue_app, name="queue")


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False) -> None:
    if version:
        typer.echo(f"asyncgen {__version__}")
        raise typer.Exit


for command in (making_cli.batch, making_cli.plan, making_cli.generate, making_cli.retry):
    app.command()(command)


@app.command()
def status(
    out: options.Out = None,
    sandbox: options.OfSandbox = False,
    json: options.AsJson = False,
) -> None:
    """Show every batch: how many images are there, out, failed or held. Works beside a run."""
    from asyncgen import tables  # noqa: PLC0415 - `--help` need not load the engine

    raise typer.Exit(tables.show_status({"output_root": out}, realm=options.realm(sandbox), as_json=json))


@app.command()
def why(
    name: Annotated[
        str, typer.Argument(metavar="ID", help="A request id (img_…), your own id, a job id, or a picture's path.")
    ],
    out: options.Out = None,
    sandbox: options.OfSandbox = False,
    json: options.AsJson = False,
) -> None:
    """Tell the whole story of an image: what was wanted, what happened, what was bought, what can be done.

    Everything that the ID can mean is told. Works beside a run.
    """
    from asyncgen import tables  # noqa: PLC0415 - as above

    raise typer.Exit(tables.show_why({"output_root": out}, name, realm=options.realm(sandbox), as_json=json))


@app.command()
def cost(
    by: Annotated[
        options.CostBy, typer.Option("--by", help="One line for each run, style, LoRA or day (UTC).")
    ] = options.CostBy.RUN,
    batch: Annotated[str | None, typer.Option("--batch", help="Of this batch alone.")] = None,
    out: options.Out = None,
    sandbox: options.OfSandbox = False,
    csv: Annotated[bool, typer.Option("--csv", help="CSV on standard output, without a total.")] = False,
    json: options.AsJson = False,
) -> None:
    """Show what jobs have cost, failed and cancelled ones too, and what each image that is there has cost with all.

    Works beside a run.
    """
    from asyncgen import cost_commands  # noqa: PLC0415 - as above

    where = {"output_root": out}
    raise typer.Exit(
        cost_commands.show_cost(where, realm=options.realm(sandbox), by=by, batch=batch, as_csv=csv, as_json=json)
    )


@app.command()
def adopt(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of pictures; those below it count too.")],
    name: Annotated[str | None, typer.Option("--name", help="Name of the batch. [default: the folder's]")] = None,
    fixed_seeds: Annotated[
        bool,
        typer.Option("--fixed-seeds", help="Your prompt file names each image's seed: it is part of what was asked."),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be taken, and as what.")] = False,
    workflow: options.WorkflowOption = None,
    mode: options.Mode = None,
    styles: options.Styles = None,
    out: options.Out = None,
    sandbox: Annotated[bool, typer.Option("--sandbox", help="Into the sandbox's output root.")] = False,
    json: options.AsJson = False,
) -> None:
    """Take pictures that were made elsewhere into a batch, so that they are not made again. Buys nothing.

    What each was wanted as is read from the file (asyncgen's, ComfyUI's or A1111's words), from its folder in the old
    system, or from a caption NAME.txt beside it. Files are never moved or changed. Exit code 1 when some were skipped.
    """
    from asyncgen import adopting  # noqa: PLC0415 - as above

    overrides = {"output_root": out, "styles": styles, "workflow": workflow, "mode": mode}
    chosen = adopting.AdoptOptions(folder, name, options.realm(sandbox), fixed_seeds, dry_run, json)
    raise typer.Exit(adopting.run_adopt(overrides, chosen))


@app.command()
def show(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="PNG, JPEG or WebP pictures.")],
    json: options.AsJson = False,
) -> None:
    """Show what pictures say of how they were made: by asyncgen, ComfyUI or A1111. Needs no ledger.

    Exit code 1 when a file does not say it, or cannot be read.
    """
    from asyncgen import showing  # noqa: PLC0415 - as above

    raise typer.Exit(showing.show_files(files, as_json=json))


@app.command()
def verify(
    repair: Annotated[bool, typer.Option("--repair", help="Mend what can be mended, and buy nothing.")] = False,
    out: options.Out = None,
    sandbox: Annotated[bool, typer.Option("--sandbox", help="The sandbox's output root.")] = False,
    json: options.AsJson = False,
) -> None:
    """Hash every picture, and compare folders, manifest and ledger. Exit code 1 when something is wrong.

    With --repair images whose picture is missing or damaged become lost, to be tried again like failed ones; the
    manifest is written anew; and for a damaged ledger a new one is made of what can be read and of the manifest. That
    is refused beside a run.
    """
    from asyncgen import verifying  # noqa: PLC0415 - as above

    overrides = {"output_root": out}
    raise typer.Exit(verifying.run_verify(overrides, options.realm(sandbox), repair=repair, as_json=json))


@app.command()
def check(
    endpoint: options.EndpointOption = None,
    mode: options.Mode = None,
    out: options.Out = None,
    styles: options.Styles = None,
    workflow: options.WorkflowOption = None,
    json: options.AsJson = False,
) -> None:
    """Show the effective settings, and what is missing or wrong with how to mend it. Spends nothing."""
    from asyncgen import tables  # noqa: PLC0415 - as above

    overrides = {"endpoint": endpoint, "mode": mode, "output_root": out, "styles": styles, "workflow": workflow}
    raise typer.Exit(tables.run_check(overrides, as_json=json))


@app.command()
def sandbox(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 8000,
    workers: Annotated[int, typer.Option(min=1, help="Simulated workers of each endpoint.")] = 8,
    execution: Annotated[
        str, typer.Option(help="Execution time, seconds: 4.7±10%, fixed:4.7 or lognormal:MEDIAN,SIGMA.")
    ] = "4.7±10%",
    cold_start: Annotated[float, typer.Option(help="Seconds a sleeping worker takes to start.")] = 5.0,
    speed: Annotated[float, typer.Option(help="Divides all worker times.")] = 1.0,
    real_workers: Annotated[
        bool, typer.Option("--real-workers", help="Wait for workers of the runpod package.")
    ] = False,
    api_key: Annotated[str | None, typer.Option(help="The only key accepted. [default: any]")] = None,
    models: Annotated[Path | None, typer.Option(help="JSON file of the model files that exist.")] = None,
    faults: Annotated[Path | None, typer.Option(help="JSON file of fault rules (docs/sandbox.md).")] = None,
    pictures: Annotated[
        str, typer.Option(help="painted, or stamped: one base picture, marked for each job.")
    ] = "painted",
    picture_bytes: Annotated[int | None, typer.Option(help="Pad stamped pictures to this size.")] = None,
    rate_limit_scale: Annotated[float, typer.Option(help="Multiplies the documented rate limits; 0: none.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Decides execution times and the draws of faults.")] = 0,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="NAME=VALUE of any other sandbox setting (lists with commas); may be given several times."
        ),
    ] = None,
) -> None:
    """Run the RunPod queue API on this machine, with simulated workers or real ones, until Ctrl-C."""
    from asyncgen import serving  # noqa: PLC0415 - as above

    values = {
        "host": host,
        "port": port,
        "workers": workers,
        "execution": execution,
        "cold_start_seconds": cold_start,
        "speed": speed,
        "real_workers": real_workers,
        "api_key": api_key,
        "models_file": models,
        "faults_file": faults,
        "pictures": pictures,
        "picture_bytes": picture_bytes,
        "rate_limit_scale": rate_limit_scale,
        "seed": seed,
    }
    raise typer.Exit(serving.run_sandbox(values, option or ()))


def main() -> None:
    """Run the command that the arguments name, and end the process."""
    try:
        app()
    except OSError as error:  # of standard output, by --help and --version: commands see to their own
        from asyncgen import exits, streams  # noqa: PLC0415 - as above

        streams.complain(streams.give_up(sys.stdout, error))
        raise SystemExit(exits.Exit.UNUSABLE) from None
