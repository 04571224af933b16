"""`asyncgen sandbox`: its options into settings, and the RunPod API on this machine until Ctrl-C."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import anyio
from pydantic import ValidationError

from asyncgen.console import say, with_exit_code
from asyncgen.errors import InputError
from asyncgen.exits import Exit


@with_exit_code
def run_sandbox(values: Mapping[str, Any], options: Sequence[str]) -> Exit:
    """`asyncgen sandbox`."""
    from asyncgen.sandbox import SandboxSettings, run_forever  # noqa: PLC0415 - as everywhere

    further: dict[str, Any] = dict(option.partition("=")[::2] for option in options)
    for name, field_info in SandboxSettings.model_fields.items():
        if name in further and field_info.annotation == tuple[str, ...]:
            further[name] = tuple(further[name].split(","))
    try:
        settings = SandboxSettings.model_validate({**values, **further})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise InputError(first["msg"], field=str(first["loc"][0])) from None
    try:
        anyio.run(run_forever, settings, say)
    except OSError as error:
        raise InputError(
            f"cannot listen on {settings.host}:{settings.port} ({error.strerror})", field="port"
        ) from error
    return Exit.DONE
