"""The command line: arguments in, exit codes out. What the commands do is in `commands`, `tables` and `serving`.

Those of `asyncgen queue`, `styles` and `workflows` are in `queue_cli` and `library_cli`.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from asyncgen import library_cli, options, queue_cli
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

_REQUEST_FIELDS: Final = (
    "style", "width", "height", "steps", "seed", "images", "batch_size", "character_lora", "cine_strength", "guidance",
    "model", "sampler", "scheduler", "raw_prompt", "init_image", "mask_image", "pose_image", "denoise", "strength",
    "teacache",
)  # fmt: skip
#: Axes of the matrix, and the options that say them.
_MATRIX: Final = {
    "styles": "style", "characters": "character", "sizes": "size", "workflows": "workflow", "seeds": "seeds",
    "control": "control",
}  # fmt: skip
_FIELD_NAMES: Final = {"sampler": "sampler_name", "scheduler": "scheduler_name"}


def _with_options_of(command: Callable[..., Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command, before its own options, all arguments and options of another; it gets them in `**given`."""

    def declare(function: Callable[..., None]) -> Callable[..., None]:
        theirs = inspect.signature(command, eval_str=True)
        own = [
            parameter
            for parameter in inspect.signature(function, eval_str=True).parameters.values()
            if parameter.name != "given"
        ]
        function.__signature__ = theirs.replace(parameters=[*theirs.parameters.values(), *own])  # type: ignore[attr-defined]
        function.__annotations__ = {**command.__annotations__, **function.__annotations__}
        return function

    return declare


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False) -> None:
    if version:
        typer.echo(f"asyncgen {__version__}")
        raise typer.Exit


@app.command()
def batch(
    file: Annotated[
        str,
        typer.Argument(
            help="A .txt, .csv, .jsonl or .parquet file of prompts, a folder of caption files, - for standard input, "
            "or a batch file (.toml, .json)."
        ),
    ],
    style: options.StyleAxis = None,
    character: options.Character = None,
    size: options.Size = None,
    seeds: options.Seeds = None,
    control: options.Control = False,
    template: options.PromptTemplate = None,
    wildcards: options.WildcardsOption = None,
    wildcards_folder: options.WildcardsFolder = None,
    width: options.Width = None,
    height: options.Height = None,
    steps: options.Steps = None,
    seed: options.Seed = None,
    images: options.Images = None,
    batch_size: options.BatchSize = None,
    character_lora: options.CharacterLora = None,
    cine_strength: options.CineStrength = None,
    guidance: options.Guidance = None,
    model: options.Model = None,
    sampler: options.Sampler = None,
    scheduler: options.Scheduler = None,
    raw_prompt: options.RawPrompt = False,
    init_image: options.InitImage = None,
    mask_image: options.MaskImage = None,
    pose_image: options.PoseImage = None,
    denoise: options.Denoise = None,
    strength: options.Strength = None,
    teacache: options.TeaCache = None,
    resize_inputs: options.ResizeInputs = None,
    reencode_inputs: options.ReencodeInputs = None,
    workflow: options.WorkflowAxis = None,
    model_url: options.ModelUrl = None,
    object_info: options.ObjectInfo = None,
    concurrency: options.Concurrency = None,
    keep_order: options.KeepOrder = False,
    endpoint: options.EndpointOption = None,
    mode: options.Mode = None,
    out: options.Out = None,
    styles: options.Styles = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of the batch. [default: the file's name]")] = None,
    format: Annotated[
        str | None,
        typer.Option("--format", help="txt, csv, jsonl or parquet, whatever the file's name; - is txt without it."),
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Make a new set beside the one of that name.")] = False,
    retry_failed: options.RetryFailed = False,
    rebuy_changed: options.RebuyChanged = False,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Only the first so many rows.")] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Skip and count rows that are wrong.")] = False,
    pilot: Annotated[
        int | None,
        typer.Option(
            "--pilot",
            min=1,
            max=1000,
            help="Make so many images first, spread over all lanes, and ask before the rest.",
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Go on after the pilot without asking.")] = False,
    warm: Annotated[
        int | None,
        typer.Option(
            "--warm", min=1, max=200, help="Wake so many workers first with small jobs, and say what those cost."
        ),
    ] = None,
    sandbox: options.Sandbox = False,
    metadata: options.Metadata = None,
    on_stop: options.Stop = None,
    unknown: options.Unknown = None,
    check: options.CheckOption = None,
    rerolls: options.Rerolls = None,
    scorer: options.ScorerOption = None,
    budget: options.Budget = None,
    usd_per_second: options.UsdPerSecond = None,
    gpu: options.Gpu = None,
    json: options.AsJson = False,
    verbose: options.Verbose = 0,
    quiet: options.Quiet = False,
    log_file: options.LogFile = None,
    log_json: options.LogJson = False,
) -> None:
    """Make an image of every prompt in a file; run it again to continue it.

    Finished images are never bought again, jobs that are still out are collected.
    """
    from asyncgen import commands  # noqa: PLC0415 - `--help` need not load the engine

    given = locals()
    raise typer.Exit(commands.run_batch(_setup(given), _batch_options(given)))


@app.command()
@_with_options_of(batch)
def plan(
    seconds_per_image: Annotated[
        float | None,
        typer.Option("--seconds-per-image", min=0.001, help="Your own rate, instead of the ledger's history."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="How many workers will work at once, for the time it takes.")
    ] = None,
    **given: Any,
) -> None:
    """Tell what `batch` would do with the same options; sends nothing, works beside a run.

    How many images are new, changed, kept or failed before; every problem; time and cost as ranges with their basis;
    samples as they would be sent. Exit code 2 where a problem would stop the batch.
    """
    from asyncgen import commands, planning  # noqa: PLC0415 - as above

    assumed = planning.Assumed(seconds_per_image, workers)
    raise typer.Exit(commands.run_plan(_setup(given), _batch_options(given), assumed))


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="What the image shows.")],
    style: options.Style = None,
    width: options.Width = None,
    height: options.Height = None,
    steps: options.Steps = None,
    seed: options.Seed = None,
    images: options.Images = None,
    batch_size: options.BatchSize = None,
    character_lora: options.CharacterLora = None,
    cine_strength: options.CineStrength = None,
    guidance: options.Guidance = None,
    model: options.Model = None,
    sampler: options.Sampler = None,
    scheduler: options.Scheduler = None,
    raw_prompt: options.RawPrompt = False,
    init_image: options.InitImage = None,
    mask_image: options.MaskImage = None,
    pose_image: options.PoseImage = None,
    denoise: options.Denoise = None,
    strength: options.Strength = None,
    teacache: options.TeaCache = None,
    resize_inputs: options.ResizeInputs = None,
    reencode_inputs: options.ReencodeInputs = None,
    filename: Annotated[str | None, typer.Option("--filename", help="A file name of your own.")] = None,
    workflow: options.WorkflowOption = None,
    model_url: options.ModelUrl = None,
    object_info: options.ObjectInfo = None,
    endpoint: options.EndpointOption = None,
    mode: options.Mode = None,
    out: options.Out = None,
    styles: options.Styles = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of the batch. [default: a new one]")] = None,
    sandbox: options.Sandbox = False,
    metadata: options.Metadata = None,
    on_stop: options.Stop = None,
    unknown: options.Unknown = None,
    check: options.CheckOption = None,
    rerolls: options.Rerolls = None,
    scorer: options.ScorerOption = None,
    budget: options.Budget = None,
    usd_per_second: options.UsdPerSecond = None,
    gpu: options.Gpu = None,
    json: options.AsJson = False,
    verbose: options.Verbose = 0,
    quiet: options.Quiet = False,
    log_file: options.LogFile = None,
    log_json: options.LogJson = False,
) -> None:
    """Make one image (or a few) of one prompt."""
    from asyncgen import commands  # noqa: PLC0415 - as above

    given = locals()
    fields = {**_request_fields(given), "filename": filename}
    raise typer.Exit(commands.run_generate(_setup(given), prompt, name, fields, model_url or ()))


@app.command()
def retry(
    name: Annotated[str, typer.Argument(help="Name of a batch (see `asyncgen status`).")],
    concurrency: options.Concurrency = None,
    keep_order: options.KeepOrder = False,
    endpoint: options.EndpointOption = None,
    mode: options.Mode = None,
    out: options.Out = None,
    styles: options.Styles = None,
    workflow: options.WorkflowOption = None,
    model_url: options.ModelUrl = None,
    object_info: options.ObjectInfo = None,
    rebuy_changed: options.RebuyChanged = False,
    resize_inputs: options.ResizeInputs = None,
    reencode_inputs: options.ReencodeInputs = None,
    sandbox: options.Sandbox = False,
    metadata: options.Metadata = None,
    on_stop: options.Stop = None,
    unknown: options.Unknown = None,
    check: options.CheckOption = None,
    rerolls: options.Rerolls = None,
    scorer: options.ScorerOption = None,
    budget: options.Budget = None,
    usd_per_second: options.UsdPerSecond = None,
    gpu: options.Gpu = None,
    json: options.AsJson = False,
    verbose: options.Verbose = 0,
    quiet: options.Quiet = False,
    log_file: options.LogFile = None,
    log_json: options.LogJson = False,
) -> None:
    """Try again what failed in a batch, and finish what is unfinished, from what the ledger knows.

    Images are made with the values they were recorded with; with --rebuy-changed with today's style, workflow and URLs.
    """
    from asyncgen import commands  # noqa: PLC0415 - as above

    given = locals()
    raise typer.Exit(commands.run_retry(_setup(given), name, model_url or (), rebuy_changed=rebuy_changed))


@app.command()
def status(
    out: options.Out = None,
    sandbox: options.OfSandbox = False,
    json: options.AsJson = False,
) -> None:
    """Show every batch: how many images are there, out, failed or held. Works beside a run."""
    from asyncgen import tables  # noqa: PLC0415 - as above

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
    """Entry point of `asyncgen` and `python -m asyncgen`."""
    try:
        app()
    except OSError as error:  # of standard output, by --help and --version: commands see to their own
        from asyncgen import exits, streams  # noqa: PLC0415 - as above

        streams.complain(streams.give_up(sys.stdout, error))
        raise SystemExit(exits.Exit.UNUSABLE) from None


def _request_fields(given: dict[str, Any]) -> dict[str, Any]:
    """The options that are fields of a request; what was not said is left out."""
    said = {name: given[name] for name in _REQUEST_FIELDS if given[name] not in (None, [])}
    if not said["raw_prompt"]:
        del said["raw_prompt"]
    return {_FIELD_NAMES.get(name, name): value for name, value in said.items()}


def _batch_options(given: dict[str, Any]) -> Any:
    from asyncgen import batch_file, commands, source  # noqa: PLC0415 - as above

    matrix = {name: given[option] for name, option in _MATRIX.items() if given[option] not in (None, [], False)}
    if len(given["workflow"] or ()) < 2 and not batch_file.is_batch_file(given["file"]):  # one is the run's
        matrix.pop("workflows", None)
    return commands.BatchOptions(
        source=source.SourceOptions(
            file=given["file"],
            format=given["format"],
            limit=given["limit"],
            skip_bad=given["skip_bad"],
            fields=_request_fields({**given, "style": None}),
            matrix=matrix,
            template=given["template"],
            wildcards=given["wildcards"],
            wildcards_folder=given["wildcards_folder"],
        ),
        name=given["name"],
        again=given["again"],
        retry_failed=given["retry_failed"],
        rebuy_changed=given["rebuy_changed"],
        model_urls=given["model_url"] or (),
        pilot=given["pilot"],
        yes=given["yes"],
        warm=given["warm"],
    )


def _run_workflow(given: str | list[str] | None) -> str | None:
    """The run's workflow; several are an axis of the matrix, and the run's is the default."""
    if isinstance(given, list):
        return given[0] if len(given) == 1 else None
    return given


def _setup(given: dict[str, Any]) -> Any:
    from asyncgen import commands  # noqa: PLC0415 - as above

    overrides = {
        "endpoint": given.get("endpoint"),
        "mode": given.get("mode"),
        "output_root": given.get("out"),
        "styles": given.get("styles"),
        "workflow": _run_workflow(given.get("workflow")),
        "concurrency": given.get("concurrency"),
        "keep_order": given.get("keep_order") or None,
        "metadata": given.get("metadata"),
        "on_stop": given.get("on_stop"),
        "unknown": given.get("unknown"),
        "budget_usd": given.get("budget"),
        "usd_per_second": given.get("usd_per_second"),
        "gpu": given.get("gpu"),
        "resize_inputs": given.get("resize_inputs"),
        "reencode_inputs": given.get("reencode_inputs"),
        "check": given.get("check"),
        "rerolls": given.get("rerolls"),
    }
    return commands.Setup(
        overrides=overrides,
        object_info=given["object_info"],
        scorer=given.get("scorer"),
        sandbox=given["sandbox"],
        as_json=given["json"],
        verbosity=-1 if given["quiet"] else given["verbose"],
        log_file=given["log_file"],
        log_json=given["log_json"],
    )
