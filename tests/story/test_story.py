"""READ FIRST. From one prompt to a batch that is killed in the middle and continued.

The endpoint in this story is the sandbox: it speaks RunPod's API over real HTTP, paints real pictures, and keeps books
of every job it has accepted. Each accepted job would have been paid for at RunPod, so the books are the bill.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import (
    SMALL,
    account,
    bought,
    fault,
    open_sandbox,
    run_cli,
    sandbox_in_a_thread,
    settings_for,
    size_of,
    started,
    true_output,
    wait_until,
)

from asyncgen import ImageGenerator, generate_image, generate_many, stream_many

anyio_test = pytest.mark.anyio


@anyio_test
async def test_chapter_1_one_prompt_becomes_one_picture(tmp_path: Path) -> None:
    """We ask for a picture in the style 1, "Ink Intensity", and await it."""
    async with open_sandbox() as sandbox:
        settings = settings_for(sandbox, root=tmp_path)
        result = await generate_image("a detective in the rain", style_id="1", settings=settings, **SMALL)

    # The picture is a file in the folder of its style ...
    assert result.saved_path is not None
    assert result.saved_path.parent == tmp_path / "resources" / "style_images" / "1_ink_intensity"
    assert size_of(result.saved_path.read_bytes()) == (64, 64)

    # ... and the result says how to get the same one again: what was asked, what was sent, and with which seed.
    assert result.prompt == "a detective in the rain"
    assert "inkintensity" in result.prompt_sent
    assert bought(sandbox)[0]["prompt"] == result.prompt_sent
    assert bought(sandbox)[0]["seed"] == result.seed


@anyio_test
async def test_chapter_2_many_prompts_become_many_pictures_in_the_order_they_were_asked_for(tmp_path: Path) -> None:
    """Jobs run side by side and end in any order. What we get back is in ours."""
    wanted = [f"a detective in the rain, scene {number}" for number in range(30)]
    async with open_sandbox(execution="lognormal:20,1") as sandbox:
        results = await generate_many(
            wanted, style="1", concurrency=16, settings=settings_for(sandbox, tmp_path), **SMALL
        )

    assert [result.prompt for result in results] == wanted

    # Beside the pictures stands a manifest, a line for each. `true_output` reads it, hashes every file it names,
    # decodes every picture, and finds no other file in the folder.
    assert {line["prompt"] for line in true_output(tmp_path)} == set(wanted)


@anyio_test
async def test_chapter_3_a_stream_needs_no_end_of_prompts(tmp_path: Path) -> None:
    """Prompts may come from anywhere, for ever: they are read only as fast as pictures are made."""

    def every_scene_there_is() -> Iterator[str]:
        scene = 0
        while True:
            yield f"a detective in the rain, scene {scene}"
            scene += 1

    async with open_sandbox() as sandbox:
        landed = 0
        async for result in stream_many(every_scene_there_is(), settings=settings_for(sandbox, tmp_path), **SMALL):
            assert result.ok
            landed += 1
            if landed == 20:
                break


@anyio_test
async def test_chapter_4_one_bad_picture_does_not_spoil_the_others(tmp_path: Path) -> None:
    """Of ten jobs the third fails: the worker raised an error. That is a result too, and says why."""
    wanted = [f"a cat on a wall, number {number}" for number in range(10)]
    broken = open_sandbox(fault("failed:exception", prompt_contains="number 3"))
    async with broken as sandbox, ImageGenerator(settings_for(sandbox, tmp_path)) as generator:
        results = await generator.generate_many(wanted, batch="cats", **SMALL)
        assert [result.ok for result in results] == [True] * 3 + [False] + [True] * 6
        assert "same device" in str(results[3].failure)

        # The worker has been mended. We run the same batch again, and ask for what failed to be tried again:
        # nine pictures are there already and are kept, one is bought.
        sandbox.faults.clear()
        results = await generator.generate_many(wanted, batch="cats", retry_failed=True, **SMALL)
        assert all(result.ok for result in results)
        assert sum(result.kept for result in results) == 9
        assert len(bought(sandbox)) == 11


@anyio_test
async def test_chapter_5_a_stormy_network_costs_time_and_no_money(tmp_path: Path) -> None:
    """Requests are refused, replies are cut, status calls fail. None of that is a reason to buy an image again."""
    storm = (
        fault("429", operation="run", every=4),
        fault("503", operation="status", every=5),
        fault("cut_body", every=6),
    )
    wanted = [f"a ship in a storm, wave {number}" for number in range(20)]
    async with open_sandbox(*storm) as sandbox:
        results = await generate_many(wanted, settings=settings_for(sandbox, tmp_path), **SMALL)
        assert all(result.ok for result in results)
        assert len(bought(sandbox)) == 20


@anyio_test
async def test_chapter_6_where_nobody_can_know_we_hold_and_ask(tmp_path: Path) -> None:
    """One submission's reply never comes. Was it accepted? Sending it again might pay twice; so it is held."""
    wanted = ["a knight", "a dragon", "a castle"]
    async with open_sandbox(fault("reset_after_accept", prompt_contains="dragon", count=1)) as sandbox:
        settings = settings_for(sandbox, tmp_path)
        results = await generate_many(wanted, settings=settings, batch="tale", **SMALL)
        assert [result.status for result in results] == ["success", "held", "success"]

        # It stays held however often we run, until we say that we would rather pay twice than wait.
        await generate_many(wanted, settings=settings, batch="tale", **SMALL)
        assert len(bought(sandbox)) == 3
        results = await generate_many(wanted, settings=settings, batch="tale", unknown="resubmit", **SMALL)
        assert [result.status for result in results] == ["success"] * 3
        assert len(bought(sandbox)) == 4


def test_chapter_7_the_same_from_a_terminal_and_again_after_an_edit(tmp_path: Path) -> None:
    """A file of prompts, a prompt a line. Running the command again buys only what is new in the file."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("# a small zoo\na fox\nan owl\na frog\n")
    with sandbox_in_a_thread() as sandbox:
        command = ("batch", "prompts.txt", "--style", "1", "--width", "64", "--height", "64", "--out", "images")
        first = run_cli(*command, cwd=tmp_path, env=account(sandbox))
        assert first.code == 0
        assert "3 wanted: 3 new, 0 kept" in first.out

        prompts.write_text("a hedgehog\na frog\nan owl\na fox\n")
        second = run_cli(*command, cwd=tmp_path, env=account(sandbox))
        assert "4 wanted: 1 new, 3 kept" in second.out
        assert sandbox.accepted() == 4
    assert len(true_output(tmp_path / "images")) == 4


def test_chapter_8_killed_in_the_middle_and_continued(tmp_path: Path) -> None:
    """The machine dies halfway through 150 prompts. We start the same command again."""
    wanted = [f"a street at night, window {number}" for number in range(150)]
    (tmp_path / "night.txt").write_text("\n".join(wanted))
    command = ("batch", "night.txt", "--width", "64", "--height", "64", "--out", "images", "--concurrency", "16")
    with sandbox_in_a_thread() as sandbox:
        with started(*command, cwd=tmp_path, env=account(sandbox)) as process:
            wait_until(lambda: sandbox.accepted() >= 75)
            process.send_signal(signal.SIGKILL)
            process.wait()

        continued = run_cli(*command, cwd=tmp_path, env=account(sandbox))

        # Jobs that were out have been collected by their ids, and what was never sent has been made. Only submissions
        # that were in the air at the very moment may be missing: they are held and reported, with exit code 5.
        made = true_output(tmp_path / "images")
        held = 150 - len(made)
        assert held <= 16
        assert continued.code == (5 if held else 0)
        assert f"{held} held" in continued.out or not held

        # The bill: no prompt was bought twice.
        billed = [job["prompt"] for job in sandbox.books()]
        assert len(billed) == len(set(billed))

        # Told to, asyncgen sends what was in the air again, and the set is whole.
        run_cli(*command, "--unknown", "resubmit", cwd=tmp_path, env=account(sandbox))
    assert sorted(line["prompt"] for line in true_output(tmp_path / "images")) == sorted(wanted)
