"""aiohttp behind the `Transport` port: one pooled session, and every foreign error turned into one of ours."""

from __future__ import annotations

import ipaddress
import re
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from io import BytesIO
from typing import Final
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.connector import Connection
from aiohttp.tracing import Trace

from asyncgen._version import __version__
from asyncgen.diagnosis import cleaned
from asyncgen.ports import (
    AddressRefusedError,
    HttpReply,
    HttpRequest,
    InterruptedReplyError,
    NotSentError,
    ReplyTooLargeError,
)

_CONNECT_TIMEOUT_SECONDS: Final = 15.0
_READ_BUFFER_BYTES: Final = 1 << 20
_LONG_BODY_BYTES: Final = 1 << 20
_DNS_CACHE_SECONDS: Final = 300
_USER_AGENT: Final = f"asyncgen/{__version__}"
_MAX_ERROR_CHARACTERS: Final = 300
#: RunPod's have over forty characters; a shorter one, made up for a sandbox, may stand in a picture's base64 by chance.
_SHORTEST_KEY: Final = 16
# How aiohttp shows the bytes that it could not read, cut anywhere: in the middle of a key, say.
_QUOTED_BYTES: Final = re.compile(r"""(?:bytearray\()?\bb['"].*""", re.DOTALL)
_HEADER_NAME: Final = re.compile(rb"authorization", re.IGNORECASE)
# What can only happen before the request is on its way.
_NOT_SENT: Final = (
    aiohttp.ClientConnectorError,
    aiohttp.ClientHttpProxyError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.InvalidURL,
    aiohttp.NonHttpUrlClientError,
    ssl.SSLCertVerificationError,
)


#: IPv6 addresses that a gateway turns into the IPv4 address in their last 32 bits (RFC 6052).
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
# What aiohttp hands to the resolver: it takes digits and dots for an address, in whatever alphabet they are written.
_HOST_NAME: Final = re.compile(r"(?=.*[a-z])[a-z0-9._-]+", re.IGNORECASE)


class _NoPublicAddressError(OSError):
    """A name leads to no address on the public internet."""


class _PublicResolver(AbstractResolver):
    """Resolves names and drops every address that is not on the public internet."""

    def __init__(self) -> None:
        self._resolver = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        public = [entry for entry in found if is_public_address(entry["host"])]
        if not public:
            raise _NoPublicAddressError(f"{host} resolves to no public address")
        return public

    async def close(self) -> None:
        await self._resolver.close()


class _Connector(aiohttp.TCPConnector):
    """Hands out no idle connection on which something has come: it would pass for the answer to the next request.

    aiohttp only looks whether the connection is open. A stray 503 would make a job that was accepted look refused.
    """

    async def _get(self, key: ConnectionKey, traces: list[Trace]) -> Connection | None:
        while (connection := await super()._get(key, traces)) is not None:
            if connection.protocol is None or not connection.protocol.should_close:
                return connection
            connection.close()
        return None


class AiohttpTransport:
    """Sends requests through two pooled sessions: the API's, and one for downloads that only reaches public hosts."""

    def __init__(self, session: aiohttp.ClientSession, public_session: aiohttp.ClientSession) -> None:
        self._session, self._public_session = session, public_session
        self._proxies = getproxies()

    async def send(self, request: HttpRequest) -> HttpReply:
        """The whole reply, whatever its status. Raises only `TransportError`."""
        if request.public_hosts_only:
            _refuse_unless_public_or_name(request.url)
        session = self._public_session if request.public_hosts_only else self._session
        try:
            async with session.request(
                request.method,
                request.url,
                data=_sendable(request.body),
                headers=request.headers,
                proxy=None if request.public_hosts_only else self._proxy_for(request.url),
                allow_redirects=False,
                timeout=_timeout(request),
            ) as response:
                return await _whole_reply(response, request)
        except _NOT_SENT as error:
            cause = getattr(error, "os_error", None)
            if isinstance(cause, _NoPublicAddressError):
                raise AddressRefusedError(str(cause)) from None
            raise NotSentError(_described(error, request)) from None
        except ValueError as error:  # aiohttp could not make the request: `_whole_reply` raises none
            raise NotSentError(_described(error, request)) from None
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise InterruptedReplyError(_described(error, request)) from None

    def _proxy_for(self, url: str) -> str | None:
        """The environment's proxy. Not aiohttp's `trust_env`: that opens ~/.netrc twice for each request, and fails on
        one that knows the host, because the request carries a key already.
        """
        if not self._proxies:
            return None
        parts = urlsplit(url)
        proxy = self._proxies.get(parts.scheme)
        return None if proxy is None or proxy_bypass(parts.netloc) else proxy


@asynccontextmanager
async def aiohttp_transport() -> AsyncIterator[AiohttpTransport]:
    """A transport whose connections are closed with the block. Proxies are taken from the environment."""
    # limit=0: how many requests run at once is decided by the endpoint's own gates
    connector = _Connector(limit=0, ttl_dns_cache=_DNS_CACHE_SECONDS, resolver=aiohttp.ThreadedResolver())
    public_connector = _Connector(limit=0, ttl_dns_cache=_DNS_CACHE_SECONDS, resolver=_PublicResolver())
    async with _session(connector) as session, _session(public_connector) as public_session:
        yield AiohttpTransport(session, public_session)


def is_public_address(address: str) -> bool:
    """Whether an IP address is reachable over the public internet: not loopback, private, link-local or reserved."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        ip = _ipv4_within(ip) or ip
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or getattr(ip, "is_site_local", False))


def _ipv4_within(ip: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that is reached through an IPv6 one, None for an address of its own."""
    if ip in _NAT64:
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip.sixtofour


def _session(connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=True,
        read_bufsize=_READ_BUFFER_BYTES,
        headers={"User-Agent": _USER_AGENT, "Accept-Encoding": "identity"},
    )


def _timeout(request: HttpRequest) -> aiohttp.ClientTimeout:
    """Connecting ends before the whole time is up: only then is it known that nothing was sent."""
    total = request.timeout_seconds
    return aiohttp.ClientTimeout(total=total, connect=min(_CONNECT_TIMEOUT_SECONDS, total / 2))


def _sendable(body: bytes | None) -> bytes | BytesIO | None:
    """aiohttp sends a file piece by piece, and warns of long bytes because they go out in one."""
    return body if body is None or len(body) <= _LONG_BODY_BYTES else BytesIO(body)


async def _whole_reply(response: aiohttp.ClientResponse, request: HttpRequest) -> HttpReply:
    """What has come back: from here on the server has acted. Raises `InterruptedReplyError` or aiohttp's own."""
    try:
        body = await _read_bounded(response, request.max_reply_bytes)
    except ValueError as error:
        raise InterruptedReplyError(_described(error, request)) from None
    headers = {name.lower(): _text_without_key(value, request) for name, value in response.headers.items()}
    return HttpReply(response.status, headers, _without_key(body, request))


async def _read_bounded(response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    announced = response.content_length
    if announced is not None and announced > max_bytes:
        raise ReplyTooLargeError(f"the reply announces {announced} bytes, more than {max_bytes}")
    pieces, size_bytes = [], 0
    async for piece in response.content.iter_any():
        pieces.append(piece)
        size_bytes += len(piece)
        if size_bytes > max_bytes:
            raise ReplyTooLargeError(f"the reply is longer than {max_bytes} bytes")
    return b"".join(pieces)


def _refuse_unless_public_or_name(url: str) -> None:
    host = urlsplit(url).hostname or ""
    if _HOST_NAME.fullmatch(host):
        return  # the resolver decides
    try:
        public = is_public_address(host)
    except ValueError:
        public = False
    if not public:
        raise AddressRefusedError(f"{host!r} is neither a public address nor a host name")


def _without_key(data: bytes, request: HttpRequest) -> bytes:
    """A server may echo what it was sent, and its words, ids and URLs go to the screen, into logs and the ledger."""
    key = request.headers.get("Authorization", "").removeprefix("Bearer ").encode()
    if len(key) < _SHORTEST_KEY or key not in data:
        return data
    return _HEADER_NAME.sub(b"[header]", data.replace(key, b"[key]"))


def _text_without_key(text: str, request: HttpRequest) -> str:
    return _without_key(text.encode("utf-8", "surrogateescape"), request).decode("utf-8", "surrogateescape")


def _described(error: BaseException, request: HttpRequest) -> str:
    """The error in one line, without what it quotes of the reply. It is not chained: tracebacks would quote it all."""
    text = cleaned(_text_without_key(_QUOTED_BYTES.sub("", str(error)), request), _MAX_ERROR_CHARACTERS)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
