"""One real Chromium for each worker, driven from the tests' own event loop."""

from collections.abc import AsyncIterator

import pytest
from browser import FLAGS, find_chromium
from playwright.async_api import Browser, async_playwright


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The loop lives as long as the browser that it drives."""
    return "asyncio"


@pytest.fixture(scope="session")
async def chromium(anyio_backend: str) -> AsyncIterator[Browser]:
    path = find_chromium()
    if path is None:
        pytest.skip("no Chromium or Chrome is installed here")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        await browser.close()
