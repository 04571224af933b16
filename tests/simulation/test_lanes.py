"""The lanes beside the big one: the ledger on a real SQLite file that loses what was not synced."""

from __future__ import annotations

from collections import Counter

import pytest

from asyncgen import ledger
from asyncgen.lifecycle import ALLOWED, State

from . import lane_sqlite
from .lane_sqlite import Finding, pragmas_in_force

_WORDS = {"WAL": "wal", "OFF": 0, "ON": 1, "FULL": 2, "FILE": 1}


def crashed(seeds: int, synchronous: str | None = None) -> Finding:
    """So many seeds in one finding."""
    together = Finding()
    for seed in range(seeds):
        found = lane_sqlite.crash(seed, synchronous=synchronous)
        for counts in ("cuts", "faults", "moves", "verdicts"):
            getattr(together, counts).update(getattr(found, counts))
        together.errors_told += found.errors_told
        together.problems += [f"seed {seed}: {problem}" for problem in found.problems]
    return together


def test_what_the_ledger_acknowledged_survives_a_power_cut_at_any_operation_of_sqlite() -> None:
    found = crashed(130)
    assert found.problems == []
    assert found.verdicts == Counter(kept=sum(found.cuts.values()))
    assert sum(found.cuts.values()) > 300
    assert set(found.cuts) == {"create", "write", "sync", "truncate", "delete"}
    assert found.errors_told > 20, "full disks and failing syncs"
    assert set(found.faults) == {"write", "sync", "truncate"}
    assert set(found.moves) == ALLOWED - {(State.STORED, State.LOST)}, "which only `asyncgen verify` makes"


def test_with_synchronous_normal_this_lane_sees_acknowledged_commits_go_lost() -> None:
    found = crashed(50, "NORMAL")
    assert found.verdicts["lost"] > 15
    assert found.verdicts["corrupt"] == 0, "which SQLite promises for NORMAL too"


def test_with_synchronous_off_this_lane_sees_corrupt_databases() -> None:
    assert crashed(50, "OFF").verdicts["corrupt"] > 3


def test_the_lane_runs_on_the_pragmas_that_ship() -> None:
    shipped = dict(pragma.removeprefix("PRAGMA ").split(" = ") for pragma in ledger._PRAGMAS)
    assert pragmas_in_force(list(shipped)) == {name: _WORDS[word] for name, word in shipped.items()}


@pytest.mark.parametrize("seed", [3, 17])
def test_a_seed_gives_the_same_twice(seed: int) -> None:
    assert lane_sqlite.crash(seed) == lane_sqlite.crash(seed)
