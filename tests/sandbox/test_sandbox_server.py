import asyncio
import json
import socket
import time
from contextlib import suppress

import anyio
import anyio.lowlevel
import pytest
from until import until

from krea_async.sandbox import Durations, Fault, Faults, Limits, Sandbox

pytestmark = pytest.mark.anyio


async def test_the_sandbox_stops_within_a_second_whatever_is_stalled() -> None:
    """The clients are still there, waiting, and find their connections closed."""
    body = json.dumps({"model": "krea-2-turbo", "prompt": "x", "callback_url": "http://127.0.0.1:1/"}).encode()
    head = f"POST /v1/images/generations HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
    head += "Authorization: Bearer sk-evo-sandbox\r\n\r\n"
    faults = [Fault("stalled", at_bytes=0), Fault("stalled", at_bytes=9), Fault("slow", wait_s=60.0), Fault("ok")]
    streams = []
    async with Sandbox(durations=Durations.fixed(600.0), allow_local_callbacks=True) as sandbox:
        sandbox.script("create", *faults)
        port = int(sandbox.url.rpartition(":")[2])
        for _ in faults:
            streams.append(await anyio.connect_tcp("127.0.0.1", port))
            await streams[-1].send(head.encode() + body)
        with anyio.fail_after(5):
            while sandbox.ledger.requests["create"] < len(faults):
                await anyio.lowlevel.checkpoint()
        began = time.perf_counter()
    assert time.perf_counter() - began < 1.0
    for stream in streams:
        with anyio.fail_after(1), suppress(anyio.BrokenResourceError):
            async for _ in stream:
                pass
        await stream.aclose()


async def test_a_sandbox_that_is_not_open_has_no_url() -> None:
    with pytest.raises(RuntimeError, match="not open"):
        _ = Sandbox().url


def unasked_for_port() -> int:
    """One that the system gives to nobody who asks for any port."""
    for port in range(20_000, 30_000):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


async def test_ports_may_be_chosen_and_are_free_again_afterwards() -> None:
    port = unasked_for_port()
    for _ in range(2):
        async with Sandbox(port=port) as sandbox:
            assert sandbox.url == f"http://127.0.0.1:{port}"
            assert sandbox.image_url.startswith("http://127.0.0.1:")
            assert sandbox.image_url != sandbox.url


async def test_a_port_in_use_is_an_error_that_leaves_nothing_open() -> None:
    async with Sandbox() as sandbox:
        port = int(sandbox.url.rpartition(":")[2])
        with pytest.raises(OSError, match="in use"):
            await Sandbox(port=port).__aenter__()


async def test_the_callers_exception_comes_out_as_it_is() -> None:
    with pytest.raises(ZeroDivisionError):
        async with Sandbox():
            raise ZeroDivisionError


async def test_a_cancelled_sandbox_closes_its_ports() -> None:
    async def sleep_inside() -> None:
        async with Sandbox() as sandbox:
            ports.append(int(sandbox.url.rpartition(":")[2]))
            await anyio.sleep_forever()

    async def is_closed(port: int) -> None:
        with pytest.raises(OSError, match="connection"):
            await anyio.connect_tcp("127.0.0.1", port)

    ports: list[int] = []
    async with anyio.create_task_group() as group:
        group.start_soon(sleep_inside)
        await until(lambda: len(ports) == 1)
        group.cancel_scope.cancel()
    await is_closed(ports[0])
    inside = asyncio.ensure_future(sleep_inside())
    await until(lambda: len(ports) == 2)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(inside, 0.05)
    await is_closed(ports[1])


async def test_a_body_that_ends_early_makes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    head = "POST /v1/images/generations HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n"
    head += "Authorization: Bearer sk-evo-sandbox\r\n\r\n{"
    async with Sandbox() as sandbox:
        stream = await anyio.connect_tcp("127.0.0.1", int(sandbox.url.rpartition(":")[2]))
        await stream.send(head.encode())
        with anyio.fail_after(5):
            while not sandbox.ledger.requests["create"]:
                await anyio.lowlevel.checkpoint()
            await stream.aclose()
            while not sandbox.ledger.statuses["create", 400]:
                await anyio.lowlevel.checkpoint()
        assert not sandbox.ledger.tasks
    assert not caplog.records


async def test_settings_change_while_it_runs() -> None:
    async with Sandbox() as sandbox:
        sandbox.durations = Durations.fixed(2.0)
        sandbox.limits = Limits(unfinished=1)
        sandbox.faults = Faults(error=1.0)
        settings = sandbox.settings
        assert (settings.durations, settings.limits, settings.faults) == (
            sandbox.durations,
            sandbox.limits,
            sandbox.faults,
        )
