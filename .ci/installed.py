"""Run by `.ci/run` outside the checkout, where the wheel is installed: is everything there, and is it left alone?"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

from asyncgen import StylesRegistry, assets

SITE_PACKAGES = Path(sysconfig.get_path("purelib")).resolve()
ASYNCGEN = Path(sysconfig.get_path("scripts")) / "asyncgen"
DATA_FILES = (
    "resources/styles_registry.json",
    "resources/gpu_prices.json",
    "resources/sql/0001_ledger.sql",
    "resources/sql/0002_moves_and_money.sql",
    "resources/sql/0003_rows.sql",
    "resources/sql/0004_checks.sql",
    "workflows/object_info.json",
    "workflows/normal_image_v4_workflow.json",
    "workflows/normal_image_v4_workflow.bindings.json",
    "workflows/schnell.json",
    "workflows/schnell.bindings.json",
)


def main(wheel: Path) -> None:
    before = files_of(SITE_PACKAGES)
    check_wheel(wheel)
    check_data_files()
    check_commands()
    check_saving()
    after = files_of(SITE_PACKAGES)
    assert after == before, f"site-packages was written to: {sorted(after.items() ^ before.items())[:10]}"


def files_of(folder: Path) -> dict[str, str]:
    """Every file with its hash, but for what Python itself caches."""
    files = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def check_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        roots = {name.split("/")[0] for name in archive.namelist()}
        hidden = [name for name in archive.namelist() if Path(name).name.startswith(".")]
    assert all(root == "asyncgen" or root.endswith(".dist-info") for root in roots), f"the wheel holds {roots}"
    assert not hidden, f"the wheel holds {hidden}"


def check_data_files() -> None:
    for name in DATA_FILES:
        path = assets.data_path(*name.split("/"))
        assert path.is_relative_to(SITE_PACKAGES), f"{name} came from {path}"


def check_commands() -> None:
    assert run("--version").startswith("asyncgen ")
    assert "Ink Intensity" in run("styles")
    run("batch", "prompts.txt", "--style", "16", "--limit", "4", "--width", "512", "--height", "512", "--sandbox")
    pictures = list(Path("asyncgen-sandbox/resources/style_images/16_dynamic_simplicity").glob("generated_*.png"))
    assert len(pictures) == 4, pictures


def check_saving() -> None:
    """What a user saves goes to the user's folder, and is found there the next time."""
    registry = StylesRegistry.load()
    registry.add_style({"id": "ci", "title": "Saved by CI"})
    saved = registry.save().resolve()
    assert saved.is_relative_to(Path(os.environ["ASYNCGEN_USER_FOLDER"]).resolve()), saved
    assert "Saved by CI" in run("styles")


def run(*arguments: str) -> str:
    done = subprocess.run([str(ASYNCGEN), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"asyncgen {' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


if __name__ == "__main__":
    main(Path(sys.argv[1]))
