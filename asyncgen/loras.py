"""Which LoRAs an image loads, in which order and how strongly. Pure arithmetic, no files.

The order is the style, the characters as they were given, then the cinematic LoRA. Strengths go down as characters grow
in number, because several full-strength characters spoil each other and the style.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from asyncgen.errors import InputError

#: The LoRA that `cine_lora_strength` adds.
CINE_LORA: Final = "FILM-V3-FLUX"
MAX_STRENGTH: Final = 10.0

# Factors by the number of characters; the last one holds for every greater number.
_CHARACTER_FACTORS: Final = (1.0, 0.85, 0.75, 0.65)
_CINE_FACTORS: Final = (1.0, 0.95, 0.85, 0.75)
# What ComfyUI loads as a model file: a name that ends so is a file name already.
_MODEL_FILE_SUFFIXES: Final = (".safetensors", ".sft", ".ckpt", ".pt", ".pt2", ".pth", ".bin", ".pkl", ".gguf")
_NUMBER: Final = re.compile(
    r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?|[+-]?(?:nan|inf|infinity)", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Lora:
    """One LoRA to load: `name` is its file name with suffix, `strength` what the sampler gets, already scaled."""

    name: str
    strength: float


def stack_loras(
    lora_name: str | None = None,
    lora_strength: float = 1.0,
    character_loras: Sequence[str] | None = None,
    character_lora_strength: float = 0.85,
    cine_lora_strength: float = 0.0,
) -> tuple[Lora, ...]:
    """The LoRAs of one image in loading order: style, characters, then FILM-V3-FLUX where its strength is above 0.

    A character is `NAME` or `NAME:STRENGTH`; an own strength replaces `character_lora_strength` and is scaled like it
    (× 0.85, 0.75, 0.65 for 1, 2, 3 or more characters). The cinematic strength is scaled × 1.0, 0.95, 0.85, 0.75 for
    0, 1, 2, 3 or more. An empty name or "None" in any case is no LoRA. Results are rounded to 4 decimals.

    Raises `InputError` naming field and value for a strength that is not a number from -10 to 10.
    """
    style_strength = check_strength("lora_strength", lora_strength)
    usual_strength = check_strength("character_lora_strength", character_lora_strength)
    cine_strength = check_strength("cine_lora_strength", cine_lora_strength)
    characters = tuple(_characters(character_loras or (), usual_strength))
    stack = [Lora(with_suffix(lora_name), round(style_strength, 4))] if lora_name and names_a_lora(lora_name) else []
    factor = _factor(_CHARACTER_FACTORS, len(characters))
    stack.extend(Lora(with_suffix(name), round(strength * factor, 4)) for name, strength in characters)
    if cine_strength > 0:
        cine_strength *= _factor(_CINE_FACTORS, len(characters))
        stack.append(Lora(with_suffix(CINE_LORA), round(cine_strength, 4)))
    return tuple(stack)


def with_suffix(name: str, suffix: str = ".safetensors") -> str:
    """The file name of a model: `suffix` is added unless the name ends in a model file suffix already."""
    name = name.strip()
    return name if name.lower().endswith((suffix, *_MODEL_FILE_SUFFIXES)) else name + suffix


def names_a_lora(name: str | None) -> bool:
    """False for None, for an empty name and for "None" in any case."""
    return name is not None and name.strip().lower() not in ("", "none")


def check_strength(field: str, value: object) -> float:
    """The strength as a float. Raises `InputError` unless it is a number from -10 to 10."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"a strength is a number from -10 to 10, not {value!r}", field=field)
    if not -MAX_STRENGTH <= value <= MAX_STRENGTH:  # nan is never within
        raise InputError(f"a strength lies between -10 and 10, not at {value!r}", field=field)
    return float(value)


def check_character_set(names: Sequence[str]) -> None:
    """Refuse, of a set that an option or a batch file says, what could only load something that nobody meant.

    Raises `InputError` for a strength that is no number, a name that is there twice, and `none` beside others.
    """
    said, met = ",".join(names), set[str]()
    for text in names:
        message = _problem(text, met)
        if not text.strip():
            message = f"{text!r:.60} is no name"
        elif _taken_apart(text)[0].strip().lower() == "none":
            message = "'none' stands alone: leave it out, or make it a set of its own"
        if message:
            raise InputError(f"in the set {said!r:.100} of --character, {message}", field="characters")


def _characters(given: Sequence[str], usual_strength: float) -> Iterator[tuple[str, float]]:
    """Name and unscaled strength of every character that counts."""
    if isinstance(given, str):
        raise InputError(f"give a list of names, not the one text {given!r}", field="character_loras")
    met = set[str]()
    for text in given:
        if not isinstance(text, str):
            raise InputError(f"a character LoRA is NAME or NAME:STRENGTH, not {text!r}", field="character_loras")
        if not names_a_lora(text):
            continue
        if message := _problem(text, met):
            raise InputError(message, field="character_loras")
        name, tail = _taken_apart(text)
        strength = usual_strength if tail is None else _own_strength(text, tail)
        if names_a_lora(name):
            yield name, strength


def _taken_apart(text: str) -> tuple[str, str | None]:
    """Name and strength of `NAME:0.8`, None where none is said; a colon before the last one belongs to the name."""
    name, colon, strength = text.rpartition(":")
    return (name, strength.strip()) if colon else (text, None)  # float() would leave some blanks


def _problem(text: str, met: set[str]) -> str:
    """What is wrong with a character that stands behind those met, which it is added to; an empty text: nothing."""
    name, strength = _taken_apart(text)
    name = name.strip()
    if strength is not None and (not name or not _NUMBER.fullmatch(strength)):
        return f"{text!r:.60} is no NAME:STRENGTH: a strength is a number, such as {name or 'NAME'}:0.8"
    if met and strength is None and _NUMBER.fullmatch(name):
        return f"{text!r:.60} is no name: a strength is written with a point, such as 0.5, and a name like it {name}:1"
    if with_suffix(name) in met:
        return f"{name!r:.60} is there twice: name it once"
    met.add(with_suffix(name))
    return ""


def _own_strength(text: str, strength: str) -> float:
    value = float(strength)
    if not math.isfinite(value) or abs(value) > MAX_STRENGTH:
        raise InputError(f"a strength lies between -10 and 10, not as in {text!r}", field="character_loras")
    return value


def _factor(factors: Sequence[float], count: int) -> float:
    return factors[min(count, len(factors) - 1)]
