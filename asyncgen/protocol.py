"""The RunPod queue protocol without I/O: the requests we send, and the outcomes a reply can have.

`asyncgen.replies` turns a reply into one of these outcomes; nothing else interprets what the platform says.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

from asyncgen.errors import Failure, FailureClass, FailureCode, InputError
from asyncgen.ports import HttpRequest

#: What `/run` takes at most, in bytes.
MAX_RUN_BODY_BYTES: Final = 10 * 1024 * 1024
#: Replies without a result (to /run, /cancel, /retry, /health) are a few hundred bytes.
MAX_SMALL_REPLY_BYTES: Final = 1024 * 1024
#: Replies with a result: the platform caps results at 10 to 20 MB, base64 included.
MAX_RESULT_REPLY_BYTES: Final = 32 * 1024 * 1024

# Inclusive ranges of the platform, in milliseconds.
EXECUTION_TIMEOUT_RANGE_MS: Final = (5_000, 7 * 86_400_000)
TTL_RANGE_MS: Final = (10_000, 7 * 86_400_000)
RUNSYNC_WAIT_RANGE_MS: Final = (1_000, 300_000)
STATUS_SYNC_WAIT_RANGE_MS: Final = (1_000, 90_000)
#: Not `json.dumps`, which makes an encoder for each call; a circle is a RecursionError without being looked for.
_JSON: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Timing:
    """What a reply says about the job's run; each is None where the reply does not say. Milliseconds."""

    delay_ms: int | None = None
    execution_ms: int | None = None
    worker_id: str | None = None


@dataclass(frozen=True, slots=True)
class InlineImage:
    """A picture inside the reply, still base64 (a data-URI prefix is already cut off); a long one as a view into it."""

    base64_text: str | memoryview


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """A picture that was inside the reply."""

    data: bytes = field(repr=False)


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
    """Finished with pictures, not yet looked at. `notes` are the worker's complaints: then a picture may be missing."""

    images: tuple[InlineImage | DecodedImage | LinkedImage, ...]
    timing: Timing
    notes: tuple[str, ...] = ()

    @property
    def image_bytes(self) -> int:
        """How much there is to look at, without what is linked."""
        decoded = sum(len(image.data) for image in self.images if isinstance(image, DecodedImage))
        return decoded + sum(len(image.base64_text) for image in self.images if isinstance(image, InlineImage))


@dataclass(frozen=True, slots=True)
class Failed:
    """Finished without a usable picture. `refetch_first`: the reply itself may be damaged, and fetching is free.

    `may_be_retried`: the platform's word for it was FAILED or TIMED_OUT, for which `/retry` runs the job again.
    `is_of_before`: to the millisecond it is an end that the job had before it was to be retried, and nothing has said
    that it ran again since.
    `aside` are pictures that came with the failure: they are no result and are not counted, but they were paid for.
    """

    failure: Failure
    timing: Timing = Timing()
    refetch_first: bool = False
    may_be_retried: bool = False
    is_of_before: bool = False
    aside: tuple[InlineImage | DecodedImage | LinkedImage, ...] = ()


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


@dataclass(frozen=True, slots=True)
class Ran:
    """`/runsync` took the job; `outcome` is where it stood when the reply came.

    `job_id` is None only where a finished job's reply names none.
    """

    job_id: str | None
    outcome: Pending | Completed | Failed | Cancelled


@dataclass(frozen=True, slots=True)
class JobCounts:
    """The `jobs` of `/health`; a count that the reply does not give is 0."""

    in_queue: int = 0
    in_progress: int = 0
    completed: int = 0
    failed: int = 0
    retried: int = 0


@dataclass(frozen=True, slots=True)
class WorkerCounts:
    """The `workers` of `/health`; a count that the reply does not give is 0."""

    idle: int = 0
    initializing: int = 0
    ready: int = 0
    running: int = 0
    throttled: int = 0
    unhealthy: int = 0


@dataclass(frozen=True, slots=True)
class Health:
    """What `/health` says of one endpoint."""

    jobs: JobCounts
    workers: WorkerCounts


@dataclass(frozen=True, slots=True)
class Downloaded:
    """The bytes behind a result's URL, not yet checked."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Redirected:
    """The picture is said to be elsewhere; `url` is absolute and as little trusted as the first one."""

    url: str


@dataclass(frozen=True, slots=True)
class EndpointAddress:
    """Where an endpoint is: `base_url` (https://api.runpod.ai/v2, say) and the endpoint's id."""

    base_url: str
    endpoint_id: str

    def url(self, operation: str, job_id: str | None = None, **query: int | str) -> str:
        """The URL of one operation; no id can leave its own place in the path."""
        places = [self.endpoint_id, operation] if job_id is None else [self.endpoint_id, operation, job_id]
        path = "/".join([self.base_url.rstrip("/"), *(quote(place, safe="") for place in places)])
        return f"{path}?{urlencode(query)}" if query else path


def job_body(
    job_input: Mapping[str, Any], *, ttl_ms: int | None, execution_timeout_ms: int | None, webhook: str | None = None
) -> bytes:
    """The body of `/run` and `/runsync`; None leaves a value to the platform (ttl 24 h, execution timeout 10 min).

    Raises `InputError` where the input is empty or no JSON, a time is out of the platform's range, or the body is over
    `MAX_RUN_BODY_BYTES`.
    """
    if not job_input:
        raise InputError("the job input is empty; the platform would bill for a job that cannot run", field="input")
    policy = {
        "ttl": _in_range("ttl_ms", ttl_ms, TTL_RANGE_MS),
        "executionTimeout": _in_range("execution_timeout_ms", execution_timeout_ms, EXECUTION_TIMEOUT_RANGE_MS),
    }
    given = {"policy": {name: ms for name, ms in policy.items() if ms is not None}, "webhook": webhook}
    body = _as_json({"input": dict(job_input), **{name: value for name, value in given.items() if value}})
    if len(body) > MAX_RUN_BODY_BYTES:
        raise body_too_large(len(body), len(_as_json(job_input.get("images", ""))))
    return body


def body_too_large(body_bytes: int, picture_bytes: int) -> InputError:
    """What to say of a job over `MAX_RUN_BODY_BYTES`, of which its input pictures have so many."""
    rest = body_bytes - picture_bytes
    if picture_bytes >= rest:
        cure = f"its input pictures have {picture_bytes:,} of them, so send smaller or fewer"
    else:
        cure = f"its graph and texts have {rest:,} of them, so shorten the prompt"
    return InputError(
        f"the job is {body_bytes:,} bytes and the platform takes at most {MAX_RUN_BODY_BYTES:,} (10 MiB): {cure}",
        field="input",
    )


def run_request(address: EndpointAddress, api_key: str, body: bytes, timeout_seconds: float) -> HttpRequest:
    """`POST /run`: the only request, with /runsync and /retry, that buys something."""
    return _request("POST", address.url("run"), api_key, timeout_seconds, body=body)


def runsync_request(
    address: EndpointAddress, api_key: str, body: bytes, timeout_seconds: float, wait_ms: int
) -> HttpRequest:
    """`POST /runsync`, held by the server for `wait_ms` (1,000 to 300,000; brought into that range).

    `timeout_seconds` counts on top of the wait.
    """
    wait_ms = _clamped(wait_ms, RUNSYNC_WAIT_RANGE_MS)
    url = address.url("runsync", wait=wait_ms)
    return _request("POST", url, api_key, timeout_seconds + wait_ms / 1000, body=body, carries_result=True)


def status_request(address: EndpointAddress, api_key: str, job_id: str, timeout_seconds: float) -> HttpRequest:
    """`GET /status/{id}`. Never with `ttl`, which would *set* the job's time to live."""
    return _request("GET", address.url("status", job_id), api_key, timeout_seconds, carries_result=True)


def status_sync_request(
    address: EndpointAddress, api_key: str, job_id: str, timeout_seconds: float, wait_ms: int
) -> HttpRequest:
    """`GET /status-sync/{id}`, held for `wait_ms` (1,000 to 90,000; brought into that range).

    Undocumented, so it may be gone. `timeout_seconds` counts on top of the wait.
    """
    wait_ms = _clamped(wait_ms, STATUS_SYNC_WAIT_RANGE_MS)
    url = address.url("status-sync", job_id, wait=wait_ms)
    return _request("GET", url, api_key, timeout_seconds + wait_ms / 1000, carries_result=True)


def cancel_request(address: EndpointAddress, api_key: str, job_id: str, timeout_seconds: float) -> HttpRequest:
    """`POST /cancel/{id}`, for a queued or running job."""
    return _request("POST", address.url("cancel", job_id), api_key, timeout_seconds)


def retry_request(address: EndpointAddress, api_key: str, job_id: str, timeout_seconds: float) -> HttpRequest:
    """`POST /retry/{id}`, for a FAILED or TIMED_OUT job: it runs again, and is billed again, under the same id."""
    return _request("POST", address.url("retry", job_id), api_key, timeout_seconds)


def health_request(address: EndpointAddress, api_key: str, timeout_seconds: float) -> HttpRequest:
    """`GET /health`."""
    return _request("GET", address.url("health"), api_key, timeout_seconds)


def download_request(
    url: str, *, timeout_seconds: float, max_reply_bytes: int, allow_private: bool = False
) -> HttpRequest | Rejected:
    """A GET for a picture at a URL that a worker named, without the key; rejected (ITEM) where it must not be opened.

    `allow_private` admits plain http and private addresses, for sandboxes and one's own storage.
    """
    if problem := download_problem(url, allow_private):
        message = f"the worker's result URL was not opened: {problem}"
        return Rejected(Failure(FailureClass.ITEM, FailureCode.RESULT_URL_REFUSED, message))
    return HttpRequest(
        "GET",
        url,
        {"Accept-Encoding": "identity"},
        timeout_seconds=timeout_seconds,
        max_reply_bytes=max_reply_bytes,
        public_hosts_only=not allow_private,
    )


def download_problem(url: str, allow_private: bool) -> str | None:
    """Why a URL that somebody else named must not be opened, None where it may be."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "it is malformed"
    schemes = ("https", "http") if allow_private else ("https",)
    if parts.scheme not in schemes:
        return f"its scheme is {parts.scheme[:20]!r}, and only {' and '.join(schemes)} may be used"
    if not host or parts.username is not None:
        return "it names no host, or carries a user name"
    return None


def _request(
    method: str,
    url: str,
    api_key: str,
    timeout_seconds: float,
    *,
    body: bytes | None = None,
    carries_result: bool = False,
) -> HttpRequest:
    # Inflating a result costs ten times what it saves (pictures do not compress).
    headers = {"Authorization": f"Bearer {api_key}", "Accept": "application/json", "Accept-Encoding": "identity"}
    if body is not None:
        headers["Content-Type"] = "application/json"
    limit = MAX_RESULT_REPLY_BYTES if carries_result else MAX_SMALL_REPLY_BYTES
    return HttpRequest(method, url, headers, body, timeout_seconds, max_reply_bytes=limit)


def _as_json(value: object) -> bytes:
    try:
        return _JSON.encode(value).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"the job input cannot be written as JSON: {error}", field="input") from error


def _in_range(field: str, value_ms: int | None, range_ms: tuple[int, int]) -> int | None:
    low, high = range_ms
    if value_ms is not None and not low <= value_ms <= high:
        raise InputError(f"{value_ms} ms is outside what the platform takes, {low} to {high} ms", field=field)
    return value_ms


def _clamped(value_ms: int, range_ms: tuple[int, int]) -> int:
    low, high = range_ms
    return min(max(value_ms, low), high)
