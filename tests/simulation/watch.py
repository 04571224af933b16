"""What must hold at every instant, looked at from outside while the engine runs.

Before money is spent the intent must be durable; before a job is asked about its id must be; before a picture is said
to be stored its file must be able to survive anything. A crash that would show the opposite need not be met by chance.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from asyncgen.ports import HttpRequest

from .books import Asked, Subject
from .platform import FILES_URL, MAX_BODY_BYTES

if TYPE_CHECKING:
    from .world import World

ROOT = Path("/out")
API_KEY = "the key"
BASE_URL = "https://api.simulated/v2"
_ITEM = """
    SELECT state, json_extract(spec, '$.steps'), execution_timeout_ms FROM item
    WHERE seed = ? AND json_extract(spec, '$.prompt_sent') = ?
"""
_STATE_OF_JOB = "SELECT state FROM item WHERE job_id = ?"
_JOB = "SELECT endpoint FROM job WHERE job_id = ?"
_STORED = """
    SELECT item.seed, json_extract(item.spec, '$.prompt_sent'), image.number, image.path, image.sha256
    FROM event JOIN item ON item.id = event.item_id JOIN image ON image.item_id = item.id
    WHERE event.id > ? AND event.state = 'stored' AND item.state = 'stored' AND image.state = 'stored'
"""
_REJECTED = """
    SELECT image.path, image.sha256, item.state, item.seed, job.seed
    FROM event JOIN item ON item.id = event.item_id JOIN image ON image.item_id = item.id
    JOIN job ON job.id = (SELECT max(id) FROM job WHERE item_id = item.id)
    WHERE event.id > ? AND event.source = 'accepted' AND image.state = 'rejected'
    AND job.outcome IN ('blank_image', 'duplicate_image')
"""
_ON_THE_WAY = """
    SELECT item_id, state, (SELECT json_group_array(path) FROM image WHERE image.item_id = event.item_id
                            AND image.state = 'storing' AND path IS NOT NULL)
    FROM event WHERE id > ? AND (state = 'storing' OR source = 'storing' AND state = 'accepted') ORDER BY id
"""
_MANIFEST = "SELECT event_id, size_bytes FROM manifest"


class Watch:
    """Accuses at once; see `World.accuse`."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._last_event = 0
        self._storing: dict[int, list[str]] = {}
        self._manifest = (0, 0)
        self._sent_policy: dict[str, int] = {}

    def subject_of(self, body: bytes) -> Subject:
        """The wanted image that a `/run` is about."""
        sent = json.loads(body)
        graph, self._sent_policy = sent["input"]["workflow"], sent.get("policy", {})
        return graph["6"]["inputs"]["text"], graph["25"]["inputs"]["noise_seed"]

    def _steps_of(self, body: bytes) -> int:
        return int(json.loads(body)["input"]["workflow"]["17"]["inputs"]["steps"])

    def sending(self, asked: Asked, request: HttpRequest) -> None:
        """A request leaves."""
        if asked.operation == "download":
            self._downloading(asked, request)
            return
        if not request.url.startswith(f"{BASE_URL}/{asked.endpoint}/"):
            self._world.accuse(f"a request to {request.url}")
        if request.headers.get("Authorization") != f"Bearer {API_KEY}":
            self._world.accuse(f"{asked.operation} without the key")
        if asked.operation == "run":
            self._buying(asked, self._steps_of(request.body or b""))
            return
        self._asking(asked)
        if asked.operation == "retry":
            self._buying_again(asked)

    def _downloading(self, asked: Asked, request: HttpRequest) -> None:
        """From somewhere else: the key stays here."""
        told = any(each.job is asked.job and each.outcome == "ended" for each in self._world.books.asked)
        if not request.url.startswith(FILES_URL) or asked.job is None or not told:
            self._world.accuse(f"a download of {request.url}")
        if "Authorization" in request.headers or API_KEY in str(request) or not request.public_hosts_only:
            self._world.accuse(f"{request.url} was asked for with the key, or wherever it may lead")

    def committed(self) -> None:
        """The ledger has become durable in a new form."""
        self._look_at_taken_back()
        self._look_at_rejected()
        rows = self._world.ledger.rows(_STORED, self._last_event)
        self._last_event = self._world.ledger.rows("SELECT coalesce(max(id), 0) FROM event")[0][0]
        for seed, prompt, number, path, sha256 in rows:
            right = self._world.platform.picture((prompt, int(seed)), number)
            if path is not None and self._world.disk.surviving(ROOT / path) != right:
                self._world.accuse(f"{path} is recorded as stored, and would not survive a power cut")
            if hashlib.sha256(right).hexdigest() != sha256:
                self._world.accuse(f"{path} is recorded with the hash of something else")
        self._look_at_manifest()

    def _look_at_rejected(self) -> None:
        """A picture that does not count has a file that survives, and where it is rolled again the seed is another."""
        for path, sha256, state, seed, rejected_seed in self._world.ledger.rows(_REJECTED, self._last_event):
            kept = self._world.disk.surviving(ROOT / path) if path is not None else None
            if path is not None and (kept is None or hashlib.sha256(kept).hexdigest() != sha256):
                self._world.accuse(f"{path} is recorded as rejected, and would not survive a power cut")
            if state == "wanted" and seed == rejected_seed:
                self._world.accuse(f"{path} is rejected, and wanted with the same seed {seed} again")

    def _look_at_taken_back(self) -> None:
        """Of pictures that are to be fetched again no file may come back after a power cut."""
        for item_id, state, paths in self._world.ledger.rows(_ON_THE_WAY, self._last_event):
            if state == "storing":
                self._storing[item_id] = json.loads(paths)
            for path in self._storing.get(item_id, ()) if state == "accepted" else ():
                if self._world.disk.may_come_back(ROOT / path):
                    self._world.accuse(f"{path} was taken back, and may be there after a power cut")

    def _look_at_manifest(self) -> None:
        """What the ledger says is written of the manifest could survive a power cut."""
        ((event_id, size_bytes),) = self._world.ledger.rows(_MANIFEST)
        if (event_id, size_bytes) != self._manifest:
            self._manifest = event_id, size_bytes
            written, durable = self._world.disk.live_and_durable(ROOT / "manifest.jsonl")
            if len(written) < size_bytes or written[:size_bytes] != durable[:size_bytes]:
                self._world.accuse(f"{size_bytes} bytes of the manifest are remembered, and may not survive")

    def _buying(self, asked: Asked, steps: int) -> None:
        prompt, seed = asked.subject
        if prompt in self._world.unsendable:
            self._world.accuse(f"{prompt[:40]} must not be sent: it is too large, or its workflow is another one now")
        if asked.body_bytes > MAX_BODY_BYTES:
            self._world.accuse(f"a body of {asked.body_bytes} bytes was sent")
        timeout_ms = self._sent_policy.get("executionTimeout")
        if timeout_ms is None or "ttl" not in self._sent_policy:
            self._world.accuse(f"{prompt} is sent with {self._sent_policy}")
        found = [tuple(row) for row in self._world.ledger.rows(_ITEM, str(seed), prompt)]
        if found != [("submitting", steps, timeout_ms)]:
            sent = f"{prompt}, seed {seed}, {steps} steps, {timeout_ms} ms"
            self._world.accuse(f"{sent} is sent while the durable ledger says {found}")

    def _buying_again(self, asked: Asked) -> None:
        states = [state for (state,) in self._world.ledger.rows(_STATE_OF_JOB, asked.subject)]
        if states != ["submitting"]:
            self._world.accuse(f"{asked.subject} is run again while the durable ledger says {states}")

    def _asking(self, asked: Asked) -> None:
        if asked.job is None or asked.job.endpoint != asked.endpoint:
            self._world.accuse(f"{asked.operation} of {asked.subject} at {asked.endpoint}, where it never was")
        elif {endpoint for (endpoint,) in self._world.ledger.rows(_JOB, asked.subject)} != {
            f"{BASE_URL}/{asked.endpoint}"
        }:
            self._world.accuse(f"{asked.operation} of {asked.subject} before its id was durable")
