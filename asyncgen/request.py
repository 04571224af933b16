"""What a caller may ask for, and what makes two requests the same one.

`ImageRequest` is a row of a prompt file, a dict, or an object; a field that is left out is None, so that the style and
then the defaults can fill it. A request's *key* is its identity in a batch; it is made only of what was asked, never
of its position, nor of texts and files that an upgrade of asyncgen or of a style may edit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import PurePath
from typing import Any, Final, Self

from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from asyncgen.documents import canonical_json
from asyncgen.errors import InputError

#: Part of every key: raise it when the content of keys changes, and teach the ledger to read the old ones.
KEY_VERSION: Final = 1
RANDOM_SEED: Final = -1
_MOST_COMPARED: Final = 80
MAX_PRIORITY: Final = 1000
MAX_SEED: Final = 2**64 - 1
INPUT_PICTURES: Final = ("init_image", "mask_image", "pose_image")
#: How a picture that is kept in the output root's folder `inputs` is named; its file name follows.
KEPT_PICTURE: Final = "inputs:"
#: Fields that are parameters of the workflow by the same name, which not every workflow takes.
PARAMETERS: Final = ("denoise", "strength", "teacache")

# Fields that say where the picture goes, when, how many there are, or what its prompt was made of, not what it shows.
_NOT_CONTENT: Final = frozenset({"id", "filename", "save_to_style", "images", "template", "variables", "priority"})


class ImageRequest(BaseModel):
    """One wanted image (or `images` of them). Everything but the prompt may be left out.

    Raises nothing by itself: use `parse_request`, which turns what is wrong into an `InputError` naming the field.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, allow_inf_nan=False)

    prompt: str = Field(
        "",
        description="What to paint; composed with the style's texts unless `raw_prompt`. May be left out only where an "
        "input picture is given and the workflow takes no text.",
    )
    id: str | None = Field(None, description="Your own id, unique in its batch: the item's identity.")
    style_id: str | None = Field(
        None, validation_alias=AliasChoices("style_id", "style"), description="A style of the registry."
    )
    raw_prompt: bool = Field(False, description="Send the prompt as it is, without the style's texts.")
    width: int | None = Field(None, description="Pixels, 16 to 16384, a multiple of 8. Default 1360.")
    height: int | None = Field(None, description="Pixels, 16 to 16384, a multiple of 8. Default 768.")
    steps: int | None = Field(None, description="Sampling steps, at least 1. Default: the style's, then 20.")
    seed: int | None = Field(None, description="0 to 2^64-1; -1 or nothing draws one when the intent is recorded.")
    images: int = Field(1, ge=1, le=10_000, description="How many images of this request, each its own job and seed.")
    batch_size: int | None = Field(None, description="Pictures made by one job, each its own file. Default 1.")
    model: str | None = Field(None, description="Diffusion model file. Default: the style's, then flux1-dev-fp8.")
    sampler_name: str | None = Field(None, description="Default: the style's, then euler.")
    scheduler_name: str | None = Field(None, description="Default: the style's, then simple.")
    flux_guidance: float | None = Field(
        None,
        validation_alias=AliasChoices("flux_guidance", "guidance"),
        description="FLUX guidance, 0 to 100. Default: the style's, then 3.5.",
    )
    lora_name: str | None = Field(None, description="Style LoRA; replaces the style's own. 'None' means none.")
    lora_strength: float | None = Field(None, description="-10 to 10. Default: the style's lora_weight, then 1.0.")
    character_loras: tuple[str, ...] = Field(
        (),
        validation_alias=AliasChoices("character_loras", "character_lora"),
        description="NAME or NAME:STRENGTH, several separated by commas.",
    )
    character_lora_strength: float | None = Field(
        None, description="-10 to 10, scaled down as characters grow in number. Default: the style's, then 0.85."
    )
    cine_lora_strength: float | None = Field(
        None,
        validation_alias=AliasChoices("cine_lora_strength", "cine_strength"),
        description="-10 to 10; above 0 adds the FILM-V3-FLUX LoRA. Default: the style's, then 0.",
    )
    workflow: str | None = Field(None, description="A workflow by name or file. Default: the run's.")
    parameters: Mapping[str, StrictBool | StrictInt | StrictFloat | StrictStr] = Field(
        default_factory=dict, description="Further parameters that the workflow's bindings name: texts and numbers."
    )
    init_image: str | bytes | None = Field(
        None, description="The picture to start from, where the workflow takes one: path, https URL, or bytes."
    )
    mask_image: str | bytes | None = Field(
        None, description="The mask, of the init_image's size: path, https URL, or bytes. White is made anew."
    )
    pose_image: str | bytes | None = Field(
        None, description="The pose drawing, where the workflow takes one: path, https URL, or bytes."
    )
    denoise: float | None = Field(
        None, ge=0, le=1, description="How much of the init_image is made anew, 0 to 1. Default: the workflow's."
    )
    strength: float | None = Field(
        None, ge=0, le=10, description="How strongly the pose_image guides, 0 to 10. Default: the workflow's."
    )
    teacache: bool | None = Field(None, description="False leaves the workflow's TeaCache node out.")
    save_to_style: bool = Field(True, description="False: the picture comes back in memory and no file is written.")
    priority: int = Field(
        0,
        ge=-MAX_PRIORITY,
        le=MAX_PRIORITY,
        description="Higher is started first, of what a run has read ahead; -1000 to 1000. No part of the identity.",
    )
    filename: str | None = Field(None, description="A file name of your own; made safe, suffix added.")
    template: str | None = Field(None, description="The text that the prompt was made of, as a record.")
    variables: Mapping[str, StrictStr] = Field(
        default_factory=dict, description="What was chosen to make the prompt of its template, by name, as a record."
    )
    seed_number: int | None = Field(
        None, ge=0, description="Which of the seeds that a matrix derives from the prompt `seed` is, from 0."
    )

    @field_validator("character_loras", mode="before")
    @classmethod
    def _split_characters(cls, value: object) -> object:
        if value is None:
            return ()
        if isinstance(value, str):
            return tuple(part.strip() for part in value.replace(";", ",").split(",") if part.strip())
        return value

    @field_validator("id", "style_id", "filename", mode="before")
    @classmethod
    def _number_as_text(cls, value: object) -> object:
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("width", "height", "steps", "seed", "images", "batch_size", "priority", mode="before")
    @classmethod
    def _truth_is_no_number(cls, value: object) -> object:
        if isinstance(value, bool):
            raise ValueError("must be a whole number")  # noqa: TRY004 - pydantic wants a ValueError
        return value

    @field_validator("prompt")
    @classmethod
    def _prompt_has_text(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("the prompt is empty: write what the image shows")
        return value

    @model_validator(mode="after")
    def _prompt_or_picture(self) -> Self:
        if not self.prompt and not self.input_pictures:
            raise PydanticCustomError("missing", "this field is required")
        return self

    @model_validator(mode="after")
    def _number_of_a_seed(self) -> Self:
        if self.seed_number is not None and self.seed is None:
            raise ValueError("seed_number says which derived seed `seed` is: give that too")
        return self

    @field_validator(*INPUT_PICTURES, mode="before")
    @classmethod
    def _picture_is_named(cls, value: object) -> object:
        if isinstance(value, bytearray | memoryview):
            return bytes(value)
        if not isinstance(value, str | bytes | PurePath | None):
            raise ValueError("must be a path, an https URL, or a picture's bytes")  # noqa: TRY004 - as above
        return str(value) if isinstance(value, PurePath) else value

    @field_validator(*INPUT_PICTURES)
    @classmethod
    def _path_can_be_one(cls, value: str | bytes | None) -> str | bytes | None:
        if isinstance(value, str) and "\0" in value:
            raise ValueError("holds a NUL character, which no path has")
        if value is not None and not value:
            raise ValueError("is empty: give a path, a URL or a picture's bytes")
        return value

    @field_validator("id")
    @classmethod
    def _id_has_text(cls, value: str | None) -> str | None:
        if value is not None and not value.strip():
            raise ValueError("the id is empty: leave the field out instead")
        return value

    @field_validator("seed")
    @classmethod
    def _seed_in_range(cls, value: int | None) -> int | None:
        if value is not None and not RANDOM_SEED <= value <= MAX_SEED:
            raise ValueError(f"a seed is -1 (random) or 0 to {MAX_SEED}, not {value}")
        return None if value == RANDOM_SEED else value

    @property
    def input_pictures(self) -> dict[str, str | bytes]:
        """The pictures that are sent along, as they were named, by the name the workflow's bindings give them."""
        return {name: picture for name in INPUT_PICTURES if (picture := getattr(self, name)) is not None}

    @property
    def named_pictures(self) -> dict[str, str]:
        """The input pictures that are named by a path or a URL: all of them, once a request may be recorded."""
        return {name: picture for name, picture in self.input_pictures.items() if isinstance(picture, str)}

    @property
    def own_parameters(self) -> dict[str, float | bool]:
        """The parameters that have a field of their own and were said."""
        named = {name: getattr(self, name) for name in PARAMETERS}
        return {name: value for name, value in named.items() if value is not None}

    def said(self) -> dict[str, Any]:
        """What the caller said, without defaults: enough to make the same request again (`parse_request(said)`)."""
        given = {name: picture for name, picture in self.input_pictures.items() if isinstance(picture, bytes)}
        said = self.model_dump(mode="json", exclude_defaults=True, exclude=set(given))
        # Bytes are kept in a file before a request is recorded; this is for whoever looks at it earlier.
        return said | {name: f"sha256:{hashlib.sha256(data).hexdigest()}" for name, data in given.items()}

    def said_json(self) -> str:
        """`said` in canonical JSON, as the ledger keeps it."""
        return canonical_json(self.said())


def _names_of_fields() -> Iterator[tuple[str, str]]:
    for name, info in ImageRequest.model_fields.items():
        yield name, name
        if isinstance(info.validation_alias, AliasChoices):
            yield from ((str(alias), name) for alias in info.validation_alias.choices)


#: Every name that a field may be called by → the field's own.
FIELD_NAMES: Final[Mapping[str, str]] = dict(_names_of_fields())
#: Fields that keep how a request came about, and that nobody writes into a prompt file.
RECORD_FIELDS: Final = frozenset({"template", "variables", "seed_number"})


def parse_request(value: str | Mapping[str, Any] | ImageRequest) -> ImageRequest:
    """A prompt, a dict of fields, or a request, as a request.

    Raises `InputError` naming the field and the value that are wrong.
    """
    if isinstance(value, ImageRequest):
        return value
    fields = {"prompt": value} if isinstance(value, str) else value
    try:
        request = ImageRequest.model_validate(fields)
        if not all(map(_is_plain, fields.values())):
            request.said_json().encode()
    except ValidationError as error:
        raise _explained(error) from None
    except UnicodeEncodeError:
        raise InputError("holds half of a surrogate pair, which no file or server takes: repair the text") from None
    except ValueError as error:  # an integer of more digits than Python writes out
        raise InputError(f"holds a number that is too large ({error})") from None
    return request


def _is_plain(value: object) -> bool:
    """Whether it can be written as JSON for certain; for all other values it must be tried."""
    if isinstance(value, str):
        return value.isascii()
    return value is None or (isinstance(value, int) and -MAX_SEED <= value <= MAX_SEED)


def content_key(request: ImageRequest, replica: int, workflow_name: str) -> bytes:
    """16 bytes that identify what was asked, `replica` counting the `images` of one request from 0.

    With a caller's id the id alone is the identity. Without one it is what was said, and the name of the workflow that
    will make it; which occurrence of equal content an item is, is added by the ledger, which has seen the others.
    A derived seed counts as its number, and number 0 as no seed: a set that grows into a matrix keeps what it has.
    """
    if request.id is not None:
        identity = {"id": request.id}
    else:
        identity = _content(request)
        identity["workflow"] = workflow_name
    text = canonical_json([KEY_VERSION, replica, identity])
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _content(request: ImageRequest) -> dict[str, Any]:
    content = {name: value for name, value in request.said().items() if name not in _NOT_CONTENT}
    if request.seed_number is not None:
        del content["seed"]
    if request.seed_number == 0:
        del content["seed_number"]
    return content


def _explained(error: ValidationError) -> InputError:
    first = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"]) or None
    if first["type"] == "missing":  # of the whole, where it is the prompt
        field = field or "prompt"
    if first["type"] == "extra_forbidden":
        known = [name for name in FIELD_NAMES if name not in RECORD_FIELDS]
        close = get_close_matches(str(field)[:_MOST_COMPARED].lower(), known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"the fields are: {', '.join(ImageRequest.model_fields)}"
        return InputError(f"there is no such field; {hint}", field=field)
    if first["type"] == "missing":
        return InputError("this field is required", field=field)
    message = first["msg"].removeprefix("Value error, ")
    given = _shown(first["input"])
    return InputError(message if given in message else f"{message} (got {given})", field=field)


def _shown(value: object) -> str:
    try:
        return repr(value)[:80]
    except (ValueError, RecursionError):  # an integer with too many digits to write out, or nesting without end
        return f"a {type(value).__name__} that cannot be shown"
