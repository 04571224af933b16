"""Prompts in: any source, read lazily, and errors that name their row."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from parts import PLANNER, Desk, desk

from asyncgen.errors import InputError
from asyncgen.intake import IndexedWant, Intake, Prompts
from asyncgen.prompts import PromptFile, read_rows
from asyncgen.records import RecordedWant
from asyncgen.request import ImageRequest, parse_request


async def taken(prompts: Prompts, at: Desk, intake: Intake | None = None) -> list[list[IndexedWant]]:
    return [chunk async for chunk in (intake or Intake(PLANNER)).of_prompts(prompts, at.ports)]


def prompts_of(chunks: list[list[IndexedWant]]) -> list[str]:
    return [wanted.want.request.prompt for chunk in chunks for wanted in chunk]


def indexes(chunks: list[list[IndexedWant]]) -> list[int]:
    return [wanted.index for chunk in chunks for wanted in chunk]


async def slowly(prompts: list[Any]) -> AsyncIterator[Any]:
    for prompt in prompts:
        yield prompt


@pytest.mark.anyio
async def test_texts_dicts_and_requests_come_in_input_order_from_any_iterable(tmp_path: Path) -> None:
    mixed = ["a fox", {"prompt": "a cat", "style": "1"}, ImageRequest(prompt="a hen")]
    async with desk(tmp_path) as at:
        for source in (mixed, tuple(mixed), iter(mixed), slowly(mixed)):
            chunks = await taken(source, at)
            assert prompts_of(chunks) == ["a fox", "a cat", "a hen"]
            assert indexes(chunks) == [0, 1, 2]


@pytest.mark.anyio
async def test_an_endless_source_is_read_no_further_than_it_is_asked_for(tmp_path: Path) -> None:
    read = []

    def endless() -> Iterator[str]:
        for number in itertools.count():
            read.append(number)
            yield f"fox {number}"

    async with desk(tmp_path) as at:
        chunks = Intake(PLANNER).of_prompts(endless(), at.ports)
        first = await anext(chunks)
        assert 1 <= len(first) <= 32
        assert len(read) <= 33
        await chunks.aclose()


@pytest.mark.anyio
async def test_a_slow_source_does_not_hold_back_its_first_prompt(tmp_path: Path) -> None:
    read = []

    async with desk(tmp_path, change=lambda ports: replace(ports, clock=_SlowWorld())) as at:

        def slow() -> Iterator[str]:
            for number in range(5):
                read.append(number)
                yield f"fox {number}"

        chunks = Intake(PLANNER).of_prompts(slow(), at.ports)
        assert len(await anext(chunks)) == 1
        assert read == [0]
        await chunks.aclose()


class _SlowWorld:
    """A clock on which every look is a quarter of an hour after the last."""

    seconds = 0.0

    def now(self) -> float:
        self.seconds += 900
        return self.seconds

    def wall(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        self.seconds += seconds


@pytest.mark.anyio
@pytest.mark.parametrize("single", ["a fox", b"a fox", {"prompt": "a fox"}, ImageRequest(prompt="a fox")])
async def test_a_single_prompt_is_not_taken_for_a_list_of_its_pieces(tmp_path: Path, single: Any) -> None:
    async with desk(tmp_path) as at:
        with pytest.raises(InputError, match=r"prompts: give a list"):
            await taken(single, at)


@pytest.mark.anyio
async def test_images_take_as_many_places_as_they_are(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        chunks = await taken([{"prompt": "a fox", "images": 3}, "a cat"], at)
    assert indexes(chunks) == [0, 1, 2, 3]
    assert [wanted.want.replica for chunk in chunks for wanted in chunk] == [0, 1, 2, 0]


def test_one_image_out_of_many_takes_one_place() -> None:
    intake, request = Intake(PLANNER), parse_request({"prompt": "a fox", "images": 10_000, "seed": 5})
    recorded = [RecordedWant(40 + replica, request, replica, PLANNER.spec(request)) for replica in (9_999, 0)]
    wanted = [intake.plan_recorded(each, todays_values=False) for each in recorded]
    assert [(w.index, w.want.replica, w.want.fixed_seed) for w in wanted] == [(0, 9_999, 10_004), (1, 0, 5)]
    assert [w.want.item_id for w in wanted] == [10_039, 40]


# -- shared fields


def test_shared_fields_hold_where_a_prompt_does_not_say_otherwise() -> None:
    intake = Intake(PLANNER, {"width": 64, "style_id": "1", "steps": None})
    shared, own = intake.plan("a fox") + intake.plan({"prompt": "a cat", "width": 72, "style": "16"})
    assert (shared.want.spec.width, shared.want.spec.style_id) == (64, "1")
    assert (own.want.spec.width, own.want.spec.style_id) == (72, "16")


def test_a_random_seed_that_is_asked_for_wins_over_a_shared_one() -> None:
    intake = Intake(PLANNER, {"seed": 7})
    assert intake.plan("a fox")[0].want.fixed_seed == 7
    assert intake.plan({"prompt": "a fox", "seed": -1})[0].want.fixed_seed is None


@given(
    st.fixed_dictionaries({}, optional={"width": st.just(64), "steps": st.integers(1, 50), "seed": st.integers(-1, 9)})
)
def test_a_shared_field_and_a_said_one_are_the_same_request(shared: dict[str, Any]) -> None:
    (by_sharing,) = Intake(PLANNER, shared).plan("a fox")
    (by_saying,) = Intake(PLANNER).plan({"prompt": "a fox", **shared})
    assert by_sharing.want == by_saying.want


# -- bad ones


def test_a_prompt_that_is_wrong_is_told_by_its_number() -> None:
    intake = Intake(PLANNER)
    intake.plan("a fox")
    with pytest.raises(InputError, match=r"^prompt 2:width: "):
        intake.plan({"prompt": "a cat", "width": 9})


def test_a_row_that_is_wrong_is_told_by_file_line_and_field() -> None:
    rows = list(read_rows(["a fox\n", "\n", "a cat\n"], "txt", "list.txt"))
    intake = Intake(PLANNER, {"width": 9}, name="list.txt")
    with pytest.raises(InputError, match=r"^list\.txt:3:width: "):
        intake.plan(rows[1])


def test_bad_ones_are_skipped_counted_and_reported_where_that_is_asked_for() -> None:
    told: list[str] = []
    lines = ['{"prompt": "a fox"}\n', "{broken\n", '{"prompt": "a cat", "width": 9}\n', '"a hen"\n']
    intake = Intake(PLANNER, name="list.jsonl", skip_bad=True, on_bad=lambda error: told.append(str(error)))
    chunks = [intake.plan(row) for row in read_rows(lines, "jsonl", "list.jsonl")]
    assert prompts_of(chunks) == ["a fox", "a hen"]
    assert indexes(chunks) == [0, 1]
    assert told[0].startswith("list.jsonl:2: ")
    assert told[1].startswith("list.jsonl:3:width: ")


def test_a_header_that_cannot_be_read_is_not_skipped() -> None:
    (row,) = read_rows(["colour,size\n", "red,5\n"], "csv", "list.csv")
    with pytest.raises(InputError, match=r"^list\.csv:1"):
        Intake(PLANNER, skip_bad=True).plan(row)


@pytest.mark.anyio
async def test_a_prompt_file_is_read_in_chunks_of_at_most_32(tmp_path: Path) -> None:
    file = PromptFile([f"fox {number}\n" for number in range(70)], "txt", "list.txt")
    async with desk(tmp_path) as at:
        chunks = [chunk async for chunk in Intake(PLANNER).of_rows(file.rows(), file.parse, at.ports)]
    assert [len(chunk) for chunk in chunks] == [32, 32, 6]
    assert indexes(chunks) == list(range(70))


@pytest.mark.anyio
async def test_a_stream_fails_at_its_row(tmp_path: Path) -> None:
    async def stream() -> AsyncIterator[Any]:
        yield "a fox"
        yield {"prompt": ""}

    async with desk(tmp_path) as at:
        chunks = Intake(PLANNER).of_prompts(stream(), at.ports)
        assert prompts_of([await anext(chunks)]) == ["a fox"]
        with pytest.raises(InputError, match=r"^prompt 2:prompt: "):
            await anext(chunks)
