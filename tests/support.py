"""What the tests of the whole share: fast sandboxes, a clock that jumps, the parts wired by hand, the command line."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import anyio
from aiohttp import web
from anyio.from_thread import start_blocking_portal
from PIL import Image

from asyncgen import ImageRequest, ImageResult, Settings, StylesRegistry, load_settings
from asyncgen.allowance import Allowance
from asyncgen.checks import CheckLevel
from asyncgen.endpoint import Endpoint, Pace
from asyncgen.engine import Choices, Engine
from asyncgen.forecast import Forecast
from asyncgen.input_pictures import InputPictures
from asyncgen.inspection import Inspector, Sizes
from asyncgen.intake import IndexedWant, Intake
from asyncgen.job import Job, Policy, Workbench
from asyncgen.lanes import Lanes
from asyncgen.ledger import Ledger
from asyncgen.money import Budget, Price
from asyncgen.plan import Planner
from asyncgen.ports import Ports
from asyncgen.protocol import EndpointAddress
from asyncgen.records import PLATFORM, Batch
from asyncgen.sandbox import FaultRule, Sandbox, SandboxSettings, serve
from asyncgen.scoring import Scorer
from asyncgen.stopping import Stop
from asyncgen.store import Store
from asyncgen.system import real_ports
from asyncgen.transport import aiohttp_transport

KEY = "rpa_0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
ENDPOINT = "ep"
FAST: Mapping[str, Any] = {
    "speed": 1000, "cold_start_seconds": 0, "execution": "fixed:0.05", "rate_limit_scale": 0,
}  # fmt: skip
SMALL: Mapping[str, Any] = {"width": 64, "height": 64}
LEDGER = "ledger.sqlite3"
_OURS = {LEDGER, f"{LEDGER}-wal", f"{LEDGER}-shm", f".{LEDGER}.lock", f".{LEDGER}.holder", "manifest.jsonl"}
_CHECKOUT = Path(__file__).parent.parent


def fault(name: str, **rule: Any) -> FaultRule:
    """One fault rule of the sandbox; see docs/sandbox.md."""
    return FaultRule.model_validate({"fault": name, **rule})


def prompts(count: int, what: str = "a lighthouse") -> list[str]:
    """So many different prompts."""
    return [f"{what}, study {number}" for number in range(count)]


# -- a sandbox in this process, in this event loop ------------------------------------------------------------------


@asynccontextmanager
async def open_sandbox(*faults: FaultRule, **settings: Any) -> AsyncIterator[Sandbox]:
    """A sandbox that needs about a millisecond for a job."""
    async with serve(SandboxSettings(**{**FAST, **settings, "faults": faults})) as sandbox:
        yield sandbox


def settings_for(sandbox: Sandbox, root: Path, **more: Any) -> Settings:
    """Settings as a user of a real endpoint has them, quick polling apart."""
    values = {
        "api_key": KEY,
        "endpoint": ENDPOINT,
        "endpoint_base_url": sandbox.base_url,
        "output_root": root,
        "polling_interval_seconds": 0.01,
        "polling_interval_max_seconds": 0.05,
    }
    return load_settings(**{**values, **more})


def bought(sandbox: Sandbox) -> list[dict[str, Any]]:
    """Every job that the sandbox has accepted, in order."""
    return list(sandbox.books.entries())


def received(sandbox: Sandbox) -> list[dict[str, Any]]:
    """The `input` of every job that ends from now on, as it came over HTTP."""
    inputs: list[dict[str, Any]] = []
    sandbox.exchange.listeners.append(lambda _, matter: inputs.append(json.loads(matter.job_input)))
    return inputs


def most_out_at_once(jobs: list[dict[str, Any]], name: str = "accepted_at") -> int:
    """How many jobs the platform had on its hands at the same time."""
    steps = [(job[name], 1) for job in jobs] + [(job["finished_at"], -1) for job in jobs]
    out = most = 0
    for _, step in sorted(steps, key=lambda step: (step[0], -step[1])):
        out += step
        most = max(most, out)
    return most


@asynccontextmanager
async def site(routes: Mapping[str, Callable[[web.Request], Awaitable[web.StreamResponse]]]) -> AsyncIterator[str]:
    """A small web site on loopback, for replies that no endpoint would give; its URL."""
    application = web.Application()
    application.add_routes([web.route("*", path, handler) for path, handler in routes.items()])
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.05)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


# -- the parts, wired by hand, with a clock that does not wait ------------------------------------------------------


@dataclass
class JumpClock:
    """Every pause ends at once, and moves this clock by its length; `pauses` are their lengths in seconds."""

    seconds: float = 1000.0
    pauses: list[float] = field(default_factory=list)
    on_pause: Callable[[], object] = lambda: None

    def now(self) -> float:
        return self.seconds

    def wall(self) -> float:
        return 1_700_000_000.0 + self.seconds

    async def sleep(self, seconds: float) -> None:
        self.on_pause()
        self.pauses.append(seconds)
        self.seconds += seconds
        await anyio.sleep(0.001)


@dataclass
class Wired:
    """Ledger, store, planner and endpoint of one output root, as `asyncgen.run` wires them."""

    root: Path
    ports: Ports
    clock: JumpClock
    ledger: Ledger
    endpoint: Endpoint
    bench: Workbench
    batch: Batch

    def engine(self, concurrency: int = 8, **choices: Any) -> Engine:
        return Engine(self.bench, self.batch, Choices(concurrency, **choices))

    async def run(self, wanted: list[Any], engine: Engine | None = None, **fields: Any) -> list[ImageResult]:
        """One run over these prompts; the results in the order in which they landed."""
        results: list[ImageResult] = []

        async def deliver(result: ImageResult) -> None:
            results.append(result)

        await (engine or self.engine()).run(self.chunks(wanted, **fields), deliver)
        return results

    def chunks(self, wanted: list[Any], **fields: Any) -> AsyncIterator[list[IndexedWant]]:
        return Intake(self.bench.planner, {**SMALL, **fields}).of_prompts(wanted, self.ports)

    async def job(self, prompt: str = "a fox", stop: Stop | None = None, **fields: Any) -> Job:
        """A job for one prompt, recorded and not yet begun."""
        (wanted,) = Intake(self.bench.planner, {**SMALL, **fields}).plan(prompt)
        run_id = await self.ledger.begin_run(self.batch)
        (item,) = await self.ledger.claim(self.batch, run_id, [wanted.want])
        return Job(self.bench, item, wanted.want, stop or Stop())


@asynccontextmanager
async def wired(
    sandbox: Sandbox | str,
    root: Path,
    *,
    pace: Pace | None = None,
    allowance: Allowance | None = None,
    check: CheckLevel = CheckLevel.STANDARD,
    scorer: Scorer | None = None,
    **policy: Any,
) -> AsyncIterator[Wired]:
    """The parts, open for as long as the block. `policy` replaces fields of `Policy`."""
    root.mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240 - nothing else runs yet
    base_url = sandbox if isinstance(sandbox, str) else sandbox.base_url
    async with aiohttp_transport() as transport, real_ports(transport, root / LEDGER) as system_ports:
        clock = JumpClock()
        ports = replace(system_ports, clock=clock)
        ledger = Ledger(ports)
        await ledger.open()
        writer = asyncio.create_task(ledger.run_writer())
        try:
            endpoint = Endpoint(ports, EndpointAddress(base_url, ENDPOINT), KEY, pace or Pace())
            planner = Planner(StylesRegistry.load(None), "normal_image_v4_workflow", pictures=InputPictures(root))
            sizes: Sizes = lambda want: planner.expected_sizes(want.request, want.spec)  # noqa: E731 - a name for a line
            bench = Workbench(
                ports=ports,
                ledger=ledger,
                store=Store(ports, root),
                planner=planner,
                endpoint_at=lambda _: endpoint,
                allowance=allowance or allowing(f"{base_url}/{ENDPOINT}"),
                inspector=Inspector(ports, ledger, root, check, sizes, scorer),
                policy=_policy(**policy),
            )
            batch = await ledger.open_batch("set", PLATFORM)
            yield Wired(root, ports, clock, ledger, endpoint, bench, batch)
        finally:
            writer.cancel()
            await ledger.close()


def allowing(
    endpoint: str,
    *,
    price: Price | None = None,
    budget_usd: float | None = None,
    faults_in_a_row: int = 20,
    execution_timeout_seconds: float = 600.0,
) -> Allowance:
    """What a run may buy; everything, unless told otherwise."""
    return Allowance(
        endpoint,
        price,
        Budget(budget_usd),
        Lanes(faults_in_a_row, 0.5),
        Forecast(execution_timeout_seconds, 3600.0),
        lambda: None,
    )


def _policy(**more: Any) -> Policy:
    values = {
        "batch_name": "set",
        "path_template": "{style}/{hex8}",
        "max_attempts": 3,
        "resubmit_unknown": False,
        "cancel_on_stop": False,
        "metadata": "full",
        "realm": PLATFORM,
    }
    return Policy(**{**values, **more})


# -- sandboxes outside this event loop ------------------------------------------------------------------------------


@dataclass
class Remote:
    """A sandbox that is only known by its URL: all that is asked of it goes over HTTP."""

    base_url: str

    @property
    def url(self) -> str:
        return self.base_url.removesuffix("/v2")

    def books(self, endpoint: str | None = None) -> list[dict[str, Any]]:
        jobs: list[dict[str, Any]] = self._call("GET", "books")["jobs"]
        return [job for job in jobs if endpoint in (None, job["endpoint"])]

    def accepted(self) -> int:
        return int(self._call("GET", "books?summary=1")["totals"].get("accepted", 0))

    def requests(self, operation: str) -> int:
        return int(self._call("GET", "books?summary=1")["totals"].get(f"requests.{operation}", 0))

    def answers(self, status: int) -> int:
        """How often it has answered so."""
        return int(self._call("GET", "books?summary=1")["totals"].get(f"answers.{status}", 0))

    def add(self, *faults: FaultRule) -> None:
        self._call("POST", "faults", json.dumps([rule.model_dump(exclude_defaults=True) for rule in faults]).encode())

    def clear(self) -> None:
        self._call("DELETE", "faults")

    def _call(self, method: str, path: str, body: bytes | None = None) -> Any:
        request = urllib.request.Request(f"{self.url}/sandbox/{path}", body, method=method)
        with urllib.request.urlopen(request, timeout=10) as reply:
            return json.load(reply)


@contextmanager
def sandbox_in_a_thread(*faults: FaultRule, **settings: Any) -> Iterator[Remote]:
    """A sandbox for tests that block, in an event loop of its own."""
    with start_blocking_portal() as portal:
        serving = serve(SandboxSettings(**{**FAST, **settings, "faults": faults}))
        with portal.wrap_async_context_manager(serving) as sandbox:
            yield Remote(sandbox.base_url)


@contextmanager
def sandbox_process(*options: str) -> Iterator[Remote]:
    """`asyncgen sandbox` in another process."""
    fast = ["--speed=1000", "--cold-start=0", "--execution=fixed:0.05", "--rate-limit-scale=0"]
    with started("sandbox", "--port=0", *fast, *options, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        yield Remote(line.split()[-1])
        process.send_signal(signal.SIGINT)


# -- the command line, in a process of its own ----------------------------------------------------------------------


def cli_environment(**variables: str) -> dict[str, str]:
    """The environment of a child: ours, without settings of the machine, and with the checkout on the path."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RUNPOD_", "ASYNCGEN_"))}
    own = {
        "PYTHONPATH": str(_CHECKOUT),
        "ASYNCGEN_USER_FOLDER": os.environ["ASYNCGEN_USER_FOLDER"],
        "ASYNCGEN_STATE_FOLDER": os.environ["ASYNCGEN_STATE_FOLDER"],
        "POLLING_INTERVAL": "0.01",
        "ASYNCGEN_POLLING_INTERVAL_MAX": "0.05",
        "COLUMNS": "200",
    }
    return {**kept, **own, **variables}


def account(remote: Remote, endpoint: str = ENDPOINT) -> dict[str, str]:
    """What a user of this endpoint has in the environment."""
    return {"RUNPOD_API_KEY": KEY, "RUNPOD_SERVER_100_ID": endpoint, "RUNPOD_ENDPOINT_BASE_URL": remote.base_url}


@contextmanager
def started(
    *arguments: str, cwd: Path | None = None, env: Mapping[str, str] | None = None, **options: Any
) -> Iterator[subprocess.Popen[str]]:
    """`python -m asyncgen ARGUMENTS`, running; killed at the end of the block if it still does."""
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(
        [sys.executable, "-m", "asyncgen", *arguments],
        cwd=cwd,
        env=cli_environment(**(env or {})),
        text=True,
        **{**pipes, **options},
    )
    try:
        with process:
            try:
                yield process
            finally:
                if process.poll() is None and sys.exc_info()[0] is not None:
                    process.kill()
                process.wait(30)
    finally:
        if process.poll() is None:
            process.kill()


@dataclass
class Ran:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> list[dict[str, Any]]:
        """Every line of standard output, each of which must be a JSON object."""
        entries = [json.loads(line) for line in self.out.splitlines()]
        assert all(isinstance(entry, dict) for entry in entries), self.out
        return entries

    @property
    def summary(self) -> dict[str, Any]:
        return self.json[-1]


def run_cli(
    *arguments: str,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    stdin: str = "",
    timeout_seconds: float = 60.0,
) -> Ran:
    """`python -m asyncgen ARGUMENTS`, to its end."""
    with started(*arguments, cwd=cwd, env=env) as process:
        out, err = process.communicate(stdin, timeout=timeout_seconds)
    return Ran(process.returncode, out, err)


def wait_until(condition: Callable[[], bool], timeout_seconds: float = 30.0) -> None:
    """Return once it holds; a process outside can only be asked again and again."""
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that in time"
        time.sleep(0.002)


async def eventually(condition: Callable[[], bool], timeout_seconds: float = 20.0) -> None:
    """`wait_until` for tests that share their event loop with what they wait for."""
    with anyio.fail_after(timeout_seconds):
        while not condition():  # noqa: ASYNC110 - books have no event to wait for
            await anyio.sleep(0.001)


# -- what is left on disk -------------------------------------------------------------------------------------------


def ledger_rows(root: Path, query: str, *parameters: object) -> list[tuple[Any, ...]]:
    """What the ledger of an output root says."""
    with closing(sqlite3.connect(f"file:{root / LEDGER}?mode=ro", uri=True)) as connection:
        return connection.execute(query, parameters).fetchall()


def states(root: Path) -> dict[str, int]:
    """How many items the ledger has in each state."""
    return dict(ledger_rows(root, "SELECT state, count(*) FROM item GROUP BY state"))


def files(root: Path, pattern: str = "*") -> list[Path]:
    """The files below a folder, in order of their names."""
    return sorted(path for path in root.rglob(pattern) if path.is_file())


def manifest(root: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (root / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]


def true_output(root: Path) -> list[dict[str, Any]]:
    """The manifest, after checking that it tells the whole truth about the folder.

    Every file it names is there, whole, with the hash it names, and no two are alike; nothing else is in the folder.
    """
    lines = manifest(root)
    found = {name for path in files(root) if not (name := path.relative_to(root).as_posix()).startswith("rejected/")}
    found -= _OURS
    assert found == {line["path"] for line in lines if line["path"] is not None}
    for line in lines:
        if line["path"] is not None:
            data = (root / line["path"]).read_bytes()
            assert (len(data), hashlib.sha256(data).hexdigest()) == (line["size_bytes"], line["sha256"])
            assert size_of(data) == (line["width"], line["height"])
    assert len({line["sha256"] for line in lines}) == len(lines)
    return lines


def size_of(data: bytes) -> tuple[int, int]:
    """Width and height of a picture, after decoding all of it."""
    with Image.open(BytesIO(data)) as picture:
        picture.load()
        return picture.size


def request(prompt: str = "a fox", **fields: Any) -> ImageRequest:
    return ImageRequest(prompt=prompt, **{**SMALL, **fields})
