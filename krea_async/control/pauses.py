"""How far a pause that the gateway names (Retry-After) holds everybody, and not only the prompt that was told so.

Some gateways name the true time, some always the same long one, and some begin a ban anew for whoever comes too early.
So a long pause is tested by a few early probes. One that counts down is true and is obeyed; where a probe is accepted
early, more are allowed the next time; where probes bring nothing, fewer, in the end none.
"""

import math
from typing import Final

MOST_EARLY_PROBES: Final = 8
"""To begin with, too: who always names the same long pause is commoner than who begins a ban anew."""

RETEST_BLOCKS: Final = 8
"""Where early probes never helped, one is tried again after so many pauses that were obeyed."""

ROUNDING_S: Final = 1.5
"""Pauses come in whole seconds, and answers are under way for a while: ends this close together are the same."""


class NamedPauses:
    """The pauses named between the first refusal and the next acceptance: a block."""

    def __init__(self) -> None:
        self._allowed = MOST_EARLY_PROBES
        self._obeyed_blocks = 0
        self._open = False
        self._end_s = -math.inf
        self._probes_left = 0

    def refused(self, now: float, named_s: float, short_s: float) -> float:
        """A probe, or the first submission of a block, was refused. Returns for how many seconds nobody may send.

        A pause up to `short_s` is obeyed; of a longer one, that many seconds while it is tested.
        """
        if named_s <= short_s:
            return named_s
        if not self._open:
            self._open = True
            self._probes_left = self._probes_to_allow()
        elif now + named_s <= self._end_s + ROUNDING_S:  # it counts down
            self._probes_left = 0
        self._end_s = max(self._end_s, now + named_s)
        if self._probes_left > 0:
            self._probes_left -= 1
            return short_s
        return self._end_s - now

    def accepted(self, now: float) -> None:
        """One that left after the last refusal was accepted: the block is over."""
        if not self._open:
            return
        if now < self._end_s - ROUNDING_S:
            self._allowed = min(MOST_EARLY_PROBES, 2 * max(1, self._allowed))
        else:
            self._allowed //= 2
        self._obeyed_blocks += 1
        self._open = False
        self._end_s = -math.inf

    def _probes_to_allow(self) -> int:
        if self._allowed == 0 and self._obeyed_blocks < RETEST_BLOCKS:
            return 0
        self._obeyed_blocks = 0
        return max(1, self._allowed)
