"""One client under measurement, in a process of its own: prints what it used as one line of JSON."""

import asyncio
import importlib
import json
import resource
import socket
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Final

from aiohttp import web

from benchmarks import floor
from krea_async import KreaSession

OURS: Final = "krea_async"
FLOOR: Final = "floor"
RIVALS: Final = {
    "vendor's flow": "vendor",
    "AsyncOpenAI loop": "openai_loop",
    "aiohttp script": "aiohttp_script",
    "botocore pacing": "botocore_pacing",
}
CALLED_BACK: Final = {"callbacks": 0.0, "30 % of them lost": 0.3, "all of them lost": 1.0}
"""Ours with a receiver of callbacks, and the share that never arrives."""


async def through_render(url: str, key: str, prompts: Mapping[Path, str], concurrency: int | None) -> None:
    """Ours, journal on, as people call it."""
    directory = next(iter(prompts)).parent
    async with KreaSession(key, base_url=url, concurrency=concurrency) as session:
        report = await session.render(prompts.values(), directory)
    if not report.ok:
        print(report, file=sys.stderr)


async def called_back(
    lost_share: float, url: str, key: str, prompts: Mapping[Path, str], concurrency: int | None
) -> None:
    """The same with a receiver in the same process, that passes over some of what it receives."""
    directory, rng = next(iter(prompts)).parent, Random(1)
    async with KreaSession(key, base_url=url, concurrency=concurrency) as session:

        def notify(task_id: str) -> None:
            if rng.random() >= lost_share:
                session.notify(task_id)

        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            webhooks = session.webhooks(f"http://127.0.0.1:{port}", notify=notify)
            runner = web.AppRunner(webhooks.app(), access_log=None)
            await runner.setup()
            await web.SockSite(runner, listener).start()
            report = await session.render(prompts.values(), directory)
            await runner.cleanup()
    if not report.ok:
        print(report, file=sys.stderr)


async def at_the_floor(url: str, key: str, prompts: Mapping[Path, str], concurrency: int) -> None:
    """The floor names its files itself."""
    await floor.render(url, key, list(prompts.values()), next(iter(prompts)).parent, concurrency)


def render_of(name: str) -> Any:  # noqa: ANN401 - a function, or a coroutine function, of these arguments
    """How this client renders. Only its own libraries are imported, so that the others' do not count as its memory."""
    if name in RIVALS:
        return importlib.import_module(f"benchmarks.rivals.{RIVALS[name]}").render
    if name in CALLED_BACK:
        return partial(called_back, CALLED_BACK[name])
    return {OURS: through_render, FLOOR: at_the_floor}[name]


def main() -> None:
    """`python -m benchmarks.client NAME URL KEY PICTURES DIRECTORY CONCURRENCY`; 0 in flight: the client's own choice.

    Started again in the same directory it goes on: ours with its journal, the others with the pictures not there yet.
    """
    name, url, key, pictures, directory, concurrency = sys.argv[1:]
    paths = (Path(directory, f"{number:05d}.png") for number in range(int(pictures)))
    prompts = {path: prompt_of(number) for number, path in enumerate(paths)}
    if name not in {OURS, *CALLED_BACK}:
        prompts = {path: prompt for path, prompt in prompts.items() if not path.exists()}
    render = render_of(name)
    imported_mb = peak_mb()
    before, started_s = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    rendering = render(url, key, prompts, int(concurrency) or None)
    if rendering is not None:
        asyncio.run(rendering)
    after = resource.getrusage(resource.RUSAGE_SELF)
    used = {
        "cpu_s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "wall_s": time.perf_counter() - started_s,
        "peak_mb": peak_mb(),
        "added_mb": peak_mb() - imported_mb,
    }
    print(json.dumps(used))


def prompt_of(number: int) -> str:
    """A prompt of usual length."""
    return f"a lighthouse on a cliff at dusk, long exposure, storm clouds, cinematic light, number {number}"


def peak_mb() -> float:
    """The most memory that this process had. Linux lets `ru_maxrss` begin with the parent's, hence /proc."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")) / 1024


if __name__ == "__main__":
    main()
