"""Choices and wildcards: what they are made into, what is kept of them, and what the library would mangle."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import asyncgen
from asyncgen.errors import InputError
from asyncgen.matrix_requests import matrix
from asyncgen.request import ImageRequest, content_key
from asyncgen.wildcards import Wildcards

FILES = {
    "color": "red\n# a comment\ngreen\nblue\n",
    "animal": "{big|small} fox\nheron\n",
    "price": "\\$5\nnothing\n",
    "bad": "tag #1\n",
    "self": "a __self__\n",
}
RANDOM = Wildcards("random")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("wildcards")
    for name, text in FILES.items():
        (path / f"{name}.txt").write_text(text)
    return path


def every(text: str, folder: Path | None = None) -> list[str]:
    return [choice.text for choice in Wildcards("combinatorial", folder).choices(text, None, 0)]


def one(text: str, number: int = 0, own_id: str | None = None) -> str:
    (choice,) = RANDOM.choices(text, own_id, number)
    return choice.text


@pytest.mark.parametrize(
    ("text", "all_texts"),
    [
        ("a {red|green} fox", ["a red fox", "a green fox"]),
        ("__color__ {a|{b|c}}", [f"{color} {x}" for color in ("blue", "green", "red") for x in "abc"]),
        ("a __animal__", ["a heron", "a big fox", "a small fox"]),
        ("{2$$ and $$a|b}", ["a and b", "b and a"]),
        ("{a|a} {x|y}", ["a x", "a y"]),
        ("__price__", ["$5", "nothing"]),
        ("plain (a:1.2) [b] <lora:x:1>", ["plain (a:1.2) [b] <lora:x:1>"]),
        (r"\$5, 10\%, \#1, \{x\|y\}, \_\_z\_\_ {a|b}", [f"$5, 10%, #1, {{x|y}}, __z__ {x}" for x in "ab"]),
        ("a\tb {x|y}", ["a\tb x", "a\tb y"]),
        ("${c={red|blue}}a ${c} fox", ["a red fox", "a blue fox"]),
    ],
)
def test_all_prompts_that_a_text_stands_for(folder: Path, text: str, all_texts: list[str]) -> None:
    assert every(text, folder) == all_texts


def test_what_was_chosen_is_told_by_how_it_is_written(folder: Path) -> None:
    choices = Wildcards("combinatorial", folder).choices(r"\$5 {red|blue} __animal__, {red|blue}", None, 0)
    assert [choice.values for choice in choices][1] == {
        "{red|blue}": "red", "__animal__": "heron", "{red|blue} (3)": "blue",
    }  # fmt: skip


@given(st.integers(0, 10_000), st.text(max_size=5))
@settings(max_examples=20)
def test_a_random_choice_is_of_text_id_and_number_alone(number: int, own_id: str) -> None:
    text = "{a|b|c|d|e|f} {1|2|3|4|5|6}"
    (again,) = Wildcards("random").choices(text, own_id, number)
    assert one(text, number, own_id) == again.text
    assert len(again.text) == 3


def test_random_choices_differ_by_number_and_are_those_of_every_later_version() -> None:
    """If this fails, random batches that are continued would be bought again."""
    assert [one("{a|b|c|d|e|f} {1|2|3}", number) for number in range(4)] == ["d 3", "a 1", "c 3", "c 1"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("costs $5", r"character 7: dynamicprompts fails on '$': write \$"),
        ("hero #1", r"character 6: dynamicprompts drops '#' and what follows it: write \#"),
        ("100% {a|b}", r"character 4: dynamicprompts fails on '%': write \%"),
        ("a {red|blue", r"character 3: this brace is not closed; a plain one is written \{"),
        ("a {b {c|d}", r"character 3: this brace is not closed"),
        ("a {color} fox", r"a choice of one, {color}: declare a variable of that name, or write \{color\}"),
        ("a {} fox", r"an empty choice {}: write \{\}"),
        ("{3$$a|b}", "a choice of 3 to 3 of 2 values"),
        ("{~a|b}", "takes ~, ! or @"),
        ("__colour__", "has no wildcard 'colour'; did you mean __color__?"),
        ("__{colour|x}__", "has no wildcard 'colour'"),
        ("a __b", r"at character 3: a brace, or __, without its partner is written \{ or \_\_"),
        ("__bad__", "the value 'tag #1' of the wildcard __bad__ at character 5: dynamicprompts drops '#'"),
        ("__self__", "leads back to itself"),
        ("${x} {a|b}", "Variable x is not defined"),
        ("{a|b}" * 14, "stands for more than 10,000 prompts"),
    ],
)
def test_what_the_library_would_mangle_is_told_with_what_to_write(folder: Path, text: str, told: str) -> None:
    with pytest.raises(InputError) as caught:
        every(text, folder)
    assert told in str(caught.value)


def test_a_wildcard_without_a_folder_and_a_folder_that_is_none_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--wildcards-folder"):
        every("__color__")
    with pytest.raises(InputError, match="is not a folder"):
        Wildcards("random", tmp_path / "gone")
    with pytest.raises(InputError, match="wildcards_folder: say how"):
        matrix(["a fox"], wildcards_folder=tmp_path)


def test_without_the_extra_it_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("dynamicprompts")]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=r"pip install 'asyncgen\[wildcards\]'"):
        Wildcards("random")


@given(st.text(st.sampled_from(list("ab {}|$#%_\\:~!@()1-2\t")), max_size=12))
@settings(max_examples=150)
def test_no_text_makes_it_raise_anything_else_or_lose_a_letter_outside_choices(text: str) -> None:
    for mode in ("random", "combinatorial"):
        try:
            for choice in Wildcards(mode).choices(text, None, 0):  # type: ignore[arg-type]  # they are its modes
                if not choice.values:
                    assert choice.text == text or "\\" in text
        except InputError as error:
            assert error.field == "prompt"


def made(prompt: dict[str, str], **said: object) -> list[ImageRequest]:
    return list(asyncgen.matrix([prompt], **said))  # type: ignore[arg-type]  # any of them


def test_every_style_gets_the_same_choice_and_each_seed_another() -> None:
    row = {"prompt": "a {a|b|c|d|e|f|g|h} {1|2|3|4|5|6|7|8}", "id": "row"}
    requests = made(row, styles=["1", "16"], seeds=3, wildcards="random")
    assert len(requests) == 6
    assert len({one.prompt for one in requests}) == len({(one.prompt, one.seed) for one in requests}) == 3
    first = requests[0]
    assert first.template == row["prompt"]
    assert set(first.variables) == {"{a|b|c|d|e|f|g|h}", "{1|2|3|4|5|6|7|8}"}
    assert first.id == "row/1/seed-0"
    assert made(row, styles=["1"], images=2, wildcards="random") == requests[:2]
    with pytest.raises(InputError, match="prompt 1:images"):
        made(row, seeds=2, images=2, wildcards="random")


def test_all_choices_have_their_own_identity_which_is_what_they_say() -> None:
    requests = made({"prompt": "a {red|blue} {color}"}, variables={"color": ["x"]}, wildcards="combinatorial")
    assert [one.prompt for one in requests] == ["a red x", "a blue x"]
    assert requests[0].said()["variables"] == {"color": "x", "{red|blue}": "red"}
    plain = ImageRequest(prompt="a red x")
    assert content_key(plain, 0, "w") == content_key(requests[0], 0, "w")
    named = made({"prompt": "a {red|blue} fox", "id": "row"}, wildcards="combinatorial")
    wider = made({"prompt": "a {green|red|blue} fox", "id": "row"}, wildcards="combinatorial")
    assert {one.id for one in named} < {one.id for one in wider}


def test_a_prompt_without_choices_is_as_it_would_be_without_the_library() -> None:
    assert made({"prompt": "a fox"}, styles=["1"], seeds=1, wildcards="random") == made(
        {"prompt": "a fox"}, styles=["1"], seeds=1
    )


def test_a_name_that_leads_out_of_the_folder_is_refused_and_the_library_logs_nothing(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(InputError, match=r"no wildcard '\.\./secret'"):
        every("a __../secret__", folder)
    assert caplog.records == []
