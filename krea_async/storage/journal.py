"""`journal.jsonl`: what happened, on disk before and after every step that costs money.

Lines are gathered, and one write and one fsync serve all who wait (group commit), so that thousands of rows per second
cost a few hundred visits to the disk. After a failed write or fsync nobody knows what is on disk; nothing is written
any more, and the next run reads what is there, cuts what is torn, and goes on from that.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from errno import ENOENT
from pathlib import Path
from typing import Final

import anyio
from attrs import field, frozen, validators

from krea_async.errors import JournalError, words_of
from krea_async.models import ImageRequest
from krea_async.storage.disk import DISK_ERROR, in_thread, sync_directory
from krea_async.storage.history import JOURNAL_NAME, History
from krea_async.storage.lock import DirectoryLock
from krea_async.storage.records import Header, Line, Row, Saved, encode


@frozen(kw_only=True)
class JournalPolicy:
    """How lines come to disk. gather_s: how long one that somebody waits for waits for company; lazy_s: any other one.

    sync: whether the disk is told to keep them; without, a power cut may lose the last lines, and what they paid for,
    but a killed process loses none. keys_live_s: how long the gateway is trusted to remember an idempotency key.
    """

    gather_s: float = field(default=0.02, validator=validators.ge(0))
    lazy_s: float = field(default=0.1, validator=validators.ge(0))
    sync: bool = True
    keys_live_s: float = field(default=3600.0, validator=validators.ge(0))


class _Group:
    """Lines that go to disk together."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.names_files = False
        self.due_s = 0.0  # when a line that is waited for has waited long enough; the loop's time
        self.begun, self.wanted, self.ended = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.is_durable = False


class Journal:
    """The journal of one output directory, open for writing; `open_journal` makes it."""

    def __init__(self, path: Path, fd: int, policy: JournalPolicy, *, rows: int = 0) -> None:
        """`fd`: the file, opened for appending, and whole up to its end. `rows`: how many are in it."""
        self.path = path
        self.rows = rows
        """How many rows there are; the next one's number."""
        self._fd = fd
        self._policy = policy
        self._group = _Group()
        self._writing: _Group | None = None
        self._turn = asyncio.Lock()
        self._is_running = False
        self._fault: Exception | None = None

    def plan(self, request: ImageRequest, *, index: int) -> int:
        """Note a new row; returns its number."""
        n = self.rows
        self.note(Row(n=n, index=index, request=request))
        return n

    def note(self, line: Line) -> None:
        """Take a line in; it is written soon. Raises JournalError if the disk has failed."""
        self._raise_fault()
        if isinstance(line, Row):
            if line.n != self.rows:
                raise ValueError(f"row {line.n} cannot come after {self.rows} rows")
            self.rows += 1
        group = self._group
        group.lines.append(encode(line))
        group.names_files = group.names_files or isinstance(line, Saved)
        group.begun.set()

    async def durable(self, *, hurry: bool = True) -> None:
        """Return when all that was noted so far is on disk. Raises JournalError if the disk has failed.

        hurry: within `gather_s`; else with the next lines that are in one, or within `lazy_s`.
        """
        self._raise_fault()
        group = self._group if self._group.lines else self._writing
        if group is None:
            return
        if not self._is_running:
            await self.flush()
            return
        if hurry and not group.wanted.is_set():
            group.due_s = asyncio.get_running_loop().time() + self._policy.gather_s
            group.wanted.set()
        await group.ended.wait()
        if not group.is_durable:
            raise self._error()

    async def run(self) -> None:
        """Write what is noted, until cancelled; `flush` afterwards. Raises JournalError when the disk fails."""
        self._raise_fault()
        loop = asyncio.get_running_loop()
        self._is_running = True
        try:
            while True:
                group = self._group
                await group.begun.wait()
                with anyio.move_on_after(self._policy.lazy_s):
                    await group.wanted.wait()
                if group.wanted.is_set() and (wait_s := group.due_s - loop.time()) > 0:
                    await asyncio.sleep(wait_s)
                await self._commit()
                self._raise_fault()
        finally:
            self._is_running = False

    async def flush(self) -> None:
        """Bring all that is noted to disk now. Raises JournalError if the disk has failed."""
        await self._commit()
        self._raise_fault()

    async def _commit(self) -> None:
        async with self._turn:
            group = self._group
            if not group.lines:
                return
            self._group, self._writing = _Group(), group
            try:
                if self._fault is None:
                    await in_thread(lambda: self._write(group))
            finally:
                self._writing = None
                group.ended.set()
                if self._fault is not None:  # nobody will write what came meanwhile
                    self._group.ended.set()

    def _write(self, group: _Group) -> None:
        """In a thread. Notes a fault instead of raising it: whoever waits for the thread may have been cancelled."""
        try:
            if group.names_files and self._policy.sync:
                sync_directory(self.path.parent)  # a picture's name must be there before the journal says so
            data = memoryview(b"".join(group.lines))
            while data:
                data = data[os.write(self._fd, data) :]
            if self._policy.sync:
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
