"""Pictures in a taskiq worker: `taskiq worker taskiq_worker:broker --workers 1`.

    await render.kicker().with_task_id("order-17").kiq([{"prompt": "a fox"}])

A job is one picture or a small batch, in a directory that is called after the job. Its journal is what makes the job
safe to run again: what is saved is skipped, what is paid for is fetched, and only the rest is ordered.
"""

import os
from pathlib import Path
from typing import Annotated, Any

from held_session import HeldSession
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from taskiq import Context, TaskiqDepends, TaskiqEvents, TaskiqState
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

from krea_async import BatchPolicy

PICTURES = Path(os.environ.get("PICTURES", "pictures"))  # on a disk that outlives the worker
LONGEST_JOB_S = int(os.environ.get("LONGEST_JOB_S", "600"))

REDIS_URL = os.environ.get("REDIS_URL", "redis://127.0.0.1:6379")
RECONNECTING: dict[str, Any] = {  # a Redis that restarts is waited for
    "retry": Retry(ExponentialBackoff(cap=2.0, base=0.1), retries=60),
    "retry_on_error": [RedisConnectionError, OSError],
}

# Streams, not lists or channels: a job stays in Redis until it is done, and is handed out again after idle_timeout.
broker = RedisStreamBroker(
    REDIS_URL, consumer_id="0", idle_timeout=LONGEST_JOB_S * 1000, **RECONNECTING
).with_result_backend(RedisAsyncResultBackend(REDIS_URL, result_ex_time=86_400, **RECONNECTING))


@broker.on_event(TaskiqEvents.WORKER_STARTUP)
async def startup(state: TaskiqState) -> None:
    """One session for all jobs of this process."""
    # The lock under which jobs are handed out again has no end of its own: a worker that was killed may have left it.
    async with Redis.from_url(REDIS_URL) as redis:
        await redis.delete(f"autoclaim:{broker.consumer_group_name}:{broker.queue_name}")
    state.held = HeldSession()
    await state.held.open()


@broker.on_event(TaskiqEvents.WORKER_SHUTDOWN)
async def shutdown(state: TaskiqState) -> None:
    """By now taskiq has waited for the jobs, as long as --wait-tasks-timeout says."""
    await state.held.close()


@broker.task
async def render(rows: list[dict[str, Any]], context: Annotated[Context, TaskiqDepends()]) -> list[str]:
    """Make the pictures of `rows` (fields of ImageRequest); for each its file, or why there is none."""
    policy = BatchPolicy(drain_s=20.0)
    async with context.state.held.session.render(rows, PICTURES / context.message.task_id, policy=policy) as batch:
        images = {image.index: image async for image in batch}
    if batch.report.left:
        raise RuntimeError("stopped early, such as for want of credits") from batch.report.stopped_by
    return [str(image.path or image.error) for _, image in sorted(images.items())]
