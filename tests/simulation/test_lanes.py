"""The lanes beside the big one: the ledger on a real SQLite file that loses what was not synced; the real aiohttp
adapter against a server that misbehaves.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable

import pytest

from asyncgen import schema
from asyncgen.lifecycle import ALLOWED

from . import lane_aiohttp, lane_sqlite
from .coverage import ONLY_BY_COMMAND
from .misbehaving import FAULTS, SILENT
from .vfs import OPERATIONS

_WORDS = {"WAL": "wal", "OFF": 0, "ON": 1, "FULL": 2, "FILE": 1}


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


# -- the ledger on a real SQLite file


def crashed(seeds: int, synchronous: str | None = None) -> lane_sqlite.Finding:
    """So many seeds in one finding."""
    together = lane_sqlite.Finding()
    for seed in range(seeds):
        found = lane_sqlite.crash(seed, synchronous=synchronous)
        for counts in ("cuts", "faults", "moves", "verdicts"):
            getattr(together, counts).update(getattr(found, counts))
        together.errors_told += found.errors_told
        together.problems += [f"seed {seed}: {problem}" for problem in found.problems]
    return together


def test_what_the_ledger_acknowledged_survives_a_power_cut_at_any_operation_of_sqlite() -> None:
    found = crashed(120)
    assert found.problems == []
    assert found.verdicts == Counter(kept=sum(found.cuts.values()))
    assert sum(found.cuts.values()) > 300
    assert set(found.cuts) == set(OPERATIONS)
    assert found.errors_told > 20, "full disks and failing syncs"
    assert set(found.faults) == {"write", "sync", "truncate"}
    never_made = {f"{source} -> {target}" for source, target in ALLOWED - set(found.moves)}
    assert never_made == ONLY_BY_COMMAND | {"wanted -> cancelled"}


def test_with_synchronous_normal_this_lane_sees_acknowledged_commits_go_lost() -> None:
    found = crashed(30, "NORMAL")
    assert found.verdicts["lost"] > 8
    assert found.verdicts["corrupt"] == 0, "which SQLite promises for NORMAL too"


def test_with_synchronous_off_this_lane_sees_corrupt_databases() -> None:
    assert crashed(60, "OFF").verdicts["corrupt"] > 0


def test_the_lane_runs_on_the_pragmas_that_ship() -> None:
    shipped = dict(pragma.removeprefix("PRAGMA ").split(" = ") for pragma in schema.PRAGMAS)
    assert lane_sqlite.pragmas_in_force(list(shipped)) == {name: _WORDS[word] for name, word in shipped.items()}


@pytest.mark.parametrize("seed", [3, 17])
def test_a_seed_gives_the_same_twice(seed: int) -> None:
    assert lane_sqlite.crash(seed) == lane_sqlite.crash(seed)


# -- the real aiohttp adapter


def added(findings: Iterable[lane_aiohttp.Finding]) -> lane_aiohttp.Finding:
    """So many seeds in one finding."""
    together = lane_aiohttp.Finding()
    for seed, found in enumerate(findings):
        for counts in ("outcomes", "faults", "ends"):
            getattr(together, counts).update(getattr(found, counts))
        together.problems += [f"seed {seed}: {problem}" for problem in found.problems]
    return together


def test_whatever_a_server_does_the_adapter_says_truly_what_became_of_the_request_and_sends_no_post_twice() -> None:
    found = added(lane_aiohttp.exchange(seed) for seed in range(70))
    assert found.problems == []
    assert set(found.faults) == set(FAULTS)
    assert set(found.outcomes) == {"HttpReply", "NotSentError", "InterruptedReplyError", "ReplyTooLargeError"}


def test_against_a_server_without_faults_every_reply_is_whole() -> None:
    found = added(lane_aiohttp.exchange(seed, fault_percent=0.0) for seed in range(5))
    assert (found.problems, set(found.outcomes)) == ([], {"HttpReply"})


@pytest.mark.anyio
async def test_the_same_holds_over_real_sockets() -> None:
    found = added([await lane_aiohttp.exchange_real(seed) for seed in range(15)])
    assert found.problems == []
    assert len(set(found.faults) - set(SILENT)) > 15


def test_a_reply_that_nobody_asked_for_is_not_taken_for_the_answer_to_the_next_request() -> None:
    assert added(map(lane_aiohttp.exchange_after_stray_reply, range(5))).problems == []


def test_a_batch_over_the_adapter_buys_each_image_once_but_for_unknown_outcomes_and_stores_it_once() -> None:
    found = added(map(lane_aiohttp.run, range(60)))
    assert found.problems == []
    assert set(found.ends) == {"stored", "unknown"}
    assert set(found.faults) == set(FAULTS)


def test_a_seed_of_a_batch_gives_the_same_twice() -> None:
    assert lane_aiohttp.run(7) == lane_aiohttp.run(7)
