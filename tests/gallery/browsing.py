"""A browser's side of the live gallery, as far as Python can be one: requests with the token, and the events."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import aiohttp
import anyio
from attrs import define, field

from krea_async.gallery.server import serving

Event = tuple[str, str, Any]
"""Name, id, data."""


@define(eq=False)
class Visitor:
    """Whoever opened the URL that was printed."""

    http: aiohttp.ClientSession
    base: str
    token: str
    said: list[str] = field(factory=list)

    @classmethod
    def of(cls, http: aiohttp.ClientSession, url: str) -> Self:
        parts = urlsplit(url)
        return cls(http, f"{parts.scheme}://{parts.netloc}", parse_qs(parts.query)["token"][0])

    @property
    def port(self) -> int:
        return urlsplit(self.base).port or 0

    async def get(self, path: str, **more: Any) -> tuple[int, bytes, Any]:
        """Status, body and headers of what is there for whoever has the token."""
        async with self.http.get(f"{self.base}{path}", params={"token": self.token}, **more) as reply:
            return reply.status, await reply.read(), reply.headers

    @asynccontextmanager
    async def events(self, last_id: str = "") -> AsyncIterator[AsyncIterator[Event]]:
        """The stream of events, from where an earlier one ended if that is given."""
        headers = {"Last-Event-ID": last_id} if last_id else {}
        url = f"{self.base}/events"
        async with self.http.get(url, params={"token": self.token}, headers=headers) as reply:
            assert reply.status == 200
            assert reply.content_type == "text/event-stream"
            yield _parsed(reply)


async def _parsed(reply: aiohttp.ClientResponse) -> AsyncIterator[Event]:
    fields: dict[str, str] = {}
    async for line in reply.content:
        name, _, value = line.decode().rstrip("\n").partition(": ")
        if name:
            fields[name] = value
        elif "data" in fields:
            yield fields.get("event", ""), fields.get("id", ""), json.loads(fields["data"])
            fields = {}


@define
class Shown:
    """What a page would show after these events."""

    rows: dict[int, dict[str, Any]] = field(factory=dict)
    totals: dict[str, Any] = field(factory=dict)
    names: list[str] = field(factory=list)
    last_id: str = ""
    changed: list[int] = field(factory=list)

    def take(self, event: Event) -> None:
        name, mark, data = event
        self.names.append(name)
        self.last_id = mark or self.last_id
        if name == "reset":
            self.rows.clear()
        elif name == "rows":
            for values in data["rows"]:
                row = dict(zip(data["columns"], values, strict=True))
                self.rows[row["n"]] = row
                self.changed.append(row["n"])
        elif name == "totals":
            self.totals = data

    async def until_totals(self, events: AsyncIterator[Event], **wanted: Any) -> None:
        """Take events until the totals say this."""
        with anyio.fail_after(20):
            async for event in events:
                self.take(event)
                if event[0] == "totals" and all(self.totals[name] == value for name, value in wanted.items()):
                    return
        raise AssertionError(f"the stream has ended, and the totals are {self.totals}")


@asynccontextmanager
async def visiting(directory: Path, **more: Any) -> AsyncIterator[Visitor]:
    """A gallery of `directory` that is served, and somebody who looks at it."""
    said: list[str] = []
    async with serving(directory, tell=said.append, **more) as url, aiohttp.ClientSession(read_bufsize=2**23) as http:
        visitor = Visitor.of(http, url)
        visitor.said = said
        yield visitor
