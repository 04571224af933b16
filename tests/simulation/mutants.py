# ruff: noqa: E501 - the patched texts are those of the package, whole lines of it
"""Proof that the simulation can see: the engine broken on purpose, each time in one way, and caught.

`python -m tests.simulation.mutants [NAME …]` patches a copy of the package, runs seeds against it until one fails, and
prints the seed and the truth that broke. A patch that no longer applies is an error: then it must be written anew.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

MAX_SEEDS = 500
ROOT = Path(__file__).parent.parent.parent


@dataclass(frozen=True)
class Mutant:
    """`old` stands once in `asyncgen/file` and becomes `new`; `why` says what that costs its owner.

    SQL is beside the package: `../resources/sql/NAME`. `seed` is one that has caught it, and is tried before all others.
    """

    name: str
    why: str
    file: str
    old: str
    new: str
    seed: int = 0


@dataclass(frozen=True)
class Caught:
    """How a mutant was caught; `seed` None: it was not."""

    mutant: Mutant
    seed: int | None
    truth: str


class PatchError(Exception):
    """The text that a mutant replaces is not there, or is there more than once."""


MUTANTS = (
    Mutant(
        "file not flushed", "a power cut leaves an empty picture under its final name", "store.py",
        "        disk.fsync(temporary)\n", "",
    ),
    Mutant(
        "folder not flushed", "a power cut takes the name of a picture that is recorded as stored", "store.py",
        "    disk.fsync_directory(path.parent)  # the new name, and that the temporary one is gone\n", "",
    ),
    Mutant(
        "folder not flushed on recovery", "the name of a picture found after a kill is lost at the next power cut",
        "store.py",
        "        if disk.exists(path.parent):  # neither its name nor the end of the temporary one may have been durable"
        " yet\n            disk.fsync_directory(path.parent)\n", "", seed=30,
    ),
    Mutant(
        "done before the file", "a crash leaves a record without its file", "job.py",
        "                in_place = await store.write(prepared, pictures)\n            finally:\n"
        "                store.release(prepared)\n            if in_place:\n"
        "                await self._stored(pictures)\n",
        "                await self._stored(pictures)\n"
        "                in_place = await store.write(prepared, pictures)\n"
        "            finally:\n                store.release(prepared)\n"
        "            if in_place:\n                pass\n",
    ),
    Mutant(
        "storing believed after a crash", "a record without its file", "job.py",
        "if await self._bench.store.are_in_place(self.item.pictures):", "if True:", seed=30,
    ),
    Mutant(
        "no hash check after a crash", "somebody else's file is taken for the picture", "store.py",
        " and hashlib.sha256(disk.read(path)).hexdigest() == sha256", "", seed=98,
    ),
    Mutant(
        "temporary files left", "hidden files gather beside the pictures", "store.py",
        "    finally:\n        disk.unlink(temporary)\n", "    finally:\n        pass\n",
    ),
    Mutant(
        "pictures replaced", "somebody else's file is overwritten", "store.py",
        "        disk.link(temporary, path)\n", "        disk.replace(temporary, path)\n", seed=24,
    ),
    Mutant(
        "poll before the id is recorded", "a crash forgets a job that is being paid for", "endpoint.py",
        "                outcome = await send()\n                await journal.learn(outcome)\n",
        "                outcome = await send()\n                if isinstance(outcome, Accepted):\n"
        "                    await self._poll(outcome.job_id, _Wait(0.0))\n"
        "                await journal.learn(outcome)\n",
    ),
    Mutant(
        "intent not durable before the purchase", "a crash forgets that something may have been bought", "endpoint.py",
        "                await journal.intend()\n                outcome = await send()\n",
        "                async with anyio.create_task_group() as beside:\n"
        "                    beside.start_soon(journal.intend)\n                    outcome = await send()\n",
    ),
    Mutant(
        "purchase sent again on silence", "a job is bought twice", "calls.py",
        '            return Unknown(f"no reply came ({error})")',
        '            return Refused(f"no reply came ({error})")', seed=27,
    ),
    Mutant(
        "502 taken for a refusal", "a job is bought twice", "replies.py",
        "_BUSY_STATUSES: Final = frozenset({429, 503})", "_BUSY_STATUSES: Final = frozenset({429, 502, 503})",
    ),
    Mutant(
        "unreadable reply taken for a refusal", "a job is bought twice", "replies.py",
        '    return Accepted(job_id) if job_id else Unknown(f"HTTP {reply.status} without a job id that can be read")',
        '    return Accepted(job_id) if job_id else Refused(f"HTTP {reply.status} without a job id that can be read")',
    ),
    Mutant(
        "404 believed at once", "a job that is only just known is given up and bought again", "endpoint.py",
        "return outcome if missing_for >= MISSING_GRACE_SECONDS else", "return outcome if True else",
    ),
    Mutant(
        "404 never believed", "a run waits for ever for what is lost", "endpoint.py",
        "return outcome if missing_for >= MISSING_GRACE_SECONDS else", "return outcome if False else", seed=16,
    ),
    Mutant(
        "paid run forgotten on Ctrl-C", "what was accepted is never written down", "endpoint.py",
        "            with anyio.CancelScope(shield=True):\n                await journal.intend()\n",
        "            with anyio.CancelScope(shield=False):\n                await journal.intend()\n", seed=36,
    ),
    Mutant(
        "submissions in the air forgotten at start", "a job is bought twice", "rows.py",
        '    unknown = {"state": State.UNKNOWN, "state_at": at,',
        '    unknown = {"state": State.WANTED, "state_at": at,',
    ),
    Mutant(
        "failed poll buys", "a job is bought again because a poll was not answered", "calls.py",
        "        try:\n            reply = await self.send(request)\n        except TransportError as error:\n"
        "            return Transient(str(error))\n        outcome = decipher(reply)\n",
        "        try:\n            reply = await self.send(request)\n        except TransportError:\n"
        "            from asyncgen.protocol import Failed\n"
        '            return Failed(Failure(FailureClass.INFRASTRUCTURE, FailureCode.LOST, ""))\n'
        "        outcome = decipher(reply)\n", seed=15,
    ),
    Mutant(
        "no limit on attempts", "the platform's faults cost without end", "job.py",
        "        elif self._attempts >= self._bench.policy.max_attempts:", "        elif False:",
    ),
    Mutant(
        "attempts not counted", "the platform's faults cost without end", "ledger.py",
        "            attempts=attempt,\n", "            attempts=0,\n",
    ),
    Mutant(
        "second equal failure bought again", "an image that can only fail is paid for again", "job.py",
        "        elif await self._ledger.has_job_ended_with(self.item, failure.code):", "        elif False:", seed=15,
    ),
    Mutant(
        "failure before a retry counted twice", "an image is given up after one run", "job.py",
        "        if ending.is_of_before and self.item.accepted_at is None:", "        if False:", seed=27,
    ),
    Mutant(
        "second failure taken for the first", "an image that can only fail is paid for again", "job.py",
        "        if ending.is_of_before and self.item.accepted_at is None:", "        if self.item.accepted_at is None:", seed=27,
    ),
    Mutant(
        "old answer believed after a retry", "a job that runs again, and is paid for, is given up", "endpoint.py",
        "            if asked_at - wait.since < MISSING_GRACE_SECONDS:\n                return Transient(\"/status says",
        "            if False:\n                return Transient(\"/status says", seed=16,
    ),
    Mutant(
        "download not tried again", "a good picture is given up because its site was slow once", "endpoint.py",
        "_DOWNLOAD_TRIES: Final = 8", "_DOWNLOAD_TRIES: Final = 1", seed=20,
    ),
    Mutant(
        "workflow sent that is another one now", "a picture that its record does not describe", "job.py",
        "        planner.check_workflow(request, spec)\n", "",
    ),
    Mutant(
        "item failure bought again", "an image that can only fail is paid for again", "job.py",
        "            case Failed(failure) if failure.kind is FailureClass.INFRASTRUCTURE:",
        "            case Failed(failure):",
    ),
    Mutant(
        "account fault marks the image failed", "a whole batch fails because credit ran out", "job.py",
        "            case Rejected(failure) if failure.kind is FailureClass.ITEM:\n"
        "                await self._ledger.record_rejected",
        "            case Rejected(failure):\n                await self._ledger.record_rejected", seed=80,
    ),
    Mutant(
        "unknown sent again unasked", "a job is bought twice", "job.py",
        "        return policy.resubmit_unknown and", "        return",
    ),
    Mutant(
        "jobs polled at today's endpoint", "paid jobs are declared lost when the endpoint changes", "job.py",
        "        endpoint = self._bench.endpoint_at(self.item.endpoint)\n        for fetch",
        "        endpoint = self._bench.endpoint_at(self._bench.allowance.endpoint)\n        for fetch",
    ),
    Mutant(
        "what is out is not taken up again", "paid results expire", "engine.py",
        "        await self._reattach(tasks, run_id, deliver)\n", "",
    ),
    Mutant(
        "rate limit not kept", "the platform answers 429", "gate.py",
        "        while pause := self._bucket.reserve(self._ports.clock.now()):",
        "        while pause := self._bucket.paused_for(self._ports.clock.now()):",
    ),
    Mutant(
        "Retry-After of a 429 ignored", "the platform answers 429", "calls.py",
        "            gate.slow_down(retry_after_seconds)", "            gate.slow_down(None)", seed=98,
    ),
    Mutant(
        "no backoff", "a platform in trouble is hammered", "calls.py",
        "        return max(backoff_seconds(faults_in_a_row, jitter),", "        return max(0.01,",
    ),
    Mutant(
        "concurrency not limited", "more jobs are out than the owner allowed", "engine.py",
        "        self._slots = Slots(FEWEST_OUT if fixed is None else fixed)",
        "        self._slots = Slots(FEWEST_OUT if fixed is None else fixed + 1)",
    ),
    Mutant(
        "place not given back", "the run waits for ever", "engine.py",
        "        self._slots.give_back()\n", "",
    ),
    Mutant(
        "stop not heard", "the run goes on buying after Ctrl-C", "stopping.py",
        "        for scope in list(self._waiting.values()):\n            scope.cancel()\n",
        "        self._waiting.clear()\n        self.requested = False\n",
    ),
    Mutant(
        "commit acknowledged before it is made", "a crash forgets what was said to be durable", "ledger.py",
        "                    self._next = None\n", "                    self._next = None\n                    group.durable.set()\n",
    ),
    Mutant(
        "commits that are not flushed", "a power cut takes commits that were acknowledged", "schema.py",
        '    "PRAGMA synchronous = FULL",', '    "PRAGMA synchronous = NORMAL",',
    ),
    Mutant(
        "manifest never written anew", "the manifest lists what is not there, or not what is", "manifest.py",
        "        if written_bytes != (await", "        if False and written_bytes != (await",
    ),
    Mutant(
        "manifest not flushed", "a power cut leaves a damaged manifest", "manifest.py",
        "                await threads.run(disk.fsync, self.path)\n", "                pass\n",
    ),
    Mutant(
        "another seed is sent", "a picture that its record does not describe", "job.py",
        "planner.job_input(request, spec, self.item.seed, pictures, urls)",
        "planner.job_input(request, spec, self.item.seed ^ 1, pictures, urls)",
    ),
    Mutant(
        "body of any size sent", "the platform refuses what could have been refused for nothing", "protocol.py",
        "MAX_RUN_BODY_BYTES: Final = 10 * 1024 * 1024", "MAX_RUN_BODY_BYTES: Final = 100 * 1024 * 1024", seed=249,
    ),
    Mutant(
        "budget not kept", "more is spent than the owner allowed", "money.py",
        "        if self.cap_usd is not None and self.committed_usd + self.reserved_usd + usd >",
        "        if self.cap_usd is not None and self.committed_usd + usd >", seed=33,
    ),
    Mutant(
        "stopped lane goes on", "the same fault is paid for over and over", "lanes.py",
        "        if len(in_a_row) >= self._faults_in_a_row and", "        if False and", seed=93,
    ),
    Mutant(
        "cancelled jobs free for the next run", "more is spent than the owner allowed", "rows.py",
        "THEN min(job.execution_timeout_ms, (ended_at - submitted_at) * 1000) ELSE", "THEN 0 ELSE", seed=237,
    ),
    Mutant(
        "manifest remembered before its flush", "a power cut takes a line of the manifest for good", "manifest.py",
        "                await threads.run(disk.fsync, self.path)\n",
        "                await self._remember(last_event, size_bytes)\n"
        "                await threads.run(disk.fsync, self.path)\n",
    ),
    Mutant(
        "repeated row decided anew", "an image that has just failed again is paid for once more", "engine.py",
        "        if item.repeats:  # it was decided", "        if False:  # it was decided", seed=82,
    ),
    Mutant(
        "retry outside the gate", "the platform answers 429", "endpoint.py",
        "        return await self._journalled(\n"
        "            lambda: self._calls.buy(request, replies.decipher_retry, self._run_gate), journal, stop\n        )\n",
        "        with anyio.CancelScope(shield=True):\n            await journal.intend()\n"
        "            outcome = await self._calls.buy(request, replies.decipher_retry, self._run_gate)\n"
        "            await journal.learn(outcome)\n        return outcome\n", seed=133,
    ),
    Mutant(
        "stop not heard while waiting to submit", "what nobody wants any more is bought", "endpoint.py",
        "        with stop.interruptible():\n            await self._run_gate.enter()\n",
        "        await self._run_gate.enter()\n",
    ),
    Mutant(
        "lanes of a workflow stop one by one", "the same fault is paid for in every style", "lanes.py",
        "_STOPS_IN_A_ROW: Final = 3", "_STOPS_IN_A_ROW: Final = 300", seed=213,
    ),
    Mutant(
        "404s counted together", "a job that was twice not found, long apart, is given up and bought again",
        "endpoint.py",
        "            wait.missing_since = None if not isinstance(outcome, Transient) else wait.missing_since\n", "", seed=16,
    ),
    Mutant(
        "all jobs at one endpoint", "jobs of an earlier run are asked about where they never were", "run.py",
        "endpoint_at=lambda address: workspace.endpoint_at(_reachable(address, target),",
        "endpoint_at=lambda address: workspace.endpoint_at(target.address,",
    ),
    Mutant(
        "manifest forgotten after an error", "what a stopped run has made is not in the manifest", "run.py",
        "                await self._update_manifest_after(error)\n", "", seed=69,
    ),
    Mutant(
        "pictures taken back undurably", "a file without a record is there after a power cut", "store.py",
        "        disk.unlink(path)\n        disk.fsync_directory(path.parent)\n", "        disk.unlink(path)\n", seed=84,
    ),
    Mutant(
        "unknown times counted as none", "a lower bound is called measured", "money.py",
        "        self.untimed += execution_ms is None\n", "", seed=16,
    ),
    Mutant(
        "a stopped lane's faults kept against its workflow", "good lanes stop with a bad one", "lanes.py",
        "                history.outcomes.clear()\n", "", seed=101,
    ),
    Mutant(
        "unknown submissions free for the next run", "more is spent than the owner allowed", "rows.py",
        "    return lambda connection, at: connection.execute(_UNKNOWN_JOB, (item.id,))",
        "    return lambda connection, at: None", seed=287,
    ),
    Mutant(
        "refused retry pauses the run", "one job that cannot be run again holds up all others", "replies.py",
        "    if cannot_be_retried and not isinstance(_not_answered(reply), Rejected):\n        return Missing()\n", "", seed=16,
    ),
    Mutant(
        "a move without its event", "the story of an image has a hole", "../resources/sql/0004_checks.sql",
        "CREATE TRIGGER item_moved AFTER UPDATE OF state ON item BEGIN",
        "CREATE TRIGGER item_moved AFTER UPDATE OF state ON item WHEN NEW.state <> 'unknown' BEGIN",
    ),
    Mutant(
        "seed of a reroll not recorded", "a picture that its record does not describe", "ledger.py",
        "also=also, seed=str(next_seed), rerolls=rerolls)", "also=also, rerolls=rerolls)",
    ),
    Mutant(
        "rerolled with the same seed", "the same rejected picture is paid for again", "checks.py",
        '    digest = hashlib.blake2b(f"{seed}:{reroll}".encode(), digest_size=8).digest()\n',
        "    return seed\n",
    ),
    Mutant(
        "rerolls not limited", "pictures that nobody wants are bought without end", "job.py",
        "        rolls_again = item.rerolls < self._bench.policy.rerolls", "        rolls_again = True",
    ),
    Mutant(
        "rerolls not counted", "pictures that nobody wants are bought without end", "ledger.py",
        "        rerolls, detail = item.rerolls + 1,", "        rerolls, detail = item.rerolls,",
    ),
    Mutant(
        "rerolls taken for the platform's faults", "an image is given up that was to be tried again", "job.py",
        "        return self.item.attempts - self.item.rerolls\n", "        return self.item.attempts\n", seed=133,
    ),
    Mutant(
        "rejected picture written after its record", "a crash loses a picture that was paid for", "job.py",
        "                kept = await self._bench.store.keep_rejected(pictures, self._rejected_names(len(pictures)), taken)\n",
        "                names = self._rejected_names(len(pictures))\n"
        "                kept = await self._bench.store.prepare(pictures, names, self._hex8)\n"
        "                record = self._ledger.record_picture_rejected\n"
        "                async def record_first(*args):\n"
        "                    await record(*args)\n"
        "                    await self._bench.store.keep_rejected(pictures, names, taken)\n"
        "                self._ledger.record_picture_rejected = record_first\n",
    ),
    Mutant(
        "rejected picture not kept", "what was paid for is gone", "store.py",
        "        work = [(name, picture) for picture, name in zip(pictures, names, strict=True) if name]\n",
        "        work, names = [], [None] * len(names)\n",
    ),
    Mutant(
        "cost of a rejected picture forgotten", "more is spent than is told", "ledger.py",
        '            rows.end_job(item, failure, timing, connection, at)\n            rows.insert_pictures(connection, item.id, pictures, "rejected")\n',
        '            rows.end_job(item, failure, Timing(), connection, at)\n            rows.insert_pictures(connection, item.id, pictures, "rejected")\n',
    ),
    Mutant(
        "pause not obeyed", "images are bought that their owner holds back", "stopping.py",
        "        if not self.paused:\n", "        if False:\n", seed=94,
    ),
    Mutant(
        "job in the air not held back by a pause", "images are bought that their owner holds back", "job.py",
        "        self._put_off = self._stop.paused and not self._stop.requested\n", "", seed=357,
    ),
    Mutant(
        "withdrawn and not taken back", "what its owner gave up runs on, and is paid for", "job.py",
        "            self._waiting.cancel()\n        await self.cancel()\n", "            self._waiting.cancel()\n", seed=23,
    ),
    Mutant(
        "withdrawn before its row was read, and made", "what its owner gave up is bought", "engine.py",
        "            selection.matches(want, item) for selection in self", "            False for selection in self", seed=38,
    ),
    Mutant(
        "withdrawn while unsent, and left wanted", "what its owner gave up is bought by the next run", "ledger.py",
        "        at, after, taken = self._ports.clock.wall(), 0, 0\n", "        return 0\n", seed=352,
    ),
    Mutant(
        "added while it is taken back, and forgotten", "what was asked for is not made", "engine.py",
        "        if flight.is_added_again:\n", "        if False:\n", seed=303,
    ),
    Mutant(
        "added before a withdrawal, and spared", "what its owner gave up is bought", "engine.py",
        "self._added_after[item_id] = len(self._withdrawals)", "self._added_after[item_id] = len(self._withdrawals) + 1", seed=216,
    ),
    Mutant(
        "added when the input has ended, and forgotten", "what was asked for is not made", "engine.py",
        "            self._tasks.start_soon(self._taking, partial(self._take_added, self._tasks, _to_nobody))\n", "", seed=269,
    ),
    Mutant(
        "two seeds stored with one picture", "the same picture counts twice", "ledger.py",
        "await self._move(item, State.STORING, also=also, unless=unlike) or []", "await self._move(item, State.STORING, also=also) or []",
    ),
)  # fmt: skip


def catch(mutant: Mutant) -> Caught:
    """Run seeds against the mutant. Raises `PatchError`."""
    with tempfile.TemporaryDirectory(prefix="asyncgen-mutant-") as folder:
        _copy(Path(folder), mutant)
        for seeds in ([str(mutant.seed), "--seeds", "1"], ["0", "--seeds", str(MAX_SEEDS)]):
            command = [sys.executable, "-m", "tests.simulation", "--stop", "--no-shrink", "--processes", "1", "--first"]
            environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
            ran = subprocess.run(
                [*command, *seeds], cwd=folder, env=environment, capture_output=True, text=True, check=False
            )
            if ran.returncode != 0:
                return _caught(mutant, ran)
    return Caught(mutant, None, "")


def _caught(mutant: Mutant, ran: subprocess.CompletedProcess[str]) -> Caught:
    told = next((line for line in ran.stdout.splitlines() if line.startswith("seed ")), None)
    if told is None:
        raise PatchError(f"{mutant.name}: the simulation does not run: {ran.stderr[-2000:]}")
    seed, _, truth = told.removeprefix("seed ").partition(": ")
    return Caught(mutant, int(seed), truth)


def catch_all(mutants: tuple[Mutant, ...] = MUTANTS) -> Iterator[Caught]:
    """Every one of them, a core each, in order."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(catch, mutants)


def _copy(folder: Path, mutant: Mutant) -> None:
    """The package with its data and the simulation, as links but for the file that is patched.

    What Python has compiled is linked too, and taken where its source is as old and as long as it was.
    """
    source = (ROOT / "asyncgen" / mutant.file).read_text(encoding="utf-8")
    if source.count(mutant.old) != 1:
        raise PatchError(f"{mutant.name}: its text stands {source.count(mutant.old)} times in {mutant.file}")
    for name in ("asyncgen", "resources", "workflows", "tests/simulation"):
        shutil.copytree(ROOT / name, folder / name, copy_function=os.symlink)
    for file in {mutant.file, "assets.py"}:  # which looks for data beside itself, wherever a link leads
        (folder / "asyncgen" / file).unlink()
        for compiled in (folder / "asyncgen" / "__pycache__").glob(f"{Path(file).stem}.*"):
            compiled.unlink()
        shutil.copyfile(ROOT / "asyncgen" / file, folder / "asyncgen" / file)
    (folder / "asyncgen" / mutant.file).write_text(source.replace(mutant.old, mutant.new), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.mutants", description=__doc__)
    parser.add_argument("names", nargs="*", help="which mutants; all of them where none is named")
    names = parser.parse_args().names
    chosen = tuple(mutant for mutant in MUTANTS if not names or mutant.name in names)
    alive = 0
    for caught in catch_all(chosen):
        alive += caught.seed is None
        found = "NOT CAUGHT" if caught.seed is None else f"seed {caught.seed}"
        print(f"{caught.mutant.name:42} {found:12} {caught.truth[:150]}", flush=True)
    print(f"{len(chosen)} mutants, {alive} not caught within {MAX_SEEDS} seeds")
    raise SystemExit(alive > 0)


if __name__ == "__main__":
    main()
