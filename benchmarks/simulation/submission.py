"""One client alone: how much of the limit it uses, how many of its submissions are refused, how long a prompt waits."""

import argparse
from bisect import bisect_right
from collections.abc import Callable, Iterable
from random import Random
from typing import Final

from attrs import field, frozen

from benchmarks.simulation.engine import (
    Client,
    RetryAfter,
    Simulation,
    World,
    always,
    task_times,
    unnamed,
    whole_seconds,
)
from benchmarks.simulation.oracle import oracle_s
from benchmarks.simulation.servers import (
    Ban,
    Both,
    FixedWindow,
    Limiter,
    SlidingWindow,
    TokenBucket,
    UnfinishedTasks,
    step,
)
from krea_async.control.governor import Governor, PacingPolicy

HELD_OUT: Final = 100
"""Added to the seeds: 1 to 6 and 101 to 104 were looked at while the rules were chosen."""

MakeLimiter = Callable[[int], Limiter]
"""A limit for a seed."""


@frozen
class Bar:
    """What has to be reached: the part of what the oracle gets, and refusals per accepted submission at most."""

    use: float
    refused: float


@frozen
class Scenario:
    """A limit, and what a client has to reach under it."""

    name: str
    limiter: MakeLimiter
    prompts: int = 10_000
    bar: Bar | None = None
    bar_named: Bar | None = None
    """With a true Retry-After, where it differs."""
    oracle: Callable[[int, int], float] | None = field(default=None)
    """When an oracle has so many prompts accepted, for a seed, if it cannot be found with the limit itself."""


def bucket(rate: float, burst: float) -> MakeLimiter:
    """A token bucket."""
    return lambda _seed: TokenBucket(rate, burst)


def fixed(count: int, window_s: float) -> MakeLimiter:
    """A window of the clock, at any phase."""
    return lambda seed: FixedWindow(count, window_s, phase_s=Random(seed).random() * window_s)


def sliding(count: int, window_s: float) -> MakeLimiter:
    """A sliding window."""
    return lambda _seed: SlidingWindow(count, window_s)


def unfinished(count: int) -> MakeLimiter:
    """So many unfinished tasks."""
    return lambda _seed: UnfinishedTasks(count)


def both(*limits: MakeLimiter) -> MakeLimiter:
    """Several limits at once."""
    return lambda seed: Both(*(limit(seed) for limit in limits))


def bursts(rate: float, seed: int, until_s: float) -> list[float]:
    """When another client asks: at `rate` for 20 s on average, then not for 40 s on average."""
    rng = Random(seed * 31 + 5)
    now, asked_at = 0.0, []
    while now < until_s:
        now += rng.expovariate(1 / 40)
        end_s = now + rng.expovariate(1 / 20)
        while now < end_s:
            now += rng.expovariate(rate)
            asked_at.append(now)
    return asked_at


def shared_bucket(rate: float) -> Scenario:
    """Another client asks for 80 % of the limit a third of the time; the oracle gets all that it leaves."""

    def limiter(seed: int) -> Limiter:
        return TokenBucket(rate, rate, taken_by_others=bursts(0.8 * rate, seed, 200_000 / rate))

    def left_over_s(seed: int, prompts: int) -> float:
        asked_at = bursts(0.8 * rate, seed, 200_000 / rate)
        low_s, high_s = 0.0, 200_000 / rate
        while high_s - low_s > 0.01:
            middle_s = (low_s + high_s) / 2
            enough = rate + rate * middle_s - bisect_right(asked_at, middle_s) >= prompts
            low_s, high_s = (low_s, middle_s) if enough else (middle_s, high_s)
        return high_s

    return Scenario(f"{rate:g}/s shared", limiter, oracle=left_over_s)


def shared_places(count: int) -> Scenario:
    """Another client holds half the places for 20 s of each minute."""
    taken = count // 2
    return Scenario(
        f"{count} unfinished, shared",
        lambda _seed: UnfinishedTasks(count, taken_by_others=lambda now: taken if now % 60 >= 40 else 0),
    )


BANNED_S: Final = 30.0
"""A long Retry-After."""


def banning(limit: MakeLimiter, *, extends: bool) -> MakeLimiter:
    """Whoever is refused is banned."""
    return lambda seed: Ban(limit(seed), BANNED_S, extends=extends)


def unbanned(limit: MakeLimiter) -> Callable[[int, int], float]:
    """An oracle is never refused, so it is never banned."""
    return lambda seed, prompts: oracle_s(limit(seed), prompts, task_times(prompts, seed))


BARS: Final = (
    *(
        Scenario(f"bucket {rate:g}/s, burst {burst:g}", bucket(rate, burst), 10_000, Bar(0.97, 0.01), Bar(0.95, 0.015))
        for rate, burst in ((5, 5), (8, 16), (13, 130), (30, 30), (50, 50))
    ),
    Scenario("bucket 0.5/s, burst 5", bucket(0.5, 5), 2_000, Bar(0.97, 0.035)),
    Scenario("fixed 300/60 s", fixed(300, 60), 10_000, Bar(0.95, 0.035), Bar(0.95, 0.01)),
    Scenario("sliding 300/60 s", sliding(300, 60), 10_000, Bar(0.95, 0.035), Bar(0.95, 0.01)),
    Scenario("fixed 30/60 s", fixed(30, 60), 2_000, Bar(0.94, 0.06)),
    Scenario("sliding 30/60 s", sliding(30, 60), 2_000, Bar(0.94, 0.06)),
    Scenario("20 unfinished", unfinished(20), 10_000, Bar(0.86, 0.025)),
    Scenario("100 unfinished", unfinished(100), 10_000, Bar(0.87, 0.06)),
    Scenario("4 unfinished", unfinished(4), 2_000, Bar(0.83, 0.045)),
    Scenario("5/s and 100 unfinished", both(bucket(5, 5), unfinished(100)), 10_000, Bar(0.97, 0.01)),
    Scenario(
        "5/s, a quarter of it from 400 to 800 s",
        lambda _seed: TokenBucket(5, 5, factor=step(400, 800, 0.25)),
        10_000,
        Bar(0.93, 0.01),
        Bar(0.90, 0.01),
    ),
)
"""control.md 1.6 as corrected by 4.3."""

UNSEEN: Final = (
    *(
        Scenario(f"bucket {rate:g}/s, burst {burst:g}", bucket(rate, burst), 10_000, Bar(0.97, 0.01), Bar(0.95, 0.015))
        for rate, burst in ((7, 20), (23, 23), (41, 60))
    ),
    Scenario("fixed 240/60 s", fixed(240, 60), 10_000, Bar(0.95, 0.035), Bar(0.95, 0.01)),
    Scenario("sliding 420/60 s", sliding(420, 60), 10_000, Bar(0.95, 0.035), Bar(0.95, 0.01)),
    Scenario("12 unfinished", unfinished(12), 5_000, Bar(0.83, 0.045)),
    Scenario("40 unfinished", unfinished(40), 10_000, Bar(0.86, 0.025)),
    Scenario("64 unfinished", unfinished(64), 10_000, Bar(0.87, 0.06)),
    Scenario("3/s and 64 unfinished", both(bucket(3, 3), unfinished(64)), 10_000, Bar(0.97, 0.01)),
)
"""Limits that nothing was tuned on, with the bars of their kind."""

OTHERS: Final = (
    Scenario("bucket 2/s, burst 2", bucket(2, 2), 5_000),
    Scenario("bucket 20/s, burst 20", bucket(20, 20)),
    Scenario("bucket 10/s, burst 3", bucket(10, 3)),
    Scenario("bucket 5/s, burst 1", bucket(5, 1)),
    Scenario("bucket 50/s, burst 1", bucket(50, 1)),
    Scenario("bucket 500/s, burst 500", bucket(500, 500)),
    Scenario("fixed 3000/60 s", fixed(3000, 60)),
    Scenario("fixed 100/60 s", fixed(100, 60)),
    Scenario("sliding 600/60 s", sliding(600, 60)),
    Scenario("fixed 20/10 s", fixed(20, 10)),
    Scenario("fixed 30/3 s", fixed(30, 3)),
    Scenario("fixed 5/1 s", fixed(5, 1)),
    Scenario("fixed 50/1 s", fixed(50, 1)),
    Scenario("8 unfinished", unfinished(8), 4_000),
    Scenario("32 unfinished", unfinished(32)),
    Scenario("50 unfinished", unfinished(50)),
    Scenario("5/s and 20 unfinished", both(bucket(5, 5), unfinished(20))),
    Scenario("300/60 s and 20 unfinished", both(sliding(300, 60), unfinished(20))),
    Scenario("10/s and 30 unfinished", both(bucket(10, 10), unfinished(30))),
    Scenario("50/s, a quarter from 40 to 100 s", lambda _seed: TokenBucket(50, 50, factor=step(40, 100, 0.25))),
    Scenario(
        "300/60 s, a quarter from 400 to 800 s",
        lambda seed: FixedWindow(300, 60, phase_s=Random(seed).random() * 60, factor=step(400, 800, 0.25)),
    ),
    Scenario("20 unfinished, 5 from 400 to 1000 s", lambda _seed: UnfinishedTasks(20, factor=step(400, 1000, 0.25))),
    Scenario("100 unfinished, 25 from 200 to 500 s", lambda _seed: UnfinishedTasks(100, factor=step(200, 500, 0.25))),
    shared_bucket(5),
    shared_bucket(20),
    shared_bucket(50),
    shared_places(20),
    shared_places(50),
)


LONG_PAUSES: Final = tuple(
    scenario
    for name, limit, prompts in (
        ("bucket 5/s, burst 5", bucket(5, 5), 2_000),
        ("fixed 300/60 s", fixed(300, 60), 2_000),
        ("20 unfinished", unfinished(20), 2_000),
        ("4 unfinished", unfinished(4), 2_000),
    )
    for scenario in (
        Scenario(f"{name}; 30 s said always", limit, prompts),
        Scenario(f"{name}; 30 s meant", banning(limit, extends=False), prompts, oracle=unbanned(limit)),
        Scenario(f"{name}; 30 s from each call", banning(limit, extends=True), prompts, oracle=unbanned(limit)),
    )
)
"""A gateway that always names 30 s, one that bans for them, and one whose ban begins anew with every call inside it."""


@frozen
class Figures:
    """use: the oracle's time over the client's. refused: per accepted. longest_wait_s: of any prompt.

    refused_at: when, in seconds. found: what the governor makes of it at the end.
    """

    use: float
    refused: float
    longest_wait_s: float
    refused_at: list[float]
    found: str


def figures(scenario: Scenario, seed: int, retry_after: RetryAfter, prompts: int) -> Figures:
    """One run."""
    task_s = task_times(prompts, seed)
    if scenario.oracle is None:
        fastest_s = oracle_s(scenario.limiter(seed), prompts, task_s)
    else:
        fastest_s = scenario.oracle(seed, prompts)
    governor = Governor(PacingPolicy(), rng=Random(seed))
    client = Client(governor, prompts)
    world = World(limiter=scenario.limiter(seed), seed=seed, task_s=task_s, retry_after=retry_after)
    end_s = Simulation(world, [client]).run(max(3000.0, 40.0 * fastest_s))
    accepted = len(client.accepted_at)
    return Figures(
        use=fastest_s / (client.accepted_at[-1] if client.done else end_s) * accepted / prompts,
        refused=len(client.refused_at) / accepted,
        longest_wait_s=client.longest_wait_s,
        refused_at=client.refused_at,
        found=str(governor.limit),
    )


def row(scenario: Scenario, said: str, options: argparse.Namespace) -> str:
    """A line of a table: the means over the seeds, the worst seed's in brackets, and the bars."""
    prompts = scenario.prompts // (5 if options.quick else 1)
    runs = [figures(scenario, seed, RETRY_AFTER[said], prompts) for seed in options.seeds]
    use, refused = mean(run.use for run in runs), mean(run.refused for run in runs)
    line = (
        f"| {scenario.name} | {said} | {use:.3f} ({min(run.use for run in runs):.3f}) "
        f"| {refused:.1%} ({max(run.refused for run in runs):.1%}) | {max(run.longest_wait_s for run in runs):.0f} s "
    )
    bar = scenario.bar_named if said == "true" and scenario.bar_named else scenario.bar
    if bar is not None:
        met = use >= bar.use and round(refused, 3) <= bar.refused
        line += f"| {bar.use:.2f} | {bar.refused:.1%} | {'met' if met else 'NOT MET'} "
    return line + f"| {runs[0].found} |"


def mean(values: Iterable[float]) -> float:
    """The mean."""
    listed = list(values)
    return sum(listed) / len(listed)


RETRY_AFTER: Final = {"none": unnamed, "true": whole_seconds, "30 s": always(BANNED_S)}


def table(title: str, scenarios: Iterable[Scenario], said: Iterable[str], options: argparse.Namespace) -> None:
    """Print a table as it comes."""
    scenarios = tuple(scenarios)
    barred = any(scenario.bar for scenario in scenarios)
    columns = [
        "limit",
        "Retry-After",
        "use",
        "refused",
        "longest wait",
        *(["use >=", "refused <=", ""] if barred else []),
    ]
    print(f"\n### {title}\n")
    print("| " + " | ".join([*columns, "found"]) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for scenario in scenarios:
        for what in said:
            print(row(scenario, what, options), flush=True)


def main(options: argparse.Namespace) -> None:
    """Print the tables."""
    options.seeds = [HELD_OUT + seed for seed in options.seeds]
    print(f"Seeds {options.seeds}; use and refused: the mean (the worst seed). Refused is per accepted submission.")
    table("The bars", BARS, ("none", "true"), options)
    table("Limits that nothing was tuned on", UNSEEN, ("none", "true"), options)
    table("Other limits", OTHERS, ("none", "true"), options)
    table("A Retry-After of 30 s", LONG_PAUSES, ("30 s",), options)
