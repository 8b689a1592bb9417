"""A directory as one page: `gallery.html` beside the pictures, with a thumbnail of each, whole or not at all."""

import os
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final, Literal, TextIO

import anyio
from anyio.from_thread import BlockingPortal, start_blocking_portal
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from attrs import define, field

from krea_async.errors import DISK_ERROR, DownloadError
from krea_async.gallery.album import CACHE_NAME, Album
from krea_async.gallery.interrupts import block_interrupts
from krea_async.gallery.page import write_page
from krea_async.gallery.pictures import PictureFile, find_picture
from krea_async.gallery.reading import Rows, base_url, open_rows, sheet_of
from krea_async.gallery.sheet import Thumbnail, Totals
from krea_async.storage.disk import disk_errors

PAGE_NAME: Final = "gallery.html"

EMBEDDED_AT_MOST: Final = 20_000
"""So many thumbnails are in the page unless told otherwise, some 65 to 160 MB; with more they are files beside it."""

Placing = Literal["auto", "embed", "files", "none"]
"""Where thumbnails go: into the page, into `.gallery/` beside the pictures, nowhere, or where their number suits."""

_AHEAD: Final = 64  # thumbnails that are ready before the page takes them


@define
class Written:
    """What came of it. source: "journal" or "manifest", which was read.

    made: thumbnails that were not there before. without: pictures that have none; example: why one of them has not.
    not_kept: why thumbnails could not be kept for the next time.
    """

    page: Path
    source: str
    totals: Totals
    made: int = 0
    without: int = 0
    example: str | None = None
    not_kept: str | None = None


def write_gallery(
    directory: Path,
    page: Path | None = None,
    *,
    thumbnails: Placing = "auto",
    tell: Callable[[int, int], None] | None = None,
) -> Written:
    """Write the contact sheet of `directory`, by default beside its pictures. Blocks. A run may go on meanwhile.

    Thumbnails need Pillow, unless there are to be none. tell: is told how many are done, and of how many. Raises
    JournalError as `open_rows` does, and DownloadError ("disk_error") when the page cannot be written, or thumbnails
    that are to be files: then the page that was there before is left as it was.
    """
    page = page or directory / PAGE_NAME
    with open_rows(directory) as rows, disk_errors(page, charged="no"):
        sheet, written = sheet_of(rows, page=page), Written(page, rows.source, rows.totals)
        if thumbnails == "none":
            with _replacing(page) as file:
                write_page(file, sheet)
            return written
        making = _Making(rows, written, tell, base_url(directory, page))
        making.place(thumbnails)
        with start_blocking_portal() as portal:
            portal.call(block_interrupts)
            with closing(making.thumbnails(portal)) as made, _replacing(page) as file:
                write_page(file, sheet, made)
        making.end()
        return written


@define
class _Making:
    """The thumbnails of one page, on their way. are_files: the page refers to them, and does not hold them."""

    _rows: Rows
    _written: Written
    _tell: Callable[[int, int], None] | None
    _base_url: str
    _are_files: bool = False
    _keys: set[str] = field(factory=set, init=False)
    _album: Album = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._album = Album(self._rows.directory)
        self._album.open()

    def place(self, placing: Placing) -> None:
        """Decide where they go."""
        many = self._written.totals.saved > EMBEDDED_AT_MOST
        self._are_files = placing == "files" or (placing == "auto" and many and not self._album.not_kept)
        self._check_kept()

    def end(self) -> None:
        """All are made: forget those of pictures that are not there any more."""
        self._album.sweep(self._keys)
        self._written.not_kept = self._album.not_kept

    def thumbnails(self, portal: BlockingPortal) -> Generator[Thumbnail]:
        """Them, as they get ready. `portal`: to the event loop that looks after the workers; it closes after this."""
        total, done = self._written.totals.saved, 0
        send, receive = anyio.create_memory_object_stream[Thumbnail](_AHEAD)
        making = portal.start_task_soon(self._make_all, send)
        try:
            while ready := portal.call(_ready, receive):
                yield from ready
                done += len(ready)
                if self._tell is not None:
                    self._tell(done, total)
            making.result()
        finally:
            making.cancel()
            portal.call(send.close)
            portal.call(receive.close)

    async def _make_all(self, send: MemoryObjectSendStream[Thumbnail]) -> None:
        pictures = self._pictures()
        errors: list[Exception] = []

        async def work() -> None:
            try:
                for n, picture in pictures:  # of which each worker takes what the others have left
                    await send.send(await self._thumbnail(n, picture))
            except Exception as error:  # noqa: BLE001 - raised below: several may fail for one reason, such as the disk
                errors.append(error)
                workers.cancel_scope.cancel()

        async with send, anyio.create_task_group() as workers:
            for _ in range(self._album.workers):
                workers.start_soon(work)
        if errors:
            raise errors[0]

    def _pictures(self) -> Iterator[tuple[int, PictureFile]]:
        for n in range(len(self._rows)):
            tile = self._rows.tile(n)
            if tile.file and (picture := find_picture(self._rows.directory, tile.file)):
                self._keys.add(picture.key)
                yield n, picture

    async def _thumbnail(self, n: int, picture: PictureFile) -> Thumbnail:
        url = f"{self._base_url}{CACHE_NAME}/{picture.key}.webp" if self._are_files else None
        if known := self._album.find(picture):
            return Thumbnail(n=n, url=url) if url else Thumbnail(n=n, webp=known)
        made = await self._album.make(picture)
        if made.webp is None:
            self._written.without += 1
            self._written.example = self._written.example or f"{picture.path.name}: {made.note}"
            return Thumbnail(n=n, note=made.note)
        self._written.made += 1
        self._check_kept()
        return Thumbnail(n=n, url=url) if url else Thumbnail(n=n, webp=made.webp)

    def _check_kept(self) -> None:
        if self._are_files and self._album.not_kept:
            words = f"cannot write {self._album.cache}: {self._album.not_kept}"
            raise DownloadError(words, code=DISK_ERROR, charged="no")


async def _ready(receive: MemoryObjectReceiveStream[Thumbnail]) -> list[Thumbnail]:
    """All that are ready, and at least one; none once there will be no more."""
    ready = []
    try:
        ready.append(await receive.receive())
        while True:
            ready.append(receive.receive_nowait())
    except (anyio.EndOfStream, anyio.WouldBlock):
        return ready


@contextmanager
def _replacing(page: Path) -> Iterator[TextIO]:
    """A file that takes the page's place at the end, if nothing fails. For its owner alone, as the journal is."""
    part = ""
    try:
        fd, part = tempfile.mkstemp(dir=page.parent, prefix=f".{page.name}.", suffix=".part")
        with os.fdopen(fd, "w", encoding="utf-8", newline="\n") as file:
            yield file
        os.replace(part, page)  # noqa: PTH105 - mkstemp gives a text
    except BaseException as error:
        with suppress(OSError):
            os.unlink(part)  # noqa: PTH108
        if isinstance(error, OSError):
            error.filename = os.fspath(page)  # not the other name
        raise
