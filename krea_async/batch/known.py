"""What earlier runs in the directory have made of its rows, and so what is left to do with each.

A row is found again by its id or its content, so that it is taken up where it was left, and never paid for twice.
"""

import logging
import math
import time
from collections.abc import Iterator
from pathlib import Path

from krea_async import errors
from krea_async.batch.entry import Entry
from krea_async.batch.lost import LostRow
from krea_async.batch.policy import BatchPolicy
from krea_async.control.budget import Budget
from krea_async.errors import KreaError
from krea_async.models import ImageRequest
from krea_async.results import GeneratedImage
from krea_async.storage.disk import in_thread
from krea_async.storage.history import History
from krea_async.storage.part import sha256_of
from krea_async.storage.records import Failed, Saved
from krea_async.storage.replay import RowState

log = logging.getLogger(__name__)


class KnownRows:
    """The rows that the journal knew when the batch began."""

    def __init__(self, directory: Path, history: History, policy: BatchPolicy) -> None:
        self.history = history
        self._directory = directory
        self._policy = policy
        self._has_warned = False
        self._under_way = {row.n: row for row in history.open_rows() if not history.is_lost(row.n)}

    def under_way(self) -> list[Entry]:
        """The rows that an earlier run had sent and not ended."""
        return [self._entry(n, row.index, row.request) for n in self._under_way for row in (self.history.row(n),)]

    def find(self, index: int, request: ImageRequest) -> Entry | None:
        """The row that `request` is. None if it is among `under_way`, where it is taken care of."""
        n = self.history.match(request)
        if n is None:
            return Entry(index, request)
        if self.history.changed(n, request):
            self._tell_changed(index, request)
        if n in self._under_way:
            return None
        return self._entry(n, index, request)

    def _tell_changed(self, index: int, request: ImageRequest) -> None:
        """A list that changed may have thousands of such rows: the first one is warned of, the others are noted."""
        words = "row %d: %r was another request in an earlier run, which counts; a new id makes another picture%s"
        if self._has_warned:
            log.info(words, index, request.id, "")
        else:
            log.warning(words, index, request.id, " (others like it are logged as INFO)")
        self._has_warned = True

    @property
    def settled_rows(self) -> int:
        """How many `all_rows` are."""
        return self.history.rows - self.history.lost_rows - len(self._under_way)

    def all_rows(self) -> Iterator[Entry]:
        """Every row that the journal knows and that is not among `under_way`."""
        for n in range(self.history.rows):
            if n not in self._under_way and not self.history.is_lost(n):
                row = self.history.row(n)
                yield self._entry(n, row.index, row.request)

    def _entry(self, n: int, index: int, request: ImageRequest) -> Entry:
        known = self._under_way.get(n) or self.history.kept_key(n)
        entry = Entry(index, request, n=n, known=known)
        if known is not None:
            entry.take(self.history.row(n))
            entry.key, entry.task_id = known.key, known.task_id
            entry.sent = known.state is not RowState.PLANNED
            entry.sent_s = (known.intended_s or 0.0) if entry.sent else None
            if known.accepted is not None:
                entry.accepted_s = known.accepted.at_s
                entry.expires_s = known.expires_s
        return entry

    def was_settled(self, entry: Entry) -> bool:
        """Whether an earlier run had brought the row to its end."""
        if entry.n is None or entry.n >= self.history.rows:
            return False
        return self.history.state(entry.n) >= RowState.SAVED

    async def settled(self, entry: Entry) -> GeneratedImage | None:
        """What became of the row in an earlier run, if that is the end of it. Else it is to be taken up."""
        if entry.n is None or entry.n >= self.history.rows:
            return None
        state = self.history.state(entry.n)
        if self.history.has_drawn and not entry.request.seed and (row := self.history.row(entry.n)).drawn:
            entry.take(row)
        if state is RowState.SAVED:
            saved = self.history.saved(entry.n)
            if await self._is_there(saved):
                return self._already(entry, saved)
            entry.saved, entry.task_id = saved, saved.task_id
        elif state is RowState.FAILED:
            failed = self.history.failed(entry.n)
            if not self._is_retried(failed):
                return _failed_before(entry, failed)
        entry.take(self.history.row(entry.n))
        if entry.is_copy:
            entry.task_id = self._task_like(entry.request)
        return None

    def file_like(self, request: ImageRequest) -> str | None:
        """The file of a row of an earlier run that shows the same picture, if it is there."""
        rows = (self.history.saved(n) for n in self.history.saved_like(request))
        return next((saved.files[0] for saved in rows if self._has_its_size(saved)), None)

    def _task_like(self, request: ImageRequest) -> str | None:
        """The task that made the picture of a row that is a copy."""
        rows = (self.history.saved(n) for n in self.history.saved_like(request))
        return next((saved.task_id for saved in rows if saved.task_id is not None), None)

    def is_stale(self, entry: Entry) -> bool:
        """Whether the gateway may have forgotten the key under which this row was sent and not answered."""
        known = entry.known
        if known is None or not entry.sent or entry.task_id is not None or self._policy.retry_unknown:
            return False
        return self.is_old(entry)

    def is_old(self, entry: Entry) -> bool:
        """Whether the gateway may have forgotten the key by now, since the row was first sent under it."""
        return entry.sent_s is not None and time.time() - entry.sent_s > self._policy.journal.keys_live_s

    def lost_row(self, entry: Entry) -> LostRow:
        """A stale row, with the time in which it may have been sent: under its key again as long as that was known."""
        known = entry.known
        sent_s = (known and known.intended_s) or 0.0
        left_s = known.left.at_s if known is not None and known.left is not None else 0.0
        until_s = max(sent_s + self._policy.journal.keys_live_s, left_s)
        return LostRow(n=entry.n or 0, request=entry.request, sent_s=sent_s, until_s=until_s)

    async def _is_there(self, saved: Saved) -> bool:
        if not self._has_its_size(saved):
            return False
        if not self._policy.check_sha256:
            return True
        try:
            return await in_thread(lambda: sha256_of(self._directory / saved.files[0])) == saved.sha256
        except OSError:
            return False

    def _has_its_size(self, saved: Saved) -> bool:
        try:
            return (self._directory / saved.files[0]).stat().st_size == saved.bytes
        except OSError:
            return False

    def _already(self, entry: Entry, saved: Saved) -> GeneratedImage:
        paths = tuple(self._directory / name for name in saved.files)
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
    )
