"""A person's calls on a session that renders a list at the same time, beside the same calls on an idle one."""

import asyncio
import tempfile
import time
from pathlib import Path
from statistics import median, quantiles
from typing import Final

from benchmarks.gateway import KEY, GatewayProcess
from benchmarks.tables import print_table
from krea_async import KreaSession, PacingPolicy
from krea_async.sandbox import Durations, Limits

EVERY_S: Final = 0.5
RATE: Final = 50.0

ABOUT: Final = """\
## Interactive: a call every {every_s:g} s beside a render of {rows} rows, under a limit of {rate:g} per second

One session for both; tasks of 2 s. Latency: from the call to the picture on disk, of {calls} calls each.
"""


def run(gateway: GatewayProcess, *, quick: bool) -> None:
    """One table: the calls alone, and beside a bulk render."""
    rows, calls = (600, 20) if quick else (5000, 150)
    print(ABOUT.format(every_s=EVERY_S, rows=rows, rate=RATE, calls=calls))
    found = {"alone": _measured(gateway, 0, calls), "beside the render": _measured(gateway, rows, calls)}
    alone_s = _p95_s(found["alone"])
    print_table(
        ("calls", "median s", "p95 s", "p95 beside alone"),
        ((name, f"{median(s):.2f}", f"{_p95_s(s):.2f}", f"{_p95_s(s) / alone_s:.2f}") for name, s in found.items()),
    )


def _measured(gateway: GatewayProcess, rows: int, calls: int) -> list[float]:
    settings = {
        "durations": Durations(queue_s=0.0, run_s=2.0, sigma=0.2),
        "limits": Limits(per_second=RATE),
        "scenes": 1,
    }
    with gateway.sandbox(**settings) as sandbox, tempfile.TemporaryDirectory() as directory:
        return asyncio.run(_latencies_s(sandbox.url, Path(directory), rows, calls))


async def _latencies_s(url: str, directory: Path, rows: int, calls: int) -> list[float]:
    async with KreaSession(KEY, base_url=url, pacing=PacingPolicy(remember=False)) as session:

        async def call(number: int) -> float:
            await asyncio.sleep(number * EVERY_S)
            begun_s = time.perf_counter()
            await session.generate(f"a call {number}", to=directory / f"call-{number}.png")
            return time.perf_counter() - begun_s

        async with session.render((f"row {n}" for n in range(rows)), directory / "renders") as batch:
            everybody = asyncio.gather(*map(call, range(calls)))
            async for _ in batch:
                pass
            return await everybody


def _p95_s(latencies_s: list[float]) -> float:
    return quantiles(latencies_s, n=20, method="inclusive")[-1]
