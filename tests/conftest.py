"""What every test shares: asyncio, a patient hypothesis, and fast policies for sessions against the sandbox."""

import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from krea_async import DownloadPolicy, KreaSession, PacingPolicy, PollPolicy, RetryPolicy, TimeoutPolicy
from krea_async.sandbox import Durations, Sandbox

sys.path.append(str(Path(__file__).parents[1]))  # for `benchmarks`; what is installed comes first

settings.register_profile("calm", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("calm")

SOON = RetryPolicy(attempts=10, first_wait_s=0.01, max_wait_s=0.05)
IMPATIENT: dict[str, Any] = {
    "retries": SOON,
    "pacing": PacingPolicy(first_rate=10_000.0, longest_pause_s=0.2),
    "polling": PollPolicy(shortest_s=0.05, longest_s=0.1, window_s=0.01, ahead_s=0.02),
    "timeouts": TimeoutPolicy(connect_s=2.0, read_s=0.5),
    "downloading": DownloadPolicy(retries=SOON, timeout_s=5.0),
    "seed": 1,
}
"""Session arguments with the same rules as the defaults, but waits that a test can afford."""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    """A gateway whose tasks are finished at their first read; tests set the limits and faults they want."""
    async with Sandbox(durations=Durations.instant()) as sandbox:
        yield sandbox


@pytest.fixture
def session_of() -> Callable[..., KreaSession]:
    """Makes impatient sessions: `session_of(sandbox, concurrency=8)`."""

    def make(sandbox: Sandbox, **options: Any) -> KreaSession:
        return KreaSession(sandbox.key, base_url=sandbox.url, **{**IMPATIENT, **options})

    return make


@pytest.fixture(autouse=True)
def no_memory(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a session finds of a sandbox's limits is kept for nobody: each test begins without it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
