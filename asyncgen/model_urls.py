"""Where workers may download the LoRA files of a graph from: the registry's `s3_url`, the caller's URLs, a presigner.

What may be secret in a URL (its query, a user's name) is put into the job and nowhere else: specs, and all that is made
of them, have the URL without it, so that a new signature makes no other image. Pure but for the caller's presigner.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Final, Protocol

from asyncgen.errors import Failure, FailureClass, FailureCode, InputError, RunPausedError
from asyncgen.loras import Lora, with_suffix
from asyncgen.ports import Blocking
from asyncgen.styles import LoraFile
from asyncgen.url_secrets import SECRET_PART, recordable

log = logging.getLogger(__name__)

#: Given a LoRA's file name and its URL, the URL to send: asked when a job is about to be sent. It may be async.
Presign = Callable[[str, str], str | Awaitable[str]]
_S3: Final = "s3://"
_URL_SCHEMES: Final = ("https://", "http://")


class LoraFiles(Protocol):
    """What is needed of a styles registry."""

    def get_lora_info(self, lora: str) -> LoraFile | None: ...


class ModelUrls:
    """The URLs of one generator. `given` maps LoRA names to URLs, and wins over the registry."""

    def __init__(
        self, registry: LoraFiles, given: Mapping[str, str] | None = None, presign: Presign | None = None
    ) -> None:
        self._registry, self._presign = registry, presign
        self._given = {with_suffix(name): url for name, url in (given or {}).items()}
        self._used: set[str] = set()
        self._warned: set[str] = set()

    def recorded(self, loras: Iterable[Lora]) -> Iterator[tuple[str, str]]:
        """Name and URL, as they may be written down, of those LoRAs that have one."""
        for lora in loras:
            if url := self._url(lora.name):
                self._used.add(lora.name)
                self._warn_of_s3(lora.name, url)
                yield lora.name, recordable(url)

    def warn_of_unused(self) -> None:
        """Tell of given names that no graph has asked for, each once: they may be misspelt."""
        for name in self._given.keys() - self._used - self._warned:
            self._warned.add(name)
            log.warning("a URL is given for %s, which no image needs (its name must be that of a LoRA file)", name)

    async def to_send(self, recorded: Iterable[tuple[str, str]], threads: Blocking) -> dict[str, str]:
        """The URLs that a job carries, by name, with what is secret in them.

        Raises `InputError` where that is not known any more, `RunPausedError` where the presigner fails: it would for
        every job alike.
        """
        return {name: await self._whole(name, shown, threads) for name, shown in recorded}

    async def _whole(self, name: str, shown: str, threads: Blocking) -> str:
        url = self._url(name)
        if url is None or recordable(url) != shown:
            if shown.endswith(SECRET_PART):
                raise InputError(
                    f"the URL of {name} has a secret part, which is kept nowhere: give it again with --model-url "
                    f"{name}=URL ({shown}), or make the image with today's values (--rebuy-changed)",
                    field="model_urls",
                )
            url = shown
        return url if self._presign is None else await self._presigned(self._presign, name, url, threads)

    async def _presigned(self, presign: Presign, name: str, url: str, threads: Blocking) -> str:
        """Off the event loop: it may ask somebody. What it raises may quote the URL, and is not told."""
        try:
            signed = await threads.run(presign, name, url)
            if inspect.isawaitable(signed):
                signed = await signed
        except Exception as error:
            raise _no_url(name, f"raised {type(error).__name__}") from None
        if not isinstance(signed, str) or not signed.startswith(_URL_SCHEMES):
            raise _no_url(name, "returned no https:// URL")
        return signed

    def _url(self, name: str) -> str | None:
        if url := self._given.get(name):
            return url
        info = self._registry.get_lora_info(name)
        return (info.s3_url or None) if info else None

    def _warn_of_s3(self, name: str, url: str) -> None:
        if url.startswith(_S3) and self._presign is None and name not in self._warned:
            self._warned.add(name)
            log.warning(
                "%s is at an s3:// URL, which only a worker with credentials of its own can open: name an https URL "
                "with --model-url, or give a presigner (Python: presign=)",
                name,
            )


def _no_url(name: str, what: str) -> RunPausedError:
    message = f"the presigner {what} for {name}: nothing is sent without its URL"
    return RunPausedError(Failure(FailureClass.TRANSPORT, FailureCode.UNREACHABLE, message))
