"""The disk's two habits: it blocks, so it is visited in threads that are waited for; it fails in words of its own."""

import asyncio
import errno
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import anyio

from krea_async.errors import Charged, DownloadError

DISK_ERROR: Final = "disk_error"
"""Our own error code for a file that cannot be written."""

MAX_TURNS: Final = 4
VISITS_A_TURN: Final = 16

T = TypeVar("T")


async def in_thread(work: Callable[[], T]) -> T:
    """What `work` returns, run in a thread."""
    return await to_its_end(asyncio.get_running_loop().run_in_executor(None, work))


class DiskQueue:
    """Visits to the disk, several to a thread's turn: under load, a turn of its own would cost more than the visit.

    One thread at a time while it keeps up, more when visits pile up because the disk is slow.
    """

    def __init__(self) -> None:
        self._waiting: list[tuple[Callable[[], Any], asyncio.Future[Any]]] = []
        self._turns = 0

    async def visit(self, work: Callable[[], T]) -> T:
        """What `work` returns, run in a thread."""
        visit = asyncio.get_running_loop().create_future()
        self._waiting.append((work, visit))
        self._take_turns()
        return cast("T", await to_its_end(visit))

    def _take_turns(self) -> None:
        while self._waiting and self._turns < min(MAX_TURNS, 1 + len(self._waiting) // VISITS_A_TURN):
            self._turns += 1
            visits, self._waiting = self._waiting[:VISITS_A_TURN], self._waiting[VISITS_A_TURN:]
            turn = asyncio.get_running_loop().run_in_executor(None, _work_off, visits)
            turn.add_done_callback(self._turn_ended)

    def _turn_ended(self, turn: "asyncio.Future[list[Callable[[], None]]]") -> None:
        self._turns -= 1
        for deliver in turn.result():
            deliver()
        self._take_turns()


def _work_off(visits: list[tuple[Callable[[], Any], "asyncio.Future[Any]"]]) -> list[Callable[[], None]]:
    """Do the work of each visit; returns how to deliver what came of it, which only the event loop's thread may do."""
    outcomes: list[Callable[[], None]] = []
    for work, visit in visits:
        try:
            outcomes.append(partial(visit.set_result, work()))
        except BaseException as error:  # noqa: BLE001 - raised to whoever waits for this visit
            outcomes.append(partial(visit.set_exception, error))
    return outcomes


async def to_its_end(work: Awaitable[T]) -> T:
    """What `work` returns. When cancelled, its end is waited for first: a thread cannot be stopped half-way."""
    running = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        with anyio.CancelScope(shield=True):
            await asyncio.wait([running])
        if not running.cancelled():
            running.exception()  # seen: nobody else will ask for it
        raise


async def make_directory(directory: Path) -> None:
    """Make sure that pictures can be written into `directory`, before any is paid for. Raises DownloadError."""
    with disk_errors(directory, charged="no"):
        await in_thread(lambda: _make_writable(directory))


def _make_writable(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    if not os.access(directory, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(directory))


@contextmanager
def disk_errors(path: Path, *, charged: Charged = "yes") -> Iterator[None]:
    """Raise DownloadError, with the code "disk_error", for every OSError; `path` is named if the error names none."""
    try:
        yield
    except OSError as error:
        words = f"cannot write {error.filename or path}: {error.strerror or error}"
        raise DownloadError(words, code=DISK_ERROR, charged=charged) from error
