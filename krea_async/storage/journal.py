"""`journal.jsonl`: what happened, on disk before and after every step that costs money.

Lines are gathered, and one write and one fsync serve all who wait (group commit), so that thousands of rows per second
cost a few hundred visits to the disk. After a failed write or fsync nobody knows what is on disk; nothing is written
any more, and the next run reads what is there, cuts what is torn, and goes on from that.
"""

import asyncio
import math
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from errno import ENOENT
from pathlib import Path
from typing import Final

import anyio
from attrs import field, frozen, validators

from krea_async.errors import DISK_ERROR, JournalError, words_of
from krea_async.models import ImageRequest
from krea_async.storage.disk import in_thread, sync_directory
from krea_async.storage.history import JOURNAL_NAME, History
from krea_async.storage.lock import DirectoryLock
from krea_async.storage.records import Header, Line, Row, Saved, encode
from krea_async.tasks import Signal, loop_time_s


@frozen(kw_only=True)
class JournalPolicy:
    """How lines come to disk: as long as one may wait for company, which is what saves visits to the disk.

    gather_s: an intent, and with it the POST. follow_s: a task id, and with it the first look at the task. lazy_s: a
    row's end, and with it the result that the reader gets; and what nobody waits for. sync: whether the disk is told to
    keep lines; without, a power cut may lose the last ones, and what they paid for, but a killed process loses none
    that were written. keys_live_s: how long the gateway is trusted to remember an idempotency key.
    """

    gather_s: float = field(default=0.03, validator=validators.ge(0))
    follow_s: float = field(default=0.2, validator=validators.ge(0))
    lazy_s: float = field(default=0.25, validator=validators.ge(0))
    sync: bool = True
    keys_live_s: float = field(default=3600.0, validator=validators.ge(0))


class _Group:
    """Lines that go to disk together. due_s: when, at the latest; the loop's time."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.names_files = False
        self.due_s = math.inf
        self.ended = Signal()
        self.is_durable = False

    def add(self, line: Line) -> None:
        self.lines.append(line)
        self.names_files = self.names_files or isinstance(line, Saved)

    def take(self, other: "_Group") -> None:
        self.lines += other.lines
        self.names_files = self.names_files or other.names_files


class Journal:
    """The journal of one output directory, open for writing; `open_journal` makes it."""

    def __init__(self, path: Path, fd: int, policy: JournalPolicy, *, rows: int = 0) -> None:
        """`fd`: the file, opened for appending, and whole up to its end. `rows`: how many are in it."""
        self.path = path
        self.policy = policy
        self.rows = rows
        """How many rows there are; the next one's number."""
        self._fd = fd
        self._group = _Group()
        self._lazy = _Group()
        self._writing: _Group | None = None
        self._turn = asyncio.Lock()
        self._sooner = asyncio.Event()
        self._wakes_s = -math.inf  # when `run` looks again by itself
        self._is_running = False
        self._fault: Exception | None = None

    def plan(self, request: ImageRequest, *, index: int, stem: str | None = None, drawn: bool = False) -> Row:
        """Note a new row, see `Row`; returns its line."""
        row = Row(n=self.rows, index=index, request=request, stem=stem, drawn=drawn)
        self.note(row)
        return row

    def note(self, line: Line) -> None:
        """Take a line in; it is written soon. Raises JournalError if the disk has failed."""
        self._raise_fault()
        if isinstance(line, Row):
            if line.n != self.rows:
                raise ValueError(f"row {line.n} cannot come after {self.rows} rows")
            self.rows += 1
        self._add(line, self._group)

    def note_lazily(self, line: Line) -> None:
        """Take in a line that nobody is in a hurry for: written within `lazy_s`, behind all that was noted before."""
        self._raise_fault()
        self._add(line, self._lazy)

    def _add(self, line: Line, group: _Group) -> None:
        group.add(line)
        if len(group.lines) == 1:  # the later ones are due later
            self._hurry(group, self.policy.lazy_s)

    def _hurry(self, group: _Group, within_s: float) -> None:
        group.due_s = min(group.due_s, loop_time_s() + within_s)
        if group.due_s < self._wakes_s:
            self._sooner.set()

    async def durable(self, within_s: float = 0.0) -> None:
        """Return when all that was noted is on disk, but for what was noted lazily.

        within_s: how long it may wait for company. Raises JournalError if the disk has failed.
        """
        group = self._group
        if group.lines:
            self._hurry(group, within_s)
        await self._end_of(group)

    async def lazily_durable(self) -> None:
        """Return when all that was noted lazily is on disk, within `lazy_s`. Raises JournalError as `durable`."""
        await self._end_of(self._lazy)

    async def _end_of(self, noted: _Group) -> None:
        self._raise_fault()
        group = noted if noted.lines else self._writing
        if group is None:
            return
        if not self._is_running:
            await self.flush()
            return
        await group.ended.wait()
        if not group.is_durable:
            raise self._error()

    async def run(self) -> None:
        """Write what is noted, until cancelled; `flush` afterwards. Raises JournalError when the disk fails."""
        self._raise_fault()
        self._is_running = True
        try:
            while True:
                self._wakes_s = min(self._group.due_s, self._lazy.due_s)
                if (wait_s := self._wakes_s - loop_time_s()) > 0:
                    with anyio.move_on_after(wait_s):
                        await self._sooner.wait()
                    self._sooner.clear()
                else:
                    await self._commit(lazily=self._lazy.due_s <= loop_time_s())
                    self._raise_fault()
        finally:
            self._is_running = False

    async def flush(self) -> None:
        """Bring all that is noted to disk now. Raises JournalError if the disk has failed."""
        await self._commit(lazily=True)
        self._raise_fault()

    async def _commit(self, *, lazily: bool) -> None:
        async with self._turn:
            group, self._group = self._group, _Group()
            lazy = _Group()
            if lazily:
                lazy, self._lazy = self._lazy, lazy
                group.take(lazy)
            if not group.lines:
                return
            self._writing = group
            try:
                if self._fault is None:
                    await in_thread(lambda: self._write(group))
            finally:
                self._writing = None
                lazy.is_durable = group.is_durable
                group.ended.set()
                lazy.ended.set()
                if self._fault is not None:  # nobody will write what came meanwhile
                    self._group.ended.set()
                    self._lazy.ended.set()

    def _write(self, group: _Group) -> None:
        """In a thread. Notes a fault instead of raising it: whoever waits for the thread may have been cancelled."""
        try:
            if group.names_files and self.policy.sync:
                sync_directory(self.path.parent)  # a picture's name must be there before the journal says so
            data = memoryview(b"".join(map(encode, group.lines)))  # here, because many at a time cost less each
            while data:
                data = data[os.write(self._fd, data) :]
            if self.policy.sync:
                os.fsync(self._fd)
            self._check_place()
            group.is_durable = True
        except Exception as error:  # noqa: BLE001 - raised to everybody, as JournalError
            self._fault = error

    def _check_place(self) -> None:
        """Raise FileNotFoundError if the file is not where the next run will look for it: then pay for nothing more."""
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(self._fd), self.path.stat()):
                return
        raise FileNotFoundError(ENOENT, "it was moved or removed while it was in use", os.fspath(self.path))

    def _raise_fault(self) -> None:
        if self._fault is not None:
            raise self._error()

    def _error(self) -> JournalError:
        """A new one each time: many wait, and each adds its own traceback."""
        error = journal_error(self.path, self._fault)
        error.__cause__ = self._fault
        return error


def journal_error(path: Path, fault: Exception | None) -> JournalError:
    """What to tell whoever depends on a journal that the disk refuses; code "disk_error"."""
    words = words_of(fault) if isinstance(fault, OSError) else str(fault)
    where = getattr(fault, "filename", None) or path
    return JournalError(
        f"cannot write {where}: {words}. Mend that and start again: what was paid for is fetched, not ordered again",
        code=DISK_ERROR,
    )


@contextmanager
def journal_errors(path: Path) -> Iterator[None]:
    """Raise JournalError for every OSError."""
    try:
        yield
    except OSError as error:
        raise journal_error(path, error) from error


DEFAULT_POLICY: Final = JournalPolicy()


@asynccontextmanager
async def open_journal(
    directory: Path,
    policy: JournalPolicy = DEFAULT_POLICY,
    *,
    skip_damaged: bool = False,
    now_s: float | None = None,
) -> AsyncIterator[tuple[Journal, History]]:
    """The journal in `directory`, which exists, and what it says so far; leaving it writes what is noted.

    Run `Journal.run` inside, in a task group of yours. Raises JournalError: the directory is in use, the journal is
    damaged or newer, or, with the code "disk_error", the disk fails.
    """
    begun_s = time.time() if now_s is None else now_s
    path = directory / JOURNAL_NAME
    with ExitStack() as held:

        def opened() -> tuple[int, History]:
            with journal_errors(path):
                return _open(directory, held, policy, skip_damaged=skip_damaged, now_s=begun_s)

        fd, history = await in_thread(opened)
        journal = Journal(path, fd, policy, rows=history.rows)
        try:
            yield journal, history
        except BaseException:
            with anyio.CancelScope(shield=True), suppress(JournalError):  # what is on its way out says more
                await journal.flush()
            raise
        with anyio.CancelScope(shield=True):
            await journal.flush()


def _open(
    directory: Path, held: ExitStack, policy: JournalPolicy, *, skip_damaged: bool, now_s: float
) -> tuple[int, History]:
    """Lock, read and mend. `held` closes what was opened, also if nobody is there any more to take it."""
    path = directory / JOURNAL_NAME
    lock = DirectoryLock(directory)
    lock.acquire(now_s=now_s)
    held.callback(lock.release)
    history = held.enter_context(History(path, skip_damaged=skip_damaged))
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0), 0o600)
    held.callback(os.close, fd)
    if history.torn_at is not None:
        os.ftruncate(fd, history.torn_at)
    if history.unended:
        _append(fd, b"\n")
    if os.fstat(fd).st_size == 0:
        _append(fd, encode(Header(at_s=now_s)))
    if policy.sync:  # all of it, also what an earlier run wrote and did not live to sync: it will be acted upon
        os.fsync(fd)
        sync_directory(directory)
    return fd, history


def _append(fd: int, data: bytes) -> None:
    if os.write(fd, data) != len(data):
        raise OSError("half a line was written")
