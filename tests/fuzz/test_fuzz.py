"""5,000 cases in CI, split over the targets; and proof that the command can see, and that its seeds repeat."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import pytest

from .bounds import MAX_CASE_SECONDS, Target, run_case
from .targets import TARGETS

ROOT = Path(__file__).parents[2]
#: What a run must have met, or it has shown nothing: the good and the bad of each target.
MUST_BE_SEEN = {
    "replies": ("submission Accepted", "submission Unknown", "status Completed", "examined png",
                "examined corrupt_image", "checked jpeg", "download Redirected", "link refused"),
    "prompts": ("txt row", "csv row", "jsonl row", "csv bad row", "jsonl bad row", "planned", "refused by the plan"),
    "batches": ("b.json made", "b.json refused", "b.toml made", "b.toml refused"),
    "names": ("path", "template refused", "written"),
    "registry": ("file taken", "file refused", "style planned", "change refused", "saved"),
    "workflow": ("filled", "file refused", "parameters refused"),
    "bindings": ("filled", "file refused"),
}  # fmt: skip


def fuzzed(*options: str, hash_seed: str = "0") -> str:
    command = [sys.executable, "-m", "tests.fuzz", *options]
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr[-2000:]
    return ran.stdout


def test_5000_cases_raise_typed_errors_only_and_keep_within_time_and_memory() -> None:
    told = fuzzed("--cases", "5000")
    assert re.search(r"^5000 cases, 0 failed, \d+ a second$", told, re.MULTILINE)
    seen = {line.split(maxsplit=1)[1] for line in told.splitlines() if re.match(r" +\d+ ", line)}
    wanted = {f"{target}: {word}" for target, words in MUST_BE_SEEN.items() for word in words}
    assert wanted - seen == set()


def test_a_seed_is_the_same_case_in_every_process() -> None:
    first, second = (fuzzed("--cases", "120", "--seed", "9000", hash_seed=seed) for seed in ("0", "777"))
    assert first.partition("slowest")[0] == second.partition("slowest")[0] != ""


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_a_case_does_not_depend_on_what_ran_before_it(target: Target) -> None:
    alone = run_case(target, 5)
    for seed in range(6, 12):
        run_case(target, seed)
    again = run_case(target, 5)
    assert (again.seen, again.error) == (alone.seen, alone.error)


def raising(_: object) -> tuple[str, ...]:
    raise KeyError("not one of ours")


def busy(_: object) -> tuple[str, ...]:
    until = time.process_time() + 1.1 * MAX_CASE_SECONDS
    while time.process_time() < until:
        pass
    return ()


@pytest.mark.parametrize(("judge", "words"), [(raising, "KeyError"), (busy, "s of CPU")])
def test_an_untyped_error_and_a_case_that_takes_too_long_are_failures(judge: object, words: str) -> None:
    verdict = run_case(Target("replies", Random.random, judge), 1)  # type: ignore[arg-type]  # both are judges
    assert verdict.error is not None
    assert words in verdict.error
