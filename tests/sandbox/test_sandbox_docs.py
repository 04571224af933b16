"""`docs/sandbox.md` says what the code does: every setting with its default, every fault, and its example runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel

from asyncgen.sandbox import FaultRule, SandboxSettings
from asyncgen.sandbox.faults import ANSWERS, BODIES, FAILURES, FATES, PICTURES, RESETS

DOCS = (Path(__file__).parents[2] / "docs" / "sandbox.md").read_text(encoding="utf-8")
NOT_LITERAL = {"painters", "fault", "operation"}  # their defaults are told in words


@pytest.mark.parametrize("model", [SandboxSettings, FaultRule])
def test_every_field_stands_in_its_table_with_its_default(model: type[BaseModel]) -> None:
    for name, field in model.model_fields.items():
        default = "`[]`" if field.default == () else f"`{field.default}`"
        shown = r"[^|]*" if name in NOT_LITERAL else re.escape(default)
        assert re.search(rf"^\| `{name}` \| {shown} \| {re.escape(field.description or '')} \|$", DOCS, re.MULTILINE), (
            name
        )


def test_every_fault_stands_in_the_table() -> None:
    table = DOCS[DOCS.index("| fault | default operation |") : DOCS.index("## Books")]
    for fault in [*ANSWERS, *RESETS, *BODIES, *PICTURES, *FATES, *(f"failed:{kind}" for kind in FAILURES)]:
        assert f"`{fault}`" in table, fault


def test_the_python_example_runs() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL)
    done = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True, check=True, timeout=30)
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/v2\n\{\}\n", done.stdout)
