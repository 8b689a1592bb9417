"""The image host: nothing of ours travels there, no link is trusted, and a transfer goes on only in the same file."""

import asyncio
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from socket import AF_INET, AddressFamily

import aiohttp
import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.test_utils import RawTestServer
from hypothesis import example, given
from hypothesis import strategies as st

from krea_async.errors import DownloadError
from krea_async.gateway.client import Gateway, idempotency_keys
from krea_async.gateway.images import ImageHost, ImageStream, open_image_host
from krea_async.gateway.transport import TimeoutPolicy, open_transport
from krea_async.models import ImageRequest
from krea_async.sandbox import Fault, Sandbox

pytestmark = pytest.mark.anyio

PUBLIC = "https://api.evolink.ai"
LOCAL = "http://127.0.0.1:1"
TIMEOUTS = TimeoutPolicy(connect_s=10.0, read_s=10.0)
SECRETS = {"authorization", "proxy-authorization", "cookie", "idempotency-key", "x-api-key"}
Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def images_for(base_url: str = LOCAL) -> AsyncIterator[ImageHost]:
    async with open_image_host(base_url, connections=4, timeouts=TIMEOUTS) as images:
        yield images


class Host:
    """An image host that answers as it is told and keeps every request."""

    def __init__(self, answer: Callable[[web.BaseRequest], web.StreamResponse]) -> None:
        self.answer = answer
        self.url = ""
        self.port = 0
        self.heads: list[dict[str, str]] = []
        self.paths: list[str] = []

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        self.heads.append({name.lower(): value for name, value in request.headers.items()})
        self.paths.append(request._message.path)
        return self.answer(request)


@asynccontextmanager
async def host(answer: Callable[[web.BaseRequest], web.StreamResponse]) -> AsyncIterator[Host]:
    handler = Host(answer)
    async with RawTestServer(handler) as server:
        handler.port = server.port or 0
        handler.url = f"http://127.0.0.1:{server.port}"
        yield handler


@asynccontextmanager
async def raw_host(answer: bytes) -> AsyncIterator[str]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def picture(_: web.BaseRequest) -> web.StreamResponse:
    return web.Response(body=b"0123456789", headers={"ETag": '"v1"'})


def sent_on(to: str, status: int = 302) -> Callable[[web.BaseRequest], web.StreamResponse]:
    return lambda _: web.Response(status=status, headers={"Location": to})


async def fetched(images: ImageHost, link: str, *, offset_bytes: int = 0, etag: str | None = None) -> bytes:
    async with images.open(link, offset_bytes=offset_bytes, etag=etag) as stream:
        return b"".join([chunk async for chunk in stream.chunks()])


async def opened(images: ImageHost, link: str, *, offset_bytes: int = 0, etag: str | None = None) -> ImageStream:
    async with images.open(link, offset_bytes=offset_bytes, etag=etag) as stream:
        return stream


async def refused(call: Awaitable[object]) -> DownloadError:
    with pytest.raises(DownloadError) as caught:
        await call
    return caught.value


class Names(AbstractResolver):
    """A name server for tests: what each name resolves to. Asks no network."""

    known: dict[str, str] = {}  # noqa: RUF012

    async def resolve(self, host: str, port: int = 0, family: AddressFamily = AF_INET) -> list[ResolveResult]:
        if host not in self.known:
            raise OSError(-2, "Name or service not known")
        address = self.known[host]
        return [ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=0)]

    async def close(self) -> None:
        """There is nothing to close."""


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The names that exist: `names["host"] = "address"`."""
    known = {"api.evolink.ai": "93.184.216.34"}
    monkeypatch.setattr(Names, "known", known)
    monkeypatch.setattr(aiohttp, "DefaultResolver", Names)
    return known


# what travels


async def test_nothing_of_ours_travels_to_the_image_host_even_after_it_sets_a_cookie() -> None:
    def answer(request: web.BaseRequest) -> web.StreamResponse:
        headers = {"Set-Cookie": "sid=1; Path=/", "WWW-Authenticate": 'Basic realm="x"'}
        if request.path == "/first":
            return web.Response(status=302, headers={**headers, "Location": "/second"})
        return web.Response(body=b"x", headers={**headers, "ETag": '"v1"'})

    async with host(answer) as there, images_for() as images:
        await fetched(images, f"{there.url}/first")
        await fetched(images, f"{there.url}/first")
        await fetched(images, f"{there.url}/second", offset_bytes=1, etag='"v0"')
    assert len(there.heads) == 5
    for head in there.heads:
        assert not SECRETS & set(head)
        assert head["user-agent"].startswith("krea-async/")
        assert "referer" not in head
        assert head["accept-encoding"] == "identity"


async def test_a_link_with_a_password_sends_no_authorization() -> None:
    async with host(picture) as there, images_for() as images:
        link = there.url.replace("http://", "http://user:secret@")
        try:
            await fetched(images, f"{link}/a.png")
        except DownloadError as error:
            assert "secret" not in str(error)  # noqa: PT017
    assert all("authorization" not in head for head in there.heads)


async def test_the_sandbox_s_pictures_arrive_whole_and_nothing_leaks(sandbox: Sandbox) -> None:
    sandbox.settings.refuse_default_agents = True
    async with (
        open_transport(sandbox.url, sandbox.key, connections=2, timeouts=TIMEOUTS) as transport,
        images_for(sandbox.url) as images,
    ):
        gateway = Gateway(transport)
        task = await gateway.create(ImageRequest("a fox"), key=next(idempotency_keys()))
        link = (await gateway.read(task.id)).results[0]
        whole = await fetched(images, link)
        async with images.open(link) as stream:
            assert (stream.offset_bytes, stream.total_bytes) == (0, len(whole))
            etag = stream.etag
        assert etag is not None
        assert await fetched(images, link, offset_bytes=1000, etag=etag) == whole[1000:]
    assert whole == await sandbox.picture(task.id)
    assert sandbox.ledger.leaks == []


SIGNED = [
    "/a.png?sig=a%2Fb%2bc+d%20e~f&expires=1&X-Amz-Signature=%7E",
    "/a%2Fb/c%20d/%7Ee.png?x=1&&y=&z",
    "/a.png?u=http%3A%2F%2Fx%2F%3Fy%3Dz&v=(1)*'!,;:@/?",
    "/a/../b/./c.png?k=..",
    "//double//slash.png?a=b",
    "/a.png?",
    "/%e2%82%ac.png?%E2%82%AC=%e2%82%ac",
    "/a.png?q=%",
    "/a.png?q=%zz",
]


@pytest.mark.parametrize("path", SIGNED)
async def test_a_signed_link_arrives_byte_for_byte_as_it_was_signed(path: str) -> None:
    async with host(picture) as there, images_for() as images:
        await fetched(images, there.url + path)
    assert there.paths[0].removesuffix("?") == path.removesuffix("?")


@pytest.mark.parametrize("path", [*SIGNED[:3], *SIGNED[6:]])
@pytest.mark.parametrize("absolute", [True, False])
async def test_a_signed_link_behind_a_redirect_arrives_as_it_was_signed(path: str, absolute: bool) -> None:
    def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.path != "/go":
            return picture(request)
        return web.Response(status=302, headers={"Location": f"{there.url}{path}" if absolute else path})

    async with host(answer) as there, images_for() as images:
        await fetched(images, f"{there.url}/go")
    assert there.paths[-1] == path


# where links may lead


@pytest.mark.parametrize(
    "link",
    [
        "file:///etc/passwd",
        "ftp://files.example/a.png?sig=SIGNATURE",
        "gopher://files.example/1?SIGNATURE",
        "data:image/png;base64,AAAA",
        "//files.example/a.png?sig=SIGNATURE",
        "a.png?sig=SIGNATURE",
        "",
        "http://",
        "https:///a.png?sig=SIGNATURE",
        "http:a.png?sig=SIGNATURE",
        "http://[::1/a.png?sig=SIGNATURE",
        "http://[]/a.png?sig=SIGNATURE",
        "http://files.example:99999/a.png?sig=SIGNATURE",
        "http://files.example:port/a.png?sig=SIGNATURE",
        "http://a..b/a.png?sig=SIGNATURE",
        f"http://{'a' * 300}/a.png?sig=SIGNATURE",
        "http://xn--\udcff/a.png?sig=SIGNATURE",
        "http:// /a.png?sig=SIGNATURE",
        "http://\x00/a.png?sig=SIGNATURE",
    ],
)
async def test_a_link_that_is_none_is_refused_and_its_signature_not_shown(link: str) -> None:
    async with images_for() as images:
        error = await refused(fetched(images, link))
    assert "SIGNATURE" not in str(error)


@given(link=st.text(st.characters()) | st.from_regex(r"https?://(127\.0\.0\.1|\[::1\]|)(:[0-9a-z]{0,6})?[/?#].{0,20}"))
@example(link="http://127.0.0.1:1/\ud800")
@example(link="http://127.0.0.1:1/a\r\nX: y")
@example(link="http://[::ffff:127.0.0.1%25eth0]/")
def test_whatever_a_link_holds_it_raises_nothing_foreign_and_leads_nowhere_internal(link: str) -> None:
    async def attempt() -> None:
        async with images_for("https://93.184.216.34") as images:
            await refused(fetched(images, link))

    if "." in link.replace("127.0.0.1", ""):
        link = link.replace(".", "")  # no name that a resolver would ask the network for
    asyncio.run(attempt())


@pytest.mark.parametrize("base_url", [PUBLIC, "https://93.184.216.34", "https://[2606:2800:220:1::1]"])
async def test_no_link_leads_into_our_network_when_the_api_is_public(base_url: str, names: dict[str, str]) -> None:
    names.update({"harmless.example": "127.0.0.1", "metadata.example": "169.254.169.254"})
    async with host(picture) as there, images_for(base_url) as images:
        for name in (
            "127.0.0.1",
            "localhost",
            "127.1",
            "2130706433",
            "0x7f.1",
            "0177.0.0.1",
            "127。0。0。1",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "[64:ff9b::127.0.0.1]",
            "0.0.0.0",
            "harmless.example",
            "metadata.example",
            "localhost.",
            "x.localhost",
        ):
            error = await refused(fetched(images, f"http://{name}:{there.port}/a.png?sig=SIGNATURE"))
            assert not error.retryable, name
            assert "SIGNATURE" not in str(error)
    assert there.paths == []


async def test_an_internal_link_is_refused_even_if_the_api_s_own_name_cannot_be_resolved(names: dict[str, str]) -> None:
    names.clear()
    async with host(picture) as there, images_for(PUBLIC) as images:
        error = await refused(fetched(images, f"{there.url}/a.png"))
    assert there.paths == []
    assert error.charged == "yes"


async def test_a_public_name_may_not_hide_an_internal_address_behind_a_redirect(names: dict[str, str]) -> None:
    names["cdn.example"] = "127.0.0.1"
    async with host(picture) as inside, host(sent_on(f"{inside.url}/admin")) as outside:
        names["api.local.example"] = "127.0.0.1"
        async with images_for("https://api.local.example") as images:
            assert await fetched(images, f"http://cdn.example:{outside.port}/") == b"0123456789"
        async with images_for(PUBLIC) as images:
            await refused(fetched(images, f"http://cdn.example:{outside.port}/"))
    assert len(inside.paths) == 1


async def test_each_hop_is_checked_not_only_the_first(monkeypatch: pytest.MonkeyPatch, names: dict[str, str]) -> None:
    """The first hop is let through as a public one would be; the second leads to a literal loopback address."""
    monkeypatch.setattr("krea_async.gateway.images.is_internal_address", lambda _: False)
    names["cdn.example"] = "127.0.0.1"
    async with host(picture) as inside:
        targets = [inside.url, inside.url.replace("127.0.0.1", "localhost"), inside.url.replace("127.0.0.1", "0x7f.1")]
        for target in targets:
            async with host(sent_on(f"{target}/admin")) as outside, images_for(PUBLIC) as images:
                error = await refused(fetched(images, f"http://cdn.example:{outside.port}/"))
            assert len(outside.paths) == 1
            assert not error.retryable
    assert inside.paths == []


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
async def test_a_local_api_may_have_a_local_image_host(name: str) -> None:
    async with host(picture) as there:
        for base_url in (LOCAL, "http://localhost:1", "http://[::1]:1"):
            async with images_for(base_url) as images:
                assert await fetched(images, f"http://{name}:{there.port}/a.png") == b"0123456789"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("to", ["file:///etc/passwd", "ftp://x/y", "gopher://x/", "data:,x", "javascript:1"])
async def test_a_redirect_leads_only_to_http(status: int, to: str) -> None:
    async with host(sent_on(to, status)) as there, images_for() as images:
        error = await refused(fetched(images, f"{there.url}/a.png"))
    assert not error.retryable
    assert len(there.paths) == 1


@pytest.mark.parametrize(
    "to", ["http://files.example:99999/", "http://files.example:port/", "http://a..b/", "http://[/"]
)
async def test_a_redirect_that_cannot_be_read_is_an_error_of_ours(to: str) -> None:
    async with host(sent_on(to)) as there, images_for() as images:
        await refused(fetched(images, f"{there.url}/a.png"))


@pytest.mark.parametrize(("redirects", "arrives"), [(5, True), (6, False), (1000, False)])
async def test_five_redirects_are_followed_and_no_more(redirects: int, arrives: bool) -> None:
    def answer(request: web.BaseRequest) -> web.StreamResponse:
        left = int(request.path[1:])
        return picture(request) if left == 0 else web.Response(status=302, headers={"Location": f"/{left - 1}"})

    async with host(answer) as there, images_for() as images:
        if arrives:
            assert await fetched(images, f"{there.url}/{redirects}") == b"0123456789"
        else:
            error = await refused(fetched(images, f"{there.url}/{redirects}"))
            assert not error.retryable
    assert len(there.paths) == 6


async def test_a_redirect_without_a_target_ends() -> None:
    async with host(lambda _: web.Response(status=302)) as there, images_for() as images:
        await refused(fetched(images, f"{there.url}/a.png"))
    assert len(there.paths) <= 6


# going on where a transfer broke


async def test_a_range_is_asked_for_only_with_the_etag_that_makes_it_safe() -> None:
    async with host(picture) as there, images_for() as images:
        await opened(images, there.url, offset_bytes=4, etag='"v1"')
        await opened(images, there.url, offset_bytes=4)
        await opened(images, there.url, offset_bytes=0, etag='"v1"')
    assert (there.heads[0]["range"], there.heads[0]["if-range"]) == ("bytes=4-", '"v1"')
    for head in there.heads[1:]:
        assert not {"range", "if-range"} & set(head)


async def test_a_host_that_sends_the_whole_file_starts_over() -> None:
    async with host(picture) as there, images_for() as images:
        stream = await opened(images, there.url, offset_bytes=4, etag='"v1"')
    assert (stream.offset_bytes, stream.total_bytes) == (0, 10)


def part(content_range: str | None, *, etag: str | None = '"v1"') -> Callable[[web.BaseRequest], web.StreamResponse]:
    headers = {name: value for name, value in (("Content-Range", content_range), ("ETag", etag)) if value is not None}
    return lambda _: web.Response(status=206, body=b"456789", headers=headers)


async def test_a_host_that_resumes_says_where_and_how_much_there_is() -> None:
    async with host(part("bytes 4-9/10")) as there, images_for() as images:
        stream = await opened(images, there.url, offset_bytes=4, etag='"v1"')
    assert (stream.offset_bytes, stream.total_bytes, stream.etag) == (4, 10, '"v1"')


@pytest.mark.parametrize(
    "content_range",
    [
        None,
        "",
        "bytes 3-9/10",
        "bytes 5-9/10",
        "bytes 0-9/10",
        "bytes 4-9/*",
        "bytes */10",
        "bytes 4-9",
        "items 4-9/10",
        "bytes -4-9/10",
        "bytes 4-9/10, bytes 1-2/10",
        f"bytes {'4' * 5000}-9/10",
        f"bytes 4-9/{'1' * 5000}",
    ],
)
async def test_a_part_of_something_else_is_refused_and_asked_for_again(content_range: str | None) -> None:
    async with host(part(content_range)) as there, images_for() as images:
        error = await refused(fetched(images, there.url, offset_bytes=4, etag='"v1"'))
    assert (error.status, error.retryable) == (206, True)


async def test_a_part_of_a_file_that_has_changed_is_refused_though_the_host_ignores_if_range() -> None:
    async with host(part("bytes 4-9/10", etag='"v2"')) as there, images_for() as images:
        error = await refused(fetched(images, there.url, offset_bytes=4, etag='"v1"'))
    assert (error.status, error.retryable) == (206, True)


async def test_a_part_that_nobody_asked_for_is_refused() -> None:
    async with host(part("bytes 4-9/10")) as there, images_for() as images:
        error = await refused(fetched(images, there.url))
    assert (error.status, error.retryable) == (206, True)


@pytest.mark.parametrize("etag", ['W/"v1"', "", "v1", "*"])
async def test_a_weak_etag_is_never_used(etag: str) -> None:
    async with host(lambda _: web.Response(body=b"x", headers={"ETag": etag})) as there, images_for() as images:
        assert (await opened(images, there.url)).etag is None


async def test_a_packed_body_has_no_length_and_no_etag_to_go_on_with() -> None:
    headers = {"ETag": '"v1"', "Content-Encoding": "deflate"}
    packed = zlib.compress(b"0123456789")
    async with host(lambda _: web.Response(body=packed, headers=headers)) as there, images_for() as images:
        stream = await opened(images, there.url)
    assert (stream.total_bytes, stream.etag) == (None, None)


# refusals and broken transfers


@pytest.mark.parametrize(
    ("status", "retryable"),
    [
        *((status, False) for status in (204, 304, 400, 401, 403, 404, 410, 451)),
        *((status, True) for status in (206, 408, 416, 425, 429, 500, 502, 503)),
    ],
)
async def test_a_refusal_says_the_status_and_whether_to_try_again(status: int, retryable: bool) -> None:
    headers = {"x-request-id": "req-1", "Retry-After": "2.5"}
    async with host(lambda _: web.Response(status=status, headers=headers)) as there, images_for() as images:
        error = await refused(fetched(images, f"{there.url}/a.png?sig=SIGNATURE"))
    assert (error.status, error.retryable, error.request_id) == (status, retryable, "req-1")
    assert (error.retry_after_s, error.charged) == (2.5, "yes")
    assert "SIGNATURE" not in str(error)


@pytest.mark.parametrize("fault", ["drop", "truncated", Fault("truncated", at_bytes=0)])
async def test_a_transfer_that_breaks_is_retryable(sandbox: Sandbox, fault: str | Fault) -> None:
    async with (
        open_transport(sandbox.url, sandbox.key, connections=2, timeouts=TIMEOUTS) as transport,
        images_for(sandbox.url) as images,
    ):
        gateway = Gateway(transport)
        task = await gateway.create(ImageRequest("a fox"), key=next(idempotency_keys()))
        link = (await gateway.read(task.id)).results[0]
        sandbox.script("image", fault, fault)  # twice, because aiohttp repeats a lost GET
        error = await refused(fetched(images, link))
    assert (error.retryable, error.charged) == (True, "yes")


async def test_a_picture_that_stalls_is_retryable() -> None:
    async def stall(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"0123")
        await asyncio.Event().wait()
        return response

    async with RawTestServer(stall) as server:
        timeouts = TimeoutPolicy(connect_s=10.0, read_s=0.1)
        async with open_image_host(LOCAL, connections=1, timeouts=timeouts) as images:
            error = await refused(fetched(images, f"http://127.0.0.1:{server.port}/"))
    assert error.retryable


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\x15\x03\x01\x00\x02\x02\x0a",
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 10\r\n\r\n0123456789",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
    ids=["ssh", "tls", "nothing", "length", "long", "short", "gzip", "chunk"],
)
async def test_what_is_no_http_is_an_error_of_ours_that_shows_no_signature(answer: bytes) -> None:
    async with raw_host(answer) as url, images_for() as images:
        error = await refused(fetched(images, f"{url}/a.png?sig=SIGNATURE"))
    assert error.retryable
    assert "SIGNATURE" not in str(error)
