"""Names that users, registries and servers supply, each of which would like to be somewhere else on the disk."""

from __future__ import annotations

import base64
import json
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from liar import Asked, Pieces, lying, whole
from PIL import Image
from support import ENDPOINT, KEY, SMALL, account, files, ledger_rows, run_cli, sandbox_in_a_thread, true_output

from asyncgen import FailureCode, GenerationError, ImageGenerator, InputError, StylesRegistry
from asyncgen.assets import data_path
from asyncgen.check import findings
from asyncgen.settings import load_settings
from asyncgen.template import DEFAULT_WORKFLOW

pytestmark = pytest.mark.anyio

EVIL = (
    "../../../escaped", "/tmp/escaped", "..", ".", "....//....//escaped", "..\\..\\escaped", "C:\\escaped", "~/escaped",
    "a/../../../../escaped", "%2e%2e/escaped", "．．／escaped", "\u202e/gnp", "x" * 300 + "/../..", "nul", "-rf",
    "$(id)", "",
)  # fmt: skip


def a_picture() -> str:
    """One of the size that is asked for, as base64."""
    file = BytesIO()
    Image.linear_gradient("L").resize((SMALL["width"], SMALL["height"])).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def registry_of_evil(path: Path) -> Path:
    """Each evil name as a style's id and as another's title."""
    entries = [{"id": name or "empty", "title": f"t{number}"} for number, name in enumerate(EVIL)]
    entries += [{"id": str(number), "title": name or "empty"} for number, name in enumerate(EVIL)]
    path.write_text(json.dumps({"version": "1", "styles": entries, "loras": []}), encoding="utf-8")
    return path


def outside(folder: Path, root: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if not path.is_relative_to(root)}


def test_whatever_users_and_registries_call_things_every_file_is_in_the_output_folder(tmp_path: Path) -> None:
    work = tmp_path / "a" / "b" / "c"
    work.mkdir(parents=True)
    registry_of_evil(work / "styles.json")
    styles = [*(name or "empty" for name in EVIL), *map(str, range(len(EVIL)))]
    rows = [{"prompt": "a fox", "style": style} for style in styles]
    rows += [{"prompt": "a fox", "id": f"{name}|{number}", "filename": name} for number, name in enumerate(EVIL)]
    rows += [{"prompt": "a fox", "id": name, "lora_name": name} for name in EVIL if name]
    (work / "p.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    before = outside(tmp_path, work / "out")
    with sandbox_in_a_thread() as sandbox:
        env = account(sandbox) | {"ASYNCGEN_PATH_TEMPLATE": "{style}/{style_id}-{style_title}/{batch}/{id}_{seed}"}
        options = (
            "--width",
            "64",
            "--height",
            "64",
            "--out",
            "out",
            "--name",
            "../../../escaped",
            "--styles",
            "styles.json",
        )
        ran = run_cli("batch", "p.jsonl", *options, cwd=work, env=env)
    assert ran.code == 0, ran
    assert outside(tmp_path, work / "out") == before
    lines = true_output(work / "out")
    assert len(lines) == len(rows)
    assert all((work / "out" / line["path"]).resolve().is_relative_to(work / "out") for line in lines)


@pytest.mark.parametrize(
    "template", ["../{id}", "/tmp/{id}", "a/../../{id}", "..", "{id}/..", "~/../{id}\\x", "a//{id}"]
)
async def test_a_path_template_that_leads_out_is_refused_before_anything_is_sent(template: str, tmp_path: Path) -> None:
    settings = load_settings(path_template=template, output_root=tmp_path / "out", api_key=KEY, endpoint=ENDPOINT)
    with pytest.raises(InputError, match="ASYNCGEN_PATH_TEMPLATE"):
        async with ImageGenerator(settings):
            pass
    assert any(
        "PATH_TEMPLATE" in f.text for f in await findings(settings.changed(endpoint_base_url="http://127.0.0.1:9"))
    )


NO_FILES = ("/etc/passwd", "../../../../etc/passwd", "a\0b", "/", "", "x" * 5000, "~root/x", "/proc/self/mem")


@pytest.mark.parametrize("path", [*NO_FILES, "/dev/zero", "/dev/stdin"])
async def test_a_path_that_is_no_workflow_is_a_typed_error(path: str, tmp_path: Path) -> None:
    async with ImageGenerator(sandbox=True, output_root=tmp_path / "out") as generator:
        with pytest.raises(InputError):
            await generator.generate_image("a fox", **SMALL, workflow=path or "/")


@pytest.mark.parametrize("path", NO_FILES)
async def test_a_path_that_is_no_picture_fails_its_image_or_is_refused(path: str, tmp_path: Path) -> None:
    workflow = str(a_workflow_with_a_picture(tmp_path))
    async with ImageGenerator(sandbox=True, output_root=tmp_path / "out", workflow=workflow) as generator:
        with pytest.raises((InputError, GenerationError)) as caught:
            await generator.generate_image("a fox", **SMALL, init_image=path)
    assert "init_image" in str(caught.value)


def a_workflow_with_a_picture(folder: Path) -> Path:
    """The shipped workflow and two nodes more, which take a picture and show it."""
    graph, bindings = (
        json.loads(data_path("workflows", f"{DEFAULT_WORKFLOW}{suffix}").read_text(encoding="utf-8"))
        for suffix in (".json", ".bindings.json")
    )
    graph["900"] = {"class_type": "LoadImage", "inputs": {"image": "x.png"}}
    graph["901"] = {"class_type": "PreviewImage", "inputs": {"images": ["900", 0]}}
    bindings["images"] = {"init_image": [{"node": "900", "input": "image"}]}
    (folder / "mine.bindings.json").write_text(json.dumps(bindings), encoding="utf-8")
    (folder / "mine.json").write_text(json.dumps(graph), encoding="utf-8")
    return folder / "mine.json"


# -- what a server supplies


def served(picture: dict[str, Any], **record: Any) -> Any:
    def answer(asked: Asked) -> Pieces:
        if asked.path.endswith("/run"):
            return whole({"id": "../../escaped", "status": "IN_QUEUE"})
        done = {"id": "../../escaped", "status": "COMPLETED", "output": {"images": [picture]}, **record}
        return whole(done if "/status/" in asked.path else {})

    return answer


@pytest.mark.parametrize("name", EVIL)
async def test_a_file_name_of_the_worker_decides_nothing(name: str, tmp_path: Path) -> None:
    picture = {"filename": name, "subfolder": name, "type": "base64", "data": a_picture(), "name": name, "path": name}
    root = tmp_path / "a" / "out"
    settings = {"api_key": KEY, "endpoint": ENDPOINT, "output_root": root, "polling_interval_seconds": 0.01}
    async with (
        lying(served(picture, workerId=name)) as liar,
        ImageGenerator(**settings, endpoint_base_url=liar.base_url) as generator,
    ):
        result = await generator.generate_image("a fox", **SMALL)
    assert [path.parent.name for path in result.paths] == ["no_style"]
    assert all(path.name.startswith("generated_") and path.suffix == ".png" for path in result.paths)
    assert outside(tmp_path, root) == {tmp_path / "a"}


# -- links inside the output folder


def planted(root: Path, name: str, target: Path) -> Path:
    """A link in the folder of unstyled images, under a name that a picture would have."""
    folder = root / "no_style"
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / name
    link.symlink_to(target)
    return link


@pytest.mark.parametrize("exists", [True, False])
async def test_a_link_under_a_pictures_name_is_neither_followed_nor_replaced(exists: bool, tmp_path: Path) -> None:
    root, victim = tmp_path / "out", tmp_path / "victim"
    if exists:
        victim.write_bytes(b"precious")
    links = [planted(root, name, victim) for name in ("fox.png", ".fox.png.part")]
    settings = {"sandbox": True, "output_root": root, "path_template": "{style}/{hex8}"}
    async with ImageGenerator(**settings) as generator:
        (result,) = await generator.generate_many([{"prompt": "a fox", "filename": "fox", **SMALL}])
    assert result.ok
    assert [path.name for path in result.paths] != ["fox.png"], "the name is taken"
    assert links[0].is_symlink()
    assert victim.exists() == exists
    assert not exists or victim.read_bytes() == b"precious"
    assert [path for path in files(root, "*.png") if not path.is_symlink()] == list(result.paths)


async def test_a_link_that_appears_under_the_temporary_name_is_replaced_not_followed(tmp_path: Path) -> None:
    root, victim = tmp_path / "out", tmp_path / "victim"
    victim.write_bytes(b"precious")
    planted(root, ".fox.png.part", victim)
    async with ImageGenerator(sandbox=True, output_root=root, path_template="{style}/{hex8}") as generator:
        (result,) = await generator.generate_many([{"prompt": "a fox", "filename": "fox", **SMALL}])
    assert [path.name for path in result.paths] == ["fox.png"]
    assert not result.paths[0].is_symlink()
    assert victim.read_bytes() == b"precious"
    assert files(root, ".*.part") == []


def test_a_registry_saved_over_a_link_changes_the_file_it_names_and_nothing_else(tmp_path: Path) -> None:
    """Registries are linked on purpose; the name of the new file is drawn, so that nobody can plant a link for it."""
    real = registry_of_evil(tmp_path / "real.json")
    (tmp_path / "link.json").symlink_to(real)
    registry = StylesRegistry.load(tmp_path / "link.json")
    registry.update_style("0", title="changed")
    registry.save()
    assert (tmp_path / "link.json").is_symlink()
    assert StylesRegistry.load(real).get_style_by_id("0").title == "changed"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.json", "real.json"]


async def test_a_name_that_is_no_text_of_the_file_system_is_recorded_as_it_was_said(tmp_path: Path) -> None:
    """What the user called it stays in the records, for those who look for it."""
    wanted = "../画/\u202efox\u0301"
    async with ImageGenerator(sandbox=True, output_root=tmp_path / "out") as generator:
        (result,) = await generator.generate_many([{"prompt": "a fox", "id": wanted, "filename": wanted, **SMALL}])
    assert result.id == wanted
    assert result.failure is None or result.failure.code is not FailureCode.INPUT_REFUSED
    assert ledger_rows(tmp_path / "out", "SELECT count(*) FROM item WHERE state = 'stored'") == [(1,)]
