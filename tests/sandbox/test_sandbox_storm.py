"""Everything at once: a dogged client gets every picture, pays once for each, and the server never stumbles."""

import hashlib
import logging
import sys
from io import BytesIO

import aiohttp
import anyio
import pytest
from PIL import Image
from sandbox_client import Client, opened

from krea_async.sandbox import Durations, Faults, Limits

pytestmark = pytest.mark.anyio

FAULTS = Faults.everywhere(0.06, slow_s=0.01, stall_s=0.02)
PNG_END = b"\0\0\0\0IEND\xaeB`\x82"


async def doggedly_created(client: Client, prompt: str, key: str) -> str:
    while True:
        try:
            answer = await client.create(prompt, key=key, timeout_s=60)
            if answer.status == 200:
                task_id: str = answer.json["id"]
                return task_id
            assert answer.status in {409, 429, 500, 502, 503, 504}
        except (aiohttp.ClientError, ValueError, KeyError):
            pass
        await anyio.sleep(0.01)


async def doggedly_fetched(client: Client, task_id: str) -> bytes:
    while True:
        try:
            picture = (await client.image(await client.link(task_id))).body
            Image.open(BytesIO(picture)).load()
        except (aiohttp.ClientError, ValueError, KeyError, OSError, SyntaxError):
            continue
        if picture.endswith(PNG_END):  # Pillow does not miss it
            return picture


async def test_a_storm(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    limits = Limits(per_second=2000, burst=20, unfinished=12)
    hashes: dict[str, str] = {}
    async with opened(faults=FAULTS, limits=limits, durations=Durations.fixed(0.02), scenes=4) as (sandbox, client):
        sandbox.script("image", ("short", sys.maxsize))  # all but the last byte

        async def one(number: int) -> None:
            task_id = await doggedly_created(client, f"fox {number}", f"storm-{number:020}")
            hashes[task_id] = hashlib.sha256(await doggedly_fetched(client, task_id)).hexdigest()

        async with anyio.create_task_group() as group:
            for number in range(120):
                group.start_soon(one, number)
        ledger = sandbox.ledger
        assert hashes == {task.id: task.sha256 for task in ledger.tasks.values()}
        assert (len(hashes), ledger.duplicates, ledger.leaks) == (120, {}, [])
        assert set(ledger.charges_by_key.values()) == {1}
        assert ledger.charged_credits == 54.0
        assert ledger.remaining_credits == 946.0
        assert (ledger.unfinished, ledger.reserved_credits) == (0, 0.0)
        assert ledger.max_unfinished <= 12
        assert ledger.replays > 0
        assert ledger.rate_limited > 0
        assert ledger.statuses["create", 0] > 0
        assert all(task.fetched >= 1 for task in ledger.tasks.values())
    assert not caplog.records
