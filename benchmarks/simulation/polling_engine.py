"""A gateway's tasks in virtual time, followed by the project's own scheduler and governor."""

import heapq
import math
from collections.abc import Callable, Iterator
from itertools import count
from random import Random
from typing import Final

from attrs import define, evolve, field, frozen

from krea_async.control.governor import Governor
from krea_async.control.polling import PollPolicy
from krea_async.errors import RateLimitedError
from krea_async.followed import Followed, Outcome
from krea_async.gateway.client import Readings
from krea_async.models import Task
from krea_async.poller import MAX_READS_AT_ONCE, READ_PACING
from krea_async.scheduler import Scheduler

RTT_S: Final = 0.1
"""A read takes this long; the gateway looks at its tasks half-way."""

BURST_PER_S: Final = 400.0
"""How fast tasks are accepted while there are free places."""

Draw = Callable[[float, Random], tuple[float, float | None]]
"""A task's seconds and the gateway's estimate of them, for the part of the run that is over (0 to 1)."""


@frozen(kw_only=True)
class World:
    """What the gateway does, and how it is used.

    draw: how long tasks take; mean_s: in the mean. in_flight: tasks unfinished at a time, in the mean of random
    arrivals or, when `closed`, as so many places, each taken again when its task is known to be finished. tasks: in
    all. reads_per_s: poll requests per second that are answered, in bursts of up to a second's worth; others get 429.
    """

    draw: Draw
    mean_s: float
    in_flight: int
    tasks: int
    closed: bool = False
    reads_per_s: float | None = None


@define
class Figures:
    """What one run came to. lags_s: of each task, from its end to the reply that told of it, in that order."""

    lags_s: list[float] = field(factory=list)
    reads: int = 0
    requests: int = 0
    refused: int = 0
    duration_s: float = 0.0

    def lag_s(self, part: float) -> float:
        """The lag that this part of all tasks does not exceed."""
        return quantile(self.lags_s, part)

    @property
    def mean_lag_s(self) -> float:
        """Over all tasks."""
        return sum(self.lags_s) / len(self.lags_s)

    def per_task(self, many: int) -> float:
        """`many` by the number of tasks."""
        return many / len(self.lags_s)


def quantile(values: list[float], part: float) -> float:
    """The value that `part` of all do not exceed."""
    return sorted(values)[min(int(part * len(values)), len(values) - 1)]


@define(eq=False)
class _Generation:
    running: Task
    finishes_s: float


class Simulation:
    """One run, from nothing known. prompt: every task is one that somebody waits for."""

    def __init__(
        self, world: World, policy: PollPolicy, seed: int, *, eager: bool = False, prompt: bool = False
    ) -> None:
        self.figures = Figures()
        self._world = world
        self._rng = Random(seed)
        self._scheduler = Scheduler(policy, Random(seed + 1))
        self._scheduler.eager = eager
        self._prompt = prompt
        self._governor = Governor(READ_PACING, rng=Random(seed + 2))
        self._generations: dict[str, _Generation] = {}
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._order = count()
        self._now = 0.0
        self._planned = 0
        self._reading = 0
        self._tokens, self._filled_s = world.reads_per_s or 0.0, 0.0

    def run(self) -> Figures:
        """Follow every task to its end."""
        now = 0.0
        for at_s in self._arrivals():
            self._plan(at_s)
        while self._events or len(self._scheduler):
            read_s = self._read_s(now)
            event_s = self._events[0][0] if self._events else math.inf
            if event_s <= read_s:
                now, _, act = heapq.heappop(self._events)
                act(now)
            else:
                now = max(now, read_s)
                self._send(now)
        self.figures.duration_s = now
        return self.figures

    def _at(self, at_s: float, act: Callable[[float], None]) -> None:
        heapq.heappush(self._events, (at_s, next(self._order), act))

    def _plan(self, at_s: float) -> None:
        self._planned += 1
        self._at(at_s, self._begin)

    def _arrivals(self) -> Iterator[float]:
        world = self._world
        if world.closed:
            yield from (n / BURST_PER_S for n in range(min(world.in_flight, world.tasks)))
            return
        at_s = 0.0
        for _ in range(world.tasks):
            yield at_s
            at_s += self._rng.expovariate(world.in_flight / world.mean_s)

    def _begin(self, now: float) -> None:
        seconds, estimate_s = self._world.draw(len(self._generations) / self._world.tasks, self._rng)
        task = Task(id=f"task-{len(self._generations)}", status="processing", estimated_time_s=estimate_s)
        self._generations[task.id] = _Generation(task, now + seconds)
        followed = Followed(
            task_id=task.id,
            submitted_s=now,
            deadline_s=math.inf,
            on_outcome=self._ended,
            task=task,
            awaited=self._prompt,
        )
        self._scheduler.follow(followed, now)

    def _ended(self, outcome: Outcome) -> None:
        assert isinstance(outcome, Task)
        self.figures.lags_s.append(self._now - self._generations[outcome.id].finishes_s)
        if self._world.closed and self._planned < self._world.tasks:
            self._plan(self._now)

    def _read_s(self, now: float) -> float:
        """When the next poll request leaves, as `poller` has it."""
        if self._reading >= MAX_READS_AT_ONCE:
            return math.inf
        due_s = self._scheduler.next_read_s()
        if due_s > now:
            return due_s
        wait_s = self._governor.wait_s(now, 0)
        return math.inf if wait_s is None else now + wait_s

    def _send(self, now: float) -> None:
        if self._read_s(now) > now:
            return
        ids = self._scheduler.take_due(now)
        if not ids:
            return
        self._reading += 1
        sent = self._governor.sent(now, 0)
        self.figures.requests += 1
        finished = [self._generations[task_id].finishes_s <= now + RTT_S / 2 for task_id in ids]
        refused = not self._answered(now)

        def reply(now: float) -> None:
            self._now = now
            self._reading -= 1
            if refused:
                self.figures.refused += 1
                error = RateLimitedError("slow down")
                self._governor.rejected(now, sent, None)
                self._scheduler.not_read(ids, error, now)
                return
            self._governor.accepted(now, sent)
            self.figures.reads += len(ids)
            running = (self._generations[task_id].running for task_id in ids)
            readings: Readings = {
                task.id: evolve(task, status="completed", results=("https://x/y",)) if done else task
                for task, done in zip(running, finished, strict=True)
            }
            self._scheduler.read(ids, readings, now)

        self._at(now + RTT_S, reply)

    def _answered(self, now: float) -> bool:
        """Whether the gateway answers one more poll request."""
        per_s = self._world.reads_per_s
        if per_s is None:
            return True
        self._tokens = min(self._tokens + (now - self._filled_s) * per_s, max(per_s, 1.0))
        self._filled_s = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True
