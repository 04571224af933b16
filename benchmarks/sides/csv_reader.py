"""The floor of `planning`: reads and parses every row of a CSV file with the standard library, and forgets it."""

from __future__ import annotations

import csv

from benchmarks.workload import Workload


def fetch(workload: Workload) -> None:
    """Fetches nothing; `prompts_file` must be given, and have as many rows as there are `jobs`."""
    assert workload.prompts_file is not None
    with workload.prompts_file.open(encoding="utf-8", newline="") as lines:
        rows = sum(bool(row["prompt"]) for row in csv.DictReader(lines))
    if rows != workload.jobs:
        raise RuntimeError(f"{rows} rows were read, of {workload.jobs}")
