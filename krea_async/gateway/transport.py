"""One HTTP exchange with the API: the connection pool, the time-outs, the key, aiohttp's errors in our words."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Final

import aiohttp
from attrs import field, frozen, validators
from yarl import URL

from krea_async._version import __version__
from krea_async.errors import DISK_ERROR, NO_FILE_LEFT, Charged, KreaError, ServiceError, words_of
from krea_async.gateway.replies import UNREADABLE, Reply

USER_AGENT: Final = f"krea-async/{__version__} (Python asyncio client)"
"""Honest, because the image host turns library defaults away."""

MAX_REPLY_BYTES: Final = 16 * 1024 * 1024


@frozen(kw_only=True)
class TimeoutPolicy:
    """How long one exchange may take. connect_s: until the connection stands. read_s: the longest silence."""

    connect_s: float = field(default=10.0, validator=validators.gt(0))
    read_s: float = field(default=30.0, validator=validators.gt(0))

    def as_aiohttp(self) -> aiohttp.ClientTimeout:
        """The same in aiohttp's words; the wait for a free connection of the pool is not limited."""
        return aiohttp.ClientTimeout(total=None, sock_connect=self.connect_s, sock_read=self.read_s)


class Transport:
    """The API host behind one pool of kept-alive connections. The key is in here and in no `repr`."""

    def __init__(self, http: aiohttp.ClientSession, base_url: str, api_key: str) -> None:
        self._http = http
        self._api_key = api_key
        self._base_url = base_url.rstrip("/")

    async def exchange(self, method: str, path: str, *, body: bytes | None = None, key: str | None = None) -> Reply:
        """Send one request, read the whole reply, whatever its status. `path` is quoted; `key`: the idempotency key.

        Raises ServiceError; its `charged` is "no" when the request cannot have reached the gateway, else "unknown".
        """
        headers = {"Idempotency-Key": key} if key else None
        url = URL(self._base_url + path, encoded=True)
        with translated(ServiceError, unsent="no", sent="unknown"):
            async with self._http.request(method, url, data=body, headers=headers, allow_redirects=False) as response:
                return Reply(response.status, response.headers, await _read_bounded(response), self._api_key)


@asynccontextmanager
async def open_transport(
    base_url: str, api_key: str, *, connections: int, timeouts: TimeoutPolicy
) -> AsyncIterator[Transport]:
    """A transport with room for `connections` requests at a time; its sockets are closed on leaving."""
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=connections, ttl_dns_cache=60),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={
            "Authorization": f"Bearer {api_key}",
            "Content-Type": "application/json",
            "Accept": "application/json",
            "User-Agent": USER_AGENT,
        },
        timeout=timeouts.as_aiohttp(),
    ) as http:
        yield Transport(http, base_url, api_key)


class translated:  # noqa: N801 - reads as what it does: `with translated(ServiceError, …):`
    """Gives what aiohttp raises our own name. `unsent`, `sent`: what is charged if the request never left, or did."""

    __slots__ = ("_ours", "_sent", "_unsent")

    def __init__(self, ours: type[KreaError], *, unsent: Charged, sent: Charged) -> None:
        self._ours = ours
        self._unsent: Charged = unsent
        self._sent: Charged = sent

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, _type: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        if error is None:
            return
        if isinstance(error, OSError) and error.errno in NO_FILE_LEFT:  # our own fault: no other try is better
            words = f"no connection can be opened: {words_of(error)}"
            raise self._ours(words, code=DISK_ERROR, charged=self._unsent, retryable=False) from error
        if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
            forged = isinstance(error, aiohttp.ClientSSLError)
            words = f"the host could not be reached: {_words(error)}"
            raise self._ours(words, charged=self._unsent, retryable=not forged) from error
        if isinstance(error, aiohttp.InvalidURL):
            raise self._ours("the URL cannot be read", charged=self._unsent, retryable=False) from error
        if isinstance(error, aiohttp.ClientResponseError):  # it shows the URL, the request's headers and what came
            words = "the connection broke: the reply is no HTTP"
            raise self._ours(words, charged=self._sent, retryable=True) from None
        if isinstance(error, UnicodeError):  # of a host name that no resolver takes
            words = "the host could not be reached: its name cannot be"
            raise self._ours(words, charged=self._unsent, retryable=False) from error
        if isinstance(error, aiohttp.ClientError | TimeoutError | OSError):
            words = f"the connection broke: {_words(error)}"
            raise self._ours(words, charged=self._sent, retryable=True) from error


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__


async def _read_bounded(response: aiohttp.ClientResponse) -> bytes:
    length = response.content_length
    if length is not None and length <= MAX_REPLY_BYTES and "Content-Encoding" not in response.headers:
        return await response.read()
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > MAX_REPLY_BYTES:
            raise ServiceError(
                f"the reply is larger than {MAX_REPLY_BYTES} bytes",
                status=response.status,
                code=UNREADABLE,
                charged="unknown",
            )
    return bytes(body)
