"""Many prompts in, results out as they finish, in memory that follows the concurrency and not the list.

A place is taken before the next prompt is pulled, and given back when the reader has taken the row's result; so a slow
reader slows the submissions, and nothing waits in a queue that grows. Failures are values: only an error of the prompt
list itself, or a bug, ends the iteration.
"""

import asyncio
import logging
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Generator,
    Iterable,
    Mapping,
)
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, Final, Self

import anyio
from anyio.abc import TaskGroup
from attrs import frozen

from krea_async.errors import DownloadError, InvalidRequestError, KreaError, ServiceError
from krea_async.models import ImageRequest
from krea_async.pipeline import Job, Pipeline
from krea_async.results import BatchReport, GeneratedImage, Tally, Timings
from krea_async.storage.disk import DISK_ERROR
from krea_async.storage.manifest import Manifest, open_manifest
from krea_async.storage.names import file_stem
from krea_async.storage.part import Target
from krea_async.submission import NotSubmittedError, Stop
from krea_async.tasks import task_group

log = logging.getLogger(__name__)

Prompt = str | ImageRequest | Mapping[str, Any] | InvalidRequestError
"""A row of a prompt list; one that could not be read is its own error, and fails alone."""

Prompts = Iterable[Prompt] | AsyncIterable[Prompt]


UNSERVED_TO_STOP: Final = 16
"""Rows in a row that the service was not there for, after which the batch stops."""


@frozen(kw_only=True)
class BatchProgress:
    """A batch at one moment. in_flight: rows taken from the list that have not ended. elapsed_s: seconds."""

    in_flight: int
    saved: int
    failed: int
    skipped: int
    credits: float
    bytes: int
    rate_limited: int
    elapsed_s: float


class Batch(anyio.AsyncContextManagerMixin):
    """A batch being rendered: `async with` it and iterate over the results, or await it for the report alone.

    Leaving the block before the end stops it as `stop` does; an exception cancels it. A batch runs once.
    """

    def __init__(self, pipeline: Pipeline, prompts: Prompts, directory: Path, *, concurrency: int) -> None:
        self._pipeline = pipeline
        self._prompts = prompts
        self._directory = directory
        self._places = asyncio.Semaphore(concurrency)
        self._results: asyncio.Queue[GeneratedImage | None] = asyncio.Queue()
        self._tally = Tally()
        self._manifest: Manifest
        self._stop = Stop()
        self._feeding = anyio.CancelScope()
        self._fed = False
        self._in_flight = 0
        self._unserved = 0
        self._list_error: Exception | None = None
        self._calls_before: Mapping[str, int] = {}
        self._started_s: float | None = None
        self._ended_s: float | None = None
        self._final: BatchReport | None = None

    def __await__(self) -> Generator[Any, None, BatchReport]:
        return self._to_the_end().__await__()

    async def _to_the_end(self) -> BatchReport:
        async with self:
            async for _ in self:
                pass
        return self.report

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[Self]:
        if self._started_s is not None:
            raise RuntimeError("a batch runs once; call render() again for another one")
        with self._pipeline.lifetime.operation():
            self._started_s = _now()
            self._calls_before = self._pipeline.calls()
            try:
                async with open_manifest(self._directory) as self._manifest:
                    try:
                        async with task_group() as books:
                            books.start_soon(self._keep_books, self._manifest.write)
                            async with task_group() as rows:
                                rows.start_soon(self._feed, rows)
                                yield self
                                if self._in_flight or not self._fed:
                                    self.stop()
                            books.cancel_scope.cancel()
                    finally:
                        await self._keep_books(self._manifest.flush)
            finally:
                self._ended_s = _now()
                self._final = self.report

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

    def stop(self, reason: KreaError | None = None) -> None:
        """Submit nothing more. What was submitted is finished and saved; rows that still waited are skipped."""
        reason = reason or KreaError("the batch was stopped before this row was submitted", retryable=True)
        self._pipeline.submitter.stop(reason, self._stop)
        self._feeding.cancel()

    @property
    def progress(self) -> BatchProgress:
        """How far the batch is."""
        return BatchProgress(
            in_flight=self._in_flight,
            saved=self._tally.saved,
            failed=self._tally.failed,
            skipped=self._tally.skipped,
            credits=self._tally.credits,
            bytes=self._tally.bytes,
            rate_limited=self._calls()["rate_limited"],
            elapsed_s=self._elapsed_s,
        )

    @property
    def report(self) -> BatchReport:
        """The books, so far or, after the end, for good."""
        return self._final or self._tally.report(
            wall_s=self._elapsed_s, calls=self._calls(), stopped_by=self._pipeline.submitter.stopped_by(self._stop)
        )

    async def _feed(self, rows: TaskGroup) -> None:
        index = 0
        try:
            with self._feeding:
                async with aclosing(_as_async(self._prompts)) as prompts:
                    while True:
                        await self._places.acquire()
                        if self._pipeline.submitter.stopped_by(self._stop) is not None:
                            break
                        prompt = await anext(prompts)
                        self._in_flight += 1
                        rows.start_soon(self._row, index, prompt)
                        index += 1
        except StopAsyncIteration:
            pass
        except Exception as error:  # noqa: BLE001 - the caller's own iterable; raised to its reader at the end
            log.warning("the prompt list failed after %d rows: %r; they are finished", index, error)
            self._list_error = error
        self._fed = True
        self._end_if_done()

    async def _row(self, index: int, prompt: Prompt) -> None:
        image = await self._render(index, prompt)
        self._note_service(image)
        self._tally.add(image)
        self._manifest.add(image)
        self._results.put_nowait(image)
        self._in_flight -= 1
        if self._pipeline.submitter.stopped_by(self._stop) is not None:
            self._feeding.cancel()  # the list may be waiting for its next prompt
        self._end_if_done()

    async def _render(self, index: int, prompt: Prompt) -> GeneratedImage:
        request: ImageRequest | None = None
        job: Job | None = None
        try:
            request = ImageRequest.of(prompt)
            job = await self._pipeline.submit(request, stop=self._stop)
            target = Target(
                directory=self._directory, stem=file_stem(index, request), index=index if request.id else None
            )
            with job.given_up_if_cancelled():
                return await job.save_as(target, index=index)
        except NotSubmittedError as stopped:
            return GeneratedImage(index=index, request=request, status="skipped", error=stopped.reason)
        except KreaError as error:
            log.info("row %d failed: %s", index, error)
            if error.code == DISK_ERROR:
                self.stop(error)
            return GeneratedImage(
                index=index,
                request=request,
                status="failed",
                task_id=job.task_id if job is not None else None,
                credits=job.price_credits if job is not None and error.charged == "yes" else 0.0,
                error=error,
                timings=job.timings if job is not None else Timings(),
            )

    def _note_service(self, image: GeneratedImage) -> None:
        """Stop when row after row, each after all its tries, found nobody who answers: the rest would fail alike."""
        if not isinstance(image.error, ServiceError):
            self._unserved = 0
        elif image.status == "failed":
            self._unserved += 1
            if self._unserved >= UNSERVED_TO_STOP:
                self.stop(image.error)

    def _end_if_done(self) -> None:
        if self._fed and self._in_flight == 0:
            self._results.put_nowait(None)

    async def _keep_books(self, write: Callable[[], Awaitable[None]]) -> None:
        try:
            await write()
        except DownloadError as error:
            self.stop(error)

    def _calls(self) -> dict[str, int]:
        return {route: calls - self._calls_before.get(route, 0) for route, calls in self._pipeline.calls().items()}

    @property
    def _elapsed_s(self) -> float:
        if self._started_s is None:
            return 0.0
        return (_now() if self._ended_s is None else self._ended_s) - self._started_s


async def _as_async(prompts: Prompts) -> AsyncGenerator[Prompt]:
    if isinstance(prompts, AsyncIterable):
        async for prompt in prompts:
            yield prompt
    else:
        for prompt in prompts:
            yield prompt


def _now() -> float:
    return asyncio.get_running_loop().time()
