"""The arq, taskiq and SAQ examples, run by these frameworks' own command lines, with a real Redis: paid for once.

A job is taken up again in its own time after its worker was killed: that is most of what these tests wait for.
"""

import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest
from arq.connections import RedisSettings, create_pool
from clocks import Clock
from processes import LONGEST_JOB_S, Process, Redis, assert_paid_once, environment
from redis.asyncio import Redis as RedisClient
from saq.queue.redis import RedisQueue
from taskiq import TaskiqResult
from taskiq.kicker import AsyncKicker
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker
from until import until, until_tasks

from krea_async.sandbox import Durations, Sandbox
from krea_async.storage.part import sha256_of

pytestmark = pytest.mark.anyio

Rows = list[dict[str, Any]]


class Framework(Protocol):
    """A worker framework: its command, and its client's side. awake: a key that its worker writes once it listens."""

    command: Sequence[str]
    awake: str

    async def enqueue(self, url: str, jobs: dict[str, Rows]) -> None:
        """Queue jobs by id."""

    async def results(self, url: str, jobs: Sequence[str]) -> list[list[str]]:
        """What the jobs returned, once they have ended."""


class Arq:
    command = ("arq", "arq_worker.WorkerSettings")
    awake = "arq:queue:health-check"

    async def enqueue(self, url: str, jobs: dict[str, Rows]) -> None:
        async with await create_pool(RedisSettings.from_dsn(url)) as pool:
            for job, rows in jobs.items():
                await pool.enqueue_job("render", rows, _job_id=job)

    async def results(self, url: str, jobs: Sequence[str]) -> list[list[str]]:
        from arq.jobs import Job  # noqa: PLC0415 - three classes of this name in one module are too many

        async with await create_pool(RedisSettings.from_dsn(url)) as pool:
            return [await Job(job, pool).result(timeout=60, poll_delay=0.05) for job in jobs]


class Taskiq:
    command = ("taskiq", "worker", "taskiq_worker:broker", "--workers", "1")
    awake = "taskiq"

    async def enqueue(self, url: str, jobs: dict[str, Rows]) -> None:
        async with self._broker(url) as broker:
            for job, rows in jobs.items():
                kicker: AsyncKicker[Any, Any] = AsyncKicker("taskiq_worker:render", broker, labels={})
                await kicker.with_task_id(job).kiq(rows)

    async def results(self, url: str, jobs: Sequence[str]) -> list[list[str]]:
        async with self._broker(url) as broker:
            return [await self._result(broker, job) for job in jobs]

    async def _result(self, broker: RedisStreamBroker, job: str) -> list[str]:
        await until(lambda: broker.result_backend.is_result_ready(job), within_s=60)
        result: TaskiqResult[Any] = await broker.result_backend.get_result(job)
        assert not result.is_err, result.error
        value: list[str] = result.return_value
        return value

    @asynccontextmanager
    async def _broker(self, url: str) -> AsyncIterator[RedisStreamBroker]:
        broker = RedisStreamBroker(url, consumer_id="0").with_result_backend(RedisAsyncResultBackend[Any](url))
        await broker.startup()
        try:
            yield broker
        finally:
            await broker.shutdown()


class Saq:
    command = ("saq", "saq_worker.settings")
    awake = "saq:default:sweep"  # its first look for stuck jobs: a job taken from the queue just then is taken for one

    async def enqueue(self, url: str, jobs: dict[str, Rows]) -> None:
        async with self._queue(url) as queue:
            for job, rows in jobs.items():
                patience = {"timeout": LONGEST_JOB_S, "retries": 10, "retry_delay": 1.0, "ttl": 86_400}
                await queue.enqueue("render", rows=rows, key=job, **patience)

    async def results(self, url: str, jobs: Sequence[str]) -> list[list[str]]:
        async with self._queue(url) as queue:
            return [await self._result(queue, job) for job in jobs]

    async def _result(self, queue: RedisQueue, job_id: str) -> list[str]:
        async def is_over() -> bool:
            job = await queue.job(job_id)
            return job is not None and bool(job.completed)

        await until(is_over, within_s=60)
        job = await queue.job(job_id)
        assert job is not None
        assert job.error is None, job.error
        result: list[str] = job.result
        return result

    @asynccontextmanager
    async def _queue(self, url: str) -> AsyncIterator[RedisQueue]:
        queue = RedisQueue.from_url(url)
        assert isinstance(queue, RedisQueue)
        await queue.connect()
        try:
            yield queue
        finally:
            await queue.disconnect()


@pytest.fixture(params=[Arq, Taskiq, Saq], ids=lambda made: made.__name__.lower())
def framework(request: pytest.FixtureRequest) -> Framework:
    made: Framework = request.param()
    return made


@asynccontextmanager
async def worker(framework: Framework, sandbox: Sandbox, redis: Redis, directory: Path) -> AsyncIterator[Process]:
    """A worker that listens, and then has jobs to do."""
    command = [sys.executable, "-m", *framework.command]
    env = environment(sandbox, directory, REDIS_URL=redis.url)
    async with Process(command, directory / "worker.log", env) as process, RedisClient.from_url(redis.url) as client:
        await until(lambda: client.exists(framework.awake), within_s=20)
        await framework.enqueue(redis.url, JOBS)
        yield process


JOBS: dict[str, Rows] = {
    f"order-{job}": [{"prompt": f"fox {row} of order {job}"} for row in range(4)] for job in range(2)
}
PICTURES = 8


def saved(directory: Path) -> int:
    return len(list(directory.glob("pictures/*/*.png")))


def assert_all_is_there(sandbox: Sandbox, results: list[list[str]]) -> None:
    files = [Path(path) for result in results for path in result]
    assert len({*files}) == PICTURES
    assert {sha256_of(path) for path in files} == {task.sha256 for task in sandbox.ledger.tasks.values()}
    assert_paid_once(sandbox, PICTURES)


async def test_a_worker_that_is_killed_in_the_middle_of_its_jobs_pays_for_nothing_twice(
    framework: Framework, tmp_path: Path
) -> None:
    clock = Clock()
    async with (
        Sandbox(durations=Durations.fixed(300.0), clock=clock) as sandbox,
        Redis(tmp_path) as redis,
        worker(framework, sandbox, redis, tmp_path) as process,
    ):
        await until_tasks(sandbox, PICTURES // 2, within_s=30)
        process.kill()
        assert saved(tmp_path) == 0
        process.start()
        clock.ahead_s, sandbox.durations = 1_000.0, Durations.instant()
        assert_all_is_there(sandbox, await framework.results(redis.url, [*JOBS]))


async def test_a_redis_that_is_killed_and_restarted_is_waited_for(framework: Framework, tmp_path: Path) -> None:
    async with (
        Sandbox(durations=Durations.fixed(1.5)) as sandbox,
        Redis(tmp_path) as redis,
        worker(framework, sandbox, redis, tmp_path) as process,
    ):
        await until_tasks(sandbox, PICTURES, within_s=30)
        redis.kill()
        await until(lambda: saved(tmp_path) >= PICTURES, within_s=20)  # the jobs go on without it
        await redis.restart()
        assert_all_is_there(sandbox, await framework.results(redis.url, [*JOBS]))
        assert process.alive


async def test_a_worker_that_is_told_to_end_saves_what_is_paid_for(framework: Framework, tmp_path: Path) -> None:
    """After a SIGTERM it ends by itself, with every picture saved; the next worker finds its jobs done."""
    async with (
        Sandbox(durations=Durations.fixed(1.5)) as sandbox,
        Redis(tmp_path) as redis,
        worker(framework, sandbox, redis, tmp_path) as process,
    ):
        await until_tasks(sandbox, PICTURES, within_s=30)
        await process.terminate(within_s=20)
        assert saved(tmp_path) == PICTURES
        process.start()
        assert_all_is_there(sandbox, await framework.results(redis.url, [*JOBS]))
