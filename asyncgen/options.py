"""The options of the command line that several commands share, as typer is told of them."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class OnStop(StrEnum):
    """What Ctrl-C does with jobs that are out."""

    COLLECT = "collect"
    CANCEL = "cancel"


class CostBy(StrEnum):
    """What costs are grouped by."""

    RUN = "run"
    STYLE = "style"
    LORA = "lora"
    DAY = "day"


class Check(StrEnum):
    """What a whole picture must be to count."""

    STRICT = "strict"
    STANDARD = "standard"
    WARN = "warn"
    OFF = "off"


class OnUnknown(StrEnum):
    """What becomes of a submission whose outcome was never learned."""

    HOLD = "hold"
    RESUBMIT = "resubmit"


class MetadataLevel(StrEnum):
    """What a picture's file says of how it was made."""

    FULL = "full"
    BASIC = "basic"
    NONE = "none"


Style = Annotated[str | None, typer.Option("--style", help="Style id of the registry.")]
StyleAxis = Annotated[
    list[str] | None, typer.Option("--style", help="Style id of the registry; given several times, one image in each.")
]
WorkflowAxis = Annotated[
    list[str] | None,
    typer.Option("--workflow", help="Workflow name, or path to a graph file; given several times, one image by each."),
]
Character = Annotated[
    list[str] | None,
    typer.Option(
        "--character",
        metavar="SET",
        help="Characters' LoRAs, NAME or NAME:STRENGTH separated by commas, or none; given several times, one image "
        "with each set.",
    ),
]
Size = Annotated[
    list[str] | None,
    typer.Option("--size", metavar="WxH", help="Pixels; given several times, one image of each size."),
]
Seeds = Annotated[
    int | None, typer.Option("--seeds", min=1, help="So many seeds for each prompt, the same in every style.")
]
Control = Annotated[bool, typer.Option("--control", help="Add each image without style and LoRAs, to compare.")]
PromptTemplate = Annotated[
    str | None, typer.Option("--template", help="Prompt of rows that have only variables: a {color} fox.")
]
WildcardsOption = Annotated[
    str | None,
    typer.Option(
        "--wildcards", metavar="random|combinatorial", help="Resolve {a|b} and __names__ in prompts: one each, or all."
    ),
]
WildcardsFolder = Annotated[
    Path | None, typer.Option("--wildcards-folder", help="Folder of wildcard files: NAME.txt is __NAME__.")
]
Width = Annotated[int | None, typer.Option("--width", help="Pixels, a multiple of 8. [default: 1360]")]
Height = Annotated[int | None, typer.Option("--height", help="Pixels, a multiple of 8. [default: 768]")]
Steps = Annotated[int | None, typer.Option("--steps", help="Sampling steps. [default: the style's, then 20]")]
Seed = Annotated[int | None, typer.Option("--seed", help="-1 draws one for each image. [default: -1]")]
Images = Annotated[int | None, typer.Option("--images", help="Images of each prompt, each with its own seed.")]
BatchSize = Annotated[int | None, typer.Option("--batch-size", help="Pictures made by one job.")]
CharacterLora = Annotated[
    list[str] | None, typer.Option("--character-lora", help="NAME or NAME:STRENGTH; may be given several times.")
]
CineStrength = Annotated[
    float | None, typer.Option("--cine-strength", help="Strength of the FILM-V3-FLUX LoRA; above 0 adds it.")
]
Guidance = Annotated[float | None, typer.Option("--guidance", help="FLUX guidance.")]
Model = Annotated[str | None, typer.Option("--model", help="Diffusion model file.")]
Sampler = Annotated[str | None, typer.Option("--sampler", help="Sampler name.")]
Scheduler = Annotated[str | None, typer.Option("--scheduler", help="Scheduler name.")]
RawPrompt = Annotated[bool, typer.Option("--raw-prompt", help="Send prompts without the style's texts.")]
WorkflowOption = Annotated[str | None, typer.Option("--workflow", help="Workflow name, or path to a graph file.")]
InitImage = Annotated[
    str | None,
    typer.Option("--init-image", help="Picture to start from, where the workflow takes one: path or https URL."),
]
MaskImage = Annotated[
    str | None, typer.Option("--mask-image", help="Mask, as large as the init image: white is made anew.")
]
PoseImage = Annotated[str | None, typer.Option("--pose-image", help="Pose drawing, where the workflow takes one.")]
Denoise = Annotated[float | None, typer.Option("--denoise", help="How much of the init image is made anew, 0 to 1.")]
Strength = Annotated[float | None, typer.Option("--strength", help="How strongly the pose holds, 0 to 10.")]
ResizeInputs = Annotated[
    str | None,
    typer.Option(
        "--resize-inputs",
        metavar="never|crop|stretch",
        help="Bring input pictures to the wanted size before they are sent. [default: never]",
    ),
]
ReencodeInputs = Annotated[
    str | None,
    typer.Option(
        "--reencode-inputs",
        metavar="never|webp-lossless|jpeg:Q",
        help="How input pictures may be re-encoded where a job would pass 10 MiB. [default: never]",
    ),
]
TeaCache = Annotated[
    bool | None, typer.Option("--teacache/--no-teacache", help="Leave the workflow's TeaCache in, or out.")
]
ObjectInfo = Annotated[
    str | None,
    typer.Option(
        "--object-info", metavar="FILE|URL", help="Node classes of your own ComfyUI: http://HOST:8188/object_info."
    ),
]
ModelUrl = Annotated[
    list[str] | None,
    typer.Option("--model-url", help="NAME=URL of a LoRA file that workers may download; may be given several times."),
]
Concurrency = Annotated[
    str | None, typer.Option("--concurrency", metavar="N|auto", help="Jobs out at the same time. [default: auto]")
]
KeepOrder = Annotated[
    bool, typer.Option("--keep-order", help="Start images in the file's order, not grouped by model and LoRAs.")
]
EndpointOption = Annotated[str | None, typer.Option("--endpoint", help="Endpoint id, instead of the mode's.")]
Mode = Annotated[str | None, typer.Option("--mode", help="wizard, new_pre or posterFrameRegeneration.")]
Out = Annotated[Path | None, typer.Option("--out", help="Output root: images, manifest and ledger.")]
Styles = Annotated[Path | None, typer.Option("--styles", help="Styles registry file.")]
Sandbox = Annotated[bool, typer.Option("--sandbox", help="Use the embedded sandbox: no key, no account, no cost.")]
OfSandbox = Annotated[bool, typer.Option("--sandbox", help="Of the sandbox's output root.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line on standard output.")]
Stop = Annotated[
    OnStop | None, typer.Option("--on-stop", help="On Ctrl-C, collect or cancel what is out. [default: collect]")
]
Unknown = Annotated[
    OnUnknown | None,
    typer.Option(
        "--unknown", help="Submissions of unknown outcome: hold, or resubmit (may pay twice). [default: hold]"
    ),
]
CheckOption = Annotated[
    Check | None,
    typer.Option(
        "--check", help="Which pictures fail: blank ones and duplicates; near ones too; none. [default: standard]"
    ),
]
Rerolls = Annotated[
    int | None,
    typer.Option("--rerolls", min=0, help="Buy a rejected picture again with another seed, so often. [default: 0]"),
]
ScorerOption = Annotated[
    str | None,
    typer.Option("--scorer", metavar="MODULE:FUNCTION", help="A function of yours that may reject a picture."),
]
Budget = Annotated[
    float | None,
    typer.Option("--budget", help="US dollars of execution that the batch may cost in all its runs; needs a price."),
]
UsdPerSecond = Annotated[float | None, typer.Option("--usd-per-second", help="Price of one worker.")]
Gpu = Annotated[str | None, typer.Option("--gpu", help="GPU of the endpoint, to look its price up: 4090, L40S …")]
Verbose = Annotated[int, typer.Option("-v", "--verbose", count=True, help="Log more; twice for everything.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="No progress, and only errors are logged.")]
LogFile = Annotated[Path | None, typer.Option("--log-file", help="Append the log to a file.")]
LogJson = Annotated[bool, typer.Option("--log-json", help="Log lines as JSON objects.")]
Metadata = Annotated[
    MetadataLevel | None,
    typer.Option("--metadata", help="What picture files say of how they were made. [default: full]"),
]
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="Try again what failed before.")]
RebuyChanged = Annotated[
    bool, typer.Option("--rebuy-changed", help="Make images again whose style, workflow or values have changed.")
]


def realm(on_sandbox: bool) -> str:
    """The realm that `--sandbox` chooses, or its absence."""
    return "sandbox" if on_sandbox else "runpod"
