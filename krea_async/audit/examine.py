"""One row's pictures against what was recorded of them, from the cheapest question to the dearest.

Is there a plain file of that name, has it the right bytes, is it a whole picture, can every pixel be read, are there as
many as the record, and the API's documentation, say? A row's names may come from anybody, so they are not believed.
"""

import errno
import hashlib
import os
import stat
from collections.abc import Callable
from io import BufferedReader
from pathlib import Path, PurePath
from typing import BinaryIO, Final, Literal

from attrs import field, frozen

from krea_async.audit.recorded import Recorded
from krea_async.errors import InvalidImageError
from krea_async.storage.formats import PictureInfo, inspect
from krea_async.storage.names import PICTURE_SUFFIXES

Kind = Literal[
    "missing",  # the file is not there
    "unreadable",  # it cannot be opened or read
    "size",  # it has another number of bytes than was recorded
    "sha256",  # its bytes are not those that were recorded
    "structure",  # it is no whole picture
    "undecodable",  # Pillow cannot read all of its pixels
    "pixels",  # it has other pixels than were recorded
    "shared_name",  # another row's picture has its name
    "other_size",  # its pixels are not those that the API documents for the request; it is as it was made
    "duplicate",  # it is the same picture as one that it should differ from
    "unsafe_name",  # the record names what can be no picture of this directory; it was not looked at
]

DAMAGE: Final[frozenset[Kind]] = frozenset(
    {"missing", "unreadable", "size", "sha256", "structure", "undecodable", "pixels", "shared_name"}
)
"""The kinds that mean: this row has no good picture (any more)."""

MAX_DECODED_PIXELS: Final = 64_000_000  # some eight times the largest that is documented; more could be a trap

_READING: Final = sum(getattr(os, name, 0) for name in ("O_RDONLY", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY"))


@frozen(kw_only=True)
class Finding:
    """What is wrong with one file. curable: whether another download can help."""

    file: str
    kind: Kind
    message: str
    curable: bool = True


@frozen(kw_only=True)
class Seen:
    """What was found of a row. files, bytes: that are there; decoded: of how many every pixel was read."""

    files: int = 0
    bytes: int = 0
    decoded: int = 0
    findings: tuple[Finding, ...] = ()


@frozen
class Decoder:
    """name: what it is. decode: reads every pixel; False if it cannot do this format. Raises whatever it likes."""

    name: str
    decode: Callable[[BinaryIO, PictureInfo], bool] = field(repr=False)


def pillow() -> Decoder | None:
    """Pillow, if it is installed."""
    try:
        from PIL import Image, __version__, features  # noqa: PLC0415 - an extra that may be missing
    except ImportError:
        return None
    Image.init()  # here, and not in several threads at the same time

    def decode(file: BinaryIO, info: PictureInfo) -> bool:
        if info.extension == "webp" and not features.check("webp"):
            return False
        for read in ("verify", "load"):  # checksums first: reading the pixels does not look at them
            file.seek(0)
            with Image.open(file, formats=("PNG", "JPEG", "WEBP")) as picture:
                if picture.size != (info.width, info.height):
                    raise ValueError(f"it is {_by(picture.size)} and {info.width}x{info.height} at the same time")
                getattr(picture, read)()
        return True

    return Decoder(f"Pillow {__version__}", decode)


def examine(directory: Path, row: Recorded, decoder: Decoder | None) -> Seen:
    """All files of a row; of each the first damage, or else whether it has the documented size."""
    findings: list[Finding] = []
    files = total_bytes = decoded = 0
    for place, name in enumerate(row.files):
        facts = row if place == 0 else Recorded(files=(name,))
        if not is_picture_name(name):
            words = "the record names no picture of this directory"
            findings.append(Finding(file=name, kind="unsafe_name", message=words, curable=False))
            continue
        try:
            with _plain_file(directory / name) as file:
                size_bytes = os.fstat(file.fileno()).st_size
                finding, is_decoded = _examined(file, size_bytes, facts, decoder)
        except FileNotFoundError:
            findings.append(Finding(file=name, kind="missing", message="the file is not there"))
        except OSError as error:
            words = f"the file cannot be read: {error.strerror or error}"
            findings.append(Finding(file=name, kind="unreadable", message=words, curable=error.errno == errno.EIO))
        else:
            files, total_bytes, decoded = files + 1, total_bytes + size_bytes, decoded + is_decoded
            findings += [finding] if finding else []
    return Seen(files=files, bytes=total_bytes, decoded=decoded, findings=tuple(findings))


def is_picture_name(name: str) -> bool:
    """Whether it could be a picture of ours: a bare name that a terminal can show, with a picture's extension."""
    path = PurePath(name)
    return path.name == name and name.isprintable() and path.suffix.lower() in PICTURE_SUFFIXES


def _plain_file(path: Path) -> BufferedReader:
    """Opened for reading. Raises OSError, also for what may have no end, such as a pipe."""
    file = open(os.open(path, _READING), "rb")  # noqa: PTH123, SIM115 - a path's own open() would wait for a pipe
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "it is no plain file")
    return file


def _examined(
    file: BufferedReader, size_bytes: int, row: Recorded, decoder: Decoder | None
) -> tuple[Finding | None, bool]:
    """What is wrong with an open file, and whether it was decoded."""
    info: PictureInfo | None = None
    broken = ""
    try:
        info = inspect(file, size_bytes=size_bytes)
    except InvalidImageError as error:
        broken = error.message
    whole = broken or "it is a whole picture all the same"
    kind: Kind | None = None
    words, decoded = "", False
    if row.bytes is not None and size_bytes != row.bytes:
        kind, words = "size", f"it has {size_bytes} bytes, and {row.bytes} were saved; {whole}"
    elif row.sha256 is not None and _sha256_of(file) != row.sha256:
        kind, words = "sha256", f"its bytes are not those that were saved; {whole}"
    elif info is None:
        kind, words = "structure", broken
    else:
        decoded, words = _decoded(file, info, decoder)
        kind, words = ("undecodable", words) if words else _wrong_pixels((info.width, info.height), row)
    if kind is None:
        return None, decoded
    return Finding(file=row.files[0], kind=kind, message=words, curable=kind != "other_size"), decoded


def _wrong_pixels(pixels: tuple[int, int], row: Recorded) -> tuple[Kind | None, str]:
    if row.pixels is not None and row.pixels != pixels:
        return "pixels", f"it has {_by(pixels)} pixels, not {_by(row.pixels)} as recorded"
    if row.request is not None and row.request.pixels != pixels:
        asked = f"{row.request.size} in {row.request.quality} is documented as {_by(row.request.pixels)}"
        return "other_size", f"it has {_by(pixels)} pixels; {asked}"
    return None, ""


def _decoded(file: BinaryIO, info: PictureInfo, decoder: Decoder | None) -> tuple[bool, str]:
    """Whether the picture was decoded, and what is wrong with it."""
    if info.width * info.height > MAX_DECODED_PIXELS:
        return False, f"it says to be {info.width}x{info.height} pixels, too many to be a picture of ours"
    if decoder is None:
        return False, ""
    try:
        return decoder.decode(file, info), ""
    except OSError as error:
        if error.errno is not None:  # the disk's, not Pillow's
            raise
        return False, f"its pixels cannot be read: {error}"
    except Exception as error:  # noqa: BLE001 - there is no end to what decoders raise for damaged files
        return False, f"its pixels cannot be read: {str(error) or type(error).__name__}"


def _sha256_of(file: BufferedReader) -> str:
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()


def _by(pixels: tuple[int, int]) -> str:
    return "x".join(map(str, pixels))
