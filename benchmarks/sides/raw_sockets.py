"""The floor: blocking sockets, SIMD base64 out of a buffer that is used again and again, SHA-256, CRC-32, write, fsync.

Nothing is parsed; no ledger, no checks of what came. One fsync per file and none of the folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import ssl
import time
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import pybase64

from benchmarks.sides import graphs
from benchmarks.workload import Workload

#: Few, so that their buffers stay in the processor's cache; each has its share of the connections.
_LANES: Final = 4
_BUFFER_BYTES: Final = 4 << 20
_HEAD_END: Final = b"\r\n\r\n"
_PICTURE_START: Final = b'"data":"'


@dataclass(frozen=True, slots=True)
class _Job:
    """A job that is out, and the connection that it has for itself."""

    number: int
    connection: socket.socket
    ask: bytes


def fetch(workload: Workload) -> None:
    """Ask at once for all that are out, then every `polling_interval_seconds` for those that are not finished."""
    template = json.dumps({"input": {"workflow": graphs.filled(graphs.template(), "PROMPT", 0)}})
    bodies = [template.replace("PROMPT", prompt).encode() for prompt in workload.prompts()]
    lanes = min(_LANES, workload.concurrency, workload.jobs)
    with ThreadPoolExecutor(lanes) as threads:
        done = [
            threads.submit(_lane, workload, bodies, range(lane, workload.jobs, lanes), workload.concurrency // lanes)
            for lane in range(lanes)
        ]
    for lane_done in done:
        lane_done.result()


def _lane(workload: Workload, bodies: Sequence[bytes], numbers: range, at_once: int) -> None:
    buffer = bytearray(_BUFFER_BYTES)
    with ExitStack() as stack:
        connections = [stack.enter_context(_connected(workload.base_url)) for _ in numbers[:at_once]]
        for first in range(0, len(numbers), at_once):
            out = _submitted(workload, bodies, numbers[first : first + at_once], connections, buffer)
            while out := _unfinished(workload, out, buffer):
                time.sleep(workload.polling_interval_seconds)


def _connected(base_url: str) -> socket.socket:
    address = urlsplit(base_url)
    assert address.hostname is not None
    assert address.port is not None
    connection = socket.create_connection((address.hostname, address.port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if address.scheme == "http":
        return connection
    return ssl.create_default_context().wrap_socket(connection, server_hostname=address.hostname)


def _submitted(
    workload: Workload,
    bodies: Sequence[bytes],
    numbers: Sequence[int],
    connections: Sequence[socket.socket],
    buffer: bytearray,
) -> list[_Job]:
    pairs = list(zip(numbers, connections, strict=False))  # the last are fewer
    for number, connection in pairs:
        connection.sendall(_request(workload, "POST", "run", bodies[number]))
    jobs = []
    for number, connection in pairs:
        start, end = _receive(connection, buffer)
        ask = _request(workload, "GET", f"status/{json.loads(buffer[start:end])['id']}")
        jobs.append(_Job(number, connection, ask))
    return jobs


def _unfinished(workload: Workload, out: Sequence[_Job], buffer: bytearray) -> list[_Job]:
    """Ask for all of them, store what is finished, and give back the others."""
    for job in out:
        job.connection.sendall(job.ask)
    return [job for job in out if not _store(workload, job.number, buffer, *_receive(job.connection, buffer))]


def _request(workload: Workload, method: str, operation: str, body: bytes = b"") -> bytes:
    address = urlsplit(workload.base_url)
    head = (
        f"{method} {address.path}/{workload.endpoint}/{operation} HTTP/1.1\r\nHost: {address.netloc}\r\n"
        f"Authorization: Bearer {workload.api_key}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _receive(connection: socket.socket, buffer: bytearray) -> tuple[int, int]:
    """Where in `buffer` the body of the next reply begins and ends."""
    view, received = memoryview(buffer), 0
    while (head_end := buffer.find(_HEAD_END, 0, received)) < 0:
        received += _counted(connection.recv_into(view[received:]))
    head = buffer[:head_end].lower()
    start = head_end + len(_HEAD_END)
    end = start + int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
    flags = 0 if isinstance(connection, ssl.SSLSocket) else socket.MSG_WAITALL
    while received < end:
        received += _counted(connection.recv_into(view[received:end], flags=flags))
    return start, end


def _counted(received_bytes: int) -> int:
    if received_bytes == 0:
        raise ConnectionError("the server closed the connection before its reply was whole")
    return received_bytes


def _store(workload: Workload, number: int, buffer: bytearray, start: int, end: int) -> bool:
    """Decode, hash and write the picture between `start` and `end`; False where the job has not ended yet."""
    mark = buffer.find(_PICTURE_START, start, end)
    if mark < 0:
        if buffer.find(b'"FAILED"', start, end) >= 0:
            raise RuntimeError(f"job {number} failed: {buffer[start:end].decode()}")
        return False
    first = mark + len(_PICTURE_START)
    picture = pybase64.b64decode(memoryview(buffer)[first : buffer.index(b'"', first, end)], validate=True)
    hashlib.sha256(picture).hexdigest()
    zlib.crc32(picture)
    if workload.keeps_files:
        _write(workload.folder / f"{number:07}.png", picture)
    return True


def _write(path: Path, picture: bytes) -> None:
    with path.open("xb", buffering=0) as file:
        file.write(picture)
        os.fsync(file.fileno())
