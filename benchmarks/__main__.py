"""The benchmarks over real HTTP, as one page of Markdown on stdout; progress goes to stderr.

    python -m benchmarks [calm | limits | faults | growth | callbacks | interactive ...] [--quick]

Every client is a process of its own against one sandbox process; every comparison is between runs of one page. calm:
CPU, requests and detection lag. limits: use of a limit nobody told of, and what was refused. faults: pictures saved,
lost and paid for twice. growth: CPU and memory per row in flight. callbacks: reads and lag, with a part of them lost.
interactive: single calls beside a bulk render. Needs the extra `bench`. Without arguments all of them run, in half an
hour; --quick takes a look at each, in three minutes.
"""

import argparse
from typing import Final

from benchmarks.gateway import gateway_process
from benchmarks.scenarios import callbacks, calm, faults, growth, interactive, limits
from benchmarks.tables import print_surroundings

ABOUT: Final = """\
Every client is a process of its own, and all of them talk over real HTTP to sandboxes in one process, which count
what came and when; so the figures of a table belong together, and those of different pages do not. The clients, in
`benchmarks/`: the floor, which handles no error and takes no care (`floor.py`): nobody should use it, but less cannot
be done; krea_async, which is `KreaSession.render` with its journal; the vendor's published Python flow (requests,
threads, a look every 3 s); a loop around AsyncOpenAI, with its own two retries; the usual aiohttp script, with a
semaphore and tenacity's backoff; and adaptive pacing by the rate limiter of botocore, with up to ten attempts and
idempotency keys. The last three look every 2 s. asyncio runs on its own event loop in all of them.
"""

SCENARIOS: Final = {
    "calm": calm,
    "limits": limits,
    "faults": faults,
    "growth": growth,
    "callbacks": callbacks,
    "interactive": interactive,
}


def main() -> None:
    """Run what was asked for and print its part of the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", choices=(*SCENARIOS, []))
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    print("# Benchmarks\n")
    print_surroundings()
    print(ABOUT)
    with gateway_process() as gateway:
        for name in options.what or SCENARIOS:
            SCENARIOS[name].run(gateway, quick=options.quick)


if __name__ == "__main__":
    main()
