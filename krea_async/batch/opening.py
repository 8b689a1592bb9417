"""Opening a directory for a batch: locked, what a killed run left half-made removed, and the manifest made whole."""

import logging
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path, PurePath
from random import Random
from typing import Final

from krea_async.batch.books import Books
from krea_async.batch.known import KnownRows
from krea_async.batch.noting import Noting
from krea_async.batch.numbering import Numbering
from krea_async.batch.policy import BatchPolicy
from krea_async.errors import InvalidRequestError
from krea_async.models import ImageRequest, IndexedRequest
from krea_async.storage.disk import disk_errors, in_thread, make_directory
from krea_async.storage.history import History
from krea_async.storage.journal import Journal, open_journal
from krea_async.storage.manifest import MANIFEST_NAME, open_manifest, rebuild_manifest
from krea_async.storage.names import file_stem
from krea_async.storage.part import remove_parts
from krea_async.storage.replay import RowState

log = logging.getLogger(__name__)

_ROWS_A_WRITE: Final = 1000
_LINES_NAMED: Final = 20


@asynccontextmanager
async def open_books(directory: Path, policy: BatchPolicy, rng: Random) -> AsyncIterator[Books]:
    """The books of `directory`, which is made if need be. Raises JournalError, and DownloadError for its disk."""
    await make_directory(directory)
    async with open_journal(directory, policy.journal, skip_damaged=policy.skip_damaged) as (journal, history):
        _warn_of_damage(journal, history)
        with disk_errors(directory, charged="no"):
            await in_thread(lambda: remove_parts(directory, _stems(history)))
            is_whole = history.last_end is not None and (directory / MANIFEST_NAME).exists()
            if history.runs and not is_whole:  # the last run was killed, and had lines to write
                await in_thread(lambda: rebuild_manifest(directory, history))
        async with open_manifest(directory) as manifest:
            known = KnownRows(directory, history, policy)
            books = Books(directory, known, journal, manifest, Noting(journal, policy, rng))
            yield books
        if books.has_replaced:
            with disk_errors(directory), History(journal.path, skip_damaged=policy.skip_damaged) as now:
                await in_thread(lambda: rebuild_manifest(directory, now))


def _stems(history: History) -> Iterator[str]:
    """Of all pictures that may have been coming in: of rows under way, and of saved ones that were fetched again."""
    for left in history.open_rows():
        if not history.is_lost(left.n):
            row = history.row(left.n)
            yield file_stem(row.index, row.request, row.stem)
    for n in range(history.rows):
        if history.state(n) is RowState.SAVED:
            yield from (PurePath(name).stem for name in history.saved(n).files)


def _warn_of_damage(journal: Journal, history: History) -> None:
    if history.damaged:
        lines = ", ".join(f"line {number}" for number in history.damaged[:_LINES_NAMED])
        log.warning(
            "%s: damaged lines are left out, and what they said may be paid for twice: %s%s",
            journal.path,
            lines,
            ", …" if len(history.damaged) > _LINES_NAMED else "",
        )
        for row in history.open_rows():
            if history.is_lost(row.n):
                log.warning(
                    "row %d was sent, and what it asked for is lost: task %s may be paid for; session.attach gets it",
                    row.n,
                    row.task_id or f"of the key {row.key}",
                )


async def plan(
    directory: Path,
    requests: Iterable[ImageRequest | IndexedRequest | InvalidRequestError],
    policy: BatchPolicy,
    rng: Random | None = None,
) -> None:
    """Note every row of a list in the journal before the first is sent, so that a run can be resumed without the list.

    Rows that it knows already are left as they are. rng: for seeds that are drawn. Raises JournalError, and
    DownloadError for the directory.
    """
    await make_directory(directory)
    async with open_journal(directory, policy.journal, skip_damaged=policy.skip_damaged) as (journal, history):
        noting, numbering = Noting(journal, policy, rng or Random()), Numbering()
        for count, row in enumerate(requests, 1):
            index, request = numbering.take(row)
            if isinstance(request, ImageRequest) and history.match(request) is None:
                noting.note(request, index=index)
            if count % _ROWS_A_WRITE == 0:
                await journal.flush()
