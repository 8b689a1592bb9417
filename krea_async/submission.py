"""Who submits when: one queue for all callers of a session, in front of the gateway's create.

A request waits here for its turn, is sent, and keeps its place at the head when the gateway says 429, which is never
the prompt's fault. A lost answer is asked for again under the same idempotency key, because the task may have been
made.
"""

import asyncio
import heapq
import logging
from collections.abc import Awaitable, Callable
from copy import copy
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
class _Row:
    """A request on its way to a task. In the queue, those that hold a place come first, then the older ones.

    turn: done when it may leave. holds_place: it counts among the unfinished: while it is sent, when it was refused and
    waits at the head, and when its task may exist. maybe_paid: an answer was lost, so its task may exist. before: what
    is to be done before it leaves for the first time.
    """

    rank: tuple[bool, int] = field(init=False)
    number: int = field(eq=False)
    stop: Stop = field(eq=False)
    turn: "asyncio.Future[float]" = field(eq=False, init=False)
    holds_place: bool = field(default=False, eq=False)
    maybe_paid: bool = field(default=False, eq=False)
    before: Callable[[], Awaitable[None]] | None = field(default=None, eq=False)
    failures: int = field(default=0, eq=False)


class NotSubmittedError(Exception):
    """A request was not sent, because submissions were stopped for `reason`. Nothing was charged."""

    def __init__(self, reason: KreaError) -> None:
        super().__init__(str(reason))
        self.reason = copy(reason)
        self.reason.charged = "no"  # whatever the request cost that met the reason
        self.reason.task_id = None


class Submitter:
    """The queue of a session. `max_unfinished`: tasks that may be unfinished on the gateway at the same time."""

    def __init__(self, gateway: Gateway, pace: Pace, retries: RetryPolicy, *, max_unfinished: int, rng: Random) -> None:
        self._gateway = gateway
        self._pace = pace
        self._retries = retries
        self._rng = rng
        self._max_unfinished = max_unfinished
        self._numbers = count()
        self._queue: list[_Row] = []
        self._timer: asyncio.TimerHandle | None = None
        self._posting = 0
        self._places_held = 0
        self._session_stop = Stop()
        self.rate_limited = 0

    async def submit(
        self,
        request: ImageRequest,
        *,
        key: str,
        stop: Stop | None = None,
        maybe_paid: bool = False,
        before: Callable[[], Awaitable[None]] | None = None,
        accepted: Callable[[Task, bool], Awaitable[None]] | None = None,
    ) -> Task:
        """Have a task made of `request`. Call `finished` once when it is not unfinished any more.

        maybe_paid: it was sent under this key before, and the answer was lost. before: awaited when it may leave for
        the first time. accepted: awaited with the task, and whether an answer was lost on the way, before anything else
        happens to it. What they raise ends the submission.
        Raises NotSubmittedError if submissions were stopped before the request left; else a member of the KreaError
        tree whose `charged` says whether the task may exist all the same.
        """
        row = _Row(next(self._numbers), stop or self._session_stop, maybe_paid=maybe_paid, before=before)
        try:
            while True:
                try:
                    task = await self._try(row, request, key)
                except KreaError as error:
                    await asyncio.sleep(self._backoff_s(row, error))
                    continue
                if task is not None:
                    if accepted is not None:
                        await accepted(task, row.maybe_paid)
                    return task
        except BaseException:
            self._give_place_back(row)
            raise
        finally:
            self._let_go()

    async def _try(self, row: _Row, request: ImageRequest, key: str) -> Task | None:
        """One try, in its turn. None: the gateway said 429, so the row goes back to the head of the queue."""
        sent_s = await self._turn(row)
        try:
            if row.before is not None:
                await row.before()
                row.before = None
            task = await self._gateway.create(request, key=key)
        except RateLimitedError as error:
            self.rate_limited += 1
            self._pace.rejected(self._now(), sent_s, error.retry_after_s)
            log.info("submission refused: %s", error)
            return None
        except BaseException as error:
            self._pace.unanswered()
            if isinstance(error, asyncio.CancelledError) and row.before is None:
                log.warning("cancelled while it was being submitted, so it may be paid for: %.60r", request.prompt)
            raise
        else:
            self._pace.accepted(self._now(), sent_s)
            return task
        finally:
            self._posting -= 1

    def _backoff_s(self, row: _Row, error: KreaError) -> float:
        """How long the row waits before it tries again. Raises `error` if it does not."""
        row.failures += 1
        row.maybe_paid = row.maybe_paid or error.charged == "unknown"
        if isinstance(error, AuthenticationError | InsufficientCreditsError | AccessDeniedError):
            self.stop(error)
        if self._retries.gives_up(row.failures, error):
            error.charged = "unknown" if row.maybe_paid else "no"
            raise error
        wait_s = self._retries.wait_s(row.failures, self._rng, error.retry_after_s)
        log.info("submission failed: %s; try %d under the same key in %.1f s", error, row.failures + 1, wait_s)
        if not row.maybe_paid:
            self._give_place_back(row)
        self._let_go()
        return wait_s

    def _give_place_back(self, row: _Row) -> None:
        self._places_held -= row.holds_place
        row.holds_place = False

    def adopt(self) -> None:
        """A task of an earlier run counts among the unfinished from now on, until `finished`."""
        self._places_held += 1

    def finished(self) -> None:
        """A task that `submit` returned, or that was adopted, is not unfinished any more."""
        self._places_held -= 1
        self._let_go()

    def stop(self, reason: KreaError, stop: Stop | None = None) -> None:
        """Let nothing new leave from now on that was submitted under `stop` or, with None, nothing at all.

        What may have been paid for is not given up: a request whose answer was lost is still asked for.
        """
        stop = stop or self._session_stop
        stop.reason = stop.reason or reason
        for row in self._queue:
            concerned = stop in {self._session_stop, row.stop}
            if concerned and not row.maybe_paid and not row.turn.done():
                row.turn.set_exception(NotSubmittedError(reason))
        self._let_go()

    def stopped_by(self, stop: Stop | None = None) -> KreaError | None:
        """Why nothing new leaves any more, under `stop` or at all."""
        return self._session_stop.reason or (stop.reason if stop is not None else None)

    async def _turn(self, row: _Row) -> float:
        """Wait until this row may leave, and say when that was. From then on it is being posted."""
        reason = self.stopped_by(row.stop)
        if reason is not None and not row.maybe_paid:
            raise NotSubmittedError(reason)
        row.rank = (not row.holds_place, row.number)
        row.turn = asyncio.get_running_loop().create_future()
        heapq.heappush(self._queue, row)
        self._let_go()
        try:
            return await row.turn
        except asyncio.CancelledError:
            if row.turn.done() and not row.turn.cancelled() and row.turn.exception() is None:
                self._posting -= 1
                self._pace.unanswered()
            raise

    def _let_go(self) -> None:
        """Give a turn to every row that may leave now, in order, and set the timer for the next one."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._queue:
            row = self._queue[0]
            if row.turn.done():
                heapq.heappop(self._queue)
                continue
            if self._posting >= MAX_POSTS_AT_ONCE:
                return
            if not row.holds_place and self._places_held >= self._max_unfinished:
                return
            now = self._now()
            wait_s = self._pace.wait_s(now)
            if wait_s is None:
                return
            if wait_s > 0:
                self._timer = asyncio.get_running_loop().call_later(wait_s, self._let_go)
                return
            heapq.heappop(self._queue)
            self._posting += 1
            self._places_held += not row.holds_place
            row.holds_place = True
            self._pace.sent(now)
            row.turn.set_result(now)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()
