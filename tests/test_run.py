"""One output root in use: its lock, its realm, its ledger and its manifest, and what is said when it cannot be used."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from aiohttp import web
from support import (
    ENDPOINT,
    LEDGER,
    SMALL,
    bought,
    fault,
    files,
    ledger_rows,
    manifest,
    open_sandbox,
    prompts,
    settings_for,
    site,
    states,
    true_output,
)

from asyncgen import ImageGenerator, LedgerError, LedgerLockedError, RunPausedError, SettingsError, StoreError
from asyncgen.errors import LedgerVersionError
from asyncgen.records import PLATFORM, SANDBOX
from asyncgen.run import find_target, open_target
from asyncgen.sandbox import Sandbox, SandboxSettings
from asyncgen.settings import load_settings
from asyncgen.workspace import shared_workspace

pytestmark = pytest.mark.anyio


async def make(sandbox: Sandbox, root: Path, count: int = 3, **more: Any) -> None:
    async with ImageGenerator(settings_for(sandbox, root)) as g:
        await g.generate_many(prompts(count), **{"batch": "set", **SMALL, **more})


# -- who may use it -------------------------------------------------------------------------------------------------


async def test_a_second_user_of_an_output_root_is_told_who_the_first_one_is(tmp_path: Path) -> None:
    """Another event loop is another user: it has no part in the first one's workspace."""
    said: list[BaseException] = []

    async def second(settings: Any) -> None:
        try:
            async with open_target(settings):
                pass
        except LedgerLockedError as error:
            said.append(error)

    async with open_sandbox() as sandbox:
        settings = settings_for(sandbox, tmp_path)
        async with open_target(settings):
            thread = Thread(target=asyncio.run, args=[second(settings)])
            thread.start()
            while thread.is_alive():  # noqa: ASYNC110 - the sandbox it asks for /health is in this loop
                await asyncio.sleep(0.01)
    assert f"process {os.getpid()}" in str(said[0])
    assert str(tmp_path / LEDGER) in str(said[0])


async def test_the_lock_goes_with_its_last_user(tmp_path: Path) -> None:
    async with open_sandbox() as sandbox:
        for _ in range(2):
            async with open_target(settings_for(sandbox, tmp_path)):
                assert (tmp_path / f".{LEDGER}.holder").exists()
        assert not (tmp_path / f".{LEDGER}.holder").exists()


# -- realms ---------------------------------------------------------------------------------------------------------


async def test_a_sandbox_is_known_for_what_it_is_wherever_it_runs(tmp_path: Path) -> None:
    async with open_sandbox() as sandbox:
        assert (await find_target(settings_for(sandbox, tmp_path))).realm == SANDBOX
        async with open_target(load_settings(output_root=tmp_path), SandboxSettings()) as (_, target):
            assert target.realm == SANDBOX


async def test_whatever_does_not_say_that_it_is_a_sandbox_is_taken_for_an_endpoint(tmp_path: Path) -> None:
    async def health(_: web.Request) -> web.Response:
        return web.json_response({"jobs": {}, "workers": {}})

    async with open_sandbox() as sandbox, site({f"/v2/{ENDPOINT}/health": health}) as url:
        settings = settings_for(sandbox, tmp_path, endpoint_base_url=f"{url}/v2")
        assert (await find_target(settings)).realm == PLATFORM


async def test_a_sandbox_is_known_even_where_it_refuses_the_key(tmp_path: Path) -> None:
    async with open_sandbox(api_key="another-key") as sandbox:
        assert (await find_target(settings_for(sandbox, tmp_path))).realm == SANDBOX


async def test_an_endpoint_that_is_silent_at_the_start_is_no_reason_to_mix_realms(tmp_path: Path) -> None:
    """What a sandbox makes must not pass for real because nobody answered when the run began."""
    async with open_sandbox() as sandbox:
        settings = settings_for(sandbox, tmp_path, endpoint_base_url="http://127.0.0.1:9/v2")
        with pytest.raises(RunPausedError):
            await find_target(settings)


async def test_pictures_of_the_sandbox_do_not_count_for_an_endpoint_with_the_same_output_root(tmp_path: Path) -> None:
    async with open_sandbox() as sandbox:
        await make(sandbox, tmp_path)

        async def onward(asked: web.Request) -> web.Response:
            return web.json_response({"error": "Insufficient balance"}, status=402)

        routes = {f"/v2/{ENDPOINT}/{{operation:.*}}": onward}
        async with site(routes) as url:
            settings = settings_for(sandbox, tmp_path, endpoint_base_url=f"{url}/v2")
            async with ImageGenerator(settings) as g:
                with pytest.raises(RunPausedError, match="no_credit"):
                    await g.generate_many(prompts(3), batch="set", **SMALL)
    rows = "SELECT realm, state, count(*) FROM item JOIN batch ON batch.id = batch_id GROUP BY realm, state"
    assert sorted(ledger_rows(tmp_path, rows)) == [("runpod", "wanted", 3), ("sandbox", "stored", 3)]


async def test_each_realm_has_an_output_root_of_its_own_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with open_sandbox() as sandbox:
        settings = load_settings(api_key="any-key", endpoint=ENDPOINT, endpoint_base_url=sandbox.base_url)
        async with open_target(settings) as (workspace, _):
            assert workspace.root == Path("asyncgen-sandbox")


# -- an output root that cannot be used -----------------------------------------------------------------------------


async def test_an_output_root_that_cannot_be_written_is_named_with_the_cure(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    async with open_sandbox() as sandbox:
        with pytest.raises(StoreError, match="--out"):
            await make(sandbox, tmp_path / "out")


async def test_a_ledger_of_a_newer_asyncgen_is_left_alone(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / LEDGER)) as connection:
        connection.execute("PRAGMA user_version = 999")
    async with open_sandbox() as sandbox:
        with pytest.raises(LedgerVersionError, match="newer asyncgen"):
            await make(sandbox, tmp_path)


async def test_a_file_that_is_no_ledger_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / LEDGER).write_text("my diary, not a database, and long enough to be looked at" * 10)
    async with open_sandbox() as sandbox:
        with pytest.raises(LedgerError, match="ASYNCGEN_LEDGER"):
            await make(sandbox, tmp_path)
        assert bought(sandbox) == []
    assert (tmp_path / LEDGER).read_text().startswith("my diary")


@pytest.mark.parametrize("template", ["{nonsense}", "/etc/{hex8}", "../{hex8}", "a//b"])
async def test_a_path_template_that_leads_nowhere_good_is_refused(tmp_path: Path, template: str) -> None:
    async with open_sandbox() as sandbox:
        with pytest.raises(SettingsError, match="ASYNCGEN_PATH_TEMPLATE"):
            async with open_target(settings_for(sandbox, tmp_path, path_template=template)):
                pass


# -- the manifest ---------------------------------------------------------------------------------------------------


async def test_the_manifest_is_complete_and_true_after_every_run(tmp_path: Path) -> None:
    async with open_sandbox(fault("failed:exception", nth=[2])) as sandbox:
        await make(sandbox, tmp_path)
        assert len(true_output(tmp_path)) == 2
        await make(sandbox, tmp_path, 5)
        assert len(true_output(tmp_path)) == 4
        await make(sandbox, tmp_path, 5, retry_failed=True)
    lines = true_output(tmp_path)
    assert sorted(line["prompt"] for line in lines) == prompts(5)
    sold = {job["id"]: job for job in bought(sandbox)}
    assert all(sold[line["job_id"]]["seed"] == line["seed"] for line in lines)
    assert all(line["realm"] == "sandbox" and line["batch"] == "set" for line in lines)


@pytest.mark.parametrize("damage", [b"", b'{"half a li', None])
async def test_a_manifest_that_was_damaged_is_written_anew(tmp_path: Path, damage: bytes | None) -> None:
    async with open_sandbox() as sandbox:
        await make(sandbox, tmp_path)
        (tmp_path / "manifest.jsonl").unlink() if damage is None else (tmp_path / "manifest.jsonl").write_bytes(damage)
        await make(sandbox, tmp_path, 4)
    assert len(true_output(tmp_path)) == 4


async def test_the_manifest_is_true_after_a_run_that_was_paused(tmp_path: Path) -> None:
    async with open_sandbox(fault("no_credit", nth=range(4, 100))) as sandbox:
        with pytest.raises(RunPausedError):
            await make(sandbox, tmp_path, 10)
    assert len(true_output(tmp_path)) == states(tmp_path)["stored"] == 3


async def test_what_was_made_again_replaces_what_it_was_in_the_manifest(tmp_path: Path) -> None:
    async with open_sandbox() as sandbox:
        await make(sandbox, tmp_path, id="x", seed=1, count=1)
        await make(sandbox, tmp_path, id="x", seed=2, count=1, rebuy_changed=True)
    (line,) = manifest(tmp_path)
    assert line["seed"] == 2
    assert len(files(tmp_path, "*.png")) == 2, "the picture that was paid for first is kept beside it"


async def test_runs_side_by_side_leave_one_line_for_each_picture(tmp_path: Path) -> None:
    async with open_sandbox() as sandbox, ImageGenerator(settings_for(sandbox, tmp_path)) as g:
        calls = [g.generate_many(prompts(5, f"scene {number}"), **SMALL) for number in range(6)]
        await asyncio.gather(*calls)
        assert len(true_output(tmp_path)) == 30


async def test_a_ledger_of_its_own_serves_one_output_root_and_one_inside_the_root_moves_with_it(tmp_path: Path) -> None:
    elsewhere = tmp_path / "ledger.sqlite3"
    async with shared_workspace(tmp_path / "a", elsewhere):
        pass
    with pytest.raises(LedgerError, match=r"another output root .*/a\)"):
        async with shared_workspace(tmp_path / "b", elsewhere):
            pass
    async with shared_workspace(tmp_path / "c"):
        pass
    (tmp_path / "c").rename(tmp_path / "d")
    async with shared_workspace(tmp_path / "d"):
        pass
