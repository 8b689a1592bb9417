"""Answers before they are sent: status, headers and body, whole or already broken. Pure."""

import json
from collections.abc import Mapping
from email.utils import formatdate
from math import ceil
from random import Random
from typing import Any, Final

from attrs import evolve, field, frozen

from krea_async.sandbox.faults import Fault
from krea_async.sandbox.settings import Limits

JSON: Final = "application/json"
HTML: Final = "text/html"

_CODES: Final = {
    400: "invalid_request",
    401: "unauthorized",
    402: "insufficient_quota",
    403: "model_access_denied",
    404: "not_found",
    405: "method_not_allowed",
    409: "idempotency_conflict",
    413: "request_too_large",
    429: "rate_limit_exceeded",
    500: "internal_error",
    502: "bad_gateway",
    503: "service_unavailable",
    504: "gateway_timeout",
}
_TYPES: Final = {401: "authentication_error", 402: "billing_error", 403: "permission_error", 429: "rate_limit_error"}
_PROXY_PAGE: Final = b"<html><head><title>502 Bad Gateway</title></head><body><h1>Bad Gateway</h1></body></html>\n"
SERVER_ERRORS: Final = (500, 502, 503, 504)


@frozen
class Reply:
    """An HTTP answer."""

    status: int
    body: bytes
    content_type: str = JSON
    headers: Mapping[str, str] = field(factory=dict)


class Refusal(Exception):  # noqa: N818 - the gateway says no; nothing of ours has failed
    """The gateway's own no to a request; `reply` says it."""

    def __init__(
        self, status: int, message: str, *, code: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.reply = error_reply(status, message, code=code, headers=headers)


def json_reply(payload: object, *, headers: Mapping[str, str] | None = None) -> Reply:
    """200 with `payload` as JSON."""
    return Reply(200, json.dumps(payload, separators=(",", ":")).encode(), JSON, headers or {})


def error_reply(
    status: int, message: str, *, code: str | None = None, headers: Mapping[str, str] | None = None
) -> Reply:
    """An error in the documented shape."""
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    error = {"code": code or _CODES.get(status, "unknown_error"), "message": message, "type": kind}
    return Reply(status, json.dumps({"error": error}).encode(), JSON, headers or {})


def too_many(wait_s: float, limits: Limits, what: str, now: float) -> Refusal:
    """429, announcing the wait as `limits.retry_after` says."""
    wait_s = wait_s if limits.retry_after_s is None else limits.retry_after_s
    message, headers = f"Too many {what}", {}
    match limits.retry_after:
        case "seconds":
            headers["Retry-After"] = str(ceil(wait_s))
        case "fraction":
            headers["Retry-After"] = f"{wait_s:.3f}"
        case "date":
            headers["Retry-After"] = formatdate(ceil(now + wait_s), usegmt=True)
        case "text":
            message += f", retry after {ceil(wait_s)} seconds"
        case None:
            pass
    return Refusal(429, message, headers=headers)


def failed(fault: Fault, rng: Random) -> Reply:
    """The answer of an `error` or a `status`: in the documented shape if its status is given, else in any seen."""
    headers = {} if fault.retry_after is None else {"Retry-After": fault.retry_after}
    if fault.text is not None:
        return Reply(fault.status or 500, fault.text.encode(), JSON, headers)
    if fault.status is not None:
        return error_reply(fault.status, "A scripted answer", code=fault.code, headers=headers)
    status = rng.choice(SERVER_ERRORS)
    message = "The upstream did not answer"
    match rng.randrange(4):
        case 0:
            return error_reply(status, message)
        case 1:
            body: dict[str, Any] = {"error": {"code": status, "message": message, "type": "server_error"}}
        case 2:
            body = {"code": status, "msg": message}
        case _:
            return Reply(status, _PROXY_PAGE, HTML)
    return Reply(status, json.dumps(body).encode())


def garbled(reply: Reply, fault: Fault, rng: Random) -> Reply:
    """`reply` with a body nobody can use: JSON cut in half, a proxy's page, or JSON without what was asked for."""
    if fault.text is not None:
        return evolve(reply, body=fault.text.encode())
    match rng.randrange(3):
        case 0:
            return evolve(reply, body=reply.body[: max(1, len(reply.body) // 2)])
        case 1:
            return evolve(reply, body=_PROXY_PAGE, content_type=HTML)
        case _:
            return evolve(reply, body=b'{"success":true}')
