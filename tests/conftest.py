"""What every test shares: asyncio, a patient hypothesis, a sandbox, and impatient sessions against it."""

import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from impatience import IMPATIENT

from krea_async import KreaSession
from krea_async.sandbox import Durations, Sandbox

sys.path.append(str(Path(__file__).parents[1]))  # for `benchmarks`; what is installed comes first

settings.register_profile("calm", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("calm")


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


@pytest.fixture(autouse=True)
def heard_signals() -> None:
    """Children hear Ctrl-C, also if the shell, or a part of a worker called by a test, made this process deaf."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
