"""How the pretended gateway behaves when nothing goes wrong: its pace, its limits, its switches."""

import math
from collections.abc import Iterable
from random import Random
from typing import Literal

from attrs import define, field, frozen, validators

from krea_async.sandbox.faults import Faults

RetryAfter = Literal["seconds", "fraction", "date", "text"]

_not_negative = validators.ge(0.0)
_positive = validators.optional(validators.gt(0))


def _frozen(names: Iterable[str]) -> frozenset[str]:
    return frozenset(names)


@frozen(kw_only=True)
class Durations:
    """How long tasks queue and run, in seconds: log-normal around these medians; `sigma` is the spread of the log."""

    queue_s: float = field(default=0.1, validator=_not_negative)
    run_s: float = field(default=1.0, validator=_not_negative)
    sigma: float = field(default=0.3, validator=_not_negative)

    @classmethod
    def instant(cls) -> "Durations":
        """Every task is finished at its first read."""
        return cls(queue_s=0.0, run_s=0.0, sigma=0.0)

    @classmethod
    def fixed(cls, run_s: float) -> "Durations":
        """No queue, and every task runs for exactly `run_s`."""
        return cls(queue_s=0.0, run_s=run_s, sigma=0.0)

    def draw(self, rng: Random) -> tuple[float, float]:
        """The seconds that one task queues, and runs."""
        if not self.sigma:
            return self.queue_s, self.run_s
        return (
            self.queue_s * math.exp(rng.gauss(0.0, self.sigma)),
            self.run_s * math.exp(rng.gauss(0.0, self.sigma)),
        )

    @property
    def estimate_s(self) -> int:
        """What the gateway announces: the medians' sum in whole seconds, at least 1."""
        return max(1, round(self.queue_s + self.run_s))


@frozen(kw_only=True)
class Limits:
    """When the gateway answers 429. All that are set apply; None: no such limit.

    per_second: a token bucket of `burst` (default: one second's worth). per_window: (count, window_s), with windows
    aligned to the clock. unfinished: tasks that may be pending or processing at once. Rates count requests to `routes`,
    refused ones excepted. retry_after: how a 429 says when to come back (a header in whole or fractional seconds or as
    a date, or only words in the message); None: not at all. retry_after_s: announced instead of the true wait.
    """

    per_second: float | None = field(default=None, validator=_positive)
    burst: int | None = field(default=None, validator=_positive)
    per_window: tuple[int, float] | None = None
    unfinished: int | None = field(default=None, validator=_positive)
    retry_after: RetryAfter | None = None
    retry_after_s: float | None = None
    routes: frozenset[str] = field(default=frozenset({"create"}), converter=_frozen)


@define(kw_only=True)
class Settings:
    """Everything about the gateway that a test may change while it runs. `Sandbox` describes each."""

    key: str | None = "sk-evo-sandbox"
    durations: Durations = field(factory=Durations)
    limits: Limits = field(factory=Limits)
    faults: Faults = field(factory=Faults)
    batch_route: bool = True
    list_route: bool = True
    idempotency: bool = True
    link_life_s: float = 86_400.0
    allow_local_callbacks: bool = False
    callback_waits_s: tuple[float, ...] = (1.0, 2.0, 4.0)
    refuse_default_agents: bool = False
