import hashlib
from io import BytesIO
from typing import Any

import aiohttp
import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sandbox_client import Client, FakeClock, opened

from krea_async.sandbox import Fault, Faults
from krea_async.sandbox.ranges import wanted

pytestmark = pytest.mark.anyio


async def fetched(client: Client, prompt: str = "a fox", **body: Any) -> bytes:
    answer = await client.image(await client.link(await client.made(prompt, **body)))
    assert (answer.status, answer.headers["Content-Type"]) == (200, "image/png")
    return answer.body


async def test_a_picture_is_the_ledgers_and_has_the_size_that_was_asked_for() -> None:
    async with opened() as (sandbox, client):
        task_id = await client.made(size="2:3", quality="2K")
        assert sandbox.ledger.tasks[task_id].sha256 is None
        body = (await client.image(await client.link(task_id))).body
        record = sandbox.ledger.tasks[task_id]
        assert (record.sha256, record.picture_bytes) == (hashlib.sha256(body).hexdigest(), len(body))
        assert Image.open(BytesIO(body)).size == (1664, 2496)
        assert await sandbox.picture(task_id) == body
        assert (record.fetched, sandbox.ledger.picture_bytes) == (1, len(body))


async def test_prompt_size_quality_and_seed_decide_the_picture() -> None:
    async with opened() as (_, client):
        first = await fetched(client, seed=7)
        assert first == await fetched(client, seed=7)
        others = [
            await fetched(client, seed=8),
            await fetched(client, "an owl", seed=7),
            await fetched(client, seed=7, size="4:3"),
            await fetched(client, seed=7, size="5:4"),  # of the same pixels as 4:3
            await fetched(client),
            await fetched(client, seed=0),
        ]
        assert len({first, *others}) == 7
    async with opened(seed=99) as (_, client):
        assert first == await fetched(client, seed=7)


async def test_scenes_limit_the_drawings_but_every_file_is_its_own() -> None:
    async with opened(scenes=2) as (_, client):
        files = [await fetched(client, f"fox {number}") for number in range(12)]
        assert len(set(files)) == 12
        assert len({Image.open(BytesIO(file)).tobytes() for file in files}) == 2


async def test_pictures_are_padded_to_the_byte() -> None:
    async with opened(picture_bytes=500_000, scenes=1) as (_, client):
        one, two = await fetched(client), await fetched(client)
        assert (len(one), len(two)) == (500_000, 500_000)
        assert one != two
        Image.open(BytesIO(one)).verify()
    async with opened(picture_bytes=100) as (_, client):
        Image.open(BytesIO(await fetched(client))).verify()


async def test_a_link_lives_as_long_as_it_says() -> None:
    clock = FakeClock()
    async with opened(clock=clock, link_life_s=60.0) as (_, client):
        task_id = await client.made()
        link = await client.link(task_id)
        clock.now += 59
        assert (await client.image(link)).status == 200
        clock.now += 1
        assert (await client.image(link)).status == 403
        assert (await client.image(await client.link(task_id))).status == 200


async def test_only_signed_links_of_known_pictures_are_served() -> None:
    async with opened() as (sandbox, client):
        task_id = await client.made()
        link = await client.link(task_id)
        for wrong in (link.replace("sig=", "sig=0"), link.replace("expires=", "expires=1"), link.partition("?")[0]):
            assert (await client.image(wrong)).status == 403
        assert (await client.image(link.replace("task-unified", "task-other"))).status == 404
        assert (await client.image(sandbox.image_url)).status == 404
        assert (await client.send("POST", link)).status == 405
        sandbox.forget(task_id)
        assert (await client.image(link)).status == 404


@pytest.mark.parametrize(
    ("asked", "status", "part", "span"),
    [
        ("bytes=0-99", 206, slice(0, 100), "bytes 0-99/{0}"),
        ("bytes=1000-", 206, slice(1000, None), "bytes 1000-{1}/{0}"),
        ("bytes=-10", 206, slice(-10, None), "bytes {2}-{1}/{0}"),
        ("bytes=5-99999999", 206, slice(5, None), "bytes 5-{1}/{0}"),
        ("bytes=-99999999", 206, slice(0, None), "bytes 0-{1}/{0}"),
        ("bytes=99999999-", 416, slice(0, 0), "bytes */{0}"),
        ("bytes=9-5", 416, slice(0, 0), "bytes */{0}"),
        ("bytes=-0", 416, slice(0, 0), "bytes */{0}"),
        ("bytes=0-1,5-6", 200, slice(0, None), None),
        ("bytes=-", 200, slice(0, None), None),
        ("lines=1-2", 200, slice(0, None), None),
    ],
)
async def test_ranges(asked: str, status: int, part: slice, span: str | None) -> None:
    async with opened() as (sandbox, client):
        task_id = await client.made()
        whole = await sandbox.picture(task_id)
        answer = await client.image(await client.link(task_id), Range=asked)
        total = len(whole)
        assert (answer.status, answer.body) == (status, whole[part])
        assert answer.headers.get("Content-Range") == (span and span.format(total, total - 1, total - 10))
        assert answer.headers["Accept-Ranges"] == "bytes"


async def test_if_range_gives_the_part_only_of_the_same_file() -> None:
    async with opened() as (_, client):
        link = await client.link(await client.made())
        facts = (await client.image(link)).headers
        assert facts["ETag"].startswith('"')
        for same in (facts["ETag"], facts["Last-Modified"]):
            assert (await client.image(link, Range="bytes=10-", If_Range=same)).status == 206
        for other in ('"other"', f"W/{facts['ETag']}", "Sat, 01 Jan 2000 00:00:00 GMT"):
            assert (await client.image(link, Range="bytes=10-", If_Range=other)).status == 200


@given(st.text("bytes=-0123456789,x ", max_size=20), st.integers(1, 1000))
def test_any_range_header_has_a_sound_answer(asked: str, total: int) -> None:
    facts = {"ETag": '"x"', "Last-Modified": "now"}
    file = bytes(total)
    reply = wanted({"Range": asked}, total, facts).reply(file, facts)
    assert reply.status in {200, 206, 416}
    assert (len(reply.body) > 0) == (reply.status != 416)
    assert (len(reply.body) == total) or reply.status != 200


async def test_default_agents_are_turned_away_only_if_asked_for() -> None:
    async with opened(refuse_default_agents=True) as (sandbox, client):
        link = await client.link(await client.made())
        for agent in ("Python/3.11 aiohttp/3.9", "python-requests/2.32", "aiohttp/3.9", ""):
            answer = await client.image(link, User_Agent=agent)
            assert (answer.status, answer.body) == (403, b"error code: 1010")
        assert (await client.image(link, User_Agent="krea-async/0.1 (+https://example.com)")).status == 200
        sandbox.settings.refuse_default_agents = False
        assert (await client.image(link)).status == 200


async def test_every_leaked_secret_is_named_and_none_is_repeated() -> None:
    async with opened() as (sandbox, client):
        link = await client.link(await client.made())
        await client.image(link)
        assert sandbox.ledger.leaks == []
        await client.image(link, Authorization="Bearer other")
        await client.image(link, Cookie="a=b")
        await client.image(link, Idempotency_Key="x")
        await client.image(link, X_Api_Key="x")
        await client.image(link, X_Odd=f"my {sandbox.key}")
        await client.image(f"{link}&key={sandbox.key}")
        named = [leak.split(" in ")[0] for leak in sandbox.ledger.leaks]
        assert named == ["Authorization", "Cookie", "Idempotency-Key", "X-Api-Key", "X-Odd", "the key"]
        assert sandbox.key not in str(sandbox.ledger.leaks)


async def test_drop_closes_without_an_answer() -> None:
    async with opened() as (sandbox, client):
        link = await client.link(await client.made())
        sandbox.script("image", "drop", "drop")  # two, because aiohttp repeats a GET once by itself
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await client.image(link)
        assert sandbox.ledger.statuses["image", 0] > 0
        assert sandbox.ledger.picture_bytes == 0


async def test_truncated_and_stalled_bodies_end_early() -> None:
    async with opened(faults=Faults(stall_s=0.1)) as (sandbox, client):
        task_id = await client.made()
        link = await client.link(task_id)
        for name in ("truncated", "stalled"):
            for fault in (Fault(name), Fault(name, at_bytes=1000), Fault(name, at_bytes=0)):
                sandbox.script("image", fault)
                with pytest.raises(aiohttp.ClientPayloadError):
                    await client.image(link)
        assert sandbox.ledger.tasks[task_id].fetched == 0


async def test_truncated_delivers_exactly_what_it_says() -> None:
    async with opened() as (sandbox, client), aiohttp.ClientSession() as http:
        task_id = await client.made()
        whole = await sandbox.picture(task_id)
        sandbox.script("image", Fault("truncated", at_bytes=1000))
        async with http.get(await client.link(task_id)) as response:
            assert int(response.headers["Content-Length"]) == len(whole)
            assert await response.content.readexactly(1000) == whole[:1000]
            with pytest.raises(aiohttp.ClientPayloadError):
                await response.content.read()
        assert sandbox.ledger.picture_bytes == 1000


async def test_short_is_a_cut_picture_with_a_matching_length() -> None:
    async with opened() as (sandbox, client):
        task_id = await client.made()
        whole, link = await sandbox.picture(task_id), await client.link(task_id)
        for _ in range(5):
            sandbox.script("image", "short")
            answer = await client.image(link)
            assert answer.status == 200
            assert 0 < len(answer.body) == int(answer.headers["Content-Length"]) < len(whole)
            assert whole.startswith(answer.body)
        sandbox.script("image", ("short", 1500))
        rest = await client.image(link, Range="bytes=1000-")
        assert (rest.status, rest.body) == (206, whole[1000:1500])
        assert rest.headers["Content-Range"] == "bytes 1000-1499/1500"
        assert sandbox.ledger.tasks[task_id].fetched == 0


async def test_wrong_type_empty_error_and_slow() -> None:
    async with opened() as (sandbox, client):
        link = await client.link(await client.made())
        sandbox.script("image", "wrong_type", "empty", "error", ("status", 503), ("slow", 0.05))
        html = await client.image(link)
        assert (html.status, html.headers["Content-Type"], html.body[:9]) == (200, "text/html", b"<!doctype")
        empty = await client.image(link)
        assert (empty.status, empty.body) == (200, b"")
        assert (await client.image(link)).status >= 500
        assert (await client.image(link)).status == 503
        assert (await client.image(link)).status == 200


@pytest.mark.parametrize(("name", "status"), [("expired", 403), ("gone", 410)])
async def test_a_dead_link_stays_dead_and_a_fresh_read_brings_a_good_one(name: str, status: int) -> None:
    async with opened() as (sandbox, client):
        task_id = await client.made()
        link = await client.link(task_id)
        sandbox.script("image", name)
        assert [(await client.image(link)).status for _ in range(2)] == [status, status]
        fresh = await client.link(task_id)
        assert fresh != link
        assert (await client.image(fresh)).status == 200


async def test_storms_strike_the_image_host() -> None:
    async with opened(faults=Faults(image_gone=0.5)) as (_, client):
        task_id = await client.made()
        statuses = [(await client.image(await client.link(task_id))).status for _ in range(40)]
        assert set(statuses) == {200, 410}


async def test_pictures_asked_for_at_once_are_drawn_all_the_same() -> None:
    async with opened() as (_, client):
        links = [await client.link(await client.made(seed=seed)) for seed in (1, 2)]
        bodies: set[tuple[str, bytes]] = set()

        async def fetch(link: str) -> None:
            bodies.add((link, (await client.image(link)).body))

        async with anyio.create_task_group() as group:
            for link in links * 5:
                group.start_soon(fetch, link)
        assert len(bodies) == 2


async def test_a_picture_that_was_dropped_from_memory_is_drawn_again_the_same() -> None:
    async with opened() as (sandbox, client):
        ids = [await client.made(f"fox {number}") for number in range(34)]
        first = await sandbox.picture(ids[0])
        for task_id in ids[1:]:
            await sandbox.picture(task_id)
        assert await sandbox.picture(ids[0]) == first
