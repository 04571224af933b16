"""Finds out by itself which node inputs of a graph take which parameter: its bindings. Pure.

Only the node schemas and the links count, never ids, titles or values that people choose. The way goes back from the
node that saves the picture: to the samplers, from there to the text, the noise, the steps, the model with its LoRAs,
and to the latent's size or the pictures it begins with.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

from asyncgen.errors import WorkflowError
from asyncgen.graph import Graph, called, link, upstream
from asyncgen.node_schema import InputSchema, NodeSchema, NodeSchemas
from asyncgen.template import BINDINGS_FORMAT

_MODEL, _CLIP, _LATENT, _IMAGE, _MASK = "MODEL", "CLIP", "LATENT", "IMAGE", "MASK"
_CONDITIONING, _CONTROL = "CONDITIONING", "CONTROL_NET"
#: What joins the parts of sampling, each type by itself: the sampler, or what it is linked to, holds the values.
_SAMPLING: Final = ("NOISE", "GUIDER", "SAMPLER", "SIGMAS")
_LEAST_SEEDS: Final = 2**32 - 1
_SEEDS: Final = ("noise_seed", "seed")
#: Caches of a model's steps: class → its parameter, the input that says how much it may differ, and its parameter.
_CACHES: Final[Mapping[str, tuple[str, str, str]]] = {
    "TeaCache": ("teacache", "rel_l1_thresh", "teacache_threshold"),
    "EasyCache": ("easycache", "reuse_threshold", "easycache_threshold"),
}
#: What a parameter is called whose input has another name; all others are called like their inputs.
_NAMED: Final[Mapping[str, str]] = {
    "guidance": "flux_guidance",
    "scheduler": "scheduler_name",
    "unet_name": "model",
    "ckpt_name": "model",
    "vae_name": "vae",
    "amount": "batch_size",
    "expand": "grow_mask",
    "grow_mask_by": "grow_mask",
    "start_percent": "control_start",
    "end_percent": "control_end",
    "control_net_name": "control_net",
    "model_name": "upscale_model",
    "type": "control_type",
}
_WITH_SUFFIX: Final = frozenset({"model", "vae", "clip_l", "t5xxl", "control_net"})


@dataclass(frozen=True, slots=True)
class Findings:
    """`bindings` in the format of a bindings file, `notes` on what was left as it is."""

    bindings: dict[str, Any]
    notes: tuple[str, ...]


def find_bindings(graph: Graph, schemas: NodeSchemas) -> Findings:
    """The bindings of a graph. Raises `WorkflowError` saying why where it cannot be bound."""
    return _Finder(graph, schemas).found()


def picture_places(graph: Graph, schemas: NodeSchemas) -> list[tuple[str, str]]:
    """The inputs, as (node, input), whose picture would be sent along with a job."""
    known = ((node, schemas.get(body["class_type"])) for node, body in graph.items())
    return [(node, "image") for node, schema in known if schema is not None and _loads_picture(schema)]


@dataclass(slots=True)
class _Finder:
    graph: Graph
    schemas: NodeSchemas
    places: dict[str, dict[tuple[str, str], None]] = field(default_factory=dict)  # parameter → its inputs
    notes: list[str] = field(default_factory=list)

    def found(self) -> Findings:
        outputs = [node for node in self.graph if self._saves(node)]
        if not outputs:
            raise WorkflowError("no node of the graph saves a picture: add SaveImage")
        needed = upstream(self.graph, outputs)
        samplers = [node for node in needed if self._is_sampler(node)]
        for sampler in samplers:
            self._bind_texts(sampler)
            self._bind_seed(sampler)
        for place, sampler in enumerate(self._in_order(samplers)):
            if place == 0:
                self._bind_sampling(sampler)
                self._bind_size(sampler)
            else:
                self.notes.append(f"{self._called(sampler)} refines: its steps and denoise stay as they are")
        if not samplers:
            self._bind_size_of_image(outputs)
        pictures = self._pictures(needed)
        lora_stack, switches = self._model_way(samplers)
        self._bind_rest(needed)
        self._check(samplers, pictures)
        bindings: dict[str, Any] = {
            "format": BINDINGS_FORMAT,
            "parameters": {name: list(self._written(name)) for name in sorted(self.places)},
            "outputs": sorted(outputs, key=_by_number),
        }
        if lora_stack is not None:
            bindings["lora_stack"] = lora_stack
        if switches:
            bindings["switches"] = switches
        if pictures:
            bindings["images"] = {
                name: [{"node": node, "input": "image"} for node in sorted(nodes, key=_by_number)]
                for name, nodes in sorted(pictures.items())
            }
        return Findings(bindings, tuple(self.notes))

    # -- what a node is ------------------------------------------------------------------------------------------

    def _schema(self, node: str) -> NodeSchema:
        class_type = self.graph[node]["class_type"]
        schema = self.schemas.get(class_type)
        if schema is None:
            raise WorkflowError(f"{self._called(node)}: {self.schemas.why_unknown(class_type)}")
        return schema

    def _called(self, node: str) -> str:
        return called(self.graph, node)

    def _saves(self, node: str) -> bool:
        """A preview is an output too, but of a kind that the worker does not send back."""
        schema = self._schema(node)
        return schema.is_output and "filename_prefix" in schema.inputs

    def _is_sampler(self, node: str) -> bool:
        schema = self._schema(node)
        makes_latent = any(kind == _LATENT for _, kind in schema.outputs)
        guided = schema.inputs_of("GUIDER") or (schema.inputs_of(_MODEL) and schema.inputs_of(_CONDITIONING))
        return makes_latent and bool(schema.inputs_of(_LATENT)) and bool(guided)

    def _in_order(self, samplers: Sequence[str]) -> list[str]:
        """The samplers, each after those it takes its latent from."""
        return sorted(samplers, key=lambda node: sum(other in upstream(self.graph, [node]) for other in samplers))

    # -- walks ---------------------------------------------------------------------------------------------------

    def _sources(self, node: str, kinds: Collection[str]) -> Iterator[tuple[str, str, int]]:
        """The links of a node's inputs of these types: input, source, output of the source."""
        schema, inputs = self._schema(node), self.graph[node]["inputs"]
        for name, declared in schema.inputs.items():
            found = link(inputs.get(name))
            if declared.kind not in kinds or found is None or found[0] not in self.graph:
                continue
            if self._schema(found[0]).output_kind(found[1]) is not None:
                yield name, *found

    def _way(self, node: str, kind: str) -> list[str]:
        """The nodes that a node's input of one type comes through, nearest first, to where it is made."""
        way: list[str] = []
        waiting = [node]
        while waiting:
            for _, source, _ in self._sources(waiting.pop(), (kind,)):
                if source not in way:
                    way.append(source)
                    waiting.append(source)
        return way

    def _sampling_nodes(self, sampler: str) -> list[str]:
        """The sampler and the nodes that only serve it: noise, guider, sampler choice, sigmas."""
        found = [sampler]
        for node in found:
            found += [source for _, source, _ in self._sources(node, _SAMPLING) if source not in found]
        return found

    # -- binding -------------------------------------------------------------------------------------------------

    def _bind(self, parameter: str, node: str, name: str) -> None:
        """Bind an input, if it is there as a plain value and not bound yet."""
        value = self.graph[node]["inputs"].get(name)
        is_taken = any((node, name) in places for places in self.places.values())
        if value is not None and not isinstance(value, list | dict) and not is_taken:
            self.places.setdefault(parameter, {})[node, name] = None

    def _bind_named(self, node: str, names: Iterable[str]) -> None:
        for name in names:
            if name in self._schema(node).inputs:
                self._bind(_NAMED.get(name, name), node, name)

    def _written(self, parameter: str) -> Iterator[dict[str, str]]:
        for node, name in sorted(self.places[parameter], key=lambda place: (_by_number(place[0]), place[1])):
            suffix = {"file_suffix": ".safetensors"} if parameter in _WITH_SUFFIX else {}
            yield {"node": node, "input": name, **suffix}

    def _bind_texts(self, sampler: str) -> None:
        positive = self._texts(sampler, "positive")
        if not positive:
            raise WorkflowError(f"no text leads to {self._called(sampler)}: link a CLIPTextEncode to its conditioning")
        if len({node for node, _ in positive}) > 1:
            found = ", ".join(self._called(node) for node, _ in positive)
            raise WorkflowError(f"several texts lead to {self._called(sampler)}: {found}; leave one, or bind by hand")
        for place in positive:
            self._bind("positive_prompt", *place)
        negative = [place for place in self._texts(sampler, "negative") if place not in positive]
        for place in negative:
            self._bind("negative_prompt", *place)

    def _texts(self, sampler: str, part: str) -> list[tuple[str, str]]:
        """The inputs that hold the text of one part, `positive` or `negative`."""
        found: list[tuple[str, str]] = []
        guiders = [source for _, source, _ in self._sources(sampler, ("GUIDER",))]
        waiting = [(node, part) for node in guiders or [sampler]]
        seen: set[tuple[str, str]] = set()
        while waiting:
            node, wanted = waiting.pop()
            for source, output in self._conditioning(node, wanted):
                if (source, output) in seen:
                    continue
                seen.add((source, output))
                texts = self._text_places(source)
                found += [place for place in texts if place not in found]
                if not texts:
                    waiting.append((source, output))
        return found

    def _conditioning(self, node: str, part: str) -> Iterator[tuple[str, str]]:
        """Where the conditioning of one part comes from: the node, and the name of its output."""
        links = list(self._sources(node, (_CONDITIONING,)))
        names = {name for name, _, _ in links}
        if "positive" not in names and "negative" not in names and part == "negative" and self._is_guider(node):
            return  # its only conditioning is the positive one
        for name, source, slot in links:
            if name in ("positive", "negative") and name != part:
                continue
            output = self._schema(source).outputs[slot][0].lower()
            yield source, output if output in ("positive", "negative") else part

    def _is_guider(self, node: str) -> bool:
        return any(kind == "GUIDER" for _, kind in self._schema(node).outputs)

    def _text_places(self, node: str) -> list[tuple[str, str]]:
        """The texts of an encoder: its own, or those of the nodes that they are linked from."""
        if not self._schema(node).inputs_of(_CLIP):
            return []
        places: list[tuple[str, str]] = []
        for name in self._schema(node).inputs_of("STRING"):
            place = self._literal_place(node, name)
            if place is not None:
                places.append(place)
        return places

    def _literal_place(self, node: str, name: str) -> tuple[str, str] | None:
        """Where the value of an input stands: there, or in the one value of the same type that is linked to it."""
        for _ in self.graph:
            found = link(self.graph[node]["inputs"].get(name))
            if found is None:
                return (node, name) if name in self.graph[node]["inputs"] else None
            kind, (node, _) = self._schema(node).inputs[name].kind, found
            if node not in self.graph:
                return None
            held = [own for own in self._schema(node).inputs_of(kind) if own in self.graph[node]["inputs"]]
            if len(held) != 1:
                return None
            name = held[0]
        return None

    def _bind_seed(self, sampler: str) -> None:
        for node in self._sampling_nodes(sampler):
            for name in self._schema(node).inputs:
                declared = self._schema(node).inputs[name]
                if name in _SEEDS and declared.kind == "INT" and (declared.maximum or 0) >= _LEAST_SEEDS:
                    place = self._literal_place(node, name)
                    if place is not None:
                        self._bind("seed", *place)

    def _bind_sampling(self, sampler: str) -> None:
        begins_with_picture = any(self._makes_latent_of_picture(node) for node in self._way(sampler, _LATENT))
        for node in self._sampling_nodes(sampler):
            self._bind_named(node, ("steps", "scheduler", "sampler_name", "cfg"))
            if begins_with_picture:
                self._bind_named(node, ("denoise",))
        for node in self._conditioning_way(sampler):
            self._bind_named(node, ("guidance",))
            if self._schema(node).inputs_of(_CONTROL):
                self._bind_named(node, ("strength", "start_percent", "end_percent"))

    def _conditioning_way(self, sampler: str) -> list[str]:
        guiders = [source for _, source, _ in self._sources(sampler, ("GUIDER",))]
        return [node for start in guiders or [sampler] for node in self._way(start, _CONDITIONING)]

    def _makes_latent_of_picture(self, node: str) -> bool:
        schema = self._schema(node)
        return bool(schema.inputs_of(_IMAGE)) and any(kind == _LATENT for _, kind in schema.outputs)

    def _bind_size(self, sampler: str) -> None:
        """Where the picture's size is made, and where it must be known: they get the same values."""
        latents = self._way(sampler, _LATENT)
        for node in latents:
            schema = self._schema(node)
            if not schema.inputs_of(_LATENT) and not schema.inputs_of(_IMAGE):
                self._bind_named(node, ("width", "height", "batch_size"))
            elif "amount" in schema.inputs and schema.inputs_of(_LATENT):
                self._bind_named(node, ("amount",))
        before = [node for latent in latents for node in self._way(latent, _IMAGE)]
        before += [node for applied in self._conditioning_way(sampler) for node in self._way(applied, _IMAGE)]
        guiders = [source for _, source, _ in self._sources(sampler, ("GUIDER",))]
        for node in [*before, *(way for start in (sampler, *guiders) for way in self._way(start, _MODEL))]:
            if {"width", "height"} <= self._schema(node).inputs.keys():
                self._bind_named(node, ("width", "height"))

    def _bind_size_of_image(self, outputs: Sequence[str]) -> None:
        """Where a picture that nothing samples begins."""
        for node in (way for output in outputs for way in self._way(output, _IMAGE)):
            if not self._schema(node).inputs_of(_IMAGE):
                self._bind_named(node, ("width", "height", "batch_size"))

    # -- pictures that are sent along ----------------------------------------------------------------------------

    def _pictures(self, needed: Collection[str]) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for node in needed:
            if _loads_picture(self._schema(node)):
                found.setdefault(self._part_of(node, needed), []).append(node)
        for name, nodes in found.items():
            if len(nodes) > 1:
                listed = ", ".join(self._called(node) for node in nodes)
                raise WorkflowError(f"several pictures play the part of {name}: {listed}; leave one, or bind by hand")
        return found

    def _part_of(self, node: str, needed: Collection[str]) -> str:
        """What a picture is for, by where it goes: a mask, what a control net looks at, or where it all begins."""
        reached = self._reached(node, needed)
        if not any(kind == _IMAGE for _, kind in reached):
            return "mask_image"
        if all(self._schema(target).inputs_of(_CONTROL) for target, kind in reached if kind == _IMAGE):
            return "pose_image"
        return "init_image"

    def _reached(self, node: str, needed: Collection[str]) -> list[tuple[str, str]]:
        """The nodes that make something else of a picture, with the type of the input it gets there by."""
        ends: list[tuple[str, str]] = []
        waiting, seen = [node], {node}
        while waiting:
            source = waiting.pop()
            for target in needed:
                for name, origin, _ in self._sources(target, (_IMAGE, _MASK)):
                    kind = self._schema(target).inputs[name].kind
                    if origin != source:
                        continue
                    if any(made == kind for _, made in self._schema(target).outputs):
                        if target not in seen:
                            seen.add(target)
                            waiting.append(target)
                    elif (target, kind) not in ends:
                        ends.append((target, kind))
        return ends

    # -- model, LoRAs, caches ------------------------------------------------------------------------------------

    def _model_way(self, samplers: Sequence[str]) -> tuple[dict[str, Any] | None, dict[str, Any]]:
        """Binds what stands on the way of the model; returns the LoRAs' and the switches' part of the bindings."""
        way: dict[str, None] = {}
        for sampler in samplers:
            for start in self._sampling_nodes(sampler):
                way.update(dict.fromkeys(self._way(start, _MODEL)))
        switches: dict[str, Any] = {}
        loaders: list[str] = []
        stacks: dict[str, None] = {}
        for node in way:
            schema = self._schema(node)
            if schema.class_type in _CACHES:
                switch, threshold, parameter = _CACHES[schema.class_type]
                switches[switch] = {"node": node, "input": schema.inputs_of(_MODEL)[0]}
                self._bind(parameter, node, threshold)
            elif schema.inputs_of("LORA_STACK"):
                stacks.update(dict.fromkeys(self._way(node, "LORA_STACK")))
            elif "lora_name" in schema.inputs:
                loaders.append(node)
            elif not schema.inputs_of(_MODEL):
                self._bind_named(node, ("unet_name", "ckpt_name", "weight_dtype"))
            else:
                self._bind_named(node, ("max_shift", "base_shift", "shift"))
        return self._loras(list(stacks), loaders), switches

    def _loras(self, stacks: list[str], loaders: list[str]) -> dict[str, Any] | None:
        if stacks and loaders:
            raise WorkflowError(
                f"LoRAs are loaded by a stack ({self._called(stacks[0])}) and by {self._called(loaders[0])}: keep one"
            )
        if len(stacks) > 1:
            listed = " and ".join(self._called(node) for node in stacks)
            raise WorkflowError(f"the LoRA stacks {listed} follow each other: keep one")
        if stacks:
            return self._slots(stacks[0])
        return self._chain(loaders) if loaders else None

    def _slots(self, node: str) -> dict[str, Any]:
        schema = self._schema(node)
        numbers = sorted(int(found[1]) for name in schema.inputs if (found := re.fullmatch(r"lora_(\d+)_name", name)))
        if not numbers or "num_loras" not in schema.inputs:
            raise WorkflowError(f"{self._called(node)} is a LoRA stack of a kind that is not known: bind it by hand")
        patterns = ["lora_{slot}_strength", "lora_{slot}_model_strength", "lora_{slot}_clip_strength"]
        strengths = [pattern for pattern in patterns if pattern.replace("{slot}", "1") in schema.inputs]
        toggle = {"toggle": "toggle"} if self.graph[node]["inputs"].get("toggle") is False else {}
        return {
            "kind": "stack",
            "node": node,
            "slots": numbers[-1],
            "count": "num_loras",
            "name": "lora_{slot}_name",
            "strengths": strengths,
            "empty_name": "None",
            "empty_strength": 1,
            **toggle,
        }

    def _chain(self, loaders: list[str]) -> dict[str, Any]:
        """Loaders that follow each other; nearest to the sampler first, as they were met."""
        chain = loaders[::-1]
        classes = {self.graph[node]["class_type"] for node in chain}
        follows = all(
            {source for _, source, _ in self._sources(node, (_MODEL, _CLIP))} == {before}
            for before, node in pairwise(chain)
        )
        if len(classes) > 1 or not follows:
            listed = ", ".join(self._called(node) for node in chain)
            raise WorkflowError(f"the LoRA loaders {listed} are no chain of one class: let them follow each other")
        return {"kind": "chain", "nodes": chain}

    # -- the rest ------------------------------------------------------------------------------------------------

    def _bind_rest(self, needed: Collection[str]) -> None:
        """What is worth choosing in nodes that are known by what they make."""
        for node in needed:
            schema = self._schema(node)
            makes = {kind for _, kind in schema.outputs}
            if "VAE" in makes and makes == {"VAE"}:
                self._bind_named(node, ("vae_name",))
            elif makes == {_CLIP} and not schema.inputs_of(_CLIP):
                self._bind_clips(node)
            elif _CONTROL in makes:
                self._bind_named(node, ("control_net_name", "type"))
            elif "UPSCALE_MODEL" in makes:
                self._bind_named(node, ("model_name",))
            elif schema.inputs_of(_MASK) or schema.inputs_of(_IMAGE):
                self._bind_named(node, ("expand", "grow_mask_by", "scale_by"))

    def _bind_clips(self, node: str) -> None:
        """Two text encoders are told apart by their files: which input holds which is all the same to the loader."""
        for name, declared in self._schema(node).inputs.items():
            value = self.graph[node]["inputs"].get(name)
            if _names_file(declared) and isinstance(value, str):
                self._bind("t5xxl" if "t5" in value.lower() else "clip_l", node, name)

    def _check(self, samplers: Sequence[str], pictures: Mapping[str, Sequence[str]]) -> None:
        if samplers and "seed" not in self.places:
            raise WorkflowError(f"no seed leads to {self._called(samplers[0])}: every image would be the same")
        if not samplers and not pictures and not {"width", "height"} & self.places.keys():
            self.notes.append("nothing is sampled and no picture is taken: every job makes the same picture")


def _loads_picture(schema: NodeSchema) -> bool:
    image = schema.inputs.get("image")
    makes = {kind for _, kind in schema.outputs}
    return image is not None and image.choices is not None and bool(makes & {_IMAGE, _MASK})


def _names_file(declared: InputSchema) -> bool:
    return declared.name.startswith("clip_name") and declared.choices is not None


def _by_number(node: str) -> tuple[int, str]:
    """Node ids are mostly numbers: in their order, and then the others."""
    return (int(node), node) if node.isdecimal() and len(node) < 10 else (10**10, node)
