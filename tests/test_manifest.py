"""The manifest: one true line for each picture that is there, whatever became of the file in between."""

from __future__ import annotations

import errno
import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parts import (
    ADDRESS,
    FAILURE,
    LEDGER,
    TERMS,
    Desk,
    desk,
    record,
    rows,
    want,
    with_other_steps,
    write_version_1,
)

from asyncgen.disk import RealDisk
from asyncgen.lifecycle import State
from asyncgen.manifest import Manifest
from asyncgen.ports import Ports
from asyncgen.protocol import Timing
from asyncgen.records import Terms


def manifest_of(at: Desk) -> Manifest:
    return Manifest(at.ports, at.ledger, at.root)


async def update(at: Desk) -> None:
    await manifest_of(at).bring_up_to_date()


def lines(root: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (root / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]


def paths(root: Path) -> list[str]:
    return [line["path"] for line in lines(root)]


def true_paths(root: Path) -> list[str]:
    """What the ledger says is there."""
    return sorted(path for (path,) in rows(root, "SELECT path FROM image WHERE state = 'stored'"))


def inode(root: Path) -> int:
    return (root / "manifest.jsonl").stat().st_ino


@pytest.mark.anyio
async def test_a_line_says_all_that_is_known_of_a_picture(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        item = await at.stored(
            await at.item("ein Fuchs, 狐", id="mine", style_id="1", seed=2**64 - 1, width=64), "fuchs"
        )
        await update(at)
    (line,) = lines(tmp_path)
    spec = want("ein Fuchs, 狐", style_id="1", width=64).spec
    assert line["path"] == "fuchs_0.png"
    assert (line["request_id"], line["id"], line["batch"], line["realm"]) == (item.request_id, "mine", "set", "runpod")
    assert (line["prompt"], line["prompt_sent"], line["seed"]) == ("ein Fuchs, 狐", spec.prompt_sent, 2**64 - 1)
    assert (line["style_id"], line["style_title"], line["steps"]) == ("1", spec.style_title, spec.steps)
    assert (line["width"], line["height"], line["number"]) == (8, 8, 0), "the picture's own size, not the wish"
    assert (line["sha256"], line["size_bytes"], line["format"]) == ("0" * 64, 10, "png")
    assert (line["endpoint"], line["job_id"]) == (ADDRESS, item.job_id)
    assert (line["delay_ms"], line["execution_ms"]) == (120, 4700)
    assert line["stored_at"] == item.state_at
    assert "狐" in (tmp_path / "manifest.jsonl").read_text(encoding="utf-8")


@pytest.mark.anyio
async def test_only_pictures_that_are_stored_are_listed(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        await at.item("wanted")
        await at.accept(await at.item("out"))
        storing = await at.accept(await at.item("storing"))
        await at.ledger.record_storing(storing, [record(path="half.png")], Timing())
        await at.stored(await at.item("there"), "there", count=2)
        await update(at)
        assert paths(tmp_path) == ["there_0.png", "there_1.png"]
        await at.ledger.record_stored(storing)
        await update(at)
    assert paths(tmp_path) == ["there_0.png", "there_1.png", "half.png"]


@pytest.mark.anyio
async def test_what_is_new_is_appended_and_what_is_there_is_not_touched(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        await at.stored(await at.item("one"), "one")
        await update(at)
        before, first = inode(tmp_path), (tmp_path / "manifest.jsonl").read_bytes()
        await at.stored(await at.item("two"), "two")
        await update(at)
        assert inode(tmp_path) == before
        assert (tmp_path / "manifest.jsonl").read_bytes().startswith(first)
    async with desk(tmp_path) as at:  # another process
        await at.stored(await at.item("three"), "three")
        await update(at)
    assert inode(tmp_path) == before
    assert paths(tmp_path) == ["one_0.png", "two_0.png", "three_0.png"]


@pytest.mark.anyio
async def test_where_nothing_has_happened_nothing_is_written(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        await at.stored(await at.item())
        await update(at)
        before = (tmp_path / "manifest.jsonl").stat().st_mtime_ns
        await at.item("a cat")
        await update(at)
        await update(at)
    assert (tmp_path / "manifest.jsonl").stat().st_mtime_ns == before


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def edit(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"one_0.png", b"elsewhere/one.png"))


def add(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b'{"path": "not_ours.png"}\n')


def remove(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.anyio
@pytest.mark.parametrize("harm", [cut, edit, add, remove, empty])
@pytest.mark.parametrize("more", [False, True])
async def test_a_file_that_was_harmed_is_written_anew(tmp_path: Path, harm: Callable[[Path], None], more: bool) -> None:
    async with desk(tmp_path) as at:
        await at.stored(await at.item("one"), "one")
        await at.stored(await at.item("two"), "two")
        await update(at)
        harm(tmp_path / "manifest.jsonl")
        if more:
            await at.stored(await at.item("three"), "three")
        await update(at)
    assert paths(tmp_path) == ["one_0.png", "two_0.png", "three_0.png"][: 3 if more else 2]
    assert not (tmp_path / ".manifest.jsonl.part").exists()


@pytest.mark.anyio
async def test_a_picture_that_was_made_again_is_listed_once_with_what_it_was_made_with(tmp_path: Path) -> None:
    today = with_other_steps(want("one"))
    async with desk(tmp_path) as at:
        item = await at.stored(await at.item("one"), "one")
        await at.stored(await at.item("two"), "two")
        await update(at)
        await at.ledger.record_wanted_again(item, today, "as told")
        await update(at)
        assert paths(tmp_path) == ["two_0.png"], "until it is there again"
        await at.stored(item, "one-again")
        await update(at)
    assert paths(tmp_path) == ["two_0.png", "one-again_0.png"]
    assert lines(tmp_path)[1]["steps"] == 99


@pytest.mark.anyio
async def test_a_picture_that_was_lost_is_listed_no_more(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        item = await at.stored(await at.item("one"), "one")
        await at.stored(await at.item("two"), "two")
        await update(at)
        assert await at.ledger.record_picture_lost(item.id, FAILURE)
        assert not await at.ledger.record_picture_lost(item.id, FAILURE), "once is enough"
        await update(at)
    assert paths(tmp_path) == ["two_0.png"]


@pytest.mark.anyio
async def test_a_picture_made_again_between_two_updates_is_listed_once(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        item = await at.stored(await at.item("one"), "one")
        for number in range(3):
            await at.ledger.record_wanted_again(item, want("one"), "as told")
            await at.stored(item, f"again{number}")
        await update(at)
    assert paths(tmp_path) == ["again2_0.png"]


@pytest.mark.anyio
@pytest.mark.parametrize("harmed", [False, True])
async def test_what_is_stored_while_the_manifest_is_written_is_listed_once(tmp_path: Path, harmed: bool) -> None:
    """Another run over the same root goes on storing meanwhile."""
    async with desk(tmp_path) as at:
        await at.stored(await at.item("one"), "one")
        await update(at)
        if harmed:
            remove(tmp_path / "manifest.jsonl")
        await at.stored(await at.item("two"), "two")
        late = iter([await at.item("three")])
        meddling = _Meddling(at, late)
        await Manifest(replace(at.ports, file_threads=meddling), at.ledger, tmp_path).bring_up_to_date()
        assert next(late, None) is None, "it was stored in between"
        await update(at)
    assert sorted(paths(tmp_path)) == true_paths(tmp_path) == ["one_0.png", "three_0.png", "two_0.png"]


class _Meddling:
    """File threads before whose first work another run stores a picture."""

    def __init__(self, at: Desk, late: Any) -> None:
        self._at, self._late = at, late

    async def run(self, function: Callable[..., Any], *args: Any) -> Any:
        for item in self._late:
            await self._at.stored(item, "three")
        return await self._at.ports.file_threads.run(function, *args)


@pytest.mark.anyio
async def test_a_long_manifest_is_read_and_written_in_pages(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        items = await at.claim(*(want(f"fox {number}") for number in range(1100)))
        async with anyio.create_task_group() as tasks:
            for item in items:
                tasks.start_soon(at.stored, item, f"p/{item.id}")
        await update(at)
        assert sorted(paths(tmp_path)) == true_paths(tmp_path)
        remove(tmp_path / "manifest.jsonl")
        await update(at)
    assert sorted(paths(tmp_path)) == true_paths(tmp_path)
    assert len(lines(tmp_path)) == 1100


@pytest.mark.anyio
async def test_the_manifest_of_an_older_ledger_is_written_anew_with_what_it_can_be_rebuilt_from(tmp_path: Path) -> None:
    write_version_1(tmp_path)
    with closing(sqlite3.connect(tmp_path / LEDGER)) as connection:
        connection.execute("UPDATE manifest SET event_id = (SELECT max(id) FROM event), size_bytes = 3")
        connection.commit()
    (tmp_path / "manifest.jsonl").write_bytes(b"{}\n")
    async with desk(tmp_path) as at:
        await update(at)
    assert sorted(paths(tmp_path)) == true_paths(tmp_path) != []
    assert all(line["request"]["prompt"] and line["replica"] == 0 for line in lines(tmp_path))


@pytest.mark.anyio
async def test_dying_after_the_lines_and_before_the_ledger_knows_doubles_nothing(tmp_path: Path) -> None:
    class Dying(RealDisk):
        def fsync(self, path: Path) -> None:
            raise OSError(errno.EIO, "Input/output error")

    def dying(ports: Ports) -> Ports:
        return replace(ports, disk=Dying())

    async with desk(tmp_path) as at:
        await at.stored(await at.item("one"), "one")
        await update(at)
    async with desk(tmp_path, change=dying) as at:
        await at.stored(await at.item("two"), "two")
        with pytest.raises(OSError, match="Input/output"):
            await update(at)
        assert len(lines(tmp_path)) == 2
    async with desk(tmp_path) as at:
        await update(at)
    assert paths(tmp_path) == ["one_0.png", "two_0.png"]


@pytest.mark.anyio
async def test_a_picture_delivered_in_memory_is_listed_without_a_path(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        item = await at.accept(await at.item(save_to_style=False))
        await at.ledger.record_storing(item, [record(path=None)], Timing())
        await at.ledger.record_stored(item)
        await update(at)
    assert paths(tmp_path) == [None]


STEPS = st.lists(st.sampled_from(["store", "again", "update", "cut", "remove", "reopen"]), max_size=14)


@settings(max_examples=25)
@given(STEPS)
def test_after_any_history_the_manifest_lists_each_picture_that_is_there_once(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str]
) -> None:
    root = tmp_path_factory.mktemp("history")

    async def check() -> None:
        remaining, number = list(steps), 0
        while True:
            async with desk(root) as at:
                while remaining and (step := remaining.pop(0)) != "reopen":
                    number += 1
                    await _act(at, step, number)
                if not remaining:
                    await update(at)
                    return

    anyio.run(check)
    if (root / "manifest.jsonl").exists() or true_paths(root):
        assert sorted(paths(root)) == true_paths(root)


async def _act(at: Desk, step: str, number: int) -> None:
    file = at.root / "manifest.jsonl"
    match step:
        case "store":
            await at.stored(await at.item(f"fox {number}"), f"p{number}")
        case "again":
            stored = rows(at.root, "SELECT said FROM item WHERE state = 'stored' ORDER BY id DESC LIMIT 1")
            if stored:
                wanted = want(json.loads(stored[0][0])["prompt"])
                await at.next_run()
                (item,) = await at.claim(wanted)
                await at.ledger.record_wanted_again(item, wanted, "as told")
                await at.stored(item, f"p{number}")
        case "update":
            await update(at)
        case "cut" if file.exists():
            cut(file)
        case "remove":
            file.unlink(missing_ok=True)


# -- what a picture has cost ----------------------------------------------------------------------------------------

PRICED = replace(TERMS, usd_per_second=0.001)


async def bought_twice(at: Desk, name: str, first_ms: int | None, *terms: Terms) -> None:
    """An item whose first job failed by the platform's fault, and whose second one took 4 s."""
    item = await at.item(name, id=name)
    for number, of_job in enumerate(terms, start=1):
        await at.ledger.record_intent(item, of_job)
        await at.ledger.record_accepted(item, f"{name}-{number}")
        if number < len(terms):
            await at.ledger.record_ended(item, State.WANTED, FAILURE, Timing(10, first_ms, "w1"))
    await at.ledger.record_storing(item, [record(path=f"{name}.png")], Timing(10, 4000, "w1"))
    await at.ledger.record_stored(item)


@pytest.mark.anyio
async def test_a_picture_costs_every_job_that_was_bought_for_it_and_nothing_is_made_up(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        await bought_twice(at, "one job", 0, PRICED)
        await bought_twice(at, "two jobs", 2000, PRICED, PRICED)
        await bought_twice(at, "another price", 2000, PRICED, replace(PRICED, usd_per_second=0.002))
        await bought_twice(at, "no price", 2000, TERMS, TERMS)
        await bought_twice(at, "no price for one", 2000, TERMS, PRICED)
        await bought_twice(at, "no time for one", None, PRICED, PRICED)
        await update(at)
    assert {line["id"]: line["cost_usd"] for line in lines(tmp_path)} == {
        "one job": pytest.approx(0.004),
        "two jobs": pytest.approx(0.006),
        "another price": pytest.approx(0.010),
        "no price": None,
        "no price for one": None,
        "no time for one": None,
    }
