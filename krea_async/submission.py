"""Who submits when: one queue for all callers of a session, in front of the gateway's create.

A request waits here for its turn, is sent, and keeps its place at the head when the gateway says 429, which is never
the prompt's fault. A lost answer is asked for again under the same idempotency key, because the task may have been
made.
"""

import asyncio
import heapq
import logging
from itertools import count
from random import Random
from typing import Final

from attrs import define, field

from krea_async.control.backoff import RetryPolicy
from krea_async.control.pace import Pace
from krea_async.errors import (
    AccessDeniedError,
    AuthenticationError,
    InsufficientCreditsError,
    KreaError,
    RateLimitedError,
)
from krea_async.gateway.client import Gateway
from krea_async.models import ImageRequest, Task

log = logging.getLogger(__name__)

MAX_POSTS_AT_ONCE: Final = 64
"""Creates under way at the same time. More would not be faster, and each one costs a socket."""


@define(eq=False)
class Stop:
    """A one-way switch: why nothing new leaves any more. The session has one, and each batch has its own."""

    reason: KreaError | None = None


@define(order=True)
class _Waiter:
    """A request in the queue; the lowest `place` is next."""

    place: int
    stop: Stop = field(eq=False, order=False)
    maybe_paid: bool = field(eq=False, order=False)
    turn: "asyncio.Future[float]" = field(eq=False, order=False)


class NotSubmittedError(Exception):
    """A request was not sent, because submissions were stopped for `reason`. Nothing was charged."""

    def __init__(self, reason: KreaError) -> None:
        super().__init__(str(reason))
        self.reason = reason


class Submitter:
    """The queue of a session. `max_unfinished`: tasks that may be unfinished on the gateway at the same time."""

    def __init__(self, gateway: Gateway, pace: Pace, retries: RetryPolicy, *, max_unfinished: int, rng: Random) -> None:
        self._gateway = gateway
        self._pace = pace
        self._retries = retries
        self._rng = rng
        self._max_unfinished = max_unfinished
        self._places = count()
        self._queue: list[_Waiter] = []
        self._timer: asyncio.TimerHandle | None = None
        self._posting = 0
        self._unfinished = 0
        self._session_stop = Stop()
        self.rate_limited = 0

    async def submit(self, request: ImageRequest, *, key: str, stop: Stop | None = None) -> Task:
        """Have a task made of `request`. Call `finished` once when it is not unfinished any more.

        Raises NotSubmittedError if submissions were stopped before the request left; else a member of the KreaError
        tree whose `charged` says whether the task may exist all the same.
        """
        stop = stop or self._session_stop
        place = next(self._places)
        failures, maybe_paid = 0, False
        while True:
            sent_s = await self._turn(place, stop, maybe_paid=maybe_paid)
            try:
                task = await self._gateway.create(request, key=key)
            except RateLimitedError as error:
                self.rate_limited += 1
                self._answered()
                self._pace.rejected(self._now(), sent_s, error.retry_after_s)
                log.info("submission refused: %s", error)
            except KreaError as error:
                self._answered()
                self._pace.unanswered()
                failures += 1
                maybe_paid = maybe_paid or error.charged == "unknown"
                if isinstance(error, AuthenticationError | InsufficientCreditsError | AccessDeniedError):
                    self.stop(error)
                if self._retries.gives_up(failures, error):
                    error.charged = "unknown" if maybe_paid else "no"
                    raise
                wait_s = self._retries.wait_s(failures, self._rng, error.retry_after_s)
                log.info("submission failed: %s; try %d under the same key in %.1f s", error, failures + 1, wait_s)
                await asyncio.sleep(wait_s)
            except BaseException:
                self._answered()
                self._pace.unanswered()
                raise
            else:
                self._unfinished += 1
                self._answered()
                self._pace.accepted(self._now(), sent_s)
                return task
            finally:
                self._let_go()

    def finished(self) -> None:
        """A task that `submit` returned is not unfinished any more."""
        self._unfinished -= 1
        self._let_go()

    def stop(self, reason: KreaError, stop: Stop | None = None) -> None:
        """Let nothing new leave from now on that was submitted under `stop` or, with None, nothing at all.

        What may have been paid for is not given up: a request whose answer was lost is still asked for.
        """
        stop = stop or self._session_stop
        stop.reason = stop.reason or reason
        for waiter in self._queue:
            concerned = stop in {self._session_stop, waiter.stop}
            if concerned and not waiter.maybe_paid and not waiter.turn.done():
                waiter.turn.set_exception(NotSubmittedError(reason))
        self._let_go()

    def stopped_by(self, stop: Stop | None = None) -> KreaError | None:
        """Why nothing new leaves any more, under `stop` or at all."""
        return self._session_stop.reason or (stop.reason if stop is not None else None)

    async def _turn(self, place: int, stop: Stop, *, maybe_paid: bool) -> float:
        """Wait until this request may leave. From here on it counts as being posted; returns when that was."""
        reason = self.stopped_by(stop)
        if reason is not None and not maybe_paid:
            raise NotSubmittedError(reason)
        waiter = _Waiter(place, stop, maybe_paid, asyncio.get_running_loop().create_future())
        heapq.heappush(self._queue, waiter)
        self._let_go()
        try:
            return await waiter.turn
        except asyncio.CancelledError:
            if waiter.turn.done() and not waiter.turn.cancelled() and waiter.turn.exception() is None:
                self._answered()
                self._pace.unanswered()
            self._let_go()
            raise

    def _let_go(self) -> None:
        """Give a turn to everyone who may leave now, in order, and set the timer for the next one."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._queue:
            if self._queue[0].turn.done():
                heapq.heappop(self._queue)
                continue
            if self._posting >= MAX_POSTS_AT_ONCE or self._posting + self._unfinished >= self._max_unfinished:
                return
            now = self._now()
            wait_s = self._pace.wait_s(now)
            if wait_s is None:
                return
            if wait_s > 0:
                self._timer = asyncio.get_running_loop().call_later(wait_s, self._let_go)
                return
            self._posting += 1
            self._pace.sent(now)
            heapq.heappop(self._queue).turn.set_result(now)

    def _answered(self) -> None:
        self._posting -= 1

    def _now(self) -> float:
        return asyncio.get_running_loop().time()
