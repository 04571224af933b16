"""What is said to a process that owns a run, and what it answers: one JSON object a line. Pure.

Nothing secret is in it: names of batches, ids, lanes, and requests as a prompt file has them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from asyncgen.errors import InputError
from asyncgen.selection import Selection

#: One line at the most, either way.
MAX_LINE_BYTES: Final = 1024 * 1024
MAX_IDS: Final = 1000
MAX_REQUESTS: Final = 100
_Text = Annotated[str, Field(min_length=1, max_length=500)]


class Verb(StrEnum):
    """What a process can be told."""

    STATE = "state"
    PAUSE = "pause"
    CONTINUE = "continue"
    CANCEL = "cancel"
    URGENT = "urgent"
    ADD = "add"


class Command(BaseModel):
    """One command. `batch` None: every run of that process.

    `ids`, `style`, `lora` and `workflow` are those of `Selection`. `requests` are rows to add, which are only looked at
    with `check_only`; `scope` is the same number below 0 for all rows that are added together, and none are the end.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    verb: Verb
    batch: _Text | None = None
    ids: Annotated[list[_Text], Field(max_length=MAX_IDS)] = []
    style: _Text | None = None
    lora: _Text | None = None
    workflow: _Text | None = None
    requests: Annotated[list[dict[str, Any]], Field(max_length=MAX_REQUESTS)] = []
    check_only: bool = False
    scope: Annotated[int, Field(ge=-(2**60), lt=0)] = -1

    @property
    def selection(self) -> Selection:
        """Which images it is about."""
        return Selection(frozenset(self.ids), self.style, self.lora, self.workflow)


def parse_command(line: bytes) -> Command:
    """The command of a line. Raises `InputError` for anything else."""
    try:
        return Command.model_validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"])) or None
        raise InputError(f"that is no command: {first['msg']}", field=field) from None


def to_line(message: Command | Mapping[str, Any]) -> bytes:
    """A command or a reply as a line. Raises `InputError` where it is too long."""
    values = message.model_dump(mode="json", exclude_defaults=True) if isinstance(message, Command) else message
    line = json.dumps(values, ensure_ascii=True).encode() + b"\n"
    if len(line) > MAX_LINE_BYTES:
        raise InputError(f"a message of {len(line):,} bytes is longer than the {MAX_LINE_BYTES:,} that are taken")
    return line


def parse_reply(line: bytes) -> dict[str, Any]:
    """The reply of a line: an object. Raises `InputError` for anything else."""
    try:
        reply = json.loads(line)
    except ValueError:
        reply = None
    if not isinstance(reply, dict):
        raise InputError(
            "the process that owns the run answers with something that is no reply: is it another version?"
        )
    return reply
