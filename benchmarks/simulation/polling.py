"""Reading tasks: how late their ends are learnt, by how many reads and requests, beside bars and the least possible."""

import argparse
import math
from collections.abc import Callable, Iterable
from random import Random
from typing import Final

from attrs import evolve, field, frozen

from benchmarks.simulation.polling_bound import Finished, least_cost_s, log_normal, mixed
from benchmarks.simulation.polling_engine import RTT_S, Draw, Figures, Simulation, World, quantile
from krea_async.control.polling import PRESETS, PollPolicy

HELD_OUT: Final = 9000
"""Added to the seeds: the constants were chosen on others."""

FIXED_3_S: Final = PollPolicy(shortest_s=3.0, longest_s=3.0)


@frozen(kw_only=True)
class Bar:
    """What a row is to reach: the lag that 95 % of all tasks, and of the first 50, stay under; what a task costs."""

    p95_s: float = math.inf
    first_p95_s: float = math.inf
    reads: float = math.inf
    requests: float = math.inf
    over_least: float = math.inf

    def __str__(self) -> str:
        words = {
            "p95 {} s": self.p95_s,
            "first 50 p95 {} s": self.first_p95_s,
            "{} reads": self.reads,
            "{} requests": self.requests,
            "{} of the least": self.over_least,
        }
        return ", ".join(text.format(f"{value:g}") for text, value in words.items() if value < math.inf)


@frozen(kw_only=True)
class Row:
    """One line of a table. law: of the tasks' times, where it is one and known, for the least cost possible."""

    name: str
    world: World
    policy: PollPolicy = field(factory=PollPolicy)
    bar: Bar | None = None
    law: Finished | None = None
    eager: bool = False
    prompt: bool = False


def around(median_s: float, sigma: float, *, estimate_s: float | None) -> Draw:
    """Log-normal times, and always the same estimate."""
    return lambda _, rng: (median_s * math.exp(sigma * rng.gauss(0.0, 1.0)), estimate_s)


def drifting(before_s: float, after_s: float) -> Draw:
    """The median changes in the middle of the run, and the estimate, 8 s, does not."""
    return lambda part, rng: ((before_s if part < 0.5 else after_s) * math.exp(0.5 * rng.gauss(0.0, 1.0)), 8.0)


def bimodal(_: float, rng: Random) -> tuple[float, float | None]:
    """One task in five takes five times as long."""
    median_s, sigma = (40.0, 0.3) if rng.random() < 0.2 else (8.0, 0.25)
    return median_s * math.exp(sigma * rng.gauss(0.0, 1.0)), 8.0


def hinted(*, true: bool) -> Draw:
    """Each task has an estimate of its own, which says how long it takes, or has nothing to do with it."""

    def draw(_: float, rng: Random) -> tuple[float, float | None]:
        said_s = 8.0 * math.exp(0.6 * rng.gauss(0.0, 1.0))
        meant_s = said_s if true else 8.0 * math.exp(0.6 * rng.gauss(0.0, 1.0))
        return meant_s * math.exp(0.2 * rng.gauss(0.0, 1.0)), said_s

    return draw


NARROW: Final = around(8.0, 0.3, estimate_s=8.0)
WIDE: Final = around(8.0, 0.8, estimate_s=8.0)
NARROW_LAW: Final = log_normal(8.0, 0.3)
WIDE_LAW: Final = log_normal(8.0, 0.8)
BIMODAL_LAW: Final = mixed((0.8, log_normal(8.0, 0.25)), (0.2, log_normal(40.0, 0.3)))


def steady(draw: Draw, mean_s: float, in_flight: int, tasks: int = 5000, reads_per_s: float | None = None) -> World:
    """Tasks that come at random, so many of them unfinished in the mean."""
    return World(draw=draw, mean_s=mean_s, in_flight=in_flight, tasks=tasks, reads_per_s=reads_per_s)


def batch(median_s: float, estimate_s: float, tasks: int) -> World:
    """A batch of 256 places from its first task to its last."""
    draw = around(median_s, 0.3, estimate_s=estimate_s)
    return World(draw=draw, mean_s=1.05 * median_s, in_flight=256, tasks=tasks, closed=True)


def laws() -> Iterable[Row]:
    """Kinds of tasks, in the mean so many in flight."""
    narrow = Bar(p95_s=1.8, reads=4.2, requests=0.1, over_least=1.15)
    wide = Bar(p95_s=2.5, reads=5.8, over_least=1.15)
    for in_flight in (50, 256, 1000):
        yield Row(
            name=f"8 s, sigma 0.3, {in_flight} in flight",
            world=steady(NARROW, 8.37, in_flight),
            bar=evolve(narrow, requests=0.25) if in_flight == 50 else narrow,
            law=NARROW_LAW,
        )
    for in_flight in (50, 1000):
        world = steady(WIDE, 11.0, in_flight)
        yield Row(name=f"8 s, sigma 0.8, {in_flight} in flight", world=world, bar=wide, law=WIDE_LAW)
    yield Row(
        name="80 % 8 s, 20 % 40 s, 1000",
        world=steady(bimodal, 15.0, 1000),
        bar=Bar(over_least=1.15),
        law=BIMODAL_LAW,
    )
    for factor in (5.0, 0.3):
        yield Row(
            name=f"estimate wrong x{factor:g}, sigma 0.3, 50",
            world=steady(around(8.0, 0.3, estimate_s=8.0 * factor), 8.37, 50, 1000),
            bar=Bar(p95_s=2.0, first_p95_s=3.5) if factor > 1.0 else None,
            law=NARROW_LAW,
        )
    yield Row(name="no estimate, sigma 0.8, 50", world=steady(around(8.0, 0.8, estimate_s=None), 11.0, 50, 1000))
    yield Row(
        name="drift 8 -> 24 s, sigma 0.5, 1000", world=steady(drifting(8.0, 24.0), 18.1, 1000), bar=Bar(p95_s=3.0)
    )
    yield Row(name="drift 24 -> 8 s, sigma 0.5, 1000", world=steady(drifting(24.0, 8.0), 18.1, 1000))
    for true in (True, False):
        name = f"an estimate for each task, {'true' if true else 'noise'}, 50"
        yield Row(name=name, world=steady(hinted(true=true), 9.8, 50))


def batches() -> Iterable[Row]:
    """Whole batches, cold start included."""
    for tasks in (400, 2000):
        yield Row(
            name=f"2.5 s tasks, estimated 2 s, {tasks} tasks",
            world=batch(2.5, 2.0, tasks),
            bar=Bar(p95_s=1.0, requests=0.25),
        )
        yield Row(name=f"8 s tasks, {tasks} tasks", world=batch(8.0, 8.0, tasks), bar=Bar(p95_s=1.8, reads=4.2))


def knobs() -> Iterable[Row]:
    """The same tasks read more and less eagerly, beside fixed intervals."""
    world = steady(NARROW, 8.37, 256)
    for name in PRESETS:
        yield Row(name=name, world=world, policy=PollPolicy.of(name), law=NARROW_LAW)
    yield Row(name="balanced, eager", world=world, eager=True)
    yield Row(name="balanced, each waited for", world=world, prompt=True)
    for every_s in (3.0, 0.5):
        policy = PollPolicy(shortest_s=every_s, longest_s=every_s)
        yield Row(name=f"fixed {every_s:g} s", world=world, policy=policy)


def growth() -> Iterable[Row]:
    """From one task at a time to twenty thousand."""
    yield Row(name="1 in flight", world=World(draw=NARROW, mean_s=8.37, in_flight=1, tasks=300, closed=True))
    for in_flight in (50, 1000, 20_000):
        yield Row(name=f"{in_flight} in flight", world=steady(NARROW, 8.37, in_flight, max(3000, 3 * in_flight)))


def refused() -> Iterable[Row]:
    """A gateway that answers so many poll requests a second, and the others with 429. 1000 tasks need 2.4 at least."""
    for per_s in (10.0, 5.0, 3.0):
        world = steady(NARROW, 8.37, 1000, reads_per_s=per_s)
        yield Row(name=f"{per_s:g} requests/s", world=world)
        yield Row(name=f"{per_s:g} requests/s, fixed 3 s", world=world, policy=FIXED_3_S)


TABLES: Final[dict[str, Callable[[], Iterable[Row]]]] = {
    "Laws": laws,
    "Whole batches of 256 places, sigma 0.3": batches,
    "Eagerness (8 s, sigma 0.3, 256 in flight)": knobs,
    "Growth (8 s, sigma 0.3)": growth,
    "Reads answered 429 (8 s, sigma 0.3, 1000 in flight)": refused,
}


def measured(row: Row, seeds: Iterable[int], *, quick: bool) -> dict[str, float]:
    """The row's figures, each the mean over the seeds."""
    world = evolve(row.world, tasks=max(row.world.tasks // 5, 200)) if quick else row.world
    runs = [Simulation(world, row.policy, HELD_OUT + seed, eager=row.eager, prompt=row.prompt).run() for seed in seeds]
    figures: dict[str, Callable[[Figures], float]] = {
        "mean": lambda run: run.mean_lag_s,
        "p50": lambda run: run.lag_s(0.5),
        "p95": lambda run: run.lag_s(0.95),
        "first": lambda run: quantile(run.lags_s[:50], 0.95),
        "reads": lambda run: run.per_task(run.reads),
        "requests": lambda run: run.per_task(run.requests),
        "refused": lambda run: run.refused / run.requests,
    }
    return {name: sum(map(figure, runs)) / len(runs) for name, figure in figures.items()}


def line(row: Row, found: dict[str, float]) -> str:
    """The row as Markdown."""
    over_least = math.nan
    if row.law is not None:
        worth_s = row.policy.lag_per_read_s
        least_s = least_cost_s(row.law, worth_s) + RTT_S / 2
        over_least = (found["mean"] + worth_s * found["reads"]) / least_s
    bar, verdict = "", ""
    if row.bar is not None:
        bar = str(row.bar)
        met = (
            found["p95"] <= row.bar.p95_s
            and found["first"] <= row.bar.first_p95_s
            and found["reads"] <= row.bar.reads
            and found["requests"] <= row.bar.requests
            and not over_least > row.bar.over_least
        )
        verdict = "met" if met else "**missed**"
    return (
        f"| {row.name} | {found['mean']:.2f} | {found['p50']:.2f} | {found['p95']:.2f} | {found['first']:.2f} "
        f"| {found['reads']:.2f} | {found['requests']:.3f} | {found['refused']:.1%} "
        f"| {'' if math.isnan(over_least) else f'{over_least:.2f}'} | {bar} | {verdict} |"
    )


def main(options: argparse.Namespace) -> None:
    """Print all tables."""
    print(f"Lags in seconds, from a task's end to the reply that tells of it; round trip {RTT_S:g} s.")
    for title, rows in TABLES.items():
        print(f"\n### {title}\n")
        print("| | mean | p50 | p95 | first 50, p95 | reads | requests | refused | cost/least | bar | |")
        print("|---|---|---|---|---|---|---|---|---|---|---|")
        for row in rows():
            print(line(row, measured(row, options.seeds, quick=options.quick)), flush=True)
