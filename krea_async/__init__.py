"""Render pictures in bulk through EvoLink's krea-2-turbo: asyncio-native, careful with every paid picture."""

from krea_async._version import __version__
from krea_async.batch.policy import BatchPolicy
from krea_async.batch.run import Batch, BatchProgress
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
from krea_async.models import Balance, ImageRequest, Task, TaskError
from krea_async.prompts import PromptList, RowProblem
from krea_async.results import BatchReport, GeneratedImage, Timings, UnknownOutcome
from krea_async.session import KreaSession
from krea_async.stats import SessionStats
from krea_async.storage.download import DownloadPolicy
from krea_async.storage.journal import JournalPolicy

__all__ = [
    "KreaSession",
    "ImageRequest",
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
