"""What can go wrong does: lost answers, server errors, cut pictures; and a SIGKILL in the middle. The ledger judges."""

from typing import Final

from benchmarks.client import OURS, RIVALS
from benchmarks.gateway import GatewayProcess
from benchmarks.measure import Load, side_by_side
from benchmarks.tables import PAID_TWICE, WALL, Column, middle, print_comparison, saved
from krea_async.sandbox import Durations, Faults

NAMES: Final = (OURS, *RIVALS)
CONCURRENCY: Final = 32
SHARE: Final = 0.02

STORM: Final = Faults(
    drop_before=SHARE,
    drop_after=SHARE,
    error=SHARE,
    error_after=SHARE,
    garbage=SHARE,
    image_drop=SHARE,
    image_error=SHARE,
    image_truncated=SHARE,
)
CASES: Final = (
    ("kill -9 and a storm", STORM, 0.5),
    ("a storm", STORM, None),
    ("kill -9", Faults(), 0.5),
)
LOST: Final = Column("paid for, not saved", middle(lambda run: run.lost), "{:.0f}")
DAMAGED: Final = Column("damaged files", middle(lambda run: run.damaged), "{:.0f}")

ABOUT: Final = """\
## Faults: {pictures} pictures of 200 KB, 1 s tasks, {concurrency} in flight

All clients run at the same time, each with a sandbox of its own, whose ledger is the truth. A storm: of the API's
requests {share:.0%} each are dropped before and after the work is done, answered 5xx before and after it is done, and
answered with garbage; of the pictures {share:.0%} each are dropped, answered 5xx, and cut. kill -9: when half of the
prompts are paid for; then the client is started again in the same directory, the rivals with those prompts that have no
file yet.
"""


def run(gateway: GatewayProcess, *, quick: bool) -> None:
    """A storm, a kill in the middle, and both."""
    pictures = 60 if quick else 300
    print(ABOUT.format(pictures=pictures, concurrency=CONCURRENCY, share=SHARE))
    for title, faults, kill_at in CASES[:1] if quick else CASES:
        durations = Durations(queue_s=0.0, run_s=1.0, sigma=0.2)
        settings = {"durations": durations, "faults": faults, "picture_bytes": 200_000, "scenes": 2}
        load = Load(pictures=pictures, concurrency=CONCURRENCY, settings=settings, kill_at=kill_at)
        runs = side_by_side(gateway, dict.fromkeys(NAMES, load))
        print(f"### {title.capitalize()}\n")
        columns = (saved(pictures), LOST, DAMAGED, PAID_TWICE, WALL)
        print_comparison(columns, {name: [run] for name, run in runs.items()})
