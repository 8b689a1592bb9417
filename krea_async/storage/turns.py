"""Who may fetch its picture now: one heap by deadline, as many at a time as are of use, one pause for all.

`control.fetching` decides; here it is waited for. A lane is given together with the wake-up, so none can be lost.
"""

import asyncio
import time
from types import TracebackType
from typing import Final, Self

from krea_async.control.fetching import FetchQueue, Lanes
from krea_async.errors import KreaError
from krea_async.tasks import loop_time_s

REFUSALS: Final = frozenset({429, 503})


class Turns:
    """The lanes of one session, and who waits for one."""

    def __init__(self, cap: int) -> None:
        self.lanes = Lanes(cap)
        self._queue: FetchQueue[asyncio.Future[None]] = FetchQueue()
        self._timer: asyncio.TimerHandle | None = None

    def turn(self, expires_s: float) -> "Turn":
        """A lane, for a block, that is waited for. expires_s: when the link dies, in Unix seconds."""
        return Turn(self, expires_s)

    async def take(self, expires_s: float) -> None:
        """Wait for a lane."""
        loop = asyncio.get_running_loop()
        if not self._queue and self.lanes.wait_s(loop.time()) == 0.0:
            self.lanes.begun()
            return
        given = loop.create_future()
        self._queue.add(given, expires_s)
        self.give()
        try:
            await given
        except asyncio.CancelledError:
            if given.cancelled():
                self._queue.discard(given)
            else:  # both at once: the lane is another's
                self.lanes.ended()
                self.give()
            raise

    def give(self) -> None:
        """Give the lanes that are free to those whose turn it is."""
        loop = asyncio.get_running_loop()
        while self._queue:
            wait_s = self.lanes.wait_s(loop.time())
            if wait_s is None:
                return
            if wait_s > 0.0:
                self._again_in(wait_s)
                return
            given = self._queue.pop(time.time(), self.lanes.takes_s)
            if not given.done():  # else it was cancelled just now
                given.set_result(None)
                self.lanes.begun()

    def _again_in(self, wait_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(wait_s, self.give)


class Turn:
    """One transfer's lane: `async with turns.turn(…) as turn`. size_bytes: what it brought; its user sets it."""

    __slots__ = ("_begun_s", "_expires_s", "_turns", "size_bytes")

    def __init__(self, turns: Turns, expires_s: float) -> None:
        self._turns = turns
        self._expires_s = expires_s
        self._begun_s = 0.0
        self.size_bytes = 0

    async def __aenter__(self) -> Self:
        await self._turns.take(self._expires_s)
        self._begun_s = loop_time_s()
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        lanes, now = self._turns.lanes, loop_time_s()
        if error is None:
            lanes.finished(now, self._begun_s, self.size_bytes)
        elif isinstance(error, KreaError) and error.status in REFUSALS:
            lanes.refused(now, self._begun_s, error.retry_after_s, told=error.status == 429)
        else:
            lanes.ended()
        self._turns.give()
