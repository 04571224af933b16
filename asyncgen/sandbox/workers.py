"""Simulated workers: how long a job takes, what it answers, and the pictures, painted when first asked for.

A picture can be painted again from its wish, so finished results need not stay in memory: the store keeps the latest
and drops what has not been used for a while, or what does not fit.
"""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from io import BytesIO
from statistics import NormalDist
from typing import Any, Final

import pybase64
from PIL import Image, ImageOps

from asyncgen.sandbox.books import JobState, Plan
from asyncgen.sandbox.comfy import Models, Wish, check_input, read_wish, upload_errors
from asyncgen.sandbox.faults import FAILURES
from asyncgen.sandbox.painter import flat, paint, stamp_copy

#: What a refused job costs: validation ends after some ten milliseconds (`reference/response-shapes.json`).
REFUSAL_SECONDS: Final = 0.03
#: More pixels than this in one job, and a GPU of 24 GB is out of memory; it also keeps the sandbox's own memory small.
MAX_PIXELS: Final = 4096 * 4096
_SHARE: Final = re.compile(r"(?P<mean>\d*\.?\d+)\s*(?:±|\+-|\+/-)\s*(?P<percent>\d*\.?\d+)\s*%")


def parse_execution(text: str) -> Callable[[float], float]:
    """A distribution of execution times: a function from a draw in [0, 1) to seconds.

    `4.7` or `fixed:4.7` always; `4.7±10%` (or `4.7+-10%`) evenly between; `lognormal:4.7,0.3` by median and sigma.
    Raises ValueError naming the text.
    """
    kind, _, parameters = text.strip().rpartition(":")
    try:
        if kind == "lognormal":
            median, sigma = (float(part) for part in parameters.split(","))
            return lambda u: float(
                median * 2.718281828459045 ** NormalDist(0, sigma).inv_cdf(min(max(u, 1e-9), 1 - 1e-9))
            )
        if kind in {"", "uniform"} and (share := _SHARE.fullmatch(parameters.strip())):
            mean, spread = float(share["mean"]), float(share["percent"]) / 100
            return lambda u: mean * (1 + spread * (2 * u - 1))
        if kind in {"", "fixed"}:
            seconds = float(parameters)
            return lambda _u: seconds
    except ValueError:
        pass
    raise ValueError(f"execution time {text!r} cannot be read: write 4.7±10%, fixed:4.7 or lognormal:4.7,0.3")


@dataclass(frozen=True, slots=True)
class Task:
    """What a simulated worker makes of one job input: a wish to paint, or the answer it fails with."""

    wish: Wish | None
    error: str | None = None
    error_output: Any = None


def understand(job_input: Mapping[str, Any], models: Models | None) -> Task:
    """Check a job input as worker-comfyui does and read what it wants painted. Blocking."""
    error = check_input(job_input, models)
    if error is not None:
        refused = upload_errors(job_input) if error.startswith("Failed to upload") else []
        return Task(None, error, {"details": refused} if refused else None)
    wish = read_wish(job_input["workflow"], _sizes_of_pictures(job_input))
    if wish.width * wish.height * wish.batch_size > MAX_PIXELS:
        return Task(wish, FAILURES["out_of_memory"].error)
    return Task(wish)


def _sizes_of_pictures(job_input: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Width and height of the pictures sent along, as `LoadImage` turns them; one that is no picture is left out."""
    sizes = {}
    for picture in job_input.get("images") or []:
        with suppress(OSError, ValueError):
            data = pybase64.b64decode(picture["image"].rpartition(",")[2])
            with Image.open(BytesIO(data)) as image:
                sizes[str(picture["name"])] = ImageOps.exif_transpose(image).size
    return sizes


def plan_for(task: Task, execution_seconds: float) -> Plan:
    """How long a simulated worker is busy with the task and how it ends."""
    if task.error is None:
        return Plan(execution_seconds)
    return Plan(REFUSAL_SECONDS if task.wish is None else execution_seconds, JobState.FAILED, task.error)


@dataclass(frozen=True, slots=True)
class Style:
    """How pictures are made: `stamped` marks copies of one base per size; `size_bytes` pads those."""

    stamped: bool = False
    size_bytes: int | None = None


_FLAT: Final = {"black_image": (0, 0, 0), "grey_image": (127, 127, 127)}


def make_output(wish: Wish, style: Style, fault: str | None) -> list[bytes]:
    """The `output` of a finished job as pieces of JSON text, in the shape of worker-comfyui 5. Blocking, and busy.

    In pieces because each copy of some megabytes costs a millisecond: the reply joins them once.
    """
    if fault == "no_images":
        return [b'{"status":"success_no_images","images":[]}']
    pieces = [b'{"images":[']
    for index in range(wish.batch_size):
        data = pybase64.b64encode(_spoilt(_picture(wish, index, style, fault), fault))
        head = f'{"," if index else ""}{{"filename":"ComfyUI_{index + 1:05}_.png","type":"base64","data":"'
        pieces += [head.encode(), _insert_wrong(data) if fault == "wrong_base64" else data, b'"}']
    return [*pieces, b"]}"]


def _picture(wish: Wish, index: int, style: Style, fault: str | None) -> bytes:
    if fault in _FLAT:
        return flat(wish, _FLAT[fault])
    if fault == "same_image":  # a graph in which the seed leads nowhere
        wish = replace(wish, seed=0)
    if style.stamped:
        return stamp_copy(_base(wish.width, wish.height), wish, index, style.size_bytes)
    return paint(wish, index)


def _spoilt(picture: bytes, fault: str | None) -> bytes:
    if fault == "cut_image":
        return picture[: len(picture) // 2]
    return b"this is not a picture" if fault == "not_an_image" else picture


def spoil_base64(output: bytes) -> bytes:
    """The same text with four signs inside its first picture that base64 does not have."""
    head, mark, data = output.partition(b'"data":"')
    return head + mark + _insert_wrong(data) if mark else output


def _insert_wrong(data: bytes) -> bytes:
    return data[:20] + b"!!!!" + data[20:]


@lru_cache(maxsize=16)
def _base(width: int, height: int) -> bytes:
    return paint(Wish("a stamped picture of the sandbox", 0, width, height, 1, 1, ()))


@dataclass(slots=True)
class _Kept:
    body: bytes
    used_at: float


@dataclass(slots=True)
class Results:
    """Replies ready to be sent, by job id; least recently used first. Built in `pool`, at most once at a time each.

    A result leaves when it has not been used for `keep_seconds`, or when all together pass `memory_bytes`.
    """

    pool: ThreadPoolExecutor
    keep_seconds: float
    memory_bytes: int
    size_bytes: int = 0
    _kept: OrderedDict[str, _Kept] = field(default_factory=OrderedDict)
    _building: dict[str, asyncio.Future[bytes]] = field(default_factory=dict)

    async def get(
        self, now: float, job_id: str, build: Callable[[], bytes], wait_seconds: float | None
    ) -> bytes | None:
        """The reply, built by `build` in a thread where it is not kept; None where that takes longer than the wait."""
        self.sweep(now)
        if kept := self._kept.get(job_id):
            kept.used_at = now
            self._kept.move_to_end(job_id)
            return kept.body
        building = self._building.get(job_id)
        if building is None:
            building = self._building[job_id] = asyncio.get_running_loop().run_in_executor(self.pool, build)
        await asyncio.wait({building}, timeout=wait_seconds)
        if not building.done():
            return None
        if self._building.pop(job_id, None) is building:
            self._keep(now, job_id, building.result())
        return building.result()

    def drop(self, job_id: str) -> None:
        """Let the memory of a result go; it is built again if it is asked for again."""
        self._building.pop(job_id, None)
        if kept := self._kept.pop(job_id, None):
            self.size_bytes -= len(kept.body)

    def sweep(self, now: float) -> None:
        """Drop what has not been used for a while and what is over the limit of memory."""
        while self._kept:
            job_id, oldest = next(iter(self._kept.items()))
            if oldest.used_at + self.keep_seconds > now and self.size_bytes <= self.memory_bytes:
                return
            self.drop(job_id)

    def next_sweep_at(self) -> float | None:
        """When the next result has been unused for long enough."""
        return next((kept.used_at + self.keep_seconds for kept in self._kept.values()), None)

    def _keep(self, now: float, job_id: str, body: bytes) -> None:
        self._kept[job_id] = _Kept(body, now)
        self.size_bytes += len(body)
        self.sweep(now)
