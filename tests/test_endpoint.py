"""The verbs of one endpoint, over real HTTP: what is sent, how often, and what is made of the replies."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from aiohttp import web
from support import ENDPOINT, KEY, JumpClock, bought, eventually, fault, open_sandbox, request, site, wired

from asyncgen.endpoint import MISSING_GRACE_SECONDS, Endpoint, Pace
from asyncgen.errors import FailureCode, JobStillRunningError, RunPausedError
from asyncgen.protocol import (
    Accepted,
    Cancelled,
    Completed,
    Failed,
    Health,
    Missing,
    Pending,
    Refused,
    Rejected,
    Timing,
    Unknown,
    job_body,
)
from asyncgen.sandbox import Sandbox
from asyncgen.stopping import Stop, StoppedError

pytestmark = pytest.mark.anyio


@dataclass
class Diary:
    """A journal that remembers what it was told, in order."""

    entries: list[Any] = field(default_factory=list)

    async def intend(self) -> None:
        self.entries.append("intend")

    async def learn(self, outcome: Any) -> None:
        self.entries.append(type(outcome).__name__)


@dataclass
class Opened:
    """One endpoint with the clock it lives by."""

    endpoint: Endpoint
    clock: JumpClock
    body: bytes
    diary: Diary = field(default_factory=Diary)

    async def submit(self) -> Any:
        return await self.endpoint.submit(self.body, self.diary, Stop())

    async def job_id(self) -> str:
        outcome = await self.submit()
        assert isinstance(outcome, Accepted)
        return outcome.job_id


@asynccontextmanager
async def opened(sandbox: Sandbox | str, root: Path, pace: Pace | None = None) -> AsyncIterator[Opened]:
    async with wired(sandbox, root, pace=pace) as parts:
        asked = request("a lighthouse in the fog")
        job_input = parts.bench.planner.job_input(asked, parts.bench.planner.spec(asked), 7, {})
        body = job_body(job_input, ttl_ms=None, execution_timeout_ms=None)
        yield Opened(parts.endpoint, parts.clock, body)


# -- submit ---------------------------------------------------------------------------------------------------------


async def test_the_journal_is_told_before_and_after_the_one_run_that_is_sent(tmp_path: Path) -> None:
    async with open_sandbox() as sandbox, opened(sandbox, tmp_path) as it:
        assert isinstance(await it.submit(), Accepted)
        assert it.diary.entries == ["intend", "Accepted"]
        assert sandbox.books.counts["requests.run"] == 1


@pytest.mark.parametrize("name", ["429", "503"])
async def test_what_was_certainly_not_accepted_is_sent_again(tmp_path: Path, name: str) -> None:
    async with open_sandbox(fault(name, count=3)) as sandbox, opened(sandbox, tmp_path) as it:
        assert isinstance(await it.submit(), Accepted)
        assert it.diary.entries == ["intend", "Refused"] * 3 + ["intend", "Accepted"]
        assert len(bought(sandbox)) == 1


async def test_a_connection_that_is_refused_is_tried_again_and_each_pause_grows(tmp_path: Path) -> None:
    async with opened("http://127.0.0.1:9/v2", tmp_path, Pace(unreachable_seconds=60)) as it:
        with pytest.raises(RunPausedError) as caught:
            await it.submit()
        assert caught.value.failure.code is FailureCode.UNREACHABLE
        assert it.diary.entries[:4] == ["intend", "Refused"] * 2
        assert it.clock.pauses[:4] == sorted(it.clock.pauses[:4])
        assert max(it.clock.pauses) <= 30


async def test_a_quiet_hour_between_two_failures_is_no_silence(tmp_path: Path) -> None:
    """Nobody asked meanwhile, so that the patience begins anew with the second one."""
    resets = [
        fault("reset_before_accept", operation="run", nth=[2]),
        fault("reset_before_accept", operation="status", nth=[1, 2, 3]),
    ]
    async with open_sandbox(*resets) as sandbox, opened(sandbox, tmp_path, Pace(unreachable_seconds=60)) as it:
        job_id = await it.job_id()
        assert isinstance(await it.submit(), Unknown)
        it.clock.seconds += 3600
        assert isinstance(await it.endpoint.wait_output(job_id), Completed)


async def test_a_health_that_answers_does_not_hide_that_nothing_else_does(tmp_path: Path) -> None:
    dead = fault("reset_before_accept", operation="status")
    async with open_sandbox(dead) as sandbox, opened(sandbox, tmp_path, Pace(unreachable_seconds=60)) as it:
        job_id = await it.job_id()

        async def keep_looking() -> None:
            while True:
                assert isinstance(await it.endpoint.health(), Health)

        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(keep_looking)
                with pytest.raises(RunPausedError, match="has not answered"):
                    await it.endpoint.wait_output(job_id)
                tasks.cancel_scope.cancel()


async def test_an_endpoint_that_takes_no_jobs_for_long_is_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_sandbox(fault("503", count=8)) as sandbox, opened(sandbox, tmp_path) as it:
        assert isinstance(await it.submit(), Accepted)
        assert sum(it.clock.pauses) > 30
    assert any("takes no jobs" in line.message and line.levelname == "WARNING" for line in caplog.records)


@pytest.mark.parametrize("name", ["500", "502", "504", "520", "524", "reset_after_accept", "reset_before_accept"])
async def test_a_run_whose_outcome_is_unknown_is_sent_once_and_never_again(tmp_path: Path, name: str) -> None:
    async with open_sandbox(fault(name, nth=[1])) as sandbox, opened(sandbox, tmp_path) as it:
        assert isinstance(await it.submit(), Unknown)
        assert it.diary.entries == ["intend", "Unknown"]
        assert sandbox.books.counts["requests.run"] == 1


async def test_a_run_that_times_out_is_unknown(tmp_path: Path) -> None:
    slow, pace = fault("slow_body", operation="run", seconds=30), Pace(request_timeout_seconds=0.2)
    async with open_sandbox(slow) as sandbox, opened(sandbox, tmp_path, pace) as it:
        assert isinstance(await it.submit(), Unknown)
        assert len(bought(sandbox)) == 1


async def test_retry_after_is_obeyed(tmp_path: Path) -> None:
    async with open_sandbox(fault("429", nth=[1], retry_after_seconds=77)) as sandbox, opened(sandbox, tmp_path) as it:
        await it.submit()
        assert any(77 <= pause <= 77 * 1.1 for pause in it.clock.pauses)


@pytest.mark.parametrize(
    ("name", "code"),
    [("unauthorized", FailureCode.KEY_REFUSED), ("no_credit", FailureCode.NO_CREDIT)],
)
async def test_a_fault_of_the_account_is_not_sent_again(tmp_path: Path, name: str, code: FailureCode) -> None:
    async with open_sandbox(fault(name)) as sandbox, opened(sandbox, tmp_path) as it:
        outcome = await it.submit()
        assert isinstance(outcome, Rejected)
        assert outcome.failure.code is code
        assert sandbox.books.counts["requests.run"] == 1


async def test_a_stop_ends_the_wait_for_another_try(tmp_path: Path) -> None:
    stop = Stop()
    async with open_sandbox(fault("503")) as sandbox, opened(sandbox, tmp_path) as it:
        it.clock.on_pause = stop.request
        with pytest.raises(StoppedError):
            await it.endpoint.submit(it.body, it.diary, stop)
        assert it.diary.entries == ["intend", "Refused"]


async def test_cancelling_the_task_does_not_tear_a_submission_in_two(tmp_path: Path) -> None:
    async with open_sandbox(fault("slow_body", operation="run", seconds=0.2)) as sandbox:
        async with opened(sandbox, tmp_path) as it, anyio.create_task_group() as tasks:
            tasks.start_soon(it.submit)
            await eventually(lambda: bool(bought(sandbox)))
            tasks.cancel_scope.cancel()
        assert it.diary.entries == ["intend", "Accepted"]


# -- wait_output ----------------------------------------------------------------------------------------------------


async def test_the_reply_that_says_completed_is_the_download(tmp_path: Path) -> None:
    async with open_sandbox() as sandbox, opened(sandbox, tmp_path) as it:
        ending = await it.endpoint.wait_output(await it.job_id())
        assert isinstance(ending, Completed)
        assert len(ending.images) == 1
        assert ending.timing.execution_ms == pytest.approx(50, abs=1)
        assert bought(sandbox)[0]["fetches"] == 1


async def test_a_poll_that_fails_is_polled_again_and_nothing_is_bought(tmp_path: Path) -> None:
    bad = [fault(name, operation="status", count=1) for name in ("503", "502", "500_html", "429", "reset_after_accept")]
    async with open_sandbox(*bad, fault("cut_body", count=1)) as sandbox, opened(sandbox, tmp_path) as it:
        assert isinstance(await it.endpoint.wait_output(await it.job_id()), Completed)
        assert sandbox.books.counts["requests.run"] == 1
        assert sandbox.books.counts["requests.status"] >= 7


async def test_a_404_soon_after_run_is_propagation(tmp_path: Path) -> None:
    async with open_sandbox(fault("not_found_at_first", times=3)) as sandbox, opened(sandbox, tmp_path) as it:
        assert isinstance(await it.endpoint.wait_output(await it.job_id(), submitted_at=it.clock.now()), Completed)


async def test_a_job_is_lost_only_when_status_has_not_known_it_for_the_grace_time(tmp_path: Path) -> None:
    async with open_sandbox(fault("lost_job")) as sandbox, opened(sandbox, tmp_path) as it:
        job_id, began = await it.job_id(), it.clock.now()
        assert isinstance(await it.endpoint.wait_output(job_id), Missing)
        assert it.clock.now() - began >= MISSING_GRACE_SECONDS


async def test_polls_come_less_often_the_longer_a_job_takes_and_it_is_never_abandoned(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pace = Pace(polling_interval_seconds=1, polling_interval_max_seconds=5, slow_after_seconds=100)
    endpoint = saying(*[{"status": "IN_PROGRESS"}] * 50, {"status": "CANCELLED"})
    async with site(endpoint) as url, opened(url, tmp_path, pace) as it:
        assert isinstance(await it.endpoint.wait_output("j", submitted_at=it.clock.now()), Cancelled)
    waits = it.clock.pauses
    assert 1 <= waits[0] <= 1.1
    assert sum(waits) > 180
    assert max(waits[:10]) <= 5 * 1.1
    assert 5 * 1.1 < max(waits) <= 15 * 1.1
    assert [record.message for record in caplog.records if "waited for" in record.message]


async def test_a_key_refused_while_polling_is_told_and_not_polled_again(tmp_path: Path) -> None:
    async with open_sandbox(fault("unauthorized", operation="status")) as sandbox, opened(sandbox, tmp_path) as it:
        assert isinstance(await it.endpoint.wait_output(await it.job_id()), Rejected)
        assert sandbox.books.counts["requests.status"] == 1


# -- cancel, retry, health ------------------------------------------------------------------------------------------


async def test_a_queued_job_is_taken_back(tmp_path: Path) -> None:
    async with open_sandbox(zero_workers=[ENDPOINT]) as sandbox, opened(sandbox, tmp_path) as it:
        job_id = await it.job_id()
        assert isinstance(await it.endpoint.cancel(job_id), Cancelled)
        assert isinstance(await it.endpoint.wait_output(job_id), Cancelled)


async def test_a_cancel_that_fails_is_sent_again(tmp_path: Path) -> None:
    faults = fault("503", operation="cancel", count=2)
    async with open_sandbox(faults, zero_workers=[ENDPOINT]) as sandbox, opened(sandbox, tmp_path) as it:
        assert isinstance(await it.endpoint.cancel(await it.job_id()), Cancelled)


async def test_a_job_that_has_ended_cannot_be_taken_back_and_keeps_its_result(tmp_path: Path) -> None:
    async with open_sandbox() as sandbox, opened(sandbox, tmp_path) as it:
        job_id = await it.job_id()
        assert isinstance(await it.endpoint.wait_output(job_id), Completed)
        assert isinstance(await it.endpoint.cancel(job_id), Pending)
        assert isinstance(await it.endpoint.wait_output(job_id), Completed)


async def test_a_failed_job_runs_again_under_its_own_id(tmp_path: Path) -> None:
    async with open_sandbox(fault("failed:platform", count=1)) as sandbox, opened(sandbox, tmp_path) as it:
        job_id = await it.job_id()
        assert isinstance(await it.endpoint.wait_output(job_id), Failed)
        assert await it.endpoint.retry(job_id, it.diary, Stop()) == Accepted(job_id)
        assert isinstance(await it.endpoint.wait_output(job_id), Completed)
        assert [job["retries"] for job in bought(sandbox)] == [1]
        assert it.diary.entries[-2:] == ["intend", "Accepted"]


async def test_a_retry_whose_outcome_is_unknown_is_not_repeated(tmp_path: Path) -> None:
    faults = fault("failed:platform", count=1), fault("reset_after_accept", operation="retry")
    async with open_sandbox(*faults) as sandbox, opened(sandbox, tmp_path) as it:
        job_id = await it.job_id()
        await it.endpoint.wait_output(job_id)
        assert isinstance(await it.endpoint.retry(job_id, it.diary, Stop()), Unknown)
        assert it.diary.entries[-2:] == ["intend", "Unknown"]
        assert sandbox.books.counts["requests.retry"] == 1


async def test_a_job_that_has_not_failed_cannot_be_retried(tmp_path: Path) -> None:
    async with open_sandbox() as sandbox, opened(sandbox, tmp_path) as it:
        job_id = await it.job_id()
        await it.endpoint.wait_output(job_id)
        assert isinstance(await it.endpoint.retry(job_id, it.diary, Stop()), Missing)
        assert it.diary.entries[-2:] == ["intend", "Missing"]


def saying(*records: dict[str, Any]) -> dict[str, Any]:
    """The routes of an endpoint whose job "j" has these records, one a poll, and the last one ever after."""
    left = list(records)

    async def status(_: web.Request) -> web.Response:
        return web.json_response({"id": "j", **(left.pop(0) if len(left) > 1 else left[0])})

    return {f"/{ENDPOINT}/status/j": status}


FAILED = {"status": "FAILED", "error": "job timed out after 1 retries", "executionTime": 42078}


async def test_an_old_answer_after_a_retry_is_not_taken_for_a_second_failure(tmp_path: Path) -> None:
    """A status that lags behind says FAILED for a while: believed at once, it would cost the picture that is made."""
    async with site(saying(FAILED, FAILED, FAILED, {"status": "CANCELLED"})) as url, opened(url, tmp_path) as it:
        before = await it.endpoint.wait_output("j")
        assert isinstance(before, Failed)
        known = (before.failure.code, before.timing)
        assert isinstance(await it.endpoint.wait_output("j", before_retry=[known]), Cancelled)


async def test_an_answer_from_before_an_earlier_retry_is_as_old(tmp_path: Path) -> None:
    timed_out = {"status": "TIMED_OUT", "executionTime": 60_000}
    async with site(saying(FAILED, timed_out, {"status": "CANCELLED"})) as url, opened(url, tmp_path) as it:
        endings = [await it.endpoint.wait_output("j", before_retry=[])]
        endings.append(await it.endpoint.wait_output("j", before_retry=[]))
        known = [(ending.failure.code, ending.timing) for ending in endings if isinstance(ending, Failed)]
        assert len(known) == 2
    async with site(saying(FAILED, timed_out, FAILED, {"status": "CANCELLED"})) as url, opened(url, tmp_path) as it:
        assert isinstance(await it.endpoint.wait_output("j", before_retry=known), Cancelled)


async def test_the_same_failure_that_lasts_after_a_retry_is_believed(tmp_path: Path) -> None:
    async with site(saying(FAILED)) as url, opened(url, tmp_path) as it:
        before = await it.endpoint.wait_output("j")
        assert isinstance(before, Failed)
        began = it.clock.now()
        known = (before.failure.code, before.timing)
        assert await it.endpoint.wait_output("j", before_retry=[known]) == replace(before, is_of_before=True)
        assert it.clock.now() - began >= MISSING_GRACE_SECONDS


@pytest.mark.parametrize("said", [FAILED | {"status": "IN_QUEUE"}, FAILED | {"status": "IN_PROGRESS"}, FAILED])
async def test_an_equal_failure_after_a_reply_that_the_job_runs_is_another_one(
    tmp_path: Path, said: dict[str, Any]
) -> None:
    """Two runs that were cut off at the same limit may end alike."""
    async with site(saying(said, FAILED)) as url, opened(url, tmp_path) as it:
        known = (FailureCode.PLATFORM_FAILED, Timing(execution_ms=42078))
        ending = await it.endpoint.wait_output("j", before_retry=[known])
        assert isinstance(ending, Failed)
        assert ending.is_of_before == (said is FAILED)


async def test_a_failure_without_times_is_never_known_to_be_an_old_one(tmp_path: Path) -> None:
    async with site(saying({"status": "FAILED", "error": "job timed out"})) as url, opened(url, tmp_path) as it:
        ending = await it.endpoint.wait_output("j", before_retry=[(FailureCode.PLATFORM_FAILED, Timing())])
        assert isinstance(ending, Failed)
        assert not ending.is_of_before


async def test_health_counts_jobs_and_workers(tmp_path: Path) -> None:
    async with open_sandbox(workers=3) as sandbox, opened(sandbox, tmp_path) as it:
        await it.endpoint.wait_output(await it.job_id())
        health = await it.endpoint.health()
        assert isinstance(health, Health)
        assert (health.jobs.completed, health.workers.idle) == (1, 3)


# -- runsync --------------------------------------------------------------------------------------------------------


async def test_runsync_brings_the_picture_in_its_reply(tmp_path: Path) -> None:
    async with open_sandbox() as sandbox, opened(sandbox, tmp_path) as it:
        assert isinstance(await it.endpoint.runsync(it.body), Completed)
        assert sandbox.books.counts["requests.status"] == sandbox.books.counts["requests.status-sync"] == 0


@pytest.mark.parametrize("has_status_sync", [True, False])
async def test_runsync_that_comes_back_unfinished_waits_on(tmp_path: Path, has_status_sync: bool) -> None:
    """First held by the server; where an endpoint does not have that (it is undocumented), polled."""
    asked: list[str] = []
    words = iter(["IN_QUEUE", "IN_PROGRESS", "COMPLETED"])

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.path.split("/")[2])
        if asked[-1] == "status-sync" and not has_status_sync:
            return web.Response(status=404)
        return web.json_response({"id": "x", "status": next(words), "output": {"message": "iVBORw0KGgo"}})

    routes = {f"/{ENDPOINT}/{path}": answer for path in ("runsync", "status-sync/x", "status/x")}
    async with site(routes) as url, opened(url, tmp_path) as it:
        assert isinstance(await it.endpoint.runsync(it.body), Completed)
    waits = ["status-sync", "status-sync"] if has_status_sync else ["status-sync", "status", "status"]
    assert asked == ["runsync", *waits]


async def test_runsync_gives_up_at_its_timeout_and_names_the_job(tmp_path: Path) -> None:
    pace = Pace(sync_timeout_seconds=0.5)
    async with open_sandbox(zero_workers=[ENDPOINT]) as sandbox, opened(sandbox, tmp_path, pace) as it:
        with pytest.raises(JobStillRunningError) as caught:
            await it.endpoint.runsync(it.body)
        assert caught.value.job_id == bought(sandbox)[0]["id"]


async def test_runsync_that_is_cut_is_unknown_and_one_that_is_busy_is_refused(tmp_path: Path) -> None:
    faults = fault("reset_after_accept", operation="runsync", nth=[1]), fault("429", operation="runsync", nth=[2])
    async with open_sandbox(*faults) as sandbox, opened(sandbox, tmp_path) as it:
        assert isinstance(await it.endpoint.runsync(it.body), Unknown)
        assert isinstance(await it.endpoint.runsync(it.body), Refused)
        assert sandbox.books.counts["requests.runsync"] == 2


# -- waits wake each other ------------------------------------------------------------------------------------------


class HaltingClock(JumpClock):
    """A pause of more than ten seconds does not end by itself: whoever is in it must be woken."""

    async def sleep(self, seconds: float) -> None:
        if seconds > 10:
            await anyio.sleep_forever()
        await super().sleep(seconds)


@asynccontextmanager
async def three_waits(sandbox: Sandbox, root: Path) -> AsyncIterator[tuple[Endpoint, list[str], dict[str, Any]]]:
    """Three jobs that are waited for, the third of which nobody asks about for 20 s; ids, and endings as they come."""
    async with opened(sandbox, root) as it, wired(sandbox, root / "parts") as parts:
        clock = HaltingClock()
        endpoint = Endpoint(replace(parts.ports, clock=clock), it.endpoint.address, KEY, Pace())
        ids, endings = [await it.job_id() for _ in range(3)], dict[str, Any]()

        async def wait(job_id: str) -> None:
            endings[job_id] = await endpoint.wait_output(job_id, submitted_at=clock.now())

        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                for job_id in ids:
                    tasks.start_soon(wait, job_id)
                await anyio.wait_all_tasks_blocked()
                yield endpoint, ids, endings


async def test_when_the_first_job_has_ended_those_that_rest_are_asked_about(tmp_path: Path) -> None:
    async with open_sandbox() as sandbox, three_waits(sandbox, tmp_path) as (_, ids, endings):
        await eventually(lambda: set(endings) == set(ids))


async def test_a_job_that_is_taken_back_is_asked_about_though_it_rests(tmp_path: Path) -> None:
    async with open_sandbox(zero_workers=[ENDPOINT]) as sandbox:
        async with three_waits(sandbox, tmp_path) as (endpoint, ids, endings):
            assert isinstance(await endpoint.cancel(ids[2]), Cancelled)
            await eventually(lambda: ids[2] in endings)
            for job_id in ids[:2]:
                await endpoint.cancel(job_id)
        assert all(isinstance(ending, Cancelled) for ending in endings.values())


# -- status-sync ----------------------------------------------------------------------------------------------------

HELD = Pace(status_sync=True)


def counting(asked: list[str], held: web.Response | None, ends_after: int = 3) -> dict[str, Any]:
    """The routes of an endpoint whose jobs end with so many calls; `held` None: `/status-sync` tells how it stands."""

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.path.split("/")[2])
        if asked[-1] == "status-sync" and held is not None:
            return held
        word = "CANCELLED" if len(asked) >= ends_after else "IN_PROGRESS"
        return web.json_response({"id": "j", "status": word})

    return {f"/{ENDPOINT}/{path}/{{job}}": answer for path in ("status", "status-sync")}


async def test_a_job_that_is_alone_is_waited_for_by_the_server_from_the_second_call_on(tmp_path: Path) -> None:
    async with open_sandbox(execution="fixed:300") as sandbox, opened(sandbox, tmp_path, HELD) as it:
        assert isinstance(await it.endpoint.wait_output(await it.job_id()), Completed)
        assert sandbox.books.counts["requests.status"] == sandbox.books.counts["requests.status-sync"] == 1


@pytest.mark.parametrize("status", [400, 404, 405, 500])
async def test_an_endpoint_without_status_sync_is_asked_for_it_once(tmp_path: Path, status: int) -> None:
    asked: list[str] = []
    routes = counting(asked, web.Response(status=status), ends_after=6)
    async with site(routes) as url, opened(url, tmp_path, HELD) as it:
        assert isinstance(await it.endpoint.wait_output("j"), Cancelled)
    assert asked == ["status", "status-sync", "status", "status", "status", "status"]


async def test_a_status_sync_that_holds_nothing_is_left_at_that(tmp_path: Path) -> None:
    asked: list[str] = []
    async with site(counting(asked, None, ends_after=4)) as url, opened(url, tmp_path, HELD) as it:
        assert isinstance(await it.endpoint.wait_output("j"), Cancelled)
    assert asked == ["status", "status-sync", "status", "status"]


async def test_with_many_jobs_out_nothing_is_held(tmp_path: Path) -> None:
    asked: list[str] = []
    routes = counting(asked, None, ends_after=20)
    async with site(routes) as url, opened(url, tmp_path, HELD) as it, anyio.create_task_group() as tasks:
        for number in range(12):
            tasks.start_soon(it.endpoint.wait_output, f"j{number}")
    assert "status-sync" not in asked[:20]


# -- downloads ------------------------------------------------------------------------------------------------------


async def _picture(_: web.Request) -> web.Response:
    return web.Response(body=b"a picture")


async def test_a_result_url_must_be_https_and_public(tmp_path: Path) -> None:
    async with site({"/x.png": _picture}) as url, opened(url, tmp_path) as it:
        for refused in (f"{url}/x.png", "https://127.0.0.1/x.png", "https://10.1.2.3/x.png", "file:///etc/passwd"):
            outcome = await it.endpoint.download(refused)
            assert isinstance(outcome, Rejected), refused
            assert outcome.failure.code is FailureCode.RESULT_URL_REFUSED


async def test_a_name_that_hides_a_private_address_is_refused_at_once(tmp_path: Path) -> None:
    async with open_sandbox() as sandbox, opened(sandbox, tmp_path) as it:
        outcome = await it.endpoint.download("https://localhost/x.png")
        assert isinstance(outcome, Rejected)
        assert outcome.failure.code is FailureCode.RESULT_URL_REFUSED
        assert it.clock.pauses == []


async def test_private_addresses_are_opened_where_that_is_allowed(tmp_path: Path) -> None:
    pace = Pace(allow_private_urls=True)
    async with site({"/x.png": _picture}) as url, opened(url, tmp_path, pace) as it:
        assert await it.endpoint.download(f"{url}/x.png") == b"a picture"


async def test_the_key_does_not_go_to_where_a_result_is(tmp_path: Path) -> None:
    seen: list[str] = []

    async def remember(asked: web.Request) -> web.Response:
        seen.append(str(asked.headers))
        return web.Response(body=b"x")

    pace = Pace(allow_private_urls=True)
    async with site({"/x.png": remember}) as url, opened(url, tmp_path, pace) as it:
        await it.endpoint.download(f"{url}/x.png")
    assert seen
    assert KEY not in seen[0]


async def test_redirects_are_followed_a_few_times_and_checked_each_time(tmp_path: Path) -> None:
    async def onward(asked: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": asked.query["to"]})

    async def around(_: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": "/around"})

    pace = Pace(allow_private_urls=True)
    routes = {"/x.png": _picture, "/onward": onward, "/around": around}
    async with site(routes) as url, opened(url, tmp_path, pace) as it:
        assert await it.endpoint.download(f"{url}/onward?to=/x.png") == b"a picture"
        for bad in (f"{url}/around", f"{url}/onward?to=file:///etc/passwd", f"{url}/onward?to=ftp://x/y"):
            outcome = await it.endpoint.download(bad)
            assert isinstance(outcome, Rejected), bad
            assert outcome.failure.code is FailureCode.RESULT_URL_REFUSED


@pytest.mark.parametrize("announced", [True, False])
async def test_a_file_that_is_too_large_is_not_read(tmp_path: Path, announced: bool) -> None:
    async def large(asked: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        if announced:
            response.content_length = 10_000
        await response.prepare(asked)
        for _ in range(10):
            await response.write(b"x" * 1000)
        return response

    pace = Pace(allow_private_urls=True, max_result_bytes=5000)
    async with site({"/x.png": large}) as url, opened(url, tmp_path, pace) as it:
        outcome = await it.endpoint.download(f"{url}/x.png")
        assert isinstance(outcome, Rejected)
        assert outcome.failure.code is FailureCode.RESULT_TOO_LARGE


async def test_a_download_that_fails_is_tried_again(tmp_path: Path) -> None:
    tries: list[int] = []

    async def shaky(_: web.Request) -> web.Response:
        tries.append(1)
        return web.Response(status=503) if len(tries) < 3 else web.Response(body=b"at last")

    pace = Pace(allow_private_urls=True)
    async with site({"/x.png": shaky}) as url, opened(url, tmp_path, pace) as it:
        assert await it.endpoint.download(f"{url}/x.png") == b"at last"


async def test_a_link_that_has_expired_is_not_asked_for_ever(tmp_path: Path) -> None:
    async def gone(_: web.Request) -> web.Response:
        return web.Response(status=403, text="Request has expired")

    pace = Pace(allow_private_urls=True)
    async with site({"/x.png": gone}) as url, opened(url, tmp_path, pace) as it:
        outcome = await it.endpoint.download(f"{url}/x.png")
        assert isinstance(outcome, Rejected)
        assert "expired" in outcome.failure.message


async def test_a_site_that_stays_down_fails_this_image_and_does_not_pause_the_run(tmp_path: Path) -> None:
    async def down(_: web.Request) -> web.Response:
        return web.Response(status=500)

    pace = Pace(allow_private_urls=True)
    async with site({"/x.png": down}) as url, opened(url, tmp_path, pace) as it:
        for bad in (f"{url}/x.png", "http://127.0.0.1:9/x.png"):
            outcome = await it.endpoint.download(bad)
            assert isinstance(outcome, Rejected), bad
            assert bad in outcome.failure.message


# -- pace -----------------------------------------------------------------------------------------------------------


async def test_no_more_requests_are_sent_than_our_share_of_the_limit(tmp_path: Path) -> None:
    """30 submissions at 100 in 10 s, of which we take half: the last one waits until its turn has come."""
    async with open_sandbox() as sandbox, opened(sandbox, tmp_path, Pace(run_rate=100, rate_share=0.5)) as it:
        began = it.clock.now()
        for _ in range(30):
            await it.submit()
        assert it.clock.now() - began == pytest.approx(25 / 4.5, rel=0.1)


async def test_no_more_replies_are_received_at_once_than_allowed(tmp_path: Path) -> None:
    at_once: list[int] = [0, 0]

    async def status(_: web.Request) -> web.Response:
        at_once[0] += 1
        at_once[1] = max(at_once)
        await anyio.sleep(0.005)
        at_once[0] -= 1
        return web.json_response({"id": "x", "status": "CANCELLED"})

    pace = Pace(downloads_at_once=3)
    async with (
        site({f"/{ENDPOINT}/status/x": status}) as url,
        opened(url, tmp_path, pace) as it,
        anyio.create_task_group() as tasks,
    ):
        for _ in range(20):
            tasks.start_soon(it.endpoint.wait_output, "x")
    assert at_once[1] == 3


async def test_every_request_carries_the_key_and_no_status_call_sets_a_time_to_live(tmp_path: Path) -> None:
    seen: list[tuple[str, str]] = []

    async def status(asked: web.Request) -> web.Response:
        seen.append((asked.headers["Authorization"], asked.query_string))
        return web.Response(text=json.dumps({"id": "x", "status": "CANCELLED"}))

    async with site({f"/{ENDPOINT}/status/x": status}) as url, opened(url, tmp_path) as it:
        await it.endpoint.wait_output("x")
    assert seen == [(f"Bearer {KEY}", "")]
