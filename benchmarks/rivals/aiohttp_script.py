"""The usual aiohttp script: a semaphore held from the submission to the file, tenacity's backoff around every call."""

import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

POLL_EVERY_S = 2.0

retried = AsyncRetrying(
    wait=wait_random_exponential(max=60),
    stop=stop_after_attempt(10),
    retry=retry_if_exception_type((aiohttp.ClientError, TimeoutError)),
    reraise=True,
)


async def render(url: str, key: str, prompts: Mapping[Path, str], concurrency: int) -> None:
    """Every prompt, `concurrency` at a time."""
    places = asyncio.Semaphore(concurrency)

    async def ask(method: str, path: str, body: object = None) -> Any:  # noqa: ANN401 - JSON
        async with api.request(method, f"{url}/v1{path}", json=body) as reply:
            reply.raise_for_status()
            return await reply.json()

    async def fetch(link: str) -> bytes:
        async with images.get(link) as reply:
            reply.raise_for_status()
            return await reply.read()

    call, download = retried.wraps(ask), retried.wraps(fetch)

    async def generate(prompt: str, path: Path) -> None:
        task: Any = await call("POST", "/images/generations", {"model": "krea-2-turbo", "prompt": prompt})
        while task["status"] in {"pending", "processing"}:
            await asyncio.sleep(POLL_EVERY_S)
            task = await call("GET", f"/tasks/{task['id']}")
        if task["status"] != "completed":
            raise ValueError(f"the task ended as {task['status']}")
        path.write_bytes(await download(task["results"][0]))  # noqa: ASYNC240 - as scripts do

    async def one(path: Path) -> None:
        async with places:
            try:
                await generate(prompts[path], path)
            except (aiohttp.ClientError, TimeoutError, ValueError, KeyError) as error:
                print(f"{path.name}: {error}", file=sys.stderr)

    headers = {"Authorization": f"Bearer {key}"}
    async with aiohttp.ClientSession(headers=headers) as api, aiohttp.ClientSession() as images:
        await asyncio.gather(*map(one, prompts))
