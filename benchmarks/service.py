"""Many callers of one service at once: the FastAPI example in a real uvicorn, against a gateway with a limit.

    python -m benchmarks.service --calls 2000 --rate 50

Prints one JSON object. The callers and the gateway share one process; the service has another.
"""

import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
from attrs import asdict, frozen

from krea_async.sandbox import Durations, Limits, Sandbox

EXAMPLES: Final = Path(__file__).parents[1] / "docs" / "examples"
RUN_S: Final = 2.0
"""How long every task runs."""
_PATIENCE_S: Final = 600.0


@frozen(kw_only=True)
class Load:
    """What came of it. statuses: of the answers; distinct: pictures among them; tasks: made by the gateway.

    Latencies in seconds from the call to the last byte. Memory in bytes, of the service before and at its peak.
    """

    calls: int
    rate: float
    wall_s: float
    statuses: dict[int, int]
    tasks: int
    paid_twice: int
    rate_limited: int
    latency_s: dict[str, float]
    rss_before: int
    rss_peak: int


async def load(calls: int, rate: float, directory: Path) -> Load:
    """Make `calls` calls at once, each for another picture, against a gateway that accepts `rate` a second."""
    limits = Limits(per_second=rate)
    async with (
        Sandbox(durations=Durations.fixed(RUN_S), limits=limits, scenes=4, credits=None) as sandbox,
        served(sandbox, directory) as (pid, url),
        aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(_PATIENCE_S)
        ) as http,
    ):
        before = rss_bytes(pid)
        began = time.perf_counter()
        answers = await asyncio.gather(*(_call(http, url, f"fox {number}") for number in range(calls)))
        wall_s = time.perf_counter() - began
        seconds = sorted(answer[1] for answer in answers)
        ledger = sandbox.ledger
        return Load(
            calls=calls,
            rate=rate,
            wall_s=round(wall_s, 2),
            statuses=dict(Counter(status for status, _ in answers)),
            tasks=len(ledger.tasks),
            paid_twice=len(ledger.duplicates) + sum(count > 1 for count in ledger.charges_by_key.values()),
            rate_limited=ledger.rate_limited,
            latency_s={"p50": round(statistics.median(seconds), 2), "p95": round(seconds[int(len(seconds) * 0.95)], 2)},
            rss_before=before,
            rss_peak=peak_bytes(pid),
        )


async def _call(http: aiohttp.ClientSession, url: str, prompt: str) -> tuple[int, float]:
    """The status of one call, and its seconds. A picture that is not whole counts as status 0."""
    began = time.perf_counter()
    async with http.post(f"{url}/pictures", json={"prompt": prompt}) as reply:
        body = await reply.read()
        whole = reply.status != 200 or body.startswith(b"\x89PNG")
        return reply.status if whole else 0, time.perf_counter() - began


def held_port() -> socket.socket:
    """A port that nobody else is given while this is open: bound, but not listened at. A server that reuses may."""
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind(("127.0.0.1", 0))
    return holder


@asynccontextmanager
async def served(sandbox: Sandbox, directory: Path) -> AsyncIterator[tuple[int, str]]:
    """The example in uvicorn: its process id and its URL."""
    with held_port() as holder:
        port = holder.getsockname()[1]
        env = {
            **os.environ,
            "EVOLINK_API_KEY": sandbox.key,
            "EVOLINK_BASE_URL": sandbox.url,
            "PICTURES": str(directory),
            "ANSWER_S": str(_PATIENCE_S),
            "XDG_CACHE_HOME": str(directory / "cache"),
            "PYTHONPATH": str(EXAMPLES),
        }
        command = [sys.executable, "-m", "uvicorn", "fastapi_service:app", "--port", str(port)]
        process = await asyncio.create_subprocess_exec(
            *command, "--no-access-log", "--log-level", "warning", env=env, stdout=subprocess.DEVNULL
        )
        url = f"http://127.0.0.1:{port}"
        try:
            await _ready(url, process)
            yield process.pid, url
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


async def _ready(url: str, process: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(30), aiohttp.ClientSession() as http:
        while process.returncode is None:
            try:
                async with http.get(f"{url}/ready") as reply:
                    if reply.status == 200:
                        return
            except aiohttp.ClientConnectionError:
                await asyncio.sleep(0.05)
    raise RuntimeError("the service did not start")


def rss_bytes(pid: int) -> int:
    """Memory that a process occupies now."""
    return _status_bytes(pid, "VmRSS")


def peak_bytes(pid: int) -> int:
    """The most memory that a process has occupied."""
    return _status_bytes(pid, "VmHWM")


def _status_bytes(pid: int, name: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def main() -> None:
    """Measure, and print."""
    parser = ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--rate", type=float, default=50.0)
    options: Any = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        print(json.dumps(asdict(asyncio.run(load(options.calls, options.rate, Path(directory))))))


if __name__ == "__main__":
    main()
