"""Scripted faults: which request, or which job, goes wrong, and how. Pure.

A rule names an operation, says which of the requests (or jobs) that match it are hit, and what happens to them.
A *request* fault spoils one answer; a *job* fault is decided when the job is accepted and stays with it.
`docs/sandbox.md` has the table of faults.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from asyncgen.errors import InputError
from asyncgen.sandbox.books import JobState, Plan

#: Faults that answer instead of the operation: HTTP status and body. HTML is what a content delivery network sends.
_HTML: Final = "<html><head><title>{0}</title></head><body><h1>Error {0}</h1><hr>cloudflare</body></html>"
ANSWERS: Final[dict[str, tuple[int, str]]] = {
    "429": (429, '{"error":"Too Many Requests"}'),
    "unauthorized": (401, '{"error":"unauthorized"}'),
    "no_credit": (402, '{"error":"Insufficient balance"}'),
    "not_found": (404, '{"error":"job not found"}'),
    "500_html": (500, _HTML.format(500)),
} | {str(status): (status, _HTML.format(status)) for status in (500, 502, 503, 504, 520, 522, 524)}
#: Faults of the connection: `reset_after_accept` does the operation and then cuts the line.
RESETS: Final = frozenset({"reset_before_accept", "reset_after_accept"})
#: Faults of the way a reply is sent.
BODIES: Final = frozenset({"slow_body", "cut_body"})
#: Faults of the picture itself. With `operation: result` wrong_base64 spoils one reply, and fetching again helps.
PICTURES: Final = frozenset(
    {"wrong_base64", "cut_image", "not_an_image", "black_image", "grey_image", "same_image", "no_images", "no_output"}
)
#: Faults of what becomes of a job.
FATES: Final = frozenset({"lost_job", "not_found_at_first", "timed_out", "stuck"})


def _raised(error_type: str, message: str) -> str:
    """An exception in a handler arrives as JSON inside the error text; the field names are the official SDK's."""
    fields = {"error_type": f"<class '{error_type}'>", "error_message": message, "error_traceback": "Traceback"}
    return json.dumps(fields | {"hostname": "sandbox", "worker_id": "sandbox-1", "runpod_version": "1.12.0"})


_MISSING: Final = (
    "Workflow validation failed:\n• Node 1 (errors): [{'type': 'value_not_in_list', 'message': 'Value not in list', "
    "'details': \"unet_name: 'missing.safetensors' not in ['flux1-dev-fp8.safetensors']\"}]\n"
    "• Node 1 (dependent_outputs): ['17']\n• Node 1 (class_type): UNETLoader"
)
_DETAILS: Final = (
    "Workflow execution error: Node Type: SamplerCustomAdvanced, Node ID: 13, Message: shapes cannot be multiplied\n"
)


@dataclass(frozen=True, slots=True)
class FailedReply:
    """How one kind of FAILED looks: its error text, the rest of the handler's answer, restarts by the platform."""

    error: str
    output: Any = None
    restarts: int = 0


#: The kinds of `failed:KIND`. Texts follow `comfyui/README.md` and `reference/response-shapes.json`.
FAILURES: Final[dict[str, FailedReply]] = {
    "exception": FailedReply(_raised("RuntimeError", "Expected all tensors to be on the same device")),
    "out_of_memory": FailedReply(_raised("torch.cuda.OutOfMemoryError", "CUDA out of memory")),
    "details": FailedReply("Job processing failed", {"details": [_DETAILS]}),
    "missing_model": FailedReply(_MISSING),
    "upload": FailedReply(
        "Failed to upload one or more input images", {"details": ["Error decoding base64 for x.png"]}
    ),
    "worker_not_ready": FailedReply("ComfyUI server (127.0.0.1:8188) not reachable after multiple retries."),
    "platform": FailedReply("job timed out after 1 retries", restarts=1),
}
_SHORT: Final = {name: f"failed:{name}" for name in ("out_of_memory", "worker_not_ready", "missing_model")}
_JOB_FAULTS: Final = PICTURES | FATES | {f"failed:{kind}" for kind in FAILURES}
_REQUEST_FAULTS: Final = ANSWERS.keys() | RESETS | BODIES
_OPERATIONS: Final = frozenset(
    {"run", "runsync", "status", "status-sync", "stream", "cancel", "retry", "purge-queue", "health"}
    | {"result", "job", "any"}
)


class FaultRule(BaseModel):
    """One rule. With none of `nth`, `every`, `probability` it hits every request or job it matches."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    fault: str = Field(description="What goes wrong; see the table of faults.")
    operation: str = Field(
        "",
        description="run, status, …; result: replies that carry a finished job; job: at acceptance; any: each request.",
    )
    nth: tuple[int, ...] = Field((), description="Which of the matching ones are hit, counting from 1.")
    every: int | None = Field(None, ge=1, description="Every so manieth of the matching ones.")
    probability: float | None = Field(None, ge=0, le=1, description="Share of the matching ones; drawn from the seed.")
    prompt_contains: str | None = Field(None, description="Only jobs whose prompt has this in it.")
    endpoint: str | None = Field(None, description="Only this endpoint.")
    count: int | None = Field(None, ge=1, description="Stop after so many hits.")
    retry_after_seconds: float | None = Field(None, ge=0, description="Retry-After header of an answer such as 429.")
    seconds: float = Field(5.0, gt=0, description="slow_body: how long the body takes to send.")
    times: int = Field(2, ge=1, description="not_found_at_first: how many polls answer 404.")

    @model_validator(mode="before")
    @classmethod
    def _settle_names(cls, value: Any) -> Any:
        """Short names become long ones, and the operation follows from the fault where it is left out."""
        if not isinstance(value, dict):
            return value
        fault = _SHORT.get(str(value.get("fault")), str(value.get("fault")))
        return value | {"fault": fault, "operation": _operation_of(fault, value.get("operation") or None)}

    @model_validator(mode="after")
    def _names_are_known(self) -> FaultRule:
        if self.fault not in _JOB_FAULTS | _REQUEST_FAULTS:
            raise ValueError(f"no such fault; there are: {', '.join(sorted(_JOB_FAULTS | _REQUEST_FAULTS))}")
        if self.operation not in _OPERATIONS:
            raise ValueError(f"no such operation {self.operation!r}; there are: {', '.join(sorted(_OPERATIONS))}")
        return self


def _operation_of(fault: str, said: str | None) -> str:
    if fault in _JOB_FAULTS:
        return "result" if fault == "wrong_base64" and said in {"result", "status"} else "job"
    return said or ("result" if fault in BODIES else "run")


def read_faults(path: Path) -> tuple[FaultRule, ...]:
    """The rules of a JSON file, a list of objects. Raises `InputError` naming the file and the field."""
    try:
        return TypeAdapter(tuple[FaultRule, ...]).validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        rule = ".".join(str(part) for part in first["loc"])
        message = f"rule {rule}: {first['msg']}" if rule else first["msg"]
        raise InputError(message, field="faults", where=str(path)) from None
    except OSError as error:
        raise InputError(f"the faults file cannot be read: {error}", field="faults", where=str(path)) from error


@dataclass(slots=True)
class _Counted:
    rule: FaultRule
    seen: int = 0
    hits: int = 0


@dataclass(slots=True)
class Faults:
    """Rules in force, in order; the first that hits wins. `seed` decides the draws of `probability`."""

    seed: int = 0
    _rules: list[_Counted] = field(default_factory=list)

    def add(self, rules: tuple[FaultRule, ...]) -> None:
        """Put rules in force, after those already there."""
        self._rules.extend(_Counted(rule) for rule in rules)

    def clear(self) -> None:
        """No faults from here on; jobs already spoilt stay so."""
        self._rules.clear()

    def pick(self, operation: str, endpoint_id: str, prompt: str | None = None) -> FaultRule | None:
        """The fault that this request (or, as operation `job`, this new job) meets; all rules that match count it."""
        matching = [counted for counted in self._rules if _matches(counted.rule, operation, endpoint_id, prompt)]
        hit: FaultRule | None = None
        for counted in matching:
            counted.seen += 1
            if hit is None and self._hits(counted):
                counted.hits += 1
                hit = counted.rule
        return hit

    def _hits(self, counted: _Counted) -> bool:
        rule = counted.rule
        if rule.count is not None and counted.hits >= rule.count:
            return False
        if rule.nth:
            return counted.seen in rule.nth
        if rule.every is not None:
            return counted.seen % rule.every == 0
        return rule.probability is None or draw(self.seed, "fault", counted.seen, rule.fault) < rule.probability

    def listed(self) -> list[dict[str, Any]]:
        """The rules in force with how often each matched and hit."""
        return [
            counted.rule.model_dump(exclude_defaults=True) | {"seen": counted.seen, "hits": counted.hits}
            for counted in self._rules
        ]


def _matches(rule: FaultRule, operation: str, endpoint_id: str, prompt: str | None) -> bool:
    wanted = operation not in {"job", "result"} if rule.operation == "any" else rule.operation == operation
    here = rule.endpoint in {None, endpoint_id}
    return wanted and here and (rule.prompt_contains is None or rule.prompt_contains in (prompt or ""))


def spoil_plan(rule: FaultRule | None, plan: Plan) -> Plan:
    """What a simulated worker will do with a job that met `rule`."""
    if rule is None:
        return plan
    if rule.fault.startswith("failed:"):
        failed = FAILURES[rule.fault.removeprefix("failed:")]
        return Plan(plan.execution_seconds, JobState.FAILED, failed.error, failed.restarts)
    if rule.fault == "timed_out":
        return Plan(plan.execution_seconds, JobState.TIMED_OUT, "job timed out")
    return Plan(float("inf")) if rule.fault == "stuck" else plan


def draw(seed: int, *key: object) -> float:
    """A number in [0, 1) that depends on nothing but `seed` and `key`."""
    digest = hashlib.blake2b(repr((seed, *key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
