"""The shipped engine survives crashes, faults and lost writes at any step, in worlds that any process can repeat.

Failures are printed with the command that shows them again. By hand, on all cores: `python -m tests.simulation --help`.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from . import shrink, sweep
from .choices import Choices
from .coverage import missing
from .lives import Outcome, simulate
from .mutants import MUTANTS, ROOT, Mutant, PatchError, catch, catch_all

SEEDS, SWEPT_PLANS, REPEATED_SEEDS = 2000, 20, 300


def simulated(*arguments: str, hash_seed: str = "0") -> str:
    """What a run in a process of its own prints; it must find nothing wrong."""
    command = [sys.executable, "-m", "tests.simulation", *arguments]
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout[-6000:] + ran.stderr[-2000:]
    assert not ran.stderr, ran.stderr[-2000:]
    return ran.stdout.splitlines()[-1]


def test_2000_worlds_hold_every_truth_and_meet_every_move_crash_point_and_fault() -> None:
    assert simulated("--seeds", str(SEEDS)).startswith(f"{SEEDS} seeds, 0 failed")


def test_a_crash_at_any_step_of_20_plans_breaks_nothing() -> None:
    assert ", 0 failed" in simulated("--sweep", str(SWEPT_PLANS))


def test_the_crashes_that_a_sweep_leaves_out_are_those_before_them() -> None:
    def outcome(tick: int, *, power_cut: bool) -> tuple[object, ...]:
        crashed = simulate(4, sweep.fixed(4), crash=(tick, power_cut))
        trace = [entry for entry in crashed.trace if entry[1] not in ("CRASH", "cut at")]
        return crashed.error, trace, crashed.first_crash_was_durable

    swept = [tick for _, tick in sweep.crashes(4)]
    left_out = sorted(set(range(1, swept[-1])).difference(swept))
    assert left_out
    for tick in left_out:
        before = max(other for other in swept if other < tick)
        assert outcome(tick, power_cut=False) == outcome(before, power_cut=False)
    durable = [tick for tick in swept if outcome(tick, power_cut=False)[2]]
    assert durable
    for tick in durable:
        assert outcome(tick, power_cut=True) == outcome(tick, power_cut=False)


def test_worlds_are_the_same_in_every_process() -> None:
    first, second = (simulated("--seeds", str(REPEATED_SEEDS), hash_seed=seed) for seed in ("0", "777"))
    assert first.rpartition(" ")[2] == second.rpartition(" ")[2]


def test_the_simulation_sees_every_way_in_which_the_engine_is_broken_on_purpose() -> None:
    assert [caught.mutant.name for caught in catch_all() if caught.seed is None] == []
    assert len(MUTANTS) >= 40


def test_a_mutant_whose_text_is_gone_is_an_error() -> None:
    with pytest.raises(PatchError, match="stands 0 times"):
        catch(Mutant("outdated", "", "store.py", "no such text anywhere", ""))


def test_what_was_never_met_is_named() -> None:
    assert "move: wanted -> submitting" in missing({"crash: kill": 1})
    assert "crash: kill" not in missing({"crash: kill": 1})


def test_draws_depend_on_their_own_key_only() -> None:
    some, more = Choices(1), Choices(1)
    more(100, "another key")
    assert [some(100, "key") for _ in range(5)] == [more(100, "key") for _ in range(5)]
    assert Choices(1, {("key", 0): 7}, others_are_0=True)(100, "key") == 7
    assert Choices(1, {}, others_are_0=True)(100, "key") == 0


def test_a_failing_world_shrinks_to_the_accidents_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(seed: int, fixed: dict | None = None, *, others_are_0: bool = False) -> Outcome:
        pick = Choices(seed, fixed, others_are_0=others_are_0)
        draws = {number: pick(10, "draw", number) for number in range(40)}
        error = f"BrokenError: {draws[3]} and {draws[30]}" if draws[3] and draws[30] else None
        return Outcome(error, [], pick.used, {}, 0, [], None)

    monkeypatch.setattr(shrink, "simulate", fails)
    seed = next(seed for seed in range(100) if fails(seed).error)
    kept, outcome = shrink.shrink(seed, fails(seed))
    assert {key[:2] for key in kept} == {("draw", 3), ("draw", 30)}
    assert outcome.error is not None
    assert shrink.read(shrink.written(kept)) == kept


def test_a_seed_gives_the_same_outcome_twice() -> None:
    assert simulate(3).digest == simulate(3).digest
