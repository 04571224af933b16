"""`asyncgen plan`: what it says is what `batch` then does, it sends nothing, and it works beside a run."""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support import (
    Ran,
    Remote,
    account,
    cli_environment,
    fault,
    files,
    open_sandbox,
    prompts,
    sandbox_in_a_thread,
    size_of,
    states,
    wired,
)
from typer.testing import CliRunner

from asyncgen import making_cli
from asyncgen.cli import app

SIZE = ("--width", "64", "--height", "64", "--out", "out")
Cli = Callable[..., Ran]


@pytest.fixture(scope="module")
def everywhere() -> Iterator[Remote]:
    with sandbox_in_a_thread(endpoints=[f"ep-{number}" for number in range(40)]) as remote:
        yield remote


_numbers = iter(range(40))


@pytest.fixture
def sandbox(everywhere: Remote) -> Iterator[Remote]:
    yield everywhere
    everywhere.clear()


@pytest.fixture
def run(sandbox: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cli]:
    logger = logging.getLogger("asyncgen")
    before = logger.handlers[:], logger.level, logger.propagate
    monkeypatch.chdir(tmp_path)
    for name, value in cli_environment(**account(sandbox, f"ep-{next(_numbers)}")).items():
        monkeypatch.setenv(name, value)

    def invoke(*arguments: str) -> Ran:
        result = CliRunner().invoke(app, arguments)
        return Ran(result.exit_code, result.stdout, result.stderr)

    yield invoke
    for handler in logger.handlers:
        handler.close()
    logger.handlers[:], logger.level, logger.propagate = before


def write(path: Path, lines: list[Any]) -> str:
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    return path.name


def planned(run: Cli, *arguments: str) -> dict[str, Any]:
    ran = run("plan", *arguments, "--json")
    assert ran.code == 0, ran
    return ran.summary


def test_plan_takes_every_option_of_batch_and_two_of_its_own() -> None:
    options = {
        name: set(inspect.signature(getattr(making_cli, name), eval_str=True).parameters) for name in ("batch", "plan")
    }
    assert options["plan"] - options["batch"] == {"seconds_per_image", "workers"}
    assert options["batch"] <= options["plan"]


def test_what_it_counts_is_what_batch_then_counts(run: Cli, sandbox: Remote, tmp_path: Path) -> None:
    """Repeats, occurrences, ids, several images of one row, changed values and failures, in two steps."""
    rows = [
        *prompts(4),
        "twice",
        "twice",  # two images: their seeds are drawn
        {"prompt": "fixed", "seed": 5},
        {"prompt": "fixed", "seed": 5},  # one image
        {"prompt": "own", "id": "mine"},
        {"prompt": "several", "images": 3},
        "to be refused",
    ]
    file = write(tmp_path / "set.jsonl", rows)
    assert planned(run, file, *SIZE)["images"]["new"] == 12
    sandbox.add(fault("failed:missing_model", prompt_contains="to be refused"))
    made = run("batch", file, *SIZE, "--json")
    assert made.summary["new"] == 12, made
    assert made.summary["failed"] == 1
    sandbox.clear()
    rows[0] = "another"
    rows[7] = {"prompt": "fixed", "seed": 6}
    rows[9] = {"prompt": "several", "images": 4}
    write(tmp_path / "set.jsonl", [*rows[::-1], "twice", {"prompt": "own again", "id": "yours"}])
    before = planned(run, file, *SIZE)
    after = run("batch", file, *SIZE, "--json").summary
    counted = before["images"]
    assert {name: counted[name] for name in ("new", "repeated")} == {name: after[name] for name in ("new", "repeated")}
    assert (counted["kept"], counted["changed"]) == (after["kept"] - after["changed"], after["changed"])
    assert counted["failed"] == after["failed"] == 1
    assert before["to_make"] == after["made"]


def test_changed_values_are_counted_and_bought_only_when_told(run: Cli, tmp_path: Path) -> None:
    file = write(tmp_path / "set.jsonl", [{"prompt": "a fox", "id": str(n)} for n in range(3)])
    run("batch", file, *SIZE)
    write(tmp_path / "set.jsonl", [{"prompt": "a bear", "id": str(n)} for n in range(3)])
    left = planned(run, file, *SIZE)
    assert (left["images"]["changed"], left["to_make"]) == (3, 0)
    assert planned(run, file, *SIZE, "--rebuy-changed")["to_make"] == 3
    assert planned(run, file, *SIZE, "--again")["images"]["new"] == 3


def test_it_sends_nothing_and_writes_nothing(run: Cli, sandbox: Remote, tmp_path: Path) -> None:
    file = write(tmp_path / "set.jsonl", prompts(3))
    before = sandbox.accepted(), sandbox.requests("health")
    assert run("plan", file, *SIZE).code == 0
    assert files(tmp_path) == [tmp_path / "set.jsonl"]
    assert (sandbox.accepted(), sandbox.requests("health")) == before


def test_it_needs_no_key_and_no_endpoint(run: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RUNPOD_API_KEY")
    monkeypatch.delenv("RUNPOD_SERVER_100_ID")
    assert run("plan", write(tmp_path / "set.jsonl", prompts(1)), *SIZE).code == 0


def test_every_problem_is_told_with_its_line_and_stops_as_it_would_stop_a_batch(run: Cli, tmp_path: Path) -> None:
    rows = ["good", {"prompt": "x", "width": 7}, {"prompt": "x", "style": "no such"}, {"promt": "x"}] * 20
    file = write(tmp_path / "set.jsonl", rows)
    ran = run("plan", file, *SIZE, "--json")
    assert ran.code == 2
    assert [text.split(":")[1] for text in ran.summary["problems"]] == [str(n) for n in range(1, 81) if n % 4 != 1]
    assert ran.summary["would_stop"] is True
    assert run("plan", file, *SIZE, "--skip-bad").code == 0
    shown = run("plan", file, *SIZE)
    assert "60 problems" in shown.out
    assert "set.jsonl:80" in shown.out


def test_options_and_workflows_that_are_wrong_are_told_once_beside_rows_that_cannot_be_read(
    run: Cli, tmp_path: Path
) -> None:
    file = write(tmp_path / "set.jsonl", ["good", {"promt": "x"}])
    for wrong in (("--steps", "0"), ("--workflow", "no-such-workflow"), ("--style", "no such")):
        ran = run("plan", file, *SIZE, *wrong, "--json")
        assert ran.code == 2
        assert len(ran.summary["problems"]) == 2, ran
        assert "set.jsonl:2" in ran.summary["problems"][1]


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (("--workflow", "upscale", "--images", "2"), "images"),
        (("--workflow", "upscale", "--seeds", "2"), "seeds"),
        (("--workflow", "upscale", "--workflow", "img2img", "--seeds", "2"), "seeds"),
    ],
)
def test_a_workflow_without_a_seed_is_not_asked_for_the_same_picture_twice(
    run: Cli, tmp_path: Path, arguments: tuple[str, ...], field: str
) -> None:
    Image.new("RGB", (64, 64), "red").save(tmp_path / "start.png")
    rows = write(tmp_path / "p.jsonl", [{"prompt": "a fox", "init_image": str(tmp_path / "start.png")}])
    ran = run("plan", rows, *arguments, "--out", "o", "--json")
    assert ran.code == 2
    (told,) = ran.summary["problems"]
    assert told.startswith(f"p.jsonl:1:{field}: the workflow upscale takes no seed")
    done = run("batch", rows, *arguments, "--out", "o")
    assert done.code == 2
    assert told in done.err
    assert planned(run, rows, "--workflow", "upscale", "--images", "1", "--out", "o")["problems"] == []


@pytest.mark.parametrize(
    ("file", "told"),
    [
        ("header.csv", "header.csv:1:header: the header names a column 'promt'"),
        ("missing.txt", "missing.txt: cannot be read"),
        ("bad.toml", "bad.toml"),
        ("p.docx", "p.docx"),
    ],
)
def test_an_input_that_cannot_be_read_is_a_problem_in_json_too(run: Cli, tmp_path: Path, file: str, told: str) -> None:
    write(tmp_path / "header.csv", ["promt", "a fox"])
    write(tmp_path / "bad.toml", ["prompts = ["])
    ran = run("plan", file, "--json")
    assert ran.code == 2
    (report,) = ran.json
    assert (report["would_stop"], report["to_make"], report["problem_count"]) == (True, 0, 1)
    assert told in report["problems"][0]
    assert report["problems"][0] in ran.err


def test_a_template_that_no_row_needs_is_told_of(run: Cli, tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text("prompt,{color}\na {color} fox,red\n")
    (tmp_path / "some.csv").write_text("prompt,{color}\na {color} fox,red\n,green\n")
    template, told = ("--template", "a {color} owl", *SIZE), "the template is not used"
    assert told in planned(run, "own.csv", *template)["notes"][0]
    assert planned(run, "some.csv", *template)["notes"] == []
    assert [told in run("batch", file, *template).err for file in ("own.csv", "some.csv")] == [True, False]


def test_that_the_same_seed_makes_a_rejected_picture_again_is_told_with_what_helps(
    run: Cli, sandbox: Remote, tmp_path: Path
) -> None:
    sandbox.add(fault("black_image", prompt_contains="study 1"))
    file, told = write(tmp_path / "p.jsonl", prompts(2)), "1 had a picture that was rejected"
    first = run("batch", file, *SIZE)
    assert (first.code, told in first.out, "--rerolls 1" in first.out) == (1, True, True), first
    for again, is_told in [((), True), (("--retry-failed",), True), (("--retry-failed", "--rerolls", "1"), False)]:
        notes = " ".join(planned(run, file, *SIZE, *again)["notes"])
        assert (told in notes and "--rerolls 1" in notes) == is_told, again


def test_an_id_used_twice_is_found_though_its_image_is_there(run: Cli, tmp_path: Path) -> None:
    file = write(tmp_path / "set.jsonl", [{"prompt": "a fox", "id": "one"}])
    run("batch", file, *SIZE)
    write(tmp_path / "set.jsonl", [{"prompt": "a fox", "id": "one"}, {"prompt": "a bear", "id": "one"}])
    ran = run("plan", file, *SIZE, "--json")
    assert ran.code == 2
    assert "set.jsonl:2" in ran.summary["problems"][0]
    assert ran.summary["images"]["kept"] == 1


def test_a_body_that_is_too_large_is_a_problem_of_its_image_alone(run: Cli, tmp_path: Path) -> None:
    long = "x" * (11 << 20)
    ran = run("plan", write(tmp_path / "set.jsonl", ["good", long]), *SIZE, "--json")
    assert ran.code == 0
    (problem,) = ran.summary["problems"]
    assert "set.jsonl:2" in problem
    assert "10,485,760" in problem
    assert "so shorten the prompt" in problem
    assert "pictures" not in problem


def test_samples_and_the_largest_body_are_as_they_would_be_sent(run: Cli, sandbox: Remote, tmp_path: Path) -> None:
    rows = [{"prompt": f"fox {n} " * (n + 1), "style": style, "seed": 7} for style in ("1", "16") for n in range(9)]
    file = write(tmp_path / "set.jsonl", rows)
    found = planned(run, file, *SIZE)
    assert len({sample["lane"] for sample in found["samples"]}) == found["lanes"] == 2
    assert found["largest_body"]["place"] in ("set.jsonl:9", "set.jsonl:18")
    run("batch", file, *SIZE)
    sent = {job["prompt"] for job in sandbox.books()}
    assert {sample["prompt"] for sample in found["samples"]} <= sent


def test_the_estimate_is_unknown_then_the_ledger_s_history_or_the_caller_s_rate(run: Cli, tmp_path: Path) -> None:
    file = write(tmp_path / "set.jsonl", prompts(5))
    unknown = planned(run, file, *SIZE)["estimate"]
    assert (unknown["jobs_unknown"], unknown["gpu_seconds"], unknown["usd"]) == (5, None, None)
    run("batch", file, *SIZE, "--usd-per-second", "0.001")
    write(tmp_path / "more.jsonl", [f"new {n}" for n in range(8)])
    history = planned(run, "more.jsonl", *SIZE, "--workers", "2")["estimate"]
    assert history["lanes"][0]["basis"] == "history"
    assert history["lanes"][0]["jobs_seen"] == 5
    assert history["gpu_seconds"]["likely"] == pytest.approx(8 * 0.05, rel=0.5)
    assert history["seconds"]["likely"] == pytest.approx(history["gpu_seconds"]["likely"] / 2)
    assert history["usd"]["likely"] == pytest.approx(history["gpu_seconds"]["likely"] * 0.001, abs=1e-5)
    rate = planned(run, "more.jsonl", *SIZE, "--seconds-per-image", "3")["estimate"]
    assert rate["gpu_seconds"]["likely"] == 24
    other = planned(run, "more.jsonl", *SIZE, "--steps", "9")["estimate"]
    assert other["jobs_unknown"] == 8


@pytest.mark.anyio
async def test_it_works_beside_a_run(run: Cli, tmp_path: Path) -> None:
    async with open_sandbox() as sandbox, wired(sandbox, tmp_path / "out") as parts:
        await parts.run(["a fox"])
        file = write(tmp_path / "set.jsonl", ["a fox", "a bear"])
        found = planned(run, file, *SIZE)  # whoever has the ledger open for writing is not in its way
        assert (found["images"]["kept"], found["images"]["new"]) == (1, 1)


# -- a pilot --------------------------------------------------------------------------------------------------------


def piloted(run: Cli, *arguments: str, code: int = 8) -> dict[str, Any]:
    ran = run("batch", *arguments, *SIZE, "--json")
    assert ran.code == code, ran
    (found,) = [line for line in ran.json if line["event"] == "pilot"]
    return found


def rows_of_three_lanes() -> list[dict[str, Any]]:
    return [{"prompt": f"study {n}", "style": style} for style in ("1", "16") for n in range(6)] + [
        {"prompt": f"small study {n}", "style": "1", "width": 32} for n in range(2)
    ]


def test_a_pilot_covers_every_lane_and_its_images_are_part_of_the_set(run: Cli, tmp_path: Path) -> None:
    file = write(tmp_path / "set.jsonl", rows_of_three_lanes())
    found = piloted(run, file, "--pilot", "4", "--usd-per-second", "0.001")
    assert (found["images"], found["made"], found["lanes"], found["lanes_covered"]) == (4, 4, 3, 3)
    assert sum(lane["images"] for lane in found["measured"]) == 4
    assert (found["to_make"], found["estimate"]["jobs_unknown"]) == (10, 0)
    assert found["estimate"]["usd"]["likely"] > 0
    assert size_of(Path(found["contact_sheet"]).read_bytes())[0] > 240
    again = piloted(run, file, "--pilot", "4")  # the same four: nothing is bought
    assert (again["made"], again["to_make"]) == (4, 10)
    rest = run("batch", file, *SIZE, "--pilot", "4", "--yes", "--json")
    assert rest.code == 0
    assert (rest.summary["new"], rest.summary["kept"], rest.summary["made"]) == (10, 4, 10)
    assert states(tmp_path / "out") == {"stored": 14}


def test_a_pilot_is_drawn_by_content_so_moved_rows_buy_nothing(run: Cli, tmp_path: Path) -> None:
    rows = rows_of_three_lanes()
    piloted(run, write(tmp_path / "set.jsonl", rows), "--pilot", "5")
    piloted(run, write(tmp_path / "set.jsonl", rows[::-1]), "--pilot", "5")
    assert states(tmp_path / "out") == {"stored": 5}


def test_nothing_more_is_bought_after_a_pilot_without_a_picture_though_told_to_go_on(
    run: Cli, sandbox: Remote, tmp_path: Path
) -> None:
    sandbox.add(fault("failed:missing_model"))
    file = write(tmp_path / "set.jsonl", rows_of_three_lanes())
    found = piloted(run, file, "--pilot", "3", "--yes", code=1)
    assert (found["made"], found["contact_sheet"]) == (0, None)
    assert states(tmp_path / "out") == {"failed": 3}


def test_a_pilot_of_another_set_goes_on_with_that_set(run: Cli, tmp_path: Path) -> None:
    file = write(tmp_path / "set.jsonl", prompts(3))
    run("batch", file, *SIZE)
    stopped = run("batch", file, *SIZE, "--again", "--pilot", "1")
    assert stopped.code == 8
    assert "--name set-2" in stopped.err
    assert run("batch", file, *SIZE, "--name", "set-2", "--pilot", "1", "--yes").code == 0
    assert states(tmp_path / "out") == {"stored": 6}


def test_a_stream_cannot_be_piloted(run: Cli) -> None:
    assert run("batch", "-", *SIZE, "--pilot", "1").code == 2


# -- warming up -----------------------------------------------------------------------------------------------------


def test_workers_are_woken_with_jobs_that_are_no_images_of_the_batch(run: Cli, sandbox: Remote, tmp_path: Path) -> None:
    file = write(tmp_path / "set.jsonl", prompts(3))
    before = sandbox.accepted()
    ran = run("batch", file, *SIZE, "--warm", "8", "--usd-per-second", "0.001", "--json")
    (warm,) = [line for line in ran.json if line["event"] == "warm"]
    assert (ran.code, warm["asked_for"], warm["jobs"], warm["faults"]) == (0, 3, 3, [])  # no more than images
    assert 0 < warm["usd_at_most"] < 0.01
    assert (ran.summary["wanted"], sandbox.accepted() - before) == (3, 6)
    assert states(tmp_path / "out") == {"stored": 3}
    again = run("batch", file, *SIZE, "--warm", "8")  # nothing is to be made
    assert (again.code, "waking" in again.out, sandbox.accepted() - before) == (0, False, 6)


def test_the_price_is_told_first_and_must_fit_into_the_budget(run: Cli, sandbox: Remote, tmp_path: Path) -> None:
    file = write(tmp_path / "set.jsonl", prompts(3))
    before = sandbox.accepted()
    priced = ("--warm", "2", "--usd-per-second", "0.001", "--budget")
    refused = run("batch", file, *SIZE, *priced, "0.1")
    assert (refused.code, "can cost $0.24" in refused.err.replace("$0.2400", "$0.24")) == (2, True), refused
    assert sandbox.accepted() == before
    made = run("batch", file, *SIZE, *priced, "100")
    assert made.code == 0
    assert made.out.index("at the most $0.2400 of execution") < made.out.index(" answered; waking them cost")


def test_a_plan_says_what_would_come_before_the_batch(run: Cli, tmp_path: Path) -> None:
    notes = planned(run, write(tmp_path / "set.jsonl", prompts(3)), *SIZE, "--pilot", "2", "--warm", "4")["notes"]
    assert ["pilot" in notes[-1], "4 workers" in notes[-2]] == [True, True]


def test_input_pictures_are_looked_at_and_weighed(run: Cli, sandbox: Remote, tmp_path: Path) -> None:
    Image.effect_noise((64, 64), 90).convert("RGB").save(tmp_path / "init.png")
    rows = [{"prompt": "a fox", "init_image": "init.png"}, {"prompt": "an owl", "init_image": "none.png"}]
    file = write(tmp_path / "set.jsonl", rows)
    ran = run("plan", file, "--workflow", "img2img", "--out", "out", "--json")
    assert ran.code == 2, ran
    (problem,) = ran.summary["problems"]
    assert "set.jsonl:2" in problem
    assert "none.png" in problem
    picture_bytes = (tmp_path / "init.png").stat().st_size
    assert ran.summary["largest_body"]["body_bytes"] > picture_bytes * 4 / 3
