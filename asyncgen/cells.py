"""Every prompt in many ways: styles × character sets × sizes × workflows × variables × seeds, and a control. Pure.

One way is a *cell*. The id and the seed of an image come from what its cell says, never from the cell's place: whoever
adds a style or moves a row gets the same images, and new ones for the new cells alone. Seed `k` of a prompt is a hash
of the prompt, of the caller's id and of `k`: the same in every style and in the control, so that those can be compared.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from itertools import product
from math import prod
from typing import Any, Final

from asyncgen.axes import IN_A_CELL, MOST_CELLS, Axes
from asyncgen.cell_ids import Usual, UsualOf, cell_id, is_usual_size, usual_by_name
from asyncgen.documents import canonical_json
from asyncgen.errors import InputError
from asyncgen.request import FIELD_NAMES, MAX_SEED, ImageRequest, parse_request
from asyncgen.variables import fill, names_in, variable_of

_WITH_LORAS: Final = ("style", "character")
_WITHOUT_LORAS: Final[Mapping[str, Any]] = {
    "style_id": None, "lora_name": None, "lora_strength": None, "character_loras": (), "character_lora_strength": None,
    "cine_lora_strength": None,
}  # fmt: skip
_IN_ID: Final = frozenset({"style_id", "character_loras", "width", "height", "workflow"})
_NEVER_INCLUDED: Final = frozenset({"prompt", "id", "images", "template", "variables", "seed_number", "filename"})


@dataclass(frozen=True, slots=True)
class Cell:
    """One way to make a prompt: fields that the cell decides, and `usual` ones, which a row may say otherwise.

    Both are checked: a row in a cell need not be checked again. `seed` is the number of a derived seed, or the seed
    itself where `own_seed`. `has_size`: the matrix says a size. `is_single`: it is the only cell of no matrix, which
    leaves id and seed to the row. `digest` (16 bytes) is of all this. `among_workflows`: other cells have another.
    `is_again`: a cell before differs in the seed alone.
    """

    fields: Mapping[str, Any]
    usual: Mapping[str, Any]
    variables: Mapping[str, str]
    seed: int
    own_seed: bool
    is_control: bool
    has_size: bool
    is_single: bool
    digest: bytes
    among_workflows: bool = False
    is_again: bool = False

    def of_shared(self, shared: Mapping[str, Any], usual: Usual) -> Mapping[str, Any]:
        """What of that which holds for all rows is meant for a workflow: of several, each gets what it takes."""
        if not self.among_workflows:
            return shared
        return {name: value for name, value in shared.items() if name not in usual.lacks}

    def request(self, shared: Mapping[str, Any], row: ImageRequest, usual_of: UsualOf = usual_by_name) -> ImageRequest:
        """The request of a row in this cell; `shared` is what holds for all rows, checked like the cell's fields.

        Raises `InputError` where the row says what the cell decides, or has no such variable.
        """
        said = {name: getattr(row, name) for name in row.model_fields_set}
        for name in self.fields.keys() & said.keys():
            message = "the row says this itself, and the matrix has several: take it out of one of them"
            raise InputError(message, field=name)
        usual = usual_of({**shared, **self.usual, **said, **self.fields}.get("workflow"))
        if self.is_again and not usual.has_seed:
            message = (
                f"the workflow {usual.workflow} takes no seed, so that each seed would make the same picture again: "
                "leave the seeds out, or that workflow"
            )
            raise InputError(message, field="seeds")
        merged = {**self.of_shared(shared, usual), **self.usual, **said, **self.fields}
        if self.is_control:
            merged |= _WITHOUT_LORAS
        used = self._fill(merged) if self.variables else {}
        if not self.is_single:
            merged |= self._seed(merged, row.id)
            if row.id is not None:
                merged["id"] = cell_id(merged, self._added(used), self._seed_name, usual)
        if self.has_size and not said.keys() & {"width", "height"} and is_usual_size(merged, usual):
            merged |= {"width": None, "height": None}  # the same as if no size had been said
        return parse_request(merged) if used else row.model_copy(update=merged)

    def _fill(self, merged: dict[str, Any]) -> dict[str, str]:
        """Put the variables into the prompt; those that it has. A prompt without one is the same for all its values."""
        text, own = merged.get("template") or merged.get("prompt", ""), merged.get("variables", {})
        merged["prompt"] = fill(text, {**own, **self.variables})
        names = names_in(text)
        used = {name: value for name, value in self.variables.items() if name in names}
        if used:
            merged |= {"template": text, "variables": {**own, **used}}
        return used

    def _seed(self, merged: Mapping[str, Any], own_id: str | None) -> dict[str, Any]:
        """A seed that was said is that of number 0, and the next numbers follow it, as with `images`."""
        base = merged.get("seed")
        if self.own_seed:
            if base is not None:
                raise InputError("the row or an option says this itself, and the matrix has seeds", field="seed")
            return {"seed": self.seed}
        if base is not None:
            return {"seed": (base + self.seed) & MAX_SEED, "seed_number": None}
        return {"seed": derived_seed(merged.get("prompt", ""), own_id, self.seed), "seed_number": self.seed}

    def _added(self, used: Mapping[str, str]) -> dict[str, Any]:
        """What is in an id by its name: variables that the prompt has, and what an include says."""
        return {**{name: value for name, value in self.usual.items() if name not in _IN_ID}, **used}

    @property
    def _seed_name(self) -> str:
        return f"seed={self.seed}" if self.own_seed else f"seed-{self.seed}"


class Matrix:
    """The cells of some axes; `shared` are fields for every row that does not say otherwise, by any of their names.

    An axis of one value is such a field too: a row may say otherwise. `has_seeds`: the number of seeds was said.
    `is_single`: this is one value of each axis, for rows that keep their id and seed.
    `may_repeat`: two cells of a row may be the same, by a prompt without its variable, or a control that differs in
    nothing. Cells are in the order of the axes, the control's last.

    Raises `InputError` for an include or exclude that names nothing, and for more than `MOST_CELLS` cells.
    """

    def __init__(self, axes: Axes, shared: Mapping[str, Any] | None = None, *, is_single: bool = False) -> None:
        named = {FIELD_NAMES.get(name, name): value for name, value in (shared or {}).items() if value is not None}
        first = {name: values[0] for name, values in axes.values().items()}
        for name in sorted(_fields(first).keys() & named.keys()):
            raise InputError("is said twice, for all and by the matrix: leave one of them out", field=name)
        self._usual = {name: values[0] for name, values in axes.values().items() if len(values) == 1}
        self.shared = _checked({**named, **_fields(self._usual)})
        self.has_seeds, self._is_single = bool(axes.seeds), is_single
        self._known: dict[str, Mapping[str, Any]] = {}
        named_workflows = {entry["workflow"] for entry in axes.include if "workflow" in entry}
        self._has_workflows = len(axes.workflows) > 1 or bool(named_workflows)
        cells = list({cell.digest: cell for cell in self._made(axes)}.values())
        self.cells = list(_told_again(cells)) if len(axes.seeds) > 1 else cells
        if not self.cells:
            raise InputError("every cell of the matrix is excluded: nothing would be made", field="exclude")
        self.may_repeat = bool(axes.variables) or (axes.control and any(map(self._is_plain, self.cells)))

    def notes(self, usual_of: UsualOf) -> list[str]:
        """What holds for all rows, and which workflows have no use for it. Raises `InputError` where none has."""
        said = {{**self.shared, **cell.usual, **cell.fields}.get("workflow") for cell in self.cells}
        usuals = {usual.workflow: usual for usual in map(usual_of, said)} if self._has_workflows else {}
        texts = []
        for name in self.shared:
            lacking = sorted(workflow for workflow, usual in usuals.items() if name in usual.lacks)
            if lacking and len(lacking) == len(usuals):
                raise InputError(f"none of the workflows takes this: {', '.join(lacking)}", field=name)
            if lacking:
                texts.append(f"{name} is left out for {', '.join(lacking)}: no such parameter there")
        return texts

    def _is_plain(self, cell: Cell) -> bool:
        """Whether a cell is no control, and may be like one."""
        said = {**self.shared, **cell.usual, **cell.fields}
        return not (cell.is_control or said.get("style_id") or said.get("character_loras"))

    def _made(self, axes: Axes) -> Iterator[Cell]:
        values = axes.values()
        count = prod(map(len, values.values())) * (2 if axes.control else 1)
        if count > MOST_CELLS:
            raise InputError(f"the matrix has {count:,} cells for each prompt; {MOST_CELLS:,} is the most")
        combinations = _combinations(values)
        if axes.control:
            without = {name: values[name] for name in values if name not in _WITH_LORAS}
            combinations += [{**one, "control": True} for one in _combinations(without)]
        for entry in axes.exclude:
            _check_names(entry, "exclude", values.keys() | {"control"})
        kept = [one for one in combinations if not any(_matches(one, entry) for entry in axes.exclude)]
        extras: list[dict[str, Any]] = [{} for _ in kept]
        for entry in axes.include:
            _check_names(entry, "include", {*IN_A_CELL, *values, *ImageRequest.model_fields} - _NEVER_INCLUDED)
            found = [extra for one, extra in zip(kept, extras, strict=True) if _takes(one, entry)]
            for extra in found:
                extra.update(entry)
            if not found:
                rest = {name: values[name] for name in values if name == "seed" or variable_of(name) is not None}
                yield from (self._cell({**one, **entry}, {}, axes) for one in _combinations(rest))
        for one, extra in zip(kept, extras, strict=True):
            yield self._cell(one, {name: value for name, value in extra.items() if name not in one}, axes)

    def _checked(self, one: Mapping[str, Any]) -> Mapping[str, Any]:
        """The fields of a cell. Cells of other seeds have the same."""
        key = repr(sorted((name, value) for name, value in one.items() if name != "seed"))
        if key not in self._known:
            self._known[key] = _checked(_fields(one))
        return self._known[key]

    def _cell(self, one: Mapping[str, Any], extra: Mapping[str, Any], axes: Axes) -> Cell:
        decided = {name: value for name, value in one.items() if name in IN_A_CELL and self._usual.get(name) != value}
        usual = {name: value for name, value in {**one, **extra}.items() if name not in one or name not in IN_A_CELL}
        variables = {name: value for name, value in usual.items() if variable_of(name) is not None}
        fields, seed, is_control = self._checked(decided), one.get("seed", 0), bool(one.get("control"))
        others = self._checked({name: value for name, value in usual.items() if name not in variables})
        named = {str(variable_of(name)): value for name, value in variables.items()}
        has_size = bool(axes.sizes) or bool({**fields, **others}.keys() & {"width", "height"})
        said = [sorted(fields.items()), sorted(others.items()), sorted(named.items()), seed, axes.own_seeds, is_control]
        said += [has_size, self._is_single]
        digest = hashlib.blake2b(_canonical(said), digest_size=16).digest()
        rest = (has_size, self._is_single, digest, self._has_workflows)
        return Cell(fields, others, named, seed, axes.own_seeds, is_control, *rest)


def _told_again(cells: Iterable[Cell]) -> Iterator[Cell]:
    """The cells, those marked that differ from one before in the seed alone."""
    seen: set[str] = set()
    for cell in cells:
        text = repr([sorted(part.items()) for part in (cell.fields, cell.usual, cell.variables)] + [cell.is_control])
        yield replace(cell, is_again=text in seen)
        seen.add(text)


def derived_seed(prompt: str, own_id: object, number: int) -> int:
    """Seed `number` of a prompt, 0 to 2^64-1; `own_id` is the caller's for it, or None."""
    text = _canonical([prompt, own_id, number])
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")


def _combinations(values: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(values, one, strict=True)) for one in product(*values.values())]


def _matches(one: Mapping[str, Any], entry: Mapping[str, Any]) -> bool:
    """Whether a cell has everything that an exclude says; none but a control is meant by `control = false`."""
    return all(one.get(name, False if name == "control" else None) == value for name, value in entry.items())


def _takes(one: Mapping[str, Any], entry: Mapping[str, Any]) -> bool:
    """Whether an include can be added to a cell without saying anything else about its axes."""
    if "control" in one and entry.keys() & {*_WITH_LORAS}:
        return False
    return all(one.get(name, value) == value for name, value in entry.items())


def _fields(one: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a request that the values of axes stand for."""
    fields: dict[str, Any] = {}
    for name, value in one.items():
        if name == "style":
            fields["style_id"] = value
        elif name == "character":
            fields["character_loras"] = value
        elif name == "size":
            fields["width"], fields["height"] = value
        elif name not in ("seed", "control") and variable_of(name) is None:
            fields[FIELD_NAMES.get(name, name)] = value
    return fields


def _checked(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields as a request has them. Raises `InputError`."""
    request = parse_request({**fields, "prompt": "any"})
    return {FIELD_NAMES[name]: getattr(request, FIELD_NAMES[name]) for name in fields}


def _canonical(value: Any) -> bytes:
    return canonical_json(value).encode("utf-8", "surrogatepass")


def _check_names(entry: Mapping[str, Any], where: str, names: Iterable[str]) -> None:
    for name in entry.keys() - set(names):
        close = get_close_matches(name, list(names), n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(sorted(names))}"
        raise InputError(f"the matrix has no {name!r} to {where} by; {hint}", field=where)
