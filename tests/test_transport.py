"""The transport over real HTTP on loopback: whole replies or typed errors, and no way to a private address."""

from __future__ import annotations

import asyncio
import gzip
import socket
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from asyncgen.ports import (
    AddressRefusedError,
    HttpReply,
    HttpRequest,
    InterruptedReplyError,
    NotSentError,
    ReplyTooLargeError,
    TransportError,
)
from asyncgen.transport import aiohttp_transport, is_public_address

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
#: Every way of writing loopback, private or link-local that a worker's result may try.
PRIVATE_HOSTS = [
    "127.0.0.1", "127.1", "127.0.0.1.", "0.0.0.0", "0", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1",
    "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]", "[64:ff9b::127.0.0.1]",
    "[2002:7f00:1::]", "[fe80::1]", "[fe80::1%25lo]", "[fd00::1]", "[fec0::1]", "[ff02::1]",
    "10.0.0.1", "172.16.5.4", "192.168.1.1", "169.254.169.254", "100.64.0.1", "224.0.0.1", "255.255.255.255",
    "localhost", "LOCALHOST", "localhost.", "127.0.0.1:80@127.0.0.1", "public.example@127.0.0.1",
    "１２７.０.０.１", "127。0。0。1", "①②⑦.0.0.1", "ｌｏｃａｌｈｏｓｔ", "%31%32%37.0.0.1",
    "127.0.0.1%2epublic.example",
]  # fmt: skip


@asynccontextmanager
async def server(handler: Handler) -> AsyncIterator[str]:
    application = web.Application(client_max_size=2**24)
    application.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def raw_server(script: Script) -> AsyncIterator[str]:
    """A server that says what it likes; `script` gets the connection once the request's head has been read."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            await script(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort() if writer.transport.is_closing() else writer.close()

    listening = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    finally:
        listening.close()


def saying(data: bytes) -> Script:
    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()

    return script


async def send(url: str, **of: object) -> HttpReply:
    async with aiohttp_transport() as transport:
        return await transport.send(HttpRequest("GET", url, **of))  # type: ignore[arg-type]  # the fields are the request's


# -- whole replies


@pytest.mark.anyio
@pytest.mark.parametrize("size_bytes", [0, 1, 2**20, 2**20 + 1, 10 * 2**20])
async def test_method_headers_and_body_arrive_and_the_whole_reply_comes_back(size_bytes: int) -> None:
    body = b"x" * size_bytes
    seen: list[tuple[str, str | None, bytes]] = []

    async def handle(request: web.Request) -> web.Response:
        seen.append((request.method, request.headers.get("Authorization"), await request.read()))
        return web.Response(status=418, body=b"\x00tea", headers={"X-Kind": "Pot"})

    async with server(handle) as url, aiohttp_transport() as transport:
        reply = await transport.send(HttpRequest("POST", f"{url}/run", {"Authorization": "Bearer k"}, body))
    assert seen == [("POST", "Bearer k", body)]
    assert (reply.status, reply.body, reply.headers["x-kind"]) == (418, b"\x00tea", "Pot")


@pytest.mark.anyio
@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_is_a_reply_and_is_not_followed(status: int) -> None:
    paths: list[str] = []

    async def handle(request: web.Request) -> web.Response:
        paths.append(request.path)
        return web.Response(status=status, headers={"Location": "/elsewhere"})

    async with server(handle) as url:
        reply = await send(f"{url}/here")
    assert (reply.status, reply.headers["location"], paths) == (status, "/elsewhere", ["/here"])


@pytest.mark.anyio
async def test_connections_are_kept_and_cookies_are_not() -> None:
    peers, cookies = set(), list[str]()

    async def handle(request: web.Request) -> web.Response:
        assert request.transport is not None
        peers.add(request.transport.get_extra_info("peername"))
        cookies.append(request.headers.get("Cookie", ""))
        response = web.Response()
        response.set_cookie("session", "1")
        return response

    async with server(handle) as url, aiohttp_transport() as transport:
        for _ in range(5):
            await transport.send(HttpRequest("GET", url.replace("127.0.0.1", "localhost")))
    assert len(peers) == 1
    assert cookies == [""] * 5


@pytest.mark.anyio
async def test_no_compression_is_asked_for_and_a_compressed_reply_is_still_bounded() -> None:
    asked: list[str | None] = []

    async def handle(request: web.Request) -> web.Response:
        asked.append(request.headers.get("Accept-Encoding"))
        return web.Response(body=gzip.compress(bytes(50_000_000)), headers={"Content-Encoding": "gzip"})

    async with server(handle) as url:
        with pytest.raises(ReplyTooLargeError):
            await send(url, max_reply_bytes=1_000_000)
    assert asked == ["identity"]


# -- replies that do not come whole


@pytest.mark.anyio
@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"HTTP/1.1 20",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nFF\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnope",
        b"HTTP/1.1 200 OK\r\nContent-Length: nine\r\n\r\n",
        b"\x16\x03\x01 this is no HTTP\r\n\r\n",
    ],
)
async def test_a_reply_that_is_cut_or_garbled_is_an_interrupted_one(said: bytes) -> None:
    async with raw_server(saying(said)) as url:
        with pytest.raises(InterruptedReplyError) as caught:
            await send(url)
    assert not isinstance(caught.value, ReplyTooLargeError)


@pytest.mark.anyio
async def test_a_reset_after_the_request_was_sent_is_an_interrupted_reply() -> None:
    async def reset(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    async with raw_server(reset) as url:
        with pytest.raises(InterruptedReplyError):
            await send(url)


@pytest.mark.anyio
@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nand then"])
async def test_a_server_that_falls_silent_is_an_interrupted_reply_within_the_timeout(said: bytes) -> None:
    silent = asyncio.Event()

    async def stall(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        await silent.wait()

    async with raw_server(stall) as url:
        with pytest.raises(InterruptedReplyError, match="Timeout"):
            await send(url, timeout_seconds=0.1)
        silent.set()


@pytest.mark.anyio
@pytest.mark.parametrize("announced", [True, False])
async def test_an_endless_reply_is_left_at_the_limit(announced: bool) -> None:
    sent = 0

    async def pour(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        length = b"Content-Length: 9999999999\r\n" if announced else b""
        writer.write(b"HTTP/1.1 200 OK\r\n" + length + b"\r\n")
        while True:
            writer.write(bytes(65536))
            sent += 65536
            await writer.drain()

    async with raw_server(pour) as url:
        with pytest.raises(ReplyTooLargeError, match="100000"):
            await send(url, max_reply_bytes=100_000)
    assert sent < 50_000_000


@pytest.mark.anyio
async def test_a_reply_of_exactly_the_limit_is_taken() -> None:
    async def handle(_: web.Request) -> web.Response:
        return web.Response(body=bytes(1000))

    async with server(handle) as url:
        assert len((await send(url, max_reply_bytes=1000)).body) == 1000
        with pytest.raises(ReplyTooLargeError):
            await send(url, max_reply_bytes=999)


# -- requests that were certainly not sent


@pytest.mark.anyio
async def test_a_refused_connection_was_not_sent() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(NotSentError):
            await send(f"http://127.0.0.1:{taken.getsockname()[1]}/")


@pytest.mark.anyio
@pytest.mark.parametrize(
    "url", ["http://no-such-host.invalid/", "not a url", "ftp://127.0.0.1/", "http://", "http://a:b/"]
)
async def test_what_has_no_address_was_not_sent(url: str) -> None:
    with pytest.raises(NotSentError):
        await send(url)


@pytest.mark.anyio
async def test_a_failed_tls_handshake_was_not_sent() -> None:
    async def no_tls(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 This is plain HTTP\r\n\r\n")
        writer.close()

    listening = await asyncio.start_server(no_tls, "127.0.0.1", 0)
    with pytest.raises(NotSentError):
        await send(f"https://127.0.0.1:{listening.sockets[0].getsockname()[1]}/")
    listening.close()


@pytest.mark.anyio
async def test_a_proxy_that_will_not_connect_means_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    async with raw_server(saying(b"HTTP/1.1 407 Who are you\r\nContent-Length: 0\r\n\r\n")) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy)
        with pytest.raises(NotSentError):
            await send("https://api.example/v2/ep/run")


@pytest.mark.anyio
@pytest.mark.parametrize("headers", [{"X": "a\r\nY: b"}, {"X\n": "a"}])
async def test_a_header_with_a_line_end_never_reaches_a_server(headers: dict[str, str]) -> None:
    asked: list[web.Request] = []

    async def handle(request: web.Request) -> web.Response:
        asked.append(request)
        return web.Response()

    async with server(handle) as url:
        with pytest.raises(TransportError):
            await send(url, headers=headers)
    assert not asked


# -- private addresses


@pytest.mark.anyio
@pytest.mark.parametrize("host", PRIVATE_HOSTS)
async def test_however_it_is_written_a_private_address_is_refused_and_not_connected_to(host: str) -> None:
    asked: list[str] = []

    async def handle(request: web.Request) -> web.Response:
        asked.append(str(request.url))
        return web.Response()

    async with server(handle) as url:
        port = url.rpartition(":")[2]
        with pytest.raises(NotSentError) as caught:
            await send(f"http://{host}:{port}/picture.png", public_hosts_only=True)
    assert not asked
    if host != "localhost.":  # which not every resolver knows
        assert isinstance(caught.value, AddressRefusedError), "so that nobody tries it again"


@pytest.mark.anyio
async def test_a_host_name_is_left_to_the_resolver() -> None:
    with pytest.raises(NotSentError, match="no-such-host") as caught:
        await send("https://bucket_1.no-such-host.invalid/picture.png", public_hosts_only=True)
    assert not isinstance(caught.value, AddressRefusedError), "it may have an address by the next time"


@pytest.mark.anyio
async def test_without_that_demand_loopback_is_reached() -> None:
    async def handle(_: web.Request) -> web.Response:
        return web.Response(body=b"here")

    async with server(handle) as url:
        assert (await send(url.replace("127.0.0.1", "localhost"))).body == b"here"


@pytest.mark.anyio
async def test_a_public_download_takes_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy would resolve the name itself, and could reach what we must not."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with pytest.raises(AddressRefusedError):
        await send("http://localhost/picture.png", public_hosts_only=True)


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1"]
)
def test_a_public_address_is_public_through_a_gateway_too(address: str) -> None:
    assert is_public_address(address)


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.255.0.1", "172.31.0.1", "192.168.0.1", "169.254.0.1", "0.0.0.0", "240.0.0.1", "224.0.0.251",
     "::1", "::", "fe80::1%eth0", "fc00::1", "fec0::1", "ff0e::1", "::ffff:10.0.0.1", "::10.0.0.1", "64:ff9b::a00:1",
     "2002:a00:1::", "2001:db8::1", "100.127.0.1"],
)  # fmt: skip
def test_any_other_address_is_not(address: str) -> None:
    assert not is_public_address(address)


@pytest.mark.anyio
@pytest.mark.parametrize("status", [200, 302, 401, 500])
@pytest.mark.parametrize(("key", "kept"), [("rpa_0123456789abcdef", False), ("any-key", True)])
async def test_an_echoed_key_is_taken_out_of_body_and_headers_unless_it_is_too_short_to_be_one(
    status: int, key: str, kept: bool
) -> None:
    """A short one, made up for a sandbox, may stand in a picture's base64 by chance."""

    async def echo(request: web.Request) -> web.Response:
        told = f"Authorization: {request.headers['Authorization']}"
        return web.Response(status=status, text=told, headers={"Location": f"/{key}", "X-Told": told})

    async with server(echo) as url:
        reply = await send(url, headers={"Authorization": f"Bearer {key}"})
    told = f"Authorization: Bearer {key}" if kept else "[header]: Bearer [key]"
    assert (reply.body.decode(), reply.headers["x-told"]) == (told, told)
    assert reply.headers["location"] == (f"/{key}" if kept else "/[key]")


@pytest.mark.anyio
async def test_an_error_quotes_nothing_of_the_reply_and_is_chained_to_nothing_that_does() -> None:
    said = b"HTTP/1.1 200 OK\r\nsomething secret without a colon\r\n\r\n"
    async with raw_server(saying(said)) as url:
        with pytest.raises(InterruptedReplyError) as caught:
            await send(url)
    assert "secret" not in "".join(traceback.format_exception(caught.value))
    assert len(str(caught.value)) < 400


@pytest.mark.anyio
async def test_a_netrc_that_knows_the_host_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login somebody password something\n")
    monkeypatch.setenv("NETRC", str(netrc))

    async def echo(request: web.Request) -> web.Response:
        return web.Response(text=request.headers["Authorization"])

    async with server(echo) as url:
        reply = await send(url, headers={"Authorization": "Bearer key"})
    assert reply.body == b"Bearer key"
