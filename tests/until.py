"""Waiting for what tells nobody: files, other processes, the sandbox's ledger. Asked again and again, for so long."""

from collections.abc import Awaitable, Callable
from inspect import isawaitable

import anyio

from krea_async.sandbox import Sandbox


async def until(condition: Callable[[], object | Awaitable[object]], *, within_s: float = 10.0) -> None:
    """Return when `condition()`, awaited if need be, is true. Raises TimeoutError after `within_s`."""
    with anyio.fail_after(within_s):
        while True:
            answer = condition()
            if await answer if isawaitable(answer) else answer:
                return
            await anyio.sleep(0.005)


async def until_tasks(sandbox: Sandbox, count: int, *, within_s: float = 20.0) -> None:
    """Return when the gateway has made so many tasks."""
    await until(lambda: len(sandbox.ledger.tasks) >= count, within_s=within_s)
