"""Adaptive pacing as botocore does it, with its own rate limiter: every attempt of every request waits for a token.

A 429 bends the common rate (a cubic curve in time), and the request itself backs off and tries again, up to ten times,
as `Config(retries={"mode": "adaptive", "max_attempts": 10})` would. The key of a request stays the same over its tries.
"""

import asyncio
import json
import random
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import aiohttp
from botocore.retries import adaptive, bucket, throttling

POLL_EVERY_S = 2.0
MAX_ATTEMPTS = 10
MAX_BACKOFF_S = 20.0
FIRST_BACKOFF_S = {True: 1.0, False: 0.05}  # after a 429, after anything else: botocore's own


class Detector:
    """What botocore's limiter asks whether an answer was a refusal."""

    def is_throttling_error(self, *, refused: bool) -> bool:
        """As the caller says."""
        return refused


def rate_limiter() -> Any:  # noqa: ANN401 - botocore has no types
    """The limiter of botocore, put together as its `register_retry_handler` does."""
    clock = bucket.Clock()
    return adaptive.ClientRateLimiter(
        rate_adjustor=throttling.CubicCalculator(starting_max_rate=0, start_time=time.time()),
        rate_clocker=adaptive.RateClocker(clock),
        token_bucket=bucket.TokenBucket(max_rate=1, clock=clock),
        throttling_detector=Detector(),
        clock=clock,
    )


async def render(url: str, key: str, prompts: Mapping[Path, str], concurrency: int) -> None:
    """Every prompt, `concurrency` at a time."""
    places = asyncio.Semaphore(concurrency)
    limiter = rate_limiter()

    async def attempt(http: aiohttp.ClientSession, method: str, link: str, **options: Any) -> bytes:  # noqa: ANN401
        async with http.request(method, link, **options) as reply:
            reply.raise_for_status()
            return await reply.read()

    async def paced(*request: Any, **options: Any) -> bytes:  # noqa: ANN401
        await asyncio.to_thread(limiter.on_sending_request, None)
        refused = False
        try:
            return await attempt(*request, **options)
        except aiohttp.ClientResponseError as error:
            refused = error.status == 429
            raise
        finally:
            limiter.on_receiving_response(refused=refused)

    async def retried(how: Callable[..., Awaitable[bytes]], *request: Any, **options: Any) -> bytes:  # noqa: ANN401
        for number in range(MAX_ATTEMPTS - 1):
            try:
                return await how(*request, **options)
            except (aiohttp.ClientError, TimeoutError) as error:
                refused = getattr(error, "status", None) == 429
            await asyncio.sleep(random.random() * min(FIRST_BACKOFF_S[refused] * 2**number, MAX_BACKOFF_S))
        return await how(*request, **options)

    async def generate(prompt: str, path: Path) -> None:
        body = {"model": "krea-2-turbo", "prompt": prompt}
        once = {"Idempotency-Key": str(uuid.uuid4())}
        task = json.loads(await retried(paced, api, "POST", f"{url}/v1/images/generations", json=body, headers=once))
        while task["status"] in {"pending", "processing"}:
            await asyncio.sleep(POLL_EVERY_S)
            task = json.loads(await retried(attempt, api, "GET", f"{url}/v1/tasks/{task['id']}"))
        if task["status"] != "completed":
            raise ValueError(f"the task ended as {task['status']}")
        picture = await retried(attempt, images, "GET", task["results"][0])
        path.write_bytes(picture)  # noqa: ASYNC240 - as scripts do

    async def one(path: Path) -> None:
        async with places:
            try:
                await generate(prompts[path], path)
            except (aiohttp.ClientError, TimeoutError, ValueError, KeyError) as error:
                print(f"{path.name}: {error}", file=sys.stderr)

    headers = {"Authorization": f"Bearer {key}"}
    async with aiohttp.ClientSession(headers=headers) as api, aiohttp.ClientSession() as images:
        await asyncio.gather(*map(one, prompts))
