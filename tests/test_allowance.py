"""What a run buys and on which terms: the shipped engine over real HTTP, judged by the sandbox's own books.

A worker's second costs one dollar here, so dollars are seconds. The sandbox lives a thousand times as fast.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from support import (
    ENDPOINT,
    KEY,
    SMALL,
    Wired,
    allowing,
    bought,
    eventually,
    fault,
    ledger_rows,
    most_out_at_once,
    open_sandbox,
    prompts,
    settings_for,
    states,
    wired,
)

from asyncgen import BudgetReachedError, ImageGenerator, InputError
from asyncgen.allowance import Allowance
from asyncgen.display import Moment, progress_line
from asyncgen.endpoint import Endpoint, Pace
from asyncgen.errors import Failure, FailureClass, FailureCode, RunPausedError
from asyncgen.forecast import Forecast
from asyncgen.lanes import LaneKind, Lanes
from asyncgen.lifecycle import State
from asyncgen.money import Budget, Label, Price, Use
from asyncgen.ports import HttpReply, HttpRequest, Transport
from asyncgen.protocol import Timing
from asyncgen.results import ImageResult
from asyncgen.sandbox import FaultRule, Sandbox
from asyncgen.stopping import Stop

pytestmark = pytest.mark.anyio

PRICE = Price(1.0, "a test")
NO_LANES: dict[str, Any] = {"faults_in_a_row": 1000}


@dataclass
class Meter:
    """What the platform charges: the seconds of every run of every job, whatever its end, as they end."""

    sandbox: Sandbox
    seconds: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        books = self.sandbox.books
        self.sandbox.exchange.listeners.append(
            lambda job, _: self.seconds.append((books.execution_ms(job) or 0) / 1000)
        )

    @property
    def usd(self) -> float:
        return sum(self.seconds)

    @property
    def most_usd(self) -> float:
        """With all that is out taking as long as it was allowed to."""
        out = (job for job in self.sandbox.books.jobs.values() if job.finished_at is None)
        return self.usd + sum(job.order.execution_timeout_seconds for job in out)


@asynccontextmanager
async def metered(*faults: FaultRule, **settings: Any) -> AsyncIterator[tuple[Sandbox, Meter]]:
    async with open_sandbox(*faults, **{"execution": "fixed:5", **settings}) as sandbox:
        yield sandbox, Meter(sandbox)


def priced(sandbox: Sandbox, budget_usd: float | None, timeout_seconds: float = 20, **more: Any) -> Allowance:
    """What a run over a budget may buy; made anew for each run."""
    return allowing(
        f"{sandbox.base_url}/{ENDPOINT}",
        price=PRICE,
        budget_usd=budget_usd,
        execution_timeout_seconds=timeout_seconds,
        **more,
    )


@asynccontextmanager
async def on_a_budget(
    sandbox: Sandbox, root: Path, budget_usd: float | None, timeout_seconds: float = 20, **policy: Any
) -> AsyncIterator[Wired]:
    allowance = priced(sandbox, budget_usd, timeout_seconds, **NO_LANES)
    async with wired(sandbox, root, allowance=allowance, **policy) as parts:
        yield parts


# -- a budget -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("concurrency", [1, 8, 64])
@pytest.mark.parametrize("resubmit", [False, True])
async def test_a_budget_is_never_passed_whatever_becomes_of_the_jobs(
    tmp_path: Path, concurrency: int, resubmit: bool
) -> None:
    faults = [
        fault("failed:out_of_memory", every=5),
        fault("lost_job", every=7),
        fault("timed_out", every=9),
        fault("failed:exception", every=11),
        fault("reset_after_accept", every=13),
        fault("429", every=6),
        fault("502", operation="retry", every=2),
    ]
    passed: list[float] = []
    # half of the jobs take longer than 5 s, some run into their timeout of 20
    async with metered(*faults, execution="lognormal:5,1") as (sandbox, meter):
        async with on_a_budget(sandbox, tmp_path, 400, resubmit_unknown=resubmit) as parts:
            parts.clock.on_pause = lambda: passed.append(meter.most_usd) if meter.most_usd > 400 else None
            with pytest.raises(BudgetReachedError, match=r"the budget of \$400\.00 is used up"):
                await parts.run(prompts(150), parts.engine(concurrency=concurrency))
        assert passed == []
        assert 100 < meter.usd <= 400, "it is used, and not passed"
    found = states(tmp_path)
    assert found["wanted"] > 0
    assert not {"submitting", "accepted", "storing"} & found.keys(), "what was out has been collected"


async def test_what_a_budget_cannot_hold_at_once_waits_for_what_is_out(tmp_path: Path) -> None:
    async with metered(workers=64, execution="fixed:60") as (sandbox, _):
        async with on_a_budget(sandbox, tmp_path, 1200 + 2 * 100, timeout_seconds=100) as parts:
            engine = parts.engine(concurrency=16)
            await parts.run(prompts(20), engine)
        assert engine.statistics.made == 20
        assert 12 <= most_out_at_once(bought(sandbox)) <= 14  # fewer where the machine is slow to send them


async def test_jobs_that_wait_for_the_budget_are_not_out_and_are_counted_apart(tmp_path: Path) -> None:
    async with metered(zero_workers=[ENDPOINT]) as (sandbox, _):
        on_cancelling = on_a_budget(sandbox, tmp_path, 250, timeout_seconds=100, cancel_on_stop=True)
        async with on_cancelling as parts, anyio.create_task_group() as tasks:
            engine = parts.engine(concurrency=8)
            tasks.start_soon(parts.run, prompts(12), engine)
            await eventually(lambda: engine.statistics.waiting == 6 and states(tmp_path).get("accepted") == 2)
            moment = Moment(engine.statistics, 12, 1.0)
            assert (engine.statistics.out, engine.statistics.in_work, moment.queued) == (2, 8, 4)
            assert "2 in flight · 6 waiting for the budget · 4 queued" in progress_line(moment)
            assert max(job.order.ttl_seconds for job in sandbox.books.jobs.values()) == 3600
            engine.request_stop()
        assert (engine.statistics.out, engine.statistics.waiting) == (0, 0)


async def test_what_waited_for_the_budget_still_goes_out_no_faster_than_results_are_fetched(tmp_path: Path) -> None:
    """Three may be out at once here: there is room for them in the budget once the first has ended."""
    async with metered(execution="fixed:5") as (sandbox, _):
        allowance = priced(sandbox, 700, timeout_seconds=600, **NO_LANES)
        allowance._results_per_second = lambda: 3 / 900
        async with wired(sandbox, tmp_path, allowance=allowance) as parts:
            allowance.count_earlier(0.0, [((await parts.job()).want.spec, 5000)] * 7)
            engine = parts.engine(concurrency=8)
            most: list[int] = []
            parts.clock.on_pause = lambda: most.append(engine.statistics.out)
            await parts.run(prompts(20), engine)
        assert states(tmp_path) == {"stored": 20, "wanted": 1}
        assert max(most) == 3


async def test_what_is_held_back_is_pending_and_goes_on_when_the_cap_is_raised(tmp_path: Path) -> None:
    async with metered() as (sandbox, meter):
        for cap, stored in ((52, 7), (52, 7), (72, 11), (500, 20)):
            async with on_a_budget(sandbox, tmp_path, cap) as parts:
                try:
                    await parts.run(prompts(20), parts.engine(concurrency=8))
                except BudgetReachedError:
                    assert states(tmp_path) == {"stored": stored, "wanted": 20 - stored}
            assert (states(tmp_path)["stored"], meter.usd) == (stored, 5 * stored), cap
            assert meter.usd <= cap


async def test_what_was_left_out_counts_at_the_most_that_was_sent_with_it_and_then_as_it_was(tmp_path: Path) -> None:
    async with metered(speed=20, execution="fixed:6") as (sandbox, meter):  # a third of a second
        async with on_a_budget(sandbox, tmp_path, None, timeout_seconds=30) as parts:
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(parts.run, prompts(3), parts.engine(concurrency=3))
                    await eventually(lambda: states(tmp_path).get("accepted") == 3)
                    scope.cancel()
        async with on_a_budget(sandbox, tmp_path, 100, timeout_seconds=10) as parts:
            at_most: list[float] = []
            parts.clock.on_pause = lambda: at_most.append(meter.most_usd)
            with pytest.raises(BudgetReachedError):
                await parts.run(prompts(100), parts.engine(concurrency=8))
        assert max(at_most) <= 100
        assert 90 < meter.usd <= 100


@pytest.mark.parametrize(
    ("name", "spent_on_it"),
    [("failed:out_of_memory", 5), ("failed:exception", 5), ("lost_job", 20), ("timed_out", 20)],
)
async def test_a_job_that_fails_counts_as_what_it_said_and_else_at_the_most(
    tmp_path: Path, name: str, spent_on_it: int
) -> None:
    """The rest is good jobs at 5; each may be bought while 20 are left for it, whatever was bought before."""
    async with metered(fault(name, nth=[1])) as (sandbox, _):
        async with on_a_budget(sandbox, tmp_path, 100) as parts:
            with pytest.raises(BudgetReachedError):
                await parts.run(prompts(40), parts.engine(concurrency=1))
        good = sum(job["fetches"] > 0 and job["state"] == "COMPLETED" for job in bought(sandbox))
        assert good == (100 - spent_on_it - 20) // 5 + 1


@pytest.mark.parametrize(("seconds", "usd"), [(2.0, 2.0), (30.0, 20.0), (-5.0, 20.0)])
async def test_a_cancelled_job_counts_for_as_long_as_it_was_there_and_never_for_more_than_its_limit(
    tmp_path: Path, seconds: float, usd: float
) -> None:
    """Where the wall clock was set back meanwhile, that says nothing."""
    failure = Failure(FailureClass.ITEM, FailureCode.CANCELLED, "cancelled at the platform")
    async with metered() as (sandbox, _), on_a_budget(sandbox, tmp_path, 100) as parts:
        job, allowance = await parts.job(), parts.bench.allowance
        terms = await allowance.reserve(job.want.spec, Stop())
        ended = replace(job.item, state=State.CANCELLED, submitted_at=1000.0, state_at=1000.0 + seconds)
        allowance.note_end(ended, job.want.spec, failure, Timing(), terms)
        assert allowance.reserve_at_once(replace(terms, execution_timeout_ms=int((100 - usd) * 1000)))
        assert not allowance.reserve_at_once(replace(terms, execution_timeout_ms=1))
        tallies = allowance.spending.tallies
        assert {use: tally.untimed_most_ms for use, tally in tallies.items() if tally.jobs} == {
            Use.CANCELLED: usd * 1000
        }


async def test_what_a_stop_takes_back_uses_up_no_more_of_the_budget_than_it_can_have_run(tmp_path: Path) -> None:
    on_cancelling = {"timeout_seconds": 600, "cancel_on_stop": True}
    async with (
        metered(zero_workers=[ENDPOINT]) as (sandbox, _),
        on_a_budget(sandbox, tmp_path, 1200, **on_cancelling) as parts,
    ):
        engine = parts.engine(concurrency=2)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(parts.run, prompts(2), engine)
            await eventually(lambda: states(tmp_path) == {"accepted": 2})
            engine.request_stop()
        assert states(tmp_path) == {"cancelled": 2}
        cost = engine.statistics.spending.tallies[Use.CANCELLED].cost(PRICE)
        assert (engine.statistics.spending.tallies[Use.CANCELLED].jobs, cost.usd) == (2, None)
        assert cost.most_usd is not None
        assert cost.most_usd < 600, "some pauses of the clock that jumps"
        assert await parts.ledger.committed_usd(parts.batch, 1.0) == pytest.approx(cost.most_usd, abs=0.01)


async def test_a_submission_of_unknown_outcome_stays_in_the_budget_at_the_most_it_can_have_cost(tmp_path: Path) -> None:
    async with metered(fault("reset_after_accept", nth=[1, 2])) as (sandbox, meter):
        for _ in range(2):  # for good: the second run knows of it too
            async with on_a_budget(sandbox, tmp_path, 70) as parts:
                with pytest.raises(BudgetReachedError, match=r"\$55\.00 of execution are spent or may have been"):
                    await parts.run(prompts(20), parts.engine(concurrency=1))
        assert states(tmp_path) == {"unknown": 2, "stored": 3, "wanted": 15}
        assert meter.usd == 25, "both had been accepted"


async def test_a_retried_job_counts_each_time_it_runs(tmp_path: Path) -> None:
    async with metered(fault("failed:out_of_memory", every=2)) as (sandbox, meter):
        async with on_a_budget(sandbox, tmp_path, 100) as parts:
            engine = parts.engine(concurrency=1)
            with pytest.raises(BudgetReachedError):
                await parts.run(prompts(40), engine)
        jobs = bought(sandbox)
        assert sum(job["retries"] for job in jobs) > 5
        assert meter.usd == 5 * sum(1 + job["retries"] for job in jobs) <= 100
        total = engine.statistics.spending.total.cost(PRICE)
        assert total.usd == pytest.approx(meter.usd)
        assert total.label is Label.MEASURED
        assert engine.statistics.spending.tallies[Use.FAILED].jobs == sum(job["retries"] for job in jobs)


async def test_what_was_not_bought_after_all_costs_nothing_of_the_budget(tmp_path: Path) -> None:
    """A body that is too large to be sent, and a retry that is refused: each would take more than is left beside it."""
    faults = fault("failed:out_of_memory", nth=[1]), fault("503", operation="retry")
    async with metered(*faults) as (sandbox, meter), on_a_budget(sandbox, tmp_path, 35) as parts:
        await parts.run(["x" * (10 * 1024 * 1024 + 1), *prompts(2)], parts.engine(concurrency=1))
    assert states(tmp_path) == {"failed": 1, "stored": 2}
    assert meter.usd == 15


async def test_two_runs_of_one_batch_that_are_begun_together_share_its_budget(tmp_path: Path) -> None:
    """The second waits for the first; what that spends meanwhile must count."""
    more = {"usd_per_second": 1.0, "budget_usd": 60.0, "execution_timeout_seconds": 20.0}
    async with metered() as (sandbox, meter):
        async with ImageGenerator(settings_for(sandbox, tmp_path, **more)) as generator:

            async def run(what: str) -> None:
                with pytest.raises(BudgetReachedError):
                    await generator.generate_many(prompts(20, what), batch="set", **SMALL)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(run, "a fox")
                tasks.start_soon(run, "an owl")
        assert meter.usd <= 60


async def test_a_budget_without_a_price_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    async with open_sandbox() as sandbox:
        with pytest.raises(InputError, match=r"--usd-per-second.*--gpu"):
            async with ImageGenerator(settings_for(sandbox, tmp_path, budget_usd=1.0)):
                pass
        assert bought(sandbox) == []


async def test_a_cap_below_one_job_buys_nothing_and_says_what_one_may_cost_and_what_makes_that_less(
    tmp_path: Path,
) -> None:
    text = r"\$19\.99 is too small for one job, which can cost up to \$20\.00: .* shorter ASYNCGEN_EXECUTION_TIMEOUT"
    async with metered() as (sandbox, _):
        async with on_a_budget(sandbox, tmp_path, 19.99) as parts:
            with pytest.raises(BudgetReachedError, match=text):
                await parts.run(prompts(5))
        assert (bought(sandbox), states(tmp_path)) == ([], {"wanted": 5})


# -- what is sent with a job ----------------------------------------------------------------------------------------


def timeouts(sandbox: Sandbox) -> list[float]:
    return [job.order.execution_timeout_seconds for job in sandbox.books.jobs.values()]


async def test_with_a_budget_the_timeout_that_is_sent_shrinks_once_times_are_known(tmp_path: Path) -> None:
    async with metered() as (sandbox, meter):
        async with on_a_budget(sandbox, tmp_path, 1000, timeout_seconds=600) as parts:
            await parts.run(prompts(30), parts.engine(concurrency=8))
        sent = timeouts(sandbox)
        assert (sent[0], sent[-1]) == (600, 60)
        assert sent == sorted(sent, reverse=True)
        assert set(ledger_rows(tmp_path, "SELECT execution_timeout_ms FROM job")) == {(600_000,), (60_000,)}
        assert meter.usd == 150


async def test_without_a_budget_no_job_is_cut_off_sooner_than_the_settings_say(tmp_path: Path) -> None:
    async with metered() as (sandbox, _):
        async with on_a_budget(sandbox, tmp_path, None, timeout_seconds=600) as parts:
            await parts.run(prompts(30), parts.engine(concurrency=8))
        assert set(timeouts(sandbox)) == {600}


async def test_a_cap_that_is_raised_by_less_than_a_whole_timeout_goes_on_with_the_times_that_are_known(
    tmp_path: Path,
) -> None:
    async with metered() as (sandbox, meter):
        for cap in (700, 750):
            async with on_a_budget(sandbox, tmp_path, cap, timeout_seconds=600) as parts:
                with pytest.raises(BudgetReachedError, match=r"another job can cost up to \$60\.00"):
                    await parts.run(prompts(200), parts.engine(concurrency=1))
            assert cap - 60 < meter.usd <= cap


async def test_jobs_that_fail_at_once_make_no_timeout_shorter(tmp_path: Path) -> None:
    async with metered(fault("failed:exception"), execution="fixed:0.1") as (sandbox, _):
        async with on_a_budget(sandbox, tmp_path, 100_000, timeout_seconds=600) as parts:
            await parts.run(prompts(20), parts.engine(concurrency=1))
        assert set(timeouts(sandbox)) == {600}


async def test_a_good_job_that_a_learned_timeout_cuts_off_is_bought_again_with_a_longer_one(tmp_path: Path) -> None:
    async with metered() as (sandbox, meter):
        async with on_a_budget(sandbox, tmp_path, 2000, timeout_seconds=600) as parts:
            await parts.run(prompts(20), parts.engine(concurrency=1))
            slow = parts.chunks([{"prompt": "a whole forest", "steps": 20}])
            sandbox.exchange.execution = lambda _: 90.0
            engine = parts.engine(concurrency=1)

            async def deliver(result: ImageResult) -> None:
                assert result.ok, result.failure

            await engine.run(slow, deliver)
        assert timeouts(sandbox)[-2:] == [60, 600]
        assert [job["retries"] for job in bought(sandbox)] == [0] * 22
        assert meter.usd == 20 * 5 + 60 + 90


async def test_a_job_may_wait_for_as_long_as_the_queue_ahead_of_it_can_take(tmp_path: Path) -> None:
    async with metered(zero_workers=[ENDPOINT]) as (sandbox, _):
        on_no_budget = on_a_budget(sandbox, tmp_path, None, timeout_seconds=600)
        async with on_no_budget as parts, anyio.create_task_group() as tasks:
            tasks.start_soon(parts.run, prompts(40), parts.engine(concurrency=40))
            await eventually(lambda: len(sandbox.books.jobs) == 40)
            tasks.cancel_scope.cancel()
        ttls = [job.order.ttl_seconds for job in sandbox.books.jobs.values()]
        assert all(ttl >= 600 * number for number, ttl in enumerate(ttls))
        assert max(ttls) <= 604_800


# -- lanes ----------------------------------------------------------------------------------------------------------

BAD_STYLE, GOOD_STYLE = "1", "16"


def two_styles(count: int) -> list[dict[str, Any]]:
    """Rows of a style whose jobs fail and of one whose jobs do not, in turns."""
    return [
        {"prompt": f"{word} {number}", "style_id": style}
        for number in range(count)
        for word, style in (("broken", BAD_STYLE), ("whole", GOOD_STYLE))
    ]


def broken(name: str = "failed:exception") -> FaultRule:
    return fault(name, prompt_contains="broken")


@pytest.mark.parametrize("concurrency", [1, 6])
async def test_a_bad_style_stops_and_another_goes_on(tmp_path: Path, concurrency: int) -> None:
    async with open_sandbox(broken()) as sandbox:
        allowance = priced(sandbox, None, faults_in_a_row=5)
        async with wired(sandbox, tmp_path, allowance=allowance) as parts:
            engine = parts.engine(concurrency=concurrency)
            results = await parts.run(two_styles(40), engine)
    by_style = {style: [r for r in results if r.style_id == style] for style in (BAD_STYLE, GOOD_STYLE)}
    assert all(result.ok for result in by_style[GOOD_STYLE])
    failed = [result for result in by_style[BAD_STYLE] if result.status == "failed"]
    pending = [result for result in by_style[BAD_STYLE] if result.status == "pending"]
    assert 5 <= len(failed) < 5 + concurrency
    assert len(failed) + len(pending) == 40
    reasons = {str(result.failure) for result in pending}
    assert all("not sent: style 1 is stopped, 5 times the same in a row" in reason for reason in reasons), reasons
    assert (engine.statistics.pending, engine.statistics.failed) == (len(pending), len(failed))
    assert [stopped.lane.kind for stopped in engine.statistics.stopped_lanes] == [LaneKind.STYLE]
    assert states(tmp_path) == {"stored": 40, "failed": len(failed), "wanted": len(pending)}


async def test_two_bad_styles_of_four_stop_and_the_good_ones_are_made(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [
        {"prompt": f"{word} {number}", "style_id": style}
        for number in range(30)
        for style, word in (("1", "broken"), ("16", "whole"), ("2", "broken"), ("18", "whole"))
    ]
    async with open_sandbox(broken()) as sandbox, wired(sandbox, tmp_path) as parts:
        results = await parts.run(rows, parts.engine(concurrency=4))
    assert all(result.ok for result in results if result.style_id in ("16", "18"))
    assert states(tmp_path)["stored"] == 60
    said = [record.getMessage() for record in caplog.records if "stopped" in record.getMessage()]
    assert len(said) == 2
    assert all(text.endswith("; nothing more of it is sent") for text in said)


async def test_a_stopped_style_is_tried_by_the_next_run(tmp_path: Path) -> None:
    async with open_sandbox(broken()) as sandbox:
        async with wired(sandbox, tmp_path, allowance=priced(sandbox, None, faults_in_a_row=2)) as parts:
            await parts.run(two_styles(10), parts.engine(concurrency=1))
        sandbox.faults.clear()
        async with wired(sandbox, tmp_path, allowance=priced(sandbox, None, faults_in_a_row=2)) as parts:
            await parts.run(two_styles(10))
    assert states(tmp_path) == {"stored": 18, "failed": 2}


async def test_a_job_whose_failure_stops_its_lane_is_not_run_again(tmp_path: Path) -> None:
    async with open_sandbox(broken("failed:out_of_memory")) as sandbox:
        async with wired(sandbox, tmp_path, allowance=priced(sandbox, None, faults_in_a_row=3)) as parts:
            results = await parts.run(two_styles(10), parts.engine(concurrency=1))
        runs = sum(1 + job["retries"] for job in bought(sandbox) if "broken" in job["prompt"])
        assert runs == 3
    assert states(tmp_path) == {"stored": 10, "failed": 1, "wanted": 9}
    pending = [str(result.failure) for result in results if result.status == "pending"]
    assert len(pending) == 9
    assert all("not sent: style 1 is stopped" in reason for reason in pending), "the one that was sent once among them"


@pytest.mark.parametrize(("concurrency", "most_unknown"), [(1, 4), (3, 6)])
async def test_an_endpoint_whose_submissions_get_no_answer_pauses_the_run(
    tmp_path: Path, concurrency: int, most_unknown: int
) -> None:
    async with open_sandbox() as sandbox, wired(sandbox, tmp_path) as parts:
        await parts.run(prompts(10))
        sandbox.faults.add((fault("502"),))
        parts.bench = replace(parts.bench, allowance=priced(sandbox, None, faults_in_a_row=4))
        engine = parts.engine(concurrency=concurrency)
        with pytest.raises(RunPausedError, match=r"endpoint http.*/ep is stopped, 4 times the same in a row"):
            await parts.run(prompts(30), engine)
    found = states(tmp_path)
    assert 4 <= found["unknown"] <= most_unknown
    assert (found["stored"], found["wanted"]) == (10, 20 - found["unknown"])


async def test_a_job_whose_failure_stops_the_endpoint_is_left_to_be_bought_again_and_not_out(tmp_path: Path) -> None:
    failure = Failure(FailureClass.INFRASTRUCTURE, FailureCode.OUT_OF_MEMORY, "CUDA out of memory")
    async with open_sandbox(fault("failed:out_of_memory")) as sandbox:
        allowance = priced(sandbox, None, faults_in_a_row=2)
        async with wired(sandbox, tmp_path, allowance=allowance) as parts:
            job = await parts.job()
            before = replace(job.item, endpoint=allowance.endpoint), replace(job.want.spec, workflow="another")
            allowance.note_end(*before, failure, Timing(), None)
            with pytest.raises(RunPausedError, match=r"endpoint .* is stopped, 2 times the same in a row"):
                await job.settle()
    assert states(tmp_path) == {"wanted": 1}
    assert ledger_rows(tmp_path, "SELECT outcome FROM job") == [("out_of_memory",)]


# -- as many as can be fetched --------------------------------------------------------------------------------------


@dataclass
class SlowResults:
    """A transport that takes its time, by the clock of the test, to bring a finished job."""

    transport: Transport
    pass_seconds: Callable[[float], None]
    seconds: float

    async def send(self, request: HttpRequest) -> HttpReply:
        reply = await self.transport.send(request)
        if b'"COMPLETED"' in reply.body:
            self.pass_seconds(self.seconds)
        return reply


@pytest.mark.parametrize(("seconds", "out"), [(1.0, 15), (450.0, 4), (5000.0, 1)])
async def test_where_fetching_is_slow_fewer_jobs_are_out(tmp_path: Path, seconds: float, out: int) -> None:
    """Two results at once in 450 s are four in half of the half hour for which results are kept."""
    async with open_sandbox() as sandbox, wired(sandbox, tmp_path) as parts:
        out_beside: list[int] = []

        def pass_seconds(passed: float) -> None:
            parts.clock.seconds += passed

        slow = replace(parts.ports, transport=SlowResults(parts.ports.transport, pass_seconds, seconds))
        endpoint = Endpoint(slow, parts.endpoint.address, KEY, Pace(downloads_at_once=2))
        allowance = Allowance(
            f"{sandbox.base_url}/{ENDPOINT}",
            None,
            Budget(None),
            Lanes(1000, 1.0),
            Forecast(600, 3600),
            lambda: endpoint.results_per_second,
        )
        parts.bench = replace(parts.bench, endpoint_at=lambda _: endpoint, allowance=allowance)
        engine = parts.engine(concurrency=16)

        async def deliver(result: ImageResult) -> None:
            out_beside.append(engine.statistics.out)

        await engine.run(parts.chunks(prompts(60)), deliver)
        assert engine.statistics.made == 60
    assert max(out_beside[16:]) <= out


async def test_a_stop_ends_the_wait_for_results_to_be_fetched(tmp_path: Path) -> None:
    rate = [0.0]
    async with open_sandbox(zero_workers=[ENDPOINT]) as sandbox, wired(sandbox, tmp_path) as parts:
        allowance = Allowance(
            f"{sandbox.base_url}/{ENDPOINT}", None, Budget(None), Lanes(9, 1), Forecast(600, 3600), lambda: rate[0]
        )
        parts.bench = replace(parts.bench, allowance=allowance, policy=replace(parts.bench.policy, cancel_on_stop=True))
        engine = parts.engine(concurrency=16)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(parts.run, prompts(10), engine)
            await eventually(lambda: states(tmp_path).get("accepted", 0) == 1)
            await anyio.wait_all_tasks_blocked()
            assert engine.statistics.out == 1
            engine.request_stop()
        assert states(tmp_path) == {"cancelled": 1, "wanted": 9}
