"""Very many rows: a bounded number of elements, whatever is scrolled to, sorted or filtered."""

from pathlib import Path

import pytest
from browser import looking, tile_of, webp, write_sheet
from playwright.async_api import Browser

from krea_async.gallery.sheet import Thumbnail

pytestmark = [pytest.mark.anyio, pytest.mark.browser]

MOST_ELEMENTS = 1500
IN_SIGHT = """[...document.querySelectorAll(".tile")].find((tile) => {
  const { top, bottom } = tile.getBoundingClientRect();
  return top > 100 && bottom < innerHeight;
})?.dataset.row"""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = tmp_path_factory.mktemp("many")
    return write_sheet(directory, [tile_of(n) for n in range(20_000)])


async def test_20_000_rows(chromium: Browser, url: str) -> None:
    async with looking(chromium, url) as view:
        await view.wait_for_count("20,000 rows")
        elements = "document.querySelectorAll('#sheet *').length"
        assert 20 < await view.page.evaluate(elements) < MOST_ELEMENTS
        await view.page.locator('.tile[data-row="0"]').focus()
        await view.page.keyboard.press("End")
        assert await view.page.evaluate("document.activeElement.dataset.row") == "19999"
        assert await view.page.evaluate(elements) < MOST_ELEMENTS
        picture = view.page.locator('.tile[data-row="19999"] img')
        await picture.wait_for()
        assert await picture.evaluate("image => image.decode().then(() => image.naturalWidth)") == 32
        await view.page.evaluate("document.activeElement.blur()")
        for share in (0.25, 0.5, 0.75, 0.1):
            await view.page.evaluate(f"scrollTo(0, document.documentElement.scrollHeight * {share})")
            await view.page.wait_for_function(f"() => {IN_SIGHT}")
            row = int(await view.page.evaluate(IN_SIGHT))
            assert row == pytest.approx(20_000 * share, abs=300)
            assert await view.page.evaluate(elements) < MOST_ELEMENTS
        await view.page.fill("#search", "snow 0001")
        await view.page.locator("#count", has_text="of 20,000 rows").wait_for()
        assert await view.page.evaluate(elements) < MOST_ELEMENTS


async def test_a_sheet_higher_than_an_element_may_be(chromium: Browser, tmp_path: Path) -> None:
    """20,000 prompts in groups are 6 million pixels: each row is still reached by the bar, the wheel and the keys."""
    rows = [tile_of(n, prompt=f"prompt {n}") for n in range(20_000)]
    small = [Thumbnail(n=0, webp=webp(0))]
    async with looking(chromium, write_sheet(tmp_path, rows, thumbnails=small)) as view:
        await view.wait_for_count("20,000 rows")
        await view.page.keyboard.press("g")
        await view.page.locator(".heading").first.wait_for()
        height = await view.page.locator("#sheet").evaluate("sheet => sheet.offsetHeight")
        assert height == 4_000_000
        await view.page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
        await view.page.locator('.tile[data-row="19999"]').wait_for()
        await view.page.evaluate("scrollTo(0, document.documentElement.scrollHeight / 2)")
        await view.page.wait_for_function(f"() => Math.abs({IN_SIGHT} - 10000) < 50")
        first = "document.querySelector('.line:nth-child(4)').getBoundingClientRect().top"
        before = await view.page.evaluate(first)
        row = await view.page.locator(".line").nth(3).get_attribute("aria-rowindex")
        await view.page.mouse.move(600, 400)
        await view.page.mouse.wheel(0, 100)
        line = f"document.querySelector('.line[aria-rowindex=\"{row}\"]')"
        await view.page.wait_for_function(f"() => {line}.getBoundingClientRect().top === {before} - 100")
        await view.page.locator(".tile").nth(2).focus()
        await view.page.keyboard.press("End")
        assert await view.page.evaluate("document.activeElement.dataset.row") == "19999"
        assert await view.page.locator(".tile:focus").is_visible()
        await view.page.keyboard.press("Home")
        assert await view.page.evaluate("document.activeElement.dataset.row") == "0"
        await view.page.keyboard.press("End")
        await view.page.evaluate("scrollTo(0, 0)")
        await view.page.locator('.tile[data-row="1"]').wait_for()
