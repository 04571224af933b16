"""`asyncgen plan` over a file of which no image was made, as a side of `planning`."""

from __future__ import annotations

import json
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

from asyncgen.commands import BatchOptions, Setup, run_plan
from asyncgen.planning import Assumed
from asyncgen.source import SourceOptions
from benchmarks.workload import Workload


def fetch(workload: Workload) -> None:
    """Fetches nothing; `prompts_file` must be given, and have as many rows as there are `jobs`."""
    plan(workload, "new", new_set=True)


def plan(workload: Workload, fate: str, *, new_set: bool) -> None:
    """`asyncgen plan FILE --style 1 --sandbox --out out --json`, with `--again` for a new set.

    Raises RuntimeError where it finds anything else than all `jobs` to have this fate.
    """
    source = SourceOptions(str(workload.prompts_file), None, None, False, {"style": "1"})
    options = BatchOptions(source, None, again=new_set, retry_failed=False, rebuy_changed=False, model_urls=())
    root = {"output_root": Path("out")}
    setup = Setup(root, None, sandbox=True, as_json=True, verbosity=-1, log_file=None, log_json=False)
    said = StringIO()
    with redirect_stdout(said):
        run_plan(setup, options, Assumed())
    found = json.loads(said.getvalue())["images"][fate]
    if found != workload.jobs:
        raise RuntimeError(f"{found} are {fate}, of {workload.jobs}")
