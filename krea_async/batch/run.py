"""Many prompts in, results out as they finish, in memory that follows what is in flight and not the list.

A place is taken before the next prompt is pulled, and given back when the reader has taken the row's result; so a slow
reader slows the submissions, and nothing waits in a queue that grows. Nor are more rows begun than can leave soon:
under a limit of the gateway's most places stay empty. What earlier runs left in the directory comes first. Failures are
values: only an error of the prompt list itself, or a bug, ends the iteration.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final, Self

import anyio

from krea_async.batch.books import Books
from krea_async.batch.entry import Entry
from krea_async.batch.feed import Feed, Prompts, left_under_way
from krea_async.batch.gate import Gate
from krea_async.batch.opening import open_books
from krea_async.batch.policy import BatchPolicy
from krea_async.batch.progress import BatchProgress, Figures
from krea_async.batch.row import RowRunner
from krea_async.errors import DISK_ERROR, DownloadError, JournalError, KreaError
from krea_async.pipeline import Pipeline
from krea_async.results import BatchReport, GeneratedImage
from krea_async.submission import MAX_POSTS_AT_ONCE
from krea_async.tasks import light_task_group, task_group
from krea_async.waiting import Stop

log = logging.getLogger(__name__)

BALANCE_WITHIN_S: Final = 5.0
"""How long the balance is waited for; the books can do without."""

ROWS_AHEAD: Final = MAX_POSTS_AT_ONCE
"""Rows that are begun and have not left yet: enough for every request that may be under way at a time."""


class Batch(anyio.AsyncContextManagerMixin):
    """A batch being rendered: `async with` it and iterate over the results, or await it for the report alone.

    Leaving the block before the end stops it as `stop` does. Cancelling it stops it too, and what is in flight is still
    saved within the policy's `drain_s`; another exception ends it at once. What is left, a later batch in the same
    directory takes up. A batch runs once.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        prompts: Prompts | None,
        directory: Path,
        *,
        concurrency: int,
        max_credits: float | None,
        max_usd: float | None,
        policy: BatchPolicy,
    ) -> None:
        """`prompts` None: every row that the directory's journal knows."""
        self._pipeline = pipeline
        self._list = Feed(prompts)
        self._directory = directory
        self._caps = max_credits, max_usd
        self._policy = policy
        self._places = asyncio.Semaphore(concurrency)
        self._lookahead = asyncio.Semaphore(ROWS_AHEAD)
        self._ahead: set[Entry] = set()
        self._results: asyncio.Queue[GeneratedImage | None] = asyncio.Queue()
        self._books: Books
        self._gate: Gate
        self._runner: RowRunner
        self._stop = Stop()
        self._figures = Figures(pipeline, self._stop, directory)
        self._feeding = anyio.CancelScope()
        self._working = anyio.CancelScope(shield=True)
        self._worked = asyncio.Event()
        self._fed = False
        self._in_flight = 0
        self._list_error: Exception | None = None

    def __await__(self) -> Generator[Any, None, BatchReport]:
        return self._to_the_end().__await__()

    async def _to_the_end(self) -> BatchReport:
        async with self:
            async for _ in self:
                pass
        return self.report

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[Self]:
        if self._figures.have_begun:
            raise RuntimeError("a batch runs once; call render() again for another one")
        with self._pipeline.lifetime.operation():
            self._figures.begin()
            ended = False
            try:
                async with open_books(self._directory, self._policy, self._pipeline.rng) as books:
                    await self._prepare(books)
                    async with task_group() as work:
                        work.start_soon(self._work)
                        async with self._draining():
                            yield self
                    ended = True
                    self._figures.tally.balance_after = await self._balance()
                    await self._keep_books(books.manifest.sync)
                    if books.manifest.is_whole:  # else the next run is to write it anew
                        books.run_ended(
                            self._figures.tally.balance_after, self._pipeline.submitter.stopped_by(self._stop)
                        )
            except (JournalError, DownloadError) as error:
                if not ended:
                    raise
                self.stop(error)
            finally:
                self._figures.end(unread=self._list.unread)

    async def _prepare(self, books: Books) -> None:
        self._books = books
        self._gate = Gate(books.known.budget(*self._caps), self._policy)
        self._runner = RowRunner(
            self._pipeline, books, self._gate, self._stop, self._not_ahead, dedupe=self._policy.dedupe
        )
        self._figures.tally.maybe_twice = books.maybe_twice
        self._figures.tally.balance_before = await self._balance()
        books.run_begun(self._figures.tally.balance_before)

    async def _balance(self) -> float | None:
        """The account's credits; None if nobody wants to know, or the gateway does not say."""
        if not self._policy.read_balance:
            return None
        with anyio.move_on_after(BALANCE_WITHIN_S), suppress(KreaError):
            return (await self._pipeline.gateway.credits()).remaining
        return None

    @asynccontextmanager
    async def _draining(self) -> AsyncGenerator[None]:
        try:
            yield
            if self._in_flight or not self._fed:
                self.stop()
            await self._worked.wait()
        except asyncio.CancelledError:
            self.stop(KreaError("the batch was cancelled before this row was submitted", retryable=True))
            with anyio.move_on_after(self._policy.drain_s, shield=True):
                await self._worked.wait()
            raise
        finally:
            self._working.cancel()

    async def _work(self) -> None:
        """Everything that runs. Shielded: a cancellation of the batch must not reach rows that are paid for."""
        try:
            with self._working:
                async with task_group() as books:
                    books.start_soon(self._keep_books, self._books.journal.run)
                    books.start_soon(self._keep_books, self._books.manifest.write)
                    async with light_task_group() as rows:
                        rows.create_task(self._feed(rows))
                    books.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await self._keep_books(self._books.manifest.flush)
                await self._keep_books(self._books.journal.flush)
        finally:
            self._results.put_nowait(None)
            self._worked.set()

    def __aiter__(self) -> AsyncIterator[GeneratedImage]:
        return self

    async def __anext__(self) -> GeneratedImage:
        image = await self._results.get()
        if image is None:
            self._results.put_nowait(None)
            if self._list_error is not None:
                raise self._list_error
            raise StopAsyncIteration
        self._places.release()
        return image

    def stop(self, reason: KreaError | None = None, *, drain_s: float | None = None) -> None:
        """Submit nothing more. What was submitted is finished and saved; rows that still waited are skipped.

        drain_s: after so many seconds what is still in flight is left to a later run; None: never.
        """
        reason = reason or KreaError("the batch was stopped before this row was submitted", retryable=True)
        self._pipeline.submitter.stop(reason, self._stop)
        self._feeding.cancel()
        if drain_s is not None:
            asyncio.get_running_loop().call_later(drain_s, self._working.cancel)

    @property
    def progress(self) -> BatchProgress:
        """How far the batch is."""
        return self._figures.progress(in_flight=self._in_flight)

    @property
    def report(self) -> BatchReport:
        """The books, so far or, after the end, for good."""
        return self._figures.report(unread=self._list.unread)

    async def _feed(self, rows: asyncio.TaskGroup) -> None:
        try:
            with self._feeding:
                await self._feed_left(rows)
                async with aclosing(self._list.rows(self._books)) as entries:
                    while True:
                        await self._places.acquire()
                        await self._lookahead.acquire()
                        if self._pipeline.submitter.stopped_by(self._stop) is not None:
                            break
                        entry = await anext(entries)
                        self._in_flight += 1
                        if isinstance(entry, Entry):
                            self._ahead.add(entry)
                            await self._begin(rows, entry)
                        else:
                            self._lookahead.release()
                            self._books.noted(entry)
                            self._deliver(entry)
        except StopAsyncIteration:
            pass
        except Exception as error:  # noqa: BLE001 - the caller's own iterable; raised to its reader at the end
            log.warning("the prompt list failed: %r; the rows before it are finished", error)
            self._list_error = error
        self._fed = True

    async def _feed_left(self, rows: asyncio.TaskGroup) -> None:
        """What earlier runs left comes first; what is finished is fetched before anything new is ordered."""
        left = await left_under_way(self._books, self._pipeline)
        for entry in left:
            self._runner.is_maker(entry)
            self._gate.adopt(entry)
        for entry in left:
            await self._places.acquire()
            self._in_flight += 1
            rows.create_task(self._row(entry))
        await self._gate.fetched()

    async def _begin(self, rows: asyncio.TaskGroup, entry: Entry) -> None:
        try:
            if self._runner.is_maker(entry) and not entry.is_paid:
                await self._gate.admit(entry)
            else:
                self._not_ahead(entry)
        except KreaError as error:
            self.stop(error)
            self._deliver(self._runner.skipped(entry, error), entry)
        except asyncio.CancelledError:
            reason = self._pipeline.submitter.stopped_by(self._stop)
            self._deliver(self._runner.left(entry) if reason is None else self._runner.skipped(entry, reason), entry)
            raise
        else:
            rows.create_task(self._row(entry))

    async def _row(self, entry: Entry) -> None:
        try:
            image = await self._runner.run(entry)
        except asyncio.CancelledError:
            image = self._runner.left(entry)
            with suppress(JournalError):
                self._note(entry, image)
            self._deliver(image, entry)
            raise
        try:
            self._note(entry, image)
            await self._books.journal.lazily_durable()  # what the reader is told has happened
        except JournalError as error:
            self.stop(error, drain_s=self._policy.drain_s)
        finally:
            self._deliver(image, entry)

    def _note(self, entry: Entry, image: GeneratedImage) -> None:
        """Tell everybody who decides on what comes next. Raises JournalError."""
        reason = self._gate.ended(entry, image)
        if image.error is not None and image.error.code == DISK_ERROR:
            self.stop(image.error, drain_s=self._policy.drain_s)
        elif reason is not None:
            self.stop(reason)
        self._books.ended(entry, image)

    def _deliver(self, image: GeneratedImage, entry: Entry | None = None) -> None:
        """`entry`: None for a row that had ended before it began."""
        if entry is not None:
            self._not_ahead(entry)
            self._runner.ended(entry, image)
        self._figures.tally.add(image, ended_before=entry is None)
        self._results.put_nowait(image)
        self._in_flight -= 1
        if self._pipeline.submitter.stopped_by(self._stop) is not None:
            self._feeding.cancel()  # the list may be waiting for its next prompt

    def _not_ahead(self, entry: Entry) -> None:
        """The row has left, or does not have to; another one may be begun."""
        if entry in self._ahead:
            self._ahead.remove(entry)
            self._lookahead.release()

    async def _keep_books(self, write: Callable[[], Awaitable[None]]) -> None:
        try:
            await write()
        except (DownloadError, JournalError) as error:
            self.stop(error, drain_s=self._policy.drain_s)
