"""Where a batch's rows come from: first what earlier runs left under way, then the list, row by row."""

import logging
from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from functools import partial
from operator import length_hint

from krea_async.batch.books import Books
from krea_async.batch.entry import Entry
from krea_async.batch.lost import journalled, search
from krea_async.batch.numbering import Numbering, Prompt
from krea_async.control.backlog import earliest_deadline_first
from krea_async.errors import InvalidRequestError, KreaError
from krea_async.gateway.client import MAX_BATCH_IDS
from krea_async.gateway.retrying import retrying
from krea_async.models import ImageRequest, Task
from krea_async.pipeline import Pipeline
from krea_async.results import GeneratedImage
from krea_async.storage.disk import in_thread

log = logging.getLogger(__name__)

Prompts = Iterable[Prompt] | AsyncIterable[Prompt]


async def left_under_way(books: Books, pipeline: Pipeline) -> list[Entry]:
    """The rows that an earlier run had sent and not ended, as the gateway knows them now.

    Those whose pictures wait to be fetched come first, the earliest deadline first of all, then those that are still
    generated, then those of which no task is known.
    """
    entries = books.known.under_way()
    known = {entry.task_id: entry for entry in entries if entry.task_id is not None}
    ids = list(known)
    for start in range(0, len(ids), MAX_BATCH_IDS):
        some = ids[start : start + MAX_BATCH_IDS]
        try:
            readings = await retrying(partial(pipeline.gateway.read_many, some), pipeline.retries, pipeline.rng)
        except KreaError as error:  # the poll loop asks on
            log.warning("the tasks of an earlier run could not be read: %s", error)
            break
        for task_id, reading in readings.items():
            if isinstance(reading, Task) and task_id in known:
                known[task_id].task = reading
    await _look_for([entry for entry in entries if books.known.is_stale(entry)], books, pipeline)
    finished = [entry for entry in entries if entry.is_fetchable]
    followed = [entry for entry in entries if entry.task_id is not None and not entry.is_fetchable]
    return [
        *earliest_deadline_first(finished),
        *earliest_deadline_first(followed),
        *(entry for entry in entries if entry.task_id is None),
    ]


async def _look_for(stale: list[Entry], books: Books, pipeline: Pipeline) -> None:
    """Note for each row whose key may be forgotten what the account's task list shows of it."""
    rows = [books.known.lost_row(entry) for entry in stale]
    found = await search(
        rows,
        lambda page: retrying(partial(pipeline.gateway.list_tasks, page=page), pipeline.retries, pipeline.rng),
        lambda task_ids: in_thread(lambda: journalled(books.journal.path, task_ids)),
    )
    for entry, row in zip(stale, rows, strict=True):
        entry.lost = found.words(row)


class Feed:
    """The rows of the list or, with None, all that the directory knows; but for those that are `left_under_way`."""

    def __init__(self, prompts: Prompts | None) -> None:
        self._prompts = prompts
        self._length = length_hint(prompts)
        self._read = 0

    @property
    def unread(self) -> int | None:
        """How many rows were not taken yet; None if the list does not say how long it is."""
        return max(0, self._length - self._read) if self._length else None

    async def rows(self, books: Books) -> AsyncGenerator[Entry | GeneratedImage]:
        """Each row: to be taken up, or how it has ended."""
        if self._prompts is None:
            self._length = books.known.settled_rows
            for entry in books.known.all_rows():
                self._read += 1
                yield await books.known.settled(entry) or entry
            return
        numbering = Numbering()
        async for prompt in _as_async(self._prompts):
            index, content = numbering.take(prompt)
            self._read += 1
            try:
                request = ImageRequest.of(content)
            except InvalidRequestError as error:
                log.info("row %d failed: %s", index, error)
                yield GeneratedImage(index=index, status="failed", error=error)
                continue
            found = books.known.find(index, request)
            if found is not None:
                yield await books.known.settled(found) or found


async def _as_async(prompts: Prompts) -> AsyncGenerator[Prompt]:
    if isinstance(prompts, AsyncIterable):
        async for prompt in prompts:
            yield prompt
    else:
        for prompt in prompts:
            yield prompt
