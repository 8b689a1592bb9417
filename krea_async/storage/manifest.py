"""`manifest.jsonl`: one line per finished row, for pandas, jq and people.

Lines are gathered and written by one writer, so that thousands of rows per second cost a few writes; nothing waits for
the disk but the end of the batch.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from os import SEEK_END
from pathlib import Path
from typing import Final

import aiofiles
import anyio
from aiofiles.threadpool.text import AsyncTextIOWrapper

from krea_async.results import GeneratedImage, error_code
from krea_async.storage.disk import disk_errors, in_thread, make_directory

MANIFEST_NAME: Final = "manifest.jsonl"

GATHER_S: Final = 1.0
"""How long a line waits for company before it is written; a visit to the disk costs more than a line."""


class Manifest:
    """The manifest of one batch: rows are added at any time, and `write` brings them to disk."""

    def __init__(self, path: Path, file: AsyncTextIOWrapper, *, torn: bool) -> None:
        """`torn`: whether the file ends in half a line, which a killed run left."""
        self._path = path
        self._file = file
        self._lines: list[str] = ["\n"] if torn else []
        self._changed = asyncio.Event()

    def add(self, image: GeneratedImage) -> None:
        """Note one finished row."""
        self._lines.append(json.dumps(manifest_row(image), ensure_ascii=False) + "\n")
        self._changed.set()

    async def write(self) -> None:
        """Append what is added, as it is added, until cancelled. Raises DownloadError when the disk cannot take it."""
        while True:
            await self._changed.wait()
            await asyncio.sleep(GATHER_S)
            self._changed.clear()
            await self.flush()

    async def flush(self) -> None:
        """Append what was added and is not written yet. Raises DownloadError when the disk cannot take it."""
        lines, self._lines = self._lines, []
        with disk_errors(self._path), anyio.CancelScope(shield=True):
            await self._file.write("".join(lines))
            await self._file.flush()


@asynccontextmanager
async def open_manifest(directory: Path) -> AsyncIterator[Manifest]:
    """The manifest in `directory`, which is made if need be. Raises DownloadError when the disk cannot take it."""
    path = directory / MANIFEST_NAME
    await make_directory(directory)
    with disk_errors(path, charged="no"):
        torn = await in_thread(lambda: _ends_torn(path))
        file = await aiofiles.open(path, "a", encoding="utf-8")
    try:
        yield Manifest(path, file, torn=torn)
    finally:
        with anyio.CancelScope(shield=True), suppress(OSError):  # it tries again what `flush` has reported
            await file.close()


def _ends_torn(path: Path) -> bool:
    """Whether the file ends in half a line, which a killed run left."""
    if not path.is_file() or not path.stat().st_size:
        return False
    with path.open("rb") as file:
        file.seek(-1, SEEK_END)
        return file.read(1) != b"\n"


def manifest_row(image: GeneratedImage) -> dict[str, object]:
    """A finished row in the manifest's stable keys; values that are not known are null."""
    request, error = image.request, image.error
    return {
        "index": image.index,
        "id": request.id if request else None,
        "status": image.status,
        "file": image.path.name if image.path else None,
        "prompt": request.prompt if request else None,
        "size": request.size if request else None,
        "quality": request.quality if request else None,
        "seed": request.seed if request else None,
        "task_id": image.task_id,
        "bytes": image.bytes,
        "sha256": image.sha256,
        "width": image.width,
        "height": image.height,
        "credits": image.credits,
        "queued_s": round(image.timings.queued_s, 3),
        "generating_s": round(image.timings.generating_s, 3),
        "downloading_s": round(image.timings.downloading_s, 3),
        "error": None if error is None else error_code(error),
        "message": None if error is None else error.message,
        "charged": None if error is None else error.charged,
    }
