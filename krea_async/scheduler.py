"""Which tasks are due for a read, and what each reply means for the task it is about.

A plain object, fed with clock readings and replies: it keeps the tasks of a session in an agenda of due times, so a
read costs the same however many tasks wait. When a task is read next, `control.polling` says, which learns from every
reply. A callback is a hint to read now, and nothing more. `poller` is the loop that acts on what this says.
"""

import logging
import math
from collections.abc import Callable, Iterable, Iterator
from random import Random
from typing import Final

from krea_async.control.agenda import Agenda
from krea_async.control.backoff import RetryPolicy
from krea_async.control.callbacks import CallbackLosses
from krea_async.control.hazard import Law
from krea_async.control.polling import PollPolicy, ReadTimes
from krea_async.errors import KreaError, RateLimitedError, ServiceError, TaskNotFoundError, TaskTimeoutError
from krea_async.followed import Followed, Outcome
from krea_async.gateway.client import MAX_BATCH_IDS, Readings
from krea_async.gateway.refusals import INVALID_TASK_ID
from krea_async.gateway.replies import UNREADABLE
from krea_async.models import KNOWN_STATUSES, Task

log = logging.getLogger(__name__)

DENIALS_TO_BE_LOST: Final = 2
"""Single reads that must say "no such task" before a task is called lost: one alone can come from a stale replica."""

UNREADABLE_TO_GIVE_UP: Final = 10
"""Replies about a task in a row that could be read as little as the ones before."""

HINT_WINDOW_S: Final = 0.1
"""How long the first task that a callback tells of waits for company in its request."""

HINT_EVERY_S: Final = 1.0
"""A task is read at most once in this time because of callbacks, however many come."""

_ROUNDING_S: Final = 1e-3

_POLL_BACKOFF: Final = RetryPolicy(first_wait_s=1.0, max_wait_s=30.0)


class Scheduler:
    """The tasks in flight. Every id that `take_due` hands out comes back through `read` or `not_read`."""

    def __init__(self, policy: PollPolicy, rng: Random) -> None:
        self._policy = policy
        self._rng = rng
        self._times = ReadTimes(policy, rng)
        self._tasks: dict[str, tuple[Followed, ...]] = {}
        self._callbacks = CallbackLosses()
        self._due: Agenda[Followed] = Agenda()
        self._hinted: Agenda[Followed] = Agenda()
        self._hold_until_s = -math.inf
        self._failures = 0
        self._unknown_statuses: set[str] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    @property
    def eager(self) -> bool:
        """Whether tasks are read more often, because learning late costs throughput; may be set at any time."""
        return self._times.eager

    @eager.setter
    def eager(self, eager: bool) -> None:
        self._times.eager = eager

    def follow(self, followed: Followed, now: float) -> None:
        """Take a task in; several may follow one. One that is finished has its outcome before this returns."""
        self._tasks[followed.task_id] = (*self._tasks.get(followed.task_id, ()), followed)
        task = followed.task
        if task is None:
            followed.taken_up = True
            self._push(followed, now)
        elif task.finished:
            self._end(followed, task)
        else:
            followed.taken_up = followed.taken_up or task.replayed
            followed.running_s = 0.0
            self._plan(followed, now)

    def hint(self, task_id: str, now: float) -> None:
        """A callback says that the task has finished; nothing is believed but that a read may be worth its while."""
        for followed in self._followers(task_id):
            if followed.announced_s is None:
                followed.announced_s = now
            if not followed.hint_waits:
                followed.hint_waits = True
                self._hinted.add(followed, max(now, followed.hinted_s + HINT_EVERY_S))

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
        waits_for_company_s = 0.0 if len(self._due) <= 1 else self._policy.window_s
        hinted_s = self._hinted.full_s(MAX_BATCH_IDS, 0.0 if len(self._tasks) <= 1 else HINT_WINDOW_S)
        return max(min(self._due.full_s(MAX_BATCH_IDS, waits_for_company_s), hinted_s), self._hold_until_s)

    def take_due(self, now: float) -> list[str]:
        """Up to 50 ids to read now: those that callbacks told of, then the oldest due.

        Those due a moment later come along, for it costs no request; but not with callbacks, which come all the time.
        """
        if now < self.next_read_s():
            return []
        late_s = now - self._due.first_s() - self._policy.window_s
        ids = dict.fromkeys(self._take_hinted(now))
        until_s = now if ids else now + self._policy.ahead_s
        while len(ids) < MAX_BATCH_IDS and (taken := self._due.take(MAX_BATCH_IDS - len(ids), until_s)):
            for followed in taken:
                if not followed.ended and self._worth_its_while(followed, until_s):
                    followed.due_s = math.inf
                    ids[followed.task_id] = None
        if ids:
            self._times.sent(late_s)
        return list(ids)

    def _take_hinted(self, now: float) -> Iterator[str]:
        for followed in self._hinted.take(MAX_BATCH_IDS, now):
            followed.hint_waits = False
            if not followed.ended and followed.announced_s is not None:
                followed.hinted_s = now
                followed.due_s = math.inf
                yield followed.task_id

    def _worth_its_while(self, followed: Followed, until_s: float) -> bool:
        """Whether a task that has come up is to be read: not if it is due earlier or later than this by now."""
        if followed.due_s < math.inf and self._lost_share(followed) < followed.lost_share:
            followed.due_s = math.inf
            self._replan(followed)
            return followed.due_s <= until_s
        return followed.due_s <= until_s + _ROUNDING_S

    def read(self, asked: Iterable[str], readings: Readings, now: float) -> list[str]:
        """Take a reply in. Returns the ids it did not mention, which must be asked for singly."""
        self._failures = 0
        missing: list[str] = []
        lost_share = self._callbacks.lost_share
        for task_id in asked:
            reading = readings.get(task_id)
            if reading is None and task_id in self._tasks:
                missing.append(task_id)
            elif isinstance(reading, Task) and reading.id != task_id:
                error = ServiceError(f"the reply is about {reading.id!r}", code=UNREADABLE, task_id=task_id)
                for followed in self._followers(task_id):
                    self._saw_error(followed, error, now)
            elif isinstance(reading, Task):
                self._saw(reading, now)
            elif reading is not None:
                for followed in self._followers(task_id):
                    self._saw_error(followed, reading, now)
                if isinstance(reading, RateLimitedError):  # a single read was told to slow down: that is meant for all
                    self._hold(_POLL_BACKOFF.wait_s(1, self._rng, reading.retry_after_s), now)
        if self._callbacks.lost_share > lost_share:
            self._take_over()
        return missing

    def not_read(self, asked: Iterable[str], error: KreaError, now: float) -> None:
        """A read failed as a whole: everybody waits longer, and only a task's deadline ends it."""
        if isinstance(error, RateLimitedError):  # how fast reads may leave is not decided here, but a pause is kept
            self._hold(error.retry_after_s or 0.0, now)
            log.info("reading tasks was refused: %s", error)
        else:
            if now >= self._hold_until_s:  # reads that fail at the same time are one failure
                self._failures += 1
            wait_s = _POLL_BACKOFF.wait_s(self._failures, self._rng, error.retry_after_s)
            self._hold(wait_s, now)
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

    def _hold(self, wait_s: float, now: float) -> None:
        self._hold_until_s = max(self._hold_until_s, now + wait_s)

    def _followers(self, task_id: str) -> tuple[Followed, ...]:
        return self._tasks.get(task_id, ())

    def _saw(self, task: Task, now: float) -> None:
        if task.status not in KNOWN_STATUSES and task.status not in self._unknown_statuses:
            self._unknown_statuses.add(task.status)
            log.warning("task %s has the unknown status %r; it is followed on", task.id, task.status)
        for followed in self._followers(task.id):
            followed.task = task
            followed.denials = followed.unreadable = 0
            self._learn(followed, task, now)
            if task.finished:
                self._end(followed, task)
            else:
                if followed.announced_s is not None and not followed.hint_waits:  # it came in vain; no other will come
                    followed.announced_s = None
                    followed.called_back = False
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
        self._plan(followed, now)

    def _plan(self, followed: Followed, now: float) -> None:
        followed.planned_s = now
        self._replan(followed)

    def _replan(self, followed: Followed) -> None:
        """Have it read when a read is worth its while, by what is known of callbacks now; earlier than planned only."""
        age_s = followed.planned_s - followed.submitted_s
        followed.lost_share = lost_share = self._lost_share(followed)
        wait_s = self._times.wait_s(self._law_of(followed), age_s, awaited=followed.awaited, lost_share=lost_share)
        self._push(followed, followed.planned_s + wait_s)

    def _push(self, followed: Followed, due_s: float) -> None:
        due_s = min(due_s, followed.deadline_s)
        if due_s < followed.due_s:  # an entry of before is passed over when its time comes
            followed.due_s = due_s
            self._due.add(followed, due_s)

    def _lost_share(self, followed: Followed) -> float:
        expected = followed.called_back and followed.announced_s is None
        return self._callbacks.lost_share if expected else 1.0

    def _take_over(self) -> None:
        """Callbacks are lost more often than was thought: nobody waits for them as long as before."""
        for followers in self._tasks.values():
            for followed in followers:
                if followed.due_s < math.inf and followed.lost_share < self._lost_share(followed):
                    self._replan(followed)

    def _law_of(self, followed: Followed) -> Law:
        """The law of tasks like this one; chosen when it is first needed, and kept."""
        if followed.law is None:
            estimated_time_s = None if followed.task is None else followed.task.estimated_time_s
            followed.law = self._times.law(estimated_time_s, age_known=not followed.taken_up)
            followed.law.following += 1
        return followed.law

    def _learn(self, followed: Followed, task: Task, now: float) -> None:
        age_s = now - followed.submitted_s
        if task.finished and followed.called_back:
            self._callbacks.found(announced=followed.announced_s is not None)
        if followed.running_s is not None:
            law = self._law_of(followed)
            since_s = followed.running_s
            if task.finished and followed.announced_s is not None:  # so it ran until then
                since_s = max(since_s, followed.announced_s - followed.submitted_s)
                law.saw_running(followed.running_s, since_s)
            if task.finished:
                law.saw_finished(since_s, age_s)
            else:
                law.saw_running(since_s, age_s)
        followed.running_s = age_s

    def _end(self, followed: Followed, outcome: Outcome) -> None:
        self._drop(followed)
        followed.on_outcome(outcome)

    def _drop(self, followed: Followed) -> None:
        followed.ended = True
        if followed.law is not None:
            followed.law.following -= 1
        others = tuple(other for other in self._tasks[followed.task_id] if other is not followed)
        if others:
            self._tasks[followed.task_id] = others
        else:
            del self._tasks[followed.task_id]


def _timed_out(followed: Followed, now: float, error: KreaError | None) -> TaskTimeoutError:
    status = followed.task.status if followed.task is not None else "unknown"
    cause = f"; the last read failed: {error}" if error is not None else ""
    return TaskTimeoutError(
        f"the task was {status} after {now - followed.submitted_s:.0f} s and was not submitted again; it may still "
        f"finish: follow it with session.attach({followed.task_id!r}){cause}",
        task_id=followed.task_id,
    )
