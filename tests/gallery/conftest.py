"""The browser, and the event loop that lives as long."""

from chromium import anyio_backend, chromium

__all__ = ["anyio_backend", "chromium"]
