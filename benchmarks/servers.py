"""Servers that benchmarks talk to, each in a process of its own, so that its CPU is not counted as a client's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final
from urllib.request import urlopen

#: Any endpoint id and any key will do for the sandbox.
ENDPOINT: Final = "benchmark"
API_KEY: Final = "any-key"

_CHECKOUT: Final = Path(__file__).resolve().parents[1]
_ADDRESS_LINE: Final = "The RunPod API is at "
# Positions in /proc/PID/stat behind the command's name, which may hold blanks (proc(5): fields 14 and 15).
_USER_TICKS, _SYSTEM_TICKS = 11, 12


@dataclass(frozen=True, slots=True)
class Server:
    """A running server. `base_url` is what RUNPOD_ENDPOINT_BASE_URL wants, without an endpoint id.

    `environment`: variables with which clients trust its certificate, empty without HTTPS.
    """

    base_url: str
    pid: int
    environment: Mapping[str, str] = field(default_factory=dict)

    def cpu_seconds(self) -> float | None:
        """CPU of all its threads so far, user and system, in steps of 10 ms; None where there is no /proc."""
        stat = Path(f"/proc/{self.pid}/stat")
        if not stat.exists():
            return None
        fields = stat.read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[_USER_TICKS]) + int(fields[_SYSTEM_TICKS])) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class SandboxServer(Server):
    """A running sandbox."""

    def totals(self) -> dict[str, int]:
        """What clients have done so far, by the sandbox's books (`docs/sandbox.md`)."""
        with urlopen(f"{self.base_url.removesuffix('/v2')}/sandbox/books?summary=1") as reply:
            totals: dict[str, int] = json.load(reply)["totals"]
            return totals

    def jobs(self) -> list[dict[str, Any]]:
        """Every job that it has accepted, as its books have it (`docs/sandbox.md`)."""
        with urlopen(f"{self.base_url.removesuffix('/v2')}/sandbox/books") as reply:
            jobs: list[dict[str, Any]] = json.load(reply)["jobs"]
            return jobs


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
    with _started(command, "sandbox") as (process, first_line):
        yield SandboxServer(first_line.removeprefix(_ADDRESS_LINE), process.pid)


@contextmanager
def varied_sandbox(kind: str, seconds: float, workers: int) -> Iterator[SandboxServer]:
    """A sandbox with the platform's rate limits whose jobs take `seconds` on average, varying as `kind` says.

    See `benchmarks.varied_sandbox`. Raises RuntimeError where it does not come up; what it says is on stderr.
    """
    settings = {"kind": kind, "seconds": seconds, "workers": workers, "cold_start_seconds": 5.0, "pictures": "stamped"}
    command = [sys.executable, "-m", "benchmarks.varied_sandbox", json.dumps(settings)]
    with _started(command, "sandbox") as (process, first_line):
        yield SandboxServer(first_line, process.pid)


@contextmanager
def static_server(
    *, picture_bytes: int, https: bool = False, hold_until_runs: int = 0, runs_per_second: float | None = None
) -> Iterator[Server]:
    """The cheapest server there is, whose jobs are finished at once, or all at once after so many `/run`.

    `runs_per_second` bounds how fast it answers `/run`, None: not. With HTTPS it has a certificate of an authority that
    lives as long as it does. Raises RuntimeError where it does not come up; what it says is on stderr.
    """
    settings: dict[str, object] = {
        "picture_bytes": picture_bytes,
        "hold_until_runs": hold_until_runs,
        "runs_per_second": runs_per_second,
    }
    with TemporaryDirectory(prefix="asyncgen-benchmark-tls-") as folder:
        environment = _certificate(Path(folder), settings) if https else {}
        command = [sys.executable, "-m", "benchmarks.static_server", json.dumps(settings)]
        with _started(command, "static server") as (process, first_line):
            yield Server(first_line, process.pid, environment)


def _certificate(folder: Path, settings: dict[str, object]) -> dict[str, str]:
    """Make a throw-away authority and a certificate, named in `settings`; the variables that make clients trust it."""
    import trustme  # noqa: PLC0415 - of the extra `bench`, and not all benchmarks need it

    authority, pem, root = trustme.CA(), folder / "server.pem", folder / "authority.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(pem)
    authority.cert_pem.write_to_path(root)
    settings["certificate"] = str(pem)
    return {"SSL_CERT_FILE": str(root), "REQUESTS_CA_BUNDLE": str(root)}


@contextmanager
def _started(command: list[str], name: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server's process with the first line that it prints; ended with the block."""
    with subprocess.Popen(command, cwd=_CHECKOUT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            first_line = process.stdout.readline().strip()
            if "http" not in first_line:
                raise RuntimeError(f"the {name} did not start (it said {first_line!r}): {' '.join(command)}")
            yield process, first_line
        finally:
            process.terminate()
