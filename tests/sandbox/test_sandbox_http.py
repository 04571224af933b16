"""The client side over real HTTP on loopback, and the sandbox's own routes."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest
from aiohttp import web
from PIL import Image
from sandbox_client import Client, Clock, OpenClient, job_input

from asyncgen.sandbox import HEADER, FaultRule, SandboxSettings, serve

pytestmark = pytest.mark.anyio

#: Workers that start and finish at once, so that no test waits.
QUICK: dict[str, Any] = {"cold_start_seconds": 0, "execution": "fixed:0.001"}


def picture(reply: dict[str, Any], index: int = 0) -> Image.Image:
    image = Image.open(io.BytesIO(base64.b64decode(reply["output"]["images"][index]["data"], validate=True)))
    image.load()
    return image


async def finished(client: Client, job_id: str) -> dict[str, Any]:
    """The final record of a job, long polls doing the waiting."""
    while True:
        _, reply = await client.get(f"status-sync/{job_id}?wait=5000")
        if reply["status"] not in {"IN_QUEUE", "IN_PROGRESS"}:
            return dict(reply)


# -- the way of a job ----------------------------------------------------------------------------------------------


async def test_a_job_goes_from_queue_to_a_picture_of_the_size_asked_for(open_client: OpenClient, clock: Clock) -> None:
    async with open_client(clock, cold_start_seconds=10, execution="fixed:4") as client:
        job_id = await client.run()
        assert await client.get(f"status/{job_id}") == (200, {"id": job_id, "status": "IN_QUEUE"})
        clock.advance(10)
        running = {"delayTime": 10_000, "id": job_id, "status": "IN_PROGRESS", "workerId": "sandbox-1"}
        assert await client.get(f"status/{job_id}") == (200, running)
        clock.advance(4)
        _, reply = await client.get(f"status/{job_id}")
        image = reply["output"].pop("images")
        assert reply == running | {"status": "COMPLETED", "executionTime": 4000, "output": {}}
        assert (image[0]["filename"], image[0]["type"]) == ("ComfyUI_00001_.png", "base64")
        assert picture({"output": {"images": image}}).size == (64, 64)
        clock.advance(1800)
        assert (await client.get(f"status/{job_id}"))[0] == 404


async def test_two_prompts_give_two_pictures_and_the_same_prompt_and_seed_the_same(open_client: OpenClient) -> None:
    async with open_client(**QUICK) as client:
        replies = [await finished(client, await client.run(prompt)) for prompt in ("a fox", "a fox", "a boat")]
    data = [reply["output"]["images"][0]["data"] for reply in replies]
    assert data[0] == data[1] != data[2]


async def test_runsync_holds_its_reply_until_the_picture_is_there(open_client: OpenClient) -> None:
    async with open_client(**QUICK) as client:
        status, reply = await client.post("runsync", {"input": job_input()})
        assert (status, reply["status"], picture(reply).size) == (200, "COMPLETED", (64, 64))
        assert reply["id"].startswith("sync-")


async def test_runsync_answers_with_the_state_when_its_wait_is_over(open_client: OpenClient) -> None:
    async with open_client(cold_start_seconds=3600) as client:
        status, reply = await client.post("runsync?wait=1", {"input": job_input()})  # raised to the least, 1000 ms
        assert (status, reply["status"]) == (200, "IN_QUEUE")


async def test_a_graph_that_comfyui_refuses_fails_with_the_workers_text(open_client: OpenClient) -> None:
    async with open_client(**QUICK) as client:
        _, reply = await client.post(
            "runsync", {"input": {"workflow": {"1": {"class_type": "NoSuchNode", "inputs": {}}}}}
        )
        assert reply["status"] == "FAILED"
        assert reply["error"].startswith("Cannot execute because node NoSuchNode does not exist.")
        _, reply = await client.post("runsync", {"input": {"prompt": "no workflow"}})
        assert reply["error"] == "Missing 'workflow' parameter"
        broken = job_input() | {"images": [{"name": "x.png", "image": "abc"}]}
        _, reply = await client.post("runsync", {"input": broken})
        assert reply["error"] == "Failed to upload one or more input images"
        assert "x.png" in reply["output"]["details"][0]


async def test_models_that_the_file_does_not_list_are_refused(open_client: OpenClient, tmp_path: Path) -> None:
    models = tmp_path / "models.json"
    models.write_text(json.dumps({"diffusion_models": ["other.safetensors"], "unet": ["other.safetensors"]}))
    async with open_client(**QUICK, models_file=models) as client:
        _, reply = await client.post("runsync", {"input": job_input()})
        assert "flux1-dev-fp8.safetensors" in reply["error"]


async def test_an_empty_input_is_accepted_and_fails_after_42_seconds(open_client: OpenClient, clock: Clock) -> None:
    async with open_client(clock, cold_start_seconds=0) as client:
        _, reply = await client.post("run", {"input": {}})
        clock.advance(42)
        _, record = await client.get(f"status/{reply['id']}")
        assert (record["status"], record["executionTime"], record["retries"]) == ("FAILED", 42_000, 1)


async def test_a_result_over_the_limit_is_dropped_and_the_job_still_completed(open_client: OpenClient) -> None:
    async with open_client(**QUICK, result_limit_bytes=1000) as client:
        reply = await finished(client, await client.run())
        assert reply["status"] == "COMPLETED"
        assert "output" not in reply


async def test_more_pixels_than_a_gpu_holds_run_out_of_memory(open_client: OpenClient) -> None:
    async with open_client(**QUICK) as client:
        _, reply = await client.post("runsync", {"input": job_input(side=8192)})
        assert json.loads(reply["error"])["error_message"] == "CUDA out of memory"


async def test_cancel_retry_and_purge_answer_as_documented(open_client: OpenClient, clock: Clock) -> None:
    failing = FaultRule(fault="failed:platform", nth=(1,))
    async with open_client(clock, workers=1, cold_start_seconds=0, execution="fixed:4", faults=(failing,)) as client:
        failed, cancelled, purged = [await client.run() for _ in range(3)]
        assert await client.post(f"cancel/{cancelled}") == (200, {"id": cancelled, "status": "CANCELLED"})
        assert await client.post("purge-queue") == (200, {"removed": 1, "status": "completed"})
        assert (await client.get(f"status/{purged}"))[1]["status"] == "CANCELLED"
        clock.advance(4)
        assert (await client.get(f"status/{failed}"))[1]["retries"] == 1
        assert await client.post(f"retry/{failed}") == (200, {"id": failed, "status": "IN_QUEUE"})
        clock.advance(4)
        assert (await client.get(f"status/{failed}"))[1]["status"] == "COMPLETED"
        assert (await client.post(f"retry/{failed}"))[0] == 400


async def test_policy_is_obeyed_and_checked(open_client: OpenClient, clock: Clock) -> None:
    async with open_client(clock, workers=1, cold_start_seconds=0, execution="fixed:100") as client:
        slow = await client.run(policy={"executionTimeout": 5000})
        expiring = await client.run(policy={"ttl": 10_000})
        clock.advance(5)
        assert (await client.get(f"status/{slow}"))[1]["status"] == "TIMED_OUT"
        clock.advance(5)
        assert (await client.get(f"status/{expiring}"))[0] == 404
        status, reply = await client.post("run", {"input": job_input(), "policy": {"ttl": 9999}})
        assert (status, "ttl" in reply["error"]) == (400, True)


async def test_status_with_ttl_sets_the_time_to_live(open_client: OpenClient, clock: Clock) -> None:
    async with open_client(clock) as client:
        job_id = await client.run()
        await client.get(f"status/{job_id}?ttl=3000")
        clock.advance(3)
        assert (await client.get(f"status/{job_id}"))[0] == 404


# -- who may ask, and how much --------------------------------------------------------------------------------------


async def test_a_request_without_a_key_or_with_another_is_refused(open_client: OpenClient) -> None:
    async with open_client(api_key="a-key") as client:
        assert (await client.get("health"))[0] == 200
        for header in ("", "Bearer ", "Bearer another", "a-key"):
            status, body, reply = await client.call("GET", "health", headers={"Authorization": header})
            assert (status, body) == (401, {"error": "unauthorized"})
            assert reply.headers[HEADER] == "1"


async def test_any_key_will_do_but_none_at_all(open_client: OpenClient) -> None:
    async with open_client() as client:
        for header, status in (("Bearer x", 200), ("Bearer", 401), ("", 401)):
            assert (await client.call("GET", "health", headers={"Authorization": header}))[0] == status


async def test_endpoints_can_be_unknown_load_balancing_empty_or_throttled(open_client: OpenClient) -> None:
    ids = {
        "endpoints": ("lb", "none", "busy"),
        "load_balancing": ("lb",),
        "zero_workers": ("none",),
        "throttled": ("busy",),
    }
    async with open_client(**ids, workers=3) as client:
        assert (await client.get("health"))[0] == 404
        client.endpoint = "lb"
        status, reply = await client.post("run", {"input": job_input()})
        assert (status, reply["error"]) == (400, "/run is not allowed for LB API, use load balancer endpoint")
        client.endpoint = "none"
        assert set((await client.get("health"))[1]["workers"].values()) == {0}
        client.endpoint = "busy"
        workers = (await client.get("health"))[1]["workers"]
        assert (workers["throttled"], workers["idle"]) == (3, 0)


@pytest.mark.parametrize(
    ("path", "size", "words"), [("run", 10 * 1024 * 1024, "10MiB"), ("runsync", 20_000_000, "20MB")]
)
async def test_a_body_over_the_limit_is_refused(open_client: OpenClient, path: str, size: int, words: str) -> None:
    async with open_client() as client:
        status, body, _ = await client.call("POST", path, data=io.BytesIO(b" " * (size + 1)))
        assert (status, body) == (400, {"error": f"exceeded max body size of {words}"})
        assert (await client.books())["totals"].get("accepted") is None


@pytest.mark.parametrize("body", [b"", b"not json", b"[]", b'{"input": []}', b'{"input": {}, "webhook": "ftp://x"}'])
async def test_a_body_that_is_no_job_is_refused(open_client: OpenClient, body: bytes) -> None:
    async with open_client() as client:
        status, reply, _ = await client.call("POST", "run", data=body)
        assert (status, list(reply)) == (400, ["error"])


async def test_requests_over_the_rate_limit_get_429_until_the_window_has_passed(
    open_client: OpenClient, clock: Clock
) -> None:
    async with open_client(clock, retry_after_seconds=2) as client:
        assert [(await client.post("purge-queue"))[0] for _ in range(3)] == [200, 200, 429]
        _, _, reply = await client.call("POST", "purge-queue")
        assert reply.headers["Retry-After"] == "2"
        clock.advance(10)
        assert (await client.post("purge-queue"))[0] == 200
        assert (await client.books("?summary=1"))["totals"]["answers.429"] == 2


# -- books ------------------------------------------------------------------------------------------------------------


async def test_the_books_tell_of_each_job_what_was_asked_and_how_often(open_client: OpenClient, clock: Clock) -> None:
    async with open_client(clock, cold_start_seconds=0, execution="fixed:4") as client:
        first, second = await client.run("a fox"), await client.run("a boat")
        await client.get(f"status/{first}")
        clock.advance(4)
        await client.get(f"status/{first}")
        await client.post(f"cancel/{second}")
        books = await client.books()
        told = [(job["id"], job["prompt"], job["seed"], job["state"]) for job in books["jobs"]]
        assert told == [(first, "a fox", 7, "COMPLETED"), (second, "a boat", 7, "COMPLETED")]
        assert [(job["polls"], job["fetches"], job["cancels"]) for job in books["jobs"]] == [(2, 1, 0), (0, 0, 1)]
        assert books["jobs"][0]["input_digest"] != books["jobs"][1]["input_digest"]
        assert (books["totals"]["accepted"], books["totals"]["requests.status"], books["totals"]["fetched"]) == (
            2,
            2,
            1,
        )
        assert [job["id"] for job in (await client.books("?since=1"))["jobs"]] == [second]
        assert (await client.books("?summary=1")).keys() == {"totals", "next"}


async def test_a_result_let_go_of_is_painted_again_the_same(open_client: OpenClient, clock: Clock) -> None:
    async with open_client(clock, **QUICK, result_memory_bytes=0) as client:
        job_id = await client.run()
        clock.advance(1)
        first, second = [await client.get(f"status/{job_id}") for _ in range(2)]
        assert first == second
        assert client.sandbox.exchange.results.size_bytes == 0


async def test_memory_of_results_is_let_go_after_a_while(open_client: OpenClient, clock: Clock) -> None:
    async with open_client(clock, **QUICK, result_keep_seconds=60) as client:
        job_id = await client.run()
        clock.advance(1)
        await client.get(f"status/{job_id}")
        assert client.sandbox.exchange.results.size_bytes > 0
        clock.advance(61)
        await client.get("health")
        assert client.sandbox.exchange.results.size_bytes == 0


async def test_nothing_of_a_result_is_left_when_retention_ends(open_client: OpenClient, clock: Clock) -> None:
    async with open_client(clock, **QUICK, result_keep_seconds=10_000) as client:
        job_id = await client.run()
        clock.advance(1)
        await client.get(f"status/{job_id}")
        clock.advance(1800)
        await client.get("health")
        assert (client.sandbox.exchange.results.size_bytes, client.sandbox.exchange.matters) == (0, {})


async def test_a_real_result_is_kept_on_disk_until_retention_ends(open_client: OpenClient, clock: Clock) -> None:
    async with open_client(clock, real_workers=True) as client:
        _, queued = await client.post("run", {"input": {"a": 1}})
        await client.get("job-take/w1")
        assert await client.post(f"job-done/w1/{queued['id']}&isStream=false", {"output": [1, "zwei"]}) == (200, {})
        assert (await client.get(f"status/{queued['id']}"))[1]["output"] == [1, "zwei"]
        spool = client.sandbox.exchange.spool
        assert [file.name for file in spool.iterdir()] == [queued["id"]]
        clock.advance(1800)
        assert (await client.get(f"status/{queued['id']}"))[0] == 404
        assert list(spool.iterdir()) == []
    assert not spool.exists()


async def test_stamped_pictures_are_distinct_valid_and_as_heavy_as_asked(open_client: OpenClient) -> None:
    async with open_client(**QUICK, pictures="stamped", picture_bytes=200_000) as client:
        replies = [await finished(client, await client.run(prompt)) for prompt in ("a fox", "a boat")]
    data = [base64.b64decode(reply["output"]["images"][0]["data"]) for reply in replies]
    assert data[0] != data[1]
    assert [200_000 <= len(one) <= 200_011 for one in data] == [True, True]
    assert [picture(reply).size for reply in replies] == [(64, 64), (64, 64)]


# -- faults -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "status", "content_type"),
    [
        ("429", 429, "application/json"),
        ("unauthorized", 401, "application/json"),
        ("no_credit", 402, "application/json"),
        ("500_html", 500, "text/html"),
        ("502", 502, "text/html"),
        ("503", 503, "text/html"),
        ("524", 524, "text/html"),
    ],
)
async def test_a_scripted_answer_replaces_the_operation(
    open_client: OpenClient, fault: str, status: int, content_type: str
) -> None:
    rule = FaultRule(fault=fault, nth=(1,), retry_after_seconds=3)
    async with open_client(faults=(rule,)) as client:
        got, _, reply = await client.call("POST", "run", json={"input": job_input()})
        assert (got, reply.content_type, reply.headers["Retry-After"]) == (status, content_type, "3")
        assert reply.headers[HEADER] == "1"
        assert (await client.books())["jobs"] == []
        await client.run()


@pytest.mark.parametrize(("fault", "accepted"), [("reset_before_accept", 0), ("reset_after_accept", 1)])
async def test_a_reset_hides_whether_the_job_was_accepted(open_client: OpenClient, fault: str, accepted: int) -> None:
    async with open_client(faults=(FaultRule(fault=fault, nth=(1,)),)) as client:
        with pytest.raises(aiohttp.ClientConnectionError):
            await client.post("run", {"input": job_input()})
        assert len((await client.books())["jobs"]) == accepted
        await client.run()


async def test_a_cut_body_ends_in_the_middle_and_is_not_counted_as_fetched(open_client: OpenClient) -> None:
    async with open_client(**QUICK, faults=(FaultRule(fault="cut_body", nth=(1,)),)) as client:
        job_id = await client.run()
        with pytest.raises(aiohttp.ClientPayloadError):
            await finished(client, job_id)
        assert (await client.books())["jobs"][0]["fetches"] == 0
        await finished(client, job_id)
        assert (await client.books())["jobs"][0]["fetches"] == 1


async def test_a_slow_body_arrives_whole(open_client: OpenClient) -> None:
    async with open_client(**QUICK, faults=(FaultRule(fault="slow_body", seconds=0.2),)) as client:
        started = asyncio.get_running_loop().time()
        assert picture(await finished(client, await client.run())).size == (64, 64)
        assert asyncio.get_running_loop().time() - started > 0.19  # timers may be early by a little each


async def test_wrong_base64_spoils_one_reply_or_the_job_for_good(open_client: OpenClient) -> None:
    once = FaultRule(fault="wrong_base64", operation="result", nth=(1,))
    for_good = FaultRule(fault="wrong_base64", prompt_contains="boat")
    async with open_client(**QUICK, faults=(once, for_good)) as client:
        fox, boat = await client.run("a fox"), await client.run("a boat")
        fetched = [await finished(client, job_id) for job_id in (fox, fox, boat, boat)]
        assert [job["fetches"] for job in (await client.books())["jobs"]] == [1, 2]
    assert ["!!!!" in reply["output"]["images"][0]["data"] for reply in fetched] == [True, False, True, True]
    assert picture(fetched[1]).size == (64, 64)


async def test_faults_of_the_picture(open_client: OpenClient) -> None:
    names = ("cut_image", "not_an_image", "black_image", "grey_image", "no_images", "no_output")
    rules = tuple(FaultRule(fault=name, prompt_contains=name) for name in names)
    async with open_client(**QUICK, faults=rules) as client:
        cut, no_image, black, grey, none, no_output = [await finished(client, await client.run(name)) for name in names]
    with pytest.raises(OSError, match="truncated"):
        picture(cut)
    with pytest.raises(OSError, match="cannot identify"):
        picture(no_image)
    assert picture(black).getextrema() == ((0, 0),) * 3
    assert picture(grey).getextrema() == ((127, 127),) * 3
    assert none["output"] == {"status": "success_no_images", "images": []}
    assert "output" not in no_output
    assert {reply["status"] for reply in (cut, no_image, black, grey, none, no_output)} == {"COMPLETED"}


@pytest.mark.parametrize(
    ("fault", "status", "text"),
    [
        ("failed:exception", "FAILED", "error_traceback"),
        ("out_of_memory", "FAILED", "CUDA out of memory"),
        ("worker_not_ready", "FAILED", "not reachable after multiple retries"),
        ("missing_model", "FAILED", "value_not_in_list"),
        ("failed:platform", "FAILED", "job timed out after 1 retries"),
        ("failed:details", "FAILED", "Job processing failed"),
        ("failed:upload", "FAILED", "Failed to upload"),
        ("timed_out", "TIMED_OUT", "timed out"),
    ],
)
async def test_each_kind_of_failure_arrives_as_it_does_in_the_wild(
    open_client: OpenClient, fault: str, status: str, text: str
) -> None:
    async with open_client(**QUICK, faults=(FaultRule(fault=fault),)) as client:
        reply = await finished(client, await client.run())
        assert reply["status"] == status
        assert text in reply["error"]
        assert ("output" in reply) is (fault in {"failed:details", "failed:upload"})


async def test_a_lost_job_is_paid_for_and_never_found(open_client: OpenClient) -> None:
    async with open_client(faults=(FaultRule(fault="lost_job"),)) as client:
        job_id = await client.run()
        assert (await client.get(f"status/{job_id}"))[0] == 404
        assert (await client.books())["totals"]["accepted"] == 1


async def test_a_new_job_can_be_unknown_for_its_first_polls(open_client: OpenClient) -> None:
    async with open_client(faults=(FaultRule(fault="not_found_at_first", times=2),)) as client:
        job_id = await client.run()
        assert [(await client.get(f"status/{job_id}"))[0] for _ in range(3)] == [404, 404, 200]


async def test_a_stuck_job_runs_into_its_execution_timeout(open_client: OpenClient, clock: Clock) -> None:
    async with open_client(clock, cold_start_seconds=0, faults=(FaultRule(fault="stuck"),)) as client:
        job_id = await client.run()
        clock.advance(599)
        assert (await client.get(f"status/{job_id}"))[1]["status"] == "IN_PROGRESS"
        clock.advance(1)
        assert (await client.get(f"status/{job_id}"))[1]["status"] == "TIMED_OUT"


async def test_faults_can_be_scripted_over_http(open_client: OpenClient) -> None:
    async with open_client() as client:
        url = f"{client.sandbox.url}/sandbox/faults"
        async with client.session.post(url, json={"fault": "503", "operation": "health"}) as reply:
            assert (reply.status, [rule["fault"] for rule in await reply.json()]) == (200, ["503"])
        assert (await client.get("health"))[0] == 503
        async with client.session.post(url, json=[{"fault": "meteor"}]) as reply:
            assert (reply.status, "no such fault" in (await reply.json())["error"]) == (400, True)
        async with client.session.delete(url) as reply:
            assert await reply.json() == []
        assert (await client.get("health"))[0] == 200


# -- webhooks, start and stop -----------------------------------------------------------------------------------------


async def test_a_webhook_gets_the_record_and_is_tried_three_times(open_client: OpenClient) -> None:
    received: list[dict[str, Any]] = []
    heard = anyio.Event()

    async def receive(request: web.Request) -> web.Response:
        received.append(await request.json())
        if len(received) == 3:
            heard.set()
        return web.Response(status=200 if len(received) == 3 else 500)

    application = web.Application(client_max_size=2**26)
    application.add_routes([web.post("/hook", receive)])
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with open_client(**QUICK, webhook_retry_seconds=0) as client:
            job_id = await client.run(webhook=f"http://127.0.0.1:{runner.addresses[0][1]}/hook")
            with anyio.fail_after(10):
                await heard.wait()
            assert received[0] == received[2] == await finished(client, job_id)
    finally:
        await runner.cleanup()


async def test_a_sandbox_stops_at_once_though_requests_wait() -> None:
    async with (
        aiohttp.ClientSession(headers={"Authorization": "Bearer k"}) as session,
        anyio.create_task_group() as tasks,
    ):

        async def wait_for_job(url: str) -> None:
            with pytest.raises(aiohttp.ClientConnectionError):
                await session.post(url, json={"input": job_input()})

        async with serve(SandboxSettings(cold_start_seconds=3600)) as sandbox:
            tasks.start_soon(wait_for_job, f"{sandbox.base_url}/ep/runsync")
            await sandbox.exchange.arrival("ep").wait()
            started = anyio.current_time()
        assert anyio.current_time() - started < 2


async def test_an_error_inside_the_block_comes_out_as_it_is() -> None:
    with pytest.raises(KeyError):
        async with serve(SandboxSettings()):
            raise KeyError


def test_settings_name_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="execution time 'fast' cannot be read"):
        SandboxSettings(execution="fast")
