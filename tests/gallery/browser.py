"""What the tests in a real browser share: pages to look at, and an eye on everything that a page must not do."""

import io
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any, Final

from attrs import define, evolve, field
from PIL import Image
from playwright.async_api import Browser, ConsoleMessage, Page
from until import until

from krea_async.gallery.page import write_page
from krea_async.gallery.sheet import Sheet, Thumbnail, Tile, Totals

PROMPTS: Final = ("a lighthouse at dusk", "a fox in the snow", "rice fields, fog", "a night train")
SIZES: Final = {"1:1": (1024, 1024), "16:9": (1344, 768), "9:16": (768, 1344), "2:1": (1472, 704)}

NO_SUCH_FILE: Final = ("net::ERR_FILE_NOT_FOUND", "net::ERR_INVALID_URL")
"""What the browser says of pictures that are not there; no file URL has an encoded slash."""


def tile_of(n: int, **facts: Any) -> Tile:
    """Row `n` of a run in which prompts, sizes and seeds take turns."""
    size = list(SIZES)[n % 4]
    width, height = SIZES[size]
    usual = Tile(
        n=n,
        index=n,
        status="saved",
        file=f"{n:05d}-picture.png",
        prompt=PROMPTS[n // 8 % 4],
        size=size,
        quality="2K" if n % 8 >= 4 else "1K",
        seed=n % 2 + 1,
        task_id=f"task-unified-1-{n:08d}",
        credits=0.45,
        width=width,
        height=height,
        bytes=1000 + n,
        seconds=float(n % 7),
        at_s=1_795_000_000.0 + n,
    )
    return evolve(usual, **facts)


def failed(n: int, code: str = "content_policy_violation", message: str = "refused", **facts: Any) -> Tile:
    gone: dict[str, Any] = {"file": None, "width": None, "height": None, "bytes": None, "credits": 0.0, "charged": "no"}
    return tile_of(n, status="failed", error=code, message=message, **{**gone, **facts})


@cache
def webp(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (32, 32), (shade, 120, 200)).save(file, "WEBP")
    return file.getvalue()


def png(path: Path, width: int = 1024, height: int = 1024) -> None:
    Image.new("RGB", (width, height), (40, 120, 200)).save(path, "PNG")


def totals_of(tiles: Sequence[Tile]) -> Totals:
    counts: dict[str, Any] = {
        status: sum(tile.status == status for tile in tiles) for status in ("saved", "failed", "running", "waiting")
    }
    spent = sum(tile.credits or 0.0 for tile in tiles)
    return Totals(rows=len(tiles), **counts, credits=spent, usd=spent / 68, runs=1, first_s=1.0, last_s=61.0)


def write_sheet(
    directory: Path, tiles: Sequence[Tile], *, title: str = "renders", thumbnails: Iterable[Thumbnail] | None = None
) -> str:
    """The page of these tiles, as a URL; saved ones have thumbnails unless others are given."""
    if thumbnails is None:
        thumbnails = (Thumbnail(n=tile.n, webp=webp(tile.n % 16 * 16)) for tile in tiles if tile.status == "saved")
    path = directory / "gallery.html"
    with path.open("w", encoding="utf-8") as out:
        write_page(out, Sheet(title=title, made_at_s=1.8e9, totals=totals_of(tiles), tiles=tiles), thumbnails)
    return path.as_uri()


@define
class View:
    """A page in the browser, and what it did."""

    page: Page
    requests: list[str] = field(factory=list)
    complaints: list[str] = field(factory=list)

    def on_console(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"} and not message.text.endswith(NO_SUCH_FILE):
            self.complaints.append(message.text)

    async def rows(self) -> list[int]:
        """The numbers of the rows that are elements, in reading order."""
        numbers: list[str] = await self.page.locator(".tile").evaluate_all("all => all.map(tile => tile.dataset.row)")
        return list(map(int, numbers))

    async def names(self) -> list[str]:
        names: list[str] = await self.page.locator(".tile").evaluate_all("all => all.map(tile => tile.ariaLabel)")
        return names

    async def count(self) -> str:
        return await self.page.locator("#count").inner_text()

    async def wait_for_count(self, words: str) -> None:
        await self.page.locator("#count", has_text=words).wait_for()

    async def until(self, condition: str) -> None:
        """`condition`, which JavaScript understands, is true; asked from outside, for the page allows no `eval`."""
        await until(lambda: self.page.evaluate(condition))

    async def focused(self) -> str:
        name: str = await self.page.evaluate("document.activeElement.ariaLabel || document.activeElement.id")
        return name


@asynccontextmanager
async def looking(chromium: Browser, url: str, *, local: bool = True, **options: Any) -> AsyncIterator[View]:
    """The page in a window of its own. Afterwards: no error, no violation, no dialog, no request to anywhere else."""
    context = await chromium.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
    page = await context.new_page()
    view = View(page)
    page.on("request", lambda request: view.requests.append(request.url))
    page.on("console", lambda message: view.on_console(message))  # noqa: PLW0108 - slots take no attributes of theirs
    page.on("pageerror", lambda error: view.complaints.append(str(error)))
    page.on("dialog", lambda dialog: view.complaints.append(f"a dialog: {dialog.message}"))
    await page.goto(url)
    try:
        yield view
    finally:
        await context.close()
    assert view.complaints == []
    if local:
        assert {url.partition(":")[0] for url in view.requests} <= {"file", "data"}
