"""What a session is made of: its sockets are opened, its parts put together, and what it has learnt is kept."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from random import Random

import anyio

from krea_async.control.governor import Governor, Limit
from krea_async.events import Events
from krea_async.gateway.client import Gateway
from krea_async.gateway.images import ImageHost, open_image_host
from krea_async.gateway.transport import open_transport
from krea_async.lifetime import Lifetime
from krea_async.pipeline import Pipeline
from krea_async.poller import MAX_READS_AT_ONCE, Poller
from krea_async.scheduler import Scheduler
from krea_async.settings import Settings
from krea_async.storage.disk import in_thread
from krea_async.storage.download import Downloads
from krea_async.storage.known_limits import KnownLimits
from krea_async.submission import MAX_POSTS_AT_ONCE, Submitter


@asynccontextmanager
async def open_pipeline(settings: Settings, events: Events, rng: Random) -> AsyncIterator[Pipeline]:
    """A pipeline with open sockets. It begins with what an earlier session found of the limits, and keeps its own."""
    memory = KnownLimits(settings.base_url, settings.api_key) if settings.pacing.remember else None
    connections = min(MAX_POSTS_AT_ONCE, settings.concurrency) + MAX_READS_AT_ONCE
    async with (
        open_transport(
            settings.base_url, settings.api_key, connections=connections, timeouts=settings.timeouts
        ) as transport,
        open_image_host(settings.base_url, connections=settings.downloads, timeouts=settings.timeouts) as images,
    ):
        known = None if memory is None else await in_thread(memory.load)
        pipeline = _composed(Gateway(transport), images, settings, events=events, rng=rng, known=known)
        try:
            yield pipeline
        finally:
            limit = pipeline.submitter.governor.limit
            if memory is not None and limit is not None:
                with anyio.CancelScope(shield=True):
                    await in_thread(partial(memory.save, limit))


def _composed(
    gateway: Gateway, images: ImageHost, settings: Settings, *, events: Events, rng: Random, known: Limit | None
) -> Pipeline:
    scheduler = Scheduler(settings.polling, rng)

    def limit_found(limit: Limit | None) -> None:
        """Under a limit on unfinished tasks, one that is not known to be finished keeps another from being sent."""
        scheduler.eager = limit is not None and limit.kind == "unfinished"

    limit_found(known)
    return Pipeline(
        gateway=gateway,
        images=images,
        submitter=Submitter(
            gateway,
            Governor(settings.pacing, rate=settings.rate, known=known, rng=rng),
            settings.retries,
            max_unfinished=settings.concurrency,
            rng=rng,
            events=events,
            limit_found=limit_found,
        ),
        poller=Poller(gateway, scheduler, rng, events),
        downloads=Downloads(images, settings.downloading, at_once=settings.downloads, rng=rng),
        events=events,
        lifetime=Lifetime(),
        retries=settings.retries,
        task_timeout_s=settings.task_timeout_s,
        rng=rng,
    )
