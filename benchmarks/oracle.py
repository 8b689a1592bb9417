"""How soon the same number of requests could have been accepted by a client that knows the limit. Pure."""

import heapq
import math

from benchmarks.watch import Facts
from krea_async.sandbox import Limits


def oracle_s(facts: Facts, limits: Limits, *, lag_s: float = 0.0) -> float:
    """Seconds from the first arrival to the last acceptance, at the best, for as many tasks as were accepted.

    lag_s: how late the oracle learns of a finished task; it matters under a limit of unfinished tasks only.
    """
    return max(
        _bucket_s(facts.accepted, limits), _window_s(facts, limits), _unfinished_s(facts.durations_s, limits, lag_s)
    )


def use(facts: Facts, limits: Limits, *, lag_s: float = 0.0) -> float:
    """Which part of the limit was used, until the last acceptance: the oracle's time over the client's."""
    return oracle_s(facts, limits, lag_s=lag_s) / max(facts.last_s - facts.first_s, 1e-3)


def _bucket_s(accepted: int, limits: Limits) -> float:
    if limits.per_second is None:
        return 0.0
    burst = limits.burst or max(1, int(limits.per_second))
    return max(0, accepted - burst) / limits.per_second


def _window_s(facts: Facts, limits: Limits) -> float:
    """The windows are aligned to the clock: the oracle fills each one as it opens."""
    if limits.per_window is None:
        return 0.0
    count, window_s = limits.per_window
    later_windows = math.ceil(facts.accepted / count) - 1
    return max(0.0, (facts.first_s // window_s + later_windows) * window_s - facts.first_s)


def _unfinished_s(durations_s: tuple[float, ...], limits: Limits, lag_s: float) -> float:
    """Each task takes the place of the one that is learnt of first, in the order in which they were accepted."""
    if limits.unfinished is None:
        return 0.0
    places = [0.0] * limits.unfinished
    started_s = 0.0
    for duration_s in durations_s:
        started_s = heapq.heappop(places)
        heapq.heappush(places, started_s + duration_s + lag_s)
    return started_s
