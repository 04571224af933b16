"""The old set: pictures that were made elsewhere are part of a batch, and are not made again."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from typer.testing import CliRunner

from asyncgen import adopter
from asyncgen.adoption import Adoptable, Adoption, NotAdoptableError, taken_apart
from asyncgen.cli import app
from asyncgen.marking import Marking
from asyncgen.origins import Origin, origin_of
from asyncgen.plan import Planner
from asyncgen.provenance import parameters_text, provenance_of
from asyncgen.records import PLATFORM, SANDBOX
from asyncgen.registry import StylesRegistry
from asyncgen.request import content_key, parse_request
from asyncgen.styles import Style, compose_prompt
from tests.support import (
    Ran,
    Remote,
    account,
    cli_environment,
    files,
    ledger_rows,
    sandbox_in_a_thread,
    states,
    true_output,
)

STYLES = StylesRegistry.load()
PLANNER = Planner(STYLES, "normal_image_v4_workflow")
INK = STYLES.get_style_by_id("1")
OLD = "resources/style_images/1_ink_intensity"
Cli = Callable[..., Ran]


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Remote]:
    with sandbox_in_a_thread() as remote:
        yield remote


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sandbox: Remote) -> Cli:
    monkeypatch.chdir(tmp_path)
    for name, value in cli_environment(**account(sandbox)).items():
        monkeypatch.setenv(name, value)

    def run(*arguments: object) -> Ran:
        result = CliRunner().invoke(app, [*map(str, arguments), "--out", "images"])
        return Ran(result.exit_code, result.stdout, result.stderr)

    return run


def adopted(cli: Cli, *arguments: object) -> Ran:
    return cli("adopt", *arguments, "--sandbox")


def made_by_comfyui(path: Path, seed: int = 7, **fields: Any) -> Path:
    """A picture as the old system left it: the graph of a real server is in it."""
    want = PLANNER.want(parse_request({"width": 64, "height": 64, **fields}), 0)
    return picture(path, seed, prompt=json.dumps(PLANNER.graph(want.request, want.spec, seed, {})))


def made_by_a1111(path: Path, seed: int = 7, **fields: Any) -> Path:
    want = PLANNER.want(parse_request({"width": 64, "height": 64, **fields}), 0)
    provenance = provenance_of(want, None, request_id="", seed=seed, batch="", realm=PLATFORM, level="full")
    return picture(path, seed, parameters=parameters_text(provenance.record) or "")


def picture(path: Path, shade: int = 7, **texts: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    info = PngInfo()
    for keyword, text in texts.items():
        info.add_text(keyword, text)
    Image.new("RGB", (64, 64), (shade % 256, shade // 256 % 256, 9)).save(path, "PNG", pnginfo=info)
    return path


def batch(cli: Cli, *prompts: str | dict[str, Any], options: tuple[str, ...] = ("--style", "1")) -> dict[str, Any]:
    """What a run over a prompt file says at its end."""
    lines = [prompt if isinstance(prompt, dict) else {"prompt": prompt} for prompt in prompts]
    Path("prompts.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    ran = cli("batch", "prompts.jsonl", "--width", "64", "--height", "64", "--json", *options)
    assert ran.code == 0, ran
    return ran.summary


def snapshot(folder: Path) -> dict[Path, tuple[bytes, int]]:
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files(folder)}


# -- a whole old set ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [made_by_comfyui, made_by_a1111])
def test_what_the_old_system_made_is_kept_by_the_run_of_the_same_prompt_file(
    tmp_path: Path, cli: Cli, sandbox: Remote, make: Callable[..., Path]
) -> None:
    for number, prompt in enumerate(("a fox", "a hen")):
        make(tmp_path / "old" / OLD / f"generated_{number}.png", 100 + number, prompt=prompt, style_id="1")
    before, jobs = snapshot(tmp_path / "old"), sandbox.accepted()

    ran = adopted(cli, "old", "--name", "prompts")
    summary = batch(cli, "a hen", "a new one", "a fox")

    assert (ran.code, ran.out) == (
        0,
        "2 pictures: 2 adopted into 'prompts' in images/, 0 were there already, 0 skipped\n",
    )
    assert (summary["kept"], summary["new"], summary["changed"]) == (2, 1, 0)
    assert sandbox.accepted() == jobs + 1
    assert snapshot(tmp_path / "old") == before
    assert len(true_output(tmp_path / "images")) == 3
    assert cli("verify", "--sandbox").code == 0


def test_adopting_again_changes_nothing_and_reads_no_file(tmp_path: Path, cli: Cli) -> None:
    path = made_by_comfyui(tmp_path / "old" / "a.png", prompt="a fox")
    adopted(cli, "old")
    before = ledger_rows(tmp_path / "images", "SELECT * FROM item, image, event")
    path.write_bytes(bytes(path.stat().st_size))

    ran = adopted(cli, "old", "--json")

    assert (ran.code, [entry["event"] for entry in ran.json]) == (0, ["there", "summary"])
    assert ledger_rows(tmp_path / "images", "SELECT * FROM item, image, event") == before


def test_what_lies_in_the_output_root_stays_where_it_is(tmp_path: Path, cli: Cli) -> None:
    path = made_by_comfyui(tmp_path / "images" / OLD / "generated_1.png", prompt="a fox", style_id="1")
    before = snapshot(tmp_path)

    adopted(cli, "images", "--name", "prompts")

    assert [line["path"] for line in true_output(tmp_path / "images")] == [f"{OLD}/generated_1.png"]
    assert snapshot(path.parent) == {path: before[path]}


def test_what_lies_elsewhere_gets_a_second_name_in_it(tmp_path: Path, cli: Cli) -> None:
    path = made_by_comfyui(tmp_path / "old" / "deep" / "a.png", prompt="a fox")

    adopted(cli, "old")

    assert path.samefile(tmp_path / "images/adopted/old/deep/a.png")


def test_where_there_are_no_hard_links_it_is_copied(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    path = made_by_comfyui(tmp_path / "old" / "a.png", prompt="a fox")

    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(adopter, "os", SimpleNamespace(link=refuse, walk=os.walk))
    ran = adopted(cli, "old")

    assert ran.code == 0
    assert not path.samefile(tmp_path / "images/adopted/old/a.png")
    assert len(true_output(tmp_path / "images")) == 1


def test_a_dry_run_shows_what_would_be_taken_and_writes_nothing(tmp_path: Path, cli: Cli) -> None:
    made_by_comfyui(tmp_path / "old" / OLD / "a.png", prompt="a fox", style_id="1")
    picture(tmp_path / "old" / "plain.png")

    ran = adopted(cli, "old", "--dry-run")

    assert ran.code == 1
    assert "plain.png: it does not say how it was made, and there is no caption plain.txt" in ran.out
    assert "'a fox', style 1, seed 7 (by ComfyUI)" in ran.out
    assert "2 pictures: 1 can be taken into 'old', 1 skipped" in ran.out
    assert not (tmp_path / "images").exists()


def test_adopted_images_cost_nothing_and_are_told_of_by_status_and_why(tmp_path: Path, cli: Cli) -> None:
    made_by_comfyui(tmp_path / "old" / "a.png", prompt="a fox")
    adopted(cli, "old")

    (status,) = cli("status", "--sandbox", "--json").json
    assert (status["wanted"], status["pictures"], status["gpu_ms"], status["costs"]) == (1, 1, 0, {})
    why = cli("why", "images/adopted/old/a.png", "--sandbox").out
    assert "adopted: made elsewhere, by what ComfyUI says" in why
    assert "now stored" in why
    assert ledger_rows(tmp_path / "images", "SELECT count(*) FROM job") == [(0,)]


def test_of_an_adopted_image_that_is_lost_nobody_says_that_it_was_paid_for(tmp_path: Path, cli: Cli) -> None:
    made_by_comfyui(tmp_path / "old" / "a.png", prompt="a fox")
    adopted(cli, "old")
    (line,) = true_output(tmp_path / "images")
    (tmp_path / "images" / line["path"]).unlink()
    assert cli("verify", "--repair", "--sandbox").code == 1
    why = cli("why", line["request_id"], "--sandbox").out
    assert "now lost: it was adopted" in why
    assert "paid for" not in why


def test_a_ledger_that_is_lost_is_made_again_of_the_manifest(tmp_path: Path, cli: Cli) -> None:
    made_by_comfyui(tmp_path / "old" / "a.png", prompt="a fox", style_id="1")
    adopted(cli, "old", "--name", "prompts")
    for path in (tmp_path / "images").glob("ledger.sqlite3*"):
        path.unlink()

    assert cli("verify", "--repair", "--sandbox").code == 1
    assert cli("verify", "--sandbox").code == 0
    assert batch(cli, "a fox")["kept"] == 1


def test_several_pictures_of_one_request_are_its_images(tmp_path: Path, cli: Cli) -> None:
    for seed in range(20):
        made_by_comfyui(tmp_path / "old" / f"{seed}.png", seed, prompt="a fox", style_id="1")
    adopted(cli, "old", "--name", "prompts")

    summary = batch(cli, "a fox", options=("--style", "1", "--images", "21"))

    assert (summary["kept"], summary["new"]) == (20, 1)


def test_with_fixed_seeds_the_seed_is_part_of_what_was_asked(tmp_path: Path, cli: Cli) -> None:
    for seed in (5, 6):
        made_by_comfyui(tmp_path / "old" / f"{seed}.png", seed, prompt="a fox", style_id="1")
    adopted(cli, "old", "--name", "prompts", "--fixed-seeds")

    summary = batch(cli, {"prompt": "a fox", "seed": 6}, {"prompt": "a fox", "seed": 7}, {"prompt": "a fox", "seed": 5})

    assert (summary["kept"], summary["new"]) == (2, 1)


def test_a_picture_takes_the_place_of_an_image_that_failed_or_waits(tmp_path: Path, cli: Cli, sandbox: Remote) -> None:
    batch(cli, "a hen")
    (tmp_path / "images" / true_output(tmp_path / "images")[0]["path"]).unlink()
    cli("verify", "--repair", "--sandbox")
    assert states(tmp_path / "images") == {"lost": 1}
    made_by_comfyui(tmp_path / "old" / "a.png", prompt="a hen", style_id="1")

    assert adopted(cli, "old", "--name", "prompts").code == 0

    assert states(tmp_path / "images") == {"stored": 1}
    assert batch(cli, "a hen")["kept"] == 1


# -- what asyncgen itself has made ----------------------------------------------------------------------------------


def test_a_set_of_asyncgens_own_moves_to_another_root_with_every_identity(tmp_path: Path, cli: Cli) -> None:
    wanted = ({"prompt": "a fox", "id": "mine", "steps": 9}, {"prompt": "a hen", "character_loras": ["anna:0.5"]})
    batch(cli, *wanted)
    (tmp_path / "images").rename(tmp_path / "before")

    assert adopted(cli, "before", "--name", "prompts").code == 0

    assert batch(cli, *wanted)["kept"] == 2
    assert batch(cli, *wanted)["changed"] == 0


def test_what_a_workflow_does_not_take_is_adopted_as_what_it_is(tmp_path: Path, cli: Cli) -> None:
    options = ("--workflow", "schnell")
    batch(cli, "a fox", options=options)
    (made,) = true_output(tmp_path / "images")
    assert (made["flux_guidance"], made["unused"]) == (None, {"flux_guidance": 3.5})
    (tmp_path / "images").rename(tmp_path / "older")
    ran = adopted(cli, tmp_path / "older", "--name", "prompts", *options)
    assert ran.code == 0, ran
    again = batch(cli, "a fox", options=options)
    assert (again["new"], again["kept"], again["changed"]) == (0, 1, 0)
    (adopted_line,) = true_output(tmp_path / "images")
    assert (adopted_line["flux_guidance"], adopted_line["unused"]) == (None, {"flux_guidance": 3.5})
    for file in (tmp_path / "images").glob("ledger.sqlite3*"):
        file.unlink()  # it is made again of the manifest
    assert cli("verify", "--repair", "--sandbox").code == 1
    again = batch(cli, "a fox", options=options)
    assert (again["new"], again["kept"], again["changed"]) == (0, 1, 0)


def test_pictures_of_one_job_stay_together(tmp_path: Path, cli: Cli) -> None:
    wanted = {"prompt": "a fox", "batch_size": 3}
    batch(cli, wanted)
    (tmp_path / "images").rename(tmp_path / "before")
    (last,) = files(tmp_path / "before", "*_3.png")
    later = last.rename(tmp_path / "later.png")
    adopted(cli, "before", "--name", "prompts")
    later.rename(last)

    assert adopted(cli, "before", "--name", "prompts").code == 0

    assert [line["number"] for line in true_output(tmp_path / "images")] == [0, 1, 2]
    assert cli("verify", "--sandbox").code == 0
    assert batch(cli, wanted)["kept"] == 1


def test_of_an_output_root_only_what_counts_is_taken(tmp_path: Path, cli: Cli) -> None:
    batch(cli, "a fox")
    (tmp_path / "images").rename(tmp_path / "before")
    for folder in ("rejected", "inputs"):
        made_by_comfyui(tmp_path / "before" / folder / "a.png", prompt="a hen")

    assert adopted(cli, "before", "--json").summary["files"] == 1


def test_what_the_sandbox_painted_never_stands_for_a_real_picture(tmp_path: Path, cli: Cli) -> None:
    batch(cli, "a fox")

    (tmp_path / "images").rename(tmp_path / "painted")

    ran = cli("adopt", "painted", "--name", "real")

    assert ran.code == 1
    assert "the sandbox painted it" in ran.out


# -- what is skipped ------------------------------------------------------------------------------------------------


def test_what_cannot_be_taken_is_named_with_the_reason_and_the_rest_is_taken(tmp_path: Path, cli: Cli) -> None:
    old = tmp_path / "old"
    made_by_comfyui(old / "good.png", prompt="a fox")
    (old / "cut.png").write_bytes((old / "good.png").read_bytes()[:-5])
    (old / "words.png").write_text("not a picture")
    (old / "link.png").symlink_to(old / "good.png")
    made_by_comfyui(old / "style_images" / "99_gone" / "a.png", prompt="a hen")
    picture(old / "bad.png", prompt='{"1": {"class_type": "SaveImage", "inputs": {}}}')
    (old / ".hidden.png").write_text("")
    (old / "notes.txt").write_text("no picture")

    ran = adopted(cli, "old")

    assert ran.code == 1
    for name, words in {
        "cut.png": "cut off",
        "words.png": "no PNG, JPEG or WebP",
        "link.png": "no file of its own",
        "99_gone/a.png": "99",
        "bad.png": "ComfyUI says no prompt",
    }.items():
        (line,) = [line for line in ran.out.splitlines() if f"{name}: " in line]
        assert words in line
    assert "6 pictures: 1 adopted" in ran.out


def test_a_caption_beside_the_picture_is_its_prompt(tmp_path: Path, cli: Cli) -> None:
    picture(tmp_path / "old" / OLD / "a.png")
    (tmp_path / "old" / OLD / "a.txt").write_text(f"{compose_prompt(INK, 'a fox')}\n")

    adopted(cli, "old", "--name", "prompts")

    assert batch(cli, "a fox")["kept"] == 1


def test_a_folder_that_is_none_is_bad_input(cli: Cli) -> None:
    ran = adopted(cli, "nowhere")

    assert (ran.code, ran.out) == (2, "")
    assert "nowhere is no folder" in ran.err


# -- what a picture was wanted as -----------------------------------------------------------------------------------

FIELDS = st.fixed_dictionaries(
    {"prompt": st.sampled_from(["a fox", "inkintensity fox", "狐, a fox.", "bold brush strokes"])},
    optional={
        "style_id": st.sampled_from([style.id for style in STYLES.get_all_styles()]),
        "character_loras": st.sampled_from([["anna"], ["anna", "bob:0.4"], ["a.safetensors"]]),
        "lora_strength": st.sampled_from([0.4, 1.2]),
        "cine_lora_strength": st.sampled_from([0.3, 1.0]),
        "steps": st.integers(1, 40),
        "width": st.sampled_from([64, 1360]),
        "flux_guidance": st.sampled_from([2.0, 3.5]),
        "sampler_name": st.sampled_from(["euler", "dpmpp_2m"]),
        "model": st.sampled_from(["flux1-dev-fp8", "other"]),
    },
)


def found(origin: Origin, folder: str = "somewhere") -> Adoptable:
    adoption = Adoption(PLANNER, STYLES, SANDBOX)
    return adoption.adoptable(PurePosixPath(f"old/{folder}/a.png"), origin, None, (1360, 768))


@given(fields=FIELDS)
def test_the_graph_of_a_request_is_wanted_as_what_leads_to_the_same_graph(fields: dict[str, Any]) -> None:
    want = PLANNER.want(parse_request(fields), 0)
    info = json.dumps(PLANNER.graph(want.request, want.spec, 5, {}))
    origin = origin_of(png_of(prompt=info))
    adoptable = found(origin)

    again = PLANNER.want(adoptable.request, 0).spec
    assert again.prompt_sent == want.spec.prompt_sent
    assert PLANNER.graph(adoptable.request, again, 5, {}) == json.loads(info)


@given(fields=FIELDS)
def test_our_own_record_is_the_request_itself(fields: dict[str, Any]) -> None:
    want = PLANNER.want(parse_request(fields), 3)
    marks = Marking(PLANNER, "full", SANDBOX, "tales", {}).marks(want, "img_01234567", 5, 1)
    data = png_of()
    origin = origin_of(b"".join(marks(1)(data, "png", 8, 8)))

    adoptable = found(origin)
    assert (adoptable.request, adoptable.replica, adoptable.seed) == (want.request, 3, 5)
    assert adoptable.want(3).content_key == content_key(want.request, 3, want.spec.workflow)
    assert adoptable.want(3).fingerprint == want.fingerprint


def png_of(**texts: str) -> bytes:
    info = PngInfo()
    for keyword, text in texts.items():
        info.add_text(keyword, text)
    file = BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG", pnginfo=info)
    return file.getvalue()


@pytest.mark.parametrize("style", STYLES.get_all_styles(), ids=lambda style: style.id)
@pytest.mark.parametrize("prompt", ["a fox", "A fox. In rain!", "fox, hen", "狐"])
def test_a_prompt_comes_out_of_what_its_style_made_of_it(style: Style, prompt: str) -> None:
    assert taken_apart(style, compose_prompt(style, prompt)) == prompt


def test_a_record_that_is_damaged_is_refused_in_words() -> None:
    want = PLANNER.want(parse_request("a fox"), 0)
    record = dict(provenance_of(want, None, request_id="", seed=1, batch="", realm=SANDBOX, level="full").record)
    for name, value in (
        ("width", "wide"),
        ("request", 7),
        ("replica", None),
        ("parameters", []),
        ("input_pictures", []),
        ("prompt_sent", 3),
    ):
        origin = Origin(program="asyncgen", prompt="a fox", seed=1, record={**record, name: value})
        with pytest.raises(NotAdoptableError, match=r"damaged|must be"):
            found(origin)
