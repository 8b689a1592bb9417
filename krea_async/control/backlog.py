"""Whether finished pictures reach the disk before their links die, or new submissions have to wait for the downloads.

Moments are Unix seconds: a link's last one is set by the gateway and outlives a restart.
"""

import heapq
import math
from collections.abc import Iterable
from typing import Final, Protocol, TypeVar

from attrs import Attribute, field, frozen, validators

LINK_LIFETIME_S: Final = 24 * 3600.0
"""Links live this long after their task is completed (docs/api-facts.md)."""


class Fetchable(Protocol):
    """A picture that is to be fetched."""

    @property
    def accepted_s(self) -> float:
        """When the gateway accepted its task."""
        ...

    @property
    def expires_s(self) -> float | None:
        """When its link dies; None: the task was not seen completed yet."""
        ...


Picture = TypeVar("Picture", bound=Fetchable)


def deadline_s(picture: Fetchable) -> float:
    """When the picture's link dies at the earliest: a task may be completed as soon as it is accepted."""
    return picture.accepted_s + LINK_LIFETIME_S if picture.expires_s is None else picture.expires_s


def earliest_deadline_first(pictures: Iterable[Picture]) -> list[Picture]:
    """The order in which to fetch; no other order saves all where this one does not."""
    return sorted(pictures, key=deadline_s)


def _check_not_above_margin(policy: "BacklogPolicy", attribute: "Attribute[float]", value: float) -> None:
    if value > policy.margin:
        raise ValueError(f"'{attribute.name}' must be <= margin: {value}")


@frozen(kw_only=True)
class BacklogPolicy:
    """When submissions wait for the downloads.

    margin: the part of the time to the earliest deadline that the whole backlog may take; beyond it submissions wait.
    resume_margin: they go on when it takes no more than this part, so that they do not flap. assumed_rate: pictures per
    second, until downloads were observed. span_s: the rate is observed over about this long.
    """

    margin: float = field(default=0.5, validator=[validators.gt(0), validators.le(1)])
    resume_margin: float = field(default=0.4, validator=[validators.gt(0), _check_not_above_margin])
    assumed_rate: float = field(default=1.0, validator=validators.gt(0))
    span_s: float = field(default=60.0, validator=validators.gt(0))


class Backlog:
    """The pictures that are finished on the gateway and not yet on disk.

    The observed rate is pictures per second of the time in which there was something to fetch, where what lies `span_s`
    back weighs 1/e of what is new. It begins as if the assumed rate had been observed for one span.
    """

    def __init__(self, policy: BacklogPolicy) -> None:
        self._policy = policy
        self._expires_s: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []  # also entries that are out of date; `_expires_s` is the truth
        self._weighted_s = policy.span_s
        self._weighted_pictures = policy.assumed_rate * policy.span_s
        self._observed_until_s = math.inf
        self._waiting = False

    def __len__(self) -> int:
        return len(self._expires_s)

    @property
    def rate(self) -> float:
        """Pictures per second, as observed so far."""
        return self._weighted_pictures / self._weighted_s

    def completed(self, task_id: str, expires_s: float, now: float) -> None:
        """A picture is finished on the gateway, or has a new link, which dies at `expires_s`."""
        self._observe(now)
        self._expires_s[task_id] = expires_s
        heapq.heappush(self._heap, (expires_s, task_id))
        if len(self._heap) > 2 * len(self._expires_s) + 64:  # one old picture on top would keep all the others' entries
            self._heap = [(expires_s, task_id) for task_id, expires_s in self._expires_s.items()]
            heapq.heapify(self._heap)

    def saved(self, task_id: str, now: float) -> None:
        """The picture is on disk."""
        self._observe(now)
        self._weighted_pictures += 1.0
        self._expires_s.pop(task_id, None)

    def dropped(self, task_id: str, now: float) -> None:
        """The picture is not fetched any more."""
        self._observe(now)
        self._expires_s.pop(task_id, None)

    def may_submit(self, now: float) -> bool:
        """Whether the downloads are so far ahead of the earliest deadline that more pictures may be ordered."""
        self._observe(now)
        earliest_s = self._earliest_s()
        margin = self._policy.resume_margin if self._waiting else self._policy.margin
        self._waiting = len(self) > self.rate * margin * max(0.0, earliest_s - now)
        return not self._waiting

    def _earliest_s(self) -> float:
        while self._heap:
            expires_s, task_id = self._heap[0]
            if self._expires_s.get(task_id) == expires_s:
                return expires_s
            heapq.heappop(self._heap)
        return math.inf

    def _observe(self, now: float) -> None:
        """Let the time since the last call count, if there was something to fetch in it."""
        passed_s = max(0.0, now - self._observed_until_s)
        self._observed_until_s = now
        if passed_s and self._expires_s:
            kept = math.exp(-passed_s / self._policy.span_s)
            self._weighted_pictures *= kept
            self._weighted_s = self._weighted_s * kept + self._policy.span_s * (1.0 - kept)
