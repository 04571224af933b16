"""Batch files, from their text to the cells of a row."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import islice
from random import Random
from typing import Any, Final, NamedTuple

from asyncgen.batch_file import read_batch_file
from asyncgen.cells import Matrix
from asyncgen.errors import InputError
from asyncgen.expansion import requests_of
from asyncgen.request import ImageRequest

from . import mutations
from .bounds import check_message

_FILE: Final[dict[str, Any]] = {
    "prompts": ["a {color} fox", {"prompt": "an owl", "id": "owl"}], "styles": ["1", 16], "characters": ["none", "A,B"],
    "sizes": ["64x64", [128, 64]], "workflows": ["schnell"], "seeds": 2, "control": True, "template": "a {color} owl",
    "variables": {"color": ["red", "blue"]}, "include": [{"style": 16, "steps": 9}], "exclude": [{"style": "1"}],
    "defaults": {"guidance": 3.0}, "wildcards": "random",
}  # fmt: skip
_KEYS: Final = (*_FILE, "style", "seed", "size", "color", "{color}", "steps", "prompt")
_LEAVES: Final = (
    "1",
    16,
    "none",
    "64x64",
    [64, 64],
    100_000,
    10**6,
    -1,
    True,
    "{color}",
    [],
    {},
    {"style": "1"},
    "seeds",
)
_TOML: Final = (
    'prompts = "p.txt"\nstyles = ["1", "16"]\nseeds = 2\nexclude = [{ style = "1" }]\n\n[variables]\ncolor = ["red"]\n'
)
_ROW: Final = ImageRequest(prompt="a {color} fox", id="fox")
_MOST_REQUESTS: Final = 20


class Case(NamedTuple):
    """The text of a batch file and its name."""

    text: str
    name: str


def make(rng: Random) -> Case:
    """A JSON file of some keys, changed; or a TOML file whose text is changed."""
    if rng.random() < 0.3:
        data = mutations.mutated_bytes(rng, _TOML.encode(), rng.choice((0, 1, 2, 5)))
        return Case(data.decode("utf-8", "replace"), "b.toml")
    said = {name: copy.deepcopy(_FILE[name]) for name in rng.sample(list(_FILE), rng.randrange(1, 6))}
    said |= {"prompts": "p.txt"} if rng.random() < 0.7 else {}
    for _ in range(rng.choice((0, 1, 1, 2, 3))):
        mutations.mutate(rng, said, _LEAVES, _KEYS)
    return Case(mutations.encoded(rng, said).decode("utf-8", "surrogatepass"), "b.json")


def judge(case: Case) -> Iterator[str]:
    """A file is read or refused with its name; what it says of a row is made or refused."""
    try:
        said = read_batch_file(case.text, case.name)
        matrix = Matrix(said.axes, said.defaults)
    except InputError as error:
        check_message(str(error))
        yield f"{case.name} refused"
        return
    try:
        requests = list(islice(requests_of(matrix, _ROW, None), _MOST_REQUESTS))
    except InputError as error:
        check_message(str(error))
        yield f"{case.name} row refused"
        return
    assert len({request.id for request in requests}) == len(requests)
    yield f"{case.name} made"
