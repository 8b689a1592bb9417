"""The loop around AsyncOpenAI, as the gateway looks like the Images API: its client, its retries, a look every 2 s.

`images.generate` knows nothing of tasks, so the low-level `post` and `get` take its place.
"""

import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx2
from openai import AsyncOpenAI, OpenAIError

POLL_EVERY_S = 2.0


async def render(url: str, key: str, prompts: Mapping[Path, str], concurrency: int) -> None:
    """Every prompt, `concurrency` at a time."""
    places = asyncio.Semaphore(concurrency)

    async def generate(prompt: str, path: Path) -> None:
        body = {"model": "krea-2-turbo", "prompt": prompt}
        task: Any = await client.post("/images/generations", cast_to=object, body=body)
        while task["status"] in {"pending", "processing"}:
            await asyncio.sleep(POLL_EVERY_S)
            task = await client.get(f"/tasks/{task['id']}", cast_to=object)
        if task["status"] != "completed":
            raise ValueError(f"the task ended as {task['status']}")
        image = await images.get(task["results"][0])
        image.raise_for_status()
        path.write_bytes(image.content)  # noqa: ASYNC240 - as scripts do

    async def one(path: Path) -> None:
        async with places:
            try:
                await generate(prompts[path], path)
            except (OpenAIError, httpx2.HTTPError, ValueError, TypeError, KeyError) as error:
                print(f"{path.name}: {error}", file=sys.stderr)

    async with AsyncOpenAI(api_key=key, base_url=f"{url}/v1") as client, httpx2.AsyncClient() as images:
        await asyncio.gather(*map(one, prompts))
