"""What many cost: CPU per picture and memory per row as more are in flight, or wait in the list."""

from typing import Final

from benchmarks.client import FLOOR, OURS
from benchmarks.gateway import GatewayProcess
from benchmarks.measure import Load, Run, measured, side_by_side
from benchmarks.tables import print_table
from krea_async.sandbox import Durations

NAMES: Final = (FLOOR, OURS)
FEW: Final = 100
HEAD: Final = (
    "client", "pictures", "in flight at most", "task s", "CPU ms per picture", "beside the first row",
    "API requests per picture", "reads per task", "added MB", "wall s", "saved",
)  # fmt: skip

ABOUT: Final = """\
## Growth: {few} and {many} in flight, small pictures

With few in flight both clients run at the same time, with many one after the other. The first row shares the warmth of
a busy loop with the last, the second one the number of reads that long tasks take. Added: beyond what the process had
after its imports. In flight at most: tasks unfinished at the gateway at once.
"""


def run(gateway: GatewayProcess, *, quick: bool) -> None:
    """CPU and memory with few and with many in flight, then memory of a list that waits."""
    many, short_s, long_s = (1_000, 1.0, 4.0) if quick else (20_000, 2.5, 40.0)
    print(ABOUT.format(few=FEW, many=many))
    loads = (_load(5 * FEW, FEW, short_s), _load(2 * FEW, FEW, long_s), _load(many, many, long_s))
    base, few = (side_by_side(gateway, dict.fromkeys(NAMES, load)) for load in loads[:2])
    lot = {name: measured(gateway, name, loads[2]) for name in NAMES}
    print_table(HEAD, (_row(name, runs[name], base[name]) for name in NAMES for runs in (base, few, lot)))
    for name in NAMES:
        kb = _more_kb(lot[name], few[name]) / (many - FEW)
        print(f"- {name}: {kb:.1f} KB for each row more in flight, waiting to be sent or unfinished")

    at_once, short, long = (FEW, 2 * FEW, 10 * FEW) if quick else (10 * FEW, 20 * FEW, many)
    lists = [side_by_side(gateway, dict.fromkeys(NAMES, _load(rows, at_once, 0.0))) for rows in (short, long)]
    for name in NAMES:
        kb = _more_kb(lists[1][name], lists[0][name]) / (long - short)
        print(f"- {name}: {kb:.2f} KB for each row more that waits, beyond the list itself ({short} and {long} rows)")
    print(flush=True)


def _load(pictures: int, concurrency: int, task_s: float) -> Load:
    durations = Durations(queue_s=0.0, run_s=task_s, sigma=0.2 if task_s else 0.0)
    return Load(pictures=pictures, concurrency=concurrency, settings={"durations": durations, "scenes": 1})


def _more_kb(run: Run, other: Run) -> float:
    return 1024 * (run.added_mb - other.added_mb)


def _row(name: str, run: Run, first: Run) -> tuple[str, ...]:
    return (
        name,
        str(run.load.pictures),
        str(run.facts.max_unfinished),
        f"{run.load.settings['durations'].run_s:g}",
        f"{run.cpu_ms:.2f}",
        f"{run.cpu_ms / first.cpu_ms:.2f}",
        f"{run.api_requests:.2f}",
        f"{run.reads:.2f}",
        f"{run.added_mb:.1f}",
        f"{run.wall_s:.0f}",
        f"{run.saved} of {run.load.pictures}",
    )
