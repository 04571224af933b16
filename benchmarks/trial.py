"""One run of one side against a static server of its own: what it took, and whether what it left behind is right."""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Final, TypeVar
from urllib.request import urlopen

from benchmarks.measuring import Sample, measure
from benchmarks.pictures import picture_faults
from benchmarks.servers import API_KEY, ENDPOINT, Server, static_server
from benchmarks.sides import LABELS
from benchmarks.workload import Workload

#: 2.4 MB as base64: what FLUX makes at 1360×768.
LARGE_PICTURE_BYTES: Final = 1_800_000
SMALL_PICTURE_BYTES: Final = 1_000
#: Jobs are finished at once: waiting for a second, which is the default, would hide what the client costs.
SHORT_POLLING_SECONDS: Final = 0.01
_QUICK_AT_ONCE: Final = 4

K = TypeVar("K")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Task:
    """What each side has to do, and how the server behaves (`static_server`)."""

    jobs: int
    concurrency: int
    picture_bytes: int = LARGE_PICTURE_BYTES
    polling_interval_seconds: float = SHORT_POLLING_SECONDS
    keeps_files: bool = True
    https: bool = False
    hold_until_runs: int = 0
    runs_per_second: float | None = None
    heartbeat: bool = False


@dataclass(frozen=True, slots=True)
class Trial:
    """What it took (`server_cpu_seconds` None where it cannot be read), and what is wrong with what was made."""

    side: str
    task: Task
    sample: Sample
    server_cpu_seconds: float | None
    status_calls: int
    faults: tuple[str, ...]

    @property
    def jobs(self) -> int:
        """How many images were asked for."""
        return self.task.jobs

    @property
    def images_per_second(self) -> float:
        """Wall time, from the first line of the side's code to its last."""
        return self.jobs / self.sample.wall_seconds

    @property
    def cpu_ms_per_image(self) -> float:
        """User and system time of all threads and children."""
        return self.sample.cpu_seconds / self.jobs * 1000

    @property
    def server_cpu_ms_per_image(self) -> float | None:
        """The server's own."""
        return None if self.server_cpu_seconds is None else self.server_cpu_seconds / self.jobs * 1000

    @property
    def server_share(self) -> float | None:
        """The server's CPU as a share of one core: near 1 it is the server that sets the pace."""
        return None if self.server_cpu_seconds is None else self.server_cpu_seconds / self.sample.wall_seconds

    def figures(self) -> dict[str, object]:
        """As a raw sample."""
        return {
            "side": LABELS[self.side],
            "jobs": self.jobs,
            "cpu_ms_per_image": self.cpu_ms_per_image,
            "images_per_second": self.images_per_second,
            "wall_seconds": self.sample.wall_seconds,
            "cpu_seconds": self.sample.cpu_seconds,
            "peak_mb": self.sample.peak_bytes / 1e6,
            "server_cpu_seconds": self.server_cpu_seconds,
            "status_calls": self.status_calls,
        }


def attempt(side: str, task: Task, inside: Path | None = None) -> Trial:
    """Run the side, count what it asked for, and look at every file.

    The files are removed, unless they are left `inside` a folder of the caller's: for minutes after thousands of files
    were removed, ext4 without a journal takes up to twice the CPU to make one, and the next side would pay for that.
    """
    with (
        static_server(
            picture_bytes=task.picture_bytes,
            https=task.https,
            hold_until_runs=task.hold_until_runs,
            runs_per_second=task.runs_per_second,
        ) as server,
        _folder(inside) as folder,
    ):
        workload = _workload(server, task, folder)
        before = server.cpu_seconds()
        sample = measure(side, workload, environment=server.environment, heartbeat=task.heartbeat)
        after = server.cpu_seconds()
        books = _books(server)
        return Trial(
            side,
            task,
            sample,
            None if before is None or after is None else after - before,
            books["statuses"],
            tuple(_faults(task, folder, books["runs"])),
        )


@contextmanager
def _folder(inside: Path | None) -> Iterator[Path]:
    if inside is not None:
        yield Path(mkdtemp(dir=inside))
        return
    with TemporaryDirectory(prefix="asyncgen-benchmark-") as folder:
        yield Path(folder)


def rounds_of(cases: Sequence[K], rounds: int, run: Callable[[K], T], *, quick: bool) -> list[Mapping[K, T]]:
    """Every case once in each round, A B C A B C, so that a noisy machine hurts all alike.

    Quick: several at once, because nobody looks at the figures.
    """
    with ThreadPoolExecutor(_QUICK_AT_ONCE if quick else 1) as threads:
        return [dict(zip(cases, threads.map(run, cases), strict=True)) for _ in range(rounds)]


def faults_of(trials: Sequence[Trial]) -> list[str]:
    """With the side that is to blame."""
    return [f"{LABELS[trial.side]}: {fault}" for trial in trials for fault in trial.faults]


def verified(trials: Sequence[Trial]) -> str:
    """The note that says what was looked at; for trials without faults."""
    count = sum(trial.jobs for trial in trials if trial.task.keeps_files)
    return f"verified: {count} files, every PNG whole, in each run all different, and no job bought twice"


def _workload(server: Server, task: Task, folder: Path) -> Workload:
    return Workload(
        base_url=server.base_url,
        endpoint=ENDPOINT,
        api_key=API_KEY,
        jobs=task.jobs,
        folder=folder,
        concurrency=task.concurrency,
        polling_interval_seconds=task.polling_interval_seconds,
        picture_bytes=task.picture_bytes,
        keeps_files=task.keeps_files,
    )


def _books(server: Server) -> dict[str, int]:
    root = server.environment.get("SSL_CERT_FILE")
    context = None if root is None else ssl.create_default_context(cafile=root)
    with urlopen(f"{server.base_url.removesuffix('/v2')}/books", context=context) as reply:
        books: dict[str, int] = json.load(reply)
        return books


def _faults(task: Task, folder: Path, runs: int) -> list[str]:
    faults = picture_faults(folder, jobs=task.jobs, picture_bytes=task.picture_bytes) if task.keeps_files else []
    if runs != task.jobs:
        faults.append(f"{runs} jobs were bought for {task.jobs} images")
    return faults
