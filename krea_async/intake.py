"""The three ways in which a task comes to be followed: submitted now, left by an earlier run, or ordered elsewhere."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from krea_async.errors import KreaError
from krea_async.job import Job
from krea_async.models import ImageRequest, Task
from krea_async.pipeline import Pipeline
from krea_async.results import Timings
from krea_async.story import Story
from krea_async.tasks import loop_time_s
from krea_async.waiting import NotSubmittedError, Priority, Stop


async def submitted(
    pipeline: Pipeline,
    request: ImageRequest,
    *,
    key: str | None = None,
    stop: Stop | None = None,
    priority: Priority = "batch",
    maybe_paid: bool = False,
    before: Callable[[], Awaitable[None]] | None = None,
    accepted: Callable[[Task, bool], Awaitable[None]] | None = None,
    awaited: bool = False,
    index: int | None = None,
) -> Job:
    """Have the gateway accept `request`, under a new key if none is given. The rest: see `Submitter.submit`.

    awaited: somebody waits for just this picture, so its task is read more eagerly. index: the row's in its batch.
    """
    queued = left = loop_time_s()
    story = Story.of(pipeline.events, request, index=index)

    async def leaving() -> None:
        nonlocal left
        left = loop_time_s()
        if before is not None:
            await before()
        if story is not None:
            story.leaves(queued_s=left - queued)

    callback_url = None if request.callback_url else pipeline.submitter.callback_url
    with _end_told(story):
        task = await pipeline.submitter.submit(
            request,
            key=key or next(pipeline.keys),
            callback_url=callback_url,
            stop=stop,
            priority=priority,
            maybe_paid=maybe_paid,
            before=leaving,
            accepted=accepted,
            story=story,
        )
    timings = Timings(queued_s=left - queued, waiting_s=loop_time_s() - left)
    if story is not None:
        story.accepted(task, waiting_s=timings.waiting_s)
    return Job(
        pipeline,
        task.id,
        request=request,
        task=task,
        timings=timings,
        holds_place=True,
        awaited=awaited,
        called_back=callback_url is not None and not task.replayed,
        story=story,
    )


def resumed(
    pipeline: Pipeline, task_id: str, request: ImageRequest, task: Task | None, *, index: int | None = None
) -> Job:
    """Follow a task of an earlier run, which counts among the unfinished. `task`: what was read of it just now."""
    pipeline.submitter.adopt()
    story = Story.taken_up(pipeline.events, task_id, request, index=index)
    return Job(pipeline, task_id, request=request, task=task, holds_place=True, taken_up=True, story=story)


def attached(pipeline: Pipeline, task_id: str) -> Job:
    """Follow a task that was submitted elsewhere, or before a restart."""
    return Job(pipeline, task_id, story=Story.taken_up(pipeline.events, task_id))


@contextmanager
def _end_told(story: Story | None) -> Iterator[None]:
    """Whatever ends a submission without a task, ends its story."""
    try:
        yield
    except KreaError as error:
        if story is not None:
            story.failed(error)
        raise
    except (NotSubmittedError, asyncio.CancelledError) as stopped:
        if story is not None:
            story.abandoned("no" if isinstance(stopped, NotSubmittedError) else None)
        raise
