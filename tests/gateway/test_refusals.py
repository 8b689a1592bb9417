"""Every reply but a 200 becomes the error that says what to do next, whatever shape its body has."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krea_async.errors import (
    AccessDeniedError,
    AuthenticationError,
    ContentPolicyError,
    InsufficientCreditsError,
    InvalidRequestError,
    KreaError,
    RateLimitedError,
    ServiceError,
    TaskFailedError,
    TaskNotFoundError,
)
from krea_async.gateway.refusals import error_from, failure_of
from krea_async.gateway.replies import Reply
from krea_async.models import Task, TaskError

KEY = "sk-evo-0123456789abcdef"
ID = "task-unified-1751280000-k2t9x8a3"
PAGE = b"<html><head><title>502 Bad Gateway</title><style>p {color: red}</style></head><body><h1>Bad</h1></body></html>"


def reply(status: int, body: object = None, **headers: str) -> Reply:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Reply(status, {name.replace("_", "-"): text for name, text in headers.items()}, raw, KEY)


@pytest.mark.parametrize(
    ("status", "error_class", "retryable"),
    [
        (400, InvalidRequestError, False),
        (401, AuthenticationError, False),
        (402, InsufficientCreditsError, False),
        (403, AccessDeniedError, False),
        (404, ServiceError, False),
        (405, InvalidRequestError, False),
        (408, ServiceError, True),
        (409, InvalidRequestError, False),
        (413, InvalidRequestError, False),
        (422, InvalidRequestError, False),
        (425, ServiceError, True),
        (429, RateLimitedError, True),
        (451, InvalidRequestError, False),
        (500, ServiceError, True),
        (501, ServiceError, False),
        (502, ServiceError, True),
        (503, ServiceError, True),
        (504, ServiceError, True),
        (505, ServiceError, False),
        (522, ServiceError, True),
        (201, ServiceError, False),
        (204, ServiceError, False),
        (301, ServiceError, False),
        (307, ServiceError, False),
    ],
)
@pytest.mark.parametrize("body", [b"", PAGE, b'{"error": {"message": "no"}}', b'{"code": 7, "msg": "no"}', b"\xff{"])
def test_each_status_has_its_error_whatever_the_body(
    status: int,
    error_class: type[KreaError],
    retryable: bool,
    body: bytes,
) -> None:
    error = error_from(reply(status, body, x_request_id="req-1"))
    assert type(error) is error_class
    assert (error.status, error.retryable, error.request_id) == (status, retryable, "req-1")


def test_a_404_for_a_task_says_that_the_task_is_unknown() -> None:
    error = error_from(reply(404, {"error": {"code": "resource_not_found", "message": "gone"}}), task_id=ID)
    assert isinstance(error, TaskNotFoundError)
    assert (error.task_id, error.code, error.retryable) == (ID, "resource_not_found", False)


def test_a_409_for_a_first_try_under_way_is_worth_the_same_key_again() -> None:
    error = error_from(reply(409, {"error": {"code": "paid_outcome_unknown", "message": "wait"}}))
    assert isinstance(error, ServiceError)
    assert (error.retryable, error.charged, error.code) == (True, "unknown", "paid_outcome_unknown")


def test_running_out_of_quota_is_recognised_by_its_code_too() -> None:
    error = error_from(reply(429, {"error": {"code": "insufficient_quota", "message": "top up"}}))
    assert isinstance(error, InsufficientCreditsError)
    assert not error.retryable


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        (
            {"error": {"code": "invalid_request", "message": "size is wrong", "type": "t"}},
            "invalid_request",
            "size is wrong",
        ),
        ({"error": {"code": 1001, "message": "integer code"}}, "1001", "integer code"),
        ({"error": {"code": 0, "message": "zero"}}, "0", "zero"),
        ({"error": {"message": "no code"}}, None, "no code"),
        ({"error": {"code": "", "message": "empty code"}}, None, "empty code"),
        ({"error": {"code": "c", "msg": "msg inside"}}, "c", "msg inside"),
        ({"code": 400, "message": "flat"}, "400", "flat"),
        ({"code": "bad", "msg": "flat msg"}, "bad", "flat msg"),
        ({"error": "only text"}, None, "only text"),
        ({"error": {"code": "c", "message": {"en": "nested"}}}, "c", "nested"),
        ({"error": None, "message": "beside null"}, None, "beside null"),
        ({"unheard": "of"}, None, "unheard"),
        (["a", "list"], None, "list"),
        ("bare text", None, "bare text"),
        (b"plain words, no JSON", None, "plain words, no JSON"),
        (PAGE, None, "502 Bad Gateway"),
        (b"", None, "400"),
    ],
)
def test_bodies_of_every_shape_are_understood(body: object, code: str | None, words: str) -> None:
    error = error_from(reply(400, body))
    assert error.code == code
    assert words in str(error)


def test_html_is_shown_as_its_words_only() -> None:
    message = error_from(reply(502, PAGE)).message
    assert "<" not in message
    assert "color" not in message


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "x" * 100_000}},
        {"error": "x" * 100_000},
        {"msg": "x" * 100_000},
        {"error": {"code": "x" * 100_000, "message": "m"}},
        {"unheard": "x" * 100_000},
        b"x" * 100_000,
        b"<p>" + b"x " * 100_000,
        "x" * 100_000,
        ["x" * 100_000],
    ],
    ids=["message", "text", "flat", "code", "unknown", "plain", "html", "string", "list"],
)
@pytest.mark.parametrize("status", [401, 429])
def test_a_message_stays_short_however_long_the_body(body: object, status: int) -> None:
    assert len(str(error_from(reply(status, body), task_id=ID))) < 1000


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"code": "unauthorized", "message": f"Incorrect API key provided: {KEY}."}},
        {"error": {"code": f"bad:{KEY}", "message": "m"}},
        {"error": KEY},
        {"code": KEY, "msg": "m"},
        {"msg": f"key {KEY}"},
        {"error": {"message": {"headers": [f"Bearer {KEY}"]}}},
        {"unheard": KEY},
        [KEY],
        KEY,
        f"<html><body>Authorization: Bearer {KEY}</body></html>".encode(),
        f"<a href='{KEY}'>x</a>".encode(),
        b"x" * 190 + KEY.encode(),
        b"\xff\xfe" + KEY.encode(),
    ],
)
@pytest.mark.parametrize("status", [401, 500])
def test_the_key_is_never_shown(body: object, status: int) -> None:
    error = error_from(reply(status, body), task_id=ID)
    assert KEY not in str(error)
    assert KEY not in repr(error)
    assert KEY not in str(error.code)


@pytest.mark.parametrize(
    "body", [b'{"error":{"message":"\\ud800","code":"\\udfff"}}', b'{"error":"\\ud800"}', b'["\\ud800"]']
)
def test_what_an_error_says_can_be_written_to_a_file(body: bytes) -> None:
    assert str(error_from(reply(400, body))).encode("utf-8")


@given(tags=st.integers(19_900, 20_000))
def test_no_part_of_a_quoted_key_is_shown_wherever_the_page_is_cut(tags: int) -> None:
    page = f"<p class='{'x' * (tags - 12)}'>{KEY}"
    assert "sk-evo-0123" not in error_from(reply(502, page.encode())).message


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_the_pause_that_was_asked_for_is_kept(status: int) -> None:
    words = {"error": {"message": "Too many requests, retry after 60 seconds"}}
    assert error_from(reply(status, words)).retry_after_s == 60.0
    assert error_from(reply(status, words, **{"Retry-After": "2.5"})).retry_after_s == 2.5
    assert error_from(reply(status, PAGE, **{"Retry-After": "99999"})).retry_after_s == 300.0
    assert error_from(reply(status, PAGE)).retry_after_s is None


@pytest.mark.parametrize(
    ("code", "retryable"),
    [
        ("generation_timeout", True),
        ("resource_exhausted", True),
        ("service_error", True),
        ("service_unavailable", True),
        ("quota_exceeded", True),
        ("unknown_error", True),
        ("content_policy_violation", False),
        ("invalid_parameters", False),
        ("generation_failed_no_content", False),
        ("image_processing_error", False),
        ("image_dimension_mismatch", False),
        ("request_cancelled", False),
        ("resource_not_found", False),
        ("never_heard_of", False),
    ],
)
def test_a_failed_task_says_whether_the_same_input_is_worth_another_try(code: str, retryable: bool) -> None:
    error = failure_of(Task(id=ID, status="failed", error=TaskError(code=code, message="why")))
    assert (error.code, error.retryable, error.task_id, error.charged) == (code, retryable, ID, "no")
    assert "why" in str(error)
    assert isinstance(error, ContentPolicyError) == (code == "content_policy_violation")


def test_tasks_that_end_without_a_reason_are_failures_too() -> None:
    assert failure_of(Task(id=ID, status="failed")).code == "unknown_error"
    cancelled = failure_of(Task(id=ID, status="cancelled"))
    assert (type(cancelled), cancelled.code, cancelled.retryable) == (TaskFailedError, "request_cancelled", False)


@given(status=st.integers(-1, 999).filter(lambda status: status != 200), task_id=st.none() | st.just(ID))
def test_no_status_is_without_an_error(status: int, task_id: str | None) -> None:
    error = error_from(reply(status, {"error": {"message": "m"}}), task_id=task_id)
    assert error.status == status
    assert error.task_id == task_id
