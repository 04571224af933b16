"""The live half of the benchmark `polling`: asyncgen and plain loops on a real sandbox, counted in its books.

Everything takes a quarter of the simulated times, pauses too, so that it is over in two minutes. Lag counts from
the end in the sandbox's books to the reply that was read by a plain loop, to the stored file with asyncgen.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from contextlib import ExitStack, aclosing
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any, Final

import aiohttp

from asyncgen import stream_many
from benchmarks.report import RawSample, machine
from benchmarks.servers import API_KEY, SandboxServer, varied_sandbox
from benchmarks.sides import graphs
from benchmarks.varied_sandbox import KINDS

LIVE_KINDS: Final = tuple(KINDS)
#: Side to the shortest and the longest pause, for jobs of 12 s.
_PAUSES: Final = {"fixed 1 s": (1.0, 1.0), "0.5 s growing to 5 s": (0.5, 5.0), "asyncgen": (1.0, 5.0)}
_ASYNCGEN: Final = "asyncgen"
_SIDE_PIXELS: Final = 64
_SECONDS_THERE: Final = 12.0


@dataclass(frozen=True, slots=True)
class Task:
    """What each side has to do: images, workers with four jobs out each, and a job's mean time in seconds."""

    images: int
    workers: int
    seconds: float

    def pauses(self, side: str) -> tuple[float, float]:
        """The shortest and the longest, in the proportion that they have to 12 s."""
        shortest, longest = _PAUSES[side]
        return shortest * self.seconds / _SECONDS_THERE, longest * self.seconds / _SECONDS_THERE


_FULL, _QUICK = Task(400, 10, 3.0), Task(24, 3, 1.2)


@dataclass(frozen=True, slots=True)
class LiveRun:
    """One side on one kind of execution times."""

    kind: str
    side: str
    task: Task
    calls: int
    lags: tuple[float, ...]
    faults: tuple[str, ...]

    @property
    def calls_per_image(self) -> float:
        """By the sandbox's books."""
        return self.calls / self.task.images

    @property
    def lag_percent(self) -> float:
        """Of the mean execution time."""
        return 100 * fmean(self.lags or (0.0,)) / self.task.seconds

    @property
    def terms(self) -> str:
        """How it was run, for a note."""
        task = self.task
        return f"live: {task.images} images of {task.seconds:g} s, {task.workers} workers, 4 out each; {machine()}"

    def sample(self) -> RawSample:
        """The raw figures."""
        figures = {"calls_per_image": self.calls_per_image, "lag_percent": self.lag_percent, "lags": list(self.lags)}
        return {"side": self.side, "where": "live sandbox", "scenario": self.kind, **figures}


async def live_runs(quick: bool) -> list[LiveRun]:
    """Every side on every kind, all at once: three sandboxes, in each an endpoint per side."""
    task = _QUICK if quick else _FULL
    with ExitStack() as servers:
        sandboxes = {kind: servers.enter_context(varied_sandbox(kind, task.seconds, task.workers)) for kind in KINDS}
        runs = [_run(sandboxes[kind], kind, side, task) for kind in KINDS for side in _PAUSES]
        return list(await asyncio.gather(*runs))


async def _run(sandbox: SandboxServer, kind: str, side: str, task: Task) -> LiveRun:
    noticed: dict[int, float] = {}
    finished = _asyncgen(sandbox, task) if side == _ASYNCGEN else _plain(sandbox, side, task)
    async with aclosing(finished) as seeds:
        async for seed in seeds:
            noticed[seed] = time.time()
    jobs = [job for job in await asyncio.to_thread(sandbox.jobs) if job["endpoint"] == _endpoint(side)]
    lags = tuple(noticed[job["seed"]] - job["finished_at"] for job in jobs if job["seed"] in noticed)
    missing = task.images - len(lags)
    faults = (f"{side}, {kind}: {missing} images were not noticed",) if missing else ()
    return LiveRun(kind, side, task, sum(job["polls"] for job in jobs), lags, faults)


def _endpoint(side: str) -> str:
    return "-".join(word for word in side.replace(".", "").split() if word.isalnum())


async def _asyncgen(sandbox: SandboxServer, task: Task) -> AsyncGenerator[int, None]:
    """The seeds of images as they land."""
    shortest, longest = task.pauses(_ASYNCGEN)
    with TemporaryDirectory(prefix="asyncgen-benchmark-") as folder:
        results = stream_many(
            _prompts(task),
            concurrency=4 * task.workers,
            endpoint_base_url=sandbox.base_url,
            endpoint=_endpoint(_ASYNCGEN),
            api_key=API_KEY,
            output_root=Path(folder),
            polling_interval_seconds=shortest,
            polling_interval_max_seconds=longest,
            width=_SIDE_PIXELS,
            height=_SIDE_PIXELS,
        )
        async with aclosing(results):
            async for result in results:
                if result.ok:
                    yield result.seed


async def _plain(sandbox: SandboxServer, side: str, task: Task) -> AsyncGenerator[int, None]:
    """The seeds of jobs as the loop that one would write notices their ends."""
    limit, template = asyncio.Semaphore(4 * task.workers), _small(graphs.template())
    headers = {"Authorization": f"Bearer {API_KEY}"}
    async with aiohttp.ClientSession(f"{sandbox.base_url}/", headers=headers) as session:

        async def one(seed: int, prompt: str) -> int:
            async with limit:
                await _plain_job(session, _endpoint(side), graphs.filled(template, prompt, seed), task.pauses(side))
                return seed

        for job in asyncio.as_completed([one(seed, prompt) for seed, prompt in enumerate(_prompts(task))]):
            yield await job


async def _plain_job(
    session: aiohttp.ClientSession, endpoint: str, graph: dict[str, Any], pauses: tuple[float, float]
) -> None:
    async with session.post(f"{endpoint}/run", data=json.dumps({"input": {"workflow": graph}})) as reply:
        job_id = (await reply.json())["id"]
    pause, longest = pauses
    while True:
        await asyncio.sleep(pause)
        async with session.get(f"{endpoint}/status/{job_id}") as reply:
            if (await reply.json())["status"] == "COMPLETED":
                return
        pause = min(longest, 1.5 * pause)


def _small(graph: dict[str, Any]) -> dict[str, Any]:
    """The graph of a picture that costs the sandbox next to nothing."""
    for node in graph.values():
        if isinstance(node["inputs"].get("width"), int):
            node["inputs"] |= {"width": _SIDE_PIXELS, "height": _SIDE_PIXELS}
    return graph


def _prompts(task: Task) -> list[str]:
    return [f"a lighthouse, study {number}" for number in range(task.images)]
