"""Nothing that the library does blocks its event loop for long, for the loop is other people's as well."""

import asyncio
import resource
import threading
import time
from pathlib import Path

import pytest

from benchmarks.gateway import KEY, gateway_process
from krea_async import ImageRequest, KreaSession, PacingPolicy
from krea_async.sandbox import Durations

pytestmark = pytest.mark.anyio

LONGEST_S = 0.020
TICK_S = 0.001


def waited_s() -> float:
    """How long this thread has waited for a processor in its life; 0 where the kernel does not say."""
    told = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat")
    return int(told.read_text().split()[1]) / 1e9 if told.exists() else 0.0


async def gaps_s(until: asyncio.Event) -> list[float]:
    """How long the loop was busy with other things, each time; without the times in which this thread was set aside.

    A busy machine takes the processor away from a thread that would have run, or gives it one late: that is no fault of
    the thread's.
    """
    gaps = []
    while not until.is_set():
        begun_s, set_aside = time.perf_counter(), resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw
        late_s = waited_s()
        await asyncio.sleep(TICK_S)
        late_s = waited_s() - late_s
        gap_s = time.perf_counter() - begun_s - TICK_S
        if resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw == set_aside:
            gaps.append(gap_s - late_s)
    return gaps


async def test_the_loop_is_free_with_500_tasks_in_flight_and_2k_pictures(tmp_path: Path) -> None:
    rows = [ImageRequest(f"fox {n}", quality="2K", size="16:9") for n in range(1000)]
    ended = asyncio.Event()
    settings = {"durations": Durations(queue_s=0.0, run_s=2.0, sigma=0.2), "scenes": 2}
    with gateway_process() as gateway, gateway.sandbox(**settings) as sandbox:
        watch = asyncio.ensure_future(gaps_s(ended))
        pacing = PacingPolicy(first_rate=500.0)
        async with KreaSession(KEY, base_url=sandbox.url, concurrency=500, pacing=pacing) as session:
            report = await session.render(rows, tmp_path)
        ended.set()
        gaps = await watch
    assert report.saved == len(rows)
    assert sum(gap_s > LONGEST_S for gap_s in gaps) <= len(gaps) / 1000
