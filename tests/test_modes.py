"""Each shipped workflow from end to end: real pictures in, the job as it came over HTTP, real pictures out."""

from __future__ import annotations

import base64
import hashlib
import json
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet
from support import SMALL, bought, files, open_sandbox, received, run_cli, settings_for, size_of, true_output

from asyncgen import ImageGenerator
from asyncgen.template import Template

pytestmark = pytest.mark.anyio
PICTURE, MASK, POSE = "init_image", "mask_image", "pose_image"
SIZE = (96, 64)
#: Each workflow: what it takes, what is said, the size of what it makes, and where that is said in the graph.
MODES: dict[str, tuple[list[str], dict[str, Any], tuple[int, int], dict[tuple[str, str], Any]]] = {
    "normal_image_v4_workflow": ([], SMALL, (64, 64), {("27", "width"): 64, ("25", "noise_seed"): 7}),
    "text2img_cr_apply": ([], SMALL, (64, 64), {}),
    "text2img_core_only": ([], SMALL, (64, 64), {}),
    "text2img_checkpoint": ([], SMALL, (64, 64), {}),
    "schnell": ([], {"width": 64, "height": 128}, (64, 128), {}),
    "poster_frame": ([], {"height": 512, "width": 256}, (256, 512), {}),
    "img2img": ([PICTURE], {**SMALL, "denoise": 0.4}, (64, 64), {("12", "denoise"): 0.4, ("21", "width"): 64}),
    "inpaint": ([PICTURE, MASK], {"denoise": 0.7}, SIZE, {("12", "denoise"): 0.7, ("7", "width"): 96}),
    "inpaint_fill": ([PICTURE, MASK], {"denoise": 0.9}, SIZE, {("12", "denoise"): 0.9, ("7", "height"): 64}),
    "pose": ([POSE], {**SMALL, "strength": 0.3}, (64, 64), {("24", "strength"): 0.3, ("21", "height"): 64}),
    "text2img_upscale": ([], SMALL, (128, 128), {}),
    "upscale": ([PICTURE], {}, (192, 128), {}),
}


def a_picture(size: tuple[int, int] = SIZE, mode: str = "RGB", *, turn: int = 0) -> Image.Image:
    return Image.linear_gradient("L").resize(size).rotate(turn).convert(mode)


def bytes_of(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    out = BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def write_inputs(folder: Path, names: list[str]) -> dict[str, bytes]:
    """`NAME.png` for each; no two are alike."""
    pictures = {name: bytes_of(a_picture(turn=180 * number)) for number, name in enumerate(names)}
    for name, data in pictures.items():
        (folder / f"{name}.png").write_bytes(data)
    return pictures


def sent_pictures(job_input: dict[str, Any]) -> dict[str, bytes]:
    """The pictures of a job by the names they are sent under, which are hashes of what is in them."""
    pictures = {entry["name"]: base64.b64decode(entry["image"], validate=True) for entry in job_input.get("images", [])}
    for name, data in pictures.items():
        assert Path(name).stem == hashlib.sha256(data).hexdigest()[:16]
    return pictures


@pytest.mark.parametrize("name", sorted(MODES))
async def test_each_mode_makes_real_pictures_of_real_pictures(tmp_path: Path, name: str) -> None:
    takes, said, size, places = MODES[name]
    template, sources = Template.load(name), write_inputs(tmp_path, takes)
    assert list(template.images) == takes
    prompt = {"prompt": "a red fox", "seed": 7} if template.binds("positive_prompt") else {}
    async with open_sandbox(execution="fixed:0.05") as sandbox:
        inputs = received(sandbox)
        async with ImageGenerator(settings_for(sandbox, tmp_path / "out", workflow=name)) as generator:
            paths = {part: tmp_path / f"{part}.png" for part in sources}
            (result,) = await generator.generate_many([{**prompt, **said, **paths}])
        (_,) = bought(sandbox)
    assert result.ok, result.failure
    (job_input,) = inputs
    graph, pictures = job_input["workflow"], sent_pictures(job_input)
    for part, data in sources.items():
        for place in template.parameters[part]:
            assert pictures[graph[place.node]["inputs"][place.input]] == data
    assert len(pictures) == len(takes)
    assert {place: graph[place[0]]["inputs"][place[1]] for place in places} == places
    texts = [value for body in graph.values() for value in body["inputs"].values()]
    assert ("a red fox" in texts) == bool(prompt)
    (line,) = true_output(tmp_path / "out")
    (picture,) = files(tmp_path / "out", "*.png")
    with Image.open(picture) as image:
        told = json.loads(image.info["asyncgen"])
        assert ("Distilled CFG Scale" in image.info["parameters"]) == template.binds("flux_guidance")
    assert all((told[name] is not None) == template.binds(name) for name in ("flux_guidance", "steps", "width"))
    assert all((line[name] is not None) == template.binds(name) for name in ("flux_guidance", "steps", "model"))
    assert (line["workflow"], size_of(picture.read_bytes())) == (name, size)
    assert {part: sent["sha256"] for part, sent in line.get("sent_pictures", {}).items()} == {
        part: hashlib.sha256(data).hexdigest() for part, data in sources.items()
    }


def test_the_command_line_takes_pictures_from_options_and_from_rows(tmp_path: Path) -> None:
    write_inputs(tmp_path, [PICTURE, MASK])
    (tmp_path / "rows.csv").write_text(
        "id,prompt,mask_image,denoise\nwhole,a fox,mask_image.png,0.5\nother,a hen,mask_image.png,\n", encoding="utf-8"
    )
    said = ["--workflow", "inpaint", "--init-image", "init_image.png", "--denoise", "0.25", "--sandbox", "--out", "o"]
    done = run_cli("batch", "rows.csv", *said, cwd=tmp_path)
    assert done.code == 0, done.err
    lines = {line["id"]: line for line in true_output(tmp_path / "o")}
    assert {name: line["parameters"]["denoise"] for name, line in lines.items()} == {"whole": 0.5, "other": 0.25}
    assert all(set(line["sent_pictures"]) == {PICTURE, MASK} for line in lines.values())
    one = run_cli("generate", "a cat", *said, "--mask-image", "mask_image.png", cwd=tmp_path)
    assert one.code == 0, one.err
    assert {(line["width"], line["height"]) for line in true_output(tmp_path / "o")} == {SIZE}


def test_a_prompt_is_refused_where_nothing_takes_it_and_told_once_of_rows(tmp_path: Path) -> None:
    write_inputs(tmp_path, [PICTURE])
    said = ["--workflow", "upscale", "--init-image", "init_image.png", "--sandbox", "--out", "o"]
    one = run_cli("generate", "a fox", *said, cwd=tmp_path)
    assert (one.code, "upscale takes no text: leave the prompt out" in one.err) == (2, True), one.err
    assert not (tmp_path / "o").exists()
    (tmp_path / "rows.txt").write_text("a fox\na hen\n", encoding="utf-8")
    told = "the prompts of rows are left out for upscale: it takes no text"
    assert run_cli("plan", "rows.txt", *said, cwd=tmp_path).out.count(told) == 1
    done = run_cli("batch", "rows.txt", *said, cwd=tmp_path)
    assert (done.code, done.err.count(told)) == (0, 1), done.err


@pytest.mark.parametrize("file", ["rows.csv", "rows.parquet"])
def test_rows_of_pictures_alone_are_enough_where_nothing_takes_a_prompt(tmp_path: Path, file: str) -> None:
    write_inputs(tmp_path, [PICTURE])
    (tmp_path / "rows.csv").write_text("id,init_image\none,init_image.png\n", encoding="utf-8")
    parquet.write_table(pa.table({"id": ["one"], "init_image": ["init_image.png"]}), tmp_path / "rows.parquet")
    run = ["batch", file, "--sandbox", "--out", "o", "--workflow"]
    refused = run_cli(*run, "img2img", cwd=tmp_path)
    assert (refused.code, "must name a column 'prompt'" in refused.err) == (2, True), refused.err
    done = run_cli(*run, "upscale", cwd=tmp_path)
    assert (done.code, [line["id"] for line in true_output(tmp_path / "o")]) == (0, ["one"]), done.err
