"""The platform side over HTTP: what a worker started with the official `runpod` package talks to.

The worker builds its addresses from environment variables and appends `&name=value` to them whether or not they have
a query already (runpod 1.12.0), so a last path segment may carry such a tail: it is read as query.
It authenticates with the bare key, without `Bearer`.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any
from urllib.parse import parse_qsl

import anyio
from aiohttp import web

from asyncgen.sandbox.books import Job, JobState
from asyncgen.sandbox.exchange import Exchange, Matter

_Operation = Callable[[web.Request], Awaitable[web.Response]]
_STOPPED = frozenset({JobState.CANCELLED, JobState.TIMED_OUT})


class PlatformSide:
    """Takes, results, partial results and heartbeats of real workers, on one exchange."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._stops: dict[str, list[str]] = {}
        self._stop_arrivals: dict[str, anyio.Event] = {}
        exchange.listeners.append(self._note_stop)

    def routes(self) -> list[web.RouteDef]:
        """All worker routes; `{worker}` and `{job}` may carry a tail of parameters."""
        operations: dict[str, _Operation] = {
            "job-take/{worker}": partial(self._take, False),
            "job-take-batch/{worker}": partial(self._take, True),
            "job-stop/{worker}": self._stop,
            "job-done/{worker}/{job}": self._done,
            "job-stream/{worker}/{job}": self._partial_output,
            "ping/{worker}": self._ping,
        }
        return [
            web.route("*", f"/v2/{{endpoint}}/{path}", partial(self._serve, operation))
            for path, operation in operations.items()
        ]

    async def _serve(self, operation: _Operation, request: web.Request) -> web.Response:
        key = self._exchange.settings.api_key
        said = request.headers.get("Authorization", "").removeprefix("Bearer ").strip()
        if key is not None and not hmac.compare_digest(said.encode(), key.get_secret_value().encode()):
            return web.json_response({"error": "unauthorized"}, status=401)
        if not self._exchange.settings.real_workers:
            return web.json_response({"error": "start the sandbox with --real-workers"}, status=409)
        self._exchange.books.contact(self._exchange.now(), request.match_info["endpoint"], _segment(request, "worker"))
        return await operation(request)

    async def _take(self, in_batch: bool, request: web.Request) -> web.Response:
        wanted = int(_parameters(request).get("batch_size", "1")) if in_batch else 1
        with anyio.move_on_after(self._exchange.settings.take_wait_seconds):
            while _is_listening(request):
                arrival = self._exchange.arrival(request.match_info["endpoint"])
                if jobs := self._taken(request, wanted):
                    return web.json_response(jobs if in_batch else jobs[0])
                await arrival.wait()
        return web.Response(status=204)

    def _taken(self, request: web.Request, wanted: int) -> list[dict[str, Any]]:
        exchange, endpoint_id, worker_id = self._exchange, request.match_info["endpoint"], _segment(request, "worker")
        jobs = [job for _ in range(wanted) if (job := exchange.books.take(exchange.now(), endpoint_id, worker_id))]
        exchange.tick()
        return [{"id": job.id, "input": json.loads(exchange.matters[job.id].job_input)} for job in jobs]

    async def _done(self, request: web.Request) -> web.Response:
        exchange, said = self._exchange, json.loads(await request.read())
        job, matter = self._job(request)
        if job is None or matter is None or job.state is not JobState.IN_PROGRESS:
            exchange.books.counts["deliveries.ignored"] += 1
            return web.json_response({"ignored": True})
        output = json.dumps(said["output"], ensure_ascii=False).encode() if "output" in said else None
        if said.get("status") == JobState.IN_PROGRESS:
            matter.progress = output
            return web.json_response({})
        if output is not None:
            await exchange.keep_output(job, output)
        error = said.get("error")
        error = error if error is None or isinstance(error, str) else json.dumps(error)
        exchange.books.deliver(exchange.now(), _segment(request, "worker"), job, error)
        exchange.tick()
        return web.json_response({})

    async def _partial_output(self, request: web.Request) -> web.Response:
        said = json.loads(await request.read())
        _, matter = self._job(request)
        if matter is not None and "output" in said:
            matter.chunks.append(said["output"])
        return web.json_response({})

    async def _ping(self, request: web.Request) -> web.Response:
        """A heartbeat; a worker that fails its own checks says `status=unhealthy` once before it exits."""
        exchange, endpoint_id = self._exchange, request.match_info["endpoint"]
        worker = exchange.books.contact(exchange.now(), endpoint_id, _segment(request, "worker"))
        worker.unhealthy = _parameters(request).get("status") == "unhealthy"
        return web.json_response({})

    async def _stop(self, request: web.Request) -> web.Response:
        """Held open until a job of this worker is cancelled or runs out of time."""
        worker_id = _segment(request, "worker")
        arrival = self._stop_arrivals.setdefault(worker_id, anyio.Event())
        if worker_id not in self._stops:
            with anyio.move_on_after(self._exchange.settings.take_wait_seconds):
                await arrival.wait()
        return web.json_response({"jobsToStop": self._stops.pop(worker_id, [])})

    def _note_stop(self, job: Job, _matter: Matter) -> None:
        if self._exchange.settings.real_workers and job.state in _STOPPED and job.worker is not None:
            self._stops.setdefault(job.worker.id, []).append(job.id)
            self._stop_arrivals.pop(job.worker.id, anyio.Event()).set()

    def _job(self, request: web.Request) -> tuple[Job | None, Matter | None]:
        exchange, job_id = self._exchange, _segment(request, "job")
        job = exchange.books.find(exchange.now(), request.match_info["endpoint"], job_id)
        return job, exchange.matters.get(job_id)


def _is_listening(request: web.Request) -> bool:
    """Whether the worker is still there: a job must not be given to one that died while it waited."""
    return request.transport is not None and not request.transport.is_closing()


def _segment(request: web.Request, name: str) -> str:
    return request.match_info[name].partition("&")[0]


def _parameters(request: web.Request) -> dict[str, str]:
    tail = request.match_info["worker"].partition("&")[2]
    return dict(parse_qsl(tail)) | dict(request.query)
