"""The thumbnails of a directory: made in worker processes, kept in `.gallery/`, so that only new ones are made again.

A worker that dies takes one picture with it, and no more. Each has one picture at a time, so there is no doubt which.
"""

import errno
import os
import re
import time
from collections.abc import Callable, Container
from contextlib import suppress
from pathlib import Path
from typing import Final

import anyio
from anyio import to_process

from krea_async.errors import words_of
from krea_async.gallery.pictures import PictureFile
from krea_async.gallery.shrink import PART_SUFFIX, Shrunk, shrink

CACHE_NAME: Final = ".gallery"
TRIES: Final = 2
"""A worker may also be ended by somebody who needs its memory; a picture that ends two of them is at fault itself."""

LONGEST_S: Final = 120.0
"""How long a worker may look at one picture."""

_KEY: Final = re.compile(r"[0-9a-f]{32}\.webp")


class Album:
    """The thumbnails of the pictures in `directory`. make: what workers run. Open it before it is used."""

    def __init__(self, directory: Path, *, make: Callable[[str, str | None], Shrunk] = shrink) -> None:
        self.cache = directory / CACHE_NAME
        self.workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.not_kept: str | None = None
        """Why thumbnails cannot be kept in `cache`, once it is open; None if they can."""
        self._make = make
        self._limiter = anyio.CapacityLimiter(self.workers)

    def open(self) -> None:
        """Make the cache if need be; `not_kept` says whether it is of use. Blocks."""
        try:
            self.cache.mkdir(mode=0o700, exist_ok=True)
            self.not_kept = None if os.access(self.cache, os.W_OK | os.X_OK) else os.strerror(errno.EACCES)
        except OSError as error:
            self.not_kept = error.strerror or str(error)

    def find(self, picture: PictureFile) -> bytes | None:
        """The thumbnail, if it is there already. Blocks."""
        with suppress(OSError):
            return self._place(picture).read_bytes() or None
        return None

    async def make(self, picture: PictureFile) -> Shrunk:
        """Make the thumbnail, and keep it if that is possible. Whatever goes wrong is a note."""
        keep_as = None if self.not_kept else str(self._place(picture))
        for _ in range(TRIES):
            try:
                with anyio.fail_after(LONGEST_S):
                    made = await to_process.run_sync(
                        self._make, str(picture.path), keep_as, cancellable=True, limiter=self._limiter
                    )
            except (anyio.BrokenWorkerProcess, ProcessLookupError):  # the latter, if it ended before it was ready
                continue
            except TimeoutError:
                return Shrunk(note=f"its decoding took more than {LONGEST_S:g} s")
            except OSError as error:
                return Shrunk(note=f"no process can be started for it: {words_of(error)}")
            self.not_kept = made.not_kept or self.not_kept
            return made
        return Shrunk(note="its decoding ended the process that did it")

    def sweep(self, kept: Container[str]) -> int:
        """Remove all thumbnails but those with the keys in `kept`, and what a crash left. Returns how many. Blocks."""
        removed = 0
        with suppress(OSError), os.scandir(self.cache) as entries:
            for entry in entries:
                with suppress(OSError):
                    left = entry.name.endswith(PART_SUFFIX) and time.time() - entry.stat().st_mtime > LONGEST_S
                    if left or (_KEY.fullmatch(entry.name) and entry.name.partition(".")[0] not in kept):
                        os.unlink(entry.path)  # noqa: PTH108 - of many, and its path is a text
                        removed += 1
        return removed

    def _place(self, picture: PictureFile) -> Path:
        """Where its thumbnail is kept."""
        return self.cache / f"{picture.key}.webp"
