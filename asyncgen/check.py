"""`asyncgen check`: the effective settings, what is missing or wrong, and how to mend it. Spends nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Final, Literal

from asyncgen import naming, protocol, replies
from asyncgen.errors import AsyncgenError, FailureCode, SettingsError
from asyncgen.ports import TransportError
from asyncgen.protocol import EndpointAddress, Health, Rejected, Transient
from asyncgen.records import PLATFORM
from asyncgen.registry import StylesRegistry
from asyncgen.settings import Settings, source_of, user_folder, variable_of
from asyncgen.template import Template
from asyncgen.transport import aiohttp_transport
from asyncgen.workspace import LEDGER_NAME, output_root

Level = Literal["ok", "warning", "problem"]
#: File systems on which several machines may see one file: SQLite's WAL needs shared memory, which they do not share.
NETWORK_FILE_SYSTEMS: Final = frozenset(
    {"nfs", "nfs4", "cifs", "smb", "smbfs", "smb3", "afpfs", "webdav", "9p", "ceph", "lustre", "glusterfs", "beegfs",
     "gpfs", "fuse.sshfs", "fuse.s3fs", "fuse.rclone", "fuse.goofys", "fuse.mount-s3", "fuse.juicefs"}
)  # fmt: skip
_SHOWN_SECRET_CHARACTERS: Final = 4
_OCTAL: Final = re.compile(r"\\([0-7]{3})")  # how /proc/mounts writes spaces, tabs, line ends and backslashes


@dataclass(frozen=True, slots=True)
class SettingShown:
    """One effective setting: the variable, its value as text (the key masked), and where it comes from."""

    variable: str
    value: str
    source: str


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `cure` says what to do, empty where nothing needs doing."""

    level: Level
    text: str
    cure: str = ""


def shown_settings(settings: Settings, overrides: Mapping[str, Any]) -> list[SettingShown]:
    """Every effective setting, in the order of the documentation."""
    return [
        SettingShown(variable_of(name), _shown(getattr(settings, name)), source_of(name, overrides))
        for name in Settings.model_fields
    ]


async def findings(settings: Settings) -> list[Finding]:
    """Everything that can be looked at without spending: files first, then one call to `/health`."""
    found = [*_of_mode(settings), *_of_files(settings), *_of_disk(settings)]
    try:
        endpoint_id, api_key = settings.endpoint_id(), settings.require_api_key()
    except SettingsError:
        return [*found, *_of_account(settings)]
    return [*found, *await _of_endpoint(settings, endpoint_id, api_key)]


def mount_type(path: Path, mounts: str) -> str | None:
    """The file system type of the mount that holds an absolute path; `mounts` is in the form of /proc/mounts."""
    best: tuple[int, str | None] = (-1, None)
    for line in mounts.splitlines():
        fields = line.split()
        if len(fields) < 3:
            continue
        point = _OCTAL.sub(lambda code: chr(int(code[1], 8)), fields[1])
        if path.is_relative_to(point) and len(point) >= best[0]:
            best = (len(point), fields[2])
    return best[1]


def is_on_network(path: Path) -> str | None:
    """The type of the network file system that holds a path, None where it is a local one or cannot be told."""
    found = mount_type(_nearest_existing(path), _mounts())
    return found if found in NETWORK_FILE_SYSTEMS else None


def _nearest_existing(path: Path) -> Path:
    whole = path.resolve()
    return next(parent for parent in (whole, *whole.parents) if parent.exists())


def _shown(value: Any) -> str:
    secret = getattr(value, "get_secret_value", None)
    if secret is not None:
        text = secret()
        return f"…{text[-_SHOWN_SECRET_CHARACTERS:]}" if len(text) >= 4 * _SHOWN_SECRET_CHARACTERS else "(set)"
    return "(not set)" if value is None else str(value)


def _of_mode(settings: Settings) -> Iterator[Finding]:
    if settings.unknown_mode is not None:
        yield Finding("warning", f"mode: {settings.unknown_mode}", "correct --mode or ASYNCGEN_MODE")


def _of_files(settings: Settings) -> Iterator[Finding]:
    try:
        styles = StylesRegistry.load(settings.styles)
        yield Finding("ok", f"styles: {len(styles.get_all_styles())} in {styles.source}")
    except AsyncgenError as error:
        yield Finding("problem", f"styles: {error}", "repair the file, or name another with --styles")
    try:
        template = Template.load(settings.workflow_name(), user_folder())
        yield Finding("ok", f"workflow: {template.name}, {len(template.graph)} nodes")
    except AsyncgenError as error:
        yield Finding("problem", f"workflow: {error}", "name another with ASYNCGEN_WORKFLOW")
    try:
        naming.check_path_template(settings.path_template)
    except AsyncgenError as error:
        yield Finding("problem", str(error), "correct ASYNCGEN_PATH_TEMPLATE")


def _of_disk(settings: Settings) -> Iterator[Finding]:
    root = output_root(settings, PLATFORM)
    ledger = settings.ledger or root / LEDGER_NAME
    try:
        with TemporaryFile(dir=_nearest_existing(root)):
            pass
        yield Finding("ok", f"output: {root.resolve()} is writable")
    except OSError as error:
        yield Finding(
            "problem",
            f"output: {root} cannot be written ({error.strerror})",
            "make it writable, or name another folder with --out or ASYNCGEN_OUTPUT_ROOT",
        )
    if kind := is_on_network(ledger):
        yield Finding(
            "problem",
            f"ledger: {ledger} is on a network file system ({kind}), where SQLite's WAL is unsafe",
            "name a local file with ASYNCGEN_LEDGER; the images may stay where they are",
        )


def _of_account(settings: Settings) -> Iterator[Finding]:
    for ask in (settings.require_api_key, settings.endpoint_id):
        try:
            ask()
        except SettingsError as error:
            yield Finding("problem", str(error))


async def _of_endpoint(settings: Settings, endpoint_id: str, api_key: str) -> list[Finding]:
    address = EndpointAddress(settings.endpoint_base_url, endpoint_id)
    request = protocol.health_request(address, api_key, settings.request_timeout_seconds)
    try:
        async with aiohttp_transport() as transport:
            health = replies.decipher_health(await transport.send(request))
    except TransportError as error:
        return [
            Finding("problem", f"endpoint: {address.base_url} cannot be reached ({error})", "check the network and "
                    "RUNPOD_ENDPOINT_BASE_URL")
        ]  # fmt: skip
    match health:
        case Rejected(failure):
            return [
                Finding("problem", f"endpoint {endpoint_id}: {failure.message}", _ACCOUNT_CURES.get(failure.code, ""))
            ]
        case Transient(reason):
            return [Finding("warning", f"endpoint {endpoint_id}: /health did not answer ({reason})", "try again")]
        case Health():
            return list(_of_workers(endpoint_id, health))


_ACCOUNT_CURES: Final[Mapping[FailureCode, str]] = {
    FailureCode.KEY_REFUSED: "make a key in the RunPod console (Settings, API Keys) and set RUNPOD_API_KEY",
    FailureCode.ENDPOINT_UNKNOWN: "copy the id of a serverless endpoint of this account into RUNPOD_SERVER_100_ID",
    FailureCode.LOAD_BALANCING_ENDPOINT: "make an endpoint of the type Queue: a load-balancing one takes no jobs",
    FailureCode.NO_CREDIT: "add credit in the RunPod console",
}


def _of_workers(endpoint_id: str, health: Health) -> Iterator[Finding]:
    workers, jobs = health.workers, health.jobs
    able = workers.idle + workers.initializing + workers.ready + workers.running
    counts = (
        f"{workers.running} running, {workers.idle} idle, {workers.ready} ready, {workers.initializing} initializing, "
        f"{workers.throttled} throttled, {workers.unhealthy} unhealthy; {jobs.in_queue} jobs queued, "
        f"{jobs.in_progress} in progress"
    )
    if able:
        yield Finding("ok", f"endpoint {endpoint_id}: {counts}")
    elif workers.throttled:
        yield Finding(
            "problem",
            f"endpoint {endpoint_id}: all workers are throttled ({counts})",
            "no GPU of its kind is free: allow more GPU types or regions in the console, or wait",
        )
    elif workers.unhealthy:
        yield Finding(
            "problem",
            f"endpoint {endpoint_id}: all workers are unhealthy ({counts})",
            "the worker image fails to start: read the worker's logs in the console",
        )
    else:
        yield Finding(
            "problem",
            f"endpoint {endpoint_id}: zero workers ({counts})",
            "set max workers above 0 in the console; an endpoint that was idle for a week drops to 0",
        )


def _mounts() -> str:
    if sys.platform == "darwin":
        # "/dev/disk1 on / (apfs, local)" into the form of /proc/mounts
        listed = subprocess.run(["/sbin/mount"], capture_output=True, text=True, check=False).stdout
        return "\n".join(
            f"{line.split(' on ')[0]} {line.split(' on ')[1].split(' (')[0]} {line.split('(')[-1].split(',')[0]}"
            for line in listed.splitlines()
            if " on " in line and "(" in line
        )
    try:
        return Path("/proc/mounts").read_text(encoding="utf-8") if os.name == "posix" else ""
    except OSError:
        return ""
