"""Image hosts that answer as they are told, and what is expected of a picture that was saved from one."""

import asyncio
import hashlib
import struct
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any

import anyio
from aiohttp import web
from aiohttp.test_utils import TestServer
from multidict import CIMultiDictProxy
from PIL import Image
from until import until

from krea_async import DownloadPolicy, RetryPolicy, TimeoutPolicy
from krea_async.gateway.images import open_image_host
from krea_async.storage.download import Downloads
from krea_async.storage.part import WRITE_BYTES, SavedPicture, Target

ETAG = '"first"'
SOON = RetryPolicy(attempts=5, first_wait_s=0.01, max_wait_s=0.02)

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Host:
    """An image host that gives its answers in turn, the last one for ever, and notes what it was asked."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.asked: list[CIMultiDictProxy[str]] = []
        self.paths: list[str] = []
        self.asked_at_s: list[float] = []
        self.link = ""
        self.part = Path()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.headers)
        self.paths.append(request.path)
        self.asked_at_s.append(asyncio.get_running_loop().time())
        return await self.answers[min(len(self.asked), len(self.answers)) - 1](request)

    @property
    def ranges(self) -> list[str | None]:
        return [headers.get("Range") for headers in self.asked]


@asynccontextmanager
async def served() -> AsyncIterator[Host]:
    host = Host()
    app = web.Application()
    app.router.add_get("/{path:.*}", host.handle)
    async with TestServer(app) as server:
        host.link = str(server.make_url("/picture.png"))
        yield host


@asynccontextmanager
async def downloads(*, read_s: float = 5.0, at_once: int = 4, **policy: Any) -> AsyncIterator[Downloads]:
    timeouts = TimeoutPolicy(connect_s=5.0, read_s=read_s)
    async with open_image_host("http://127.0.0.1", connections=16, timeouts=timeouts) as images:
        yield Downloads(images, DownloadPolicy(**{"retries": SOON, **policy}), at_once=at_once, rng=Random(1))


async def no_fresh_link() -> str:
    raise AssertionError("nobody asked for a fresh link")


async def saved(
    host: Host,
    directory: Path,
    *answers: Answer,
    stem: str = "fox",
    fresh_link: Callable[[], Awaitable[str]] = no_fresh_link,
    **options: Any,
) -> SavedPicture:
    """One picture saved as `stem` from a host that gives these answers."""
    host.answers = [*answers]
    host.part = directory / f"{stem}.part"
    async with downloads(**options) as loader:
        return await loader.save(host.link, Target(directory=directory, stem=stem), fresh_link=fresh_link)


def picture(seed: int, size_bytes: int = 0, *, form: str = "png") -> bytes:
    """A real picture of 24x16 pixels; a PNG of at least `size_bytes`, with a private chunk that nobody compresses."""
    pixels = Random(seed).randbytes(24 * 16 * 3)
    file = BytesIO()
    Image.frombytes("RGB", (24, 16), pixels).save(file, form)
    body = file.getvalue()
    if size_bytes <= len(body):
        return body
    kind_and_data = b"fiLl" + Random(-seed).randbytes(max(0, size_bytes - len(body) - 12))
    chunk = struct.pack(">I", len(kind_and_data) - 4) + kind_and_data + struct.pack(">I", zlib.crc32(kind_and_data))
    return body[:33] + chunk + body[33:]


def answer(status: int = 200, body: bytes = b"", **headers: str) -> Answer:
    """These bytes, whole, whatever is asked for."""

    async def give(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status, body=body, headers={k.replace("_", "-"): v for k, v in headers.items()})

    return give


def serving(body: bytes, *, etag: str = ETAG, upto: int | None = None, then: str = "hang up") -> Answer:
    """A host that knows ranges. `upto`: it announces all and sends only these bytes; then hangs up, or falls silent."""

    async def give(request: web.Request) -> web.StreamResponse:
        response = await begun(request, body, etag)
        await response.write(body[len(body) - (response.content_length or 0) : upto])
        if upto is not None and then == "silence":
            await until(lambda: request.transport is None or request.transport.is_closing())
        elif upto is not None and request.transport is not None:
            request.transport.close()
        return response

    return give


def breaking(host: Host, body: bytes, *, etag: str = ETAG) -> Answer:
    """Like `serving`, but hangs up after WRITE_BYTES, once they are on the disk: no byte that was received is lost."""

    async def give(request: web.Request) -> web.StreamResponse:
        response = await begun(request, body, etag)
        start = len(body) - (response.content_length or 0)
        await response.write(body[start : start + WRITE_BYTES])
        await until(lambda: host.part.exists() and host.part.stat().st_size == start + WRITE_BYTES)
        assert request.transport is not None
        request.transport.close()
        return response

    return give


async def begun(request: web.Request, body: bytes, etag: str) -> web.StreamResponse:
    """The head of an answer with the bytes of `body` that were asked for."""
    start = 0
    if "Range" in request.headers and request.headers.get("If-Range", etag) == etag:
        start = int(request.headers["Range"].removeprefix("bytes=").removesuffix("-"))
    response = web.StreamResponse(status=206 if start else 200, headers={"ETag": etag})
    if start:
        response.headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
    response.content_length = len(body) - start
    await response.prepare(request)
    return response


def chunked(body: bytes) -> Answer:
    """No Content-Length, so that nobody knows where it ought to end."""

    async def give(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"ETag": ETAG})
        response.enable_chunked_encoding()
        await response.prepare(request)
        for start in range(0, len(body), 1 << 16):
            await response.write(body[start : start + (1 << 16)])
        return response

    return give


def pausing(body: bytes, at: int, *, reached: anyio.Event, go_on: anyio.Event) -> Answer:
    """Sends `at` bytes, says so, and waits to be told to send the rest."""

    async def give(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"ETag": ETAG})
        response.content_length = len(body)
        await response.prepare(request)
        await response.write(body[:at])
        reached.set()
        await go_on.wait()
        await response.write(body[at:])
        return response

    return give


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def assert_saved(found: SavedPicture, body: bytes, directory: Path, name: str = "fox.png") -> None:
    """The picture's bytes, and only they, are in the file; what is said of them is true; nothing else is left."""
    assert found.path == directory / name
    assert found.path.read_bytes() == body
    assert (found.bytes, found.sha256) == (len(body), hashlib.sha256(body).hexdigest())
    assert (found.width, found.height) == (24, 16)
    assert not list(directory.glob("*.part"))
