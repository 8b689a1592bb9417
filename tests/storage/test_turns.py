"""Waiting for a lane: whoever waits gets one, in the order of deadlines; who gives up takes none along."""

import asyncio
import time
from random import Random

import anyio
import pytest
from until import until

from krea_async.control.fetching import START_LANES
from krea_async.errors import DownloadError
from krea_async.storage.turns import Turns

pytestmark = pytest.mark.anyio


class Crowd:
    """Transfers that hold their lane until they are told to end."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.begun: list[str] = []
        self.go_on: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def come(self, name: str, expires_in_s: float = 86_400.0, error: Exception | None = None) -> None:
        """Join; returns when everybody has had the time to begin."""
        self.go_on[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._transfer(name, time.time() + expires_in_s, error))
        await anyio.wait_all_tasks_blocked()

    async def end(self, name: str) -> None:
        """End a transfer, and see who begins."""
        self.go_on[name].set()
        await asyncio.wait([self.tasks[name]])
        await anyio.wait_all_tasks_blocked()

    async def has_begun(self, name: str) -> None:
        """Wait for a transfer that a pause holds back."""
        await until(lambda: name in self.begun)

    async def _transfer(self, name: str, expires_s: float, error: Exception | None) -> None:
        async with self.turns.turn(expires_s) as turn:
            self.begun.append(name)
            await self.go_on[name].wait()
            turn.size_bytes = 1000
            if error is not None:
                raise error


async def full(cap: int) -> Crowd:
    """All lanes taken, by "first 0", "first 1" …"""
    crowd = Crowd(Turns(cap))
    for number in range(cap):
        await crowd.come(f"first {number}")
    assert len(crowd.begun) == cap
    crowd.begun.clear()
    return crowd


async def test_those_whose_links_die_first_are_first_and_fresh_ones_are_among_them() -> None:
    crowd = await full(1)
    await crowd.come("c", 300.0)
    await crowd.come("a", 100.0)
    await crowd.come("dead", -50.0)
    await crowd.end("first 0")
    await crowd.come("b", 200.0)
    for name in ("a", "b", "c", "dead"):
        await crowd.end(name)
    assert crowd.begun == ["a", "b", "c", "dead"]


async def test_who_is_cancelled_while_waiting_leaves_no_gap() -> None:
    crowd = await full(2)
    for name in "abc":
        await crowd.come(name, ord(name))
    crowd.tasks["a"].cancel()
    await asyncio.wait([crowd.tasks["a"]])
    await crowd.end("first 0")
    await crowd.end("first 1")
    assert crowd.begun == ["b", "c"]
    assert crowd.turns.lanes.in_flight == 2
    for name in "bc":
        await crowd.end(name)
    assert crowd.turns.lanes.in_flight == 0


@pytest.mark.parametrize("order", ["lane first", "cancelled first"])
async def test_who_is_cancelled_as_it_gets_a_lane_gives_it_to_the_next(order: str) -> None:
    """Both in one step of the loop: whoever is cancelled has not heard of it yet."""
    crowd = await full(1)
    await crowd.come("a", 100.0)
    await crowd.come("b", 200.0)
    if order == "cancelled first":
        crowd.tasks["a"].cancel()
    crowd.turns.lanes.ended()  # as the transfer's end would, before anything else can run
    crowd.turns.give()
    if order == "lane first":
        crowd.tasks["a"].cancel()
    await anyio.wait_all_tasks_blocked()
    assert crowd.begun == ["b"]
    assert crowd.tasks["a"].cancelled()
    assert crowd.turns.lanes.in_flight == 1
    crowd.turns.lanes.begun()  # what the first transfer's own end gives back
    for name in ("first 0", "b"):
        await crowd.end(name)
    assert crowd.turns.lanes.in_flight == 0


@pytest.mark.parametrize("seed", range(5))
async def test_however_they_come_end_break_and_are_cancelled_nobody_waits_for_ever(seed: int) -> None:
    rng, turns, begun = Random(seed), Turns(5), 0

    async def transfer() -> None:
        nonlocal begun
        async with turns.turn(time.time() + rng.uniform(-10.0, 1000.0)):
            begun += 1
            for _ in range(rng.randrange(4)):
                await asyncio.sleep(0)
            if rng.random() < 0.2:
                raise DownloadError("broken", status=rng.choice([None, 404, 503]), retryable=True)

    tasks = [asyncio.create_task(transfer()) for _ in range(300)]
    for task in tasks:
        await asyncio.sleep(0)
        if rng.random() < 0.3:
            task.cancel()
    with anyio.fail_after(10):
        await asyncio.wait(tasks)
    ended_well = sum(not task.cancelled() and task.exception() is None for task in tasks)
    assert turns.lanes.in_flight == 0
    assert 100 < ended_well <= begun


async def test_a_pause_that_the_host_asks_for_holds_everybody_back_and_then_one_asks_first() -> None:
    crowd = Crowd(Turns(16))
    refusal = DownloadError("slow down", status=429, retry_after_s=2.0, retryable=True)
    await crowd.come("refused", error=refusal)
    at_s = asyncio.get_running_loop().time()
    await crowd.end("refused")
    assert crowd.tasks["refused"].exception() is refusal
    for name in "abc":
        await crowd.come(name, ord(name))
    assert crowd.begun == ["refused"]
    await crowd.has_begun("a")
    assert asyncio.get_running_loop().time() - at_s >= 2.0
    assert crowd.begun == ["refused", "a"]
    await crowd.end("a")
    assert crowd.begun == ["refused", "a", "b", "c"]
    for name in "bc":
        await crowd.end(name)


async def test_a_pause_that_grows_is_waited_for_to_its_end() -> None:
    crowd = Crowd(Turns(16))
    for name, retry_after_s in (("short", 0.05), ("long", 0.3)):
        await crowd.come(name, error=DownloadError("", status=503, retry_after_s=retry_after_s, retryable=True))
    at_s = asyncio.get_running_loop().time()
    await crowd.end("short")
    await crowd.come("a")
    await crowd.end("long")
    await crowd.come("b")
    await crowd.has_begun("a")
    assert asyncio.get_running_loop().time() - at_s >= 0.3
    for name in "ab":
        await crowd.end(name)
    assert crowd.turns.lanes.in_flight == 0
    assert [task.exception() is None for task in crowd.tasks.values()] == [False, False, True, True]


async def test_a_single_picture_begins_at_once() -> None:
    turns = Turns(16)
    begun = [asyncio.ensure_future(turns.take(0.0)) for _ in range(START_LANES + 1)]
    await asyncio.sleep(0)
    assert [task.done() for task in begun] == [True] * START_LANES + [False]
    begun[-1].cancel()
    await asyncio.wait(begun)
