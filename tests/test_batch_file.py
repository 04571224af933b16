"""Batch files: what they say, and that what is wrong in one is told by its line or key."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncgen.batch_file import BatchFile, read_batch_file
from asyncgen.errors import InputError

TOML = """
prompts = "animals.txt"
styles = ["1", 16]
characters = ["none", ["A", "B:0.5"]]
seeds = 4
sizes = ["1024x1024", [768, 512]]
workflows = ["schnell"]
control = true
include = [{style = 16, steps = 30}]
exclude = [{style = 1, size = "768x512"}]
template = "a {color} fox"
[variables]
color = ["red", "blue"]
[defaults]
guidance = 3.0
"""


def test_toml_and_json_say_the_same() -> None:
    import tomllib

    said = read_batch_file(TOML, "b.toml")
    assert said == read_batch_file(json.dumps(tomllib.loads(TOML)), "b.json")
    assert said.prompts == "animals.txt"
    assert said.axes.styles == ("1", "16")
    assert said.axes.characters == ((), ("A", "B:0.5"))
    assert said.axes.sizes == ((1024, 1024), (768, 512))
    assert said.axes.seeds == range(4)
    assert said.axes.variables == {"color": ("red", "blue")}
    assert said.axes.exclude == ({"style": "1", "size": (768, 512)},)
    assert said.defaults == {"flux_guidance": 3.0}
    assert said.template == "a {color} fox"


def test_prompts_may_stand_in_it_as_texts_or_with_fields() -> None:
    said = read_batch_file('prompts = ["a fox", {prompt = "an owl", id = "owl", steps = 9}]', "b.toml")
    assert said.prompts == ('"a fox"', '{"prompt": "an owl", "id": "owl", "steps": 9}')


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('prompts = "p.txt"\nstyles = [1}', "b.toml:2: is not valid TOML"),
        ('prompts = "p.txt"\nstyle = ["1"]', "b.toml:style: there is no such key; did you mean 'styles'?"),
        ('styles = ["1"]', "b.toml:prompts: say which"),
        ("prompts = []", "b.toml:prompts: is a file's name, or a list"),
        ('prompts = "p"\nseeds = 0', "b.toml:seeds: "),
        ('prompts = "p"\nvariables = ["red"]', "b.toml:variables: must be a table"),
        ('prompts = "p"\n[defaults]\nstps = 3', "b.toml:defaults.stps: there is no such key; did you mean 'steps'?"),
        ('prompts = "p"\n[defaults]\nprompt = "x"', "b.toml:defaults.prompt: "),
        ('prompts = "p"\nwildcards = "some"', "b.toml:wildcards: is one of random, combinatorial"),
        ('prompts = "p"\nexclude = [{styl = "1"}]', "b.toml:exclude: the matrix has no 'styl'"),
        ('prompts = "p"\ntemplate = 3', "b.toml:template: must be a text"),
    ],
)
def test_what_is_wrong_is_told_by_line_or_key(text: str, told: str) -> None:
    with pytest.raises(InputError) as caught:
        read_batch_file(text, "b.toml")
    assert str(caught.value).startswith(told)


def test_json_that_is_none_is_told_by_its_line() -> None:
    with pytest.raises(InputError, match=r"^b\.json:2: is not valid JSON"):
        read_batch_file('{"prompts": "p",\n]', "b.json")
    with pytest.raises(InputError, match=r"^b\.json: a batch file is an object"):
        read_batch_file("[]", "b.json")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from(
    ["prompts", "styles", "characters", "seeds", "sizes", "workflows", "control", "variables", "include", "exclude",
     "template", "defaults"]
)  # fmt: skip


@given(st.dictionaries(KEYS, VALUES, max_size=4))
def test_no_values_make_the_reader_raise_anything_else(values: dict[str, Any]) -> None:
    try:
        said = read_batch_file(json.dumps({"prompts": "p", **values}), "b.json")
    except InputError as error:
        assert str(error).startswith("b.json")
    else:
        assert isinstance(said, BatchFile)


@given(st.text(max_size=40))
def test_no_text_makes_the_reader_raise_anything_else(text: str) -> None:
    for name in ("b.toml", "b.json"):
        with pytest.raises(InputError, match=rf"^{name}"):
            read_batch_file(text, name)
