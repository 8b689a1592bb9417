"""What there is to show of a directory: its rows, and the sheet that they make."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Protocol, Self
from urllib.parse import quote

from krea_async.gallery.journal_rows import JournalRows
from krea_async.gallery.manifest_rows import ManifestRows
from krea_async.gallery.sheet import Sheet, Tile, Totals
from krea_async.storage.history import JOURNAL_NAME
from krea_async.storage.manifest import MANIFEST_NAME


class Rows(Protocol):
    """The rows of a directory, numbered from 0. For one thread at a time."""

    directory: Path

    @property
    def source(self) -> Literal["journal", "manifest"]:
        """Where they come from."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...
    def __len__(self) -> int: ...

    def close(self) -> None:
        """Close what they are read from."""

    @property
    def totals(self) -> Totals:
        """Their sums."""

    def tile(self, n: int) -> Tile:
        """Row `n`."""


def open_rows(directory: Path) -> Rows:
    """The rows of `directory`, by its journal, or by its manifest where there is none. It may be in use by a run.

    Raises JournalError: nothing was rendered into it ("no_journal"), a later krea-async wrote it, or it cannot be read
    ("disk_error"). Lines that are damaged are left out and counted.
    """
    if not os.path.lexists(directory / JOURNAL_NAME) and (directory / MANIFEST_NAME).is_file():
        return ManifestRows(directory)
    rows = JournalRows(directory)
    if rows.follow() is None:  # another one took its place while it was read
        rows.close()
        rows = JournalRows(directory)
    return rows


def sheet_of(rows: Rows, *, page: Path) -> Sheet:
    """The sheet of `rows`, for the page at that path. Its tiles are read as they are asked for."""
    return Sheet(
        title=title_of(rows.directory),
        made_at_s=round(time.time(), 3),
        base_url=base_url(rows.directory, page),
        source=rows.source,
        totals=rows.totals,
        tiles=_Tiles(rows),
    )


def title_of(directory: Path) -> str:
    """The directory's name, whatever it was called by."""
    name = directory.resolve().name or str(directory.resolve())
    return name.encode(errors="replace").decode()


def base_url(directory: Path, page: Path) -> str:
    """How a page refers to the directory: relative if that is possible, quoted, with a slash at its end."""
    here, there = page.resolve().parent, directory.resolve()
    if here == there:
        return "./"
    try:
        relative = os.path.relpath(there, here)
    except ValueError:  # another drive
        return f"{there.as_uri()}/"
    return f"./{quote(os.fsencode(relative.replace(os.sep, '/')))}/"


class _Tiles:
    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Tile]:
        return map(self._rows.tile, range(len(self._rows)))
