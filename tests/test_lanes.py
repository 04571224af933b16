"""Systematic faults: which lane stops, when, and what a good job, another fault and an unknown outcome mean for it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from parts import want

from asyncgen.errors import Failure, FailureClass, FailureCode
from asyncgen.lanes import WINDOW, Lane, LaneKind, Lanes, StoppedLane, lanes_of
from asyncgen.loras import Lora
from asyncgen.records import Spec

ENDPOINT = "https://api.example/v2/ep"
BAD = Failure(FailureClass.ITEM, FailureCode.WORKER_ERROR, "no such node")
OTHER = Failure(FailureClass.INFRASTRUCTURE, FailureCode.OUT_OF_MEMORY, "CUDA out of memory")
SILENT = Failure(FailureClass.TRANSPORT, FailureCode.UNREACHABLE, "reset")
_PLAIN = want("a fox").spec


def spec(style: str | None = None, *loras: str, workflow: str = "flux") -> Spec:
    return replace(_PLAIN, style_id=style, loras=tuple(Lora(name, 1.0) for name in loras), workflow=workflow)


def lanes(in_a_row: int = 3, share: float = 0.5) -> Lanes:
    return Lanes(in_a_row, share)


def note(it: Lanes, *failures: Failure | None, of: Spec | None = None) -> list[StoppedLane]:
    """Jobs that ended one after the other; the lanes they stopped."""
    stopped = [it.note(of or spec("ink"), ENDPOINT, failure) for failure in failures]
    return [lane for lane in stopped if lane is not None]


def kinds(it: Lanes) -> list[LaneKind]:
    return [lane.kind for lane in it.stopped]


# -- so many in a row -----------------------------------------------------------------------------------------------


def test_the_same_fault_so_many_times_in_a_row_stops_the_lane_and_says_why() -> None:
    it = lanes(3)
    assert note(it, BAD, BAD) == []
    (stopped,) = note(it, BAD)
    assert stopped.lane == Lane(LaneKind.STYLE, "ink")
    assert str(stopped) == "style ink is stopped, 3 times the same in a row: worker_error: no such node"
    assert it.stop_of(spec("ink"), ENDPOINT) == stopped
    assert it.stop_of(spec("oil"), ENDPOINT) is None


@pytest.mark.parametrize("between", [None, OTHER])
def test_a_good_job_or_another_fault_begins_the_row_anew(between: Failure | None) -> None:
    it = lanes(3)
    assert note(it, BAD, BAD, between, BAD, BAD) == []
    assert len(note(it, BAD)) == 1


def test_what_was_out_when_its_lane_stopped_says_nothing_more() -> None:
    it = lanes(3)
    assert len(note(it, *[BAD] * 20)) == 1
    assert kinds(it) == [LaneKind.STYLE]


# -- so large a share -----------------------------------------------------------------------------------------------


def test_so_large_a_share_of_the_last_fifty_stops_the_lane_too() -> None:
    it = lanes(20, share=0.5)
    assert note(it, *[BAD, None] * (WINDOW // 2 - 1)) == []
    (stopped,) = note(it, None, BAD)
    assert "25 times the same in the last 50" in str(stopped)


def test_a_share_below_that_stops_nothing_however_long_it_lasts() -> None:
    assert note(lanes(20, share=0.5), *[BAD, None, None] * 200) == []


def test_a_share_counts_only_one_fault_at_a_time() -> None:
    assert note(lanes(20, share=0.6), *[BAD, OTHER] * 200) == []


def test_faults_of_long_ago_are_forgotten() -> None:
    it = lanes(20, share=0.5)
    assert note(it, *[BAD] * 19, *[None] * WINDOW, *[BAD] * 19) == []


def test_a_share_is_of_fifty_and_not_of_the_few_that_were_seen_so_far() -> None:
    it = lanes(20, share=0.5)
    assert note(it, *[BAD, BAD, None] * 16, BAD) == []
    assert len(note(it, BAD)) == 1


def test_a_lane_that_has_gone_on_for_long_is_judged_by_its_last_fifty() -> None:
    it = lanes(20, share=0.5)
    assert note(it, BAD, *[None] * 200, *[BAD, None] * (WINDOW // 2 - 1)) == []
    assert len(note(it, BAD)) == 1


# -- the narrowest first --------------------------------------------------------------------------------------------


def test_the_lanes_of_a_job_are_named_narrowest_first() -> None:
    named = [str(lane) for lane in lanes_of(spec("ink", "b.safetensors", "a.safetensors"), ENDPOINT)]
    assert named == ["style ink", "LoRA set a.safetensors + b.safetensors", "workflow flux", f"endpoint {ENDPOINT}"]
    assert [lane.kind for lane in lanes_of(spec(), ENDPOINT)] == [LaneKind.WORKFLOW, LaneKind.ENDPOINT]


def test_one_bad_style_stops_by_itself_and_takes_its_faults_with_it() -> None:
    it = lanes(3)
    note(it, BAD, BAD, BAD, of=spec("ink", "x"))
    assert kinds(it) == [LaneKind.STYLE]
    assert note(it, BAD, BAD, of=spec("oil", "y")) == [], "two of another style do not make the workflow bad"


def test_a_lora_set_that_fails_in_several_styles_stops_before_the_workflow() -> None:
    it = lanes(4)
    for style in ("ink", "oil", "ink", "oil"):
        note(it, BAD, of=spec(style, "broken.safetensors"))
    assert kinds(it) == [LaneKind.LORA_SET]
    assert it.stop_of(spec("pen", "broken.safetensors"), ENDPOINT) is not None
    assert it.stop_of(spec("ink", "good.safetensors"), ENDPOINT) is None


def test_a_workflow_that_fails_in_several_styles_stops_before_the_endpoint() -> None:
    it = lanes(4)
    for style in ("ink", "oil", "pen", "ash"):
        note(it, BAD, of=spec(style))
    assert kinds(it) == [LaneKind.WORKFLOW]
    assert it.stop_of(spec("ink", workflow="other"), ENDPOINT) is None


def test_styles_that_stop_one_after_the_other_for_the_same_fault_stop_their_workflow() -> None:
    """A file that is sorted by style must not cost so many jobs of each of a hundred styles."""
    it = lanes(3)
    for style in ("ink", "oil"):
        note(it, BAD, BAD, BAD, of=spec(style))
    assert kinds(it) == [LaneKind.STYLE, LaneKind.STYLE]
    (widest,) = note(it, BAD, BAD, BAD, of=spec("lead"))
    assert str(widest) == "workflow flux is stopped, 3 lanes in it stopped for the same: worker_error: no such node"
    assert it.stop_of(spec("chalk"), ENDPOINT) == widest


@pytest.mark.parametrize("between", [[None], [OTHER, OTHER, OTHER]])
def test_styles_that_stop_with_a_good_job_between_them_or_for_other_faults_leave_their_workflow_alone(
    between: list[Failure | None],
) -> None:
    it = lanes(3)
    for style in ("ink", "oil"):
        note(it, BAD, BAD, BAD, of=spec(style))
    note(it, *between, of=spec("lead"))
    if between == [None]:
        note(it, BAD, BAD, BAD, of=spec("chalk"))
    assert LaneKind.WORKFLOW not in kinds(it)


def test_an_endpoint_that_fails_in_several_workflows_stops() -> None:
    it = lanes(4)
    for workflow in ("flux", "sd", "flux", "sd"):
        note(it, BAD, of=spec(workflow=workflow))
    assert kinds(it) == [LaneKind.ENDPOINT]
    assert it.stop_of(spec("ink", "x", workflow="third"), ENDPOINT) is not None


def test_a_large_share_of_faults_in_a_workflow_that_come_from_one_style_is_that_style_s() -> None:
    it = lanes(20, share=0.5)
    for _ in range(5):
        note(it, *[BAD] * 9, None, of=spec("ink"))
        note(it, *[None] * 5, of=spec("oil"))
    note(it, BAD)
    assert kinds(it) == [LaneKind.STYLE]


@pytest.mark.parametrize("workflow", ["flux", None])
def test_two_bad_styles_of_four_stop_each_by_itself_and_leave_the_good_ones_alone(workflow: str | None) -> None:
    """Whether the styles share one workflow or each has its own, and the endpoint is what they share."""
    it = lanes(20, share=0.5)
    of = {style: spec(style, workflow=workflow or style) for style in ("ink", "oil", "pen", "ash")}
    for _ in range(40):
        for style, failure in (("ink", BAD), ("oil", None), ("pen", BAD), ("ash", None)):
            note(it, failure, of=of[style])
    assert [lane.name for lane in it.stopped] == ["ink", "pen"]
    assert all((it.stop_of(of[style], ENDPOINT) is None) is (style in ("oil", "ash")) for style in of)


def test_a_fault_that_comes_often_in_every_style_stops_their_workflow() -> None:
    it = lanes(20, share=0.5)
    for number in range(1, WINDOW + 1):
        note(it, BAD if number % 3 else None, of=spec("ink" if number % 2 else "oil"))
    assert [str(stopped) for stopped in it.stopped.values()] == [
        "workflow flux is stopped, 34 times the same in the last 50: worker_error: no such node"
    ]


def test_a_fault_of_the_jobs_without_a_style_is_their_workflow_s_whatever_its_styles_do() -> None:
    it = lanes(20, share=0.5)
    for _ in range(WINDOW):
        note(it, BAD, of=spec())
        note(it, None, of=spec("ink"))
    assert kinds(it) == [LaneKind.WORKFLOW]


def test_submissions_that_stay_unknown_stop_the_endpoint_whatever_good_jobs_end_between_them() -> None:
    it = lanes(20, share=0.5)
    for _ in range(WINDOW):
        it.note_unknown(ENDPOINT, SILENT)
        note(it, None)
    assert kinds(it) == [LaneKind.ENDPOINT]


def test_a_workflow_without_styles_stops_by_itself() -> None:
    it = lanes(3)
    note(it, BAD, BAD, BAD, of=spec())
    assert kinds(it) == [LaneKind.WORKFLOW]


def test_the_jobs_of_two_endpoints_are_told_apart() -> None:
    it = lanes(4)
    for number in range(8):
        it.note(spec(f"style {number}", workflow=f"flow {number}"), f"{ENDPOINT}{number % 2}", BAD)
    assert {lane.name for lane in it.stopped} == {f"{ENDPOINT}0", f"{ENDPOINT}1"}, "the first takes only its own faults"


@given(st.lists(st.tuples(st.sampled_from(["ink", "oil", None]), st.sampled_from([BAD, OTHER, None])), max_size=200))
def test_a_wide_lane_never_stops_for_the_faults_of_one_style(jobs: list[tuple[str | None, Failure | None]]) -> None:
    """With the faults of one style only, whatever the others do."""
    it = lanes(5)
    for style, failure in jobs:
        it.note(spec(style), ENDPOINT, failure if style == "ink" else None)
    assert kinds(it) in ([], [LaneKind.STYLE])


@given(st.lists(st.tuples(st.sampled_from(["ink", "oil", "pen", None]), st.sampled_from([BAD, OTHER])), max_size=200))
def test_no_lane_stops_before_it_has_seen_so_many_of_one_fault(jobs: list[tuple[str | None, Failure]]) -> None:
    it = lanes(5)
    for number, (style, failure) in enumerate(jobs, start=1):
        stopped = it.note(spec(style), ENDPOINT, failure)
        if stopped is not None:
            met = [code for of, code in jobs[:number] if stopped.lane in lanes_of(spec(of), ENDPOINT)]
            assert met[-5:] == [failure] * 5


# -- submissions of unknown outcome ---------------------------------------------------------------------------------


def test_submissions_whose_outcome_is_unknown_stop_the_endpoint_and_nothing_else() -> None:
    it = lanes(3)
    stopped = [it.note_unknown(ENDPOINT, SILENT) for _ in range(5)]
    assert [lane is not None for lane in stopped] == [False, False, True, False, False]
    assert list(it.stopped) == [Lane(LaneKind.ENDPOINT, ENDPOINT)]
    assert it.stop_of(spec("ink"), ENDPOINT) is not None
    assert it.stop_of(spec("ink"), "https://api.example/v2/other") is None


def test_a_job_that_ends_well_shows_that_the_endpoint_does_answer() -> None:
    it = lanes(3, share=0.9)
    for _ in range(20):
        assert it.note_unknown(ENDPOINT, SILENT) is None
        assert it.note_unknown(ENDPOINT, SILENT) is None
        note(it, None)
