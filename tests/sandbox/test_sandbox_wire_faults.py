"""Each fault of the API's routes does to the client, and to the account, what it says."""

import json
import time

import aiohttp
import pytest
from sandbox_client import KEY_A, opened

from krea_async.sandbox import Fault, Faults

pytestmark = pytest.mark.anyio


async def test_drop_before_makes_nothing() -> None:
    async with opened() as (sandbox, client):
        sandbox.script("create", "drop_before")
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await client.create(key=KEY_A)
        assert not sandbox.ledger.tasks
        assert sandbox.ledger.statuses == {("create", 0): 1}
        assert "idempotency-replayed" not in (await client.create(key=KEY_A)).headers


async def test_drop_after_makes_the_task_and_loses_the_answer() -> None:
    async with opened() as (sandbox, client):
        sandbox.script("create", "drop_after")
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await client.create(key=KEY_A)
        assert len(sandbox.ledger.tasks) == 1
        answer = await client.create(key=KEY_A)
        assert answer.headers["idempotency-replayed"] == "true"
        assert sandbox.ledger.charges_by_key == {KEY_A: 1}


@pytest.mark.parametrize("status", [408, 429, 500, 503, 524])
async def test_a_scripted_status_has_the_documented_shape(status: int) -> None:
    async with opened() as (sandbox, client):
        sandbox.script("create", ("status", status), Fault("status", status=status, code="odd", retry_after="3"))
        first, second = await client.create(), await client.create()
        assert (first.status, set(first.error)) == (status, {"code", "message", "type"})
        assert (second.error["code"], second.headers["Retry-After"]) == ("odd", "3")
        assert not sandbox.ledger.tasks


async def test_a_scripted_text_is_sent_as_it_is() -> None:
    async with opened() as (sandbox, client):
        sandbox.script("read", Fault("status", status=404, text="no"), ("garbage", '{"status":"queued"}'))
        task_id = await client.made()
        assert (await client.read(task_id)).body == b"no"
        answer = await client.read(task_id)
        assert (answer.status, answer.json) == (200, {"status": "queued"})


async def test_errors_come_in_every_shape_that_was_seen_and_do_nothing() -> None:
    async with opened(faults=Faults(error=1.0)) as (sandbox, client):
        shapes, statuses = set(), set()
        for _ in range(60):
            answer = await client.create()
            statuses.add(answer.status)
            if answer.headers["Content-Type"].startswith("text/html"):
                shapes.add("html")
            else:
                error = answer.json.get("error", {})
                shapes.add(type(error["code"]).__name__ if error else "flat")
        assert shapes == {"html", "str", "int", "flat"}
        assert statuses == {500, 502, 503, 504}
        assert not sandbox.ledger.tasks


async def test_error_after_makes_the_task() -> None:
    async with opened() as (sandbox, client):
        sandbox.script("create", "error_after")
        assert (await client.create(key=KEY_A)).status >= 500
        assert (await client.create(key=KEY_A)).headers["idempotency-replayed"] == "true"
        assert len(sandbox.ledger.tasks) == 1


async def test_garbage_is_200_without_an_id_after_the_task_was_made() -> None:
    async with opened(faults=Faults(garbage=1.0)) as (sandbox, client):
        kinds = set()
        for _ in range(30):
            answer = await client.create()
            assert answer.status == 200
            try:
                assert "id" not in answer.json
                kinds.add("no id")
            except json.JSONDecodeError:
                kinds.add("html" if answer.body.startswith(b"<") else "cut")
        assert kinds == {"no id", "html", "cut"}
        assert len(sandbox.ledger.tasks) == 30


async def test_slow_is_late_and_whole() -> None:
    async with opened() as (sandbox, client):
        sandbox.script("create", ("slow", 0.2))
        began = time.perf_counter()
        assert (await client.create()).status == 200
        assert 0.19 < time.perf_counter() - began < 2


async def test_stalled_sends_half_and_then_nothing() -> None:
    async with opened() as (sandbox, client):
        sandbox.script("create", Fault("stalled", at_bytes=10))
        with pytest.raises(TimeoutError):
            await client.create(key=KEY_A, timeout_s=2.0)
        assert (await client.create(key=KEY_A)).headers["idempotency-replayed"] == "true"


async def test_a_stalled_connection_is_given_up_after_a_while() -> None:
    async with opened(faults=Faults(stall_s=0.1)) as (sandbox, client):
        sandbox.script("create", "stalled")
        with pytest.raises(aiohttp.ClientPayloadError):
            await client.create()


async def test_missing_ids_are_left_out_of_a_batch_only() -> None:
    async with opened(faults=Faults(missing=0.3)) as (sandbox, client):
        ids = [await client.made() for _ in range(50)]
        seen = {task["id"] for task in (await client.batch(ids)).json["data"]}
        assert 25 < len(seen) < 45
        assert (await client.read((set(ids) - seen).pop())).status == 200
        sandbox.faults = Faults()
        sandbox.script("batch", "missing")
        assert (await client.batch(ids)).json == {"data": []}
        assert len((await client.batch(ids)).json["data"]) == 50
        sandbox.script("read", "missing")
        assert [(await client.read(ids[0])).status for _ in range(2)] == [404, 200]


async def test_scripted_ends_apply_to_the_next_task_only() -> None:
    async with opened() as (sandbox, client):
        sandbox.script("create", ("fail", "resource_exhausted"), "cancelled")
        ids = [await client.made() for _ in range(3)]
        tasks = (await client.batch(ids)).json["data"]
        assert [task["status"] for task in tasks] == ["failed", "cancelled", "completed"]
        assert tasks[0]["error"]["code"] == "resource_exhausted"
