"""Who submits when: one queue for all callers of a session, in front of the gateway's create.

A request waits here for its turn, is sent, and goes back to the head of the queue when the gateway says 429, which is
never the prompt's fault. A lost answer is asked for again under the same idempotency key, because the task may have
been made. When somebody may leave is the governor's decision; here it is carried out.
"""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from itertools import count
from random import Random
from typing import Any, Final

from krea_async.control.backoff import RetryPolicy
from krea_async.control.governor import Governor, Limit, Sent
from krea_async.errors import (
    AccessDeniedError,
    AuthenticationError,
    InsufficientCreditsError,
    KreaError,
    RateLimitedError,
)
from krea_async.events import Events, LimitFound
from krea_async.gateway.client import Gateway
from krea_async.models import ImageRequest, Task
from krea_async.story import Story
from krea_async.tasks import loop_time_s
from krea_async.waiting import NotSubmittedError, Priority, Row, Stop, WaitingRows

log = logging.getLogger(__name__)

MAX_POSTS_AT_ONCE: Final = 64
"""Creates under way at the same time. More would not be faster, and each one costs a socket."""

NEWS: Final = 0.05
"""A limit that changes by less than this part of it is not told again."""


class Submitter:
    """The queue of a session.

    max_unfinished: tasks that may be unfinished on the gateway at the same time. limit_found: called when the governor
    has come to another opinion of what the gateway allows. in_flight: tasks that may be unfinished now. callback_url:
    where new requests that name no address of their own are to be reported; None: nowhere.
    """

    def __init__(
        self,
        gateway: Gateway,
        governor: Governor,
        retries: RetryPolicy,
        *,
        max_unfinished: int,
        rng: Random,
        events: Events,
        limit_found: Callable[[Limit | None], None] = lambda _: None,
    ) -> None:
        self._gateway = gateway
        self._events = events
        self._limit_found = limit_found
        self._limit = governor.limit
        self._retries = retries
        self._rng = rng
        self._max_unfinished = max_unfinished
        self._numbers = count()
        self._queue = WaitingRows()
        self._backing_off: dict[int, Row] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._posting = 0
        self._session_stop = Stop()
        self.governor = governor
        self.callback_url: str | None = None
        self._places_kept = 0
        self.in_flight = 0
        self.rate_limited = 0

    @property
    def waiting(self) -> int:
        """Requests that wait for their turn, or for their next try."""
        return len(self._queue) + len(self._backing_off)

    async def submit(
        self,
        request: ImageRequest,
        *,
        key: str,
        stop: Stop | None = None,
        priority: Priority = "batch",
        maybe_paid: bool = False,
        before: Callable[[], Awaitable[None]] | None = None,
        accepted: Callable[[Task, bool], Awaitable[None]] | None = None,
        callback_url: str | None = None,
        story: Story | None = None,
    ) -> Task:
        """Have a task made of `request`. Call `finished` once when it is not unfinished any more.

        priority: see `WaitingRows`. callback_url: see `Gateway.create`. maybe_paid: it was sent under this key before,
        and the answer was lost. before: awaited when it may leave for the first time. accepted: awaited with the task,
        and whether an answer was lost on the way, before anything else happens to it. What they raise ends the
        submission. story: its events.
        Raises NotSubmittedError if submissions were stopped before the request left; else a member of the KreaError
        tree whose `charged` says whether the task may exist all the same.
        """
        row = Row(
            next(self._numbers),
            stop or self._session_stop,
            priority=priority,
            maybe_paid=maybe_paid,
            before=before,
            story=story,
        )
        try:
            while True:
                try:
                    answer = await self._try(row, request, key, callback_url)
                except KreaError as error:
                    if callback_url is not None and error.code == "idempotency_conflict":
                        callback_url, wait_s = None, 0.0  # an earlier run sent it without one
                    else:
                        wait_s = self._backoff_s(row, error)
                else:
                    if isinstance(answer, Task):
                        self._let_go()  # what follows here is no reason for others to wait
                        if accepted is not None:
                            await accepted(answer, row.maybe_paid)
                        self._tell_limit()
                        return answer
                    wait_s = answer
                await self._back_off(row, wait_s)
        except BaseException:
            self._give_place_back(row)
            raise
        finally:
            self._let_go()

    async def _try(self, row: Row, request: ImageRequest, key: str, callback_url: str | None) -> Task | float:
        """One try, in its turn. After a 429: the seconds that this row is to wait for itself before the next one."""
        sent = await self._turn(row)
        try:
            if row.before is not None:
                await row.before()
                row.before = None
            task = await self._gateway.create(request, key=key, callback_url=callback_url)
        except RateLimitedError as refusal:
            log.info("submission refused: %s", refusal)
            self.rate_limited += 1
            wait_s = self.governor.rejected(loop_time_s(), sent, refusal.retry_after_s)
            if row.story is not None:
                row.story.refused(retry_after_s=refusal.retry_after_s, in_flight=sent.in_flight)
            self._tell_limit()
            return wait_s
        except BaseException as error:
            self.governor.unanswered(loop_time_s(), sent)
            if isinstance(error, asyncio.CancelledError) and row.before is None:
                log.warning("cancelled while it was being submitted, so it may be paid for: %.60r", request.prompt)
            raise
        else:
            self.governor.accepted(loop_time_s(), sent)
            return task
        finally:
            self._posting -= 1

    def _tell_limit(self) -> None:
        limit = self.governor.limit
        if limit is not self._limit and not _alike(limit, self._limit):
            self._limit = limit
            log.info("the gateway's limit looks like %s", limit or "none that is met")
            self._events.tell(LimitFound(limit=limit))
            self._limit_found(limit)

    def _backoff_s(self, row: Row, error: KreaError) -> float:
        """How long the row waits before it tries again after a failure. Raises `error` if it does not."""
        row.failures += 1
        row.maybe_paid = row.maybe_paid or error.charged == "unknown"
        if isinstance(error, AuthenticationError | InsufficientCreditsError | AccessDeniedError):
            self.stop(error)
        if self._retries.gives_up(row.failures, error):
            error.charged = "unknown" if row.maybe_paid else "no"
            raise error
        wait_s = self._retries.wait_s(row.failures, self._rng, error.retry_after_s)
        log.info("submission failed: %s; try %d under the same key in %.1f s", error, row.failures + 1, wait_s)
        if row.story is not None:
            row.story.retries(error, failures=row.failures, wait_s=wait_s)
        return wait_s

    async def _back_off(self, row: Row, wait_s: float) -> None:
        """Wait for `wait_s`. A place is kept meanwhile only for a task that may exist. Raises NotSubmittedError."""
        if not row.maybe_paid:
            self._give_place_back(row)
        if wait_s <= 0:
            return
        self._refuse_if_stopped(row)
        self._let_go()
        loop = asyncio.get_running_loop()
        row.backed_off = loop.create_future()
        timer = loop.call_later(wait_s, _end, row.backed_off)
        self._backing_off[row.number] = row
        self._keep_place(row)
        try:
            await row.backed_off
        finally:
            self._leave_place(row)
            timer.cancel()
            del self._backing_off[row.number]

    def _give_place_back(self, row: Row) -> None:
        self.in_flight -= row.holds_place
        row.holds_place = False

    def adopt(self) -> None:
        """A task of an earlier run counts among the unfinished from now on, until `finished`."""
        self.in_flight += 1

    def finished(self) -> None:
        """A task that `submit` returned, or that was adopted, is not unfinished any more."""
        self.in_flight -= 1
        self._let_go()

    def stop(self, reason: KreaError, stop: Stop | None = None) -> None:
        """Let nothing new leave from now on that was submitted under `stop` or, with None, nothing at all.

        What may have been paid for is not given up: a request whose answer was lost is still asked for.
        """
        stop = stop or self._session_stop
        stop.reason = stop.reason or reason
        waiting: list[tuple[Row, asyncio.Future[Any]]] = [(row, row.turn) for row in self._queue]
        waiting += [(row, row.backed_off) for row in self._backing_off.values()]
        for row, future in waiting:
            concerned = stop in {self._session_stop, row.stop}
            if concerned and not row.maybe_paid and not future.done():
                future.set_exception(NotSubmittedError(reason))
        self._let_go()

    def stopped_by(self, stop: Stop | None = None) -> KreaError | None:
        """Why nothing new leaves any more, under `stop` or at all."""
        return self._session_stop.reason or (stop.reason if stop is not None else None)

    def _refuse_if_stopped(self, row: Row) -> None:
        reason = self.stopped_by(row.stop)
        if reason is not None and not row.maybe_paid:
            raise NotSubmittedError(reason)

    async def _turn(self, row: Row) -> Sent:
        """Wait until this row may leave. From then on it is being posted, and counts among what is in flight."""
        self._refuse_if_stopped(row)
        row.turn = asyncio.get_running_loop().create_future()
        self._queue.push(row)
        self._keep_place(row)
        self._let_go()
        try:
            return await row.turn
        except asyncio.CancelledError:
            if row.turn.done() and not row.turn.cancelled() and row.turn.exception() is None:
                self._posting -= 1
                self.governor.unanswered(loop_time_s(), row.turn.result())
            raise
        finally:
            self._leave_place(row)

    def _let_go(self) -> None:
        """Give a turn to every row that may leave now, in order, and set the timer for the next one."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while (row := self._queue.head()) is not None:
            if self._posting >= MAX_POSTS_AT_ONCE:
                return
            if not row.holds_place and self.in_flight >= self._max_unfinished:
                return
            now = loop_time_s()
            others_in_flight = self.in_flight - self._places_kept
            wait_s = self.governor.wait_s(now, others_in_flight)
            if wait_s is None:
                return
            if wait_s > 0:
                self._timer = asyncio.get_running_loop().call_later(wait_s, self._let_go)
                return
            self._queue.pop(row)
            self._leave_place(row)
            self._posting += 1
            self.in_flight += not row.holds_place
            row.holds_place = True
            row.turn.set_result(self.governor.sent(now, others_in_flight))

    def _keep_place(self, row: Row) -> None:
        """Note that the row waits, and keeps a place meanwhile: if such rows held up each other, nobody would ask."""
        row.keeps_place = row.holds_place
        self._places_kept += row.keeps_place

    def _leave_place(self, row: Row) -> None:
        self._places_kept -= row.keeps_place
        row.keeps_place = False


def _alike(limit: Limit | None, other: Limit | None) -> bool:
    """Whether two opinions differ by no more than estimates do from one moment to the next."""
    if limit is None or other is None or limit.kind != other.kind:
        return limit is other
    return math.isclose(limit.value, other.value, rel_tol=NEWS)


def _end(waiting: "asyncio.Future[None]") -> None:
    if not waiting.done():
        waiting.set_result(None)
