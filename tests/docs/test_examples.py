"""Every file of `examples/` runs as it stands, without a key, on the sandbox."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPTS = sorted(path.name for path in EXAMPLES.glob("*.py"))
LONGEST_LINES = 40


@pytest.fixture(autouse=True)
def _scratch_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Examples write below the current folder; polling fast shortens the test and nothing else."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("POLLING_INTERVAL", "0.1")


def run(name: str) -> None:
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def test_every_example_is_run_by_a_test_of_its_own() -> None:
    claims = [name.removeprefix("test_the_example_") for name in globals() if name.startswith("test_the_example_")]
    assert {name.removesuffix(".py") for name in SCRIPTS} == set(claims)


@pytest.mark.parametrize("name", SCRIPTS)
def test_an_example_is_short(name: str) -> None:
    assert len((EXAMPLES / name).read_text(encoding="utf-8").splitlines()) <= LONGEST_LINES


def test_the_example_simple(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run("simple.py")
    path = capsys.readouterr().out.strip().rpartition(": ")[2]
    assert (tmp_path / path).read_bytes().startswith(b"\x89PNG")


def test_the_example_batch(capsys: pytest.CaptureFixture[str]) -> None:
    run("batch.py")
    made = capsys.readouterr().out.splitlines()
    run("batch.py")
    kept = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in made] == ["made"] * 6
    assert sorted(kept) == sorted(line.replace("made", "kept", 1) for line in made)


def test_the_example_custom_settings(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run("custom_settings.py")
    first, second, cover = capsys.readouterr().out.splitlines()
    (page,) = (tmp_path / "book").glob("8/*/page-1_7.png")
    assert first == f"page-1: success, {page.relative_to(tmp_path)}"
    assert second.startswith("page-2: success, book/8/")
    assert cover.endswith("bytes in memory")


def test_the_example_list_styles(capsys: pytest.CaptureFixture[str]) -> None:
    run("list_styles.py")
    shown = capsys.readouterr().out
    assert "Ink Intensity" in shown and "Dynamic Simplicity" in shown


def test_the_example_check_environment(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run("check_environment.py")
    assert ended.value.code == 1
    assert "problem: RUNPOD_API_KEY" in capsys.readouterr().out


@pytest.mark.anyio
async def test_the_example_web_app(tmp_path: Path) -> None:
    app = runpy.run_path(str(EXAMPLES / "web_app.py"))["build_app"]()
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        async with aiohttp.ClientSession(f"http://{host}:{port}") as session:
            good = await session.post("/images", json={"prompt": "a fox at a ferry", "style_id": "1"})
            bad = await session.post("/images", json={"prompt": "a fox at a ferry", "style_id": "no such style"})
            assert good.status == 200, await good.text()
            assert (tmp_path / json.loads(await good.text())["path"]).is_file()
            assert bad.status == 400
            assert "there is no style" in await bad.text()
    finally:
        await runner.cleanup()
