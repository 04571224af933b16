"""The simulated queue of the benchmark `lanes`, where its makespan can be worked out by hand."""

from __future__ import annotations

import pytest

from benchmarks.lanes import LOADING_SECONDS, Makespan, makespan


@pytest.mark.parametrize(
    ("styles", "workers", "seconds", "loads"),
    [
        ("", 2, 0, 0),
        ("a", 2, LOADING_SECONDS + 5, 1),
        ("aaaa", 2, LOADING_SECONDS + 10, 2),
        ("abab", 1, 4 * (LOADING_SECONDS + 5), 4),
        ("aabb", 1, 2 * LOADING_SECONDS + 20, 2),
        ("abab", 2, LOADING_SECONDS + 10, 2),
    ],
)
def test_whichever_worker_is_free_takes_the_next_image_and_loads_what_it_has_not(
    styles: str, workers: int, seconds: float, loads: int
) -> None:
    assert makespan(list(styles), workers, lambda: 5.0) == Makespan(seconds, loads)


def test_a_worker_that_is_slow_takes_fewer() -> None:
    times = iter([100.0, 1.0, 1.0, 1.0])
    assert makespan(["a"] * 4, 2, lambda: next(times)) == Makespan(LOADING_SECONDS + 100, 2)
