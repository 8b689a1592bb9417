"""What the journal costs: a batch with and without it, the journal alone, reading a big one, memory of a long list.

    python -m benchmarks.journal [batch | bare | read | memory ...] [--rows 1500] [--task-s 0] [--concurrency 250]
        [--picture-bytes 200000] [--rounds 5] [--directory DIR]

batch: the same batch with the journal on, with `sync=False`, and with books that tell the journal nothing; the manifest
and the syncing of pictures stay. The three run at the same time, against one sandbox in a process of its own, so that
what else the machine does meets all alike; CPU is that of each client alone. bare: rows per second when each row waits
for the disk three times, as in a batch; one after the other, in changing order. read: what a resume does first.
memory: `krea-async render` of a short list and a long one (not among the defaults: it takes minutes).
Figures are medians of `rounds`. The disk is that of `--directory`, by default the system's for temporary files.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.gateway import KEY, gateway_process
from benchmarks.measure import there_and_back
from krea_async.sandbox import Durations

Runs = dict[str, list[dict[str, float]]]

BATCH = ("off", "no sync", "on")
BARE = (("group", 64), ("group", 1000), ("no sync", 64), ("no sync", 1000), ("alone", 1))


def measured(name: str, **arguments: object) -> dict[str, float]:
    """What one measurement used."""
    command = [sys.executable, "-m", "benchmarks.journal_client", name, json.dumps(arguments)]
    used: dict[str, float] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    print(f"{name} {arguments}: {used}", file=sys.stderr)
    return used


def middle(runs: list[dict[str, float]], figure: str) -> float:
    """The median of one figure."""
    return median(run[figure] for run in runs)


def beside(runs: list[dict[str, float]], others: list[dict[str, float]], figure: str) -> float:
    """The median of one figure's ratio to the other's of the same round."""
    return median(run[figure] / other[figure] for run, other in zip(runs, others, strict=True))


def batch(options: argparse.Namespace) -> None:
    """CPU per picture and rows per second of a batch, beside the same batch without a journal."""
    runs: Runs = {name: [] for name in BATCH}
    durations = Durations(queue_s=0.0, run_s=options.task_s, sigma=0.2)
    with (
        gateway_process() as gateway,
        gateway.sandbox(durations=durations, scenes=8, picture_bytes=options.picture_bytes) as sandbox,
    ):
        shape = {"url": sandbox.url, "key": KEY, "rows": options.rows, "concurrency": options.concurrency}

        def run(name: str) -> dict[str, float]:
            with tempfile.TemporaryDirectory(dir=options.directory) as directory:
                return measured("batch", journal=name, directory=directory, **shape)

        with ThreadPoolExecutor(len(BATCH)) as side_by_side:
            for _ in range(options.rounds):
                for name, used in zip(BATCH, side_by_side.map(run, BATCH), strict=True):
                    runs[name].append(used)
    print(f"\n{options.rows} rows each, pictures of {options.picture_bytes} bytes, {options.task_s:g} s tasks", end="")
    print(f", {options.concurrency} in flight; medians of {options.rounds} rounds, ratios within a round\n")
    print("| journal | CPU ms per picture | beside off | rows per second | beside off |")
    print("|---|---|---|---|---|")
    for name in BATCH:
        print(f"| {name} | {1000 * middle(runs[name], 'cpu_s') / options.rows:.2f} ", end="")
        print(f"| {beside(runs[name], runs['off'], 'cpu_s'):.3f} ", end="")
        print(f"| {middle(runs[name], 'rows_per_s'):.0f} ", end="")
        print(f"| {beside(runs[name], runs['off'], 'rows_per_s'):.3f} |")


def bare(options: argparse.Namespace) -> None:
    """Rows per second of a journal alone, by how lines come to disk."""
    runs: dict[Any, list[dict[str, float]]] = {shape: [] for shape in BARE}
    rows = 10 * options.rows
    for how, waiters in there_and_back(BARE, options.rounds):
        with tempfile.TemporaryDirectory(dir=options.directory) as directory:
            used = measured("bare", how=how, waiters=waiters, rows=rows, directory=directory)
        runs[how, waiters].append(used)
    alone = middle(runs["alone", 1], "rows_per_s")
    print(f"\n{rows} rows, each waits three times; medians of {options.rounds} runs each\n")
    print("| lines come to disk | waiters | rows per second | beside alone | CPU ms per row |")
    print("|---|---|---|---|---|")
    for how, waiters in BARE:
        speed, cpu_s = middle(runs[how, waiters], "rows_per_s"), middle(runs[how, waiters], "cpu_s")
        print(f"| {how} | {waiters} | {speed:.0f} | {speed / alone:.2f} | {1000 * cpu_s / rows:.3f} |")


def read(options: argparse.Namespace) -> None:
    """Seconds and memory for reading a big journal, and for finding a whole list in it."""
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        written = measured("write", rows=options.journal_rows, directory=directory)
        runs = [measured("read", rows=options.journal_rows, directory=directory) for _ in range(options.rounds)]
    millions = options.journal_rows / 1e6
    print(f"\na journal of {options.journal_rows} rows, {written['mb']:.0f} MB; medians of {options.rounds} readings\n")
    print("| read, s per million rows | find a list in it, s per million | MB added by reading | peak MB |")
    print("|---|---|---|---|")
    print(f"| {middle(runs, 'read_s') / millions:.1f} | {middle(runs, 'matched_s') / millions:.1f} ", end="")
    print(f"| {middle(runs, 'added_mb'):.0f} | {middle(runs, 'peak_mb'):.0f} |")


def memory(options: argparse.Namespace) -> None:
    """Peak memory of `krea-async render` for a short list and a long one."""
    print("\n| rows | peak MB | rows per second |\n|---|---|---|")
    for rows in (1000, options.memory_rows):
        with (
            gateway_process() as gateway,
            gateway.sandbox(durations=Durations.instant(), scenes=2) as sandbox,
            tempfile.TemporaryDirectory(dir=options.directory) as directory,
        ):
            peak_mb, wall_s = _rendered(rows, sandbox.url, KEY, Path(directory))
        print(f"| {rows} | {peak_mb:.1f} | {rows / wall_s:.0f} |", flush=True)


def _rendered(rows: int, url: str, key: str, directory: Path) -> tuple[float, float]:
    """Peak MB and seconds of one `krea-async render`, all of whose rows must have been saved."""
    prompts = directory / "prompts.txt"
    prompts.write_text("".join(f"a fox in the snow, number {n}\n" for n in range(rows)))
    main = "from krea_async.cli import main; main()"
    command = [sys.executable, "-c", main, "render", str(prompts), str(directory / "out"), "--json", "--yes"]
    environment = {**os.environ, "EVOLINK_API_KEY": key, "EVOLINK_BASE_URL": url}
    process = subprocess.Popen(
        [*command, "--concurrency", "1000"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    with process.stdout:
        report = json.loads(process.stdout.read())
    _, _, used = os.wait4(process.pid, 0)
    process.returncode = 0
    if report["saved"] != rows:
        raise AssertionError(f"not all saved: {report}")
    return used.ru_maxrss / 1024, report["wall_s"]


MEASUREMENTS = {"batch": batch, "bare": bare, "read": read, "memory": memory}


def main() -> None:
    """Run what was asked for and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", choices=(*MEASUREMENTS, []))
    parser.add_argument("--rows", type=int, default=1500)
    parser.add_argument("--task-s", type=float, default=0.0)
    parser.add_argument("--concurrency", type=int, default=250)
    parser.add_argument("--picture-bytes", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--journal-rows", type=int, default=1_000_000)
    parser.add_argument("--memory-rows", type=int, default=100_000)
    parser.add_argument("--directory", type=Path)
    options = parser.parse_args()
    for name in options.what or ("batch", "bare", "read"):
        MEASUREMENTS[name](options)


if __name__ == "__main__":
    main()
