"""The bodies the platform answers with. Pure; shapes from `reference/runpod-api.md`, keys in its alphabetical order."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import chain
from typing import Any, Final

from asyncgen.sandbox.books import FINAL, Books, Job, JobState

_TIMED: Final = frozenset({JobState.COMPLETED, JobState.FAILED})


def encode(fields: dict[str, Any], output: Sequence[bytes] | None = None) -> bytes:
    """A JSON object with sorted keys; `output` is JSON text already, in pieces, and is put in as it is."""
    texts: dict[str, Sequence[bytes]] = {key: [json.dumps(value).encode()] for key, value in fields.items()}
    if output is not None:
        texts["output"] = output
    members = ([b',"%s":' % key.encode(), *texts[key]] for key in sorted(texts))
    pieces = list(chain.from_iterable(members))
    return b"".join([b"{", pieces[0][1:], *pieces[1:], b"}"])


def status(books: Books, job: Job, output: Sequence[bytes] | None, *, still_running: bool = False) -> bytes:
    """What `/status` answers. `output` is the result, or the worker's progress while it runs; None leaves it out.

    `still_running` holds a COMPLETED back whose picture is not painted yet.
    """
    state = JobState.IN_PROGRESS if still_running else job.state
    fields: dict[str, Any] = {"id": job.id, "status": state}
    if state in {JobState.IN_QUEUE, JobState.CANCELLED}:
        return encode(fields)
    fields["delayTime"] = books.delay_ms(job)
    if state in _TIMED:
        fields["executionTime"] = books.execution_ms(job)
    if job.worker is not None:
        fields["workerId"] = job.worker.id
    if state in FINAL:
        fields |= {"error": job.error} if job.error is not None else {}
        fields |= {"retries": job.restarts} if job.restarts else {}
    return encode(fields, output)
