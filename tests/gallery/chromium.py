"""One real Chromium for each worker, driven from the tests' own event loop; a conftest makes these fixtures known."""

import os
import shutil
from collections.abc import AsyncIterator
from typing import Final

import pytest
from playwright.async_api import Browser, async_playwright

__all__ = ["anyio_backend", "chromium"]

NAMES: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
QUIET: Final = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
"""What keeps a browser from looking for anything that no test asked for."""


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The loop lives as long as the browser that it drives."""
    return "asyncio"


@pytest.fixture(scope="session")
async def chromium(anyio_backend: str) -> AsyncIterator[Browser]:
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip("no Chromium or Chrome is installed here")
    no_sandbox = ["--no-sandbox"] if hasattr(os, "getuid") and os.getuid() == 0 else []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=[*QUIET, *no_sandbox])
        yield browser
        await browser.close()
