"""Whether the next row that costs money may start: within the budget, behind the canaries, and not past the downloads.

The decisions are made in `control`; here a batch waits for them, and tells them what became of each row.
"""

import asyncio
import logging
import time
from typing import Final

import anyio

from krea_async.batch.entry import Entry
from krea_async.batch.policy import BatchPolicy
from krea_async.control.backlog import Backlog
from krea_async.control.breaker import Breaker
from krea_async.control.budget import Budget, PriceChange, Reservation
from krea_async.errors import KreaError, ServiceError
from krea_async.models import Task
from krea_async.results import GeneratedImage, error_code

log = logging.getLogger(__name__)

CANARY_FAILED: Final = "canary_failed"
BREAKER_OPEN: Final = "breaker_open"
"""Our own error codes for a batch that stopped because it was about to repeat one failure."""

UNSERVED_TO_STOP: Final = 16
"""Rows in a row that the service was not there for, after which the batch stops."""

_LOOK_AGAIN_S: Final = 5.0


class Gate:
    """Belongs to one batch. Rows are admitted one after the other, in the order of the list."""

    def __init__(self, budget: Budget, policy: BatchPolicy) -> None:
        self.budget = budget
        self._canaries = policy.canary
        self._breaker = Breaker(policy.breaker) if policy.breaker is not None else None
        self._backlog = Backlog(policy.backlog)
        self._unserved = 0
        self._admitted = 0
        self._canaries_ended = self._canaries_saved = 0
        self._to_fetch: set[Entry] = set()
        self._changed = asyncio.Event()

    async def admit(self, entry: Entry) -> None:
        """Wait until the row may be paid for, and set its price aside.

        Raises BudgetExceededError when the caps leave no room for it, and KreaError when all canaries failed.
        """
        request = entry.request
        while True:
            self._changed.clear()
            if self._may_start():
                entry.reservation = self.budget.reserve(request.credits, request.usd, request.quality)
                if entry.reservation is not None:
                    entry.is_canary = self._admitted < self._canaries
                    self._admitted += 1
                    return
            with anyio.move_on_after(_LOOK_AGAIN_S):
                await self._changed.wait()

    def adopt(self, entry: Entry) -> None:
        """Count a row that an earlier run sent: it may be paid for already."""
        request, known = entry.request, entry.known
        entry.reservation = self.budget.adopt(request.credits, request.usd, request.quality)
        if known is not None and known.accepted is not None:
            self._tell(self.budget.accepted(entry.reservation, known.accepted.credits))
        if entry.is_fetchable:
            self._to_fetch.add(entry)

    async def fetched(self) -> None:
        """Wait until every picture of earlier runs that was finished already is on disk, or has failed."""
        while self._to_fetch:
            self._changed.clear()
            await self._changed.wait()

    def accepted(self, entry: Entry, task: Task) -> None:
        """The row has become a task."""
        if entry.reservation is not None and not entry.reservation.closed:
            self._tell(self.budget.accepted(entry.reservation, task.credits_reserved))
        self._changed.set()

    def completed(self, entry: Entry, task: Task) -> None:
        """The picture is made, and charged."""
        if entry.reservation is not None:
            self._tell(self.budget.settled(entry.reservation, task.credits_used))
            entry.reservation = None
        if self._breaker is not None:  # now, not when it is saved: rows that fail would seem to be all that ends
            self._breaker.note(None)
        if entry.expires_s is not None:
            self._backlog.completed(task.id, entry.expires_s, time.time())
        self._changed.set()

    def ended(self, entry: Entry, image: GeneratedImage) -> KreaError | None:
        """The row has ended. Returns why to stop the batch, if that follows."""
        self._to_fetch.discard(entry)
        if entry.task_id is not None:
            forget = self._backlog.saved if image.status == "saved" else self._backlog.dropped
            forget(entry.task_id, time.time())
        if entry.reservation is not None:
            self._give_back(entry.reservation, image.error)
            entry.reservation = None
        if entry.is_canary:
            self._canaries_ended += 1
            self._canaries_saved += image.status == "saved"
        self._changed.set()
        if image.status == "skipped":
            return None
        return self._unserved_too_often(image.error) or self._broken(image.error)

    def _unserved_too_often(self, error: KreaError | None) -> KreaError | None:
        """Row after row, each after all its tries, found nobody who answers: the rest would fail alike."""
        self._unserved = self._unserved + 1 if isinstance(error, ServiceError) else 0
        return error if self._unserved >= UNSERVED_TO_STOP else None

    def _broken(self, error: KreaError | None) -> KreaError | None:
        if self._breaker is None or error is None:
            return None
        reason = self._breaker.note(error_code(error))
        return None if reason is None else KreaError(reason, code=BREAKER_OPEN)

    def _may_start(self) -> bool:
        if not self._canaries or self._admitted < self._canaries:
            return self._backlog.may_submit(time.time())
        if self._canaries_ended < self._canaries:
            return False
        if not self._canaries_saved:
            raise KreaError(
                f"all {self._canaries} canary rows failed, so the rest was not submitted", code=CANARY_FAILED
            )
        return self._backlog.may_submit(time.time())

    def _give_back(self, reservation: Reservation, error: KreaError | None) -> None:
        if error is None or error.charged == "yes":
            self._tell(self.budget.settled(reservation, None))
        elif error.charged == "unknown":
            self.budget.unknown(reservation)
        else:
            self.budget.released(reservation)

    def _tell(self, change: PriceChange | None) -> None:
        if change is not None:
            log.warning(
                "a %s picture costs %g credits, not %g as expected; that is what is counted from now on",
                change.tier,
                change.actual_credits,
                change.expected_credits,
            )
