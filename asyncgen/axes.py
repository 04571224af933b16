"""The axes of a matrix, read from how they are written on the command line, in a batch file or in Python. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

from asyncgen.cell_ids import workflow_name
from asyncgen.errors import InputError
from asyncgen.loras import check_character_set
from asyncgen.request import MAX_SEED
from asyncgen.variables import variable_of

#: So many images one prompt may have in a matrix.
MOST_CELLS: Final = 20_000
#: What a cell says of axes, by their names there.
IN_A_CELL: Final = ("style", "character", "size", "workflow", "seed", "control")
_MOST_SHOWN: Final = 20
_SIZE: Final = re.compile(r"\s*([0-9]{1,5})\s*[xX×]\s*([0-9]{1,5})\s*")


@dataclass(frozen=True, slots=True)
class Axes:
    """What a matrix is made of; make one with `axes`. An axis that is empty says nothing.

    `seeds` are numbers of derived seeds, or seeds themselves where `own_seeds`. `variables` have their values by name,
    without braces. `include` and `exclude` are partial cells, by axis, variable (in braces) or field of a request.
    """

    styles: tuple[str, ...] = ()
    characters: tuple[tuple[str, ...], ...] = ()
    sizes: tuple[tuple[int, int], ...] = ()
    workflows: tuple[str, ...] = ()
    seeds: tuple[int, ...] | range = ()
    own_seeds: bool = False
    control: bool = False
    variables: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    include: tuple[Mapping[str, Any], ...] = ()
    exclude: tuple[Mapping[str, Any], ...] = ()

    @property
    def is_matrix(self) -> bool:
        """Whether this is more than one value for all: those alone mean what the field of a request does."""
        several = any(len(values) > 1 for values in (self.styles, self.characters, self.sizes, self.workflows))
        return several or bool(self.seeds or self.control or self.variables or self.include or self.exclude)

    def values(self) -> dict[str, Sequence[Any]]:
        """The values of every axis that says something, by its name in a cell; seeds are [0] where none are said."""
        named = {"style": self.styles, "character": self.characters, "size": self.sizes, "workflow": self.workflows}
        variables = {f"{{{name}}}": values for name, values in self.variables.items()}
        said = {name: values for name, values in {**named, **variables}.items() if values}
        return {**said, "seed": self.seeds or (0,)}


def axes(
    *,
    styles: Sequence[str | int] = (),
    characters: Sequence[str | Sequence[str]] = (),
    sizes: Sequence[str | Sequence[int]] = (),
    workflows: Sequence[str] = (),
    seeds: int | Sequence[int] | None = None,
    control: bool = False,
    variables: Mapping[str, Sequence[Any]] | None = None,
    include: Sequence[Mapping[str, Any]] = (),
    exclude: Sequence[Mapping[str, Any]] = (),
) -> Axes:
    """The axes as they are written: `"A,B"`, `"1024x1024"`, a number of seeds or seeds. Raises `InputError`.

    An exclude whose value no axis has is refused: what it was meant for would be bought. An include may have new ones.
    """
    own = seeds is not None and not isinstance(seeds, int)
    chosen = Axes(
        styles=_distinct(_style(style) for style in _listed(styles, "styles")),
        characters=_distinct(_characters(one) for one in _listed(characters, "characters")),
        sizes=_distinct(_size(size) for size in _listed(sizes, "sizes")),
        workflows=_distinct(_workflow(name) for name in _listed(workflows, "workflows")),
        seeds=_seeds(seeds),
        own_seeds=own,
        control=_truth(control, "control"),
        variables={
            _variable(name): _distinct(_text(value, f"variables.{name}") for value in _listed(values, "variables"))
            for name, values in (variables or {}).items()
        },
        include=tuple(_partial(entry, "include") for entry in _listed(include, "include")),
        exclude=tuple(_partial(entry, "exclude") for entry in _listed(exclude, "exclude")),
    )
    for name, value in (said for entry in chosen.exclude for said in entry.items()):
        _check_excluded(name, value, chosen.values().get(name))
    return chosen


def _check_excluded(name: str, value: object, there: Sequence[Any] | None) -> None:
    """`there` None: it is no axis that has values."""
    if there is None or value in there:
        return
    shown = [_written(one) for one in islice(there, _MOST_SHOWN)]
    more = ", …" if len(there) > len(shown) else ""
    message = f"no {name} of the matrix is {_written(value)!r}; there are: {', '.join(shown)}{more}"
    raise InputError(message, field="exclude")


def _written(value: object) -> str:
    """A value as it is written in a list of its axis."""
    if not isinstance(value, tuple):
        return str(value)
    is_size = value and all(isinstance(side, int) for side in value)
    return ("x" if is_size else ",").join(map(str, value)) or "none"


def _distinct(values: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(dict.fromkeys(values))


def _listed(values: object, name: str) -> Sequence[Any]:
    if isinstance(values, str | Mapping) or not isinstance(values, Sequence):
        raise InputError(f"must be a list, not {values!r:.60}", field=name)
    return values


def _text(value: object, name: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float) or not str(value).strip():
        raise InputError(f"must be a list of texts, and {value!r:.60} is none", field=name)
    return str(value).strip()


def _workflow(value: object) -> str:
    """A file by its path, any other by its own name: two aliases of one are one."""
    said = _text(value, "workflows")
    return said if said.endswith(".json") else workflow_name(said)


def _style(value: object) -> str:
    return _text(value, "styles")


def _truth(value: object, name: str) -> bool:
    if not isinstance(value, bool):
        raise InputError(f"must be true or false, not {value!r:.60}", field=name)
    return value


def _characters(value: object) -> tuple[str, ...]:
    """One set: `NAME[:STRENGTH]` separated by commas, or a list of those; `none` is the empty one."""
    parts = re.split("[,;]", value) if isinstance(value, str) else _listed(value, "characters")
    names = tuple(_text(part, "characters") for part in parts if part != "")
    if len(names) == 1 and names[0].lower() == "none":
        return ()
    if not names:
        raise InputError("a set of characters has a name, or is 'none'", field="characters")
    check_character_set(names)
    return names


def _size(value: object) -> tuple[int, int]:
    if isinstance(value, str):
        found = _SIZE.fullmatch(value)
        if found is None:
            raise InputError(f"a size is WIDTHxHEIGHT in pixels, such as 1024x768, not {value!r:.60}", field="sizes")
        return int(found[1]), int(found[2])
    sides = _listed(value, "sizes")
    if len(sides) != 2 or not all(isinstance(side, int) and not isinstance(side, bool) for side in sides):
        raise InputError(f"a size is two whole numbers or WIDTHxHEIGHT, not {value!r:.60}", field="sizes")
    return sides[0], sides[1]


def _seeds(value: int | Sequence[int] | None) -> range | tuple[int, ...]:
    if value is None:
        return ()
    if isinstance(value, int) and not isinstance(value, bool):
        if not 1 <= value <= MOST_CELLS:
            raise InputError(f"is how many seeds each prompt gets, 1 to {MOST_CELLS:,}, not {value}", field="seeds")
        return range(value)
    for seed in _listed(value, "seeds"):
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= MAX_SEED:
            raise InputError(
                f"is a number of seeds or a list of seeds, 0 to 2^64-1; {seed!r:.40} is none", field="seeds"
            )
    return _distinct(value)  # type: ignore[arg-type]  # as was just checked


def _variable(name: str) -> str:
    found = variable_of(name) or variable_of(f"{{{name}}}")
    if found is None:
        raise InputError("the name of a variable has letters, digits, _, - and spaces", field=f"variables.{name}")
    return found


def _partial(entry: object, where: str) -> dict[str, Any]:
    if not isinstance(entry, Mapping) or not entry:
        raise InputError(f"must be a list of partial cells, such as {{style = '16'}}, not {entry!r:.60}", field=where)
    return {_axis(str(name)): _value(_axis(str(name)), value) for name, value in entry.items()}


def _axis(name: str) -> str:
    """An axis by its name in a cell, or by the list's: `styles` is `style` too."""
    singular = name.removesuffix("s")
    aliases = {"style_id": "style", "character_loras": "character", "character_lora": "character"}
    return aliases.get(name, singular if singular in IN_A_CELL else name)


def _value(name: str, value: Any) -> Any:
    readers = {"style": _style, "character": _characters, "size": _size, "workflow": _workflow}
    if name in readers:
        return readers[name](value)
    if name == "control":
        return _truth(value, name)
    if name == "seed":
        return _seeds([value])[0]
    return _text(value, name) if variable_of(name) is not None else value
