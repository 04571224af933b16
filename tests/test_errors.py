"""Errors quote what anybody may have written: they stay one printable line of bounded length."""

from __future__ import annotations

import pytest

from asyncgen.errors import MAX_MESSAGE_CHARACTERS, InputError, WorkflowError


@pytest.mark.parametrize(
    ("field", "where", "shown"),
    [
        (None, None, "wrong"),
        ("seed", None, "seed: wrong"),
        (None, "a:1", "a:1: wrong"),
        ("seed", "a:1", "a:1:seed: wrong"),
    ],
)
def test_an_error_names_place_and_field_before_it_says_what_is_wrong(
    field: str | None, where: str | None, shown: str
) -> None:
    assert str(InputError("wrong", field=field, where=where)) == shown


def test_what_would_drive_a_terminal_is_escaped_wherever_it_stands() -> None:
    error = InputError("no \x1b[2J\n", field="a\rb", where="p\u202e.txt:3")
    assert str(error) == "p\\u202e.txt:3:a\\rb: no \\x1b[2J\\n"


def test_a_long_message_keeps_its_beginning_and_its_end() -> None:
    error = WorkflowError(f"not {'x' * 10**6}: take it out", where=f"{'y' * 5000}:7")
    assert len(error.message) == MAX_MESSAGE_CHARACTERS
    assert error.message.startswith("not xxx")
    assert error.message.endswith("x: take it out")
    assert error.where is not None
    assert error.where.endswith("y:7")
    assert len(str(error)) < 1.5 * MAX_MESSAGE_CHARACTERS
    assert len(InputError("\ud800" * 10**5).message) <= MAX_MESSAGE_CHARACTERS


def test_moving_an_error_to_its_place_changes_nothing_else() -> None:
    error = WorkflowError("\t" * 5000, field="a").at("file:1")
    assert type(error) is WorkflowError
    assert (error.message, error.where) == (WorkflowError("\t" * 5000).message, "file:1")
