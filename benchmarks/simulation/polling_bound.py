"""What reading tasks must cost at least: the best schedule of reads for a law that is known, by dynamic programming."""

import math
from collections.abc import Callable
from typing import Final

GRID_S: Final = 0.1
LEAST_GAP_S: Final = 0.2

Finished = Callable[[float], float]
"""The part of all tasks that are finished at an age."""


def log_normal(median_s: float, sigma: float) -> Finished:
    """The law of exp(normal), by its median and the spread of its logarithm."""

    def finished(age_s: float) -> float:
        return 0.0 if age_s <= 0.0 else 0.5 * (1.0 + math.erf(math.log(age_s / median_s) / (sigma * math.sqrt(2.0))))

    return finished


def mixed(*laws: tuple[float, Finished]) -> Finished:
    """Each law with the part of the tasks that follow it."""
    return lambda age_s: sum(part * law(age_s) for part, law in laws)


def least_cost_s(finished: Finished, lag_per_read_s: float) -> float:
    """Mean lag plus `lag_per_read_s` for each read, in seconds, of the best schedule there is."""
    ages_s = [0.0]
    while finished(ages_s[-1]) < 0.9999:
        ages_s.append(ages_s[-1] + GRID_S)
    done = [finished(age_s) for age_s in ages_s]
    done[-1] = 1.0
    ends_s = [0.0]  # the sum of the ages at which tasks finished so far
    for n in range(1, len(ages_s)):
        ends_s.append(ends_s[-1] + (done[n] - done[n - 1]) * (ages_s[n] - GRID_S / 2.0))
    cost_s = [0.0] * len(ages_s)  # from a read at this age on
    gap = round(LEAST_GAP_S / GRID_S)
    last = len(ages_s) - 1
    for n in range(last - 1, -1, -1):
        least = min(
            ages_s[later] * (done[later] - done[n]) - ends_s[later] + cost_s[later]
            for later in range(min(n + gap, last), last + 1)
        )
        cost_s[n] = lag_per_read_s * (1.0 - done[n]) + ends_s[n] + least
    return cost_s[0]
