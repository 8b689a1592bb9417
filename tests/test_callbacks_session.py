"""A session with a receiver, against the sandbox over real sockets: callbacks save reads and can do no harm."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import anyio.lowlevel
import pytest
from aiohttp import web

from krea_async import ImageRequest, InvalidRequestError, KreaSession, PollPolicy, RetryPolicy, SessionClosedError
from krea_async.sandbox import Durations, Sandbox
from krea_async.webhooks import Webhooks

pytestmark = pytest.mark.anyio

SESSION_OF = Callable[..., KreaSession]
SELDOM: dict[str, Any] = {"polling": PollPolicy(shortest_s=20.0, longest_s=20.0)}
"""Without a callback nothing is known before 20 s."""


def gateway(**settings: Any) -> Sandbox:
    return Sandbox(**{"durations": Durations.fixed(0.4), "allow_local_callbacks": True, "scenes": 1, **settings})


@asynccontextmanager
async def receiving(session: KreaSession) -> AsyncIterator[Webhooks]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        webhooks = session.webhooks(f"http://127.0.0.1:{listener.getsockname()[1]}/hooks")
        app = web.Application()
        app.add_subapp(webhooks.path, webhooks.app())
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.SockSite(runner, listener).start()
        yield webhooks
        await runner.cleanup()


def reads(sandbox: Sandbox) -> int:
    return sum(task.reads for task in sandbox.ledger.tasks.values())


def all_of(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in directory.rglob("*") if path.is_file())


async def post(url: str, task_id: str) -> int:
    body = {"id": task_id, "status": "completed", "results": ["http://127.0.0.1:1/forged.png"]}
    async with aiohttp.ClientSession() as client, client.post(url, json=body) as response:
        return response.status


async def test_a_callback_has_its_picture_fetched_with_one_read(session_of: SESSION_OF, tmp_path: Path) -> None:
    sandbox = gateway(durations=Durations.fixed(2.0))  # a callback before its task is noted on disk would be for nobody
    async with sandbox, session_of(sandbox, **SELDOM) as session, receiving(session) as webhooks:
        with anyio.fail_after(18):
            report = await session.render([f"fox {n}" for n in range(60)], tmp_path)
        assert (report.saved, reads(sandbox)) == (60, 60)
        assert {task.callback_url for task in sandbox.ledger.tasks.values()} == {webhooks.callback_url}
        assert sandbox.ledger.callbacks["delivered"] == 60
    assert webhooks.callback_url[-32:].encode() not in all_of(tmp_path)


async def test_a_request_with_an_address_of_its_own_keeps_it(session_of: SESSION_OF) -> None:
    async with gateway() as sandbox, session_of(sandbox) as session, receiving(session):
        job = await session.submit(ImageRequest("a fox", callback_url="https://example.com/mine"))
        assert sandbox.ledger.tasks[job.task_id].callback_url == "https://example.com/mine"
        await job.wait()


async def test_with_nobody_there_to_receive_polling_finds_everything(session_of: SESSION_OF, tmp_path: Path) -> None:
    waits_s = (0.01, 0.01, 0.01)
    async with gateway(callback_waits_s=waits_s) as sandbox, session_of(sandbox) as session:
        session.webhooks("http://127.0.0.1:1/nobody")
        with anyio.fail_after(20):
            report = await session.render([f"fox {n}" for n in range(40)], tmp_path)
        assert report.saved == 40
        assert sandbox.ledger.callbacks["delivered"] == 0


async def test_a_lost_answer_is_asked_for_again_with_the_same_body(session_of: SESSION_OF, tmp_path: Path) -> None:
    """Another body under the same key would be refused, and the picture lost."""
    async with gateway() as sandbox, session_of(sandbox) as session:
        sandbox.script("create", "drop_after", *["drop_before"] * 5)

        async def rendering() -> None:
            await session.render(["a fox"], tmp_path)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(rendering)
            while not sandbox.ledger.tasks:
                await anyio.lowlevel.checkpoint()
            session.webhooks("http://127.0.0.1:1/hooks")  # in the middle
            assert sandbox.ledger.requests["create"] < 6
        assert sandbox.ledger.statuses["create", 409] == 0
        assert len(sandbox.ledger.tasks) == sandbox.ledger.replays == 1


async def test_forged_callbacks_cost_a_read_a_second_and_nothing_of_them_is_believed(
    session_of: SESSION_OF, tmp_path: Path
) -> None:
    sandbox = gateway(durations=Durations.fixed(5.0))
    async with sandbox, session_of(sandbox, **SELDOM) as session, receiving(session) as webhooks:
        job = await session.submit("a fox")
        with anyio.move_on_after(1.5):
            while True:
                assert await post(webhooks.callback_url, job.task_id) == 204
                assert await post(webhooks.callback_url, f"task-unified-{sandbox.ledger.requests['read']}") == 204
        assert 1 <= reads(sandbox) <= 3
        assert job.status != "completed"
        with anyio.fail_after(10):
            image = await job.save(tmp_path / "fox.png")
        assert image.path is not None
        assert image.path.read_bytes() == await sandbox.picture(job.task_id)
        assert sandbox.ledger.requests["batch"] == 0


async def test_replayed_and_late_callbacks_change_nothing(session_of: SESSION_OF) -> None:
    async with gateway() as sandbox, session_of(sandbox, **SELDOM) as session, receiving(session) as webhooks:
        job = await session.submit("a fox")
        with anyio.fail_after(10):
            await job.wait()
        calls = dict(session.stats.calls)
        for _ in range(20):
            assert await post(webhooks.callback_url, job.task_id) == 204
        assert dict(session.stats.calls) == calls
        assert session.stats.followed == 0


async def test_a_receiver_elsewhere_passes_ids_on_from_any_thread(session_of: SESSION_OF) -> None:
    """It has the key and the address, not the session; here it runs in a thread with an event loop of its own."""
    async with gateway() as sandbox, session_of(sandbox, **SELDOM) as session:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            elsewhere = Webhooks(url, sandbox.key, session.notify, local=True)
            assert session.webhooks(url).callback_url == elsewhere.callback_url
            ready, ended = threading.Event(), threading.Event()
            thread = threading.Thread(target=lambda: asyncio.run(_serve(elsewhere, listener, ready, ended)))
            thread.start()
            try:
                await anyio.to_thread.run_sync(ready.wait)
                with anyio.fail_after(10):
                    assert (await (await session.submit("a fox")).wait()).status == "completed"
            finally:
                ended.set()
                await anyio.to_thread.run_sync(thread.join)
        assert reads(sandbox) == 1


async def _serve(webhooks: Webhooks, listener: socket.socket, ready: threading.Event, ended: threading.Event) -> None:
    runner = web.AppRunner(webhooks.app(), access_log=None)
    await runner.setup()
    await web.SockSite(runner, listener).start()
    ready.set()
    await asyncio.to_thread(ended.wait)
    await runner.cleanup()


async def test_notify_is_harmless_before_after_and_for_what_is_not_followed(session_of: SESSION_OF) -> None:
    async with gateway() as sandbox:
        session = session_of(sandbox)
        session.notify("task-unified-1")
        with pytest.raises(SessionClosedError):
            session.webhooks("https://example.com/hooks")
        async with session:
            session.notify("task-unified-1")
            await anyio.to_thread.run_sync(session.notify, "task-unified-1")
        session.notify("task-unified-1")
        assert sandbox.ledger.requests["read"] == 0


async def test_a_session_with_the_real_gateway_takes_public_addresses_only() -> None:
    async with KreaSession("sk-evo-x", base_url="https://api.example.com") as session:
        assert session.webhooks("https://example.com/hooks").path == "/hooks"
        with pytest.raises(InvalidRequestError):
            session.webhooks("http://127.0.0.1:8000/hooks")


async def test_what_a_run_without_callbacks_left_open_is_asked_for_again_without_one(
    session_of: SESSION_OF, tmp_path: Path
) -> None:
    """The key belongs to a body without an address: with one, it is refused, and a picture that is paid for is lost."""
    async with gateway() as sandbox:
        sandbox.script("create", "drop_after")
        async with session_of(sandbox, retries=RetryPolicy(attempts=1)) as session:
            assert (await session.render(["a fox"], tmp_path)).failed == 1
        async with session_of(sandbox) as session, receiving(session):
            assert (await session.render(["a fox"], tmp_path)).saved == 1
        assert len(sandbox.ledger.tasks) == sandbox.ledger.replays == 1
