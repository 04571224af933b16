"""Replies that never end, drip, or bury their reader; and results that are said to be where nobody may look."""

from __future__ import annotations

import socket
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import pytest
from liar import Answer, Asked, Liar, Pieces, endless, lying, whole
from support import ENDPOINT, KEY, SMALL, wired

from asyncgen.endpoint import Endpoint, Pace
from asyncgen.errors import FailureCode
from asyncgen.ports import HttpReply, HttpRequest, Ports
from asyncgen.protocol import Accepted, EndpointAddress, Pending, Rejected, Transient, Unknown
from asyncgen.stopping import Stop

pytestmark = pytest.mark.anyio

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
TIMEOUT_SECONDS = 0.2
#: Each a reply that has no end; what its reader may keep of it is bounded, and so is the time it gives to it.
ENDLESS: dict[str, Callable[[], Pieces]] = {
    "body": lambda: endless(OK + b"\r\n", bytes(1 << 16)),
    "announced body": lambda: endless(OK + b"Content-Length: 999999999999\r\n\r\n", bytes(1 << 16)),
    "body in drops": lambda: endless(OK + b"\r\n", b" ", 0.02),
    "chunks": lambda: endless(CHUNKED, b"10000\r\n" + bytes(1 << 16) + b"\r\n"),
    "tiny chunks": lambda: endless(CHUNKED, b"1\r\n \r\n" * 5_000),
    "chunk extension": lambda: endless(CHUNKED + b"1;", b"a" * (1 << 16)),
    "trailers": lambda: endless(CHUNKED + b"0\r\n", b"X-A: a\r\n" * 1_000),
    "headers": lambda: endless(OK, b"X-A: a\r\n" * 1_000),
    "one header": lambda: endless(OK + b"X-A: ", b"a" * (1 << 16)),
    "header in drops": lambda: endless(OK + b"X-A: ", b"a", 0.02),
    "status line": lambda: endless(b"HTTP/1.1 200 ", b"a" * (1 << 16)),
    "interim replies": lambda: endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
}
#: Each a whole reply whose content is out of all proportion.
EXCESSIVE = {
    "deep lists": b"[" * 1_000_000,
    "deep objects": b'{"id":' * 150_000,
    "a deep record": b'{"id":"j","status":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "many keys": b"{" + b",".join(b'"%d":1' % number for number in range(80_000)) + b"}",
    "a long number": b'{"id":' + b"9" * 900_000 + b"}",
    "a long id": b'{"id":"' + b"a" * 900_000 + b'","status":"' + b"b" * 1_000 + b'"}',
}


class _Nobody:
    """A journal that nobody reads."""

    async def intend(self) -> None: ...
    async def learn(self, outcome: object) -> None: ...


def always(pieces: Callable[[], Pieces]) -> Answer:
    return lambda _: pieces()


def impatient(liar: Liar, ports: Ports, **pace: object) -> Endpoint:
    values = {
        "request_timeout_seconds": TIMEOUT_SECONDS,
        "max_result_bytes": 1 << 20,
        "allow_private_urls": True,
        **pace,
    }
    return Endpoint(ports, EndpointAddress(liar.base_url, ENDPOINT), KEY, Pace(**values))  # type: ignore[arg-type]  # fields of it


@pytest.mark.parametrize("name", ENDLESS)
async def test_an_endless_reply_to_any_verb_is_left_in_bounded_time_and_memory(name: str, tmp_path: Path) -> None:
    async with lying(always(ENDLESS[name])) as liar, wired(liar.base_url, tmp_path) as it:
        endpoint = impatient(liar, it.ports)
        began = time.monotonic()
        tracemalloc.start()
        try:
            submitted = await endpoint.submit(b"{}", _Nobody(), Stop())
            downloaded = await endpoint.download(f"{liar.base_url}/picture.png")
            most_bytes = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert isinstance(submitted, Unknown), "the server may have taken it"
    assert len(submitted.reason) < 500
    assert isinstance(downloaded, Rejected)
    assert downloaded.failure.code in (FailureCode.RESULT_TOO_LARGE, FailureCode.RESULT_URL_REFUSED)
    assert time.monotonic() - began < 9 * TIMEOUT_SECONDS + 6  # one submission, eight tries of a download
    assert most_bytes < 16 << 20


@pytest.mark.parametrize("name", ["body", "body in drops", "headers", "interim replies"])
async def test_an_endless_poll_is_polled_again_and_buys_nothing(name: str, tmp_path: Path) -> None:
    polls = 0

    def answer(asked: Asked) -> Pieces:
        nonlocal polls
        if "/run" in asked.path:
            return whole({"id": "j", "status": "IN_QUEUE"})
        polls += 1
        return ENDLESS[name]() if polls < 3 else whole({"status": "FAILED", "error": "at last"})

    pace = Pace(request_timeout_seconds=TIMEOUT_SECONDS)
    async with lying(answer) as liar, wired(liar.base_url, tmp_path, pace=pace) as it:
        job = await it.job(**SMALL)
        await job.settle()
    assert job.item.failure is not None
    assert "at last" in job.item.failure.message
    assert [asked.path for asked in liar.asked].count(f"/v2/{ENDPOINT}/run") == 1


@pytest.mark.parametrize("name", EXCESSIVE)
async def test_a_whole_reply_out_of_all_proportion_is_a_typed_outcome(name: str, tmp_path: Path) -> None:
    async with lying(always(lambda: whole(EXCESSIVE[name]))) as liar, wired(liar.base_url, tmp_path) as it:
        endpoint = impatient(liar, it.ports)
        began = time.process_time()
        assert isinstance(await endpoint.submit(b"{}", _Nobody(), Stop()), Unknown)
        assert isinstance(await endpoint.cancel("j"), Transient | Pending)
        assert isinstance(await endpoint.health(), Transient)
        assert time.process_time() - began < 5


# -- ids


@pytest.mark.parametrize(
    "job_id",
    ["../../other/run", "..%2f..%2fother", "%2e%2e", "a/../../b", "j?ttl=1", "j#x", "//evil.example/x",
     "https://evil.example/", "j\\..\\x", "画", "a b", "j;x=1", "@evil.example", ".../j"],
)  # fmt: skip
async def test_a_job_id_never_leaves_its_place_in_the_url(job_id: str, tmp_path: Path) -> None:
    def answer(asked: Asked) -> Pieces:
        if asked.path.endswith("/run"):
            return whole({"id": job_id, "status": "IN_QUEUE"})
        return whole({"status": "FAILED", "error": "seen"})

    async with lying(answer) as liar, wired(liar.base_url, tmp_path) as it:
        job = await it.job(**SMALL)
        await job.settle()
        await it.endpoint.cancel(job_id)
    assert (job.item.state, len(liar.asked)) == ("failed", 3)
    for asked, verb in zip(liar.asked[1:], ("status", "cancel"), strict=True):
        beginning = f"/v2/{ENDPOINT}/{verb}/"
        assert asked.path.startswith(beginning)
        assert unquote(asked.path.removeprefix(beginning)) == job_id
        assert not set(asked.path.removeprefix(beginning)) & set("/?#\\")


# -- where results are said to be


class _RedirectedFrom:
    """A transport whose first host is on the public internet and sends everyone to `target`; all else is real."""

    def __init__(self, real: object, target: str) -> None:
        self._real, self._target = real, target

    async def send(self, request: HttpRequest) -> HttpReply:
        if request.url.startswith("https://public.example/"):
            return HttpReply(302, {"location": self._target})
        return await self._real.send(request)  # type: ignore[attr-defined, no-any-return]  # the real transport


PLACES = (
    "https://127.0.0.1:{port}/x", "https://localhost:{port}/x", "https://[::1]:{port}/x", "https://0.0.0.0:{port}/x",
    "https://[::ffff:127.0.0.1]:{port}/x", "https://[::ffff:7f00:1]:{port}/x", "https://2130706433:{port}/x",
    "https://0x7f000001:{port}/x", "https://0177.0.0.1:{port}/x", "https://127.1:{port}/x", "https://10.0.0.1/x",
    "https://192.168.0.1/x", "https://169.254.169.254/latest/meta-data/", "https://[fe80::1]/x", "https://[fd00::1]/x",
    "http://127.0.0.1:{port}/x", "http://public.example/x", "file:///etc/passwd", "file://localhost/etc/passwd",
    "ftp://public.example/x", "gopher://127.0.0.1:{port}/_x", "data:text/html,x", "javascript:alert(1)",
    "//127.0.0.1:{port}/x", "https:127.0.0.1:{port}/x", "https://a@127.0.0.1:{port}/x", "https://public.example@127.0.0.1/",
    "\\\\127.0.0.1\\x", "https://127.0.0.1:99999/x", "https://",
)  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
async def test_a_result_neither_is_nor_redirects_to_where_the_public_internet_does_not_reach(
    place: str, tmp_path: Path
) -> None:
    async with lying(always(lambda: whole(b"never to be seen"))) as liar, wired(liar.base_url, tmp_path) as it:
        target = place.replace("{port}", liar.base_url.split(":")[2].split("/")[0])
        ports = replace(it.ports, transport=_RedirectedFrom(it.ports.transport, target))
        endpoint = impatient(liar, ports, allow_private_urls=False)
        for url in (target, "https://public.example/x"):
            outcome = await endpoint.download(url)
            assert isinstance(outcome, Rejected), url
            assert outcome.failure.code is FailureCode.RESULT_URL_REFUSED
    assert liar.asked == []


async def test_a_name_that_resolves_to_loopback_is_not_connected_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name server may answer anything: what counts is the address that is connected to."""
    real, asked_for = socket.getaddrinfo, list[str]()

    def resolve(host: str, *rest: object, **more: object) -> object:
        if host.endswith("rebinding.example"):
            asked_for.append(host)
            host = "127.0.0.1"
        return real(host, *rest, **more)  # type: ignore[arg-type]  # as it was called

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    async with lying(always(lambda: whole(b"never to be seen"))) as liar, wired(liar.base_url, tmp_path) as it:
        port = liar.base_url.split(":")[2].split("/")[0]
        outcome = await impatient(liar, it.ports, allow_private_urls=False).download(
            f"https://rebinding.example:{port}/x"
        )
    assert asked_for
    assert isinstance(outcome, Rejected)
    assert "no public address" in outcome.failure.message
    assert liar.asked == []


async def test_what_is_accepted_is_accepted(tmp_path: Path) -> None:
    """The server of these tests is understood where it tells the truth."""
    async with (
        lying(always(lambda: whole({"id": "j", "status": "IN_QUEUE"}))) as liar,
        wired(liar.base_url, tmp_path) as it,
    ):
        assert await impatient(liar, it.ports).submit(b"{}", _Nobody(), Stop()) == Accepted("j")
    assert liar.asked[0].authorization == f"Bearer {KEY}"
