"""One `KreaSession` for a framework that has a start-up and a shut-down hook instead of a block to wrap.

A session is entered and left in one task; worker frameworks often run their two hooks in different ones. So a task of
its own holds it open in between.
"""

import asyncio

import anyio

from krea_async import KreaSession

DRAIN_S = 25.0
"""What pictures under way get to finish after a SIGTERM; stay below the platform's own patience (Kubernetes: 30 s)."""


class HeldSession:
    """`await open()` in the start-up hook, `await close()` in the shut-down hook, `session` in between."""

    session: KreaSession

    async def open(self) -> None:
        """Open the session. Raises what KreaSession raises, such as AuthenticationError without a key."""
        self._opened, self._closing = asyncio.Event(), asyncio.Event()
        self._holder = asyncio.create_task(self._hold())
        opened = asyncio.create_task(self._opened.wait())
        await asyncio.wait({self._holder, opened}, return_when=asyncio.FIRST_COMPLETED)
        opened.cancel()
        if self._holder.done():
            await self._holder

    async def close(self) -> None:
        """Wait for what is under way, for DRAIN_S at the most; what is left goes on at the gateway."""
        self._closing.set()
        await self._holder

    async def _hold(self) -> None:
        with anyio.CancelScope() as drain:
            async with KreaSession() as self.session:
                self._opened.set()
                await self._closing.wait()
                drain.deadline = anyio.current_time() + DRAIN_S
