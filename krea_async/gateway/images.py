"""The image host: a second client that carries no key, no cookie and no idempotency key, and trusts no link.

A link comes out of a reply, so it may point anywhere. Only http(s) is followed, at most five redirects, and never into
our own network, neither by an address in the link nor by what its host name resolves to.
"""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address
from socket import AddressFamily
from typing import Final

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from attrs import field, frozen
from yarl import URL

from krea_async.addresses import as_address, is_internal_address, is_internal_host
from krea_async.errors import DownloadError
from krea_async.gateway.refusals import RETRYABLE_STATUSES
from krea_async.gateway.retry_after import retry_after_s
from krea_async.gateway.transport import USER_AGENT, TimeoutPolicy, translated

MAX_REDIRECTS: Final = 5
READ_BUFFER_BYTES: Final = 256 * 1024
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_STARTS_OVER: Final = frozenset({206, 416})
_CONTENT_RANGE: Final = re.compile(r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18})")


@frozen(kw_only=True)
class ImageStream:
    """A picture on its way. offset_bytes: where in the file the bytes begin, 0 unless the host resumed.

    total_bytes: the size of the whole file, None if the host does not say. etag: a strong one, or None.
    is_small: what comes is known to fit the buffer, so `read` may take it in one piece.
    """

    offset_bytes: int
    total_bytes: int | None
    etag: str | None
    is_small: bool
    _response: aiohttp.ClientResponse = field(repr=False)

    async def read(self) -> bytes:
        """All bytes at once, of a small body only: nobody is woken before the last one is here. Raises as `chunks`."""
        content = self._response.content
        with translated(DownloadError, unsent="yes", sent="yes"):
            if (broken := content.exception()) is not None:  # before anybody waited: nobody would be told
                raise broken
            await content.wait_eof()
            return content.read_nowait()

    async def chunks(self) -> AsyncIterator[bytes]:
        """The bytes as they come. Raises DownloadError, retryable, when the transfer breaks or stalls."""
        with translated(DownloadError, unsent="yes", sent="yes"):
            while True:
                chunk, is_end_of_chunk = await self._response.content.readchunk()  # what came, not joined, not copied
                if chunk:
                    yield chunk
                elif not is_end_of_chunk:
                    return


class ImageHost:
    """Opens picture links."""

    def __init__(self, http: aiohttp.ClientSession, resolver: "_PublicResolver") -> None:
        self._http = http
        self._resolver = resolver
        self.calls = 0

    @asynccontextmanager
    async def open(self, link: str, *, offset_bytes: int = 0, etag: str | None = None) -> AsyncIterator[ImageStream]:
        """The picture behind `link`, from `offset_bytes` on if the host still has the file that `etag` names.

        Raises DownloadError; `status` is what the host answered. Retryable: broken connections, 408, 425, 429, 5xx, and
        206 or 416 when the host cannot go on from there.
        """
        headers = {"Range": f"bytes={offset_bytes}-", "If-Range": etag} if offset_bytes and etag else {}
        url = _readable(link)
        for _ in range(MAX_REDIRECTS + 1):
            await self._check(url)
            self.calls += 1
            with translated(DownloadError, unsent="yes", sent="yes"):
                response = await self._http.get(url, headers=headers, allow_redirects=False)
            async with response:
                if response.status not in _REDIRECTS:
                    yield _stream(response, offset_bytes, etag)
                    return
                url = _joined(url, response.headers.get("Location", ""))
        raise DownloadError(f"the picture's link leads through more than {MAX_REDIRECTS} redirects", retryable=False)

    async def _check(self, url: URL) -> None:
        if url.scheme not in {"http", "https"} or not url.host or url.user is not None or url.password is not None:
            raise DownloadError(f"the picture's link is no http(s) link: {_shown(url)}", retryable=False)
        if is_internal_host(url.host):
            with translated(DownloadError, unsent="yes", sent="yes"):
                allowed = await self._resolver.allows_internal()
            if not allowed:
                raise _internal(url.host)


@asynccontextmanager
async def open_image_host(base_url: str, *, connections: int, timeouts: TimeoutPolicy) -> AsyncIterator[ImageHost]:
    """An image host client; links into the internal network are followed only if the API itself is in there."""
    resolver = _PublicResolver(URL(base_url).host or "")
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=connections, resolver=resolver, ttl_dns_cache=60),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": USER_AGENT, "Accept": "image/*,*/*;q=0.5", "Accept-Encoding": "identity"},
        timeout=timeouts.as_aiohttp(),
        read_bufsize=READ_BUFFER_BYTES,
    ) as http:
        yield ImageHost(http, resolver)


class _PublicResolver(AbstractResolver):
    """Resolves names to public addresses only, so that a name cannot lead where its address would not be let."""

    def __init__(self, api_host: str) -> None:
        self._inner = aiohttp.DefaultResolver()
        self._api_host = api_host
        self._allows_internal: bool | None = True if is_internal_host(api_host) else None

    async def allows_internal(self) -> bool:
        """Whether the API itself is internal; asked of the resolver at most once, and only when it matters."""
        if self._allows_internal is None:
            answers = await self._inner.resolve(self._api_host) if as_address(self._api_host) is None else []
            self._allows_internal = any(is_internal_address(ip_address(answer["host"])) for answer in answers)
        return self._allows_internal

    async def resolve(
        self, host: str, port: int = 0, family: AddressFamily = AddressFamily.AF_UNSPEC
    ) -> list[ResolveResult]:
        answers = await self._inner.resolve(host, port, family)
        public = [answer for answer in answers if not is_internal_address(ip_address(answer["host"]))]
        if len(public) < len(answers) and await self.allows_internal():
            return answers
        if not public:
            raise _internal(host)
        return public

    async def close(self) -> None:
        await self._inner.close()


def _refusal(response: aiohttp.ClientResponse) -> DownloadError:
    return DownloadError(
        f"the image host answered {response.status} {response.reason or ''}".rstrip(),
        status=response.status,
        request_id=response.headers.get("x-request-id"),
        retryable=response.status in RETRYABLE_STATUSES or response.status in _STARTS_OVER,
        retry_after_s=retry_after_s(response.headers, ""),
    )


def _stream(response: aiohttp.ClientResponse, wanted_offset_bytes: int, wanted_etag: str | None) -> ImageStream:
    plain = "Content-Encoding" not in response.headers
    length = response.content_length if plain else None
    offset_bytes = 0
    if response.status == 206:
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        changed = response.headers.get("ETag", wanted_etag) != wanted_etag  # a host that ignores If-Range
        if match is None or int(match[1]) != wanted_offset_bytes or (wanted_offset_bytes and changed):
            raise _refusal(response)
        offset_bytes, length = wanted_offset_bytes, int(match[2])
    elif response.status != 200:
        raise _refusal(response)
    etag = response.headers.get("ETag", "")
    body_bytes = None if "Transfer-Encoding" in response.headers else response.content_length
    return ImageStream(
        offset_bytes=offset_bytes,
        total_bytes=length,
        etag=etag if plain and etag.startswith('"') else None,
        is_small=plain and body_bytes is not None and body_bytes <= READ_BUFFER_BYTES,
        response=response,
    )


def _readable(link: str) -> URL:
    try:
        url = URL(link, encoded=link.isascii() and " " not in link)  # a signed link must arrive as it was signed
        _ = url.host, url.port  # read late by yarl
    except ValueError:
        raise DownloadError("the picture's link cannot be read", retryable=False) from None
    return url


def _joined(url: URL, location: str) -> URL:
    return _readable(str(url.join(_readable(location))))


def _shown(url: URL) -> str:
    return (str(url.with_query(None).with_user(None)) if url.is_absolute() else str(url).partition("?")[0])[:200]


def _internal(host: str) -> DownloadError:
    return DownloadError(
        f"the picture's link leads to an internal address ({host}), and the API is not internal", retryable=False
    )
