"""The sending of answers, whole or not: what aiohttp's handlers return, and the ways a connection can let one down."""

import itertools

import anyio
from aiohttp import hdrs, web

from krea_async.sandbox.replies import Reply

_LOOK_EVERY_S = 0.05  # how soon a waiting handler notices that its client has left


class Wire:
    """Sends. `stopping`, once set, ends every wait, so that the server stops promptly."""

    def __init__(self, stopping: anyio.Event) -> None:
        self._stopping = stopping
        self._numbers = itertools.count(1)

    def whole(self, reply: Reply) -> web.Response:
        """The answer as it should be, with its `x-request-id`."""
        return web.Response(status=reply.status, body=reply.body, headers=self._headers(reply))

    def hang_up(self, request: web.BaseRequest) -> web.StreamResponse:
        """No answer at all: the connection closes."""
        if request.transport is not None:
            request.transport.close()
        return web.Response(status=500)  # aiohttp wants one; it finds the connection closed

    async def part(self, request: web.BaseRequest, reply: Reply, at_bytes: int, silent_s: float) -> web.StreamResponse:
        """The true Content-Length, `at_bytes` of the body, silence for `silent_s`; then the connection closes."""
        response = web.StreamResponse(status=reply.status, headers=self._headers(reply))
        response.content_length = len(reply.body)
        await response.prepare(request)
        await response.write(reply.body[:at_bytes])
        if silent_s:
            await self.pause(silent_s, request)
        self.hang_up(request)
        return response

    async def pause(self, for_s: float, request: web.BaseRequest | None = None) -> None:
        """Wait `for_s`, or until the server stops, or until the client of `request`, if that is given, has left."""
        with anyio.move_on_after(for_s):
            while request is None or (request.transport is not None and not request.transport.is_closing()):
                with anyio.move_on_after(_LOOK_EVERY_S):
                    await self._stopping.wait()
                    return

    def _headers(self, reply: Reply) -> dict[str, str]:
        return {
            **reply.headers,
            hdrs.CONTENT_TYPE: reply.content_type,
            "x-request-id": f"sandbox-{next(self._numbers):08x}",
        }
