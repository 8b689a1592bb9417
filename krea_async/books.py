"""The books of one output directory: what each row has come to, on disk before the next step is taken.

The journal is the truth, and `manifest.jsonl` is what people and programs read of it. A row that earlier runs knew is
found again by its id or its content, so that it is taken up where it was left, and never paid for twice.
"""

import logging
import math
import os
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from attrs import define

from krea_async import errors
from krea_async._version import __version__
from krea_async.batch_policy import BatchPolicy
from krea_async.control.backlog import LINK_LIFETIME_S
from krea_async.control.budget import Budget, Reservation
from krea_async.errors import (
    DownloadError,
    ImageExpiredError,
    InvalidRequestError,
    JournalError,
    KreaError,
    TaskFailedError,
    TaskNotFoundError,
)
from krea_async.models import ImageRequest, Task
from krea_async.results import GeneratedImage, Timings, UnknownOutcome, error_code
from krea_async.storage.disk import disk_errors, in_thread, make_directory
from krea_async.storage.history import History, OpenRow
from krea_async.storage.journal import Journal, open_journal
from krea_async.storage.manifest import Manifest, open_manifest, rebuild_manifest
from krea_async.storage.names import file_stem
from krea_async.storage.part import remove_parts, sha256_of
from krea_async.storage.records import Accepted, Completed, Failed, Intent, Left, RunBegun, RunEnded, Saved
from krea_async.storage.replay import RowState

log = logging.getLogger(__name__)

_ROWS_A_WRITE: Final = 1000


@define(eq=False)
class Entry:
    """A row of a batch. n: its number in the journal, None until it is noted there. index: in the list.

    key: the idempotency key that it is, or was, sent under. known: what an earlier run left of it. saved: what an
    earlier run saved of it, if that is not there any more. reservation: what the budget has set aside for it.
    sent: whether it may have reached the gateway.
    """

    index: int
    request: ImageRequest
    n: int | None = None
    key: str | None = None
    known: OpenRow | None = None
    saved: Saved | None = None
    reservation: Reservation | None = None
    is_canary: bool = False
    sent: bool = False
    task_id: str | None = None
    task: Task | None = None
    accepted_s: float = 0.0
    expires_s: float | None = None

    @property
    def is_fetchable(self) -> bool:
        """Whether the picture is made and only waits to be fetched."""
        if self.task is not None:
            return self.task.status == "completed"
        return self.known is not None and self.known.state is RowState.COMPLETED

    @property
    def is_paid(self) -> bool:
        """Whether it may have been paid for already, so that going on costs nothing more."""
        return self.sent or self.task_id is not None

    @property
    def resumed(self) -> bool:
        """Whether an earlier run had begun with it."""
        return self.known is not None or self.saved is not None


class Books:
    """Open for one batch; `open_books` makes it."""

    def __init__(
        self, directory: Path, journal: Journal, history: History, manifest: Manifest, policy: BatchPolicy
    ) -> None:
        self.directory = directory
        self.journal = journal
        self.manifest = manifest
        self.history = history
        self._policy = policy
        self.has_replaced = False
        """Whether a row that the manifest told of before has ended again."""
        self.replays = 0
        """Tasks that the gateway gave back under a key that it knew: without any, it may not know keys at all."""
        self.maybe_twice: list[UnknownOutcome] = []
        """Rows that became a task after an answer to them had been lost; kept while there are no replays."""
        self._under_way = {row.n: row for row in history.open_rows()}

    # --- what is known ------------------------------------------------------------------------------------------------

    def under_way(self) -> list[Entry]:
        """The rows that an earlier run had sent and not ended."""
        return [self._entry(n, row.index, row.request) for n in self._under_way for row in (self.history.row(n),)]

    def find(self, index: int, request: ImageRequest) -> Entry | None:
        """The row that `request` is. None if it is among `under_way`, where it is taken care of."""
        n = self.history.match(request)
        if n is None:
            return Entry(index, request)
        if self.history.changed(n, request):
            log.warning("row %d: %r was another request in an earlier run; it is not made again", index, request.id)
        if n in self._under_way:
            return None
        return self._entry(n, index, request)

    def all_rows(self) -> Iterator[Entry]:
        """Every row that the journal knows and that is not among `under_way`."""
        for n in range(self.history.rows):
            if n not in self._under_way:
                row = self.history.row(n)
                yield self._entry(n, row.index, row.request)

    def _entry(self, n: int, index: int, request: ImageRequest) -> Entry:
        known = self._under_way.get(n) or self.history.kept_key(n)
        entry = Entry(index, request, n=n, known=known)
        if known is not None:
            recorded = self.history.row(n).request  # the same key must come with the same body
            entry.request, entry.key, entry.task_id = recorded, known.key, known.task_id
            entry.sent = known.state is not RowState.PLANNED
            if known.accepted is not None:
                entry.accepted_s = known.accepted.at_s
                entry.expires_s = known.expires_s
        return entry

    async def settled(self, entry: Entry) -> GeneratedImage | None:
        """What became of the row in an earlier run, if that is the end of it. Else it is to be taken up."""
        if entry.n is None or entry.n >= self.history.rows:
            return None
        state = self.history.state(entry.n)
        if state is RowState.SAVED:
            saved = self.history.saved(entry.n)
            if await self._is_there(saved):
                return self._already(entry, saved)
            entry.saved, entry.task_id = saved, saved.task_id
        elif state is RowState.FAILED:
            failed = self.history.failed(entry.n)
            if not self._is_retried(failed):
                return _failed_before(entry, failed)
        return None

    def is_stale(self, entry: Entry) -> bool:
        """Whether the gateway may have forgotten the key under which this row was sent and not answered."""
        known = entry.known
        if known is None or known.state is not RowState.INTENT or self._policy.retry_unknown:
            return False
        return time.time() - (known.intended_s or 0.0) > self._policy.journal.keys_live_s

    async def _is_there(self, saved: Saved) -> bool:
        path = self.directory / saved.files[0]
        try:
            if path.stat().st_size != saved.bytes:
                return False
            if self._policy.check_sha256:
                return await in_thread(lambda: sha256_of(path)) == saved.sha256
        except OSError:
            return False
        return True

    def _already(self, entry: Entry, saved: Saved) -> GeneratedImage:
        paths = tuple(self.directory / name for name in saved.files)
        return GeneratedImage(
            index=entry.index,
            request=entry.request,
            status="skipped",
            task_id=saved.task_id,
            path=paths[0],
            paths=paths,
            bytes=saved.bytes,
            sha256=saved.sha256,
            width=saved.width,
            height=saved.height,
        )

    def _is_retried(self, failed: Failed) -> bool:
        if not self._policy.retry_failed:
            return False
        codes = self._policy.retry_codes
        return failed.retryable if codes is None else (failed.code or failed.error) in codes

    def budget(self, max_credits: float | None, max_usd: float | None) -> Budget:
        """The caps of this directory, with what earlier runs have spent, or may have."""
        spent = math.fsum((self.history.credits_settled, self.history.credits_unknown))
        return Budget(max_credits, max_usd, settled_credits=round(spent, 6))

    # --- what happens -------------------------------------------------------------------------------------------------

    async def intend(self, entry: Entry, key: str) -> None:
        """The row is about to be sent under `key`. Raises JournalError if that cannot be kept: then do not send."""
        self.journal.note(Intent(n=self._number(entry), key=key, at_s=time.time()))
        await self.journal.durable()
        entry.sent = True

    async def accepted(self, entry: Entry, task: Task, *, repeated: bool) -> None:
        """The row has become a task. repeated: an answer to it had been lost. Raises JournalError."""
        entry.task_id, entry.accepted_s = task.id, time.time()
        self.replays += task.replayed
        if self.replays:
            self.maybe_twice.clear()
        elif repeated:
            self.maybe_twice.append(_maybe_twice(entry, task))
        self.journal.note(
            Accepted(
                n=self._number(entry),
                task_id=task.id,
                credits=task.credits_reserved,
                created_s=task.created,
                replayed=task.replayed if repeated else None,
                at_s=entry.accepted_s,
            )
        )
        try:
            await self.journal.durable()
        except JournalError as error:
            error.task_id, error.charged = task.id, "unknown"
            raise

    def completed(self, entry: Entry, task: Task) -> None:
        """The picture is made. A task may be completed as soon as it is accepted, so its links may die a day later."""
        if entry.saved is not None:
            return
        entry.expires_s = entry.accepted_s + LINK_LIFETIME_S
        self.journal.note(
            Completed(
                n=self._number(entry),
                links=task.results,
                expires_s=entry.expires_s,
                credits=task.credits_used,
                at_s=time.time(),
            )
        )

    def ended(self, entry: Entry, image: GeneratedImage) -> None:
        """The row has ended, or this run gives it up. Raises JournalError if the journal is broken."""
        if entry.n is not None and entry.n < self.history.rows:
            self.has_replaced = self.has_replaced or self.history.state(entry.n) >= RowState.SAVED
        if image.status == "saved":
            self._note_saved(entry, image)
        elif image.error is not None and entry.is_paid:
            self._note_error(entry, image, image.error)
        if image.status == "saved" or (image.status == "failed" and is_verdict(image.error)):
            self.manifest.add(image)

    def noted(self, image: GeneratedImage) -> None:
        """A row that ended before it began: invalid, or settled by an earlier run, which has told the manifest."""
        if image.request is None:
            self.manifest.add(image)

    def _number(self, entry: Entry) -> int:
        """The row's number in the journal; it gets one when there is something to say of it."""
        if entry.n is None:
            entry.n = self.journal.plan(entry.request, index=entry.index)
        return entry.n

    def _note_saved(self, entry: Entry, image: GeneratedImage) -> None:
        self.journal.note(
            Saved(
                n=self._number(entry),
                credits=entry.saved.credits if entry.saved is not None else image.credits,
                task_id=image.task_id,
                files=[path.name for path in image.paths],
                bytes=image.bytes,
                sha256=image.sha256 or "",
                width=image.width or 0,
                height=image.height or 0,
                seconds=(image.timings.queued_s, image.timings.generating_s, image.timings.downloading_s),
                at_s=time.time(),
            )
        )

    def _note_error(self, entry: Entry, image: GeneratedImage, error: KreaError) -> None:
        if is_verdict(error):
            self.journal.note(
                Failed(
                    n=self._number(entry),
                    credits=image.credits if error.charged == "yes" else entry.request.credits,
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
            self.journal.note(
                Left(
                    n=self._number(entry),
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


@asynccontextmanager
async def open_books(directory: Path, policy: BatchPolicy) -> AsyncIterator[Books]:
    """The books of `directory`, which is made if need be. Raises JournalError, and DownloadError for its disk."""
    await make_directory(directory)
    async with open_journal(directory, policy.journal, skip_damaged=policy.skip_damaged) as (journal, history):
        left = [history.row(row.n) for row in history.open_rows()]
        stems = {file_stem(row.index, row.request) for row in left}
        with disk_errors(directory, charged="no"):
            await in_thread(lambda: remove_parts(directory, stems))
            if (
                history.runs and history.last_end is None
            ):  # its last run did not live to write the manifest's last lines
                await in_thread(lambda: rebuild_manifest(directory, history))
        async with open_manifest(directory) as manifest:
            books = Books(directory, journal, history, manifest, policy)
            yield books
        if books.has_replaced:
            with disk_errors(directory), History(journal.path) as now:
                await in_thread(lambda: rebuild_manifest(directory, now))


async def plan(directory: Path, requests: Iterable[ImageRequest | InvalidRequestError], policy: BatchPolicy) -> None:
    """Note every row of a list in the journal before the first is sent, so that a run can be resumed without the list.

    Rows that it knows already are left as they are. Raises JournalError, and DownloadError for the directory.
    """
    await make_directory(directory)
    async with open_journal(directory, policy.journal, skip_damaged=policy.skip_damaged) as (journal, history):
        for index, request in enumerate(requests):
            if isinstance(request, ImageRequest) and history.match(request) is None:
                journal.plan(request, index=index)
            if index % _ROWS_A_WRITE == _ROWS_A_WRITE - 1:
                await journal.flush()


def is_verdict(error: KreaError | None) -> bool:
    """Whether `error` ends a row for good; after any other, a later run goes on with it."""
    if isinstance(error, InvalidRequestError | TaskFailedError | ImageExpiredError | TaskNotFoundError):
        return True
    return isinstance(error, DownloadError) and not error.retryable and error.code == "picture_too_large"


def _maybe_twice(entry: Entry, task: Task) -> UnknownOutcome:
    return UnknownOutcome(
        index=entry.index,
        prompt=entry.request.prompt,
        task_id=task.id,
        charged="unknown",
        reason="an answer was lost, the row was sent again under its key, and the gateway did not say that it knew it",
    )


def _failed_before(entry: Entry, failed: Failed) -> GeneratedImage:
    kind = getattr(errors, failed.error, KreaError)
    error = kind(
        failed.message,
        code=failed.code,
        task_id=failed.task_id,
        retryable=failed.retryable,
        charged=failed.charged,
    )
    return GeneratedImage(
        index=entry.index,
        request=entry.request,
        status="failed",
        task_id=failed.task_id,
        error=error,
        timings=Timings(),
    )
