"""Replies: bytes become one typed outcome, whatever they are."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncgen.errors import Failure, FailureClass, FailureCode
from asyncgen.images import examine
from asyncgen.ports import HttpReply
from asyncgen.protocol import (
    Accepted,
    Cancelled,
    Completed,
    Downloaded,
    Failed,
    Health,
    InlineImage,
    JobCounts,
    LinkedImage,
    Missing,
    Pending,
    Ran,
    Redirected,
    Refused,
    Rejected,
    Timing,
    Transient,
    Unknown,
    WorkerCounts,
)
from asyncgen.replies import (
    decipher_cancel,
    decipher_download,
    decipher_health,
    decipher_retry,
    decipher_runsync,
    decipher_status,
    decipher_submission,
)

SHAPES: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "replies" / "response-shapes.json").read_text(encoding="utf-8")
)
HTML_502 = (
    b"<html>\r\n<head><title>api.example | 502: Bad gateway</title></head><body>" + b"x" * 9000 + b"</body></html>"
)
PNG_TEXT = SHAPES[0]["body"]["output"]["images"][0]["data"]


def reply(body: object = None, status: int = 200, **headers: str) -> HttpReply:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return HttpReply(status, {name.replace("_", "-"): value for name, value in headers.items()}, data)


def failure_of(outcome: object) -> Failure:
    assert isinstance(outcome, Failed | Rejected)
    return outcome.failure


def told(shape: dict[str, Any]) -> dict[str, Any]:
    """What the product concludes of a shape, in the words of its `expect`."""
    expect = shape["expect"]
    decipher = decipher_submission if expect.get("operation") == "run" else decipher_status
    outcome: Any = decipher(reply(shape["body"], expect.get("http_status", 200)))
    partial = isinstance(outcome, Completed) and bool(outcome.notes)
    pictures = examine(outcome) if isinstance(outcome, Completed) else ()
    outcome = pictures if isinstance(pictures, Failed) else outcome
    words = {Completed: "images", Cancelled: "cancelled", Pending: "pending", Refused: "slow_down"}
    linked = sum(isinstance(picture, LinkedImage) for picture in pictures) if isinstance(pictures, tuple) else 0
    return {
        "outcome": words.get(type(outcome)) or f"{failure_of(outcome).kind}_fault",
        "inline_images": len(pictures) - linked if isinstance(pictures, tuple) else 0,
        "url_images": linked,
        "partial": partial,
        "refetch_first": isinstance(outcome, Failed) and outcome.refetch_first,
    }


@pytest.mark.parametrize("shape", SHAPES, ids=[shape["name"] for shape in SHAPES])
def test_every_reply_seen_in_the_wild_gives_what_is_expected_of_it(shape: dict[str, Any]) -> None:
    expect = {"partial": False, "refetch_first": False} | shape["expect"]
    assert told(shape) == {name: expect[name] for name in told(shape)}


# -- /run


@pytest.mark.parametrize("status", [500, 502, 504, 520, 522, 524, 599, 199, 600])
def test_a_run_whose_fate_is_unknown_is_never_called_refused(status: int) -> None:
    outcome = decipher_submission(HttpReply(status, {}, HTML_502))
    assert outcome == Unknown(f"HTTP {status}: api.example | 502: Bad gateway")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json",
        b'{"id":',
        b"[1]",
        b"{}",
        b'{"id":""}',
        b'{"id":7}',
        b'{"id":null}',
        b'{"id":".."}',
        b'{"id":"a\\u0000b"}',
        b'{"id":"' + b"a" * 201 + b'"}',
        b"\xff\xfe",
        b"[" * 100_000,
    ],
)
def test_a_success_without_a_job_id_is_unknown(body: bytes) -> None:
    assert isinstance(decipher_submission(HttpReply(200, {}, body)), Unknown)


def test_an_accepted_job_keeps_its_opaque_id() -> None:
    assert decipher_submission(reply({"id": "sync-ab/c-u1", "status": "IN_QUEUE"})) == Accepted("sync-ab/c-u1")


@pytest.mark.parametrize(
    ("status", "words", "code"),
    [
        (401, "", FailureCode.KEY_REFUSED),
        (403, "forbidden", FailureCode.KEY_REFUSED),
        (403, "Your balance is too low", FailureCode.NO_CREDIT),
        (400, "spend limit reached", FailureCode.NO_CREDIT),
        (402, "", FailureCode.NO_CREDIT),
        (404, "endpoint not found", FailureCode.ENDPOINT_UNKNOWN),
        (400, "something new", FailureCode.RUN_REFUSED),
        (405, "", FailureCode.RUN_REFUSED),
        (418, "", FailureCode.RUN_REFUSED),
        (302, "", FailureCode.RUN_REFUSED),
    ],
)
def test_a_refused_run_is_the_accounts_fault_unless_it_is_known_to_be_the_items(
    status: int, words: str, code: FailureCode
) -> None:
    failure = failure_of(decipher_submission(reply({"error": words}, status)))
    assert (failure.kind, failure.code) == (FailureClass.ACCOUNT, code)
    assert words in failure.message
    assert str(status) in failure.message


@pytest.mark.parametrize("answer", [reply({"error": "exceeded max body size of 10MiB"}, 400), reply(b"", 413)])
def test_a_body_over_the_limit_is_the_items_fault(answer: HttpReply) -> None:
    failure = failure_of(decipher_submission(answer))
    assert (failure.kind, failure.code) == (FailureClass.ITEM, FailureCode.BODY_TOO_LARGE)


@pytest.mark.parametrize("status", [301, 401, 402, 403])
def test_a_refused_account_is_never_the_items_fault_whatever_else_the_server_says(status: int) -> None:
    failure = failure_of(decipher_submission(reply({"error": "payload too large: max body size"}, status)))
    assert failure.kind is FailureClass.ACCOUNT


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry_after": "7"}, 7.0),
        ({"retry_after": " 1.5 "}, 1.5),
        ({"retry_after": "999999999"}, 3600.0),
        ({"retry_after": "-5"}, None),
        ({"retry_after": "soon"}, None),
        ({"retry_after": "٧"}, None),
        ({"retry_after": "Mon, 23 Nov 2026 10:00:09 GMT"}, None),
        ({"retry_after": "Mon, 23 Nov 2026 10:00:09 GMT", "date": "Mon, 23 Nov 2026 10:00:00 GMT"}, 9.0),
        ({"retry_after": "Mon, 23 Nov 2026 09:00:00 GMT", "date": "Mon, 23 Nov 2026 10:00:00 GMT"}, 0.0),
        ({"retry_after": "Mon, 23 Nov 2026 10:00:09 -0000", "date": "Mon, 23 Nov 2026 10:00:00 GMT"}, None),
        ({}, None),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_platform_says_when_to_come_back(status: int, headers: dict[str, str], seconds: float | None) -> None:
    refused = decipher_submission(reply(b"busy", status, **headers))
    assert refused == Refused(f"HTTP {status}: busy", seconds)
    assert decipher_status(reply(b"busy", status, **headers)) == Transient(f"HTTP {status}: busy", seconds)


# -- /status and its relatives


@pytest.mark.parametrize("status", [400, 408, 429, 500, 502, 503, 504, 520, 524, 600])
def test_a_poll_that_failed_is_only_to_be_polled_again(status: int) -> None:
    assert isinstance(decipher_status(HttpReply(status, {}, HTML_502)), Transient)


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"[]", b'"COMPLETED"', b"{}", b'{"status":7}', b'{"status":"COMPLETED"', b"\xff", b'{"a":"\xff"}'],
)
def test_a_poll_that_cannot_be_read_is_only_to_be_polled_again(body: bytes) -> None:
    assert isinstance(decipher_status(HttpReply(200, {}, body)), Transient)


@pytest.mark.parametrize(("status", "kind"), [(401, Rejected), (402, Rejected), (403, Rejected), (404, Missing)])
def test_a_refused_poll_is_the_accounts_fault_and_404_is_a_missing_job(status: int, kind: type) -> None:
    outcome = decipher_status(reply({"error": "no"}, status))
    assert isinstance(outcome, kind)
    assert not isinstance(outcome, Rejected) or outcome.failure.kind is FailureClass.ACCOUNT


def test_a_redirected_poll_means_that_the_base_url_is_wrong() -> None:
    failure = failure_of(decipher_status(reply(b"", 301, location="https://elsewhere.example/")))
    assert (failure.kind, failure.code) == (FailureClass.ACCOUNT, FailureCode.RUN_REFUSED)
    assert "RUNPOD_ENDPOINT_BASE_URL" in failure.message


def test_times_are_read_where_they_are_times() -> None:
    record = b'{"id":"j","status":"IN_PROGRESS","delayTime":2188.9,"executionTime":%s,"workerId":"w\\u00001"}'
    for text, milliseconds in [(b"60", 60), (b"NaN", None), (b"-1", None), (b"1e999", None), (b"true", None)]:
        outcome = decipher_status(HttpReply(200, {}, record % text))
        assert outcome == Pending("j", "IN_PROGRESS", Timing(2188, milliseconds, "w 1"))
    assert isinstance(decipher_status(HttpReply(200, {}, record % (b"9" * 4000))), Pending)


def test_of_duplicate_keys_the_last_counts() -> None:
    outcome = decipher_status(HttpReply(200, {}, b'{"status":"COMPLETED","status":"IN_QUEUE"}'))
    assert outcome == Pending(None, "IN_QUEUE", Timing())


def test_pictures_that_come_with_a_failure_are_kept_aside() -> None:
    shape = next(shape for shape in SHAPES if shape["name"] == "failed, yet with pictures")
    outcome = decipher_status(reply(shape["body"]))
    assert isinstance(outcome, Failed)
    assert outcome.aside == (InlineImage(PNG_TEXT),)


def completed(output: object, **more: object) -> Any:
    return decipher_status(reply({"id": "j", "status": "COMPLETED", "output": output, **more}))


def test_equal_pictures_side_by_side_in_a_list_are_two_and_under_two_keys_one() -> None:
    assert len(completed({"images": [{"data": PNG_TEXT}, {"data": PNG_TEXT}]}).images) == 2
    assert len(completed({"images": [PNG_TEXT, PNG_TEXT], "links": [PNG_TEXT, PNG_TEXT]}).images) == 2
    assert len(completed([{"image": PNG_TEXT, "data_url": "data:;base64," + PNG_TEXT}]).images) == 1


@pytest.mark.parametrize(
    "output",
    [
        {"message": "/9 of ten people would look at https://example.com/ first"},
        {"parameters": {"image": PNG_TEXT}},
        {"input": {"images": [PNG_TEXT]}},
        "done",
        {"result": "ok", "url": "see below"},
        {"images": []},
        {"images": None},
        [[], {}, 7, None],
        0,
    ],
)
def test_what_is_no_result_is_no_picture(output: object) -> None:
    failure = failure_of(completed(output))
    assert (failure.kind, failure.code) == (FailureClass.ITEM, FailureCode.NO_IMAGE)


def test_a_message_is_looked_at_only_where_nothing_else_is_a_picture() -> None:
    url = "https://bucket.example/a.png"
    assert completed({"message": "https://docs.example/", "image_url": url}).images == (LinkedImage(url),)


def test_pictures_at_the_root_count_only_where_there_is_no_output() -> None:
    assert failure_of(completed({"message": "done"}, images=[PNG_TEXT])).code is FailureCode.NO_IMAGE
    assert completed(None, images=[PNG_TEXT]).images == (InlineImage(PNG_TEXT),)


def test_what_stands_in_a_pictures_place_is_taken_for_a_picture_however_broken() -> None:
    assert completed({"images": ["!!!!", {"data": "????"}]}).images == (InlineImage("!!!!"), InlineImage("????"))


@pytest.mark.parametrize(
    ("report", "code"),
    [
        ({"status": "error", "message": "boom"}, FailureCode.WORKER_ERROR),
        ({"status": "FAILED"}, FailureCode.WORKER_ERROR),
        ({"status": "success_no_images"}, FailureCode.NO_IMAGE),
    ],
)
def test_a_worker_that_reports_failure_inside_has_failed_whatever_else_it_sends(
    report: dict[str, object], code: FailureCode
) -> None:
    for output in ({**report, "images": [PNG_TEXT]}, [{"status": "executing"}, report, {"image": PNG_TEXT}]):
        outcome = completed(output)
        assert (failure_of(outcome).kind, failure_of(outcome).code) == (FailureClass.ITEM, code)
        assert outcome.aside == (InlineImage(PNG_TEXT),)


def test_a_picture_is_never_told_as_words() -> None:
    body = {"status": "FAILED", "error": "upload failed", "output": {"message": PNG_TEXT, "error": "data:;base64,AA=="}}
    assert failure_of(decipher_status(reply(body))).message == "upload failed"


def test_an_output_of_null_is_no_output() -> None:
    assert failure_of(completed(None)).code is FailureCode.NO_OUTPUT


@pytest.mark.parametrize("errors", [["Node 9 failed"], "Node 9 failed", [{"message": "Node 9 failed"}]])
def test_complaints_without_a_picture_are_the_failure(errors: object) -> None:
    failure = failure_of(completed({"images": [], "errors": errors}))
    assert (failure.code, failure.message) == (FailureCode.WORKER_ERROR, "Node 9 failed")


def test_an_error_beside_the_output_makes_the_result_partial() -> None:
    assert completed({"image": PNG_TEXT}, error="one node failed").notes == ("one node failed",)


def test_a_complaint_beside_a_picture_is_one_short_line() -> None:
    (note,) = completed({"image": PNG_TEXT}, error="one node\n\x1b[31mfailed " + "again " * 500).notes
    assert note.startswith("one node [31mfailed again")
    assert len(note) <= 600
    assert note.isprintable()


def test_any_scheme_in_place_of_a_picture_is_a_link_for_the_downloader_to_judge() -> None:
    for url in ("file:///etc/passwd", "s3://bucket/key.png", "http://127.0.0.1/"):
        assert completed({"images": [url]}).images == (LinkedImage(url),)


def test_a_huge_output_is_read_in_part_and_says_so() -> None:
    many = completed({"images": [f"https://b.example/{number}" for number in range(2_000)]})
    deep = completed([PNG_TEXT, *[{}] * 30_000, PNG_TEXT])
    assert (len(many.images), len(deep.images)) == (1024, 1)
    assert many.notes == deep.notes == ("the output is too large to be read to its end",)


def test_runsync_tells_of_the_job_and_of_how_far_it_has_come() -> None:
    assert decipher_runsync(reply({"id": "j", "status": "IN_QUEUE"})) == Ran("j", Pending("j", "IN_QUEUE", Timing()))
    assert decipher_runsync(reply({"id": "j"})) == Ran("j", Pending("j", "", Timing()))
    done = decipher_runsync(reply({"status": "COMPLETED", "output": PNG_TEXT}))
    assert done == Ran(None, Completed((InlineImage(PNG_TEXT),), Timing()))


@pytest.mark.parametrize("body", [b"", b"{}", b'{"status":"IN_QUEUE"}', b"<html>"])
def test_a_runsync_without_job_or_result_is_unknown(body: bytes) -> None:
    assert isinstance(decipher_runsync(HttpReply(200, {}, body)), Unknown)
    assert isinstance(decipher_runsync(HttpReply(502, {}, body)), Unknown)
    assert isinstance(decipher_runsync(HttpReply(429, {}, body)), Refused)


def test_a_cancel_that_came_too_late_leaves_the_truth_to_status() -> None:
    assert decipher_cancel(reply({"id": "j", "status": "CANCELLED"})) == Cancelled(Timing())
    assert decipher_cancel(reply({"id": "j", "status": "COMPLETED"})) == Pending("j", "COMPLETED", Timing())
    assert decipher_cancel(reply({}, 404)) == Missing()
    assert isinstance(decipher_cancel(reply({})), Transient)
    assert isinstance(decipher_cancel(reply({}, 500)), Transient)


def test_a_retry_is_taken_or_refused_or_not_possible() -> None:
    assert decipher_retry(reply({"id": "j", "status": "IN_QUEUE"})) == Accepted("j")
    assert decipher_retry(reply({"error": "job is not failed"}, 400)) == Missing()
    assert decipher_retry(reply({}, 404)) == Missing()
    assert isinstance(decipher_retry(reply({}, 401)), Rejected)
    assert isinstance(decipher_retry(reply({}, 429)), Refused)
    assert isinstance(decipher_retry(reply({}, 502)), Unknown)


def test_health_is_read_tolerantly() -> None:
    body = {
        "jobs": {"completed": 5, "failed": 1, "inProgress": 2, "inQueue": 3.0, "retried": None},
        "workers": {
            "idle": 1,
            "initializing": 2,
            "ready": "3",
            "running": 4,
            "throttled": -1,
            "unhealthy": 6,
            "new": 1,
        },
    }
    expected = Health(JobCounts(3, 2, 5, 1, 0), WorkerCounts(1, 2, 0, 4, 0, 6))
    assert decipher_health(reply(body)) == expected
    assert isinstance(decipher_health(reply({"jobs": {}})), Transient)
    assert isinstance(decipher_health(HttpReply(502, {}, HTML_502)), Transient)
    assert failure_of(decipher_health(reply({}, 404))).code is FailureCode.ENDPOINT_UNKNOWN
    assert failure_of(decipher_health(reply({}, 401))).code is FailureCode.KEY_REFUSED


def test_a_download_brings_bytes_or_another_place_or_the_reason() -> None:
    url = "https://a.example/x/y.png"
    assert decipher_download(reply(b"data"), url) == Downloaded(b"data")
    assert decipher_download(reply(b"", 302, location="../z.png"), url) == Redirected("https://a.example/z.png")
    assert decipher_download(reply(b"", 307, location="file:///etc"), url) == Redirected("file:///etc")
    assert isinstance(decipher_download(reply(b"", 503), url), Transient)
    assert isinstance(decipher_download(reply(b"", 408), url), Transient)
    for answer in (reply(b"expired", 403), reply(b"", 404), reply(b"", 302), reply(b"", 302, location="http://[")):
        assert failure_of(decipher_download(answer, url)).code is FailureCode.RESULT_URL_REFUSED


# -- hostile replies

JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from([PNG_TEXT, "COMPLETED"]),
    lambda children: (
        st.lists(children, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["id", "status", "output", "images", "image", "data", "error", "errors", "message", "details"]
            ),
            children,
            max_size=5,
        )
    ),
    max_leaves=12,
)
STATUSES = st.sampled_from([200]) | st.integers(-1, 700)
HEADERS = st.dictionaries(st.sampled_from(["retry-after", "date", "location"]), st.text(max_size=40), max_size=3)


@st.composite
def mutated_shapes(draw: st.DrawFn) -> bytes:
    """A reply of the shapes file with a value replaced, or a few bytes changed, dropped or added."""
    body = json.loads(json.dumps(draw(st.sampled_from(SHAPES))["body"]))
    if draw(st.booleans()):
        replace_somewhere(body, draw)
    data = json.dumps(body).encode()
    if draw(st.booleans()):
        position, dropped = draw(st.integers(0, len(data))), draw(st.integers(0, 8))
        data = data[:position] + draw(st.binary(max_size=8)) + data[position + dropped :]
    return data


def replace_somewhere(value: Any, draw: st.DrawFn) -> None:
    while isinstance(value, dict | list) and value:
        key = draw(st.sampled_from(list(value) if isinstance(value, dict) else range(len(value))))
        if not isinstance(value[key], dict | list) or draw(st.integers(0, 3)) == 0:
            value[key] = draw(JSON_VALUES)
            return
        value = value[key]


def assert_every_verb_gives_an_outcome(answer: HttpReply) -> None:
    assert isinstance(decipher_submission(answer), Accepted | Refused | Unknown | Rejected)
    assert isinstance(decipher_runsync(answer), Ran | Refused | Unknown | Rejected)
    assert isinstance(decipher_cancel(answer), Cancelled | Pending | Missing | Transient | Rejected)
    assert isinstance(decipher_retry(answer), Accepted | Refused | Unknown | Missing | Rejected)
    assert isinstance(decipher_health(answer), Health | Transient | Rejected)
    assert isinstance(decipher_download(answer, "https://a.example/"), Downloaded | Redirected | Transient | Rejected)
    outcome = decipher_status(answer)
    assert isinstance(outcome, Pending | Completed | Failed | Cancelled | Missing | Transient | Rejected)
    if isinstance(outcome, Completed):
        assert isinstance(examine(outcome), tuple | Failed)
    if isinstance(outcome, Failed | Rejected):
        assert 0 < len(outcome.failure.message) <= 700
        assert outcome.failure.message.isprintable()


@given(mutated_shapes(), STATUSES, HEADERS)
def test_no_mutated_reply_makes_a_verb_raise(data: bytes, status: int, headers: dict[str, str]) -> None:
    assert_every_verb_gives_an_outcome(HttpReply(status, headers, data))


@given(JSON_VALUES | st.builds(lambda output: {"status": "COMPLETED", "output": output}, JSON_VALUES))
def test_no_json_makes_a_verb_raise(value: object) -> None:
    assert_every_verb_gives_an_outcome(reply(value))


def nested(depth: int, opening: str, closing: str, heart: str) -> bytes:
    return f'{{"status":"COMPLETED","output":{opening * depth}{heart}{closing * depth}}}'.encode()


@pytest.mark.parametrize(
    "body",
    [
        nested(150, '{"output":', "}", f'"{PNG_TEXT}"'),
        nested(150, "[", "]", f'"{PNG_TEXT}"'),
        nested(100_000, "[", "]", "1"),
        nested(1, "[" + "{}," * 500_000, "]", "1"),
        nested(1, '{"images":[' + '"",' * 200_000, "]}", '""'),
        nested(1, '{"images":[' + f'"{PNG_TEXT}",' * 3_000, "]}", '""'),
        nested(1, "[" + f'{{"image":"{PNG_TEXT}"}},' * 3_000, "]", "{}"),
        nested(1, '{"status":"error","message":"', '"}', "[{'" * 300_000),
        json.dumps({"status": "FAILED", "error": "Workflow validation failed: Node " * 50_000}).encode(),
        json.dumps({"status": "FAILED", "error": "Workflow validation failed" + "a: 'b' not in ['" * 50_000}).encode(),
        json.dumps({"status": "FAILED", "error": "Workflow validation failed" + "'message': \"" * 50_000}).encode(),
        json.dumps(
            {"status": "FAILED", "error": "Node 1 (errors): " * 1000 + "a: 'b' not in ['" + "x', '" * 9000}
        ).encode(),
        json.dumps({"status": "FAILED", "error": "worker " * 100_000}).encode(),
        json.dumps({"status": "FAILED", "error": "{" * 500_000}).encode(),
        b"<title" * 300_000,
    ],
    ids=range(15),
)
def test_a_hostile_reply_costs_no_more_than_a_second(body: bytes) -> None:
    started = time.process_time()
    for status in (200, 400, 502):
        assert_every_verb_gives_an_outcome(HttpReply(status, {}, body))
    assert time.process_time() - started < 21  # 21 verbs


def test_a_huge_string_in_place_of_an_error_is_cut() -> None:
    text = base64.b64encode(b"\0" * 3_000_000).decode()
    for error in (text, "{" + text, {"message": text}, [text] * 3):
        failure = failure_of(decipher_status(reply({"status": "FAILED", "error": error})))
        assert len(failure.message) <= 600
