"""Worlds run without a log; the tests after them have theirs."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def log_as_before() -> Iterator[None]:
    logger = logging.getLogger("asyncgen")
    level = logger.level
    yield
    logger.setLevel(level)
