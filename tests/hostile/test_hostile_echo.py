"""A server that echoes the API key wherever it can: in no log line, file, exception or output is it to be found."""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal
from liar import Asked, Liar, Pieces, lying, whole
from support import ENDPOINT, KEY, SMALL, Ran, Remote, account, files, ledger_rows, prompts, run_cli

from asyncgen import AsyncgenError, ImageGenerator

ECHO = f"Authorization: Bearer {KEY}"
#: Any of these in what we write or say is the key, a good part of it, or the header that carries it.
SECRETS = (KEY, KEY[:20], KEY[-20:], "authorization", "bearer rpa")
HEADERS = {"X-Echo": ECHO, "WWW-Authenticate": ECHO, "Retry-After": KEY, "Date": KEY, "Server": KEY}


def raw(text: str) -> Callable[[], Pieces]:
    """Bytes on the wire that need not be HTTP."""

    async def pieces() -> Pieces:
        yield text.encode()

    return pieces


def said(body: Any, status: int = 200) -> Callable[[], Pieces]:
    return lambda: whole(body, status, **HEADERS)


def finished(output: Any, **more: Any) -> Callable[[], Pieces]:
    return said({"id": "j", "status": "COMPLETED", "output": output, **more})


#: Replies to /run after which the item is settled or held, and the run goes on.
RUN: dict[str, Callable[[], Pieces]] = {
    "500 page": said(f"<html><title>{ECHO}</title></html>".encode(), 500),
    "502 text": said(ECHO.encode(), 502),
    "413": said({"error": f"payload too large {ECHO}"}, 413),
    "400 too large": said({"error": f"max body size {ECHO}"}, 400),
    "unreadable": said(ECHO.encode()),
    "an id": said({"id": KEY, "status": "IN_QUEUE"}),
    "an id within": said({"id": f"j-{KEY}-u1", "status": ECHO}),
    "no http": raw(f"{ECHO}\r\n\r\n"),
    "a status line": raw(f"HTTP/1.1 {KEY}\r\n\r\n"),
    "a broken header": raw(f"HTTP/1.1 200 OK\r\n{ECHO}\r\n{KEY} {KEY}\r\n\r\n"),
    "a long header": raw(f"HTTP/1.1 200 OK\r\nX: {ECHO * 400}\r\n\r\n"),
    "a broken chunk": raw(f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{KEY}\r\n"),
    "a broken length": raw(f"HTTP/1.1 200 OK\r\nContent-Length: {KEY}\r\n\r\n"),
    "an encoding": raw(f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(ECHO)}\r\n\r\n{ECHO}"),
    "cut short": raw(f"HTTP/1.1 200 {KEY}\r\nContent-Length: 9999\r\n\r\n{ECHO}"),
}
#: Replies to /status that end the job.
STATUS: dict[str, Callable[[], Pieces]] = {
    "failed": said({"status": "FAILED", "error": f"cannot use {ECHO}"}),
    "failed, json": said({"status": "FAILED", "error": json.dumps({"error_message": ECHO, "error_type": KEY})}),
    "failed, details": said({"status": "FAILED", "error": "x", "output": {"details": [ECHO], "error": KEY}}),
    "timed out": said({"status": "TIMED_OUT", "error": ECHO, "workerId": KEY}),
    "cancelled": said({"status": "CANCELLED", "workerId": KEY}),
    "worker": said({"status": "FAILED", "error": "x", "workerId": KEY, "delayTime": KEY}),
    "validation": said(
        {"status": "FAILED", "error": f"Workflow validation failed: Node 1 (errors): [{{'message': '{ECHO}', "
                                      f"'details': \"lora_name: '{KEY}' not in ['{KEY}']\"}}]"}
    ),
    "no picture": finished({"message": ECHO}, workerId=KEY),
    "own failure": finished({"status": "error", "message": ECHO}),
    "complaint": finished({"images": [], "errors": [ECHO]}, error=ECHO),
    "no base64": finished({"images": [{"filename": KEY, "data": ECHO}]}),
    "base64": finished({"images": [{"filename": KEY, "data": KEY.replace("_", "/")}]}),
    "a url": finished({"images": [f"https://user@a.example/{KEY}?{ECHO.replace(' ', '')}"]}),
    "a scheme": finished({"images": [f"{KEY[:14].replace('_', '+')}://{KEY}"]}),
    "a redirected url": finished({"images": ["{site}/redirect"]}),
    "a url that errs": finished({"images": ["{site}/errs"]}),
}  # fmt: skip
#: Replies to /run that pause the whole run.
ACCOUNT: dict[str, Callable[[], Pieces]] = {
    "401": said({"error": f"bad key {ECHO}"}, 401),
    "402 text": said(f"{KEY} has no credit".encode(), 402),
    "400": said({"errors": [{"message": ECHO}]}, 400),
    "302": lambda: whole(b"", 302, Location=f"https://elsewhere.example/{KEY}", **HEADERS),
}


class Echo:
    """Answers each prompt's job as its number says; `account` is the answer to every /run instead."""

    def __init__(self, account: Callable[[], Pieces] | None = None) -> None:
        self._account = account
        self._shapes = [*((None, shape) for shape in STATUS.values()), *((shape, None) for shape in RUN.values())]
        self._polls: dict[str, int] = {}
        self.site = ""

    def __call__(self, asked: Asked) -> Pieces:
        if asked.path.endswith("/health"):
            return whole({"jobs": {}, "workers": {"idle": 1}, "echo": ECHO}, **HEADERS)
        if asked.path.endswith("/run"):
            return self._run(asked)
        if "/status/" in asked.path:
            return self._status(asked.path.rpartition("/")[2])
        return self._download(asked.path)

    def _run(self, asked: Asked) -> Pieces:
        if self._account:
            return self._account()
        number = int(asked.prompt.rpartition(" ")[2])
        shape = self._shapes[number][0]
        return shape() if shape else whole({"id": f"job-{number}", "status": ECHO}, **HEADERS)

    def _status(self, job_id: str) -> Pieces:
        polls = self._polls[job_id] = self._polls.get(job_id, 0) + 1
        if polls < 3:
            return (said({"id": KEY, "status": KEY, "error": ECHO}), said({"error": ECHO}, 500))[polls - 1]()
        shape = self._shapes[int(job_id.removeprefix("job-"))][1] if job_id.startswith("job-") else None
        return self._with_site(shape() if shape else said({"status": "FAILED", "error": ECHO})())

    async def _with_site(self, pieces: Pieces) -> Pieces:
        async for piece in pieces:
            head, _, body = piece.replace(b"{site}", self.site.encode()).partition(b"\r\n\r\n")
            lines = [line for line in head.split(b"\r\n") if not line.startswith(b"Content-Length")]
            yield b"\r\n".join([*lines, b"Content-Length: %d" % len(body)]) + b"\r\n\r\n" + body

    def _download(self, path: str) -> Pieces:
        """Where results are: it was never sent the key, but those who sent us there were."""
        return whole(b"", 302, Location="file:///x") if path.endswith("/redirect") else whole(b"gone", 410)


COUNT = len(RUN) + len(STATUS)
OPTIONS = ("--width", "64", "--height", "64", "--concurrency", "40", "-vv")


@contextmanager
def echoing(account: Callable[[], Pieces] | None = None) -> Iterator[Liar]:
    """The server in an event loop of its own."""
    echo = Echo(account)
    with ExitStack() as stack:
        portal = stack.enter_context(start_blocking_portal())
        liar = stack.enter_context(portal.wrap_async_context_manager(lying(echo)))
        echo.site = liar.base_url
        yield liar


def found_in(text: str) -> list[str]:
    return [secret for secret in SECRETS if secret.lower() in text.lower()]


def assert_nowhere(folder: Path, *ran: Ran) -> None:
    """Neither in what was printed nor in any byte of any file."""
    for each in ran:
        assert found_in(each.out + each.err) == []
    kept = {str(path): path.read_bytes().decode("latin-1") for path in files(folder)}
    assert {path: found for path, text in kept.items() if (found := found_in(text))} == {}


@pytest.fixture(params=["text", "json"])
def log_options(request: pytest.FixtureRequest) -> tuple[str, ...]:
    return ("--log-file", "log.txt", *(("--log-json",) if request.param == "json" else ()))


def test_a_batch_of_every_echo_shows_none(tmp_path: Path, log_options: tuple[str, ...]) -> None:
    (tmp_path / "p.txt").write_text("\n".join(prompts(COUNT)))
    with echoing() as liar:
        env = {**account(Remote(liar.base_url)), "ASYNCGEN_MAX_ATTEMPTS": "1", "ASYNCGEN_ALLOW_PRIVATE_URLS": "1"}
        ran = run_cli("batch", "p.txt", *OPTIONS, "--json", "--out", "out", *log_options, cwd=tmp_path, env=env)
        status = run_cli("status", "--out", "out", "--json", cwd=tmp_path, env=env)
    assert (ran.code, ran.summary["wanted"], ran.summary["made"]) == (5, COUNT, 0), ran
    assert ran.summary["pending"] == 0
    assert ran.summary["failed"] >= len(STATUS)
    assert {asked.authorization for asked in liar.asked if "/v2/ep/" in asked.path} == {f"Bearer {KEY}"}
    assert len(ledger_rows(tmp_path / "out", "SELECT 1 FROM item")) == COUNT
    assert "[key]" in ran.out, "the echoes came through, without the key"
    assert_nowhere(tmp_path, ran, status)


@pytest.mark.parametrize("name", ACCOUNT)
def test_an_account_that_is_refused_with_an_echo_shows_none(name: str, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("\n".join(prompts(2)))
    with echoing(ACCOUNT[name]) as liar:
        env = account(Remote(liar.base_url))
        ran = run_cli("batch", "p.txt", *OPTIONS, "--out", "out", "--log-file", "log.txt", cwd=tmp_path, env=env)
    assert ran.code == 4, ran
    assert_nowhere(tmp_path, ran)


def test_check_and_generate_show_no_echo(tmp_path: Path) -> None:
    with echoing() as liar:
        env = {**account(Remote(liar.base_url)), "ASYNCGEN_MAX_ATTEMPTS": "1"}
        ran = [run_cli(*words, cwd=tmp_path, env=env) for words in (
            ("check",), ("check", "--json"), ("generate", "a lighthouse, study 0", *OPTIONS[:4], "-vv", "--out", "out"),
        )]  # fmt: skip
    assert [each.code for each in ran] == [0, 0, 1], ran
    assert_nowhere(tmp_path, *ran)


@pytest.mark.anyio
@pytest.mark.parametrize("shape", [ACCOUNT["401"], ACCOUNT["302"], STATUS["failed"], RUN["a broken header"]])
async def test_no_exception_of_the_api_and_no_record_of_any_logger_carries_an_echo(
    shape: Callable[[], Pieces], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An application has handlers of its own, which know nothing of our key."""
    caplog.set_level(logging.DEBUG)
    logging.getLogger("asyncgen").setLevel(logging.DEBUG)

    def answer(asked: Asked) -> Pieces:
        if asked.path.endswith("/run") and shape is STATUS["failed"]:
            return said({"id": "j", "status": "IN_QUEUE"})()
        return shape() if asked.path.endswith("/run") or "/status/" in asked.path else said({})()

    settings = {"api_key": KEY, "endpoint": ENDPOINT, "output_root": tmp_path, "polling_interval_seconds": 0.01}
    async with lying(answer) as liar, ImageGenerator(**settings, endpoint_base_url=liar.base_url) as generator:
        with pytest.raises(AsyncgenError) as caught:
            await generator.generate_image("a fox", **SMALL)
    told = "".join(traceback.format_exception(caught.value)) + repr(caught.value) + repr(vars(caught.value))
    assert found_in(told) == []
    assert (
        found_in("\n".join(f"{record.getMessage()} {record.args} {record.exc_text}" for record in caplog.records)) == []
    )
    assert_nowhere(tmp_path)


@pytest.mark.anyio
async def test_an_endpoint_that_breaks_the_first_reply_is_told_of_without_its_words(tmp_path: Path) -> None:
    settings = {"api_key": KEY, "endpoint": ENDPOINT, "output_root": tmp_path}
    async with lying(lambda _: RUN["a broken header"]()) as liar:
        with pytest.raises(AsyncgenError) as caught:
            async with ImageGenerator(**settings, endpoint_base_url=liar.base_url):
                pass
    assert found_in("".join(traceback.format_exception(caught.value))) == []
