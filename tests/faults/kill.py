"""SIGKILL at random moments: `python -m tests.faults.kill [--kills 200] [--seed N]`.

Rounds run side by side. A round is one batch of the command line against a sandbox of its own, in another process and
with faults on (`fates`): the batch is killed a number of times, at moments drawn over the whole life of its process,
then run to its end, then told to send again what was held. `books` compares what is left with what the sandbox, asked
over HTTP, says that it sold.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from random import Random
from typing import TextIO

from tests.faults.books import check_round, check_wreck
from tests.faults.fates import Fate, draw_fates, draw_weather
from tests.support import LEDGER, Ran, Remote, account, run_cli, sandbox_process, started, states, wait_until

KILLS_IN_A_ROUND = 10
_PROMPTS_FOR_A_KILL = 25
_PHASES = ("starting", "working", "stopping", "working")
_STARTING_SECONDS = 1.0  # until it is known how long that takes here
_WORKING_SECONDS = 1.2  # of a life, from its first line on, over which kills are drawn
_STOPPING_SECONDS = 0.8
_MOST_RUNS = 8  # until everything is settled: a fault of the account ends a run
_ENDED = {0, 1, 5}  # all there, some failed, some held
_GOOD_CODES = {*_ENDED, 3, 4, -signal.SIGTERM}  # stopped, refused by the account, stopped before or after its run
_SANDBOX = ("--speed=20", "--execution=lognormal:4,0.5", "--pictures=stamped")


@dataclass
class Round:
    """One batch that is killed again and again."""

    folder: Path
    sandbox: Remote
    chance: Random
    fates: dict[str, Fate]
    figures: Counter[str] = field(default_factory=Counter)
    phases: Iterator[str] = field(default_factory=lambda: cycle(_PHASES))
    startup_seconds: float | None = None

    @property
    def root(self) -> Path:
        return self.folder / "out"

    @property
    def command(self) -> tuple[str, ...]:
        size = ("--width=64", "--height=64", "--concurrency=24")
        return ("batch", "prompts.txt", "--out", "out", "--json", *size)

    def kill(self) -> None:
        """One life, cut short at a moment of its own."""
        with self._life() as (process, told):
            phase = next(self.phases)
            self._let_it_live(process, told, phase)
            process.send_signal(signal.SIGKILL)
            code = process.wait()
        if code == -signal.SIGKILL:
            self.figures["kills"] += 1
            self.figures[f"killed while {phase}"] += 1
        else:
            assert code in _GOOD_CODES, f"a life ended by itself with exit code {code}"
            self.figures["lives that ended before their kill"] += 1
        self._look_at_the_wreck()

    @contextmanager
    def _life(self) -> Iterator[tuple[subprocess.Popen[str], Path]]:
        """The running command, and the file that its standard output goes to."""
        told = self.folder / "told.jsonl"
        with told.open("w") as out, (self.folder / "log.txt").open("a") as log:
            options = {"cwd": self.folder, "env": account(self.sandbox), "stdout": out, "stderr": log}
            with started(*self.command, **options) as process:
                yield process, told

    def _let_it_live(self, process: subprocess.Popen[str], told: Path, phase: str) -> None:
        if phase == "starting":
            _sleep(process, self.chance.uniform(0, self.startup_seconds or _STARTING_SECONDS))
            return
        began = time.monotonic()
        wait_until(lambda: told.stat().st_size > 0 or process.poll() is not None)
        self.startup_seconds = self.startup_seconds or time.monotonic() - began
        _sleep(process, self.chance.uniform(0, _WORKING_SECONDS))
        if phase == "stopping":
            process.send_signal(signal.SIGTERM)
            _sleep(process, self.chance.uniform(0, _STOPPING_SECONDS))

    def _look_at_the_wreck(self) -> None:
        """What stood where when it died, read from a copy: the next life must find the ledger as it was left."""
        copy = self.folder / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        copy.mkdir()
        for path in self.root.glob(f"{LEDGER}*"):
            shutil.copy(path, copy)
        if (copy / LEDGER).exists() and (copy / LEDGER).stat().st_size > 0:
            found = states(copy)
            self.figures.update({f"killed with some {state}": 1 for state in found.keys() & _OUT})
        else:
            self.figures["killed before there was a ledger"] += 1
        check_wreck(self.root, self.sandbox.books())
        log = (self.folder / "log.txt").read_text(encoding="utf-8")
        assert "Traceback" not in log, log[-2000:]

    def complete(self, *options: str) -> Ran:
        """Run it to its end, again where the account refused work."""
        for _ in range(_MOST_RUNS):
            ran = run_cli(*self.command, *options, cwd=self.folder, env=account(self.sandbox), timeout_seconds=300)
            assert ran.code in _GOOD_CODES, ran
            if ran.code in _ENDED:
                return ran
        raise AssertionError(f"not settled after {_MOST_RUNS} runs: {ran}")

    def settle(self, unknown: str) -> Counter[str]:
        """Complete it and compare books, ledger, files and what the last run said; the figures."""
        ran = self.complete(f"--unknown={unknown}")
        sold = self.sandbox.books()
        return check_round(self.root, sold, self.fates, ran, resubmitted=unknown == "resubmit")


_OUT = {"submitting", "accepted", "storing"}


def play(seed: int, number: int, kills: int) -> Counter[str]:
    """One round; its figures. Raises AssertionError where something does not add up."""
    chance = Random(f"{seed}/{number}")
    wanted = [f"a lighthouse, study {prompt:05d}" for prompt in range(kills * _PROMPTS_FOR_A_KILL)]
    with (
        tempfile.TemporaryDirectory(prefix="asyncgen-kill-") as folder,
        sandbox_process(*_SANDBOX, f"--seed={chance.getrandbits(30)}") as sandbox,
    ):
        fates = draw_fates(chance, wanted)
        sandbox.add(*(rule for prompt, fate in fates.items() for rule in fate.rules(prompt)), *draw_weather(chance))
        (Path(folder) / "prompts.txt").write_text("\n".join(wanted), encoding="utf-8")
        played = Round(Path(folder), sandbox, chance, fates)
        while played.figures["kills"] < kills:
            played.kill()
        held = played.settle("hold")["ended unknown"]
        return played.figures + played.settle("resubmit") + Counter({"held before told to send again": held})


def _sleep(process: subprocess.Popen[str], seconds: float) -> None:
    """Let it live so long, or until it ends by itself."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return


def main() -> None:
    """Play the rounds and print their figures; exit code 1 if one of them does not add up."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.kill", description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="how many in all")
    parser.add_argument("--seed", type=int, default=0, help="draws faults and moments")
    parser.add_argument("--rounds-at-once", type=int, default=3, help="how many rounds run side by side")
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as user_folder, ThreadPoolExecutor(options.rounds_at_once) as threads:
        os.environ["ASYNCGEN_USER_FOLDER"] = os.environ["ASYNCGEN_STATE_FOLDER"] = user_folder
        kills = _shares(options.kills)
        rounds = [threads.submit(play, options.seed, number, share) for number, share in enumerate(kills)]
        figures, broken = Counter[str](), 0
        for number, future in enumerate(rounds):
            if error := future.exception():
                broken += 1
                print(f"round {number} of seed {options.seed}: {error!r}", file=sys.stderr)
            else:
                figures += future.result()
    _print(figures, len(kills), broken, time.monotonic() - began, sys.stdout)
    raise SystemExit(broken > 0 or figures["bought twice"] > 0)


def _shares(kills: int) -> list[int]:
    """So many kills in rounds of about equal size."""
    rounds = -(-kills // KILLS_IN_A_ROUND)
    return [kills // rounds + (number < kills % rounds) for number in range(rounds)]


def _print(figures: Counter[str], rounds: int, broken: int, seconds: float, out: TextIO) -> None:
    for name, count in sorted(figures.items()):
        print(f"{count:8} {name}", file=out)
    print(
        f"{figures['kills']} kills in {rounds} rounds, {broken} broken; {figures['images']} images, "
        f"{figures['accepted']} accepted, {figures['held before told to send again']} held, "
        f"{figures['bought twice']} bought twice; {seconds:.0f} s",
        file=out,
    )


if __name__ == "__main__":
    main()
