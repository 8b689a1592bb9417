"""One row's way: submitted or taken up where an earlier run left it, followed, saved, and told to the books."""

import logging
from functools import partial
from pathlib import PurePath
from typing import Final

from krea_async.books import Books, Entry
from krea_async.errors import BudgetExceededError, KreaError
from krea_async.gate import Gate
from krea_async.models import Task
from krea_async.pipeline import Job, Pipeline
from krea_async.results import GeneratedImage, ImageStatus, Timings
from krea_async.storage.names import file_stem
from krea_async.storage.part import Target
from krea_async.storage.replay import RowState
from krea_async.submission import NotSubmittedError, Stop
from krea_async.twins import Twins

log = logging.getLogger(__name__)

UNKNOWN_OUTCOME: Final = "unknown_outcome"
LEFT_TO_RESUME: Final = "left_to_resume"
"""Our own error codes for a row that may have been charged, and for one that a later run can go on with."""


class RowRunner:
    """Runs the rows of one batch."""

    def __init__(self, pipeline: Pipeline, books: Books, gate: Gate, stop: Stop, *, dedupe: bool) -> None:
        self._pipeline = pipeline
        self._books = books
        self._gate = gate
        self._stop = stop
        self._twins = Twins() if dedupe else None

    def waits_for_twin(self, entry: Entry) -> bool:
        """Whether another row makes, or has made, the picture of this one, so that it may cost nothing."""
        return self._twins is not None and not entry.is_paid and self._twins.is_being_made(entry.request)

    def ended(self, image: GeneratedImage) -> None:
        """A row has ended, now or in an earlier run: rows that show the same picture may be waiting for it."""
        if self._twins is not None and image.request is not None:
            self._twins.ended(image.request, None if image.error is not None else image.path)

    async def run(self, entry: Entry) -> GeneratedImage:
        """What came of the row. Never raises a KreaError; a cancelled row's result comes from `left`."""
        job: Job | None = None
        try:
            if self._twins is not None and not entry.is_paid:
                name = await self._twins.picture_of(entry.request)
                if name is not None and (image := await self._copied(entry, name)) is not None:
                    return image
            if not entry.is_paid and entry.reservation is None:
                await self._gate.admit(entry)
            job = await self._job(entry)
            with job.given_up_if_cancelled():
                task = await job.wait()
                self._books.completed(entry, task)
                self._gate.completed(entry, task)
                return await job.save_as(self._target(entry), index=entry.index)
        except NotSubmittedError as stopped:
            return self.skipped(entry, stopped.reason)
        except BudgetExceededError as error:
            return self.skipped(entry, error)
        except KreaError as error:
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
            return self._pipeline.resume(entry.task_id, entry.request, entry.task)
        if self._books.is_stale(entry):
            raise KreaError(
                "the row was sent in an earlier run and the answer was lost, too long ago to ask again under the same "
                "key: it may have been charged. To send it again all the same, retry what is unknown",
                code=UNKNOWN_OUTCOME,
                charged="unknown",
            )
        key = entry.key or next(self._pipeline.keys)
        return await self._pipeline.submit(
            entry.request,
            key=key,
            stop=self._stop,
            maybe_paid=entry.known is not None and entry.known.state is RowState.INTENT,
            before=partial(self._books.intend, entry, key),
            accepted=partial(self._accepted, entry),
        )

    async def _accepted(self, entry: Entry, task: Task, repeated: bool) -> None:
        self._gate.accepted(entry, task)
        await self._books.accepted(entry, task, repeated=repeated)

    def _target(self, entry: Entry) -> Target:
        stem = file_stem(entry.index, entry.request)
        if entry.saved is not None:
            stem = PurePath(entry.saved.files[0]).stem
        return Target(
            directory=self._books.directory,
            stem=stem,
            index=entry.index if entry.request.id else None,
            resumed=entry.resumed,
        )

    def _result(self, entry: Entry, status: ImageStatus, error: KreaError, job: Job | None) -> GeneratedImage:
        return GeneratedImage(
            index=entry.index,
            request=entry.request,
            status=status,
            task_id=entry.task_id,
            credits=job.price_credits if job is not None and error.charged == "yes" else 0.0,
            error=error,
            timings=job.timings if job is not None else Timings(),
        )
