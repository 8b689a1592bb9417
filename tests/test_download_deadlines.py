"""Pictures of a session are fetched by the time at which their links die, whoever asked for them first."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from until import until

from krea_async import Job, KreaSession
from krea_async.gateway.images import ImageHost
from krea_async.sandbox import Durations, Sandbox

pytestmark = pytest.mark.anyio

HOUR_S = 3600.0


async def test_the_oldest_tasks_are_fetched_first(
    session_of: Callable[..., KreaSession], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = time.time() - 5 * HOUR_S
    asked: list[str] = []
    real = ImageHost.open

    def noted(host: ImageHost, link: str, **more: Any) -> Any:
        asked.append(link)
        return real(host, link, **more)

    monkeypatch.setattr(ImageHost, "open", noted)
    async with (
        Sandbox(durations=Durations.instant(), clock=lambda: now_s) as sandbox,
        session_of(sandbox, downloads=1) as session,
    ):
        links: list[str] = []
        jobs: list[Job] = []
        for _ in range(4):
            jobs.append(await session.submit("a fox"))
            links += (await jobs[-1].wait()).results
            now_s += HOUR_S

        assert session._pipeline is not None
        turns = session._pipeline.downloads._turns
        async with anyio.create_task_group() as group, turns.turn(0.0):  # the only lane
            for job in reversed(jobs):
                group.start_soon(job.save, tmp_path / job.task_id)
            await until(lambda: len(turns._queue) >= len(jobs))
    assert asked == links
