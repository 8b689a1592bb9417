"""A directory's rows from its manifest, for one that has no journal (any more): what has ended, and nothing else.

A row that a later run tried again has several lines, and the last counts. Lines are read at their place when a tile is
asked for.
"""

from array import array
from collections import Counter
from pathlib import Path
from typing import Final, Literal, Self

from attrs import fields

from krea_async.audit.prices import usd_of
from krea_async.errors import DISK_ERROR, JournalError, words_of
from krea_async.gallery.facts import Facts
from krea_async.gallery.pictures import find_picture
from krea_async.gallery.sheet import Tile, Totals
from krea_async.results import Timings
from krea_async.storage.digests import digest
from krea_async.storage.manifest import MANIFEST_NAME

_STEPS: Final = tuple(step.name for step in fields(Timings))
_ASKED: Final = ("index", "id", "prompt", "size", "quality", "seed")


class ManifestRows:
    """The rows of `directory`, by its manifest. For one thread at a time; close it at the end."""

    source: Literal["manifest"] = "manifest"

    def __init__(self, directory: Path) -> None:
        """Read the manifest. Raises JournalError when it cannot be read ("disk_error")."""
        self.directory = directory
        self._offsets = array("Q")
        self._damaged_lines = 0
        path = directory / MANIFEST_NAME
        try:
            self._file = path.open("rb")
            self._read()
            self.totals = self._added_up()
        except OSError as error:
            raise JournalError(f"cannot read {path}: {words_of(error)}", code=DISK_ERROR) from error

    def close(self) -> None:
        """Close the file. No tile can be read any more."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._offsets)

    def tile(self, n: int) -> Tile:
        """Row `n`."""
        self._file.seek(self._offsets[n])
        row = Facts.read(self._file.readline())
        is_saved = row.get("status") == "saved"
        file = row.text("file") if is_saved else None
        seconds = Facts(steps=[row.get(step, 0.0) for step in _STEPS]).sum("steps")
        return Tile(
            n=n,
            index=row.whole("index"),
            id=row.text("id"),
            status="saved" if is_saved else "failed",
            file=file,
            is_missing=is_saved and (file is None or find_picture(self.directory, file) is None),
            prompt=row.text("prompt"),
            size=row.text("size"),
            quality=row.text("quality"),
            seed=row.whole("seed"),
            task_id=row.text("task_id"),
            credits=row.number("credits"),
            width=row.whole("width"),
            height=row.whole("height"),
            bytes=row.whole("bytes") if is_saved else None,
            seconds=seconds if is_saved else None,
            error=None if is_saved else row.text("error"),
            message=None if is_saved else row.text("message"),
            charged=None if is_saved else row.text("charged"),
        )

    def _read(self) -> None:
        places: dict[int, int] = {}
        offset = 0
        for line in self._file:
            row = Facts.read(line)
            if row.text("status") in {"saved", "failed"}:
                asked = digest(repr([row.get(key) for key in _ASKED]))
                place = places.setdefault(asked, len(self._offsets))
                if place == len(self._offsets):
                    self._offsets.append(offset)
                self._offsets[place] = offset
            elif not row and line.endswith(b"\n") and line.strip():
                self._damaged_lines += 1
            offset += len(line)

    def _added_up(self) -> Totals:
        saved = charged = picture_bytes = 0
        seconds = 0.0
        prices: Counter[int] = Counter()
        for tile in map(self.tile, range(len(self))):
            price = round((tile.credits or 0.0) * 1e6)
            charged += price
            if tile.status == "saved":
                saved += 1
                prices[price] += 1
                picture_bytes += tile.bytes or 0
                seconds += tile.seconds or 0.0
        return Totals(
            rows=len(self),
            saved=saved,
            failed=len(self) - saved,
            credits=charged / 1e6,
            usd=usd_of(prices, charged),
            bytes=picture_bytes,
            seconds=round(seconds, 3),
            damaged_lines=self._damaged_lines,
        )
