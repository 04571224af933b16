"""asyncgen: a list of prompts in, a finished image data set out, on RunPod serverless GPUs.

The story is in `asyncgen.job`; from there the map, upper files using lower ones only (`.importlinter`)::

    cli                       the command line
    making_cli, library_cli, queue_cli
                              its commands that make images, `asyncgen workflows` and `styles`, `asyncgen queue`
    option_groups, options    what these share
    commands, tables          what they do: make images; show what is there
    serving, verifying        the sandbox on its own; `asyncgen verify`
    library_commands          `asyncgen workflows`
    queue_commands, adding    `asyncgen queue`; `asyncgen queue add`
    cost_commands             `asyncgen cost`
    showing, adopting         `asyncgen show` and `asyncgen adopt`
    pilot, contact_sheet      a few images first, and how they look
    waking                    workers woken before a batch, and what that costs
    plan_display, planning    what a batch would do, found out without doing it
    source, console           a batch's input; what is printed where
    display, check, exits     what a run shows; what is looked at before; exit codes
    api                       generate_many, stream_many, ImageGenerator
    repair                    an output root made true again, for `asyncgen verify --repair`
    adopter                   a folder of pictures that were made elsewhere, taken into a batch
    run                       the composition root: wires everything below together for a run over a batch
    workspace                 one output root in use: its lock, ledger, store, manifest, endpoints
    steering                  what a command does to the runs that go on
    engine                    bounded fan-out: claims, starts, hands on, stops
    tally                     what a run has come to so far
    job, slots                one image, from the wish for it to the file; how many jobs are out
    allowance                 what a run may still buy, and on which terms
    story                     one image's story, for `asyncgen why`
    outlook                   what a run would find in the ledger
    warming                   small jobs that wake workers
    verify, rebuild, salvage  what is wrong with an output root; a new ledger for a damaged one
    outstanding, costs        what is out and waits; what jobs have cost
    report, manifest, results readers of the ledger, and what callers get
    resume                    what the ledger knows of a prompt file already
    endpoint, calls, gate     submit, wait, cancel, health; backoff and silence; so many requests in 10 s and at once
    prices                    what a second of a worker costs
    input_pictures            the pictures that jobs start from: paths, bytes, URLs
    locking, sharing          one process owns an output root; runs of one user share an endpoint's limits
    lookahead                 the input read ahead, and ordered
    inspection                whether the pictures of a job count
    ledger, store, intake     durable state, files, prompts in
    rows, schema              the ledger's SQL, and its file
    checks, looks             what a picture must be to count; how it looks
    scoring                   your own function that says whether it counts
    expected_size             the size that a graph makes
    transport, system, disk   the real HTTP, clock, threads and file system behind `ports`
    control                   the socket by which a run is told what to do
    streams                   standard output and standard error, which may fail
    batch_input, batch_file   the options of a command and a batch file put together
    matrix_requests           the same from Python
    captions, parquet, wildcards
                              folders of captions and Parquet files as prompt files; choices in prompts
    expansion, cells          rows in the cells of a matrix: styles, character sets, sizes, workflows, seeds, a control
    axes, cell_ids            the same as they are written; what an image of a matrix is called
    plan, workflow, template  from a request to a graph
    input_rules, input_pixels which input pictures are refused, resized, re-encoded; their bytes
    model_urls                where workers may download LoRA files from
    library                   the workflows that there are, and what each needs
    graph_check, binding      what is wrong with a graph; which of its inputs take which parameter
    graph, node_schema, lora_nodes
                              nodes and links; what a server says of its node classes; how LoRAs are loaded
    order                     which images are started one after the other
    marking, provenance       what a picture's file says of how it was made
    origins, adoption         the same read back, and what others have written; what it was wanted as
    adopted_rows, sibling_rows
                              what is adopted, in the ledger; the pictures there that one is compared with
    containers, exif          where PNG, JPEG and WebP files keep texts
    money, lanes, forecast    the rules of `allowance`: budget and cost, systematic faults, time limits
    concurrency               the rule of `slots`
    estimate, sampling        what images will take; a few of many, spread over lanes
    queue_model               when `endpoint` should ask for each job, learned from its replies
    control_messages, selection
                              what is said there; which images are meant
    styles, loras, prompts, variables, naming, pacing, images, protocol, replies, outputs, lifting, diagnosis, request,
    records, lifecycle, manifest_lines, documents, errors, url_secrets
                              pure, as the line above: values in, values out
    sandbox                   the RunPod API on localhost
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from asyncgen._version import __version__

if TYPE_CHECKING:
    from asyncgen.api import (
        ImageGenerator,
        WorkflowBuilder,
        generate_image,
        generate_image_with_style,
        generate_many,
        open_endpoint,
        run_image,
        run_many,
        stream_many,
    )
    from asyncgen.errors import (
        AsyncgenError,
        BudgetReachedError,
        Failure,
        FailureClass,
        FailureCode,
        GenerationError,
        InputError,
        LedgerError,
        LedgerLockedError,
        RunPausedError,
        SettingsError,
        StoreError,
        StyleNotFoundError,
        WorkflowError,
    )
    from asyncgen.matrix_requests import matrix
    from asyncgen.registry import StylesRegistry
    from asyncgen.request import ImageRequest
    from asyncgen.results import ImageResult
    from asyncgen.settings import Settings, load_settings

# Names are loaded when they are first asked for, so that `asyncgen --help` does not wait for the engine: 0.07 s of CPU
# instead of 0.74. The imports above tell type checkers the same; a test keeps the two and `__all__` together.
_HOMES = {
    "api": (
        "ImageGenerator",
        "WorkflowBuilder",
        "generate_image",
        "generate_image_with_style",
        "generate_many",
        "open_endpoint",
        "run_image",
        "run_many",
        "stream_many",
    ),
    "errors": (
        "AsyncgenError",
        "BudgetReachedError",
        "Failure",
        "FailureClass",
        "FailureCode",
        "GenerationError",
        "InputError",
        "LedgerError",
        "LedgerLockedError",
        "RunPausedError",
        "SettingsError",
        "StoreError",
        "StyleNotFoundError",
        "WorkflowError",
    ),
    "matrix_requests": ("matrix",),
    "registry": ("StylesRegistry",),
    "request": ("ImageRequest",),
    "results": ("ImageResult",),
    "settings": (
        "Settings",
        "load_settings",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


__all__ = [
    "AsyncgenError",
    "BudgetReachedError",
    "Failure",
    "FailureClass",
    "FailureCode",
    "GenerationError",
    "ImageGenerator",
    "ImageRequest",
    "ImageResult",
    "InputError",
    "LedgerError",
    "LedgerLockedError",
    "RunPausedError",
    "Settings",
    "SettingsError",
    "StoreError",
    "StyleNotFoundError",
    "StylesRegistry",
    "WorkflowBuilder",
    "WorkflowError",
    "__version__",
    "generate_image",
    "generate_image_with_style",
    "generate_many",
    "load_settings",
    "matrix",
    "open_endpoint",
    "run_image",
    "run_many",
    "stream_many",
]
