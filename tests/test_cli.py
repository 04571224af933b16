"""The command line in a process of its own: commands, exit codes, what is printed where, and signals.

Starting Python costs most of the time here, so a test claims what one run of a command shows. One sandbox serves all;
each test has an endpoint of its own on it.
"""

from __future__ import annotations

import json
import logging
import os
import pty
import re
import signal
import sqlite3
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from aiohttp import web
from anyio.from_thread import start_blocking_portal
from PIL import Image
from support import (
    ENDPOINT,
    KEY,
    Ran,
    Remote,
    account,
    cli_environment,
    fault,
    files,
    ledger_rows,
    manifest,
    prompts,
    run_cli,
    sandbox_in_a_thread,
    site,
    started,
    states,
    true_output,
    wait_until,
)
from typer.testing import CliRunner

from asyncgen.cli import app

SIZE = ("--width", "64", "--height", "64")
Cli = Callable[..., Ran]


@pytest.fixture(scope="module")
def everywhere() -> Iterator[Remote]:
    with sandbox_in_a_thread(zero_workers=["idle-1", "idle-2", "idle-3", "idle-4"], endpoints=ENDPOINTS) as remote:
        yield remote


ENDPOINTS = [*(f"idle-{number}" for number in range(1, 5)), *(f"ep-{number}" for number in range(1, 90))]
_numbers = iter(range(1, 90))


@pytest.fixture
def sandbox(everywhere: Remote) -> Iterator[Remote]:
    yield everywhere
    everywhere.clear()


@pytest.fixture
def endpoint() -> str:
    return f"ep-{next(_numbers)}"


@pytest.fixture
def cli(sandbox: Remote, endpoint: str, tmp_path: Path) -> Cli:
    """Run a command as a user of an endpoint, in a folder of their own."""

    def run(*arguments: str, stdin: str = "", **variables: str) -> Ran:
        return run_cli(*arguments, cwd=tmp_path, env={**account(sandbox, endpoint), **variables}, stdin=stdin)

    return run


@pytest.fixture
def inside(sandbox: Remote, endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cli]:
    """As `cli`, within this process: for what needs no process of its own, because starting one takes a second."""
    logger = logging.getLogger("asyncgen")
    before = logger.handlers[:], logger.level, logger.propagate
    monkeypatch.chdir(tmp_path)
    for name, value in cli_environment(**account(sandbox, endpoint)).items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str) -> Ran:
        result = CliRunner().invoke(app, arguments)
        return Ran(result.exit_code, result.stdout, result.stderr)

    yield run
    for handler in logger.handlers:
        handler.close()
    logger.handlers[:], logger.level, logger.propagate = before


def write(path: Path, lines: list[Any]) -> str:
    text = "".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines)
    path.write_text(text, encoding="utf-8")
    return path.name


# -- a batch --------------------------------------------------------------------------------------------------------


def test_a_batch_is_made_and_continued(cli: Cli, sandbox: Remote, endpoint: str, tmp_path: Path) -> None:
    file = write(tmp_path / "animals.txt", ["# animals", "", *prompts(6)])
    first = cli("batch", file, "--style", "1", *SIZE)
    assert first.code == 0, first
    assert "animals: 6 wanted: 6 new, 0 kept, 0 changed" in first.out
    root = tmp_path / "asyncgen-sandbox"
    assert {Path(line["path"]).parts[:3] for line in true_output(root)} == {
        ("resources", "style_images", "1_ink_intensity")
    }
    # edited: one row gone, one new, the others in another order
    write(tmp_path / "animals.txt", ["a new one", *prompts(6)[:0:-1]])
    second = cli("batch", file, "--style", "1", *SIZE)
    assert second.code == 0, second
    assert "animals: 6 wanted: 1 new, 5 kept, 0 changed" in second.out
    assert len(sandbox.books(endpoint)) == 7
    assert len(true_output(root)) == 7


def test_json_is_one_object_a_line_and_nothing_else(cli: Cli, tmp_path: Path) -> None:
    file = write(tmp_path / "p.txt", prompts(3))
    ran = cli("batch", file, *SIZE, "--json", "-vv")
    assert [entry["event"] for entry in ran.json] == ["start", "result", "result", "result", "summary"]
    results = {entry["index"]: entry for entry in ran.json if entry["event"] == "result"}
    assert [results[n]["metadata"]["prompt"] for n in range(3)] == prompts(3)
    assert all(re.fullmatch("img_[0-9a-f]{8}", entry["request_id"]) for entry in results.values())
    assert all((tmp_path / entry["saved_path"]).exists() for entry in results.values())
    assert ran.summary["made"] == 3
    assert "DEBUG" in ran.err


def test_some_failed_is_exit_code_1_and_retry_failed_tries_them_again(
    inside: Cli, sandbox: Remote, endpoint: str, tmp_path: Path
) -> None:
    sandbox.add(fault("failed:exception", endpoint=endpoint, prompt_contains="study 1"))
    file = write(tmp_path / "p.txt", prompts(3))
    first = inside("batch", file, *SIZE)
    assert (first.code, "1 failed; --retry-failed" in first.out) == (1, True), first
    sandbox.clear()
    assert inside("batch", file, *SIZE).code == 1
    assert len(sandbox.books(endpoint)) == 3
    second = inside("batch", file, *SIZE, "--retry-failed", "--json")
    assert (second.code, second.summary["made"], second.summary["kept"]) == (0, 1, 2)


def test_retry_and_status_know_a_batch_by_its_name(inside: Cli, sandbox: Remote, endpoint: str, tmp_path: Path) -> None:
    sandbox.add(fault("failed:exception", endpoint=endpoint, nth=[1]))
    file = write(tmp_path / "p.csv", ["prompt,seed", "a fox,", "a fox,", "an owl,7"])
    assert inside("batch", file, *SIZE, "--name", "zoo", "--out", "out").code == 1
    status = inside("status", "--out", "out", "--json")
    (entry,) = status.json
    assert (entry["name"], entry["wanted"], entry["states"]) == ("zoo", 3, {"failed": 1, "stored": 2})
    ran = inside("retry", "zoo", "--out", "out", "--json")
    assert (ran.code, ran.summary["wanted"], ran.summary["made"], ran.summary["kept"]) == (0, 3, 1, 2), ran
    unknown = inside("retry", "zzz", "--out", "out")
    assert (unknown.code, "'zzz'" in unknown.err, "zoo" in unknown.err) == (2, True, True)


def test_retry_never_wants_anything_new_whatever_workflow_and_urls_the_batch_was_made_with(
    inside: Cli, sandbox: Remote, endpoint: str, tmp_path: Path
) -> None:
    """Its wants come from the ledger and are those items, not whatever the same words would mean today."""
    folder = Path(__file__).parent.parent / "workflows"
    for suffix in (".json", ".bindings.json"):
        (tmp_path / f"mine{suffix}").write_bytes((folder / f"normal_image_v4_workflow{suffix}").read_bytes())
    sandbox.add(fault("failed:exception", endpoint=endpoint, nth=[2]))
    file = write(tmp_path / "p.txt", prompts(3))
    url = "style_ink_intensity=https://files.example/ink.safetensors"
    options = ("--style", "1", "--workflow", "mine.json", "--model-url", url, "--out", "out")
    assert inside("batch", file, *SIZE, *options).code == 1
    for told in ((), ("--workflow", "v4"), ()):
        ran = inside("retry", "p", "--out", "out", "--json", *told)
        assert (ran.code, ran.summary["wanted"], ran.summary["new"]) == (0, 3, 0), ran
    assert len(sandbox.books(endpoint)) == 4
    with closing(sqlite3.connect(tmp_path / "out" / "ledger.sqlite3")) as connection:
        specs = [json.loads(spec) for (spec,) in connection.execute("SELECT spec FROM item")]
    assert [(spec["workflow"], len(spec["model_urls"])) for spec in specs] == [("mine", 1)] * 3


def test_a_picture_in_memory_cannot_be_asked_for_in_a_file(
    inside: Cli, sandbox: Remote, endpoint: str, tmp_path: Path
) -> None:
    file = write(tmp_path / "p.csv", ["prompt,save_to_style", "a fox,false"])
    ran = inside("batch", file, *SIZE)
    assert (ran.code, "p.csv:2:save_to_style" in ran.err, sandbox.books(endpoint)) == (2, True, [])


def test_again_makes_a_new_set_beside_the_first(inside: Cli, sandbox: Remote, endpoint: str, tmp_path: Path) -> None:
    file = write(tmp_path / "p.jsonl", [{"prompt": "a fox"}, '"an owl"'])
    assert inside("batch", file, *SIZE).code == 0
    ran = inside("batch", file, *SIZE, "--again", "--json")
    assert (ran.code, ran.summary["batch"], ran.summary["made"]) == (0, "p-2", 2)
    assert len(sandbox.books(endpoint)) == 4


def test_an_edited_style_is_counted_and_bought_again_only_when_told(
    inside: Cli, sandbox: Remote, endpoint: str, tmp_path: Path
) -> None:
    shipped = Path(__file__).parent.parent / "resources" / "styles_registry.json"
    registry = json.loads(shipped.read_text())
    (tmp_path / "styles.json").write_text(json.dumps(registry))
    arguments = ("batch", write(tmp_path / "p.txt", prompts(2)), "--style", "1", *SIZE, "--styles", "styles.json")
    assert inside(*arguments).code == 0
    registry["styles"][0]["backpad"] = "in pale watercolour"
    (tmp_path / "styles.json").write_text(json.dumps(registry))
    kept = inside(*arguments)
    assert (kept.code, "0 new, 2 kept, 2 changed" in kept.out, "--rebuy-changed" in kept.out) == (0, True, True)
    made = inside(*arguments, "--rebuy-changed", "--json")
    assert (made.code, made.summary["made"], len(sandbox.books(endpoint))) == (0, 2, 4)
    assert all("pale watercolour" in line["prompt_sent"] for line in manifest(tmp_path / "asyncgen-sandbox"))


def test_options_are_for_all_rows_and_a_row_s_own_word_wins(
    inside: Cli, sandbox: Remote, endpoint: str, tmp_path: Path
) -> None:
    file = write(tmp_path / "p.csv", ["prompt,style_id,guidance", "a fox,,", "an owl,16,5.5"])
    options = ("--style", "1", "--guidance", "2.5", "--images", "2", "--batch-size", "2", "--seed", "3", "--steps", "9")
    ran = inside("batch", file, *SIZE, *options, "--json", "--character-lora", "bob", "--cine-strength", "0.5")
    assert ran.code == 0, ran
    lines = true_output(tmp_path / "asyncgen-sandbox")
    told = {(line["prompt"], line["style_id"], line["flux_guidance"], line["steps"], line["seed"]) for line in lines}
    assert told == {
        (prompt, style, guidance, 9, seed)
        for prompt, style, guidance in (("a fox", "1", 2.5), ("an owl", "16", 5.5))
        for seed in (3, 4)
    }
    assert len(sandbox.books(endpoint)) == 4
    assert len(lines) == 8
    assert all([lora["name"] for lora in line["loras"]][1:] == ["bob.safetensors", "FILM-V3-FLUX.safetensors"]
               for line in lines)  # fmt: skip


# -- input ----------------------------------------------------------------------------------------------------------


def test_bad_rows_are_told_by_file_line_and_field_and_nothing_is_sent(
    inside: Cli, sandbox: Remote, endpoint: str, tmp_path: Path
) -> None:
    rows = [{"prompt": "a fox"}, {"prompt": ""}, {"prompt": "x", "steps": 0}, {"prompt": "x", "style": "Inky"}, "{"]
    file = write(tmp_path / "p.jsonl", rows)
    ran = inside("batch", file, *SIZE)
    assert ran.code == 2
    for place in ("p.jsonl:2:prompt:", "p.jsonl:3:steps:", "p.jsonl:4:style", "p.jsonl:5"):
        assert place in ran.err
    assert "nothing was sent" in ran.err
    assert sandbox.books(endpoint) == []
    skipped = inside("batch", file, *SIZE, "--skip-bad")
    assert (skipped.code, "4 bad rows are left out" in skipped.out) == (0, True), skipped
    assert [job["prompt"] for job in sandbox.books(endpoint)] == ["a fox"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("batch", "header.csv"), "header.csv:1:header: the header names a column 'promt'"),
        (("batch", "missing.txt"), "missing.txt: cannot be read"),
        (("batch", "row.csv"), "row.csv:2:steps: "),
        (("batch", "empty.txt"), "there is no prompt in it"),
        (("batch", "row.csv", "--workflow", "none"), "workflow: there is no workflow 'none'"),
        (("generate", ""), "the prompt is empty"),
        (("retry", "none"), "has no batch 'none'"),
    ],
)
def test_with_json_what_stops_a_command_before_its_run_is_json_too(
    inside: Cli, tmp_path: Path, arguments: tuple[str, ...], told: str
) -> None:
    write(tmp_path / "header.csv", ["promt", "a fox"])
    write(tmp_path / "row.csv", ["prompt,steps", "a fox,x"])
    write(tmp_path / "empty.txt", ["# nothing"])
    ran = inside(*arguments, "--json")
    assert ran.code == 2
    (entry,) = ran.json
    assert entry["event"] == "error"
    assert any(told in problem for problem in entry["problems"]), entry
    assert entry["error"] in ran.err


def test_one_image_may_be_made_without_a_prompt_where_the_workflow_takes_none_and_in_a_size(
    inside: Cli, tmp_path: Path
) -> None:
    Image.linear_gradient("L").resize((64, 64)).convert("RGB").save(tmp_path / "a.png")
    picture = ("--init-image", "a.png")
    assert inside("generate", "--workflow", "upscale", *picture, "--name", "large").code == 0
    assert inside("generate", "a fox", "--size", "72x64", "--name", "small").code == 0
    lines = {line["batch"]: line for line in true_output(tmp_path / "asyncgen-sandbox")}
    assert (lines["large"]["workflow"], lines["large"]["prompt"]) == ("upscale", "")
    assert (lines["small"]["width"], lines["small"]["height"]) == (72, 64)
    for wrong, told in [
        (("--workflow", "img2img", *picture), "img2img needs a prompt"),
        (("--size", "64x64"), "prompt: this field is required"),
        (("a fox", "--size", "64x64", "--width", "64"), "leave one of them out"),
    ]:
        ran = inside("generate", *wrong)
        assert (ran.code, told in ran.err) == (2, True), ran


def test_a_stream_fails_at_its_row_and_keeps_what_is_done(
    cli: Cli, sandbox: Remote, endpoint: str, tmp_path: Path
) -> None:
    rows = "".join(f"{json.dumps({'prompt': prompt})}\n" for prompt in prompts(40)) + '{"prompt": ""}\n'
    ran = cli("batch", "-", "--format", "jsonl", *SIZE, "--name", "stream", stdin=rows)
    assert (ran.code, "stdin:41:prompt" in ran.err) == (2, True), ran
    sold = len(sandbox.books(endpoint))
    assert len(true_output(tmp_path / "asyncgen-sandbox")) == sold >= 32 - 1


def test_a_stream_is_worked_on_while_it_comes(sandbox: Remote, endpoint: str, tmp_path: Path) -> None:
    """One line, and then nothing for a while: its image is made meanwhile."""
    with started("batch", "-", *SIZE, cwd=tmp_path, env=account(sandbox, endpoint)) as process:
        assert process.stdin is not None
        process.stdin.write("a fox\n")
        process.stdin.flush()
        wait_until(lambda: len(sandbox.books(endpoint)) == 1, 10)
        process.stdin.write("an owl\n")
        process.stdin.close()
        assert process.wait(20) == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("batch", "nowhere.txt"), "nowhere.txt"),
        (("batch", "p.docx"), ".jsonl"),
        (("batch", "empty.txt"), "no prompt"),
        (("batch", "p.txt", "--style", "Ink Intensit"), "Ink Intensity"),
        (("batch", "p.txt", "--width", "65"), "width"),
        (("batch", "p.txt", "--model-url", "nonsense"), "NAME=URL"),
        (("batch", "p.txt", "--workflow", "nonsense"), "nonsense"),
        (("generate", " "), "prompt"),
    ],
)
def test_bad_input_is_exit_code_2_with_a_line_that_says_why(
    inside: Cli, tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    write(tmp_path / "p.txt", ["a fox"])
    write(tmp_path / "empty.txt", ["# nothing"])
    ran = inside(*arguments)
    assert (ran.code, says in ran.err, "Traceback" in ran.err, ran.out) == (2, True, False, ""), ran


def test_without_a_key_it_says_how_to_get_on(tmp_path: Path) -> None:
    ran = run_cli("generate", "a fox", cwd=tmp_path)
    assert (ran.code, "--sandbox" in ran.err) == (2, True)
    assert files(tmp_path) == []


# -- one image, and the other commands ------------------------------------------------------------------------------


def test_generate_makes_one_image_in_the_sandbox_without_any_account(tmp_path: Path) -> None:
    ran = run_cli("generate", "a fox", "--sandbox", "--filename", "fox", "--style", "1", *SIZE, cwd=tmp_path)
    assert (ran.code, ran.err.count("\n")) == (0, 0) or "LoRA" in ran.err, ran
    (line,) = true_output(tmp_path / "asyncgen-sandbox")
    assert line["path"].endswith("1_ink_intensity/fox.png")


def test_version_help_and_no_arguments(tmp_path: Path) -> None:
    version = run_cli("--version", cwd=tmp_path)
    assert (version.code, bool(re.fullmatch(r"asyncgen \d+\.\d+\.\d+\S*\n", version.out))) == (0, True)
    helped = run_cli("--help", cwd=tmp_path)
    assert all(command in helped.out for command in ("batch", "generate", "retry", "status", "styles", "check"))
    assert "Exit codes" in helped.out


def test_styles_are_listed_and_one_is_shown_with_its_history(inside: Cli) -> None:
    listed = inside("styles")
    assert (listed.code, "Ink Intensity" in listed.out, "Dynamic Simplicity" in listed.out) == (0, True, True)
    assert inside("generate", "a fox", "--style", "16", *SIZE).code == 0
    (shown,) = inside("styles", "show", "16", "--sandbox", "--json").json
    assert shown["style"]["title"] == "Dynamic Simplicity"
    assert [use["prompt"] for use in shown["history"]] == ["a fox"]
    unknown = inside("styles", "show", "99")
    assert (unknown.code, "99" in unknown.err) == (2, True)


def test_why_tells_the_story_of_an_image_by_every_name_it_has(inside: Cli, tmp_path: Path) -> None:
    row = {"prompt": "a [/b] fox", "id": "mine", "style": "16"}
    assert inside("batch", write(tmp_path / "p.jsonl", [row]), "--sandbox", *SIZE).code == 0
    root = tmp_path / "asyncgen-sandbox"
    (line,) = true_output(root)
    names = [line["request_id"], "mine", line["job_id"], line["path"], str(root / line["path"])]
    told = [inside("why", name, "--sandbox", "--json").json for name in names]
    assert [story["request_id"] for (answer,) in told for story in answer["stories"]] == [line["request_id"]] * 5
    shown = inside("why", "mine", "--sandbox")
    assert shown.code == 0, shown
    assert all(word in shown.out for word in ("a [/b] fox", line["job_id"], line["sha256"], "now stored: it is there"))
    nobody = inside("why", "img_00000000", "--sandbox")
    assert (nobody.code, "your own id, a job id, or a picture's path" in nobody.err) == (2, True)
    history = inside("styles", "show", "16", "--sandbox")
    assert (history.code, "a [/b] fox" in history.out) == (0, True), "a prompt is no markup"


def test_verify_tells_what_is_wrong_and_repair_mends_it(inside: Cli, tmp_path: Path) -> None:
    batch = ("batch", write(tmp_path / "p.txt", prompts(3)), "--sandbox", *SIZE)
    assert inside(*batch).code == 0
    root = tmp_path / "asyncgen-sandbox"
    well = inside("verify", "--sandbox")
    assert (well.code, well.out) == (0, "3 pictures looked at: all is well\n"), well
    (root / manifest(root)[0]["path"]).unlink()
    told = inside("verify", "--sandbox", "--json")
    assert (told.code, [entry.get("kind") for entry in told.json]) == (1, ["missing", None])
    assert told.summary == {"event": "summary", "pictures": 3, "repaired": False, "problems": {"missing": 1}}
    repaired = inside("verify", "--sandbox", "--repair")
    assert (repaired.code, "--retry-failed" in repaired.out, states(root)) == (1, True, {"stored": 2, "lost": 1})
    assert inside("verify", "--sandbox").code == 0
    (root / "ledger.sqlite3").write_bytes(b"damaged")
    rebuilt = inside("verify", "--sandbox", "--repair")
    assert (rebuilt.code, "2 that only the manifest knew" in rebuilt.out) == (1, True), rebuilt
    assert "ledger.sqlite3.damaged-1" in rebuilt.out
    again = inside(*batch, "--json")
    assert (again.code, again.summary["kept"], again.summary["made"]) == (0, 2, 1), "nobody remembers what was lost"
    nowhere = inside("verify", "--out", "nowhere")
    assert (nowhere.code, "nowhere is not there" in nowhere.err, (tmp_path / "nowhere").exists()) == (2, True, False)


def test_check_shows_settings_with_their_source_and_what_is_wrong(inside: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLLING_INTERVAL", "0.5")
    ran = inside("check")
    assert ran.code == 0, ran
    assert re.search(r"POLLING_INTERVAL +0\.5 +environment", ran.out)
    assert KEY not in ran.out + ran.err
    assert KEY[-4:] in ran.out
    (wrong,) = inside("check", "--endpoint", "no-such-endpoint", "--json").json
    assert [f["level"] for f in wrong["findings"] if "no-such-endpoint" in f["text"]] == ["problem"]


# -- exit codes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "code"), [("unauthorized", "key_refused"), ("no_credit", "no_credit")])
def test_an_account_that_refuses_work_is_exit_code_4_with_everything_pending(
    cli: Cli, sandbox: Remote, endpoint: str, tmp_path: Path, name: str, code: str
) -> None:
    sandbox.add(fault(name, endpoint=endpoint, nth=range(4, 1000)))
    ran = cli("batch", write(tmp_path / "p.txt", prompts(30)), *SIZE, "--concurrency", "4")
    assert (ran.code, code in ran.err, "27 still to do" in ran.out) == (4, True, True), ran
    assert states(tmp_path / "asyncgen-sandbox") == {"stored": 3, "wanted": 27}  # all 30 fit into one chunk


def test_unknown_outcomes_are_held_as_exit_code_5_until_told(
    cli: Cli, sandbox: Remote, endpoint: str, tmp_path: Path
) -> None:
    sandbox.add(fault("reset_after_accept", endpoint=endpoint, nth=[2, 4]))
    arguments = ("batch", write(tmp_path / "p.txt", prompts(6)), *SIZE)
    held = cli(*arguments)
    assert (held.code, "2 held" in held.out, "--unknown resubmit" in held.out) == (5, True, True), held
    assert cli(*arguments).code == 5
    assert len(sandbox.books(endpoint)) == 6
    told = cli(*arguments, "--unknown", "resubmit", "--json")
    assert (told.code, told.summary["made"], told.summary["held"]) == (0, 2, 0)
    assert len(sandbox.books(endpoint)) == 8


def held_beside_others(cli: Cli, sandbox: Remote, endpoint: str, tmp_path: Path) -> tuple[str, ...]:
    """A command that leaves one submission held, over a batch that has another one held and two wanted from before."""
    sandbox.add(
        fault("reset_after_accept", endpoint=endpoint, nth=[1]),
        fault("no_credit", endpoint=endpoint, nth=range(3, 1000)),
    )
    arguments = ("batch", write(tmp_path / "p.txt", prompts(4)), *SIZE, "--out", "out", "--concurrency", "1")
    assert cli(*arguments).code == 4
    assert states(tmp_path / "out") == {"unknown": 1, "stored": 1, "wanted": 2}
    sandbox.clear()
    sandbox.add(fault("reset_after_accept", endpoint=endpoint, prompt_contains="an owl", nth=[1]))
    write(tmp_path / "p.txt", ["an owl", "a hare"])
    return arguments


def test_a_yes_sends_again_what_was_asked_about_and_nothing_else(
    cli: Cli, sandbox: Remote, endpoint: str, tmp_path: Path
) -> None:
    arguments = held_beside_others(cli, sandbox, endpoint, tmp_path)
    ran = answered(tmp_path, sandbox, endpoint, *arguments, answer="y\n")
    assert (ran.code, "send the 1 held submissions again?" in ran.out, "p: 1 wanted: 0 new" in ran.out) == (
        0,
        True,
        True,
    ), ran
    assert [job["prompt"] for job in sandbox.books(endpoint)][2:] == ["an owl", "a hare", "an owl"]
    assert states(tmp_path / "out") == {"unknown": 1, "stored": 3, "wanted": 2}


@pytest.mark.parametrize(("answer", "code", "made"), [("y\n", 0, 3), ("n\n", 8, 1)])
def test_somebody_at_a_terminal_is_asked_after_a_pilot(
    sandbox: Remote, endpoint: str, tmp_path: Path, answer: str, code: int, made: int
) -> None:
    file = write(tmp_path / "p.txt", prompts(3))
    ran = answered(tmp_path, sandbox, endpoint, "batch", file, *SIZE, "--out", "out", "--pilot", "1", answer=answer)
    assert (ran.code, "make the other 2 images?" in ran.out, "contact sheet: " in ran.out) == (code, True, True), ran
    assert states(tmp_path / "out") == {"stored": made}


@pytest.mark.parametrize("answer", ["n\n", "\x04", signal.SIGINT])
def test_whatever_is_no_yes_leaves_them_held(
    cli: Cli, sandbox: Remote, endpoint: str, tmp_path: Path, answer: str | signal.Signals
) -> None:
    sandbox.add(fault("reset_after_accept", endpoint=endpoint, nth=[1]))
    ran = answered(tmp_path, sandbox, endpoint, "generate", "a fox", *SIZE, "--out", "out", answer=answer)
    assert (ran.code, "[y/N]" in ran.out, ran.err) == (5, True, ""), ran
    assert (len(sandbox.books(endpoint)), states(tmp_path / "out")) == (1, {"unknown": 1})


def test_what_failed_is_still_told_once_the_held_ones_are_there(sandbox: Remote, endpoint: str, tmp_path: Path) -> None:
    sandbox.add(
        fault("reset_after_accept", endpoint=endpoint, nth=[1]),
        fault("failed:exception", endpoint=endpoint, prompt_contains="study 1"),
    )
    arguments = ("batch", write(tmp_path / "p.txt", prompts(2)), *SIZE, "--out", "out", "--concurrency", "1")
    ran = answered(tmp_path, sandbox, endpoint, *arguments, answer="y\n")
    assert (ran.code, states(tmp_path / "out")) == (1, {"stored": 1, "failed": 1}), ran


def test_an_output_folder_or_a_network_that_cannot_be_used_is_exit_code_6(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file")
    disk = cli("generate", "a fox", *SIZE, "--out", "file")
    assert (disk.code, "--out" in disk.err, "Traceback" in disk.err) == (6, True, False), disk
    nowhere = cli("generate", "a fox", *SIZE, "--out", "/proc/nowhere")
    says = "/proc/nowhere cannot be made (No such file or directory): name another folder with --out"
    assert (nowhere.code, says in nowhere.err, "removed" in nowhere.err) == (6, True, False), nowhere
    network = cli("generate", "a fox", *SIZE, RUNPOD_ENDPOINT_BASE_URL="http://127.0.0.1:9/v2")
    assert (network.code, "127.0.0.1:9" in network.err, "Traceback" in network.err) == (6, True, False), network


# -- what it costs --------------------------------------------------------------------------------------------------


def nothing_looks_free(text: str) -> bool:
    return re.search(r"\$0(\.0+)?(?![\d.])", text) is None


def test_a_priced_run_says_what_it_cost_how_sure_that_is_and_by_which_price(inside: Cli, tmp_path: Path) -> None:
    file = write(tmp_path / "p.txt", prompts(3))
    told = inside("batch", file, *SIZE, "--usd-per-second", "0.5")
    assert told.code == 0, told
    assert re.search(r"cost: \$0\.07\d\d \(measured\), GPU time at \$0\.5 a second \(--usd-per-second\)", told.out), (
        told.out
    )
    assert re.search(r"beside it about \$[\d.]+ estimated for cold starts and idle workers", told.out)
    assert "failed and were paid for" not in told.out
    cost = inside("batch", file, *SIZE, "--again", "--gpu", "4090", "--json").summary["cost"]
    assert (cost["price"]["usd_per_second"], "RTX 4090" in cost["price"]["source"]) == (0.00031, True)
    assert re.search(r"table of \d{4}-\d\d", cost["price"]["source"])
    assert cost["execution"] == cost["made"]
    assert cost["made"] == {"usd": pytest.approx(0.15 * 0.00031, rel=0.1), "label": "measured", "most_usd": None}
    assert cost["cold_starts_and_idle"]["label"] == "estimated"
    assert {name: cost[name]["usd"] for name in ("failed", "cancelled", "lost", "unknown")} == {
        "failed": 0,
        "cancelled": 0,
        "lost": 0,
        "unknown": 0,
    }
    (first, second) = inside("status", "--sandbox", "--json").json
    assert [batch["costs"]["made"]["label"] for batch in (first, second)] == ["measured", "measured"]
    shown = inside("status", "--sandbox")
    assert re.search(r"GPU time +cost", shown.out)
    assert re.search(r"p .*\$0\.07\d\d", shown.out)
    assert nothing_looks_free(told.out + shown.out)
    lines = manifest(tmp_path / "asyncgen-sandbox")
    assert [line["cost_usd"] for line in lines] == [
        pytest.approx(line["execution_ms"] / 1000 * price)
        for line, price in zip(lines, [0.5] * 3 + [0.00031] * 3, strict=True)
    ]


def test_without_a_price_it_is_unpriced_wherever_it_is_shown(inside: Cli, tmp_path: Path) -> None:
    file = write(tmp_path / "p.txt", prompts(2))
    told = inside("batch", file, *SIZE)
    assert (told.code, "cost: unpriced (--usd-per-second or --gpu names a price)" in told.out) == (0, True), told
    cost = inside("batch", file, *SIZE, "--again", "--json").summary["cost"]
    unpriced = {"usd": None, "label": "unpriced", "most_usd": None}
    assert (cost["price"], cost["execution"], cost["cold_starts_and_idle"]) == (None, unpriced, unpriced)
    assert cost["held_at_most_usd"] is None
    shown = inside("status", "--sandbox")
    assert ("unpriced" in shown.out, nothing_looks_free(told.out + shown.out)) == (True, True)
    assert [line["cost_usd"] for line in manifest(tmp_path / "asyncgen-sandbox")] == [None] * 4


def test_work_that_gave_no_picture_and_held_submissions_are_counted_apart(
    inside: Cli, sandbox: Remote, endpoint: str, tmp_path: Path
) -> None:
    sandbox.add(
        fault("failed:exception", endpoint=endpoint, nth=[1]),
        fault("timed_out", endpoint=endpoint, nth=[2]),  # of which the platform gives no execution time
        fault("reset_after_accept", endpoint=endpoint, nth=[4, 5]),
    )
    file = write(tmp_path / "p.txt", prompts(5))
    options = ("--usd-per-second", "0.5", "--concurrency", "1")
    told = inside("batch", file, *SIZE, *options)
    assert told.code == 5, told
    assert re.search(r"cost: at least \$0\.\d+, at most \$[\d.,]+, GPU time at", told.out), told.out
    assert re.search(r"2 jobs failed and were paid for: at least \$0\.02\d+", told.out)
    assert "2 held:" in told.out
    assert "may pay twice: $600.00 at the most" in told.out
    again = inside("batch", file, *SIZE, *options, "--json")
    cost = again.summary["cost"]
    assert (again.code, cost["held_at_most_usd"]) == (5, 600)
    assert cost["execution"] == {"usd": 0, "label": "measured", "most_usd": None}
    (status,) = inside("status", "--sandbox", "--json").json
    assert {use: of["label"] for use, of in status["costs"].items()} == {
        "made": "measured",
        "failed": "lower bound",
        "unknown": "lower bound",
    }
    assert status["costs"]["unknown"]["usd"] is None
    assert re.search(r"at least \$0\.\d+, at most \$[\d.,]+", inside("status", "--sandbox").out)


def test_a_budget_holds_images_back_as_exit_code_7_and_goes_on_when_it_is_raised(
    inside: Cli, sandbox: Remote, endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASYNCGEN_EXECUTION_TIMEOUT", "5")
    file = write(tmp_path / "p.txt", prompts(5))
    arguments = ("batch", file, *SIZE, "--usd-per-second", "1")
    reached = inside(*arguments, "--budget", "5.12")
    assert (reached.code, "2 still to do; the same command continues" in reached.out) == (7, True), reached
    assert re.search(r"the budget of \$5\.12 is used up: \$0\.15\d\d of execution .* raise --budget", reached.err)
    assert "Traceback" not in reached.err
    same = inside(*arguments, "--budget", "5.12", "--json")
    assert (same.code, same.summary["made"], same.summary["kept"]) == (7, 0, 3)
    assert "the budget of $5.12 is used up" in same.summary["error"]
    assert len(sandbox.books(endpoint)) == 3
    raised = inside(*arguments, "--budget", "6", "--json")
    assert (raised.code, raised.summary["made"], raised.summary["kept"]) == (0, 2, 3)
    assert len(sandbox.books(endpoint)) == 5


def test_what_is_held_is_told_though_the_budget_decides_the_exit_code(
    inside: Cli, sandbox: Remote, endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASYNCGEN_EXECUTION_TIMEOUT", "5")
    sandbox.add(fault("reset_after_accept", endpoint=endpoint, nth=[1]))
    file = write(tmp_path / "p.txt", prompts(5))
    ran = inside("batch", file, *SIZE, "--usd-per-second", "1", "--budget", "6", "--concurrency", "1")
    assert (ran.code, "1 held: sent, but whether they were accepted was never learned" in ran.out) == (7, True), ran


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--budget", "1"), "--usd-per-second"),
        (("--budget", "0", "--gpu", "4090"), "greater than 0 (got '0.0'); mend --budget or the variable"),
        (("--usd-per-second", "-1"), "mend --usd-per-second or the variable"),
        (("--gpu", "a toaster"), "a toaster"),
        (("--gpu", "4090", "--usd-per-second", "1"), "keep one"),
    ],
)
def test_a_price_that_is_missing_or_wrong_is_exit_code_2_and_nothing_is_sent(
    inside: Cli, sandbox: Remote, endpoint: str, tmp_path: Path, options: tuple[str, ...], says: str
) -> None:
    ran = inside("batch", write(tmp_path / "p.txt", ["a fox"]), *SIZE, *options)
    assert (ran.code, says in ran.err, "Traceback" in ran.err) == (2, True, False), ran
    assert sandbox.books(endpoint) == []


def test_a_style_that_fails_over_and_over_is_told_and_the_others_are_made(
    inside: Cli, sandbox: Remote, endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASYNCGEN_LANE_FAULTS", "3")
    sandbox.add(fault("failed:exception", endpoint=endpoint, prompt_contains="broken"))
    rows = [
        {"prompt": f"{what} {n}", "style": style} for n in range(8) for what, style in (("broken", 1), ("good", 16))
    ]
    ran = inside("batch", write(tmp_path / "p.jsonl", rows), *SIZE, "--concurrency", "1", "--json")
    summary = ran.summary
    assert (ran.code, summary["made"], summary["failed"], summary["pending"]) == (1, 8, 3, 5), ran
    (stopped,) = summary["stopped_lanes"]
    assert (stopped["lane"], stopped["count"], stopped["failure"]["code"]) == (
        "style 1",
        "3 times the same in a row",
        "worker_error",
    )
    pending = [entry for entry in ran.json if entry.get("status") == "pending"]
    assert len(pending) == 5
    assert all("not sent: style 1 is stopped" in entry["failure"]["message"] for entry in pending)
    assert "style 1 is stopped" in ran.err


# -- signals --------------------------------------------------------------------------------------------------------


def started_batch(tmp_path: Path, sandbox: Remote, endpoint: str, count: int, *options: str) -> Any:
    file = write(tmp_path / "p.txt", prompts(count))
    arguments = ("batch", file, *SIZE, "--out", "out", "--concurrency", "8", *options)
    return started(*arguments, cwd=tmp_path, env=account(sandbox, endpoint))


def test_ctrl_c_while_the_program_is_still_loading_ends_it_without_a_word(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n", encoding="utf-8")
    done = run_cli("status", cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)})
    assert (done.code, done.out, done.err) == (-signal.SIGINT, "", "")


def test_ctrl_c_while_workers_are_woken_cancels_the_small_jobs_and_says_what_they_cost(tmp_path: Path) -> None:
    with sandbox_in_a_thread(execution="fixed:300") as slow:
        with started_batch(tmp_path, slow, "ep", 4, "--warm", "2", "--usd-per-second", "0.001") as process:
            wait_until(lambda: slow.accepted() == 2)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=20)
        assert process.returncode == 3, err
        assert [job["state"] for job in slow.books()] == ["CANCELLED"] * 2
    assert "2 small jobs sent, 2 of them still out and now cancelled; they cost $0.2400 in all of execution" in out


def test_ctrl_c_once_sends_nothing_new_and_collects_what_is_out(tmp_path: Path) -> None:
    with sandbox_in_a_thread(execution="fixed:300") as slow:
        with started_batch(tmp_path, slow, "ep", 200) as process:
            wait_until(lambda: slow.accepted() >= 8)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=20)
        assert (process.returncode, "in flight; once more stops now" in out, err) == (3, True, ""), (out, err)
        sold = slow.books()
        assert len(sold) <= 24
        assert states(tmp_path / "out")["stored"] == len(sold)
        assert "still to do; the same command continues" in out
    assert len(true_output(tmp_path / "out")) == len(sold)


def test_ctrl_c_twice_stops_at_once_and_the_ledger_remembers(sandbox: Remote, tmp_path: Path) -> None:
    with started_batch(tmp_path, sandbox, "idle-1", 20) as process:
        wait_until(lambda: states_so_far(tmp_path / "out").get("accepted", 0) == 8)
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        while "once more" not in process.stdout.readline():
            pass
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 3
    known = {job_id for (job_id,) in ledger_rows(tmp_path / "out", "SELECT job_id FROM item WHERE state = 'accepted'")}
    assert known == {job["id"] for job in sandbox.books("idle-1")}


def test_on_stop_cancel_takes_back_what_is_out(sandbox: Remote, tmp_path: Path) -> None:
    with started_batch(tmp_path, sandbox, "idle-2", 20, "--on-stop", "cancel") as process:
        wait_until(lambda: states_so_far(tmp_path / "out").get("accepted", 0) == 8)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 3
    assert [(job["cancels"], job["state"]) for job in sandbox.books("idle-2")] == [(1, "CANCELLED")] * 8
    assert states(tmp_path / "out") == {"cancelled": 8, "wanted": 12}


def test_ctrl_c_ends_a_stream_that_nobody_writes_to(sandbox: Remote, endpoint: str, tmp_path: Path) -> None:
    with started("batch", "-", *SIZE, "--out", "out", cwd=tmp_path, env=account(sandbox, endpoint)) as process:
        assert process.stdin is not None
        process.stdin.write("a fox\n" * 40)
        process.stdin.flush()
        wait_until(lambda: states_so_far(tmp_path / "out").get("stored", 0) >= 32)
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 3


def test_sigterm_is_as_good_as_ctrl_c(sandbox: Remote, tmp_path: Path) -> None:
    with started_batch(tmp_path, sandbox, "idle-3", 20, "--on-stop", "cancel", "--json") as process:
        wait_until(lambda: states_so_far(tmp_path / "out").get("accepted", 0) == 8)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=20)
        assert process.returncode == 3
    summary = Ran(3, out, "").summary
    assert (summary["cancelled"], summary["made"]) == (8, 0)


def test_a_ledger_in_use_names_the_process_that_uses_it_and_status_works_beside_it(
    cli: Cli, sandbox: Remote, tmp_path: Path
) -> None:
    with started_batch(tmp_path, sandbox, "idle-4", 20) as process:
        wait_until(lambda: states_so_far(tmp_path / "out").get("accepted", 0) == 8)
        second = cli("generate", "a fox", "--out", "out")
        assert (second.code, f"process {process.pid} (asyncgen)" in second.err) == (6, True), second
        (status,) = cli("status", "--out", "out", "--json").json
        assert status["states"]["accepted"] == 8
        process.kill()


def states_so_far(root: Path) -> dict[str, int]:
    """`states`, while another process is still making the ledger."""
    try:
        return states(root)
    except sqlite3.OperationalError:
        return {}


# -- what is shown, logged, and never shown -------------------------------------------------------------------------


def test_the_key_is_nowhere(cli: Cli, sandbox: Remote, endpoint: str, tmp_path: Path) -> None:
    sandbox.add(fault("unauthorized", endpoint=endpoint, nth=[4]), fault("502", endpoint=endpoint, nth=[2]))
    file = write(tmp_path / "p.txt", prompts(6))
    ran = cli("batch", file, *SIZE, "-vv", "--log-file", "log.txt", "--concurrency", "1")
    assert ran.code == 4
    assert KEY not in ran.out + ran.err
    assert {path for path in files(tmp_path) if KEY.encode() in path.read_bytes()} == set()
    log = (tmp_path / "log.txt").read_text()
    ids = {request_id for (request_id,) in ledger_rows(tmp_path / "asyncgen-sandbox", "SELECT request_id FROM item")}
    of_jobs = [line for line in log.splitlines() if "accepted as job" in line or "stored" in line]
    assert len(of_jobs) >= 4
    assert all(any(request_id in line for request_id in ids) for line in of_jobs)


def test_a_key_that_the_server_echoes_is_nowhere_either(tmp_path: Path) -> None:
    async def echo(request: web.Request) -> web.Response:
        return web.json_response({"error": f"cannot use {request.headers['Authorization']}"}, status=401)

    file = write(tmp_path / "p.txt", prompts(1))
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(site({"/v2/ep/{any:.*}": echo})) as url:
        ran = run_cli("batch", file, *SIZE, "-vv", "--out", "out", cwd=tmp_path, env=account(Remote(f"{url}/v2")))
        checked = run_cli("check", cwd=tmp_path, env=account(Remote(f"{url}/v2")))
    assert (ran.code, "key_refused" in ran.err) == (4, True), ran
    assert KEY not in ran.out + ran.err + checked.out + checked.err
    assert {path for path in files(tmp_path) if KEY.encode() in path.read_bytes()} == set()


def test_a_log_may_be_json_with_the_request_id_of_each_job(inside: Cli, tmp_path: Path) -> None:
    file = write(tmp_path / "p.txt", prompts(2))
    assert inside("batch", file, *SIZE, "-vv", "--log-file", "log.jsonl", "--log-json").code == 0
    entries = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    stored = [entry for entry in entries if entry["message"].startswith("stored")]
    assert len({entry["request_id"] for entry in stored}) == 2
    assert all(re.fullmatch("img_[0-9a-f]{8}", entry["request_id"]) for entry in stored)


def test_a_terminal_gets_a_live_line(sandbox: Remote, endpoint: str, tmp_path: Path) -> None:
    with sandbox_in_a_thread(execution="fixed:600", workers=2) as slow:
        text = on_a_terminal(tmp_path, slow, "batch", write(tmp_path / "p.txt", prompts(4)), *SIZE)
    assert re.search(r"\d/4 done · 0 failed · \d of \d+ in flight · \d queued · [\d.]+ images/s", text)
    assert "GPU" in text
    assert "━" in text
    assert "4 wanted: 4 new, 0 kept" in text


def on_a_terminal(cwd: Path, sandbox: Remote, *arguments: str) -> str:
    """What the command shows where standard output is a terminal."""
    ran = answered(cwd, sandbox, ENDPOINT, *arguments)
    assert ran.code == 0, ran
    return ran.out


def answered(cwd: Path, sandbox: Remote, endpoint: str, *arguments: str, answer: str | signal.Signals = "") -> Ran:
    """What the command shows to somebody at a terminal who answers its question by typing, or with a signal."""
    ours, theirs = pty.openpty()
    shown = bytearray()
    environment = {**account(sandbox, endpoint), "TERM": "xterm"}

    def read(process: subprocess.Popen[str]) -> None:
        try:
            while piece := os.read(ours, 4096):
                is_asked = b"[y/N]" not in shown
                shown.extend(piece)
                if is_asked and b"[y/N]" in shown:
                    os.write(ours, answer.encode()) if isinstance(answer, str) else process.send_signal(answer)
        except OSError:
            pass  # the other end is closed: the command has ended

    with started(*arguments, cwd=cwd, env=environment, stdin=theirs, stdout=theirs) as process:
        os.close(theirs)
        reader = threading.Thread(target=read, args=(process,))
        reader.start()
        _, err = process.communicate(timeout=30)
    reader.join(10)
    os.close(ours)
    return Ran(process.returncode, shown.decode(), err)


def test_quiet_is_quiet_and_plain_output_has_no_control_characters(inside: Cli, tmp_path: Path) -> None:
    file = write(tmp_path / "p.txt", prompts(2))
    plain = inside("batch", file, *SIZE)
    assert "\x1b" not in plain.out
    quiet = inside("batch", file, *SIZE, "-q", "--again")
    assert (quiet.code, quiet.out, quiet.err) == (0, "", "")


def test_the_sandbox_command_serves_until_ctrl_c(tmp_path: Path) -> None:
    with started("sandbox", "--port", "0", "--set", "idle_timeout_seconds=1", cwd=tmp_path) as process:
        assert process.stdout is not None
        base_url = process.stdout.readline().split()[-1]
        assert Remote(base_url).books() == []
        process.send_signal(signal.SIGINT)
        assert process.wait(10) in {0, 3}
    wrong = run_cli("sandbox", "--port", "0", "--execution", "fast", cwd=tmp_path)
    assert (wrong.code, "execution" in wrong.err, "Traceback" in wrong.err) == (2, True, False), wrong


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--port", "{taken}"), "port: cannot listen on 127.0.0.1:{taken}"),
        (("--port", "99999"), "port: "),
        (("--faults", "nofile.json"), "nofile.json:faults: "),
        (("--faults", "no.json"), "no.json:faults: Invalid JSON"),
        (("--faults", "bad.json"), "bad.json:faults: rule 0.every: "),
        (("--models", "nofile.json"), "nofile.json:models: "),
    ],
)
def test_a_sandbox_that_cannot_be_served_names_the_port_or_the_file(
    inside: Cli, sandbox: Remote, tmp_path: Path, options: tuple[str, ...], says: str
) -> None:
    write(tmp_path / "bad.json", [[{"fault": "429", "every": 0}]])
    write(tmp_path / "no.json", ["{"])
    taken = urlsplit(sandbox.base_url).port
    ran = inside("sandbox", "--port", "0", *(option.format(taken=taken) for option in options))
    assert (ran.code, says.format(taken=taken) in ran.err, "Traceback" in ran.err, ran.out) == (2, True, False, ""), ran


# -- standard output that cannot be written -------------------------------------------------------------------------


def left_alone(process: subprocess.Popen[str], lines: int) -> str:
    """Read so many lines of a command's output and leave; what it says on standard error until its end."""
    assert process.stdout is not None
    assert process.stderr is not None
    for _ in range(lines):
        process.stdout.readline()
    process.stdout.close()
    return process.stderr.read()


def test_a_reader_who_leaves_stops_the_run_and_what_is_out_is_collected(
    sandbox: Remote, endpoint: str, tmp_path: Path
) -> None:
    with started_batch(tmp_path, sandbox, endpoint, 400, "--json") as process:
        err = left_alone(process, 2)
        assert process.wait(30) == 3, err
    told, stopping = err.splitlines()
    assert told == "asyncgen: standard output cannot be written (Broken pipe)"
    assert stopping.startswith("asyncgen: stopping: nothing new is sent, ")
    sold = len(sandbox.books(endpoint))
    assert sold < 400
    assert states(tmp_path / "out") == {"stored": sold, "wanted": states(tmp_path / "out")["wanted"]}


def test_a_run_whose_summary_alone_cannot_be_written_ends_as_it_would(tmp_path: Path) -> None:
    with sandbox_in_a_thread(execution="fixed:600") as slow, started_batch(tmp_path, slow, ENDPOINT, 3) as process:
        err = left_alone(process, 1)
        assert (process.wait(30), err) == (0, "asyncgen: standard output cannot be written (Broken pipe)\n")
    assert states(tmp_path / "out") == {"stored": 3}


@pytest.mark.parametrize("options", [("--json",), ()])
def test_a_full_standard_output_stops_a_run_before_anything_is_sent(
    sandbox: Remote, endpoint: str, tmp_path: Path, options: tuple[str, ...]
) -> None:
    with Path("/dev/full").open("w") as full:
        arguments = ("batch", write(tmp_path / "p.txt", prompts(3)), *SIZE, *options)
        with started(*arguments, cwd=tmp_path, env=account(sandbox, endpoint), stdout=full) as process:
            _, err = process.communicate(timeout=30)
    assert (process.returncode, len(err.splitlines()), sandbox.books(endpoint)) == (3, 2, []), err
    assert err.startswith("asyncgen: standard output cannot be written (No space left on device)\n")


@pytest.mark.parametrize("arguments", [("styles",), ("styles", "--json"), ("--help",), ("sandbox", "--port", "0")])
def test_a_command_that_only_tells_ends_with_6_where_it_cannot(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    with Path("/dev/full").open("w") as full, started(*arguments, cwd=tmp_path, stdout=full) as process:
        _, err = process.communicate(timeout=30)
    says = "asyncgen: standard output cannot be written (No space left on device)\n"
    assert (process.returncode, err) == (6, says)


def test_a_repair_goes_on_where_it_cannot_be_told(inside: Cli, tmp_path: Path) -> None:
    assert inside("batch", write(tmp_path / "p.txt", prompts(3)), "--sandbox", *SIZE).code == 0
    root = tmp_path / "asyncgen-sandbox"
    for line in manifest(root)[:2]:
        (root / line["path"]).unlink()
    repair = ("verify", "--sandbox", "--repair")
    with Path("/dev/full").open("w") as full, started(*repair, cwd=tmp_path, stdout=full) as process:
        _, err = process.communicate(timeout=30)
    assert (process.returncode, "cannot be written" in err, states(root)) == (6, True, {"stored": 1, "lost": 2}), err
