"""What a reply means: tasks, pages, balances and errors out of bytes that may be anything.

Read tolerantly (unknown fields are left out, numbers may come as text) and never trusted: a 200 that does not say what
it must is an error that shows the first 200 characters of what came instead.
"""

import json
import math
from collections.abc import Mapping
from typing import Any, Final

from attrs import field, frozen

from krea_async.errors import ServiceError
from krea_async.models import Balance, Task, TaskError, TaskPage, TaskSummary

UNREADABLE: Final = "unreadable_reply"
"""Our own error code for a reply that is not what the API promises."""

EXCERPT_CHARS: Final = 200
MAX_MESSAGE_CHARS: Final = 500
_NUMERIC: Final = frozenset({int, float, str})  # not bool, which is an int of another type


@frozen
class Reply:
    """One HTTP answer, read whole. `secret`: the key that was sent along; some gateways quote it back."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    secret: str = field(default="", repr=False)

    @property
    def request_id(self) -> str | None:
        """The id under which the gateway's support can find this exchange."""
        request_id = self.headers.get("x-request-id") or self.headers.get("x-oneapi-request-id")
        return self.masked(request_id)[:EXCERPT_CHARS] if request_id else None

    @property
    def excerpt(self) -> str:
        """The body's first 200 characters, for people."""
        return repr(self.text[:EXCERPT_CHARS])

    @property
    def text(self) -> str:
        """The whole body without the key, for people."""
        return self.masked(self.body.decode("utf-8", "replace"))

    def masked(self, text: str) -> str:
        """`text`, a part of this reply, without the key, and without surrogates that no file could hold."""
        text = text.encode("utf-8", "replace").decode()
        return text.replace(self.secret, "[key]") if self.secret else text


def task_from(reply: Reply) -> Task:
    """The task in a create or read reply. Raises ServiceError when there is none."""
    value = _json(reply)
    try:
        return _task(reply, value, replayed=reply.headers.get("idempotency-replayed", "").lower() == "true")
    except _UnreadableError as problem:
        raise _unreadable(reply, str(problem)) from None


def tasks_from(reply: Reply) -> dict[str, Task | ServiceError]:
    """The tasks in a batch reply by id; one that cannot be read is an error of its own and spoils no other."""
    tasks: dict[str, Task | ServiceError] = {}
    for value in _list(reply, _json(reply)):
        task_id = value.get("id") if isinstance(value, dict) else None
        if not isinstance(task_id, str):
            continue
        try:
            tasks[task_id] = _task(reply, value)
        except _UnreadableError as problem:
            shown = reply.masked(json.dumps(value))[:EXCERPT_CHARS]
            tasks[task_id] = ServiceError(
                f"the gateway's reply cannot be read: {problem}: {shown!r}",
                status=reply.status,
                code=UNREADABLE,
                request_id=reply.request_id,
                task_id=task_id,
            )
    return tasks


def page_from(reply: Reply) -> TaskPage:
    """A page of the task list. Raises ServiceError when it cannot be read."""
    value = _json(reply)
    rows = tuple(
        _summary(row) for row in _list(reply, value) if isinstance(row, dict) and isinstance(row.get("id"), str)
    )
    return TaskPage(
        tasks=rows,
        total=int(_number(value.get("total")) or len(rows)),
        page=int(_number(value.get("page")) or 1),
        page_size=int(_number(value.get("page_size")) or len(rows)),
    )


def balance_from(reply: Reply) -> Balance:
    """The balance of key and account, in credits. Raises ServiceError when it cannot be read."""
    value = _json(reply)
    data = json_object(json_object(value).get("data"))
    key, account = json_object(data.get("token")), json_object(data.get("user"))
    if not key and not account:
        raise _unreadable(reply, "it holds no balance")
    key_remaining = None if key.get("unlimited_credits") is True else _number(key.get("remaining_credits"))
    account_remaining = _number(account.get("remaining_credits"))
    limits = [limit for limit in (key_remaining, account_remaining) if limit is not None]
    return Balance(
        remaining=min(limits, default=None),
        key_remaining=key_remaining,
        key_used=_number(key.get("used_credits")),
        account_remaining=account_remaining,
        account_used=_number(account.get("used_credits")),
    )


class _UnreadableError(Exception):
    """Says what is missing or wrong in a JSON value."""


def _unreadable(reply: Reply, problem: str) -> ServiceError:
    return ServiceError(
        f"the gateway's reply cannot be read: {problem}: {reply.excerpt}",
        status=reply.status,
        code=UNREADABLE,
        request_id=reply.request_id,
    )


def _json(reply: Reply) -> Any:  # noqa: ANN401 - whatever the gateway sent
    try:
        return json.loads(reply.body)
    except (ValueError, RecursionError):
        raise _unreadable(reply, "it is no JSON") from None


def _list(reply: Reply, value: Any) -> list[Any]:  # noqa: ANN401
    data = value.get("data") if isinstance(value, dict) else None
    if not isinstance(data, list):
        raise _unreadable(reply, "it holds no list of tasks")
    return data


def _task(reply: Reply, value: Any, *, replayed: bool = False) -> Task:  # noqa: ANN401
    task_id = value.get("id") if isinstance(value, dict) else None
    if not isinstance(task_id, str) or not task_id:
        raise _UnreadableError("it has no task id")
    status = value.get("status", "pending")
    if not isinstance(status, str) or not status:
        raise _UnreadableError("it has no status")
    info, usage = json_object(value.get("task_info")), json_object(value.get("usage"))
    created = _number(value.get("created"))
    return Task(
        id=task_id,
        status=status,
        progress=_percent(value.get("progress")),
        results=_links(value.get("results")) if status == "completed" else (),
        error=_task_error(reply, value["error"]) if value.get("error") and status != "completed" else None,
        created=None if created is None else int(created),
        estimated_time_s=_number(info.get("estimated_time")),
        credits_reserved=_number(usage.get("credits_reserved")),
        credits_used=_number(usage.get("credits_used")),
        duration_s=_number(value.get("duration")),
        replayed=replayed,
    )


def _summary(value: dict[str, Any]) -> TaskSummary:
    created = _number(value.get("created_at"))
    return TaskSummary(
        id=value["id"],
        status=str(value.get("status", "")),
        progress=_percent(value.get("progress")),
        created=None if created is None else int(created),
        credits_used=_number(value.get("credits_used")),
    )


def _links(value: Any) -> tuple[str, ...]:  # noqa: ANN401
    if (
        not isinstance(value, list)
        or not value
        or not all(isinstance(link, str) and link.startswith(("https://", "http://")) for link in value)
    ):
        raise _UnreadableError("a completed task needs a list of http(s) links in `results`")
    return tuple(value)


def _task_error(reply: Reply, value: Any) -> TaskError:  # noqa: ANN401
    body = value if isinstance(value, dict) else {"message": value}
    code, message = body.get("code"), body.get("message")
    return TaskError(
        code=reply.masked(str(code or "unknown_error"))[:EXCERPT_CHARS],
        message=reply.masked(str(message or ""))[:MAX_MESSAGE_CHARS],
    )


def json_object(value: Any) -> dict[str, Any]:  # noqa: ANN401
    """`value` if it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else {}


def _number(value: Any) -> float | None:  # noqa: ANN401
    if type(value) not in _NUMERIC:
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _percent(value: Any) -> int:  # noqa: ANN401
    return int(min(max(_number(value) or 0, 0), 100))
