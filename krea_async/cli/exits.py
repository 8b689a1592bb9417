"""Exit codes: what a script that runs `krea-async` can rely on."""

import signal
from enum import IntEnum

from krea_async.errors import (
    AccessDeniedError,
    AuthenticationError,
    BudgetExceededError,
    InsufficientCreditsError,
    InvalidRequestError,
    JournalError,
    KreaError,
    RateLimitedError,
    ServiceError,
    TaskTimeoutError,
)
from krea_async.results import BatchReport
from krea_async.storage.disk import DISK_ERROR


class Exit(IntEnum):
    """The codes, as the documentation lists them. A run that a signal ended has 128 plus the signal's number."""

    ALL_SAVED = 0
    INTERNAL_ERROR = 1
    USAGE = 2
    SOME_FAILED = 3
    KEY_REFUSED = 4
    NO_CREDITS = 5
    SERVICE_UNAVAILABLE = 6
    UNFINISHED = 7
    DISK = 9


def exit_of_error(error: KreaError) -> Exit:
    """The code for a run that `error` ended."""
    if error.code == DISK_ERROR:
        return Exit.DISK
    for classes, code in (
        ((AuthenticationError, AccessDeniedError), Exit.KEY_REFUSED),
        ((InsufficientCreditsError, BudgetExceededError), Exit.NO_CREDITS),
        ((ServiceError, RateLimitedError), Exit.SERVICE_UNAVAILABLE),
        ((TaskTimeoutError,), Exit.UNFINISHED),
        ((JournalError,), Exit.DISK),
        ((InvalidRequestError,), Exit.USAGE),
    ):
        if isinstance(error, classes):
            return code
    return Exit.SOME_FAILED


def exit_of_report(report: BatchReport) -> int:
    """The code for a batch that ran to its end, or was stopped by something other than a signal."""
    if report.stopped_by is not None:
        code = exit_of_error(report.stopped_by)
        return Exit.UNFINISHED if code is Exit.SOME_FAILED else code
    if report.failed == 0:
        return Exit.ALL_SAVED
    codes = {exit_of_error(error) for error in report.examples.values()}
    if codes == {Exit.UNFINISHED} or (codes == {Exit.SERVICE_UNAVAILABLE} and report.saved == 0):
        return codes.pop()
    return Exit.SOME_FAILED


def exit_of_signal(number: int) -> int:
    """The code for a run that a signal ended: 130 for SIGINT, 143 for SIGTERM."""
    return 128 + signal.Signals(number)
