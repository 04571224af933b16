"""Runs of one user on one machine share an endpoint's limits: each counts all that use it now, and takes its part.

Whoever uses an endpoint holds the lock of a file of its own, in one folder of the user's, under a name that begins with
a hash of the endpoint. The system lets go of the lock when the process ends, however it ends, so that a file whose lock
can be taken is nobody's. Nothing secret is in it.
"""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import anyio
from filelock import FileLock, Timeout

from asyncgen.ports import Ports
from asyncgen.protocol import EndpointAddress

log = logging.getLogger(__name__)
COUNT_SECONDS: Final = 1.0
_LOCKING_SECONDS: Final = 1.0  # for one's own file, which another may be looking at


class Presence:
    """One use of one endpoint. `sharers` is how many there are, this one included, when they were last counted."""

    def __init__(self, folder: Path, address: EndpointAddress) -> None:
        url = f"{address.base_url.rstrip('/')}/{address.endpoint_id}"
        self._folder, self._endpoint = folder, hashlib.sha256(url.encode()).hexdigest()[:32]
        self._own: FileLock | None = None
        self.sharers = 1

    def begin(self) -> None:
        """Be counted by the others from now on, and count them. Where that is impossible this one goes on alone."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _sweep(self._folder)
            self._own = self._locked_file()
            self.count()
        except OSError as error:
            log.debug("the limits of the endpoint are not shared with other runs: %s", error)

    def count(self) -> None:
        """Look who is there now."""
        if self._own is None:
            return
        own = Path(self._own.lock_file)
        others = (path for path in self._folder.glob(f"{self._endpoint}.*") if path != own)
        sharers = 1 + sum(map(_is_held, others))
        if sharers != self.sharers:
            log.info("the limits of the endpoint are now shared by %d", sharers)
        self.sharers = sharers

    def end(self) -> None:
        """Be counted no more."""
        if self._own is not None:
            self._own.release()
            Path(self._own.lock_file).unlink(missing_ok=True)
        self._own, self.sharers = None, 1

    def _locked_file(self) -> FileLock:
        while True:
            path = self._folder / f"{self._endpoint}.{os.getpid()}-{secrets.token_hex(4)}"
            lock = FileLock(path, timeout=_LOCKING_SECONDS, mode=0o600, thread_local=False)
            lock.acquire(poll_interval=0.01)
            if path.exists():
                return lock
            lock.release()  # another took it for a dead one's, before it was locked


class Sharing:
    """The endpoints that a process uses through one workspace; they count as used while a run goes on."""

    def __init__(self, ports: Ports, folder: Path) -> None:
        self._ports, self._folder = ports, folder
        self._presences: list[Presence] = []
        self._runs = 0

    def join(self, address: EndpointAddress) -> Callable[[], int]:
        """The endpoint is used as well from now on; returns what tells, at any time, how many share it."""
        presence = Presence(self._folder, address)
        self._presences.append(presence)
        if self._runs:
            presence.begin()
        return lambda: presence.sharers

    @asynccontextmanager
    async def in_use(self) -> AsyncIterator[None]:
        """A run goes on for as long as the block does."""
        self._runs += 1
        try:
            if self._runs == 1:
                await self._for_each(Presence.begin)
            yield
        finally:
            self._runs -= 1
            if self._runs == 0:
                with anyio.CancelScope(shield=True):
                    await self._for_each(Presence.end)

    async def keep_counting(self) -> None:
        """Count once a second while a run goes on, until cancelled."""
        while True:
            await self._ports.clock.sleep(COUNT_SECONDS)
            if self._runs:
                await self._for_each(Presence.count)

    async def _for_each(self, step: Callable[[Presence], None]) -> None:
        for presence in tuple(self._presences):
            await self._ports.file_threads.run(step, presence)


def _is_held(path: Path) -> bool:
    lock = FileLock(path, timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        return True
    except OSError:
        return False
    lock.release()
    path.unlink(missing_ok=True)  # nobody takes the name of a dead one
    return False


def _sweep(folder: Path) -> None:
    """Remove what dead processes have left, of other endpoints as well."""
    for path in tuple(folder.iterdir()):
        _is_held(path)
