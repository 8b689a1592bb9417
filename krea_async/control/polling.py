"""When to look at a task again. A look at an unfinished one makes the gateway ask its upstream, so they are paced."""

from random import Random

from attrs import field, frozen, validators


@frozen(kw_only=True)
class PollPolicy:
    """How often a task is read.

    first_s: its age at the first read. After that the next read comes `share` of its age later, between min_s and
    max_s, so that being late is in proportion to what was waited for anyway. jitter: every wait varies by up to this
    part of it, so that tasks and clients do not fall into step. window_s: how long the first due task waits for company
    in its request. ahead_s: tasks due this much later are read along.
    """

    first_s: float = field(default=2.0, validator=validators.ge(0))
    share: float = field(default=0.2, validator=validators.ge(0))
    min_s: float = field(default=1.5, validator=validators.gt(0))
    max_s: float = field(default=15.0, validator=validators.gt(0))
    jitter: float = field(default=0.1, validator=[validators.ge(0), validators.lt(1)])
    window_s: float = field(default=0.2, validator=validators.ge(0))
    ahead_s: float = field(default=0.5, validator=validators.ge(0))

    def first_wait_s(self, rng: Random) -> float:
        """Seconds from the submission to the first read."""
        return self.first_s * self._varied(rng)

    def next_wait_s(self, age_s: float, rng: Random) -> float:
        """Seconds to the next read of a task that was submitted `age_s` ago and is not finished."""
        return min(max(self.share * age_s, self.min_s), self.max_s) * self._varied(rng)

    def _varied(self, rng: Random) -> float:
        return 1.0 + rng.uniform(-self.jitter, self.jitter)
