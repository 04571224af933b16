"""A ledger of version 1, as asyncgen wrote it then: everything in it is read, goes on, and is only changed by a run.

`tests/ledgers/version_1.sql` was written by that version. Its items are named after what befell them.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest
from parts import ADDRESS, LEDGER, TERMS, Desk, desk, rows, want
from support import SMALL, bought, open_sandbox, prompts, wired
from typer.testing import CliRunner

from asyncgen.cli import app
from asyncgen.errors import FailureClass, FailureCode
from asyncgen.lifecycle import ALLOWED, State
from asyncgen.report import batch_statuses, style_history
from asyncgen.schema import VERSION
from asyncgen.story import stories

BEFELL = {
    "wanted": State.WANTED,
    "accepted": State.ACCEPTED,
    "storing": State.STORING,
    "stored": State.STORED,
    "failed": State.FAILED,
    "refused here": State.FAILED,
    "rejected": State.FAILED,
    "given_up": State.GIVEN_UP,
    "lost": State.LOST,
    "cancelled": State.CANCELLED,
    "unknown": State.UNKNOWN,
    "bought again": State.STORED,
    "busy": State.ACCEPTED,
    "resubmitted": State.STORED,
    "remade": State.STORED,
    "not stored": State.ACCEPTED,
    "died": State.UNKNOWN,
    "in the air": State.SUBMITTING,
}
#: What a run makes of them when it opens the ledger: who had it in the air is gone.
OPENED = {**BEFELL, "in the air": State.UNKNOWN}
_NAMED = "SELECT json_extract(said, '$.id') AS name"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An output root whose ledger has version 1, in the journal mode it was kept in."""
    script = (Path(__file__).parent / "ledgers" / "version_1.sql").read_text(encoding="utf-8")
    with closing(sqlite3.connect(tmp_path / LEDGER)) as connection:
        connection.executescript(script)
        connection.execute("PRAGMA journal_mode = WAL")
    return tmp_path


def version(root: Path) -> int:
    return int(rows(root, "PRAGMA user_version")[0][0])


def item_states(root: Path) -> dict[str, State]:
    return {name: State(state) for name, state in rows(root, f"{_NAMED}, state FROM item")}


def outcomes(root: Path, name: str) -> list[tuple[object, ...]]:
    """The jobs of one item, oldest first."""
    query = "SELECT job.job_id, outcome, execution_ms, job.execution_timeout_ms, usd_per_second FROM job JOIN item "
    found = rows(root, f'{query} ON item.id = job.item_id WHERE said LIKE \'%"id":"{name}"%\' ORDER BY job.id')
    return [tuple(job) for job in found]


# -- opened by a run ------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_every_item_keeps_its_state_its_seed_and_its_pictures(root: Path) -> None:
    query = "SELECT item.request_id, seed, attempts, job_id, failure_code, path, image.state FROM item LEFT JOIN image "
    query += "ON image.item_id = item.id WHERE item.state <> 'submitting' ORDER BY item.id, image.id"
    before = rows(root, query)
    async with desk(root) as at:
        assert at.in_the_air == 1
    assert version(root) == VERSION
    assert item_states(root) == OPENED
    after = rows(root, query)
    assert [row for row in after if row in before] == before
    assert rows(root, "PRAGMA integrity_check") == [("ok",)]
    assert rows(root, "PRAGMA foreign_key_check") == []


@pytest.mark.anyio
async def test_every_event_says_which_state_it_came_from(root: Path) -> None:
    before = rows(root, "SELECT id, item_id, at, state, detail FROM event ORDER BY id")
    async with desk(root):
        pass
    after = rows(root, "SELECT id, item_id, at, state, detail FROM event ORDER BY id")
    assert after[: len(before)] == before
    assert [row[3] for row in after[len(before) :]] == ["unknown"], "what was in the air"
    by_item: dict[int, list[tuple[str | None, str]]] = {}
    for item_id, source, state in rows(root, "SELECT item_id, source, state FROM event ORDER BY id"):
        by_item.setdefault(item_id, []).append((source, state))
    assert len(by_item) == len(BEFELL)
    for steps in by_item.values():
        assert steps[0] == (None, "wanted")
        assert all(source == before_it for (_, before_it), (source, _) in pairwise(steps))
        assert all((source, state) in ALLOWED for source, state in steps[1:])


@pytest.mark.anyio
async def test_every_job_keeps_its_row_and_what_was_never_accepted_for_certain_gets_one(root: Path) -> None:
    async with desk(root):
        pass
    of_old = 600_000, None  # what it was sent with was not kept, and no price was known
    assert outcomes(root, "bought again") == [
        ("job-again-1", "out_of_memory", 300, *of_old),
        ("job-again-2", "completed", 4700, *of_old),
    ]
    assert outcomes(root, "accepted") == [("job-accepted", None, None, *of_old)]
    for name in ("unknown", "died", "in the air"):
        assert outcomes(root, name) == [(None, "unknown", None, *of_old)], name
    assert outcomes(root, "lost") == [("job-lost", "lost", None, *of_old)]
    assert outcomes(root, "rejected") == outcomes(root, "wanted") == []
    old = {job_id for (job_id,) in rows(root, "SELECT job_id FROM job WHERE job_id IS NOT NULL")}
    assert len(old) == 14


async def claimed(at: Desk) -> dict[str, State]:
    """What the same input finds today."""
    items = await at.claim(*(want(f"a fox, {name}", id=name, **SMALL) for name in BEFELL))
    assert not any(item.is_new or item.changed for item in items)
    return dict(zip(BEFELL, (item.state for item in items), strict=True))


@pytest.mark.anyio
async def test_the_same_input_finds_the_same_items_and_wants_nothing_anew(root: Path) -> None:
    async with desk(root) as at:
        assert await claimed(at) == OPENED
        assert rows(root, "SELECT count(*) FROM item") == [(len(BEFELL),)]


@pytest.mark.anyio
async def test_what_was_out_is_known_by_its_id_and_its_endpoint(root: Path) -> None:
    async with desk(root) as at:
        out = {wanted.request.id: item for item, wanted in await at.ledger.items_out(at.batch, at.run_id)}
    assert {name: item.job_id for name, item in out.items()} == {
        "accepted": "job-accepted",
        "busy": "job-busy",
        "not stored": "job-not-stored",
        "storing": "job-storing",
    }
    assert {(item.endpoint, item.execution_timeout_ms) for item in out.values()} == {(ADDRESS, 600_000)}


@pytest.mark.anyio
async def test_a_failure_keeps_its_words(root: Path) -> None:
    async with desk(root) as at:
        (item,) = await at.claim(want("a fox, given_up", id="given_up", **SMALL))
    assert item.failure is not None
    assert (item.failure.kind, item.failure.code) == (FailureClass.INFRASTRUCTURE, FailureCode.OUT_OF_MEMORY)
    assert item.failure.message == "CUDA out of memory"


@pytest.mark.anyio
async def test_from_then_on_the_schema_refuses_a_move_that_is_not_allowed(root: Path) -> None:
    async with desk(root) as at:
        with pytest.raises(sqlite3.IntegrityError):
            await at.ledger.transact(lambda connection: connection.execute("UPDATE item SET state = 'storing'"))
        (item,) = await at.claim(want("a fox, wanted", id="wanted", **SMALL))
        await at.ledger.record_intent(item, TERMS)
    assert item_states(root) == {**OPENED, "wanted": State.SUBMITTING}


@pytest.mark.anyio
async def test_it_is_brought_up_to_date_once(root: Path) -> None:
    async with desk(root):
        pass
    before = rows(root, "SELECT * FROM event")
    async with desk(root) as at:
        assert at.in_the_air == 0
    assert rows(root, "SELECT * FROM event") == before


# -- run again ------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_jobs_that_were_out_are_collected_and_not_bought_again(root: Path) -> None:
    names = ("accepted", "busy", "not stored", "storing")
    async with open_sandbox() as sandbox:
        async with wired(sandbox, root / "elsewhere") as parts:  # jobs of the sandbox's, under ids of its own
            await parts.run(prompts(len(names)))
        ids = [job["id"] for job in bought(sandbox)]
        with closing(sqlite3.connect(root / LEDGER)) as connection:
            for name, job_id in zip(names, ids, strict=True):
                condition = "WHERE item_id = (SELECT id FROM item WHERE json_extract(said, '$.id') = ?)"
                connection.execute(f"UPDATE job SET job_id = ? {condition}", (job_id, name))
                connection.execute("UPDATE item SET job_id = ? WHERE json_extract(said, '$.id') = ?", (job_id, name))
            connection.commit()
        async with wired(sandbox, root) as parts:
            engine = parts.engine()
            await parts.run([{"prompt": "a fox, accepted", "id": "accepted"}], engine)
        assert len(bought(sandbox)) == len(names)
    assert (engine.statistics.reattached, engine.statistics.made) == (4, 4)
    assert item_states(root) == {**OPENED, **dict.fromkeys(names, State.STORED)}
    for name, job_id in zip(names, ids, strict=True):
        assert [job[:2] for job in outcomes(root, name)] == [(job_id, "completed")]


@pytest.mark.anyio
async def test_what_it_has_spent_counts_in_a_budget_at_today_s_price(root: Path) -> None:
    """What never said how long it ran counts as the 600 s after which the platform ends it; what was cancelled, as the
    milliseconds until then; the job whose result is to be fetched again is out, and not counted as ended."""
    async with desk(root) as at:
        usd = await at.ledger.committed_usd(at.batch, 0.001)
    assert usd == pytest.approx((6 * 4.7 + 3 * 0.3 + 4 * 600) * 0.001, abs=1e-4)


@pytest.mark.anyio
async def test_a_job_that_had_completed_and_is_fetched_again_is_not_taken_for_one_that_was_retried(root: Path) -> None:
    """Of an image that was bought twice, `/status` is asked with what the ledger knows from before a retry."""
    with closing(sqlite3.connect(root / LEDGER)) as connection:
        connection.execute("UPDATE item SET attempts = 2")
        connection.commit()
    async with desk(root) as at:
        for item, _ in await at.ledger.items_out(at.batch, at.run_id):
            assert await at.ledger.ends_before_retry(item) == []


# -- only looked at -------------------------------------------------------------------------------------------------


def test_who_only_reads_finds_everything_and_changes_no_byte(root: Path) -> None:
    before = (root / LEDGER).read_bytes()
    (status,) = batch_statuses(root / LEDGER)
    assert status.wanted == len(BEFELL)
    assert status.states == {state: list(BEFELL.values()).count(state) for state in set(BEFELL.values())}
    assert status.pictures == 4
    assert str(status.cost) == "unpriced"
    assert style_history(root / LEDGER, "1") == []
    for name, state in BEFELL.items():
        (story,) = stories(root / LEDGER, name)
        assert (story.state, story.request["id"]) == (state, name)
        assert all(event.words for event in story.events)
    (again,) = stories(root / LEDGER, "job-again-1")
    assert [job.outcome for job in again.jobs] == ["out_of_memory", "completed"]
    assert (root / LEDGER).read_bytes() == before
    assert version(root) == 1


def test_status_and_why_leave_the_file_as_it_is(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root.parent)
    before = (root / LEDGER).read_bytes()
    status = CliRunner().invoke(app, ["status", "--out", str(root), "--json"])
    assert (status.exit_code, json.loads(status.stdout)["wanted"]) == (0, len(BEFELL)), status
    why = CliRunner().invoke(app, ["why", "in the air", "--out", str(root)])
    assert (why.exit_code, "now submitting" in why.stdout) == (0, True), why
    assert (root / LEDGER).read_bytes() == before


def test_a_ledger_of_version_1_that_cannot_be_written_can_still_be_read(root: Path) -> None:
    with closing(sqlite3.connect(root / LEDGER)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
    (root / LEDGER).chmod(0o444)
    assert batch_statuses(root / LEDGER)[0].wanted == len(BEFELL)
