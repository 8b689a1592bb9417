"""Figures of several runs brought together, as tables in Markdown that say where we are behind."""

import os
import platform
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Final, Literal, TypeVar

from attrs import frozen

from benchmarks.client import OURS
from benchmarks.measure import Run

T = TypeVar("T")
Runs = Sequence[Run]

LIBRARIES: Final = ("krea-async", "aiohttp", "requests", "openai", "httpx2", "tenacity", "botocore")


@frozen
class Column:
    """One figure of each client: its value, from all of the client's runs; how it is written; what is better."""

    title: str
    value: Callable[[Runs], float]
    form: str = "{:.2f}"
    better: Literal["less", "more"] | None = "less"

    def shown(self, runs: Runs) -> str:
        """The cell."""
        return self.form.format(self.value(runs))

    def behind(self, ours: Runs, others: Runs) -> bool:
        """Whether another client's figure is better, as far as the table shows."""
        if self.better is None or self.shown(ours) == self.shown(others):
            return False
        return (self.value(others) < self.value(ours)) == (self.better == "less")


def middle(figure: Callable[[Run], float]) -> Callable[[Runs], float]:
    """The median of one figure."""
    return lambda runs: median(map(figure, runs))


def beside(floors: Runs, figure: Callable[[Run], float]) -> Callable[[Runs], float]:
    """The median of one figure's ratio to the floor's of the same round."""
    return lambda runs: median(figure(run) / figure(floor) for run, floor in zip(runs, floors, strict=True))


WALL: Final = Column("wall s", middle(lambda run: run.wall_s), "{:.1f}")
REQUESTS: Final = Column("API requests per picture", middle(lambda run: run.api_requests))
READS: Final = Column("reads per task", middle(lambda run: run.reads))
PAID_TWICE: Final = Column("paid twice", lambda runs: sum(run.paid_twice for run in runs), "{:.0f}")


def saved(pictures: int) -> Column:
    """How many of the pictures were saved, in the worst run."""
    return Column("saved", lambda runs: min(run.saved for run in runs), f"{{:.0f}} of {pictures}", "more")


def print_comparison(columns: Sequence[Column], clients: Mapping[str, Runs]) -> None:
    """A row for each client, and below it where ours is behind one that did as much."""
    print_table(
        ("client", *(column.title for column in columns)),
        ((name, *(column.shown(runs) for column in columns)) for name, runs in clients.items()),
    )
    ours = clients[OURS]
    least = min(run.saved for run in ours)
    rivals = {name: runs for name, runs in clients.items() if name != OURS and min(run.saved for run in runs) >= least}
    behind = {column.title: [name for name, runs in rivals.items() if column.behind(ours, runs)] for column in columns}
    said = [f"{title} ({', '.join(names)})" for title, names in behind.items() if names]
    print(f"{OURS} is behind, among those who saved as many, in: {'; '.join(said) or 'nothing'}.")
    for name, runs in clients.items():
        if not all(run.ended for run in runs):
            print(f"{name} did not end by itself.")
    print(flush=True)


def print_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A Markdown table."""
    for cells in (head, ["---"] * len(head), *rows):
        print(f"| {' | '.join(cells)} |")
    print(flush=True)


def print_surroundings() -> None:
    """Date, machine and versions: without them no figure means anything."""
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    print(
        f"{datetime.now(UTC):%Y-%m-%d}, `{' '.join(('python -m benchmarks', *sys.argv[1:]))}`. {_processor()}, ", end=""
    )
    print(f"{os.cpu_count()} cores, {platform.system()} {platform.release().split('-')[0]}, ", end="")
    print(f"Python {platform.python_version()}; {libraries}.\n", flush=True)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
