"""The platform as the engine meets it: the queue API, its jobs a function of time.

It shares no code with the client. It has no tasks: a job's fate and times are drawn when it is bought, and `/status`
works out where it stands now. It outlives every crash of the engine.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
import zlib
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from .books import FATES, Books, Execution, Job, Subject
from .choices import Choices

MAX_BODY_BYTES = 10 * 1024 * 1024
FILES_URL = "https://files.simulated/v2"
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_PLAGUES = ("no model", "out of memory", "worker not ready", "nothing saved")
_INFRASTRUCTURE = ("out of memory", "timed out", "worker not ready", "worker died")


@dataclass
class Reply:
    """What goes back over the wire, what it amounts to (see `books.Asked`), and the job it is about."""

    status: int
    body: bytes
    outcome: str
    job: Job | None = None
    headers: dict[str, str] = field(default_factory=dict)
    whole_result: bool = False
    execution: Execution | None = None


#: Width and height of every picture, pixels.
SIDE = 16


#: What the model makes of some seeds: nothing at all, or one and the same picture of its prompt for all of them.
SPOILT = ("blank", "stuck")


@lru_cache(maxsize=256)
def _painted(prompt: str, seed: int, number: int, look: str) -> bytes:
    """A whole PNG; all but a spoilt one show prompt, seed and place in the batch."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 0, 0, 0, 0)
    about = f"{seed} {number} {prompt}".encode()
    text = b"about\0" + about
    shown = about if look == "plain" else f"{number} {prompt}".encode()
    noise = bytes(SIDE * SIDE) if look == "blank" else hashlib.shake_128(shown).digest(SIDE * SIDE)
    pixels = zlib.compress(b"".join(b"\0" + noise[row : row + SIDE] for row in range(0, len(noise), SIDE)), 1)
    return _PNG_MAGIC + chunk(b"IHDR", header) + chunk(b"tEXt", text) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


class Platform:
    """The answers. `fault_percent` is how often a job goes wrong, 0 once the world is calm."""

    def __init__(self, pick: Choices, books: Books, fault_percent: float) -> None:
        self._pick, self._books, self.fault_percent = pick, books, fault_percent
        self._hands_over_links = pick.chance(25, "links")
        self.holds_status_calls = pick.chance(50, "holds status calls")
        self._curses: dict[str, tuple[str, ...]] = {}
        self._plague: str | None = None
        self._spoilt_percent = pick.of((15.0, 50.0), "spoilt pictures") if pick.chance(35, "spoils pictures") else 0.0
        self._looks: dict[Subject, str] = {}
        self._spoils: dict[str, str] = {}
        if pick.chance(15, "plague"):
            self.break_out()

    def look(self, subject: Subject) -> str:
        """What the model makes of a prompt and a seed, each time: plain, or one of `SPOILT`."""
        if not self._spoilt_percent:
            return "plain"
        prompt = subject[0]
        if prompt not in self._spoils:
            self._spoils[prompt] = self._pick.of(SPOILT, "spoilt how", prompt)
        if subject not in self._looks:
            is_spoilt = self._pick.chance(self._spoilt_percent, "spoilt", *subject)
            self._looks[subject] = self._spoils[prompt] if is_spoilt else "plain"
        return self._looks[subject]

    def picture(self, subject: Subject, number: int = 0) -> bytes:
        """The one right picture of a prompt, a seed and a place in the batch."""
        return _painted(*subject, number, self.look(subject))

    def break_out(self) -> None:
        """From now on, until the world is calm, all jobs meet the same fault."""
        if self.fault_percent:
            self._plague = self._pick.of(_PLAGUES, "plague kind")

    def answer(self, method: str, url: str, body: bytes | None, time: float) -> Reply:
        """What the platform says to a request that has reached it."""
        _, endpoint, operation, *rest = urlsplit(url).path.strip("/").replace("status-sync", "status").split("/")
        if (method, operation) == ("POST", "run"):
            return self._accept(endpoint, body or b"", time)
        job = self._books.jobs.get(rest[0]) if rest else None
        if job is None or job.endpoint != endpoint:
            return _json(404, {"error": "job not found"}, "never was")
        if operation == "download":
            return Reply(200, self._files(job, job.executions[-1].fate)[int(rest[1])], "ended", job)
        if job.is_gone(time) or time < job.hidden_until:
            return _json(404, {"error": "job not found"}, "gone" if job.is_gone(time) else "hidden", job)
        answers = {"status": self._status_now, "cancel": self._cancel, "retry": self._retry}
        return answers[operation](job, time)

    def status(self, job: Job, time: float) -> Reply:
        """What `/status` says of a job at a time."""
        word, run = self._word(job, time), job.run_at(time)
        record: dict[str, Any] = {"id": job.job_id, "status": word}
        if word not in ("COMPLETED", "FAILED", "TIMED_OUT", "CANCELLED"):
            return _json(200, record, "pending", job)
        if word != "CANCELLED":
            record |= {"delayTime": int(1000 * (run.starts_at - run.bought_at)), "executionTime": run.milliseconds}
            record |= {"workerId": "w1"}
        if word == "FAILED":
            record["error"] = FATES[run.fate].error
        if word == "COMPLETED" and (output := self._output(job, run.fate)) is not None:
            record["output"] = output
        reply = _json(200, record, "ended", job)
        reply.execution = run if word != "CANCELLED" else None
        reply.whole_result = word == "COMPLETED" and run.fate == "done"
        return reply

    def health(self, endpoint: str, time: float) -> bytes:
        """What `/health` says, its workers drawn: as many as work, and some."""
        words = [self._word(job, time) for job in self._books.jobs.values() if job.endpoint == endpoint]
        running, idle = words.count("IN_PROGRESS"), self._pick(4, "idle workers")
        jobs = {"inQueue": words.count("IN_QUEUE"), "inProgress": running}
        workers = {"running": running, "idle": idle, "initializing": self._pick(3, "initializing workers")}
        return json.dumps({"jobs": jobs, "workers": workers}).encode()

    def _output(self, job: Job, fate: str) -> dict[str, Any] | None:
        """What a completed worker hands over, as base64 or as links; None: no output key at all."""
        if fate == "no output":
            return None
        if fate == "nothing saved":
            return {"status": "success_no_images", "images": []}
        if self._hands_over_links:
            links = (f"{FILES_URL}/{job.endpoint}/download/{job.job_id}/{number}" for number in range(job.pictures))
            return {"images": [{"filename": "a.png", "type": "s3_url", "data": link} for link in links]}
        texts = (base64.b64encode(data).decode() for data in self._files(job, fate))
        return {"images": [{"filename": "a.png", "type": "base64", "data": text} for text in texts]}

    def _accept(self, endpoint: str, body: bytes, time: float) -> Reply:
        if len(body) > MAX_BODY_BYTES:
            return _json(400, {"error": "exceeded max body size of 10MiB"}, "rejected")
        wanted = json.loads(body)
        graph, policy = wanted["input"]["workflow"], wanted.get("policy", {})
        prompt, seed = graph["6"]["inputs"]["text"], graph["25"]["inputs"]["noise_seed"]
        if prompt.startswith("forbidden"):
            return _json(400, {"error": "request body too large for this endpoint"}, "rejected")
        job = Job(
            job_id=f"{endpoint}-{len(self._books.jobs)}",
            endpoint=endpoint,
            subject=(prompt, seed),
            pictures=graph["27"]["inputs"]["batch_size"],
            expires_at=time + policy.get("ttl", 86_400_000) / 1000,
            execution_timeout_seconds=policy.get("executionTimeout", 600_000) / 1000,
            hidden_until=self._hidden_until(prompt, time),
            executions=[],
            policy=policy,
        )
        self._execute(job, time)
        self._books.jobs[job.job_id] = job
        return _json(200, {"id": job.job_id, "status": "IN_QUEUE"}, "accepted", job)

    def _execute(self, job: Job, time: float) -> None:
        """Buy one run of a job: its queue, its work and its fate."""
        prompt, pick = job.subject[0], self._pick
        queue_seconds = pick(60, "queue", prompt) * 0.5 + pick(500, "queue, milliseconds", prompt) / 1000
        if self.fault_percent and pick.chance(5, "long queue", prompt):
            queue_seconds *= 20
        fate = self._fate(prompt)
        work_seconds = 1.0 + pick(30, "work", prompt)
        if fate == "timed out" or work_seconds > job.execution_timeout_seconds:
            fate, work_seconds = "timed out", job.execution_timeout_seconds
        starts_at = time + queue_seconds
        job.executions.append(Execution(time, starts_at, starts_at + work_seconds, fate))
        self._books.hit(f"fate: {fate}")

    def _fate(self, prompt: str) -> str:
        """Drawn for each run. All runs of a cursed prompt are lost, or meet one infrastructure fault, or any of them;
        in a plague all runs of all prompts meet the same.
        """
        pick = self._pick
        if not self.fault_percent:
            return "done"
        if self._plague is not None:
            return self._plague
        if prompt not in self._curses:
            self._curses[prompt] = self._curse(prompt)
        if curse := self._curses[prompt]:
            return pick.of(curse, "cursed with", prompt)
        return pick.of(tuple(FATES), "kind", prompt) if pick.chance(self.fault_percent, "fate", prompt) else "done"

    def _curse(self, prompt: str) -> tuple[str, ...]:
        pick = self._pick
        if not pick.chance(15, "is cursed", prompt):
            return ()
        curses = (("lost",), (pick.of(_INFRASTRUCTURE, "curse of", prompt),), _INFRASTRUCTURE)
        return pick.of(curses, "curse", prompt)

    def _hidden_until(self, prompt: str, time: float) -> float:
        """Right after `/run` a job may not be known everywhere yet, for up to 31 s."""
        if self.fault_percent and self._pick.chance(40, "slow to propagate", prompt):
            return time + 31.0 * self._pick.unit("propagates", prompt)
        return time

    def _cancel(self, job: Job, time: float) -> Reply:
        if self._word(job, time) in ("IN_QUEUE", "IN_PROGRESS"):
            job.cancelled_at = time
        return _json(200, {"id": job.job_id, "status": self._word(job, time)}, "accepted", job)

    def _status_now(self, job: Job, time: float) -> Reply:
        if time >= job.told_late_until:
            return self.status(job, time)
        reply = self.status(job, job.executions[-2].ends_at)
        reply.outcome, reply.execution = "stale", None
        return reply

    def _retry(self, job: Job, time: float) -> Reply:
        if self._word(job, time) not in ("FAILED", "TIMED_OUT"):
            return _json(400, {"error": "only failed or timed-out jobs can be retried"}, "refused", job)
        self._execute(job, time)
        if self.fault_percent and self._pick.chance(25, "retry told late", job.subject[0]):
            job.told_late_until = time + 25.0 * self._pick.unit("told late for", job.subject[0])
        return _json(200, {"id": job.job_id, "status": "IN_QUEUE"}, "accepted", job)

    def _word(self, job: Job, time: float) -> str:
        run = job.run_at(time)
        if job.cancelled_at is not None and time >= job.cancelled_at:
            return "CANCELLED"
        if time < run.starts_at:
            return "IN_QUEUE"
        return "IN_PROGRESS" if time < run.ends_at else FATES[run.fate].word

    def _files(self, job: Job, fate: str) -> list[bytes]:
        """What the worker has made."""
        pictures = [self.picture(job.subject, number) for number in range(job.pictures)]
        if fate == "damaged":
            pictures[-1] = pictures[-1][: len(pictures[-1]) // 2]
        if fate == "not a picture":
            pictures[0] = b"GIF89a, and nothing that we take"
        return pictures


def _json(status: int, value: dict[str, Any], outcome: str, job: Job | None = None) -> Reply:
    return Reply(status, json.dumps(value).encode(), outcome, job, {"content-type": "application/json"})
