"""The table of states and moves, held against the real ledger: every pair of states, the allowed and all others."""

from __future__ import annotations

import re
import sqlite3
from collections import deque
from contextlib import closing
from pathlib import Path

import pytest
from parts import LEDGER, TERMS, Desk, desk, path_to, rows

from asyncgen.assets import data_path
from asyncgen.lifecycle import ALLOWED, FAILURES, MOVES, OUT, SETTLED, State, schema_condition
from asyncgen.records import Item

SCRIPTS = sorted(data_path("resources", "sql").glob("*.sql"))
SCHEMA = "".join(script.read_text(encoding="utf-8") for script in SCRIPTS)


async def item_in(at: Desk, state: State) -> Item:
    item = await at.item()
    for step in path_to(state):
        await at.move(item, step)
    return item


# -- against the real ledger


@pytest.mark.anyio
@pytest.mark.parametrize("source", State)
async def test_every_move_out_of_a_state_is_allowed_by_the_ledger_or_refused_as_the_table_says(
    tmp_path: Path, source: State
) -> None:
    for target in State:
        root = tmp_path / target
        async with desk(root) as at:
            item = await item_in(at, source)
            if (source, target) in ALLOWED:
                await at.move(item, target)
                assert item.state is target
            else:
                with pytest.raises(RuntimeError, match=rf"no move from {source} to {target}"):
                    await at.move(item, target)
                assert item.state is source
            assert rows(root, "SELECT state FROM item") == [(item.state,)]
            assert rows(root, "SELECT state FROM event ORDER BY id DESC LIMIT 1") == [(item.state,)]


@pytest.mark.anyio
async def test_a_move_of_an_item_that_the_ledger_has_elsewhere_is_refused(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        item = await at.item()
        await at.next_run()
        twin = await at.item()
        await at.accept(item)
        with pytest.raises(RuntimeError, match="no longer has it as wanted"):
            await at.ledger.record_intent(twin, TERMS)
        assert twin.state is State.WANTED
        assert rows(tmp_path, "SELECT state FROM item") == [("accepted",)]


def test_the_schema_lists_exactly_the_states_of_the_table() -> None:
    (listed,) = re.findall(r"state\s+TEXT NOT NULL CHECK \(state IN\s+\(([^)]*)\)\),\s+state_at", SCHEMA)
    assert [word.strip().strip("'") for word in listed.split(",")] == [state.value for state in State]


@pytest.mark.parametrize("state", [*State, "something else"])
def test_the_schema_alone_refuses_states_without_what_they_need(tmp_path: Path, state: str) -> None:
    bare = {State.WANTED, State.CANCELLED}
    with closing(sqlite3.connect(tmp_path / LEDGER)) as connection:
        connection.executescript(f"{SCHEMA}; DROP TRIGGER item_wanted")  # which would refuse most of them for the move
        connection.execute("INSERT INTO batch VALUES (1, 'set', 'runpod', 0)")
        insert = (
            "INSERT INTO item (request_id, batch_id, content_key, occurrence, replica, said, spec, fingerprint, seed, "
            "state, state_at) VALUES ('img_0', 1, x'00', 0, 0, '', '', x'00', '1', ?, 0)"
        )
        if state in bare:
            connection.execute(insert, (state,))
        else:
            with pytest.raises(sqlite3.IntegrityError, match="CHECK"):
                connection.execute(insert, (state,))


@pytest.mark.parametrize("source", State)
def test_the_schema_alone_allows_exactly_the_moves_of_the_table(source: State) -> None:
    """Whatever program writes to the file: every pair of states, the state to itself included."""
    for target in State:
        with closing(sqlite3.connect(":memory:")) as connection:
            connection.executescript(SCHEMA)
            connection.execute("INSERT INTO batch VALUES (1, 'set', 'runpod', 0)")
            connection.execute(
                "INSERT INTO item (id, request_id, batch_id, content_key, occurrence, replica, said, spec, "
                "fingerprint, seed, state, state_at, endpoint, job_id, failure_code) "
                "VALUES (1, 'img_0', 1, x'00', 0, 0, '', '', x'00', '1', 'wanted', 0, 'e', 'j', 'f')"
            )
            for step in path_to(source):
                connection.execute("UPDATE item SET state = ?, state_at = state_at + 1", (step,))
            if (source, target) in ALLOWED:
                connection.execute("UPDATE item SET state = ?, state_at = 9, detail = 'so'", (target,))
                event = connection.execute("SELECT source, state, at, detail FROM event ORDER BY id DESC").fetchone()
                assert event == (source, target, 9, "so"), "the schema itself writes down what happened"
            else:
                with pytest.raises(sqlite3.IntegrityError, match="CHECK"):
                    connection.execute("UPDATE item SET state = ?", (target,))


def test_the_schema_s_list_of_moves_is_the_one_that_the_table_gives() -> None:
    assert schema_condition() in SCHEMA


# -- the table itself


def reachable_from(start: State) -> set[State]:
    found, waiting = {start}, deque([start])
    while waiting:
        here = waiting.popleft()
        for source, target in ALLOWED:
            if source is here and target not in found:
                found.add(target)
                waiting.append(target)
    return found


def test_every_state_can_be_reached_and_left() -> None:
    assert reachable_from(State.WANTED) == set(State)
    for state in State:
        assert State.WANTED in reachable_from(state), f"an owner must be able to want {state} again"
        assert State.STORED in reachable_from(state), f"{state} must not be a trap"


def test_a_move_stands_once_in_the_table_and_says_why() -> None:
    assert len(ALLOWED) == len(MOVES)
    assert all(len(move.why) > 10 for move in MOVES)
    assert not any(move.source is move.target for move in MOVES)


def test_nothing_is_sent_without_an_intent_and_nothing_stored_without_a_record() -> None:
    into = {state: {source for source, target in ALLOWED if target is state} for state in State}
    assert into[State.SUBMITTING] == {State.WANTED, State.ACCEPTED}
    assert into[State.ACCEPTED] == {State.SUBMITTING, State.STORING}
    assert into[State.STORING] == {State.ACCEPTED}
    assert into[State.STORED] == {State.STORING, State.WANTED}, "or what was made elsewhere is adopted"
    assert into[State.UNKNOWN] == {State.SUBMITTING}


def test_what_is_paid_for_is_only_wanted_again_by_its_owner_or_after_the_platform_lost_it() -> None:
    again = {source for source, target in ALLOWED if target is State.WANTED}
    assert State.STORING not in again, "a result in hand is never thrown away"
    assert again == set(State) - {State.WANTED, State.STORING}


def test_a_state_is_wanted_out_cancelled_or_settled() -> None:
    assert not OUT & SETTLED
    assert set(State) - OUT - SETTLED == {State.WANTED, State.CANCELLED}
    assert SETTLED - {State.STORED, State.UNKNOWN} == FAILURES


@pytest.mark.anyio
async def test_a_settled_state_is_left_only_towards_wanted_or_when_its_picture_is_gone(tmp_path: Path) -> None:
    left_for = {(source, target) for source, target in ALLOWED if source in SETTLED}
    assert left_for == {(state, State.WANTED) for state in SETTLED} | {(State.STORED, State.LOST)}
    async with desk(tmp_path) as at:
        for state in sorted(SETTLED):
            item = await at.item(f"a fox, {state}")
            for step in path_to(state):
                await at.move(item, step)
        assert {state for (state,) in rows(tmp_path, "SELECT state FROM item")} == set(SETTLED)
