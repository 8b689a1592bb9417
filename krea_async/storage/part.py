"""A picture on its way to its name: `name.part` while it comes in, `name.png` once it is whole and synced.

A reader of the directory sees a picture complete or not at all, and nothing that exists is ever overwritten. Bytes are
gathered before they go to disk, so a small picture is written, checked and named in one visit to a thread.
"""

import hashlib
import os
from itertools import dropwhile
from pathlib import Path
from typing import Final

import aiofiles
from attrs import frozen

from krea_async.storage.disk import in_thread, to_its_end
from krea_async.storage.formats import inspect
from krea_async.storage.names import alternatives

WRITE_BYTES: Final = 256 * 1024
"""Bytes that are gathered before they go to disk: what one download holds in memory, but for a chunk."""


@frozen(kw_only=True)
class Target:
    """Where a picture goes: `directory/stem`; the extension follows its content.

    `index`: the row's number in a batch, where names that its caller chose are told apart by it.
    """

    directory: Path
    stem: str
    index: int | None = None


@frozen(kw_only=True)
class SavedPicture:
    """A picture on disk. sha256: of its bytes, in hex. width, height: in pixels."""

    path: Path
    bytes: int
    sha256: str
    width: int
    height: int


class Part:
    """A picture while it comes in: what is on disk, what is gathered for it, and which file of the host it is.

    size_bytes: how much of it is here. etag: names the file that the bytes are from, if the host gave it a name.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.start_over()

    def start_over(self) -> None:
        """Forget the bytes; the next write empties the file."""
        self.size_bytes = 0
        self.etag: str | None = None
        self._written_bytes = 0
        self._gathered: list[bytes] = []
        self._sha256 = hashlib.sha256()

    async def add(self, chunk: bytes) -> None:
        """Take the next bytes in. Now and then this writes what is gathered to disk."""
        self._gathered.append(chunk)
        self.size_bytes += len(chunk)
        if self.size_bytes - self._written_bytes >= WRITE_BYTES:
            await to_its_end(self._write_out())

    async def publish(self, target: Target, *, sync: bool) -> SavedPicture:
        """Write the rest, check the file, sync it, and give it the first name that is free.

        Raises InvalidImageError when it is no whole picture.
        """
        return await in_thread(lambda: self._publish(target, sync=sync))

    async def discard(self) -> None:
        """Remove the file, if there is one."""
        await in_thread(lambda: self.path.unlink(missing_ok=True))

    async def _write_out(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        async with aiofiles.open(self.path, "ab" if self._written_bytes else "wb") as file:
            await file.writelines(self._gathered)
        self._note_written()

    def _publish(self, target: Target, *, sync: bool) -> SavedPicture:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("r+b" if self._written_bytes else "w+b") as file:
            file.seek(0, os.SEEK_END)
            file.writelines(self._gathered)
            file.flush()
            self._note_written()
            picture = inspect(file, size_bytes=self.size_bytes)
            if sync:
                os.fsync(file.fileno())
        free = dropwhile(lambda stem: stem != self.path.stem, alternatives(target.stem, target.index))
        names = (self.path.with_name(f"{stem}.{picture.extension}") for stem in free)
        path = next(path for path in names if _renamed(self.path, path))
        return SavedPicture(
            path=path,
            bytes=self.size_bytes,
            sha256=self._sha256.hexdigest(),
            width=picture.width,
            height=picture.height,
        )

    def _note_written(self) -> None:
        for chunk in self._gathered:
            self._sha256.update(chunk)
        self._written_bytes = self.size_bytes
        self._gathered = []


def _renamed(part: Path, path: Path) -> bool:
    """Whether `part` could be given the name `path`; never takes a name that exists."""
    try:
        path.hardlink_to(part)
    except FileExistsError:
        return False
    except OSError:  # no hard links on this file system
        if path.exists():
            return False
        part.rename(path)
        return True
    part.unlink()
    return True
