"""A small body is read in one piece: nobody waits for ever, whenever the transfer breaks and whatever is announced."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest
from until import until

from krea_async.errors import DownloadError
from krea_async.gateway.images import READ_BUFFER_BYTES, ImageStream, open_image_host
from krea_async.gateway.transport import TimeoutPolicy

pytestmark = pytest.mark.anyio

LOCAL = "http://127.0.0.1:1"


@asynccontextmanager
async def stream_of(
    head: str, body: bytes = b"", *, then: str = "stay", read_s: float = 10.0
) -> AsyncIterator[ImageStream]:
    """What a host that sends these bytes leads to. then: "close", "reset", or "stay" silent."""
    done = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 {head}\r\n\r\n".encode() + body)
        await writer.drain()
        if then == "stay":
            await done.wait()
        elif then == "reset":
            writer.transport.abort()
        writer.close()

    timeouts = TimeoutPolicy(connect_s=5.0, read_s=read_s)
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        link = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        try:
            async with open_image_host(LOCAL, connections=2, timeouts=timeouts) as host, host.open(link) as stream:
                yield stream
        finally:
            done.set()


@pytest.mark.parametrize("size_bytes", [0, 1, 200_000, READ_BUFFER_BYTES])
async def test_a_small_body_comes_whole(size_bytes: int) -> None:
    body = bytes(index % 251 for index in range(size_bytes))
    async with stream_of(f"200 OK\r\nContent-Length: {size_bytes}", body) as stream:
        assert stream.is_small
        with anyio.fail_after(10):
            assert await stream.read() == body


@pytest.mark.parametrize("then", ["close", "reset", "stay"])
@pytest.mark.parametrize("sent_bytes", [0, 99])
@pytest.mark.parametrize("late", [False, True])
async def test_a_body_that_breaks_off_is_an_error_before_and_after_somebody_waits(
    then: str, sent_bytes: int, late: bool
) -> None:
    body = bytes(sent_bytes)
    async with stream_of("200 OK\r\nContent-Length: 100", body, then=then, read_s=1.0) as stream:
        assert stream.is_small
        if late:  # the break is known before anybody reads
            await until(stream._response.content.exception)
        with anyio.fail_after(10), pytest.raises(DownloadError) as caught:
            await stream.read()
    assert caught.value.retryable


@pytest.mark.parametrize(
    "head",
    [
        "200 OK",
        f"200 OK\r\nContent-Length: {READ_BUFFER_BYTES + 1}",
        "200 OK\r\nTransfer-Encoding: chunked",
        "200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 10",
        "206 Partial Content\r\nContent-Range: bytes 0-9/10\r\nContent-Length: 99999999999",
    ],
    ids=["no length", "large", "chunked", "packed", "a range that is longer than it says"],
)
async def test_what_may_not_fit_is_not_small(head: str) -> None:
    """Reading would be paused when the buffer is full, and nobody would ever be woken."""
    async with stream_of(head, b"5\r\nhello\r\n0\r\n\r\n", then="close") as stream:
        assert not stream.is_small
