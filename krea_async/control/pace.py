"""When the next submission may leave: evenly spaced below the caller's rate, and one pause for all after a 429.

After a 429 nobody sends until the pause is over. Then one request probes; each one that is accepted lets one more leave
beside it, so the others come back spread out and not as a herd. Requests that were under way when the gateway said no
belong to the same episode and do not lengthen it.
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
    part of up to half. A pause that the gateway names is kept, plus a random part of up to spread_s.
    """

    first_s: float = field(default=1.0, validator=validators.gt(0))
    max_s: float = field(default=8.0, validator=validators.gt(0))
    spread_s: float = field(default=0.5, validator=validators.ge(0))


class Pace:
    """Every `sent` is followed by one `accepted`, `rejected` or `unanswered`."""

    def __init__(self, rate: float | None, policy: PausePolicy, rng: Random) -> None:
        self._interval_s = 0.0 if rate is None else 1.0 / rate
        self._policy = policy
        self._rng = rng
        self._next_s = -math.inf
        self._paused_until_s = -math.inf
        self._last_rejection_s = -math.inf
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
        self._in_flight += 1
        self._next_s = max(self._next_s, now - _CATCH_UP_S) + self._interval_s

    def accepted(self, sent_s: float) -> None:
        """The submission that left at `sent_s` was accepted."""
        self._in_flight -= 1
        if sent_s > self._last_rejection_s:
            self._refused_in_a_row = 0
            self._room += 1

    def unanswered(self) -> None:
        """A submission ended without a word about limits."""
        self._in_flight -= 1

    def rejected(self, now: float, sent_s: float, retry_after_s: float | None) -> None:
        """The submission that left at `sent_s` was answered 429."""
        self._in_flight -= 1
        if sent_s > self._last_rejection_s:
            self._last_rejection_s = now
            self._refused_in_a_row += 1
            self._room = 1
            self._pause_until(now + self._own_pause_s())
        if retry_after_s is not None:
            self._pause_until(now + retry_after_s + self._rng.uniform(0.0, self._policy.spread_s))

    def _own_pause_s(self) -> float:
        longest_s = min(self._policy.max_s, self._policy.first_s * 2.0 ** min(self._refused_in_a_row - 1, 30))
        return longest_s * self._rng.uniform(0.5, 1.0)

    def _pause_until(self, end_s: float) -> None:
        self._paused_until_s = max(self._paused_until_s, end_s)
