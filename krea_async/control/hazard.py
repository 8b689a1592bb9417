"""How long tasks take, learnt from every read, and when a task is best read next.

Each read says of a task: still running, or finished since the read before. Counted by age, the two give the hazard, the
finishes per second of running. From it follows a plan: a task is read again when the seconds that it is expected to
have been finished and unseen add up to what one read is worth. docs/polling.md has the reasons and the figures.
"""

import math
from collections.abc import Sequence
from typing import Final

HORIZON_S: Final = 3600.0
"""Older tasks are read as those of this age: of tasks that run for an hour nothing is known."""

_BINS_PER_DOUBLING: Final = 8
_BINS: Final = 96
_EDGES_S: Final = tuple(2.0 ** (n / _BINS_PER_DOUBLING) - 1.0 for n in range(_BINS + 1))
_MIDDLES_S: Final = tuple(2.0 ** ((n + 0.5) / _BINS_PER_DOUBLING) - 1.0 for n in range(_BINS))

_PRIOR_TASK_SECONDS: Final = 5.0
"""What is known beforehand counts in each bin like this many seconds of one task."""

_STRAYING: Final = 0.1
"""The part of all tasks that is expected to have nothing to do with the estimate."""

_NO_IDEA_S: Final = 10.0
"""Nor is the hazard ever expected to be less than that of tasks with this median of which nothing else is known."""

_FINISHES_REMEMBERED: Final = 500.0
_FINISHES_REMEMBERED_PER_TASK: Final = 2.0
_FORGET_EVERY: Final = 16
"""What was seen fades over the last 500 finishes, and two more for each task that is followed."""

_FIRST_NEWS: Final = 8
_NEWS_SHARE: Final = 1 / 16
"""Plans are made anew when so many reads came since, or this part of what is remembered."""

_AGES_PER_DOUBLING: Final = 24
"""Ages closer than this share their wait."""


def _bin_of(age_s: float) -> int:
    if age_s <= 0.0:
        return 0
    n = int(_BINS_PER_DOUBLING * math.log2(1.0 + age_s))
    return n if n < _BINS else _BINS - 1


def _log_logistic(age_s: float, median_s: float, shape: float) -> tuple[float, float]:
    """The part still running at this age, and its hazard."""
    odds = math.pow(age_s / median_s, shape)
    return 1.0 / (1.0 + odds), shape / age_s * odds / (1.0 + odds)


def _prior_hazard(age_s: float, typical_s: float, shape: float) -> float:
    """Most tasks keep to `typical_s`, some do not; with a floor, should `typical_s` be far too long."""
    keeping, hazard = _log_logistic(age_s, typical_s, shape)
    straying, stray_hazard = _log_logistic(age_s, typical_s, 1.0)
    keeping *= 1.0 - _STRAYING
    straying *= _STRAYING
    expected = (keeping * hazard + straying * stray_hazard) / (keeping + straying)
    return max(expected, 1.0 / (_NO_IDEA_S + age_s))


class Law:
    """How likely a running task is to finish, by its age in seconds.

    typical_s: the median expected beforehand. shape: how closely tasks are expected to keep to it; 1: not at all.
    `following` counts the tasks that are followed by this law now, and is kept by whoever follows them.
    """

    __slots__ = ("_finishes", "_news", "_plans", "_prior", "_reads", "_seconds", "_unfaded", "following", "typical_s")

    def __init__(self, typical_s: float, shape: float) -> None:
        self.typical_s = typical_s
        self.following = 0
        self._prior = tuple(_prior_hazard(age_s, typical_s, shape) for age_s in _MIDDLES_S)
        self._finishes = [0.0] * _BINS
        self._seconds = [0.0] * _BINS
        self._reads = 0.0
        self._news = 0
        self._unfaded = 0
        self._plans: dict[tuple[float, float], Plan] = {}

    def saw_running(self, since_s: float, age_s: float) -> None:
        """A task that was running at the age `since_s` still was at `age_s`."""
        self._ran(since_s, age_s)

    def saw_finished(self, since_s: float, age_s: float) -> None:
        """A task that was running at the age `since_s` was finished at `age_s`; when between, nobody knows."""
        end_s = (since_s + age_s) / 2.0
        self._ran(since_s, end_s)
        self._finishes[_bin_of(end_s)] += 1.0
        self._unfaded += 1
        if self._unfaded == _FORGET_EVERY:
            self._fade()

    def plan(self, lag_per_read_s: float, lost_share: float = 1.0) -> "Plan":
        """The ages to read a task at, if one read is worth `lag_per_read_s` seconds of being late.

        lost_share: the share of ends that nothing but a read tells of; the others are announced, so silence says that a
        task is running, and the less so the longer it lasts.
        """
        if self._news >= max(_FIRST_NEWS, _NEWS_SHARE * self._reads):
            self._news = 0
            self._plans.clear()
        plan = self._plans.get((lag_per_read_s, lost_share))
        if plan is None:
            plan = self._plans[lag_per_read_s, lost_share] = Plan(self.hazard(), lag_per_read_s, lost_share)
        return plan

    def hazard(self) -> list[float]:
        """Finishes per second of running, in each bin of age."""
        return [
            (finishes + _PRIOR_TASK_SECONDS * prior) / (seconds + _PRIOR_TASK_SECONDS)
            for finishes, seconds, prior in zip(self._finishes, self._seconds, self._prior, strict=True)
        ]

    def _ran(self, start_s: float, end_s: float) -> None:
        self._news += 1
        self._reads += 1.0
        first, last = _bin_of(start_s), _bin_of(end_s)
        seconds = self._seconds
        for n in range(first, last):
            edge_s = _EDGES_S[n + 1]
            seconds[n] += edge_s - start_s
            start_s = edge_s
        seconds[last] += max(end_s - start_s, 0.0)

    def _fade(self) -> None:
        kept = 1.0 - _FORGET_EVERY / (_FINISHES_REMEMBERED + _FINISHES_REMEMBERED_PER_TASK * self.following)
        self._finishes = [kept * finishes for finishes in self._finishes]
        self._seconds = [kept * seconds for seconds in self._seconds]
        self._reads *= kept
        self._unfaded = 0


class Plan:
    """The time to a task's next read, by its age. Worked out when it is first asked for, and kept in steps of age."""

    __slots__ = ("_hazard", "_lag_per_read_s", "_lost_share", "_waits_s")

    def __init__(self, hazard: Sequence[float], lag_per_read_s: float, lost_share: float) -> None:
        self._hazard = hazard
        self._lost_share = lost_share
        self._lag_per_read_s = lag_per_read_s
        self._waits_s: dict[int, float] = {}

    def wait_s(self, age_s: float) -> float:
        """Seconds from a read at the age `age_s`, which found the task running, to the next one.

        Then the seconds that it is expected to have been finished and unseen reach what a read is worth.
        """
        step = int(_AGES_PER_DOUBLING * math.log2(1.0 + min(max(age_s, 0.0), HORIZON_S)))
        wait_s = self._waits_s.get(step)
        if wait_s is None:
            wait_s = self._waits_s[step] = self._accrual_s(2.0 ** ((step + 0.5) / _AGES_PER_DOUBLING) - 1.0)
        return wait_s

    def _accrual_s(self, start_s: float) -> float:
        age_s = start_s
        n = _bin_of(age_s)
        running, unseen, lag_s, worth_s = 1.0, 0.0, 0.0, self._lag_per_read_s
        while lag_s < worth_s:
            step_s = 0.03 + 0.02 * age_s
            running /= 1.0 + self._hazard[n] * step_s
            silent = self._lost_share * (1.0 - running)  # finished, and not announced
            unseen = silent / (silent + running)
            lag_s += unseen * step_s
            age_s += step_s
            if age_s >= _EDGES_S[n + 1]:
                n = _bin_of(age_s)
        too_far_s = (lag_s - worth_s) / unseen
        return age_s - too_far_s - start_s
