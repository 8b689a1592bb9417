"""Is this file a whole picture, and which? An image host can serve an error page, or half a picture, as a success.

The structure is walked from one length to the next, so a picture of any size costs a few reads and little memory.
PNG and WebP state where they end. A JPEG's compressed data has no length: it is searched for the marker that follows.
"""

import codecs
import re
import struct
import zlib
from os import SEEK_CUR, SEEK_END
from typing import BinaryIO, Final, Literal

from attrs import frozen

from krea_async.errors import InvalidImageError

PNG_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
# More parts than any picture has: a file made of empty ones would cost minutes.
_MAX_PNG_CHUNKS: Final = 100_000
_MAX_JPEG_SEGMENTS: Final = 4_096
_MAX_WEBP_CHUNKS: Final = 4_096
_BUFFER_BYTES: Final = 1 << 16
_SHOWN_CHARS: Final = 60

# In compressed data, FF 00 is a data byte, FF D0..D7 a restart mark, and FF before FF a fill byte.
_JPEG_MARKER: Final = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])")
_SOI, _EOI, _SOS, _TEM = 0xD8, 0xD9, 0xDA, 0x01
_SOF: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # the others are tables


@frozen(kw_only=True)
class PictureInfo:
    """A whole picture: the extension its content asks for, and its size in pixels."""

    extension: Literal["png", "jpg", "webp"]
    width: int
    height: int


def inspect(file: BinaryIO, *, size_bytes: int) -> PictureInfo:
    """What picture `file` holds, read from its start; `size_bytes` is how long it ought to be.

    Bytes after the picture's end are tolerated. The compressed data itself is not decoded.
    Raises InvalidImageError, saying what is wrong: empty, another length, a text, an unknown format, damaged or cut.
    """
    found_bytes = file.seek(0, SEEK_END)
    if found_bytes != size_bytes:
        raise InvalidImageError(f"the file has {found_bytes} bytes, not {size_bytes}")
    file.seek(0)
    head = file.read(256)
    file.seek(0)
    if head.startswith(PNG_SIGNATURE):
        return _png(file, size_bytes)
    if head.startswith(b"\xff\xd8\xff"):
        return _jpeg(file)
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return _webp(file, size_bytes)
    raise InvalidImageError(_not_a_picture(head))


def _png(file: BinaryIO, size_bytes: int) -> PictureInfo:
    header = _take(file, 33, "PNG")
    length, kind, width, height = struct.unpack(">8xI4sII", header[:24])
    if (length, kind) != (13, b"IHDR") or zlib.crc32(header[12:29]) != int.from_bytes(header[29:]):
        raise _damaged("PNG", "its header cannot be read")
    start, has_data = 33, False
    for _ in range(_MAX_PNG_CHUNKS):
        length, kind = struct.unpack(">I4s", _take(file, 8, "PNG"))
        if not kind.isalpha():
            raise _damaged("PNG", f"no chunk starts at byte {start}")
        start += 8 + length + 4
        if start > size_bytes:
            raise _cut("PNG", f"its {kind.decode()} chunk should end at byte {start} of {size_bytes}")
        if kind == b"IEND" and has_data:
            return _info("png", width, height)
        if kind == b"IEND":
            raise _damaged("PNG", "it has no picture data")
        has_data = has_data or kind == b"IDAT"
        file.seek(start)
    raise _damaged("PNG", f"it has more than {_MAX_PNG_CHUNKS} chunks")


def _jpeg(file: BinaryIO) -> PictureInfo:
    info: PictureInfo | None = None
    has_data = False
    file.seek(2)
    for _ in range(_MAX_JPEG_SEGMENTS):
        marker = _next_jpeg_marker(file)
        if marker in (_SOI, _TEM):  # these stand alone
            continue
        if marker == _EOI and info and has_data:
            return info
        if marker == _EOI:
            raise _damaged("JPEG", "it ends before its picture data")
        (length,) = struct.unpack(">H", _take(file, 2, "JPEG"))
        segment = _take(file, max(length - 2, 0), "JPEG")
        if marker in _SOF and info is None:
            if len(segment) < 5:
                raise _damaged("JPEG", "its frame header is too short")
            height, width = struct.unpack(">xHH", segment[:5])
            info = _info("jpg", width, height)
        has_data = has_data or (marker == _SOS and info is not None)
    raise _damaged("JPEG", f"it has more than {_MAX_JPEG_SEGMENTS} segments")


def _next_jpeg_marker(file: BinaryIO) -> int:
    """The next marker's code, with `file` just behind it. Skips compressed data, restart marks and fill bytes."""
    start, size_bytes = file.tell(), 64  # segments follow each other closely, compressed data is long
    while len(chunk := file.read(size_bytes)) > 1:
        if found := _JPEG_MARKER.search(chunk):
            file.seek(start + found.end())
            return found[1][0]
        start = file.seek(-1, SEEK_CUR)  # the last byte may be the first half of a marker
        size_bytes = _BUFFER_BYTES
    raise _cut("JPEG", "it has no end marker")


def _webp(file: BinaryIO, size_bytes: int) -> PictureInfo:
    (riff_bytes,) = struct.unpack("<4xI4x", _take(file, 12, "WebP"))
    end = riff_bytes + 8
    if end > size_bytes:
        raise _cut("WebP", f"it should end at byte {end} of {size_bytes}")
    canvas: tuple[int, int] | None = None
    start = 12
    for _ in range(_MAX_WEBP_CHUNKS):
        kind, length = struct.unpack("<4sI", _take(file, 8, "WebP"))
        if start + 8 + length > end:
            raise _damaged("WebP", f"its chunk at byte {start} is longer than the picture")
        data = file.read(min(length, 10))
        if kind == b"VP8X" and len(data) == 10:
            canvas = int.from_bytes(data[4:7], "little") + 1, int.from_bytes(data[7:], "little") + 1
        elif kind in (b"VP8 ", b"VP8L"):
            size = _vp8_size(data) if kind == b"VP8 " else _vp8l_size(data)
            return _info("webp", *(canvas or size))
        elif kind == b"ANMF" and canvas:
            return _info("webp", *canvas)
        start += 8 + length + length % 2
        file.seek(start)
    raise _damaged("WebP", f"it has more than {_MAX_WEBP_CHUNKS} chunks before its picture data")


def _vp8_size(data: bytes) -> tuple[int, int]:
    if len(data) < 10 or data[3:6] != b"\x9d\x01\x2a":
        raise _damaged("WebP", "its key frame has no start code")
    width, height = struct.unpack("<HH", data[6:])
    return width & 0x3FFF, height & 0x3FFF  # the upper two bits ask for scaling


def _vp8l_size(data: bytes) -> tuple[int, int]:
    if len(data) < 5 or data[0] != 0x2F:
        raise _damaged("WebP", "its lossless data has no signature")
    bits = int.from_bytes(data[1:5], "little")
    return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1


def _info(extension: Literal["png", "jpg", "webp"], width: int, height: int) -> PictureInfo:
    if not width or not height:
        raise _damaged(extension.upper(), f"it says to be {width}x{height} pixels")
    return PictureInfo(extension=extension, width=width, height=height)


def _take(file: BinaryIO, size_bytes: int, kind: str) -> bytes:
    data = file.read(size_bytes)
    if len(data) < size_bytes:
        raise _cut(kind, f"it ends at byte {file.tell()}, inside its structure")
    return data


def _cut(kind: str, why: str) -> InvalidImageError:
    return InvalidImageError(f"the {kind} is cut: {why}")


def _damaged(kind: str, why: str) -> InvalidImageError:
    return InvalidImageError(f"the {kind} is damaged: {why}")


def _not_a_picture(head: bytes) -> str:
    """What the start of the file looks like to a person."""
    if not head:
        return "the file is empty"
    # The head may end inside a character; what is in front of it decides.
    text = codecs.getincrementaldecoder("utf-8-sig")("replace").decode(head)
    shown = " ".join(text.split())
    if shown.isprintable() and "\ufffd" not in shown:
        return f"a text instead of a picture: {shown[:_SHOWN_CHARS]!r}"
    return f"no PNG, JPEG or WebP: it starts with {head[:12].hex(' ')}"
