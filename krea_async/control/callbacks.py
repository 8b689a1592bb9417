"""Whether callbacks can be relied on, learnt from every task that is found finished, announced by one or not.

While callbacks arrive, silence says that a task is still running, and reads wait until that is hard to believe. So one
number, the share that is lost, carries reads from a slow safety net to plain polling (`hazard` has the arithmetic).
"""

import math
from typing import Final

REMEMBERED: Final = 200.0
"""Finishes that count."""

_DOUBT: Final = 0.25
"""Lost ones that are assumed beside those that were. So nobody is surer than that in REMEMBERED, and then reads wait
until silence is hard to believe: that bounds how late a lost callback is noticed."""

_CREDIT: Final = 0.75
"""Callbacks that are assumed to have come before any did. Polling begins a little later for it; and the first hundreds
of tasks, which are all sent before the first callback, are not all read in vain."""

_MIRACLE: Final = 1e-6
"""As many lost in a row as are less likely than this: they have stopped, and what was before is forgotten. There is
no such rule for those that come: a lost one is found later, so at first it looks as if there were none."""

_STEPS_PER_HALVING: Final = 2.0


class CallbackLosses:
    """The share of callbacks that are lost.

    lost_share: from 1 (none arrives) down to about 0.001, in steps of half an octave, so that it seldom changes.
    """

    def __init__(self) -> None:
        self._found = _CREDIT
        self._lost = 0.0
        self._lost_in_a_row = 0
        self.lost_share = self._in_steps()

    def found(self, *, announced: bool) -> None:
        """A task that has a callback was found finished; announced: its callback had come before."""
        kept = 1.0 - 1.0 / REMEMBERED
        self._found = kept * self._found + 1.0
        self._lost = kept * self._lost + (not announced)
        self._lost_in_a_row = 0 if announced else self._lost_in_a_row + 1
        if self._share() ** self._lost_in_a_row < _MIRACLE:
            self._found = self._lost = min(self._lost_in_a_row, REMEMBERED)
        self.lost_share = self._in_steps()

    def _share(self) -> float:
        return (self._lost + _DOUBT) / (self._found + _DOUBT)

    def _in_steps(self) -> float:
        return math.pow(2.0, round(_STEPS_PER_HALVING * math.log2(self._share())) / _STEPS_PER_HALVING)
