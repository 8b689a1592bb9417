"""Callbacks that arrive, that are lost in part, and that never come: reads per task, and how late an end is known."""

from typing import Final

from benchmarks.client import CALLED_BACK, OURS
from benchmarks.gateway import GatewayProcess
from benchmarks.measure import Load, side_by_side
from benchmarks.tables import READS, REQUESTS, WALL, Column, middle, print_table, saved
from krea_async.sandbox import Durations

ALONE: Final = "polling alone"
CONCURRENCY: Final = 256

MEAN_LAG: Final = Column("mean lag s", middle(lambda run: run.lag_mean_s))
P95_LAG: Final = Column("p95 lag s", middle(lambda run: run.lag_p95_s))

ABOUT: Final = """\
## Callbacks: {pictures} small pictures, {run_s:g} s tasks, {concurrency} in flight

`KreaSession.render` with a receiver in its process, which passes over a share of what arrives as if it had been lost;
all at the same time, each with a sandbox of its own. Lag: from a task's end to the answer of the read that told of it.
"""


def run(gateway: GatewayProcess, *, quick: bool) -> None:
    """One table: polling alone, and callbacks with nothing, a part and all of them lost."""
    pictures, run_s = (100, 2.0) if quick else (1000, 8.0)
    print(ABOUT.format(pictures=pictures, run_s=run_s, concurrency=CONCURRENCY))
    settings = {
        "durations": Durations(queue_s=0.0, run_s=run_s, sigma=0.3),
        "scenes": 1,
        "allow_local_callbacks": True,
    }
    load = Load(pictures=pictures, concurrency=CONCURRENCY, settings=settings)
    runs = side_by_side(gateway, dict.fromkeys((OURS, *CALLED_BACK), load))
    columns = (READS, MEAN_LAG, P95_LAG, REQUESTS, WALL, saved(pictures))
    print_table(
        ("", *(column.title for column in columns)),
        (
            (ALONE if name == OURS else name, *(column.shown([found]) for column in columns))
            for name, found in runs.items()
        ),
    )
