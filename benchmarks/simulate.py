"""The project's own controllers in virtual time, against models of what a gateway may do. Prints tables with the bars.

    python -m benchmarks.simulate submission|polling|sharing|fetching [--quick] [--seeds 101,102]

--quick: one seed and a fifth of the work, to see that it runs; the bars are for whole runs.
"""

import argparse
from importlib import import_module

PARTS = ("submission", "polling", "sharing", "fetching")


def _seeds(text: str) -> list[int]:
    return [int(seed) for seed in text.split(",")]


def main() -> None:
    """Run one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seeds", type=_seeds, default=[101, 102, 103, 104], help="what the figures are the means of")
    options = parser.parse_args()
    if options.quick:
        options.seeds = options.seeds[:1]
    import_module(f"benchmarks.simulation.{options.part}").main(options)


if __name__ == "__main__":
    main()
