"""Input pictures: looked at before anything is sent, told apart by what is in them, changed only as is allowed."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from contextlib import nullcontext
from io import BytesIO
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest
from aiohttp import web
from PIL import Image
from support import SMALL, bought, files, manifest, open_sandbox, received, run_cli, settings_for, site, wired

from asyncgen import ImageGenerator, InputError
from asyncgen.assets import data_path
from asyncgen.errors import FailureCode
from asyncgen.input_pictures import InputPictures
from asyncgen.input_pixels import converted, facts_of
from asyncgen.input_rules import PictureRules
from asyncgen.lifecycle import State
from asyncgen.plan import Planner
from asyncgen.protocol import MAX_RUN_BODY_BYTES
from asyncgen.records import Spec
from asyncgen.registry import StylesRegistry
from asyncgen.request import ImageRequest, parse_request

SECRET = "X-Amz-Signature=5e1ec7ed5e1ec7ed"


def picture(size: tuple[int, int] = (96, 64), mode: str = "RGB", kind: str = "PNG", **options: Any) -> bytes:
    return encoded(Image.linear_gradient("L").resize(size).convert(mode), kind, **options)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    out = BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def noise(size: tuple[int, int]) -> bytes:
    """A picture that nothing makes smaller without loss."""
    return encoded(Image.frombytes("RGB", size, os.urandom(size[0] * size[1] * 3)), compress_level=0)


def write(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return str(path)


def planner(root: Path, **rules: Any) -> Planner:
    return Planner(StylesRegistry.load(), "img2img", pictures=InputPictures(root, PictureRules(**rules)))


def asked(**said: Any) -> ImageRequest:
    return parse_request({"prompt": "a fox", **said})


def spec_of(root: Path, rules: dict[str, Any] | None = None, **said: Any) -> Spec:
    return planner(root, **(rules or {})).want(asked(**said), 0).spec


def sent(root: Path, spec: Spec, **named: str) -> dict[str, Image.Image]:
    """What the job would carry, decoded."""
    pictures = InputPictures(root)
    data = {name: pictures.to_send(name, path, spec.sent_pictures[name])[1] for name, path in named.items()}
    return {name: Image.open(BytesIO(base64.b64decode(text))) for name, text in data.items()}


# -- what is in them belongs to the image ---------------------------------------------------------------------------


@pytest.mark.anyio
async def test_another_file_under_the_same_path_makes_the_image_changed_and_nothing_is_bought_unasked(
    tmp_path: Path,
) -> None:
    said = {"prompt": "a fox", "init_image": write(tmp_path / "a.png", picture()), **SMALL}
    async with (
        open_sandbox() as sandbox,
        ImageGenerator(settings_for(sandbox, tmp_path / "out", workflow="img2img")) as generator,
    ):
        inputs = received(sandbox)
        (first,) = await generator.generate_many([said], batch="set")
        (kept,) = await generator.generate_many([said], batch="set")
        write(tmp_path / "a.png", picture((80, 64)))
        (changed,) = await generator.generate_many([said], batch="set")
        assert (first.changed, kept.kept, kept.changed, changed.kept, changed.changed) == (
            False,
            True,
            False,
            True,
            True,
        )
        assert len(bought(sandbox)) == 1
        (again,) = await generator.generate_many([said], batch="set", rebuy_changed=True)
        assert (again.kept, again.changed, again.request_id) == (False, False, first.request_id)
    assert [len(entry["images"]) for entry in inputs] == [1, 1]
    assert inputs[0]["images"] != inputs[1]["images"]


@pytest.mark.anyio
async def test_a_file_that_changes_after_it_was_looked_at_is_not_sent(tmp_path: Path) -> None:
    path = write(tmp_path / "a.png", picture())
    async with open_sandbox() as sandbox, wired(sandbox, tmp_path / "out") as parts:
        job = await parts.job(workflow="img2img", init_image=path)
        write(tmp_path / "a.png", picture((80, 64)))
        await job.settle()
        assert job.item.state is State.FAILED
        assert job.item.failure is not None
        assert job.item.failure.code is FailureCode.INPUT_REFUSED
        assert "a.png has changed since this image was wanted: --retry-failed" in job.item.failure.message
        assert bought(sandbox) == []


def test_rows_of_a_file_notice_a_changed_picture_too(tmp_path: Path) -> None:
    write(tmp_path / "a.png", picture())
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a fox", "init_image": "a.png"}\n', encoding="utf-8")
    said = ["batch", "rows.jsonl", "--sandbox", "--workflow", "img2img", "--width", "64", "--height", "64"]
    assert run_cli(*said, cwd=tmp_path).code == 0
    write(tmp_path / "a.png", picture((80, 64)))
    again = run_cli(*said, cwd=tmp_path)
    assert (again.code, "1 changed" in again.out + again.err) == (0, True), again
    assert run_cli(*said, "--rebuy-changed", cwd=tmp_path).code == 0
    (line,) = manifest(tmp_path / "asyncgen-sandbox")
    assert line["sent_pictures"]["init_image"]["width"] == 80


def test_a_picture_is_read_once_as_long_as_its_time_and_size_stay(tmp_path: Path) -> None:
    data = picture()
    path, pictures = write(tmp_path / "mask.png", data), InputPictures(tmp_path)
    before = pictures.facts("mask_image", path)
    status = (tmp_path / "mask.png").stat()
    write(tmp_path / "mask.png", bytes(len(data)))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert pictures.facts("mask_image", path) == before
    os.utime(path)
    with pytest.raises(InputError, match=r"mask_image: .*mask\.png is no PNG, JPEG or WebP picture"):
        pictures.facts("mask_image", path)


# -- refused before anything is sent --------------------------------------------------------------------------------

MOVING = encoded(
    Image.new("RGB", (16, 16)), "WEBP", save_all=True, append_images=[Image.new("RGB", (16, 16), "red")], duration=9
)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (picture()[:-20], "is damaged: the PNG is cut off"),
        (picture(kind="JPEG")[:-20], "is damaged: the JPEG is cut off"),
        (picture(kind="GIF"), "is no PNG, JPEG or WebP picture: it is GIF"),
        (b"<html>no such file", "it is HTML"),
        (b"", "is damaged: only 0 bytes"),
        (MOVING, "is a moving picture"),
    ],
)
def test_what_no_worker_can_use_is_refused_with_the_reason(tmp_path: Path, data: bytes, words: str) -> None:
    with pytest.raises(InputError, match=f"init_image: .*a.png {words}" if "is" in words[:3] else words) as caught:
        spec_of(tmp_path, init_image=write(tmp_path / "a.png", data))
    assert caught.value.field == "init_image"


@pytest.mark.parametrize("name", ["gone.png", "."])
def test_what_is_no_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"cannot be read|is no file"):
        spec_of(tmp_path, init_image=str(tmp_path / name))


def test_the_command_line_tells_every_bad_row_and_sends_nothing(tmp_path: Path) -> None:
    write(tmp_path / "good.png", picture())
    write(tmp_path / "cut.png", picture()[:-20])
    rows = ["prompt,init_image", "a fox,good.png", "a hen,cut.png", "a cat,gone.png"]
    (tmp_path / "rows.csv").write_text("\n".join(rows), encoding="utf-8")
    done = run_cli("batch", "rows.csv", "--sandbox", "--workflow", "img2img", cwd=tmp_path)
    assert done.code == 2
    assert "rows.csv:3:init_image: cut.png is damaged" in done.err
    assert "rows.csv:4:init_image: gone.png cannot be read: No such file" in done.err
    assert "2 bad rows, nothing was sent" in done.err
    assert not (tmp_path / "asyncgen-sandbox").exists()


def test_a_mask_has_the_size_of_its_picture(tmp_path: Path) -> None:
    said = {
        "workflow": "inpaint",
        "init_image": write(tmp_path / "a.png", picture((96, 64))),
        "mask_image": write(tmp_path / "m.png", picture((64, 64))),
    }
    with pytest.raises(InputError, match="mask_image: is 64x64, but its init_image is 96x64"):
        spec_of(tmp_path, **said)
    spec = spec_of(tmp_path, {"resize": "stretch"}, **said)
    assert (spec.width, spec.height) == (96, 64)
    assert (spec.sent_pictures["init_image"].resized, spec.sent_pictures["mask_image"].resized) == (
        None,
        "stretch:96x64",
    )


@pytest.mark.parametrize("workflow", ["inpaint", "inpaint_fill"])
def test_a_mask_that_masks_nothing_is_refused_and_one_that_masks_all_is_not(tmp_path: Path, workflow: str) -> None:
    def planned(mask: Image.Image, kind: str = "PNG") -> Spec:
        named = {"init_image": write(tmp_path / "a.png", picture((96, 64)))}
        named["mask_image"] = write(tmp_path / "m.png", encoded(mask, kind))
        return spec_of(tmp_path, workflow=workflow, **named)

    for mode, kind in [("L", "PNG"), ("RGB", "JPEG"), ("1", "PNG"), ("I;16", "PNG"), ("P", "PNG")]:
        with pytest.raises(InputError, match=r"mask_image: is black all over, so that nothing .*: paint white what is"):
            planned(Image.new(mode, (96, 64)), kind)
    with pytest.raises(InputError, match="is black all over"):  # the workflow reads red, and not what is transparent
        planned(Image.new("RGBA", (96, 64), (0, 0, 255, 0)))
    planned(Image.new("L", (96, 64), 255))
    spot = Image.new("L", (96, 64))
    spot.putpixel((50, 50), 255)
    planned(spot)


def test_a_mask_is_black_where_the_graph_reads_it(tmp_path: Path) -> None:
    named = {"init_image": write(tmp_path / "a.png", picture((96, 64)))}
    for channel, inverted, mode, told in [
        ("alpha", False, "RGB", "is opaque all over, .*: paint transparent what is"),
        ("alpha", False, "RGBA", None),  # all of it is transparent
        ("red", True, "RGB", None),
    ]:
        named["mask_image"] = write(tmp_path / f"{mode}.png", encoded(Image.new(mode, (96, 64))))
        workflow = inpainting(tmp_path / "own.json", channel, inverted=inverted)
        with nullcontext() if told is None else pytest.raises(InputError, match=told):
            spec_of(tmp_path, workflow=workflow, **named)


def inpainting(path: Path, channel: str = "red", *, inverted: bool = False) -> str:
    """The shipped workflow with its mask read otherwise, as a file."""
    source = data_path("workflows", "inpaint.json")
    graph = json.loads(source.read_text())
    graph["21"]["inputs"]["channel"] = channel
    if inverted:
        graph["inverted"] = {"class_type": "InvertMask", "inputs": {"mask": ["21", 0]}}
        graph["23"]["inputs"]["mask"] = ["inverted", 0]
    path.write_text(json.dumps(graph))
    path.with_suffix(".bindings.json").write_text(source.with_suffix(".bindings.json").read_text())
    return str(path)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_picture_that_is_too_large_is_no_damaged_one(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / "huge", encoded(Image.new("1", (16_000, 4_200)).convert("L"), kind))
    told = r"init_image: .*huge is too large: 16000x4200 pixels, and sides up to 32,768 and 67,108,864 pixels in all"
    with pytest.raises(InputError, match=told):
        spec_of(tmp_path, init_image=path)


def test_a_workflow_that_keeps_the_size_of_its_picture_makes_no_other_unless_it_may_be_resized(tmp_path: Path) -> None:
    named = {"init_image": write(tmp_path / "a.png", picture((99, 70)))}
    assert (spec_of(tmp_path, workflow="upscale", **named).width) == 96
    named["mask_image"] = write(tmp_path / "m.png", picture((99, 70)))
    spec = spec_of(tmp_path, workflow="inpaint", **named)
    assert (spec.width, spec.height, spec.sent_pictures["mask_image"].resized) == (96, 64, None)
    with pytest.raises(InputError, match="is 99x70, and this workflow makes a picture of its size, 96x64, not 64x64"):
        spec_of(tmp_path, workflow="inpaint", **named, **SMALL)
    spec = spec_of(tmp_path, {"resize": "crop"}, workflow="inpaint", **named, **SMALL)
    assert {image.size for image in sent(tmp_path, spec, **named).values()} == {(64, 64)}


def test_resized_masks_stay_black_and_white(tmp_path: Path) -> None:
    mask = Image.new("L", (99, 70))
    mask.paste(255, (10, 10, 50, 41))
    named = {"init_image": write(tmp_path / "a.png", picture((99, 70)))}
    named["mask_image"] = write(tmp_path / "m.png", encoded(mask))
    spec = spec_of(tmp_path, {"resize": "stretch"}, workflow="inpaint", **named, **SMALL)
    colours = sent(tmp_path, spec, **named)["mask_image"].getcolors()
    assert {colour for _, colour in colours or ()} == {(0, 0, 0), (255, 255, 255)}


@pytest.mark.parametrize(("resize", "corner"), [("crop", 64), ("stretch", 0)])
def test_crop_keeps_the_middle_and_stretch_keeps_everything(resize: str, corner: int) -> None:
    wide = Image.new("L", (256, 64))
    wide.putdata([x for _ in range(64) for x in range(256)])
    data, suffix = converted(encoded(wide), f"{resize}:64x32", None, is_mask=True)
    image = Image.open(BytesIO(data))
    assert (suffix, image.size) == (".png", (64, 32))
    assert abs(image.getpixel((0, 0))[0] - corner) <= 2  # type: ignore[index]  # of an RGB picture


def test_a_picture_that_lies_on_its_side_is_as_large_as_it_is_shown() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = picture((96, 64), kind="JPEG", exif=exif)
    assert facts_of(data).size == (64, 96)
    turned, _ = converted(data, None, "webp-lossless", is_mask=False)
    assert facts_of(turned).size == (64, 96)


def test_colours_under_transparent_pixels_stay_what_they_are() -> None:
    image = Image.new("RGBA", (64, 64), (200, 10, 10, 0))
    for how in ("webp-lossless", "jpeg:90"):
        data, suffix = converted(encoded(image), "stretch:32x32", how, is_mask=False)
        assert suffix == ".webp"
        assert Image.open(BytesIO(data)).convert("RGBA").getpixel((5, 5)) == (200, 10, 10, 0)


def test_sixteen_bits_of_grey_are_scaled_and_not_cut_off() -> None:
    grey = encoded(Image.new("I;16", (8, 8), 0x8000))
    data, _ = converted(grey, None, "webp-lossless", is_mask=False)
    assert Image.open(BytesIO(data)).convert("L").getpixel((0, 0)) in (127, 128)


def test_a_picture_of_other_proportions_is_warned_of_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plans = planner(tmp_path)
    for number in range(3):
        plans.want(asked(init_image=write(tmp_path / f"{number}.png", picture((96, 64))), **SMALL), 0)
    (record,) = [record for record in caplog.records if "init_image" in record.getMessage()]
    assert "is 96x64 and is scaled to 64x64: its middle is used" in record.getMessage()


# -- the 10 MiB of a body -------------------------------------------------------------------------------------------


def test_a_body_over_10_mib_is_found_before_it_is_sent_and_made_smaller_as_is_allowed(tmp_path: Path) -> None:
    named = {"init_image": write(tmp_path / "a.png", noise((1664, 1664)))}
    named["mask_image"] = write(tmp_path / "m.png", picture((1664, 1664)))
    said = {"workflow": "inpaint", **named}
    with pytest.raises(InputError, match=r"init_image: is 11,...,... bytes in base64, and the job .* more .*jpeg:90"):
        spec_of(tmp_path, **said)
    spec = spec_of(tmp_path, {"reencode": "jpeg:80"}, **said)
    assert {name: p.encoded for name, p in spec.sent_pictures.items()} == {
        "init_image": "jpeg:80",
        "mask_image": "webp-lossless",
    }
    images = sent(tmp_path, spec, **named)
    assert {name: image.format for name, image in images.items()} == {"init_image": "JPEG", "mask_image": "WEBP"}
    original = Image.open(named["mask_image"])
    assert images["mask_image"].tobytes() == original.tobytes()
    with pytest.raises(InputError, match=r"let it be re-encoded \(--reencode-inputs jpeg:90\)"):
        spec_of(tmp_path, {"reencode": "webp-lossless"}, **said)


def test_a_prompt_that_leaves_a_picture_no_room_is_told_and_not_the_picture(tmp_path: Path) -> None:
    named = {"init_image": write(tmp_path / "a.png", picture()), "prompt": "x" * MAX_RUN_BODY_BYTES}
    with pytest.raises(InputError, match="so shorten the prompt"):
        spec_of(tmp_path, {"reencode": "jpeg:80"}, workflow="img2img", **named)


def test_a_picture_that_fits_is_sent_byte_by_byte_whatever_is_allowed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.png", picture())
    spec = spec_of(tmp_path, {"reencode": "jpeg:80", "resize": "never"}, init_image=path)
    name, text = InputPictures(tmp_path).to_send("init_image", path, spec.sent_pictures["init_image"])
    assert base64.b64decode(text) == picture()
    assert name == f"{hashlib.sha256(picture()).hexdigest()[:16]}.png"


# -- bytes and URLs -------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_bytes_are_kept_under_their_hash_and_are_the_same_picture_in_a_later_process(tmp_path: Path) -> None:
    said = {"prompt": "a fox", "init_image": picture(), **SMALL}
    kept_as = f"inputs:{hashlib.sha256(picture()).hexdigest()[:16]}.png"
    async with open_sandbox() as sandbox:
        inputs = received(sandbox)
        settings = settings_for(sandbox, tmp_path / "out", workflow="img2img")
        async with ImageGenerator(settings) as generator:
            (first,) = await generator.generate_many([said], batch="set")
        async with ImageGenerator(settings) as generator:
            (kept,) = await generator.generate_many([said], batch="set")
            await generator.generate_many([{**said, "init_image": picture((80, 64))}], batch="set")
        assert (first.ok, kept.kept, kept.changed, kept.request_id) == (True, True, False, first.request_id)
    assert base64.b64decode(inputs[0]["images"][0]["image"]) == picture()
    assert len(inputs) == 2
    (line, _) = manifest(tmp_path / "out")
    assert line["request"]["init_image"] == kept_as
    assert (tmp_path / "out" / kept_as.replace(":", "/")).read_bytes() == picture()


def _answers(data: bytes, **headers: str) -> Any:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=data, headers=headers)

    return answer


@pytest.mark.anyio
async def test_a_url_is_downloaded_once_checked_and_sent_and_its_secret_is_written_nowhere(tmp_path: Path) -> None:
    async def moved(_: web.Request) -> web.Response:
        raise web.HTTPFound("/a.png")

    asked_for: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked_for.append(request.query_string)
        return web.Response(body=picture())

    async with site({"/a.png": answer, "/moved": moved}) as url, open_sandbox() as sandbox:
        inputs = received(sandbox)
        settings = settings_for(sandbox, tmp_path / "out", workflow="img2img", allow_private_urls=True)
        said = [
            {"prompt": "a fox", "init_image": f"{url}/a.png?{SECRET}", **SMALL},
            {"prompt": "a hen", "init_image": f"{url}/a.png?{SECRET}", **SMALL},
            {"prompt": "a cat", "init_image": f"{url}/moved", **SMALL},
        ]
        async with ImageGenerator(settings) as generator:
            results = await generator.generate_many(said, batch="set")
            assert asked_for == [SECRET, ""]
        async with ImageGenerator(settings) as generator:  # another signature is no other image
            renewed = [{**said[0], "init_image": f"{url}/a.png?{SECRET}0000"}]
            (kept,) = await generator.generate_many(renewed, batch="set")
        assert all(result.ok for result in results)
        assert (kept.kept, kept.changed, kept.request_id) == (True, False, results[0].request_id)
    assert {base64.b64decode(entry["images"][0]["image"]) for entry in inputs} == {picture()}
    assert not [path for path in files(tmp_path / "out") if SECRET.encode() in path.read_bytes()]
    lines = {line["prompt"]: line["request"]["init_image"] for line in manifest(tmp_path / "out")}
    assert lines["a fox"] == f"{url}/a.png#sha256={hashlib.sha256(picture()).hexdigest()[:16]}"
    assert lines["a cat"] == f"{url}/moved"


@pytest.mark.anyio
async def test_the_command_line_downloads_what_rows_name_once_and_tells_nobody_of_its_secret(tmp_path: Path) -> None:
    asked_for: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked_for.append(request.path_qs)
        return web.Response(body=picture((96, 64 + 8 * len(asked_for))))

    env = {"ASYNCGEN_ALLOW_PRIVATE_URLS": "true"}
    async with site({f"/{number}.png": answer for number in range(3)}) as url:
        rows = [f"fox {number},{url}/{number}.png?{SECRET}" for number in range(3)]
        rows.append(rows[0].replace("fox", "hen"))
        (tmp_path / "rows.csv").write_text("\n".join(["prompt,init_image", *rows]), encoding="utf-8")
        said = ["batch", "rows.csv", "--workflow", "img2img", "--sandbox", "--out", "o", "-vv", "--log-file", "log"]
        done = await anyio.to_thread.run_sync(lambda: run_cli(*said, cwd=tmp_path, env=env))
    assert done.code == 0, done.err
    assert sorted(asked_for) == [f"/{number}.png?{SECRET}" for number in range(3)]
    assert len(manifest(tmp_path / "o")) == 4
    told = [path for path in files(tmp_path) if path.name != "rows.csv" and SECRET.encode() in path.read_bytes()]
    assert (told, SECRET in done.out + done.err) == ([], False)


@pytest.mark.anyio
async def test_a_picture_from_a_url_is_sent_again_by_a_process_that_cannot_download_it(tmp_path: Path) -> None:
    async with site({"/a.png": _answers(picture())}) as url:
        root = tmp_path / "out"
        pictures = InputPictures(root, allow_private=True)
        plans = Planner(StylesRegistry.load(), "img2img", pictures=pictures)
        want = await anyio.to_thread.run_sync(plans.want, asked(init_image=f"{url}/a.png?{SECRET}"), 0)
    later = Planner(StylesRegistry.load(), "img2img", pictures=InputPictures(root))
    assert later.want(parse_request(want.request.said()), 0).fingerprint == want.fingerprint
    reference = want.request.named_pictures["init_image"]
    _, text = InputPictures(root).to_send("init_image", reference, want.spec.sent_pictures["init_image"])
    assert base64.b64decode(text) == picture()
    (kept,) = files(root / "inputs")
    kept.unlink()
    with pytest.raises(InputError, match=r"was downloaded once, and is no longer in .*: give its URL again"):
        InputPictures(root).facts("init_image", reference)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("path", "private", "words"),
    [
        ("/a.png", False, "was not opened: its scheme is 'http', and only https"),
        ("/page", True, "it is HTML"),
        ("/gone", True, "cannot be downloaded"),
        ("/huge", True, "announces 9000 bytes, more than 5000"),
        ("/round", True, "redirects more than 5 times"),
    ],
)
async def test_a_url_that_leads_to_no_picture_is_refused(tmp_path: Path, path: str, private: bool, words: str) -> None:
    async def gone(_: web.Request) -> web.Response:
        raise web.HTTPNotFound

    async def around(_: web.Request) -> web.Response:
        raise web.HTTPFound("/round")

    routes = {"/a.png": _answers(picture()), "/page": _answers(b"<html>"), "/huge": _answers(bytes(9000))}
    async with site({**routes, "/gone": gone, "/round": around}) as url:
        pictures = InputPictures(tmp_path, allow_private=private, max_bytes=5000)
        plans = Planner(StylesRegistry.load(), "img2img", pictures=pictures)
        with pytest.raises(InputError, match=words) as caught:
            await anyio.to_thread.run_sync(plans.want, asked(init_image=f"{url}{path}?{SECRET}"), 0)
    assert caught.value.field == "init_image"
    assert SECRET not in str(caught.value)
    assert not (tmp_path / "inputs").exists()


@pytest.mark.parametrize("name", ["inputs:../secret.png", "inputs:abc.png", "inputs:/etc/passwd"])
def test_a_kept_picture_is_named_by_its_hash_alone(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="is no name of a kept picture"):
        spec_of(tmp_path, init_image=name)
