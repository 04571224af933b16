"""What a caller gets back, and the response of the old system."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path

import pytest
from parts import picture, record, want

from asyncgen.errors import Failure, FailureClass, FailureCode
from asyncgen.lifecycle import State
from asyncgen.protocol import Timing
from asyncgen.records import Item
from asyncgen.results import ImageResult, result_of

WANTED = want("a fox", id="mine", style_id="1", width=64, steps=9)
FAILURE = Failure(FailureClass.ITEM, FailureCode.NO_IMAGE, "nothing there")
ITEM = Item(1, "img_0123abcd", State.STORED, 1_700_000_000.0, 7, 1, "e", "j", 1.0, None, (record(path="a/fox.png"),))


def result(root: Path = Path("/out"), **item: object) -> ImageResult:
    return result_of(3, replace(ITEM, **item), WANTED, root)  # type: ignore[arg-type]  # the fields are the item's


def test_a_result_says_what_was_wanted_and_what_came_of_it() -> None:
    made = result_of(3, ITEM, WANTED, Path("/out"), timing=Timing(120, 4700, "w1"))
    assert (made.index, made.request_id, made.status, made.ok, made.id) == (3, "img_0123abcd", "success", True, "mine")
    assert (made.prompt, made.prompt_sent, made.seed) == ("a fox", WANTED.spec.prompt_sent, 7)
    assert (made.width, made.steps, made.style_id) == (64, 9, "1")
    assert (made.delay_ms, made.execution_ms) == (120, 4700)
    assert made.saved_path == Path("/out/a/fox.png")
    assert not made.kept


@pytest.mark.parametrize(
    ("state", "status"),
    [
        (State.WANTED, "pending"),
        (State.SUBMITTING, "pending"),
        (State.ACCEPTED, "pending"),
        (State.STORING, "pending"),
        (State.STORED, "success"),
        (State.FAILED, "failed"),
        (State.GIVEN_UP, "failed"),
        (State.CANCELLED, "cancelled"),
        (State.LOST, "failed"),
        (State.UNKNOWN, "held"),
    ],
)
def test_every_state_has_a_status_and_only_success_shows_pictures(state: State, status: str) -> None:
    shown = result(state=state)
    assert (shown.status, shown.state, shown.ok) == (status, state, state is State.STORED)
    assert bool(shown.paths) == (state is State.STORED)


def test_the_dict_is_the_old_response() -> None:
    assert result().to_dict() == {
        "request_id": "img_0123abcd",
        "status": "success",
        "images": [],
        "seed": 7,
        "style_id": "1",
        "saved_path": "/out/a/fox.png",
        "error": None,
        "metadata": {
            "prompt": "a fox",
            "width": 64,
            "height": 768,
            "steps": 9,
            "style_title": "Ink Intensity",
            "timestamp": "2023-11-14T22:13:20+00:00",
        },
    }
    json.dumps(result().to_dict())


def test_pictures_come_as_base64_only_when_they_are_asked_for(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "fox.png").write_bytes(b"fox")
    assert result(tmp_path).to_dict(images=True)["images"] == [base64.b64encode(b"fox").decode()]
    assert result(Path("/nowhere")).to_dict()["images"] == [], "nothing is read"
    with pytest.raises(FileNotFoundError):
        result(Path("/nowhere")).to_dict(images=True)


def test_a_picture_in_memory_is_there_without_a_path() -> None:
    item = replace(ITEM, pictures=(record(path=None),))
    delivered = result_of(0, item, WANTED, Path("/out"), delivered=(picture(b"fox"),))
    assert (delivered.ok, delivered.saved_path, delivered.read_pictures()) == (True, None, [b"fox"])
    assert delivered.to_dict(images=True)["images"] == [base64.b64encode(b"fox").decode()]
    assert "b'fox'" not in repr(delivered), "megabytes do not belong into a log line"


def test_several_pictures_of_one_job_are_all_there() -> None:
    pictures = (record(0, "fox_1.png"), record(1, "fox_2.png"))
    assert result(pictures=pictures).paths == (Path("/out/fox_1.png"), Path("/out/fox_2.png"))
    assert result(pictures=pictures).saved_path == Path("/out/fox_1.png")


def test_a_failure_is_told_in_words() -> None:
    failed = result(state=State.FAILED, failure=FAILURE, pictures=()).to_dict(images=True)
    assert (failed["status"], failed["error"]) == ("failed", "no_image: nothing there")
    assert (failed["images"], failed["saved_path"]) == ([], None)
