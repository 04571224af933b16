"""The loop a user would write: aiohttp with its defaults, `json` and `base64` of the standard library.

Files are written in the loop. No ledger, no checks, no retries, no fsync: a crash or a fault loses what was paid for.
"""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import aiohttp

from benchmarks.sides import graphs
from benchmarks.workload import Workload


async def fetch(workload: Workload) -> None:
    """Ask at once, then every `polling_interval_seconds`."""
    template, limit = graphs.template(), asyncio.Semaphore(workload.concurrency)

    async def one(number: int, prompt: str) -> None:
        async with limit:
            await _job(session, workload, graphs.filled(template, prompt, number), number)

    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {workload.api_key}"}) as session:
        await asyncio.gather(*(one(number, prompt) for number, prompt in enumerate(workload.prompts())))


async def _job(session: aiohttp.ClientSession, workload: Workload, graph: dict[str, Any], number: int) -> None:
    endpoint = f"{workload.base_url}/{workload.endpoint}"
    async with session.post(f"{endpoint}/run", json={"input": {"workflow": graph}}) as reply:
        job_id = (await reply.json())["id"]
    while True:
        async with session.get(f"{endpoint}/status/{job_id}") as reply:
            record = await reply.json()
        if record["status"] == "COMPLETED":
            break
        if record["status"] == "FAILED":
            raise RuntimeError(f"job {job_id} failed: {record.get('error')}")
        await asyncio.sleep(workload.polling_interval_seconds)
    picture = base64.b64decode(record["output"]["images"][0]["data"])
    if workload.keeps_files:
        (workload.folder / f"{number:07}.png").write_bytes(picture)
