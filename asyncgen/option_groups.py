"""Options that several commands take together: for a command one parameter, for typer and its help each by itself."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from inspect import Parameter
from typing import Any

from asyncgen import options

Command = Callable[..., None]


@dataclass(frozen=True, slots=True)
class RequestFields:
    """What holds for every request that does not say otherwise."""

    width: options.Width = None
    height: options.Height = None
    steps: options.Steps = None
    seed: options.Seed = None
    images: options.Images = None
    batch_size: options.BatchSize = None
    character_lora: options.CharacterLora = None
    cine_strength: options.CineStrength = None
    guidance: options.Guidance = None
    model: options.Model = None
    sampler: options.Sampler = None
    scheduler: options.Scheduler = None
    raw_prompt: options.RawPrompt = False
    init_image: options.InitImage = None
    mask_image: options.MaskImage = None
    pose_image: options.PoseImage = None
    denoise: options.Denoise = None
    strength: options.Strength = None
    teacache: options.TeaCache = None


@dataclass(frozen=True, slots=True)
class Inputs:
    """What may be done to input pictures."""

    resize_inputs: options.ResizeInputs = None
    reencode_inputs: options.ReencodeInputs = None


@dataclass(frozen=True, slots=True)
class Places:
    """Where jobs go, where images go, and where styles come from."""

    endpoint: options.EndpointOption = None
    mode: options.Mode = None
    out: options.Out = None
    styles: options.Styles = None


@dataclass(frozen=True, slots=True)
class Running:
    """How a run goes on, what it may cost, and what it says."""

    sandbox: options.Sandbox = False
    metadata: options.Metadata = None
    on_stop: options.Stop = None
    unknown: options.Unknown = None
    check: options.CheckOption = None
    rerolls: options.Rerolls = None
    scorer: options.ScorerOption = None
    budget: options.Budget = None
    usd_per_second: options.UsdPerSecond = None
    gpu: options.Gpu = None
    json: options.AsJson = False
    verbose: options.Verbose = 0
    quiet: options.Quiet = False
    log_file: options.LogFile = None
    log_json: options.LogJson = False


def with_groups(command: Command) -> Command:
    """A command that gets each group of options as one value."""
    groups = {name: one.annotation for name, one in _parameters(command).items() if _is_group(one.annotation)}

    @wraps(command)
    def run(**given: Any) -> None:
        taken = {name: group(**{one: given.pop(one) for one in names_of(group)}) for name, group in groups.items()}
        command(**given, **taken)

    seen: list[Parameter] = []
    for name, parameter in _parameters(command).items():
        seen += _parameters(groups[name]).values() if name in groups else [parameter]
    return _declared(run, seen)


def with_options_of(command: Command) -> Callable[[Command], Command]:
    """Gives a command, before its own options, all arguments and options of another; it gets them in `**given`."""

    def declare(function: Command) -> Command:
        own = [parameter for parameter in _parameters(function).values() if parameter.name != "given"]
        return _declared(function, [*_parameters(command).values(), *own])

    return declare


def names_of(group: Any) -> tuple[str, ...]:
    """The options of a group."""
    return tuple(field.name for field in fields(group))


def ungrouped(given: Mapping[str, Any]) -> dict[str, Any]:
    """What a command was given, each option by itself."""
    found: dict[str, Any] = {}
    for name, value in given.items():
        found |= {one: getattr(value, one) for one in names_of(value)} if is_dataclass(value) else {name: value}
    return found


def _is_group(annotation: object) -> bool:
    return isinstance(annotation, type) and is_dataclass(annotation)


def _parameters(function: Callable[..., Any]) -> Mapping[str, Parameter]:
    return inspect.signature(function, eval_str=True).parameters


def _declared(function: Command, parameters: Iterable[Parameter]) -> Command:
    """What typer looks at: it hands every argument on by its name."""
    seen = [parameter.replace(kind=Parameter.KEYWORD_ONLY) for parameter in parameters]
    function.__signature__ = inspect.Signature(seen)  # type: ignore[attr-defined]
    function.__annotations__ = {parameter.name: parameter.annotation for parameter in seen}
    return function
