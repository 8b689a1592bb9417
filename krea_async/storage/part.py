"""A picture on its way to its name: `name.part` while it comes in, `name.png` once it is whole and synced.

A reader of the directory sees a picture complete or not at all, and nothing that exists is ever overwritten.
"""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import dropwhile
from pathlib import Path
from typing import BinaryIO

import anyio
from aiofiles import threadpool
from aiofiles.threadpool.binary import AsyncBufferedIOBase
from attrs import frozen

from krea_async.storage.formats import PictureInfo, inspect
from krea_async.storage.names import alternatives


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
    """A picture while it comes in: the file, and what is known of the bytes in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.start_over()

    def start_over(self) -> None:
        """Forget the bytes; the next opening empties the file."""
        self.size_bytes = 0
        self.sha256 = hashlib.sha256()
        self.etag: str | None = None

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[AsyncBufferedIOBase]:
        """The file, to append to."""
        opening = asyncio.get_running_loop().run_in_executor(None, self._open)
        try:
            file = threadpool.wrap(await asyncio.shield(opening))
        except asyncio.CancelledError:
            opening.add_done_callback(_close_when_open)  # a cancelled opening must not leave its file behind
            raise
        try:
            yield file
        finally:
            with anyio.CancelScope(shield=True):
                await file.close()

    async def append(self, file: AsyncBufferedIOBase, data: bytes | bytearray) -> None:
        """Write `data` whole, even when cancelled: a half-known write could not be continued."""
        if data:
            with anyio.CancelScope(shield=True):
                await file.write(data)
                self.sha256.update(data)
                self.size_bytes += len(data)

    def publish(self, target: Target, *, sync: bool) -> SavedPicture:
        """Check the file, sync it, and give it the first name that is free. Blocks. Raises InvalidImageError."""
        with self.path.open("r+b") as file:
            picture = inspect(file, size_bytes=self.size_bytes)
            if sync:
                os.fsync(file.fileno())
        mine = dropwhile(lambda stem: stem != self.path.stem, alternatives(target.stem, target.index))
        path = next(path for stem in mine if _renamed(self.path, path := self._named(stem, picture)))
        return SavedPicture(
            path=path,
            bytes=self.size_bytes,
            sha256=self.sha256.hexdigest(),
            width=picture.width,
            height=picture.height,
        )

    def discard(self) -> None:
        """Remove the file, if there is one. Blocks."""
        self.path.unlink(missing_ok=True)

    def _open(self) -> BinaryIO:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return self.path.open("ab" if self.size_bytes else "wb")

    def _named(self, stem: str, picture: PictureInfo) -> Path:
        return self.path.with_name(f"{stem}.{picture.extension}")


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


def _close_when_open(opening: "asyncio.Future[BinaryIO]") -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()
