"""Callers that wait for one picture: whose turn it is, how long they wait, and what becomes of it when they go away."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from until import until

from krea_async import (
    InvalidRequestError,
    KreaSession,
    Orphan,
    PacingPolicy,
    QueueFullError,
    SessionClosedError,
    TaskTimeoutError,
    TimeoutPolicy,
)
from krea_async.sandbox import Durations, Sandbox

pytestmark = pytest.mark.anyio

SessionOf = Callable[..., KreaSession]


async def test_interactive_calls_overtake_a_batch_and_do_not_starve_it(
    session_of: SessionOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with (
        Sandbox(durations=Durations.instant(), scenes=1) as sandbox,
        session_of(sandbox, rate=20.0, pacing=PacingPolicy(first_rate=20.0)) as session,
        session.render([f"row {n}" for n in range(60)], tmp_path) as batch,
        anyio.create_task_group() as calls,
    ):
        await until(lambda: len(sandbox.ledger.tasks) >= 3)
        for n in range(12):
            calls.start_soon(session.generate, f"call {n}")
        async for _ in batch:
            pass
    order = [task.request.prompt.split()[0] for task in sandbox.ledger.tasks.values()]
    first, last = order.index("call"), len(order) - 1 - order[::-1].index("call")
    assert order.count("call") == 12
    assert last - first + 1 <= 12 + 12 // 4 + 3, "one row of the batch for every four calls, and what was under way"
    assert "row" in order[first:last], "the batch is not stopped meanwhile"


async def test_a_call_that_is_cancelled_before_it_left_costs_nothing(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    orphans: list[Orphan] = []
    async with session_of(sandbox, rate=0.02, on_orphan=orphans.append) as session:
        await session.generate("first", to=tmp_path)
        call = asyncio.ensure_future(session.generate("second", to=tmp_path))
        await until(lambda: session.stats.waiting == 1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert session.stats.waiting == session.stats.in_flight == 0
    assert len(sandbox.ledger.tasks) == 1
    assert orphans == []


@pytest.mark.parametrize("when", ["while it is sent", "while it is made"])
async def test_a_call_that_is_cancelled_after_it_left_hands_its_task_to_on_orphan(
    session_of: SessionOf, tmp_path: Path, when: str
) -> None:
    orphans: list[Orphan] = []
    async with Sandbox(durations=Durations.fixed(0.3)) as sandbox:
        if when == "while it is sent":
            sandbox.script("create", "slow")
        patient = TimeoutPolicy(read_s=20.0)
        async with session_of(sandbox, on_orphan=orphans.append, timeouts=patient) as session:
            call = asyncio.ensure_future(session.generate("a fox", to=tmp_path))
            await until(lambda: session.stats.calls["create"] if when == "while it is sent" else session.stats.followed)
            call.cancel()
            with pytest.raises(asyncio.CancelledError) as caught:
                await call
            await until(lambda: orphans)
            (task_id,) = sandbox.ledger.tasks
            assert [(orphan.task_id, orphan.request.prompt) for orphan in orphans] == [(task_id, "a fox")]
            if when == "while it is made":
                assert task_id in "".join(caught.value.__notes__)
            image = await session.attach(task_id).save(tmp_path / "fox.png")
            assert image.status == "saved"
    assert sandbox.ledger.charged_credits == 0.45


async def test_a_call_that_is_cancelled_can_have_its_picture_finished(session_of: SessionOf, tmp_path: Path) -> None:
    orphans: list[Orphan] = []
    async with Sandbox(durations=Durations.fixed(0.2)) as sandbox:
        async with session_of(sandbox, on_orphan=orphans.append) as session:
            call = asyncio.ensure_future(session.generate("a fox", to=tmp_path / "fox.png", if_cancelled="finish"))
            await until(lambda: session.stats.followed)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
        assert (tmp_path / "fox.png").exists(), "leaving the session waits for it"
    assert orphans == []


async def test_a_call_out_of_time_says_what_became_of_it(session_of: SessionOf, tmp_path: Path) -> None:
    async with Sandbox(durations=Durations.fixed(30.0)) as sandbox:
        orphans: list[Orphan] = []
        async with session_of(sandbox, rate=0.05, on_orphan=orphans.append) as session:
            with pytest.raises(TaskTimeoutError, match="no picture after 2 s") as caught:
                await session.generate("a fox", to=tmp_path, timeout_s=2.0)
            (task_id,) = sandbox.ledger.tasks
            assert (caught.value.task_id, caught.value.charged) == (task_id, "unknown")
            assert [orphan.task_id for orphan in orphans] == [task_id]
            with pytest.raises(TaskTimeoutError, match="not submitted, and costs nothing") as caught:
                await session.generate("a hare", to=tmp_path, timeout_s=0.1)
            assert (caught.value.task_id, caught.value.charged) == (None, "no")


async def test_more_calls_than_may_wait_are_turned_away_at_once(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    async with session_of(sandbox, rate=20.0, max_waiting=3) as session:
        results = await asyncio.gather(
            *(session.generate(f"fox {n}", to=tmp_path / f"{n}.png") for n in range(20)), return_exceptions=True
        )
    refused = [result for result in results if isinstance(result, QueueFullError)]
    assert 10 <= len(refused) == 20 - len(sandbox.ledger.tasks)
    assert all(error.retryable and error.charged == "no" for error in refused)
    assert "max_waiting is 3" in str(refused[0])


async def test_a_batch_is_not_counted_among_those_who_wait(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    async with (
        session_of(sandbox, rate=50.0, max_waiting=1) as session,
        session.render([f"row {n}" for n in range(30)], tmp_path) as batch,
    ):
        await until(lambda: session.stats.waiting > 5)
        image = await session.generate("a call", to=tmp_path / "call.png")
        assert image.status == "saved"
        async for _ in batch:
            pass


async def test_another_event_loop_is_told_what_to_do(sandbox: Sandbox, session_of: SessionOf) -> None:
    async with session_of(sandbox) as session:

        async def elsewhere() -> None:
            with pytest.raises(SessionClosedError, match="another event loop"):
                await session.generate("a fox")
            with pytest.raises(SessionClosedError, match="another event loop"):
                await job.wait()

        job = session.attach("task-unified-1-abcdefgh")
        with pytest.raises(SessionClosedError, match="another event loop"):
            await asyncio.to_thread(session.attach, "task-unified-1-abcdefgh")
        await asyncio.to_thread(asyncio.run, elsewhere())
    assert not sandbox.ledger.tasks


@pytest.mark.parametrize("most", [0, -1, 1.5, True])
def test_a_queue_that_cannot_be_is_refused(most: Any) -> None:
    with pytest.raises(InvalidRequestError, match="max_waiting"):
        KreaSession("sk-evo-x", max_waiting=most)


@pytest.mark.parametrize(
    "wrong", [{"priority": "high"}, {"if_cancelled": "Finish"}, {"timeout_s": "5"}], ids=lambda wrong: next(iter(wrong))
)
async def test_a_wrong_argument_is_its_callers_and_nobody_elses(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path, wrong: dict[str, Any]
) -> None:
    async with session_of(sandbox, max_waiting=1) as session:
        for _ in range(3):
            with pytest.raises((InvalidRequestError, TypeError)):
                await session.generate("a fox", to=tmp_path, **wrong)
        image = await session.generate("a hare", to=tmp_path)
    assert image.status == "saved"
    assert len(sandbox.ledger.tasks) == 1


@pytest.mark.parametrize("timeout_s", [0.0, -3.0, float("nan")])
async def test_a_time_that_is_over_pays_for_nothing(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path, timeout_s: float
) -> None:
    async with session_of(sandbox) as session:
        with pytest.raises(TaskTimeoutError, match="nothing was paid"):
            await session.generate("a fox", to=tmp_path, timeout_s=timeout_s)
    assert not sandbox.ledger.requests["create"]


async def test_a_call_that_is_cancelled_as_its_turn_comes_pays_for_nothing_or_is_told_of(
    sandbox: Sandbox, session_of: SessionOf, tmp_path: Path
) -> None:
    orphans: list[Orphan] = []
    async with session_of(sandbox, rate=0.02, on_orphan=orphans.append) as session:
        await session.generate("first", to=tmp_path / "first.png")
        call = asyncio.ensure_future(session.generate("second", to=tmp_path / "second.png"))
        await until(lambda: session.stats.waiting == 1)
        assert session._pipeline is not None
        call.cancel()
        session._pipeline.submitter.governor._next_s = 0.0  # its turn, in this very moment
        session._pipeline.submitter._let_go()
        with pytest.raises(asyncio.CancelledError):
            await call
    assert len(sandbox.ledger.tasks) == 1 + len(orphans)


def test_an_on_orphan_that_nobody_would_await_is_refused() -> None:
    async def keep(orphan: Orphan) -> None:
        """Nobody awaits this."""

    with pytest.raises(TypeError, match="on_orphan takes a plain function"):
        KreaSession("sk-evo-x", on_orphan=keep)


async def test_a_picture_that_could_not_be_finished_is_told_of(session_of: SessionOf, tmp_path: Path) -> None:
    orphans: list[Orphan] = []

    class BodyError(Exception):
        """The session's own body fails."""

    async with Sandbox(durations=Durations.fixed(30.0)) as sandbox:
        with pytest.raises(BodyError):  # noqa: PT012
            async with session_of(sandbox, on_orphan=orphans.append) as session:
                call = asyncio.ensure_future(session.generate("a fox", to=tmp_path, if_cancelled="finish"))
                await until(lambda: session.stats.followed)
                call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call
                await asyncio.sleep(0)
                raise BodyError
        assert [orphan.task_id for orphan in orphans] == list(sandbox.ledger.tasks)
