"""How much a gateway accepts: between two refusals it took all it would take, whatever kind its limit is of.

So what was accepted, over the time that it took, is the limit; and how long that took says how sure this is. Time in
which nobody wanted to send is cut out: the moments kept here are moved on by it (`skip`).
"""

from typing import Final

from attrs import define

PRIOR_ACCEPTS: Final = 10
"""The estimate before counts as so many accepted submissions, so that a short cycle does not overthrow it."""

CYCLE_ACCEPTS: Final = 100
"""A cycle should see about so many accepted: one refusal for each hundred."""

BLOCKED_SHARE: Final = 1 / 30
"""A cycle should be so long that the time after a refusal is no more than this part of it."""

LONGEST_COUNTED_BLOCK_S: Final = 2.0
LONGEST_CYCLE_S: Final = 60.0
"""However slow the limit: in this time the pace is back at the anchor, and begins to look beyond it."""

SHORTEST_CYCLE_S: Final = 5.0
SHORTEST_CYCLE_ACCEPTS: Final = 10
"""The shortest cycle: so many seconds, or the time of so many accepted, whichever is shorter."""

DIP: Final = 0.05
"""The pace begins a cycle this far below the anchor, and is as far above it after two."""

LOWEST_RATE: Final = 0.1
"""No estimate is lower: at one in ten seconds it is still noticed when the limit comes back."""

BEYOND: Final = 1.25
"""When the pace has grown by this factor, it has left what is known, and the count begins afresh beside the first."""


@define
class Count:
    """Submissions accepted since a moment."""

    since_s: float
    accepts: int = 0

    def rate(self, now: float, spare_s: float, *, shortest_s: float) -> float:
        """Accepted per second; `spare_s` of the time does not count."""
        return self.accepts / max(now - self.since_s - spare_s, shortest_s)


@define
class Cycle:
    """From the end of one saturation to the end of the next.

    anchor: the rate known from the cycle before, per second; None: nothing is known yet.
    """

    whole: Count
    anchor: float | None
    beyond: Count | None = None
    _known_up_to: float = 0.0

    @classmethod
    def starting(cls, now: float, anchor: float | None, *, aim: float = 0.0) -> "Cycle":
        """A cycle of which nothing has happened yet. aim: a pace above the anchor that is known, too."""
        return cls(Count(now), anchor, known_up_to=max(anchor or 0.0, aim))

    def skip(self, idle_s: float) -> None:
        """Let a time not count in which nobody wanted to send."""
        self.whole.since_s += idle_s
        if self.beyond is not None:
            self.beyond.since_s += idle_s

    def accept(self) -> None:
        """One more was accepted."""
        self.whole.accepts += 1
        if self.beyond is not None:
            self.beyond.accepts += 1

    def grew_to(self, rate: float, now: float) -> None:
        """The pace has grown. Far above what is known, the limit must have risen, and what went before misleads."""
        if self.anchor is not None and rate > BEYOND * self._known_up_to:
            self._known_up_to = rate
            self.beyond = Count(now)

    def recount(self, now: float) -> None:
        """Take what was accepted in this cycle so far for the limit, if it is enough to tell."""
        if self.whole.accepts >= PRIOR_ACCEPTS:
            self.anchor = max(LOWEST_RATE, self.whole.rate(now, 0.0, shortest_s=0.1))

    def limit(self, now: float, blocked_s: float) -> float:
        """The limit per second, as the whole cycle shows it, whose last `blocked_s` brought nothing but refusals."""
        spare_s = min(blocked_s, DIP * max(0.0, now - self.whole.since_s))
        if self.anchor is None:
            return max(LOWEST_RATE, self.whole.rate(now, spare_s, shortest_s=0.1))
        prior = Count(self.whole.since_s - PRIOR_ACCEPTS / self.anchor, self.whole.accepts + PRIOR_ACCEPTS)
        found = prior.rate(now, spare_s, shortest_s=0.1)
        if self.beyond is not None and self.beyond.accepts > 5:
            found = max(found, self.beyond.rate(now, spare_s, shortest_s=0.2))
        return max(LOWEST_RATE, self.anchor / 2, found)

    def next_s(self, now: float, blocked_s: float, limit: float) -> float:
        """How long the pace may take back to `limit`: as long as this cycle, within what is needed and bearable."""
        wanted_s = max(CYCLE_ACCEPTS / limit, min(blocked_s, LONGEST_COUNTED_BLOCK_S) / BLOCKED_SHARE)
        sure = min(1.0, self.whole.accepts / PRIOR_ACCEPTS)
        return max(shortest_cycle_s(limit), sure * min(now - self.whole.since_s, wanted_s, LONGEST_CYCLE_S))


def shortest_cycle_s(limit: float) -> float:
    """How long a cycle takes of which nothing is known but the limit."""
    return min(SHORTEST_CYCLE_S, SHORTEST_CYCLE_ACCEPTS / limit)


def growth(cycles: float, dip: float = DIP) -> float:
    """The pace as a part of its aim, so many cycles after a saturation: slow near the aim, fast far above it."""
    if cycles <= 2.0:
        return 1.0 + dip * (cycles - 1.0) ** 3
    return float((1.0 + dip) * 4.0 ** min(cycles - 2.0, 8.0))
