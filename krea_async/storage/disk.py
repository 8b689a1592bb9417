"""The disk's two habits: it blocks, so it is visited in threads that are waited for; it fails in words of its own."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

import anyio

from krea_async.errors import DownloadError

DISK_ERROR: Final = "disk_error"
"""Our own error code for a file that cannot be written."""

T = TypeVar("T")


async def in_thread(work: Callable[[], T]) -> T:
    """What `work` returns, run in a thread."""
    return await to_its_end(asyncio.get_running_loop().run_in_executor(None, work))


async def to_its_end(work: Awaitable[T]) -> T:
    """What `work` returns. When cancelled, its end is waited for first: a thread cannot be stopped half-way."""
    running = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        with anyio.CancelScope(shield=True):
            await asyncio.wait([running])
        raise


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Raise DownloadError, with the code "disk_error", for every OSError; `path` is named if the error names none."""
    try:
        yield
    except OSError as error:
        words = f"cannot write {error.filename or path}: {error.strerror or error}"
        raise DownloadError(words, code=DISK_ERROR) from error
