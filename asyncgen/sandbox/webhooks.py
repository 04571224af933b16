"""Webhooks: the body of `/status`, posted when a job completes, fails or times out; three tries, then never again."""

from __future__ import annotations

from typing import Final

import aiohttp
import anyio

from asyncgen.sandbox.books import Job, JobState
from asyncgen.sandbox.exchange import Exchange

_TRIES: Final = 3
_TIMEOUT: Final = aiohttp.ClientTimeout(total=30)


def is_announced(job: Job) -> bool:
    """Whether this end of a job is one that webhooks are for."""
    return job.state is not JobState.CANCELLED and not job.gone


async def announce(exchange: Exchange, session: aiohttp.ClientSession, job: Job, url: str) -> None:
    """Post the job's record to `url` until it answers 200, at most three times."""
    body, _ = await exchange.status_body(job, None)
    for attempt in range(_TRIES):
        if attempt:
            await anyio.sleep(exchange.settings.webhook_retry_seconds)
        if await _post(session, url, body):
            exchange.books.counts["webhooks.delivered"] += 1
            return
    exchange.books.counts["webhooks.given_up"] += 1


async def _post(session: aiohttp.ClientSession, url: str, body: bytes) -> bool:
    headers = {"Content-Type": "application/json"}
    try:
        async with session.post(url, data=body, headers=headers, timeout=_TIMEOUT) as reply:
            return reply.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False
