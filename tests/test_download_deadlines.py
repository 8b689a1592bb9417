"""Pictures of a session are fetched by the time at which their links die, whoever asked for them first."""

import time
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from krea_async import KreaSession
from krea_async.sandbox import Durations, Sandbox

pytestmark = pytest.mark.anyio

HOUR_S = 3600.0


async def test_the_oldest_tasks_are_fetched_first(session_of: Callable[..., KreaSession], tmp_path: Path) -> None:
    started_s = time.time() - 5 * HOUR_S
    now_s, saved = started_s, list[str]()
    async with (
        Sandbox(durations=Durations.instant(), clock=lambda: now_s) as sandbox,
        session_of(sandbox, downloads=1) as session,
    ):
        ids = []
        for _ in range(4):
            ids.append((await session.submit("a fox")).task_id)
            now_s += HOUR_S

        async def save(task_id: str) -> None:
            await session.attach(task_id).save(tmp_path / task_id)
            saved.append(task_id)

        assert session._pipeline is not None
        turns = session._pipeline.downloads._turns
        async with anyio.create_task_group() as group, turns.turn(0.0):  # the only lane
            for task_id in reversed(ids):
                group.start_soon(save, task_id)
            with anyio.fail_after(10):
                while len(turns._queue) < len(ids):  # noqa: ASYNC110 - nobody is told of it
                    await anyio.sleep(0.01)
    assert saved == ids
