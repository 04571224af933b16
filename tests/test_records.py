"""The plain values: what the ledger writes of a spec comes back as it was."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from parts import want

from asyncgen.loras import Lora
from asyncgen.records import SentPicture, Spec
from asyncgen.url_secrets import recordable

TEXT = st.text(max_size=20)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
SPECS = st.builds(
    Spec,
    prompt=TEXT, prompt_sent=TEXT, style_id=st.none() | TEXT, style_title=st.none() | TEXT, width=st.integers(),
    height=st.integers(), steps=st.integers(), batch_size=st.integers(), model=TEXT, sampler_name=TEXT,
    scheduler_name=TEXT, flux_guidance=NUMBERS, loras=st.lists(st.builds(Lora, TEXT, NUMBERS), max_size=3).map(tuple),
    workflow=TEXT, workflow_digest=TEXT,
    parameters=st.dictionaries(TEXT, st.booleans() | st.integers() | NUMBERS | TEXT, max_size=3),
    model_urls=st.lists(st.tuples(TEXT, TEXT.map(recordable)), max_size=2).map(tuple),
    sent_pictures=st.dictionaries(
        TEXT,
        st.builds(SentPicture, TEXT, TEXT, *[st.integers()] * 3, *[st.none() | TEXT] * 2),
        max_size=2,
    ),
    unused=st.lists(st.sampled_from(["steps", "flux_guidance"]), unique=True).map(tuple),
)  # fmt: skip
#: Another value for every field of a spec that decides something.
OTHERWISE: dict[str, Any] = {
    "prompt": "a cat", "prompt_sent": "ink, a cat", "style_id": "16", "style_title": "Other", "width": 72, "height": 72,
    "steps": 99, "batch_size": 3, "model": "other", "sampler_name": "heun", "scheduler_name": "beta",
    "flux_guidance": 9.5, "loras": (Lora("other.safetensors", 0.25),), "workflow": "other", "workflow_digest": "0",
    "parameters": {"max_shift": 2.0}, "model_urls": (("other.safetensors", "https://x.example/o"),),
    "sent_pictures": {"init_image": SentPicture("0" * 64, "png", 8, 8, 99)},
}  # fmt: skip


@given(SPECS)
def test_a_spec_comes_back_from_its_json_as_it_was(spec: Spec) -> None:
    assert Spec.from_json(spec.to_json()) == spec
    assert Spec.from_json(spec.to_json()).to_json() == spec.to_json()


def test_the_order_in_which_parameters_were_said_does_not_change_a_spec() -> None:
    spec = want().spec
    one, other = (replace(spec, parameters=p) for p in ({"a": 1, "b": 2}, {"b": 2, "a": 1}))
    assert one.to_json() == other.to_json()


@pytest.mark.parametrize("name", [field.name for field in fields(Spec) if field.name != "unused"])
def test_whatever_changes_in_a_spec_changes_the_fingerprint(name: str) -> None:
    wanted = want(style_id="1")
    changed = replace(wanted, spec=replace(wanted.spec, **{name: OTHERWISE[name]}))
    assert changed.fingerprint != wanted.fingerprint
    assert len(wanted.fingerprint) == 16


def test_that_a_value_is_unused_is_recorded_and_changes_no_image_that_is_there() -> None:
    wanted = want()
    told = replace(wanted, spec=replace(wanted.spec, unused=("flux_guidance",)))
    assert told.fingerprint == wanted.fingerprint
    assert Spec.from_json(told.spec_json).unused == ("flux_guidance",)
    assert "unused" not in wanted.spec_json


def test_a_spec_without_input_pictures_is_written_as_it_was_before_there_were_any() -> None:
    text = want().spec.to_json()
    assert "sent_pictures" not in text
    assert Spec.from_json(text) == want().spec


def test_the_seed_and_the_filename_do_not_change_the_fingerprint() -> None:
    assert want(seed=1, filename="a").fingerprint == want(seed=2, filename="b").fingerprint == want().fingerprint
