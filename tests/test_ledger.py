"""The ledger on a real SQLite file: durable before anybody acts on it, and the same wants found again."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parts import ADDRESS, LEDGER, TERMS, Desk, NoNetwork, desk, record, rows, want, with_other_steps

from asyncgen.errors import Failure, FailureClass, FailureCode, LedgerError, LedgerVersionError
from asyncgen.ledger import Ledger
from asyncgen.lifecycle import State
from asyncgen.ports import Ports
from asyncgen.protocol import Timing
from asyncgen.records import ADOPTED, PLATFORM, SANDBOX
from asyncgen.report import batch_statuses
from asyncgen.request import MAX_SEED
from asyncgen.schema import VERSION, PathTakenError
from asyncgen.system import real_ports

FAILURE = Failure(FailureClass.INFRASTRUCTURE, FailureCode.OUT_OF_MEMORY, "CUDA out of memory")


def states(root: Path) -> list[str]:
    return [state for (state,) in rows(root, "SELECT state FROM item ORDER BY id")]


async def open_and_close(path: Path) -> int:
    async with real_ports(NoNetwork(), path) as ports:
        ledger = Ledger(ports)
        try:
            return await ledger.open()
        finally:
            await ledger.close()


# -- durable before anybody acts on it


@pytest.mark.anyio
async def test_every_change_is_in_the_file_when_its_call_returns(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        item = await at.item("a fox", seed=7)
        assert rows(tmp_path, "SELECT state, seed, attempts FROM item") == [("wanted", "7", 0)]
        await at.ledger.record_intent(item, TERMS)
        assert rows(tmp_path, "SELECT state, endpoint, attempts, job_id FROM item") == [
            ("submitting", ADDRESS, 1, None)
        ]
        await at.ledger.record_accepted(item, "job-1")
        assert rows(tmp_path, "SELECT state, job_id FROM item") == [("accepted", "job-1")]
        assert rows(tmp_path, "SELECT endpoint, job_id, attempt, ended_at FROM job") == [(ADDRESS, "job-1", 1, None)]
        await at.ledger.record_storing(item, [record(path="a.png")], Timing(120, 4700, "w1"))
        assert rows(tmp_path, "SELECT path, state FROM image") == [("a.png", "storing")]
        assert rows(tmp_path, "SELECT outcome, delay_ms, execution_ms, worker_id FROM job") == [
            ("completed", 120, 4700, "w1")
        ]
        await at.ledger.record_stored(item)
        assert rows(tmp_path, "SELECT item.state, image.state FROM item, image") == [("stored", "stored")]


@pytest.mark.anyio
async def test_the_events_tell_the_whole_story_in_order(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        item = await at.accept(await at.item())
        await at.ledger.record_ended(item, State.WANTED, FAILURE, Timing())
        await at.stored(item)
        story = rows(tmp_path, "SELECT state, detail FROM event ORDER BY id")
        assert [state for state, _ in story] == [
            "wanted", "submitting", "accepted", "wanted", "submitting", "accepted", "storing", "stored",
        ]  # fmt: skip
        assert story[3][1] == "out_of_memory: CUDA out of memory"
        times = [at for (at,) in rows(tmp_path, "SELECT at FROM event ORDER BY id")]
        assert times == sorted(times)


@pytest.mark.anyio
async def test_the_pragmas_that_make_a_commit_durable_are_in_force(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        found = await at.ledger.transact(
            lambda connection: {
                name: connection.execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("journal_mode", "synchronous", "fullfsync", "foreign_keys", "temp_store")
            }
        )
    assert found == {"journal_mode": "wal", "synchronous": 2, "fullfsync": 1, "foreign_keys": 1, "temp_store": 1}


# -- group commit


@asynccontextmanager
async def counted(root: Path) -> AsyncIterator[tuple[Desk, list[str]]]:
    """A ledger, and every COMMIT that SQLite is told from now on."""
    commits: list[str] = []

    def connecting(ports: Ports) -> Ports:
        def connect() -> sqlite3.Connection:
            connection = ports.connect()
            connection.set_trace_callback(lambda text: commits.append(text) if text == "COMMIT" else None)
            return connection

        return replace(ports, connect=connect)

    async with desk(root, change=connecting) as at:
        commits.clear()
        yield at, commits


@pytest.mark.anyio
async def test_operations_that_come_together_share_a_commit(tmp_path: Path) -> None:
    async with counted(tmp_path) as (at, commits):
        items = await at.claim(*(want(f"fox {number}") for number in range(200)))
        assert len(commits) == 1
        commits.clear()
        async with anyio.create_task_group() as tasks:
            for item in items:
                tasks.start_soon(at.accept, item)
        assert 2 <= len(commits) <= 8
    assert states(tmp_path) == ["accepted"] * 200
    assert len(rows(tmp_path, "SELECT 1 FROM job")) == 200


@pytest.mark.anyio
async def test_one_failing_operation_harms_no_other_of_its_commit(tmp_path: Path) -> None:
    outcomes: dict[int, object] = {}

    async def ask(at: Desk, number: int, operation: Callable[[sqlite3.Connection], Any]) -> None:
        try:
            outcomes[number] = await at.ledger.transact(operation)
        except Exception as error:
            outcomes[number] = error

    def inserting(number: int) -> Callable[[sqlite3.Connection], Any]:
        def operation(connection: sqlite3.Connection) -> int:
            connection.execute("INSERT INTO run (batch_id, started_at, outcome) VALUES (1, ?, 'mine')", (number,))
            if number == 5:
                raise ZeroDivisionError("a bug of ours")
            return number

        return operation

    async with counted(tmp_path) as (at, commits):
        async with anyio.create_task_group() as tasks:
            for number in range(10):
                tasks.start_soon(ask, at, number, inserting(number))
        assert isinstance(outcomes.pop(5), ZeroDivisionError)
        assert outcomes == {number: number for number in range(10) if number != 5}
        assert commits, "the others were committed"
    kept = [int(at) for (at,) in rows(tmp_path, "SELECT started_at FROM run WHERE outcome = 'mine' ORDER BY 1")]
    assert kept == [0, 1, 2, 3, 4, 6, 7, 8, 9], "each once, and nothing of the one that failed"


@pytest.mark.anyio
async def test_a_path_that_a_picture_has_already_is_refused_and_nothing_changes(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        await at.stored(await at.item("a fox"), "same")
        item = await at.accept(await at.item("a cat"))
        with pytest.raises(PathTakenError):
            await at.ledger.record_storing(item, [record(path="same_0.png")], Timing())
        assert item.state is State.ACCEPTED
        assert states(tmp_path) == ["stored", "accepted"]
        assert rows(tmp_path, "SELECT ended_at FROM job WHERE item_id = 2") == [(None,)]


# -- wants and items


@pytest.mark.anyio
async def test_two_equal_wants_with_random_seeds_are_two_items_and_stay_the_same_two(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        first = await at.claim(want(), want("a cat"), want())
        await at.next_run()
        again = await at.claim(want(), want(), want("a cat"))
    assert len({item.id for item in first}) == 3
    assert len({item.seed for item in first}) == 3
    assert [(item.id, item.seed) for item in again] == [(first[n].id, first[n].seed) for n in (0, 2, 1)]
    assert [item.is_new for item in first + again] == [True] * 3 + [False] * 3
    assert not any(item.repeats for item in first + again)


@pytest.mark.anyio
async def test_equal_wants_are_told_apart_across_claims_of_one_run_too(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        ids = [(await at.item()).id for _ in range(3)]
        await at.next_run()
        assert [(await at.item()).id for _ in range(4)] == [*ids, 4]


@pytest.mark.anyio
async def test_two_equal_wants_with_one_fixed_seed_are_one_item(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        one, two, other = await at.claim(want(seed=7), want(seed=7), want(seed=8))
        assert (one.id, one.seed, one.repeats) == (two.id, two.seed, False)
        assert two.repeats
        assert other.id != one.id
        await at.next_run()
        (again,) = await at.claim(want(seed=7))
        assert (again.id, again.repeats) == (one.id, False)


@pytest.mark.anyio
async def test_a_callers_id_is_the_same_item_whatever_else_is_said(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        one, twin = await at.claim(want("a fox", id="mine"), want("a cat", id="mine"))
        assert (twin.id, twin.repeats) == (one.id, True)
        await at.next_run()
        (again,) = await at.claim(want("a hen", id="mine", style_id="1"))
        assert (again.id, again.seed, again.repeats) == (one.id, one.seed, False)


@pytest.mark.anyio
async def test_the_images_of_one_request_are_items_of_their_own(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        items = await at.claim(*(want("a fox", replica, images=3) for replica in range(3)))
        await at.next_run()
        again = await at.claim(*(want("a fox", replica, images=2) for replica in range(2)))
    assert len({item.id for item in items}) == 3
    assert [item.id for item in again] == [item.id for item in items[:2]], "how many are wanted is no content"


@pytest.mark.anyio
async def test_batches_and_realms_are_kept_apart(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        for name, realm in (("set", PLATFORM), ("other", PLATFORM), ("set", SANDBOX)):
            batch = await at.ledger.open_batch(name, realm)
            run_id = await at.ledger.begin_run(batch)
            (item,) = await at.ledger.claim(batch, run_id, [want()])
            assert item.is_new, f"{realm}/{name} must not be satisfied by another"
        assert len(states(tmp_path)) == 3


@pytest.mark.anyio
async def test_a_batch_is_found_again_by_name_and_a_new_set_gets_a_number(tmp_path: Path) -> None:
    async with desk(tmp_path, batch="foxes") as at:
        again = await at.ledger.open_batch("foxes", PLATFORM)
        assert (again.id, again.is_new) == (at.batch.id, False)
        names = [(await at.ledger.open_batch("foxes", PLATFORM, new_set=True)).name for _ in range(3)]
        assert names == ["foxes-2", "foxes-3", "foxes-4"]
        assert (await at.ledger.open_batch("foxes-3", PLATFORM)).is_new is False


@pytest.mark.anyio
@pytest.mark.parametrize("seed", [0, 2**63 - 1, 2**63, MAX_SEED])
async def test_a_seed_survives_up_to_the_last_one(tmp_path: Path, seed: int) -> None:
    async with desk(tmp_path) as at:
        assert (await at.item(seed=seed)).seed == seed
    async with desk(tmp_path) as at:
        assert (await at.item(seed=seed)).seed == seed


@pytest.mark.anyio
async def test_a_drawn_seed_is_kept_over_retries_and_restarts(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        item = await at.accept(await at.item())
        seed = item.seed
        await at.ledger.record_ended(item, State.WANTED, FAILURE, Timing())
        await at.accept(item)
        await at.ledger.record_ended(item, State.FAILED, FAILURE, Timing())
        await at.ledger.record_wanted_again(item, want(), "as told")
        assert item.seed == seed
    async with desk(tmp_path) as at:
        assert (await at.item()).seed == seed
    assert 0 <= seed <= MAX_SEED


@pytest.mark.anyio
async def test_ids_that_meet_are_drawn_again(tmp_path: Path) -> None:
    drawn = iter(["00000000", "00000000", "00000000", "11111111"])
    async with desk(tmp_path, change=lambda ports: replace(ports, new_hex8=lambda: next(drawn))) as at:
        items = await at.claim(want("a fox"), want("a cat"))
        assert [item.request_id for item in items] == ["img_00000000", "img_11111111"]


# -- changed values


@pytest.mark.anyio
async def test_what_was_never_bought_is_made_with_todays_values(tmp_path: Path) -> None:
    today = with_other_steps(want("a hen", id="mine", style_id="16", seed=9))
    async with desk(tmp_path) as at:
        await at.item("a fox", id="mine", style_id="1")
        await at.next_run()
        (item,) = await at.claim(today)
        assert (item.state, item.changed, item.seed) == (State.WANTED, False, 9)
    ((said, spec, style_id, seed, fingerprint),) = rows(
        tmp_path, "SELECT said, spec, style_id, seed, fingerprint FROM item"
    )
    assert (said, spec) == (today.request.said_json(), today.spec.to_json())
    assert (style_id, seed, fingerprint) == ("16", "9", today.fingerprint)


@pytest.mark.anyio
async def test_what_a_job_is_working_on_keeps_the_values_it_is_about_to_send(tmp_path: Path) -> None:
    today = with_other_steps(want("a hen", id="mine", seed=9))
    async with desk(tmp_path) as at:
        item = await at.item("a fox", id="mine")
        await at.next_run()
        (same,) = await at.ledger.claim(at.batch, at.run_id, [today], in_work={item.id})
        assert (same.state, same.changed, same.seed) == (State.WANTED, True, item.seed)
    assert rows(tmp_path, "SELECT spec FROM item") == [(want("a fox", id="mine").spec.to_json(),)]


@pytest.mark.anyio
async def test_what_was_made_with_other_values_is_kept_as_it_is_and_counted_as_changed(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        await at.stored(await at.item())
        await at.next_run()
        (same,) = await at.claim(want())
        await at.next_run()
        (changed,) = await at.claim(with_other_steps(want()))
        assert (same.changed, changed.changed) == (False, True)
        assert changed.state is State.STORED
        assert [picture.path for picture in changed.pictures] == [f"{same.request_id}_0.png"]
    assert rows(tmp_path, "SELECT spec FROM item") == [(want().spec.to_json(),)]


@pytest.mark.anyio
async def test_another_fixed_seed_for_a_callers_id_counts_as_changed(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        await at.stored(await at.item(id="mine", seed=7))
        await at.next_run()
        assert (await at.item(id="mine", seed=8)).changed
        await at.next_run()
        assert not (await at.item(id="mine")).changed, "no seed was said, so any will do"


@pytest.mark.anyio
async def test_made_again_means_with_todays_values_in_every_column_and_the_old_picture_beside_it(
    tmp_path: Path,
) -> None:
    today = want("a hen", id="mine", style_id="16", seed=9, filename="hen")
    async with desk(tmp_path) as at:
        await at.stored(await at.item("a fox", id="mine", style_id="1"))
        await at.next_run()
        (item,) = await at.claim(today)
        await at.ledger.record_wanted_again(item, today, "made again, as told")
        assert (item.state, item.seed, item.changed, item.pictures, item.attempts) == (State.WANTED, 9, False, (), 0)
        row = rows(tmp_path, "SELECT said, spec, style_id, seed, fingerprint, attempts FROM item")
        assert row == [(today.request.said_json(), today.spec.to_json(), "16", "9", today.fingerprint, 0)]
        await at.stored(item, "new")
        assert rows(tmp_path, "SELECT path, state FROM image ORDER BY id")[1:] == [("new_0.png", "stored")]
        assert rows(tmp_path, "SELECT state FROM image ORDER BY id")[0] == ("superseded",)
        await at.next_run()
        (again,) = await at.claim(today)
        assert (again.changed, [picture.path for picture in again.pictures]) == (False, ["new_0.png"])


# -- what is bought


@pytest.mark.anyio
async def test_a_refused_submission_is_as_if_it_had_never_been_sent(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        item = await at.item()
        await at.ledger.record_intent(item, TERMS)
        await at.ledger.record_refused(item, "429")
        assert (item.state, item.attempts) == (State.WANTED, 0)
    assert rows(tmp_path, "SELECT attempts FROM item") == [(0,)]
    assert rows(tmp_path, "SELECT 1 FROM job") == []


@pytest.mark.anyio
async def test_a_failure_is_kept_with_the_item_until_it_is_bought_again(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        item = await at.accept(await at.item())
        await at.ledger.record_ended(item, State.FAILED, FAILURE, Timing())
        assert await at.ledger.has_job_ended_with(item, "out_of_memory")
        assert not await at.ledger.has_job_ended_with(item, "lost")
    async with desk(tmp_path) as at:
        item = await at.item()
        assert (item.state, item.failure) == (State.FAILED, FAILURE)
        await at.ledger.record_wanted_again(item, want(), "tried again, as told")
        await at.ledger.record_intent(item, TERMS)
        assert item.failure is None
        assert rows(tmp_path, "SELECT failure_class, failure_code, failure_message FROM item") == [(None, None, None)]


@pytest.mark.anyio
async def test_jobs_that_are_out_are_found_again_as_they_were_wanted_when_bought(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        await at.item("never bought")
        await at.stored(await at.item("long there"))
        out = await at.accept(await at.item("a fox", style_id="1", images=3, filename="fox"), "job-1")
        storing = await at.accept(await at.item("a cat"), "job-2")
        await at.ledger.record_storing(storing, [record(path="cat.png")], Timing())
        bought_with = want("a fox", style_id="1", images=3, filename="fox")
    async with desk(tmp_path) as at:
        (item, wanted), (other, _) = await at.ledger.items_out(at.batch, at.run_id)
        assert (item.id, item.state, item.job_id, item.endpoint) == (out.id, State.ACCEPTED, "job-1", ADDRESS)
        assert wanted == bought_with
        assert item.submitted_at == out.submitted_at is not None  # a budget counts by it what a cancelled job can cost
        assert (other.id, other.state, other.pictures) == (storing.id, State.STORING, (record(path="cat.png"),))
        assert await at.ledger.items_out(await at.ledger.open_batch("other", PLATFORM), at.run_id) == []


@pytest.mark.anyio
async def test_everything_a_batch_wanted_can_be_read_back_page_by_page(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        wants = [want(f"fox {number}", number % 2, images=2, seed=number) for number in range(150)]
        await at.claim(*wants)
        read, last, until = [], 0, await at.ledger.last_item(at.batch)
        await at.claim(want("wanted since"))
        while page := await at.ledger.recorded_wants(at.batch, last, until):
            assert len(page) < 150
            read += page
            last = page[-1].item_id
    assert [(each.request, each.replica, each.spec) for each in read] == [(w.request, w.replica, w.spec) for w in wants]


@pytest.mark.anyio
async def test_a_want_from_the_ledger_is_its_own_item_whatever_its_key_has_become(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        item = await at.item("a fox")
        renamed = replace(want("a fox"), content_key=b"another key.....", item_id=item.id)
        (again,) = await at.claim(renamed)
        assert (again.id, again.is_new, again.repeats) == (item.id, False, False)
    assert rows(tmp_path, "SELECT count(*) FROM item") == [(1,)]


# -- after a death


@pytest.mark.anyio
async def test_a_submission_in_the_air_is_unknown_to_the_next_process(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        in_the_air, accepted, _ = await at.claim(want("a fox"), want("a cat"), want("a hen"))
        await at.ledger.record_intent(in_the_air, TERMS)
        await at.accept(accepted)
    async with desk(tmp_path) as at:
        assert at.in_the_air == 1
        item = await at.item("a fox")
        assert (item.state, item.endpoint) == (State.UNKNOWN, ADDRESS)
        assert item.failure is not None
        assert "never learned" in item.failure.message
        assert states(tmp_path) == ["unknown", "accepted", "wanted"]
        assert rows(tmp_path, "SELECT state FROM event WHERE item_id = 1 ORDER BY id DESC LIMIT 1") == [("unknown",)]
    async with desk(tmp_path) as at:
        assert at.in_the_air == 0, "it is told once"


@pytest.mark.anyio
async def test_a_run_that_died_is_recorded_as_such(tmp_path: Path) -> None:
    async with desk(tmp_path):
        pass
    async with desk(tmp_path) as at:
        await at.ledger.end_run(at.run_id, "ended")
    assert rows(tmp_path, "SELECT outcome, ended_at IS NULL FROM run") == [("died", 0), ("ended", 0)]


@settings(max_examples=15)
@given(st.lists(st.sampled_from(["a fox", "a cat", "a hen"]), min_size=1, max_size=8), st.integers(0, 8))
def test_a_run_cut_short_anywhere_and_begun_again_wants_the_same_items(
    tmp_path_factory: pytest.TempPathFactory, prompts: list[str], cut: int
) -> None:
    async def check() -> None:
        root = tmp_path_factory.mktemp("cut")
        async with desk(root) as at:
            before = await at.claim(*map(want, prompts[:cut]))
        async with desk(root) as at:
            after = await at.claim(*map(want, prompts))
        assert [item.id for item in after[: len(before)]] == [item.id for item in before]
        assert len({item.id for item in after}) == len(prompts)

    anyio.run(check)


# -- files that cannot be used


@pytest.mark.anyio
async def test_a_ledger_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / LEDGER
    await open_and_close(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {VERSION + 1}")
        connection.commit()
    with pytest.raises(LedgerVersionError, match=f"version {VERSION + 1}.*install a newer asyncgen"):
        await open_and_close(path)
    assert rows(tmp_path, "PRAGMA user_version") == [(VERSION + 1,)]


@pytest.mark.anyio
async def test_a_file_that_is_no_database_is_refused_with_the_cure_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / LEDGER
    path.write_bytes(b"my holiday pictures" * 100)
    with pytest.raises(LedgerError, match="ASYNCGEN_LEDGER"):
        await open_and_close(path)
    assert path.read_bytes() == b"my holiday pictures" * 100


@pytest.mark.anyio
async def test_a_database_of_another_program_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / LEDGER
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE bookmarks (url TEXT)")
        connection.commit()
    before = path.read_bytes()
    with pytest.raises(LedgerError, match=r"no ledger.*ASYNCGEN_LEDGER"):
        await open_and_close(path)
    assert path.read_bytes() == before


@pytest.mark.anyio
async def test_a_folder_that_is_not_there_is_told_in_plain_words(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match=r"unable to open.*permissions"):
        await open_and_close(tmp_path / "nowhere" / LEDGER)


@pytest.mark.anyio
async def test_a_damaged_ledger_is_told_and_stays_an_error_of_ours(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        await at.claim(*(want(f"fox {number}") for number in range(50)))
    path = tmp_path / LEDGER
    data = path.read_bytes()
    path.write_bytes(data[:4096] + bytes(len(data) - 4096))
    with pytest.raises(LedgerError, match="damaged; keep a copy"):
        await open_and_close(path)


@pytest.mark.anyio
async def test_a_ledger_on_a_full_disk_says_so_and_goes_on_once_there_is_space(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        item = await at.item()

        def limit(pages: int) -> Callable[[sqlite3.Connection], Any]:
            return lambda connection: connection.execute(f"PRAGMA max_page_count = {pages}")

        await at.ledger.transact(limit(1))
        with pytest.raises(LedgerError, match="free some space"):
            await at.claim(*(want(f"fox {number}") for number in range(100)))
        await at.ledger.transact(limit(10_000))
        assert len(await at.claim(*(want(f"fox {number}") for number in range(100)))) == 100
        await at.accept(item)


@pytest.mark.anyio
async def test_a_closed_ledger_says_so(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        await at.ledger.close()
        with pytest.raises(LedgerError, match="closed"):
            await at.item()


# -- size


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.anyio
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
async def test_memory_stays_flat_however_many_wants_a_run_has_seen(tmp_path: Path) -> None:
    def see(first: int) -> Callable[[sqlite3.Connection], Any]:
        statement = "INSERT INTO again VALUES (1, ?, 1)"
        keys = ((number.to_bytes(16, "big"),) for number in range(first, first + 100_000))
        return lambda connection: connection.executemany(statement, keys)

    async with desk(tmp_path) as at:
        await at.ledger.transact(see(0))
        before = resident_bytes()
        await at.ledger.transact(see(100_000))
        await at.ledger.transact(see(200_000))
        assert resident_bytes() - before < 4 * 2**20, "200,000 keys are 6 MB"


@pytest.mark.anyio
async def test_a_run_that_has_ended_leaves_nothing_in_memory_of_what_it_saw(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        await at.claim(want(), want("a cat"))
        other = await at.ledger.begin_run(at.batch)
        await at.ledger.claim(at.batch, other, [want()])
        await at.ledger.end_run(at.run_id, "ended")
        seen = await at.ledger.transact(lambda connection: connection.execute("SELECT run_id FROM met").fetchall())
        assert [tuple(row) for row in seen] == [(other,)]


@pytest.mark.anyio
async def test_what_is_kept_of_a_want_is_json_that_people_can_read(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        await at.item("ein Fuchs, 狐", style_id="1")
    ((said, spec),) = rows(tmp_path, "SELECT said, spec FROM item")
    assert json.loads(said) == {"prompt": "ein Fuchs, 狐", "style_id": "1"}
    assert "狐" in spec


# -- not bought


@pytest.mark.anyio
async def test_what_was_made_elsewhere_is_stored_without_a_job_and_without_a_cost(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        item = await at.item()
        await at.adopted(item, "old.png")
        assert (item.state, item.endpoint, item.attempts) == (State.STORED, ADOPTED, 0)
        assert await at.ledger.committed_usd(at.batch, 1.0) == 0
        await at.next_run()
        (found,) = await at.claim(want())
    assert (found.id, found.pictures, found.changed) == (item.id, (record(path="old.png"),), False)
    assert rows(tmp_path, "SELECT * FROM job") == []
    assert rows(tmp_path, "SELECT state, path FROM image") == [("stored", "old.png")]
    assert batch_statuses(tmp_path / LEDGER)[0].pictures == 1


@pytest.mark.anyio
async def test_what_was_never_sent_can_be_taken_back_and_wanted_again(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        item = await at.item()
        await at.ledger.record_cancelled_unsent(item, "taken back by its owner")
        assert (item.state, states(tmp_path)) == (State.CANCELLED, ["cancelled"])
        assert rows(tmp_path, "SELECT * FROM job") == []
        await at.ledger.record_wanted_again(item, want(), "the batch was started again")
    assert states(tmp_path) == ["wanted"]


@pytest.mark.anyio
async def test_a_job_keeps_the_seed_that_it_was_sent_with(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        await at.stored(await at.item(seed=MAX_SEED))
    assert rows(tmp_path, "SELECT seed FROM job") == [(str(MAX_SEED),)]
