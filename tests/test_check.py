"""`asyncgen check`: what is missing or wrong, with the cure, held against the real sandbox; nothing is spent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from parts import files_of

from asyncgen.check import NETWORK_FILE_SYSTEMS, Finding, findings, is_on_network, mount_type, shown_settings
from asyncgen.sandbox import Sandbox, SandboxSettings, serve
from asyncgen.settings import Settings, load_settings, variable_of

KEY = "rpa_0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
MOUNTS = r"""
sysfs /sys sysfs rw,nosuid 0 0
/dev/sda1 / ext4 rw,relatime 0 0
tmpfs /dev/shm tmpfs rw 0 0
server:/export /mnt/nfs nfs4 rw,vers=4.2 0 0
/dev/sdb1 /mnt/nfs/local xfs rw 0 0
//host/share /mnt/with\040space\011and\134slash cifs rw 0 0
me@host:/ /home/me/remote fuse.sshfs rw 0 0
/dev/sdc1 /mnt ext4 rw 0 0
broken line
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def settings_of(sandbox: Sandbox, **more: Any) -> Settings:
    given = {"api_key": KEY, "endpoint": "ep", "endpoint_base_url": sandbox.base_url, **more}
    return load_settings(**given)


async def checked(of_sandbox: dict[str, Any] | None = None, **more: Any) -> tuple[list[Finding], Sandbox]:
    async with serve(SandboxSettings(**(of_sandbox or {}))) as sandbox:
        return await findings(settings_of(sandbox, **more)), sandbox


def problems(found: list[Finding]) -> list[Finding]:
    return [finding for finding in found if finding.level == "problem"]


# -- file systems


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/home/me/l.sqlite3", "ext4"),
        ("/mnt/nfs/l.sqlite3", "nfs4"),
        ("/mnt/nfs", "nfs4"),
        ("/mnt/nfs2/l.sqlite3", "ext4"),
        ("/mnt/nfs/local/l.sqlite3", "xfs"),
        ("/mnt/with space\tand\\slash/a", "cifs"),
        ("/home/me/remote/deep/down", "fuse.sshfs"),
        ("/dev/shm/l.sqlite3", "tmpfs"),
    ],
)
def test_a_path_belongs_to_the_innermost_mount_that_holds_it(path: str, kind: str) -> None:
    assert mount_type(Path(path), MOUNTS) == kind


def test_of_two_mounts_on_one_point_the_later_one_counts() -> None:
    assert mount_type(Path("/a/b"), "x /a ext4 rw 0 0\ny /a nfs rw 0 0\n") == "nfs"


def test_without_mounts_nothing_is_claimed() -> None:
    assert mount_type(Path("/a"), "") is None


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "ceph", "lustre"])
def test_the_usual_network_file_systems_are_known(kind: str) -> None:
    assert kind in NETWORK_FILE_SYSTEMS


def test_a_folder_of_this_machine_is_on_no_network_even_where_it_does_not_exist_yet(tmp_path: Path) -> None:
    assert is_on_network(tmp_path / "not" / "yet" / "there") is None


# -- settings


def test_every_effective_setting_is_shown_with_its_source_and_the_key_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNPOD_API_KEY", KEY)
    Path(".env").write_text("SYNC_TIMEOUT=5\n", encoding="utf-8")
    shown = shown_settings(load_settings(mode="new_pre"), {"mode": "new_pre"})
    assert [setting.variable for setting in shown] == [variable_of(name) for name in Settings.model_fields]
    by_name = {setting.variable: (setting.value, setting.source) for setting in shown}
    assert by_name["RUNPOD_API_KEY"] == ("…WXYZ", "environment")
    assert by_name["SYNC_TIMEOUT"] == ("5.0", ".env")
    assert by_name["ASYNCGEN_MODE"] == ("new_pre", "option")
    assert by_name["ASYNCGEN_CONCURRENCY"] == ("auto", "default")
    assert by_name["ASYNCGEN_LEDGER"] == ("(not set)", "default")
    assert not any(KEY[:-4] in text for setting in shown for text in (setting.value, repr(setting)))


@pytest.mark.parametrize("key", ["a", "short", "fifteen_letters"])
def test_of_a_short_key_nothing_at_all_is_shown(key: str) -> None:
    (shown,) = [s for s in shown_settings(load_settings(api_key=key), {}) if s.variable == "RUNPOD_API_KEY"]
    assert shown.value == "(set)"


# -- the account and its endpoint


@pytest.mark.anyio
async def test_where_all_is_well_all_is_well_and_nothing_was_sent_or_written(tmp_path: Path) -> None:
    found, sandbox = await checked()
    assert [finding.level for finding in found] == ["ok"] * len(found)
    assert {finding.text.partition(":")[0] for finding in found} == {"styles", "workflow", "output", "endpoint ep"}
    assert not list(sandbox.books.entries())
    assert files_of(tmp_path) == set()


@pytest.mark.anyio
async def test_without_key_and_endpoint_both_are_told_with_their_variables() -> None:
    texts = " ".join(finding.text for finding in problems(await findings(load_settings())))
    assert "RUNPOD_API_KEY" in texts
    assert "RUNPOD_SERVER_100_ID" in texts
    assert "--sandbox" in texts


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("sandbox", "said", "cure"),
    [
        ({"api_key": "another-key-than-ours"}, "key", "RUNPOD_API_KEY"),
        ({"endpoints": ("other",)}, "endpoint ep", "RUNPOD_SERVER_100_ID"),
        ({"load_balancing": ("ep",)}, "load-balancing", "type Queue"),
        ({"zero_workers": ("ep",)}, "zero workers", "max workers above 0"),
        ({"throttled": ("ep",)}, "throttled", "allow more GPU types"),
    ],
)
async def test_what_is_wrong_with_the_endpoint_is_told_with_its_cure(
    sandbox: dict[str, Any], said: str, cure: str
) -> None:
    found, books = await checked(sandbox)
    (problem,) = problems(found)
    assert said in problem.text
    assert cure in problem.cure
    assert KEY not in repr(found)
    assert not list(books.books.entries())


@pytest.mark.anyio
async def test_an_endpoint_that_cannot_be_reached_is_told() -> None:
    (problem,) = problems(
        await findings(load_settings(api_key=KEY, endpoint="ep", endpoint_base_url="http://127.0.0.1:9/v2"))
    )
    assert "cannot be reached" in problem.text
    assert "RUNPOD_ENDPOINT_BASE_URL" in problem.cure


@pytest.mark.anyio
async def test_a_health_call_that_fails_for_the_moment_is_a_warning() -> None:
    fault = {"fault": "500", "operation": "health"}
    found, _ = await checked({"faults": (fault,)})
    (warning,) = [finding for finding in found if finding.level == "warning"]
    assert "/health did not answer" in warning.text


# -- files


@pytest.mark.anyio
async def test_an_output_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "taken").write_bytes(b"")
    found, _ = await checked(output_root=tmp_path / "taken" / "below")
    (problem,) = problems(found)
    assert "cannot be written" in problem.text
    assert "--out" in problem.cure


@pytest.mark.anyio
async def test_files_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    (tmp_path / "styles.json").write_text("{broken", encoding="utf-8")
    found, _ = await checked(styles=tmp_path / "styles.json", workflow="no-such-one", path_template="{nothing}")
    assert [finding.text.partition(":")[0] for finding in problems(found)] == [
        "styles",
        "workflow",
        "ASYNCGEN_PATH_TEMPLATE",
    ]
    assert all(finding.cure for finding in problems(found))
