import json
from collections.abc import AsyncIterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from aiohttp import web
from anyio.streams.memory import MemoryObjectReceiveStream
from sandbox_client import opened
from until import until

from krea_async.sandbox import Durations

pytestmark = pytest.mark.anyio


class Listener:
    """Receives callbacks and answers them with `statuses` in turn, then with 204."""

    def __init__(self) -> None:
        self.url = ""
        self.statuses: list[int] = []
        self._send, self.received = anyio.create_memory_object_stream[Any](100)

    async def __call__(self, request: web.BaseRequest) -> web.Response:
        assert request.headers["Content-Type"] == "application/json"
        self._send.send_nowait((await request.text(), request.headers))
        return web.Response(status=self.statuses.pop(0) if self.statuses else 204)

    def close(self) -> None:
        self._send.close()
        self.received.close()


@pytest.fixture
async def listener() -> AsyncIterator[Listener]:
    ours = Listener()
    runner = web.ServerRunner(web.Server(ours, access_log=None))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    ours.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    yield ours
    await runner.cleanup()
    ours.close()


async def received(stream: MemoryObjectReceiveStream[Any]) -> Any:
    with anyio.fail_after(5):
        return await stream.receive()


LOCAL: dict[str, Any] = {"allow_local_callbacks": True, "callback_waits_s": (0.01, 0.02, 0.04)}


@pytest.mark.parametrize("end", ["ok", "fail", "cancelled"])
async def test_a_finished_task_is_posted_as_its_query_shows_it(listener: Listener, end: str) -> None:
    async with opened(durations=Durations.fixed(0.05), **LOCAL) as (sandbox, client):
        sandbox.script("create", end)
        task_id = await client.made(callback_url=listener.url)
        text, headers = await received(listener.received)
        shown, posted = (await client.read(task_id)).json, json.loads(text)
        links = shown.pop("results", []), posted.pop("results", [])
        assert posted == shown
        assert len(links[0]) == len(links[1]) == (1 if end == "ok" else 0)
        assert "Authorization" not in headers


async def test_a_refused_callback_is_tried_again_three_times(listener: Listener) -> None:
    async with opened(**LOCAL) as (sandbox, client):
        listener.statuses = [500, 302, 404]
        await client.made(callback_url=listener.url)
        texts = [(await received(listener.received))[0] for _ in range(4)]
        assert len(set(texts)) == 1
        await until(lambda: sandbox.ledger.callbacks["delivered"] == 1, within_s=5)
        assert sandbox.ledger.callbacks == {"tries": 4, "delivered": 1}


async def test_a_callback_that_nobody_takes_is_given_up(listener: Listener) -> None:
    async with opened(**LOCAL) as (sandbox, client):
        listener.statuses = [500] * 4
        await client.made(callback_url=listener.url)
        await client.made(callback_url="http://127.0.0.1:1/nobody")
        await until(lambda: sandbox.ledger.callbacks["failed"] == 2, within_s=5)
        assert sandbox.ledger.callbacks == {"tries": 8, "failed": 2}


async def test_a_waiting_callback_ends_with_the_sandbox(listener: Listener) -> None:
    with anyio.fail_after(2):
        async with opened(durations=Durations.fixed(600.0), **LOCAL) as (_, client):
            await client.made(callback_url=listener.url)
    with pytest.raises(anyio.WouldBlock):
        listener.received.receive_nowait()


async def test_local_callbacks_must_be_allowed(listener: Listener) -> None:
    async with opened() as (sandbox, client):
        assert (await client.create(callback_url=listener.url)).status == 400
        sandbox.settings.allow_local_callbacks = True
        assert (await client.create(callback_url=listener.url)).status == 200
        assert (await client.create(callback_url="ftp://127.0.0.1/")).status == 400
        await received(listener.received)
