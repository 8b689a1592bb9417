"""How long starting takes: the library beside aiohttp's import, the command line's help beside aiohttp's and click's.

    python -m benchmarks.startup [--runs 21]

Every run is a process of its own. The commands take turns, so that a busy machine is equally unfair to all of them; the
ratios are those of the medians and of the fastest runs.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Mapping
from statistics import median
from typing import Final

LINES: Final = {
    "aiohttp": "import aiohttp",
    "krea_async": "import krea_async",
    "session": "from krea_async import KreaSession",
    "aiohttp, click": "import aiohttp, click",
    "krea-async --help": (
        "import sys; sys.argv[:] = ['krea-async', '--help']; from krea_async.cli import main; main()"
    ),
}

LIMITS: Final = {("krea_async", "aiohttp"): 1.15, ("krea-async --help", "aiohttp, click"): 1.6}
"""What may be compared with what, and how much longer it may take; without a limit it is only told."""

TOLD: Final = (*LIMITS, ("session", "aiohttp"))


def measured(runs: int) -> dict[str, list[float]]:
    """Seconds of each run, by command."""
    seconds: dict[str, list[float]] = {name: [] for name in LINES}
    for number in range(runs + 1):
        for name, line in LINES.items():
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", line], check=True, stdout=subprocess.DEVNULL)
            if number:  # the first round brings the files into the cache
                seconds[name].append(time.perf_counter() - began)
    return seconds


def ratios(seconds: Mapping[str, list[float]]) -> dict[tuple[str, str], tuple[float, float]]:
    """For each comparison the ratio of the medians, and that of the fastest runs."""
    return {
        (one, other): (median(seconds[one]) / median(seconds[other]), min(seconds[one]) / min(seconds[other]))
        for one, other in TOLD
    }


def main() -> None:
    """Print the tables; exit with 1 when a limit is exceeded by median and minimum."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=21)
    seconds = measured(parser.parse_args().runs)
    print("| start of | median, ms | fastest, ms |\n|---|---:|---:|")
    for name, each in seconds.items():
        print(f"| `{name}` | {1e3 * median(each):.0f} | {1e3 * min(each):.0f} |")
    print("\n| compared | of medians | of fastest | may be |\n|---|---:|---:|---:|")
    slow = False
    for pair, (by_median, by_fastest) in ratios(seconds).items():
        limit = LIMITS.get(pair)
        slow |= limit is not None and min(by_median, by_fastest) > limit
        print(f"| `{pair[0]}` : `{pair[1]}` | {by_median:.2f} | {by_fastest:.2f} | {limit or ''} |")
    sys.exit(slow)


if __name__ == "__main__":
    main()
