"""What a caller gets back for each image."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import pybase64

from asyncgen.errors import Failure, FailureClass, FailureCode
from asyncgen.images import Picture
from asyncgen.lifecycle import State
from asyncgen.protocol import Timing
from asyncgen.records import Item, StoredPicture, Want

Status = Literal["success", "delivered", "failed", "cancelled", "held", "pending"]
_DELIVERED = Failure(
    FailureClass.ITEM,
    FailureCode.NO_IMAGE,
    "an earlier run delivered it in memory and no file was kept: rebuy_changed=True makes it again",
)
_STATUS: dict[State, Status] = {
    State.STORED: "success",
    State.FAILED: "failed",
    State.GIVEN_UP: "failed",
    State.LOST: "failed",
    State.CANCELLED: "cancelled",
    State.UNKNOWN: "held",
}


@dataclass(frozen=True, slots=True)
class ImageResult:
    """What became of one wanted job.

    `index` counts wanted jobs in input order from 0 (a request for several `images` takes as many places). `id` is the
    caller's own. `pictures` are the records of what was stored, more than one with `batch_size`; `paths` their files.
    `failure` says why there is none. `status` "delivered": an earlier run handed it over in memory, and it exists
    nowhere since. `kept`: it was there before this run. `repeats`: an earlier place of this input is the same image.
    `changed`: it was made with other values than today's, and kept. `delay_ms` and `execution_ms` are the platform's,
    None where it did not say or for kept.
    """

    index: int
    request_id: str
    status: Status
    state: State
    id: str | None
    prompt: str
    prompt_sent: str
    seed: int
    style_id: str | None
    style_title: str | None
    width: int
    height: int
    steps: int
    pictures: tuple[StoredPicture, ...]
    root: Path
    timestamp: float
    failure: Failure | None = None
    kept: bool = False
    changed: bool = False
    repeats: bool = False
    delay_ms: int | None = None
    execution_ms: int | None = None
    delivered: tuple[Picture, ...] = field(default=(), repr=False)

    @property
    def ok(self) -> bool:
        """Whether the picture is there."""
        return self.status == "success"

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files, in order; empty for pictures that were delivered in memory."""
        return tuple(self.root / picture.path for picture in self.pictures if picture.path is not None)

    @property
    def saved_path(self) -> Path | None:
        """The first file, None where there is none."""
        return next(iter(self.paths), None)

    def read_pictures(self) -> list[bytes]:
        """The bytes of every picture, from memory or from the files. Raises OSError when a file is gone."""
        return [picture.data for picture in self.delivered] or [path.read_bytes() for path in self.paths]

    def to_dict(self, *, images: bool = False) -> dict[str, Any]:
        """The response of the system we grew out of; base64 pictures only when asked for (it reads the files)."""
        return {
            "request_id": self.request_id,
            "status": self.status,
            "images": [pybase64.b64encode(data).decode("ascii") for data in self.read_pictures()] if images else [],
            "seed": self.seed,
            "style_id": self.style_id,
            "saved_path": None if self.saved_path is None else str(self.saved_path),
            "error": None if self.failure is None else str(self.failure),
            "metadata": {
                "prompt": self.prompt,
                "width": self.width,
                "height": self.height,
                "steps": self.steps,
                "style_title": self.style_title,
                "timestamp": datetime.fromtimestamp(self.timestamp, UTC).isoformat(),
            },
        }


def result_of(
    index: int,
    item: Item,
    want: Want,
    root: Path,
    *,
    kept: bool = False,
    repeats: bool = False,
    timing: Timing | None = None,
    delivered: tuple[Picture, ...] = (),
    not_sent: Failure | None = None,
) -> ImageResult:
    """The result of an item as the ledger has it now; `not_sent` says why one is pending that nothing is wrong with."""
    spec = want.spec
    timing = timing or Timing()
    gone = item.was_delivered and not delivered
    return ImageResult(
        index=index,
        request_id=item.request_id,
        status="delivered" if gone else _STATUS.get(item.state, "pending"),
        state=item.state,
        id=want.request.id,
        prompt=spec.prompt,
        prompt_sent=spec.prompt_sent,
        seed=item.seed,
        style_id=spec.style_id,
        style_title=spec.style_title,
        width=spec.width,
        height=spec.height,
        steps=spec.steps,
        pictures=item.pictures if item.state is State.STORED else (),
        root=root,
        timestamp=item.state_at,
        failure=_DELIVERED if gone else not_sent or item.failure,
        kept=kept,
        changed=item.changed,
        repeats=repeats,
        delay_ms=timing.delay_ms,
        execution_ms=timing.execution_ms,
        delivered=delivered,
    )
