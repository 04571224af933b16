"""From a request to what is sent: the caller before the style before the defaults, and nothing wrong gets past."""

from __future__ import annotations

import base64
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncgen.assets import data_path, read_json
from asyncgen.errors import InputError, StyleNotFoundError, WorkflowError
from asyncgen.loras import Lora
from asyncgen.plan import MAX_RESULT_BYTES, Planner
from asyncgen.records import Spec
from asyncgen.registry import StylesRegistry
from asyncgen.request import MAX_SEED, ImageRequest, parse_request
from asyncgen.workflow import DEFAULTS

V4 = "normal_image_v4_workflow"
INK = {
    "id": "7", "title": "Ink", "frontpad": "ink drawing", "trigger_words": "inkx", "backpad": "on paper",
    "lora_file": "ink.safetensors", "lora_weight": 0.9, "character_lora_weight": 0.6, "cine_lora_weight": 0.4,
    "model": "ink-model", "steps": 28, "guidance": 4.5, "sampler_name": "heun", "scheduler_name": "beta",
}  # fmt: skip
PLAIN = {"id": "8", "title": "Plain"}
LORAS = [{"lora_name": "ink", "lora_file": "ink.safetensors", "s3_url": "https://s3.example/ink.safetensors"}]
#: A request's field, the value the style has for it, and where it ends up in a spec.
FILLED = [
    ("steps", 28),
    ("flux_guidance", 4.5),
    ("sampler_name", "heun"),
    ("scheduler_name", "beta"),
    ("model", "ink-model"),
]


def registry(tmp_path: Path, *styles: dict[str, Any]) -> StylesRegistry:
    path = tmp_path / "styles.json"
    path.write_text(json.dumps({"styles": list(styles or (INK, PLAIN)), "loras": LORAS}), encoding="utf-8")
    return StylesRegistry.load(path)


@pytest.fixture
def planner(tmp_path: Path) -> Planner:
    return Planner(registry(tmp_path), V4)


def asked(**said: Any) -> ImageRequest:
    return parse_request({"prompt": "a fox", **said})


def spec_of(planner: Planner, **said: Any) -> Spec:
    return planner.spec(asked(**said))


# -- who decides


@pytest.mark.parametrize(("field", "of_style"), FILLED)
def test_the_style_fills_what_the_caller_leaves_out_and_the_defaults_what_both_leave_out(
    planner: Planner, field: str, of_style: Any
) -> None:
    assert getattr(spec_of(planner, style="7"), field) == of_style
    assert getattr(spec_of(planner, style="8"), field) == getattr(spec_of(planner), field) == DEFAULTS[field]


@pytest.mark.parametrize(("field", "said"), [("steps", 1), ("flux_guidance", 0.0), ("model", "mine")])
def test_what_the_caller_says_wins_even_where_it_is_zero(planner: Planner, field: str, said: Any) -> None:
    assert getattr(spec_of(planner, style="7", **{field: said}), field) == said


def test_sizes_come_from_the_caller_or_the_defaults(planner: Planner) -> None:
    assert (spec_of(planner, style="7").width, spec_of(planner).height) == (1360, 768)
    assert spec_of(planner, width=64).width == 64


def test_the_prompt_sent_is_composed_and_both_texts_are_kept(planner: Planner) -> None:
    spec = spec_of(planner, style="7")
    assert (spec.prompt, spec.prompt_sent) == ("a fox", "ink drawing, inkx, a fox, on paper")
    assert spec_of(planner, style="7", raw_prompt=True).prompt_sent == "a fox"
    assert (spec.style_id, spec.style_title) == ("7", "Ink")
    assert spec_of(planner).style_title is None


def test_the_style_and_the_characters_become_the_lora_stack(planner: Planner) -> None:
    assert spec_of(planner, style="7", character_loras="ann").loras == (
        Lora("ink.safetensors", 0.9), Lora("ann.safetensors", 0.51), Lora("FILM-V3-FLUX.safetensors", 0.38),
    )  # fmt: skip
    said = {"lora_strength": 0.0, "character_lora_strength": 1.0, "cine_lora_strength": 0.0}
    assert spec_of(planner, style="7", character_loras="ann", **said).loras == (
        Lora("ink.safetensors", 0.0), Lora("ann.safetensors", 0.85),
    )  # fmt: skip


def test_a_lora_of_the_callers_own_replaces_the_styles_and_none_means_none(planner: Planner) -> None:
    assert spec_of(planner, style="7", lora_name="mine", cine_lora_strength=0).loras == (Lora("mine.safetensors", 0.9),)
    assert spec_of(planner, style="7", lora_name="None", cine_lora_strength=0).loras == ()
    assert spec_of(planner, style="8").loras == ()


def test_an_edited_workflow_or_style_is_seen_in_the_spec(planner: Planner, tmp_path: Path) -> None:
    edited = Planner(registry(tmp_path, {**INK, "backpad": "on silk"}, PLAIN), V4)
    assert spec_of(edited, style="7").prompt_sent != spec_of(planner, style="7").prompt_sent
    assert edited.want(asked(style="7"), 0).content_key == planner.want(asked(style="7"), 0).content_key
    assert edited.want(asked(style="7"), 0).fingerprint != planner.want(asked(style="7"), 0).fingerprint
    assert edited.want(asked(style="8"), 0).fingerprint == planner.want(asked(style="8"), 0).fingerprint


# -- several images of one request


def test_images_become_so_many_wants_with_seeds_that_count_on(planner: Planner) -> None:
    wants = list(planner.wants(asked(images=4, seed=MAX_SEED - 1)))
    assert [want.fixed_seed for want in wants] == [MAX_SEED - 1, MAX_SEED, 0, 1]
    assert [want.replica for want in wants] == [0, 1, 2, 3]
    assert len({want.content_key for want in wants}) == 4


def test_without_a_seed_every_image_draws_its_own(planner: Planner) -> None:
    assert {want.fixed_seed for want in planner.wants(asked(images=3, seed=-1))} == {None}


@given(images=st.integers(1, 40), seed=st.none() | st.integers(0, MAX_SEED))
def test_one_want_of_a_request_is_the_same_as_among_all_of_them(images: int, seed: int | None) -> None:
    planner = Planner(StylesRegistry.load(), V4)
    request = asked(images=images, seed=seed)
    assert [planner.want(request, replica) for replica in range(images)] == list(planner.wants(request))


# -- what is sent


def test_a_job_input_has_the_workflow_and_nothing_that_was_not_asked_for(planner: Planner) -> None:
    request = asked(style="8")
    assert set(planner.job_input(request, planner.spec(request), 7, {})) == {"workflow"}


def test_the_graph_carries_prompt_seed_and_sizes(planner: Planner) -> None:
    request = asked(style="7", width=64, height=72)
    graph = planner.job_input(request, planner.spec(request), MAX_SEED, {})["workflow"]
    assert graph["6"]["inputs"]["text"] == "ink drawing, inkx, a fox, on paper"
    assert graph["25"]["inputs"]["noise_seed"] == MAX_SEED
    assert [graph[node]["inputs"]["width"] for node in ("27", "30")] == [64, 64]
    assert graph["17"]["inputs"]["steps"] == 28


def test_urls_are_sent_for_the_loras_that_are_loaded_and_have_one(tmp_path: Path) -> None:
    urls = {"ann": "https://x.example/ann", "unused": "https://x.example/unused"}
    planner = Planner(registry(tmp_path), V4, model_urls=urls)
    request = asked(style="7", character_loras="ann")
    job_input = planner.job_input(request, planner.spec(request), 7, {})
    assert job_input["model_urls"] == [
        {"id": "ink.safetensors", "url": "https://s3.example/ink.safetensors"},
        {"id": "ann.safetensors", "url": "https://x.example/ann"},
    ]
    assert job_input["force_download"] is False


def test_a_url_that_is_given_wins_over_the_registrys(tmp_path: Path) -> None:
    planner = Planner(registry(tmp_path), V4, model_urls={"ink.safetensors": "https://mine.example/ink"})
    assert planner.spec(asked(style="7")).model_urls == (("ink.safetensors", "https://mine.example/ink"),)


# -- workflows of one's own


@pytest.fixture
def own_workflow(tmp_path: Path) -> Path:
    """V4 with a picture to start from, and without a parameter for steps."""
    graph, bindings = read_json("workflows", f"{V4}.json"), read_json("workflows", f"{V4}.bindings.json")
    graph["50"] = {"class_type": "LoadImage", "inputs": {"image": "example.png"}}
    graph["51"] = {"class_type": "PreviewImage", "inputs": {"images": ["50", 0]}}
    bindings["images"] = {"init_image": [{"node": "50", "input": "image"}]}
    del bindings["parameters"]["steps"]
    (tmp_path / "own.json").write_text(json.dumps(graph), encoding="utf-8")
    (tmp_path / "own.bindings.json").write_text(json.dumps(bindings), encoding="utf-8")
    return tmp_path / "own.json"


def test_a_picture_is_sent_with_its_name_in_the_graph(planner: Planner, own_workflow: Path) -> None:
    request = asked(workflow=str(own_workflow), init_image="fox.png")
    picture = base64.b64encode(b"png").decode()
    job_input = planner.job_input(request, planner.spec(request), 7, {"init_image": ("0123.png", picture)})
    assert job_input["images"] == [{"name": "0123.png", "image": picture}]
    assert job_input["workflow"]["50"]["inputs"]["image"] == "0123.png"


def test_a_picture_that_the_workflow_needs_or_does_not_take_is_told(planner: Planner, own_workflow: Path) -> None:
    with pytest.raises(InputError, match=r"init_image: .*needs this picture"):
        list(planner.wants(asked(workflow=str(own_workflow))))
    with pytest.raises(InputError, match=r"mask_image: .*takes init_image"):
        list(planner.wants(asked(workflow=str(own_workflow), init_image="a.png", mask_image="b.png")))
    with pytest.raises(InputError, match=r"pose_image: .*takes no pictures"):
        list(planner.wants(asked(pose_image="a.png")))


def test_what_only_the_style_says_is_left_out_where_the_workflow_cannot_take_it(
    planner: Planner, own_workflow: Path
) -> None:
    said = {"workflow": str(own_workflow), "init_image": "a.png"}
    assert list(planner.wants(asked(style="7", **said)))
    with pytest.raises(InputError, match=r"steps"):
        list(planner.wants(asked(steps=5, **said)))


def test_the_name_of_the_workflow_is_in_the_key(planner: Planner, own_workflow: Path) -> None:
    own = Planner(StylesRegistry.load(), str(own_workflow))
    request = asked(init_image="a.png")
    assert own.want(request, 0).spec.workflow == "own"
    assert own.want(request, 0).content_key != planner.want(asked(), 0).content_key


# -- refused before anything is sent


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({"width": 8}, "width"),
        ({"width": 20}, "width"),
        ({"height": 16392}, "height"),
        ({"steps": 0}, "steps"),
        ({"batch_size": 0}, "batch_size"),
        ({"lora_strength": 10.5}, "lora_strength"),
        ({"character_loras": "ann:11"}, "character_loras"),
        ({"cine_lora_strength": -11}, "cine_lora_strength"),
        ({"parameters": {"no_such": 1}}, "no_such"),
    ],
)
def test_a_value_that_cannot_be_is_refused_naming_the_field(planner: Planner, said: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as caught:
        list(planner.wants(asked(**said)))
    assert field in str(caught.value)


def test_an_unknown_style_is_refused_with_the_close_ones(planner: Planner) -> None:
    with pytest.raises(StyleNotFoundError, match=r"7"):
        list(planner.wants(asked(style="77")))


def test_an_unknown_workflow_is_refused(planner: Planner) -> None:
    with pytest.raises(WorkflowError, match=r"no-such"):
        list(planner.wants(asked(workflow="no-such")))


def test_more_loras_than_slots_are_refused_by_name(planner: Planner) -> None:
    with pytest.raises(WorkflowError, match=r"c10"):
        list(planner.wants(asked(style="7", character_loras=[f"c{number}" for number in range(11)])))


def test_a_result_that_the_platform_would_drop_is_refused_with_the_arithmetic(planner: Planner) -> None:
    assert list(planner.wants(asked(batch_size=4)))
    with pytest.raises(InputError, match=r"batch_size: 5 pictures of 1360x768 .*10,485,760.*at most 4.*images=5"):
        list(planner.wants(asked(batch_size=5)))


def test_one_picture_that_is_too_large_is_refused_unless_the_limit_is_raised(planner: Planner) -> None:
    with pytest.raises(InputError, match=r"width: 1 picture of 4096x4096 .* = 39,\d+,\d+ bytes.*ASYNCGEN_RESULT_LIMIT"):
        planner.want(asked(width=4096, height=4096), 0)
    roomy = Planner(StylesRegistry.load(), V4, max_result_bytes=64 * 1024 * 1024)
    assert roomy.want(asked(width=4096, height=4096), 0)


def test_the_run_s_own_workflow_is_part_of_what_is_wanted(tmp_path: Path) -> None:
    """So that who plans it again, without the option, plans the same; the key holds its name only."""
    for suffix in (".json", ".bindings.json"):
        shipped = data_path("workflows", f"{V4}{suffix}")
        (tmp_path / f"mine{suffix}").write_bytes(shipped.read_bytes())
    wanted = Planner(StylesRegistry.load(), str(tmp_path / "mine.json")).want(asked(), 0)
    again = Planner(StylesRegistry.load(), V4).want(parse_request(wanted.request.said()), 0)
    assert (again.spec.workflow, again.content_key) == ("mine", wanted.content_key)


@given(side=st.integers(2, 256).map(lambda units: units * 8), batch_size=st.integers(2, 64))
def test_a_batch_is_taken_exactly_as_far_as_its_predicted_result_fits(side: int, batch_size: int) -> None:
    planner = Planner(StylesRegistry.load(), V4)
    predicted = side * side * 1_836_151 / (1360 * 768) * 4 / 3 * batch_size
    try:
        planner.want(asked(width=side, height=side, batch_size=batch_size), 0)
        assert predicted <= MAX_RESULT_BYTES + batch_size
    except InputError:
        assert predicted > MAX_RESULT_BYTES - batch_size


def test_a_style_whose_text_is_no_unicode_is_refused_by_its_field(tmp_path: Path) -> None:
    path = tmp_path / "broken.json"
    path.write_text('{"styles": [{"id": "7", "title": "Ink", "frontpad": "ink \\ud800"}]}', encoding="utf-8")
    with pytest.raises(InputError, match=r"surrogate"):
        list(Planner(StylesRegistry.load(path), V4).wants(asked(style="7")))


def test_the_weakness_of_the_lora_node_is_warned_of_once(planner: Planner, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "asyncgen"):
        list(planner.wants(asked(style="8")))
        assert not caplog.records, "nothing to warn of without LoRAs"
        for _ in range(3):
            list(planner.wants(asked(style="7")))
    assert len(caplog.records) == 1
    assert "easy loraStackApply" in caplog.text
