"""Fixtures for our users' tests: a sandbox that answers whatever they test, sync or async, in any event loop.

Opt in with `pytest_plugins = ["krea_async.sandbox.pytest_plugin"]` in a conftest.py. The sandbox runs on a loop of its
own in a background thread, so it needs no async test plugin and never shares a loop with the code under test.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal

from krea_async.sandbox.server import Sandbox
from krea_async.sandbox.settings import Durations

SandboxFactory = Callable[..., Sandbox]


@pytest.fixture
def krea_sandbox_factory() -> Iterator[SandboxFactory]:
    """A function that opens a `Sandbox` with the settings it is given; all are closed after the test.

    Tasks finish at once, unless `durations` says otherwise.
    """
    with ExitStack() as stack:
        portal = stack.enter_context(start_blocking_portal("asyncio"))

        def opened(**settings: Any) -> Sandbox:  # noqa: ANN401 - Sandbox's own
            sandbox = Sandbox(**{"durations": Durations.instant(), **settings})
            return stack.enter_context(portal.wrap_async_context_manager(sandbox))

        yield opened


@pytest.fixture
def krea_sandbox(krea_sandbox_factory: SandboxFactory) -> Sandbox:
    """An open `Sandbox` whose tasks finish at once."""
    return krea_sandbox_factory()


@pytest.fixture
def krea_sandbox_env(krea_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    """`krea_sandbox`, with EVOLINK_BASE_URL and EVOLINK_API_KEY leading there."""
    monkeypatch.setenv("EVOLINK_BASE_URL", krea_sandbox.url)
    monkeypatch.setenv("EVOLINK_API_KEY", krea_sandbox.key)
    return krea_sandbox
