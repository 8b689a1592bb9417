"""The poll loop: one per session, asks the scheduler what is due, reads it, and tells the scheduler what came."""

import asyncio
import logging
import math
from collections.abc import Callable
from typing import Final

import anyio
from anyio.abc import TaskGroup

from krea_async.errors import KreaError
from krea_async.gateway.client import Gateway
from krea_async.scheduler import Followed, Scheduler

log = logging.getLogger(__name__)

MAX_READS_AT_ONCE: Final = 8
"""Batch reads under way at the same time: with 50 ids each, thousands of tasks per second even over slow lines."""


class Poller:
    """Reads what the scheduler says is due, until it is cancelled. Nothing that a read raises ends it."""

    def __init__(self, gateway: Gateway, scheduler: Scheduler) -> None:
        self._gateway = gateway
        self._scheduler = scheduler
        self._reading = 0
        self._left_behind: Callable[[str], KreaError] | None = None
        self._wake_s = -math.inf
        self._woken = asyncio.Event()
        self._read_done = asyncio.Event()

    def follow(self, followed: Followed) -> None:
        """Have a task's outcome found out."""
        self._scheduler.follow(followed, self._now())
        if self._left_behind is not None:  # accepted after the end: nobody will read it any more
            self._scheduler.end_all(self._left_behind)
        if self._scheduler.next_read_s() < self._wake_s:
            self._woken.set()

    def forget(self, followed: Followed) -> bool:
        """Follow a task no further, and give it no outcome. False if it has one already."""
        forgotten = self._scheduler.forget(followed)
        self._tell_drain()
        return forgotten

    @property
    def busy(self) -> bool:
        """Whether any task is followed."""
        return len(self._scheduler) > 0

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
                self._wake_s = self._scheduler.next_read_s() if self._reading < MAX_READS_AT_ONCE else math.inf
                self._woken.clear()
                with anyio.move_on_after(self._wake_s - self._now()):
                    await self._woken.wait()

    def _start_reads(self, reads: TaskGroup) -> None:
        while self._reading < MAX_READS_AT_ONCE and (ids := self._scheduler.take_due(self._now())):
            self._reading += 1
            reads.start_soon(self._read, ids)

    async def _read(self, ids: list[str]) -> None:
        try:
            missing = self._scheduler.read(ids, await self._gateway.read_many(ids), self._now())
            if missing:
                log.info("%d tasks were missing in a reply and are read singly", len(missing))
                ids = missing
                self._scheduler.read(ids, await self._gateway.read_singly(ids), self._now())
        except KreaError as error:
            self._scheduler.not_read(ids, error, self._now())
        finally:
            self._reading -= 1
            self._woken.set()
            self._tell_drain()

    def _tell_drain(self) -> None:
        self._read_done.set()
        self._read_done.clear()

    def _now(self) -> float:
        return asyncio.get_running_loop().time()
