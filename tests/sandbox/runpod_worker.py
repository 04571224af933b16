"""Run by the tests in a process of its own: a worker made with the official `runpod` package.

Argument: `plain` or `stream`. A plain job does what its input says; a streaming one yields the words of its input.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from typing import Any

import runpod


async def plain(job: dict[str, Any]) -> Any:
    said = job["input"]
    if said.get("raise"):
        raise ValueError(said["raise"])
    if said.get("progress"):
        await asyncio.to_thread(runpod.serverless.progress_update, job, said["progress"])
    await asyncio.sleep(said.get("sleep_seconds", 0))
    if said.get("fail"):
        return {"error": said["fail"], "details": ["why"]}
    return {"said": said, "worker": os.environ["RUNPOD_POD_ID"]}


async def stream(job: dict[str, Any]) -> AsyncIterator[str]:
    for word in job["input"]["words"].split():
        yield word


if __name__ == "__main__":
    handler = {"plain": plain, "stream": stream}[sys.argv[1]]
    config: dict[str, Any] = {"handler": handler, "return_aggregate_stream": True}
    if "concurrency" in sys.argv:
        config["concurrency_modifier"] = lambda _current: 4
    runpod.serverless.start(config)
