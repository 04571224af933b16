"""Which requests and jobs a fault rule hits, how limits count, and how execution times are drawn."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from asyncgen.errors import InputError
from asyncgen.sandbox.faults import FaultRule, Faults, draw, read_faults
from asyncgen.sandbox.limits import BASE, Limits
from asyncgen.sandbox.workers import parse_execution


def rules(*said: dict[str, Any], seed: int = 0) -> Faults:
    faults = Faults(seed)
    faults.add(tuple(FaultRule.model_validate(one) for one in said))
    return faults


def hits(faults: Faults, times: int, operation: str = "run", prompt: str = "") -> list[int]:
    """Which of the next requests are hit, counting from 1."""
    return [number for number in range(1, times + 1) if faults.pick(operation, "ep", prompt)]


def test_rules_hit_by_number_by_turn_and_always() -> None:
    assert hits(rules({"fault": "429", "nth": [3, 7]}), 10) == [3, 7]
    assert hits(rules({"fault": "502", "every": 4}), 10) == [4, 8]
    assert hits(rules({"fault": "503"}), 3) == [1, 2, 3]


def test_a_rule_stops_after_its_count() -> None:
    assert hits(rules({"fault": "503", "count": 2}), 5) == [1, 2]


def test_only_requests_that_match_are_counted() -> None:
    faults = rules({"fault": "429", "nth": [2], "operation": "status"})
    assert hits(faults, 5, "run") == []
    assert hits(faults, 3, "status") == [2]


def test_a_rule_can_name_words_of_the_prompt_and_an_endpoint() -> None:
    faults = rules({"fault": "out_of_memory", "prompt_contains": "dragon", "endpoint": "ep"})
    assert faults.pick("job", "ep", "a small dog") is None
    assert faults.pick("job", "other", "a dragon") is None
    assert (hit := faults.pick("job", "ep", "a dragon")) is not None
    assert hit.fault == "failed:out_of_memory"


def test_the_first_rule_that_hits_wins() -> None:
    faults = rules({"fault": "429", "nth": [2]}, {"fault": "500_html"})
    assert [hit.fault for _ in range(3) if (hit := faults.pick("run", "ep"))] == ["500_html", "429", "500_html"]


def test_a_share_of_requests_is_hit_the_same_ones_for_the_same_seed() -> None:
    rule = {"fault": "503", "probability": 0.1}
    first = hits(rules(rule, seed=1), 2000)
    assert 140 < len(first) < 260
    assert first == hits(rules(rule, seed=1), 2000) != hits(rules(rule, seed=2), 2000)


def test_any_means_every_request_but_not_jobs() -> None:
    faults = rules({"fault": "500_html", "operation": "any"})
    assert faults.pick("job", "ep") is None
    assert faults.pick("cancel", "ep") is not None


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        ({"fault": "meteor"}, "no such fault"),
        ({"fault": "429", "operation": "fly"}, "no such operation"),
        ({"fault": "429", "nht": [1]}, "nht"),
        ({"fault": "429", "probability": 2}, "probability"),
        ({}, "no such fault"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(said: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        FaultRule.model_validate(said)


def test_a_faults_file_is_read_and_a_wrong_one_names_the_rule(tmp_path: Path) -> None:
    path = tmp_path / "faults.json"
    path.write_text(json.dumps([{"fault": "429", "nth": [1]}, {"fault": "no_images"}]))
    assert [(rule.fault, rule.operation) for rule in read_faults(path)] == [("429", "run"), ("no_images", "job")]
    path.write_text(json.dumps([{"fault": "429"}, {"fault": "429", "every": 0}]))
    with pytest.raises(InputError, match=r"faults\.json:faults: rule 1\.every"):
        read_faults(path)


@given(st.lists(st.floats(0, 100), max_size=300), st.sampled_from(["cancel", "purge-queue"]))
def test_no_ten_seconds_hold_more_requests_than_documented(times: list[float], operation: str) -> None:
    limits, let_in = Limits(1.0), []
    for now in sorted(times):
        if limits.enter(now, "ep", operation):
            let_in.append(now)
            limits.leave("ep", operation)
    for start in let_in:
        assert sum(start <= now < start + 10 for now in let_in) <= BASE[operation].requests


def test_requests_in_progress_are_limited_until_one_is_answered() -> None:
    limits = Limits(1.0)
    assert [limits.enter(0, "ep", "cancel") for _ in range(21)] == [True] * 20 + [False]
    limits.leave("ep", "cancel")
    assert limits.enter(0, "ep", "cancel")


def test_status_and_its_long_poll_share_a_limit_but_endpoints_do_not() -> None:
    limits = Limits(1 / 2000)
    assert limits.enter(0, "ep", "status")
    assert not limits.enter(0, "ep", "status-sync")
    assert limits.enter(0, "other", "status-sync")


def test_limits_can_be_switched_off() -> None:
    limits = Limits(0)
    assert all(limits.enter(0, "ep", "purge-queue") for _ in range(100))


@pytest.mark.parametrize(
    ("text", "low", "middle", "high"),
    [
        ("4.7", 4.7, 4.7, 4.7),
        ("fixed:4.7", 4.7, 4.7, 4.7),
        ("4.7±10%", 4.23, 4.7, 5.17),
        ("5+-20%", 4.0, 5.0, 6.0),
        ("lognormal:4.7,0.3", 2.34, 4.7, 9.45),
    ],
)
def test_execution_times_follow_their_distribution(text: str, low: float, middle: float, high: float) -> None:
    seconds: Callable[[float], float] = parse_execution(text)
    assert [seconds(u) for u in (0.01, 0.5, 0.99)] == pytest.approx([low, middle, high], rel=0.01)


@pytest.mark.parametrize("text", ["", "fast", "normal:1,2", "lognormal:1", "4.7±x%"])
def test_an_execution_time_that_cannot_be_read_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        parse_execution(text)


def test_draws_are_even_and_depend_on_seed_and_key() -> None:
    draws = [draw(1, "execution", number) for number in range(2000)]
    assert 0.45 < sum(draws) / len(draws) < 0.55
    assert len({draw(1, "a"), draw(2, "a"), draw(1, "b")}) == 3
