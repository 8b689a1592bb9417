"""The FastAPI example in a real uvicorn: pictures now, orders with their progress, restarts, refusals, SIGTERM."""

import json
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest
from processes import assert_paid_once, serving
from until import until, until_tasks

from krea_async.sandbox import Durations, Faults, Sandbox

pytestmark = pytest.mark.anyio

FOX = {"prompt": "a fox in the snow"}


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(30)) as http:
        yield http


def saved(directory: Path) -> set[str]:
    """The names of the pictures that are there, without their extensions."""
    return {path.stem for path in directory.glob("pictures/*.png")}


async def events_of(http: aiohttp.ClientSession, url: str) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """The server-sent events of an order as they come."""
    event = ""
    async with http.get(url) as reply:
        assert reply.status == 200
        assert reply.content_type == "text/event-stream"
        async for line in reply.content:
            name, _, value = line.decode().strip().partition(": ")
            if name == "event":
                event = value
            elif name == "data":
                yield event, json.loads(value)


async def test_a_picture_is_awaited(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    async with Sandbox(durations=Durations.instant()) as sandbox, serving(sandbox, tmp_path) as (_, url):
        async with http.post(f"{url}/pictures", json=FOX) as reply:
            assert reply.status == 200
            assert reply.content_type == "image/png"
            picture = await reply.read()
        (task,) = sandbox.ledger.tasks.values()
        assert sha256(picture).hexdigest() == task.sha256
        assert_paid_once(sandbox, 1)


async def test_an_order_tells_its_progress_and_then_has_its_picture(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    async with Sandbox(durations=Durations.fixed(2.0)) as sandbox, serving(sandbox, tmp_path) as (_, url):
        async with http.post(f"{url}/orders", json=FOX) as reply:
            assert reply.status == 202
            order = await reply.json()
        (task,) = sandbox.ledger.tasks.values()
        assert order["task_id"] == task.id
        async with http.get(f"{url}/orders/{task.id}") as reply:
            assert reply.status == 404  # not yet
        told = [event async for event in events_of(http, url + order["events"])]
        assert told[-1] == ("saved", {"picture": f"/orders/{task.id}"})
        percents = [data["percent"] for event, data in told if event == "progress"]
        assert percents == sorted({*percents})
        assert percents[0] < 100
        async with http.get(url + told[-1][1]["picture"]) as reply:
            assert sha256(await reply.read()).hexdigest() == task.sha256
        assert [event async for event in events_of(http, url + order["events"])] == told[-1:]
        assert_paid_once(sandbox, 1)


async def test_callbacks_arrive_at_the_same_service(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    """What is mounted takes them; nobody else is told that there is such a place."""
    async with (
        Sandbox(durations=Durations.fixed(1.0), allow_local_callbacks=True) as sandbox,
        serving(sandbox, tmp_path, callbacks=True) as (_, url),
    ):
        async with http.post(f"{url}/pictures", json=FOX) as reply:
            assert reply.status == 200
        await until(lambda: sandbox.ledger.callbacks["delivered"])
        assert sandbox.ledger.callbacks == {"tries": 1, "delivered": 1}
        async with http.post(f"{url}/callbacks/{'0' * 32}", json={"id": "task-unified-1-forged"}) as reply:
            assert reply.status == 404
        assert_paid_once(sandbox, 1)


async def test_an_order_outlives_a_service_that_is_killed(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    async with Sandbox(durations=Durations.fixed(2.0)) as sandbox:
        async with serving(sandbox, tmp_path) as (process, url):
            async with http.post(f"{url}/orders", json=FOX) as reply:
                order = await reply.json()
            process.kill()
        async with serving(sandbox, tmp_path) as (_, url):
            told = [event async for event in events_of(http, url + order["events"])]
            assert told[-1][0] == "saved"
            assert_paid_once(sandbox, 1)
            (task,) = sandbox.ledger.tasks.values()
            async with http.get(url + told[-1][1]["picture"]) as reply:
                assert sha256(await reply.read()).hexdigest() == task.sha256


async def test_a_service_that_is_told_to_end_saves_its_orders(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    async with (
        Sandbox(durations=Durations.fixed(1.5)) as sandbox,
        serving(sandbox, tmp_path) as (process, url),
    ):
        for number in range(5):
            async with http.post(f"{url}/orders", json={"prompt": f"fox {number}"}) as reply:
                assert reply.status == 202
        await process.terminate(within_s=20)
        assert saved(tmp_path) == {*sandbox.ledger.tasks}
        assert_paid_once(sandbox, 5)


async def test_a_caller_who_goes_away_leaves_a_picture_that_is_saved(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    async with Sandbox(durations=Durations.fixed(1.0)) as sandbox, serving(sandbox, tmp_path) as (process, url):
        async with anyio.create_task_group() as calls:
            calls.start_soon(_post, http, f"{url}/pictures")
            await until_tasks(sandbox, 1, within_s=30)
            calls.cancel_scope.cancel()
        await process.terminate(within_s=20)
        assert len(saved(tmp_path)) == 1
        assert_paid_once(sandbox, 1)


async def _post(http: aiohttp.ClientSession, url: str) -> None:
    await (await http.post(url, json=FOX)).read()


async def test_what_cannot_be_made_is_told_as_such(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    async with Sandbox(durations=Durations.instant()) as sandbox, serving(sandbox, tmp_path) as (_, url):
        async with http.post(f"{url}/pictures", json={"prompt": "a fox", "size": "16:10"}) as reply:
            assert reply.status == 422
            assert (await reply.json())["charged"] == "no"
        for strange in ("task-unified-..%2F..%2Fetc", "passwd"):
            async with http.get(f"{url}/orders/{strange}/events") as reply:
                assert reply.status in {404, 422}
        told = [event async for event in events_of(http, f"{url}/orders/task-unified-1751280000-unknown1/events")]
        assert told[-1] == ("failed", {"error": "TaskNotFoundError"})
        sandbox.faults = Faults(fail={"content_policy_violation": 1.0})
        async with http.post(f"{url}/pictures", json=FOX) as reply:
            assert reply.status == 422
            assert (await reply.json())["task_id"] in sandbox.ledger.tasks
        async with http.get(f"{url}/ready") as reply:
            assert reply.status == 200
            assert await reply.json() == {"waiting": 0, "in_flight": 0}
