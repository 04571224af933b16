"""The arguments of the commands that make images, or plan them; what those do is in `commands`."""

from __future__ import annotations

from typing import Annotated, Any, Final

import typer

from asyncgen import options
from asyncgen.option_groups import (
    Inputs,
    Places,
    RequestFields,
    Running,
    names_of,
    ungrouped,
    with_groups,
    with_options_of,
)

_REQUEST_FIELDS: Final = ("style", *names_of(RequestFields))
#: Axes of the matrix, and the options that say them.
_MATRIX: Final = {
    "styles": "style", "characters": "character", "sizes": "size", "workflows": "workflow", "seeds": "seeds",
    "control": "control",
}  # fmt: skip
_FIELD_NAMES: Final = {"sampler": "sampler_name", "scheduler": "scheduler_name"}


@with_groups
def batch(
    file: Annotated[
        str,
        typer.Argument(
            help="A .txt, .csv, .jsonl or .parquet file of prompts, a folder of caption files, - for standard input, "
            "or a batch file (.toml, .json)."
        ),
    ],
    *,
    style: options.StyleAxis = None,
    character: options.Character = None,
    size: options.Size = None,
    seeds: options.Seeds = None,
    control: options.Control = False,
    template: options.PromptTemplate = None,
    wildcards: options.WildcardsOption = None,
    wildcards_folder: options.WildcardsFolder = None,
    request: RequestFields,
    inputs: Inputs,
    workflow: options.WorkflowAxis = None,
    model_url: options.ModelUrl = None,
    object_info: options.ObjectInfo = None,
    concurrency: options.Concurrency = None,
    keep_order: options.KeepOrder = False,
    places: Places,
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
    running: Running,
) -> None:
    """Make an image of every prompt in a file; run it again to continue it.

    Finished images are never bought again, jobs that are still out are collected.
    """
    from asyncgen import commands  # noqa: PLC0415 - `--help` need not load the engine

    given = ungrouped(locals())
    raise typer.Exit(commands.run_batch(_setup(given), _batch_options(given)))


@with_options_of(batch)
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


@with_groups
def generate(
    prompt: Annotated[
        str | None, typer.Argument(help="What the image shows; left out where the workflow takes no text.")
    ] = None,
    *,
    style: options.Style = None,
    size: Annotated[
        str | None, typer.Option("--size", metavar="WxH", help="Pixels: --width and --height in one.")
    ] = None,
    request: RequestFields,
    inputs: Inputs,
    filename: Annotated[str | None, typer.Option("--filename", help="A file name of your own.")] = None,
    workflow: options.WorkflowOption = None,
    model_url: options.ModelUrl = None,
    object_info: options.ObjectInfo = None,
    places: Places,
    name: Annotated[str | None, typer.Option("--name", help="Name of the batch. [default: a new one]")] = None,
    running: Running,
) -> None:
    """Make one image (or a few) of one prompt."""
    from asyncgen import commands  # noqa: PLC0415 - as above

    given = ungrouped(locals())
    fields = {**_request_fields(given), "filename": filename}
    wish = commands.Wish(prompt, size, fields, name)
    raise typer.Exit(commands.run_generate(_setup(given), wish, model_url or ()))


@with_groups
def retry(
    name: Annotated[str, typer.Argument(help="Name of a batch (see `asyncgen status`).")],
    *,
    concurrency: options.Concurrency = None,
    keep_order: options.KeepOrder = False,
    places: Places,
    workflow: options.WorkflowOption = None,
    model_url: options.ModelUrl = None,
    object_info: options.ObjectInfo = None,
    rebuy_changed: options.RebuyChanged = False,
    inputs: Inputs,
    running: Running,
) -> None:
    """Try again what failed in a batch, and finish what is unfinished, from what the ledger knows.

    Images are made with the values they were recorded with; with --rebuy-changed with today's style, workflow and URLs.
    """
    from asyncgen import commands  # noqa: PLC0415 - as above

    given = ungrouped(locals())
    raise typer.Exit(commands.run_retry(_setup(given), name, model_url or (), rebuy_changed=rebuy_changed))


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
