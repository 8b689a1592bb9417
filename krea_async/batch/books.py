"""The books of one output directory: what each row has come to, on disk before the next step is taken.

The journal is the truth, and `manifest.jsonl` is what people and programs read of it.
"""

import os
import time
from pathlib import Path

from krea_async._version import __version__
from krea_async.batch.entry import Entry
from krea_async.batch.known import KnownRows
from krea_async.batch.noting import Noting
from krea_async.control.backlog import LINK_LIFETIME_S
from krea_async.errors import (
    DownloadError,
    ImageExpiredError,
    InvalidRequestError,
    KreaError,
    TaskFailedError,
    TaskNotFoundError,
)
from krea_async.models import Task
from krea_async.results import GeneratedImage, UnknownOutcome, error_code
from krea_async.storage.journal import Journal
from krea_async.storage.manifest import Manifest
from krea_async.storage.records import Accepted, Completed, Failed, Intent, Left, Row, RunBegun, RunEnded, Saved


class Books:
    """Open for one batch; `open_books` makes it."""

    def __init__(self, directory: Path, known: KnownRows, journal: Journal, manifest: Manifest, noting: Noting) -> None:
        self.directory = directory
        self.known = known
        self.journal = journal
        self._noting = noting
        self.manifest = manifest
        self.has_replaced = False
        """Whether a row that the manifest told of before has ended again."""
        self.replays = 0
        """Tasks that the gateway gave back under a key that it knew: without any, it may not know keys at all."""
        self.maybe_twice: list[UnknownOutcome] = []
        """Rows that became a task after an answer to them had been lost; once there are replays, only those whose keys
        may have been forgotten by then."""
        self._late: list[UnknownOutcome] = []

    def draw_seed(self, entry: Entry) -> None:
        """Give a row that is about to be submitted its seed, if that is to be ours. Raises JournalError."""
        if entry.noted is None and self._noting.draws(entry.request):
            self.row_of(entry)

    async def intend(self, entry: Entry, key: str) -> None:
        """The row is about to be sent under `key`. Raises JournalError if that cannot be kept: then do not send."""
        now_s = time.time()
        self.journal.note(Intent(n=self.row_of(entry).n, key=key, at_s=now_s))
        await self.journal.durable(self.journal.policy.gather_s)
        entry.sent = True
        entry.sent_s = now_s if entry.sent_s is None else entry.sent_s

    async def accepted(self, entry: Entry, task: Task, *, repeated: bool) -> None:
        """The row has become a task. repeated: an answer to it had been lost. Raises JournalError."""
        entry.task_id, entry.accepted_s = task.id, time.time()
        self.replays += task.replayed
        if repeated and not task.replayed:
            self.maybe_twice.append(_maybe_twice(entry, task))
            self._late += [self.maybe_twice[-1]] if self.known.is_old(entry) else []
        if self.replays:
            self.maybe_twice[:] = self._late
        self.journal.note(
            Accepted(
                n=self.row_of(entry).n,
                task_id=task.id,
                credits=task.credits_reserved,
                created_s=task.created,
                replayed=task.replayed if repeated else None,
                at_s=entry.accepted_s,
            )
        )
        await self.journal.durable(self.journal.policy.follow_s)

    def completed(self, entry: Entry, task: Task) -> None:
        """The picture is made. A task may be completed as soon as it is accepted, so its links may die a day later."""
        if entry.saved is not None:
            return
        entry.expires_s = entry.accepted_s + LINK_LIFETIME_S
        self.journal.note_lazily(
            Completed(
                n=self.row_of(entry).n,
                links=task.results,
                expires_s=entry.expires_s,
                credits=task.credits_used,
                at_s=time.time(),
            )
        )

    def ended(self, entry: Entry, image: GeneratedImage) -> None:
        """The row has ended, or this run gives it up. Raises JournalError if the journal is broken."""
        self.has_replaced = self.has_replaced or self.known.was_settled(entry)
        if image.status == "saved":
            self._note_saved(entry, image)
        elif image.error is not None and entry.is_paid:
            self._note_error(entry, image, image.error)
        if image.status == "saved" or (image.status == "failed" and is_verdict(image.error, entry)):
            self.manifest.add(image)

    def noted(self, image: GeneratedImage) -> None:
        """A row that ended before it began: invalid, or settled by an earlier run, which has told the manifest."""
        if image.request is None:
            self.manifest.add(image)
            self.has_replaced = self.has_replaced or self.known.history.runs > 0

    def row_of(self, entry: Entry) -> Row:
        """The row's line in the journal; it gets one when there is something to say of it. Raises JournalError."""
        row = entry.noted
        if row is None:
            row = self._noting.note(entry.request, index=entry.index)
            entry.take(row)
        return row

    def _note_saved(self, entry: Entry, image: GeneratedImage) -> None:
        self.journal.note_lazily(
            Saved(
                n=self.row_of(entry).n,
                credits=entry.saved.credits if entry.saved is not None else image.credits,
                task_id=image.task_id,
                files=[path.name for path in image.paths],
                bytes=image.bytes,
                sha256=image.sha256 or "",
                width=image.width or 0,
                height=image.height or 0,
                seconds=image.timings.steps_s,
                at_s=time.time(),
            )
        )

    def _note_error(self, entry: Entry, image: GeneratedImage, error: KreaError) -> None:
        if is_verdict(error, entry):
            self.journal.note_lazily(
                Failed(
                    n=self.row_of(entry).n,
                    credits=_credits_of(entry, image, error),
                    charged=error.charged,
                    task_id=image.task_id,
                    error=type(error).__name__,
                    code=error.code,
                    message=error.message,
                    retryable=error.retryable,
                    at_s=time.time(),
                )
            )
        else:
            self.journal.note_lazily(
                Left(
                    n=self.row_of(entry).n,
                    charged=error.charged,
                    error=type(error).__name__,
                    code=error.code,
                    message=error.message,
                    at_s=time.time(),
                )
            )

    def run_begun(self, balance: float | None) -> None:
        """A run begins, with so many credits left in the account."""
        self.journal.note(RunBegun(pid=os.getpid(), version=__version__, balance=balance, at_s=time.time()))

    def run_ended(self, balance: float | None, stopped_by: KreaError | None) -> None:
        """The run ends in order."""
        code = None if stopped_by is None else error_code(stopped_by)
        self.journal.note(RunEnded(balance=balance, stopped_by=code, at_s=time.time()))


def is_verdict(error: KreaError | None, entry: Entry) -> bool:
    """Whether `error` ends a row for good; after any other, a later run goes on with it."""
    if isinstance(error, ImageExpiredError) and time.time() < (entry.expires_s or 0.0):
        return False  # the host refuses a link that ought to live: it may think better of it, and the picture is paid
    if isinstance(error, InvalidRequestError | TaskFailedError | ImageExpiredError | TaskNotFoundError):
        return True
    return isinstance(error, DownloadError) and not error.retryable and error.code == "picture_too_large"


def _credits_of(entry: Entry, image: GeneratedImage, error: KreaError) -> float:
    """What a row without a picture has cost, or may have."""
    if entry.saved is not None:
        return entry.saved.credits
    return image.credits if error.charged == "yes" and image.credits else entry.request.credits


def _maybe_twice(entry: Entry, task: Task) -> UnknownOutcome:
    return UnknownOutcome(
        index=entry.index,
        prompt=entry.request.prompt,
        task_id=task.id,
        charged="unknown",
        reason="an answer was lost, the row was sent again under its key, and the gateway did not say that it knew it",
    )
