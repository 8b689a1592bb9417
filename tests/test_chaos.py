"""Storms: everything goes wrong at once, and still every prompt is paid once and every picture is whole."""

# ruff: noqa: ASYNC240, PT012 - looking into a directory takes no time, and crashing a block takes a block

import asyncio
import gc
import logging
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import anyio
import pytest

from krea_async import BatchReport, DownloadPolicy, GeneratedImage, KreaSession, RetryPolicy
from krea_async.sandbox import Durations, Faults, Limits, Sandbox
from krea_async.storage.disk import to_its_end

pytestmark = pytest.mark.anyio

SessionOf = Callable[..., KreaSession]

STORM = Faults.everywhere(0.05, stall_s=0.1, slow_s=0.02)
PICTURE_BYTES = 20_000

_TRIES = RetryPolicy(attempts=25, first_wait_s=0.01, max_wait_s=0.05)
PATIENT: dict[str, Any] = {"retries": _TRIES, "downloading": DownloadPolicy(retries=_TRIES, timeout_s=5.0)}
"""Two tries of five go wrong in this storm, so that ten of them would not do for one row in ten thousand."""


@pytest.fixture(autouse=True)
def _impatient_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wait after a failed read is no setting of a session; here it is as short as the other waits."""
    monkeypatch.setattr("krea_async.scheduler._POLL_BACKOFF", RetryPolicy(first_wait_s=0.05, max_wait_s=0.2))


def storm(seed: int, **options: Any) -> Sandbox:
    return Sandbox(
        durations=Durations(queue_s=0.01, run_s=0.02, sigma=0.5),
        faults=STORM,
        scenes=1,
        picture_bytes=PICTURE_BYTES,
        seed=seed,
        **options,
    )


def rows(count: int) -> list[dict[str, str]]:
    return [{"prompt": f"row {number}", "size": "1:2"} for number in range(count)]


async def rendered(session: KreaSession, count: int, directory: Path) -> tuple[list[GeneratedImage], BatchReport]:
    async with session.render(rows(count), directory) as batch:
        images = [image async for image in batch]
    return images, batch.report


def assert_the_books_agree(
    sandbox: Sandbox, images: list[GeneratedImage], report: BatchReport, count: int, directory: Path
) -> None:
    assert [str(error) for error in report.examples.values()] == []
    assert report.saved == count
    assert report.unknown == ()
    assert sorted(image.index for image in images if image.index is not None) == list(range(count))
    tasks = sandbox.ledger.tasks
    for image in images:
        assert image.path is not None
        assert image.request is not None
        task = tasks[str(image.task_id)]
        assert task.prompt == image.request.prompt
        assert image.sha256 == task.sha256 == sha256(image.path.read_bytes()).hexdigest()
    assert len(tasks) == count
    assert not sandbox.ledger.duplicates
    assert report.credits == pytest.approx(sandbox.ledger.charged_credits)
    assert sandbox.ledger.leaks == []
    assert len(list(directory.glob("*.png"))) == count
    assert not list(directory.glob("*.part"))


@pytest.mark.parametrize("seed", [1, 2])
async def test_a_storm_loses_no_picture_and_pays_for_none_twice(
    session_of: SessionOf, tmp_path: Path, seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="krea_async")
    async with storm(seed) as sandbox:
        async with session_of(sandbox, seed=seed, **PATIENT) as session:
            images, report = await rendered(session, 200, tmp_path)
        assert_the_books_agree(sandbox, images, report, 200, tmp_path)
        assert sandbox.key not in caplog.text
        assert sandbox.ledger.replays > 0  # there was a storm


async def test_a_storm_without_the_batch_route_loses_nothing_either(session_of: SessionOf, tmp_path: Path) -> None:
    async with storm(4, batch_route=False) as sandbox:
        async with session_of(sandbox, **PATIENT) as session:
            images, report = await rendered(session, 50, tmp_path)
        assert_the_books_agree(sandbox, images, report, 50, tmp_path)
        assert sandbox.ledger.requests["batch"] <= 10


@pytest.mark.parametrize(
    "limits",
    [
        Limits(per_second=100.0, burst=3),
        Limits(per_second=100.0, burst=3, retry_after="fraction"),
        Limits(per_window=(15, 0.3)),
        Limits(per_window=(15, 0.3), retry_after="fraction"),
        Limits(unfinished=8),
        Limits(unfinished=8, retry_after="fraction"),
        Limits(per_second=100.0, burst=3, retry_after="seconds", retry_after_s=0.0),
    ],
    ids=["rate", "rate-told", "window", "window-told", "unfinished", "unfinished-told", "told-nothing"],
)
async def test_limits_in_a_storm_cost_time_and_no_picture(
    session_of: SessionOf, tmp_path: Path, limits: Limits
) -> None:
    async with storm(5, limits=limits) as sandbox:
        async with session_of(sandbox, **PATIENT) as session:
            images, report = await rendered(session, 30, tmp_path)
        assert_the_books_agree(sandbox, images, report, 30, tmp_path)
        assert report.calls["rate_limited"] <= sandbox.ledger.rate_limited
        if limits.unfinished is not None:
            assert sandbox.ledger.max_unfinished <= limits.unfinished


@pytest.mark.parametrize("seed", [1, 2])
async def test_random_cancellation_leaves_nothing_half_done(session_of: SessionOf, tmp_path: Path, seed: int) -> None:
    """Those that are not cancelled end as if they were alone, and no place, file or socket is lost."""
    rng = Random(seed)
    async with storm(seed) as sandbox:
        with anyio.fail_after(60.0):
            async with session_of(sandbox, concurrency=8, seed=seed, **PATIENT) as session:
                loop = asyncio.get_running_loop()
                calls = []
                for number in range(40):
                    call = asyncio.create_task(session.generate(f"row {number}", size="1:2", to=tmp_path))
                    if number % 2:
                        loop.call_later(rng.uniform(0.0, 0.6), call.cancel)
                    calls.append(call)
                ended = await asyncio.gather(*calls, return_exceptions=True)
                sandbox.faults = Faults()
                async with anyio.create_task_group() as tasks:  # all eight places are still there
                    for number in range(8):
                        late = partial(session.generate, f"late {number}", size="1:2", to=tmp_path)
                        tasks.start_soon(late)
        saved = [end for end in ended if isinstance(end, GeneratedImage)]
        assert all(isinstance(end, GeneratedImage) for end in ended[::2])
        assert all(isinstance(end, GeneratedImage | asyncio.CancelledError) for end in ended)
        assert not sandbox.ledger.duplicates
        assert sandbox.ledger.leaks == []
        for image in saved:
            assert image.path is not None
            assert image.sha256 == sha256(image.path.read_bytes()).hexdigest()
    assert not list(tmp_path.glob("*.part"))
    assert len(list(tmp_path.glob("*.png"))) >= len(saved) + 8
    gc.collect()  # a socket that was not closed warns now, and warnings are errors


async def test_a_failure_after_a_cancellation_is_not_reported_as_one_that_nobody_saw() -> None:
    """A thread's work is waited for when its caller is cancelled; that it failed is then no news."""
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, complaint: complaints.append(complaint))
    work = asyncio.get_running_loop().create_future()
    waiting = asyncio.create_task(to_its_end(work))
    await anyio.wait_all_tasks_blocked()
    waiting.cancel()
    await anyio.wait_all_tasks_blocked()
    work.set_exception(OSError("the disk is full"))
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    del work, waiting
    gc.collect()
    assert complaints == []


async def test_a_session_that_crashes_in_a_storm_leaves_nothing_half_done(
    session_of: SessionOf, tmp_path: Path
) -> None:
    async with storm(6) as sandbox:
        with anyio.fail_after(60.0), pytest.raises(ZeroDivisionError):
            async with session_of(sandbox, **PATIENT) as session, session.render(rows(500), tmp_path) as batch:
                async for image in batch:
                    if image.index == 40:
                        raise ZeroDivisionError
        assert not list(tmp_path.glob("*.part"))
        assert not sandbox.ledger.duplicates
    gc.collect()
