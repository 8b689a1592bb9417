"""The account: its tasks, its credits and its idempotency keys. Pure: `now` (Unix seconds) is an argument."""

import heapq
from collections.abc import Iterator
from random import Random
from threading import Lock
from typing import Any

from krea_async.models import MAX_SEED, ImageRequest
from krea_async.sandbox.replies import Refusal, too_many
from krea_async.sandbox.settings import Settings
from krea_async.sandbox.tasks import TaskRecord

_ID_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
_DIGITS = 6  # sums of prices are rounded to this many decimals, so that floats never drift


class Account:
    """Every task ever made, what is reserved and what was charged. Each operation costs O(log n)."""

    def __init__(self, credits: float | None, settings: Settings, rng: Random) -> None:  # noqa: A002 - the API's word
        self.granted = credits
        self.used = 0.0
        self.reserved = 0.0
        self.max_unfinished = 0
        self.replays = 0
        self.tasks: dict[str, TaskRecord] = {}
        self._settings = settings
        self._rng = rng
        self._by_key: dict[str, TaskRecord] = {}
        self._running: list[tuple[float, str]] = []  # a heap of (finish time, task id)
        self._lock = Lock()  # a test may read the ledger from another thread than the server's

    @property
    def unfinished(self) -> int:
        """Tasks not finished when `settle` was last called."""
        return len(self._running)

    @property
    def remaining(self) -> float | None:
        """Credits that are neither charged nor reserved; None: without limit."""
        return None if self.granted is None else round(self.granted - self.used - self.reserved, _DIGITS)

    def settle(self, now: float) -> None:
        """Charge what was completed by `now`, and give back what the others had reserved."""
        if self._running and self._running[0][0] <= now:
            with self._lock:
                while self._running and self._running[0][0] <= now:
                    self._close(self.tasks[heapq.heappop(self._running)[1]])

    def _close(self, task: TaskRecord) -> None:
        self.reserved = round(self.reserved - task.request.credits, _DIGITS)
        if task.end == "completed":
            task.credits_charged = task.request.credits
            self.used = round(self.used + task.credits_charged, _DIGITS)

    def replayed(self, key: str, body: dict[str, Any]) -> TaskRecord | None:
        """The task that `key` made before, or None. Raises Refusal (409) if it was made with another body."""
        task = self._by_key.get(key)
        if task is None:
            return None
        if task.body != body:
            raise Refusal(409, "The Idempotency-Key was used with another body", code="idempotency_conflict")
        self.replays += 1
        return task

    def make(
        self,
        request: ImageRequest,
        body: dict[str, Any],
        *,
        key: str | None,
        callback_url: str | None,
        end: str,
        now: float,
    ) -> TaskRecord:
        """A new task, its credits reserved. Raises Refusal: 402 without the credits, 429 over the unfinished limit."""
        self.settle(now)
        limits = self._settings.limits
        if limits.unfinished is not None and self.unfinished >= limits.unfinished:
            raise too_many(self._running[0][0] - now, limits, "unfinished tasks", now)
        if self.remaining is not None and self.remaining < request.credits:
            raise Refusal(402, f"The balance of {self.remaining} credits does not cover {request.credits}")
        queue_s, run_s = self._settings.durations.draw(self._rng)
        task = TaskRecord(
            id=self._new_id(now),
            request=request,
            body=body,
            seed_used=request.seed or self._rng.randint(1, MAX_SEED),
            key=key,
            created=now,
            starts=now + queue_s,
            finishes=now + queue_s + run_s,
            end=end,
            estimate_s=self._settings.durations.estimate_s,
            callback_url=callback_url,
        )
        with self._lock:
            self.tasks[task.id] = task
            heapq.heappush(self._running, (task.finishes, task.id))
            self.reserved = round(self.reserved + request.credits, _DIGITS)
            self.max_unfinished = max(self.max_unfinished, len(self._running))
        if key is not None:
            self._by_key[key] = task
        return task

    def find(self, task_id: str) -> TaskRecord | None:
        """The task, unless it is unknown or forgotten."""
        task = self.tasks.get(task_id)
        return None if task is None or task.forgotten else task

    def newest_first(self) -> Iterator[TaskRecord]:
        """Every task that is not forgotten."""
        return (task for task in reversed(list(self.tasks.values())) if not task.forgotten)

    def _new_id(self, now: float) -> str:
        while True:
            task_id = f"task-unified-{int(now)}-{''.join(self._rng.choices(_ID_LETTERS, k=8))}"
            if task_id not in self.tasks:
                return task_id
