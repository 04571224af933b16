"""The table of states and moves, held against the real ledger: every pair of states, the allowed and all others."""

from __future__ import annotations

import re
import sqlite3
from collections import deque
from contextlib import closing
from pathlib import Path

import pytest
from parts import ADDRESS, LEDGER, Desk, desk, path_to, record, rows

from asyncgen.assets import data_path
from asyncgen.errors import Failure, FailureClass, FailureCode
from asyncgen.ledger import JobEnd
from asyncgen.lifecycle import ALLOWED, FAILURES, MOVES, OUT, SETTLED, State
from asyncgen.records import Item

FAILURE = Failure(FailureClass.ITEM, FailureCode.WORKER_ERROR, "because")
SCHEMA = data_path("resources", "sql", "0001_ledger.sql").read_text(encoding="utf-8")


async def move(at: Desk, item: Item, target: State) -> None:
    """The ledger's own way to a state."""
    ledger = at.ledger
    match target:
        case State.SUBMITTING:
            await ledger.record_intent(item, ADDRESS)
        case State.ACCEPTED if item.state is State.STORING:
            await ledger.record_not_stored(item)
        case State.ACCEPTED:
            await ledger.record_accepted(item, f"job-{item.id}")
        case State.STORING:
            await ledger.record_storing(item, [record(path=f"{item.request_id}.png")], JobEnd("completed"))
        case State.STORED:
            await ledger.record_stored(item)
        case _:
            await ledger.record_unsettled(item, target, FAILURE)


async def item_in(at: Desk, state: State) -> Item:
    item = await at.item()
    for step in path_to(state):
        await move(at, item, step)
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
                await move(at, item, target)
                assert item.state is target
            else:
                with pytest.raises(RuntimeError, match=rf"no move from {source} to {target}"):
                    await move(at, item, target)
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
            await at.ledger.record_intent(twin, ADDRESS)
        assert twin.state is State.WANTED
        assert rows(tmp_path, "SELECT state FROM item") == [("accepted",)]


def test_the_schema_lists_exactly_the_states_of_the_table() -> None:
    (listed,) = re.findall(r"state\s+TEXT NOT NULL CHECK \(state IN\s+\(([^)]*)\)\),\s+state_at", SCHEMA)
    assert [word.strip().strip("'") for word in listed.split(",")] == [state.value for state in State]


@pytest.mark.parametrize("state", [*State, "something else"])
def test_the_schema_alone_refuses_states_without_what_they_need(tmp_path: Path, state: str) -> None:
    bare = {State.WANTED, State.CANCELLED}
    with closing(sqlite3.connect(tmp_path / LEDGER)) as connection:
        connection.executescript(SCHEMA)
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
    assert into[State.SUBMITTING] == {State.WANTED}
    assert into[State.ACCEPTED] == {State.SUBMITTING, State.STORING}
    assert into[State.STORING] == {State.ACCEPTED}
    assert into[State.STORED] == {State.STORING}
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
async def test_a_settled_state_is_left_only_towards_wanted(tmp_path: Path) -> None:
    assert {target for source, target in ALLOWED if source in SETTLED} == {State.WANTED}
    async with desk(tmp_path) as at:
        for state in sorted(SETTLED):
            item = await at.item(f"a fox, {state}")
            for step in path_to(state):
                await move(at, item, step)
        assert {state for (state,) in rows(tmp_path, "SELECT state FROM item")} == set(SETTLED)
