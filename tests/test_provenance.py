"""What a picture's file says of how it was made: written without touching a pixel, and read by those it is for."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from typer.testing import CliRunner

from asyncgen import images
from asyncgen.cli import app
from asyncgen.containers import contents_of
from asyncgen.exif import exif_of, texts_in
from asyncgen.marking import Marking
from asyncgen.origins import Origin, origin_of
from asyncgen.plan import Planner
from asyncgen.provenance import MADE_BY_AI, MADE_WITH_AI, Level
from asyncgen.records import PLATFORM, SANDBOX
from asyncgen.registry import StylesRegistry
from asyncgen.request import parse_request
from tests.support import KEY, open_sandbox, wired

pytestmark = pytest.mark.anyio
GRAPHS = Path(__file__).parent / "graphs"
WEIRD = 'a "fox" & <a> hen, 狐\r\n\x00\x07\x85\ufffe 🦊 --> ]]> Steps: 3'
XMP = "XML:com.adobe.xmp"
PLANNER = Planner(
    StylesRegistry.load(), "normal_image_v4_workflow", model_urls={"anna": f"https://x.example/a?k={KEY}"}
)


def encoded(file_format: str, mode: str = "RGB", **options: Any) -> bytes:
    file = BytesIO()
    Image.radial_gradient("L").resize((33, 17)).convert(mode).save(file, file_format, **options)
    return file.getvalue()


def png_texts(**texts: str) -> PngInfo:
    info = PngInfo()
    for keyword, text in texts.items():
        info.add_text(keyword, text)
    return info


def marked(data: bytes, level: Level = "full", count: int = 1, realm: str = PLATFORM, **fields: Any) -> bytes:
    """The file that is kept of a worker's picture."""
    said = {"prompt": "a fox", "style_id": "1", "width": 64, "height": 64, "character_loras": ["anna"], **fields}
    want = PLANNER.want(parse_request(said), 0)
    marks = Marking(PLANNER, level, realm, "tales", {}).marks(want, "img_0123abcd", 2**64 - 1, count)
    picture = images.check(data, marks(count))
    file = picture.as_file().data
    assert (len(file), images.check(file).sha256) == (picture.size_bytes, picture.sha256)
    return file


def opened(data: bytes) -> Image.Image:
    image = Image.open(BytesIO(data))
    image.load()
    return image


def same_pixels(one: bytes, other: bytes) -> bool:
    frames = [[], []]
    for data, found in zip((one, other), frames, strict=True):
        image = Image.open(BytesIO(data))
        for number in range(getattr(image, "n_frames", 1)):
            image.seek(number)
            found.append((image.mode, image.size, image.tobytes()))
    return frames[0] == frames[1]


def properties(data: bytes) -> dict[str, str]:
    """The properties of the XMP packet, found by Pillow and read by an XML parser."""
    info = opened(data).info
    packet = info.get(XMP) or info["xmp"]
    root = ElementTree.fromstring(packet)
    (description,) = root.iter("{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description")
    return {element.tag.rpartition("}")[2]: element.text or "" for element in description}


PICTURES = {
    "png": encoded("PNG"),
    "png with alpha": encoded("PNG", "RGBA"),
    "png with a palette": encoded("PNG", "P"),
    "png with texts": encoded("PNG", pnginfo=png_texts(prompt="{}", Comment="mine", workflow="{}")),
    "jpeg": encoded("JPEG"),
    "progressive jpeg": encoded("JPEG", progressive=True),
    "jpeg with xmp": encoded("JPEG", xmp=b"<x/>", comment=b"mine", icc_profile=b"icc" * 9),
    "webp": encoded("WEBP"),
    "webp with alpha": encoded("WEBP", "RGBA"),
    "lossless webp": encoded("WEBP", lossless=True),
    "lossless webp with alpha": encoded("WEBP", "RGBA", lossless=True),
    "webp with xmp": encoded("WEBP", xmp=b"<x/>", icc_profile=b"icc" * 9),
    "moving webp": encoded("WEBP", save_all=True, append_images=[Image.new("RGB", (33, 17), "red")], duration=40),
}


@pytest.mark.parametrize("level", ["full", "basic"])
@pytest.mark.parametrize("name", PICTURES)
def test_no_pixel_is_touched_and_the_file_is_whole(name: str, level: Level) -> None:
    data = PICTURES[name]
    file = marked(data, level)

    assert same_pixels(file, data)
    assert opened(file).info.get("icc_profile") == opened(data).info.get("icc_profile")
    assert images.check(file).format == name.split()[-1] if " with" not in name else True
    assert properties(file)["DigitalSourceType"] == MADE_BY_AI


@pytest.mark.parametrize("name", PICTURES)
def test_a_file_that_is_marked_again_says_everything_once(name: str) -> None:
    once = marked(PICTURES[name], prompt="a hen")
    twice = marked(once)

    assert len(twice) == len(marked(PICTURES[name]))
    assert origin_of(twice).prompt == "a fox"
    assert b"a hen" not in twice


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize("prompt", ["a fox", WEIRD, "狐" * 3000])
def test_what_is_written_is_read_back(name: str, prompt: str) -> None:
    origin = origin_of(marked(PICTURES[name], prompt=prompt))

    assert (origin.program, origin.prompt, origin.seed, origin.style_id) == ("asyncgen", prompt, 2**64 - 1, "1")
    assert [lora.name for lora in origin.loras][1:] == ["anna.safetensors"]
    assert origin.record is not None
    assert origin.record["request_id"] == "img_0123abcd"
    assert origin.record["workflow_digest"] == PLANNER.template().digest
    assert parse_request({"prompt": prompt, **origin.record["request"]}).character_loras == ("anna",)


def test_a1111_and_comfyui_find_their_own_forms_in_a_png() -> None:
    info = opened(marked(PICTURES["png"])).info

    first, _, settings = info["parameters"].rpartition("\n")
    assert "a fox" in first
    assert first.endswith("<lora:anna:0.7225>")
    assert settings.startswith(
        "Steps: 20, Sampler: Euler, Schedule type: Simple, CFG scale: 1, Distilled CFG Scale: 3.5"
    )
    assert f"Seed: {2**64 - 1}, Size: 64x64, Model: flux1-dev-fp8" in settings
    graph = json.loads(info["prompt"])
    assert graph["25"]["inputs"]["noise_seed"] == 2**64 - 1
    assert graph["6"]["inputs"]["text"].find("a fox") >= 0


@pytest.mark.parametrize("name", ["jpeg", "webp"])
def test_a1111_finds_its_text_in_the_user_comment(name: str) -> None:
    exif = opened(marked(PICTURES[name], prompt="狐 a fox")).getexif()

    comment = exif.get_ifd(0x8769)[0x9286]
    assert comment[:8] == b"UNICODE\0"
    assert "狐 a fox" in comment[8:].decode("utf-16-be")
    assert "Steps: 20" in comment[8:].decode("utf-16-be")


def test_comfyui_finds_its_graph_in_a_webp() -> None:
    model = opened(marked(PICTURES["webp"], prompt="狐")).getexif()[0x0110]

    assert json.loads(model.removeprefix("prompt:"))["25"]["inputs"]["noise_seed"] == 2**64 - 1


def test_the_graph_of_a_jpeg_is_in_its_xmp() -> None:
    file = marked(PICTURES["jpeg"], prompt=WEIRD)

    assert WEIRD in json.loads(properties(file)["Graph"])["6"]["inputs"]["text"]


@pytest.mark.parametrize("size", [16_000, 200_000])
def test_what_is_too_long_for_a_jpeg_is_left_out_and_that_is_said(size: int) -> None:
    file = marked(PICTURES["jpeg"], prompt="x" * size)

    origin = origin_of(file)
    assert origin.seed == 2**64 - 1
    assert origin.record is not None
    assert "Graph" not in properties(file)
    assert ("left_out" in origin.record) == (size > 60_000)
    assert same_pixels(file, PICTURES["jpeg"])


@pytest.mark.parametrize("name", PICTURES)
def test_basic_says_nothing_of_the_prompt_not_even_the_workers_words(name: str) -> None:
    worker = marked(PICTURES[name], prompt="a secret")
    file = marked(worker, "basic")

    origin = origin_of(file)
    assert (origin.seed, origin.prompt, origin.loras) == (2**64 - 1, None, ())
    assert set(origin.record or ()) == {"format", "asyncgen", "request_id", "seed", "digital_source_type"}
    assert not any(word in file for word in (b"secret", b"tales", "secret".encode("utf-16-be"), b"anna"))


@pytest.mark.parametrize("name", PICTURES)
def test_basic_says_of_the_sandboxes_pictures_whose_they_are(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(marked(PICTURES[name], "basic", realm=SANDBOX))
    assert "in its sandbox, made by AI" in CliRunner().invoke(app, ["show", str(path)]).output


def test_what_the_worker_wrote_stays_unless_it_says_the_same() -> None:
    theirs = png_texts(prompt='{"their": "graph"}', workflow='{"a": "drawing"}', Comment="mine")
    info = opened(marked(encoded("PNG", pnginfo=theirs))).info

    assert (info["workflow"], info["Comment"]) == ('{"a": "drawing"}', "mine")
    assert "their" not in info["prompt"]


def test_exif_of_the_workers_stays_and_is_not_doubled() -> None:
    for name in ("JPEG", "WEBP"):
        exif = Image.Exif()
        exif[0x010F] = "a camera"
        file = marked(encoded(name, exif=exif))

        assert opened(file).getexif()[0x010F] == "a camera"
        assert file.count(b"a camera") == 1
        assert origin_of(file).prompt == "a fox"


def test_no_path_no_url_and_no_key_gets_into_a_file(tmp_path: Path) -> None:
    secret = {"parameters": {"vae": f"https://me:{KEY}@x.example/a?sign={KEY}"}, "filename": "home-of-mine"}
    file = marked(PICTURES["png"], **secret)

    assert b"https://x.example/a" in file
    assert not any(word in file for word in (KEY.encode(), b"home-of-mine", b"?sign"))


def test_a_picture_that_begins_with_another_is_a_composite() -> None:
    planner = Planner(StylesRegistry.load(), "img2img")
    want = planner.want(parse_request({"prompt": "a fox", "init_image": "/home/me/cat.png"}), 0)
    marks = Marking(planner, "full", PLATFORM, "tales", {"init_image": "1234.png"}).marks(want, "img_0123abcd", 7, 1)
    file = images.check(PICTURES["png"], marks(1)).as_file().data

    assert properties(file)["DigitalSourceType"] == MADE_WITH_AI
    assert b"1234.png" in file
    assert not any(word in file for word in (b"/home", b"cat.png"))


def test_each_of_several_pictures_of_a_job_says_which_it_is() -> None:
    record = origin_of(marked(PICTURES["png"], count=3)).record or {}

    assert (record["number"], record["of"]) == (3, 3)


# -- what others have written ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(GRAPHS.glob("text2img*.json")), ids=lambda path: path.stem)
def test_a_graph_of_comfyuis_is_understood(path: Path) -> None:
    graph = json.loads(path.read_text())
    first = next(iter(graph.values()))
    first["is_changed"] = [float("nan")]  # as ComfyUI writes
    origin = origin_of(encoded("PNG", pnginfo=png_texts(prompt=json.dumps(graph))))

    assert (origin.program, origin.seed, origin.steps, origin.sampler_name) == ("ComfyUI", 123456789, 20, "euler")
    assert origin.prompt_sent is not None
    assert origin.prompt_sent.startswith("film still of alice and bob")
    assert [lora.strength for lora in origin.loras] == ([] if "nolora" in path.stem else [0.8, 0.75, 0.75, 0.85])


A1111 = """a fox, <lora:noir_v2:0.8> (wet:1.2)
second line
Negative prompt: blurry, "low"
Steps: 28, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, Seed: 42, Size: 512x768, Model hash: 6ce0161689, \
Model: v1-5, Lora hashes: "noir_v2: aaaa, b: cccc", Version: v1.9.4"""


def a1111_files() -> list[Any]:
    return [
        pytest.param(encoded("PNG", pnginfo=png_texts(parameters=A1111)), id="PNG"),
        pytest.param(encoded("JPEG", exif=b"Exif\0\0" + exif_of(A1111)), id="JPEG"),
        pytest.param(encoded("WEBP", exif=exif_of(A1111)), id="WEBP"),
    ]


@pytest.mark.parametrize("data", a1111_files())
def test_a_text_of_a1111s_is_understood(data: bytes) -> None:
    origin = origin_of(data)

    assert (origin.program, origin.seed, origin.steps, origin.model) == ("A1111", 42, 28, "v1-5")
    assert (origin.width, origin.height, origin.sampler_name, origin.scheduler_name) == (512, 768, "dpmpp_2m", "karras")
    assert origin.prompt_sent == "a fox, (wet:1.2)\nsecond line"
    assert origin.negative_prompt == 'blurry, "low"'
    assert [(lora.name, lora.strength) for lora in origin.loras] == [("noir_v2.safetensors", 0.8)]


def test_our_own_form_of_a1111s_text_is_one_that_is_understood() -> None:
    texts = contents_of(marked(PICTURES["png"], model="a, b: c"))
    assert texts is not None
    origin = origin_of(encoded("PNG", pnginfo=png_texts(parameters=texts.texts["parameters"])))

    assert (origin.program, origin.model, origin.seed, origin.flux_guidance) == ("A1111", "a, b: c", 2**64 - 1, 3.5)


@pytest.mark.parametrize("data", [encoded("PNG"), encoded("JPEG"), encoded("WEBP")])
def test_a_file_that_says_nothing_says_nothing(data: bytes) -> None:
    assert origin_of(data) == Origin()
    assert not origin_of(data).says_something


def test_what_is_damaged_is_told_as_that() -> None:
    for texts, words in (
        ({"asyncgen": "{"}, "record is damaged"),
        ({"prompt": "[]"}, "graph cannot be read"),
        ({"prompt": "[" * 100_000}, "graph cannot be read"),
        ({"workflow": "{}"}, "the drawing"),
    ):
        assert words in " ".join(origin_of(encoded("PNG", pnginfo=png_texts(**texts))).notes)


def test_entities_that_grow_without_end_are_not_read() -> None:
    packet = b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">]><x>&a;</x>'

    assert origin_of(encoded("JPEG", xmp=packet)) == Origin()


def test_a_text_that_inflates_without_end_is_cut() -> None:
    info = PngInfo()
    info.add(b"zTXt", b"parameters\0\0" + zlib.compress(b"\0" * 50_000_000, 9))

    contents = contents_of(encoded("PNG", pnginfo=info))
    assert contents is not None
    assert len(contents.texts["parameters"]) <= 16 * 1024 * 1024


SMALL = {name: PICTURES[name] for name in ("png with texts", "jpeg with xmp", "webp with xmp", "lossless webp")}


@given(
    name=st.sampled_from(sorted(SMALL)),
    edits=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=6),
    cut=st.integers(0, 60),
)
def test_damage_never_raises_and_what_passes_the_check_can_be_marked(
    name: str, edits: list[tuple[int, int]], cut: int
) -> None:
    data = bytearray(marked(SMALL[name]))
    for place, value in edits:
        data[place % len(data)] = value
    damaged = bytes(data[: len(data) - cut])

    if damaged[:4] == bytes(data[:4]) and contents_of(damaged) is not None:
        origin_of(damaged)
    try:
        images.check(damaged)
    except images.ImageFaultError:
        return
    assert origin_of(marked(damaged)).prompt == "a fox"


@given(st.binary(max_size=300))
def test_any_exif_is_read_without_an_error(data: bytes) -> None:
    texts_in(b"MM\0*\0\0\0\x08" + data)
    texts_in(data)


# -- `asyncgen show` ------------------------------------------------------------------------------------------------


def shown(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["show", *map(str, arguments)])


def test_show_tells_how_each_file_was_made(tmp_path: Path) -> None:
    for name in ("PNG", "JPEG", "WEBP"):
        path = tmp_path / f"fox.{name}"
        path.write_bytes(marked(encoded(name), prompt="a \x1b[31mfox"))
        result = shown(path)

        assert result.exit_code == 0
        assert "written by asyncgen" in result.output
        assert "a \\x1b[31mfox" in result.output
        assert "anna.safetensors 0.7225" in result.output
        line = json.loads(shown("--json", path).output)
        assert (line["prompt"], line["seed"], line["record"]["batch"]) == ("a \x1b[31mfox", 2**64 - 1, "tales")


def test_show_says_it_when_there_is_nothing_and_goes_on(tmp_path: Path) -> None:
    (tmp_path / "plain.png").write_bytes(PICTURES["png"])
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "fox.png").write_bytes(marked(PICTURES["png"]))
    result = shown(*(tmp_path / name for name in ("plain.png", "text.png", "gone.png", "fox.png")))

    assert result.exit_code == 1
    assert "plain.png: it does not say how it was made" in result.output
    assert "text.png cannot be read: it is no PNG, JPEG or WebP picture" in result.output
    assert "gone.png cannot be read: No such file" in result.output
    assert "fox.png: written by asyncgen" in result.output


# -- in a run -------------------------------------------------------------------------------------------------------


async def test_the_ledger_knows_the_hash_and_size_of_the_file_as_it_is(tmp_path: Path) -> None:
    async with open_sandbox() as sandbox, wired(sandbox, tmp_path) as parts:
        (result,) = await parts.run([{"prompt": "a fox", "style_id": "1"}])

    assert result.saved_path is not None
    file = result.saved_path.read_bytes()
    (picture,) = result.pictures
    assert (images.check(file).sha256, len(file)) == (picture.sha256, picture.size_bytes)
    origin = origin_of(file)
    assert (origin.prompt, origin.seed) == ("a fox", result.seed)
    assert (origin.record or {})["request_id"] == result.request_id


async def test_a_picture_in_memory_says_how_it_was_made_too(tmp_path: Path) -> None:
    async with open_sandbox() as sandbox, wired(sandbox, tmp_path) as parts:
        (result,) = await parts.run([{"prompt": "a fox", "save_to_style": False}])

    (data,) = result.read_pictures()
    assert origin_of(data).prompt == "a fox"
    assert images.check(data).sha256 == result.pictures[0].sha256


async def test_none_keeps_the_workers_bytes(tmp_path: Path) -> None:
    async with open_sandbox() as sandbox:
        async with wired(sandbox, tmp_path / "a", metadata="none") as parts:
            (plain,) = await parts.run([{"prompt": "a fox", "seed": 7}])
        async with wired(sandbox, tmp_path / "b") as parts:
            (full,) = await parts.run([{"prompt": "a fox", "seed": 7}])

    assert origin_of(plain.read_pictures()[0]).record is None
    assert same_pixels(plain.read_pictures()[0], full.read_pictures()[0])


def chunks_of(data: bytes) -> Iterator[bytes]:
    start = 8
    while start < len(data):
        (length,) = struct.unpack_from(">I", data, start)
        yield data[start + 4 : start + 8]
        start += 12 + length


def test_texts_stand_before_the_pixels_where_readers_look() -> None:
    kinds = list(chunks_of(marked(PICTURES["png"])))

    assert kinds[0] == b"IHDR"
    assert kinds.index(b"IDAT") > max(place for place, kind in enumerate(kinds) if kind in (b"tEXt", b"iTXt"))
