"""A reply read with its pictures lifted says the same as one that is parsed whole."""

from __future__ import annotations

import json
from io import BytesIO
from typing import Any

import pybase64
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from asyncgen.diagnosis import json_object
from asyncgen.images import examine
from asyncgen.lifting import lifted_object
from asyncgen.ports import HttpReply
from asyncgen.protocol import Completed, Failed, InlineImage
from asyncgen.replies import decipher_status

_file = BytesIO()
Image.effect_noise((180, 180), 90).save(_file, "PNG")
PICTURE = _file.getvalue()  # noise does not compress: about 30 kB
TEXT = pybase64.b64encode(PICTURE).decode()
LONG = 16 * 1024


def whole(value: Any, pictures: dict[str, memoryview]) -> Any:
    """The value with its pictures put back."""
    if isinstance(value, dict):
        return {key: whole(member, pictures) for key, member in value.items()}
    if isinstance(value, list):
        return [whole(element, pictures) for element in value]
    return bytes(pictures[value]).decode() if isinstance(value, str) and value in pictures else value


texts = st.one_of(
    st.text(max_size=8),
    st.sampled_from(
        [TEXT, TEXT[:LONG], TEXT[: LONG - 4], '"' + TEXT, "\\" * 3, "iVBORw0KGgo\\" + "a" * LONG, "data:lifted,0"]
    ),
)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-9, 9), texts),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(texts.filter(lambda t: len(t) < 99), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=4), values, max_size=4), st.booleans())
def test_lifting_loses_and_changes_nothing(record: dict[str, Any], ascii_only: bool) -> None:
    body = json.dumps(record, ensure_ascii=ascii_only).encode()
    lifted = lifted_object(body)
    assert lifted is not None
    assert whole(lifted.record, dict(lifted.pictures)) == json_object(body)


@given(st.binary(max_size=60), st.integers(0, 60))
def test_what_is_no_object_stays_none(noise: bytes, place: int) -> None:
    body = json.dumps({"a": [TEXT], "b": 1}).encode()
    broken = body[:place] + noise + body[place:]
    lifted, plain = lifted_object(broken), json_object(broken)
    assert (lifted is None) == (plain is None) or TEXT.encode() not in broken


def completed(data: str) -> bytes:
    output = {"images": [{"filename": "a.png", "type": "base64", "data": data}]}
    return json.dumps({"id": "j", "status": "COMPLETED", "output": output}).encode()


@pytest.mark.parametrize("data", [TEXT, f"data:image/png;base64,{TEXT}"])
def test_a_long_picture_is_read_where_it_lies(data: str) -> None:
    outcome = decipher_status(HttpReply(200, {}, completed(data)))
    assert isinstance(outcome, Completed)
    (image,) = outcome.images
    assert isinstance(image, InlineImage)
    assert isinstance(image.base64_text, memoryview)
    (picture,) = examine(outcome)
    assert picture.data == PICTURE  # type: ignore[union-attr]  # an inline picture, not a link


@pytest.mark.parametrize(
    "data", [TEXT[:-2], TEXT[:20_000] + "!" + TEXT[20_001:], TEXT[:20_000] + "\u00e9" + TEXT[20_001:]]
)
def test_a_long_picture_that_is_damaged_is_fetched_again(data: str) -> None:
    outcome = decipher_status(HttpReply(200, {}, completed(data)))
    assert isinstance(outcome, Completed)
    damaged = examine(outcome)
    assert isinstance(damaged, Failed)
    assert damaged.refetch_first


def test_a_server_that_writes_our_marks_gets_none_of_its_pictures_swapped() -> None:
    body = json.dumps({"output": {"images": ["data:lifted,0", TEXT]}}).encode()
    lifted = lifted_object(body)
    assert lifted is not None
    assert not lifted.pictures
    assert lifted.record == json_object(body)


def test_the_pictures_are_views_of_the_reply_and_no_copies() -> None:
    body = completed(TEXT)
    lifted = lifted_object(body)
    assert lifted is not None
    (view,) = lifted.pictures.values()
    assert view.obj is body
