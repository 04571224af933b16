"""What a run says at its end of what it has cost: each sum once, with how sure it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from asyncgen.display import Moment, summary_lines
from asyncgen.money import Price, Use
from asyncgen.protocol import Timing
from asyncgen.records import PLATFORM, Batch
from asyncgen.tally import Statistics

PRICE = Price(0.001, "a test")
BATCH = Batch(1, "set", PLATFORM, is_new=True)
OF_PRICE = ", GPU time at $0.001 a second (a test)"


def cost_lines(*jobs: tuple[Use, int | None], price: Price | None = PRICE, worker_id: str | None = None) -> list[str]:
    """What a summary says between pace and folder, of jobs that could run for 60 s each."""
    statistics = Statistics(price=price)
    for use, execution_ms in jobs:
        statistics.spending.add(use, Timing(0, execution_ms, worker_id), 60_000)
    return summary_lines(BATCH, Path("out"), Moment(statistics, None, 1.0))[2:-1]


def test_what_was_measured_says_so_with_the_price_and_what_is_estimated_beside_it() -> None:
    assert cost_lines((Use.MADE, 4000), (Use.FAILED, 1000), worker_id="w1") == [
        f"cost: $0.0050 (measured){OF_PRICE}",
        "beside it about $0.0050 estimated for cold starts and idle workers",
        "1 jobs failed and were paid for: $0.0010 (measured)",
    ]


def test_a_lower_bound_is_one_by_its_own_words_and_says_the_most_it_can_be() -> None:
    assert cost_lines((Use.MADE, 4000), (Use.FAILED, 1000), (Use.FAILED, None)) == [
        f"cost: at least $0.0050, at most $0.0650{OF_PRICE}",
        "2 jobs failed and were paid for: at least $0.0010, at most $0.0610",
    ]


@pytest.mark.parametrize(
    ("use", "words"),
    [
        (Use.LOST, "2 jobs were lost, or had expired before they could be fetched, and were paid for"),
        (Use.CANCELLED, "2 jobs were cancelled; what they ran until then cost"),
    ],
)
def test_where_nothing_is_known_the_most_is_and_nothing_is_estimated(use: Use, words: str) -> None:
    not_known = "not known (no job said how long it ran), at most $0.1200"
    assert cost_lines((use, None), (use, None)) == [f"cost: {not_known}{OF_PRICE}", f"{words}: {not_known}"]


def test_without_a_price_nothing_has_a_sum() -> None:
    assert cost_lines((Use.LOST, None), price=None, worker_id="w1") == [
        "cost: unpriced (--usd-per-second or --gpu names a price)",
        "1 jobs were lost, or had expired before they could be fetched, and were paid for: unpriced",
    ]


def test_where_nothing_was_bought_there_is_nothing_to_say() -> None:
    assert cost_lines() == []
