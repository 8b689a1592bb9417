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

_CREDIT: Final = 0.5
"""Callbacks that are assumed to have come before any did. Polling begins a little later for it; and the first hundreds
of tasks, which are all sent before the first callback, are not all read in vain."""

_MIRACLE: Final = 1e-6
"""As many alike in a row as are less likely than this: things have changed, and what was before is forgotten."""

_STEPS_PER_HALVING: Final = 2.0


class CallbackLosses:
    """The share of callbacks that are lost.

    lost_share: from 1 (none arrives) down to about 0.001, in steps of half an octave, so that it seldom changes.
    """

    def __init__(self) -> None:
        self._found = _CREDIT
        self._lost = 0.0
        self._streak = 0
        self._streak_lost = False
        self.lost_share = self._in_steps()

    def found(self, *, announced: bool) -> None:
        """A task that has a callback was found finished; announced: its callback had come before."""
        kept = 1.0 - 1.0 / REMEMBERED
        self._found = kept * self._found + 1.0
        self._lost = kept * self._lost + (not announced)
        self._streak = 1 if announced == self._streak_lost else self._streak + 1
        self._streak_lost = not announced
        share = self._share()
        if (share if self._streak_lost else 1.0 - share) ** self._streak < _MIRACLE:
            self._found = min(self._streak, REMEMBERED)
            self._lost = self._found if self._streak_lost else 0.0
        self.lost_share = self._in_steps()

    def _share(self) -> float:
        return (self._lost + _DOUBT) / (self._found + _DOUBT)

    def _in_steps(self) -> float:
        return 2.0 ** (round(_STEPS_PER_HALVING * math.log2(self._share())) / _STEPS_PER_HALVING)
