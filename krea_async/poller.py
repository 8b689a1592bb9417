"""The poll loop: one per session, asks the scheduler what is due, reads it, and tells the scheduler what came.

The scheduler says when a read is worth its while. Should the gateway answer reads with 429, a governor of their own
says when the next request may leave.
"""

import asyncio
import logging
import math
from collections.abc import Callable
from random import Random
from typing import Final

import anyio
from anyio.abc import TaskGroup

from krea_async.control.governor import Governor, PacingPolicy, Sent
from krea_async.errors import KreaError, RateLimitedError
from krea_async.events import Events, Polled
from krea_async.followed import Followed
from krea_async.gateway.client import Gateway, Readings
from krea_async.models import Task
from krea_async.results import error_code
from krea_async.scheduler import Scheduler
from krea_async.tasks import loop_time_s

log = logging.getLogger(__name__)

MAX_READS_AT_ONCE: Final = 16
"""Batch reads under way at the same time: with 50 ids each, 8,000 reads a second at a round trip of 0.1 s."""

READ_PACING: Final = PacingPolicy(first_rate=1000.0, window=False)
"""Reads are paced by what is due, and by nothing else before the first 429. They leave nothing unfinished."""


class Poller:
    """Reads what the scheduler says is due, until it is cancelled. Nothing that a read raises ends it."""

    def __init__(
        self, gateway: Gateway, scheduler: Scheduler, rng: Random | None = None, events: Events | None = None
    ) -> None:
        self._gateway = gateway
        self._events = events or Events()
        self._scheduler = scheduler
        self._governor = Governor(READ_PACING, rng=rng or Random())
        self._reading = 0
        self._left_behind: Callable[[str], KreaError] | None = None
        self._wake_s = -math.inf
        self._woken = asyncio.Event()
        self._read_done = asyncio.Event()

    def follow(self, followed: Followed) -> None:
        """Have a task's outcome found out."""
        self._scheduler.follow(followed, loop_time_s())
        if self._left_behind is not None:  # accepted after the end: nobody will read it any more
            self._scheduler.end_all(self._left_behind)
        if self._scheduler.next_read_s() < self._wake_s:
            self._woken.set()

    def forget(self, followed: Followed) -> bool:
        """Follow a task no further, and give it no outcome. False if it has one already."""
        forgotten = self._scheduler.forget(followed)
        self._tell_drain()
        return forgotten

    def notify(self, task_id: str) -> None:
        """A callback says that this task has finished: it is read soon. An id that nobody follows costs nothing."""
        self._scheduler.hint(task_id, loop_time_s())
        if self._scheduler.next_read_s() < self._wake_s:
            self._woken.set()

    @property
    def busy(self) -> bool:
        """Whether any task is followed."""
        return len(self._scheduler) > 0

    @property
    def followed(self) -> int:
        """How many tasks are followed."""
        return len(self._scheduler)

    async def drain(self) -> None:
        """Wait until no task is followed any more."""
        while self.busy:
            await self._read_done.wait()

    def end(self, reason: Callable[[str], KreaError]) -> None:
        """Follow nothing any more; each task's outcome is `reason(task_id)`."""
        self._left_behind = reason
        self._scheduler.end_all(reason)

    async def run(self) -> None:
        """The loop."""
        async with anyio.create_task_group() as reads:
            while True:
                self._start_reads(reads)
                self._woken.clear()
                with anyio.move_on_after(self._wake_s - loop_time_s()):
                    await self._woken.wait()

    def _start_reads(self, reads: TaskGroup) -> None:
        now = loop_time_s()
        while (wake_s := self._next_read_s(now)) <= now and (ids := self._scheduler.take_due(now)):
            self._reading += 1
            reads.start_soon(self._read, ids, self._governor.sent(now, 0))
        self._wake_s = wake_s

    def _next_read_s(self, now: float) -> float:
        """When the next request may leave, and has something to ask; infinity: not before something happens."""
        if self._reading >= MAX_READS_AT_ONCE:
            return math.inf
        due_s = self._scheduler.next_read_s()
        if due_s > now:
            return due_s
        wait_s = self._governor.wait_s(now, 0)
        return math.inf if wait_s is None else now + wait_s

    async def _read(self, ids: list[str], sent: Sent) -> None:
        asked_s = loop_time_s()
        try:
            readings = await self._read_many(ids, sent)
            self._tell(ids, asked_s, readings)
            missing = self._scheduler.read(ids, readings, loop_time_s())
            if missing:
                log.info("%d tasks were missing in a reply and are read singly", len(missing))
                ids, asked_s = missing, loop_time_s()
                readings = await self._gateway.read_singly(ids)
                self._tell(ids, asked_s, readings)
                self._scheduler.read(ids, readings, loop_time_s())
        except KreaError as error:
            self._tell(ids, asked_s, {}, error)
            self._scheduler.not_read(ids, error, loop_time_s())
        finally:
            self._reading -= 1
            self._woken.set()
            self._tell_drain()

    async def _read_many(self, ids: list[str], sent: Sent) -> Readings:
        """Read these tasks, and let the governor know whether that was too much."""
        try:
            readings = await self._gateway.read_many(ids)
        except RateLimitedError as refusal:
            self._governor.rejected(loop_time_s(), sent, refusal.retry_after_s)
            raise
        except BaseException:
            self._governor.unanswered(loop_time_s(), sent)
            raise
        refused = next((reading for reading in readings.values() if isinstance(reading, RateLimitedError)), None)
        if refused is None:
            self._governor.accepted(loop_time_s(), sent)
        else:
            self._governor.rejected(loop_time_s(), sent, refused.retry_after_s)
        return readings

    def _tell(self, ids: list[str], asked_s: float, readings: Readings, error: KreaError | None = None) -> None:
        if not self._events.wanted:
            return
        finished = (task.id for task in readings.values() if isinstance(task, Task) and task.finished)
        refused = any(isinstance(reading, RateLimitedError) for reading in (error, *readings.values()))
        self._events.tell(
            Polled(
                task_ids=tuple(ids),
                finished=tuple(finished),
                seconds=loop_time_s() - asked_s,
                error=None if error is None else error_code(error),
                refused=refused,
            )
        )

    def _tell_drain(self) -> None:
        self._read_done.set()
        self._read_done.clear()
