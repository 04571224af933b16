"""HTTP replies, mutated from those seen in the wild, through every verb, the picture checks and the download rules."""

from __future__ import annotations

import base64
import copy
import json
import struct
import zlib
from collections.abc import Iterator
from functools import cache
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from PIL import Image, PngImagePlugin

from asyncgen import replies as verbs
from asyncgen.errors import Failure, FailureClass, FailureCode
from asyncgen.images import MAX_SIDE_PIXELS, ImageFaultError, Picture, check, examine
from asyncgen.ports import HttpReply, HttpRequest
from asyncgen.protocol import (
    Accepted,
    Cancelled,
    Completed,
    Downloaded,
    EndpointAddress,
    Failed,
    Health,
    LinkedImage,
    Missing,
    Pending,
    Ran,
    Redirected,
    Refused,
    Rejected,
    Transient,
    Unknown,
    download_request,
)

from . import mutations
from .bounds import check_message

_SHAPES: Final = json.loads(
    (Path(__file__).parents[1] / "replies" / "response-shapes.json").read_text(encoding="utf-8")
)
_BODIES: Final = [shape["body"] for shape in _SHAPES] + [
    {"id": "j", "status": "IN_QUEUE"},
    {"id": "j", "status": "CANCELLED"},
    {"jobs": {"inQueue": 1}, "workers": {"idle": 1, "running": 2}},
]
_KEYS: Final = (
    "id", "status", "output", "images", "image", "data", "url", "message", "error", "errors", "details",
    "error_message",
    "input", "delayTime", "executionTime", "workerId", "image_url", "links", "result", "job_results", "type",
)  # fmt: skip
_LEAVES: Final[tuple[Any, ...]] = (
    "COMPLETED", "FAILED", "TIMED_OUT", "CANCELLED", "IN_QUEUE", "error", "https://a.example/b.png",
    "file:///etc/passwd",
    "http://[::1]/", "https://user@a.example/", "data:image/png;base64,", "data:,", "payload too large: max body size",
    "your balance is too low", "use the load-balancing API", "CUDA out of memory", "worker w1 died",
    "Workflow validation failed: Node 1 (errors): [{'message': 'a', 'details': \"a_name: 'b' not in ['c']\"}]",
    "Workflow validation failed" + "a: 'b' not in ['" * 900, {"error_message": "x"},
    "Traceback (most recent call last)\nE: x",
)  # fmt: skip
_STATUSES: Final = (
    *(200,) * 12, 201, 204, 301, 302, 307, 308, 400, 401, 402, 403, 404, 405, 408, 409, 413, 418, 422, 425, 429, 500,
    502, 503,
    504, 520, 524, 199, 600, 0, -1,
)  # fmt: skip
_HEADERS: Final = (
    ("retry-after", ("7", "1.5", "-1", "1e9", "nan", "999999999", "٧", "Mon, 23 Nov 2026 10:00:09 GMT",
    "99999-99-99")),
    ("date", ("Mon, 23 Nov 2026 10:00:00 GMT", "x", "Mon, 23 Nov 99999 10:00:00 GMT")),
    ("location", ("/x", "//b.example/y", "file:///etc/passwd", "http://127.0.0.1/", "http://[", "\0", "..",
    "x" * 9_000)),
    ("content-type", ("text/html", "")),
)  # fmt: skip
_PLATFORM_VERBS: Final = (
    verbs.decipher_submission, verbs.decipher_runsync, verbs.decipher_status, verbs.decipher_cancel,
    verbs.decipher_retry, verbs.decipher_health,
)  # fmt: skip
_URL: Final = "https://bucket.example/a/b.png"
_ADDRESS: Final = EndpointAddress("https://api.example/v2", "ep")


# A picture may carry a text that inflates to more than Pillow reads by default: asyncgen inflates none.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = 1 << 28

# -- drawing a reply


def make(rng: Random) -> HttpReply:
    """A reply: a known body with 0 to 3 places changed, then 0 to 3 changes of bytes; or a bare picture; or noise."""
    kind = rng.randrange(20)
    if kind == 0:
        data = rng.randbytes(rng.randrange(300))
    elif kind <= 3:
        data = _picture(rng)
    else:
        data = _record(rng)
    data = mutations.mutated_bytes(rng, data, rng.choice((0, 0, 0, 1, 3)))
    status = rng.choice(_STATUSES) if rng.random() < 0.9 else rng.randrange(1000)
    headers = {
        name: rng.choice(values) if rng.random() < 0.8 else mutations.text(rng)
        for name, values in _HEADERS
        if rng.random() < 0.4
    }
    return HttpReply(status, headers, data)


def _record(rng: Random) -> bytes:
    body = copy.deepcopy(rng.choice(_BODIES))
    leaves = (*_LEAVES, *(base64.b64encode(_picture(rng)).decode() for _ in range(2)))
    for _ in range(rng.choice((0, 1, 1, 2, 3))):
        mutations.mutate(rng, body, leaves, _KEYS)
    if isinstance(body, dict) and rng.random() < 0.2:
        body[rng.choice(("output", "images", "error"))] = rng.choice(leaves)
    elif isinstance(body, dict) and rng.random() < 0.2:
        body |= {"status": "COMPLETED", "output": {"images": [leaves[-1], rng.choice(leaves)]}}
    return mutations.encoded(rng, body)


def _picture(rng: Random) -> bytes:
    """A picture, whole or with its bytes changed; of a PNG also its chunks, with right checksums."""
    data = rng.choice(_pictures())
    if data.startswith(b"\x89PNG") and rng.random() < 0.4:
        data = _with_other_chunks(rng, data)
    return mutations.mutated_bytes(rng, data, rng.choice((0, 0, 1, 2)))


@cache
def _pictures() -> tuple[bytes, ...]:
    made = []
    for mode, kind, options in (
        ("RGB", "PNG", {}), ("P", "PNG", {}), ("1", "PNG", {}), ("RGBA", "PNG", {}), ("RGB", "JPEG", {}),
        ("L", "JPEG", {"progressive": True}), ("RGB", "WEBP", {}), ("RGBA", "WEBP", {"lossless": True}),
        ("RGB", "GIF", {}),
    ):  # fmt: skip
        out = BytesIO()
        Image.effect_noise((24, 16), 60).convert(mode).save(out, kind, **options)
        made.append(out.getvalue())
    return tuple(made)


def _with_other_chunks(rng: Random, data: bytes) -> bytes:
    """A chunk gone, doubled or moved, a huge text chunk, or a header that says something else."""
    chunks = list(_chunks_of(data))
    place = rng.randrange(len(chunks))
    kind = rng.randrange(5)
    if kind == 0:
        del chunks[place]
    elif kind == 1:
        chunks.insert(place, chunks[place])
    elif kind == 2:
        chunks.insert(rng.randrange(len(chunks)), chunks.pop(place))
    elif kind == 3:
        bomb = zlib.compress(bytes(rng.choice((10, 1 << 22))))
        chunks.insert(1, (rng.choice((b"zTXt", b"iCCP", b"iTXt")), b"x\0\0" + bomb))
    else:
        # A PNG is walked over and not inflated: one whose checksums are right and whose pixels are few is taken.
        sizes = [rng.choice((1, 24, MAX_SIDE_PIXELS)), rng.choice((0, MAX_SIDE_PIXELS + 1, 2**31 - 1, 2**32 - 1))]
        rng.shuffle(sizes)
        chunks[0] = (b"IHDR", struct.pack(">II", *sizes) + chunks[0][1][8:])
    return data[:8] + b"".join(map(_chunk, chunks))


def _chunks_of(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    start = 8
    while start < len(data):
        (length,) = struct.unpack_from(">I", data, start)
        yield data[start + 4 : start + 8], data[start + 8 : start + 8 + length]
        start += 12 + length


def _chunk(chunk: tuple[bytes, bytes]) -> bytes:
    kind, body = chunk
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


# -- judging it


def judge(reply: HttpReply) -> Iterator[str]:
    """Every verb's outcome, and what must hold of it whatever the reply."""
    for verb in _PLATFORM_VERBS:
        outcome = verb(reply)
        _check_outcome(outcome, reply)
        yield f"{verb.__name__.removeprefix('decipher_')} {type(outcome).__name__}"
        if isinstance(outcome, Ran):
            outcome = outcome.outcome
        if isinstance(outcome, Completed):
            yield from _examined(outcome)
    yield from _downloaded(reply)


def _check_outcome(outcome: object, reply: HttpReply) -> None:
    success = 200 <= reply.status < 300
    match outcome:
        case Accepted(job_id):
            assert success
            assert _said(reply)["id"] == job_id, "accepted under an id that the reply does not carry"
            _check_job_id(job_id)
        case Ran(job_id, ending):
            assert success
            assert job_id is not None or not isinstance(ending, Pending)
            assert job_id is None or _said(reply)["id"] == job_id
            _check_outcome(ending, reply)
        case Completed(images):
            assert success
            assert images
            assert "COMPLETED" in _said(reply)["status"]  # beside which there may be what cannot be printed
            assert all(len(note) <= 600 and note.isprintable() for note in outcome.notes), outcome.notes
        case Failed(failure) | Rejected(failure):
            _check_failure(failure, reply.status)
        case Cancelled() | Health():
            assert success
        case Pending(job_id, status):
            assert success
            assert len(status) <= 40
            assert job_id is None or _said(reply)["id"] == job_id
        case Missing():
            assert 400 <= reply.status < 500
        case Refused(reason, seconds) | Transient(reason, seconds):
            check_message(reason)
            assert seconds is None or 0 <= seconds <= verbs.MAX_RETRY_AFTER_SECONDS
        case Unknown(reason):
            assert not 300 <= reply.status < 500
            check_message(reason)
        case _:
            raise AssertionError(f"no outcome: {outcome!r}")


def _said(reply: HttpReply) -> Any:
    return json.loads(reply.body, parse_int=str)  # Python refuses to read very long numbers


def _check_job_id(job_id: str) -> None:
    """The id keeps to its own place in a URL, and comes out of it as it went in."""
    path = urlsplit(_ADDRESS.url("status", job_id)).path
    assert path.count("/") == 4, path
    assert unquote(path.rpartition("/")[2]) == job_id
    assert job_id.isprintable()
    assert job_id not in (".", "..")


def _check_failure(failure: Failure, status: int) -> None:
    check_message(failure.message)
    if status in (401, 402, 403):
        assert failure.kind is FailureClass.ACCOUNT, f"HTTP {status} came out as {failure}"
    if not 200 <= status < 300 and failure.kind is FailureClass.ITEM:
        assert failure.code is FailureCode.BODY_TOO_LARGE, f"HTTP {status} came out as {failure}"
    assert failure.kind is not FailureClass.TRANSPORT


def _examined(completed: Completed) -> Iterator[str]:
    found = examine(completed)
    if isinstance(found, Failed):
        assert found.failure.kind is FailureClass.ITEM
        check_message(found.failure.message)
        yield f"examined {found.failure.code}"
        return
    assert len(found) == len(completed.images)
    for picture in found:
        if isinstance(picture, LinkedImage):
            yield _opened(picture.url)
        else:
            _check_picture(picture)
            yield f"examined {picture.format}"


def _check_picture(picture: Picture) -> None:
    """Pillow, asked independently, decodes all of it and finds it as large."""
    with Image.open(BytesIO(picture.data)) as opened:
        opened.load()
        assert opened.format is not None
        assert (opened.format.lower(), *opened.size) == (picture.format, picture.width, picture.height)


def _opened(url: str) -> str:
    """What is asked for, when a result is said to be at a URL."""
    request = download_request(url, timeout_seconds=1, max_reply_bytes=1)
    if isinstance(request, Rejected):
        check_message(request.failure.message)
        return "link refused"
    assert isinstance(request, HttpRequest)
    assert request.url.lower().startswith("https://")
    assert request.public_hosts_only
    assert "Authorization" not in request.headers
    return "link opened"


def _downloaded(reply: HttpReply) -> Iterator[str]:
    outcome = verbs.decipher_download(reply, _URL)
    yield f"download {type(outcome).__name__}"
    match outcome:
        case Redirected(url):
            assert 300 <= reply.status < 400
            yield _opened(url)
        case Downloaded(data):
            assert 200 <= reply.status < 300
            yield from _checked(data)
        case Rejected(failure):
            check_message(failure.message)
            assert failure.kind is FailureClass.ITEM  # a bucket's 403 says nothing of the account
        case Transient(reason):
            check_message(reason)


def _checked(data: bytes) -> Iterator[str]:
    try:
        picture = check(data)
    except ImageFaultError as fault:
        check_message(fault.message)
        yield f"checked {fault.code}"
    else:
        _check_picture(picture)
        yield f"checked {picture.format}"
