"""Trying a call again that costs nothing: reading, listing, asking for the balance."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from random import Random
from typing import TypeVar

from krea_async.control.backoff import RetryPolicy
from krea_async.errors import KreaError

log = logging.getLogger(__name__)

T = TypeVar("T")


async def retrying(call: Callable[[], Awaitable[T]], policy: RetryPolicy, rng: Random) -> T:
    """What `call` returns, tried again as `policy` says. Raises the last try's error."""
    failures = 0
    while True:
        try:
            return await call()
        except KreaError as error:
            failures += 1
            if policy.gives_up(failures, error):
                raise
            wait_s = policy.wait_s(failures, rng, error.retry_after_s)
            log.info("%s; try %d in %.1f s", error, failures + 1, wait_s)
            await asyncio.sleep(wait_s)
