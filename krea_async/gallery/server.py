"""The contact sheet while a run goes on: on this machine only, for whoever has the token, and nothing can be changed.

No cookie holds the token: those of 127.0.0.1 go to every port, so another local server would be sent it. The host is
checked because a page from elsewhere may give its own name to 127.0.0.1 once it is loaded (DNS rebinding).
"""

import hmac
import io
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import anyio
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.typedefs import Handler
from anyio.abc import TaskGroup

from krea_async.gallery.album import Album
from krea_async.gallery.live import Live
from krea_async.gallery.page import content_security_policy, write_page
from krea_async.gallery.pictures import PictureFile, find_picture
from krea_async.gallery.reading import title_of
from krea_async.gallery.sheet import Sheet
from krea_async.gallery.shrink import Shrunk
from krea_async.storage.disk import in_thread
from krea_async.tasks import Signal, task_group

HOST: Final = "127.0.0.1"
TOKEN_BYTES: Final = 16
TAKE_WITHIN_S: Final = 60.0
"""How long a browser may take for one piece; after that it is let go, and may come back."""

_CLOSE_WITHIN_S: Final = 0.2  # twice: before and after what still sends is cancelled
_TYPES: Final = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}
_HEADERS: Final = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_NOTHING_RUNS: Final = "default-src 'none'; frame-ancestors 'none'; sandbox"
_NOT_KEPT: Final = {"Cache-Control": "no-store"}
_ASKED_AGAIN: Final = "private, no-cache"  # kept by the browser, which asks whether it is still good


@asynccontextmanager
async def serving(directory: Path, *, port: int = 0, tell: Callable[[str], None]) -> AsyncIterator[str]:
    """Serve the contact sheet of `directory`, which need not be there yet; gives the URL of the page, token included.

    port: 0 takes any that is free. tell: is told what goes wrong meanwhile. Raises OSError when the port cannot be had,
    and JournalError when there is a journal that cannot be read.
    """
    live = Live(directory)
    token = secrets.token_hex(TOKEN_BYTES)
    try:
        await live.open()
        async with task_group() as tasks:
            app = _GalleryApp(directory, live, token, tasks)
            runner = web.AppRunner(
                app.application, access_log=None, handler_cancellation=True, shutdown_timeout=_CLOSE_WITHIN_S
            )
            await runner.setup()
            try:
                await web.TCPSite(runner, HOST, port).start()
                app.port = runner.addresses[0][1]
                tasks.start_soon(live.follow, tell)
                yield f"http://{HOST}:{app.port}/?token={token}"
            finally:
                live.stop()
                with anyio.CancelScope(shield=True):
                    await runner.cleanup()
                tasks.cancel_scope.cancel()
    finally:
        live.close()


class _Picture(web.FileResponse):
    """That file and no other: aiohttp would rather send `picture.png.gz`, if there is one beside it."""

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        headers = request.headers.copy()
        headers.popall("Accept-Encoding", None)
        return await super().prepare(request.clone(headers=headers))


class _GalleryApp:
    """The routes. Whoever has no token learns nothing, not even which there are."""

    def __init__(self, directory: Path, live: Live, token: str, tasks: TaskGroup) -> None:
        self.port = 0
        self._directory = directory
        self._live = live
        self._token = token.encode()
        self._tasks = tasks
        self._album = Album(directory)
        self._turns = anyio.Semaphore(self._album.workers)
        self._page = ""
        self.application = web.Application(middlewares=[self._guard])
        self.application.on_response_prepare.append(_add_headers)
        self.application.router.add_get("/", self._show_page)
        self.application.router.add_get("/events", self._tell_events, allow_head=False)
        self.application.router.add_get(r"/thumbs/{n:[0-9]{1,18}}.webp", self._show_thumbnail)
        self.application.router.add_get(r"/pictures/{n:[0-9]{1,18}}/{name}", self._show_picture)

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.method not in {"GET", "HEAD"}:
            raise web.HTTPMethodNotAllowed(request.method, ["GET", "HEAD"])
        if request.headers.get("Host", "").lower() not in {f"{HOST}:{self.port}", f"localhost:{self.port}"}:
            raise web.HTTPForbidden(text="this server is for this machine only\n")
        token = request.query.get("token", "").encode(errors="replace")
        if not hmac.compare_digest(token, self._token):
            raise web.HTTPForbidden(text="the token is missing or wrong: open the URL that krea-async has printed\n")
        return await handler(request)

    async def _show_page(self, _: web.Request) -> web.Response:
        if not self._page:
            file = io.StringIO()
            write_page(file, Sheet(title=title_of(self._directory), made_at_s=round(time.time(), 3)), live=True)
            self._page = file.getvalue()
        policy = f"{content_security_policy(live=True)}; frame-ancestors 'none'"
        headers = {**_NOT_KEPT, "Content-Security-Policy": policy}
        return web.Response(text=self._page, content_type="text/html", headers=headers)

    async def _tell_events(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={**_NOT_KEPT, "Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        async with aclosing(self._live.events(request.headers.get("Last-Event-ID", ""))) as events:
            with suppress(TimeoutError, ConnectionError):
                async for event in events:
                    with anyio.fail_after(TAKE_WITHIN_S):
                        await response.write(event.encode())
        return response

    async def _show_picture(self, request: web.Request) -> web.StreamResponse:
        picture = await self._picture(int(request.match_info["n"]), request.match_info["name"])
        if picture is None:
            raise web.HTTPNotFound(text="there is no such picture\n")
        return _Picture(picture.path, headers=_headers_of(picture.path.suffix))

    async def _show_thumbnail(self, request: web.Request) -> web.StreamResponse:
        picture = await self._picture(int(request.match_info["n"]))
        if picture is None:
            raise web.HTTPNotFound(text="the picture is not there\n")
        headers = {**_headers_of(".webp"), "ETag": f'"{picture.key}"'}
        if any(tag.value == picture.key for tag in request.if_none_match or ()):
            raise web.HTTPNotModified(headers=headers)
        webp = await in_thread(lambda: self._album.find(picture))
        if webp is None:
            made = await self._made(picture)
            if made.webp is None:
                raise web.HTTPNotFound(text=f"{made.note}\n")
            webp = made.webp
        return web.Response(body=webp, headers=headers)

    async def _picture(self, n: int, name: str | None = None) -> PictureFile | None:
        """The picture of row `n`, if the journal knows one, by that name if one is given."""
        tile = await self._live.tile(n)
        file = None if tile is None else tile.file
        if file is None or name not in {None, file}:
            return None
        return await in_thread(lambda: find_picture(self._directory, file))

    async def _made(self, picture: PictureFile) -> Shrunk:
        """Make the thumbnail. Nothing is made for who goes away before his turn; what is begun is finished."""
        made: list[Shrunk] = []
        ended = Signal()

        async def make() -> None:
            try:
                if (known := await in_thread(lambda: self._album.find(picture))) is not None:
                    made.append(Shrunk(known))  # while this one waited
                else:
                    await in_thread(self._album.open)
                    made.append(await self._album.make(picture))
            finally:
                self._turns.release()
                ended.set()

        await self._turns.acquire()
        self._tasks.start_soon(make)
        await ended.wait()
        return made[0] if made else Shrunk(note="the gallery was closed")


async def _add_headers(_: web.Request, response: web.StreamResponse) -> None:
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers.setdefault("Content-Security-Policy", _NOTHING_RUNS)


def _headers_of(suffix: str) -> dict[str, str]:
    return {"Content-Type": _TYPES[suffix.lower()], "Cache-Control": _ASKED_AGAIN}
