"""How fast the contact sheet opens and scrolls in Chromium, beside a plain page of the same rows.

    python -m benchmarks.gallery [ROWS ...] [--rounds 3]

Rows have heavy thumbnails (noise of 250x250 pixels as WebP, 12 KB). ours: `write_page` with all of them
embedded. linked: ours, with thumbnails as files beside the page. plain: an `<img loading=lazy>` in a flex container for
each row, with its prompt as title and the same files. opened: from navigation to the first frame after the first
decoded thumbnails; all rows: until the sheet knows every row (of the plain page: its `load`). frames: per second while
the window is scrolled by a third of its height a frame, for two seconds, and the 99th percentile of a frame's
milliseconds. Both pages are opened in turn; figures are medians, and ratios are of one round. Needs the extra `test`.
"""

import argparse
import asyncio
import html
import io
import os
import statistics
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from random import Random
from shutil import which
from typing import Any, Final

from PIL import Image
from playwright.async_api import Browser, async_playwright

from krea_async.gallery.page import write_page
from krea_async.gallery.sheet import Sheet, Thumbnail, Tile, Totals

ROWS: Final = (1_000, 20_000, 100_000)
FILES: Final = 200
SIZES: Final = {"1:1": (1024, 1024), "16:9": (1344, 768), "9:16": (768, 1344), "3:2": (1280, 832)}

OPENED: Final = """() => new Promise((done) => {
  const look = () => {
    const images = [...document.images].filter((image) => image.complete && image.naturalWidth);
    if (images.length >= 5) requestAnimationFrame(() => done(performance.now()));
    else requestAnimationFrame(look);
  };
  look();
})"""
COMPLETE: Final = """(rows) => new Promise((done) => {
  const look = () => {
    const count = document.getElementById("count");
    const isWhole = count ? count.textContent.startsWith(rows) : document.readyState === "complete";
    if (isWhole) done(performance.now());
    else setTimeout(look, 5);
  };
  look();
})"""
SCROLL: Final = """() => new Promise((done) => {
  const frames = [];
  let last = performance.now();
  const start = last;
  const step = (now) => {
    frames.push(now - last);
    last = now;
    if (now - start > 2000) return done(frames.slice(2));
    scrollBy({ top: innerHeight / 3, behavior: "instant" });
    requestAnimationFrame(step);
  };
  requestAnimationFrame(step);
})"""


def thumbnails(rng: Random) -> list[bytes]:
    """Pictures as heavy as thumbnails of photographs."""
    files = []
    for _ in range(FILES):
        small = Image.frombytes("RGB", (40, 40), rng.randbytes(4800))
        file = io.BytesIO()
        small.resize((250, 250), Image.Resampling.BICUBIC).save(file, "WEBP", quality=55, method=2)
        files.append(file.getvalue())
    return files


def tiles(count: int) -> Iterable[Tile]:
    """Rows as a render leaves them."""
    for n in range(count):
        size = list(SIZES)[n * 7 % 4]
        width, height = SIZES[size]
        yield Tile(
            n=n, index=n, status="saved", file=f"{n:06d}.png", size=size, quality="1K", seed=n % 1000, credits=0.45,
            prompt=f"a lighthouse on a cliff at dusk, long exposure, storm clouds, cinematic light, number {n // 8}",
            task_id=f"task-unified-1751280000-{n:08d}", width=width, height=height, bytes=900_000, seconds=12.5,
            at_s=1.75e9 + n,
        )  # fmt: skip


def write_pages(directory: Path, count: int, small: list[bytes]) -> dict[str, Path]:
    """Every kind of page of so many rows."""
    beside = directory / ".gallery"
    beside.mkdir(exist_ok=True)
    for number, data in enumerate(small):
        (beside / f"{number}.webp").write_bytes(data)
    sheet = Sheet(title="renders", made_at_s=1.75e9, totals=Totals(rows=count, saved=count), tiles=tiles(count))
    embedded = (Thumbnail(n=n, webp=small[n % FILES]) for n in range(count))
    links = (Thumbnail(n=n, url=f"./.gallery/{n % FILES}.webp") for n in range(count))
    pages = {name: directory / f"{name}-{count}.html" for name in ("ours", "linked", "plain")}
    with pages["ours"].open("w", encoding="utf-8") as out:
        write_page(out, sheet, embedded)
    with pages["linked"].open("w", encoding="utf-8") as out:
        write_page(out, Sheet(title="renders", made_at_s=1.75e9, tiles=tiles(count)), links)
    with pages["plain"].open("w", encoding="utf-8") as out:
        out.write("<!doctype html><meta charset=utf-8><style>body{display:flex;flex-wrap:wrap;gap:8px}</style>\n")
        for tile in tiles(count):
            width = round(200 * (tile.width or 1) / (tile.height or 1))
            source = f".gallery/{tile.n % FILES}.webp"
            title = html.escape(tile.prompt or "")
            out.write(f'<img loading=lazy src="{source}" width={width} height=200 title="{title}">\n')
    return pages


async def measure(browser: Browser, page_path: Path, count: int) -> dict[str, float]:
    """One opening, and two seconds of scrolling."""
    context = await browser.new_context(viewport={"width": 1280, "height": 800})
    page = await context.new_page()
    await page.goto(page_path.as_uri(), wait_until="commit")
    opened, whole = await asyncio.gather(page.evaluate(OPENED), page.evaluate(COMPLETE, f"{count:,}"))
    await page.wait_for_load_state("load")
    frames: list[float] = await page.evaluate(SCROLL)
    elements: int = await page.evaluate("document.getElementsByTagName('*').length")
    await context.close()
    return {
        "opened_ms": opened,
        "rows_ms": whole,
        "fps": 1000 * len(frames) / sum(frames),
        "p99_ms": sorted(frames)[int(len(frames) * 0.99)],
        "elements": elements,
    }


async def compare(browser: Browser, directory: Path, count: int, rounds: int) -> None:
    """The table's rows for so many pictures."""
    pages = write_pages(directory, count, thumbnails(Random(1)))
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in pages}
    for _ in range(rounds):
        for name, path in pages.items():
            runs[name].append(await measure(browser, path, count))
            print(count, name, runs[name][-1], file=sys.stderr)
    for name, path in pages.items():
        of: dict[str, Any] = {key: statistics.median(run[key] for run in runs[name]) for key in runs[name][0]}
        pairs = zip(runs[name], runs["plain"], strict=True)
        ratio = statistics.median(ours["opened_ms"] / plain["opened_ms"] for ours, plain in pairs)
        print(
            f"| {count:,} | {name} | {path.stat().st_size / 1e6:.1f} | {of['opened_ms'] / 1000:.2f} | {ratio:.2f} "
            f"| {of['rows_ms'] / 1000:.2f} | {of['fps']:.0f} | {of['p99_ms']:.0f} | {of['elements']:,.0f} |",
            flush=True,
        )
        path.unlink()


async def run(counts: Iterable[int], rounds: int) -> None:
    """Print the table."""
    print("| rows | page | MB | opened (s) | of plain's | all rows (s) | frames/s | p99 (ms) | elements |")
    print("|--:|---|--:|--:|--:|--:|--:|--:|--:|")
    flags = ["--no-sandbox"] if hasattr(os, "getuid") and os.getuid() == 0 else []
    async with async_playwright() as playwright:
        path = next(filter(None, map(which, ("chromium", "google-chrome", "chrome"))))
        browser = await playwright.chromium.launch(executable_path=path, args=[*flags, "--disable-gpu"])
        for count in counts:
            with tempfile.TemporaryDirectory() as directory:
                await compare(browser, Path(directory), count, rounds)
        await browser.close()


def main() -> None:
    """Read the arguments and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", type=int, default=list(ROWS))
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    asyncio.run(run(options.rows, options.rounds))


if __name__ == "__main__":
    main()
