"""Replies are read tolerantly and never trusted."""

import ast
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from krea_async.errors import KreaError, ServiceError
from krea_async.gateway.refusals import error_from
from krea_async.gateway.replies import UNREADABLE, Reply, balance_from, page_from, task_from, tasks_from
from krea_async.models import Task, TaskError

KEY = "sk-evo-0123456789abcdef"
ID = "task-unified-1751280000-k2t9x8a3"
LINK = "https://files.example/a.png?sig=x"

READERS: list[Callable[[Reply], Any]] = [task_from, tasks_from, page_from, balance_from, error_from]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.just(KEY),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
FIELDS = [
    "id",
    "status",
    "progress",
    "results",
    "error",
    "code",
    "message",
    "msg",
    "data",
    "created",
    "usage",
    "task_info",
    "duration",
    "total",
    "page",
    "page_size",
    "credits_reserved",
    "credits_used",
    "estimated_time",
    "token",
    "user",
    "remaining_credits",
    "unlimited_credits",
    "created_at",
]
VALUES = st.one_of(JSON, st.sampled_from(["completed", "failed", "1e999", "-7", "nan", 10**400, -1e308, [LINK], ID]))
API_LIKE = st.recursive(
    st.dictionaries(st.sampled_from(FIELDS), VALUES),
    lambda inner: st.dictionaries(st.sampled_from(FIELDS), inner | VALUES) | st.lists(inner),
    max_leaves=8,
)


def reply(value: object, *, status: int = 200, **headers: str) -> Reply:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return Reply(status, {name.replace("_", "-"): text for name, text in headers.items()}, body, KEY)


def refused(read: Callable[[Reply], Any], bad: Reply) -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        read(bad)
    return caught.value


def excerpt_of(error: KreaError) -> str:
    """The quoted end of the message, as it was before it was quoted."""
    return str(ast.literal_eval(error.message.split(": ", 2)[2]))


def test_the_documented_reply_becomes_a_task() -> None:
    body = {
        "created": 1751280000,
        "id": ID,
        "model": "krea-2-turbo",
        "object": "image.generation.task",
        "progress": 100,
        "status": "completed",
        "task_info": {"can_cancel": False, "estimated_time": 12},
        "type": "image",
        "usage": {"billing_rule": "per_call", "credits_reserved": 0.45, "credits_used": 0.45, "user_group": "default"},
        "results": [LINK],
        "duration": 7,
    }
    assert task_from(reply(body)) == Task(
        id=ID,
        status="completed",
        progress=100,
        results=(LINK,),
        created=1751280000,
        estimated_time_s=12.0,
        credits_reserved=0.45,
        credits_used=0.45,
        duration_s=7.0,
    )


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'"task"',
        b"{}",
        b'{"id": ',
        b'{"id": null, "status": "pending"}',
        b'{"id": "", "status": "pending"}',
        b'{"id": 17, "status": "pending"}',
        b'{"id": ["task-unified-1"], "status": "pending"}',
        b'{"id": "task-unified-1", "status": null}',
        b'{"id": "task-unified-1", "status": ""}',
        b'{"id": "task-unified-1", "status": 3}',
        b'{"success": true}',
        b"<html><body>502 Bad Gateway</body></html>",
        b"\xff\xfe\x00\xd8",
        b"[" * 100_000,
        b'{"id": ' + b"9" * 5000 + b"}",
    ],
)
def test_a_200_without_a_task_is_an_error_that_shows_what_came(body: bytes) -> None:
    error = refused(task_from, reply(body, x_request_id="req-1"))
    assert (error.status, error.code, error.request_id, error.retryable) == (200, UNREADABLE, "req-1", True)
    assert excerpt_of(error) == body.decode("utf-8", "replace")[:200]


@pytest.mark.parametrize(
    "results",
    [
        None,
        {},
        {"0": LINK},
        [],
        "",
        LINK,
        [None],
        [17],
        [[LINK]],
        [LINK, None],
        [""],
        ["ftp://files.example/a.png"],
        ["file:///etc/passwd"],
        ["javascript:alert(1)"],
        ["//files.example/a.png"],
        ["files.example/a.png"],
        [LINK, "data:image/png;base64,AAAA"],
        True,
        0,
    ],
)
def test_a_completed_task_needs_a_list_of_links(results: object) -> None:
    body = {"id": ID, "status": "completed", "results": results}
    error = refused(task_from, reply(body))
    assert error.code == UNREADABLE
    assert excerpt_of(error) == json.dumps(body)[:200]


def test_a_completed_task_without_results_is_an_error() -> None:
    assert refused(task_from, reply({"id": ID, "status": "completed"})).code == UNREADABLE


@pytest.mark.parametrize("status", ["pending", "processing", "failed", "cancelled", "on_hold"])
@pytest.mark.parametrize("results", [None, [], "soon", [17], [LINK]])
def test_results_mean_nothing_before_a_task_is_completed(status: str, results: object) -> None:
    task = task_from(reply({"id": ID, "status": status, "results": results}))
    assert (task.status, task.results) == (status, ())


def test_an_unknown_status_and_unknown_fields_do_no_harm() -> None:
    task = task_from(reply({"id": ID, "status": "on_hold", "mood": "blue", "usage": {"tea": 1}, "task_info": []}))
    assert task == Task(id=ID, status="on_hold")
    assert not task.finished


@pytest.mark.parametrize(
    ("value", "progress"),
    [
        (0, 0),
        (55, 55),
        (99.9, 99),
        ("42", 42),
        (-3, 0),
        (101, 100),
        (10**400, 0),
        ("1e999", 0),
        ("nan", 0),
        ("55%", 0),
        (None, 0),
        (True, 0),
        ([50], 0),
    ],
)
def test_progress_is_a_whole_percentage_whatever_comes(value: object, progress: int) -> None:
    assert task_from(reply({"id": ID, "status": "processing", "progress": value})).progress == progress


def test_numbers_may_come_as_text_and_what_is_no_number_is_unknown() -> None:
    numbers = {"created": "1751280000", "duration": "7.5", "usage": {"credits_used": "0.45", "credits_reserved": True}}
    task = task_from(reply({"id": ID, "status": "processing", **numbers, "task_info": {"estimated_time": "soon"}}))
    assert (task.created, task.duration_s, task.credits_used) == (1751280000, 7.5, 0.45)
    assert (task.credits_reserved, task.estimated_time_s) == (None, None)


@pytest.mark.parametrize(
    "body", [b'{"id":"t","created":NaN}', b'{"id":"t","created":Infinity}', b'{"id":"t","created":1e999}']
)
def test_a_time_that_is_no_number_is_unknown(body: bytes) -> None:
    assert task_from(reply(body)).created is None


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ({"code": "service_error", "message": "m"}, TaskError(code="service_error", message="m")),
        ({"code": 1001, "message": "m"}, TaskError(code="1001", message="m")),
        ({"message": "m"}, TaskError(code="unknown_error", message="m")),
        ({"code": None, "message": None}, TaskError(code="unknown_error", message="")),
        ("it broke", TaskError(code="unknown_error", message="it broke")),
        (["it broke"], TaskError(code="unknown_error", message="['it broke']")),
        (None, None),
        ({}, None),
    ],
)
def test_why_a_task_failed_may_be_said_in_several_shapes(error: object, expected: TaskError | None) -> None:
    assert task_from(reply({"id": ID, "status": "failed", "error": error})).error == expected


def test_why_a_task_failed_can_be_written_to_a_file_and_shows_no_key() -> None:
    error = {"code": f"\ud800 {KEY}", "message": f"\udfff {KEY}"}
    shown = task_from(reply({"id": ID, "status": "failed", "error": error})).error
    assert shown is not None
    assert KEY not in str(shown)
    assert shown.message.encode("utf-8")
    assert shown.code.encode("utf-8")


@pytest.mark.parametrize(("header", "replayed"), [("true", True), ("True", True), ("false", False), ("", False)])
def test_a_repeated_answer_is_recognised(header: str, replayed: bool) -> None:
    assert task_from(reply({"id": ID, "status": "pending"}, idempotency_replayed=header)).replayed is replayed


def test_the_request_id_comes_under_either_name() -> None:
    assert reply({}, x_request_id="a", x_oneapi_request_id="b").request_id == "a"
    assert reply({}, x_oneapi_request_id="b").request_id == "b"
    assert reply({}).request_id is None


@pytest.mark.parametrize(
    "body", ["é" * 3000, "\U0001f98a" * 3000, "x" * 3000, "\\" * 3000, "'\"" * 3000, "\x00" * 3000]
)
def test_the_excerpt_is_the_body_s_first_200_characters(body: str) -> None:
    assert ast.literal_eval(reply(body.encode()).excerpt) == body[:200]


@pytest.mark.parametrize("read", READERS[:4])
@pytest.mark.parametrize(
    "body",
    [
        f"<html>Bearer {KEY} is no key</html>",
        json.dumps({"id": None, "echo": {"Authorization": f"Bearer {KEY}"}}),
        json.dumps({"data": {"x": KEY}}),
        json.dumps({"data": KEY}),
        "\x00\x01 " + KEY,
        KEY * 1000,
        "x" * (200 - len(KEY) // 2) + KEY,
    ],
)
def test_the_key_is_never_shown(read: Callable[[Reply], Any], body: str) -> None:
    error = refused(read, reply(body.encode()))
    assert KEY not in str(error)
    assert KEY not in repr(error)


@given(repeats=st.integers(0, 80), shift=st.integers(0, 60))
def test_no_part_of_a_quoted_key_is_shown_wherever_the_excerpt_ends(repeats: int, shift: int) -> None:
    body = "." * shift + KEY * repeats
    assert "sk-evo-0123" not in reply(body.encode()).excerpt


def test_one_broken_task_spoils_no_other_of_a_batch() -> None:
    rows = [
        {"id": "a", "status": "processing"},
        {"id": "b", "status": "completed", "results": None, "echo": KEY, "long": "x" * 9000},
        {"id": "c", "status": None},
        {"id": "d", "status": "completed", "results": [LINK]},
        {"status": "completed"},
        {"id": 17},
        "e",
        None,
    ]
    tasks = tasks_from(reply({"data": rows}, x_request_id="req-1"))
    assert set(tasks) == set("abcd")
    assert tasks["a"] == Task(id="a", status="processing")
    assert tasks["d"] == Task(id="d", status="completed", results=(LINK,))
    for broken in "bc":
        error = tasks[broken]
        assert isinstance(error, ServiceError)
        assert (error.code, error.task_id, error.request_id, error.status) == (UNREADABLE, broken, "req-1", 200)
        assert KEY not in str(error)
        assert len(excerpt_of(error)) <= 200


@pytest.mark.parametrize("value", [None, {}, [], {"data": None}, {"data": {}}, {"data": "x"}, 3])
@pytest.mark.parametrize("read", [tasks_from, page_from])
def test_a_list_that_is_none_is_an_error(read: Callable[[Reply], Any], value: object) -> None:
    assert refused(read, reply(value)).code == UNREADABLE


def test_a_page_of_the_list_keeps_what_has_an_id() -> None:
    rows = [{"id": "a", "status": "completed", "progress": 100, "created_at": 5, "credits_used": 0.45}, {"id": 3}, None]
    page = page_from(reply({"data": rows, "total": "7", "page": 1, "page_size": 2}))
    assert [task.id for task in page.tasks] == ["a"]
    assert (page.total, page.page, page.page_size) == (7, 1, 2)


def test_the_balance_is_the_lower_of_what_key_and_account_allow() -> None:
    def balance(token: object, user: object) -> float | None:
        return balance_from(reply({"success": True, "data": {"token": token, "user": user}})).remaining

    assert balance({"remaining_credits": 5, "used_credits": 1}, {"remaining_credits": 3}) == 3.0
    assert balance({"remaining_credits": "5"}, {"remaining_credits": 30}) == 5.0
    assert balance({"remaining_credits": 0, "unlimited_credits": True}, {"remaining_credits": 30}) == 30.0
    assert balance({"unlimited_credits": True}, {}) is None


@pytest.mark.parametrize("value", [None, [], {}, {"data": None}, {"data": {"token": 3}}, {"success": False}])
def test_a_reply_without_a_balance_is_an_error(value: object) -> None:
    assert refused(balance_from, reply(value)).code == UNREADABLE


@given(body=st.binary(max_size=400), status=st.integers(100, 599))
@example(body=b"\xef\xbb\xbf{}", status=200)
@example(body=b'{"id":"\\ud800"}', status=400)
def test_arbitrary_bytes_raise_nothing_foreign(body: bytes, status: int) -> None:
    for read in READERS:
        try:
            read(reply(body, status=status))
        except KreaError as error:
            assert KEY not in str(error)  # noqa: PT017


@given(value=API_LIKE | JSON, status=st.integers(200, 599))
def test_arbitrary_json_raises_nothing_foreign_and_never_shows_the_key(value: object, status: int) -> None:
    answer = reply(value, status=status)
    for read in (task_from, tasks_from, page_from, balance_from):
        try:
            read(answer)
        except KreaError as error:
            assert KEY not in str(error)  # noqa: PT017
    assert KEY not in str(error_from(answer))


@given(value=API_LIKE)
def test_a_task_that_was_read_holds_only_what_it_may(value: dict[str, Any]) -> None:
    try:
        task = task_from(reply(value))
    except ServiceError:
        return
    assert isinstance(task.id, str)
    assert task.id
    assert 0 <= task.progress <= 100
    assert task.status
    assert (task.status == "completed") == bool(task.results)
    assert all(link.startswith(("http://", "https://")) for link in task.results)


@pytest.mark.parametrize(
    "opening", ['{"error":{"message":%s,"code":%s}}', '{"id":"a","data":[{"id":"b","status":%s,"error":%s}]}']
)
def test_nesting_to_any_depth_raises_nothing_foreign(opening: str) -> None:
    for depth in (*range(850, 1010), 5000, 100_000):
        nested = "[" * depth + "]" * depth
        for read in READERS:
            try:
                read(reply((opening % (nested, nested)).encode()))
            except KreaError:
                continue
