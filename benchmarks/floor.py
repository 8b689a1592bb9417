"""The floor: the least that a client of this API can do. One POST, batched reads, one GET per picture, no care taken.

No error is handled, so nobody should use it. It is what `krea_async` is measured against: the cost of the work itself.
"""

import asyncio
from pathlib import Path
from typing import Any

import aiohttp

BATCH_IDS = 50
POLL_EVERY_S = 1.0


async def render(url: str, key: str, prompts: list[str], directory: Path, concurrency: int) -> int:
    """Save a picture of every prompt; returns the number of API requests."""
    requests = 0
    waiting: dict[str, asyncio.Future[str]] = {}
    places = asyncio.Semaphore(concurrency)
    headers = {"Authorization": f"Bearer {key}"}

    async def one(index: int, prompt: str) -> None:
        nonlocal requests
        async with places:
            requests += 1
            async with api.post(
                f"{url}/v1/images/generations", json={"model": "krea-2-turbo", "prompt": prompt}
            ) as reply:
                task_id = (await reply.json())["id"]
            finished = waiting[task_id] = asyncio.get_running_loop().create_future()
            async with images.get(await finished) as reply:
                data = await reply.read()
            (directory / f"{index}.png").write_bytes(data)

    async def poll() -> None:
        nonlocal requests
        while True:
            await asyncio.sleep(POLL_EVERY_S)
            ids = list(waiting)
            for start in range(0, len(ids), BATCH_IDS):
                requests += 1
                body: Any = {"task_ids": ids[start : start + BATCH_IDS]}
                async with api.post(f"{url}/v1/tasks/batch", json=body) as reply:
                    for task in (await reply.json())["data"]:
                        if task["status"] == "completed":
                            waiting.pop(task["id"]).set_result(task["results"][0])

    async with aiohttp.ClientSession(headers=headers) as api, aiohttp.ClientSession() as images:
        poller = asyncio.create_task(poll())
        await asyncio.gather(*(one(index, prompt) for index, prompt in enumerate(prompts)))
        poller.cancel()
    return requests
