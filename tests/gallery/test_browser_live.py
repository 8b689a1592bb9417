"""A run that is watched in Chromium: pictures land, the view stays, and the connection is told of in words."""

import io
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from attrs import asdict, evolve
from browser import looking, tile_of, totals_of, webp
from playwright.async_api import Browser

from krea_async import KreaSession
from krea_async.gallery.page import write_page
from krea_async.gallery.server import serving
from krea_async.gallery.sheet import TILE_COLUMNS, Sheet, Tile
from krea_async.sandbox import Durations, Sandbox

pytestmark = [pytest.mark.anyio, pytest.mark.browser]

SessionOf = Callable[..., KreaSession]


async def test_pictures_land_while_a_run_goes_on(chromium: Browser, tmp_path: Path, session_of: SessionOf) -> None:
    out, said = tmp_path / "renders", list[str]()
    prompts = [f"picture {n}" for n in range(12)]
    async with serving(out, tell=said.append) as url, looking(chromium, url, local=False) as view:
        await view.page.get_by_role("heading", name="Nothing rendered yet").wait_for()
        async with (
            Sandbox(durations=Durations.fixed(0.4)) as sandbox,
            session_of(sandbox, concurrency=4) as session,
            session.render(prompts, out) as batch,
        ):
            async for _ in batch:
                pass
        await view.page.locator("#live-words", has_text="The run has ended").wait_for()
        await view.page.locator(".tile.is-saved").nth(11).wait_for()
        await view.page.wait_for_function(
            "() => [...document.querySelectorAll('.tile img')].filter((image) => image.naturalWidth > 0).length === 12"
        )
        await view.page.locator(".tile").first.click()
        await view.page.wait_for_function("() => document.getElementById('picture').naturalWidth === 1024")
        await view.page.keyboard.press("Escape")
        origin = url.partition("?")[0]
        assert all(request.startswith((origin, "data:")) for request in view.requests)
    assert said == []


class Events:
    """A server of the page, whose events are what a test says."""

    def __init__(self, tiles: list[Tile]) -> None:
        self.tiles = tiles
        self.down = anyio.Event()
        self.may_come_back = anyio.Event()
        self.may_come_back.set()
        self.streams: list[web.StreamResponse] = []

    async def show_page(self, _: web.Request) -> web.Response:
        out = io.StringIO()
        write_page(out, Sheet(title="a run", made_at_s=1.8e9), live=True)
        return web.Response(text=out.getvalue(), content_type="text/html")

    async def stream(self, request: web.Request) -> web.StreamResponse:
        if self.down.is_set():
            raise web.HTTPServiceUnavailable
        await self.may_come_back.wait()
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await stream.prepare(request)
        self.streams.append(stream)
        await stream.write(b"retry: 600\n" + event("reset", {"rows": len(self.tiles)}))
        await self.tell(*self.tiles)
        await self.down.wait()
        return stream

    async def tell(self, *changed: Tile, has_ended: bool = False) -> None:
        rows = [list(asdict(tile).values()) for tile in changed]
        totals = asdict(evolve(totals_of(self.tiles), has_ended=has_ended))
        told = event("rows", {"columns": TILE_COLUMNS, "rows": rows}) + event("totals", totals)
        await self.streams[-1].write(told)

    async def land(self, tile: Tile, **more: Any) -> None:
        known = {tile.n: place for place, tile in enumerate(self.tiles)}
        if tile.n in known:
            self.tiles[known[tile.n]] = tile
        else:
            self.tiles.append(tile)
        await self.tell(tile, **more)

    async def small(self, _: web.Request) -> web.Response:
        return web.Response(body=webp(100), content_type="image/webp")


def event(name: str, data: object) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()


@asynccontextmanager
async def events_of(tiles: list[Tile]) -> AsyncIterator[tuple[Events, str]]:
    events = Events(tiles)
    app = web.Application()
    app.router.add_get("/", events.show_page)
    app.router.add_get("/events", events.stream)
    app.router.add_get("/thumbs/{name}", events.small)
    async with TestServer(app) as server:
        try:
            yield events, str(server.make_url("/?token=abc"))
        finally:
            events.down.set()


async def test_the_view_stays_where_it_is_while_rows_land(chromium: Browser) -> None:
    """Newest first, so that each new row moves all others; the one in sight does not move."""
    rows = [tile_of(n) for n in range(300)]
    async with events_of(rows) as (events, url), looking(chromium, f"{url}#sort=newest", local=False) as view:
        await view.wait_for_count("300 rows")
        await view.page.evaluate("scrollTo(0, 3000)")
        shown = "document.elementFromPoint(60, 80)?.closest('.tile')?.dataset.row"
        await view.page.wait_for_function(f"() => {shown}")
        row = await view.page.evaluate(shown)
        line = f"document.querySelector('.tile[data-row=\"{row}\"]')?.getBoundingClientRect().top"
        before = await view.page.evaluate(line)
        for n in range(300, 340):
            await events.land(tile_of(n))
        await view.wait_for_count("340 rows")
        assert await view.page.evaluate(line) == pytest.approx(before, abs=1)


async def test_a_waiting_row_becomes_its_picture_and_keeps_the_focus(chromium: Browser) -> None:
    rows = [tile_of(0), tile_of(1, status="waiting", file=None), tile_of(2)]
    async with events_of(rows) as (events, url), looking(chromium, url, local=False) as view:
        await view.page.locator(".tile.is-waiting").focus()
        await view.page.locator("#live-words", has_text="Live: 2 of 3 done").wait_for()
        assert await view.page.locator(".has-landed").count() == 0  # they were there before
        await events.land(tile_of(1, status="running", step="accepted", file=None))
        await view.page.get_by_text("generating").wait_for()
        await events.land(tile_of(1), has_ended=True)
        await view.page.locator('.tile.is-saved.has-landed[data-row="1"] img').wait_for()
        assert await view.page.evaluate("document.activeElement.dataset.row") == "1"
        await view.page.locator("#live-words", has_text="The run has ended").wait_for()
        assert await view.page.locator("#live-progress").evaluate("bar => bar.value") == 3


async def test_a_lost_connection_is_told_and_comes_back(chromium: Browser) -> None:
    words = "#live-words"
    async with events_of([tile_of(0)]) as (events, url), looking(chromium, url, local=False) as view:
        await view.page.locator(words, has_text="Live: 1 of 1").wait_for()
        lost, events.down = events.down, anyio.Event()
        events.may_come_back = anyio.Event()
        events.tiles.append(tile_of(1))
        lost.set()
        await view.page.locator(words, has_text="Connection lost; trying again").wait_for()
        events.may_come_back.set()
        await view.page.locator(words, has_text="Live: 2 of 2").wait_for()  # by itself
        await view.wait_for_count("2 rows")
        assert await view.rows() == [0, 1]
        events.down.set()
        await view.page.locator(words, has_text="Start krea-async gallery --serve again").wait_for()
        assert all("503" in complaint or "ERR_INCOMPLETE_CHUNKED" in complaint for complaint in view.complaints)
        view.complaints.clear()
