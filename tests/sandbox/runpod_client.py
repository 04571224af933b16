"""Run by the tests in a process of its own: the official `runpod` package as client, sync and async.

Arguments: the endpoint id and the file of a job input. The sandbox's address comes from RUNPOD_ENDPOINT_BASE_URL.
Prints one JSON object of what the package returned.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import aiohttp
import runpod
from runpod import AsyncioEndpoint, Endpoint


def with_sync_client(endpoint_id: str, job_input: dict[str, Any]) -> dict[str, Any]:
    endpoint = Endpoint(endpoint_id)
    job = endpoint.run({"input": job_input})
    output = job.output(timeout=30)
    return {
        "health": endpoint.health(),
        "output": output,
        "status": job.status(),
        "run_sync": endpoint.run_sync({"input": job_input}, timeout=30),
        "cancel": endpoint.run({"input": job_input}).cancel(),
        "purge": endpoint.purge_queue(),
        "stream": list(job.stream()),
    }


async def with_async_client(endpoint_id: str, job_input: dict[str, Any]) -> dict[str, Any]:
    async with aiohttp.ClientSession() as session:
        endpoint = AsyncioEndpoint(endpoint_id, session)
        job = await endpoint.run(job_input)
        output = await job.output(timeout=30)
        cancelled = await (await endpoint.run(job_input)).cancel()
        return {"health": await endpoint.health(), "output": output, "status": await job.status(), "cancel": cancelled}


def main() -> None:
    endpoint_id, path = sys.argv[1:]
    runpod.api_key = "a-key"
    job_input = json.loads(Path(path).read_text())
    replies = {
        "sync": with_sync_client(endpoint_id, job_input),
        "async": asyncio.run(with_async_client(endpoint_id, job_input)),
    }
    sys.stdout.write(json.dumps(replies))


main()
