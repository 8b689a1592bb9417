"""A picture on its way to its name: `name.part` while it comes in, `name.png` once it is whole and synced.

A reader of the directory sees a picture complete or not at all, and nothing that exists is ever overwritten. Bytes are
gathered before they go to disk, so a small picture is written, checked and named in one visit to a thread.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from io import BytesIO
from itertools import chain, count, dropwhile
from pathlib import Path
from secrets import token_hex
from typing import Final

from attrs import frozen

from krea_async.storage.disk import DiskQueue, in_thread
from krea_async.storage.formats import inspect
from krea_async.storage.names import alternatives

WRITE_BYTES: Final = 256 * 1024
"""Bytes that are gathered before they go to disk: what one download holds in memory, but for a chunk."""

_TOKEN: Final = re.compile(r"\.[0-9a-f]{8}\Z")
_COPY: Final = re.compile(r"\.copy-[0-9a-f]{8}\.part")
_NUMBER: Final = re.compile(r"[-_][0-9]+\Z")
_BUFFER_BYTES: Final = 4096  # stated, so that opening a file asks the system for nothing else


@frozen(kw_only=True)
class Target:
    """Where a picture goes: `directory/stem`; the extension follows its content.

    `index`: the row's number in a batch, where names that its caller chose are told apart by it. `resumed`: an earlier
    run may have saved the picture and not lived to say so; a file of that name with the same bytes is the picture.
    `replaces`: a file that was the picture and is not what it was; it is kept beside the new one, as `.damaged-<n>`.
    `must_exist`: the directory is not made: one that vanishes is not to come back without what was in it.
    """

    directory: Path
    stem: str
    index: int | None = None
    resumed: bool = False
    replaces: str | None = None
    must_exist: bool = False


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

    def __init__(self, directory: Path, stem: str, disk: DiskQueue, *, must_exist: bool = False) -> None:
        self._must_exist = must_exist
        self.path = directory / f"{stem}.part"
        self._stem = stem
        self._disk = disk
        self._made = False
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
            await in_thread(self._write_out)

    async def publish(self, target: Target, *, sync: bool) -> SavedPicture:
        """Write the rest, check the file, sync it, and give it the first name that is free.

        Raises InvalidImageError when it is no whole picture.
        """
        return await self._disk.visit(lambda: self._publish(target, sync=sync))

    async def discard(self) -> None:
        """Remove the file, if there is one and the disk lets us. Never raises OSError: it follows a failure."""
        if self._made:
            with suppress(OSError):
                await self._disk.visit(self.path.unlink)

    def _write_out(self) -> None:
        self._hash()
        if self._made:
            with self.path.open("ab" if self._written_bytes else "wb", buffering=_BUFFER_BYTES) as file:
                file.writelines(self._gathered)
        else:
            self._make(self._gathered)
        self._written_bytes = self.size_bytes
        self._gathered = []

    def _hash(self) -> None:
        """Take what is gathered into the digest: in the thread that writes it, not in the event loop."""
        for chunk in self._gathered:
            self._sha256.update(chunk)

    def _publish(self, target: Target, *, sync: bool) -> SavedPicture:
        if self._made:
            with self.path.open("r+b" if self._written_bytes else "w+b") as file:
                file.seek(0, os.SEEK_END)
                self._hash()
                file.writelines(self._gathered)
                picture = inspect(file, size_bytes=self.size_bytes)
                if sync:
                    os.fsync(file.fileno())
        else:  # all of it is here: checked before it costs a visit to the disk
            picture = inspect(BytesIO(b"".join(self._gathered)), size_bytes=self.size_bytes)
            self._hash()
            self._make(self._gathered, sync=sync)
        _put_aside(target)
        names = _names(target, self._stem, picture.extension)
        sha256 = self._sha256.hexdigest()
        path = next(
            path for path in names if _renamed(self.path, path) or (target.resumed and self._is_at(path, sha256))
        )
        return SavedPicture(
            path=path,
            bytes=self.size_bytes,
            sha256=sha256,
            width=picture.width,
            height=picture.height,
        )

    def _is_at(self, path: Path, sha256: str) -> bool:
        """Whether `path` holds these very bytes; then the part is not needed any more."""
        if not _holds(path, self.size_bytes, sha256):
            return False
        self.path.unlink()
        return True

    def _make(self, data: Iterable[bytes], *, sync: bool = False) -> None:
        """Make the file. One that is there is another process's, or what a killed one left: not ours to touch."""
        try:
            file = self.path.open("xb", buffering=_BUFFER_BYTES)
        except FileNotFoundError:
            if self._must_exist:
                raise
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = self.path.open("xb", buffering=_BUFFER_BYTES)
        except FileExistsError:
            self.path = self.path.with_name(f"{self._stem}.{token_hex(4)}.part")
            file = self.path.open("xb", buffering=_BUFFER_BYTES)
        self._made = True
        with file:
            file.writelines(data)
            if sync:
                file.flush()
                os.fsync(file.fileno())


def _renamed(part: Path, path: Path) -> bool:
    """Whether `part` could be given the name `path`; never takes a name that exists."""
    try:
        path.hardlink_to(part)
    except FileExistsError:
        return False
    except OSError:  # no hard links on this file system
        if os.path.lexists(path):
            return False
        part.rename(path)
        return True
    part.unlink()
    return True


def copy_picture(source: Path, target: Target, stem: str) -> SavedPicture | None:
    """Give the picture `source` another name, the first from `stem` on that is free, or that it has already. Blocks.

    A link where the file system has them, else a copy. None if there is no such file any more. Raises OSError, and
    InvalidImageError if it is no picture any more.
    """
    try:
        file = source.open("rb")
    except FileNotFoundError:
        return None
    with file:
        size_bytes = os.fstat(file.fileno()).st_size
        picture = inspect(file, size_bytes=size_bytes)
    sha256 = sha256_of(source)
    _put_aside(target)
    names = _names(target, stem, picture.extension)
    path = next(path for path in names if _linked(source, path) or _holds(path, size_bytes, sha256))
    return SavedPicture(path=path, bytes=size_bytes, sha256=sha256, width=picture.width, height=picture.height)


def _linked(source: Path, path: Path) -> bool:
    try:
        path.hardlink_to(source)
    except FileExistsError:
        return False
    except OSError:  # no hard links on this file system
        copy = path.with_name(f".copy-{token_hex(4)}.part")
        try:
            with source.open("rb") as original, copy.open("xb") as file:
                shutil.copyfileobj(original, file, WRITE_BYTES)
                file.flush()
                os.fsync(file.fileno())
            return _renamed(copy, path)
        finally:
            copy.unlink(missing_ok=True)
    return True


def _put_aside(target: Target) -> None:
    """Free the name of the file that is to be replaced."""
    if target.replaces is None:
        return
    path = target.directory / target.replaces
    free = (path.with_name(f"{path.name}.damaged-{number}") for number in count(1))
    with suppress(FileNotFoundError):
        path.rename(next(name for name in free if not os.path.lexists(name)))


def _names(target: Target, stem: str, extension: str) -> Iterator[Path]:
    """The names that the picture may have, from the one that was claimed for it on."""
    free = dropwhile(lambda name: name != stem, alternatives(target.stem, target.index))
    return (target.directory / f"{name}.{extension}" for name in free)


def _holds(path: Path, size_bytes: int, sha256: str) -> bool:
    """Whether the file holds these very bytes."""
    return path.stat().st_size == size_bytes and sha256_of(path) == sha256


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hex. Blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_parts(directory: Path, stems: Iterable[str]) -> None:
    """Remove what killed runs left: of pictures with these stems, and of copies. Blocks; for who has the lock.

    `stems` is read only as long as there are parts that may have one of them.
    """
    with os.scandir(directory) as entries:
        parts = [entry for entry in entries if entry.name.endswith(".part")]
    left: set[str] = set()
    by_stem: dict[str, set[str]] = {}
    for part in parts:
        if not part.is_file(follow_symlinks=False):
            continue
        if _COPY.fullmatch(part.name):
            (directory / part.name).unlink(missing_ok=True)
            continue
        left.add(part.name)
        name = part.name.removesuffix(".part")
        for stem in chain(_stems(name), _stems(_TOKEN.sub("", name))):
            by_stem.setdefault(stem, set()).add(part.name)
    stems = iter(stems)
    while left and (ours := next(stems, None)) is not None:
        for name in left & by_stem.get(ours, set()):
            (directory / name).unlink(missing_ok=True)
            left.remove(name)


def _stems(name: str) -> Iterator[str]:
    """Whose picture this may be: `name`, and what it was before numbers told it apart."""
    yield name
    while number := _NUMBER.search(name):
        name = name[: number.start()]
        yield name
