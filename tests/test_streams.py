"""Standard output that fails: once, in words, and never again."""

from __future__ import annotations

import errno
import io

import pytest

from asyncgen.streams import Output, OutputError, complain


class Failing(io.StringIO):
    """A stream that refuses what it is flushed."""

    def flush(self) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_what_only_tells_hears_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", Failing())
    with pytest.raises(OutputError, match=r"^standard output cannot be written \(No space left on device\)$"):
        Output().line("a line")


def test_a_run_goes_on_and_it_is_told_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    stream = Failing()
    monkeypatch.setattr("sys.stdout", stream)
    output = Output(of_run=True)
    assert not output.failed
    for _ in range(3):
        output.line("a line")
    assert (output.failed, stream.getvalue()) == (True, "a line\n")
    assert capsys.readouterr().err == "asyncgen: standard output cannot be written (No space left on device)\n"


def test_an_output_that_was_closed_before_fails_once_there_is_something_to_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", None)
    output = Output()
    output.flush()
    assert not output.isatty()
    with pytest.raises(OutputError, match="Bad file descriptor"):
        output.line("a line")


@pytest.mark.parametrize("stream", [None, Failing()])
def test_a_complaint_that_nobody_can_read_is_lost(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], stream: io.StringIO | None
) -> None:
    monkeypatch.setattr("sys.stderr", stream)
    complain("a line")
    assert capsys.readouterr().out == ""
