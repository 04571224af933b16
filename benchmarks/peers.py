"""What asyncgen is measured against: the loop a user would write, and the least that any client must do.

Both do whole jobs on the same sandbox (`POST /run`, then `GET /status` until the reply carries the picture) with the
graph that asyncgen sends, at the same polling interval.
"""

from __future__ import annotations

import asyncio
import base64
import copy
import json
import os
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
import pybase64

from asyncgen.assets import read_json
from benchmarks.measuring import Workload

_PROMPT_NODE, _SEED_NODE = "6", "25"

# -- the loop a user would write -----------------------------------------------------------------------------------


def plain_aiohttp(workload: Workload) -> None:
    """aiohttp with its defaults, `json` and `base64` of the standard library, files written in the loop.

    No ledger, no checks, no retries, no fsync: a crash or a fault loses what was paid for.
    """
    asyncio.run(_plain_aiohttp(workload))


async def _plain_aiohttp(workload: Workload) -> None:
    template, limit = _template(), asyncio.Semaphore(workload.concurrency)

    async def one(number: int, prompt: str) -> None:
        async with limit:
            await _plain_job(session, workload, _graph(template, prompt, number), number)

    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {workload.api_key}"}) as session:
        await asyncio.gather(*(one(number, prompt) for number, prompt in enumerate(workload.prompts())))


async def _plain_job(session: aiohttp.ClientSession, workload: Workload, graph: dict[str, Any], number: int) -> None:
    endpoint = f"{workload.base_url}/{workload.endpoint}"
    async with session.post(f"{endpoint}/run", json={"input": {"workflow": graph}}) as reply:
        job_id = (await reply.json())["id"]
    while True:
        await asyncio.sleep(workload.polling_interval_seconds)
        async with session.get(f"{endpoint}/status/{job_id}") as reply:
            record = await reply.json()
        if record["status"] == "COMPLETED":
            break
        if record["status"] == "FAILED":
            raise RuntimeError(f"job {job_id} failed: {record.get('error')}")
    picture = base64.b64decode(record["output"]["images"][0]["data"])
    (workload.folder / f"{number:05}.png").write_bytes(picture)


def _template() -> dict[str, Any]:
    template: dict[str, Any] = read_json("workflows", "normal_image_v4_workflow.json")
    return template


def _graph(template: dict[str, Any], prompt: str, seed: int) -> dict[str, Any]:
    graph = copy.deepcopy(template)
    graph[_PROMPT_NODE]["inputs"]["text"] = prompt
    graph[_SEED_NODE]["inputs"]["noise_seed"] = seed
    return graph


# -- the physical limit --------------------------------------------------------------------------------------------

#: Bodies in memory at once: few, and used again and again, so that they stay in the processor's cache.
_BUFFERS: Final = 8
_BUFFER_BYTES: Final = 4 << 20
_HEAD_END: Final = b"\r\n\r\n"
_PICTURE_START: Final = b'"data":"'


def raw_sockets(workload: Workload) -> None:
    """Blocking sockets, SIMD base64 straight from the receive buffer, write, fsync: nothing parsed, hashed, checked."""
    buffers: SimpleQueue[bytearray] = SimpleQueue()
    for _ in range(_BUFFERS):
        buffers.put(bytearray(_BUFFER_BYTES))
    template = json.dumps({"input": {"workflow": _graph(_template(), "PROMPT", 0)}})
    bodies = [template.replace("PROMPT", prompt).encode() for prompt in workload.prompts()]
    lanes = min(workload.concurrency, workload.jobs)
    with ThreadPoolExecutor(lanes) as threads:
        done = [
            threads.submit(_raw_lane, workload, bodies, range(n, workload.jobs, lanes), buffers) for n in range(lanes)
        ]
    for lane in done:
        lane.result()


def _raw_lane(workload: Workload, bodies: list[bytes], numbers: range, buffers: SimpleQueue[bytearray]) -> None:
    """One connection and one job at a time on it."""
    address = urlsplit(workload.base_url)
    assert address.hostname is not None
    with socket.create_connection((address.hostname, address.port or 80)) as connection:
        for number in numbers:
            _raw_job(connection, workload, bodies[number], workload.folder / f"{number:05}.png", buffers)


def _raw_job(
    connection: socket.socket, workload: Workload, body: bytes, path: Path, buffers: SimpleQueue[bytearray]
) -> None:
    with _borrowed(buffers) as buffer:
        start, end = _exchange(connection, _request(workload, "POST", "run", body), buffer)
        job_id = json.loads(buffer[start:end])["id"]
    ask, stored = _request(workload, "GET", f"status/{job_id}"), False
    while not stored:
        time.sleep(workload.polling_interval_seconds)
        with _borrowed(buffers) as buffer:
            stored = _store(buffer, *_exchange(connection, ask, buffer), path)


@contextmanager
def _borrowed(buffers: SimpleQueue[bytearray]) -> Iterator[bytearray]:
    """A buffer that goes back whatever happens: the other lanes wait for it."""
    buffer = buffers.get()
    try:
        yield buffer
    finally:
        buffers.put(buffer)


def _request(workload: Workload, method: str, operation: str, body: bytes = b"") -> bytes:
    address = urlsplit(workload.base_url)
    head = (
        f"{method} {address.path}/{workload.endpoint}/{operation} HTTP/1.1\r\nHost: {address.netloc}\r\n"
        f"Authorization: Bearer {workload.api_key}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _exchange(connection: socket.socket, request: bytes, buffer: bytearray) -> tuple[int, int]:
    """Send a request; where in `buffer` the body of its reply begins and ends."""
    connection.sendall(request)
    view, received = memoryview(buffer), 0
    while (head_end := buffer.find(_HEAD_END, 0, received)) < 0:
        received += _counted(connection.recv_into(view[received:]))
    head = buffer[:head_end].lower()
    start = head_end + len(_HEAD_END)
    end = start + int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
    while received < end:
        received += _counted(connection.recv_into(view[received:end], flags=socket.MSG_WAITALL))
    return start, end


def _counted(received_bytes: int) -> int:
    if received_bytes == 0:
        raise ConnectionError("the server closed the connection before its reply was whole")
    return received_bytes


def _store(buffer: bytearray, start: int, end: int, path: Path) -> bool:
    """Decode the picture between `start` and `end` and put it on disk; False where the job has not ended yet."""
    mark = buffer.find(_PICTURE_START, start, end)
    if mark < 0:
        if buffer.find(b'"FAILED"', start, end) >= 0:
            raise RuntimeError(f"the job of {path.name} failed: {buffer[start:end].decode()}")
        return False
    first = mark + len(_PICTURE_START)
    picture = pybase64.b64decode(memoryview(buffer)[first : buffer.index(b'"', first, end)], validate=True)
    with path.open("xb", buffering=0) as file:
        file.write(picture)
        os.fsync(file.fileno())
    return True
