"""`asyncgen plan` over a file of which every image is there, as a side of `planning`."""

from __future__ import annotations

from benchmarks.sides.plan_new import plan
from benchmarks.workload import Workload


def fetch(workload: Workload) -> None:
    """Fetches nothing; `prompts_file` must be given, and `jobs` rows of it be there in the folder's `out`."""
    plan(workload, "kept", new_set=False)
