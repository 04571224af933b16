"""Requests: what is sent where, and what is refused before anything is sent."""

from __future__ import annotations

import json
from typing import Any

import pytest

from asyncgen.errors import FailureClass, FailureCode, InputError
from asyncgen.ports import HttpRequest
from asyncgen.protocol import (
    MAX_RUN_BODY_BYTES,
    EndpointAddress,
    Rejected,
    cancel_request,
    download_request,
    health_request,
    job_body,
    retry_request,
    run_request,
    runsync_request,
    status_request,
    status_sync_request,
)

ADDRESS = EndpointAddress("https://api.example/v2/", "abc123")


def plain_body(job_input: dict[str, object]) -> bytes:
    return job_body(job_input, ttl_ms=None, execution_timeout_ms=None)


@pytest.mark.parametrize(
    ("request_", "method", "url"),
    [
        (run_request(ADDRESS, "k", b"{}", 5), "POST", "https://api.example/v2/abc123/run"),
        (runsync_request(ADDRESS, "k", b"{}", 5, 9000), "POST", "https://api.example/v2/abc123/runsync?wait=9000"),
        (status_request(ADDRESS, "k", "j-u1", 5), "GET", "https://api.example/v2/abc123/status/j-u1"),
        (
            status_sync_request(ADDRESS, "k", "j", 5, 9000),
            "GET",
            "https://api.example/v2/abc123/status-sync/j?wait=9000",
        ),
        (cancel_request(ADDRESS, "k", "j", 5), "POST", "https://api.example/v2/abc123/cancel/j"),
        (retry_request(ADDRESS, "k", "j", 5), "POST", "https://api.example/v2/abc123/retry/j"),
        (health_request(ADDRESS, "k", 5), "GET", "https://api.example/v2/abc123/health"),
    ],
)
def test_each_operation_has_its_method_and_url(request_: HttpRequest, method: str, url: str) -> None:
    assert (request_.method, request_.url) == (method, url)
    assert request_.headers["Authorization"] == "Bearer k"
    assert request_.headers["Accept-Encoding"] == "identity"
    assert ("Content-Type" in request_.headers) == (request_.body is not None)


def test_a_job_id_cannot_leave_its_place_in_the_path() -> None:
    url = ADDRESS.url("status", "../../other/run?ttl=1#x")
    assert url == "https://api.example/v2/abc123/status/..%2F..%2Fother%2Frun%3Fttl%3D1%23x"


def test_waits_are_brought_into_the_platforms_range_and_added_to_the_timeout() -> None:
    longest = runsync_request(ADDRESS, "k", b"{}", 10, 700_000)
    shortest = status_sync_request(ADDRESS, "k", "j", 10, 1)
    assert (longest.url.partition("?")[2], longest.timeout_seconds) == ("wait=300000", 310)
    assert (shortest.url.partition("?")[2], shortest.timeout_seconds) == ("wait=1000", 11)


def test_the_key_is_never_printed_with_a_request() -> None:
    assert "secret" not in repr(run_request(ADDRESS, "secret", b"{}", 5))


def test_a_body_carries_the_input_and_only_the_policy_that_was_given() -> None:
    assert json.loads(plain_body({"workflow": {}})) == {"input": {"workflow": {}}}
    full = job_body({"a": "é"}, ttl_ms=10_000, execution_timeout_ms=5_000, webhook="https://hook.example/")
    assert json.loads(full) == {
        "input": {"a": "é"},
        "policy": {"ttl": 10_000, "executionTimeout": 5_000},
        "webhook": "https://hook.example/",
    }


def test_an_empty_input_is_refused() -> None:
    with pytest.raises(InputError, match="empty") as caught:
        plain_body({})
    assert caught.value.field == "input"


def test_a_body_of_exactly_the_limit_passes_and_one_byte_more_is_refused_with_both_sizes() -> None:
    frame = len(plain_body({"x": ""}))
    assert len(plain_body({"x": "a" * (MAX_RUN_BODY_BYTES - frame)})) == MAX_RUN_BODY_BYTES
    with pytest.raises(InputError, match=r"10,485,761 bytes .* 10,485,760") as caught:
        plain_body({"x": "a" * (MAX_RUN_BODY_BYTES - frame + 1)})
    assert caught.value.field == "input"


@pytest.mark.parametrize(
    ("job_input", "words"),
    [
        ({"workflow": "a" * MAX_RUN_BODY_BYTES}, r"its graph and texts have 10,485,\d+ of them, so shorten the prompt"),
        (
            {"images": ["a" * MAX_RUN_BODY_BYTES]},
            r"its input pictures have 10,485,\d+ of them, so send smaller or fewer",
        ),
    ],
)
def test_a_body_that_is_too_large_is_told_with_what_is_large_in_it(job_input: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        plain_body(job_input)


@pytest.mark.parametrize(
    ("ttl_ms", "execution_timeout_ms", "field"),
    [
        (9_999, None, "ttl_ms"),
        (604_800_001, None, "ttl_ms"),
        (None, 4_999, "execution_timeout_ms"),
        (None, 604_800_001, "execution_timeout_ms"),
    ],
)
def test_times_outside_the_platforms_range_are_refused(
    ttl_ms: int | None, execution_timeout_ms: int | None, field: str
) -> None:
    with pytest.raises(InputError) as caught:
        job_body({"a": 1}, ttl_ms=ttl_ms, execution_timeout_ms=execution_timeout_ms)
    assert caught.value.field == field


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, "\ud800", b"bytes"])
def test_what_is_no_json_is_refused_by_name(value: object) -> None:
    with pytest.raises(InputError) as caught:
        plain_body({"a": value})
    assert caught.value.field == "input"


def test_a_download_carries_no_key_and_may_reach_public_hosts_only() -> None:
    request = download_request("https://bucket.example/a.png?sig=1", timeout_seconds=5, max_reply_bytes=100)
    assert isinstance(request, HttpRequest)
    assert not any(name.lower() == "authorization" for name in request.headers)
    assert request.public_hosts_only
    assert request.max_reply_bytes == 100


@pytest.mark.parametrize(
    "url",
    [
        "http://bucket.example/a.png",
        "file:///etc/passwd",
        "ftp://bucket.example/a.png",
        "https://user:word@bucket.example/a.png",
        "https:///a.png",
        "https://[::1/a.png",
        "https://bucket.example:99999/a.png",
        "a.png",
        "",
    ],
)
def test_a_result_url_that_is_not_plain_https_is_not_opened(url: str) -> None:
    outcome = download_request(url, timeout_seconds=5, max_reply_bytes=100)
    assert isinstance(outcome, Rejected)
    assert (outcome.failure.kind, outcome.failure.code) == (FailureClass.ITEM, FailureCode.RESULT_URL_REFUSED)


def test_private_storage_over_plain_http_is_opened_only_when_allowed() -> None:
    request = download_request("http://localhost:9/a.png", timeout_seconds=5, max_reply_bytes=100, allow_private=True)
    assert isinstance(request, HttpRequest)
    assert not request.public_hosts_only
    assert isinstance(
        download_request("file:///a", timeout_seconds=5, max_reply_bytes=100, allow_private=True), Rejected
    )
