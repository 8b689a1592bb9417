"""The receiver of callbacks over real sockets, as aiohttp and as ASGI application: quick, quiet, and hard to abuse."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import anyio
import pytest
import uvicorn
from aiohttp import web
from attrs import define, field
from starlette.applications import Starlette
from until import until

from krea_async import InvalidRequestError, webhooks
from krea_async.webhooks import MAX_BODY_BYTES, Webhooks

pytestmark = pytest.mark.anyio

KEY = "sk-evo-a-key-that-nobody-may-see"
CALLBACK = b'{"id": "task-unified-1-a", "status": "completed", "results": ["https://elsewhere/x.png"]}'


@define
class Receiver:
    """One that is served. heard: the ids that came through."""

    webhooks: Webhooks
    heard: list[str] = field(factory=list)

    @property
    def port(self) -> int:
        return int(self.webhooks.callback_url.split(":")[2].split("/")[0])

    async def post(self, body: Any = CALLBACK, url: str | None = None, method: str = "POST", **more: Any) -> Any:
        """The answer's status and all that it tells: its body, and its headers but the date."""
        async with (
            aiohttp.ClientSession() as client,
            client.request(method, url or self.webhooks.callback_url, data=body, **more) as response,
        ):
            told = {name: value for name, value in response.headers.items() if name not in {"Date", "date"}}
            return response.status, await response.read(), told


@asynccontextmanager
async def over_aiohttp(webhooks: Webhooks, listener: socket.socket) -> AsyncIterator[None]:
    app = web.Application()
    app.add_subapp(webhooks.path, webhooks.app())
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.SockSite(runner, listener).start()
    yield
    await runner.cleanup()


@asynccontextmanager
async def served(app: Any, listener: socket.socket) -> AsyncIterator[None]:
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="on", timeout_graceful_shutdown=1))
    serving = asyncio.create_task(server._serve([listener]))
    await until(lambda: server.started, within_s=5)
    yield
    server.should_exit = True
    await serving


def bare(webhooks: Webhooks, listener: socket.socket) -> Any:
    return served(webhooks.asgi, listener)


def in_starlette(webhooks: Webhooks, listener: socket.socket) -> Any:
    app = Starlette()
    app.mount(webhooks.path, webhooks.asgi)
    return served(app, listener)


@pytest.fixture(params=[over_aiohttp, bare, in_starlette])
async def receiver(request: pytest.FixtureRequest) -> AsyncIterator[Receiver]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        heard: list[str] = []
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/hooks/krea"
        async with request.param(ours := Webhooks(url, KEY, heard.append, local=True), listener):
            yield Receiver(ours, heard)


async def test_a_callback_is_answered_at_once_and_only_its_id_is_taken(receiver: Receiver) -> None:
    status, body, _ = await receiver.post()
    assert (status, body, receiver.heard) == (204, b"", ["task-unified-1-a"])


async def test_an_id_that_nobody_knows_is_answered_like_any_other(receiver: Receiver) -> None:
    known, unknown = await receiver.post(), await receiver.post(b'{"id": "task-unified-forged"}')
    assert known == unknown


async def test_what_is_wrong_is_answered_alike_and_does_nothing(receiver: Receiver) -> None:
    """So that nobody learns whether there is a receiver, and what it wants."""
    url = receiver.webhooks.callback_url
    base, _, token = url.rpartition("/")
    flipped = token[:-1] + ("0" if token[-1] != "0" else "1")
    wrong = [
        await receiver.post(url=f"{base}/{other}")
        for other in (flipped, token.upper() + "x", token[:-1], f"{token}/", f"{token}/x", "%FF%00", "ü", "", "x" * 999)
    ]
    wrong += [await receiver.post(method=method) for method in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS")]
    bodies = [b"", b"{", b"[]", b"null", b'{"id": 1}', b'{"id": ""}', b'{"id": "a b"}', b'{"id": "\\u0000"}']
    bodies += [b"[" * 60_000, b"\xff\xfe", b'{"id": ["a"]}', b"1" * 60_000, json.dumps({"id": "x" * 129}).encode()]
    bodies += [b'{"id": "a"' + b" " * MAX_BODY_BYTES + b"}"]
    wrong += [await receiver.post(body) for body in bodies]
    wrong += [await receiver.post(_slices(b'{"id": "a"' + b" " * MAX_BODY_BYTES + b"}"))]
    assert len({str(answer) for answer in wrong}) == 1
    assert wrong[0][:2] == (404, b"")
    assert receiver.heard == []
    assert (await receiver.post())[0] == 204


async def _slices(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 8192):
        yield body[start : start + 8192]


async def test_a_body_in_slices_is_a_body(receiver: Receiver) -> None:
    assert (await receiver.post(_slices(CALLBACK + b" " * 30_000)))[0] == 204
    assert receiver.heard == ["task-unified-1-a"]


async def test_an_announced_length_above_the_cap_is_refused_before_a_byte_is_read(receiver: Receiver) -> None:
    for length in (str(MAX_BODY_BYTES + 1), "999999999999"):
        assert await _answer_to(receiver, f"Content-Length: {length}", b"") == 404


async def test_a_body_that_comes_a_byte_at_a_time_is_given_up_and_holds_up_nobody(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "BODY_TIMEOUT_S", 0.3)
    statuses: list[int] = []

    async def slow() -> None:
        statuses.append(await _answer_to(receiver, "Content-Length: 1000", b'{"id":', drip_s=0.05))

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            for _ in range(50):
                group.start_soon(slow)
            for _ in range(5):
                assert (await receiver.post())[0] == 204
    assert statuses == [404] * 50
    assert set(receiver.heard) == {"task-unified-1-a"}


async def test_a_sender_who_goes_away_in_the_middle_leaves_nothing_behind(receiver: Receiver) -> None:
    for _ in range(20):
        async with await anyio.connect_tcp("127.0.0.1", receiver.port) as stream:
            await stream.send(_head(receiver, "Content-Length: 1000") + b'{"id":')
    assert (await receiver.post())[0] == 204
    assert receiver.heard == ["task-unified-1-a"]


async def test_a_slow_sender_without_the_token_is_not_even_read(receiver: Receiver) -> None:
    assert await _answer_to(receiver, "Content-Length: 1000", b"", path="/hooks/krea/" + "0" * 32) == 404


def _head(receiver: Receiver, header: str, path: str | None = None) -> bytes:
    path = path or "/" + receiver.webhooks.callback_url.split("/", 3)[3]
    return f"POST {path} HTTP/1.1\r\nHost: x\r\n{header}\r\n\r\n".encode()


async def _answer_to(
    receiver: Receiver, header: str, body: bytes, *, drip_s: float | None = None, path: str | None = None
) -> int:
    """The status of a request whose body does not come to its end."""
    answers: list[bytes] = []
    async with await anyio.connect_tcp("127.0.0.1", receiver.port) as stream, anyio.create_task_group() as group:

        async def drip() -> None:
            while drip_s is not None:
                await anyio.sleep(drip_s)
                await stream.send(b" ")

        await stream.send(_head(receiver, header, path) + body)
        group.start_soon(drip)
        with anyio.fail_after(5):
            answers.append(await stream.receive())
        group.cancel_scope.cancel()
    return int(answers[0].split()[1])


@pytest.mark.parametrize("receiver", [over_aiohttp, bare], indirect=True)
async def test_what_cannot_be_passed_on_is_asked_for_again_and_said_in_the_log(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(task_id: str) -> None:
        raise ConnectionError("the queue is away")

    monkeypatch.setattr(receiver.webhooks, "_notify", broken)
    assert (await receiver.post())[:2] == (503, b"")
    assert "the queue is away" in caplog.text
    assert receiver.webhooks._token not in caplog.text


async def test_the_token_is_the_same_in_every_process_and_another_for_every_key_and_address() -> None:
    def url(public_url: str, key: str = KEY) -> str:
        return Webhooks(public_url, key, print).callback_url

    assert url("https://a.example/hooks") == url("https://a.example/hooks/")
    tokens = {url(public_url, key)[-32:] for public_url in ("https://a.example", "https://b.example") for key in "kl"}
    assert len(tokens) == 4
    assert all(len(token) == 32 and int(token, 16) >= 0 for token in tokens)


async def test_neither_key_nor_token_is_shown() -> None:
    ours = Webhooks("https://a.example/hooks", KEY, print)
    shown = f"{ours!r} {ours.path}"
    assert ours.callback_url[-32:] not in shown
    assert KEY not in shown + ours.callback_url


@pytest.mark.parametrize(
    "public_url",
    [
        *(
            "",
            "a.example/hooks",
            "http://a.example",
            "https://10.0.0.1/x",
            "https://localhost",
            "https://u:p@a.example",
        ),
        *(
            "https://a.example/?q=1",
            "https://a.example/#f",
            "https://a.example/" + "x" * 2020,
            "https://[::1",
            "ftp://a.b",
        ),
    ],
)
async def test_an_address_that_the_gateway_would_refuse_is_refused_here(public_url: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        Webhooks(public_url, KEY, print)
    assert refused.value.field == "public_url"
    assert "u:p" not in f"{refused.value} {refused.value.value}"


async def test_a_websocket_is_turned_away() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError

    await Webhooks("https://a.example", KEY, print).asgi({"type": "websocket", "path": "/"}, receive, send)
    assert sent == [{"type": "websocket.close"}]
