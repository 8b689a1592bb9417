"""What every test shares: asyncio, a patient hypothesis, a sandbox, and impatient sessions against it."""

import functools
import inspect
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, settings
from impatience import IMPATIENT

from krea_async import KreaSession
from krea_async.sandbox import Durations, Sandbox

sys.path.append(str(Path(__file__).parents[1]))  # for `benchmarks`; what is installed comes first

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell has it for what runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)  # and children would inherit it

pytest_plugins = ["krea_async.sandbox.pytest_plugin"]

settings.register_profile("calm", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("calm")


LONGEST_S = 240.0
"""Below pytest's own limit, which says nothing of what a task waits for, and ends the process."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """An asynchronous test that hangs is a failure that shows where it waits."""
    for item in items:
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
            item.obj = within_limit(item.obj)


def within_limit(test: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    @functools.wraps(test)
    async def limited(**fixtures: Any) -> None:
        with anyio.fail_after(LONGEST_S):
            await test(**fixtures)

    return limited


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    """A gateway whose tasks are finished at their first read; tests set the limits and faults they want."""
    async with Sandbox(durations=Durations.instant(), scenes=1) as sandbox:  # drawing takes time, and holds the GIL
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
