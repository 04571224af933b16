"""One image from the wish to the file, over real HTTP: each way it can go, and what the ledger says then."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from PIL import Image
from support import (
    ENDPOINT,
    Wired,
    bought,
    eventually,
    fault,
    files,
    ledger_rows,
    open_sandbox,
    site,
    size_of,
    states,
    wired,
)

from asyncgen import images
from asyncgen.endpoint import Pace
from asyncgen.errors import FailureClass, FailureCode, InputError, RunPausedError, StoreError
from asyncgen.job import Job
from asyncgen.lifecycle import State
from asyncgen.origins import origin_of
from asyncgen.protocol import Failed, Timing
from asyncgen.provenance import Level
from asyncgen.sandbox import FaultRule
from asyncgen.stopping import Stop, StoppedError

pytestmark = pytest.mark.anyio


async def settled(root: Path, *faults: FaultRule, **fields: Any) -> tuple[Job, list[dict[str, Any]]]:
    """One job for one prompt, to its end, and what the sandbox has sold."""
    async with open_sandbox(*faults) as sandbox, wired(sandbox, root) as parts:
        job = await parts.job(**fields)
        await job.settle()
        return job, bought(sandbox)


def steps(root: Path) -> list[str]:
    """The states that the ledger has seen the one item in."""
    return [state for (state,) in ledger_rows(root, "SELECT state FROM event ORDER BY id")]


# -- the way it should go -------------------------------------------------------------------------------------------


async def test_a_job_goes_through_every_state_and_ends_as_a_file(tmp_path: Path) -> None:
    job, jobs = await settled(tmp_path)
    assert steps(tmp_path) == ["wanted", "submitting", "accepted", "storing", "stored"]
    (picture,) = job.item.pictures
    assert picture.path is not None
    assert size_of((tmp_path / picture.path).read_bytes()) == (64, 64)
    assert len(jobs) == 1


async def test_the_seed_that_is_sent_is_the_one_that_is_recorded(tmp_path: Path) -> None:
    job, jobs = await settled(tmp_path)
    assert jobs[0]["seed"] == job.item.seed
    assert ledger_rows(tmp_path, "SELECT seed FROM item") == [(str(job.item.seed),)]


async def test_what_a_job_cost_in_time_is_recorded(tmp_path: Path) -> None:
    await settled(tmp_path)
    ((delay_ms, execution_ms, outcome),) = ledger_rows(tmp_path, "SELECT delay_ms, execution_ms, outcome FROM job")
    assert (round(execution_ms, -1), outcome) == (50, "completed")
    assert delay_ms >= 0


async def test_every_picture_of_a_job_has_its_own_file_and_record(tmp_path: Path) -> None:
    job, jobs = await settled(tmp_path, batch_size=3)
    assert len(jobs) == 1
    assert len({picture.path for picture in job.item.pictures}) == 3
    assert all((tmp_path / str(picture.path)).exists() for picture in job.item.pictures)
    assert ledger_rows(tmp_path, "SELECT number, state FROM image") == [(0, "stored"), (1, "stored"), (2, "stored")]


async def test_a_picture_for_memory_gets_no_file_and_is_recorded_as_delivered(tmp_path: Path) -> None:
    job, _ = await settled(tmp_path, save_to_style=False)
    assert [size_of(picture.data) for picture in job.delivered] == [(64, 64)]
    assert ledger_rows(tmp_path, "SELECT path, state FROM image") == [(None, "stored")]
    assert not files(tmp_path, "*.png")


@pytest.mark.parametrize("metadata", ["none", "full"])
@pytest.mark.parametrize(("kind", "suffix"), [("PNG", ".png"), ("JPEG", ".jpg"), ("WEBP", ".webp")])
async def test_a_picture_behind_a_link_is_downloaded_and_kept_under_its_own_suffix(
    tmp_path: Path, kind: str, suffix: str, metadata: Level
) -> None:
    data = BytesIO()
    Image.effect_noise((64, 64), 50).convert("RGB").save(data, kind)

    async def run(_: web.Request) -> web.Response:
        return web.json_response({"id": "job-1", "status": "IN_QUEUE"})

    async def status(asked: web.Request) -> web.Response:
        link = str(asked.url.with_path("/bucket/whatever.bin"))
        return web.json_response({"id": "job-1", "status": "COMPLETED", "output": {"image_url": link}})

    async def bucket(_: web.Request) -> web.Response:
        return web.Response(body=data.getvalue())

    routes = {f"/{ENDPOINT}/run": run, f"/{ENDPOINT}/status/job-1": status, "/bucket/whatever.bin": bucket}
    pace = Pace(allow_private_urls=True)
    async with site(routes) as url, wired(url, tmp_path, pace=pace, metadata=metadata) as parts:
        job = await parts.job()
        await job.settle()
    (path,) = files(tmp_path, f"*{suffix}")
    assert (path.read_bytes() == data.getvalue()) is (metadata == "none")
    assert origin_of(path.read_bytes()).prompt == (None if metadata == "none" else "a fox")
    assert job.item.pictures[0].sha256 == images.check(path.read_bytes()).sha256


async def test_a_link_to_a_private_address_fails_the_item(tmp_path: Path) -> None:
    async def run(_: web.Request) -> web.Response:
        return web.json_response({"id": "job-1", "status": "IN_QUEUE"})

    async def status(_: web.Request) -> web.Response:
        output = {"images": ["https://169.254.169.254/latest/meta-data"]}
        return web.json_response({"id": "job-1", "status": "COMPLETED", "output": output})

    routes = {f"/{ENDPOINT}/run": run, f"/{ENDPOINT}/status/job-1": status}
    async with site(routes) as url, wired(url, tmp_path) as parts:
        job = await parts.job()
        await job.settle()
    assert job.item.failure is not None
    assert (job.item.state, job.item.failure.code) == (State.FAILED, FailureCode.RESULT_URL_REFUSED)


# -- submissions that go wrong --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["reset_after_accept", "reset_before_accept", "500_html", "502", "504"])
async def test_an_unknown_outcome_is_held(tmp_path: Path, name: str) -> None:
    job, _ = await settled(tmp_path, fault(name))
    assert job.item.state is State.UNKNOWN
    assert job.item.failure is not None
    assert job.item.failure.kind is FailureClass.TRANSPORT
    assert steps(tmp_path) == ["wanted", "submitting", "unknown"]


async def test_a_held_submission_is_sent_again_only_when_told(tmp_path: Path) -> None:
    async with open_sandbox(fault("reset_after_accept", nth=[1])) as sandbox:
        async with wired(sandbox, tmp_path) as parts:
            await (await parts.job()).settle()
        async with wired(sandbox, tmp_path) as parts:
            await (await parts.job()).settle()
            assert len(bought(sandbox)) == 1
        async with wired(sandbox, tmp_path, resubmit_unknown=True) as parts:
            await (await parts.job()).settle()
        assert len(bought(sandbox)) == 2
    assert states(tmp_path) == {"stored": 1}


async def test_an_endpoint_that_never_answers_run_is_not_paid_for_ever(tmp_path: Path) -> None:
    faults = fault("reset_after_accept")
    async with open_sandbox(faults) as sandbox, wired(sandbox, tmp_path, resubmit_unknown=True) as parts:
        job = await parts.job()
        await job.settle()
        assert (job.item.state, job.item.attempts, len(bought(sandbox))) == (State.UNKNOWN, 3, 3)


@pytest.mark.parametrize("name", ["429", "503"])
async def test_a_refusal_costs_no_attempt(tmp_path: Path, name: str) -> None:
    job, jobs = await settled(tmp_path, fault(name, count=5))
    assert (job.item.state, job.item.attempts, len(jobs)) == (State.STORED, 1, 1)


@pytest.mark.parametrize("name", ["unauthorized", "no_credit", "not_found"])
async def test_a_fault_of_the_account_leaves_the_item_as_if_it_had_never_been_sent(tmp_path: Path, name: str) -> None:
    async with open_sandbox(fault(name)) as sandbox, wired(sandbox, tmp_path) as parts:
        job = await parts.job()
        with pytest.raises(RunPausedError) as caught:
            await job.settle()
        assert caught.value.failure.kind is FailureClass.ACCOUNT
        assert (job.item.state, job.item.attempts) == (State.WANTED, 0)


async def test_an_endpoint_that_is_down_leaves_the_item_wanted(tmp_path: Path) -> None:
    async with wired("http://127.0.0.1:9/v2", tmp_path) as parts:
        job = await parts.job()
        with pytest.raises(RunPausedError):
            await job.settle()
        assert (job.item.state, job.item.attempts) == (State.WANTED, 0)


async def test_a_body_over_ten_mib_is_refused_here(tmp_path: Path) -> None:
    job, jobs = await settled(tmp_path, prompt="x" * (10 * 1024 * 1024 + 1))
    assert job.item.failure is not None
    assert (job.item.state, job.item.failure.code, jobs) == (State.FAILED, FailureCode.BODY_TOO_LARGE, [])


async def test_nothing_is_sent_once_a_stop_is_requested(tmp_path: Path) -> None:
    stop = Stop()
    stop.request()
    async with open_sandbox() as sandbox, wired(sandbox, tmp_path) as parts:
        job = await parts.job(stop=stop)
        with pytest.raises(StoppedError):
            await job.settle()
        assert (job.item.state, bought(sandbox)) == (State.WANTED, [])


# -- results that come damaged --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["wrong_base64", "cut_body"])
async def test_a_result_damaged_on_its_way_is_fetched_again_and_not_bought_again(tmp_path: Path, name: str) -> None:
    job, jobs = await settled(tmp_path, fault(name, operation="result", count=1))
    assert (job.item.state, len(jobs)) == (State.STORED, 1)
    assert jobs[0]["polls"] >= 2


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("wrong_base64", FailureCode.CORRUPT_IMAGE),
        ("cut_image", FailureCode.CORRUPT_IMAGE),
        ("not_an_image", FailureCode.NOT_AN_IMAGE),
    ],
)
async def test_a_result_that_is_damaged_at_its_source_fails_the_item(
    tmp_path: Path, name: str, code: FailureCode
) -> None:
    job, jobs = await settled(tmp_path, fault(name))
    assert job.item.failure is not None
    assert (job.item.state, job.item.failure.kind, job.item.failure.code) == (State.FAILED, FailureClass.ITEM, code)
    assert len(jobs) == 1


# -- jobs that fail -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("no_images", FailureCode.NO_IMAGE),
        ("no_output", FailureCode.NO_OUTPUT),
        ("failed:exception", FailureCode.WORKER_ERROR),
        ("failed:details", FailureCode.WORKER_ERROR),
        ("failed:missing_model", FailureCode.MODEL_NOT_FOUND),
        ("failed:upload", FailureCode.INPUT_REFUSED),
    ],
)
async def test_a_job_that_fails_by_its_own_fault_is_bought_once(tmp_path: Path, name: str, code: FailureCode) -> None:
    job, jobs = await settled(tmp_path, fault(name))
    assert job.item.failure is not None
    assert (job.item.state, job.item.failure.kind, job.item.failure.code) == (State.FAILED, FailureClass.ITEM, code)
    assert len(jobs) == 1
    assert ledger_rows(tmp_path, "SELECT outcome FROM job") == [(code,)]


def runs_of(jobs: list[dict[str, Any]]) -> int:
    """How often the sandbox has run, and billed, these jobs."""
    return sum(1 + sold["retries"] for sold in jobs)


@pytest.mark.parametrize("path", ["/dev/zero", "huge.png", "."])
async def test_an_input_picture_that_cannot_be_one_is_never_read(
    tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(1 << 40)
    async with open_sandbox() as sandbox, wired(sandbox, tmp_path / "out") as parts:
        job = await parts.job()
        with pytest.raises(InputError, match="is no file of at most 67,108,864 bytes"):
            job._input_picture("init_image", path)


INFRASTRUCTURE = [
    ("failed:out_of_memory", FailureCode.OUT_OF_MEMORY),
    ("failed:worker_not_ready", FailureCode.WORKER_NOT_READY),
    ("failed:platform", FailureCode.PLATFORM_FAILED),
    ("timed_out", FailureCode.TIMED_OUT),
]


@pytest.mark.parametrize(("name", "code"), [*INFRASTRUCTURE, ("lost_job", FailureCode.LOST)])
async def test_what_the_platform_fails_is_bought_again(tmp_path: Path, name: str, code: FailureCode) -> None:
    job, jobs = await settled(tmp_path, fault(name, count=1))
    assert (job.item.state, job.item.attempts, runs_of(jobs)) == (State.STORED, 2, 2)
    assert {sold["input_digest"] for sold in jobs} == {jobs[0]["input_digest"]}  # the very same image, seed and all
    assert len(jobs) == (2 if code is FailureCode.LOST else 1), "what the platform still has is not sent a second time"
    assert ledger_rows(tmp_path, "SELECT outcome FROM job ORDER BY id") == [(code,), ("completed",)]


@pytest.mark.parametrize(("name", "code"), INFRASTRUCTURE)
async def test_the_same_fault_of_the_platform_twice_is_the_item_s(tmp_path: Path, name: str, code: FailureCode) -> None:
    job, jobs = await settled(tmp_path, fault(name))
    assert job.item.failure is not None
    assert (job.item.state, job.item.failure.code, runs_of(jobs)) == (State.FAILED, code, 2)


async def test_a_retry_that_nobody_answers_is_not_bought_anew_because_its_id_tells(tmp_path: Path) -> None:
    faults = fault("failed:platform", nth=[1]), fault("reset_after_accept", operation="retry")
    job, jobs = await settled(tmp_path, *faults)
    assert (job.item.state, job.item.attempts, len(jobs), runs_of(jobs)) == (State.STORED, 2, 1, 2)
    assert steps(tmp_path) == ["wanted", "submitting", "accepted", "submitting", "accepted", "storing", "stored"]


async def test_a_retry_that_never_arrived_is_no_try_and_its_failure_no_second_one(tmp_path: Path) -> None:
    faults = fault("failed:platform", nth=[1]), fault("reset_before_accept", operation="retry")
    job, jobs = await settled(tmp_path, *faults)
    assert (job.item.state, job.item.attempts, len(jobs), runs_of(jobs)) == (State.STORED, 2, 2, 2)
    bought_again = ["accepted", "wanted", "submitting", "accepted"]
    assert steps(tmp_path) == ["wanted", "submitting", "accepted", "submitting", *bought_again, "storing", "stored"]
    assert ledger_rows(tmp_path, "SELECT outcome FROM job ORDER BY id") == [("platform_failed",), ("completed",)]


async def test_the_same_failure_of_a_run_that_no_retry_s_reply_told_of_is_the_second(tmp_path: Path) -> None:
    job, jobs = await settled(tmp_path, fault("failed:platform"), fault("reset_after_accept", operation="retry"))
    assert (job.item.state, job.item.attempts, len(jobs), runs_of(jobs)) == (State.FAILED, 2, 1, 2)


@pytest.mark.parametrize("is_sent", [True, False])
async def test_a_retry_in_the_air_when_the_process_died_is_polled_by_its_id(tmp_path: Path, is_sent: bool) -> None:
    """Its own process was the only one to know whether it was sent: the job runs again, or another in its place."""
    async with open_sandbox(fault("failed:platform", nth=[1])) as sandbox:
        async with wired(sandbox, tmp_path) as parts:
            job = await parts.job()
            await job._buy()
            ending = await parts.endpoint.wait_output(str(job.item.job_id))
            assert isinstance(ending, Failed)
            terms = await parts.bench.allowance.reserve(job.want.spec, Stop())
            await parts.ledger.record_retry_intent(job.item, terms, ending.failure, ending.timing)
            if is_sent:
                await parts.endpoint.retry(str(job.item.job_id), Told(), Stop())
        async with wired(sandbox, tmp_path) as parts:
            await parts.run([])
        assert states(tmp_path) == {"stored": 1}
        assert (runs_of(bought(sandbox)), len(bought(sandbox))) == (2, 1 if is_sent else 2)


class Told:
    """A journal that somebody else keeps."""

    async def intend(self) -> None:
        """It has been written down."""

    async def learn(self, outcome: Any) -> None:
        """Nobody lived to write it down."""


async def test_a_job_that_is_lost_twice_is_lost(tmp_path: Path) -> None:
    job, jobs = await settled(tmp_path, fault("lost_job"))
    assert job.item.failure is not None
    assert (job.item.state, job.item.failure.code, runs_of(jobs)) == (State.LOST, FailureCode.LOST, 2)


async def test_an_image_is_bought_max_attempts_times_at_the_most(tmp_path: Path) -> None:
    faults = [fault(name, nth=[number]) for number, (name, _) in enumerate(INFRASTRUCTURE, start=1)]
    job, jobs = await settled(tmp_path, *faults)
    assert (job.item.state, job.item.attempts, runs_of(jobs)) == (State.GIVEN_UP, 3, 3)


async def test_a_job_cancelled_at_the_platform_is_cancelled(tmp_path: Path) -> None:
    async with open_sandbox(fault("stuck"), speed=1) as sandbox, wired(sandbox, tmp_path) as parts:
        job = await parts.job()

        def cancel_it() -> None:
            for sold in sandbox.books.jobs.values():
                sandbox.books.cancel(sandbox.exchange.now(), sold)

        parts.clock.on_pause = cancel_it
        await job.settle()
        assert job.item.state is State.CANCELLED


async def test_a_job_that_cannot_be_cancelled_says_what_it_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with open_sandbox() as sandbox, wired(sandbox, tmp_path) as parts:
        await died_while(parts, State.ACCEPTED, tmp_path)
        ((item, want),) = await parts.ledger.items_out(parts.batch, 1)
        await eventually(lambda: bought(sandbox)[0]["state"] == "COMPLETED")
        await Job(parts.bench, item, want, Stop()).cancel()
    assert f"job {item.job_id} was not cancelled (COMPLETED): it is waited for" in caplog.text


# -- dying between any two steps ------------------------------------------------------------------------------------


async def died_while(parts: Wired, state: State, tmp_path: Path) -> None:
    """Bring the one item to this state, as a process that is killed there leaves it."""
    job = await parts.job()
    terms = await parts.bench.allowance.reserve(job.want.spec, Stop())
    await parts.ledger.record_intent(job.item, terms)
    if state is State.SUBMITTING:
        return
    outcome = await parts.endpoint.submit(await job._body(terms), _Told(job), Stop())
    assert type(outcome).__name__ == "Accepted"
    if state is State.ACCEPTED:
        return
    with parts.endpoint.place() as place:
        pictures = await job._result(parts.endpoint, place)
    assert isinstance(pictures, tuple)
    prepared = await parts.bench.store.prepare(pictures, job._names(len(pictures)), job._hex8)
    await parts.ledger.record_storing(job.item, prepared, Timing())
    if state is State.STORED:  # the files are there, and the ledger does not know it
        await parts.bench.store.write(prepared, pictures)


class _Told:
    """A job whose intent is durable already."""

    def __init__(self, job: Job) -> None:
        self._job = job

    async def intend(self) -> None:
        """It is."""

    async def learn(self, outcome: Any) -> None:
        await self._job.learn(outcome)


@pytest.mark.parametrize("state", [State.ACCEPTED, State.STORING, State.STORED])
async def test_a_job_goes_on_from_wherever_an_earlier_process_died(tmp_path: Path, state: State) -> None:
    async with open_sandbox() as sandbox:
        async with wired(sandbox, tmp_path) as parts:
            await died_while(parts, state, tmp_path)
        async with wired(sandbox, tmp_path) as parts:
            job = await parts.job()
            await job.settle()
        assert job.item.state is State.STORED
        assert len(bought(sandbox)) == 1
        assert bought(sandbox)[0]["fetches"] == {State.ACCEPTED: 1, State.STORING: 2, State.STORED: 1}[state]
    assert len(files(tmp_path, "*.png")) == 1
    assert not files(tmp_path, "*.part")


async def test_a_submission_in_the_air_when_the_process_died_is_held(tmp_path: Path) -> None:
    async with open_sandbox() as sandbox:
        async with wired(sandbox, tmp_path) as parts:
            await died_while(parts, State.SUBMITTING, tmp_path)
        async with wired(sandbox, tmp_path) as parts:
            job = await parts.job()
            await job.settle()
        assert (job.item.state, bought(sandbox)) == (State.UNKNOWN, [])


async def test_half_a_file_left_by_a_dead_process_is_swept_away(tmp_path: Path) -> None:
    async with open_sandbox() as sandbox:
        async with wired(sandbox, tmp_path) as parts:
            await died_while(parts, State.STORING, tmp_path)
        ((path,),) = ledger_rows(tmp_path, "SELECT path FROM image")
        half = (tmp_path / path).with_name(f".{Path(path).name}.part")
        half.parent.mkdir(parents=True)
        half.write_bytes(b"half a pict")
        async with wired(sandbox, tmp_path) as parts:
            await (await parts.job()).settle()
    assert not half.exists()
    assert states(tmp_path) == {"stored": 1}


async def test_a_file_of_somebody_else_s_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "1_ink_intensity").mkdir()
    mine = tmp_path / "1_ink_intensity" / "portrait.png"
    mine.write_bytes(b"mine")
    job, _ = await settled(tmp_path, style_id="1", filename="portrait.png")
    assert mine.read_bytes() == b"mine"
    assert job.item.pictures[0].path == f"1_ink_intensity/portrait_{job.item.request_id.removeprefix('img_')}.png"


async def test_a_disk_that_refuses_leaves_the_job_to_be_fetched_again(tmp_path: Path) -> None:
    (tmp_path / "no_style").write_text("a file where the folder should be")
    async with open_sandbox() as sandbox, wired(sandbox, tmp_path) as parts:
        job = await parts.job()
        with pytest.raises(StoreError):
            await job.settle()
        assert job.item.state is State.STORING
        (tmp_path / "no_style").unlink()
        await job.settle()
        assert (job.item.state, len(bought(sandbox))) == (State.STORED, 1)
