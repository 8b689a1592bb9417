"""Whether a session is open, and what runs in it: leaving waits for what was begun, or ends it at once."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import anyio

from krea_async.errors import SessionClosedError

GRACE_S: Final = 0.1


class Lifetime:
    """Belongs to one session. Operations may run in any task of the session's event loop."""

    def __init__(self) -> None:
        self._open = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._running: set[anyio.CancelScope] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    def begin(self) -> None:
        """Operations are welcome from now on, in this event loop."""
        self._open = True
        self._loop = asyncio.get_running_loop()

    def check(self) -> None:
        """Raise SessionClosedError unless the session is open, and this is its event loop."""
        if not self._open:
            raise SessionClosedError("the session is not open; use it inside `async with KreaSession() as session:`")
        if running_loop() is not self._loop:
            raise SessionClosedError(
                "this session belongs to another event loop: use one session for each loop, or hand the call over with "
                "asyncio.run_coroutine_threadsafe"
            )

    @contextmanager
    def operation(self) -> Iterator[None]:
        """Something that must end before the session may. Raises SessionClosedError if the session is torn down."""
        self.check()
        with anyio.CancelScope() as scope:
            self._running.add(scope)
            self._idle.clear()
            try:
                yield
            finally:
                self._running.discard(scope)
                if not self._running:
                    self._idle.set()
        if scope.cancelled_caught:
            words = "the session was closed while this call was under way"
            raise SessionClosedError(words, charged="unknown")

    @property
    def busy(self) -> bool:
        """Whether an operation is under way."""
        return bool(self._running)

    async def drain(self) -> None:
        """Wait for the operations under way; those may begin others."""
        await self._idle.wait()

    async def end(self) -> None:
        """Let nothing new begin, give what runs a moment to leave by itself, and cancel the rest."""
        self._open = False
        with anyio.move_on_after(GRACE_S, shield=True):
            await self._idle.wait()
        for scope in self._running:
            scope.cancel()
        with anyio.CancelScope(shield=True):
            await self._idle.wait()


def running_loop() -> asyncio.AbstractEventLoop | None:
    """This thread's event loop; None: it runs none."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
