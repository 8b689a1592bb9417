"""How soon N submissions could be accepted by who knows the limit, and hears of every completion at once."""

import heapq
from collections.abc import Sequence
from typing import Final

from benchmarks.simulation.servers import Limiter

FIRST_ARRIVAL_S: Final = 0.05
SHORTEST_GAP_S: Final = 0.11 / 64
"""64 submissions at once, each under way for 0.11 s."""

LONGEST_STEP_S: Final = 1.0


def oracle_s(limiter: Limiter, prompts: int, task_s: Sequence[float]) -> float:
    """When the last of `prompts` is accepted. The time to look at a limit again is at the next completion, too."""
    now = FIRST_ARRIVAL_S
    ends: list[float] = []
    accepted = 0
    while True:
        while ends and ends[0] <= now:
            heapq.heappop(ends)
        wait_s = limiter.wait_s(now, len(ends))
        if wait_s == 0.0:
            limiter.take(now)
            heapq.heappush(ends, now + task_s[accepted % len(task_s)])
            accepted += 1
            if accepted == prompts:
                return now
            now += SHORTEST_GAP_S
        else:
            next_end_s = ends[0] - now if ends else LONGEST_STEP_S
            now += max(1e-6, min(wait_s, next_end_s, LONGEST_STEP_S))
