"""The official `runpod` package's async client as its documentation shows it: `status()` until COMPLETED, `output()`.

Between two calls it waits 3 s, as there. `base64` of the standard library; no ledger, no checks, no fsync.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable
from typing import Any, Final

import aiohttp
import runpod  # type: ignore[import-untyped]  # it ships no types
from runpod import AsyncioEndpoint

from benchmarks.sides import graphs
from benchmarks.workload import Workload

_PAUSE_SECONDS: Final = 3


async def fetch(workload: Workload) -> None:
    """The base URL is that of RUNPOD_ENDPOINT_BASE_URL, the client's own variable."""
    await fetch_by(_output, workload)


async def fetch_by(output_of: Callable[[Any], Awaitable[Any]], workload: Workload) -> None:
    """All jobs, each waited for by `output_of(job)`."""
    runpod.api_key = workload.api_key
    template, limit = graphs.template(), asyncio.Semaphore(workload.concurrency)

    async def one(number: int, prompt: str) -> None:
        async with limit:
            job = await endpoint.run({"workflow": graphs.filled(template, prompt, number)})
            output = await output_of(job)
            picture = base64.b64decode(output["images"][0]["data"])
            if workload.keeps_files:
                (workload.folder / f"{number:07}.png").write_bytes(picture)

    async with aiohttp.ClientSession() as session:
        endpoint = AsyncioEndpoint(workload.endpoint, session)
        await asyncio.gather(*(one(number, prompt) for number, prompt in enumerate(workload.prompts())))


async def _output(job: Any) -> Any:
    while True:
        status = await job.status()
        if status == "COMPLETED":
            return await job.output()
        if status == "FAILED":
            raise RuntimeError(f"job {job.job_id} failed")
        await asyncio.sleep(_PAUSE_SECONDS)
