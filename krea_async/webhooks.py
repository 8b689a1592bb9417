"""Where the gateway's callbacks arrive: a hint to read a task now, which anybody may send and nobody has to believe.

A callback is not signed. So its address holds a token that nobody guesses, only the task's id is taken out of its body,
and whatever is wrong with one is answered 404, as if nothing were here. How the id is used is `Scheduler.hint`'s.
"""

import asyncio
import hmac
import json
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from hashlib import sha256
from typing import Any, Final
from urllib.parse import urlsplit

from aiohttp import ClientError, web

from krea_async.errors import InvalidRequestError
from krea_async.models import MAX_CALLBACK_URL_CHARS, ImageRequest

log = logging.getLogger(__name__)

MAX_BODY_BYTES: Final = 65_536
"""A finished task takes about one kilobyte."""

BODY_TIMEOUT_S: Final = 5.0
"""For the whole body. The gateway gives up after 10 s."""

_ID_FORM: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_TAKEN: Final = 204
_NOTHING_HERE: Final = 404
_TRY_AGAIN: Final = 503
_LARGEST_LENGTH: Final = 12
_CLOSING: Final = [(b"connection", b"close"), (b"content-length", b"0")]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Message, Receive, Send], Awaitable[None]]


class Webhooks:
    """Receives callbacks at `public_url`, and hands the id of each one's task to `notify`.

    `KreaSession.webhooks` makes one for its session. A process without that session makes its own, with the same key
    and URL, and passes the ids on: `notify` is called in the receiver's event loop and must not block. What it raises
    is logged and answered 503, so that the gateway tries again.

    public_url: as the gateway sees it; what is mounted there receives POST <public_url>/<token>. path: of that URL,
    for the mount. callback_url: with the token, which is the same in every process; a secret, if a small one: with it
    one can cause a read per task and second. Servers write it into their access logs.
    Raises InvalidRequestError for a URL that the gateway would refuse; local: as a sandbox would.
    """

    def __init__(self, public_url: str, api_key: str, notify: Callable[[str], object], *, local: bool = False) -> None:
        self._base_url = _checked(public_url, local=local)
        self._token = hmac.new(api_key.encode(), self._base_url.encode(), sha256).hexdigest()[:32]
        self._notify = notify
        self.callback_url = f"{self._base_url}/{self._token}"
        self.path = urlsplit(self._base_url).path or "/"

    def __repr__(self) -> str:
        return f"<Webhooks {self._base_url}>"

    def app(self) -> web.Application:
        """A new aiohttp application: served by itself, or `app.add_subapp(webhooks.path, webhooks.app())`."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._over_aiohttp)
        return app

    @property
    def asgi(self) -> ASGIApp:
        """The same as an ASGI application: `app.mount(webhooks.path, webhooks.asgi)`."""

        async def app(scope: Message, receive: Receive, send: Send) -> None:  # servers look for a coroutine function
            match scope["type"]:
                case "http":
                    await self._over_asgi(scope, receive, send)
                case "websocket":
                    await send({"type": "websocket.close"})
                case "lifespan":
                    await _live(receive, send)

        return app

    async def _over_aiohttp(self, request: web.Request) -> web.Response:
        length = request.headers.get("Content-Length")
        status = await self._answer(request.method, request.path, length, request.content.iter_any())
        response = web.Response(status=status)
        if status == _NOTHING_HERE:
            response.force_close()  # whatever else is on its way is not waited for
        return response

    async def _over_asgi(self, scope: Message, receive: Receive, send: Send) -> None:
        length = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"content-length"), None)
        status = await self._answer(scope["method"], scope["path"], length, _body(receive))
        headers = _CLOSING if status == _NOTHING_HERE and scope.get("http_version", "1.1").startswith("1") else []
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    async def _answer(self, method: str, path: str, length: str | None, chunks: AsyncIterator[bytes]) -> int:
        """The status. Nothing is read for those who do not know the token; only the last part of the path counts."""
        token = path.rpartition("/")[2].encode(errors="surrogateescape")
        known = hmac.compare_digest(token, self._token.encode())
        if not known or method != "POST" or not _fits(length):
            return _NOTHING_HERE
        task_id = _task_id(await _read(chunks))
        if task_id is None:
            return _NOTHING_HERE
        try:
            self._notify(task_id)
        except Exception:
            log.exception("a callback could not be passed on")
            return _TRY_AGAIN
        return _TAKEN


def _checked(public_url: str, *, local: bool) -> str:
    """`public_url` without its last slash."""
    try:
        parts = urlsplit(public_url)
        refused = not parts.netloc or parts.scheme not in {"http", "https"}
        if not local:
            ImageRequest("a callback", callback_url=public_url)  # the same rule
    except (InvalidRequestError, ValueError) as error:
        raise _refused(public_url, getattr(error, "allowed", None)) from None
    if refused or parts.query or parts.fragment or len(public_url) > MAX_CALLBACK_URL_CHARS - 33:
        raise _refused(public_url, None)
    return public_url.rstrip("/")


def _refused(public_url: str, allowed: str | None) -> InvalidRequestError:
    allowed = allowed or "a public https URL without a query, such as https://example.com/callbacks"
    shown = None if "@" in public_url else public_url  # it may hold a password
    return InvalidRequestError(f"public_url is not {allowed}", field="public_url", value=shown, allowed=allowed)


def _fits(length: str | None) -> bool:
    """Whether the announced length, if any, is one that is read."""
    return length is None or (length.isdecimal() and len(length) < _LARGEST_LENGTH and int(length) <= MAX_BODY_BYTES)


async def _read(chunks: AsyncIterator[bytes]) -> bytes:
    """The body; empty if it is too long, too slow, or broken off."""
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for chunk in chunks:
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    return b""
    except (TimeoutError, ConnectionError, ClientError, web.RequestPayloadError):
        return b""
    return bytes(body)


async def _body(receive: Receive) -> AsyncIterator[bytes]:
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionError
        yield message.get("body", b"")
        more = message.get("more_body", False)


def _task_id(body: bytes) -> str | None:
    """The only thing in a callback that is used."""
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        return None
    task_id = told.get("id") if isinstance(told, dict) else None
    return task_id if isinstance(task_id, str) and _ID_FORM.fullmatch(task_id) else None


async def _live(receive: Receive, send: Send) -> None:
    """There is nothing to start or to stop."""
    for what in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{what}.complete"})
