"""The poll loop: it reads what is due, survives what it is answered, and keeps to the pace that it is answered at."""

import asyncio
from collections.abc import Callable
from random import Random

import anyio
import pytest
from following import Outcomes, done, processing

from krea_async import KreaSession
from krea_async import scheduler as module
from krea_async.control.backoff import RetryPolicy
from krea_async.control.polling import PollPolicy
from krea_async.errors import AuthenticationError, KreaError, RateLimitedError, ServiceError, TaskNotFoundError
from krea_async.followed import Followed
from krea_async.gateway.client import MAX_BATCH_IDS, Readings
from krea_async.poller import Poller
from krea_async.sandbox import Durations, Limits, Sandbox
from krea_async.scheduler import Scheduler


class Answers:
    """A gateway stand-in: answers reads as told, from memory."""

    def __init__(self, *turns: Readings | KreaError) -> None:
        self.turns = list(turns)
        self.batches: list[list[str]] = []
        self.singles: list[list[str]] = []

    async def read_many(self, ids: list[str]) -> Readings:
        self.batches.append(ids)
        turn = self.turns.pop(0) if self.turns else done(*ids)
        if isinstance(turn, KreaError):
            raise turn
        return turn

    async def read_singly(self, ids: list[str]) -> Readings:
        self.singles.append(ids)
        turn = self.turns.pop(0) if self.turns else done(*ids)
        if isinstance(turn, KreaError):
            raise turn
        return turn


AT_ONCE = PollPolicy(shortest_s=0.001, longest_s=0.001, window_s=0.0, ahead_s=0.0)


async def outcomes_of(answers: Answers, *task_ids: str) -> Outcomes:
    """What the poll loop makes of these answers."""
    outcomes = Outcomes()
    poller = Poller(answers, Scheduler(AT_ONCE, Random(0)))  # type: ignore[arg-type]
    now = anyio.current_time()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(poller.run)
        for task_id in task_ids:
            mine = outcomes.setdefault(task_id, [])
            poller.follow(Followed(task_id=task_id, submitted_s=now, deadline_s=now + 60, on_outcome=mine.append))
        with anyio.fail_after(30):
            await poller.drain()
        tasks.cancel_scope.cancel()
    return outcomes


@pytest.mark.anyio
async def test_the_loop_asks_singly_for_what_a_reply_does_not_mention() -> None:
    answers = Answers(done("a"), processing("b"))
    outcomes = await outcomes_of(answers, "a", "b")
    assert [len(outcomes[name]) for name in "ab"] == [1, 1]
    assert answers.singles == [["b"]]


@pytest.mark.anyio
@pytest.mark.parametrize(
    "error",
    [ServiceError("x", retry_after_s=0.01), RateLimitedError("x"), AuthenticationError("x"), TaskNotFoundError("x")],
)
async def test_the_loop_survives_every_error(error: KreaError, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_POLL_BACKOFF", RetryPolicy(first_wait_s=0.001, max_wait_s=0.001))
    outcomes = await outcomes_of(Answers(error, {}, error, error), "a", "b")
    assert [len(outcomes[name]) for name in "ab"] == [1, 1]


@pytest.mark.anyio
async def test_the_loop_follows_thousands() -> None:
    outcomes = await outcomes_of(Answers(), *(f"t{n}" for n in range(3000)))
    assert all(len(ends) == 1 for ends in outcomes.values())


@pytest.mark.anyio
async def test_reads_that_are_answered_429_keep_to_the_pace_that_is_allowed(
    session_of: Callable[..., KreaSession],
) -> None:
    """Tasks that are read all the time, and ten reads a second allowed: all are known in the end, and few refused."""
    polling = PollPolicy(shortest_s=0.01, longest_s=0.01, window_s=0.0, ahead_s=0.0)
    limits = Limits(per_second=10.0, burst=5, routes={"read", "batch"})
    async with (
        Sandbox(durations=Durations.fixed(1.5), limits=limits) as sandbox,
        session_of(sandbox, concurrency=60, polling=polling) as session,
    ):
        jobs = [await session.submit(f"fox {number}") for number in range(60)]
        with anyio.fail_after(60):
            tasks = [await job.wait() for job in jobs]
    assert {task.status for task in tasks} == {"completed"}
    refused = sandbox.ledger.statuses["read", 429] + sandbox.ledger.statuses["batch", 429]
    assert 0 < refused <= 0.5 * (sandbox.ledger.requests["read"] + sandbox.ledger.requests["batch"])


class Refusing(Answers):
    """Takes a moment for each answer, and counts the reads that come beside another while it is known to refuse."""

    under_way = beside = 0
    refused = known = False

    async def read_many(self, ids: list[str]) -> Readings:
        self.beside += self.known and self.under_way > 0
        self.under_way += 1
        try:
            await anyio.sleep(0.01)
            readings = await super().read_many(ids)
        except RateLimitedError:
            self.refused = True
            raise
        else:
            self.refused = False
            return readings
        finally:
            self.under_way -= 1
            asyncio.get_running_loop().call_soon(self._look)  # after those that were let go before this answer

    def _look(self) -> None:
        self.known = self.refused and (self.known or not self.under_way)


@pytest.mark.anyio
async def test_after_a_429_one_read_at_a_time_asks_whether_it_is_over() -> None:
    refusal = RateLimitedError("slow down", retry_after_s=0.02)
    answers = Refusing(*[refusal] * 10)
    outcomes = await outcomes_of(answers, *(f"t{n}" for n in range(300)))
    assert all(len(ends) == 1 for ends in outcomes.values())
    assert answers.beside == 0
    assert len(answers.batches) <= 10 + 2 * 300 / MAX_BATCH_IDS
