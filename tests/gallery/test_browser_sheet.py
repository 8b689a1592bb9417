"""The contact sheet in Chromium: what is looked for is found, in the order and the shape that was asked for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from browser import PROMPTS, View, failed, looking, tile_of, write_sheet
from playwright.async_api import Browser

from krea_async.gallery.sheet import Thumbnail, Tile

pytestmark = [pytest.mark.anyio, pytest.mark.browser]

TALL: dict[str, Any] = {"viewport": {"width": 1280, "height": 2400}}  # every row is in sight
ROWS = [
    *(tile_of(n) for n in range(28)),
    failed(28, prompt="a fox that fails"),
    failed(29, "generation_timeout", "too slow"),
    tile_of(30, status="running", step="accepted", file=None),
    tile_of(31, status="waiting", file=None),
]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return write_sheet(tmp_path, ROWS)


async def prompts(view: View) -> list[str]:
    return [name.split(", ")[0] for name in await view.names()]


async def test_totals_and_every_row_are_there(chromium: Browser, url: str) -> None:
    async with looking(chromium, url, **TALL) as view:
        await view.wait_for_count("32 rows")
        totals = await view.page.locator("#totals").inner_text()
        assert [
            word for word in ("28", "saved", "2", "failed", "1", "running", "waiting") if word not in totals.split()
        ] == []
        assert "$0.20" in totals
        assert await view.page.locator(".tile").count() == 32
        assert await view.page.locator(".tile img").count() == 28
        loaded = "all => all.every(image => image.complete && image.naturalWidth === 32)"
        assert await view.page.locator(".tile img").evaluate_all(loaded)


async def test_words_are_anded_and_marked(chromium: Browser, url: str) -> None:
    async with looking(chromium, url, **TALL) as view:
        await view.page.keyboard.press("/")
        await view.page.keyboard.type("FOX sno")
        await view.page.locator("mark", has_text="sno").first.wait_for()  # "sn" has as many
        await view.wait_for_count("8 of 32 rows")
        assert set(await prompts(view)) == {"a fox in the snow"}
        assert set(await view.page.locator("mark").all_inner_texts()) == {"fox", "sno"}
        await view.page.fill("#search", "00000003")
        await view.wait_for_count("1 of 32 rows")  # a task's id, and a file's name
        await view.page.fill("#search", "no such thing")
        await view.page.get_by_role("heading", name="No row matches").wait_for()
        await view.page.get_by_role("button", name="Show all pictures").click()
        await view.wait_for_count("32 rows")


async def test_filters_say_how_many_they_would_leave(chromium: Browser, url: str) -> None:
    async with looking(chromium, url, **TALL) as view:
        await view.page.get_by_role("button", name="Filter").click()
        await view.page.get_by_role("button", name="failed 2", exact=True).last.click()
        await view.wait_for_count("2 of 32 rows")
        chips = await view.page.locator(".chip").all_inner_texts()
        assert "saved 28" in chips
        await view.page.locator('[data-chip="error generation_timeout"]').click()
        await view.wait_for_count("1 of 32 rows")
        assert "generation_timeout" in (await view.names())[0]
        await view.page.locator('[data-chip="status failed"]').click()
        await view.page.locator('[data-chip="error generation_timeout"]').click()
        await view.page.locator('[data-chip="size 2:1"]').click()
        await view.page.locator('[data-chip="quality 2K"]').click()
        await view.wait_for_count("4 of 32 rows")
        assert all("2:1 · 2K" in name for name in await view.names())


SIZES_IN_ORDER = ["9:16", "1:1", "16:9", "2:1"]
KEYS: dict[str, Callable[[Tile], object]] = {
    "index": lambda row: row.index,
    "newest": lambda row: -(row.at_s or 0),
    "bytes": lambda row: row.bytes,
    "time": lambda row: row.seconds,
    "credits": lambda row: row.credits,
    "seed": lambda row: row.seed,
    "size": lambda row: (SIZES_IN_ORDER.index(row.size or ""), row.quality),
    "prompt": lambda row: row.prompt,
}


@pytest.mark.parametrize("sort", KEYS)
async def test_sorting(chromium: Browser, url: str, sort: str) -> None:
    """Ties keep the list's order; what has no value comes last, also backwards."""
    key = KEYS[sort]
    known = [row for row in ROWS if key(row) is not None]
    unknown = [row.n for row in ROWS if key(row) is None]
    ordered = [row.n for row in sorted(known, key=lambda row: (key(row), row.n))]
    async with looking(chromium, f"{url}#sort={sort}", **TALL) as view:
        await view.wait_for_count("32 rows")
        assert await view.rows() == ordered + unknown
        await view.page.locator("#direction").click()
        assert await view.rows() == ordered[::-1] + unknown[::-1]
        await view.until("location.hash.includes('desc=1')")


async def test_groups_put_seeds_and_sizes_side_by_side(chromium: Browser, tmp_path: Path) -> None:
    kinds = [("16:9", "1K", 2), ("1:1", "1K", 9), ("16:9", "1K", 1), ("1:1", "2K", 1), ("1:1", "1K", 3)]
    rows = [tile_of(n, prompt="a", size=size, quality=tier, seed=seed) for n, (size, tier, seed) in enumerate(kinds)]
    rows += [tile_of(5, prompt="b", size="1:1", seed=1), tile_of(6, prompt="b", size="2:1", seed=1)]
    async with looking(chromium, write_sheet(tmp_path, rows), **TALL) as view:
        await view.page.keyboard.press("g")
        await view.page.locator(".heading").nth(1).wait_for()
        assert await view.page.locator(".heading b").all_inner_texts() == ["a", "b"]
        assert await view.page.locator(".band").all_inner_texts() == ["1:1\n1K", "1:1\n2K", "16:9\n1K"]
        assert await view.rows() == [4, 1, 3, 2, 0, 5, 6]
        captions = await view.page.locator(".caption").all_inner_texts()
        assert captions == ["seed 3", "seed 9", "seed 1", "seed 1", "seed 2", "1:1 · 2K · seed 1", "2:1 · 2K · seed 1"]
        tops = "all => all.map(tile => Math.round(tile.getBoundingClientRect().top))"
        lines = await view.page.locator(".tile").evaluate_all(tops)
        assert [lines.count(top) for top in sorted(set(lines))] == [2, 1, 2, 2]
        await view.until("location.hash.includes('group=prompt')")


async def test_the_address_holds_the_view(chromium: Browser, url: str) -> None:
    address = f"{url}#q=fox&status=saved&size=1%3A1&sort=seed&desc=1"
    async with looking(chromium, address) as view:
        await view.wait_for_count("2 of 32 rows")
        assert await view.page.locator("#search").input_value() == "fox"
        await view.page.locator(".tile").first.click()
        await view.page.locator("#viewer[open]").wait_for()
        await view.until("location.hash.includes('open=')")
        await view.page.go_back()
        await view.page.locator("#viewer[open]").wait_for(state="hidden")
        assert await view.count() == "2 of 32 rows"
        await view.page.reload()
        await view.wait_for_count("2 of 32 rows")


async def test_nothing_rendered_yet(chromium: Browser, tmp_path: Path) -> None:
    async with looking(chromium, write_sheet(tmp_path, [])) as view:
        await view.page.get_by_role("heading", name="Nothing rendered yet").wait_for()
        assert not await view.page.locator("#empty-clear").is_visible()


async def test_a_tile_without_thumbnail_says_its_prompt(chromium: Browser, tmp_path: Path) -> None:
    rows = [tile_of(0), tile_of(1, is_missing=True), tile_of(2), tile_of(3, copy_of=2)]
    small = [
        Thumbnail(n=0, note="cannot be decoded"),
        Thumbnail(n=2, url="./.gallery/none.webp"),
    ]
    async with looking(chromium, write_sheet(tmp_path, rows, thumbnails=small), **TALL) as view:
        words = view.page.locator(".tile .words")
        await words.nth(3).wait_for()  # also the ones whose file is not there, once the browser has looked
        texts = await words.all_inner_texts()
        assert "cannot be decoded" in texts[0]
        assert "file missing" in texts[1]
        assert all(PROMPTS[0] in text for text in texts)


async def test_a_phone(chromium: Browser, url: str) -> None:
    options: dict[str, Any] = {
        "viewport": {"width": 360, "height": 740},
        "is_mobile": True,
        "has_touch": True,
        "device_scale_factor": 2,
    }
    async with looking(chromium, url, **options) as view:
        await view.wait_for_count("32 rows")
        assert await view.page.evaluate("document.documentElement.scrollWidth") == 360
        await view.page.locator("#filters-open").tap()
        sizes = "all => all.filter(e => e.offsetWidth).map(e => [e.id || e.className, e.offsetWidth, e.offsetHeight])"
        small = [
            s
            for s in await view.page.locator("button:not(.tile), input, select").evaluate_all(sizes)
            if min(s[1:]) < 44
        ]
        assert small == []
        await view.page.locator("#filters-open").tap()
        await view.page.locator(".tile").first.tap()
        await view.page.locator("#viewer[open]").wait_for()
        assert await view.page.evaluate("document.documentElement.scrollWidth") == 360


async def test_tiles_keep_their_shape_and_meet_the_edge(chromium: Browser, url: str) -> None:
    async with looking(chromium, url, **TALL) as view:
        await view.wait_for_count("32 rows")
        boxes = await view.page.locator(".tile").evaluate_all(
            "all => all.map(e => e.getBoundingClientRect()).map(r => [r.width / r.height, r.right])"
        )
    for row, (aspect, _) in zip(ROWS[:28], boxes, strict=False):
        assert aspect == pytest.approx((row.width or 0) / (row.height or 1), rel=0.03)
    edge = max(right for _, right in boxes)
    assert sum(right == edge for _, right in boxes) >= 3


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_contrast_and_theme(chromium: Browser, url: str, scheme: str) -> None:
    """AA: 4.5 to 1 for every kind of text, 3 to 1 for the edges of controls; and so in the theme chosen by hand."""
    async with looking(chromium, url, color_scheme=scheme, **TALL) as view:
        await view.page.locator("#filters-open").click()
        seen = []
        for _ in range(2):
            found = await view.page.evaluate(CONTRASTS)
            assert [pair for pair in found if pair[1] < 4.5] == []
            edges = await view.page.evaluate(EDGES)
            assert [pair for pair in edges if pair[1] < 3] == []
            assert {field for field, _ in edges} == {"search", "sort", "group"}
            seen.append(await view.page.evaluate("getComputedStyle(document.documentElement).backgroundColor"))
            await view.page.locator("#theme").click()
        assert seen[0] != seen[1]
        kept = None
        with anyio.fail_after(10):
            while kept != scheme:  # Chromium writes down what is to be kept a moment after it was told
                await view.page.reload()
                kept = await view.page.evaluate("document.documentElement.dataset.theme")


COLOURS = """
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => {
    const linear = [r, g, b].map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  };
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = rgb(getComputedStyle(e).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const contrast = (colour, back) => {
    const [one, other] = [light(rgb(colour)), light(behind(back))].sort((a, b) => b - a);
    return (one + 0.05) / (other + 0.05);
  };
"""
EDGES = f"""() => {{ {COLOURS}
  return [...document.querySelectorAll("#search, #sort, #group")].map((element) =>
    [element.id, contrast(getComputedStyle(element).borderTopColor, element.parentElement)]);
}}"""
CONTRASTS = f"""() => {{ {COLOURS}
  const kinds = ["h1", ".total b", ".total span", ".is-failed b", ".is-failed span", "#search", ".chip", ".chip small",
    ".chip.is-none", "#count", ".foot", ".quiet", ".tile .words span", ".tile .words b", ".late", ".plain"];
  return kinds.flatMap((kind) => [...document.querySelectorAll(kind)].slice(0, 4).map((element) =>
    [kind, contrast(getComputedStyle(element).color, element)]));
}}"""


async def test_no_motion_where_none_is_wanted(chromium: Browser, url: str) -> None:
    moving = "[...document.querySelectorAll('*')].flatMap(e => e.getAnimations({subtree: true})).length"
    async with looking(chromium, url, reduced_motion="reduce", **TALL) as view:
        await view.wait_for_count("32 rows")
        assert await view.page.evaluate(moving) == 0
    async with looking(chromium, url, reduced_motion="no-preference", **TALL) as view:
        await view.wait_for_count("32 rows")
        assert await view.page.evaluate(moving) > 0


async def test_names_and_roles(chromium: Browser, url: str) -> None:
    async with looking(chromium, url, **TALL) as view:
        await view.wait_for_count("32 rows")
        tree = await view.page.locator("body").aria_snapshot()
        assert await view.page.locator("html").get_attribute("lang") == "en"
        unnamed = (
            "all => all.filter(e => e.offsetWidth && !(e.ariaLabel || e.labels?.length || e.textContent.trim())).length"
        )
        assert await view.page.locator("button, input, select, a").evaluate_all(unnamed) == 0
    for part in (
        'heading "renders" [level=1]',
        'grid "Pictures"',
        "searchbox",
        'combobox "Sort by"',
        "status: 32 rows",
    ):
        assert part in tree
    assert 'gridcell "a lighthouse at dusk, 1:1 · 1K · seed 1, saved"' in tree


async def test_a_page_at_200_percent(chromium: Browser, url: str) -> None:
    async with looking(chromium, url, viewport={"width": 640, "height": 400}, device_scale_factor=2) as view:
        await view.wait_for_count("32 rows")
        assert await view.page.evaluate("document.documentElement.scrollWidth") == 640
        await view.page.locator(".tile").first.click()
        await view.page.get_by_role("button", name="Copy prompt").scroll_into_view_if_needed()
