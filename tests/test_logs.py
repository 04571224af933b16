"""Log lines: the request id on every line of a job, and the key on none."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncgen import logs
from asyncgen.errors import InputError

KEY = "rpa_SECRETSECRETSECRETSECRET"
log = logging.getLogger("asyncgen.test")


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    logger = logging.getLogger("asyncgen")
    kept = logger.handlers[:], logger.level, logger.propagate
    yield
    for handler in logger.handlers:
        handler.close()
    logger.handlers[:], logger.propagate = kept[0], kept[2]
    logger.setLevel(kept[1])


def configured(*, as_json: bool = False, secrets: tuple[str, ...] = (KEY,), level: int = logging.DEBUG) -> io.StringIO:
    handler = logs.configure(level, as_json=as_json, secrets=secrets)
    assert isinstance(handler, logging.StreamHandler)
    stream = io.StringIO()
    handler.setStream(stream)
    return stream


def objects(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


# -- the request id


@pytest.mark.parametrize("as_json", [False, True])
def test_every_line_of_a_job_carries_its_request_id_and_no_other_does(as_json: bool) -> None:
    stream = configured(as_json=as_json)
    log.info("before")
    with logs.of_job("img_0123abcd"):
        log.info("inside")
        logging.getLogger("asyncgen.deep.down").warning("of another module")
    log.info("after")
    lines = stream.getvalue().splitlines()
    assert ["img_0123abcd" in line for line in lines] == [False, True, True, False]


@pytest.mark.anyio
async def test_tasks_of_a_job_inherit_its_id_and_jobs_side_by_side_keep_their_own() -> None:
    stream = configured(as_json=True)

    async def child(name: str) -> None:
        await anyio.lowlevel.checkpoint()
        log.info("child of %s", name)

    async def job(name: str) -> None:
        with logs.of_job(name):
            async with anyio.create_task_group() as tasks:
                for _ in range(3):
                    tasks.start_soon(child, name)
            log.info("parent of %s", name)

    async with anyio.create_task_group() as tasks:
        for number in range(5):
            tasks.start_soon(job, f"img_{number}")
    assert len(objects(stream)) == 20
    assert all(entry["message"].endswith(entry["request_id"]) for entry in objects(stream))


# -- the key


def fail_twice() -> None:
    try:
        int(f"a server echoed {KEY}")
    except ValueError as error:
        raise RuntimeError(f"and again {KEY}") from error


@pytest.mark.parametrize("as_json", [False, True])
def test_the_key_is_redacted_in_messages_arguments_and_tracebacks(as_json: bool) -> None:
    stream = configured(as_json=as_json)
    log.info(f"in the text {KEY}")
    log.info("as an argument %s, and within %r", KEY, {"Authorization": f"Bearer {KEY}"})
    try:
        fail_twice()
    except RuntimeError:
        log.exception("it failed")
    assert KEY not in stream.getvalue()
    assert stream.getvalue().count("[key]") >= 5
    assert "RuntimeError" in stream.getvalue()


@given(key=st.text(min_size=6, max_size=30).filter(lambda text: len(text.strip()) >= 6), as_json=st.booleans())
def test_whatever_the_key_is_made_of_no_line_shows_it(key: str, as_json: bool) -> None:
    stream = configured(as_json=as_json, secrets=(key,))
    log.info("a server echoed <%s>", key)
    shown = objects(stream)[0]["message"] if as_json else stream.getvalue()
    assert key.strip() not in shown
    assert "<" in shown


def test_of_two_keys_one_of_which_begins_with_the_other_nothing_is_left() -> None:
    stream = configured(secrets=(KEY[:12], KEY))
    log.info("<%s>", KEY)
    assert stream.getvalue().rstrip().endswith("<[key]>")


@pytest.mark.parametrize("none", ["", "a", "  "])
def test_an_empty_or_tiny_key_does_not_eat_the_log(none: str) -> None:
    stream = configured(secrets=(none,))
    log.info("a cat and a hat")
    assert "a cat and a hat" in stream.getvalue()


# -- form and place


def test_a_json_line_is_one_object_with_the_same_keys_each_time() -> None:
    stream = configured(as_json=True)
    log.warning("two\nlines of 狐")
    (entry,) = objects(stream)
    assert set(entry) == {"time", "level", "logger", "request_id", "message"}
    assert (entry["level"], entry["logger"], entry["request_id"]) == ("WARNING", "asyncgen.test", None)
    assert entry["message"] == "two\nlines of 狐"
    assert entry["time"].endswith("Z")


def test_only_the_level_that_was_asked_for_and_above_is_written() -> None:
    stream = configured(level=logging.WARNING)
    log.info("quiet")
    log.warning("loud")
    assert "quiet" not in stream.getvalue()
    assert "loud" in stream.getvalue()


def test_a_log_file_takes_all_lines_and_standard_error_none(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure(logging.INFO, file=tmp_path / "run.log", secrets=(KEY,))
    log.info("ein Fuchs, 狐, %s", KEY)
    text = (tmp_path / "run.log").read_text(encoding="utf-8")
    assert text.rstrip().endswith("ein Fuchs, 狐, [key]")
    assert capfd.readouterr() == ("", "")


def test_a_log_file_that_cannot_be_written_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"log_file: cannot write .*nowhere"):
        logs.configure(logging.INFO, file=tmp_path / "nowhere" / "run.log")


def test_configuring_again_does_not_double_the_lines() -> None:
    configured()
    stream = configured()
    log.info("once")
    assert stream.getvalue().count("once") == 1
    assert len(logging.getLogger("asyncgen").handlers) == 1
