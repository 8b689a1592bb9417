"""A limit that nobody publishes: how much of it each client uses, and how often it has to be refused for that."""

from typing import Final

from attrs import evolve

from benchmarks.client import OURS, RIVALS
from benchmarks.gateway import GatewayProcess
from benchmarks.measure import Load, Run, side_by_side
from benchmarks.oracle import use
from benchmarks.tables import PAID_TWICE, READS, WALL, Column, middle, print_comparison, saved
from krea_async.sandbox import Durations, Limits

NAMES: Final = (OURS, *RIVALS)
CONCURRENCY: Final = 64
"""Of the rivals, who have to be told; `krea_async` is told nothing."""

LIMITS: Final = (
    ("a bucket of 20 per second", Limits(per_second=20)),
    ("30 per window of 3 s", Limits(per_window=(30, 3.0))),
    ("8 unfinished", Limits(unfinished=8)),
    ("32 unfinished", Limits(unfinished=32)),
)
REFUSED: Final = Column("refused %", middle(lambda run: 100 * run.refused), "{:.1f}")
LONGEST_WAIT: Final = Column("longest wait s", middle(lambda run: run.longest_wait_s), "{:.1f}")

ABOUT: Final = """\
## Limits: {pictures} small pictures, 2 s tasks

The rivals are told to have {concurrency} in flight; {ours} is told nothing. All clients run at the same time, each
with a sandbox of its own. Use: the time of an oracle that knows the limit over the client's, until the last
acceptance. It counts what was accepted only: who gives prompts up is not the slower for it, and with few accepted
it says little. Same lag: beside an oracle that fills a place when it knows, as late as the client does, that its
task is finished; above 1 are those that ask without waiting for that, and are refused for it. Refused: 429s per
accepted request. Longest wait: of one prompt, from its first try to its acceptance.
"""


def run(gateway: GatewayProcess, *, quick: bool) -> None:
    """A table for each limit, all clients at the same time."""
    pictures = 60 if quick else 400
    print(ABOUT.format(pictures=pictures, concurrency=CONCURRENCY, ours=OURS))
    for title, limits in LIMITS[:1] if quick else LIMITS:
        for how in (None,) if quick else (None, "seconds"):
            announced = evolve(limits, retry_after=how)
            runs = side_by_side(gateway, {name: _load(name, pictures, announced) for name in NAMES})
            print(f"### {title.capitalize()}, {'with' if how else 'without'} Retry-After\n")
            columns = (*_uses(announced), REFUSED, LONGEST_WAIT, READS, WALL, saved(pictures), PAID_TWICE)
            print_comparison(columns, {name: [run] for name, run in runs.items()})


def _load(name: str, pictures: int, limits: Limits) -> Load:
    settings = {"durations": Durations(queue_s=0.0, run_s=2.0, sigma=0.2), "limits": limits, "scenes": 1}
    return Load(pictures=pictures, concurrency=0 if name == OURS else CONCURRENCY, settings=settings)


def _uses(limits: Limits) -> tuple[Column, ...]:
    def with_same_lag(run: Run) -> float:
        return use(run.facts, limits, lag_s=run.lag_mean_s)

    plain = Column("use", middle(lambda run: use(run.facts, limits)), "{:.3f}", "more")
    if limits.unfinished is None:
        return (plain,)
    return plain, Column("use, same lag", middle(with_same_lag), "{:.3f}", "more")
