"""Render pictures in bulk through EvoLink's krea-2-turbo: asyncio-native, careful with every paid picture.

Each name is imported when it is first asked for, so that `import krea_async` costs next to nothing.
"""

import typing

from krea_async._version import __version__

if typing.TYPE_CHECKING:
    from krea_async.batch.policy import BatchPolicy
    from krea_async.batch.progress import BatchProgress
    from krea_async.batch.run import Batch
    from krea_async.control.backlog import BacklogPolicy
    from krea_async.control.backoff import RetryPolicy
    from krea_async.control.breaker import BreakerPolicy
    from krea_async.control.governor import Limit, PacingPolicy
    from krea_async.control.polling import PollPolicy
    from krea_async.errors import (
        AccessDeniedError,
        AuthenticationError,
        BudgetExceededError,
        ContentPolicyError,
        DownloadError,
        ImageExpiredError,
        InsufficientCreditsError,
        InvalidImageError,
        InvalidRequestError,
        JournalError,
        KreaError,
        QueueFullError,
        RateLimitedError,
        ServiceError,
        SessionClosedError,
        TaskFailedError,
        TaskNotFoundError,
        TaskTimeoutError,
    )
    from krea_async.events import (
        Abandoned,
        Accepted,
        Completed,
        Event,
        Failed,
        LimitFound,
        Orphan,
        Picture,
        Polled,
        Queued,
        RetryScheduled,
        Saved,
        SubmissionRefused,
        Submitted,
        TakenUp,
        all_of,
    )
    from krea_async.gateway.transport import TimeoutPolicy
    from krea_async.job import Job
    from krea_async.models import Balance, ImageRequest, IndexedRequest, Task, TaskError
    from krea_async.prompts import PromptList, RowProblem
    from krea_async.results import BatchReport, GeneratedImage, Timings, UnknownOutcome
    from krea_async.session import KreaSession
    from krea_async.stats import SessionStats
    from krea_async.storage.download import DownloadPolicy
    from krea_async.storage.journal import JournalPolicy

__all__ = [
    "KreaSession",
    "ImageRequest",
    "IndexedRequest",
    "GeneratedImage",
    "Job",
    "Task",
    "TaskError",
    "Batch",
    "BatchProgress",
    "BatchReport",
    "UnknownOutcome",
    "Timings",
    "Balance",
    "SessionStats",
    "Limit",
    "Event",
    "Picture",
    "Queued",
    "Submitted",
    "SubmissionRefused",
    "RetryScheduled",
    "Accepted",
    "TakenUp",
    "Polled",
    "Completed",
    "Saved",
    "Failed",
    "Abandoned",
    "LimitFound",
    "Orphan",
    "all_of",
    "PromptList",
    "RowProblem",
    "RetryPolicy",
    "PacingPolicy",
    "PollPolicy",
    "TimeoutPolicy",
    "DownloadPolicy",
    "BatchPolicy",
    "JournalPolicy",
    "BreakerPolicy",
    "BacklogPolicy",
    "KreaError",
    "InvalidRequestError",
    "AuthenticationError",
    "AccessDeniedError",
    "InsufficientCreditsError",
    "BudgetExceededError",
    "RateLimitedError",
    "QueueFullError",
    "ServiceError",
    "TaskFailedError",
    "ContentPolicyError",
    "TaskTimeoutError",
    "TaskNotFoundError",
    "DownloadError",
    "ImageExpiredError",
    "InvalidImageError",
    "JournalError",
    "SessionClosedError",
    "__version__",
]

_MODULES = {
    "batch.policy": "BatchPolicy",
    "batch.progress": "BatchProgress",
    "batch.run": "Batch",
    "control.backlog": "BacklogPolicy",
    "control.backoff": "RetryPolicy",
    "control.breaker": "BreakerPolicy",
    "control.governor": "Limit PacingPolicy",
    "control.polling": "PollPolicy",
    "errors": (
        "AccessDeniedError AuthenticationError BudgetExceededError ContentPolicyError DownloadError "
        "ImageExpiredError InsufficientCreditsError InvalidImageError InvalidRequestError JournalError "
        "KreaError QueueFullError RateLimitedError ServiceError SessionClosedError TaskFailedError "
        "TaskNotFoundError TaskTimeoutError"
    ),
    "events": (
        "Abandoned Accepted Completed Event Failed LimitFound Orphan Picture Polled Queued "
        "RetryScheduled Saved SubmissionRefused Submitted TakenUp all_of"
    ),
    "gateway.transport": "TimeoutPolicy",
    "job": "Job",
    "models": "Balance ImageRequest IndexedRequest Task TaskError",
    "prompts": "PromptList RowProblem",
    "results": "BatchReport GeneratedImage Timings UnknownOutcome",
    "session": "KreaSession",
    "stats": "SessionStats",
    "storage.download": "DownloadPolicy",
    "storage.journal": "JournalPolicy",
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names.split()}
_SUBMODULES = {"errors", "events", "models", "notebook", "prompts", "results", "sandbox", "telemetry", "webhooks"}


def __getattr__(name: str) -> typing.Any:  # noqa: ANN401 - whatever is asked for
    from importlib import import_module  # noqa: PLC0415 - not a name of the package

    if name in _SUBMODULES:  # `import krea_async` is enough for krea_async.errors, as it would be without laziness
        return import_module(f"{__name__}.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
