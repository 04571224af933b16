"""Verification: whatever is done to files, folders, manifest or ledger is told, and what is true is not."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from parts import LEDGER, TERMS, Desk, desk, files_of, picture

from asyncgen.errors import LedgerError, LedgerVersionError
from asyncgen.manifest import Manifest
from asyncgen.protocol import Timing
from asyncgen.report import reading
from asyncgen.verify import Kind, Problem, Verification, ledger_problems


async def made(at: Desk, *names: str, count: int = 1) -> None:
    """Images as a run makes them, with their files, and the manifest."""
    for name in names:
        item = await at.accept(await at.item(f"a fox {name}", id=name))
        pictures = [picture(f"{name} {number}".encode() * 20) for number in range(count)]
        prepared = await at.store.prepare(pictures, [f"sub/{name}-{n}" for n in range(count)], "0a0b0c0d")
        await at.ledger.record_storing(item, prepared, Timing(120, 4700))
        assert await at.store.write(prepared, pictures)
        await at.ledger.record_stored(item)
    await Manifest(at.ports, at.ledger, at.root).bring_up_to_date()


def problems(root: Path) -> list[Problem]:
    with reading(root / LEDGER) as connection:
        return list(Verification(root, connection).problems())


def told(root: Path) -> list[tuple[Kind, str]]:
    return sorted((problem.kind, problem.path) for problem in problems(root))


@pytest.mark.anyio
async def test_what_a_run_leaves_is_sound_and_every_picture_is_counted(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        await made(at, "one", "two", count=3)
        await at.item("wanted")
        await at.accept(await at.item("out"))
    with reading(tmp_path / LEDGER) as connection:
        verification = Verification(tmp_path, connection)
        assert list(verification.problems()) == []
    assert verification.pictures == 6
    assert ledger_problems(tmp_path / LEDGER) == []


def to_another(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[7] ^= 1
    path.write_bytes(data)


def to_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def to_a_loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("harm", "kind"),
    [
        (Path.unlink, Kind.MISSING),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), Kind.DAMAGED),
        (lambda path: path.write_bytes(path.read_bytes() + b"x"), Kind.DAMAGED),
        (to_another, Kind.DAMAGED),
        (to_a_folder, Kind.DAMAGED),
        (to_a_loop, Kind.UNREADABLE),
    ],
)
async def test_a_picture_that_is_not_as_it_was_stored_is_told_and_no_other(
    tmp_path: Path, harm: Callable[[Path], None], kind: Kind
) -> None:
    async with desk(tmp_path) as at:
        await made(at, "one", "two", "three")
    harm(tmp_path / "sub" / "two-0.png")
    (problem,) = problems(tmp_path)
    assert (problem.kind, problem.path, problem.item_id) == (kind, "sub/two-0.png", 2)


@pytest.mark.anyio
async def test_a_set_of_many_pages_is_told_whole(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        await at.stored(await at.item(), "gone", count=1201)
        await Manifest(at.ports, at.ledger, at.root).bring_up_to_date()
    assert [problem.kind for problem in problems(tmp_path)] == [Kind.MISSING] * 1201


@pytest.mark.anyio
async def test_a_stored_image_without_any_picture_is_missing(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        await made(at, "one")
        await at.ledger.transact(lambda connection: connection.execute("DELETE FROM image"))
    assert Kind.MISSING in [problem.kind for problem in problems(tmp_path)]


@pytest.mark.anyio
async def test_files_that_belong_to_nothing_are_told_and_others_are_left_in_peace(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        await made(at, "one")
        item = await at.accept(await at.item("on its way"))
        prepared = await at.store.prepare([picture()], ["sub/on-its-way"], "0a0b0c0d")
        await at.ledger.record_storing(item, prepared, Timing())
        for name in (".on-its-way.png.part", ".nobody.webp.part", "mine.JPEG", "notes.txt", "mine.png.part", ".hidden"):
            (tmp_path / "sub" / name).write_bytes(b"x")
        (tmp_path / "holiday.png").write_bytes(b"not in a folder of ours")
        (tmp_path / ".manifest.jsonl.part").write_bytes(b"{")
        (tmp_path / os.fsdecode(b"sub/\xff.png")).write_bytes(b"x")
        found = told(tmp_path)
    assert found == [
        (Kind.LEFT_OVER, ".manifest.jsonl.part"),
        (Kind.LEFT_OVER, "sub/.nobody.webp.part"),
        (Kind.UNKNOWN, "sub/mine.JPEG"),
        (Kind.UNKNOWN, "sub/\ufffd.png"),
    ]


@pytest.mark.anyio
async def test_what_was_not_finished_is_told_of_every_folder_that_may_be_ours(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        item = await at.accept(await at.item())
        (prepared,) = await at.store.prepare([picture()], ["resources/styles/1/a-fox"], "0a0b0c0d")
        await at.ledger.record_storing(item, [prepared], Timing())
        assert await at.store.write([prepared], [picture()])
        await at.ledger.record_stored(item)
        await Manifest(at.ports, at.ledger, at.root).bring_up_to_date()
    (tmp_path / "resources" / "another root").mkdir()
    (tmp_path / "resources" / "another root" / "manifest.jsonl").touch()
    for folder in ("", "resources", "resources/styles", "resources/styles/2", "resources/another root", "holiday"):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / ".x.png.part").write_bytes(b"x")
        (tmp_path / folder / "mine.png").write_bytes(b"x")
    folders = ("", "resources/", "resources/styles/", "resources/styles/2/")
    assert told(tmp_path) == [(Kind.LEFT_OVER, f"{folder}.x.png.part") for folder in folders]


@pytest.mark.anyio
async def test_a_picture_that_was_made_again_is_no_stranger(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        await made(at, "one")
        await at.ledger.transact(lambda connection: connection.execute("UPDATE image SET state = 'superseded'"))
        await at.ledger.transact(lambda connection: connection.execute("UPDATE item SET state = 'wanted'"))
        found = told(tmp_path)
    assert (Kind.UNKNOWN, "sub/one-0.png") not in found


def lines_of(root: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (root / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]


def write_lines(root: Path, lines: list[Any]) -> None:
    text = "".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines)
    (root / "manifest.jsonl").write_text(text, encoding="utf-8")


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda lines: lines[:1] + lines[2:], "no line for sub/two-0.png"),
        (lambda lines: [*lines, lines[0]], "line 4 is of a picture that an earlier line has"),
        (lambda lines: [{**lines[0], "request_id": "img_00000000"}, *lines[1:]], "line 1 is of no picture"),
        (lambda lines: [*lines[:2], {**lines[2], "seed": 1}], "line 3 differs from the ledger"),
        (lambda lines: [*lines[:2], {**lines[2], "liked": True}], "line 3 differs from the ledger"),
        (lambda lines: [*lines, '{"request_id": '], "line 4 cannot be read"),
        (lambda lines: [*lines, "[" * 100_000], "line 4 cannot be read"),
        (lambda lines: [*lines, {"request_id": "\ud800", "number": 0}], "line 4 cannot be read"),
        (lambda lines: [*lines, {"request_id": "x", "number": 2**70}], "line 4 cannot be read"),
        (lambda lines: [], "no line for sub/three-0.png"),
    ],
)
async def test_a_manifest_that_differs_from_the_ledger_is_told_by_its_lines(
    tmp_path: Path, change: Callable[[list[Any]], list[Any]], words: str
) -> None:
    async with desk(tmp_path) as at:
        await made(at, "one", "two", "three")
    write_lines(tmp_path, change(lines_of(tmp_path)))
    found = problems(tmp_path)
    assert {problem.kind for problem in found} == {Kind.MANIFEST}
    assert any(words in problem.words for problem in found), found


@pytest.mark.anyio
async def test_a_manifest_that_is_gone_is_told(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        await made(at, "one", "two")
    (tmp_path / "manifest.jsonl").unlink()
    assert told(tmp_path) == [(Kind.MANIFEST, "manifest.jsonl")] * 2


@pytest.mark.anyio
async def test_lines_of_an_older_asyncgen_say_less_and_are_true(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        await made(at, "one")
    newer = {"request", "replica", "occurrence", "wanted_width", "wanted_height", "cost_usd"}
    write_lines(tmp_path, [{k: v for k, v in line.items() if k not in newer} for line in lines_of(tmp_path)])
    assert problems(tmp_path) == []


@pytest.mark.anyio
async def test_what_a_run_has_made_since_its_manifest_was_written_is_no_problem(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        await made(at, "one")
        before = (tmp_path / "manifest.jsonl").read_bytes()
        await made(at, "two")
        assert problems(tmp_path) == []
        (tmp_path / "manifest.jsonl").write_bytes(before)  # a run that dies before its end leaves it so,
        statement = "UPDATE manifest SET event_id = 5"
        await at.ledger.transact(lambda connection: connection.execute(statement))
        assert problems(tmp_path) == []


@pytest.mark.anyio
async def test_looking_does_not_make_the_log_of_a_run_grow(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        await at.stored(await at.item(), "gone", count=600)
        with reading(tmp_path / LEDGER) as connection, closing(sqlite3.connect(tmp_path / LEDGER)) as other:
            looking = Verification(tmp_path, connection).problems()
            next(looking)
            await at.item("another")
            assert other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone() == (0, 0, 0)
            assert len(list(looking)) == 599


@pytest.mark.anyio
async def test_looking_changes_nothing(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        await made(at, "one")
        (tmp_path / "sub" / ".nobody.png.part").write_bytes(b"x")
        (tmp_path / "sub" / "one-0.png").write_bytes(b"x")
        await at.ledger.record_intent(await at.item("in the air"), TERMS)
    before = {path: digest(tmp_path / path) for path in files_of(tmp_path)}, digest(tmp_path / LEDGER)
    assert len(problems(tmp_path)) == 2
    assert before == ({path: digest(tmp_path / path) for path in files_of(tmp_path)}, digest(tmp_path / LEDGER))


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# -- the ledger itself ----------------------------------------------------------------------------------------------


def zero_a_page(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(4096 * 5)
        file.write(bytes(4096))


@pytest.mark.anyio
@pytest.mark.parametrize(
    "harm",
    [
        zero_a_page,
        lambda path: os.truncate(path, path.stat().st_size // 2),
        lambda path: os.truncate(path, 5000),
        lambda path: os.truncate(path, 0),
        lambda path: path.write_bytes(b"my holiday pictures" * 1000),
        lambda path: path.write_bytes(b"short"),
        Path.unlink,
    ],
)
async def test_a_damaged_ledger_is_told(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    async with desk(tmp_path) as at:
        await made(at, *(f"n{number}" for number in range(30)))
    harm(tmp_path / LEDGER)
    found = ledger_problems(tmp_path / LEDGER)
    assert found
    assert {(problem.kind, problem.path) for problem in found} == {(Kind.LEDGER, LEDGER)}


def test_a_database_of_another_program_is_nothing_to_repair(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / LEDGER)) as connection:
        connection.execute("CREATE TABLE holiday (picture)")
    with pytest.raises(LedgerError, match="no ledger"):
        ledger_problems(tmp_path / LEDGER)


@pytest.mark.anyio
async def test_a_newer_ledger_is_nothing_to_repair(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        await at.ledger.transact(lambda connection: connection.execute("PRAGMA user_version = 99"))
    with pytest.raises(LedgerVersionError, match="newer"):
        ledger_problems(tmp_path / LEDGER)
