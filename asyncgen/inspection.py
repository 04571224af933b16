"""Whether the pictures of a job count, looked at before anything is stored.

What is cheap is done where it is; what decodes a picture runs in a file thread, and only where something asks for it
(`asyncgen.looks` says what that is).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from asyncgen import checks, looks
from asyncgen.checks import CheckLevel, Finding
from asyncgen.errors import Failure, FailureCode
from asyncgen.images import ImageFaultError, Picture
from asyncgen.images import check as whole_picture
from asyncgen.ledger import Ledger
from asyncgen.ports import Ports
from asyncgen.records import Look, Sibling, Want
from asyncgen.scoring import Scorer, Scoring

log = logging.getLogger(__name__)
#: The sizes that a job's workflow makes, as far as they can be told: (width, height) each, None where they cannot.
Sizes = Callable[[Want], frozenset[tuple[int, int]] | None]


class Inspector:
    """Looks at pictures for one run. Build it inside the running event loop."""

    def __init__(
        self, ports: Ports, ledger: Ledger, root: Path, level: CheckLevel, sizes: Sizes, scorer: Scorer | None = None
    ) -> None:
        self._ports, self._ledger, self._root, self.level, self._sizes = ports, ledger, root, level, sizes
        self._scoring = None if scorer is None else Scoring(scorer, ports.file_threads)
        self._in_work: Counter[bytes] = Counter()

    @contextmanager
    def in_work(self, want: Want) -> Iterator[None]:
        """A job of this prompt goes on; another seed of it will want to know how its picture looks."""
        prompt = want.fingerprint
        self._in_work[prompt] += 1
        try:
            yield
        finally:
            self._in_work[prompt] -= 1
            if not self._in_work[prompt]:
                del self._in_work[prompt]

    # -- each by itself ------------------------------------------------------------------------------------------

    async def fault(self, pictures: Sequence[Picture], want: Want, seed: int) -> Failure | None:
        """Why these pictures do not count, by themselves; None where they do."""
        sizes = [(picture.width, picture.height) for picture in pictures]
        return (
            checks.size_failure(sizes, self._sizes(want))
            or await self._blank(pictures, want)
            or await self._rejected(pictures, want, seed)
        )

    async def _blank(self, pictures: Sequence[Picture], want: Want) -> Failure | None:
        if self.level is CheckLevel.OFF:
            return None
        suspects = [looks.may_be_blank(picture) for picture in pictures]
        if not any(suspects):
            return None
        try:
            faults = await self._ports.file_threads.run(_blank_faults, pictures, suspects)
        except ValueError as error:
            return checks.item_failure(FailureCode.CORRUPT_IMAGE, f"the picture came damaged: {error}")
        return self._settled(checks.blank_finding(faults, want.spec.batch_size))

    async def _rejected(self, pictures: Sequence[Picture], want: Want, seed: int) -> Failure | None:
        if self._scoring is None:
            return None
        for picture in pictures:
            reason = await self._scoring.rejection(picture, want.request, seed)
            if reason is not None:
                return checks.item_failure(FailureCode.REJECTED_BY_SCORER, reason)
        return None

    def _settled(self, finding: Finding | None) -> Failure | None:
        """What fails at this level; the rest is told."""
        if finding is None:
            return None
        failure = finding.failure_at(self.level)
        if failure is None:
            log.warning("the picture is kept, though %s (ASYNCGEN_CHECK=%s)", finding.words, self.level)
        return failure

    # -- beside those of other seeds -----------------------------------------------------------------------------

    async def looks(self, pictures: Sequence[Picture], want: Want) -> tuple[Look, ...]:
        """What tells the pictures from others; empty where nobody asks. Decodes them where another seed is near."""
        if self.level is CheckLevel.OFF:
            return ()
        found = tuple(Look(looks.pixels_hash(picture)) for picture in pictures)
        has_siblings = want.request.images > 1 or self._in_work[want.fingerprint] > 1
        return await self._with_perception(pictures, found) if has_siblings else found

    async def compared(
        self, pictures: Sequence[Picture], own: tuple[Look, ...], siblings: Sequence[Sibling]
    ) -> tuple[tuple[Look, ...], Failure | None]:
        """The pictures' looks, complete now, and why the pictures do not count beside those of other seeds."""
        finding = checks.likeness(own, siblings)
        if finding is None or finding.fault is not checks.Fault.DUPLICATE:
            own = await self._with_perception(pictures, own)
            finding = checks.likeness(own, [await self._completed(sibling) for sibling in siblings])
        return own, self._settled(finding)

    async def _with_perception(self, pictures: Sequence[Picture], own: tuple[Look, ...]) -> tuple[Look, ...]:
        if all(look.perceptual_hash is not None for look in own):
            return own
        hashes = await self._ports.file_threads.run(_perceptual_hashes, pictures)
        return tuple(replace(look, perceptual_hash=found) for look, found in zip(own, hashes, strict=True))

    async def _completed(self, sibling: Sibling) -> Sibling:
        """A picture that was alone when it was stored is looked at now, in its file, once."""
        if sibling.look.perceptual_hash is not None or sibling.path is None:
            return sibling
        read = partial(_look_at_file, self._ports.disk.read, self._root / sibling.path)
        look = await self._ports.file_threads.run(read)
        if look is None:
            return sibling
        await self._ledger.record_look(sibling.image_id, look)
        return replace(sibling, look=look)


def _blank_faults(pictures: Sequence[Picture], suspects: Sequence[bool]) -> list[str | None]:
    return [looks.blank_fault(p) if suspect else None for p, suspect in zip(pictures, suspects, strict=True)]


def _perceptual_hashes(pictures: Sequence[Picture]) -> list[str | None]:
    return [looks.perceptual_hash(picture) for picture in pictures]


def _look_at_file(read: Callable[[Path], bytes], path: Path) -> Look | None:
    """None where the file is gone, or is no picture any more: `asyncgen verify` tells."""
    try:
        picture = whole_picture(read(path))
    except (OSError, ImageFaultError):
        return None
    return Look(looks.pixels_hash(picture), looks.perceptual_hash(picture))
