"""The pictures of the contact sheet in the documentation, from a real run against the sandbox.

    python docs/images/make.py        # needs Chromium, and the extra `test`

Writes gallery-light, -dark, -phone, -viewer and -groups.png beside this file.
"""

import asyncio
import shutil
import tempfile
from pathlib import Path
from typing import Any, Final

from playwright.async_api import Browser, async_playwright

from krea_async import ImageRequest, KreaSession
from krea_async.gallery.writing import write_gallery
from krea_async.models import Size
from krea_async.sandbox import Durations, Sandbox

HERE: Final = Path(__file__).parent
SCENES: Final[tuple[tuple[str, tuple[Size, ...]], ...]] = (
    ("A lighthouse on a basalt cliff at dusk, long exposure", ("16:9", "2:3", "1:1")),
    ("Terraced rice fields under morning fog, seen from above", ("3:2", "4:5")),
    ("A night train crossing a viaduct, snow in the air", ("2:1", "9:16")),
    ("Poster of a mountain observatory, screen print, four inks", ("2:3", "3:4")),
    ("Dunes after rain, low sun, fine grain", ("4:3", "16:9")),
    ("A quiet harbour with wooden boats, gouache", ("1:1", "5:4")),
    ("Northern lights above a frozen lake", ("9:16", "16:9")),
    ("Volcanic coast, black sand, turquoise surf", ("1:2", "3:2")),
)
REFUSED: Final = 7
VIEWS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "light": ("", {"color_scheme": "light"}),
    "dark": ("", {"color_scheme": "dark"}),
    "phone": (
        "",
        {"viewport": {"width": 360, "height": 740}, "device_scale_factor": 2, "is_mobile": True, "has_touch": True},
    ),
    "viewer": ("#open=6", {}),
    "groups": ("#group=prompt", {}),
}


def requests() -> list[ImageRequest]:
    """Each scene in its sizes, with some seeds of each; the lists of real runs look like that."""
    wanted = [
        ImageRequest(prompt, size=size, quality="2K" if size == "16:9" else "1K", seed=seed)
        for seed in (1, 2, 3, 4)
        for prompt, sizes in SCENES
        for size in sizes
    ]
    return [
        *wanted[:REFUSED],
        ImageRequest("A portrait that moderation refuses", size="3:4", seed=5),
        *wanted[REFUSED:60],
    ]


async def render(directory: Path) -> None:
    """The run: everything is saved but one row."""
    rows = requests()
    async with (
        Sandbox(durations=Durations.instant()) as sandbox,
        KreaSession(sandbox.key, base_url=sandbox.url) as session,
    ):
        await session.render(rows[:REFUSED], directory)
        sandbox.script("create", ("fail", "content_policy_violation"))
        await session.render(rows, directory)


async def shoot(browser: Browser, page: Path, name: str) -> None:
    """One view, as a PNG."""
    fragment, options = VIEWS[name]
    context = await browser.new_context(**{"viewport": {"width": 1120, "height": 700}, **options})
    tab = await context.new_page()
    await tab.goto(page.as_uri() + fragment)
    await tab.wait_for_load_state("networkidle")
    await tab.screenshot(path=HERE / f"gallery-{name}.png")
    await context.close()


async def main() -> None:
    """Render, write the sheet, look at it."""
    with tempfile.TemporaryDirectory() as parent:
        directory = Path(parent, "autumn-catalogue")
        await render(directory)
        written = await asyncio.to_thread(write_gallery, directory)
        async with async_playwright() as playwright:
            path = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))))
            browser = await playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
            for name in VIEWS:
                await shoot(browser, written.page, name)
            await browser.close()


if __name__ == "__main__":
    asyncio.run(main())
