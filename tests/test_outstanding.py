"""What is out and what waits, as `asyncgen queue` shows it."""

from __future__ import annotations

from pathlib import Path

import pytest
from parts import ADDRESS, LEDGER, desk
from support import account, run_cli, sandbox_process, started, states, wait_until

from asyncgen.errors import InputError, LedgerError
from asyncgen.lifecycle import State
from asyncgen.outstanding import outstanding


@pytest.mark.anyio
async def test_what_is_out_is_grouped_by_endpoint_and_lane_before_what_waits(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        await at.item("waits", style_id="1")
        for number in range(2):
            await at.accept(await at.item(f"fox {number}", character_loras=("a", "b")))
        await at.stored(await at.item("there"))
        with outstanding(tmp_path / LEDGER) as found:
            out, waiting = found.groups()
    assert (out.endpoint, out.state, out.jobs, out.loras) == (
        ADDRESS,
        State.ACCEPTED,
        2,
        "a.safetensors + b.safetensors",
    )
    assert (waiting.endpoint, waiting.state, waiting.jobs, waiting.style_id) == (None, State.WANTED, 1, "1")


@pytest.mark.anyio
async def test_the_oldest_jobs_come_first_with_their_age_and_both_ends(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        accepted = [await at.accept(await at.item(f"fox {number}", id=f"f{number}")) for number in range(3)]
        with outstanding(tmp_path / LEDGER, "set") as found:
            first, second = found.oldest(2, ttl_seconds=3600)
    assert [first.id, second.id] == ["f0", "f1"]
    assert (first.request_id, first.job_id) == (accepted[0].request_id, accepted[0].job_id)
    assert first.submitted_at is not None and first.accepted_at is not None
    assert (first.safe_until, first.deleted_at) == (first.accepted_at + 1800, first.submitted_at + 3600)


def test_without_a_ledger_or_a_batch_of_that_name_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="no ledger"), outstanding(tmp_path / LEDGER):
        pass


@pytest.mark.anyio
async def test_a_batch_that_there_is_not_is_refused(tmp_path: Path) -> None:
    async with desk(tmp_path):
        with pytest.raises(InputError, match="no batch 'sat'; it has: set"), outstanding(tmp_path / LEDGER, "sat"):
            pass


def test_the_command_works_beside_a_run_and_after_it(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("one\ntwo\nthree\n", encoding="utf-8")
    with sandbox_process("--speed=1", "--execution=fixed:120") as sandbox:
        options = ("--out=out", "--width=64", "--height=64", "--concurrency=2")
        with started("batch", "p.txt", *options, cwd=tmp_path, env=account(sandbox)) as run:
            wait_until(lambda: sandbox.accepted() == 2)
            wait_until(lambda: states(tmp_path / "out") == {"accepted": 2, "wanted": 1})
            (found,) = run_cli("queue", "--out=out", "--json", "--jobs=1", cwd=tmp_path).json
            assert [group["jobs"] for group in found["groups"]] == [2, 1]
            assert len(found["oldest"]) == 1
            run.kill()
        after = run_cli("queue", "--out=out", cwd=tmp_path).out
    assert after.startswith("2 out, 1 wanted")
    assert "result safe for" in after and "29 min" in after
    assert "deleted in*" in after and "* by today's ASYNCGEN_JOB_TTL" in after
