"""One row's way: submitted or taken up where an earlier run left it, followed, saved, and told to the books."""

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from pathlib import PurePath
from typing import Final

from attrs import evolve

from krea_async.batch.books import Books
from krea_async.batch.entry import Entry
from krea_async.batch.gate import Gate
from krea_async.batch.lost import Search
from krea_async.batch.twins import Twins
from krea_async.errors import ImageExpiredError, JournalError, KreaError, TaskNotFoundError
from krea_async.intake import resumed, submitted
from krea_async.job import Job, price_of_another
from krea_async.models import Task
from krea_async.pipeline import Pipeline
from krea_async.results import GeneratedImage, ImageStatus, Timings
from krea_async.storage.names import file_stem
from krea_async.storage.part import Target
from krea_async.waiting import NotSubmittedError, Stop

log = logging.getLogger(__name__)

UNKNOWN_OUTCOME: Final = "unknown_outcome"
LEFT_TO_RESUME: Final = "left_to_resume"
"""Our own error codes for a row that may have been charged, and for one that a later run can go on with."""


class RowRunner:
    """Runs the rows of one batch. `leaves` is called with each row that is about to be sent."""

    def __init__(
        self,
        pipeline: Pipeline,
        books: Books,
        gate: Gate,
        stop: Stop,
        leaves: Callable[[Entry], None],
        *,
        dedupe: bool,
    ) -> None:
        self._pipeline = pipeline
        self._leaves = leaves
        self._books = books
        self._gate = gate
        self._stop = stop
        self._twins = Twins(books.known.file_like) if dedupe else None

    def is_maker(self, entry: Entry) -> bool:
        """Whether the row is to make its picture. Else another row makes it, or has, so that it may cost nothing."""
        return self._twins is None or self._twins.is_maker(entry)

    def ended(self, entry: Entry, image: GeneratedImage) -> None:
        """A row has ended: rows that show the same picture may be waiting for it."""
        if self._twins is not None:
            self._twins.ended(entry, None if image.error is not None else image.path)

    async def run(self, entry: Entry) -> GeneratedImage:
        """What came of the row. Never raises a KreaError; a cancelled row's result comes from `left`."""
        job: Job | None = None
        try:
            if entry.is_copy or not entry.is_paid:
                name = await self._other_picture(entry)
                if name is not None and (image := await self._copied(entry, name)) is not None:
                    return image
            if not entry.is_paid and entry.reservation is None:
                await self._admit(entry)
            job = await self._job(entry)
            task = await job.wait()
            self._books.completed(entry, task)
            self._gate.completed(entry, task)
            image = await job.save_as(self._target(entry), index=entry.index)
            return image if entry.saved is None else evolve(image, credits=0.0)
        except asyncio.CancelledError:
            if job is not None:
                job.give_up(is_noted=True)
            raise
        except NotSubmittedError as stopped:
            return self.skipped(entry, stopped.reason)
        except KreaError as problem:
            error = _gone(entry, problem) if isinstance(problem, TaskNotFoundError) and entry.was_made else problem
            if isinstance(error, JournalError) and entry.task_id is not None:  # the journal does not know whose it is
                error.task_id, error.charged = entry.task_id, "unknown"
            log.info("row %d failed: %s", entry.index, error)
            return self._result(entry, "failed", error, job)

    def skipped(self, entry: Entry, reason: KreaError) -> GeneratedImage:
        """The result of a row that was not sent."""
        return self._result(entry, "skipped", reason, None)

    def left(self, entry: Entry) -> GeneratedImage:
        """The result of a row that is given up half-way."""
        error = KreaError(
            "the run was stopped before this row had ended; a later run takes it up where it is",
            code=LEFT_TO_RESUME,
            task_id=entry.task_id,
            retryable=True,
            charged="unknown" if entry.sent else "no",
        )
        return self._result(entry, "skipped", error, None)

    async def _other_picture(self, entry: Entry) -> str | None:
        return None if self._twins is None else await self._twins.picture_of(entry)

    async def _admit(self, entry: Entry) -> None:
        try:
            await self._gate.admit(entry)
        except KreaError as error:
            self._pipeline.submitter.stop(error, self._stop)
            raise NotSubmittedError(error) from error

    async def _copied(self, entry: Entry, name: str) -> GeneratedImage | None:
        """The picture of a row that is equal to this one, under this one's name. None if it is not there any more."""
        picture = await self._pipeline.downloads.copy(self._books.directory / name, self._target(entry))
        if picture is None:
            return None
        return GeneratedImage(
            index=entry.index,
            request=entry.request,
            status="saved",
            path=picture.path,
            paths=(picture.path,),
            bytes=picture.bytes,
            sha256=picture.sha256,
            width=picture.width,
            height=picture.height,
        )

    async def _job(self, entry: Entry) -> Job:
        if entry.task_id is not None:
            return resumed(self._pipeline, entry.task_id, entry.request, entry.task, index=entry.index)
        if entry.saved is not None:
            raise _gone(entry, None)
        if entry.lost is not None or self._books.known.is_stale(entry):
            lost = entry.lost or Search(gap="it was not searched").words(self._books.known.lost_row(entry))
            raise KreaError(lost, code=UNKNOWN_OUTCOME, charged="unknown")
        self._books.draw_seed(entry)
        key = entry.key or next(self._pipeline.keys)
        return await submitted(
            self._pipeline,
            entry.request,
            key=key,
            stop=self._stop,
            maybe_paid=entry.sent,
            before=partial(self._intend, entry, key),
            accepted=partial(self._accepted, entry),
            index=entry.index,
        )

    async def _intend(self, entry: Entry, key: str) -> None:
        self._leaves(entry)
        await self._books.intend(entry, key)

    async def _accepted(self, entry: Entry, task: Task, repeated: bool) -> None:
        self._gate.accepted(entry, task)
        await self._books.accepted(entry, task, repeated=repeated)

    def _target(self, entry: Entry) -> Target:
        row = self._books.row_of(entry)
        stem = file_stem(row.index, row.request, row.stem)
        if entry.saved is not None:
            stem = PurePath(entry.saved.files[0]).stem
        return Target(
            directory=self._books.directory,
            stem=stem,
            index=row.index if row.request.id or row.stem else None,
            resumed=entry.resumed,
            must_exist=True,
            replaces=None if entry.saved is None else entry.saved.files[0],
        )

    def _result(self, entry: Entry, status: ImageStatus, error: KreaError, job: Job | None) -> GeneratedImage:
        return GeneratedImage(
            index=entry.index,
            request=entry.request,
            status=status,
            task_id=entry.task_id,
            credits=job.price_credits if job is not None and error.charged == "yes" and entry.saved is None else 0.0,
            error=error,
            timings=job.timings if job is not None else Timings(),
        )


def _gone(entry: Entry, error: TaskNotFoundError | None) -> ImageExpiredError:
    """The picture was made, and nobody has it any more."""
    why = "its task is not known" if error is None else error.message
    return ImageExpiredError(
        f"the picture is gone: {why}{price_of_another(entry.request)}",
        status=None if error is None else error.status,
        request_id=None if error is None else error.request_id,
        task_id=entry.task_id,
    )
