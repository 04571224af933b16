"""Every way things go wrong: failures of an image (values) and errors of a call (exceptions).

A *failure* is what became of one image; it is data, kept in the ledger, and never raised inside a batch.
An *error* ends the call that raised it::

    AsyncgenError
    ├── InputError               what the caller gave is wrong; nothing was sent
    │   ├── SettingsError        a setting is missing or wrong
    │   ├── StyleNotFoundError   no such style in the registry
    │   └── WorkflowError        a graph, its bindings, or a parameter for it
    ├── GenerationError          the one image a single call asked for has failed (carries the Failure)
    ├── RunPausedError           the account or the endpoint refuses work; everything unfinished stays pending
    ├── BudgetReachedError       another job could pass the budget; what is held back stays pending
    ├── JobStillRunningError     a /runsync job has not ended in time (carries its id)
    ├── LedgerError              the ledger cannot be used
    │   ├── LedgerLockedError    another process owns it
    │   └── LedgerVersionError   it was written by a newer asyncgen
    └── StoreError               a finished picture cannot be written (disk full, folder gone, read-only)

Anything else that escapes is a bug of ours and is never turned into a failed image.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from asyncgen.url_secrets import redacted

#: What an error says of an input at most; the input may be a file of any size.
MAX_MESSAGE_CHARACTERS: Final = 1_000
_MAX_PLACE_CHARACTERS: Final = 300


class FailureClass(StrEnum):
    """Whose fault a failure is; it alone decides what happens next."""

    ITEM = "item"  # this image's own: recorded, never retried by itself
    TRANSPORT = "transport"  # a request failed: repeated with backoff, costs nothing, never a reason to buy
    INFRASTRUCTURE = "infrastructure"  # the platform's or the worker's: bought again a bounded number of times
    ACCOUNT = "account"  # every image would meet it: the run pauses, everything stays pending


class FailureCode(StrEnum):
    """Stable names of failures, as written to the ledger, to `--json` and to `docs/troubleshooting.md`."""

    # item
    NO_IMAGE = "no_image"
    NO_OUTPUT = "no_output"
    NOT_AN_IMAGE = "not_an_image"
    CORRUPT_IMAGE = "corrupt_image"
    WORKER_ERROR = "worker_error"
    INVALID_WORKFLOW = "invalid_workflow"
    MODEL_NOT_FOUND = "model_not_found"
    INPUT_REFUSED = "input_refused"
    BODY_TOO_LARGE = "body_too_large"
    RESULT_TOO_LARGE = "result_too_large"
    RESULT_URL_REFUSED = "result_url_refused"
    WRONG_SIZE = "wrong_size"
    BLANK_IMAGE = "blank_image"
    DUPLICATE_IMAGE = "duplicate_image"
    REJECTED_BY_SCORER = "rejected_by_scorer"
    CANCELLED = "cancelled"
    # infrastructure
    OUT_OF_MEMORY = "out_of_memory"
    PLATFORM_FAILED = "platform_failed"
    TIMED_OUT = "timed_out"
    WORKER_NOT_READY = "worker_not_ready"
    LOST = "lost"
    # account
    KEY_REFUSED = "key_refused"
    NO_CREDIT = "no_credit"
    ENDPOINT_UNKNOWN = "endpoint_unknown"
    LOAD_BALANCING_ENDPOINT = "load_balancing_endpoint"
    RUN_REFUSED = "run_refused"
    # transport
    UNREACHABLE = "unreachable"


@dataclass(frozen=True, slots=True)
class Failure:
    """What became of an image that is not there, in words its owner can act on."""

    kind: FailureClass
    code: FailureCode
    message: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "message", redacted(self.message))  # it is recorded, logged and shown

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class AsyncgenError(Exception):
    """Base of every error that asyncgen raises on purpose."""


class InputError(AsyncgenError):
    """Something the caller gave is wrong. Nothing was sent and nothing was spent.

    `field` is the parameter at fault and `where` the place (`file:line`); either is None where there is none. All three
    are shortened, and what cannot be printed in them is escaped: they quote files that anybody may have written.
    """

    def __init__(self, message: str, *, field: str | None = None, where: str | None = None) -> None:
        self.message = _one_line(redacted(message), MAX_MESSAGE_CHARACTERS)
        self.field = field and _one_line(field, _MAX_PLACE_CHARACTERS)
        self.where = where and _one_line(where, _MAX_PLACE_CHARACTERS)
        place = ":".join(part for part in (self.where, self.field) if part)
        super().__init__(f"{place}: {self.message}" if place else self.message)

    def at(self, where: str) -> InputError:
        """The same error, naming the place (`file:line`) it was found at."""
        return type(self)(self.message, field=self.field, where=where)


class SettingsError(InputError):
    """A setting is missing or wrong; the message names the environment variable."""


class StyleNotFoundError(InputError):
    """The registry has no such style; the message lists the closest ones."""


class WorkflowError(InputError):
    """A workflow graph, its bindings, or a parameter meant for it, is wrong."""


class GenerationError(AsyncgenError):
    """The image that a single call asked for was not made."""

    def __init__(self, failure: Failure, request_id: str) -> None:
        self.failure, self.request_id = failure, request_id
        super().__init__(f"{request_id}: {failure}")


class RunPausedError(AsyncgenError):
    """The run stopped because going on would fail for every image alike; what is unfinished stays pending."""

    def __init__(self, failure: Failure) -> None:
        self.failure = failure
        super().__init__(str(failure))


class BudgetReachedError(AsyncgenError):
    """Another job could cost more than the budget has left; what is held back stays pending until it is raised."""


class JobStillRunningError(AsyncgenError):
    """A `/runsync` job has not ended within SYNC_TIMEOUT; it goes on, and can be waited for by its id."""

    def __init__(self, job_id: str, timeout_seconds: float) -> None:
        self.job_id = job_id
        super().__init__(f"job {job_id} is still running after {timeout_seconds:g} s; wait for it with wait_output")


class LedgerError(AsyncgenError):
    """The ledger file cannot be opened, read or written."""


class LedgerLockedError(LedgerError):
    """Another process owns the ledger; the message names it."""


class LedgerVersionError(LedgerError):
    """The ledger was written by a newer asyncgen."""


class StoreError(AsyncgenError):
    """A picture that was paid for could not be written; it can be fetched again while the endpoint keeps it."""


def _one_line(text: str, limit: int) -> str:
    """At most `limit` printable characters, the middle left out; the end of a message says what to do."""
    if len(text) > limit:
        text = f"{text[: limit // 2]} … {text[3 - limit // 2 :]}"
    if text.isprintable():
        return text
    escaped = "".join(mark if mark.isprintable() else ascii(mark)[1:-1] for mark in text)
    return _one_line(escaped, limit)
