"""One client under measurement, in a process of its own: prints what it used as one line of JSON."""

import asyncio
import json
import resource
import sys
import time
from pathlib import Path

from benchmarks import floor
from krea_async import KreaSession


async def through_render(url: str, key: str, prompts: list[str], directory: Path, concurrency: int) -> int:
    """The same work through `KreaSession.render`; returns the number of API requests."""
    async with KreaSession(key, base_url=url, concurrency=concurrency) as session:
        report = await session.render(prompts, directory)
    if report.saved != len(prompts):
        raise AssertionError(f"not all saved: {report}")
    return sum(report.calls[route] for route in ("create", "read", "read_many"))


CLIENTS = {"floor": floor.render, "krea_async": through_render}


def main() -> None:
    """`python -m benchmarks.client NAME URL KEY PICTURES DIRECTORY CONCURRENCY`."""
    name, url, key, pictures, directory, concurrency = sys.argv[1:]
    prompts = [f"a fox in the snow, number {number}" for number in range(int(pictures))]
    before, started_s = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    requests = asyncio.run(CLIENTS[name](url, key, prompts, Path(directory), int(concurrency)))
    after = resource.getrusage(resource.RUSAGE_SELF)
    used = {
        "cpu_s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "wall_s": time.perf_counter() - started_s,
        "api_requests": requests,
        "peak_mb": after.ru_maxrss / 1024,
    }
    print(json.dumps(used))


if __name__ == "__main__":
    main()
