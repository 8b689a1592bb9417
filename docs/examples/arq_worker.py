"""Pictures in an arq worker: `arq arq_worker.WorkerSettings`.

    await (await create_pool(REDIS)).enqueue_job("render", [{"prompt": "a fox"}], _job_id="order-17")

A job is one picture or a small batch, in a directory that is called after the job. Its journal is what makes the job
safe to run again: what is saved is skipped, what is paid for is fetched, and only the rest is ordered.
"""

import os
from pathlib import Path
from typing import Any, ClassVar

from arq import Retry
from arq.connections import RedisSettings
from held_session import HeldSession
from redis.asyncio.retry import Retry as Reconnecting
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError

from krea_async import BatchPolicy, JournalError

PICTURES = Path(os.environ.get("PICTURES", "pictures"))  # on a disk that outlives the worker
LONGEST_JOB_S = int(os.environ.get("LONGEST_JOB_S", "600"))

REDIS = RedisSettings.from_dsn(os.environ.get("REDIS_URL", "redis://127.0.0.1:6379"))
REDIS.retry = Reconnecting(ExponentialBackoff(cap=2.0, base=0.1), retries=60)
REDIS.retry_on_error = [RedisConnectionError, OSError]  # a Redis that restarts is waited for


async def render(ctx: dict[str, Any], rows: list[dict[str, Any]]) -> list[str]:
    """Make the pictures of `rows` (fields of ImageRequest); for each its file, or why there is none."""
    try:
        policy = BatchPolicy(drain_s=20.0)  # after a SIGTERM, which cancels the job
        async with ctx["held"].session.render(rows, PICTURES / ctx["job_id"], policy=policy) as batch:
            images = {image.index: image async for image in batch}
    except JournalError as error:
        if error.code != "directory_locked":
            raise
        raise Retry(defer=30) from error  # another worker is still at this job
    if batch.report.left:
        raise Retry(defer=30)  # stopped early, such as for want of credits
    return [str(image.path or image.error) for _, image in sorted(images.items())]


async def startup(ctx: dict[str, Any]) -> None:
    """One session for all jobs of this process."""
    ctx["held"] = HeldSession()
    await ctx["held"].open()


async def shutdown(ctx: dict[str, Any]) -> None:
    """By now arq has cancelled the jobs and waited for them; cancelled jobs are queued again."""
    await ctx["held"].close()


class WorkerSettings:
    """What `arq` reads. A job whose worker was killed is taken up again job_timeout + 10 s after its start."""

    functions: ClassVar = [render]
    on_startup = startup
    on_shutdown = shutdown
    redis_settings = REDIS
    job_timeout = LONGEST_JOB_S
    max_jobs = 100  # the session keeps to the gateway's limits by itself
    max_tries = 10
