"""The RunPod queue protocol without I/O. SKELETON: a helper fills the deciphering in."""

from __future__ import annotations

from dataclasses import dataclass

from asyncgen.errors import Failure


@dataclass(frozen=True, slots=True)
class Timing:
    """What a reply says about the job's run; each is None where the reply does not say. Milliseconds."""

    delay_ms: int | None = None
    execution_ms: int | None = None
    worker_id: str | None = None


@dataclass(frozen=True, slots=True)
class InlineImage:
    """A picture inside the reply, still base64 (a data-URI prefix is already cut off)."""

    base64_text: str


@dataclass(frozen=True, slots=True)
class LinkedImage:
    """A picture to be downloaded."""

    url: str


@dataclass(frozen=True, slots=True)
class Accepted:
    """`/run` took the job: from now on it is paid for."""

    job_id: str


@dataclass(frozen=True, slots=True)
class Refused:
    """Certainly not accepted (429, 503): send it again, not before `retry_after_seconds` if that is not None."""

    reason: str
    retry_after_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Unknown:
    """The job may or may not have been accepted (500, 502, 504, 52x, or a 200 that cannot be read)."""

    reason: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """The platform refuses the request for good; `failure.kind` (ITEM or ACCOUNT) says whose fault it is."""

    failure: Failure


@dataclass(frozen=True, slots=True)
class Pending:
    """Not finished. `status` is the platform's word, which may be one we do not know."""

    job_id: str | None
    status: str
    timing: Timing


@dataclass(frozen=True, slots=True)
class Completed:
    """Finished with pictures, not yet decoded. `notes` are the worker's own complaints: then a picture may be missing."""

    images: tuple[InlineImage | LinkedImage, ...]
    timing: Timing
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Failed:
    """Finished without a usable picture. `refetch_first`: the reply itself may be damaged, and fetching is free."""

    failure: Failure
    timing: Timing = Timing()
    refetch_first: bool = False


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The job was taken back at the platform."""

    timing: Timing


@dataclass(frozen=True, slots=True)
class Missing:
    """404: unknown to the platform. Soon after submission this can be propagation; later it is expired or lost."""


@dataclass(frozen=True, slots=True)
class Transient:
    """This request failed and may be repeated (429, 5xx, a body that cannot be read)."""

    reason: str
    retry_after_seconds: float | None = None
