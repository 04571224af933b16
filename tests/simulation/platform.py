"""The platform as the engine meets it: the queue API over HTTP, its jobs a function of time, and its own books.

It shares no code with the client. It has no tasks: a job's fate and times are drawn when it is accepted, and `/status`
works out where it stands now. It outlives every crash of the engine.
"""

from __future__ import annotations

import base64
import json
import struct
import zlib
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from .choices import Choices

RETENTION_SECONDS = 1800.0
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
FATES = ("done", "worker error", "platform failed", "out of memory", "timed out", "lost", "no output", "damaged")


@dataclass
class Run:
    """One accepted job: what was bought, and when. `fetched` counts whole results handed out."""

    job_id: str
    prompt: str
    seed: int
    accepted_at: float
    starts_at: float
    ends_at: float
    fate: str
    hidden_until: float
    polls: int = 0
    fetched: int = 0
    cancelled_at: float | None = None


@dataclass
class Reply:
    """What goes back over the wire."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


def picture(prompt: str, seed: int) -> bytes:
    """The one right picture of a prompt and a seed: a whole PNG that carries both."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    text = b"about\0" + f"{seed} {prompt}".encode()
    pixels = zlib.compress(b"\0\x7f", 1)
    return PNG_MAGIC + chunk(b"IHDR", header) + chunk(b"tEXt", text) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


class Platform:
    """The books and the answers. `fault_percent` is how often a request or a job goes wrong while faults are on."""

    def __init__(self, pick: Choices, fault_percent: float) -> None:
        self._pick, self.fault_percent = pick, fault_percent
        self.runs: dict[str, Run] = {}
        self.hits: dict[str, int] = {}

    def answer(self, method: str, url: str, body: bytes | None, now: float) -> Reply:
        """What the platform says to a request that has reached it."""
        _, _, operation, *rest = urlsplit(url).path.strip("/").split("/")
        if (method, operation) == ("POST", "run"):
            return self._accept(json.loads(body or b"{}"), now)
        run = self.runs.get(rest[0]) if rest else None
        if run is None or now < run.hidden_until or self._is_gone(run, now):
            return _json(404, {"error": "job not found"})
        if operation == "cancel":
            return self._cancel(run, now)
        return self._status(run, now)

    def of_prompt(self, prompt: str) -> list[Run]:
        """Everything that was ever bought for a prompt."""
        return [run for run in self.runs.values() if run.prompt == prompt]

    def _accept(self, body: dict[str, Any], now: float) -> Reply:
        graph = body["input"]["workflow"]
        prompt, seed = graph["6"]["inputs"]["text"], graph["25"]["inputs"]["noise_seed"]
        job_id = f"job-{len(self.runs)}"
        starts_at = now + self._pick(60, "queue", prompt) * 0.5
        fate = "done"
        if self._pick.chance(self.fault_percent, "fate", prompt):
            fate = FATES[self._pick(len(FATES), "kind", prompt)]
            self._hit(f"fate: {fate}")
        hidden = (
            20.0 * self._pick.unit("hidden", prompt) if self._pick.chance(self.fault_percent, "slow 404", prompt) else 0
        )
        self.runs[job_id] = Run(
            job_id=job_id,
            prompt=prompt,
            seed=seed,
            accepted_at=now,
            starts_at=starts_at,
            ends_at=starts_at + 1 + self._pick(30, "work", prompt),
            fate=fate,
            hidden_until=now + hidden,
        )
        return _json(200, {"id": job_id, "status": "IN_QUEUE"})

    def _is_gone(self, run: Run, now: float) -> bool:
        if run.fate == "lost" and now >= run.starts_at:
            return True
        return now > run.ends_at + RETENTION_SECONDS

    def _cancel(self, run: Run, now: float) -> Reply:
        if now < run.ends_at and run.cancelled_at is None:
            run.cancelled_at = now
        return _json(200, {"id": run.job_id, "status": self._status_word(run, now)})

    def _status_word(self, run: Run, now: float) -> str:
        if run.cancelled_at is not None:
            return "CANCELLED"
        if now < run.starts_at:
            return "IN_QUEUE"
        if now < run.ends_at:
            return "IN_PROGRESS"
        failing = {
            "worker error": "FAILED",
            "platform failed": "FAILED",
            "out of memory": "FAILED",
            "timed out": "TIMED_OUT",
        }
        return failing.get(run.fate, "COMPLETED")

    def _status(self, run: Run, now: float) -> Reply:
        run.polls += 1
        word = self._status_word(run, now)
        record: dict[str, Any] = {"id": run.job_id, "status": word}
        if word in ("COMPLETED", "FAILED", "TIMED_OUT"):
            record |= {"delayTime": int(1000 * (run.starts_at - run.accepted_at))}
            record |= {"executionTime": int(1000 * (run.ends_at - run.starts_at)), "workerId": "w1"}
        errors = {
            "worker error": "Job processing failed: the sampler gave up",
            "platform failed": "job timed out after 1 retries",
            "out of memory": "CUDA out of memory",
        }
        if word == "FAILED":
            record["error"] = errors[run.fate]
        if word == "COMPLETED" and run.fate != "no output":
            data = picture(run.prompt, run.seed)
            if run.fate == "damaged":
                data = data[: len(data) // 2]
            text = base64.b64encode(data).decode()
            record["output"] = {"images": [{"filename": "a.png", "type": "base64", "data": text}]}
        return _json(200, record)

    def _hit(self, name: str) -> None:
        self.hits[name] = self.hits.get(name, 0) + 1


def _json(status: int, value: dict[str, Any]) -> Reply:
    return Reply(status, json.dumps(value).encode(), {"content-type": "application/json"})
