"""From a request to everything a job needs: style and defaults filled in, checked, and the job input built. Pure.

What the caller says wins over the style, which wins over the defaults. Everything that can be wrong with a request is
found here, before anything is recorded or sent.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path, PurePath
from typing import Any, Final, Protocol

from asyncgen.cell_ids import Usual
from asyncgen.errors import InputError, WorkflowError
from asyncgen.expected_size import expected_sizes
from asyncgen.graph import Graph
from asyncgen.graph_check import problems, refuse
from asyncgen.input_pixels import PictureFacts
from asyncgen.input_rules import PictureRules, fitted, within_body
from asyncgen.loras import Lora, stack_loras
from asyncgen.model_urls import ModelUrls, Presign
from asyncgen.node_schema import NodeSchemas, shipped_schemas
from asyncgen.records import RecordedWant, SentPicture, Spec, Want
from asyncgen.request import INPUT_PICTURES, MAX_SEED, PARAMETERS, RECORD_FIELDS, ImageRequest, content_key
from asyncgen.styles import LoraFile, Style, compose_prompt
from asyncgen.template import DEFAULT_WORKFLOW, Template
from asyncgen.workflow import DEFAULTS, filled, warnings

log = logging.getLogger(__name__)

#: The platform drops results over this size; base64 included. Source: runpod-api.md, measured by others.
MAX_RESULT_BYTES: Final = 10 * 1024 * 1024
#: Bytes of PNG for each pixel of a FLUX picture: 1,836,151 bytes at 1360x768.
_PNG_BYTES_PER_PIXEL: Final = 1_836_151 / (1360 * 768)
# The parameter of the graph, the request's field, and the style's field that may fill it.
_FILLED: Final = (
    ("width", None),
    ("height", None),
    ("steps", "steps"),
    ("model", "model"),
    ("sampler_name", "sampler_name"),
    ("scheduler_name", "scheduler_name"),
    ("flux_guidance", "guidance"),
    ("batch_size", None),
)


#: The fields of a request that are of use only where the workflow takes them.
_OF_WORKFLOW: Final = (*(name for name, _ in _FILLED), *PARAMETERS, *INPUT_PICTURES)
#: What requests may differ in and still be made to one recipe.
_OWN: Final = frozenset(
    {"id", "prompt", "seed", "images", "filename", "save_to_style", "priority", *INPUT_PICTURES, *RECORD_FIELDS}
)
_RECIPE_VALUES: Final = attrgetter(*(name for name in ImageRequest.model_fields if name not in {*_OWN, "parameters"}))
_MOST_RECIPES: Final = 4096


@dataclass(frozen=True, slots=True)
class _Recipe:
    """What all requests have in common that differ only in `_OWN`: found and checked once, for a style as it is now."""

    style: Style | None
    spec: Spec  # of whichever came first


class Styles(Protocol):
    """What planning needs of a styles registry."""

    def get_style_by_id(self, style_id: str) -> Style: ...
    def get_lora_info(self, lora: str) -> LoraFile | None: ...


class Pictures(Protocol):
    """What planning needs of the input pictures; see `asyncgen.input_pictures`."""

    rules: PictureRules

    def taken_in(self, request: ImageRequest) -> ImageRequest: ...
    def facts(self, name: str, reference: str) -> PictureFacts: ...
    def base64_bytes(self, name: str, reference: str, picture: SentPicture) -> int: ...
    def look(self, references: Iterable[str | bytes | PurePath]) -> None: ...
    def to_send(self, name: str, reference: str, picture: SentPicture | None) -> tuple[str, str]: ...


class Planner:
    """Turns requests into wants, and wants into job inputs, for one registry and the workflows it meets.

    `model_urls` maps LoRA names to URLs that workers may download them from; it wins over the registry's `s3_url`.
    `presign` is asked for the URL to send when a job is about to be sent.
    `schemas` are the node classes of the server that will run the graphs; None: those that a workflow was added with.
    `pictures` None: input pictures are not looked at.
    """

    def __init__(
        self,
        styles: Styles,
        workflow: str,
        *,
        model_urls: Mapping[str, str] | None = None,
        presign: Presign | None = None,
        user_folder: Path | None = None,
        max_result_bytes: int = MAX_RESULT_BYTES,
        schemas: NodeSchemas | None = None,
        pictures: Pictures | None = None,
    ) -> None:
        self._schemas = schemas
        self.pictures = pictures
        self._styles, self._workflow, self._user_folder = styles, workflow, user_folder
        self.model_urls = ModelUrls(styles, model_urls, presign)
        self._max_result_bytes = max_result_bytes
        self._templates: dict[str, Template] = {}
        self._recipes: dict[tuple[object, ...], _Recipe] = {}
        self._warned: set[str] = set()
        self._usuals: dict[str | None, Usual] = {}
        self._sizes: dict[tuple[Any, ...], frozenset[tuple[int, int]] | None] = {}

    def template(self, name: str | None = None) -> Template:
        """A workflow by name or file, None for the run's own; each is read once. Raises `WorkflowError`."""
        name = name or self._workflow
        if name not in self._templates:
            self._templates[name] = Template.load(name, self._user_folder)
        return self._templates[name]

    def usual(self, name: str | None = None) -> Usual:
        """What that workflow has by itself, None for the run's own. Raises `WorkflowError`."""
        if name not in self._usuals:
            template = self.template(name)
            lacks = frozenset(field for field in _OF_WORKFLOW if not template.binds(field))
            size = _usual(template, "width"), _usual(template, "height")
            self._usuals[name] = Usual(template.name, size, lacks, template.binds("seed"))
        return self._usuals[name]

    def has_seed(self, request: ImageRequest) -> bool:
        """Whether another seed makes another picture: not where its workflow takes none, or is gone."""
        try:
            return self.template(request.workflow).binds("seed")
        except WorkflowError:
            return False

    def wants(self, request: ImageRequest, row_key: bytes | None = None) -> Iterator[Want]:
        """The jobs that a request stands for, `images` of them. Raises `InputError` for whatever is wrong with it."""
        request = self._recordable(request)
        spec = self.spec(request)
        if request.images > 1 and not self.has_seed(request):
            message = (
                f"the workflow {spec.workflow} takes no seed, so that {request.images} images would be one picture, "
                f"bought {request.images} times: leave this out"
            )
            raise InputError(message, field="images")
        return (self._want(request, replica, spec, row_key) for replica in range(request.images))

    def want(self, request: ImageRequest, replica: int) -> Want:
        """One of the jobs that a request stands for. Raises `InputError`."""
        request = self._recordable(request)
        return self._want(request, replica, self.spec(request))

    def recorded(self, recorded: RecordedWant, *, todays_values: bool) -> Want:
        """A job that the ledger has already: as it was recorded, or planned anew. Raises `InputError`, if anew."""
        spec = self.spec(recorded.request) if todays_values else recorded.spec
        return replace(self._want(recorded.request, recorded.replica, spec), item_id=recorded.item_id)

    def check_workflow(self, request: ImageRequest, spec: Spec) -> None:
        """Raises `InputError` where the workflow is no longer the one that the spec was made for."""
        if self.template(request.workflow).digest != spec.workflow_digest:
            raise InputError(
                f"{spec.workflow} has changed since this image was wanted: --retry-failed --rebuy-changed makes it "
                "with today's",
                field="workflow",
            )

    def _recordable(self, request: ImageRequest) -> ImageRequest:
        """The run's workflow belongs to what is wanted: whoever plans it again must plan it alike.

        So do input pictures, which a later process must find again.
        """
        if request.input_pictures and self.pictures is not None:
            request = self.pictures.taken_in(request)
        if request.workflow is not None or self._workflow == DEFAULT_WORKFLOW:
            return request
        return request.model_copy(update={"workflow": self._workflow})

    def _want(self, request: ImageRequest, replica: int, spec: Spec, row_key: bytes | None = None) -> Want:
        seed = None if request.seed is None else (request.seed + replica) & MAX_SEED
        key = content_key(request, replica, spec.workflow)
        return Want(request, replica, spec, key, seed, row_key=row_key)

    def spec(self, request: ImageRequest) -> Spec:
        """The request with style and defaults filled in, and checked. Raises `InputError` naming field and value."""
        template = self.template(request.workflow)
        _check_input_pictures(request, template)
        _check_prompt(request, template)
        style = None if request.style_id is None else self._styles.get_style_by_id(request.style_id)
        recipe = self._recipe(request, style)
        prompt_sent = compose_prompt(style, request.prompt, request.raw_prompt)
        spec = replace(recipe.spec, prompt=request.prompt, prompt_sent=prompt_sent)
        return self._with_pictures(request, spec, self.pictures) if request.input_pictures and self.pictures else spec

    def _with_pictures(self, request: ImageRequest, spec: Spec, pictures: Pictures) -> Spec:
        """The spec with what is sent of each input picture. Raises `InputError` naming the one that is wrong."""
        template, rules, named = self.template(request.workflow), pictures.rules, request.named_pictures
        facts = {name: pictures.facts(name, reference) for name, reference in named.items()}
        found = fitted(template, facts, (request.width, request.height), (spec.width, spec.height), rules)
        for name, warning in found.warnings.items():
            self._warn_once(f"{template.name} {name}", [warning])
        spec = replace(spec, width=found.size[0], height=found.size[1])
        _check_result_size(spec, self._max_result_bytes)
        names = {name: picture.sha256 for name, picture in found.pictures.items()}
        graph_bytes = len(json.dumps(self.graph(request, spec, MAX_SEED, names)))

        def base64_bytes(name: str, picture: SentPicture) -> int:
            return pictures.base64_bytes(name, named[name], picture)

        return replace(spec, sent_pictures=within_body(found.pictures, base64_bytes, graph_bytes, rules))

    def _recipe(self, request: ImageRequest, style: Style | None) -> _Recipe:
        key = _recipe_key(request)
        recipe = self._recipes.get(key)
        if recipe is None or recipe.style is not style:
            recipe = _Recipe(style, self._checked_spec(request, style))
            if len(self._recipes) >= _MOST_RECIPES:
                self._recipes.clear()
            self._recipes[key] = recipe
        return recipe

    def _checked_spec(self, request: ImageRequest, style: Style | None) -> Spec:
        spec = self._composed(request, style)
        template = self.template(request.workflow)
        graph = self.graph(request, spec, request.seed or 0, request.named_pictures)
        self._check_graph(template, graph)
        _check_result_size(spec, self._max_result_bytes)
        if spec.loras:
            self._warn_once(template.name, warnings(template))
        return spec

    def _check_graph(self, template: Template, graph: Graph) -> None:
        """Raises `WorkflowError` for what a server would refuse, or pass over; a class that is not known is told."""
        schemas = self._schemas or template.schemas or shipped_schemas()
        found = problems(graph, schemas, template.sent_pictures)
        refuse([problem for problem in found if not problem.is_unknown_class])
        self._warn_once(f"{template.name} classes", [str(problem) for problem in found])

    def _warn_once(self, what: str, texts: Iterable[str]) -> None:
        if what not in self._warned:
            self._warned.add(what)
            for text in texts:
                log.warning("workflow %s: %s", what.partition(" ")[0], text)

    def _composed(self, request: ImageRequest, style: Style | None) -> Spec:
        template = self.template(request.workflow)
        values = {
            name: _first(
                getattr(request, name), None if name in template.keeps else style, attribute, _usual(template, name)
            )
            for name, attribute in _FILLED
        }
        loras = _loras(request, style)
        spec = Spec(
            prompt=request.prompt,
            prompt_sent=compose_prompt(style, request.prompt, request.raw_prompt),
            style_id=request.style_id,
            style_title=None if style is None else style.title,
            loras=loras,
            workflow=template.name,
            workflow_digest=template.digest,
            parameters={**request.parameters, **request.own_parameters},
            model_urls=tuple(self.model_urls.recorded(loras)),
            unused=tuple(name for name in values if name != "batch_size" and not template.binds(name)),
            **values,
        )
        _check_text(spec)
        return spec

    def graph(self, request: ImageRequest, spec: Spec, seed: int, picture_names: Mapping[str, str]) -> Graph:
        """The workflow graph of one job, to be sent and not changed.

        What only the style or the defaults say is left out where nothing takes it.

        `picture_names`: the file name that is sent for each of the request's input pictures.
        """
        template = self.template(request.workflow)
        said = {name for name, _ in _FILLED if getattr(request, name) is not None}
        usual = {name: getattr(spec, name) for name, _ in _FILLED if name in said or template.binds(name)}
        own = {"positive_prompt": spec.prompt_sent, "seed": seed}
        own = {name: value for name, value in own.items() if template.binds(name)}
        return filled(template, {**own, **usual, **spec.parameters, **picture_names}, spec.loras)

    def expected_sizes(self, request: ImageRequest, spec: Spec) -> frozenset[tuple[int, int]] | None:
        """Width and height, in pixels, of the pictures that a job makes; None where the graph does not tell.

        What has been edited since the job was bought tells nothing of it.
        """
        template = self.template(request.workflow)
        if template.digest != spec.workflow_digest:
            return None
        pictures = {name: _size_sent(picture) for name, picture in spec.sent_pictures.items()}
        values = *sorted(spec.parameters.items()), *sorted(pictures.items())
        key = spec.workflow_digest, spec.width, spec.height, values
        if key not in self._sizes:
            if len(self._sizes) >= _MOST_RECIPES:
                self._sizes.clear()
            graph = self.graph(request, spec, request.seed or 0, {name: name for name in request.input_pictures})
            self._sizes[key] = expected_sizes(graph, template.outputs, pictures)
        return self._sizes[key]

    def job_input(
        self,
        request: ImageRequest,
        spec: Spec,
        seed: int,
        pictures: Mapping[str, tuple[str, str]],
        model_urls: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """What the worker gets. `pictures`: for each of the request's input pictures, its file name and its base64.

        `model_urls` are the spec's with what is secret in them (`ModelUrls.to_send`); None: to be looked at, not sent.
        Some workers reject keys they do not know, so a key that says nothing is left out.
        """
        names = {name: file_name for name, (file_name, _) in pictures.items()}
        job_input: dict[str, Any] = {"workflow": self.graph(request, spec, seed, names)}
        urls = dict(spec.model_urls) if model_urls is None else model_urls
        if urls:
            job_input["model_urls"] = [{"id": name, "url": url} for name, url in urls.items()]
            job_input["force_download"] = False
        if pictures:
            job_input["images"] = [{"name": file_name, "image": base64} for file_name, base64 in pictures.values()]
        return job_input


def _recipe_key(request: ImageRequest) -> tuple[object, ...]:
    """Equal for requests that differ only in `_OWN`. A parameter's type counts: 1 and true are equal, and not alike."""
    parameters = tuple((name, type(value), value) for name, value in sorted(request.parameters.items()))
    return (parameters, *_RECIPE_VALUES(request))


def _size_sent(picture: SentPicture) -> tuple[int, int]:
    """Width and height of an input picture as the graph gets it."""
    if picture.resized is None:
        return picture.width, picture.height
    width, height = picture.resized.partition(":")[2].split("x")
    return int(width), int(height)


def _first(said: Any, style: Style | None, attribute: str | None, usual: Any) -> Any:
    if said is not None:
        return said
    of_style = None if style is None or attribute is None else getattr(style, attribute)
    return usual if of_style is None else of_style


def _usual(template: Template, name: str) -> Any:
    """What the graph says by itself, or the default where that is the same or nothing."""
    own, default = template.own_value(name), DEFAULTS[name]
    return default if own is None or template.parameters[name][0].converted(default) == own else own


def _loras(request: ImageRequest, style: Style | None) -> tuple[Lora, ...]:
    def strength(name: str, attribute: str) -> float:
        return float(_first(getattr(request, name), style, attribute, DEFAULTS[name]))

    return stack_loras(
        request.lora_name if request.lora_name is not None else (style.lora_to_load if style else None),
        strength("lora_strength", "lora_weight"),
        request.character_loras,
        strength("character_lora_strength", "character_lora_weight"),
        strength("cine_lora_strength", "cine_lora_weight"),
    )


def _check_text(spec: Spec) -> None:
    """The request's own texts have been looked at by `parse_request`; a registry's may hold what JSON can escape."""
    try:
        spec.to_json().encode()
    except UnicodeEncodeError:
        message = "its texts hold half of a surrogate pair, which no file or server takes: repair the registry"
        raise InputError(message, field="style_id") from None


def _check_result_size(spec: Spec, max_result_bytes: int) -> None:
    """One job answers with all pictures of its batch, and the platform drops an answer that is too long."""
    count, each = spec.batch_size, round(spec.width * spec.height * _PNG_BYTES_PER_PIXEL * 4 / 3)
    if each * count <= max_result_bytes:
        return
    fitting = max_result_bytes // each
    cure = f"ask for at most {fitting} a job, and use images={count} instead" if fitting else "ask for a smaller size"
    pictures = "1 picture" if count == 1 else f"{count} pictures"
    raise InputError(
        f"{pictures} of {spec.width}x{spec.height} make a result of about {count} x {each:,} = {each * count:,} bytes, "
        f"and the platform drops results over {max_result_bytes:,}: {cure}; where workers answer with URLs, raise "
        "ASYNCGEN_RESULT_LIMIT",
        field="batch_size" if fitting else "width",
    )


def _check_prompt(request: ImageRequest, template: Template) -> None:
    if not request.prompt and template.binds("positive_prompt"):
        raise InputError(f"the workflow {template.name} needs a prompt: write what the image shows", field="prompt")


def _check_input_pictures(request: ImageRequest, template: Template) -> None:
    given = request.input_pictures
    if not given and not template.images:
        return
    if unknown := given.keys() - set(template.images):
        takes = ", ".join(template.images) or "no pictures"
        raise InputError(f"the workflow {template.name} takes {takes}", field=sorted(unknown)[0])
    if missing := [name for name in template.images if name not in given]:
        raise InputError(f"the workflow {template.name} needs this picture: give its path", field=missing[0])
