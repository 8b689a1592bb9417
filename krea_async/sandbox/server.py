"""The sandbox itself: builds the parts, opens two loopback ports, and closes everything within a second."""

import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from random import Random
from types import TracebackType
from typing import Any, Self

import aiohttp
import anyio
from aiohttp import web

from krea_async.sandbox.account import Account
from krea_async.sandbox.album import Album
from krea_async.sandbox.callbacks import CallbackDesk
from krea_async.sandbox.faults import Dice, Fault, Faults
from krea_async.sandbox.gateway_app import GatewayApp
from krea_async.sandbox.image_app import ImageApp
from krea_async.sandbox.ledger import Ledger
from krea_async.sandbox.links import Links
from krea_async.sandbox.settings import Durations, Limits, Settings
from krea_async.sandbox.wire import Wire

_SHUTDOWN_S = 0.3  # what handlers get to finish once every wait has been ended
_BACKLOG = 1024

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Sandbox:
    """A local EvoLink gateway on loopback: `async with Sandbox() as sandbox: … sandbox.url …`. Opened once.

    port, image_port: 0 takes any free one. key: the only accepted one; None accepts any. credits: the balance at the
    start; None: unlimited. scenes: at most this many distinct drawings for each pixel size, drawn once and kept, for
    load tests; None: every (prompt, seed) has its own. picture_bytes: pad every picture to this size. batch_route,
    list_route: False: these routes answer 404. idempotency: False: the header is ignored. link_life_s: how long picture
    links are good. allow_local_callbacks: http and internal callback URLs are accepted. callback_waits_s: the pauses
    before a refused callback is tried again. refuse_default_agents: the image host turns away the default User-Agents
    of libraries. seed: of every random decision. clock: Unix seconds, never going back.

    `settings` holds those that may be changed while it runs; durations, limits and faults also by their own names.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        image_port: int = 0,
        host: str = "127.0.0.1",
        key: str | None = "sk-evo-sandbox",
        credits: float | None = 1_000.0,  # noqa: A002 - the API's word
        durations: Durations | None = None,
        limits: Limits | None = None,
        faults: Faults | None = None,
        picture_bytes: int | None = None,
        scenes: int | None = None,
        batch_route: bool = True,
        list_route: bool = True,
        idempotency: bool = True,
        link_life_s: float = 86_400.0,
        allow_local_callbacks: bool = False,
        callback_waits_s: tuple[float, ...] = (1.0, 2.0, 4.0),
        refuse_default_agents: bool = False,
        seed: int = 0,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.settings = Settings(
            key=key,
            durations=durations or Durations(),
            limits=limits or Limits(),
            faults=faults or Faults(),
            batch_route=batch_route,
            list_route=list_route,
            idempotency=idempotency,
            link_life_s=link_life_s,
            allow_local_callbacks=allow_local_callbacks,
            callback_waits_s=callback_waits_s,
            refuse_default_agents=refuse_default_agents,
        )
        self._host, self._port, self._image_port = host, port, image_port
        self._clock = clock or _steady_clock()
        rng = Random(seed)
        self._dice = Dice(rng)
        self._account = Account(credits, self.settings, rng)
        self._links = Links(self.settings, rng.randbytes(16))
        self._album = Album(scenes=scenes, picture_bytes=picture_bytes)
        self._url = ""
        self._stack = AsyncExitStack()
        self.ledger = Ledger(self._account, self._clock)

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def _start(self) -> None:
        """Build and open everything, from what closes last to what closes first."""
        http = aiohttp.ClientSession()
        self._stack.push_async_callback(_surely, http.close)
        group = await self._stack.enter_async_context(anyio.create_task_group())
        self._stack.callback(group.cancel_scope.cancel)
        stopping = anyio.Event()
        shared: dict[str, Any] = {
            "settings": self.settings,
            "account": self._account,
            "ledger": self.ledger,
            "links": self._links,
            "clock": self._clock,
        }
        faulty = {**shared, "dice": self._dice, "wire": Wire(stopping)}
        callbacks = CallbackDesk(**shared, http=http, group=group)
        self._links.base = await self._open(ImageApp(**faulty, album=self._album), self._image_port)
        self._url = await self._open(GatewayApp(**faulty, callbacks=callbacks), self._port)
        self._stack.callback(stopping.set)

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # the task group is not shown the caller's exception: it would come back wrapped in an exception group
        await self._stack.aclose()

    async def _open(self, handler: Handler, port: int) -> str:
        runner = web.ServerRunner(web.Server(handler, access_log=None), shutdown_timeout=_SHUTDOWN_S)
        await runner.setup()
        self._stack.push_async_callback(_surely, runner.cleanup)
        await web.TCPSite(runner, self._host, port, backlog=_BACKLOG).start()
        return f"http://{self._host}:{runner.addresses[0][1]}"

    @property
    def url(self) -> str:
        """The API's base URL."""
        return self._opened(self._url)

    @property
    def image_url(self) -> str:
        """The image host's base URL."""
        return self._opened(self._links.base)

    @property
    def key(self) -> str:
        """An API key that is accepted."""
        return self.settings.key or "sk-evo-any"

    @property
    def durations(self) -> Durations:
        """How long the tasks to come will take."""
        return self.settings.durations

    @durations.setter
    def durations(self, durations: Durations) -> None:
        self.settings.durations = durations

    @property
    def limits(self) -> Limits:
        """When requests are answered 429."""
        return self.settings.limits

    @limits.setter
    def limits(self, limits: Limits) -> None:
        self.settings.limits = limits

    @property
    def faults(self) -> Faults:
        """How probable each fault is."""
        return self.settings.faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        self.settings.faults = faults

    def script(self, route: str, *faults: str | tuple[str, Any] | Fault) -> None:
        """Let these faults strike the next requests of `route`, in this order, before probabilities apply.

        Routes: "create", "read", "batch", "list", "credits", "image". A fault is a name ("ok": none), a name with its
        value (("status", 503), ("fail", "content_policy_violation")), or a `Fault`. Raises ValueError for unknown ones.
        """
        self._dice.script(route, *faults)

    def forget(self, task_id: str) -> None:
        """Let the gateway answer 404 for this task from now on, as for an expired one. The ledger keeps it."""
        self._account.tasks[task_id].forgotten = True

    async def picture(self, task_id: str) -> bytes:
        """The PNG of a task, as the image host serves it; drawn now if nobody has fetched it yet."""
        return await self._album.picture(self._account.tasks[task_id])

    def _opened(self, url: str) -> str:
        if not url:
            raise RuntimeError("the sandbox is not open: use it inside `async with Sandbox() as sandbox:`")
        return url


async def _surely(close: Callable[[], Awaitable[None]]) -> None:
    """Close even while being cancelled. Bounded: `_SHUTDOWN_S` for a server, nothing to wait for in a client."""
    with anyio.CancelScope(shield=True):
        await close()


def _steady_clock() -> Callable[[], float]:
    """Unix seconds that never go back, whatever happens to the machine's clock."""
    offset_s = time.time() - time.monotonic()
    return lambda: offset_s + time.monotonic()
