"""Which tasks are due for a read, and what each reply means for the task it is about.

A plain object, fed with clock readings and replies: it keeps the tasks of a session in a heap of due times, so a read
costs the same however many tasks wait. `polling` is the loop that acts on what it says.
"""

import heapq
import logging
import math
from collections.abc import Callable, Iterable
from itertools import count
from random import Random
from typing import Final

from attrs import define, field

from krea_async.control.backoff import RetryPolicy
from krea_async.control.polling import PollPolicy
from krea_async.errors import KreaError, RateLimitedError, TaskNotFoundError, TaskTimeoutError
from krea_async.gateway.client import MAX_BATCH_IDS, Readings
from krea_async.gateway.refusals import INVALID_TASK_ID
from krea_async.gateway.replies import UNREADABLE
from krea_async.models import KNOWN_STATUSES, Task

log = logging.getLogger(__name__)

DENIALS_TO_BE_LOST: Final = 2
"""Single reads that must say "no such task" before a task is called lost: one alone can come from a stale replica."""

UNREADABLE_TO_GIVE_UP: Final = 10
"""Replies about a task in a row that could be read as little as the ones before."""

_POLL_BACKOFF: Final = RetryPolicy(first_wait_s=1.0, max_wait_s=30.0)

Outcome = Task | KreaError
"""How following a task ended: the finished task, or why it is not followed any more."""


@define(eq=False)
class Followed:
    """Somebody who follows a task. `task` is what is known of it; None until its first read, for one of before."""

    task_id: str
    submitted_s: float
    deadline_s: float
    on_outcome: Callable[[Outcome], None]
    task: Task | None = None
    denials: int = 0
    unreadable: int = 0
    ended: bool = field(default=False, init=False)
    queued: bool = field(default=False, init=False)


class Scheduler:
    """The tasks in flight. Every id that `take_due` hands out comes back through `read` or `not_read`."""

    def __init__(self, policy: PollPolicy, rng: Random) -> None:
        self._policy = policy
        self._rng = rng
        self._tasks: dict[str, list[Followed]] = {}
        self._due: list[tuple[float, int, Followed]] = []
        self._order = count()
        self._hold_until_s = -math.inf
        self._failures = 0
        self._unknown_statuses: set[str] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def follow(self, followed: Followed, now: float) -> None:
        """Take a task in; several may follow one. One that is finished has its outcome before this returns."""
        self._tasks.setdefault(followed.task_id, []).append(followed)
        if followed.task is None:
            self._push(followed, now)
        elif followed.task.finished:
            self._end(followed, followed.task)
        else:
            self._push(followed, now + self._policy.first_wait_s(self._rng))

    def forget(self, followed: Followed) -> bool:
        """Follow a task no further, and give it no outcome. False if it has one already."""
        if followed.ended:
            return False
        self._drop(followed)
        return True

    def end_all(self, reason: Callable[[str], KreaError]) -> None:
        """Follow nothing any more; each task's outcome is `reason(task_id)`."""
        for task_id in list(self._tasks):
            for followed in self._followers(task_id):
                self._end(followed, reason(task_id))

    def next_read_s(self) -> float:
        """When `take_due` will have something to hand out; infinity if nothing is due ever."""
        self._drop_ended()
        if not self._due:
            return math.inf
        waits_for_company = 0.0 if len(self._due) <= 1 else self._policy.window_s
        return max(self._due[0][0] + waits_for_company, self._hold_until_s)

    def take_due(self, now: float) -> list[str]:
        """Up to 50 ids to read now, oldest due first; those due a moment later come along, for it costs no request."""
        if now < self.next_read_s():
            return []
        ids: dict[str, None] = {}
        while self._due and len(ids) < MAX_BATCH_IDS and self._due[0][0] <= now + self._policy.ahead_s:
            followed = heapq.heappop(self._due)[2]
            followed.queued = False
            if not followed.ended:
                ids[followed.task_id] = None
        return list(ids)

    def read(self, asked: Iterable[str], readings: Readings, now: float) -> list[str]:
        """Take a reply in. Returns the ids it did not mention, which must be asked for singly."""
        self._failures = 0
        missing: list[str] = []
        for task_id in asked:
            reading = readings.get(task_id)
            if reading is None and task_id in self._tasks:
                missing.append(task_id)
            elif isinstance(reading, Task):
                self._saw(reading, now)
            elif reading is not None:
                for followed in self._followers(task_id):
                    self._saw_error(followed, reading, now)
                if isinstance(reading, RateLimitedError):  # a single read was told to slow down: that is meant for all
                    self._hold(reading, 1, now)
        return missing

    def not_read(self, asked: Iterable[str], error: KreaError, now: float) -> None:
        """A read failed as a whole: everybody waits longer, and only a task's deadline ends it."""
        if now >= self._hold_until_s:  # reads that fail at the same time are one failure
            self._failures += 1
        wait_s = self._hold(error, self._failures, now)
        log.log(
            logging.WARNING if self._failures == 1 else logging.INFO,
            "reading tasks failed %d times in a row: %s; the next read is in %.1f s",
            self._failures,
            error,
            wait_s,
        )
        for task_id in asked:
            for followed in self._followers(task_id):
                self._look_again(followed, now, error)

    def _hold(self, error: KreaError, failures: int, now: float) -> float:
        wait_s = _POLL_BACKOFF.wait_s(failures, self._rng, error.retry_after_s)
        self._hold_until_s = max(self._hold_until_s, now + wait_s)
        return wait_s

    def _followers(self, task_id: str) -> list[Followed]:
        return list(self._tasks.get(task_id, ()))

    def _saw(self, task: Task, now: float) -> None:
        if task.status not in KNOWN_STATUSES and task.status not in self._unknown_statuses:
            self._unknown_statuses.add(task.status)
            log.warning("task %s has the unknown status %r; it is followed on", task.id, task.status)
        for followed in self._followers(task.id):
            followed.task = task
            followed.denials = followed.unreadable = 0
            if task.finished:
                self._end(followed, task)
            else:
                self._look_again(followed, now)

    def _saw_error(self, followed: Followed, error: KreaError, now: float) -> None:
        if error.code == INVALID_TASK_ID:
            self._end(followed, error)
        elif isinstance(error, TaskNotFoundError):
            followed.denials += 1
            if followed.denials >= DENIALS_TO_BE_LOST:
                self._end(followed, error)
            else:
                self._look_again(followed, now, error)
        else:
            followed.unreadable += error.code == UNREADABLE or not error.retryable
            if followed.unreadable >= UNREADABLE_TO_GIVE_UP:
                error.charged = "unknown"
                self._end(followed, error)
            else:
                self._look_again(followed, now, error)

    def _look_again(self, followed: Followed, now: float, error: KreaError | None = None) -> None:
        if now >= followed.deadline_s:
            self._end(followed, _timed_out(followed, now, error))
            return
        next_s = now + self._policy.next_wait_s(now - followed.submitted_s, self._rng)
        self._push(followed, min(next_s, followed.deadline_s))

    def _push(self, followed: Followed, due_s: float) -> None:
        if not followed.queued:
            followed.queued = True
            heapq.heappush(self._due, (due_s, next(self._order), followed))

    def _drop_ended(self) -> None:
        while self._due and self._due[0][2].ended:
            heapq.heappop(self._due)

    def _end(self, followed: Followed, outcome: Outcome) -> None:
        self._drop(followed)
        followed.on_outcome(outcome)

    def _drop(self, followed: Followed) -> None:
        followed.ended = True
        followers = self._tasks[followed.task_id]
        followers.remove(followed)
        if not followers:
            del self._tasks[followed.task_id]


def _timed_out(followed: Followed, now: float, error: KreaError | None) -> TaskTimeoutError:
    status = followed.task.status if followed.task is not None else "unknown"
    cause = f"; the last read failed: {error}" if error is not None else ""
    return TaskTimeoutError(
        f"the task was {status} after {now - followed.submitted_s:.0f} s and was not submitted again; it may still "
        f"finish: follow it with session.attach({followed.task_id!r}){cause}",
        task_id=followed.task_id,
    )
