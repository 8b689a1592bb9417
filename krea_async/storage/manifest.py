"""`manifest.jsonl`: one line per finished row, for pandas, jq and people.

Lines are gathered and written by one writer, so that thousands of rows per second cost a few writes; nothing waits for
the disk but the end of the batch. What it says is in the journal as well, so it can be written anew from that.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from itertools import chain
from os import SEEK_END
from pathlib import Path
from typing import Any, Final

import aiofiles
import anyio
from aiofiles.threadpool.text import AsyncTextIOWrapper
from attrs import fields

from krea_async.errors import JournalError
from krea_async.models import ImageRequest
from krea_async.results import NO_TIME, GeneratedImage, Timings, error_code
from krea_async.storage.disk import disk_errors, in_thread, make_directory, sync_directory, to_its_end
from krea_async.storage.history import JOURNAL_NAME, History
from krea_async.storage.replay import RowState

MANIFEST_NAME: Final = "manifest.jsonl"
NEW_NAME: Final = "manifest.jsonl.new"
"""The manifest while it is rebuilt. One that a crash left is overwritten by the next rebuilding."""

GATHER_S: Final = 1.0
"""How long a line waits for company before it is written; a visit to the disk costs more than a line."""

_encoded: Final = json.JSONEncoder(ensure_ascii=False).encode  # made once: json.dumps makes one each time
_STEPS: Final = tuple(step.name for step in fields(Timings))
_ERRORS: Final = "backslashreplace"  # a lone surrogate, which a gateway's message may hold, becomes its JSON escape


class Manifest:
    """The manifest of one batch: rows are added at any time, and `write` brings them to disk."""

    def __init__(self, path: Path, file: AsyncTextIOWrapper, *, torn: bool) -> None:
        """`torn`: whether the file ends in half a line, which a killed run left."""
        self._path = path
        self._file = file
        self._rows: list[GeneratedImage] = []
        self._torn = torn
        self._changed = asyncio.Event()
        self.is_whole = True
        """Whether no line was lost to a disk that could not take it."""

    def add(self, image: GeneratedImage) -> None:
        """Note one finished row."""
        self._rows.append(image)
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
        rows, self._rows = self._rows, []
        whole, self.is_whole = self.is_whole, False
        with disk_errors(self._path), anyio.CancelScope(shield=True):
            lines = await in_thread(lambda: "".join(_line(manifest_row(image)) for image in rows))
            await self._file.write("\n" + lines if self._torn and lines else lines)
            self._torn = self._torn and not lines
            await self._file.flush()
        self.is_whole = whole

    async def sync(self) -> None:
        """Bring all of it to the disk itself, the name too. Raises DownloadError when the disk cannot take it."""
        await self.flush()
        whole, self.is_whole = self.is_whole, False
        with disk_errors(self._path), anyio.CancelScope(shield=True):
            await in_thread(self._sync)
        self.is_whole = whole

    def _sync(self) -> None:
        os.fsync(self._file.fileno())
        sync_directory(self._path.parent)


@asynccontextmanager
async def open_manifest(directory: Path) -> AsyncIterator[Manifest]:
    """The manifest in `directory`, which is made if need be. Raises DownloadError when the disk cannot take it."""
    path = directory / MANIFEST_NAME
    await make_directory(directory)
    opened: list[AsyncTextIOWrapper] = []  # also one that is opened just when this is cancelled

    async def open_file() -> None:
        opened.append(await aiofiles.open(path, "a", encoding="utf-8", errors=_ERRORS, opener=_private))

    try:
        with disk_errors(path, charged="no"):
            torn = await in_thread(lambda: _ends_torn(path))
            await to_its_end(open_file())
        yield Manifest(path, opened[0], torn=torn)
    finally:
        with anyio.CancelScope(shield=True), suppress(OSError):  # it tries again what `flush` has reported
            for file in opened:
                await file.close()


def _ends_torn(path: Path) -> bool:
    """Whether the file ends in half a line, which a killed run left."""
    if not path.is_file() or not path.stat().st_size:
        return False
    with path.open("rb") as file:
        file.seek(-1, SEEK_END)
        return file.read(1) != b"\n"


def manifest_lines(path: Path) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """Each line's number, from 1, and its row; None for a damaged one. Half a line at the end is none. Blocks.

    Raises OSError when the file cannot be read.
    """
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if isinstance(row, dict):
                yield number, row
            elif line.endswith(b"\n") and line.strip():
                yield number, None


def rebuild_manifest(directory: Path, history: History) -> int:
    """Write the manifest anew: one line for each settled row, in the order of the journal. Returns how many. Blocks.

    Behind them stand the rows of the old one that were no valid requests, which the journal does not know, once each.

    For who has the directory locked: a run that appends meanwhile would go on with the old file. Crash-safe: there is
    the old manifest or the new one, whole. Raises DownloadError ("disk_error") when the disk cannot take it, and
    JournalError when the journal cannot be read any more.
    """
    path, new_path = directory / MANIFEST_NAME, directory / NEW_NAME
    lines = 0
    with disk_errors(path, charged="no"):
        try:
            fd = _private(new_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            with os.fdopen(fd, "w", encoding="utf-8", errors=_ERRORS) as file:
                for row in chain(_settled_rows(history), _invalid_rows(path)):
                    file.write(_line(row))
                    lines += 1
                file.flush()
                os.fsync(file.fileno())
            new_path.replace(path)
        except BaseException:
            with suppress(OSError):
                new_path.unlink(missing_ok=True)
            raise
        sync_directory(directory)
    return lines


def directory_records(directory: Path) -> list[dict[str, object]]:
    """The rows of `directory` that have ended, as a manifest would have them, by their numbers in their list. Blocks.

    Reads the journal, and beside it the manifest, for rows that were no valid requests; so it may run beside a batch.
    Damaged lines are left out. Raises JournalError and OSError if the files cannot be read.
    """
    with History(directory / JOURNAL_NAME, skip_damaged=True) as history:
        rows = [*_settled_rows(history), *_invalid_rows(directory / MANIFEST_NAME)]
    return sorted(rows, key=lambda row: row["index"] if isinstance(row["index"], int) else -1)


def manifest_row(image: GeneratedImage) -> dict[str, object]:
    """A finished row in the manifest's stable keys; values that are not known are null."""
    error, timings = image.error, image.timings
    return _row(
        image.index,
        image.request,
        image.status,
        file=image.path.name if image.path else None,
        task_id=image.task_id,
        bytes_=image.bytes,
        sha256=image.sha256,
        pixels=(image.width, image.height),
        credits_=image.credits,
        seconds=timings.steps_s,
        error=None if error is None else (error_code(error), error.message, error.charged),
    )


def _settled_rows(history: History) -> Iterator[dict[str, object]]:
    for n in range(history.rows):
        state = history.state(n)
        if state is RowState.SAVED:
            saved = history.saved(n)
            yield _row(
                *_asked_in(history, n),
                "saved",
                file=saved.files[0],
                task_id=saved.task_id,
                bytes_=saved.bytes,
                sha256=saved.sha256,
                pixels=(saved.width, saved.height),
                credits_=saved.credits,
                seconds=saved.seconds,
            )
        elif state is RowState.FAILED:
            failed = history.failed(n)
            yield _row(
                *_asked_in(history, n),
                "failed",
                task_id=failed.task_id,
                credits_=failed.credits if failed.charged == "yes" else 0.0,
                error=(failed.code or failed.error, failed.message, failed.charged),
            )


def _invalid_rows(path: Path) -> Iterator[dict[str, Any]]:
    if path.exists():
        rows = (row for _, row in manifest_lines(path) if row is not None and row.get("prompt") is None)
        yield from {row.get("index"): row for row in rows}.values()


def _asked_in(history: History, n: int) -> tuple[int | None, ImageRequest | None]:
    """The row's index and request; None for a row whose own line is lost, which only a damaged journal has."""
    try:
        row = history.row(n)
    except JournalError:
        if not history.damaged:
            raise
        return None, None
    return row.index, row.request


def _row(
    index: int | None,
    request: ImageRequest | None,
    status: str,
    *,
    file: str | None = None,
    task_id: str | None,
    bytes_: int = 0,
    sha256: str | None = None,
    pixels: tuple[int | None, int | None] = (None, None),
    credits_: float,
    seconds: tuple[float, ...] = NO_TIME.steps_s,
    error: tuple[str, str, str] | None = None,
) -> dict[str, object]:
    """The keys, in their order. error: its code, its message, and whether the row was charged."""
    return {
        "index": index,
        "id": request.id if request else None,
        "status": status,
        "file": file,
        "prompt": request.prompt if request else None,
        "size": request.size if request else None,
        "quality": request.quality if request else None,
        "seed": request.seed if request else None,
        "task_id": task_id,
        "bytes": bytes_,
        "sha256": sha256,
        "width": pixels[0],
        "height": pixels[1],
        "credits": credits_,
        **{step: round(value, 3) for step, value in zip(_STEPS, seconds, strict=True)},
        "error": error[0] if error else None,
        "message": error[1] if error else None,
        "charged": error[2] if error else None,
    }


def _line(row: dict[str, object]) -> str:
    return _encoded(row) + "\n"


def _private(path: str | Path, flags: int) -> int:
    """Open for its owner alone, as the journal is: prompts are the caller's business."""
    return os.open(path, flags | getattr(os, "O_CLOEXEC", 0), 0o600)
