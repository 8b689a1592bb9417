"""What a refusal means: any reply but a 200, as the member of the KreaError tree that tells the caller what to do.

Gateways, and the proxies in front of them, say it in JSON of three shapes (`{"error": {…}}`, `{"error": "…"}` and
a flat `{"code", "message" | "msg"}`, with codes as texts or integers), in HTML, or not at all.
"""

import json
import re
from typing import Any, Final

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
from krea_async.gateway.replies import EXCERPT_CHARS, MAX_MESSAGE_CHARS, Reply, json_object
from krea_async.gateway.retry_after import retry_after_s
from krea_async.models import Task, TaskError

RETRYABLE_STATUSES: Final = frozenset({408, 425, 429, 500, 502, 503, 504, *range(520, 525)})
"""520 to 524 are a content delivery network's way to say that it could not reach the gateway."""

INVALID_TASK_ID: Final = "invalid_task_id"
"""The gateway's code for an id that no task can have."""

_WORTH_ANOTHER_TRY: Final = frozenset(
    {
        "generation_timeout",
        "resource_exhausted",
        "service_error",
        "service_unavailable",
        "quota_exceeded",
        "unknown_error",
    }
)
"""Task error codes after which the same input may succeed, by the vendor's table (docs/api-facts.md)."""

_TAGS: Final = re.compile(r"<(?:style|script)\b.*?</(?:style|script)>|<[^>]+>", re.DOTALL | re.IGNORECASE)


def error_from(reply: Reply, *, task_id: str | None = None) -> KreaError:  # noqa: PLR0911 - one line a meaning
    """The error that a reply other than 200 stands for. `task_id`: the task that was asked for, if one was."""
    code, message = _code_and_message(reply)
    facts: dict[str, Any] = {
        "status": reply.status,
        "code": code,
        "request_id": reply.request_id,
        "task_id": task_id,
    }
    if code == "insufficient_quota" or reply.status == 402:
        return InsufficientCreditsError(f"the account has run out of credits: {message}; top it up", **facts)
    if code == "paid_outcome_unknown":
        return ServiceError(f"the first try is still being worked out: {message}", charged="unknown", **facts)
    if reply.status == 401:
        return AuthenticationError(f"the key was refused: {message}; check EVOLINK_API_KEY", **facts)
    if reply.status == 403:
        return AccessDeniedError(f"access was refused: {message}", **facts)
    if reply.status == 404 and task_id is not None:
        return TaskNotFoundError(f"the gateway does not know this task: {message}", **facts)
    if reply.status == 404:
        return ServiceError(f"there is no such route here; check the base URL: {message}", retryable=False, **facts)
    if reply.status == 429:
        pause_s = retry_after_s(reply.headers, message)
        return RateLimitedError(f"the gateway asked us to slow down: {message}", retry_after_s=pause_s, **facts)
    if 400 <= reply.status < 500 and reply.status not in RETRYABLE_STATUSES:
        return InvalidRequestError(f"the gateway refused the request: {message}", **facts)
    words = "the gateway failed" if reply.status >= 400 else "the reply comes from no such API; check the base URL"
    return ServiceError(
        f"{words}: {message}",
        retryable=reply.status in RETRYABLE_STATUSES,
        retry_after_s=retry_after_s(reply.headers, message),
        **facts,
    )


def failure_of(task: Task) -> TaskFailedError:
    """Why a task that is failed or cancelled brought no picture. Nothing was charged for it."""
    error = task.error or TaskError(code="request_cancelled" if task.status == "cancelled" else "unknown_error")
    cls = ContentPolicyError if error.code == "content_policy_violation" else TaskFailedError
    return cls(
        f"the task was {task.status}: {error.message or 'the gateway gives no reason'}",
        code=error.code,
        task_id=task.id,
        retryable=error.code in _WORTH_ANOTHER_TRY,
    )


def _code_and_message(reply: Reply) -> tuple[str | None, str]:
    try:
        value = json.loads(reply.body)
    except (ValueError, RecursionError):
        return None, _prose(reply)
    error = value.get("error") if isinstance(value, dict) else None
    if isinstance(error, str):
        return None, reply.masked(error)[:MAX_MESSAGE_CHARS]
    body = error if isinstance(error, dict) else json_object(value)
    code, message = body.get("code"), body.get("message") or body.get("msg")
    words = reply.masked(str(message))[:MAX_MESSAGE_CHARS] if message else reply.excerpt
    return (None if code is None or code == "" else reply.masked(str(code))[:EXCERPT_CHARS]), words


def _prose(reply: Reply) -> str:
    """The words of an HTML page, or the plain text that came."""
    text = " ".join(_TAGS.sub(" ", reply.text[:20_000]).split())
    return f"HTTP {reply.status}: {text[:EXCERPT_CHARS]!r}" if text else f"HTTP {reply.status} without words"
