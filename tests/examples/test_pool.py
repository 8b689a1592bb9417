"""The plain worker pool: killed in the middle, or told to end, it pays for nothing twice."""

import json
import sys
from pathlib import Path

import pytest
from clocks import Clock
from processes import EXAMPLES, Process, assert_paid_once, environment
from until import until_tasks

from krea_async.sandbox import Durations, Sandbox

pytestmark = pytest.mark.anyio

JOBS, ROWS = 6, 3


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """With an inbox full of jobs."""
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    for job in range(JOBS):
        rows = [{"prompt": f"fox {row} of order {job}"} for row in range(ROWS)]
        (inbox / f"order-{job}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def pool(sandbox: Sandbox, directory: Path) -> Process:
    command = [sys.executable, str(EXAMPLES / "worker_pool.py"), "inbox", "outbox"]
    return Process(command, directory / "pool.log", environment(sandbox, directory))


def left(directory: Path) -> list[str]:
    return [job.name for job in directory.glob("inbox/*")]


def saved(directory: Path) -> int:
    return len(list(directory.glob("outbox/*/*.png")))


async def test_a_pool_that_is_killed_goes_on_where_it_was(directory: Path) -> None:
    clock = Clock()
    slow = Sandbox(durations=Durations.fixed(300.0), clock=clock)
    async with slow as sandbox, pool(sandbox, directory) as process:
        await until_tasks(sandbox, JOBS * ROWS // 2, within_s=30)
        process.kill()
        assert saved(directory) == 0
        process.start()
        clock.ahead_s, sandbox.durations = 1_000.0, Durations.instant()
        assert await process.ended(within_s=30) == 0
        assert saved(directory) == JOBS * ROWS
        assert left(directory) == []
        assert_paid_once(sandbox, JOBS * ROWS)


async def test_a_pool_that_is_told_to_end_saves_what_is_paid_for(directory: Path) -> None:
    async with Sandbox(durations=Durations.fixed(1.5)) as sandbox, pool(sandbox, directory) as process:
        await until_tasks(sandbox, JOBS * ROWS // 2, within_s=30)
        assert await process.terminate(within_s=20) == 0
        assert saved(directory) == len(sandbox.ledger.tasks)
        process.start()
        assert await process.ended(within_s=30) == 0
        assert saved(directory) == JOBS * ROWS
        assert left(directory) == []
        assert_paid_once(sandbox, JOBS * ROWS)


async def test_a_job_that_cannot_be_read_stays_and_stops_nobody(directory: Path) -> None:
    (directory / "inbox" / "broken.jsonl").write_text("{")
    async with Sandbox(durations=Durations.instant()) as sandbox, pool(sandbox, directory) as process:
        assert await process.ended(within_s=30) == 0
        assert left(directory) == ["broken.jsonl"]
        assert "broken is left in the inbox" in process.words
        assert_paid_once(sandbox, JOBS * ROWS)
