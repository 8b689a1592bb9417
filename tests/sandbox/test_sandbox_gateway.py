import io
import json
import re
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from sandbox_client import KEY_A, KEY_B, FakeClock, opened
from until import until

from krea_async.sandbox import Durations, Faults, Limits

pytestmark = pytest.mark.anyio

GENERATIONS = "/v1/images/generations"


async def test_a_task_is_created_pending_and_read_to_its_end() -> None:
    clock = FakeClock()
    async with opened(clock=clock, durations=Durations(queue_s=2, run_s=10, sigma=0)) as (sandbox, client):
        made = await client.create("a fox", size="16:9", quality="2K", seed=7, nsfw_check=False)
        assert (made.status, made.headers["Content-Type"]) == (200, "application/json")
        task = made.json
        assert re.fullmatch(r"task-unified-1750000000-[a-z0-9]{8}", task["id"])
        assert task == {
            "created": 1_750_000_000,
            "id": task["id"],
            "model": "krea-2-turbo",
            "object": "image.generation.task",
            "progress": 0,
            "status": "pending",
            "task_info": {"can_cancel": False, "estimated_time": 12},
            "type": "image",
            "usage": {"billing_rule": "per_call", "credits_reserved": 1.8, "user_group": "default"},
        }
        clock.now += 7
        running = (await client.read(task["id"])).json
        assert sandbox.ledger.status(task["id"]) == "processing"
        assert running == {**task, "status": "processing", "progress": 50}
        clock.now += 5
        done = (await client.read(task["id"])).json
        assert (done["status"], done["progress"], done["duration"]) == ("completed", 100, 12.0)
        assert done["usage"] == {**task["usage"], "credits_used": 1.8}
        assert len(done["results"]) == 1
        assert done["results"][0].startswith(sandbox.image_url)


async def test_an_instant_task_is_pending_in_its_create_and_complete_at_its_first_read() -> None:
    async with opened() as (_, client):
        made = await client.create()
        assert made.json["status"] == "pending"
        assert (await client.read(made.json["id"])).json["status"] == "completed"


async def test_every_reply_has_a_request_id_of_its_own() -> None:
    async with opened() as (sandbox, client):
        answers = [await client.create(), await client.create(""), await client.api("GET", "/v1/nothing")]
        answers.append(await client.send("GET", sandbox.image_url + "/images/x.png"))
        assert len({answer.headers["x-request-id"] for answer in answers}) == 4


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": "  "}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"model": "krea-3"}, "model"),
        ({"model": None}, "model"),
        ({"size": "7:5"}, "size"),
        ({"size": ["1:1"]}, "size"),
        ({"quality": "4K"}, "quality"),
        ({"seed": -1}, "seed"),
        ({"seed": 1_048_577}, "seed"),
        ({"seed": True}, "seed"),
        ({"seed": "7"}, "seed"),
        ({"nsfw_check": "yes"}, "nsfw_check"),
        ({"callback_url": "http://example.com/x"}, "callback_url"),
        ({"callback_url": "https://127.0.0.1/x"}, "callback_url"),
        ({"callback_url": "https://example.com/" + "x" * 2048}, "callback_url"),
    ],
)
async def test_a_bad_field_is_refused_by_name_and_costs_nothing(body: dict[str, Any], field: str) -> None:
    async with opened() as (sandbox, client):
        answer = await client.create(**{"prompt": "a fox", **body})
        assert (answer.status, answer.error["code"]) == (400, "invalid_request")
        assert field in answer.error["message"]
        assert not sandbox.ledger.tasks


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b'"x"', b"\xff"])
async def test_a_body_that_is_no_json_object_is_refused(body: bytes) -> None:
    async with opened() as (_, client):
        answer = await client.api("POST", GENERATIONS, data=body)
        assert (answer.status, answer.error["code"]) == (400, "invalid_request")


async def test_a_body_over_a_mebibyte_is_refused() -> None:
    async with opened() as (sandbox, client):
        assert (await client.api("POST", GENERATIONS, data=io.BytesIO(b" " * (2 << 20)))).status == 413
        assert (await client.create("x" * 900_000)).status == 200
        assert len(sandbox.ledger.tasks) == 1


@pytest.mark.parametrize("header", [None, "sk-evo-sandbox", "Bearer", "Bearer wrong", "Basic sk-evo-sandbox"])
async def test_only_the_key_opens_the_api(header: str | None) -> None:
    async with opened() as (sandbox, client):
        headers = {} if header is None else {"Authorization": header}
        for method, path in (("POST", GENERATIONS), ("GET", "/v1/credits"), ("GET", "/v1/tasks/task-unified-1-a")):
            answer = await client.send(method, sandbox.url + path, headers=headers)
            assert (answer.status, answer.error["code"]) == (401, "unauthorized")


async def test_without_a_set_key_any_opens_but_none_does_not() -> None:
    async with opened(key=None) as (sandbox, client):
        assert (await client.api("GET", "/v1/credits")).status == 200
        headers = {"Authorization": "Bearer anything"}
        assert (await client.send("GET", sandbox.url + "/v1/credits", headers=headers)).status == 200
        assert (await client.send("GET", sandbox.url + "/v1/credits")).status == 401


async def test_the_balance_goes_down_and_ends_with_402() -> None:
    async with opened(credits=2.25) as (_, client):
        await client.made(quality="2K")
        balance = (await client.api("GET", "/v1/credits")).json
        assert balance == {
            "success": True,
            "message": "",
            "data": {
                "token": {"remaining_credits": 0.45, "unlimited_credits": False, "used_credits": 1.8},
                "user": {"remaining_credits": 0.45, "used_credits": 1.8},
            },
        }
        refused = await client.create(quality="2K")
        assert (refused.status, refused.error["code"]) == (402, "insufficient_quota")
        assert (await client.create()).status == 200


async def test_an_unlimited_account_says_so() -> None:
    async with opened(credits=None) as (_, client):
        token = (await client.api("GET", "/v1/credits")).json["data"]["token"]
        assert token == {"remaining_credits": 0, "unlimited_credits": True, "used_credits": 0.0}


async def test_a_denied_model_is_403() -> None:
    async with opened(faults=Faults(deny_model=True)) as (sandbox, client):
        answer = await client.create()
        assert (answer.status, answer.error["code"]) == (403, "model_access_denied")
        sandbox.faults = Faults()
        assert (await client.create()).status == 200


async def test_unknown_tasks_and_bad_ids() -> None:
    async with opened() as (sandbox, client):
        assert (await client.read("task-unified-1-aaaaaaaa")).status == 404
        bad = await client.read("42")
        assert (bad.status, bad.error["code"]) == (400, "invalid_task_id")
        task_id = await client.made()
        sandbox.forget(task_id)
        assert (await client.read(task_id)).status == 404
        assert (await client.batch([task_id])).json == {"data": []}
        assert task_id in sandbox.ledger.tasks


async def test_unknown_routes_are_404() -> None:
    async with opened() as (_, client):
        for method, path in (("GET", GENERATIONS), ("DELETE", "/v1/tasks/task-unified-1-a"), ("GET", "/")):
            assert (await client.api(method, path)).error["code"] == "not_found"


async def test_a_batch_reads_up_to_50_and_leaves_unknown_ones_out() -> None:
    async with opened() as (sandbox, client):
        ids = [await client.made(f"fox {number}") for number in range(3)]
        data = (await client.batch([ids[2], "task-unified-1-unknown0", ids[0]])).json["data"]
        assert [task["id"] for task in data] == [ids[2], ids[0]]
        assert all(task["results"] for task in data)
        assert (await client.batch(["x"] * 50)).status == 200
        for wrong in (["x"] * 51, [], "x", [1], None):
            assert (await client.batch(wrong)).status == 400
        sandbox.settings.batch_route = False
        assert (await client.batch(ids)).status == 404


async def test_the_list_is_newest_first_in_pages_and_filtered() -> None:
    clock = FakeClock()
    async with opened(clock=clock, durations=Durations.fixed(10)) as (sandbox, client):
        ids = [await client.made(f"fox {number}") for number in range(5)]
        clock.now += 20
        sandbox.script("create", ("fail", "service_error"))
        ids.append(await client.made("late"))

        async def listed(query: str) -> Any:
            return (await client.api("GET", "/v1/tasks" + query)).json

        page = await listed("?page=2&page_size=4")
        assert [task["id"] for task in page["data"]] == [ids[1], ids[0]]
        assert (page["total"], page["page"], page["page_size"]) == (6, 2, 4)
        assert page["data"][0] == {
            "id": ids[1],
            "status": "completed",
            "model": "krea-2-turbo",
            "type": "image",
            "progress": 100,
            "created_at": 1_750_000_000,
            "has_results": True,
            "credits_used": 0.45,
        }
        assert [task["id"] for task in (await listed("?status=processing"))["data"]] == [ids[5]]
        assert (await listed("?status=failed"))["total"] == 0
        clock.now += 20
        assert (await listed("?status=failed&type=image&model=krea-2-turbo"))["total"] == 1
        assert (await listed("?type=video"))["total"] == 0
        for wrong in ("?page_size=51", "?page=0", "?page=x"):
            assert (await client.api("GET", "/v1/tasks" + wrong)).status == 400
        sandbox.settings.list_route = False
        assert (await client.api("GET", "/v1/tasks")).status == 404


async def test_the_same_key_and_body_give_the_first_task_back() -> None:
    async with opened() as (sandbox, client):
        first = await client.create("a fox", key=KEY_A)
        again = await client.create("a fox", key=KEY_A)
        assert (again.status, again.body) == (200, first.body)
        assert again.headers["idempotency-replayed"] == "true"
        assert "idempotency-replayed" not in first.headers
        assert (await client.made("a fox", key=KEY_B)) != first.json["id"]
        assert (await client.made("a fox")) != (await client.made("a fox"))
        assert sandbox.ledger.replays == 1
        assert sandbox.ledger.charges_by_key == {KEY_A: 1, KEY_B: 1, None: 2}


async def test_the_same_key_with_another_body_conflicts() -> None:
    async with opened() as (sandbox, client):
        await client.made("a fox", key=KEY_A)
        answer = await client.create("an owl", key=KEY_A)
        assert (answer.status, answer.error["code"]) == (409, "idempotency_conflict")
        assert len(sandbox.ledger.tasks) == 1


async def test_a_second_try_while_the_first_is_in_hand_is_told_to_wait() -> None:
    """The first one's client has left; its task is made all the same, and the key leads there."""
    async with opened() as (sandbox, client):
        sandbox.script("create", ("slow", 2.0))
        async with anyio.create_task_group() as leaving:
            leaving.start_soon(partial(client.create, key=KEY_A))
            await until(lambda: sandbox.ledger.requests["create"])
            leaving.cancel_scope.cancel()
        second = await client.create(key=KEY_A)
        assert (second.status, second.error["code"]) == (409, "paid_outcome_unknown")
        with anyio.fail_after(20):
            while (third := await client.create(key=KEY_A)).status == 409:
                await anyio.lowlevel.checkpoint()
        assert third.headers["idempotency-replayed"] == "true"
        assert len(sandbox.ledger.tasks) == 1


@pytest.mark.parametrize("key", ["short", "x" * 97, "x" * 15 + " x", "ü" * 16, ""])
async def test_a_malformed_key_is_refused(key: str) -> None:
    async with opened() as (sandbox, client):
        answer = await client.create(key=key)
        assert (answer.status, answer.error["code"]) == (400, "invalid_request")
        assert "Idempotency-Key" in answer.error["message"]
        assert not sandbox.ledger.tasks


async def test_without_idempotency_every_create_pays() -> None:
    async with opened(idempotency=False) as (sandbox, client):
        assert (await client.made(key=KEY_A)) != (await client.made(key=KEY_A))
        assert sandbox.ledger.replays == 0
        assert sandbox.ledger.duplicates == {("a fox", "1:1", "1K", None): 2}


@pytest.mark.parametrize(
    ("style", "header", "words"),
    [
        (None, None, "Too many requests"),
        ("seconds", "8", "Too many requests"),
        ("fraction", "7.500", "Too many requests"),
        ("text", None, "retry after 8 seconds"),
    ],
)
async def test_a_429_says_when_to_come_back(style: Any, header: str | None, words: str) -> None:
    clock = FakeClock(1_750_000_002.5)
    limits = Limits(per_window=(1, 10.0), retry_after=style)
    async with opened(clock=clock, limits=limits) as (sandbox, client):
        await client.made()
        refused = await client.create()
        assert (refused.status, refused.error["code"]) == (429, "rate_limit_exceeded")
        assert refused.headers.get("Retry-After") == header
        assert words in refused.error["message"]
        assert (await client.api("GET", "/v1/credits")).status == 200
        clock.now += 7.5
        assert (await client.create()).status == 200
        assert sandbox.ledger.rate_limited == 1


async def test_a_429_may_announce_a_date_or_a_constant() -> None:
    clock = FakeClock(1_750_000_001.0)
    async with opened(clock=clock, limits=Limits(per_window=(1, 10.0), retry_after="date")) as (sandbox, client):
        await client.made()
        date = parsedate_to_datetime((await client.create()).headers["Retry-After"])
        assert date.timestamp() == 1_750_000_010
        sandbox.limits = Limits(per_second=0.001, burst=1, retry_after="seconds", retry_after_s=2.0)
        await client.made()
        assert (await client.create()).headers["Retry-After"] == "2"


async def test_the_limit_of_unfinished_tasks_frees_a_place_when_one_finishes() -> None:
    clock = FakeClock()
    async with opened(clock=clock, durations=Durations.fixed(10), limits=Limits(unfinished=2)) as (sandbox, client):
        await client.made(key=KEY_A)
        clock.now += 5
        await client.made()
        refused = await client.create()
        assert (refused.status, refused.error["message"]) == (429, "Too many unfinished tasks")
        assert (await client.create(key=KEY_A)).headers["idempotency-replayed"] == "true"
        clock.now += 5
        assert (await client.create()).status == 200
        assert (await client.create()).status == 429
        assert sandbox.ledger.max_unfinished == 2


async def test_limits_may_apply_to_reads() -> None:
    async with opened(limits=Limits(per_second=0.001, burst=1, routes={"read"})) as (_, client):
        task_id = await client.made()
        assert [(await client.read(task_id)).status for _ in range(2)] == [200, 429]
        assert (await client.create()).status == 200


async def test_a_failed_task_says_why_and_costs_nothing() -> None:
    async with opened(faults=Faults(fail={"content_policy_violation": 1.0})) as (sandbox, client):
        task = (await client.read(await client.made())).json
        assert task["status"] == "failed"
        assert task["error"]["code"] == "content_policy_violation"
        assert task["error"]["message"]
        assert task["usage"]["credits_used"] == 0.0
        assert "results" not in task
        sandbox.faults = Faults(cancelled=1.0)
        task = (await client.read(await client.made())).json
        assert (task["status"], "results" in task) == ("cancelled", False)
        assert sandbox.ledger.charged_credits == 0.0


async def test_the_ledger_is_served_as_json_without_a_key() -> None:
    async with opened() as (sandbox, client):
        task_id = await client.made("a fox", key=KEY_A, seed=7)
        picture = (await client.image(await client.link(task_id))).body
        await client.create("")
        answer = await client.send("GET", sandbox.url + "/sandbox/ledger")
        facts = answer.json
        task = facts.pop("tasks")[0]
        assert facts == json.loads(json.dumps(sandbox.ledger.as_json(with_tasks=False)))
        assert facts["requests"] == {"create": 2, "read": 1, "image": 1}
        assert facts["statuses"] == {"create 200": 1, "create 400": 1, "read 200": 1, "image 200": 1}
        assert (facts["charged_credits"], facts["duplicates"], facts["picture_bytes"]) == (0.45, [], len(picture))
        assert (task["id"], task["key"], task["seed"], task["seed_used"]) == (task_id, KEY_A, 7, 7)
        assert (task["status"], task["reads"], task["fetched"]) == ("completed", 1, 1)
        assert task["picture_bytes"] == len(picture)
        brief = await client.send("GET", sandbox.url + "/sandbox/ledger?tasks=0")
        assert brief.json == facts
