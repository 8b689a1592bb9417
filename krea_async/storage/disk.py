"""The disk's two habits: it blocks, so it is visited in threads that are waited for; it fails in words of its own."""

import asyncio
import errno
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import anyio
from attrs import define, field

from krea_async.errors import DISK_ERROR, Charged, DownloadError, words_of

MAX_TURNS: Final = 4
VISITS_A_TURN: Final = 16
GATHER_S: Final = 0.01
"""How long the first visit waits for company: waking a thread costs more than a small visit."""

T = TypeVar("T")


async def in_thread(work: Callable[[], T]) -> T:
    """What `work` returns, run in a thread."""
    return await to_its_end(asyncio.get_running_loop().run_in_executor(None, work))


@define(eq=False)
class _Visit:
    """One piece of work for the disk, and what came of it."""

    work: Callable[[], Any]
    ended: asyncio.Event = field(factory=asyncio.Event)
    result: Any = None
    error: BaseException | None = None


class DiskQueue:
    """Visits to the disk, several to a thread's turn: a turn of its own would cost more than the visit.

    The first visit waits a moment for company. One thread at a time while it keeps up, more when visits pile up
    because the disk is slow.
    """

    def __init__(self) -> None:
        self._waiting: list[_Visit] = []
        self._gathering: asyncio.TimerHandle | None = None
        self._turns = 0

    async def visit(self, work: Callable[[], T]) -> T:
        """What `work` returns, run in a thread. When cancelled, its end is waited for first."""
        visit = _Visit(work)
        self._waiting.append(visit)
        if self._turns == 0 and self._gathering is None:
            self._gathering = asyncio.get_running_loop().call_later(GATHER_S, self._gathered)
        elif self._turns:
            self._take_turns()
        try:
            await visit.ended.wait()
        except asyncio.CancelledError:
            with anyio.CancelScope(shield=True):
                await visit.ended.wait()
            raise
        if visit.error is not None:
            raise visit.error
        return cast("T", visit.result)

    def _gathered(self) -> None:
        self._gathering = None
        self._take_turns()

    def _take_turns(self) -> None:
        while self._waiting and self._turns < min(MAX_TURNS, 1 + len(self._waiting) // VISITS_A_TURN):
            self._turns += 1
            visits, self._waiting = self._waiting[:VISITS_A_TURN], self._waiting[VISITS_A_TURN:]
            turn = asyncio.get_running_loop().run_in_executor(None, _work_off, visits)
            turn.add_done_callback(self._turn_ended)

    def _turn_ended(self, turn: "asyncio.Future[list[_Visit]]") -> None:
        self._turns -= 1
        for visit in turn.result():
            visit.ended.set()
        self._take_turns()


def _work_off(visits: list[_Visit]) -> list[_Visit]:
    for visit in visits:
        try:
            visit.result = visit.work()
        except BaseException as error:  # noqa: BLE001 - raised to whoever waits for this visit
            visit.error = error
    return visits


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


def sync_directory(directory: Path) -> None:
    """Make the names in `directory` durable, where its system can. Raises OSError when the disk fails."""
    if os.name == "nt":
        return
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # directories are not synced here, and need not be
            raise
    finally:
        os.close(fd)


def _make_writable(directory: Path) -> None:
    new = list(takewhile(lambda path: not path.exists(), (directory, *directory.parents)))
    directory.mkdir(parents=True, exist_ok=True)
    for path in new:  # a journal is no use in a directory whose own name a power cut takes away
        sync_directory(path.parent)
    if not os.access(directory, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(directory))


@contextmanager
def disk_errors(path: Path, *, charged: Charged = "yes") -> Iterator[None]:
    """Raise DownloadError, with the code "disk_error", for every OSError; `path` is named if the error names none."""
    try:
        yield
    except OSError as error:
        words = f"cannot write {error.filename or path}: {words_of(error)}"
        raise DownloadError(words, code=DISK_ERROR, charged=charged) from error
