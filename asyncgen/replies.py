"""The one place where the platform's bytes become a typed outcome. Pure; no reply, however broken, makes it raise.

A reply is read in this order: its HTTP status, the JSON object in it, the job's status word, the output. The replies it
is held to are those of `tests/replies/response-shapes.json`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import urljoin

from asyncgen.diagnosis import cleaned, diagnose, json_object, words_of
from asyncgen.errors import Failure, FailureClass, FailureCode
from asyncgen.lifting import LiftedObject, lifted_object
from asyncgen.outputs import find_images
from asyncgen.ports import HttpReply
from asyncgen.protocol import (
    Accepted,
    Cancelled,
    Completed,
    Downloaded,
    Failed,
    Health,
    JobCounts,
    Missing,
    Pending,
    Ran,
    Redirected,
    Refused,
    Rejected,
    Timing,
    Transient,
    Unknown,
    WorkerCounts,
)

JobOutcome = Pending | Completed | Failed | Cancelled

MAX_RETRY_AFTER_SECONDS: Final = 3600.0
MAX_JOB_ID_CHARACTERS: Final = 200
_MAX_EXCERPT_CHARACTERS: Final = 200
_MAX_EXCERPT_BYTES: Final = 64 * 1024
_MAX_COUNT: Final = 10**12

_HTML_TITLE = re.compile(r"<title[^>]{0,100}>([^<]{1,300})", re.IGNORECASE)
_SECONDS = re.compile(r"\d{1,9}(?:\.\d{1,6})?", re.ASCII)
_BUSY_STATUSES: Final = frozenset({429, 503})
_PASSING_CLIENT_ERRORS: Final = frozenset({408, 425, 429})
_REDIRECT_STATUSES: Final = frozenset({301, 302, 303, 307, 308})
_INPUT_STATUSES: Final = frozenset({400, 413, 422})
_NOT_FOUND: Final = 404


@dataclass(frozen=True, slots=True)
class _Refusal:
    """A 3xx or 4xx that has one of these HTTP statuses, or words that match.

    What is the item's own fault is known by its words only under a status that a fault of the input can have: a key
    that is refused stays the account's fault, whatever else the server says.
    """

    code: FailureCode
    statuses: frozenset[int]
    words: re.Pattern[str] | None
    advice: str
    kind: FailureClass = FailureClass.ACCOUNT

    def matches(self, status: int, said: str) -> bool:
        if status in self.statuses:
            return True
        words_count = self.kind is FailureClass.ACCOUNT or status in _INPUT_STATUSES
        return words_count and self.words is not None and self.words.search(said) is not None


# The first that matches decides; whatever matches none is `run_refused`.
_REFUSALS: Final = (
    _Refusal(
        FailureCode.LOAD_BALANCING_ENDPOINT,
        frozenset(),
        re.compile(r"\bLB API\b|use (?:the )?load.balanc", re.IGNORECASE),
        "this is a load-balancing endpoint and takes no jobs: use one of type queue",
    ),
    _Refusal(
        FailureCode.BODY_TOO_LARGE,
        frozenset({413}),
        re.compile(r"max(?:imum)? body size|(?:body|entity|payload) (?:is )?too large", re.IGNORECASE),
        "send smaller or fewer input pictures, or a shorter prompt",
        FailureClass.ITEM,
    ),
    _Refusal(
        FailureCode.NO_CREDIT,
        frozenset({402}),
        re.compile(r"\b(?:balance|credits?|funds|payment)\b|spend(?:ing)?[ _-]?limit", re.IGNORECASE),
        "add credit, or raise the spend limit, in the RunPod console",
    ),
    _Refusal(
        FailureCode.KEY_REFUSED,
        frozenset({401, 403}),
        None,
        "the API key is refused: check RUNPOD_API_KEY and what the key may do",
    ),
    _Refusal(
        FailureCode.ENDPOINT_UNKNOWN,
        frozenset({_NOT_FOUND}),
        None,
        "there is no such endpoint for this key: check the endpoint id and the base URL",
    ),
)
_POLLING_STOPS: Final = frozenset({FailureCode.LOAD_BALANCING_ENDPOINT, FailureCode.NO_CREDIT, FailureCode.KEY_REFUSED})

_NO_OUTPUT: Final = Failure(
    FailureClass.ITEM,
    FailureCode.NO_OUTPUT,
    "the job completed without an output: probably its result was over the platform's result limit (about 10 MiB); "
    "ask for a smaller size or batch, a smaller format, or a worker that uploads to a bucket",
)


def decipher_submission(reply: HttpReply) -> Accepted | Refused | Unknown | Rejected:
    """The reply to `POST /run`."""
    if not _is_success(reply):
        return _not_accepted(reply)
    job_id = _job_id(json_object(reply.body) or {})
    return Accepted(job_id) if job_id else Unknown(f"HTTP {reply.status} without a job id that can be read")


def decipher_runsync(reply: HttpReply) -> Ran | Refused | Unknown | Rejected:
    """The reply to `POST /runsync`: as for `/run`, and where the job was taken, how far it has come."""
    if not _is_success(reply):
        return _not_accepted(reply)
    answer = lifted_object(reply.body) or _NO_OBJECT
    job_id = _job_id(answer.record)
    outcome = _job_outcome(answer) or Pending(job_id, "", _timing(answer.record))
    if isinstance(outcome, Pending) and job_id is None:
        return Unknown(f"HTTP {reply.status} without a job id or a result that can be read")
    return Ran(job_id, outcome)


def decipher_status(reply: HttpReply) -> JobOutcome | Missing | Transient | Rejected:
    """The reply to `GET /status` and `/status-sync`."""
    if not _is_success(reply):
        return _not_answered(reply)
    return _job_outcome(lifted_object(reply.body) or _NO_OBJECT) or _unreadable(reply)


def decipher_cancel(reply: HttpReply) -> Cancelled | Pending | Missing | Transient | Rejected:
    """The reply to `POST /cancel`. Pending stands for any other word: the job may have finished, `/status` tells."""
    if not _is_success(reply):
        return _not_answered(reply)
    record = json_object(reply.body) or {}
    status = _status_word(record)
    if not status:
        return _unreadable(reply)
    timing = _timing(record)
    return Cancelled(timing) if status == "CANCELLED" else Pending(_job_id(record), status, timing)


def decipher_retry(reply: HttpReply) -> Accepted | Refused | Unknown | Missing | Rejected:
    """The reply to `POST /retry`. Missing: this job cannot be retried. Unknown: `/status` of the same id tells."""
    cannot_be_retried = reply.status // 100 == 4 and reply.status not in _BUSY_STATUSES
    if cannot_be_retried and not isinstance(_not_answered(reply), Rejected):
        return Missing()
    return decipher_submission(reply)


def decipher_health(reply: HttpReply) -> Health | Transient | Rejected:
    """The reply to `GET /health`; 404 is `endpoint_unknown`."""
    if not _is_success(reply):
        answer = _not_answered(reply)
        return Rejected(_refusal(reply)) if isinstance(answer, Missing) else answer
    record = json_object(reply.body) or {}
    jobs, workers = record.get("jobs"), record.get("workers")
    if not isinstance(jobs, dict) or not isinstance(workers, dict):
        return _unreadable(reply)
    return Health(_job_counts(jobs), _worker_counts(workers))


def decipher_download(reply: HttpReply, url: str) -> Downloaded | Redirected | Transient | Rejected:
    """The reply to a download of `url`. Any other 3xx or 4xx is the item's: the link is wrong or has expired."""
    if _is_success(reply):
        return Downloaded(reply.body)
    if target := _redirect_target(reply, url):
        return Redirected(target)
    if _is_refusal(reply) and reply.status not in _PASSING_CLIENT_ERRORS:
        message = f"the worker's result URL cannot be downloaded: {_said(reply)}"
        return Rejected(Failure(FailureClass.ITEM, FailureCode.RESULT_URL_REFUSED, message))
    return Transient(_said(reply), _retry_after_seconds(reply))


# -- HTTP


def _is_success(reply: HttpReply) -> bool:
    return 200 <= reply.status < 300


def _is_refusal(reply: HttpReply) -> bool:
    return 300 <= reply.status < 500


def _not_accepted(reply: HttpReply) -> Refused | Unknown | Rejected:
    if reply.status in _BUSY_STATUSES:
        return Refused(_said(reply), _retry_after_seconds(reply))
    return Rejected(_refusal(reply)) if _is_refusal(reply) else Unknown(_said(reply))


def _not_answered(reply: HttpReply) -> Missing | Transient | Rejected:
    if reply.status == _NOT_FOUND:
        return Missing()
    if _is_refusal(reply) and reply.status not in _PASSING_CLIENT_ERRORS:
        failure = _refusal(reply)
        if failure.code in _POLLING_STOPS or _is_redirect(reply):
            return Rejected(failure)
    return Transient(_said(reply), _retry_after_seconds(reply))


def _unreadable(reply: HttpReply) -> Transient:
    return Transient(f"HTTP {reply.status}, {len(reply.body)} bytes: not what this operation answers with")


def _refusal(reply: HttpReply) -> Failure:
    said = _said(reply)
    for known in _REFUSALS:
        if known.matches(reply.status, said):
            return Failure(known.kind, known.code, f"{said} ({known.advice})")
    advice = "the base URL leads elsewhere: check RUNPOD_ENDPOINT_BASE_URL" if _is_redirect(reply) else ""
    return Failure(FailureClass.ACCOUNT, FailureCode.RUN_REFUSED, f"{said} ({advice})" if advice else said)


def _is_redirect(reply: HttpReply) -> bool:
    return 300 <= reply.status < 400


def _redirect_target(reply: HttpReply, url: str) -> str | None:
    location = reply.headers.get("location", "")
    if reply.status not in _REDIRECT_STATUSES or not location:
        return None
    try:
        return urljoin(url, location)
    except ValueError:
        return None


def _said(reply: HttpReply) -> str:
    """The HTTP status and the server's own words, shortened; of an HTML page its title."""
    words = cleaned(_server_words(reply.body[:_MAX_EXCERPT_BYTES]), _MAX_EXCERPT_CHARACTERS)
    return f"HTTP {reply.status}: {words}" if words else f"HTTP {reply.status}"


def _server_words(excerpt: bytes) -> str:
    record = json_object(excerpt)
    if record is not None:
        return words_of(record)
    text = excerpt.decode("utf-8", "replace")
    title = _HTML_TITLE.search(text)
    if title:
        return title[1]
    return "" if text.lstrip().startswith("<") else text


def _retry_after_seconds(reply: HttpReply) -> float | None:
    """`Retry-After` as seconds, at most an hour; an HTTP date counts from the reply's own `Date`."""
    value = reply.headers.get("retry-after", "").strip()
    if _SECONDS.fullmatch(value):
        return min(float(value), MAX_RETRY_AFTER_SECONDS)
    try:
        wait = parsedate_to_datetime(value) - parsedate_to_datetime(reply.headers.get("date", ""))
    except (ValueError, TypeError, OverflowError, IndexError):  # no date, or one with and one without a time zone
        return None
    return min(max(wait.total_seconds(), 0.0), MAX_RETRY_AFTER_SECONDS)


# -- The job's record


_NO_OBJECT: Final = LiftedObject({})


def _job_outcome(answer: LiftedObject) -> JobOutcome | None:
    """None where the record has no status word."""
    record = answer.record
    status, timing = _status_word(record), _timing(record)
    match status:
        case "":
            return None
        case "COMPLETED":
            return _completed(answer, timing)
        case "FAILED" | "TIMED_OUT":
            aside = find_images(record.get("output"), answer.pictures).images
            return Failed(_failure(record, status), timing, may_be_retried=True, aside=aside)
        case "CANCELLED":
            return Cancelled(timing)
        case _:  # IN_QUEUE, IN_PROGRESS, RUNNING; a word we do not know ends nothing
            return Pending(_job_id(record), status, timing)


def _failure(record: Mapping[str, Any], status: str) -> Failure:
    words = "; ".join(part for part in (words_of(record.get("error")), words_of(record.get("output"))) if part)
    if status == "FAILED":
        return diagnose(words)
    message = "the platform ended the job at its time limit" + (f": {words}" if words else "")
    return Failure(FailureClass.INFRASTRUCTURE, FailureCode.TIMED_OUT, cleaned(message))


def _completed(answer: LiftedObject, timing: Timing) -> Completed | Failed:
    record = answer.record
    output = record.get("output")
    if output is None and "images" in record:
        output = {"images": record["images"]}
    complaint = cleaned(words_of(record.get("error")))
    if output is None:
        return Failed(diagnose(complaint) if complaint else _NO_OUTPUT, timing)
    found = find_images(output, answer.pictures)
    if found.failure:
        return Failed(found.failure, timing, aside=found.images)
    notes = (*found.notes, complaint) if complaint else found.notes
    if found.images:
        return Completed(found.images, timing, notes)
    return Failed(_no_image(notes, output), timing)


def _no_image(notes: tuple[str, ...], output: object) -> Failure:
    if notes:
        return diagnose("; ".join(notes))
    said = cleaned(words_of(output), _MAX_EXCERPT_CHARACTERS)
    message = "the job completed, but there is no picture in its output: does the workflow save one (SaveImage)?"
    return Failure(FailureClass.ITEM, FailureCode.NO_IMAGE, f"{message} The worker says: {said}" if said else message)


def _status_word(record: Mapping[str, Any]) -> str:
    status = record.get("status")
    return cleaned(status, 40) if isinstance(status, str) else ""


def _job_id(record: Mapping[str, Any]) -> str | None:
    """Ids are opaque; one that is no printable text, or could walk through a URL's path, is none."""
    job_id = record.get("id")
    if not isinstance(job_id, str) or not 0 < len(job_id) <= MAX_JOB_ID_CHARACTERS:
        return None
    return job_id if job_id.isprintable() and job_id.strip(". ") else None


def _timing(record: Mapping[str, Any]) -> Timing:
    worker_id = record.get("workerId")
    return Timing(
        _whole_number(record.get("delayTime")),
        _whole_number(record.get("executionTime")),
        cleaned(worker_id, 80) or None if isinstance(worker_id, str) else None,
    )


def _whole_number(value: object) -> int | None:
    """None for what is no count: text, NaN, infinity, negative or absurdly large numbers."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _MAX_COUNT:
        return None
    return int(value)


def _job_counts(jobs: Mapping[str, Any]) -> JobCounts:
    names = ("inQueue", "inProgress", "completed", "failed", "retried")
    return JobCounts(*(_whole_number(jobs.get(name)) or 0 for name in names))


def _worker_counts(workers: Mapping[str, Any]) -> WorkerCounts:
    names = ("idle", "initializing", "ready", "running", "throttled", "unhealthy")
    return WorkerCounts(*(_whole_number(workers.get(name)) or 0 for name in names))
