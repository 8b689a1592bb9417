"""Nothing goes wrong and nothing is limited: what a picture costs, and how late a finished task is noticed."""

from typing import Final

from benchmarks.client import FLOOR, OURS, RIVALS
from benchmarks.gateway import GatewayProcess
from benchmarks.measure import Load, Run, measured, side_by_side, there_and_back
from benchmarks.tables import READS, REQUESTS, WALL, Column, beside, middle, print_comparison, saved
from krea_async.sandbox import Durations

NAMES: Final = (FLOOR, OURS, *RIVALS)
CONCURRENCY: Final = 256
CPU: Final = Column("CPU ms per picture", middle(lambda run: run.cpu_ms))
PEAK: Final = Column("peak MB", middle(lambda run: run.peak_mb), "{:.0f}")
NOTICED: Final = (
    REQUESTS,
    READS,
    Column("lag mean s", middle(lambda run: run.lag_mean_s)),
    Column("lag p95 s", middle(lambda run: run.lag_p95_s)),
)

ABOUT: Final = """\
## Calm: {pictures} pictures of 200 KB, {task_s:g} s tasks, {concurrency} in flight

Each client alone, {rounds} rounds in changing order: medians, ratios within a round. Reads: how often a task was looked
up, alone or in a batch. Lag: from a task's finish to the answer that first told of it, both seen at the sandbox.
"""


def run(gateway: GatewayProcess, *, quick: bool) -> None:
    """Short tasks, one client after the other; then long ones, side by side."""
    pictures, rounds, task_s, long_task_s = (60, 1, 1.0, 2.5) if quick else (400, 3, 2.5, 8.0)
    load = _load(pictures, task_s)
    runs: dict[str, list[Run]] = {name: [] for name in NAMES}
    for name in there_and_back(NAMES, rounds):
        runs[name].append(measured(gateway, name, load))
    print(ABOUT.format(pictures=pictures, task_s=task_s, concurrency=CONCURRENCY, rounds=rounds))
    ratio = Column("beside the floor", beside(runs[FLOOR], lambda run: run.cpu_ms), better=None)
    print_comparison((CPU, ratio, *NOTICED, PEAK, WALL, saved(pictures)), runs)

    long_runs = side_by_side(gateway, dict.fromkeys(NAMES, _load(pictures, long_task_s)))
    print(f"## Long tasks: the same with {long_task_s:g} s\n")
    print("One round, all clients at the same time, so CPU is not measured.\n")
    print_comparison((*NOTICED, WALL, saved(pictures)), {name: [run] for name, run in long_runs.items()})


def _load(pictures: int, task_s: float) -> Load:
    durations = Durations(queue_s=0.0, run_s=task_s, sigma=0.2)
    settings = {"durations": durations, "picture_bytes": 200_000, "scenes": 2}
    return Load(pictures=pictures, concurrency=CONCURRENCY, settings=settings)
