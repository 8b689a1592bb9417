"""Pictures in a SAQ worker: `saq saq_worker.settings`.

    await queue.enqueue("render", rows=[{"prompt": "a fox"}], key="order-17", **PATIENCE)

A job is one picture or a small batch, in a directory that is called after the job. Its journal is what makes the job
safe to run again: what is saved is skipped, what is paid for is fetched, and only the rest is ordered.
"""

import os
from pathlib import Path
from typing import Any

from held_session import HeldSession
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from saq.queue.redis import RedisQueue

from krea_async import BatchPolicy

PICTURES = Path(os.environ.get("PICTURES", "pictures"))  # on a disk that outlives the worker
LONGEST_JOB_S = int(os.environ.get("LONGEST_JOB_S", "600"))
PATIENCE = {"timeout": LONGEST_JOB_S, "retries": 10, "retry_delay": 1.0, "ttl": 86_400}
"""For every `enqueue`: SAQ's own are 10 s and a single try. A job whose worker was killed runs again after timeout."""

REDIS_URL = os.environ.get("REDIS_URL", "redis://127.0.0.1:6379")
reconnecting = Retry(ExponentialBackoff(cap=2.0, base=0.1), retries=60)
queue = RedisQueue(Redis.from_url(REDIS_URL, retry=reconnecting, retry_on_error=[RedisConnectionError, OSError]))


async def render(ctx: dict[str, Any], *, rows: list[dict[str, Any]]) -> list[str]:
    """Make the pictures of `rows` (fields of ImageRequest); for each its file, or why there is none."""
    policy = BatchPolicy(drain_s=20.0)  # after a SIGTERM, which cancels the job
    async with ctx["held"].session.render(rows, PICTURES / ctx["job"].key, policy=policy) as batch:
        images = {image.index: image async for image in batch}
    if batch.report.left:
        raise RuntimeError("stopped early, such as for want of credits") from batch.report.stopped_by
    return [str(image.path or image.error) for _, image in sorted(images.items())]


async def startup(ctx: dict[str, Any]) -> None:
    """One session for all jobs of this process."""
    ctx["held"] = HeldSession()
    await ctx["held"].open()


async def shutdown(ctx: dict[str, Any]) -> None:
    """By now SAQ has cancelled the jobs and waited for them; cancelled jobs are queued again."""
    await ctx["held"].close()


settings = {
    "queue": queue,
    "functions": [render],
    "startup": startup,
    "shutdown": shutdown,
    "concurrency": 100,  # the session keeps to the gateway's limits by itself
    "cancellation_hard_deadline_s": 25.0,  # what cancelled jobs get to save what is paid for
    "timers": {"sweep": max(5, LONGEST_JOB_S // 20)},  # seconds between looks for jobs whose worker was killed
}
