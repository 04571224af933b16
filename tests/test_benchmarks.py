"""The benchmarks work and look at the files they make. No figure is asserted: machines differ."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

import benchmarks.__main__ as command
from benchmarks import soak
from benchmarks.pictures import picture_faults
from benchmarks.report import Report

CHECKOUT = Path(__file__).resolve().parents[1]


def test_throughput_measures_all_sides_and_verifies_their_files() -> None:
    arguments = [sys.executable, "-m", "benchmarks", "throughput", "--quick"]
    done = subprocess.run(arguments, cwd=CHECKOUT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    rows = [line.strip("| ").split("|") for line in done.stdout.splitlines() if line.startswith("|")]
    assert [row[0].strip() for row in rows[2:]] == ["asyncgen", "plain aiohttp", "raw sockets (floor)"]
    assert all(cell.strip() for row in rows[2:] for cell in row)
    assert "verified: 180 files" in done.stdout


def test_a_soak_samples_itself_beside_a_sandbox_that_fails_and_judges_nothing_in_five_seconds() -> None:
    arguments = [sys.executable, "-m", "benchmarks", "soak", "--quick"]
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
    assert "throughput" in refused.output


def test_wrong_files_are_shown_and_end_the_command_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        command.BENCHMARKS, "wrong", lambda _quick: Report("a question", ("side",), [("a",)], (), ("one file is cut",))
    )
    shown = CliRunner().invoke(command.app, ["wrong"])
    assert shown.exit_code == 1
    assert "WRONG FILES: one file is cut" in shown.output


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
