"""Whether others share the limit, and how the pace moves then, so that all come to the same share without talking.

Alone, a client is refused when its own pace has grown over the limit, each time at the same pace. In company it is
refused at any pace, and the faster one more often. So in company everybody gives way by the same part and grows by the
clock, the slower ones by the larger part: then the faster one shrinks and the slower one grows. A client alone gains
nothing from deep dips, so company has to be sensed first.
"""

import math
from typing import Final

from attrs import frozen

from krea_async.control.saturation import DIP, LOWEST_RATE
from krea_async.control.window import VOTES

EARLY_CYCLES: Final = 0.9
EARLY_ACCEPTS: Final = 5
SETTLED: Final = 0.15
"""A refusal is early before so much of a cycle, but after so many accepted, if the estimate was as before within this
part: then the own pace does not explain it."""

SAME_PACE: Final = 0.02
SAME_IN_A_ROW: Final = 4
"""Refused at the same pace, within this part of it, so many times in a row: nobody else is there."""

SHORT_BLOCK_S: Final = 3.0
LONG_BLOCK_S: Final = 5.0
"""Windows of the clock refuse alone and in company alike, and for long: after a long block company is supposed, and
while blocks are not short it is not given up."""

SHARED_DIP: Final = 0.2
"""In company the pace gives way by this part."""

SHARED_CYCLE_S: Final = 60.0
SHORTEST_SHARED_CYCLE_S: Final = 25.0
SLOW_RATE: Final = 0.5
"""It is back after the first of these; below so many per second sooner, as the square root of the pace: so the slowest
grow by the largest part."""

CYCLE_PER_BLOCK: Final = 12.0
LONGEST_SHARED_CYCLE_S: Final = 180.0
"""It takes at least so many times the last block, up to the second, so that not every window of the clock ends in
refusals for all."""

PAUSE_PER_BLOCK: Final = 0.2
LONGEST_SHARED_PAUSE_S: Final = 6.0
"""The first pause after a refusal is at least this part of the last block: asking earlier would be for nothing."""

OVERSHOOT: Final = 1.25
"""The pace at which it was refused is aimed at again, up to this many times what was accepted on the whole."""

AIM_KEPT_S: Final = 10.0
"""So long the aim is not lowered again: a burst of others makes many refusals, but is one reason to give way."""

VOTES_IN_COMPANY: Final = 3
"""Refusals in a row that have to speak for a limit on unfinished tasks: fewer than alone, since they are rarer."""


@frozen
class Course:
    """How the pace moves until the next refusal: back to `aim` per second in `cycle_s`, from `dip` below it.

    first_pause_s: the least to wait after that refusal.
    """

    aim: float
    dip: float
    cycle_s: float
    first_pause_s: float = 0.0


class Company:
    """What refusals say about others on the same limit. `refused` begins a block, `over` ends it.

    enabled: whether to give way at all.
    """

    def __init__(self, *, enabled: bool = True) -> None:
        self._enabled = enabled
        self._same_in_a_row = SAME_IN_A_ROW
        self._pace = 0.0
        self._pace_before = 0.0
        self._limit: float | None = None
        self._limit_before: float | None = None
        self._early = False
        self._aim = 0.0
        self._aim_age_s = math.inf
        self._cycle_s = 0.0
        self._last_block_s = 0.0

    @property
    def sensed(self) -> bool:
        """Whether others seem to be there."""
        return self._enabled and self._same_in_a_row < SAME_IN_A_ROW

    @property
    def votes_for_a_window(self) -> int:
        """Refusals in a row that have to speak for a limit on unfinished tasks."""
        return VOTES_IN_COMPANY if self.sensed and self._last_block_s < SHORT_BLOCK_S else VOTES

    def refused(self, pace: float, *, cycles: float, accepts: int, explained: bool) -> None:
        """The first refusal at this pace, `cycles` after the last block and so many accepted.

        explained: the number of unfinished tasks explains it.
        """
        early = cycles < EARLY_CYCLES and accepts >= EARLY_ACCEPTS
        self._early = early and self._settled() and not explained
        self._aim_age_s += cycles * self._cycle_s
        self._pace_before, self._pace = self._pace, pace

    def over(self, blocked_s: float, limit: float, cycle_s: float) -> Course:
        """Accepted again after so long, with the limit and the length of the next cycle that a client alone would take.

        Returns the course to take.
        """
        known = self._limit is not None
        if known:
            self._judge(blocked_s)
        self._limit_before, self._limit = self._limit, limit
        self._last_block_s = blocked_s
        course = self._shared(blocked_s, limit, known=known) if self.sensed else Course(limit, DIP, cycle_s)
        self._cycle_s = course.cycle_s
        return course

    def _shared(self, blocked_s: float, limit: float, *, known: bool) -> Course:
        """The course in company."""
        aim = max(min(self._pace, OVERSHOOT * limit), LOWEST_RATE) if known else limit
        self._aim_age_s += blocked_s
        if aim > self._aim or self._aim_age_s > AIM_KEPT_S or blocked_s >= SHORT_BLOCK_S:
            self._aim, self._aim_age_s = aim, 0.0
        own_s = max(SHORTEST_SHARED_CYCLE_S, SHARED_CYCLE_S * min(1.0, math.sqrt(self._aim / SLOW_RATE)))
        return Course(
            self._aim,
            SHARED_DIP,
            max(own_s, min(CYCLE_PER_BLOCK * blocked_s, LONGEST_SHARED_CYCLE_S)),
            first_pause_s=min(PAUSE_PER_BLOCK * blocked_s, LONGEST_SHARED_PAUSE_S),
        )

    def _judge(self, blocked_s: float) -> None:
        """Whether others are there, from the block that is over."""
        if self.sensed:
            same = abs(self._pace - self._pace_before) <= SAME_PACE * self._pace_before
            self._same_in_a_row = self._same_in_a_row + 1 if same and blocked_s < SHORT_BLOCK_S else 0
        elif self._early:
            self._same_in_a_row = 0
        if blocked_s >= LONG_BLOCK_S:
            self._same_in_a_row = 0

    def _settled(self) -> bool:
        if self._limit is None or self._limit_before is None:
            return False
        return abs(self._limit - self._limit_before) <= SETTLED * self._limit_before
