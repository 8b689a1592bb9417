"""The image host: checks links, serves pictures whole or in ranges, and notes every secret that was sent here."""

import re
from collections.abc import Callable
from email.utils import formatdate
from typing import Final

from aiohttp import web

from krea_async.sandbox import ranges
from krea_async.sandbox.account import Account
from krea_async.sandbox.album import Album
from krea_async.sandbox.faults import Dice, Fault
from krea_async.sandbox.ledger import Ledger
from krea_async.sandbox.links import Links
from krea_async.sandbox.replies import HTML, Reply, failed
from krea_async.sandbox.settings import Settings
from krea_async.sandbox.tasks import TaskRecord
from krea_async.sandbox.wire import Wire

_PATH: Final = re.compile(r"/images/(task-unified-[a-z0-9-]+)\.png")
_SECRETS: Final = frozenset({"authorization", "proxy-authorization", "cookie", "idempotency-key", "x-api-key"})
_DEFAULT_AGENTS: Final = ("python/", "python-requests", "aiohttp/")
_CHALLENGE: Final = b"<!doctype html><html><head><title>Just a moment...</title></head><body></body></html>\n"
_CUTTING: Final = frozenset({"truncated", "stalled", "short"})
_LINK_ENDS: Final = {"expired": 403, "gone": 410}


class ImageApp:
    """Answers every request of the image port; an aiohttp low-level handler."""

    def __init__(
        self,
        *,
        settings: Settings,
        account: Account,
        ledger: Ledger,
        dice: Dice,
        links: Links,
        album: Album,
        wire: Wire,
        clock: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._account = account
        self._ledger = ledger
        self._dice = dice
        self._links = links
        self._album = album
        self._wire = wire
        self._clock = clock

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """One request, one answer (or less, if a fault so wishes)."""
        self._ledger.requests["image"] += 1
        self._note_leaks(request)
        faults = self._settings.faults
        fault = self._dice.next_fault("image", faults) or Fault("ok")
        if fault.name == "drop":
            self._ledger.statuses["image", 0] += 1
            return self._wire.hang_up(request)
        if fault.name == "slow":
            await self._wire.pause(faults.slow_s if fault.wait_s is None else fault.wait_s)
        reply = await self._reply(request, fault)
        self._ledger.statuses["image", reply.status] += 1
        if fault.name in {"truncated", "stalled"}:
            at_bytes = self._cut(fault, 0, len(reply.body))
            self._ledger.picture_bytes += at_bytes
            silent_s = faults.stall_s if fault.name == "stalled" else 0.0
            return await self._wire.part(request, reply, at_bytes, silent_s)
        if reply.status < 300:
            self._ledger.picture_bytes += len(reply.body)
        return self._wire.whole(reply)

    async def _reply(self, request: web.BaseRequest, fault: Fault) -> Reply:
        now = self._clock()
        match = _PATH.fullmatch(request.path)
        task = self._account.find(match[1]) if match else None
        if task is None or task.status(now) != "completed":
            return _words(404, "Not Found")
        if fault.name in _LINK_ENDS:
            self._links.kill(task, request.query.get("sig", ""), _LINK_ENDS[fault.name])
        if (refusal := self._refusal(request, task, now)) is not None:
            return refusal
        match fault.name:
            case "error" | "status":
                return failed(fault, self._dice.rng)
            case "wrong_type":
                return Reply(200, _CHALLENGE, HTML)
            case "empty":
                return Reply(200, b"", "image/png")
            case _:
                return await self._picture(request, task, fault)

    def _refusal(self, request: web.BaseRequest, task: TaskRecord, now: float) -> Reply | None:
        agent = request.headers.get("User-Agent", "").lower()
        if self._settings.refuse_default_agents and (not agent or agent.startswith(_DEFAULT_AGENTS)):
            return _words(403, "error code: 1010")
        if request.method not in {"GET", "HEAD"}:
            return _words(405, "Method Not Allowed")
        status = self._links.refusal(task, request.query.get("expires", ""), request.query.get("sig", ""), now)
        return None if status is None else _words(status, "The link is no longer good")

    async def _picture(self, request: web.BaseRequest, task: TaskRecord, fault: Fault) -> Reply:
        file = await self._album.picture(task)
        facts = {
            "ETag": f'"{self._album.name(task)}"',
            "Last-Modified": formatdate(int(task.finishes), usegmt=True),
            "Accept-Ranges": "bytes",
        }
        stretch = ranges.wanted(request.headers, len(file), facts)
        if fault.name == "short":  # to the client, the file simply ends there
            file = file[: self._cut(fault, stretch.start, stretch.stop)]
        elif stretch.stop == len(file) and fault.name not in _CUTTING and request.method == "GET":
            task.fetched += 1
        return stretch.reply(file, facts)

    def _cut(self, fault: Fault, start: int, stop: int) -> int:
        """Where to cut the bytes [start, stop): at the scripted place, else at a drawn one; always before the end."""
        if fault.at_bytes is not None:
            return min(fault.at_bytes, max(0, stop - 1))
        return self._dice.rng.randrange(start + 1, stop) if stop - start > 1 else start

    def _note_leaks(self, request: web.BaseRequest) -> None:
        key = self._settings.key
        place = f"{request.method} {request.path}"
        for name, value in request.headers.items():
            if name.lower() in _SECRETS or (key and key in value):
                self._ledger.leaks.append(f"{name} in {place}")
        if key and key in request.path_qs:
            self._ledger.leaks.append(f"the key in the URL of {place}")


def _words(status: int, text: str) -> Reply:
    return Reply(status, text.encode(), "text/plain")
