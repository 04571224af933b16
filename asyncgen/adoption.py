"""What a picture that was made elsewhere was wanted as: the request that would have made it here. Pure.

Whoever comes from another system has a prompt file, and wants to run it. So the request is the shortest one that says
what the picture was made with: it leaves out what its style or the defaults say, and a seed that nobody chose.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any, Final, Protocol

from asyncgen.errors import InputError
from asyncgen.loras import CINE_LORA, Lora, stack_loras, with_suffix
from asyncgen.naming import style_folder
from asyncgen.origins import Origin
from asyncgen.plan import Planner
from asyncgen.records import SANDBOX, SentPicture, Spec, Want
from asyncgen.request import ImageRequest, content_key, parse_request
from asyncgen.styles import Style, compose_prompt
from asyncgen.workflow import DEFAULTS

#: Stands for a seed that nobody knows.
SEED_NOT_KNOWN: Final = 0
#: Where the old system kept the folders of its styles.
_STYLE_IMAGES: Final = "style_images"
_BETWEEN: Final = ", .;\t\r\n"
_SUFFIX: Final = ".safetensors"
_VALUES: Final = ("steps", "sampler_name", "scheduler_name", "flux_guidance", "width", "height")
_MOST_STRENGTH: Final = 10.0
_NOT_IN_RECORD: Final = frozenset({"loras", "model_urls", "sent_pictures", "unused"})
_SPEC_TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    **dict.fromkeys(("prompt", "prompt_sent", "workflow", "workflow_digest", "model"), (str,)),
    **dict.fromkeys(("sampler_name", "scheduler_name"), (str,)),
    **dict.fromkeys(("style_id", "style_title"), (str, type(None))),
    **dict.fromkeys(("width", "height", "steps", "batch_size"), (int,)),
    "flux_guidance": (int, float),
    "parameters": (dict,),
}


class Registry(Protocol):
    """What is needed of a styles registry."""

    def get_all_styles(self) -> Sequence[Style]: ...
    def get_style_by_id(self, style_id: str) -> Style: ...
    def get_style_by_lora_name(self, lora_name: str) -> Style | None: ...


class NotAdoptableError(Exception):
    """The picture cannot be taken; the message says why."""


@dataclass(frozen=True, slots=True)
class Adoptable:
    """A picture as it was wanted. `replica_is_free`: which of several equal ones it is nobody knows.

    `number` is the picture's among those of its job, from 0. `said_by` is where all that comes from: asyncgen, ComfyUI,
    A1111, or a caption.
    """

    request: ImageRequest
    spec: Spec
    seed: int
    replica: int
    replica_is_free: bool
    said_by: str
    number: int = 0

    def want(self, replica: int) -> Want:
        """As one of the images of its request."""
        key = content_key(self.request, replica, self.spec.workflow)
        return Want(self.request, replica, self.spec, key, self.seed)


class Adoption:
    """Finds out what pictures were wanted as, for one registry and the workflow that goes on making them.

    `realm` is that of the batch. `fixed_seeds`: requests to come name their seeds, so those of the pictures are part
    of what was asked.
    """

    def __init__(self, planner: Planner, styles: Registry, realm: str, *, fixed_seeds: bool = False) -> None:
        self._planner, self._styles, self._realm, self._fixed_seeds = planner, styles, realm, fixed_seeds
        self._folders = {style_folder(style.id, style.title): style.id for style in styles.get_all_styles()}

    def adoptable(self, path: PurePosixPath, origin: Origin, caption: str | None, size: tuple[int, int]) -> Adoptable:
        """What the picture was wanted as. `size` is its width and height. Raises `NotAdoptableError`."""
        try:
            if origin.record is not None and origin.prompt is not None:
                return self._of_record(origin, origin.record)
            return self._of_values(path, origin, caption, size)
        except InputError as error:
            raise NotAdoptableError(str(error)) from None

    # -- our own -------------------------------------------------------------------------------------------------

    def _of_record(self, origin: Origin, record: Mapping[str, Any]) -> Adoptable:
        """The record says the request itself, and everything that it led to."""
        if record.get("realm") == SANDBOX != self._realm:
            raise NotAdoptableError("the sandbox painted it, so it cannot stand for a real one")
        try:
            request = parse_request({**record["request"], "prompt": record["prompt"]})
            values = {name: record[name] for name in Spec.__slots__ if name not in _NOT_IN_RECORD}
            sent = {name: SentPicture(**sent) for name, sent in record["input_pictures"].items() if sent}
            unused = tuple(name for name in values if values[name] is None and name in DEFAULTS)
            values |= {name: DEFAULTS[name] for name in unused}
            spec = Spec(**values, loras=origin.loras, sent_pictures=sent, unused=unused)
            replica = int(record["replica"])
            _check_types(spec)
            spec = Spec.from_json(spec.to_json())
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise NotAdoptableError(f"its asyncgen record is damaged ({error})") from None
        if origin.seed is None:
            raise NotAdoptableError("its asyncgen record has no seed")
        spec = self._as_today(request, spec)
        number = record.get("number", 1)
        number = number - 1 if isinstance(number, int) and 0 < number <= spec.batch_size else 0
        return Adoptable(request, spec, origin.seed, replica, replica_is_free=False, said_by="asyncgen", number=number)

    def _as_today(self, request: ImageRequest, spec: Spec) -> Spec:
        """What is not in a file, like URLs of LoRA files: where all else is as it is today, it is too."""
        try:
            today = self._planner.want(request, 0).spec
        except InputError:
            return spec
        of_today = {name: getattr(today, name) for name in spec.unused}  # which a file does not say
        return today if replace(today, model_urls=()) == replace(spec, **of_today) else spec

    # -- what others have written --------------------------------------------------------------------------------

    def _of_values(self, path: PurePosixPath, origin: Origin, caption: str | None, size: tuple[int, int]) -> Adoptable:
        text = origin.prompt_sent or caption
        if text is None:
            silent = "it does not say how it was made"
            why = "; ".join(origin.notes) or (silent if origin.program is None else f"{origin.program} says no prompt")
            raise NotAdoptableError(f"{why}, and there is no caption {path.stem}.txt")
        style = self._style(path, origin.loras)
        prompt = taken_apart(style, text)
        said: dict[str, Any] = {"prompt": text if prompt is None else prompt}
        if style is not None:
            said["style_id"] = style.id
        if prompt is None and origin.prompt_sent is not None:
            said["raw_prompt"] = True  # the style had other texts, or none of them was sent
        usual = self._planner.want(parse_request(said), 0).spec
        said |= self._differences(origin, usual, size)
        if origin.program is not None and origin.loras != usual.loras:
            said |= _said_loras(origin.loras, style)
        if self._fixed_seeds and origin.seed is not None:
            said["seed"] = origin.seed
        request = parse_request(said)
        want = self._planner.want(request, 0)
        made_with = replace(want.spec, loras=origin.loras) if origin.program is not None else want.spec
        if origin.prompt_sent is not None:
            made_with = replace(made_with, prompt_sent=origin.prompt_sent)
        seed = SEED_NOT_KNOWN if origin.seed is None else origin.seed
        is_free = request.seed is None
        return Adoptable(want.request, made_with, seed, 0, is_free, said_by=origin.program or "its caption")

    def _style(self, path: PurePosixPath, loras: Sequence[Lora]) -> Style | None:
        """That of its folder, as the old system named them; else that of a LoRA."""
        folder = path.parent.name
        if folder in self._folders:
            return self._styles.get_style_by_id(self._folders[folder])
        if path.parent.parent.name == _STYLE_IMAGES and (style_id := folder.partition("_")[0]) and folder != "no_style":
            return self._styles.get_style_by_id(style_id)
        return next(filter(None, (self._styles.get_style_by_lora_name(lora.name) for lora in loras)), None)

    def _differences(self, origin: Origin, usual: Spec, size: tuple[int, int]) -> dict[str, Any]:
        """The values that are not what they would be if nobody said anything."""
        values: dict[str, Any] = {name: getattr(origin, name) for name in _VALUES}
        if values["width"] is None or values["height"] is None:
            values["width"], values["height"] = size
        said = {name: value for name, value in values.items() if value not in (None, getattr(usual, name))}
        if origin.model is not None and with_suffix(origin.model) != with_suffix(usual.model):
            said["model"] = origin.model
        return said


def _check_types(spec: Spec) -> None:
    """Raises `TypeError`: what a file says may be anything."""
    for name, kinds in _SPEC_TYPES.items():
        value = getattr(spec, name)
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise TypeError(f"{name} is {value!r}"[:80])


def taken_apart(style: Style | None, text: str) -> str | None:
    """The prompt out of which a style made this text, or one that has grown out of it; None where it made none of it.

    Front text, trigger words and back text are taken off where they stand, whatever joins them.
    """
    if style is None or compose_prompt(style, "?") == "?":
        return text
    prompts = [prompt for prompt in _without_style(style, text) if prompt]
    exact = [prompt for prompt in prompts if compose_prompt(style, prompt) == text]
    rest = (exact or prompts or [""])[-1]
    return rest if rest and rest != text.strip(_BETWEEN) else None


def _without_style(style: Style, text: str) -> Iterator[str]:
    """The text with ever more of the style's taken off its front, and each time the back text off its end."""
    rest = text.strip(_BETWEEN)
    back = (style.backpad or "").strip(_BETWEEN)
    for part in ("", *_front_parts(style)):
        if rest.lower().startswith(part.lower()):
            rest = rest[len(part) :].lstrip(f"{_BETWEEN}!?:")
        is_there = back and rest.lower().endswith(back.lower())
        yield rest[: -len(back)].rstrip(", \t\r\n") if is_there else rest


def _front_parts(style: Style) -> Iterator[str]:
    yield from filter(None, [(style.frontpad or "").strip(_BETWEEN)])
    yield from filter(None, (word.strip() for word in (style.trigger_words or "").split(",")))


def _said_loras(loras: Sequence[Lora], style: Style | None) -> dict[str, Any]:
    """What must be said so that these are loaded; where no words lead there, what comes close."""
    rest = list(loras)
    said: dict[str, Any] = {}
    own = None if style is None or style.lora_to_load is None else with_suffix(style.lora_to_load)
    if own is not None and rest and rest[0].name == own:
        strength = rest.pop(0).strength
        if strength != _weight(style, "lora_weight", 1.0):
            said["lora_strength"] = strength
    elif own is not None:
        said["lora_name"] = "None"
    cine = with_suffix(CINE_LORA)
    characters = list({_short(lora.name): lora for lora in reversed(rest) if lora.name != cine}.values())[::-1]
    names = tuple(_short(lora.name) for lora in characters)
    if names:
        said["character_loras"] = _said_characters(characters, names, style)
    if cine_strengths := [lora.strength for lora in rest if lora.name == cine]:
        said["cine_lora_strength"] = _unscaled(cine_strengths[0], stack_loras(None, 1.0, names, 1.0, 1.0)[-1].strength)
    return said


def _said_characters(characters: Sequence[Lora], names: tuple[str, ...], style: Style | None) -> list[str]:
    """Names alone where they have the strength that they would have."""
    usual = _weight(style, "character_lora_weight", 0.85)
    if stack_loras(None, 1.0, names, usual) == tuple(characters):
        return list(names)
    factor = stack_loras(None, 1.0, names, 1.0)[0].strength
    return [f"{name}:{_unscaled(lora.strength, factor):g}" for name, lora in zip(names, characters, strict=True)]


def _weight(style: Style | None, attribute: str, otherwise: float) -> float:
    value: float | None = getattr(style, attribute, None)
    return otherwise if value is None else value


def _unscaled(strength: float, factor: float) -> float:
    return max(-_MOST_STRENGTH, min(_MOST_STRENGTH, round(strength / factor, 4)))


def _short(name: str) -> str:
    """A name as people write it; a colon would begin a strength."""
    return re.sub(r":", "_", name.removesuffix(_SUFFIX))
