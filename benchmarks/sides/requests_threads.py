"""A thread for each job that is out, `requests` with a session per thread, `json` and `base64`; no fsync, no checks."""

from __future__ import annotations

import base64
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import requests

from benchmarks.sides import graphs
from benchmarks.workload import Workload

_own = threading.local()


def fetch(workload: Workload) -> None:
    """Ask at once, then every `polling_interval_seconds`."""
    template = graphs.template()

    def one(number: int, prompt: str) -> None:
        graph = graphs.filled(template, prompt, number)
        picture = base64.b64decode(_output(workload, graph)["images"][0]["data"])
        if workload.keeps_files:
            (workload.folder / f"{number:07}.png").write_bytes(picture)

    with ThreadPoolExecutor(workload.concurrency) as threads:
        for done in [threads.submit(one, number, prompt) for number, prompt in enumerate(workload.prompts())]:
            done.result()


def _output(workload: Workload, graph: dict[str, object]) -> dict[str, list[dict[str, str]]]:
    session, endpoint = _session(workload), f"{workload.base_url}/{workload.endpoint}"
    job_id = session.post(f"{endpoint}/run", json={"input": {"workflow": graph}}).json()["id"]
    while True:
        record = session.get(f"{endpoint}/status/{job_id}").json()
        if record["status"] == "COMPLETED":
            output: dict[str, list[dict[str, str]]] = record["output"]
            return output
        if record["status"] == "FAILED":
            raise RuntimeError(f"job {job_id} failed: {record.get('error')}")
        time.sleep(workload.polling_interval_seconds)


def _session(workload: Workload) -> requests.Session:
    """This thread's."""
    if not hasattr(_own, "session"):
        _own.session = requests.Session()
        _own.session.headers["Authorization"] = f"Bearer {workload.api_key}"
    session: requests.Session = _own.session
    return session
