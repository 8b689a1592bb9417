"""Where a batch's rows come from: first what earlier runs left under way, then the list, row by row."""

import logging
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Mapping
from functools import partial
from typing import Any

from krea_async.books import Books, Entry
from krea_async.control.backlog import earliest_deadline_first
from krea_async.errors import InvalidRequestError, KreaError
from krea_async.gateway.client import MAX_BATCH_IDS
from krea_async.gateway.retrying import retrying
from krea_async.models import ImageRequest, Task
from krea_async.pipeline import Pipeline
from krea_async.results import GeneratedImage

log = logging.getLogger(__name__)

Prompt = str | ImageRequest | Mapping[str, Any] | InvalidRequestError
"""A row of a prompt list; one that could not be read is its own error, and fails alone."""

Prompts = Iterable[Prompt] | AsyncIterable[Prompt]


async def left_under_way(books: Books, pipeline: Pipeline) -> list[Entry]:
    """The rows that an earlier run had sent and not ended, as the gateway knows them now.

    Those whose pictures wait to be fetched come first, the earliest deadline first of all, then those that are still
    generated, then those of which no task is known.
    """
    entries = books.under_way()
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
    finished = [entry for entry in entries if entry.is_fetchable]
    followed = [entry for entry in entries if entry.task_id is not None and not entry.is_fetchable]
    return [
        *earliest_deadline_first(finished),
        *earliest_deadline_first(followed),
        *(entry for entry in entries if entry.task_id is None),
    ]


async def rows_of(prompts: Prompts | None, books: Books) -> AsyncGenerator[Entry | GeneratedImage]:
    """Each row of the list, or, with None, each that the directory knows: to be taken up, or how it has ended."""
    if prompts is None:
        for entry in books.all_rows():
            yield await books.settled(entry) or entry
        return
    index = -1
    async for prompt in _as_async(prompts):
        index += 1
        try:
            request = ImageRequest.of(prompt)
        except InvalidRequestError as error:
            log.info("row %d failed: %s", index, error)
            yield GeneratedImage(index=index, status="failed", error=error)
            continue
        found = books.find(index, request)
        if found is not None:
            yield await books.settled(found) or found


async def _as_async(prompts: Prompts) -> AsyncGenerator[Prompt]:
    if isinstance(prompts, AsyncIterable):
        async for prompt in prompts:
            yield prompt
    else:
        for prompt in prompts:
            yield prompt
