"""What a picture costs the client in CPU and API requests, beside the floor (`floor.py`), as a ratio from one run.

    python -m benchmarks.cost_per_picture [--pictures 2000] [--task-s 5] [--concurrency 64] [--picture-bytes 200000]

Both clients run as processes of their own, one after the other and in both orders, against one sandbox process.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

ORDER = ("floor", "krea_async", "krea_async", "floor")


@contextmanager
def sandbox_process(*options: str) -> Iterator[tuple[str, str]]:
    """A sandbox in a process of its own: its URL and key."""
    command = [sys.executable, "-c", "from krea_async.cli import main; main()", "sandbox", "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            served = json.loads(process.stdout.readline())
            yield served["url"], served["key"]
        finally:
            process.terminate()


def measured(name: str, url: str, key: str, pictures: int, concurrency: int) -> dict[str, float]:
    """What one client used."""
    with tempfile.TemporaryDirectory() as directory:
        command = [
            sys.executable,
            "-m",
            "benchmarks.client",
            name,
            url,
            key,
            str(pictures),
            directory,
            str(concurrency),
        ]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    used: dict[str, float] = json.loads(output)
    return used


def main() -> None:
    """Run both clients and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--task-s", type=float, default=5.0)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--picture-bytes", type=int, default=200_000)
    options: Any = parser.parse_args()
    results: dict[str, list[dict[str, float]]] = {"floor": [], "krea_async": []}
    sandbox_options = ("--queue", "0", "--run", str(options.task_s), "--sigma", "0.2", "--scenes", "8")
    with sandbox_process(*sandbox_options, "--picture-bytes", str(options.picture_bytes)) as (url, key):
        for name in ORDER:
            results[name].append(measured(name, url, key, options.pictures, options.concurrency))
            print(f"{name}: {results[name][-1]}", file=sys.stderr)
    print(f"{options.pictures} pictures of {options.picture_bytes} bytes, {options.task_s:g} s tasks, ", end="")
    print(f"{options.concurrency} in flight; mean of two runs each")
    print("| client | CPU ms per picture | ratio | API requests per picture | peak MB | wall s |")
    print("|---|---|---|---|---|---|")
    floor_cpu_s = mean(results["floor"], "cpu_s")
    for name, runs in results.items():
        cpu_s = mean(runs, "cpu_s")
        print(
            f"| {name} | {1000 * cpu_s / options.pictures:.2f} | {cpu_s / floor_cpu_s:.2f} "
            f"| {mean(runs, 'api_requests') / options.pictures:.2f} | {mean(runs, 'peak_mb'):.0f} "
            f"| {mean(runs, 'wall_s'):.0f} |"
        )


def mean(runs: list[dict[str, float]], figure: str) -> float:
    """The mean of one figure."""
    return sum(run[figure] for run in runs) / len(runs)


if __name__ == "__main__":
    main()
