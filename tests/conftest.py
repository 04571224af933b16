"""What every test shares: one async backend, and no settings leaking in from the machine."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

# The same examples on every machine and every run, and no deadline on machines that are shared.
settings.register_profile("asyncgen", derandomize=True, deadline=None)
settings.load_profile("asyncgen")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test sees the developer's keys, endpoints, `.env`, user folder or runs."""
    for name in list(os.environ):
        if name.startswith(("RUNPOD_", "ASYNCGEN_", "POLLING_", "MAX_POLLING_")) or name == "SYNC_TIMEOUT":
            monkeypatch.delenv(name)
    monkeypatch.setenv("ASYNCGEN_USER_FOLDER", str(tmp_path_factory.mktemp("user-folder")))
    monkeypatch.setenv("ASYNCGEN_STATE_FOLDER", str(tmp_path_factory.mktemp("state-folder")))
