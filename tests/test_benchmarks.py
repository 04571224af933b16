"""The benchmarks work and look at the files they make. No figure is asserted: machines differ."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from PIL import Image
from typer.testing import CliRunner

import benchmarks.__main__ as command
from benchmarks import loop, memory, planning, soak
from benchmarks.pictures import picture_faults
from benchmarks.readme import README, with_results
from benchmarks.report import Plot, Report, Target
from benchmarks.results import RESULTS, write_results
from benchmarks.servers import static_server
from benchmarks.sides import ASYNCGEN, FINISHED, FLOOR, PLAN_KEPT, READER
from benchmarks.static_server import Replies, noise_png
from benchmarks.trial import SMALL_PICTURE_BYTES, Task, attempt, rounds_of

CHECKOUT = Path(__file__).resolve().parents[1]


SMALL = Task(jobs=6, concurrency=3, picture_bytes=SMALL_PICTURE_BYTES)


@pytest.mark.parametrize("side", [ASYNCGEN, FLOOR])
def test_a_side_makes_whole_pictures_that_are_all_different_and_buys_each_once(side: str) -> None:
    trial = attempt(side, SMALL)
    assert trial.faults == ()
    assert trial.status_calls == 6
    assert trial.sample.cpu_seconds > 0
    assert trial.sample.peak_bytes > 5_000_000


def test_clients_trust_the_throw_away_authority_of_a_server_with_https() -> None:
    pytest.importorskip("trustme", reason="pip install '.[bench]'")
    assert attempt(ASYNCGEN, replace(SMALL, https=True)).faults == ()


def test_a_server_that_holds_results_back_finishes_all_jobs_at_once() -> None:
    with static_server(picture_bytes=SMALL_PICTURE_BYTES, hold_until_runs=2) as server:
        first = ask(f"{server.base_url}/any/run", data=b"{}")["id"]
        assert ask(f"{server.base_url}/any/status/{first}")["status"] == "IN_PROGRESS"
        second = ask(f"{server.base_url}/any/run", data=b"{}")["id"]
        assert [ask(f"{server.base_url}/any/status/{job_id}")["status"] for job_id in (first, second)] == [
            "COMPLETED",
            "COMPLETED",
        ]
        assert ask(f"{server.base_url.removesuffix('/v2')}/books") == {"runs": 2, "statuses": 3}


def ask(url: str, data: bytes | None = None) -> dict[str, Any]:
    with urlopen(url, data) as reply:
        answer: dict[str, Any] = json.load(reply)
        return answer


def test_a_heartbeat_beside_a_side_is_late_by_a_median_and_a_worst() -> None:
    delays = loop.delays_ms(attempt(FLOOR, replace(SMALL, heartbeat=True)))
    assert delays["beats"] > 0
    assert 0 <= delays["median_ms"] <= delays["p99_ms"] <= delays["worst_ms"]


def test_a_side_that_makes_nothing_is_blamed_for_its_files_and_its_purchases() -> None:
    assert attempt(FINISHED, SMALL).faults == ("0 files for 6 jobs", "0 jobs were bought for 6 images")


def test_a_side_that_fails_ends_the_benchmark_and_is_named() -> None:
    with pytest.raises(RuntimeError, match="'official_client' failed with exit code 1"):
        attempt("official_client", replace(SMALL, concurrency=-1))


def test_a_finished_batch_is_continued_from_a_file_without_being_made_again() -> None:
    files = dict(memory._of_files([40, 80]))
    assert list(files) == [40, 80]  # the side itself refuses to have made more or fewer than the new ones
    assert all(sample.peak_bytes > 5_000_000 for sample in files.values())


@pytest.mark.parametrize(("side", "found"), [(READER, "2 rows were read, of 3"), (PLAN_KEPT, "0 are kept, of 3")])
def test_a_side_that_has_planned_anything_else_ends_the_benchmark(
    side: str, found: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "prompts.csv").write_text("prompt\na lighthouse\na harbour\n")
    with pytest.raises(RuntimeError, match="failed with exit code 1"):
        planning.planned(tmp_path / "prompts.csv", 3, side)
    assert found in capfd.readouterr().err


def test_a_soak_samples_itself_beside_a_sandbox_that_fails_and_judges_nothing_in_five_seconds(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pip install '.[bench]'")
    arguments = [sys.executable, "-m", "benchmarks", "soak", "--quick", "--results", str(tmp_path)]
    done = subprocess.run(arguments, cwd=CHECKOUT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    header, _, *rows = [line.strip("| ").split("|") for line in done.stdout.splitlines() if line.startswith("|")]
    assert [cell.strip() for cell in header[3:]] == ["memory (MiB)", "descriptors", "threads", "tasks"]
    assert len(rows) >= 5
    assert all(float(cell) > 0 for row in rows for cell in row[3:])
    assert "stored" in done.stdout
    assert "too short to judge" in done.stdout


def soaked(memory_an_hour: float = 0.0, tasks_an_hour: float = 0.0, minutes: int = 60) -> list[soak.Sample]:
    """Samples each 5 s of a run that wavers, and gains so much."""
    return [
        soak.Sample(
            second,
            second * 100,
            (
                90 + 4 * (second % 3) + memory_an_hour * second / 3600,
                40 + second % 30,
                6,
                200 + tasks_an_hour * second / 3600,
            ),
        )
        for second in range(0, minutes * 60, 5)
    ]


def test_what_wavers_is_flat_and_what_grows_is_named_with_its_slope() -> None:
    assert soak.growth(soaked()) == []
    (leak,) = soak.growth(soaked(memory_an_hour=36))
    assert leak.startswith("memory grew by 36.")
    assert leak.endswith("an hour")
    assert [found.split()[0] for found in soak.growth(soaked(memory_an_hour=100, tasks_an_hour=50))] == [
        "memory",
        "tasks",
    ]
    assert soak.growth(soaked(memory_an_hour=-100)) == []


def test_having_now_more_and_now_less_to_do_is_no_growth() -> None:
    samples = soaked()
    idle_at_first = [
        replace(sample, values=(*sample.values[:3], 120.0 if sample.seconds < 1200 and sample.seconds % 60 else 262.0))
        for sample in samples
    ]
    assert soak.growth(idle_at_first) == []


def test_the_first_quarter_of_a_soak_and_at_most_five_minutes_are_not_judged() -> None:
    assert soak.settled(soaked(minutes=10))[0].seconds == 150
    assert soak.settled(soaked(minutes=60))[0].seconds == 300
    assert soak.settled([]) == []


def test_an_unknown_benchmark_is_refused_with_the_known_names() -> None:
    refused = CliRunner().invoke(command.app, ["speed"])
    assert refused.exit_code == 2
    assert "wire" in refused.output


REPORT = Report(
    "a question",
    ("side", "ms"),
    [("a", "1.5"), ("b", "3.0")],
    ("a note",),
    (),
    samples=[
        {"side": side, "jobs": jobs, "ms": ms, "scheme": "HTTP"}
        for side, ms in (("a", 1.5), ("b", 3.0))
        for jobs in (10, 20)
    ],
    targets=[Target("ms of a", 1.5, 2.0), Target("jobs/s", 90.0, 1200, at_most=False)],
)


def test_wrong_files_are_shown_and_end_the_command_with_1(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pip install '.[bench]'")
    monkeypatch.setitem(command.BENCHMARKS, "wrong", lambda _quick: replace(REPORT, faults=("one file is cut",)))
    shown = CliRunner().invoke(command.app, ["wrong", "--results", str(tmp_path)])
    assert shown.exit_code == 1
    assert "WRONG FILES: one file is cut" in shown.output
    assert json.loads((tmp_path / "wrong.json").read_text())["faults"] == ["one file is cut"]


def test_a_target_that_is_missed_is_said_and_changes_no_exit_code(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib", reason="pip install '.[bench]'")
    monkeypatch.setitem(command.BENCHMARKS, "slow", lambda _quick: REPORT)
    shown = CliRunner().invoke(command.app, ["slow", "--results", str(tmp_path)])
    assert shown.exit_code == 0
    assert "target: ms of a: 1.5 (≤ 2, reached)" in shown.output
    assert "target: jobs/s: 90 (≥ 1,200, NOT REACHED)" in shown.output


def test_without_matplotlib_nothing_is_measured_in_vain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "can_draw", lambda: False)
    refused = CliRunner().invoke(command.app, ["start", "--quick"])
    assert refused.exit_code == 2
    assert "pip install" in refused.output


def test_results_keep_every_sample_and_a_plot_of_them(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pip install '.[bench]'")
    plots = [Plot("ms", "ms an image", panel="scheme", limit=2.0), Plot("ms", "growth", parameter="jobs")]
    write_results(tmp_path, "slow", replace(REPORT, plots=plots), quick=True)
    document = json.loads((tmp_path / "slow.json").read_text())
    assert document["samples"] == [dict(sample) for sample in REPORT.samples]
    assert [target["is_reached"] for target in document["targets"]] == [True, False]
    with Image.open(tmp_path / "slow.png") as picture:
        assert picture.height > 500  # two plots, one below the other
    write_results(tmp_path, "simple", REPORT, quick=True)
    assert (tmp_path / "simple.png").exists()  # its first figure, without being told
    write_results(tmp_path, "words", replace(REPORT, samples=()), quick=True)
    assert not (tmp_path / "words.png").exists()


def test_the_readme_takes_the_latest_results_and_keeps_its_words(tmp_path: Path) -> None:
    write_results(tmp_path, "slow", replace(REPORT, samples=()), quick=False)
    blocks = "<!-- results: slow -->\nold\n<!-- end -->\n words \n<!-- results: targets -->\n<!-- end -->\n"
    text = with_results(f"{blocks}<!-- results: other -->\nold\n<!-- end -->\n", tmp_path)
    assert "old" not in text
    assert "| side | ms |\n| --- | ---: |\n| a | 1.5 |\n| b | 3.0 |\n\na note\n" in text
    assert "| slow | jobs/s | 90 | ≥ 1,200 | NO |" in text
    assert "\n words \n" in text
    assert "<!-- results: other -->\nNot measured yet.\n<!-- end -->" in text
    assert with_results(text, tmp_path) == text


def test_the_readme_shows_what_the_result_files_say() -> None:
    assert README.read_text(encoding="utf-8") == with_results(README.read_text(encoding="utf-8"), RESULTS)


def test_every_benchmark_has_its_place_in_the_readme() -> None:
    text = README.read_text(encoding="utf-8")
    assert [name for name in command.BENCHMARKS if f"<!-- results: {name} -->" not in text] == []


def test_sides_take_turns() -> None:
    began: list[str] = []
    rounds = rounds_of(["a", "b"], 3, lambda case: began.append(case) or case.upper(), quick=False)
    assert began == ["a", "b"] * 3
    assert rounds == [{"a": "A", "b": "B"}] * 3


def test_a_static_reply_is_one_length_and_carries_a_whole_picture_of_its_own_for_each_job(tmp_path: Path) -> None:
    replies = Replies(1_000)
    for number in range(3):
        head, _, body = (replies.completed(number) + replies.rest).partition(b"\r\n\r\n")
        assert f"Content-Length: {len(body)}".encode() in head
        (image,) = json.loads(body)["output"]["images"]
        (tmp_path / f"{number}.png").write_bytes(base64.b64decode(image["data"], validate=True))
    assert picture_faults(tmp_path, jobs=3, picture_bytes=1_000) == []


def test_a_picture_of_noise_has_at_least_the_size_that_was_asked_for() -> None:
    assert 1_000 <= len(noise_png(1_000)) < 1_500
    assert 1_800_000 <= len(noise_png(1_800_000)) < 1_820_000


def save_png(path: Path, colour: int) -> bytes:
    Image.new("L", (64, 64), colour).save(path)
    return path.read_bytes()


def test_whole_and_different_pictures_have_no_faults(tmp_path: Path) -> None:
    for number in range(3):
        save_png(tmp_path / f"{number}.png", number)
    assert picture_faults(tmp_path, jobs=3, picture_bytes=50) == []


def test_a_missing_picture_is_a_fault(tmp_path: Path) -> None:
    save_png(tmp_path / "0.png", 0)
    assert picture_faults(tmp_path, jobs=2, picture_bytes=50) == ["1 files for 2 jobs"]


def test_the_same_picture_twice_is_a_fault(tmp_path: Path) -> None:
    for name in ("0.png", "1.png"):
        save_png(tmp_path / name, 7)
    assert picture_faults(tmp_path, jobs=2, picture_bytes=50) == ["only 1 of 2 files are different pictures"]


def test_a_picture_that_is_too_small_is_a_fault(tmp_path: Path) -> None:
    save_png(tmp_path / "0.png", 0)
    (fault,) = picture_faults(tmp_path, jobs=1, picture_bytes=1_800_000)
    assert "fewer than 1800000" in fault


@pytest.mark.parametrize("kept_bytes", [30, -20, -12, -1])
def test_a_cut_picture_is_a_fault(tmp_path: Path, kept_bytes: int) -> None:
    path = tmp_path / "0.png"
    path.write_bytes(save_png(path, 0)[:kept_bytes])
    (fault,) = picture_faults(tmp_path, jobs=1, picture_bytes=1)
    assert fault.startswith("0.png")


def test_a_flipped_bit_is_a_fault(tmp_path: Path) -> None:
    path = tmp_path / "0.png"
    data = bytearray(save_png(path, 0))
    data[data.index(b"IDAT") + 6] ^= 1
    path.write_bytes(data)
    (fault,) = picture_faults(tmp_path, jobs=1, picture_bytes=1)
    assert "no whole PNG" in fault
