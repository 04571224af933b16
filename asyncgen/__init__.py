"""asyncgen: a list of prompts in, a finished image data set out, on RunPod serverless GPUs.

The story is in `asyncgen.job`; from there the map, upper files using lower ones only (`.importlinter`)::

    cli, commands             the command line: arguments, and what they do
    display, check, exits     what is shown; what is looked at before; exit codes
    api                       generate_many, stream_many, ImageGenerator
    run                       the composition root: wires everything below together
    engine                    bounded fan-out: claims, starts, hands on, stops
    job                       one image, from the wish for it to the file
    report, manifest, results readers of the ledger, and what callers get
    endpoint                  submit, wait, cancel, health; gates and backoff
    ledger, store, intake     durable state, files, prompts in
    transport, system, disk   the real HTTP, clock, threads and file system behind `ports`
    plan, workflow, template  from a request to a graph
    styles, loras, prompts, naming, pacing, images, protocol, replies, outputs, diagnosis, request, records, lifecycle,
    errors                    pure: values in, values out
    sandbox                   the RunPod API on localhost
"""

from asyncgen._version import __version__
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
from asyncgen.registry import StylesRegistry
from asyncgen.request import ImageRequest
from asyncgen.results import ImageResult
from asyncgen.settings import Settings, load_settings

__all__ = [
    "AsyncgenError",
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
    "open_endpoint",
    "run_image",
    "run_many",
    "stream_many",
]
