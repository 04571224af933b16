"""A matrix: which cells there are, and that ids and seeds come from what a cell says."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import asyncgen
from asyncgen.axes import MOST_CELLS, axes
from asyncgen.cell_ids import Usual
from asyncgen.cells import Matrix, derived_seed
from asyncgen.errors import InputError
from asyncgen.matrix_requests import MatrixRequests
from asyncgen.request import MAX_SEED, ImageRequest, content_key


def made(prompts: Any = ("a fox",), **said: Any) -> list[ImageRequest]:
    return list(asyncgen.matrix(list(prompts), **said))


def shown(requests: list[ImageRequest]) -> list[tuple[Any, ...]]:
    return [(one.style_id, one.character_loras, (one.width, one.height), one.steps) for one in requests]


def identities(requests: list[ImageRequest]) -> set[tuple[bytes, int | None]]:
    return {(content_key(one, 0, one.workflow or "w"), one.seed) for one in requests}


def test_every_prompt_is_in_every_style_character_set_size_and_seed_and_in_the_control() -> None:
    requests = made(
        ["a fox", "an owl"], styles=[1, "16"], characters=["A, B:0.5", "none"], sizes=["64x128", [64, 64]], seeds=3,
        control=True,
    )  # fmt: skip
    assert len(requests) == 2 * (2 * 2 * 2 + 2) * 3
    assert len(identities(requests)) == len(requests)
    assert {one.character_loras for one in requests if one.style_id} == {("A", "B:0.5"), ()}
    control = [one for one in requests if one.style_id is None]
    assert {(one.character_loras, one.lora_name) for one in control} == {((), None)}


def test_a_prompt_has_the_same_seeds_in_every_cell_and_another_prompt_has_others() -> None:
    requests = made(["a fox", "an owl"], styles=["1", "16"], characters=["A", "none"], seeds=2, control=True)
    seeds = {prompt: {one.seed for one in requests if one.prompt == prompt} for prompt in ("a fox", "an owl")}
    assert [len(seeds["a fox"]), len(seeds["a fox"] | seeds["an owl"])] == [2, 4]


@settings(max_examples=30)
@given(st.permutations(["1", "4", "16"]), st.permutations(["a fox", "an owl", "a heron"]), st.integers(1, 3))
def test_neither_the_order_nor_what_else_is_there_changes_an_image(
    styles: list[str], prompts: list[str], seeds: int
) -> None:
    whole = identities(made(prompts, styles=styles, seeds=seeds, control=True))
    assert identities(made(prompts[:2], styles=styles[:2], seeds=seeds)) < whole
    assert identities(made(sorted(prompts), styles=sorted(styles), seeds=seeds, control=True)) == whole
    rows = [{"prompt": prompt, "id": prompt} for prompt in prompts]
    assert identities(made(rows[1:], styles=styles[1:])) < identities(made(rows, styles=styles, seeds=seeds))


def test_a_set_that_was_made_without_a_matrix_has_what_its_first_seeds_are() -> None:
    plain = content_key(ImageRequest(prompt="a fox", style_id="1"), 0, "w")
    assert plain in {key for key, _ in identities(made(styles=["1", "16"], seeds=4))}


def test_the_seeds_of_this_version_are_those_of_every_later_one() -> None:
    """If this fails, matrices that are continued would mix seeds that cannot be compared."""
    assert derived_seed("a fox", None, 0) == 14435313188792386039
    assert derived_seed("a fox", "fox-1", 3) == 18060454821256493060


@pytest.mark.parametrize(
    ("said", "own_id"),
    [
        ({"styles": ["1", "16"]}, "fox/1/seed-0"),
        ({"styles": ["1"], "characters": ["A,B:0.5", "none"], "seeds": 2}, "fox/1/A+B:0.5/seed-0"),
        ({"sizes": ["64x128"], "seeds": [7], "workflows": ["schnell"]}, "fox/no_style/64x128/workflow=schnell/seed=7"),
        ({"variables": {"color": ["red"]}}, "fox/no_style/color=red/seed-0"),
        ({"styles": ["1", "16"], "include": [{"style": "1", "steps": 9}]}, "fox/1/steps=9/seed-0"),
        ({"seeds": 1, "include": [{"style": "1", "size": "64x64"}]}, "fox/1/64x64/seed-0"),
    ],
)
def test_a_caller_s_id_says_what_its_cell_says(said: dict[str, Any], own_id: str) -> None:
    requests = made([{"prompt": "a {color} fox", "id": "fox"}], **said)
    assert requests[0].id == own_id
    assert len({one.id for one in requests}) == len(requests)


def test_rows_of_one_prompt_and_two_ids_have_seeds_of_their_own() -> None:
    rows = [{"prompt": "a fox", "id": "one"}, {"prompt": "a fox", "id": "two"}]
    assert len({one.seed for one in made(rows, styles=["1", "16"])}) == 2


def test_a_seed_that_is_said_is_the_first_and_the_others_follow_it() -> None:
    row = {"prompt": "a fox", "seed": MAX_SEED}
    assert [(one.seed, one.seed_number) for one in made([row], seeds=2)] == [(MAX_SEED, None), (0, None)]
    assert [one.seed_number for one in made([{"prompt": "a fox", "seed": -1}], seeds=2, seed=7)] == [0, 1]
    assert [one.seed for one in made(seeds=[7, 9, 7])] == [7, 9]


def test_a_second_seed_is_refused_only_where_the_workflow_takes_none() -> None:
    def usual_of(said: str | None) -> Usual:
        return Usual(said or "run", None, has_seed=said != "upscale")

    def in_run(**said: Any) -> list[ImageRequest]:
        prompts = asyncgen.matrix(["a fox"], workflows=["upscale", "img2img"], **said)
        return list(prompts.in_run(usual_of))

    with pytest.raises(InputError, match=r"seeds: the workflow upscale takes no seed.* or that workflow"):
        in_run(seeds=2)
    assert [len(in_run(seeds=1)), len(in_run(seeds=2, exclude=[{"workflow": "upscale", "seed": 0}]))] == [2, 3]


def test_what_is_excluded_is_not_there_and_what_is_included_is_added_where_it_fits() -> None:
    requests = made(
        styles=["1", "16"],
        characters=["A", "none"],
        control=True,
        exclude=[{"style": 16, "character": "A"}, {"control": True}],
        include=[{"style": "1", "steps": 9}, {"style": "4", "size": "64x64"}, {"character": "none", "steps": 12}],
    )
    assert set(shown(requests)) == {
        ("1", ("A",), (None, None), 9),
        ("1", (), (None, None), 12),
        ("16", (), (None, None), 12),
        ("4", (), (64, 64), None),
    }
    assert len(requests) == 4


def test_an_included_cell_has_every_seed_and_every_value_of_a_variable() -> None:
    said = {"styles": ["1", "16"], "seeds": 3, "variables": {"color": ["red", "blue"]}}
    requests = made(["a {color} fox"], **said, include=[{"style": "4"}, {"style": "8", "{color}": "green"}])
    prompts = {style: [one.prompt for one in requests if one.style_id == style] for style in ("4", "8")}
    assert sorted(prompts["4"]) == ["a blue fox"] * 3 + ["a red fox"] * 3
    assert prompts["8"] == ["a green fox"] * 3


def test_cells_that_say_the_same_are_one() -> None:
    assert len(made(styles=["1", 1, "16"], include=[{"style": "4"}, {"style": 4}])) == 3


def test_an_axis_of_one_value_is_a_default_and_a_row_s_own_word_wins() -> None:
    requests = made(["a fox", {"prompt": "an owl", "style": "16"}], styles=["1"], seeds=1)
    assert [one.style_id for one in requests] == ["1", "16"]


def test_what_holds_for_all_is_for_the_workflows_that_take_it_also_where_an_include_names_the_second() -> None:
    def usual(name: str | None) -> Usual:
        return Usual(name or "of the run", None, frozenset({"teacache"} if name == "plain" else {"denoise"}))

    def of(fields: dict[str, Any], **said: Any) -> tuple[list[str], list[tuple[str | None, Any]]]:
        matrix = Matrix(axes(**said), fields)
        requests = MatrixRequests(["a fox"], matrix, None, usual)
        return matrix.notes(usual), [(one.workflow, one.teacache) for one in requests]

    told = ["teacache is left out for plain: no such parameter there"]
    off = {"teacache": False}
    assert of(off, workflows=["full", "plain"]) == (told, [("full", False), ("plain", None)])
    second: dict[str, Any] = {"workflows": ["plain"], "include": [{"workflow": "full"}]}
    assert of(off, **second) == (told, [("full", False), ("plain", None)])
    assert of(off, workflows=["plain"]) == ([], [("plain", False)])  # which is refused when it is planned
    with pytest.raises(InputError, match="denoise: none of the workflows takes this: full, other"):
        of({"denoise": 0.5}, workflows=["full", "other"])


def test_a_row_that_says_what_an_axis_of_several_says_is_refused_with_its_place() -> None:
    with pytest.raises(InputError, match="prompt 2:style_id: the row says this itself"):
        made(["a fox", {"prompt": "an owl", "style": "16"}], styles=["1", "4"])


def test_the_control_is_without_what_the_row_or_all_would_load() -> None:
    row = {"prompt": "a fox", "lora_name": "x", "character_loras": ["A"], "cine_lora_strength": 0.5, "style": "1"}
    control = made([row], control=True, lora_strength=0.4)[1]
    assert control.said() == {"prompt": "a fox", "seed": control.seed, "seed_number": 0}


def test_a_prompt_without_a_variable_is_made_once_and_not_for_each_of_its_values() -> None:
    rows = [{"prompt": "an owl, {{color}}", "id": "owl"}, {"prompt": "a {color} fox", "id": "fox"}]
    requests = made(rows, styles=["1", "16"], variables={"color": ["red", "blue"], "sky": ["clear", "grey"]})
    assert [one.id for one in requests if "owl" in one.prompt] == ["owl/1/seed-0", "owl/16/seed-0"]
    assert [one.id for one in requests if "fox" in one.prompt][:2] == [
        "fox/1/color=red/seed-0", "fox/1/color=blue/seed-0",
    ]  # fmt: skip
    assert {one.prompt for one in requests} == {"an owl, {color}", "a red fox", "a blue fox"}
    assert len(requests) == 6


def test_a_control_that_differs_in_nothing_is_not_made_again() -> None:
    rows: list[Any] = [{"prompt": "a fox", "id": "fox"}, {"prompt": "an owl", "id": "owl", "style": "1"}]
    requests = made(rows, characters=["A", "none"], control=True)
    assert [one.id for one in requests] == [
        "fox/no_style/A/seed-0", "fox/no_style/seed-0", "owl/1/A/seed-0", "owl/1/seed-0", "owl/no_style/seed-0",
    ]  # fmt: skip


def test_variables_are_filled_in_and_kept() -> None:
    requests = made(["a {color} fox, {{color}}"], variables={"color": ["red", "blue"]})
    assert [one.prompt for one in requests] == ["a red fox, {color}", "a blue fox, {color}"]
    assert requests[0].said()["variables"] == {"color": "red"}
    assert requests[0].template == "a {color} fox, {{color}}"
    with pytest.raises(InputError, match=r"no variable \{colour\} here; did you mean \{color\}"):
        made(["a {colour} fox"], variables={"color": ["red"]})


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({"styles": "1"}, "styles"),
        ({"styles": [True]}, "styles"),
        ({"styles": [" "]}, "styles"),
        ({"sizes": ["1024"]}, "sizes"),
        ({"sizes": [[1, 2, 3]]}, "sizes"),
        ({"characters": [","]}, "characters"),
        ({"characters": ["ann:abc"]}, "characters"),
        ({"characters": ["ann:0,5"]}, "characters"),
        ({"characters": ["ann,ann.safetensors:0.5"]}, "characters"),
        ({"characters": [["none", "ann"]]}, "characters"),
        ({"characters": ["ann,None"]}, "characters"),
        ({"characters": ["ann:"]}, "characters"),
        ({"characters": [":0.5"]}, "characters"),
        ({"seeds": 0}, "seeds"),
        ({"seeds": [-1]}, "seeds"),
        ({"seeds": True}, "seeds"),
        ({"control": 1}, "control"),
        ({"variables": {"a|b": ["x"]}}, "variables.a|b"),
        ({"variables": {"a": "x"}}, "variables"),
        ({"include": [{}]}, "include"),
        ({"include": [{"stepz": 3}]}, "include"),
        ({"include": [{"prompt": "x"}]}, "include"),
        ({"exclude": ["16"]}, "exclude"),
        ({"exclude": [{"size": "64x64"}]}, "exclude"),
        ({"styles": ["1", "2"], "exclude": [{"style": "1"}, {"style": "2"}]}, "exclude"),
        ({"seeds": [7, 9], "exclude": [{"seed": "7"}]}, "seeds"),
        ({"control": True, "exclude": [{"control": "true"}]}, "control"),
        ({"styles": ["1", "2"], "style": "4"}, "style_id"),
    ],
)
def test_axes_that_are_wrong_are_refused_by_name(said: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as caught:
        made(**said)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"styles": ["1", "16"], "exclude": [{"style": 61}]}, "no style of the matrix is '61'; there are: 1, 16"),
        ({"sizes": ["64x64"], "exclude": [{"size": "960x640"}]}, "is '960x640'; there are: 64x64"),
        ({"characters": ["A,B", "none"], "exclude": [{"character": "C"}]}, "is 'C'; there are: A,B, none"),
        ({"seeds": 3, "exclude": [{"seed": 3}]}, "is '3'; there are: 0, 1, 2"),
        ({"variables": {"a": ["x"]}, "exclude": [{"{a}": "yy"}]}, "is 'yy'; there are: x"),
    ],
)
def test_an_exclude_of_a_value_that_no_axis_has_is_refused_and_its_cell_not_bought(
    said: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words) as caught:
        made(**said)
    assert caught.value.field == "exclude"


def test_a_matrix_has_a_largest_size_and_is_refused_before_it_is_made() -> None:
    with pytest.raises(InputError, match="cells for each prompt"):
        Matrix(axes(styles=[str(n) for n in range(MOST_CELLS)], seeds=MOST_CELLS))


def test_prompts_are_read_no_further_than_they_are_asked_for() -> None:
    def endless() -> Any:
        while True:
            yield "a fox"

    requests = iter(asyncgen.matrix(endless(), styles=["1", "16"]))
    assert [next(requests).style_id for _ in range(3)] == ["1", "16", "1"]
    with pytest.raises(InputError, match="not a single str"):
        asyncgen.matrix("a fox", styles=["1", "16"])
