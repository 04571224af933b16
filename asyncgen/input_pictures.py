"""Input pictures as they are named: a path, bytes, or an https URL. They are looked at, kept where need be, and sent.

Everything here blocks, and is called off the event loop wherever a picture may have to be read or downloaded. What has
been looked at is told from memory for as long as its file has the same size and time. Bytes, and what came from a URL,
are kept as `inputs/HASH.SUFFIX` of the output root, so that a later process can send them again.
"""

from __future__ import annotations

import os
import re
import stat
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path, PurePath
from typing import Any, Final, TypeVar

import anyio
import anyio.to_thread
import pybase64

from asyncgen import protocol, replies
from asyncgen.errors import InputError
from asyncgen.input_pixels import SUFFIXES, PictureFacts, converted, facts_of, name_of
from asyncgen.input_rules import MASK, PictureRules
from asyncgen.ports import AddressRefusedError, ReplyTooLargeError, Transport, TransportError
from asyncgen.protocol import Downloaded, Redirected, Rejected, Transient
from asyncgen.records import SentPicture
from asyncgen.request import KEPT_PICTURE, ImageRequest
from asyncgen.system import SystemClock
from asyncgen.transport import aiohttp_transport
from asyncgen.url_secrets import has_secrets, without_secrets

T = TypeVar("T")
Reference = str | bytes | PurePath
_Stamp = tuple[int, int]  # a file's time in nanoseconds and its size

FOLDER: Final = "inputs"
#: How a URL that is not recorded as it is is told from others: by what was behind it.
_CONTENT: Final = "#sha256="
_KEPT_NAME: Final = re.compile(r"[0-9a-f]{16}\.(png|jpg|webp)")
_HASH16: Final = re.compile(r"[0-9a-f]{16}")
_REMEMBERED: Final = 16_384
_DOWNLOADS_AT_ONCE: Final = 8
_MAX_REDIRECTS: Final = 5
_TRIES: Final = 3
_PAUSE_SECONDS: Final = 0.5
_CLOCK: Final = SystemClock()
_ONCE: Final = (0, 0)  # the stamp of what is asked once for each process


class InputPictures:
    """The input pictures of one generator; safe to use from several threads.

    `root` is the output root. Files and downloads of more than `max_bytes` are refused; `allow_private` admits http and
    private addresses.
    """

    def __init__(
        self,
        root: Path,
        rules: PictureRules | None = None,
        *,
        max_bytes: int = 64 * 1024 * 1024,
        allow_private: bool = False,
        timeout_seconds: float = 60.0,
    ) -> None:
        self.root, self.rules = root, rules or PictureRules()
        self._max_bytes, self._allow_private, self._timeout_seconds = max_bytes, allow_private, timeout_seconds
        self._lock = threading.Lock()
        self._facts: OrderedDict[str, tuple[_Stamp, PictureFacts | str]] = OrderedDict()  # or what is wrong with it
        self._sent_bytes: OrderedDict[tuple[Any, ...], int] = OrderedDict()

    def look(self, references: Iterable[Reference]) -> None:
        """Look at these pictures, several downloads at once, so that they are known; what is wrong is told later."""
        given = list(dict.fromkeys(references))
        names = [os.fspath(reference) for reference in given if not isinstance(reference, bytes)]
        self._download([name for name in names if _is_asked_for(name) and self._recalled(name, _ONCE) is None])
        for name in names:
            if not _is_asked_for(name):
                self._of_file(name)
        for data in given:
            if isinstance(data, bytes):
                with suppress(InputError):
                    self._of_bytes(data)

    def taken_in(self, request: ImageRequest) -> ImageRequest:
        """The request as it may be recorded: bytes are kept and named, URLs lose what may be secret in them.

        Such a URL is told from others by a hash of what was behind it. Raises `InputError` naming the picture.
        """
        changed: dict[str, str] = {}
        for name, reference in request.input_pictures.items():
            with _naming(name):
                if isinstance(reference, bytes):
                    changed[name] = f"{KEPT_PICTURE}{_kept_name(self._of_bytes(reference))}"
                elif _is_url(reference) and has_secrets(reference):
                    found = self._known(reference)
                    changed[name] = f"{without_secrets(reference)}{_CONTENT}{found.sha256[:16]}"
        return request.model_copy(update=changed) if changed else request

    def facts(self, name: str, reference: str) -> PictureFacts:
        """What the picture is. Raises `InputError` for one that no worker can use, or that is not there."""
        with _naming(name):
            return self._known(reference)

    def base64_bytes(self, name: str, reference: str, picture: SentPicture) -> int:
        """How many bytes of the job it will be. Raises `InputError`."""
        if picture.resized is None and picture.encoded is None:
            return (picture.size_bytes + 2) // 3 * 4
        key = (picture.sha256, picture.resized, picture.encoded, name == MASK)
        with self._lock:
            known = self._sent_bytes.get(key)
        if known is None:
            known = len(self.to_send(name, reference, picture)[1])
            with self._lock:
                _remember(self._sent_bytes, key, known)
        return known

    def to_send(self, name: str, reference: str, picture: SentPicture | None) -> tuple[str, str]:
        """The file name and the base64 that the job carries. `picture` None: as it is now, and unchanged.

        Raises `InputError` naming the picture, where it is no longer what it was when the image was wanted.
        """
        with _naming(name):
            if picture is None:
                picture = wanted_now(self._known(reference))
            try:
                data = self._read(self._path_of(reference, picture))
            except InputError as error:
                raise InputError(f"{_shown(reference)} {error.message}") from None
            if sha256(data).hexdigest() != picture.sha256:
                raise InputError(
                    f"{_shown(reference)} has changed since this image was wanted: --retry-failed --rebuy-changed "
                    "makes it with today's"
                )
            suffix = SUFFIXES[picture.format]
            if picture.resized is not None or picture.encoded is not None:
                data, suffix = converted(data, picture.resized, picture.encoded, is_mask=name == MASK)
        return name_of(data, suffix), pybase64.b64encode(data).decode("ascii")

    # -- what is known -------------------------------------------------------------------------------------------

    def _known(self, reference: str) -> PictureFacts:
        found = self._of_url(reference) if _is_asked_for(reference) else self._of_file(reference)
        if isinstance(found, str):
            if _is_asked_for(reference):  # a site may be up again when it is next asked for
                with self._lock:
                    self._facts.pop(reference, None)
            raise InputError(f"{_shown(reference)} {found}")
        return found

    def _of_url(self, url: str) -> PictureFacts | str:
        if self._recalled(url, _ONCE) is None:
            self._download([url])
        found = self._recalled(url, _ONCE)
        assert found is not None
        return found

    def _of_bytes(self, data: bytes) -> PictureFacts:
        key = f"sha256:{sha256(data).hexdigest()}"
        found = self._recalled(key, _ONCE)
        if not isinstance(found, PictureFacts):
            found = self._kept(data)
            self._note(key, _ONCE, found)
        return found

    def _of_file(self, reference: str) -> PictureFacts | str:
        try:
            path = self._path_of(reference)
            stamp = self._stamp(path)
            if (known := self._recalled(reference, stamp)) is not None:
                return known
            found = _facts_or_fault(self._read(path))
        except InputError as error:
            return error.message
        self._note(reference, stamp, found)
        return found

    def _recalled(self, reference: str, stamp: _Stamp) -> PictureFacts | str | None:
        with self._lock:
            known = self._facts.get(reference)
            if known is None or known[0] != stamp:
                return None
            self._facts.move_to_end(reference)
            return known[1]

    def _note(self, reference: str, stamp: _Stamp, found: PictureFacts | str) -> None:
        with self._lock:
            _remember(self._facts, reference, (stamp, found))

    # -- files ---------------------------------------------------------------------------------------------------

    def _path_of(self, reference: str, picture: SentPicture | None = None) -> Path:
        """Where the bytes are. A picture from a URL is kept under its hash."""
        folder = self.root / FOLDER
        if reference.startswith(KEPT_PICTURE):
            name = reference.removeprefix(KEPT_PICTURE)
            if not _KEPT_NAME.fullmatch(name):
                raise InputError(f"is no name of a kept picture ({KEPT_PICTURE}HASH.SUFFIX)")
            return folder / name
        if not _is_url(reference):
            return Path(reference)
        if picture is not None:
            return folder / _kept_name(picture)
        hash16 = reference.rpartition(_CONTENT)[2]
        paths = [folder / f"{hash16}{suffix}" for suffix in SUFFIXES.values()]
        found = next((path for path in paths if path.is_file()), None)
        if found is None:
            raise InputError(f"was downloaded once, and is no longer in {folder}: give its URL again")
        return found

    def _stamp(self, path: Path) -> _Stamp:
        try:
            status = path.stat()
        except (OSError, ValueError) as error:  # a NUL character, which is told when the request is parsed
            raise InputError(f"cannot be read: {getattr(error, 'strerror', error)}") from None
        if not stat.S_ISREG(status.st_mode) or status.st_size > self._max_bytes:
            raise InputError(f"is no file of at most {self._max_bytes:,} bytes")
        return status.st_mtime_ns, status.st_size

    def _read(self, path: Path) -> bytes:
        self._stamp(path)
        try:
            return path.read_bytes()
        except OSError as error:
            raise InputError(f"cannot be read: {error.strerror}") from None

    def _kept(self, data: bytes) -> PictureFacts:
        """What the picture is, once it is in the folder of kept ones. Raises `InputError` for what is none."""
        if len(data) > self._max_bytes:
            raise InputError(f"is {len(data):,} bytes, more than {self._max_bytes:,}")
        found = facts_of(data)
        path = self.root / FOLDER / _kept_name(found)
        try:
            if not path.is_file() or path.stat().st_size != len(data):
                path.parent.mkdir(parents=True, exist_ok=True)
                part = path.with_name(f".{path.name}.{threading.get_ident()}.part")
                with part.open("wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                part.replace(path)
        except OSError as error:
            raise InputError(f"cannot be kept in {path.parent}: {error.strerror}") from None
        return found

    # -- URLs ----------------------------------------------------------------------------------------------------

    def _download(self, urls: list[str]) -> None:
        """In a thread and an event loop of their own: the caller may have a loop, and may not."""
        if urls:
            with ThreadPoolExecutor(1, "asyncgen-inputs") as thread:
                thread.submit(anyio.run, self._downloaded_all, urls).result()

    async def _downloaded_all(self, urls: list[str]) -> None:
        limit = anyio.CapacityLimiter(_DOWNLOADS_AT_ONCE)

        async def take(url: str) -> None:
            async with limit:
                found: PictureFacts | str
                try:
                    data = await self._downloaded(transport, url)
                    found = await anyio.to_thread.run_sync(self._kept, data)
                except InputError as error:
                    found = error.message
                self._note(url, _ONCE, found)

        async with aiohttp_transport() as transport, anyio.create_task_group() as tasks:
            for url in urls:
                tasks.start_soon(take, url)

    async def _downloaded(self, transport: Transport, url: str) -> bytes:
        """With the guards of results: https only, every redirect checked, no private address, size-capped."""
        for _ in range(_MAX_REDIRECTS + 1):
            match await self._asked(transport, url):
                case Downloaded(data):
                    return data
                case Redirected(target):
                    url = target
        raise InputError(f"redirects more than {_MAX_REDIRECTS} times")

    async def _asked(self, transport: Transport, url: str) -> Downloaded | Redirected:
        if problem := protocol.download_problem(url, self._allow_private):
            raise InputError(f"was not opened: {problem}")
        request = protocol.download_request(
            url,
            timeout_seconds=self._timeout_seconds,
            max_reply_bytes=self._max_bytes,
            allow_private=self._allow_private,
        )
        assert not isinstance(request, Rejected)
        reason = ""
        for number in range(_TRIES):
            await _CLOCK.sleep(_PAUSE_SECONDS * number)
            try:
                outcome = replies.decipher_download(await transport.send(request), url)
            except (AddressRefusedError, ReplyTooLargeError) as error:
                raise InputError(f"was not downloaded: {error}") from None
            except TransportError as error:
                reason = str(error)
                continue
            if isinstance(outcome, Rejected):
                raise InputError(f"cannot be downloaded: {outcome.failure.message.partition(': ')[2]}")
            if not isinstance(outcome, Transient):
                return outcome
            reason = outcome.reason
        raise InputError(f"could not be downloaded in {_TRIES} tries ({reason})")


def wanted_now(found: PictureFacts) -> SentPicture:
    """A picture that is sent as it is."""
    return SentPicture(found.sha256, found.format, found.width, found.height, found.size_bytes)


def _kept_name(picture: PictureFacts | SentPicture) -> str:
    return f"{picture.sha256[:16]}{SUFFIXES[picture.format]}"


def _is_url(reference: str) -> bool:
    return reference.startswith(("https://", "http://"))


def _is_asked_for(reference: str) -> bool:
    """Whether what is behind it must be downloaded to be known."""
    return _is_url(reference) and not _HASH16.fullmatch(reference.rpartition(_CONTENT)[2])


def _shown(reference: str) -> str:
    return without_secrets(reference) if _is_url(reference) else reference


def _facts_or_fault(data: bytes) -> PictureFacts | str:
    try:
        return facts_of(data)
    except InputError as error:
        return error.message


def _remember(known: OrderedDict[Any, T], key: Any, value: T) -> None:
    known[key] = value
    known.move_to_end(key)
    if len(known) > _REMEMBERED:
        known.popitem(last=False)


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Adds the picture's name to the errors inside."""
    try:
        yield
    except InputError as error:
        raise InputError(error.message, field=name) from None
