"""The exception tree, shaped by what the caller does next.

    KreaError
    ├── InvalidRequestError       mend the request; nothing was sent or nothing was accepted
    ├── AuthenticationError       mend the key
    ├── AccessDeniedError         ask for access to the model
    ├── InsufficientCreditsError  top the account up
    ├── BudgetExceededError       raise the cap that you set yourself
    ├── RateLimitedError          wait; the prompt itself is fine
    ├── QueueFullError            shed load: too many of your own requests wait already
    ├── ServiceError              try again later: the network, the gateway, or a reply that cannot be read
    ├── TaskFailedError           the gateway made no picture of this prompt
    │   └── ContentPolicyError    rewrite the prompt
    ├── TaskTimeoutError          follow the task later: it may still finish
    ├── TaskNotFoundError         the gateway does not know the task (any more)
    ├── DownloadError             the picture is paid for and could not be saved
    │   ├── ImageExpiredError     its link is gone
    │   └── InvalidImageError     what came is no whole picture
    ├── JournalError              look at the output directory
    └── SessionClosedError        open a session first, or a new one

Facts are attributes, never only text; every error survives pickling, because workers send them to each other.
"""

import errno
from collections.abc import Callable
from typing import Any, Final, Literal, Self

Charged = Literal["no", "yes", "unknown"]

DISK_ERROR: Final = "disk_error"
"""Our own error code for what this machine refuses: a file that cannot be written, or one more open file or socket."""

NO_FILE_LEFT: Final = frozenset({errno.EMFILE, errno.ENFILE})


class KreaError(Exception):
    """Anything krea-async raises on purpose.

    `status` is the HTTP status, `code` the gateway's error code, `request_id` its `x-request-id`, `task_id` the task
    concerned, `retry_after_s` the pause it asked for; each None where there is none. `retryable`: whether the same call
    may succeed later. `charged`: whether credits were spent ("no", "yes", or "unknown" when an answer was lost).
    """

    retryable: bool = False
    charged: Charged = "no"

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        request_id: str | None = None,
        task_id: str | None = None,
        retry_after_s: float | None = None,
        retryable: bool | None = None,
        charged: Charged | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.code = code
        self.request_id = request_id
        self.task_id = task_id
        self.retry_after_s = retry_after_s
        if retryable is not None:
            self.retryable = retryable
        if charged is not None:
            self.charged = charged

    def __str__(self) -> str:
        facts = [
            f"{name} {value}"
            for name, value in (
                ("status", self.status),
                ("code", self.code),
                ("task", self.task_id),
                ("request", self.request_id),
                ("charged:", None if self.charged == "no" else self.charged),
            )
            if value is not None
        ]
        return f"{self.message} ({', '.join(facts)})" if facts else self.message

    def __reduce__(self) -> tuple[Callable[..., "KreaError"], tuple[type[Self], dict[str, Any]]]:
        return _unpickled, (type(self), self.__dict__)


def words_of(error: OSError) -> str:
    """What the system says is wrong; and what helps, where that is not the disk."""
    words = error.strerror or str(error)
    if error.errno in NO_FILE_LEFT:
        words += " (raise the limit, ulimit -n, or lower the concurrency)"
    return words


def _unpickled(cls: type[KreaError], facts: dict[str, Any]) -> KreaError:
    error = cls.__new__(cls, facts["message"])
    error.__dict__.update(facts)
    return error


class InvalidRequestError(KreaError):
    """The request is not one the API accepts.

    Found here before anything was sent, `field`, `value` and `allowed` say which field, what it was and what it may be;
    found by the gateway, they are None.
    """

    def __init__(
        self,
        message: str,
        *,
        field: str | None = None,
        value: object = None,
        allowed: str | None = None,
        **facts: Any,  # noqa: ANN401 - the facts of KreaError, checked there
    ) -> None:
        super().__init__(message, **facts)
        self.field = field
        self.value = value
        self.allowed = allowed


class AuthenticationError(KreaError):
    """The key is missing, wrong or expired (401)."""


class AccessDeniedError(KreaError):
    """The key may not use this model, or something in front of the gateway refused us (403)."""


class InsufficientCreditsError(KreaError):
    """The account has run out of credits (402). What was accepted before is still finished and saved."""


class BudgetExceededError(KreaError):
    """A cap that the caller set would be exceeded. Nothing was sent."""


class RateLimitedError(KreaError):
    """The gateway asked us to slow down (429): too many requests per time, or too many unfinished tasks."""

    retryable = True


class ServiceError(KreaError):
    """The network or the gateway failed, or answered something that cannot be read."""

    retryable = True


class TaskFailedError(KreaError):
    """The gateway gave the task up. A failed task is not charged: reserved credits come back."""


class ContentPolicyError(TaskFailedError):
    """The prompt violates the content policy. The same prompt will fail again."""


class QueueFullError(KreaError):
    """So many requests wait for their turn already that this one was not taken. Nothing was sent: try again later."""

    retryable = True


class TaskTimeoutError(KreaError):
    """The task did not finish in time. It was not submitted again: follow it with `session.attach`.

    In time: within the session's `task_timeout_s`, or the call's `timeout_s`.
    """

    charged: Charged = "unknown"


class TaskNotFoundError(KreaError):
    """The gateway does not know the task: a wrong id, or one that has expired."""

    charged: Charged = "unknown"


class DownloadError(KreaError):
    """The picture was made and paid for, but could not be brought to disk. `session.attach(task_id)` fetches it."""

    charged: Charged = "yes"


class ImageExpiredError(DownloadError):
    """The picture's link is gone, and a fresh read of the task brought no better one. Links live 24 hours."""


class InvalidImageError(DownloadError):
    """The image host sent something that is no whole PNG, JPEG or WebP, every time it was asked."""

    retryable = True


class JournalError(KreaError):
    """The output directory's journal cannot be read or written."""


class SessionClosedError(KreaError):
    """The session is not open: use it inside `async with KreaSession() as session:`."""
