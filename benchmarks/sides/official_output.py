"""The official async client, waiting by `output(timeout)`: asks every second, and fetches a finished result twice."""

from __future__ import annotations

from typing import Any, Final

from benchmarks.sides.official_client import fetch_by
from benchmarks.workload import Workload

_TIMEOUT_SECONDS: Final = 600  # the default, 0, gives up at once


async def fetch(workload: Workload) -> None:
    """As `official_client.fetch` otherwise."""
    await fetch_by(_output, workload)


async def _output(job: Any) -> Any:
    return await job.output(timeout=_TIMEOUT_SECONDS)
