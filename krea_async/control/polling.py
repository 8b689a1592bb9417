"""When to look at a task again. A look at an unfinished one makes the gateway ask its upstream, so looks are weighed.

`hazard` learns how long tasks take and plans their reads. Here is how eager the reads are: the policy, a law for each
kind of task, and what makes everybody more or less eager for a while.
"""

import math
from random import Random
from types import MappingProxyType
from typing import Final

from attrs import Attribute, field, frozen, validators

from krea_async.control.hazard import Law
from krea_async.errors import InvalidRequestError

PROMPTER: Final = 4.0
"""A read of a task that somebody waits for is worth this many times less lag, so it is read more often."""

EAGER: Final = 2.0
"""The same for all tasks while the gateway limits how many are unfinished: there, lag is lost throughput."""

FULL_WORTH_S: Final = 8.0
"""Tasks that are expected to take less than this are read more eagerly, by the root of the ratio."""

LATE_S: Final = 0.5
_LATER: Final = 1.03
_SOONER: Final = 0.995
_MOST_STRETCHED: Final = 20.0
"""While requests leave later than LATE_S after they were due, each lets the next reads come later, up to 20 times."""

_JITTER: Final = 0.05
"""Every wait is longer or shorter by up to this part of it: so that clients do not fall into step for good."""

_KNOWN_AGE: Final = 5.0
_UNKNOWN_AGE: Final = 1.0
"""How closely tasks are expected to keep to the gateway's estimate, counted from their start, or from anywhere."""

_USUAL_S: Final = 8.0
_SHORTEST_ESTIMATE_S: Final = 0.5
_LONGEST_ESTIMATE_S: Final = 3600.0


def _finite(_: object, attribute: "Attribute[float]", value: float) -> None:
    if not math.isfinite(value):
        raise ValueError(f"{attribute.name} must be finite, not {value}")


PRESETS: Final = MappingProxyType({"frugal": 0.8, "balanced": 0.24, "prompt": 0.05})
"""Names for `PollPolicy.lag_per_read_s`."""


@frozen(kw_only=True)
class PollPolicy:
    """How eagerly tasks are read.

    lag_per_read_s: the seconds of learning late that one read is worth: less means more reads. This is the one knob;
    when each task is read follows from it and from how long tasks were seen to take. It holds for tasks of 8 s and
    more; shorter ones are read more eagerly.
    shortest_s, longest_s: bounds of the time between two reads of a task, whatever was learnt; equal, they make it
    fixed. window_s: how long the first due task waits for company in its request. ahead_s: tasks due this much later
    are read along.
    """

    lag_per_read_s: float = field(default=0.24, validator=[validators.gt(0), _finite])
    shortest_s: float = field(default=0.25, validator=[validators.gt(0), _finite])
    longest_s: float = field(default=60.0, validator=_finite)
    window_s: float = field(default=0.2, validator=[validators.ge(0), _finite])
    ahead_s: float = field(default=0.5, validator=[validators.ge(0), _finite])

    @longest_s.validator
    def _check_longest(self, _: "Attribute[float]", value: float) -> None:
        if value < self.shortest_s:
            raise ValueError(f"longest_s must be at least shortest_s ({self.shortest_s}), not {value}")

    @classmethod
    def of(cls, value: object) -> "PollPolicy":
        """`value` itself, or the preset of that name: "frugal", "balanced" or "prompt". None: balanced.

        Raises InvalidRequestError for anything else.
        """
        if isinstance(value, PollPolicy):
            return value
        if value is None:
            return cls()
        lag_per_read_s = PRESETS.get(value) if isinstance(value, str) else None
        if lag_per_read_s is None:
            raise InvalidRequestError(
                f"polling {value!r} is no preset",
                field="polling",
                value=value,
                allowed=f"a PollPolicy or one of {', '.join(PRESETS)}",
            )
        return cls(lag_per_read_s=lag_per_read_s)


class ReadTimes:
    """When each task is read next. One for all tasks of a session; `eager` may be set at any time."""

    def __init__(self, policy: PollPolicy, rng: Random) -> None:
        self._policy = policy
        self._rng = rng
        self._laws: dict[tuple[int, bool], Law] = {}
        self._stretch = 1.0
        self.eager = False

    def law(self, estimated_time_s: float | None, *, age_known: bool) -> Law:
        """What is known of tasks with about this estimate. One law serves an octave of estimates.

        Tasks taken up again, whose age nobody knows, have laws of their own: their age counts from when they were.
        """
        octave = round(math.log2(_believable(estimated_time_s)))
        law = self._laws.get((octave, age_known))
        if law is None:
            law = Law(2.0**octave, _KNOWN_AGE if age_known else _UNKNOWN_AGE)
            self._laws[octave, age_known] = law
        return law

    def wait_s(self, law: Law, age_s: float, *, awaited: bool, lost_share: float = 1.0) -> float:
        """Seconds from the age `age_s` to the task's next read. awaited: somebody waits for just this task.

        lost_share: see `Law.plan`.
        """
        wait_s = law.plan(self._lag_per_read_s(law, awaited=awaited), lost_share).wait_s(age_s)
        wait_s *= 1.0 + _JITTER * (2.0 * self._rng.random() - 1.0)
        return min(max(wait_s, self._policy.shortest_s), self._policy.longest_s)

    def sent(self, late_s: float) -> None:
        """A request left, `late_s` after it was due: when they cannot keep up, all tasks are read less often."""
        stretch = self._stretch * (_LATER if late_s > LATE_S else _SOONER)
        self._stretch = min(max(stretch, 1.0), _MOST_STRETCHED)

    def _lag_per_read_s(self, law: Law, *, awaited: bool) -> float:
        lag_s = self._policy.lag_per_read_s
        if self._stretch > 1.0:  # in steps of a quarter of an octave, so that plans are used more than once
            lag_s *= 2.0 ** (round(4.0 * math.log2(self._stretch)) / 4.0)
        if self.eager:
            lag_s /= EAGER
        if awaited:
            lag_s /= PROMPTER
        if law.typical_s < FULL_WORTH_S:
            lag_s *= math.sqrt(law.typical_s / FULL_WORTH_S)
        return lag_s


def _believable(estimated_time_s: float | None) -> float:
    if estimated_time_s is None or not 0.0 < estimated_time_s < math.inf:
        return _USUAL_S
    return min(max(estimated_time_s, _SHORTEST_ESTIMATE_S), _LONGEST_ESTIMATE_S)
