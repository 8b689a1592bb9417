"""Whoever awaits a batch may be cancelled: what is paid for is saved within the drain, the rest is left, none hangs."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from clocks import Clock
from paid_once import assert_all_is_saved_and_paid_once, assert_the_journal_knows_all_that_was_sent
from until import until

from krea_async import BatchPolicy, KreaSession
from krea_async.sandbox import Durations, Fault, Sandbox
from krea_async.storage.history import JOURNAL_NAME, History
from krea_async.storage.lock import LOCK_NAME

pytestmark = pytest.mark.anyio

SessionOf = Callable[..., KreaSession]

ROWS = [{"prompt": f"row {number}", "size": "1:2"} for number in range(16)]
AT_ONCE = 6


async def cancelled(work: Awaitable[Any], once: Callable[[], object], *, times: int = 1, within_s: float) -> float:
    """Cancel `work` as soon as `once` is true; returns the seconds until it had ended, by that and nothing else."""
    task = asyncio.ensure_future(work)
    try:
        await until(once, within_s=5)
        begun_s = time.monotonic()
        for _ in range(times):
            task.cancel()
            await anyio.sleep(0.05)
        with anyio.fail_after(within_s):
            await asyncio.wait([task])
        assert task.cancelled()
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    return time.monotonic() - begun_s


async def drained(session: KreaSession, directory: Path, drain_s: float, prompts: Any = ROWS) -> None:
    await session.render(prompts, directory, policy=BatchPolicy(drain_s=drain_s))


def pictures(directory: Path) -> int:
    return len([*directory.glob("*.png")])


async def test_what_ends_within_the_drain_is_saved_and_the_rest_is_fetched_later(
    session_of: SessionOf, tmp_path: Path
) -> None:
    clock = Clock()
    async with Sandbox(durations=Durations.fixed(0.4), scenes=1, clock=clock) as sandbox:

        async def three_quick_ones() -> AsyncIterator[dict[str, str]]:
            for number, row in enumerate(ROWS):
                if number == 3:
                    await until(lambda: len(sandbox.ledger.tasks) == 3)
                    sandbox.durations = Durations.fixed(300.0)
                yield row

        async with session_of(sandbox, concurrency=AT_ONCE) as session:
            work = drained(session, tmp_path, 4.0, three_quick_ones())
            took_s = await cancelled(work, lambda: len(sandbox.ledger.tasks) >= AT_ONCE, within_s=10.0)
            assert took_s >= 3.9
            tasks = len(sandbox.ledger.tasks)
            assert pictures(tmp_path) == 3
            assert_the_journal_knows_all_that_was_sent(sandbox, tmp_path)
            assert not (tmp_path / LOCK_NAME).exists()

            clock.ahead_s, sandbox.durations = 1_000.0, Durations.instant()
            creates = sandbox.ledger.requests["create"]
            report = await session.render(ROWS, tmp_path)  # the session has lost no place by it
        assert (report.saved, report.already_saved, report.ok) == (len(ROWS) - 3, 3, True)
        assert sandbox.ledger.requests["create"] - creates == len(ROWS) - tasks
        assert_all_is_saved_and_paid_once(sandbox, tmp_path, len(ROWS))


async def test_a_scope_around_the_session_leaves_it_its_polls_until_the_batch_is_drained(
    session_of: SessionOf, tmp_path: Path
) -> None:
    """Such a scope cancels all tasks within, the session's own too; without its polls no drain would ever end."""
    async with Sandbox(durations=Durations.fixed(0.3), scenes=1) as sandbox:
        with anyio.fail_after(10), anyio.CancelScope() as scope:
            async with session_of(sandbox, concurrency=AT_ONCE) as session, anyio.create_task_group() as others:

                async def cancel() -> None:
                    await until(lambda: len(sandbox.ledger.tasks) == AT_ONCE)
                    scope.cancel()

                others.start_soon(cancel)
                await drained(session, tmp_path, 60.0)
        assert scope.cancelled_caught
        assert pictures(tmp_path) == len(sandbox.ledger.tasks) == AT_ONCE


async def test_a_second_cancellation_ends_the_drain(session_of: SessionOf, tmp_path: Path) -> None:
    clock = Clock()
    async with Sandbox(durations=Durations.fixed(300.0), scenes=1, clock=clock) as sandbox:
        async with session_of(sandbox, concurrency=AT_ONCE) as session:
            work = drained(session, tmp_path, 60.0)
            await cancelled(work, lambda: len(sandbox.ledger.tasks) == AT_ONCE, times=2, within_s=5.0)
            assert pictures(tmp_path) == 0
            clock.ahead_s, sandbox.durations = 1_000.0, Durations.instant()
            assert (await session.render(ROWS, tmp_path)).ok
        assert_all_is_saved_and_paid_once(sandbox, tmp_path, len(ROWS))


@pytest.mark.parametrize("awaits", [True, False], ids=["awaiting-the-report", "beside-the-iteration"])
async def test_a_cancel_scope_drains_as_well(session_of: SessionOf, tmp_path: Path, awaits: bool) -> None:
    async with Sandbox(durations=Durations.fixed(0.5), scenes=1) as sandbox:

        async def cancel(scope: anyio.CancelScope) -> None:
            await until(lambda: len(sandbox.ledger.tasks) == AT_ONCE)
            scope.cancel()

        async with session_of(sandbox, concurrency=AT_ONCE) as session, anyio.create_task_group() as helpers:
            with anyio.fail_after(8.0), anyio.CancelScope() as scope:
                helpers.start_soon(cancel, scope)
                if awaits:
                    await drained(session, tmp_path, 30.0)
                async with session.render(ROWS, tmp_path, policy=BatchPolicy(drain_s=30.0)):
                    await anyio.sleep_forever()
            assert scope.cancelled_caught
            assert len(sandbox.ledger.tasks) == pictures(tmp_path) == AT_ONCE
            sandbox.durations = Durations.instant()
            assert (await session.render(ROWS, tmp_path)).ok
        assert_all_is_saved_and_paid_once(sandbox, tmp_path, len(ROWS))


# --- nothing was submitted --------------------------------------------------------------------------------------------


async def never() -> AsyncIterator[str]:
    await anyio.sleep_forever()
    yield "a fox"


def refusing(sandbox: Sandbox) -> None:
    sandbox.script("create", *[Fault("status", status=429, retry_after="3600")] * AT_ONCE)


def unreachable(sandbox: Sandbox) -> None:
    sandbox.script("create", *["drop_before"] * 1_000)


@pytest.mark.parametrize("trouble", [refusing, unreachable])
async def test_rows_that_wait_for_their_turn_hold_nobody_up(
    session_of: SessionOf, tmp_path: Path, trouble: Callable[[Sandbox], None]
) -> None:
    """They are not paid for, or are soon given up, so a long drain is not waited for."""
    async with Sandbox(durations=Durations.instant(), scenes=1) as sandbox:
        trouble(sandbox)
        async with session_of(sandbox, concurrency=AT_ONCE) as session:
            work = drained(session, tmp_path, 60.0)
            await cancelled(work, lambda: sandbox.ledger.requests["create"] >= AT_ONCE, within_s=5.0)
        assert sandbox.ledger.tasks == {}
        assert not (tmp_path / LOCK_NAME).exists()
        async with Sandbox(durations=Durations.instant(), scenes=1) as healthy:
            async with session_of(healthy) as session:
                assert (await session.render(ROWS, tmp_path)).ok
            assert_all_is_saved_and_paid_once(healthy, tmp_path, len(ROWS))


async def test_a_list_that_never_brings_a_row_holds_nobody_up(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    async with session_of(sandbox) as session:
        work = drained(session, tmp_path, 60.0, never())
        await cancelled(work, (tmp_path / LOCK_NAME).exists, within_s=5.0)
        assert (await session.render(ROWS, tmp_path)).saved == len(ROWS)
    assert len(sandbox.ledger.tasks) == len(ROWS)


async def test_a_balance_that_never_comes_holds_nobody_up(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    sandbox.script("credits", "stalled")
    async with session_of(sandbox) as session:
        rendering = session.render(ROWS, tmp_path, policy=BatchPolicy(drain_s=60.0, read_balance=True))

        async def work() -> None:
            await rendering

        await cancelled(work(), lambda: sandbox.ledger.requests["credits"], within_s=5.0)
        assert sandbox.ledger.requests["create"] == 0
    with History(tmp_path / JOURNAL_NAME) as history:
        assert (history.rows, history.runs) == (0, 0)


async def test_a_batch_that_is_cancelled_before_it_begins_has_done_nothing(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    async with session_of(sandbox) as session:
        task = asyncio.ensure_future(drained(session, tmp_path / "out", 60.0))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert sandbox.ledger.requests.total() == 0
    assert not (tmp_path / "out").exists()


async def test_the_reader_is_told_of_the_end_although_the_list_cleans_up_for_longer_than_the_drain(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    async def rows() -> AsyncIterator[str]:
        yield "a fox"
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.5)

    seen = []
    with anyio.fail_after(10):
        async with session_of(sandbox) as session, session.render(rows(), tmp_path) as batch:
            async for image in batch:
                seen.append(image.status)
                batch.stop(drain_s=0.1)
    assert seen == ["saved"]
