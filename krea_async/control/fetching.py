"""How many pictures are fetched at a time, and which is next. Pure: moments are arguments.

`Lanes` finds out how many transfers at a time the line and the image host make use of. `FetchQueue` serves by the time
at which links die. docs/architecture.md says why, benchmarks/simulation/fetching.py what it brings.
"""

import heapq
import math
from collections.abc import Hashable
from itertools import count
from typing import Final, Generic, TypeVar

START_LANES: Final = 8
"""About what a browser opens to one host: a few pictures wait for nothing, and no host takes offence."""

STEP: Final = 1.5
"""By what the lanes are multiplied from one level of the search to the next."""
WORTH: Final = 0.25
"""The part of their share that more lanes must bring to be kept: half as many again, an eighth more bytes a second."""
FLAT_LEVELS: Final = 2
"""So many levels in a row must not be worth it before the search ends: one may have been bad luck."""
FALL: Final = 0.75
"""What is left of the lanes after a refusal."""
TROUBLE: Final = 0.15
"""The part of answers that are 503 without a word from which on they are refusals; fewer are bad luck."""
MEASURE_S: Final = 0.05
"""The shortest time in which throughput is measured: transfers often end together."""
FIRST_PROBE_S: Final = 2.0
LONGEST_PROBE_S: Final = 160.0
"""How long a number of lanes is kept before more are tried; it doubles with every probe that brings nothing."""
RECENT: Final = 1 / 16
"""The weight of the last transfer in the mean time that one takes, and in the part that meets trouble."""
MARGIN: Final = 4.0
"""So many times the mean time a link must have left: sizes are not known beforehand, and what dies half-way costs more
than what is put off."""

T = TypeVar("T", bound=Hashable)


class FetchQueue(Generic[T]):
    """Those who wait to be fetched, earliest deadline first.

    What cannot arrive in time waits until all others had their turn, the longest-lived first: the stated deadline may
    be too early. Deadlines and `now` are of one clock, in seconds.
    """

    def __init__(self) -> None:
        self._expires_s: dict[T, float] = {}
        self._order = count()
        self._heap: list[tuple[float, int, T]] = []  # also entries of those who left; `_expires_s` is the truth
        self._late: list[tuple[float, int, T]] = []

    def __len__(self) -> int:
        return len(self._expires_s)

    def add(self, item: T, expires_s: float) -> None:
        """`item` waits from now on; its link dies at `expires_s`."""
        self._expires_s[item] = expires_s
        heapq.heappush(self._heap, (expires_s, next(self._order), item))

    def discard(self, item: T) -> None:
        """`item` waits no longer, if it did."""
        self._expires_s.pop(item, None)
        if len(self._heap) + len(self._late) > 2 * len(self) + 64:
            self._heap = [entry for entry in self._heap if self._expires_s.get(entry[2]) == entry[0]]
            self._late = [entry for entry in self._late if self._expires_s.get(entry[2]) == -entry[0]]
            heapq.heapify(self._heap)
            heapq.heapify(self._late)

    def pop(self, now: float, takes_s: float = 0.0) -> T:
        """Who is next, if a transfer takes `takes_s`. Raises IndexError when nobody waits."""
        while self._heap:
            expires_s, order, item = heapq.heappop(self._heap)
            if self._expires_s.get(item) != expires_s:
                continue
            if now + takes_s > expires_s:
                heapq.heappush(self._late, (-expires_s, order, item))
                continue
            del self._expires_s[item]
            return item
        while True:
            negative_s, _, item = heapq.heappop(self._late)
            if self._expires_s.get(item) == -negative_s:
                del self._expires_s[item]
                return item


class Lanes:
    """How many transfers may run at a time: `cap` at the most.

    Every `begun` is followed by one `finished`, `refused` or `ended`.
    It starts with few. While all are busy it takes more for as long as that moves more bytes per second, and then keeps
    the smallest number that moved as much; now and then it tries again. A refusal takes a quarter of them away; they
    come back one by one to just below where they were refused, which is tried again later. A pause that the host asks
    for is kept by all; after it one transfer asks first, and the others follow as it is let in.
    """

    def __init__(self, cap: int) -> None:
        self.cap = cap
        self.in_flight = 0
        self._mean_s = 0.0
        self._limit = min(START_LANES, cap)
        self._room: float = math.inf
        self._ceiling: float = math.inf
        self._paused_until_s = -math.inf
        self._fell_s = -math.inf
        self._trouble = 0.0
        self._is_probe = False
        self._probe_after_s = FIRST_PROBE_S
        self._settled_s = -math.inf
        self._levels: list[tuple[int, float]] | None = []  # of the search that goes on; None: there is none
        self._start_level()

    @property
    def limit(self) -> int:
        """Transfers that may run at a time, pauses apart."""
        return int(min(self._limit, self._room))

    @property
    def takes_s(self) -> float:
        """What a transfer hardly ever exceeds, as far as is known."""
        return MARGIN * self._mean_s

    def wait_s(self, now: float) -> float | None:
        """Seconds until the next transfer may begin; 0: now; None: not before one of those under way has ended."""
        if now < self._paused_until_s:
            return self._paused_until_s - now
        return 0.0 if self.in_flight < self.limit else None

    def begun(self) -> None:
        """A transfer begins."""
        self.in_flight += 1

    def ended(self) -> None:
        """A transfer ended and says nothing about how many there should be: it broke, or was given up."""
        self.in_flight -= 1

    def finished(self, now: float, begun_s: float, size_bytes: int) -> None:
        """The transfer that began at `begun_s` brought so many bytes."""
        is_full = self.in_flight >= self.limit == self._limit
        self.in_flight -= 1
        took_s = max(0.0, now - begun_s)
        self._mean_s += (took_s - self._mean_s) * (RECENT if self._mean_s else 1.0)
        self._trouble -= self._trouble * RECENT
        if begun_s > self._fell_s:
            self._room += 1
        if is_full:
            self._count(now, size_bytes)
        else:  # the lanes were not all in use: that says nothing about how many are of use
            self._start_level()

    def refused(self, now: float, begun_s: float, retry_after_s: float | None, *, told: bool = True) -> None:
        """The host had no room for the transfer that began at `begun_s`.

        told: it said so, by a 429 or any Retry-After. A 503 without a word may be about that one picture: only many of
        them count, and they leave as many lanes as there are at the start.
        """
        self._trouble += (1.0 - self._trouble) * RECENT
        if begun_s <= self._fell_s:  # it was under way when the lanes were taken away: the same episode
            pass
        elif told or retry_after_s is not None:
            self._fall(now, at_least=1)
        elif self._trouble > TROUBLE:
            self._fall(now, at_least=min(START_LANES, self._limit))
        self.in_flight -= 1
        if retry_after_s is not None:
            self._paused_until_s = max(self._paused_until_s, now + retry_after_s)
            self._room = 1

    def _fall(self, now: float, *, at_least: int) -> None:
        self._fell_s = now
        self._trouble = 0.0
        if self.limit < self._limit:  # the first ones after a pause
            return
        refused = min(self.in_flight, self._limit)
        if self._is_probe:
            self._probe_in_vain()
        left = refused - 1 if self._is_probe else int(refused * FALL)
        left = max(left, at_least, self._limit // 2)  # a refusal of one or two says little of how many there may be
        self._ceiling = max(refused, left + 1)
        self._settle(left, now)

    def _start_level(self) -> None:
        self._counted = 0
        self._counted_bytes = 0
        self._since_s = math.inf

    def _count(self, now: float, size_bytes: int) -> None:
        """The first transfers after a change warm up; twice as many are measured, and some time is."""
        self._counted += 1
        if self._is_coming_back and self._counted >= self._limit:
            self._limit += 1
            self._start_level()
        elif self._counted == self._limit:
            self._since_s = now
        elif self._counted > self._limit:
            self._counted_bytes += size_bytes
            if self._counted >= 3 * self._limit and now - self._since_s >= MEASURE_S:
                self._measured(now, self._counted_bytes / (now - self._since_s))
                self._start_level()

    @property
    def _is_coming_back(self) -> bool:
        return self._limit + 1 < self._ceiling < math.inf

    def _measured(self, now: float, rate: float) -> None:
        """`rate` bytes per second arrive with as many lanes as there are."""
        if self._levels is not None:
            self._levels.append((self._limit, rate))
            self._search_on(self._levels, now)
            return
        if self._is_probe:  # the host lets this many in
            self._is_probe = False
            self._probe_after_s = FIRST_PROBE_S
        if self._limit < self.cap and now - self._settled_s >= self._probe_after_s:
            self._probe(now, rate)

    def _search_on(self, levels: list[tuple[int, float]], now: float) -> None:
        kept, kept_rate, flat = *levels[0], 0
        for lanes, rate in levels[1:]:
            if rate >= kept_rate * (1.0 + WORTH * (lanes / kept - 1.0)):
                kept, kept_rate, flat = lanes, rate, 0
            else:
                flat += 1
        if self._limit < self.cap and flat < FLAT_LEVELS:
            self._limit = self._more()
            return
        if kept > levels[0][0]:
            self._probe_after_s = FIRST_PROBE_S
        else:
            self._probe_in_vain()
        self._settle(kept, now)

    def _probe(self, now: float, rate: float) -> None:
        """Try more: one, where the host refused that many once; else a search, as at the start."""
        if self._ceiling < math.inf:
            self._is_probe = True
            self._limit += 1
            self._ceiling = self._limit + 1
            self._settled_s = now
        else:
            self._levels = [(self._limit, rate)]
            self._limit = self._more()

    def _more(self) -> int:
        return min(self.cap, max(self._limit + 1, int(self._limit * STEP)))

    def _probe_in_vain(self) -> None:
        self._probe_after_s = min(2 * self._probe_after_s, LONGEST_PROBE_S)

    def _settle(self, lanes: int, now: float) -> None:
        self._limit = lanes
        self._is_probe = False
        self._settled_s = now
        self._levels = None
        self._start_level()
