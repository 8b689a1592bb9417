"""The API's routes over real sockets: what is sent, what is made of each answer, and what a hostile host cannot do."""

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import islice
from typing import Any

import anyio
import pytest
from aiohttp import web
from aiohttp.test_utils import RawTestServer

from krea_async.errors import (
    InsufficientCreditsError,
    InvalidRequestError,
    KreaError,
    RateLimitedError,
    ServiceError,
    TaskNotFoundError,
)
from krea_async.gateway.client import Gateway, idempotency_keys
from krea_async.gateway.replies import UNREADABLE
from krea_async.gateway.transport import MAX_REPLY_BYTES, TimeoutPolicy, open_transport
from krea_async.models import ImageRequest, Task
from krea_async.sandbox import Durations, Sandbox

pytestmark = pytest.mark.anyio

KEY = "sk-evo-0123456789abcdef"
FOX = ImageRequest("a fox")
Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def gateway_at(url: str, key: str = KEY, read_s: float = 10.0) -> AsyncIterator[Gateway]:
    timeouts = TimeoutPolicy(connect_s=10.0, read_s=read_s)
    async with open_transport(url, key, connections=16, timeouts=timeouts) as transport:
        yield Gateway(transport)


@asynccontextmanager
async def gateway_of(handler: Handler) -> AsyncIterator[Gateway]:
    """A gateway whose host answers as `handler` says."""
    async with RawTestServer(handler) as server, gateway_at(f"http://127.0.0.1:{server.port}") as gateway:
        yield gateway


@asynccontextmanager
async def gateway_saying(answer: Callable[[bytes], bytes]) -> AsyncIterator[Gateway]:
    """A gateway whose host sends the bytes that `answer` makes of a request's head, and hangs up."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(await reader.readuntil(b"\r\n\r\n")))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server, gateway_at(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as gateway:
        yield gateway


def answering(body: object, *, status: int = 200, headers: dict[str, str] | None = None) -> Handler:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        await request.read()
        return web.Response(status=status, body=raw, headers=headers)

    return handler


async def refused(call: Awaitable[object]) -> KreaError:
    with pytest.raises(KreaError) as caught:
        await call
    return caught.value


def key() -> str:
    return next(idempotency_keys())


# create


async def test_a_create_sends_the_documented_body_the_key_and_an_honest_agent() -> None:
    seen: list[tuple[str, str, dict[str, str], Any]] = []

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        seen.append((request.method, request.path_qs, dict(request.headers), json.loads(await request.read())))
        return web.json_response({"id": "task-unified-1", "status": "pending"})

    wanted = ImageRequest("ein Füchschen 🦊", size="16:9", quality="2K", seed=7, nsfw_check=True)
    wanted_back = ImageRequest("x", callback_url="https://example.com/done")
    async with gateway_of(handler) as gateway:
        await gateway.create(wanted, key="krea-0123456789abcdef")
        await gateway.create(wanted_back, key="krea-0123456789abcdef")
        assert gateway.calls["create"] == 2
    method, path, headers, body = seen[0]
    assert (method, path) == ("POST", "/v1/images/generations")
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert headers["Idempotency-Key"] == "krea-0123456789abcdef"
    assert headers["Content-Type"] == "application/json"
    assert headers["User-Agent"].startswith("krea-async/")
    assert body == {
        "model": "krea-2-turbo",
        "prompt": "ein Füchschen 🦊",
        "size": "16:9",
        "quality": "2K",
        "seed": 7,
        "nsfw_check": True,
    }
    assert seen[1][3]["callback_url"] == "https://example.com/done"
    assert "seed" not in seen[1][3]


def test_idempotency_keys_have_the_gateway_s_form_and_never_repeat() -> None:
    keys = {*islice(idempotency_keys(), 1000), *islice(idempotency_keys(), 1000)}
    assert len(keys) == 2000
    assert all(16 <= len(key) <= 96 and key.replace("-", "").isalnum() and key.isascii() for key in keys)


@pytest.mark.parametrize("bad", ["", "short", "x" * 97, "0123456789abcdef\n", "0123456789 abcdef", "0123456789abcdeé"])
async def test_a_key_of_a_wrong_form_is_never_sent(sandbox: Sandbox, bad: str) -> None:
    async with gateway_at(sandbox.url, sandbox.key) as gateway:
        error = await refused(gateway.create(FOX, key=bad))
    assert isinstance(error, InvalidRequestError)
    assert sandbox.ledger.requests["create"] == 0


async def test_the_same_key_gives_the_same_task_and_says_so(sandbox: Sandbox) -> None:
    async with gateway_at(sandbox.url, sandbox.key) as gateway:
        mine = key()
        first = await gateway.create(FOX, key=mine)
        again = await gateway.create(FOX, key=mine)
    assert (first.id, first.replayed, again.replayed) == (again.id, False, True)
    assert len(sandbox.ledger.tasks) == 1


@pytest.mark.parametrize("text", ["", "<html>502</html>", '{"success":true}', '{"id":"task-', '{"id":null}', "null"])
async def test_an_unreadable_answer_to_a_create_leaves_the_charge_unknown(sandbox: Sandbox, text: str) -> None:
    sandbox.script("create", ("garbage", text))
    async with gateway_at(sandbox.url, sandbox.key) as gateway:
        mine = key()
        error = await refused(gateway.create(FOX, key=mine))
        assert (type(error), error.charged, error.retryable, error.status) == (ServiceError, "unknown", True, 200)
        assert (await gateway.create(FOX, key=mine)).replayed
    assert len(sandbox.ledger.tasks) == 1


@pytest.mark.parametrize("fault", ["drop_before", "drop_after", ("error_after", 502), ("error", 500), ("status", 408)])
async def test_a_lost_answer_to_a_create_leaves_the_charge_unknown(sandbox: Sandbox, fault: Any) -> None:
    sandbox.script("create", fault)
    async with gateway_at(sandbox.url, sandbox.key) as gateway:
        error = await refused(gateway.create(FOX, key=key()))
    assert (type(error), error.charged, error.retryable) == (ServiceError, "unknown", True)


async def test_a_create_that_stalls_is_given_up_with_the_charge_unknown(sandbox: Sandbox) -> None:
    sandbox.script("create", ("stalled", 3))
    async with gateway_at(sandbox.url, sandbox.key, read_s=0.2) as gateway:
        error = await refused(gateway.create(FOX, key=key()))
    assert (type(error), error.charged, error.retryable) == (ServiceError, "unknown", True)


async def test_a_create_that_never_left_charges_nothing() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, but nobody listens
        async with gateway_at(f"http://127.0.0.1:{closed.getsockname()[1]}") as gateway:
            error = await refused(gateway.create(FOX, key=key()))
    assert (type(error), error.charged, error.retryable) == (ServiceError, "no", True)


@pytest.mark.parametrize("status", [400, 401, 402, 403, 413, 429])
async def test_a_refused_create_charges_nothing(sandbox: Sandbox, status: int) -> None:
    sandbox.script("create", ("status", status))
    async with gateway_at(sandbox.url, sandbox.key) as gateway:
        error = await refused(gateway.create(FOX, key=key()))
    assert (error.charged, error.status) == ("no", status)


async def test_the_first_try_still_under_way_is_no_refusal(sandbox: Sandbox) -> None:
    sandbox.script("create", ("status", 409))
    async with gateway_of(
        answering({"error": {"code": "paid_outcome_unknown", "message": "wait"}}, status=409)
    ) as gateway:
        error = await refused(gateway.create(FOX, key=key()))
    assert (type(error), error.charged, error.retryable) == (ServiceError, "unknown", True)


# reading


async def test_a_task_is_read_with_its_links(sandbox: Sandbox) -> None:
    async with gateway_at(sandbox.url, sandbox.key) as gateway:
        task = await gateway.create(FOX, key=key())
        done = await gateway.read(task.id)
    assert done.status == "completed"
    assert done.results[0].startswith(sandbox.image_url)


HOSTILE_IDS = [
    "../../x?y#z",
    "a/b",
    "a b",
    "a%2Fb",
    "%2e%2e",
    "a\r\nX-Evil: 1",
    "a\x00b",
    "é🦊",
    "a?b=c&d",
    "a#b",
    "a;b",
    "a\\b",
    "http://evil.example/",
    "\ud800",
]


@pytest.mark.parametrize("task_id", HOSTILE_IDS)
async def test_an_id_stays_one_segment_of_the_path_whatever_is_in_it(task_id: str) -> None:
    paths: list[str] = []

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        paths.append(request.raw_path if hasattr(request, "raw_path") else request.path_qs)
        assert "X-Evil" not in request.headers
        return web.json_response({"id": "x", "status": "pending"})

    async with gateway_of(handler) as gateway:
        try:
            await gateway.read(task_id)
        except KreaError:
            return  # refusing to ask is as good
    assert len(paths) == 1
    prefix, _, segment = paths[0].rpartition("/")
    assert prefix == "/v1/tasks"
    assert segment
    assert not set(segment) & set("?#; \r\n\\")


async def test_an_unknown_task_and_an_impossible_id_are_told_apart(sandbox: Sandbox) -> None:
    async with gateway_at(sandbox.url, sandbox.key) as gateway:
        unknown = await refused(gateway.read("task-unified-1-nope"))
        impossible = await refused(gateway.read("nope"))
    assert (type(unknown), unknown.task_id) == (TaskNotFoundError, "task-unified-1-nope")
    assert (type(impossible), impossible.code) == (InvalidRequestError, "invalid_task_id")


async def test_a_failed_read_charges_nothing(sandbox: Sandbox) -> None:
    sandbox.script("read", *["drop_before"] * 2, ("status", 503), ("garbage", "<html>"))  # aiohttp repeats a lost GET
    async with gateway_at(sandbox.url, sandbox.key) as gateway:
        task = await gateway.create(FOX, key=key())
        errors = [await refused(gateway.read(task.id)) for _ in range(3)]
    assert {error.charged for error in errors} == {"no"}


async def test_many_are_read_in_one_request_and_the_absent_are_absent(sandbox: Sandbox) -> None:
    async with gateway_at(sandbox.url, sandbox.key) as gateway:
        ids = [(await gateway.create(FOX, key=key())).id for _ in range(3)]
        sandbox.forget(ids[1])
        readings = await gateway.read_many(ids)
    assert list(readings) == [ids[0], ids[2]]
    assert all(isinstance(reading, Task) and reading.finished for reading in readings.values())
    assert (sandbox.ledger.requests["batch"], sandbox.ledger.requests["read"]) == (1, 0)


async def test_more_than_fifty_ids_are_refused_and_none_cost_nothing(sandbox: Sandbox) -> None:
    async with gateway_at(sandbox.url, sandbox.key) as gateway:
        with pytest.raises(ValueError, match="50"):
            await gateway.read_many([f"task-unified-{n}" for n in range(51)])
        assert await gateway.read_many([f"task-unified-{n}" for n in range(50)]) == {}
        assert await gateway.read_many([]) == {}
        assert await gateway.read_singly([]) == {}
    assert sandbox.ledger.requests == {"batch": 1}


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("status", [404, 405, 501])
async def test_without_the_batch_route_tasks_are_read_singly_for_good_and_it_is_said_once(
    sandbox: Sandbox, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    sandbox.script("batch", ("status", status))
    async with gateway_at(sandbox.url, sandbox.key) as gateway:
        ids = [(await gateway.create(FOX, key=key())).id for _ in range(3)]
        for _ in range(3):
            assert set(await gateway.read_many(ids)) == set(ids)
    assert (sandbox.ledger.requests["batch"], sandbox.ledger.requests["read"]) == (1, 9)
    assert len(warnings_of(caplog)) == 1


async def test_reads_that_find_out_at_the_same_time_still_say_it_once(caplog: pytest.LogCaptureFixture) -> None:
    everybody = anyio.Event()
    asked = 0

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal asked
        if request.path != "/v1/tasks/batch":
            return web.json_response({"id": request.path.rpartition("/")[2], "status": "processing"})
        asked += 1
        if asked == 3:
            everybody.set()
        await everybody.wait()
        return web.json_response({}, status=404)

    async with gateway_of(handler) as gateway, anyio.create_task_group() as reads:
        for n in range(3):
            reads.start_soon(gateway.read_many, [f"a{n}", f"b{n}"])
    assert len(warnings_of(caplog)) == 1


@pytest.mark.parametrize("status", [500, 502, 503, 504, 429, 401])
async def test_a_batch_read_that_fails_otherwise_is_not_asked_for_singly(sandbox: Sandbox, status: int) -> None:
    sandbox.script("batch", ("status", status))
    async with gateway_at(sandbox.url, sandbox.key) as gateway:
        error = await refused(gateway.read_many(["task-unified-1", "task-unified-2"]))
        assert error.status == status
        await gateway.read_many(["task-unified-1", "task-unified-2"])
    assert (sandbox.ledger.requests["batch"], sandbox.ledger.requests["read"]) == (2, 0)


async def test_one_bad_id_does_not_spoil_the_others(sandbox: Sandbox) -> None:
    sandbox.script("batch", ("status", 400))
    async with gateway_at(sandbox.url, sandbox.key) as gateway:
        good = (await gateway.create(FOX, key=key())).id
        readings = await gateway.read_many(["bad", good, "task-unified-unknown"])
        await gateway.read_many([good, good])
    assert isinstance(readings[good], Task)
    assert isinstance(readings["bad"], InvalidRequestError)
    assert isinstance(readings["task-unified-unknown"], TaskNotFoundError)
    assert sandbox.ledger.requests["batch"] == 2, "the route is still there"


async def test_single_reads_that_all_fail_fail_as_one(sandbox: Sandbox) -> None:
    sandbox.script("read", ("status", 429), ("status", 429), ("status", 429))
    async with gateway_at(sandbox.url, sandbox.key) as gateway:
        error = await refused(gateway.read_singly(["task-unified-1", "task-unified-2", "task-unified-3"]))
    assert isinstance(error, RateLimitedError)


async def test_single_reads_stop_asking_when_they_are_told_to_slow_down() -> None:
    asked = 0

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal asked
        asked += 1
        return web.json_response({"error": {"message": "slow"}}, status=429)

    async with gateway_of(handler) as gateway:
        await refused(gateway.read_singly([f"task-unified-{n}" for n in range(50)]))
    assert asked <= 8


async def test_single_reads_lose_no_id(sandbox: Sandbox) -> None:
    async with gateway_at(sandbox.url, sandbox.key) as gateway:
        ids = [(await gateway.create(FOX, key=key())).id for _ in range(40)]
        sandbox.script("read", "ok", ("status", 503), ("garbage", "<html>"), "missing", ("status", 429))
        readings = await gateway.read_singly(ids)
    assert set(readings) == set(ids)
    assert sum(not isinstance(reading, Task) for reading in readings.values()) == 4


async def test_the_list_and_the_balance_are_read(sandbox: Sandbox) -> None:
    async with gateway_at(sandbox.url, sandbox.key) as gateway:
        task = await gateway.create(FOX, key=key())
        page = await gateway.list_tasks(status="completed", page_size=5)
        balance = await gateway.credits()
    assert [row.id for row in page.tasks] == [task.id]
    assert balance.remaining == pytest.approx(1000 - 0.45)


async def test_a_wrong_key_is_refused_and_not_shown(sandbox: Sandbox) -> None:
    async with gateway_at(sandbox.url, KEY) as gateway:
        error = await refused(gateway.credits())
    assert error.status == 401
    assert KEY not in str(error)


async def test_an_empty_account_is_said_so() -> None:
    async with Sandbox(credits=0.1, durations=Durations.instant()) as poor, gateway_at(poor.url, poor.key) as gateway:
        error = await refused(gateway.create(FOX, key=key()))
    assert (type(error), error.charged, error.retryable) == (InsufficientCreditsError, "no", False)


# hostile hosts


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_the_key_never_follows_a_redirect(status: int) -> None:
    elsewhere: list[str] = []

    async def trap(request: web.BaseRequest) -> web.StreamResponse:
        elsewhere.append(request.path)
        return web.json_response({"id": "task-unified-1", "status": "pending"})

    async with RawTestServer(trap) as other:
        headers = {"Location": f"http://127.0.0.1:{other.port}/stolen"}
        async with gateway_of(answering(b"", status=status, headers=headers)) as gateway:
            assert (await refused(gateway.create(FOX, key=key()))).status == status
            assert (await refused(gateway.read("task-unified-1"))).status == status
            assert (await refused(gateway.credits())).status == status
    assert elsewhere == []


async def test_a_cookie_of_the_gateway_is_not_sent_back() -> None:
    cookies: list[str | None] = []

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        cookies.append(request.headers.get("Cookie"))
        return web.json_response({"id": "x", "status": "pending"}, headers={"Set-Cookie": "sid=1; Path=/"})

    async with gateway_of(handler) as gateway:
        await gateway.read("x")
        await gateway.read("x")
    assert cookies == [None, None]


@pytest.mark.parametrize("announced", [True, False])
async def test_a_reply_without_end_is_refused_and_the_charge_is_unknown(announced: bool) -> None:
    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        if announced:
            response.content_length = 1 << 40
        await response.prepare(request)
        try:
            for _ in range(MAX_REPLY_BYTES // (1 << 20) + 64):
                await response.write(bytes(1 << 20))
        except ConnectionError:
            pass
        return response

    async with gateway_of(handler) as gateway:
        error = await refused(gateway.create(FOX, key=key()))
    assert (type(error), error.code, error.charged) == (ServiceError, UNREADABLE, "unknown")


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "rot13"])
async def test_a_body_that_cannot_be_unpacked_is_an_error_of_ours(encoding: str) -> None:
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: {encoding}\r\nContent-Length: 10\r\n\r\n".encode()
    async with gateway_saying(lambda _: head + b"0123456789") as gateway:
        error = await refused(gateway.create(FOX, key=key()))
    assert (type(error), error.charged) == (ServiceError, "unknown")


@pytest.mark.parametrize(
    "answer",
    [
        lambda head: head,
        lambda head: b"HTTP/1.1 200 OK\r\n" + head.replace(b"\r\n", b" ") + b"\r\n\r\n",
        lambda head: b"HTTP/1.1 200 OK\r\nX-Echo: " + head.replace(b"\r\n", b"\x00") + b"\r\n\r\n",
        lambda head: b"HTTP/1.1 200 OK\r\nContent-Length: " + head.replace(b"\r\n", b" ") + b"\r\n\r\n",
        lambda head: b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + head + head,
        lambda head: b"HTTP/1.1 401 " + head.replace(b"\r\n", b" ") + b"\r\nContent-Length: 0\r\n\r\n",
        lambda head: b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 100_000 + head,
        lambda head: (
            b"HTTP/1.1 500 No\r\nX-Request-Id: " + head.replace(b"\r\n", b" ") + b"\r\nContent-Length: 0\r\n\r\n"
        ),
        lambda _: b"SSH-2.0-OpenSSH_9.6\r\n",
        lambda _: b"\x15\x03\x01\x00\x02\x02\x0a",
        lambda _: b"",
        lambda _: b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
    ],
    ids=["echo", "head", "header", "length", "chunk", "reason", "long", "id", "ssh", "tls", "nothing", "short"],
)
async def test_what_is_no_http_is_an_error_of_ours_that_shows_no_key(answer: Callable[[bytes], bytes]) -> None:
    async with gateway_saying(answer) as gateway:
        for error in (await refused(gateway.create(FOX, key=key())), await refused(gateway.read("task-unified-1"))):
            assert KEY not in str(error)
            assert KEY not in repr(error)
            assert len(str(error)) < 10_000


async def test_the_cause_of_an_error_holds_no_key_for_an_error_tracker_to_record() -> None:
    async with gateway_saying(lambda _: b"SSH-2.0-OpenSSH_9.6\r\n") as gateway:
        error = await refused(gateway.read("task-unified-1"))
    assert KEY not in repr(error.__cause__)
    assert error.__suppress_context__ or KEY not in repr(error.__context__)


async def test_the_key_is_in_no_repr() -> None:
    async with open_transport("http://127.0.0.1:1", KEY, connections=1, timeouts=TimeoutPolicy()) as transport:
        assert KEY not in repr(transport)
        assert KEY not in repr(Gateway(transport))
