"""A matrix from the command line and from Python: what it buys, what it keeps, and what is in the record."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
from support import (
    Ran,
    Remote,
    account,
    cli_environment,
    open_sandbox,
    run_cli,
    sandbox_in_a_thread,
    settings_for,
    true_output,
)
from typer.testing import CliRunner

import asyncgen
from asyncgen import ImageGenerator, InputError
from asyncgen.cli import app

Cli = Callable[..., Ran]
PROMPTS = ["a fox in the snow", "an owl at night", "a heron at dawn"]
SIZE = ("--size", "64x64")
_numbers = iter(range(1, 40))


@pytest.fixture(scope="module")
def everywhere() -> Iterator[Remote]:
    with sandbox_in_a_thread(endpoints=[f"ep-{number}" for number in range(1, 40)]) as remote:
        yield remote


@pytest.fixture
def endpoint() -> str:
    return f"ep-{next(_numbers)}"


@pytest.fixture
def cli(everywhere: Remote, endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.chdir(tmp_path)
    for name, value in cli_environment(**account(everywhere, endpoint)).items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str) -> Ran:
        result = CliRunner().invoke(app, arguments)
        return Ran(result.exit_code, result.stdout, result.stderr)

    return run


def lines(root: Path) -> list[dict[str, object]]:
    return true_output(root / "asyncgen-sandbox")


def test_a_new_style_and_moved_rows_buy_only_the_new_cells(
    cli: Cli, everywhere: Remote, endpoint: str, tmp_path: Path
) -> None:
    file = tmp_path / "p.txt"
    file.write_text("\n".join(PROMPTS))
    matrix = ("--style", "1", "--style", "16", "--character", "A,B", "--character", "none", "--seeds", "2", "--control")
    first = cli("batch", "p.txt", *matrix, *SIZE)
    assert "p: 30 wanted: 30 new, 0 kept, 0 changed" in first.out, first
    before = lines(tmp_path)
    again = cli("batch", "p.txt", *matrix, *SIZE)
    assert "p: 30 wanted: 0 new, 30 kept, 0 changed" in again.out, again

    file.write_text("\n".join(["", *random.Random(1).sample(PROMPTS, len(PROMPTS))]))
    second = cli("batch", "p.txt", "--style", "4", *matrix, *SIZE)
    assert "p: 42 wanted: 12 new, 30 kept, 0 changed" in second.out, second
    books = everywhere.books(endpoint)
    assert len(books) == 42
    assert {job["style_id"] for job in lines(tmp_path) if job not in before} == {"4"}
    assert all(line in lines(tmp_path) for line in before)
    for prompt in PROMPTS:
        made = [line for line in lines(tmp_path) if line["prompt"] == prompt]
        assert len({line["seed"] for line in made}) == 2
        assert {len(line["loras"]) for line in made if line["style_id"] is None} == {0}  # type: ignore[arg-type]


def test_ids_keep_their_images_when_styles_are_added(
    cli: Cli, everywhere: Remote, endpoint: str, tmp_path: Path
) -> None:
    rows = [{"prompt": prompt, "id": f"row-{number}"} for number, prompt in enumerate(PROMPTS)]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert "6 wanted: 6 new" in cli("batch", "p.jsonl", "--style", "1", "--style", "16", *SIZE).out
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, reversed(rows))))
    ran = cli("batch", "p.jsonl", "--style", "16", "--style", "4", "--style", "1", *SIZE)
    assert "9 wanted: 3 new, 6 kept, 0 changed" in ran.out, ran
    assert len(everywhere.books(endpoint)) == 9
    told = cli("why", "row-0/4/64x64/seed-0", "--sandbox")
    assert told.code == 0, told


def test_one_style_alone_is_no_matrix_and_grows_into_one_without_buying_anything_twice(
    cli: Cli, everywhere: Remote, endpoint: str, tmp_path: Path
) -> None:
    (tmp_path / "p.txt").write_text("\n".join(PROMPTS))
    assert cli("batch", "p.txt", "--style", "1", *SIZE).code == 0
    assert all("seed" not in line["request"] for line in lines(tmp_path))  # type: ignore[operator]
    ran = cli("batch", "p.txt", "--style", "1", "--style", "16", "--seeds", "2", *SIZE)
    assert "p: 12 wanted: 9 new, 3 kept, 3 changed" in ran.out, ran
    assert len(everywhere.books(endpoint)) == 12


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (("--style", "1", "--seeds", "1", *SIZE), ("--style", "16", "--seeds", "1", *SIZE)),
        (("--style", "1", "--seeds", "1", *SIZE), ("--style", "1", "--seeds", "1", "--size", "128x64")),
        (SIZE, ("--size", "128x64")),
    ],
)
def test_another_value_for_all_is_another_image(
    cli: Cli, tmp_path: Path, first: tuple[str, ...], then: tuple[str, ...]
) -> None:
    (tmp_path / "p.txt").write_text("a fox")
    assert "p: 1 wanted: 1 new" in cli("batch", "p.txt", *first).out
    ran = cli("batch", "p.txt", *then)
    assert "1 wanted: 1 new, 0 kept" in ran.out, ran
    assert "1 wanted: 0 new, 1 kept" in cli("batch", "p.txt", *first).out


def test_a_batch_file_says_the_same_and_options_win_over_it(
    cli: Cli, everywhere: Remote, endpoint: str, tmp_path: Path
) -> None:
    (tmp_path / "sets").mkdir()
    (tmp_path / "sets" / "p.csv").write_text("id,prompt\nfox,a {color} fox\n")
    (tmp_path / "sets" / "winter.toml").write_text("""
prompts = "p.csv"
styles = ["1", "16"]
seeds = 2
sizes = ["64x64"]
[variables]
color = ["red", "white"]
[defaults]
steps = 7
""")
    ran = cli("batch", "sets/winter.toml")
    assert "winter: 8 wanted: 8 new" in ran.out, ran
    assert {(line["prompt"], line["steps"]) for line in lines(tmp_path)} == {("a red fox", 7), ("a white fox", 7)}
    assert "fox/16/64x64/color=white/seed-1" in {line["id"] for line in lines(tmp_path)}
    more = cli("batch", "sets/winter.toml", "--style", "4", "--seeds", "1", "--steps", "8")
    assert "winter: 2 wanted: 2 new" in more.out, more
    assert {line["steps"] for line in lines(tmp_path) if line["style_id"] == "4"} == {8}


def test_one_workflow_of_the_command_replaces_those_of_a_batch_file(cli: Cli, tmp_path: Path) -> None:
    said = {"prompts": ["a fox"], "workflows": ["v4", "text2img_core_only"], "sizes": ["64x64"]}
    (tmp_path / "b.json").write_text(json.dumps(said))
    assert "b: 1 wanted: 1 new" in cli("batch", "b.json", "--workflow", "schnell").out
    assert [line["workflow"] for line in lines(tmp_path)] == ["schnell"]


def test_an_option_for_all_rows_is_for_those_workflows_that_take_it(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text(PROMPTS[0])
    (tmp_path / "own.csv").write_text("prompt,guidance\na fox,4\n")
    both, said = ("--workflow", "v4", "--workflow", "schnell"), ("--guidance", "2.5", "--no-teacache")
    ran = cli("batch", "p.txt", *both, *said, *SIZE)
    assert ran.code == 0, ran
    assert ran.out.count("flux_guidance is left out for schnell") == 1
    found = {line["workflow"]: line for line in lines(tmp_path)}
    assert (found["normal_image_v4_workflow"]["flux_guidance"], found["schnell"]["flux_guidance"]) == (2.5, None)
    assert (found["normal_image_v4_workflow"]["parameters"], found["schnell"]["parameters"]) == (
        {"teacache": False},
        {},
    )
    notes = cli("plan", "p.txt", *both, *said, *SIZE, "--json").summary["notes"]
    assert sum("is left out for schnell" in note for note in notes) == 2
    for wrong in (
        ("p.txt", "--workflow", "schnell", *said),
        ("p.txt", "--workflow", "schnell", "--workflow", "text2img_core_only", "--no-teacache"),
        ("own.csv", *both),  # a row means its own value
    ):
        assert cli("batch", *wrong, *SIZE, "--name", "other").code == 2, wrong


def test_prompts_may_stand_in_the_batch_file(cli: Cli, tmp_path: Path) -> None:
    said = {"prompts": ["a fox", {"prompt": "an owl", "steps": 9}], "seeds": [5], "sizes": ["64x64"]}
    (tmp_path / "b.json").write_text(json.dumps(said))
    assert "b: 2 wanted: 2 new" in cli("batch", "b.json").out
    assert {(line["prompt"], line["seed"]) for line in lines(tmp_path)} == {("a fox", 5), ("an owl", 5)}


@pytest.mark.parametrize("matrix", [(), ("--style", "1", "--style", "16")])
def test_a_folder_of_captions_is_continued_by_what_is_in_its_files(
    cli: Cli, everywhere: Remote, endpoint: str, tmp_path: Path, matrix: tuple[str, ...]
) -> None:
    pets = tmp_path / "pets"
    (pets / "cats").mkdir(parents=True)
    (pets / "dog.txt").write_text("a dog")
    (pets / "cats" / "tom.txt").write_text("a cat\nat home\n")
    images = 2 if matrix else 1
    assert f"pets: {2 * images} wanted: {2 * images} new" in cli("batch", "pets", *SIZE, *matrix).out
    assert {line["prompt"] for line in lines(tmp_path)} == {"a dog", "a cat at home"}
    assert {str(line["id"]).split("/seed")[0] for line in lines(tmp_path)} == (
        {f"{name}/{style}/64x64" for name in ("dog", "cats/tom") for style in ("1", "16")}
        if matrix
        else {"dog", "cats/tom"}
    )
    (pets / "ant.txt").write_text("an ant")
    ran = cli("batch", "pets", *SIZE, *matrix)
    assert f"pets: {3 * images} wanted: {images} new, {2 * images} kept" in ran.out, ran
    (pets / "ant.txt").write_text("")
    ran = cli("batch", "pets", *SIZE, *matrix)
    assert (ran.code, "pets/ant.txt:prompt: the prompt is empty" in ran.err) == (2, True), ran
    assert len(everywhere.books(endpoint)) == 3 * images


def test_a_parquet_file_is_made_and_continued(cli: Cli, everywhere: Remote, endpoint: str, tmp_path: Path) -> None:
    table = pa.table(
        {"prompt": ["a {color} fox"] * 2, "{color}": ["red", "blue"], "width": [64, 64], "height": [64, 64]}
    )
    pyarrow.parquet.write_table(table, tmp_path / "p.parquet")
    assert "p: 2 wanted: 2 new" in cli("batch", "p.parquet").out
    assert "p: 2 wanted: 0 new, 2 kept" in cli("batch", "p.parquet").out
    request = {line["prompt"]: line["request"] for line in lines(tmp_path)}["a red fox"]
    assert request["template"] == "a {color} fox"  # type: ignore[index]
    assert request["variables"] == {"color": "red"}  # type: ignore[index]
    assert len(everywhere.books(endpoint)) == 2
    ran = cli("batch", "-", "--format", "parquet")
    assert (ran.code, "cannot be read from standard input" in ran.err) == (2, True), ran


def test_choices_are_resolved_kept_in_the_record_and_continued(
    cli: Cli, everywhere: Remote, endpoint: str, tmp_path: Path
) -> None:
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "animal.txt").write_text("fox\nowl\nheron\n")
    (tmp_path / "p.txt").write_text("a {red|blue} __animal__\na lamp\n")
    options = ("--wildcards", "combinatorial", "--wildcards-folder", "words", *SIZE)
    assert "p: 7 wanted: 7 new" in cli("batch", "p.txt", *options).out
    (tmp_path / "words" / "animal.txt").write_text("heron\nowl\nfox\ncat\n")
    (tmp_path / "p.txt").write_text("a lamp\na {red|blue} __animal__\n")
    assert "p: 9 wanted: 2 new, 7 kept, 0 changed" in cli("batch", "p.txt", *options).out
    request = {line["prompt"]: line["request"] for line in lines(tmp_path)}["a red cat"]
    assert request["template"] == "a {red|blue} __animal__"  # type: ignore[index]
    assert request["variables"] == {"{red|blue}": "red", "__animal__": "cat"}  # type: ignore[index]
    (tmp_path / "p.txt").write_text("a lamp for $5\na {red|blue\n")
    ran = cli("batch", "p.txt", *options)
    assert ran.code == 2
    assert "p.txt:1:prompt: the prompt at character 12: dynamicprompts fails on '$': write \\$" in ran.err
    assert "p.txt:2:prompt: the prompt at character 3: this brace is not closed" in ran.err
    assert len(everywhere.books(endpoint)) == 9


def test_standard_input_may_be_of_any_text_format_and_in_a_matrix(
    everywhere: Remote, endpoint: str, tmp_path: Path
) -> None:
    options = ("--size", "64x64", "--style", "1", "--style", "16", "--json")
    rows = "prompt,{color}\na {color} fox,red\na {colour} owl,blue\n"
    ran = run_cli(
        "batch",
        "-",
        "--format",
        "csv",
        "--skip-bad",
        *options,
        cwd=tmp_path,
        env=account(everywhere, endpoint),
        stdin=rows,
    )
    assert (ran.code, ran.summary["made"]) == (0, 2), ran
    assert ran.err.count("stdin:3:prompt: there is no variable {colour}") == 1
    assert {line["prompt"] for line in lines(tmp_path)} == {"a red fox"}


@pytest.mark.parametrize(
    ("file", "text", "options", "told"),
    [
        ("p.txt", "a fox", ("--style", "1", "--style", "99"), "style '99'"),
        ("p.txt", "a fox", ("--wildcards-folder", "."), "wildcards_folder: say how"),
        ("p.txt", "a fox", ("--size", "64"), "sizes: a size is WIDTHxHEIGHT"),
        ("p.txt", "a fox", ("--size", "64x64", "--width", "32"), "is said twice"),
        ("p.txt", "a fox", ("--workflow", "schnell", "--workflow", "nosuch"), "nosuch"),
        ("p.csv", "prompt,style\nan owl,4\n", ("--style", "1", "--style", "16"), "p.csv:2:style_id: the row says this"),
        ("b.toml", 'prompts = "none.txt"', (), "none.txt: cannot be read"),
        ("b.toml", 'prompts = ["a fox", ""]', (), "b.toml prompts:2:prompt: "),
        ("b.toml", "styles = 3", (), "b.toml:styles: must be a list"),
    ],
)
def test_what_is_wrong_is_told_once_and_nothing_is_sent(
    cli: Cli,
    everywhere: Remote,
    endpoint: str,
    tmp_path: Path,
    file: str,
    text: str,
    options: tuple[str, ...],
    told: str,
) -> None:
    (tmp_path / file).write_text(text)
    ran = cli("batch", file, *options)
    assert ran.code == 2, ran
    assert ran.err.count(told) == 1, ran.err
    assert everywhere.books(endpoint) == []


@pytest.mark.anyio
async def test_python_has_it_as_a_function_whose_prompts_are_checked_whole(tmp_path: Path) -> None:
    async with open_sandbox() as sandbox, ImageGenerator(settings_for(sandbox, tmp_path)) as generator:
        wanted = asyncgen.matrix(PROMPTS, styles=["1", "16"], sizes=["64x64"], seeds=2)
        results = await generator.generate_many(wanted, batch="set")
        assert len({(result.prompt, result.style_id, result.seed) for result in results}) == 12
        more = asyncgen.matrix(PROMPTS[::-1], styles=["16", "4", "1"], sizes=["64x64"], seeds=2)
        results = await generator.generate_many(more, batch="set")
        assert len(results) == 18
        assert len(list(sandbox.books.entries())) == 18
        with pytest.raises(InputError, match="prompt 2"):
            await generator.generate_many(asyncgen.matrix(["a fox", ""], seeds=2), batch="other")
        assert len(list(sandbox.books.entries())) == 18
