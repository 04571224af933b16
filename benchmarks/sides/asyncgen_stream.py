"""asyncgen by its public call: ledger on, files fsynced, each picture hashed and checked, manifest written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import aclosing
from typing import Final

from asyncgen import stream_many
from benchmarks.workload import Workload, picture_size

#: asyncgen keeps to the platform's rate limits by itself; here there are none, and its peers know of none.
_NO_RATE_LIMIT: Final = 1_000_000
BATCH: Final = "benchmark"


async def fetch(workload: Workload) -> None:
    """Its defaults but for the polling interval and the rate limits. Raises RuntimeError for an image not made."""
    width, height = picture_size(workload.picture_bytes)
    results = stream_many(
        prompts_of(workload),
        batch=BATCH,
        concurrency=workload.concurrency,
        endpoint_base_url=workload.base_url,
        endpoint=workload.endpoint,
        api_key=workload.api_key,
        output_root=workload.folder,
        polling_interval_seconds=workload.polling_interval_seconds,
        run_rate=_NO_RATE_LIMIT,
        status_rate=_NO_RATE_LIMIT,
        save_to_style=workload.keeps_files,
        width=width,
        height=height,
    )
    made = 0
    async with aclosing(results):
        async for result in results:
            if result.failure is not None:
                raise RuntimeError(f"image {result.index} was not made: {result.failure}")
            made += not result.kept
    if made != workload.jobs:
        raise RuntimeError(f"{made} of {workload.jobs} images were made")


def prompts_of(workload: Workload) -> Iterator[str]:
    """Those of the file, one by one, or made up."""
    if workload.prompts_file is None:
        yield from workload.prompts()
        return
    with workload.prompts_file.open(encoding="utf-8") as file:
        for line in file:
            yield line.rstrip("\n")
