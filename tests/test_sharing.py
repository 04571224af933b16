"""Runs of one user on one machine share an endpoint's limits, and a dead one shares nothing."""

from __future__ import annotations

import logging
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from support import (
    SMALL,
    JumpClock,
    Remote,
    account,
    bought,
    cli_environment,
    open_sandbox,
    prompts,
    sandbox_process,
    settings_for,
    started,
    wait_until,
)

from asyncgen import ImageGenerator, open_endpoint
from asyncgen.gate import Gate
from asyncgen.protocol import EndpointAddress
from asyncgen.sharing import Presence
from asyncgen.system import real_ports
from asyncgen.transport import aiohttp_transport

HERE = EndpointAddress("https://api.example/v2", "abc")
ELSEWHERE = EndpointAddress("https://api.example/v2", "def")
_HOLDS = """
import sys, time
from pathlib import Path
from asyncgen.protocol import EndpointAddress
from asyncgen.sharing import Presence
presence = Presence(Path(sys.argv[1]), EndpointAddress("https://api.example/v2", "abc"))
presence.begin()
print("holds", flush=True)
time.sleep(600)
"""


@contextmanager
def present(folder: Path, address: EndpointAddress = HERE) -> Iterator[Presence]:
    presence = Presence(folder, address)
    presence.begin()
    try:
        yield presence
    finally:
        presence.end()


# -- who is there --------------------------------------------------------------------------------------------------


def test_those_who_use_one_endpoint_count_each_other(tmp_path: Path) -> None:
    with present(tmp_path) as first:
        assert first.sharers == 1
        with present(tmp_path) as second, present(tmp_path, ELSEWHERE) as other:
            first.count()
            assert (first.sharers, second.sharers, other.sharers) == (2, 2, 1)
        first.count()
        assert first.sharers == 1
    assert list(tmp_path.iterdir()) == []


def test_a_slash_at_the_end_of_the_base_url_makes_no_other_endpoint(tmp_path: Path) -> None:
    with present(tmp_path), present(tmp_path, EndpointAddress(f"{HERE.base_url}/", "abc")) as second:
        assert second.sharers == 2


def test_a_killed_process_is_counted_no_more_and_leaves_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _HOLDS, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=cli_environment()) as process, ExitStack() as stack:
        stack.callback(process.kill)
        assert process.stdout is not None
        process.stdout.readline()
        presence = stack.enter_context(present(tmp_path))
        assert presence.sharers == 2
        process.kill()
        process.wait()
        presence.count()
        assert (presence.sharers, len(list(tmp_path.iterdir()))) == (1, 1)


def test_what_dead_ones_have_left_of_other_endpoints_is_swept(tmp_path: Path) -> None:
    (tmp_path / "0123.456-789").touch()
    with present(tmp_path):
        assert len(list(tmp_path.iterdir())) == 1


def test_nobody_else_may_look_and_no_name_tells_the_endpoint(tmp_path: Path) -> None:
    folder = tmp_path / "state" / "sharing"
    with present(folder):
        (file,) = folder.iterdir()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert "abc." not in file.name
        assert file.read_bytes() == b""


def test_where_no_file_can_be_made_a_run_goes_on_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "asyncgen.sharing")
    (tmp_path / "no folder").touch()
    with present(tmp_path / "no folder") as presence:
        presence.count()
        assert presence.sharers == 1
    (record,) = caplog.records
    assert (record.levelname, "not shared" in record.getMessage()) == ("DEBUG", True)


# -- what follows --------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_a_gate_takes_its_share_while_it_is_shared_and_all_of_it_afterwards(tmp_path: Path) -> None:
    sharers = 1
    async with aiohttp_transport() as transport, real_ports(transport, tmp_path / "ledger") as ports:
        clock = JumpClock()
        gate = Gate(replace(ports, clock=clock), 1000.0, 160, lambda: sharers)

        async def seconds_for(requests: int) -> float:
            began = clock.now()
            for _ in range(requests):
                async with gate:
                    pass
            return clock.now() - began

        await seconds_for(200)  # the burst is over
        alone = await seconds_for(300)
        sharers = 3
        shared = await seconds_for(300)
        sharers = 1
        await seconds_for(1)
        assert shared == pytest.approx(3 * alone, rel=0.05)
        assert await seconds_for(300) == pytest.approx(alone, rel=0.05)


@pytest.mark.anyio
async def test_a_gate_lets_its_share_in_at_once_and_never_more_than_its_own_limit(tmp_path: Path) -> None:
    async def most_at_once(sharers: int, own_at_once: int | None) -> int:
        async with aiohttp_transport() as transport, real_ports(transport, tmp_path / "ledger") as ports:
            gate, inside = Gate(ports, 10_000_000.0, 12.0, lambda: sharers, own_at_once), 0

            async def enter() -> None:
                nonlocal inside
                await gate.enter()
                inside += 1
                await anyio.sleep_forever()

            async with anyio.create_task_group() as tasks:
                for _ in range(20):
                    tasks.start_soon(enter)
                await anyio.wait_all_tasks_blocked()
                tasks.cancel_scope.cancel()
            return inside

    assert [await most_at_once(*each) for each in [(1, None), (3, None), (20, None), (1, 5), (3, 5)]] == [
        12,
        4,
        1,
        5,
        4,
    ]


@pytest.mark.anyio
async def test_two_output_roots_in_one_process_share_and_one_that_rests_does_not(tmp_path: Path) -> None:
    async with open_sandbox() as sandbox:
        one, two = (settings_for(sandbox, tmp_path / name) for name in ("one", "two"))
        async with ImageGenerator(one) as first, ImageGenerator(two) as second, open_endpoint(one) as third:
            run = await first.open_run("set")
            workspace = first.workspace
            (endpoint,) = workspace.endpoints.values()
            async with workspace.sharing.in_use():
                assert endpoint._sharers() == third._sharers() + 1 == 2
            assert (endpoint._sharers(), run.statistics.made) == (1, 0)
            assert len(await second.generate_many(prompts(2), **SMALL)) == len(bought(sandbox)) == 2


RATE = 100  # of /run in 10 s: the sandbox's limits are those documented, made ten times smaller
_SMALL_LIMITS = {
    "ASYNCGEN_RUN_RATE": str(RATE),
    "ASYNCGEN_STATUS_RATE": "200",
    "ASYNCGEN_CANCEL_RATE": "10",
    "POLLING_INTERVAL": "0.2",
}


def accepted_at(remote: Remote, what: str) -> list[float]:
    return sorted(job["accepted_at"] for job in remote.books() if job["prompt"].startswith(what))


def per_second(times: list[float], since: float, until: float) -> float:
    return sum(since < time <= until for time in times) / (until - since)


def test_two_processes_stay_below_the_limit_together_and_a_kill_gives_the_other_all_of_it(tmp_path: Path) -> None:
    with sandbox_process("--rate-limit-scale=0.1") as remote, ExitStack() as stack:
        runs = {}
        for name in ("foxes", "hares"):
            (tmp_path / f"{name}.txt").write_text("\n".join(prompts(400, name)))
            command = ("batch", f"{name}.txt", "--width=64", "--height=64", f"--out={name}", "--quiet")
            runs[name] = stack.enter_context(started(*command, cwd=tmp_path, env={**account(remote), **_SMALL_LIMITS}))
        wait_until(lambda: remote.accepted() >= 70)
        runs["foxes"].kill()
        before = remote.accepted()
        wait_until(lambda: remote.accepted() >= before + 28)
        runs["hares"].kill()
        assert remote.answers(429) == 0
        foxes, hares = (accepted_at(remote, name) for name in runs)
        shared = per_second(hares, max(foxes[0], hares[0]) + 2.0, foxes[-1])
        alone = per_second(hares, foxes[-1] + 1.5, hares[-1])
        assert (shared < 0.06 * RATE, alone > 1.5 * shared) == (True, True), (shared, alone)
