"""What a gateway may do to limit its clients: every model says whether one more request is granted now.

`wait_s` says 0.0 or after how many seconds a request would be granted if nobody else came first; `take` grants it.
A refused request takes nothing, unless the model says otherwise. Time must not run backwards.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

Factor = Callable[[float], float]
"""By what a limit is multiplied at a moment."""


def steady(_now: float) -> float:
    """The limit stays what it is."""
    return 1.0


def step(begin_s: float, end_s: float, factor: float) -> Factor:
    """The limit is multiplied by `factor` from one moment to another."""
    return lambda now: factor if begin_s <= now < end_s else 1.0


class Limiter(Protocol):
    """A limit."""

    def wait_s(self, now: float, unfinished: int) -> float:
        """0.0: one more would be granted while `unfinished` tasks are; else the seconds until it would be."""
        ...

    def take(self, now: float) -> None:
        """Grant one."""
        ...


class TokenBucket:
    """`rate` tokens per second up to `burst`. taken_by_others: when other clients ask for one, in order."""

    def __init__(
        self, rate: float, burst: float, *, factor: Factor = steady, taken_by_others: Iterable[float] = ()
    ) -> None:
        self._rate = rate
        self._burst = max(1.0, burst)
        self._factor = factor
        self._others = iter(taken_by_others)
        self._next_other_s = next(self._others, math.inf)
        self._tokens = self._burst
        self._filled_at = 0.0

    def wait_s(self, now: float, unfinished: int) -> float:  # noqa: ARG002, D102
        while self._next_other_s <= now:
            self._fill(self._next_other_s)
            self._tokens -= self._tokens >= 1.0
            self._next_other_s = next(self._others, math.inf)
        self._fill(now)
        if self._tokens >= 1.0 - 1e-9:
            return 0.0
        return (1.0 - self._tokens) / (self._rate * self._factor(now))

    def take(self, now: float) -> None:  # noqa: ARG002, D102
        self._tokens -= 1.0

    def _fill(self, now: float) -> None:
        gained = (now - self._filled_at) * self._rate * self._factor(self._filled_at)
        self._tokens = min(self._burst, self._tokens + gained)
        self._filled_at = now


class FixedWindow:
    """`count` requests in each window of the clock; the first one ends `phase_s` early."""

    def __init__(self, count: int, window_s: float, *, phase_s: float = 0.0, factor: Factor = steady) -> None:
        self._count = count
        self._window_s = window_s
        self._phase_s = phase_s
        self._factor = factor
        self._window = -1
        self._granted = 0

    def wait_s(self, now: float, unfinished: int) -> float:  # noqa: ARG002, D102
        window = math.floor((now + self._phase_s) / self._window_s)
        if window != self._window:
            self._window, self._granted = window, 0
        if self._granted + 1 <= max(1.0, self._count * self._factor(now)):
            return 0.0
        return max(1e-9, (window + 1) * self._window_s - self._phase_s - now + 1e-9)

    def take(self, now: float) -> None:  # noqa: ARG002, D102
        self._granted += 1


class SlidingWindow:
    """`count` requests in any `window_s`. counts_refused: a refused one is remembered, and pushes out the oldest."""

    def __init__(self, count: int, window_s: float, *, counts_refused: bool = False) -> None:
        self._count = count
        self._window_s = window_s
        self._counts_refused = counts_refused
        self._granted_at: deque[float] = deque()

    def wait_s(self, now: float, unfinished: int) -> float:  # noqa: ARG002, D102
        granted_at = self._granted_at
        while granted_at and granted_at[0] <= now - self._window_s + 1e-9:
            granted_at.popleft()
        if len(granted_at) < self._count:
            return 0.0
        wait_s = max(granted_at[0] + self._window_s - now, 1e-9)
        if self._counts_refused:
            granted_at.append(now)
            granted_at.popleft()
        return wait_s

    def take(self, now: float) -> None:  # noqa: D102
        self._granted_at.append(now)


class UnfinishedTasks:
    """At most `count` tasks unfinished. taken_by_others: how many of these places other clients hold at a moment."""

    retry_after_s = 2.0  # nobody knows when a task will be finished, so a gateway names a round figure

    def __init__(
        self, count: int, *, factor: Factor = steady, taken_by_others: Callable[[float], int] = lambda _now: 0
    ) -> None:
        self._count = count
        self._factor = factor
        self._taken_by_others = taken_by_others

    def wait_s(self, now: float, unfinished: int) -> float:  # noqa: D102
        places = max(1.0, self._count * self._factor(now) - self._taken_by_others(now))
        return 0.0 if unfinished + 1 <= places else self.retry_after_s

    def take(self, now: float) -> None:
        """Nothing to do: the caller counts the unfinished."""


class Both:
    """Several limits at once: a request is granted when all of them grant it."""

    def __init__(self, *limiters: Limiter) -> None:
        self._limiters = limiters

    def wait_s(self, now: float, unfinished: int) -> float:  # noqa: D102
        return max(limiter.wait_s(now, unfinished) for limiter in self._limiters)

    def take(self, now: float) -> None:  # noqa: D102
        for limiter in self._limiters:
            limiter.take(now)


class Ban:
    """Who is refused is banned for `ban_s`. extends: every request inside the ban, refused too, begins it anew."""

    def __init__(self, limiter: Limiter, ban_s: float, *, extends: bool) -> None:
        self._limiter = limiter
        self._ban_s = ban_s
        self._extends = extends
        self._banned_until_s = 0.0

    def wait_s(self, now: float, unfinished: int) -> float:  # noqa: D102
        banned = now < self._banned_until_s
        if not banned and self._limiter.wait_s(now, unfinished) == 0.0:
            return 0.0
        if self._extends or not banned:
            self._banned_until_s = now + self._ban_s
        return self._banned_until_s - now

    def take(self, now: float) -> None:  # noqa: D102
        self._limiter.take(now)
