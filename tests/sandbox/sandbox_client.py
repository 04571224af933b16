"""What the sandbox's tests share: a small job, a clock that stands until it is moved, and a client."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from asyncgen.sandbox import Sandbox

_GRAPHS = Path(__file__).parent.parent / "graphs"


@dataclass
class Clock:
    """A clock for the books that stands still until a test moves it."""

    seconds: float = 1_000_000.0

    def __call__(self) -> float:
        return self.seconds

    def advance(self, seconds: float) -> None:
        self.seconds += seconds


def job_input(prompt: str = "a lighthouse in the fog", seed: int = 7, side: int = 64) -> dict[str, Any]:
    """A real FLUX graph with a prompt, a seed and a small square size put in."""
    graph = json.loads((_GRAPHS / "text2img_core_only.json").read_text())
    for node in graph.values():
        inputs = node["inputs"]
        inputs |= {name: value for name, value in (("width", side), ("height", side)) if name in inputs}
        inputs |= {"text": prompt} if "text" in inputs else {}
        inputs |= {"noise_seed": seed} if "noise_seed" in inputs else {}
    return {"workflow": graph}


@dataclass
class Client:
    """One endpoint of a running sandbox, spoken to over HTTP."""

    sandbox: Sandbox
    session: aiohttp.ClientSession
    endpoint: str = "ep"

    async def call(self, method: str, path: str, **options: Any) -> tuple[int, Any, aiohttp.ClientResponse]:
        """Status, body (parsed where it is JSON) and the reply."""
        url = f"{self.sandbox.base_url}/{self.endpoint}/{path}"
        async with self.session.request(method, url, **options) as reply:
            body = await reply.read()
            parsed = json.loads(body) if reply.content_type == "application/json" else body.decode()
            return reply.status, parsed, reply

    async def post(self, path: str, body: Any = None) -> tuple[int, Any]:
        status, parsed, _ = await self.call("POST", path, json=body)
        return status, parsed

    async def get(self, path: str) -> tuple[int, Any]:
        status, parsed, _ = await self.call("GET", path)
        return status, parsed

    async def run(self, prompt: str = "a lighthouse in the fog", **more: Any) -> str:
        """The id of a new job."""
        status, reply = await self.post("run", {"input": job_input(prompt), **more})
        assert (status, reply["status"]) == (200, "IN_QUEUE"), reply
        return str(reply["id"])

    async def books(self, query: str = "") -> Any:
        async with self.session.get(f"{self.sandbox.url}/sandbox/books{query}") as reply:
            return await reply.json()


OpenClient = Callable[..., AbstractAsyncContextManager[Client]]
