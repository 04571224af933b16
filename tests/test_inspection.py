"""Pictures are looked at before they count, over real HTTP: what is rejected, what is kept, what is bought again."""

from __future__ import annotations

import itertools
import logging
import sqlite3
import sys
from contextlib import closing
from io import BytesIO
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from PIL import Image
from support import LEDGER, bought, fault, ledger_rows, open_sandbox, size_of, states, wired

from asyncgen import rows
from asyncgen.checks import CheckLevel, next_seed, seed_after
from asyncgen.errors import FailureCode, InputError
from asyncgen.images import Picture
from asyncgen.lifecycle import State
from asyncgen.records import Look
from asyncgen.request import ImageRequest, parse_request
from asyncgen.sandbox import FaultRule
from asyncgen.scoring import Score, load_scorer
from asyncgen.sibling_rows import siblings_of

pytestmark = pytest.mark.anyio
SEEDS: dict[str, Any] = {"images": 3, "seed": 7}


async def run(root: Path, *faults: FaultRule, wanted: Any = ("a fox",), fields: Any = None, **parts: Any) -> list[Any]:
    """One run over the prompts; the results in order of the input."""
    async with open_sandbox(*faults) as sandbox, wired(sandbox, root, **parts) as opened:
        results = await opened.run(list(wanted), **(fields or {}))
    return sorted(results, key=lambda result: result.index)


def rejected(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.glob("rejected/**/*") if path.is_file())


# -- blank ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "word"), [("black_image", "black"), ("grey_image", "grey")])
async def test_a_blank_picture_fails_and_is_kept_aside(tmp_path: Path, name: str, word: str) -> None:
    (result,) = await run(tmp_path, fault(name))
    assert (result.status, result.failure.code) == ("failed", FailureCode.BLANK_IMAGE)
    (path,) = rejected(tmp_path)
    assert word in result.failure.message
    assert f"kept as {path}" in result.failure.message
    assert size_of((tmp_path / path).read_bytes()) == (64, 64)
    assert ledger_rows(tmp_path, "SELECT state, path FROM image") == [("rejected", path)]
    assert ledger_rows(tmp_path, "SELECT outcome FROM job") == [("blank_image",)]


@pytest.mark.parametrize(
    ("level", "state"),
    [(CheckLevel.STRICT, "failed"), (CheckLevel.STANDARD, "failed"), (CheckLevel.WARN, "stored"),
     (CheckLevel.OFF, "stored")],
)  # fmt: skip
async def test_how_much_is_asked_is_the_caller_s_choice(
    tmp_path: Path, level: CheckLevel, state: str, caplog: pytest.LogCaptureFixture
) -> None:
    await run(tmp_path, fault("black_image"), check=level)
    assert states(tmp_path) == {state: 1}
    assert ("is kept, though the picture shows nothing" in caplog.text) == (level is CheckLevel.WARN)


# -- duplicates -----------------------------------------------------------------------------------------------------


async def test_a_picture_that_another_seed_has_made_fails(tmp_path: Path) -> None:
    results = await run(tmp_path, fault("same_image"), fields=SEEDS)
    assert states(tmp_path) == {"stored": 1, "failed": 2}
    failed = [result for result in results if not result.ok]
    (made,) = [result for result in results if result.ok]
    assert {result.failure.code for result in failed} == {FailureCode.DUPLICATE_IMAGE}
    assert all(made.request_id in result.failure.message for result in failed)
    assert len(rejected(tmp_path)) == 2


async def test_the_sandbox_s_stamped_pictures_are_one_picture_in_different_files(tmp_path: Path) -> None:
    async with open_sandbox(pictures="stamped") as sandbox, wired(sandbox, tmp_path / "checked") as opened:
        results = await opened.run(["a fox"], **SEEDS)
    assert [result.failure.code for result in results if result.failure] == [FailureCode.DUPLICATE_IMAGE] * 2


async def test_so_it_is_where_each_seed_has_a_row_of_its_own_and_a_run_of_its_own(tmp_path: Path) -> None:
    for seed in (1, 2):
        await run(tmp_path, fault("same_image"), wanted=[{"prompt": "a fox", "seed": seed}])
    assert states(tmp_path) == {"stored": 1, "failed": 1}


async def test_other_seeds_other_prompts_and_the_same_seed_twice_are_no_duplicates(tmp_path: Path) -> None:
    same = [{"prompt": "a fox", "id": name, "seed": 5} for name in ("one", "two")]
    same += [{"prompt": "a boat", "seed": 5}, {"prompt": "a fox", "seed": 6}]
    await run(tmp_path, wanted=same, check=CheckLevel.STRICT)
    assert states(tmp_path) == {"stored": 4}


class Nearly:
    """Paints the seed 0 for every seed, encoded anew: other bytes that look the same."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from asyncgen.sandbox import workers

        self._paint, self._qualities = workers.paint, itertools.count(80)
        monkeypatch.setattr(workers, "paint", self)

    def __call__(self, wish: Any, index: int = 0) -> bytes:
        buffer = BytesIO()
        with Image.open(BytesIO(self._paint(wish, index))) as image:
            image.save(buffer, "JPEG", quality=next(self._qualities))
        return buffer.getvalue()


@pytest.mark.parametrize(("level", "failed"), [(CheckLevel.STRICT, 2), (CheckLevel.STANDARD, 0)])
@pytest.mark.parametrize("fields", [SEEDS, {}])
async def test_near_ones_fail_where_that_is_asked_and_are_told_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any, level: CheckLevel, failed: int, fields: Any
) -> None:
    """Side by side, and one after the other: then the first is looked at in its file."""
    Nearly(monkeypatch)
    rows = ["a fox"] if fields else [{"prompt": "a fox", "seed": seed} for seed in range(3)]
    for wanted in [rows] if fields else [[row] for row in rows]:
        await run(tmp_path, fault("same_image"), wanted=wanted, fields=fields, check=level)
    assert states(tmp_path).get("failed", 0) == failed
    assert ("looks like the picture of another seed" in caplog.text) == (level is CheckLevel.STANDARD or bool(failed))


async def test_among_thousands_of_seeds_the_same_picture_is_always_found_and_the_newest_are_looked_at(
    tmp_path: Path,
) -> None:
    """A ledger as such a batch leaves it: one picture is copied to as many seeds as there are rows."""
    await run(tmp_path)
    with closing(sqlite3.connect(tmp_path / LEDGER)) as ledger:
        ledger.row_factory = sqlite3.Row
        (item,), (image,) = ledger.execute("SELECT * FROM item").fetchall(), ledger.execute("SELECT * FROM image")
        for number in range(2, 1500):
            again = {
                "state": "wanted",
                "id": number,
                "request_id": f"img_{number}",
                "seed": str(number),
                "occurrence": number,
            }
            _insert(ledger, "item", dict(item) | again)
            looks = {"pixels_hash": number.to_bytes(16, "big"), "perceptual_hash": f"{number:016x}"}
            _insert(ledger, "image", dict(image) | {"id": number, "item_id": number, "path": f"{number}.png"} | looks)
        wanted = rows.item_of(ledger, item)
        same = (Look((777).to_bytes(16, "big")),)
        found = {sibling.image_id for sibling in siblings_of(ledger, wanted, same, parse_request("a fox"))}
    assert {777, *range(1436, 1500)} <= found
    assert len(found) < 200


def _insert(ledger: sqlite3.Connection, table: str, row: dict[str, Any]) -> None:
    ledger.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})", tuple(row.values()))


async def test_a_picture_that_has_no_other_seed_near_it_is_never_decoded(tmp_path: Path) -> None:
    await run(tmp_path, wanted=["a fox", "a boat"])
    hashes = ledger_rows(tmp_path, "SELECT pixels_hash IS NULL, perceptual_hash IS NULL FROM image")
    assert hashes == [(0, 1), (0, 1)]


# -- size -----------------------------------------------------------------------------------------------------------


async def test_a_picture_of_another_size_than_the_workflow_makes_fails_at_every_level(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from asyncgen.sandbox import workers
    from asyncgen.sandbox.painter import paint

    monkeypatch.setattr(workers, "paint", lambda wish, index=0: paint(type(wish)("", 1, 32, 64, 1, 1, ()), index))
    (result,) = await run(tmp_path, check=CheckLevel.OFF)
    assert result.failure.code is FailureCode.WRONG_SIZE
    assert "32x64 pixels, and the workflow makes 64x64" in result.failure.message


async def test_an_upscale_is_larger_and_counts(tmp_path: Path) -> None:
    (result,) = await run(tmp_path, wanted=[{"prompt": "a fox", "workflow": "text2img_upscale"}])
    assert (result.ok, result.pictures[0].width) == (True, 128)


async def test_the_size_of_an_input_picture_leads_to_what_its_upscale_must_have(tmp_path: Path) -> None:
    source = tmp_path / "source.png"
    Image.linear_gradient("L").resize((40, 24)).convert("RGB").save(source)
    row = {"workflow": "upscale", "init_image": str(source)}
    async with open_sandbox() as sandbox, wired(sandbox, tmp_path / "set") as parts:
        planner = parts.bench.planner
        (want,) = planner.wants(parse_request(row))
        assert planner.expected_sizes(want.request, want.spec) == {(80, 48)}
        (result,) = await parts.run([row], width=None, height=None)
    assert (result.ok, result.pictures[0].width) == (True, 80)


# -- the scorer -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verdict", "reason"),
    [
        (False, "the scorer rejects it"),
        (0.25, "its score is 0.25, below 0.5"),
        (Score(keep=False, reason="six fingers", value=4.5), "the scorer rejects it (score 4.5): six fingers"),
        (True, None), (None, None), (0.75, None), (Score(keep=True), None),
    ],
)  # fmt: skip
@pytest.mark.parametrize("is_async", [False, True])
async def test_a_scorer_sees_each_picture_with_its_request_and_seed_and_may_reject_it(
    tmp_path: Path, verdict: Any, reason: str | None, is_async: bool
) -> None:
    seen: list[tuple[Picture, ImageRequest, int]] = []

    def score(picture: Picture, request: ImageRequest, seed: int) -> Any:
        seen.append((picture, request, seed))
        return verdict

    async def score_later(picture: Picture, request: ImageRequest, seed: int) -> Any:
        await anyio.lowlevel.checkpoint()
        return score(picture, request, seed)

    (result,) = await run(tmp_path, fields={"seed": 9}, scorer=score_later if is_async else score)
    ((picture, request, seed),) = seen
    assert (size_of(picture.data), request.prompt, seed) == ((64, 64), "a fox", 9)
    assert result.ok == (reason is None)
    if reason is not None:
        assert result.failure.code is FailureCode.REJECTED_BY_SCORER
        assert reason in result.failure.message


@pytest.mark.parametrize("bad", [lambda *_: 1 / 0, lambda *_: "nonsense", lambda *_: float("nan")])
async def test_a_scorer_that_fails_loses_no_picture(tmp_path: Path, bad: Any, caplog: pytest.LogCaptureFixture) -> None:
    (result,) = await run(tmp_path, scorer=bad)
    assert result.ok
    assert "the scorer has failed, and the picture counts without it" in caplog.text


def test_a_scorer_is_named_by_module_and_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my_scorer.py").write_text("def fine(picture, request, seed): return True\nnumber = 1\n")
    assert load_scorer("my_scorer:fine")(None, None, 0) is True  # type: ignore[arg-type]
    for wrong in ("my_scorer", "my_scorer:number", "my_scorer:other", "no_such_module_here:fine"):
        with pytest.raises(InputError) as caught:
            load_scorer(wrong)
        assert caught.value.field == "scorer"


# -- another seed ---------------------------------------------------------------------------------------------------


async def test_a_rejected_picture_is_rolled_again_and_both_attempts_are_kept(tmp_path: Path) -> None:
    (result,) = await run(tmp_path, fault("black_image", nth=[1]), fields={"seed": 7}, rerolls=1)
    assert (result.ok, result.seed) == (True, next_seed(7, 1))
    jobs = ledger_rows(tmp_path, "SELECT attempt, seed, outcome, execution_ms > 0 FROM job ORDER BY id")
    assert jobs == [(1, "7", "blank_image", 1), (2, str(result.seed), "completed", 1)]
    assert ledger_rows(tmp_path, "SELECT seed, rerolls FROM item") == [(str(result.seed), 1)]
    ((detail,),) = ledger_rows(tmp_path, "SELECT detail FROM event WHERE state = 'wanted' AND source = 'accepted'")
    assert f"rolled again with seed {result.seed}" in detail
    assert [image for (image,) in ledger_rows(tmp_path, "SELECT state FROM image")] == ["rejected", "stored"]


async def test_the_same_input_finds_it_again_as_it_is(tmp_path: Path) -> None:
    row = [{"prompt": "a fox", "seed": 7}]
    (first,) = await run(tmp_path, fault("black_image", nth=[1]), wanted=row, rerolls=1)
    (again,) = await run(tmp_path, wanted=row)
    assert (again.kept, again.changed, again.seed) == (True, False, first.seed)
    (other,) = await run(
        tmp_path,
        wanted=[
            {"prompt": "a fox", "seed": 7, "id": "x"},
        ][:1],
    )
    assert other.seed == 7, "whose seed nobody has rejected"


async def test_it_is_rolled_no_more_often_than_told(tmp_path: Path) -> None:
    async with open_sandbox(fault("black_image")) as sandbox, wired(sandbox, tmp_path, rerolls=2) as parts:
        job = await parts.job(seed=7)
        await job.settle()
        assert [int(sold["seed"]) for sold in bought(sandbox)] == [7, next_seed(7, 1), seed_after(7, 2)]
    assert (job.item.state, job.item.rerolls, job.item.attempts) == (State.FAILED, 2, 3)
    assert len(rejected(tmp_path)) == 3


async def test_a_rejected_one_that_is_tried_again_takes_the_next_seed_if_it_may(tmp_path: Path) -> None:
    """The same seed would make the same picture; without leave to roll it is what was asked for."""
    fox, again = [{"prompt": "a fox", "seed": 7}], {"retry_failed": True}
    async with open_sandbox(fault("black_image", count=3)) as sandbox:
        async with wired(sandbox, tmp_path) as parts:
            await parts.run(fox)
            await parts.run(fox, parts.engine(**again))
        async with wired(sandbox, tmp_path, rerolls=1) as parts:
            (still_black,) = await parts.run(fox, parts.engine(**again))
            (good,) = await parts.run(fox, parts.engine(**again))
            (kept,) = await parts.run(fox, parts.engine(**again))
        assert [int(sold["seed"]) for sold in bought(sandbox)] == [7, 7, next_seed(7, 1), seed_after(7, 2)]
    assert [result.ok for result in (still_black, good, kept)] == [False, True, True]
    assert (good.seed, kept.seed, kept.status) == (seed_after(7, 2), seed_after(7, 2), "success")


async def test_a_workflow_without_a_seed_is_not_rolled_again(tmp_path: Path) -> None:
    """Another seed would make the same picture, and be paid for."""
    Image.linear_gradient("L").convert("RGB").save(tmp_path / "source.png")
    row, sizes = {"workflow": "upscale", "init_image": str(tmp_path / "source.png")}, {"width": None, "height": None}
    async with open_sandbox(fault("black_image")) as sandbox, wired(sandbox, tmp_path / "set", rerolls=2) as parts:
        await parts.run([row], **sizes)
        assert len(bought(sandbox)) == 1
        await parts.run([row], parts.engine(retry_failed=True), **sizes)
        assert len(bought(sandbox)) == 2, "as told"


async def test_what_the_platform_fails_is_counted_apart(tmp_path: Path) -> None:
    """Two attempts and one reroll: a failure of the platform's on each seed would be one too many for neither."""
    faults = fault("failed:out_of_memory", nth=[1]), fault("black_image", nth=[2])
    (result,) = await run(tmp_path, *faults, max_attempts=2, rerolls=1)
    assert result.ok
    assert [outcome for outcome, in ledger_rows(tmp_path, "SELECT outcome FROM job ORDER BY id")] == [
        "out_of_memory", "blank_image", "completed",
    ]  # fmt: skip


async def test_a_kill_between_the_file_and_its_record_buys_nothing_and_leaves_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from asyncgen.ledger import Ledger

    async with open_sandbox(fault("black_image", nth=[1])) as sandbox:
        with monkeypatch.context() as patch:
            patch.setattr(Ledger, "record_picture_rejected", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(BaseException, match=r".*"):
                async with wired(sandbox, tmp_path, rerolls=1) as parts:
                    await (await parts.job(seed=7)).settle()
        (left,) = rejected(tmp_path)
        assert states(tmp_path) == {"accepted": 1}
        async with wired(sandbox, tmp_path, rerolls=1) as parts:
            (result,) = await parts.run([{"prompt": "a fox", "seed": 7}])
        assert (result.ok, result.seed, len(bought(sandbox))) == (True, next_seed(7, 1), 2)
    assert rejected(tmp_path) == [left]


async def test_what_a_kill_left_half_written_goes_with_a_job_that_the_platform_has_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process dies while it keeps a rejected picture, and the result expires before the next one comes."""
    async with open_sandbox(fault("black_image", nth=[1])) as sandbox:
        with monkeypatch.context() as patch:
            patch.setattr("asyncgen.store._write_one", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(BaseException, match=r".*"):
                async with wired(sandbox, tmp_path, rerolls=1) as parts:
                    job = await parts.job(seed=7)
                    await job.settle()
        half = tmp_path / f"{job._rejected_names(1)[0]}.png"
        half = half.with_name(f".{half.name}.part")
        half.parent.mkdir(parents=True)
        half.write_bytes(b"half a picture")
        sandbox.faults.add((fault("not_found", operation="status"),))
        async with wired(sandbox, tmp_path, rerolls=1) as parts:
            (result,) = await parts.run([{"prompt": "a fox", "seed": 7}])
    assert (result.failure.code, rejected(tmp_path)) == (FailureCode.LOST, [])


async def test_many_in_a_row_stop_their_style(tmp_path: Path) -> None:
    async with open_sandbox(fault("black_image")) as sandbox:
        from support import allowing

        allowance = allowing(f"{sandbox.base_url}/ep", faults_in_a_row=3)
        async with wired(sandbox, tmp_path, allowance=allowance, rerolls=5) as parts:
            results = await parts.run([f"a fox {n}" for n in range(12)], parts.engine(1), style_id="1")
        assert len(bought(sandbox)) == 3
    assert {result.failure.code for result in results} == {FailureCode.BLANK_IMAGE}
    assert "style 1 is stopped" in results[-1].failure.message


async def test_what_is_delivered_in_memory_is_handed_over_though_it_does_not_count(tmp_path: Path) -> None:
    (result,) = await run(tmp_path, fault("black_image"), fields={"save_to_style": False})
    assert (result.ok, len(result.delivered), rejected(tmp_path)) == (False, 1, [])


def test_the_seed_after_a_seed_is_always_the_same() -> None:
    assert next_seed(7, 1) == 5553609203046970859
    assert seed_after(7, 0) == 7
    assert seed_after(7, 2) == next_seed(next_seed(7, 1), 2)
    assert 0 <= next_seed(2**64 - 1, 3) < 2**64


def test_the_log_is_quiet_of_what_counts(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    with caplog.at_level(logging.WARNING):
        anyio.run(lambda: run(tmp_path))
    assert not caplog.records


def leaves(picture: Any, request: Any, seed: int) -> None:
    sys.exit(0)


def interrupts(picture: Any, request: Any, seed: int) -> None:
    raise KeyboardInterrupt


async def leaves_later(picture: Any, request: Any, seed: int) -> None:
    sys.exit(0)


@pytest.mark.parametrize("scorer", [leaves, interrupts, leaves_later])
async def test_a_scorer_that_exits_ends_no_run(tmp_path: Path, scorer: Any, caplog: pytest.LogCaptureFixture) -> None:
    (result,) = await run(tmp_path, scorer=scorer)
    assert result.ok
    assert "the scorer has failed, and the picture counts without it" in caplog.text


@pytest.mark.parametrize("script", ["import sys; sys.exit(0)", "1 / 0", "def broken("])
def test_a_scorer_whose_module_is_a_script_is_bad_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    name = f"script_{len(script)}"
    Path(f"{name}.py").write_text(script)
    with pytest.raises(InputError, match=f"scorer: {name} cannot be imported"):
        load_scorer(f"{name}:fine")
