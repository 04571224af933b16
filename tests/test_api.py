"""What `import asyncgen` offers, over real HTTP against the sandbox."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from aiohttp import ClientSession, web
from support import (
    ENDPOINT,
    SMALL,
    bought,
    eventually,
    fault,
    files,
    ledger_rows,
    manifest,
    most_out_at_once,
    open_sandbox,
    prompts,
    sandbox_in_a_thread,
    settings_for,
    site,
    size_of,
    states,
    true_output,
)

import asyncgen
from asyncgen import (
    FailureCode,
    GenerationError,
    ImageGenerator,
    ImageRequest,
    InputError,
    LedgerLockedError,
    RunPausedError,
    StyleNotFoundError,
    StylesRegistry,
    WorkflowError,
)
from asyncgen.order import WINDOW
from asyncgen.sandbox import Sandbox, SandboxSettings

pytestmark = pytest.mark.anyio
QUICK: dict[str, Any] = {"polling_interval_seconds": 0.01, "polling_interval_max_seconds": 0.05}


def generator(sandbox: Sandbox, root: Path, **more: Any) -> ImageGenerator:
    return ImageGenerator(settings_for(sandbox, root, **more))


# -- many -----------------------------------------------------------------------------------------------------------


async def test_results_come_in_input_order(tmp_path: Path) -> None:
    """The first prompts take the longest."""
    async with open_sandbox(workers=64, execution="lognormal:20,1") as sandbox, generator(sandbox, tmp_path) as g:
        results = await g.generate_many(prompts(40), style="1", concurrency=16, **SMALL)
        assert [result.prompt for result in results] == prompts(40)
        assert [result.index for result in results] == list(range(40))
    assert len(true_output(tmp_path)) == 40


@pytest.mark.parametrize("keep_order", [None, False, True])
async def test_images_are_started_by_model_and_loras_unless_order_is_to_be_kept(
    tmp_path: Path, keep_order: bool | None
) -> None:
    styles = ["1", "8", "16"]
    wanted = [{"prompt": f"a fox, study {number}", "style": styles[number % 3]} for number in range(30)]
    async with open_sandbox(workers=1) as sandbox, generator(sandbox, tmp_path) as g:
        results = await g.generate_many(wanted, concurrency=1, keep_order=keep_order, **SMALL)
        order = [int(re.findall(r"study (\d+)", job["prompt"])[0]) for job in bought(sandbox)]
    assert [result.style_id for result in results] == styles * 10
    grouped = [*range(0, 30, 3), *range(1, 30, 3), *range(2, 30, 3)]
    assert order == (list(range(30)) if keep_order else grouped)


async def test_a_failed_item_is_a_result_with_its_reason(tmp_path: Path) -> None:
    faults = fault("failed:exception", prompt_contains="study 3"), fault("502", prompt_contains="study 5")
    async with open_sandbox(*faults) as sandbox, generator(sandbox, tmp_path) as g:
        results = await g.generate_many(prompts(8), **SMALL)
    assert [result.status for result in results] == [
        "success", "success", "success", "failed", "success", "held", "success", "success",
    ]  # fmt: skip
    assert results[3].failure is not None
    assert results[3].failure.code is FailureCode.WORKER_ERROR
    assert "study 3" in results[3].prompt


async def test_prompts_may_be_texts_dicts_and_requests(tmp_path: Path) -> None:
    wanted: list[Any] = [
        "a fox",
        {"prompt": "an owl", "style": "16", "id": "owl"},
        ImageRequest(prompt="a frog", seed=5),
    ]
    async with open_sandbox() as sandbox, generator(sandbox, tmp_path) as g:
        results = await g.generate_many(wanted, style="1", **SMALL)
    assert [(r.prompt, r.style_id, r.id) for r in results] == [
        ("a fox", "1", None), ("an owl", "16", "owl"), ("a frog", "1", None),
    ]  # fmt: skip
    assert results[2].seed == 5


async def test_any_iterable_and_async_iterable_will_do(tmp_path: Path) -> None:
    async def slowly() -> AsyncIterator[str]:
        for prompt in prompts(3):
            await anyio.lowlevel.checkpoint()
            yield prompt

    async with open_sandbox() as sandbox, generator(sandbox, tmp_path) as g:
        for wanted in (iter(prompts(3)), tuple(prompts(3)), dict.fromkeys(prompts(3)).keys(), slowly()):
            results = await g.generate_many(wanted, **SMALL)
            assert [result.prompt for result in results] == prompts(3)


async def test_one_text_is_not_taken_for_a_list_of_letters(tmp_path: Path) -> None:
    async with open_sandbox() as sandbox, generator(sandbox, tmp_path) as g:
        with pytest.raises(InputError, match="generate_image"):
            await g.generate_many("a fox")


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"prompt": " "}, "prompt 4:prompt"),
        ({"prompt": "x", "steps": 0}, "prompt 4:steps"),
        ({"prompt": "x", "width": 65}, "prompt 4:width"),
        ({"prompt": "x", "widht": 64}, "prompt 4:widht"),
        ({"prompt": "x", "style": "Ink"}, "prompt 4:style"),
        ({"prompt": "x", "parameters": {"denoise": 0.5}}, "prompt 4"),
        ({"prompt": "x", "id": "twice"}, "twice"),
    ],
)
async def test_a_list_with_a_wrong_request_is_refused_whole(tmp_path: Path, bad: dict[str, Any], says: str) -> None:
    rows: list[Any] = [{"prompt": "y", "id": "twice"}, *prompts(2), bad, *prompts(40)]
    async with open_sandbox() as sandbox, generator(sandbox, tmp_path) as g:
        with pytest.raises(InputError, match=re.escape(says)):
            await g.generate_many(rows, **SMALL)
        assert bought(sandbox) == []


async def test_an_unknown_style_is_an_error_with_the_close_matches(tmp_path: Path) -> None:
    async with open_sandbox() as sandbox, generator(sandbox, tmp_path) as g:
        with pytest.raises(StyleNotFoundError, match="Ink Intensity"):
            await g.generate_many(["a fox"], style="Ink Intensit")
        assert bought(sandbox) == []


async def test_images_makes_so_many_of_each_with_seeds_of_their_own(tmp_path: Path) -> None:
    async with open_sandbox() as sandbox, generator(sandbox, tmp_path) as g:
        results = await g.generate_many(["a fox", "an owl"], images=3, **SMALL)
        assert [(r.index, r.prompt) for r in results] == [(n, "a fox" if n < 3 else "an owl") for n in range(6)]
        assert len({result.seed for result in results}) == 6
        fixed = await g.generate_many([{"prompt": "a frog", "seed": 10, "images": 3}], **SMALL)
        assert [result.seed for result in fixed] == [10, 11, 12]
    assert len(true_output(tmp_path)) == 9


async def test_batch_size_makes_one_record_file_and_name_for_each_picture(tmp_path: Path) -> None:
    async with open_sandbox() as sandbox, generator(sandbox, tmp_path) as g:
        (result,) = await g.generate_many(["a fox"], batch_size=3, filename="fox", style="1", **SMALL)
        assert [path.name for path in result.paths] == ["fox_1.png", "fox_2.png", "fox_3.png"]
        assert len(bought(sandbox)) == 1
    lines = true_output(tmp_path)
    assert [(line["number"], line["request_id"]) for line in lines] == [(n, result.request_id) for n in range(3)]


async def test_a_batch_that_would_be_over_the_result_limit_is_refused_with_the_arithmetic(tmp_path: Path) -> None:
    async with open_sandbox() as sandbox, generator(sandbox, tmp_path) as g:
        with pytest.raises(InputError, match=r"8 x .* = .* bytes"):
            await g.generate_many(["a fox"], batch_size=8)
        assert bought(sandbox) == []


async def test_a_name_that_is_taken_gets_the_request_s_own_part(tmp_path: Path) -> None:
    async with open_sandbox() as sandbox, generator(sandbox, tmp_path) as g:
        results = await g.generate_many(prompts(8), filename="same.png", style="1", **SMALL)
    names = sorted(path.name for result in results for path in result.paths)
    assert len(set(names)) == 8
    assert names.count("same.png") == 1
    true_output(tmp_path)


async def test_a_filename_cannot_leave_its_folder(tmp_path: Path) -> None:
    root = tmp_path / "out"
    async with open_sandbox() as sandbox, generator(sandbox, root) as g:
        for name in ("../../evil", "/etc/evil", "a/b", "con", "x\x00y", "n" * 300):
            (result,) = await g.generate_many([{"prompt": name, "filename": name}], style="1", **SMALL)
            assert result.saved_path is not None
            assert result.saved_path.parent == root / "resources/style_images/1_ink_intensity"
    assert {path.parent for path in files(tmp_path, "*.png")} == {root / "resources/style_images/1_ink_intensity"}


async def test_files_go_where_they_always_went(tmp_path: Path) -> None:
    async with open_sandbox() as sandbox, generator(sandbox, tmp_path) as g:
        (styled,) = await g.generate_many(["a fox"], style="1", **SMALL)
        (plain,) = await g.generate_many(["a fox"], **SMALL)
    name = rf"generated_\d{{8}}_\d{{6}}_{styled.request_id.removeprefix('img_')}\.png"
    assert re.fullmatch(
        rf"resources/style_images/1_ink_intensity/{name}",
        str(styled.saved_path.relative_to(tmp_path)),  # type: ignore[union-attr]  # it is there
    )
    assert plain.saved_path is not None
    assert plain.saved_path.parent == tmp_path / "resources/style_images/no_style"


async def test_another_path_template_is_obeyed(tmp_path: Path) -> None:
    template = "{batch}/{hex2}/{style_id}-{seed}"
    async with open_sandbox() as sandbox, generator(sandbox, tmp_path, path_template=template) as g:
        (result,) = await g.generate_many([{"prompt": "a fox", "seed": 9}], style="1", batch="animals", **SMALL)
    shard = result.request_id.removeprefix("img_")[:2]
    assert result.saved_path == tmp_path / "animals" / shard / "1-9.png"


# -- streams --------------------------------------------------------------------------------------------------------


async def test_a_stream_yields_as_images_land(tmp_path: Path) -> None:
    """The one job that takes for ever is the first; all others are there while it is still out."""
    async with open_sandbox(fault("stuck", count=1)) as sandbox, generator(sandbox, tmp_path) as g:
        landed = []
        async for result in g.stream_many(prompts(10), concurrency=4, **SMALL):
            landed.append(result.index)
            if len(landed) == 9:
                break
        assert sorted(landed) == list(range(1, 10))


@pytest.mark.parametrize(("keep_order", "ahead"), [(True, 2 * 32), (False, WINDOW + 3 * 32)])
async def test_an_infinite_source_is_read_no_further_than_needed(tmp_path: Path, keep_order: bool, ahead: int) -> None:
    read: list[int] = []

    def endless() -> Iterator[str]:
        while True:
            read.append(1)
            yield f"a fox, study {len(read)}"

    async with open_sandbox() as sandbox, generator(sandbox, tmp_path) as g:
        taken = 0
        async for _ in g.stream_many(endless(), concurrency=4, keep_order=keep_order, **SMALL):
            taken += 1
            if taken == 40:
                break
        assert len(read) <= 40 + 4 + ahead
        assert len(bought(sandbox)) <= 40 + 2 * 4


async def test_a_source_that_yields_now_and_then_is_answered_now_and_then(tmp_path: Path) -> None:
    """The second prompt comes only after the first image: no chunk is waited for."""
    may_come = anyio.Event()

    async def source() -> AsyncIterator[str]:
        yield "a fox"
        await may_come.wait()
        yield "an owl"

    async with open_sandbox() as sandbox, generator(sandbox, tmp_path) as g:
        seen = []
        async for result in g.stream_many(source(), **SMALL):
            seen.append(result.prompt)
            may_come.set()
        assert seen == ["a fox", "an owl"]


async def test_leaving_a_stream_early_leaves_a_true_ledger(tmp_path: Path) -> None:
    async with open_sandbox(workers=2, execution="fixed:20") as sandbox, generator(sandbox, tmp_path) as g:
        async for _ in g.stream_many(prompts(100), concurrency=16, batch="set", **SMALL):
            break
        await eventually(lambda: not g.workspace.batches_in_use)
        assert_every_job_is_known(tmp_path, sandbox)
        sold = len(bought(sandbox))
        assert sold < 40
        results = await g.generate_many(prompts(100), batch="set", concurrency=16, **SMALL)
        assert all(result.ok for result in results)
        assert len(bought(sandbox)) == 100


async def test_cancelling_the_caller_s_task_leaves_a_true_ledger(tmp_path: Path) -> None:
    async with open_sandbox(workers=4, execution="fixed:20") as sandbox:

        async def caller() -> None:
            async with generator(sandbox, tmp_path) as g:
                await g.generate_many(prompts(60), concurrency=16, batch="set", **SMALL)

        task = asyncio.create_task(caller())
        await eventually(lambda: len(bought(sandbox)) >= 20)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert_every_job_is_known(tmp_path, sandbox)
        true_output(tmp_path)


async def test_an_error_in_the_caller_s_loop_comes_through_and_leaves_a_true_ledger(tmp_path: Path) -> None:
    async with open_sandbox() as sandbox, generator(sandbox, tmp_path) as g:
        with pytest.raises(ZeroDivisionError):
            async for _ in g.stream_many(prompts(40), concurrency=8, **SMALL):
                raise ZeroDivisionError
        await eventually(lambda: not g.workspace.batches_in_use)
        assert_every_job_is_known(tmp_path, sandbox)


async def test_a_stream_tells_what_stopped_it(tmp_path: Path) -> None:
    async with open_sandbox(fault("no_credit", nth=range(6, 100))) as sandbox, generator(sandbox, tmp_path) as g:
        results = []
        with pytest.raises(RunPausedError, match="no_credit"):
            async for result in g.stream_many(prompts(20), concurrency=2, **SMALL):
                results.append(result)
        assert sum(result.ok for result in results) == 5


def assert_every_job_is_known(root: Path, sandbox: Sandbox) -> None:
    known = {job_id for (job_id,) in ledger_rows(root, "SELECT job_id FROM job")}
    assert known == {job["id"] for job in bought(sandbox)}
    assert "submitting" not in states(root)


# -- one ------------------------------------------------------------------------------------------------------------


async def test_one_image_has_the_old_response(tmp_path: Path) -> None:
    async with open_sandbox() as sandbox, generator(sandbox, tmp_path) as g:
        result = await g.generate_image("a detective in the rain", style_id="1", **SMALL)
    response = result.to_dict(images=True)
    assert re.fullmatch("img_[0-9a-f]{8}", response["request_id"])
    assert (response["status"], response["seed"], response["style_id"]) == ("success", result.seed, "1")
    assert result.saved_path == Path(response["saved_path"])
    assert result.read_pictures()[0] == base64.b64decode(response["images"][0])
    told = {name: response["metadata"][name] for name in ("prompt", "width", "height", "steps", "style_title")}
    assert told == {
        "prompt": "a detective in the rain", "width": 64, "height": 64, "steps": 20, "style_title": "Ink Intensity",
    }  # fmt: skip
    assert "timestamp" in response["metadata"]
    assert result.to_dict()["images"] == []


async def test_one_image_may_stay_in_memory(tmp_path: Path) -> None:
    async with open_sandbox() as sandbox, generator(sandbox, tmp_path) as g:
        result = await g.generate_image("a fox", "1", 64, 64, save_to_style=False)
    assert result.saved_path is None
    assert [size_of(data) for data in result.read_pictures()] == [(64, 64)]
    assert files(tmp_path, "*.png") == []
    assert [(line["path"], line["sha256"] != "") for line in manifest(tmp_path)] == [(None, True)]


async def test_a_single_call_raises_why(tmp_path: Path) -> None:
    async with open_sandbox(fault("failed:missing_model")) as sandbox, generator(sandbox, tmp_path) as g:
        with pytest.raises(GenerationError) as caught:
            await g.generate_image("a fox", **SMALL)
    assert caught.value.failure.code is FailureCode.MODEL_NOT_FOUND


async def test_character_loras_reach_the_graph(tmp_path: Path) -> None:
    async with open_sandbox() as sandbox, generator(sandbox, tmp_path) as g:
        await g.generate_image("a fox", "1", 64, 64, character_loras=["bob", "alice:0.5"])
        graph = next(iter(sandbox.exchange.matters.values())).job_input.decode()
    assert '"bob.safetensors"' in graph
    assert '"alice.safetensors"' in graph


async def test_what_goes_to_the_worker_is_the_workflow_and_nothing_else(tmp_path: Path) -> None:
    async with open_sandbox() as sandbox, generator(sandbox, tmp_path) as g:
        await g.generate_image("a fox", **SMALL)
        sent = next(iter(sandbox.exchange.matters.values())).job_input
    assert list(json.loads(sent)) == ["workflow"]


async def test_the_old_names_work(tmp_path: Path) -> None:
    async with open_sandbox() as sandbox, generator(sandbox, tmp_path) as g:
        (batch,) = await g.generate_batch(["a fox"], "1", **SMALL)
        styled = await g.generate_image_with_style("a fox", "16", **SMALL)
    assert (batch.style_id, styled.style_id) == ("1", "16")


# -- a batch by name ------------------------------------------------------------------------------------------------


async def test_a_named_batch_continues_and_a_call_without_a_name_begins_anew(tmp_path: Path) -> None:
    async with open_sandbox() as sandbox:
        for _ in range(2):
            async with generator(sandbox, tmp_path) as g:
                results = await g.generate_many(prompts(4), batch="set", **SMALL)
        assert all(result.kept and result.ok for result in results)
        assert len(bought(sandbox)) == 4
        async with generator(sandbox, tmp_path) as g:
            await g.generate_many(prompts(4), **SMALL)
        assert len(bought(sandbox)) == 8


async def test_an_edited_style_changes_nothing_until_told(tmp_path: Path) -> None:
    registry = StylesRegistry.load(None)
    async with open_sandbox() as sandbox:
        async with ImageGenerator(settings_for(sandbox, tmp_path), styles=registry) as g:
            await g.generate_many(prompts(3), style="1", batch="set", **SMALL)
        registry.update_style("1", backpad="in pale watercolour")
        async with ImageGenerator(settings_for(sandbox, tmp_path), styles=registry) as g:
            kept = await g.generate_many(prompts(3), style="1", batch="set", **SMALL)
            assert all(result.kept and result.changed for result in kept)
            assert len(bought(sandbox)) == 3
            made = await g.generate_many(prompts(3), style="1", batch="set", rebuy_changed=True, **SMALL)
            assert not any(result.kept or result.changed for result in made)
        assert len(bought(sandbox)) == 6
        assert "pale watercolour" in bought(sandbox)[-1]["prompt"]
    lines = manifest(tmp_path)
    assert len(lines) == 3
    assert all("pale watercolour" in line["prompt_sent"] for line in lines)


async def test_a_style_s_history_comes_from_the_ledger(tmp_path: Path) -> None:
    async with open_sandbox() as sandbox, generator(sandbox, tmp_path) as g:
        await g.generate_many(prompts(3), style="1", **SMALL)
        uses = g.styles.history("1")
        assert sorted(use.prompt for use in uses) == prompts(3)
        assert g.styles.history("16") == []


# -- side by side ---------------------------------------------------------------------------------------------------


async def test_calls_at_the_same_time_share_one_output_root(tmp_path: Path) -> None:
    async with open_sandbox() as sandbox, anyio.create_task_group() as tasks:
        results: list[asyncgen.ImageResult] = []

        async def one(prompt: str) -> None:
            settings = settings_for(sandbox, tmp_path)
            results.append(await asyncgen.generate_image(prompt, settings=settings, **SMALL))

        for prompt in prompts(8):
            tasks.start_soon(one, prompt)
    assert len(true_output(tmp_path)) == len(results) == 8


async def test_calls_one_after_the_other_use_the_same_output_root(tmp_path: Path) -> None:
    async with open_sandbox() as sandbox:
        for prompt in prompts(3):
            await asyncgen.generate_image_with_style(prompt, "1", settings=settings_for(sandbox, tmp_path), **SMALL)
    assert len(true_output(tmp_path)) == 3


async def test_all_calls_on_one_endpoint_share_its_limits(tmp_path: Path) -> None:
    async with open_sandbox() as sandbox, generator(sandbox, tmp_path) as one, generator(sandbox, tmp_path) as other:
        assert one.workspace is other.workspace
        await one.generate_many(["a fox"], **SMALL)
        await other.generate_many(["an owl"], **SMALL)
        assert len(one.workspace.endpoints) == 1


async def test_two_runs_over_one_batch_at_the_same_time_are_refused(tmp_path: Path) -> None:
    async with (
        open_sandbox(zero_workers=[ENDPOINT]) as sandbox,
        generator(sandbox, tmp_path) as g,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(lambda: g.generate_many(["a fox"], batch="set", **SMALL))
        await eventually(lambda: bool(bought(sandbox)))
        with pytest.raises(LedgerLockedError, match="'set'"):
            await g.generate_many(["a fox"], batch="set", **SMALL)
        tasks.cancel_scope.cancel()


async def test_the_one_who_opened_first_may_leave_first(tmp_path: Path) -> None:
    async with open_sandbox() as sandbox:
        first, second = generator(sandbox, tmp_path), generator(sandbox, tmp_path)
        await first.__aenter__()
        await second.__aenter__()
        await first.__aexit__(None, None, None)
        (result,) = await second.generate_many(["a fox"], **SMALL)
        await second.__aexit__(None, None, None)
    assert result.ok


async def test_the_embedded_sandbox_and_an_endpoint_take_turns_at_one_output_root(tmp_path: Path) -> None:
    inside = ImageGenerator(sandbox=SandboxSettings(speed=1000), output_root=tmp_path, **QUICK)
    async with open_sandbox() as sandbox:
        async with generator(sandbox, tmp_path):
            with pytest.raises(LedgerLockedError, match="without the sandbox"):
                await inside.__aenter__()
        async with inside:
            (result,) = await inside.generate_many(["a fox"], **SMALL)
            assert result.ok


async def test_a_generator_that_is_left_ends_its_streams(tmp_path: Path) -> None:
    async with open_sandbox() as sandbox:
        with anyio.fail_after(10):
            async with generator(sandbox, tmp_path) as g:
                stream = g.stream_many(prompts(100), concurrency=8, **SMALL)
                await anext(stream)
        assert_every_job_is_known(tmp_path, sandbox)
        assert len(bought(sandbox)) < 40


async def test_a_generator_is_not_closed_under_a_call(tmp_path: Path) -> None:
    async with open_sandbox() as sandbox, anyio.create_task_group() as tasks:
        results: list[asyncgen.ImageResult] = []

        async def call() -> None:
            results.extend(await g.generate_many(prompts(30), concurrency=4, **SMALL))

        async with generator(sandbox, tmp_path) as g:
            tasks.start_soon(call)
            await eventually(lambda: bool(bought(sandbox)))
    assert [result.ok for result in results] == [True] * 30


async def test_it_works_inside_a_web_app_and_does_not_hold_its_loop_up(tmp_path: Path) -> None:
    """While 200 images are made, the app answers other requests, and never keeps one waiting for long."""
    async with open_sandbox() as sandbox, generator(sandbox, tmp_path) as g:

        async def make(_: web.Request) -> web.Response:
            results = await g.generate_many(prompts(200), **SMALL)
            return web.json_response({"made": sum(result.ok for result in results)})

        async def ping(_: web.Request) -> web.Response:
            return web.Response(text="pong")

        async with site({"/make": make, "/ping": ping}) as url, ClientSession() as session:
            making = asyncio.create_task(_json(session, f"{url}/make"))
            slowest = 0.0
            while not making.done():
                began = asyncio.get_running_loop().time()
                async with session.get(f"{url}/ping") as reply:
                    assert await reply.text() == "pong"
                slowest = max(slowest, asyncio.get_running_loop().time() - began)
                await anyio.sleep(0.005)
            assert await making == {"made": 200}
            assert slowest < 1.0


async def _json(session: ClientSession, url: str) -> Any:
    async with session.get(url) as reply:
        return await reply.json()


async def test_items_in_flight_never_exceed_the_concurrency(tmp_path: Path) -> None:
    async with open_sandbox(workers=64, execution="fixed:60") as sandbox, generator(sandbox, tmp_path) as g:
        await g.generate_many(prompts(30), concurrency=7, **SMALL)
        assert most_out_at_once(bought(sandbox)) == 7


# -- scripts and notebooks ------------------------------------------------------------------------------------------


def test_a_script_needs_no_await(tmp_path: Path) -> None:
    with sandbox_in_a_thread() as remote:
        where = {"api_key": "any-key", "endpoint": ENDPOINT, "endpoint_base_url": remote.base_url, **QUICK}
        results = asyncgen.run_many(prompts(3), style="1", output_root=tmp_path, **where, **SMALL)
        one = asyncgen.run_image("a fox", "1", output_root=tmp_path, **where, **SMALL)
    assert [result.prompt for result in results] == prompts(3)
    assert one.ok


def test_a_script_that_breaks_out_of_a_stream_comes_to_its_end(tmp_path: Path) -> None:
    """Its event loop cancels every task there is, in any order: none may wait for another for ever."""

    async def main() -> None:
        async for _ in asyncgen.stream_many(prompts(200), output_root=tmp_path, concurrency=16, **where, **SMALL):
            break

    with sandbox_in_a_thread() as remote:
        where: dict[str, Any] = {
            "api_key": "any-key", "endpoint": ENDPOINT, "endpoint_base_url": remote.base_url, **QUICK,
        }  # fmt: skip
        asyncio.run(main())
        sold = {job["id"] for job in remote.books()}
    known = {job_id for (job_id,) in ledger_rows(tmp_path, "SELECT job_id FROM job")}
    in_the_air = states(tmp_path).get("submitting", 0)
    assert known <= sold
    assert len(sold - known) <= in_the_air


async def test_a_notebook_has_a_loop_already(tmp_path: Path) -> None:
    sandbox = SandboxSettings(speed=1000, cold_start_seconds=0)
    results = asyncgen.run_many(prompts(3), sandbox=sandbox, output_root=tmp_path, **QUICK, **SMALL)
    assert all(result.ok for result in results)


async def test_the_embedded_sandbox_needs_no_key_and_has_its_own_output_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sandbox = SandboxSettings(speed=1000, cold_start_seconds=0)
    (result,) = await asyncgen.generate_many(["a fox"], style="1", sandbox=sandbox, **QUICK, **SMALL)
    assert result.saved_path is not None
    assert result.saved_path.is_relative_to("asyncgen-sandbox")


# -- what is wrong is said at once ----------------------------------------------------------------------------------


async def test_no_key_is_said_before_anything_is_opened(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="RUNPOD_API_KEY"):
        await asyncgen.generate_many(["a fox"], endpoint="ep", output_root=tmp_path / "out")
    assert not os.path.exists(tmp_path / "out")  # noqa: ASYNC240, PTH110 - nothing waits


async def test_a_workflow_that_does_not_exist_is_found_on_entering(tmp_path: Path) -> None:
    async with open_sandbox() as sandbox:
        with pytest.raises(WorkflowError, match="nonsense"):
            async with generator(sandbox, tmp_path, workflow="nonsense"):
                pass


async def test_a_setting_or_field_that_does_not_exist_is_named(tmp_path: Path) -> None:
    async with open_sandbox() as sandbox:
        with pytest.raises(InputError, match="colour"):
            await asyncgen.generate_many(["a fox"], settings=settings_for(sandbox, tmp_path), colour="red")
        assert bought(sandbox) == []


async def test_one_image_is_one_image(tmp_path: Path) -> None:
    async with open_sandbox() as sandbox, generator(sandbox, tmp_path) as g:
        with pytest.raises(InputError, match="images"):
            await g.generate_image("a fox", images=3, **SMALL)
        assert bought(sandbox) == []


async def test_a_picture_that_was_delivered_in_memory_is_not_passed_off_as_kept(tmp_path: Path) -> None:
    """It exists nowhere: it is said so, and made again only when told."""
    async with open_sandbox() as sandbox, generator(sandbox, tmp_path) as g:
        (first,) = await g.generate_many(["a fox"], batch="b", save_to_style=False, **SMALL)
        (second,) = await g.generate_many(["a fox"], batch="b", **SMALL)
        (third,) = await g.generate_many(["a fox"], batch="b", rebuy_changed=True, **SMALL)
    assert (first.status, len(first.read_pictures())) == ("success", 1)
    assert (second.status, second.ok, "rebuy_changed" in str(second.failure)) == ("delivered", False, True)
    assert (third.status, len(third.paths)) == ("success", 1)
    assert len(bought(sandbox)) == 2


def test_every_public_name_can_be_had_and_help_loads_no_engine() -> None:
    loaded = "import asyncgen.cli, sys; print('aiohttp' in sys.modules, 'asyncgen.engine' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True)
    assert ran.stdout == "False False\n"
    assert sorted(asyncgen.__all__) == sorted(["__version__", *asyncgen._HOME_OF])
    assert all(getattr(asyncgen, name).__module__.startswith("asyncgen") for name in asyncgen._HOME_OF)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = asyncgen.no_such_name
