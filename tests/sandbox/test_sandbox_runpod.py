"""The official `runpod` package completes jobs through the sandbox: as client, sync and async, and as worker."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest
from sandbox_client import Client, OpenClient, job_input

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(
        importlib.util.find_spec("runpod") is None, reason="the runpod package is not installed: pip install .[test]"
    ),
]

_HERE = Path(__file__).parent


async def test_the_official_clients_complete_jobs(open_client: OpenClient, tmp_path: Path) -> None:
    path = tmp_path / "input.json"
    path.write_text(json.dumps(job_input()))
    async with open_client(cold_start_seconds=0, execution="fixed:0.05") as client:
        environment = os.environ | {"RUNPOD_ENDPOINT_BASE_URL": client.sandbox.base_url}
        command = [sys.executable, str(_HERE / "runpod_client.py"), client.endpoint, str(path)]
        done = await anyio.run_process(command, env=environment, stderr=None)
        totals = (await client.books())["totals"]
    said = json.loads(done.stdout)
    for kind in ("sync", "async"):
        assert said[kind]["status"] == "COMPLETED"
        assert said[kind]["output"]["images"][0]["type"] == "base64"
        assert said[kind]["cancel"]["status"] == "CANCELLED"
        assert said[kind]["health"]["workers"].keys() >= {"idle", "initializing", "running", "throttled"}
    assert said["sync"]["run_sync"] == said["sync"]["output"]
    assert said["sync"]["purge"]["status"] == "completed"
    assert said["sync"]["stream"] == []
    assert totals["accepted"] == 5


@asynccontextmanager
async def worker(
    client: Client, kind: str, *, tail: str = "", name: str = "real-1"
) -> AsyncIterator[subprocess.Popen[bytes]]:
    """A real worker process. `tail` ends the addresses as RunPod's own do, or not at all."""
    base = f"{client.sandbox.base_url}/{client.endpoint}"
    environment = os.environ | {
        "RUNPOD_WEBHOOK_GET_JOB": f"{base}/job-take/$ID{tail}",
        "RUNPOD_WEBHOOK_POST_OUTPUT": f"{base}/job-done/$RUNPOD_POD_ID/$ID{tail}",
        "RUNPOD_WEBHOOK_POST_STREAM": f"{base}/job-stream/$RUNPOD_POD_ID/$ID{tail}",
        "RUNPOD_WEBHOOK_PING": f"{base}/ping/$RUNPOD_POD_ID",
        "RUNPOD_POD_ID": name,
        "RUNPOD_PING_INTERVAL": "1000",
        "RUNPOD_AI_API_KEY": "a-key",
        "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",
        "RUNPOD_SKIP_GPU_CHECK": "true",
    }
    command = [sys.executable, str(_HERE / "runpod_worker.py"), *kind.split()]
    # A session of its own, so that the worker's heartbeat process ends with it.
    process = subprocess.Popen(  # noqa: ASYNC220 - our own script; started once, returns at once
        command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


async def record(client: Client, said: dict[str, Any], **more: Any) -> dict[str, Any]:
    """What becomes of a job."""
    _, reply = await client.post("runsync?wait=30000", {"input": said, **more})
    assert reply["status"] not in {"IN_QUEUE", "IN_PROGRESS"}, reply
    return dict(reply)


async def test_a_real_worker_completes_and_fails_jobs(open_client: OpenClient) -> None:
    async with open_client(real_workers=True, api_key="a-key") as client, worker(client, "plain"):
        done = await record(client, {"hello": "world"})
        assert (done["output"], done["workerId"]) == ({"said": {"hello": "world"}, "worker": "real-1"}, "real-1")
        assert done["executionTime"] >= 0
        failed = await record(client, {"fail": "no such model"})
        assert (failed["status"], failed["error"], failed["output"]) == (
            "FAILED",
            "no such model",
            {"details": ["why"]},
        )
        raised = await record(client, {"raise": "broken"})
        assert json.loads(raised["error"])["error_message"] == "broken"
        assert (await client.get("health"))[1]["workers"]["idle"] == 1


async def test_a_real_worker_streams_reports_progress_and_is_told_to_stop(open_client: OpenClient) -> None:
    async with open_client(real_workers=True) as client:
        _, queued = await client.post("run", {"input": {"words": "one two three"}})
        async with worker(client, "stream"):
            _, done = await client.get(f"status-sync/{queued['id']}?wait=30000")
            assert (done["status"], done["output"]) == ("COMPLETED", ["one", "two", "three"])
            _, parts = await client.get(f"stream/{queued['id']}")
            assert parts["stream"] == [{"output": "one"}, {"output": "two"}, {"output": "three"}]
            assert (await client.get(f"stream/{queued['id']}"))[1]["stream"] == []


async def test_a_real_worker_takes_batches_and_stops_what_is_cancelled(open_client: OpenClient) -> None:
    # Polls are held for longer than the test has patience: only a signal that comes at once can free the worker.
    async with (
        open_client(real_workers=True, take_wait_seconds=80) as client,
        worker(client, "plain concurrency", tail="?gpu=none"),
    ):
        ids = [(await client.post("run", {"input": {"sleep_seconds": 60, "progress": 5}}))[1]["id"] for _ in range(4)]
        jobs = client.sandbox.books.jobs
        with anyio.fail_after(20):
            # Polled: the worker is another process, and a report of progress wakes nobody here
            while not all(client.sandbox.exchange.matters[job_id].progress for job_id in ids):  # noqa: ASYNC110
                await anyio.sleep(0.05)
        _, running = await client.get(f"status/{ids[0]}")
        assert (running["status"], running["output"]) == ("IN_PROGRESS", 5)
        assert {jobs[job_id].state for job_id in ids} == {"IN_PROGRESS"}
        for job_id in ids:
            await client.post(f"cancel/{job_id}")
        assert (await record(client, {"after": "all"}))["status"] == "COMPLETED"  # its four places are free again


async def test_a_job_of_a_killed_worker_goes_to_the_next_one(open_client: OpenClient) -> None:
    async with open_client(real_workers=True, worker_lost_seconds=2.5) as client:
        async with worker(client, "plain", name="first"):
            _, reply = await client.post("run", {"input": {"sleep_seconds": 60}})
            job = client.sandbox.books.jobs[reply["id"]]
            with anyio.fail_after(20):
                # Polled: the worker is another process, and its taking a job wakes nobody here
                while job.state != "IN_PROGRESS":  # noqa: ASYNC110
                    await anyio.sleep(0.05)
            back_in_queue = client.sandbox.exchange.arrival(client.endpoint)
        with anyio.fail_after(20):
            await back_in_queue.wait()
        assert (job.state, job.restarts) == ("IN_QUEUE", 1)


async def test_a_worker_that_knocks_at_a_simulated_sandbox_is_told_what_to_do(open_client: OpenClient) -> None:
    async with open_client() as client:
        status, reply = await client.get("job-take/w1")
        assert (status, "--real-workers" in reply["error"]) == (409, True)


async def test_no_job_is_given_to_a_worker_that_hung_up_while_it_waited(open_client: OpenClient) -> None:
    async with open_client(real_workers=True) as client:
        with pytest.raises(TimeoutError):
            await client.call("GET", "job-take/gone", timeout=aiohttp.ClientTimeout(total=0.2))
        _, queued = await client.post("run", {"input": {"a": 1}})
        assert await client.get("job-take/here") == (200, {"id": queued["id"], "input": {"a": 1}})
