"""Which file a row's picture is. Names come from records that anybody may have written, so none is believed."""

import stat
from hashlib import blake2b
from pathlib import Path
from typing import Final

from attrs import frozen

from krea_async.audit.examine import is_picture_name

_FORM: Final = 1
"""Another one where thumbnails are made in another way, so that old ones are not taken for new."""


@frozen
class PictureFile:
    """A plain file in its directory, as it was found."""

    path: Path
    size_bytes: int
    mtime_ns: int

    @property
    def key(self) -> str:
        """What its thumbnail is kept under: another one for another name, size or time of change."""
        facts = f"{_FORM} {self.size_bytes} {self.mtime_ns} {self.path.name}".encode(errors="surrogatepass")
        return blake2b(facts, digest_size=16).hexdigest()


def find_picture(directory: Path, name: str) -> PictureFile | None:
    """The picture of that name; None if there is none, it is no plain file, or a link leads out of `directory`."""
    if not is_picture_name(name):
        return None
    path = directory / name
    try:
        found = path.lstat()
        if stat.S_ISLNK(found.st_mode):
            if not path.resolve(strict=True).is_relative_to(directory.resolve()):
                return None
            found = path.stat()
    except (OSError, RuntimeError):  # a loop of links is one or the other
        return None
    return PictureFile(path, found.st_size, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else None
