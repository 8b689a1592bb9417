"""Who gets how much, when several clients use one account.

Each has a governor of its own and knows nothing of the others.
"""

import argparse
import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from random import Random
from statistics import fmean, median
from typing import Final

from attrs import frozen

from benchmarks.simulation.engine import Client, RetryAfter, Simulation, World, task_times, unnamed, whole_seconds
from benchmarks.simulation.servers import FixedWindow, Limiter, TokenBucket, UnfinishedTasks
from krea_async.control.governor import Governor, PacingPolicy

RUN_S: Final = 2400.0
JOIN_S: Final = 120.0
LEAVE_S: Final = 1200.0
JUDGED_S: Final = 600.0
"""Staggered: half of the clients join late, and one leaves. Shares are those of the last ten minutes."""

MINUTE_S: Final = 60.0
SOON_S: Final = 300.0
"""A newcomer should have a minute with half its share so soon."""

MEAN_TASK_S: Final = 8.0 * math.exp(0.5**2 / 2)

MOST_REFUSED: Final = 0.08
HALF: Final = 0.5
OFTEN: Final = 0.9


@frozen
class Shared:
    """A limit, what it grants per second in the long run, and the bar for all clients together."""

    name: str
    limiter: Callable[[], Limiter]
    rate: float
    total: float


LIMITS: Final = (
    Shared("bucket 20/s", lambda: TokenBucket(20, 20), 20.0, 0.90),
    Shared("bucket 5/s", lambda: TokenBucket(5, 5), 5.0, 0.90),
    Shared("300/60 s", lambda: FixedWindow(300, 60, phase_s=17.0), 5.0, 0.90),
    Shared("32 unfinished", lambda: UnfinishedTasks(32), 32 / MEAN_TASK_S, 0.80),
    Shared("100 unfinished", lambda: UnfinishedTasks(100), 100 / MEAN_TASK_S, 0.80),
)


@frozen
class Case:
    """clients: how many. staggered: half join later and the first one leaves, instead of all together all the time."""

    clients: int
    retry_after: RetryAfter
    staggered: bool
    seed: int


@frozen
class Outcome:
    """What became of a case.

    total: accepted, as a part of the limit. refused: per accepted. smallest: the smallest share of those that stayed,
    as a part of the fair one; None: one alone stayed. newcomer_s: until the slowest newcomer had half its share for a
    minute. taken_up_s: until the others had taken up what the leaver left.
    """

    total: float
    refused: float
    smallest: float | None
    newcomer_s: float | None
    taken_up_s: float | None
    longest_wait_s: float


def clients(case: Case) -> list[Client]:
    """The clients of a case, with governors as they come."""
    apart = Random(case.seed + 5)
    made = []
    for number in range(case.clients):
        late = case.staggered and number >= (case.clients + 1) // 2
        governor = Governor(PacingPolicy(), rng=Random(f"{case.seed} {number}"))
        made.append(Client(governor, starts_s=JOIN_S * late + 0.3 * apart.random()))
    if case.staggered:
        made[0].leaves_s = LEAVE_S
    return made


def outcome(limit: Shared, case: Case) -> Outcome:
    """One run."""
    everybody = clients(case)
    task_s = task_times(int(RUN_S * limit.rate), case.seed)
    world = World(limiter=limit.limiter(), seed=case.seed, task_s=task_s, retry_after=case.retry_after)
    Simulation(world, everybody).run(RUN_S)
    accepted = sum(len(client.accepted_at) for client in everybody)
    stayed = [client for client in everybody if client.leaves_s > RUN_S]
    shares = [count(client.accepted_at, RUN_S - JUDGED_S, RUN_S) for client in stayed]
    newcomer_s = taken_up_s = None
    if case.staggered:
        half = HALF * limit.rate / case.clients * MINUTE_S
        late = [client for client in everybody if client.starts_s >= JOIN_S]
        newcomer_s = max(first_minute(client.accepted_at, client.starts_s, LEAVE_S, half) for client in late)
        before = sum(count(client.accepted_at, LEAVE_S - SOON_S, LEAVE_S) for client in everybody) / SOON_S
        together = sorted(at for client in stayed for at in client.accepted_at)
        taken_up_s = first_minute(together, LEAVE_S, RUN_S, 0.95 * min(before, limit.rate) * MINUTE_S)
    return Outcome(
        total=accepted / (limit.rate * RUN_S),
        refused=sum(len(client.refused_at) for client in everybody) / accepted,
        smallest=min(shares) / fmean(shares) if len(stayed) > 1 else None,
        newcomer_s=newcomer_s,
        taken_up_s=taken_up_s,
        longest_wait_s=max(client.longest_wait_s for client in everybody),
    )


def count(times: Sequence[float], begin_s: float, end_s: float) -> int:
    """How many of the sorted times are in the interval."""
    return bisect_left(times, end_s) - bisect_left(times, begin_s)


def first_minute(times: Sequence[float], begin_s: float, end_s: float, goal: float) -> float:
    """Seconds from the begin to the first minute with so many; infinite: there is none."""
    step_s = MINUTE_S / 8
    steps = int((end_s - begin_s - MINUTE_S) / step_s) + 1
    starts = (begin_s + step_s * step for step in range(steps))
    return next((at - begin_s for at in starts if count(times, at, at + MINUTE_S) >= goal), math.inf)


def cases(seeds: Sequence[int], numbers: Sequence[int]) -> Iterator[Case]:
    """Every number of clients, with and without Retry-After, together and staggered."""
    for number, retry_after, staggered, seed in product(numbers, (unnamed, whole_seconds), (False, True), seeds):
        yield Case(number, retry_after, staggered, seed)


def row(limit: Shared, clients: str, outcomes: Sequence[Outcome]) -> str:
    """A line of the table; `!` marks a figure that misses its bar."""
    totals = [one.total for one in outcomes]
    refused = [one.refused for one in outcomes]
    shares = [one.smallest for one in outcomes if one.smallest is not None]
    newcomers = [one.newcomer_s for one in outcomes if one.newcomer_s is not None]
    taken_up = [one.taken_up_s for one in outcomes if one.taken_up_s is not None]
    even = sum(share >= HALF for share in shares)
    soon = sum(wait_s <= SOON_S for wait_s in newcomers)
    columns = (
        limit.name,
        clients,
        f"{fmean(totals):.3f} ({min(totals):.3f})" + missed(min(totals) >= limit.total),
        f"{fmean(refused):.1%} ({max(refused):.1%})" + missed(max(refused) <= MOST_REFUSED),
        f"{fmean(shares):.2f} ({min(shares):.2f})",
        f"{even} of {len(shares)}" + missed(even >= OFTEN * len(shares)),
        f"{soon} of {len(newcomers)}" + missed(soon >= OFTEN * len(newcomers)),
        f"{median(taken_up):.0f} s ({max(taken_up):.0f} s)",
        f"{max(one.longest_wait_s for one in outcomes):.0f} s",
    )
    return "| " + " | ".join(columns) + " |"


def missed(held: bool) -> str:
    """The mark."""
    return "" if held else " !"


def main(options: argparse.Namespace) -> None:
    """Print the table."""
    numbers = (4,) if options.quick else (2, 4, 8)
    print(f"Seeds {options.seeds}, together and staggered, with and without Retry-After: the mean (the worst run).")
    print(
        "Bars (! is missed): total >= 0.90, of unfinished tasks 0.80; refused <= 8%, in every run; in nine runs of ten"
    )
    print("the smallest share is half the fair one or more, and newcomers have half their share within five minutes.\n")
    columns = (
        "limit",
        "clients",
        "total",
        "refused",
        "smallest share",
        "half or more",
        "newcomers",
        "taken up",
        "wait",
    )
    print("| " + " | ".join(columns) + " |")
    print("|---" * len(columns) + "|")
    for limit in LIMITS:
        everything: list[Outcome] = []
        for number in numbers:
            outcomes = [outcome(limit, case) for case in cases(options.seeds, (number,))]
            everything += outcomes
            print(row(limit, str(number), outcomes), flush=True)
        if len(numbers) > 1:
            print(row(limit, "all", everything), flush=True)
