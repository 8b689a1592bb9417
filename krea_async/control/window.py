"""How many tasks may be unfinished: whether the gateway counts them at all, and if it does, how many it bears.

Under a limit on unfinished tasks every refusal comes at a number at which almost nothing is ever accepted; under a
rate limit it does not. A few such refusals in a row switch the window on, a few quick ones inside it that its growth
does not explain switch it off.
"""

import math
from collections import deque
from typing import Final

VOTES: Final = 4
"""So many refusals in a row have to speak for a limit on unfinished tasks."""

ACCEPTS_PER_VOTE: Final = 5
"""A refusal after fewer accepted submissions than this says nothing."""

REMEMBERED: Final = 100
SHARE_ABOVE: Final = 0.1
"""A refusal speaks against a window when more than this part of the last hundred were accepted at as many."""

STRIKES: Final = 4
STRIKE_ACCEPTS: Final = 16
"""So many refusals in a row, each after fewer accepted than this, switch the window off: it is not what limits."""

REFUSED_IN_A_ROW: Final = 6
"""While the window falls to a lower limit nothing is accepted, and that is one strike; so many refusals end it, too."""

CREPT: Final = 0.7
"""A limit on tasks falls at once or not at all: what creeps below this part of what it was is a rate limit."""

ACCEPTS_PER_STEP: Final = 32
MOST_ACCEPTS_PER_STEP: Final = 256
"""The window grows by one after so many accepted per place in it, and twice as fast after each time that went well."""


class Window:
    """The number of unfinished tasks up to which submissions may leave; infinite while there is no sign of a limit."""

    def __init__(self, *, enabled: bool, size: float = math.inf) -> None:
        self._enabled = enabled
        self._size = max(1.0, size) if enabled else math.inf
        self._highest = self._size if self.on else 0.0
        self._accepts = 0
        self._accepts_to_grow = self._size if self.on else math.inf
        self._grown = False
        self._strikes = 0
        self._refused_in_a_row = 0
        self._votes = 0
        self._lowest_refused = math.inf
        self._accepted_at: deque[int] = deque(maxlen=REMEMBERED)

    @property
    def size(self) -> float:
        """Submissions may leave while fewer than this are unfinished."""
        return self._size

    @property
    def on(self) -> bool:
        """Whether the gateway seems to count unfinished tasks."""
        return self._size < math.inf

    @property
    def suspected(self) -> bool:
        """Whether the last refusal spoke for a limit on unfinished tasks."""
        return self._votes > 0

    def accepted(self, in_flight: int, *, since_refusal: bool) -> None:
        """One was accepted that left when `in_flight` were unfinished, after the last refusal or before it."""
        self._accepted_at.append(in_flight)
        self._accepts += 1
        if not since_refusal:
            return
        if self.on:
            self._grow(in_flight)
        elif in_flight > 1.1 * self._lowest_refused + 1:
            self._forget_votes()

    def refused(self, in_flight: int, accepts: int, *, votes: int = VOTES) -> bool:
        """One was refused that left when `in_flight` were unfinished, `accepts` after the last refusal.

        votes: refusals in a row that have to speak for a window. Returns whether the window explains this one, so that
        the pace need not change.
        """
        if not self._enabled:
            return False
        if self.on:
            self._tighten(in_flight)
        else:
            self._vote(in_flight, accepts, votes)
        return self.on

    def _grow(self, in_flight: int) -> None:
        if self._accepts >= self._accepts_to_grow and in_flight >= self._size - 1:
            self._size += 1
            self._highest = max(self._highest, self._size)
            self._accepts_to_grow //= 2
            self._accepts = 0
            self._grown = True

    def _tighten(self, in_flight: int) -> None:
        if self._grown:
            self._strikes = self._refused_in_a_row = 0
            no_wall = in_flight < CREPT * self._highest
        elif self._accepts == 0:
            self._refused_in_a_row += 1
            no_wall = self._refused_in_a_row >= REFUSED_IN_A_ROW
        else:
            self._refused_in_a_row = 0
            self._strikes = self._strikes + 1 if self._accepts < STRIKE_ACCEPTS else 0
            no_wall = self._strikes >= STRIKES or in_flight < CREPT * self._highest
        self._grown = False
        if no_wall:
            self._switch_off()
        else:
            self._set(min(self._size, in_flight))

    def _vote(self, in_flight: int, accepts: int, votes: int) -> None:
        above = sum(accepted >= in_flight for accepted in self._accepted_at)
        if above > SHARE_ABOVE * len(self._accepted_at):
            self._forget_votes()
        elif accepts >= ACCEPTS_PER_VOTE:
            self._votes += 1
            self._lowest_refused = min(self._lowest_refused, in_flight)
            if self._votes >= votes:
                self._grown = False
                self._strikes = 0
                self._refused_in_a_row = 0
                self._set(self._lowest_refused)
                self._highest = self._size

    def _set(self, size: float) -> None:
        self._size = max(1.0, size)
        self._accepts_to_grow = min(MOST_ACCEPTS_PER_STEP, ACCEPTS_PER_STEP * self._size)
        self._accepts = 0

    def _switch_off(self) -> None:
        self._size = math.inf
        self._accepted_at.clear()
        self._forget_votes()

    def _forget_votes(self) -> None:
        self._votes = 0
        self._lowest_refused = math.inf
