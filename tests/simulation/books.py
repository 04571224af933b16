"""The platform's own books: every job it took, every time a worker ran one, and every request that reached the wire.

The truths are looked at here and not in what the engine says of itself. Times are true seconds (`World.time`) for jobs,
and seconds of the machine's monotonic clock (`World.now`) for requests, because that is the clock the engine paces by.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

RETENTION_SECONDS = 1800.0

#: A wanted image as the platform meets it: the prompt that was sent, and the seed.
Subject = tuple[str, int]


@dataclass(frozen=True)
class Fate:
    """How a run ends: the platform's word for it, whose fault it is, and the code that the ledger must give it."""

    word: str
    fault_of: str  # nobody, item, infrastructure, or gone: the job vanishes
    code: str
    error: str = ""


FATES: dict[str, Fate] = {
    "done": Fate("COMPLETED", "nobody", "completed"),
    "worker error": Fate("FAILED", "item", "worker_error", "Job processing failed: the sampler gave up"),
    "no model": Fate(
        "FAILED", "item", "model_not_found", "Model in folder 'loras' with filename 'ink.safetensors' not found"
    ),
    "no output": Fate("COMPLETED", "item", "no_output"),
    "nothing saved": Fate("COMPLETED", "item", "no_image"),
    "damaged": Fate("COMPLETED", "item", "corrupt_image"),
    "not a picture": Fate("COMPLETED", "item", "not_an_image"),
    "platform failed": Fate("FAILED", "infrastructure", "platform_failed", "job timed out after 1 retries"),
    "worker died": Fate("FAILED", "infrastructure", "platform_failed", "worker exited with exit code 137"),
    "out of memory": Fate("FAILED", "infrastructure", "out_of_memory", "CUDA out of memory"),
    "worker not ready": Fate("FAILED", "infrastructure", "worker_not_ready", "ComfyUI is not reachable"),
    "timed out": Fate("TIMED_OUT", "infrastructure", "timed_out"),
    "lost": Fate("COMPLETED", "gone", "lost"),
}


@dataclass
class Execution:
    """One time that a job was bought: by `/run`, or again by `/retry`."""

    bought_at: float
    starts_at: float
    ends_at: float
    fate: str

    @property
    def milliseconds(self) -> int:
        """What it took, as `/status` says it."""
        return int(1000 * (self.ends_at - self.starts_at))


@dataclass
class Job:
    """One accepted job. Until `hidden_until`, `/status` says 404 of it although it is there; until `told_late_until`,
    what it said before a retry.
    """

    job_id: str
    endpoint: str
    subject: Subject
    pictures: int
    expires_at: float
    execution_timeout_seconds: float
    hidden_until: float
    executions: list[Execution]
    policy: dict[str, int]  # what it was sent with, milliseconds
    told_late_until: float = 0.0
    cancelled_at: float | None = None
    damaged_replies: int = 0

    def run_at(self, time: float) -> Execution:
        """The execution that `/status` told of at a time."""
        return next((run for run in reversed(self.executions) if run.bought_at <= time), self.executions[0])

    def is_gone(self, time: float) -> bool:
        """Whether `/status` will never know it again."""
        last = self.executions[-1]
        if last.fate == "lost" and time >= last.starts_at:
            return True
        ended_at = last.ends_at if self.cancelled_at is None else self.cancelled_at
        return time >= min(self.expires_at, ended_at + RETENTION_SECONDS)


@dataclass
class Asked:
    """One request. `outcome` is what the engine was told, None while it was told nothing.

    run, retry: accepted, refused, rejected (for the item), paused (for the account), unknown. status: pending, ended,
    damaged, stale (what it said before a retry), gone, hidden (not known everywhere yet), paused, fault. cancel:
    accepted, gone, hidden, paused, fault.
    """

    life: int
    operation: str
    endpoint: str
    subject: Subject | str
    sent_at: float
    body_bytes: int
    fault: str | None = None
    job: Job | None = None
    execution: Execution | None = None  # which one of the job's a `/status` has told of
    outcome: str | None = None
    answered_at: float | None = None
    retry_after_seconds: float = 0.0
    whole_result: bool = False
    has_reply: bool = False  # something answered, whatever it said
    is_held: bool = False  # by `/status-sync`, which is a status call otherwise


@dataclass
class Books:
    """Everything the platform and the wire have seen. `hits` counts accidents by name."""

    jobs: dict[str, Job] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    hits: dict[str, int] = field(default_factory=dict)

    def hit(self, name: str) -> None:
        self.hits[name] = self.hits.get(name, 0) + 1

    def of_subjects(self, subjects: Collection[Subject]) -> list[Job]:
        """Everything that was ever bought for one wanted image, whatever its seed was then, in order."""
        return [job for job in self.jobs.values() if job.subject in subjects]
