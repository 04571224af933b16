"""Servers that benchmarks talk to, each in a process of its own, so that its CPU is not counted as a client's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.request import urlopen

#: Any endpoint id and any key will do for the sandbox.
ENDPOINT: Final = "benchmark"
API_KEY: Final = "any-key"

_CHECKOUT: Final = Path(__file__).resolve().parents[1]
_ADDRESS_LINE: Final = "The RunPod API is at "
# Positions in /proc/PID/stat behind the command's name, which may hold blanks (proc(5): fields 14 and 15).
_USER_TICKS, _SYSTEM_TICKS = 11, 12


@dataclass(frozen=True, slots=True)
class SandboxServer:
    """A running sandbox. `base_url` is what RUNPOD_ENDPOINT_BASE_URL wants, without an endpoint id."""

    base_url: str
    pid: int

    def cpu_seconds(self) -> float | None:
        """CPU of all its threads so far, user and system, in steps of 10 ms; None where there is no /proc."""
        stat = Path(f"/proc/{self.pid}/stat")
        if not stat.exists():
            return None
        fields = stat.read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[_USER_TICKS]) + int(fields[_SYSTEM_TICKS])) / os.sysconf("SC_CLK_TCK")

    def totals(self) -> dict[str, int]:
        """What clients have done so far, by the sandbox's books (`docs/sandbox.md`)."""
        with urlopen(f"{self.base_url.removesuffix('/v2')}/sandbox/books?summary=1") as reply:
            totals: dict[str, int] = json.load(reply)["totals"]
            return totals


@contextmanager
def sandbox_server(*, picture_bytes: int, workers: int, speed: float) -> Iterator[SandboxServer]:
    """A sandbox without rate limits that hands out one picture per size, padded and marked for each job.

    Raises RuntimeError where it does not come up; what it says is on stderr.
    """
    settings = {
        "--port": 0,
        "--pictures": "stamped",
        "--picture-bytes": picture_bytes,
        "--speed": speed,
        "--workers": workers,
        "--rate-limit-scale": 0,
    }
    options = [str(part) for setting in settings.items() for part in setting]
    command = [sys.executable, "-m", "asyncgen", "sandbox", *options]
    with subprocess.Popen(command, cwd=_CHECKOUT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            first_line = process.stdout.readline().strip()
            if not first_line.startswith(_ADDRESS_LINE):
                raise RuntimeError(f"the sandbox did not start (it said {first_line!r}): {' '.join(command)}")
            yield SandboxServer(first_line.removeprefix(_ADDRESS_LINE), process.pid)
        finally:
            process.terminate()
