"""When the next submission may leave: as fast as the gateway accepts, without being told how fast that is.

The limit is what was accepted between two refusals (`saturation`). The pace stays just under it, crosses it slowly,
and after a refusal everybody stops while one at a time asks whether it is over. Where the gateway counts unfinished
tasks, a window takes over (`window`). When others seem to share the limit, the pace moves so that all come to the same
share (`company`). docs/pacing.md says what each constant is and how much depends on it.
"""

import math
from enum import StrEnum
from random import Random
from typing import Final, Literal

from attrs import field, frozen, validators

from krea_async.control.company import Company, Course
from krea_async.control.pauses import NamedPauses
from krea_async.control.saturation import DIP, Cycle, growth, shortest_cycle_s
from krea_async.control.window import Window

CATCH_UP_S: Final = 0.02
"""A start that is late by less than this is made up for: timers are late by milliseconds, and that must not add up."""

TOGETHER_S: Final = 0.005
"""Those that may leave within this leave together: at hundreds a second, a timer for each costs more than it brings."""

SLOW_START_GAIN: Final = 5.0
"""Per second, for each accepted submission while nothing is known: the pace doubles every two round trips."""

FIRST_PAUSE_S: Final = 0.25
LONGEST_FIRST_PAUSE_S: Final = 2.0
"""A pause that the gateway does not name begins at 1.25 intervals, between these, and doubles with every refusal."""

PROBE_PATIENCE_S: Final = 5.0
"""While blocked one submission at a time asks whether it is over; after so long without an answer another one may."""

PAUSE_SPREAD: Final = (0.75, 1.25)
"""By what such a pause is multiplied, drawn at random, so that several clients do not ask in step."""

SHORT_PAUSE_S: Final = 2.0
SHORT_PAUSE_INTERVALS: Final = 3.0
"""A named pause up to the longer of these holds everybody; a longer one is tested first (`pauses`)."""

NEAR_THE_CAP: Final = 0.9
"""What is found above this part of the caller's cap may be the cap's doing."""

_NEVER: Final = -math.inf


@frozen(kw_only=True)
class PacingPolicy:
    """How submissions find the gateway's limits.

    first_rate: submissions per second to begin with; until the first refusal the pace doubles every two round trips.
    longest_pause_s: pauses that the gateway does not name double with every refusal, up to this. window: whether a
    limit on unfinished tasks is looked for; off where nothing stays unfinished, as with polls. remember: whether what
    was found is kept in the user's cache directory, and the next session with this host and key begins with it.
    share: whether it gives way when others seem to use the same limit, as they do; off for who shares it with a client
    that gives way to nobody.
    """

    first_rate: float = field(default=20.0, validator=[validators.gt(0), validators.lt(math.inf)])
    longest_pause_s: float = field(default=6.0, validator=[validators.gt(0), validators.lt(math.inf)])
    window: bool = field(default=True, validator=validators.instance_of(bool))
    share: bool = field(default=True, validator=validators.instance_of(bool))
    remember: bool = field(default=True, validator=validators.instance_of(bool))


@frozen
class Sent:
    """A submission under way. in_flight: tasks that may have been unfinished on the gateway before it left.

    on_time: it left as soon as it might, so it was the governor that held it back, and not want of prompts.
    """

    at_s: float
    in_flight: int
    on_time: bool = True


@frozen
class Limit:
    """What the gateway seems to allow: submissions per second, or unfinished tasks."""

    kind: Literal["rate", "unfinished"] = field(validator=validators.in_(("rate", "unfinished")))
    value: float = field(validator=[validators.gt(0.0), validators.lt(math.inf)])

    def __str__(self) -> str:
        if self.kind == "rate":
            return f"{self.value:.3g}/s, rate-like"
        return f"{self.value:.0f} unfinished task" + "s" * (self.value != 1)


class State(StrEnum):
    """What a governor is doing."""

    SLOW_START = "slow start"
    """Nothing is known: the pace grows with every accepted submission."""
    CRUISING = "cruising"
    """A limit is known: the pace stays just under it, crosses it, and is refused from time to time."""
    BLOCKED = "blocked"
    """After a refusal: one submission at a time asks whether it is over."""
    WINDOWED = "windowed"
    """The gateway counts unfinished tasks: a new one may leave when another is finished."""


class Governor:
    """Every `sent` is followed by one `accepted`, `rejected` or `unanswered`.

    rate: the caller's cap, per second. known: what an earlier run found; it is where this one begins, and is tested
    like anything else. Raises ValueError for a rate that is not above 0.
    """

    def __init__(
        self, policy: PacingPolicy, *, rate: float | None = None, known: Limit | None = None, rng: Random
    ) -> None:
        if rate is not None and not 0.0 < rate < math.inf:
            raise ValueError(f"rate must be above 0: {rate}")
        self._policy = policy
        self._rng = rng
        self._cap = math.inf if rate is None else rate
        self._rate = min(self._cap, policy.first_rate)
        self._expected_rate = known.value if known is not None and known.kind == "rate" else None
        expected_tasks = known.value if known is not None and known.kind == "unfinished" else math.inf
        self._window = Window(enabled=policy.window, size=expected_tasks)
        self._pauses = NamedPauses()
        self._cycle = Cycle.starting(_NEVER, None)
        self._company = Company(enabled=policy.share)
        self._course = Course(self._rate, DIP, cycle_s=1.0)
        self._grown_since_s = _NEVER
        self._probe: Sent | None = None
        self._last_sent_s = _NEVER
        self._last_refusal_s = _NEVER
        self._blocked_since_s: float | None = None
        self._own_pause_s = FIRST_PAUSE_S
        self._next_s = _NEVER
        self._held_until_s = _NEVER
        self._freed_s = _NEVER
        self._awaits_news = False

    @property
    def rate(self) -> float:
        """Submissions per second at which they leave now, unless something else holds them."""
        return self._rate

    @property
    def state(self) -> State:
        """What it is doing."""
        if self._window.on:
            return State.WINDOWED
        if self._blocked_since_s is not None:
            return State.BLOCKED
        return State.SLOW_START if self._cycle.anchor is None else State.CRUISING

    @property
    def in_company(self) -> bool:
        """Whether others seem to share the limit; then what was found is this client's part of it."""
        return self._company.sensed

    @property
    def limit(self) -> Limit | None:
        """What was found; None: nothing yet, or nothing that the caller's own cap would not explain."""
        if self._last_refusal_s == _NEVER:
            return None
        if self._window.on:
            return Limit("unfinished", self._window.size)
        anchor = self._cycle.anchor
        return None if anchor is None or anchor > NEAR_THE_CAP * self._cap else Limit("rate", anchor)

    def wait_s(self, now: float, in_flight: int) -> float | None:
        """Seconds until the next submission may leave; 0: now; None: not before an answer, or the end of a task.

        in_flight: tasks that may be unfinished on the gateway, submissions under way included; prompts that were
        refused and wait are not. To be asked only when somebody wants to send, and again after each answer and end:
        the time in which nobody asks counts as idle.
        """
        if now < self._held_until_s:
            return self._held_until_s - now
        if in_flight >= self._window.size:
            self._awaits_news = True
            return None
        if self._probe is not None and now < self._probe.at_s + PROBE_PATIENCE_S:
            self._awaits_news = True
            return self._probe.at_s + PROBE_PATIENCE_S - now
        self._news(now)
        wait_s = self._next_s - now
        return wait_s if wait_s > TOGETHER_S else 0.0

    def sent(self, now: float, in_flight: int) -> Sent:
        """A submission leaves, while `in_flight` others may be unfinished."""
        late_s = now - max(self._next_s, self._held_until_s, self._freed_s)
        on_time = late_s < CATCH_UP_S
        if self._last_sent_s == _NEVER:
            self._begin(now)
        elif not on_time:
            self._skip_idle(now, late_s)
        planned_s = self._next_s if now - self._next_s < CATCH_UP_S else now
        self._next_s = planned_s + 1.0 / self._rate
        self._last_sent_s = now
        sent = Sent(now, in_flight, on_time)
        if self._blocked_since_s is not None:
            self._probe = sent
        return sent

    def accepted(self, now: float, sent: Sent) -> None:
        """The submission was accepted."""
        self._answered(now, sent)
        since_refusal = sent.at_s > self._last_refusal_s
        self._cycle.accept()
        self._window.accepted(sent.in_flight, since_refusal=since_refusal)
        if not since_refusal:
            return
        self._pauses.accepted(now)
        if self._blocked_since_s is not None:
            self._cut(now, now - self._blocked_since_s)
        elif sent.on_time:
            self._grow(now)

    def rejected(self, now: float, sent: Sent, retry_after_s: float | None) -> float:
        """The submission was answered 429, with the pause that the gateway asks for.

        Returns the seconds that this prompt waits for itself; 0.0: it goes back to the head of the queue at once.
        """
        self._answered(now, sent)
        named_s = retry_after_s if retry_after_s is not None and 0.0 < retry_after_s < math.inf else 0.0
        short_s = max(SHORT_PAUSE_S, SHORT_PAUSE_INTERVALS / (self._cycle.anchor or self._rate))
        if sent.at_s > self._last_refusal_s:
            self._last_refusal_s = now
            pause_s = self._pauses.refused(now, named_s, short_s)
            self._hold_until(now + pause_s)
            self._refused(now, sent, named=0.0 < named_s <= pause_s)
        else:
            self._hold_until(now + min(named_s, short_s))
        obeyed_by_all = named_s <= short_s or now + named_s <= self._held_until_s
        return 0.0 if obeyed_by_all else named_s

    def unanswered(self, now: float, sent: Sent) -> None:
        """The submission ended without a word about limits."""
        self._answered(now, sent)

    def _answered(self, now: float, sent: Sent) -> None:
        if sent is self._probe:
            self._probe = None
        self._news(now)

    def _news(self, now: float) -> None:
        """What somebody waited for has come: from now on it is idle time if nobody sends."""
        if self._awaits_news:
            self._awaits_news = False
            self._freed_s = now

    def _grow(self, now: float) -> None:
        """Raise the pace, after a submission was accepted that the pace had held back."""
        cycle = self._cycle
        if cycle.anchor is not None:
            course = self._course
            cycles = (now - self._grown_since_s) / course.cycle_s
            self._set_rate(min(course.aim * growth(cycles, course.dip), 2.0 * self._rate))
            cycle.grew_to(self._rate, now)
        else:
            self._set_rate(self._rate + SLOW_START_GAIN)
            self._begin_near_expected(now)

    def _cut(self, now: float, blocked_s: float) -> None:
        """Set the pace from what the cycle has shown, after the first submission that was accepted again."""
        limit = self._cycle.limit(now, blocked_s)
        course = self._company.over(blocked_s, limit, self._cycle.next_s(now, blocked_s, limit))
        self._begin_cycle(now, limit, course)
        self._blocked_since_s = None
        self._set_rate((1.0 - course.dip) * course.aim)
        self._next_s = now + 1.0 / self._rate
        self._own_pause_s = max(FIRST_PAUSE_S, min(1.25 / self._rate, LONGEST_FIRST_PAUSE_S), course.first_pause_s)

    def _refused(self, now: float, sent: Sent, *, named: bool) -> None:
        """One was refused that left after the refusal before. named: everybody keeps the gateway's own pause."""
        if self._window.on or self._blocked_since_s is None:
            windowed = self._window.on
            accepts = self._cycle.whole.accepts
            if self._window.refused(sent.in_flight, accepts, votes=self._company.votes_for_a_window):
                if not windowed:
                    self._open_pace(now)
                return
            self._blocked_since_s = now
            if windowed:
                self._cycle.recount(now)
                self._set_rate(self._cycle.anchor or self._rate)
            cycles = (now - self._grown_since_s) / self._course.cycle_s
            explained = windowed or self._window.suspected
            self._company.refused(self._rate, cycles=cycles, accepts=accepts, explained=explained)
        if not named:
            self._hold_until(now + self._own_pause_s * self._rng.uniform(*PAUSE_SPREAD))
            self._own_pause_s = min(self._policy.longest_pause_s, 2.0 * self._own_pause_s)

    def _begin(self, now: float) -> None:
        """The first submission leaves."""
        self._cycle = Cycle.starting(now, None)
        self._grown_since_s = now
        self._begin_near_expected(now)

    def _begin_near_expected(self, now: float) -> None:
        """Once the pace is as high as an earlier run found, go on as after a short cycle: it may be true no longer."""
        expected = self._expected_rate
        if expected is not None and self._rate >= expected:
            self._begin_cycle(now, expected, Course(expected, DIP, shortest_cycle_s(expected)))
            self._set_rate((1.0 - DIP) * expected)

    def _begin_cycle(self, now: float, anchor: float, course: Course) -> None:
        self._cycle = Cycle.starting(now, anchor, aim=course.aim)
        self._course = course
        self._grown_since_s = now

    def _open_pace(self, now: float) -> None:
        """Let the window be what limits."""
        anchor = 2.0 * (self._cycle.anchor or self._rate)
        self._begin_cycle(now, anchor, Course(anchor, DIP, self._course.cycle_s))
        self._set_rate(anchor)

    def _skip_idle(self, now: float, late_s: float) -> None:
        """Let a time not count in which nobody wanted to send, or the caller's own cap held them back."""
        self._cycle.skip(late_s)
        self._grown_since_s += now - max(self._last_sent_s, self._grown_since_s)
        if self._blocked_since_s is not None:
            self._blocked_since_s += late_s

    def _set_rate(self, rate: float) -> None:
        self._rate = min(self._cap, rate)

    def _hold_until(self, end_s: float) -> None:
        self._held_until_s = max(self._held_until_s, end_s)
