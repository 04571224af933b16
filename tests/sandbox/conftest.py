"""Fixtures of the sandbox's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from sandbox_client import Client, Clock, OpenClient

from asyncgen.sandbox import SandboxSettings, serve


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def open_client() -> OpenClient:
    """A function: settings as keywords (`now` for a clock) to a client of a sandbox that runs as long as the block."""

    @asynccontextmanager
    async def open_one(now: Clock | None = None, **settings: Any) -> AsyncIterator[Client]:
        headers = {"Authorization": "Bearer a-key"}
        async with (
            serve(SandboxSettings(**settings), now) as sandbox,
            aiohttp.ClientSession(headers=headers) as session,
        ):
            yield Client(sandbox, session)

    return open_one
