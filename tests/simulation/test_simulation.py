"""The shipped engine survives crashes, faults and lost writes at any step, in worlds that any process can repeat."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def simulated(hash_seed: str) -> str:
    """The last line of a run over 250 seeds, in a process of its own."""
    command = [sys.executable, "-m", "tests.simulation", "--seeds", "250"]
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr[-2000:]
    return ran.stdout.splitlines()[-1]


def test_250_worlds_hold_every_truth_and_are_the_same_in_every_process() -> None:
    first, second = simulated("0"), simulated("777")
    assert first.startswith("250 seeds, 0 failed")
    assert first.rpartition(" ")[2] == second.rpartition(" ")[2]
