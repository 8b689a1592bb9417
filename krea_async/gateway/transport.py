"""One HTTP exchange with the API: the connection pool, the time-outs, the key, aiohttp's errors in our words."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

import aiohttp
from attrs import field, frozen, validators
from yarl import URL

from krea_async._version import __version__
from krea_async.errors import Charged, KreaError, ServiceError
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
        """The same in aiohttp's words; waiting for a free connection of the pool is not limited."""
        return aiohttp.ClientTimeout(total=None, sock_connect=self.connect_s, sock_read=self.read_s)


class Transport:
    """The API host behind one pool of kept-alive connections. The key is in here and in no `repr`."""

    def __init__(self, http: aiohttp.ClientSession, base_url: str, api_key: str) -> None:
        self._http = http
        self._api_key = api_key
        self._base_url = base_url.rstrip("/")
        self.exchanges = 0

    async def exchange(self, method: str, path: str, *, body: bytes | None = None, key: str | None = None) -> Reply:
        """Send one request, read the whole reply, whatever its status. `path` is quoted; `key`: the idempotency key.

        Raises ServiceError; its `charged` is "no" when the request cannot have reached the gateway, else "unknown".
        """
        self.exchanges += 1
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


@contextmanager
def translated(ours: type[KreaError], *, unsent: Charged, sent: Charged) -> Iterator[None]:
    """Give what aiohttp raises our own name. `unsent`, `sent`: what is charged if the request never left, or did."""
    try:
        yield
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
        forged = isinstance(error, aiohttp.ClientSSLError)
        raise ours(f"the host could not be reached: {_words(error)}", charged=unsent, retryable=not forged) from error
    except aiohttp.InvalidURL as error:
        raise ours("the URL cannot be read", charged=unsent, retryable=False) from error
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise ours(f"the connection broke: {_words(error)}", charged=sent, retryable=True) from error


def _words(error: Exception) -> str:
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
                f"the reply is larger than {MAX_REPLY_BYTES} bytes", status=response.status, code=UNREADABLE
            )
    return bytes(body)
