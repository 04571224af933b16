"""The sandbox as a server: both sides, the books over HTTP, and what starts and stops them."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
import anyio
from aiohttp import web
from pydantic import TypeAdapter, ValidationError

from asyncgen._version import __version__
from asyncgen.sandbox.books import Books, Job
from asyncgen.sandbox.client_side import ClientSide
from asyncgen.sandbox.exchange import Exchange, Matter, open_exchange
from asyncgen.sandbox.faults import FaultRule, Faults
from asyncgen.sandbox.platform_side import PlatformSide
from asyncgen.sandbox.settings import SandboxSettings
from asyncgen.sandbox.webhooks import announce, is_announced

#: Every reply carries it, so that a client can tell sandbox pictures from real ones.
HEADER: Final = "X-Asyncgen-Sandbox"
_LARGEST_BODY_BYTES: Final = 64 * 1024 * 1024
_RULES: Final = TypeAdapter(tuple[FaultRule, ...])


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A running sandbox. `base_url` is what RUNPOD_ENDPOINT_BASE_URL wants; `url` is the server's root."""

    url: str
    exchange: Exchange

    @property
    def base_url(self) -> str:
        """The root of the queue API, without an endpoint id."""
        return f"{self.url}/v2"

    @property
    def books(self) -> Books:
        """Every job that was accepted and what happened to it."""
        return self.exchange.books

    @property
    def faults(self) -> Faults:
        """The fault rules in force; `add` and `clear` them at any time."""
        return self.exchange.faults


@asynccontextmanager
async def serve(settings: SandboxSettings, now: Callable[[], float] | None = None) -> AsyncIterator[Sandbox]:
    """Run a sandbox until the block ends. `now` replaces the clock of the books (seconds, never going back).

    Raises OSError where the address cannot be had, and InputError for a faults or models file that cannot be read.
    """
    failure: Exception | None = None
    async with (
        open_exchange(settings, now or _unix_clock()) as exchange,
        aiohttp.ClientSession() as session,
        anyio.create_task_group() as tasks,
    ):

        def on_finished(job: Job, matter: Matter) -> None:
            if matter.webhook is not None and is_announced(job):
                tasks.start_soon(announce, exchange, session, job, matter.webhook)

        exchange.listeners.append(on_finished)
        try:
            async with _listening(settings, _application(exchange)) as url:
                tasks.start_soon(exchange.keep_time)
                try:
                    yield Sandbox(url, exchange)
                finally:
                    tasks.cancel_scope.cancel()
        except Exception as error:  # the port's, or the caller's own: it must not come back wrapped in the group's
            failure = error
    if failure is not None:
        raise failure


async def run_forever(settings: SandboxSettings, announce_line: Callable[[str], None]) -> None:
    """Serve until cancelled; says where through `announce_line`, one line at a time."""
    async with serve(settings) as sandbox:
        announce_line(f"The RunPod API is at {sandbox.base_url}")
        announce_line(f"export RUNPOD_ENDPOINT_BASE_URL={sandbox.base_url}")
        kind = "real workers (none yet)" if settings.real_workers else f"{settings.workers} simulated workers"
        announce_line(f"{kind}; books at {sandbox.url}/sandbox/books")
        await anyio.sleep_forever()


def _unix_clock() -> Callable[[], float]:
    """Unix time that does not jump when the machine's clock is set."""
    started = time.time() - time.monotonic()
    return lambda: started + time.monotonic()


@asynccontextmanager
async def _listening(settings: SandboxSettings, application: web.Application) -> AsyncIterator[str]:
    # Requests in progress when the sandbox stops (long polls above all) are cut off at once.
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.05)
    await runner.setup()
    try:
        await web.TCPSite(runner, settings.host, settings.port, backlog=1024).start()
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        yield f"http://{host}:{runner.addresses[0][1]}"
    finally:
        with anyio.CancelScope(shield=True):
            await runner.cleanup()


def _application(exchange: Exchange) -> web.Application:
    application = web.Application(client_max_size=_LARGEST_BODY_BYTES)
    application.on_response_prepare.append(_mark)
    application.add_routes(ClientSide(exchange).routes())
    application.add_routes(PlatformSide(exchange).routes())
    application.add_routes(_Inspection(exchange).routes())
    return application


async def _mark(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers[HEADER] = "1"


class _Inspection:
    """The sandbox's own routes: what a test or a curious reader asks of it. No keys and no pictures in any answer."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/", self._about),
            web.get("/sandbox/books", self._books),
            web.get("/sandbox/faults", self._list_faults),
            web.post("/sandbox/faults", self._add_faults),
            web.delete("/sandbox/faults", self._clear_faults),
        ]

    async def _about(self, _request: web.Request) -> web.Response:
        return web.json_response({"asyncgen_sandbox": __version__, "api": "/v2", "books": "/sandbox/books"})

    async def _books(self, request: web.Request) -> web.Response:
        """Totals, and unless `?summary=1` the jobs from the `?since=`-th on; `next` is the next call's `since`."""
        exchange = self._exchange
        exchange.tick()
        said: dict[str, Any] = {"totals": exchange.books.totals(), "next": len(exchange.books.jobs)}
        if request.query.get("summary") != "1":
            since = request.query.get("since", "0")
            said["jobs"] = list(exchange.books.entries(int(since) if since.isdecimal() else 0))
        return web.json_response(said)

    async def _list_faults(self, _request: web.Request) -> web.Response:
        return web.json_response(self._exchange.faults.listed())

    async def _add_faults(self, request: web.Request) -> web.Response:
        """Put one rule or a list of rules in force."""
        try:
            said = json.loads(await request.read())
            self._exchange.faults.add(_RULES.validate_python(said if isinstance(said, list) else [said]))
        except ValidationError as error:
            return web.json_response({"error": str(error)}, status=400)
        except ValueError as error:
            return web.json_response({"error": f"the body is not JSON: {error}"}, status=400)
        return await self._list_faults(request)

    async def _clear_faults(self, request: web.Request) -> web.Response:
        self._exchange.faults.clear()
        return await self._list_faults(request)
