"""The plainest client of the sandbox: it sends what it is told, retries nothing, and shows what came back."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from attrs import frozen
from multidict import CIMultiDictProxy

from krea_async.sandbox import Durations, Sandbox

KEY_A = "a" * 16
KEY_B = "b" * 96


class FakeClock:
    """Unix seconds that move only when a test says so."""

    def __init__(self, now: float = 1_750_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@frozen
class Answer:
    status: int
    body: bytes
    headers: CIMultiDictProxy[str]

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = self.json["error"]
        return error


class Client:
    """One request for each call, on a connection of its own."""

    def __init__(self, sandbox: Sandbox, http: aiohttp.ClientSession) -> None:
        self.sandbox = sandbox
        self._http = http

    async def send(
        self, method: str, url: str, *, timeout_s: float = 5.0, headers: dict[str, str] | None = None, **more: Any
    ) -> Answer:
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        async with self._http.request(method, url, headers=headers, timeout=timeout, **more) as response:
            return Answer(response.status, await response.read(), response.headers)

    async def api(self, method: str, path: str, *, key: str | None = None, **more: Any) -> Answer:
        headers = {"Authorization": f"Bearer {self.sandbox.key}", **more.pop("headers", {})}
        if key is not None:
            headers["Idempotency-Key"] = key
        return await self.send(method, self.sandbox.url + path, headers=headers, **more)

    async def create(self, prompt: object = "a fox", *, key: str | None = None, **body: Any) -> Answer:
        more = {name: body.pop(name) for name in ("headers", "timeout_s") if name in body}
        wanted = {"model": "krea-2-turbo", "prompt": prompt, **body}
        return await self.api("POST", "/v1/images/generations", key=key, json=wanted, **more)

    async def made(self, prompt: str = "a fox", **body: Any) -> str:
        """The id of a new task."""
        answer = await self.create(prompt, **body)
        assert answer.status == 200, answer
        task_id: str = answer.json["id"]
        return task_id

    async def read(self, task_id: str, **more: Any) -> Answer:
        return await self.api("GET", f"/v1/tasks/{task_id}", **more)

    async def batch(self, ids: object, **more: Any) -> Answer:
        return await self.api("POST", "/v1/tasks/batch", json={"task_ids": ids}, **more)

    async def link(self, task_id: str) -> str:
        """A fresh link to the picture of a completed task."""
        link: str = (await self.read(task_id)).json["results"][0]
        return link

    async def image(self, link: str, **headers: str) -> Answer:
        return await self.send("GET", link, headers={name.replace("_", "-"): text for name, text in headers.items()})


@asynccontextmanager
async def opened(**settings: Any) -> AsyncIterator[tuple[Sandbox, Client]]:
    """A sandbox whose tasks finish at once (unless told otherwise), and a client of it."""
    settings = {"durations": Durations.instant(), **settings}
    connector = aiohttp.TCPConnector(force_close=True)
    async with Sandbox(**settings) as sandbox, aiohttp.ClientSession(connector=connector) as http:
        yield sandbox, Client(sandbox, http)
