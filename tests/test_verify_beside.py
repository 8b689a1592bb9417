"""Verifying while a run is at work in the same directory: nothing of what it does meanwhile looks like a problem."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from anyio import to_thread

from krea_async import KreaSession
from krea_async.audit.report import directory_report
from krea_async.audit.verify import verify
from krea_async.sandbox import Durations, Faults, Sandbox

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("seed", [1, 2])
async def test_a_run_under_way_has_no_problems_and_no_strays(
    session_of: Callable[..., KreaSession], tmp_path: Path, seed: int
) -> None:
    """And whatever a reader of the batch was told is saved is among what was verified."""
    faults = Faults(image_truncated=0.2, image_slow=0.2, drop_after=0.1, slow_s=0.02)
    durations = Durations(queue_s=0.01, run_s=0.05, sigma=0.5)
    looks = seen = rows = 0
    prompts = [{"prompt": f"row {n}", "size": "1:2"} for n in range(60)]
    async with (
        Sandbox(durations=durations, faults=faults, seed=seed, picture_bytes=30_000) as sandbox,
        session_of(sandbox, concurrency=8, seed=seed) as session,
        session.render(prompts, tmp_path) as batch,
    ):
        async for image in batch:
            assert image.error is None
            seen += 1
            if seen % 6 == 0:
                report = await to_thread.run_sync(partial(verify, tmp_path, decode=seen % 12 == 0))
                books = await to_thread.run_sync(partial(directory_report, tmp_path))
                assert (report.problems, report.strays, report.damaged_lines) == ((), (), ())
                assert rows <= report.rows <= 60
                assert books.damaged_lines == ()
                assert min(report.rows, books.saved) >= seen
                assert books.failed == 0
                rows = report.rows
                looks += 1
    final = await to_thread.run_sync(partial(verify, tmp_path))
    assert looks == 10
    assert (final.ok, final.rows, final.files, final.decoded) == (True, 60, 60, 60)
    assert (final.strays, final.parts) == ((), ())
