"""`python -m benchmarks.static_server`: the least a server can do for a job, so that a client's own cost can be seen.

`POST /run` answers an id, `GET /status/ID` the finished job with a picture as base64; `GET /books` counts.
Replies are rendered before the first request; only some digits in a text chunk of the picture differ from job to job,
so that no two files are alike. One blocking thread per connection: `sendall` of a body runs without the interpreter.
"""

from __future__ import annotations

import json
import random
import socket
import ssl
import struct
import sys
import threading
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, Final

import pybase64
from PIL import Image

from benchmarks.workload import picture_size

_HEAD_END: Final = b"\r\n\r\n"
_RECEIVE_BYTES: Final = 1 << 16
_STACK_BYTES: Final = 1 << 18
_BACKLOG: Final = 2048
# After a PNG's signature and IHDR, 33 bytes, comes the chunk that marks the job: 30 bytes, both a multiple of three, so
# that in base64 it has whole characters of its own and the rest stays as it is.
_IHDR_END: Final = 33
_MARK_DIGITS: Final = 10
#: More of the body may follow at once: the mark and the rest leave in one packet.
_MORE: Final = getattr(socket, "MSG_MORE", 0)


def noise_png(size_bytes: int) -> bytes:
    """A PNG of about so many bytes, as Pillow writes it, of noise: pictures do not compress much better."""
    width, height = picture_size(size_bytes)
    image = Image.frombytes("RGB", (width, height), random.Random(0).randbytes(3 * width * height))
    file = BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()


class Replies:
    """The rendered replies; ids are of one width, and so is everything else."""

    def __init__(self, picture_bytes: int) -> None:
        png = noise_png(picture_bytes)
        self._start = png[:_IHDR_END]
        rest = pybase64.b64encode(png[_IHDR_END:])
        self.rest = rest + b'","filename":"ComfyUI_00001_.png","type":"base64"}]},"status":"COMPLETED","workerId":"w1"}'
        self._head = _head(len(self._beginning(0)) + len(self.rest))

    def completed(self, number: int) -> bytes:
        """Up to where `rest` follows."""
        return self._head + self._beginning(number)

    def _beginning(self, number: int) -> bytes:
        text = b"tEXtComment\0" + str(number).zfill(_MARK_DIGITS).encode()
        chunk = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
        lead = f'{{"delayTime":1,"executionTime":5,"id":"{job_id(number)}","output":{{"images":[{{"data":"'
        return lead.encode() + pybase64.b64encode(self._start + chunk)

    @staticmethod
    def of(document: object, status: str = "200 OK") -> bytes:
        """A small reply, whole."""
        body = json.dumps(document).encode()
        return _head(len(body), status) + body


def job_id(number: int) -> str:
    """As RunPod's look, with the number in front."""
    return f"{number:08x}-0000-4000-8000-000000000000-u1"


def _head(length: int, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n".encode()


@dataclass(slots=True)
class StaticEndpoint:
    """What the connections share, and the books: how often `/run` and `/status` were asked.

    No job is finished before `hold_until_runs` of them were sent; `runs_per_second` None: as fast as they come.
    """

    replies: Replies
    hold_until_runs: int = 0
    runs_per_second: float | None = None
    runs: int = 0
    statuses: int = 0
    _next_slot: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def serve(self, connection: socket.socket) -> None:
        """Answer requests until the client closes."""
        with connection:
            received = b""
            while True:
                received, method, path = _next_request(connection, received)
                if method == b"":
                    return
                self._answer(connection, method, path)

    def _answer(self, connection: socket.socket, method: bytes, path: bytes) -> None:
        if method == b"GET" and b"/status/" in path:
            with self._lock:
                self.statuses += 1
            self._answer_status(connection, int(path.rpartition(b"/")[2][:8], 16))
        elif method == b"POST" and path.endswith(b"/run"):
            self._wait_for_slot()
            with self._lock:
                number, self.runs = self.runs, self.runs + 1
            connection.sendall(Replies.of({"id": job_id(number), "status": "IN_QUEUE"}))
        elif path.endswith(b"/health"):
            jobs = {"completed": 0, "failed": 0, "inProgress": 0, "inQueue": 0, "retried": 0}
            workers = {"idle": 0, "initializing": 0, "ready": 32, "running": 32, "throttled": 0, "unhealthy": 0}
            connection.sendall(Replies.of({"jobs": jobs, "workers": workers}))
        elif path == b"/books":
            connection.sendall(Replies.of({"runs": self.runs, "statuses": self.statuses}))
        else:
            connection.sendall(Replies.of({"error": "not here"}, "404 Not Found"))

    def _answer_status(self, connection: socket.socket, number: int) -> None:
        if self.runs < self.hold_until_runs:
            connection.sendall(Replies.of({"delayTime": 1, "id": job_id(number), "status": "IN_PROGRESS"}))
            return
        first = self.replies.completed(number)
        if isinstance(connection, ssl.SSLSocket):
            connection.sendall(first)
        else:
            connection.sendall(first, _MORE)
        connection.sendall(self.replies.rest)

    def _wait_for_slot(self) -> None:
        if self.runs_per_second is None:
            return
        with self._lock:
            slot = max(self._next_slot, time.monotonic())
            self._next_slot = slot + 1 / self.runs_per_second
        time.sleep(max(0.0, slot - time.monotonic()))


def _next_request(connection: socket.socket, received: bytes) -> tuple[bytes, bytes, bytes]:
    """What is left over, the method and the path of the next request; an empty method where there is none."""
    while (head_end := received.find(_HEAD_END)) < 0:
        try:
            piece = connection.recv(_RECEIVE_BYTES)
        except OSError:
            piece = b""
        if not piece:
            return b"", b"", b""
        received += piece
    head, rest = received[:head_end], received[head_end + len(_HEAD_END) :]
    method, path, _ = head.split(b" ", 2)
    length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
    while len(rest) < length:
        piece = connection.recv(_RECEIVE_BYTES)
        if not piece:
            return b"", b"", b""
        rest += piece
    return rest[length:], method, path


def main(settings: Mapping[str, Any]) -> None:
    """Serve on a free port, which is printed, until the process is ended.

    `settings`: "picture_bytes", and as they are wanted "hold_until_runs", "runs_per_second", "certificate" (a PEM file
    with key and chain: HTTPS).
    """
    endpoint = StaticEndpoint(
        Replies(settings["picture_bytes"]), settings.get("hold_until_runs", 0), settings.get("runs_per_second")
    )
    context = None
    if "certificate" in settings:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(settings["certificate"])
    threading.stack_size(_STACK_BYTES)
    with socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG) as listening:
        print(f"{'http' if context is None else 'https'}://127.0.0.1:{listening.getsockname()[1]}/v2", flush=True)
        while True:
            connection, _ = listening.accept()
            threading.Thread(target=_serve, args=(endpoint, connection, context), daemon=True).start()


def _serve(endpoint: StaticEndpoint, connection: socket.socket, context: ssl.SSLContext | None) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        endpoint.serve(connection if context is None else context.wrap_socket(connection, server_side=True))
    except OSError:
        connection.close()  # the client went away


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
