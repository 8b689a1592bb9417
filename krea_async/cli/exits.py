"""Exit codes: what a script that runs `krea-async` can rely on, and how a command comes to one."""

import errno
import signal
import sys
from collections.abc import Awaitable, Callable
from enum import IntEnum
from functools import partial
from importlib.util import find_spec
from typing import Final, NoReturn

import anyio

from krea_async.audit.recorded import NO_JOURNAL
from krea_async.cli.output import say
from krea_async.errors import (
    DISK_ERROR,
    NO_FILE_LEFT,
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
    words_of,
)
from krea_async.results import BatchReport


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
    if error.code in {DISK_ERROR, NO_JOURNAL}:
        return Exit.DISK if error.code == DISK_ERROR else Exit.USAGE
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


class StoppedAtOnceError(Exception):
    """The user asked twice. `code`: the exit code. `open_lines`: what is left, in words."""

    def __init__(self, code: int, open_lines: list[str]) -> None:
        super().__init__("\n".join(["stopped at once; tasks in flight may have been charged", *open_lines]))
        self.code = code


def run_to_exit(command: Callable[[], Awaitable[int]]) -> NoReturn:
    """`exit_with` for what needs an event loop: uvloop where it is installed (the extra `speed`), else asyncio's."""
    exit_with(partial(in_loop, command))


def in_loop(command: Callable[[], Awaitable[int]]) -> int:
    """What `command` returns, run in an event loop."""
    return anyio.run(command, backend_options={"use_uvloop": find_spec("uvloop") is not None})


def exit_with(command: Callable[[], int]) -> NoReturn:
    """Run a command to its exit code; an error of ours is one line, not a traceback."""
    try:
        code = command()
    except KreaError as error:
        code = _told(error, exit_of_error(error))
        if (hint := _hint(error)) is not None:
            say(f"  {hint}")
    except StoppedAtOnceError as stopped:
        code = _told(stopped, stopped.code)
    except (OSError, RuntimeError) as error:
        lacking = _no_file_left(error) or (error if isinstance(error, OSError) and error.filename else None)
        if lacking is None:
            raise
        where = "" if lacking is not error or lacking.filename is None else f"{lacking.filename}: "
        code = _told(f"{where}{words_of(lacking)}", Exit.DISK)
    except KeyboardInterrupt:
        code = exit_of_signal(signal.SIGINT)
    sys.exit(code)


def _no_file_left(error: BaseException | None) -> OSError | None:
    """Too many open files, if that is it: anything of Python's own may need one more, such as an import.

    An event loop that could not be opened fails to close as well, so what led to `error` is looked at too.
    """
    while error is not None and not (isinstance(error, OSError) and error.errno in NO_FILE_LEFT):
        error = error.__context__
    return error


def _hint(error: KreaError) -> str | None:
    """What to do, where the error's own words do not say it."""
    if isinstance(error, ServiceError) and error.status is None:
        return "is this machine online, and EVOLINK_BASE_URL right? to look for the reason: krea-async doctor"
    number = error.__cause__.errno if isinstance(error.__cause__, OSError) else None
    return _DISK_HINTS.get(number) if error.code == DISK_ERROR and number is not None else None


_ROOM: Final = "make room, or choose another directory; to look at a disk: krea-async doctor --out DIRECTORY"
_ACCESS: Final = "mend its permissions or its mount, or choose another directory: krea-async doctor --out DIRECTORY"
_DISK_HINTS: Final = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), _ROOM),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), _ACCESS),
}


def _told(words: object, code: int) -> int:
    say(f"krea-async: {words}")
    return code
