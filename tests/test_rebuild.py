"""A ledger made anew: whatever is damaged, what can be read comes back as it was, and the manifest fills the rest."""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parts import FAILURE, LEDGER, PLANNER, TERMS, Desk, desk, path_to, record, want, write_version_1

from asyncgen.lifecycle import ALLOWED, State
from asyncgen.manifest import Manifest
from asyncgen.manifest_lines import read_line
from asyncgen.protocol import Timing
from asyncgen.rebuild import Rebuilt, rebuild
from asyncgen.records import ADOPTED
from asyncgen.request import parse_request
from asyncgen.schema import migrate

NEW = "new.sqlite3"
_PAGE_BYTES = 4096


async def fill(at: Desk, count: int = 12) -> None:
    """Images in every state, some stored ones with several pictures or made a second time, and the manifest."""
    for state in State:
        item = await at.item(f"fox {state}", id=str(state))
        for target in path_to(state):
            await at.move(item, target)
    for number in range(count):
        await at.stored(await at.item(f"a fox, study {number}", seed=number or None), f"p{number}", count=2)
    await at.adopted(await at.item("a fox of old"), "of old.png")
    await at.ledger.record_cancelled_unsent(await at.item("a fox, taken back"), "taken back")
    refused, rejected = await at.item("refused"), await at.item("rejected")
    await at.ledger.record_intent(refused, TERMS)
    await at.ledger.record_refused(refused, "429")
    await at.ledger.record_intent(rejected, TERMS)
    await at.ledger.record_rejected(rejected, FAILURE)
    again = await at.stored(await at.item("a fox, twice"), "old")
    await at.ledger.record_wanted_again(again, want("a fox, twice"), "as told")
    await at.stored(again, "new")
    await Manifest(at.ports, at.ledger, at.root).bring_up_to_date()


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output root with a full ledger; tests copy what they harm."""
    import anyio

    root = tmp_path_factory.mktemp("filled")

    async def build() -> None:
        async with desk(root) as at:
            await fill(at)

    anyio.run(build)
    return root


def table(path: Path, name: str) -> list[dict[str, Any]]:
    with closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(f"SELECT * FROM {name} ORDER BY id")]


def check(path: Path) -> None:
    """It is a sound ledger, and every item's history is allowed and leads to its state."""
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        triggers = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'")}
    assert triggers == {"item_wanted", "item_moved"}
    last: dict[int, str | None] = {}
    for event in table(path, "event"):
        source = last.get(event["item_id"])
        assert event["source"] == source
        assert source is None or (State(source), State(event["state"])) in ALLOWED
        last[event["item_id"]] = event["state"]
    items = table(path, "item")
    assert last == {item["id"]: item["state"] for item in items}
    bought = {job["item_id"] for job in table(path, "job")}
    assert all(
        item["id"] in bought
        for item in items
        if item["state"] in ("submitting", "accepted", "stored", "unknown") and item["endpoint"] != ADOPTED
    )
    assert not any(item["id"] in bought for item in items if item["endpoint"] == ADOPTED)


def pictures(path: Path) -> set[tuple[str, str, int, str]]:
    """What is there: request, path, seed and batch of every stored picture."""
    with closing(sqlite3.connect(path)) as connection:
        return set(
            connection.execute(
                "SELECT request_id, path, seed, batch.name FROM image JOIN item ON item.id = item_id "
                "JOIN batch ON batch.id = batch_id WHERE image.state = 'stored' AND item.state = 'stored'"
            )
        )


def rebuilt_from(root: Path, damaged: Path | None, new: Path) -> Rebuilt:
    new.unlink(missing_ok=True)
    rebuilt = rebuild(new, damaged, root / "manifest.jsonl")
    check(new)
    return rebuilt


def test_a_sound_ledger_comes_back_as_it_was(filled: Path, tmp_path: Path) -> None:
    rebuilt = rebuilt_from(filled, filled / LEDGER, tmp_path / NEW)
    assert rebuilt.is_whole
    assert rebuilt.from_manifest == 0
    for name in ("batch", "run", "item", "job", "image", "event"):
        assert table(tmp_path / NEW, name) == table(filled / LEDGER, name), name


def test_without_a_ledger_the_manifest_brings_back_every_picture(filled: Path, tmp_path: Path) -> None:
    rebuilt = rebuilt_from(filled, None, tmp_path / NEW)
    assert pictures(tmp_path / NEW) == pictures(filled / LEDGER)
    assert (rebuilt.without_ledger, rebuilt.is_whole, rebuilt.from_manifest) == (True, False, 15)
    keys = ("content_key", "occurrence", "replica", "said", "spec", "fingerprint", "style_id", "seed", "state_at")
    known = {item["request_id"]: item for item in table(filled / LEDGER, "item")}
    for item in table(tmp_path / NEW, "item"):
        assert {key: item[key] for key in keys} == {key: known[item["request_id"]][key] for key in keys}


def test_whatever_page_is_lost_no_picture_is(filled: Path, tmp_path: Path) -> None:
    """Each page in turn is zeroed; images that are out keep their jobs wherever their rows can be read."""
    whole = (filled / LEDGER).read_bytes()
    damaged = tmp_path / LEDGER
    pages = len(whole) // _PAGE_BYTES
    assert pages > 15
    out_kept = 0
    for page in range(pages):
        start = page * _PAGE_BYTES
        damaged.write_bytes(whole[:start] + bytes(_PAGE_BYTES) + whole[start + _PAGE_BYTES :])
        rebuilt_from(filled, damaged, tmp_path / NEW)
        assert pictures(tmp_path / NEW) >= pictures(filled / LEDGER), f"page {page}"
        items = {item["request_id"]: item for item in table(tmp_path / NEW, "item")}
        out = [item for item in table(filled / LEDGER, "item") if item["state"] == "accepted"]
        out_kept += sum(items.get(item["request_id"], {}).get("job_id") == item["job_id"] for item in out)
    assert out_kept >= 0.7 * pages


def test_a_row_id_out_of_this_world_is_no_number_of_rows(filled: Path, tmp_path: Path) -> None:
    damaged = shutil.copy(filled / LEDGER, tmp_path / LEDGER)
    with closing(sqlite3.connect(damaged, isolation_level=None)) as connection:
        connection.execute("UPDATE event SET id = ? WHERE id = 3", (2**60,))
    rebuilt_from(filled, tmp_path / LEDGER, tmp_path / NEW)
    assert len(table(tmp_path / NEW, "item")) == len(table(filled / LEDGER, "item"))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), holes=st.integers(1, 12), cut=st.booleans())
def test_any_damage_gives_a_sound_ledger_with_every_picture(
    filled: Path, tmp_path_factory: pytest.TempPathFactory, seed: int, holes: int, cut: bool
) -> None:
    place = tmp_path_factory.mktemp("damage")
    rng = random.Random(seed)
    data = bytearray((filled / LEDGER).read_bytes())
    for _ in range(holes):
        start, length = rng.randrange(len(data)), rng.randrange(1, 2000)
        data[start : start + length] = rng.randbytes(len(data[start : start + length]))
    (place / LEDGER).write_bytes(data[: rng.randrange(len(data))] if cut else data)
    rebuilt_from(filled, place / LEDGER, place / NEW)
    assert {path for _, path, _, _ in pictures(place / NEW)} >= {path for _, path, _, _ in pictures(filled / LEDGER)}
    shutil.rmtree(place)


@pytest.mark.anyio
async def test_what_is_only_in_the_write_ahead_log_comes_back(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        await fill(at, 3)
        aside = tmp_path / "aside"
        aside.mkdir()
        for suffix in ("", "-wal"):  # as a power cut leaves them
            shutil.copy(f"{tmp_path / LEDGER}{suffix}", f"{aside / LEDGER}{suffix}")
        items = table(tmp_path / LEDGER, "item")
    assert (aside / f"{LEDGER}-wal").stat().st_size > 0
    rebuilt_from(tmp_path, aside / LEDGER, tmp_path / NEW)
    assert table(tmp_path / NEW, "item") == items
    assert (aside / f"{LEDGER}-wal").stat().st_size > 0, "the damaged one is kept as it was"


@pytest.mark.anyio
async def test_a_manifest_that_knows_more_than_the_ledger_wins(tmp_path: Path) -> None:
    """As after a power cut that lost the log: the ledger has the job out, the picture is there."""
    async with desk(tmp_path) as at:
        item = await at.accept(await at.item())
        older = tmp_path / "older.sqlite3"
        await at.ledger.transact(lambda connection: None)
        with closing(sqlite3.connect(tmp_path / LEDGER)) as source, closing(sqlite3.connect(older)) as target:
            source.backup(target)
        await at.ledger.record_storing(item, [record(path="fox.png")], Timing(1, 2, "w"))
        await at.ledger.record_stored(item)
        await Manifest(at.ports, at.ledger, at.root).bring_up_to_date()
    rebuilt_from(tmp_path, older, tmp_path / NEW)
    assert pictures(tmp_path / NEW) == pictures(tmp_path / LEDGER)


def test_a_batch_whose_row_is_gone_gets_its_name_from_the_manifest(filled: Path, tmp_path: Path) -> None:
    damaged = shutil.copy(filled / LEDGER, tmp_path / LEDGER)
    with closing(sqlite3.connect(damaged, isolation_level=None)) as connection:
        connection.execute("DELETE FROM batch")
    rebuilt_from(filled, tmp_path / LEDGER, tmp_path / NEW)
    assert [(batch["name"], batch["realm"]) for batch in table(tmp_path / NEW, "batch")] == [("set", "runpod")]
    (tmp_path / "empty").mkdir()
    rebuilt_from(tmp_path / "empty", tmp_path / LEDGER, tmp_path / NEW)
    assert [batch["name"] for batch in table(tmp_path / NEW, "batch")] == ["recovered-1"]


def test_a_row_that_a_run_could_not_use_is_as_good_as_gone(filled: Path, tmp_path: Path) -> None:
    damaged = shutil.copy(filled / LEDGER, tmp_path / LEDGER)
    with closing(sqlite3.connect(damaged, isolation_level=None)) as connection:
        for column, state in (("said", "stored"), ("spec", "accepted"), ("seed", "failed")):
            connection.execute(f"UPDATE item SET {column} = '#' || {column} WHERE state = '{state}'")
    rebuilt = rebuilt_from(filled, tmp_path / LEDGER, tmp_path / NEW)
    assert pictures(tmp_path / NEW) == pictures(filled / LEDGER)
    assert (rebuilt.unreadable["item"], rebuilt.from_manifest) == (18, 15)
    assert not {"accepted", "failed"} & {item["state"] for item in table(tmp_path / NEW, "item")}


def test_jobs_whose_rows_are_gone_get_their_times_and_price_from_the_manifest(filled: Path, tmp_path: Path) -> None:
    damaged = shutil.copy(filled / LEDGER, tmp_path / LEDGER)
    with closing(sqlite3.connect(damaged, isolation_level=None)) as connection:
        connection.execute("DELETE FROM job")
    priced = [{**line, "cost_usd": 0.00094} if line["execution_ms"] else line for line in lines(filled)]
    (tmp_path / "manifest.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in priced), encoding="utf-8")
    rebuilt_from(tmp_path, tmp_path / LEDGER, tmp_path / NEW)
    jobs = [job for job in table(tmp_path / NEW, "job") if job["execution_ms"] is not None]
    assert [(job["delay_ms"], job["execution_ms"], job["outcome"]) for job in jobs] == [(120, 4700, "completed")] * 13
    assert [job["usd_per_second"] for job in jobs] == [pytest.approx(0.0002)] * 13


def test_jobs_that_were_out_for_unreadable_images_are_counted(filled: Path, tmp_path: Path) -> None:
    damaged = shutil.copy(filled / LEDGER, tmp_path / LEDGER)
    with closing(sqlite3.connect(damaged, isolation_level=None)) as connection:
        connection.execute("DELETE FROM item WHERE state IN ('accepted', 'failed')")
    rebuilt = rebuilt_from(filled, tmp_path / LEDGER, tmp_path / NEW)
    assert rebuilt.jobs_forgotten == 1
    assert rebuilt.unreadable["event"] > 0


def test_a_ledger_of_version_1_comes_back_in_todays(tmp_path: Path) -> None:
    write_version_1(tmp_path)
    assert rebuilt_from(tmp_path, tmp_path / LEDGER, tmp_path / NEW).is_whole
    with closing(sqlite3.connect(tmp_path / LEDGER, isolation_level=None)) as connection:
        migrate(connection)
    for name in ("batch", "run", "image"):
        assert table(tmp_path / NEW, name) == table(tmp_path / LEDGER, name), name
    for name, keys in {
        "item": ("id", "state", "job_id", "said"),
        "event": ("item_id", "source", "state", "at"),
    }.items():
        old, new = ([[row[key] for key in keys] for row in table(tmp_path / path, name)] for path in (LEDGER, NEW))
        assert new == old, name
    bought = [[(job["item_id"], job["job_id"]) for job in table(tmp_path / path, "job")] for path in (LEDGER, NEW)]
    assert bought[0] == bought[1]


# -- lines of the manifest ------------------------------------------------------------------------------------------


def lines(root: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (root / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(
    "change",
    [
        {"path": "../../etc/passwd"},
        {"path": "/etc/passwd"},
        {"path": "C:/windows/x.png"},
        {"path": "a\\..\\x.png"},
        {"path": ""},
        {"path": 7},
        {"request_id": "img_'; DROP TABLE item"},
        {"realm": "elsewhere"},
        {"sha256": "0"},
        {"size_bytes": -1},
        {"size_bytes": 2**70},
        {"seed": 2**64},
        {"stored_at": float("inf")},
        {"request": {"prompt": ""}},
        {"request": {"prompt": "a", "nonsense": 1}},
        {"loras": [{"name": "x"}]},
        {"steps": None, "loras": None},
        {"replica": -1},
        {"batch": "half \ud800"},
        {"execution_ms": "long"},
    ],
    ids=str,
)
def test_a_line_that_is_not_true_to_form_is_counted_and_left(filled: Path, tmp_path: Path, change: Any) -> None:
    first, *others = lines(filled)
    bad = [json.dumps({**first, **change}), "[" * 100_000, "null", '"text"', '{"path": "a.png"}', "{"]
    text = "".join(f"{line}\n" for line in (*bad, *map(json.dumps, others)))
    (tmp_path / "manifest.jsonl").write_bytes(b"\xff\xfe\n" + text.encode())
    rebuilt = rebuilt_from(tmp_path, None, tmp_path / NEW)
    assert rebuilt.lines_unreadable == len(bad) + 1
    assert {path for _, path, _, _ in pictures(tmp_path / NEW)} == {line["path"] for line in others}


@pytest.mark.parametrize(
    "request_",
    [
        {"prompt": "a fox"},
        {"prompt": "a fox", "id": "mine", "steps": 30},
        {"prompt": "a fox", "style": "1"},
        {"prompt": "a fox", "style": "16", "width": 64, "height": 64},
        {"prompt": "a fox", "steps": 30, "guidance": 2.0, "batch_size": 2},
    ],
    ids=str,
)
def test_an_old_line_is_the_same_wish_for_what_is_usually_said(request_: dict[str, Any]) -> None:
    wanted = PLANNER.want(parse_request(request_), 0)
    spec = json.loads(wanted.spec.to_json())
    line = {
        **{"path": "a.png", "request_id": "img_00000000", "id": request_.get("id"), "batch": "set", "realm": "runpod"},
        **{"number": 0, "sha256": "0" * 64, "size_bytes": 1, "format": "png", "seed": 7, **spec, "input_pictures": {}},
        **{"stored_at": 1.0, "endpoint": "e", "job_id": "j", "delay_ms": 1, "execution_ms": None},
    }
    assert read_line(json.dumps(line).encode()).want == replace(
        wanted, request=read_line(json.dumps(line).encode()).want.request
    )


@pytest.mark.anyio
async def test_equal_old_lines_are_several_images(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        for item in await at.claim(want("fox"), want("fox"), want("fox")):
            await at.stored(item)
        await Manifest(at.ports, at.ledger, at.root).bring_up_to_date()
    newer = {"request", "replica", "occurrence", "wanted_width", "wanted_height", "cost_usd"}
    old = ({name: value for name, value in line.items() if name not in newer} for line in lines(tmp_path))
    (tmp_path / "manifest.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in old), encoding="utf-8")
    rebuilt_from(tmp_path, None, tmp_path / NEW)
    assert sorted(item["occurrence"] for item in table(tmp_path / NEW, "item")) == [0, 1, 2]
