"""When the next submission may leave: evenly spaced below the caller's rate, and one pause for all after a 429.

After a 429 nobody sends until the pause is over. Then one request probes; each one that is accepted lets one more leave
beside it, and they come back spread out, not as a herd: a little slower than the gateway is known to have accepted
from one 429 to the next, and gaining speed from there. Requests that were under way when the gateway said no belong to
the same episode and do not lengthen it.
"""

import math
from random import Random
from typing import Final

from attrs import field, frozen, validators

_CATCH_UP_S: Final = 0.02
"""A start that is late by less than this is made up for: timers are late by milliseconds, and that must not add up."""


@frozen(kw_only=True)
class PausePolicy:
    """How long everybody waits after a 429 that names no time.

    first_s: the first pause; it doubles with every probe that is refused, up to max_s. Each is shortened by a random
    part of up to half. A pause that the gateway names is kept, plus a random part of up to spread_s. slower: the part
    of the speed accepted so far at which the others come back. gain: by how much of itself that speed grows per second.
    """

    first_s: float = field(default=1.0, validator=validators.gt(0))
    max_s: float = field(default=8.0, validator=validators.gt(0))
    spread_s: float = field(default=0.5, validator=validators.ge(0))
    slower: float = field(default=0.95, validator=[validators.gt(0), validators.le(1)])
    gain: float = field(default=0.06, validator=validators.gt(0))


class Pace:
    """Every `sent` is followed by one `accepted`, `rejected` or `unanswered`."""

    def __init__(self, rate: float | None, policy: PausePolicy, rng: Random) -> None:
        self._shortest_interval_s = 0.0 if rate is None else 1.0 / rate
        self._interval_s = self._shortest_interval_s
        self._policy = policy
        self._rng = rng
        self._next_s = -math.inf
        self._paused_until_s = -math.inf
        self._last_rejection_s = -math.inf
        self._idle_s = 0.0
        self._last_answer_s = math.inf
        self._accepts = 0
        self._last_gain_s = -math.inf
        self._refused_in_a_row = 0
        self._in_flight = 0
        self._room = math.inf

    def wait_s(self, now: float) -> float | None:
        """Seconds until the next submission may leave; 0: now; None: not before an answer to one under way."""
        if now < self._paused_until_s:
            return self._paused_until_s - now
        if self._in_flight >= self._room:
            return None
        return max(0.0, self._next_s - now)

    def sent(self, now: float) -> None:
        """A submission leaves."""
        if self._in_flight == 0:  # nobody wanted to send: that says nothing about the gateway's speed
            self._idle_s += max(0.0, now - max(self._next_s, self._paused_until_s, self._last_answer_s))
        self._in_flight += 1
        late_s = now - self._next_s
        self._next_s = (self._next_s if late_s < _CATCH_UP_S else now) + self._interval_s

    def accepted(self, now: float, sent_s: float) -> None:
        """The submission that left at `sent_s` was accepted."""
        self._in_flight -= 1
        self._last_answer_s = now
        self._accepts += 1
        if sent_s > self._last_rejection_s:
            self._refused_in_a_row = 0
            self._room += 1
            self._gain_speed(now)

    def unanswered(self) -> None:
        """A submission ended without a word about limits."""
        self._in_flight -= 1

    def rejected(self, now: float, sent_s: float, retry_after_s: float | None) -> None:
        """The submission that left at `sent_s` was answered 429."""
        self._in_flight -= 1
        self._last_answer_s = now
        if sent_s > self._last_rejection_s:
            self._refused_in_a_row += 1
            self._room = 1
            self._lose_speed(now)
            self._last_rejection_s = now
            self._pause_until(now + self._own_pause_s())
        if retry_after_s is not None:
            self._pause_until(now + retry_after_s + self._rng.uniform(0.0, self._policy.spread_s))

    def _lose_speed(self, now: float) -> None:
        """Between two refusals the gateway took all it would take: that is its speed, whatever kind its limit is of."""
        elapsed_s = now - self._last_rejection_s - self._idle_s
        if self._refused_in_a_row == 1:
            if 0.0 < elapsed_s < math.inf and self._accepts:
                self._interval_s = max(elapsed_s / self._accepts / self._policy.slower, self._shortest_interval_s)
            self._accepts = 0
            self._idle_s = 0.0
        self._last_gain_s = now

    def _gain_speed(self, now: float) -> None:
        gained = self._policy.gain * min(now - self._last_gain_s, 5.0)
        self._interval_s = max(self._interval_s / (1.0 + gained), self._shortest_interval_s)
        self._last_gain_s = now

    def _own_pause_s(self) -> float:
        longest_s = min(self._policy.max_s, self._policy.first_s * 2.0 ** min(self._refused_in_a_row - 1, 30))
        return longest_s * self._rng.uniform(0.5, 1.0)

    def _pause_until(self, end_s: float) -> None:
        self._paused_until_s = max(self._paused_until_s, end_s)
