"""Whole pictures are recognised with their size; anything else is refused, whatever the bytes."""

import io
import struct
import zlib
from contextlib import suppress
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from krea_async.errors import InvalidImageError
from krea_async.storage.formats import PNG_SIGNATURE, PictureInfo, inspect

# The first draw of a run is slow: hypothesis reads the sources for interesting constants.
calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    red, green, blue, alpha = (Image.effect_noise((width, height), 60 + i) for i in range(4))
    return Image.merge("RGBA", (red, green, blue, alpha)).convert(mode)


def saved(kind: str, *, mode: str = "RGB", size: tuple[int, int] = (41, 23), **options: Any) -> bytes:
    buffer = io.BytesIO()
    noise(*size, mode).save(buffer, kind, **options)
    return buffer.getvalue()


def with_thumbnail() -> bytes:
    """A JPEG whose EXIF block holds another whole JPEG, and whose comment holds an end marker."""
    exif = b"Exif\0\0" + saved("JPEG", size=(16, 16))
    return saved("JPEG", exif=exif, comment=b"\xff\xd9 the end? \xff\xd9")


def with_fill_bytes() -> bytes:
    plain = saved("JPEG")
    return plain[:2] + b"\xff" * 5 + plain[2:-2] + b"\xff\xff\xff\xd9"


def animated() -> bytes:
    frames = [noise(41, 23) for _ in range(3)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "WEBP", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


PICTURES = {
    "png": saved("PNG"),
    "png-grey": saved("PNG", mode="L"),
    "png-alpha": saved("PNG", mode="RGBA"),
    "jpeg": saved("JPEG"),
    "jpeg-progressive": saved("JPEG", progressive=True),
    "jpeg-restarts": saved("JPEG", restart_marker_blocks=1),
    "jpeg-thumbnail": with_thumbnail(),
    "jpeg-fill": with_fill_bytes(),
    "webp-lossy": saved("WEBP"),
    "webp-lossless": saved("WEBP", lossless=True),
    "webp-alpha": saved("WEBP", mode="RGBA"),
    "webp-lossless-alpha": saved("WEBP", mode="RGBA", lossless=True),
    "webp-exif": saved("WEBP", exif=b"Exif\0\0" + b"x" * 51),
    "webp-animated": animated(),
}
EXTENSIONS: dict[str, Literal["png", "jpg", "webp"]] = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp"}

every_picture = pytest.mark.parametrize("picture", PICTURES.values(), ids=PICTURES.keys())


def look(content: bytes) -> PictureInfo:
    return inspect(io.BytesIO(content), size_bytes=len(content))


def refusal(content: bytes) -> str:
    with pytest.raises(InvalidImageError) as caught:
        look(content)
    return caught.value.message


@every_picture
def test_kind_and_size_are_pillows(picture: bytes) -> None:
    with Image.open(io.BytesIO(picture)) as image:
        extension = EXTENSIONS[str(image.format)]
        assert look(picture) == PictureInfo(extension=extension, width=image.width, height=image.height)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (2816, 1408), (257, 256)])
@pytest.mark.parametrize(
    ("kind", "options"),
    [("PNG", {}), ("JPEG", {}), ("JPEG", {"progressive": True}), ("WEBP", {}), ("WEBP", {"lossless": True})],
)
def test_sizes_at_the_borders(kind: str, options: dict[str, Any], size: tuple[int, int]) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", size).save(buffer, kind, **options)
    info = look(buffer.getvalue())
    assert (info.width, info.height) == size


@every_picture
def test_every_truncation_is_refused(picture: bytes) -> None:
    for length in range(len(picture)):
        refusal(picture[:length])


def test_cut_messages_say_so() -> None:
    assert {refusal(PICTURES[name][:-3]).split(":")[0] for name in ("png", "jpeg", "webp-lossy")} == {
        "the PNG is cut",
        "the JPEG is cut",
        "the WebP is cut",
    }


@every_picture
@pytest.mark.parametrize("tail", [b"\0", b"\xff", b"\n", b"trailing bytes" * 1000, b"\xff\xd8\xff\xe0\0"])
def test_bytes_after_the_end_are_tolerated(picture: bytes, tail: bytes) -> None:
    assert look(picture + tail) == look(picture)
    refusal(picture[:-3])


def test_markers_that_stand_alone_are_passed() -> None:
    picture = PICTURES["jpeg"]
    assert look(picture[:2] + b"\xff\x01\xff\xd8" + picture[2:]) == look(picture)


def test_an_end_marker_outside_the_picture_is_not_its_end() -> None:
    """A JPEG cut between two scans, where a table or comment holds FF D9, has no end."""
    picture = PICTURES["jpeg-progressive"]
    second_scan = picture.index(b"\xff\xda", picture.index(b"\xff\xda") + 2)
    comment = b"\xff\xfe" + struct.pack(">H", 6) + b"\xff\xd9\xff\xd9"
    assert look(picture[:second_scan] + comment + picture[second_scan:]) == look(picture)
    assert "cut" in refusal(picture[:second_scan] + comment)


def test_markers_across_buffer_borders_are_found() -> None:
    """Long compressed data: each half of the end marker may come with another read."""
    head = PICTURES["jpeg"][: PICTURES["jpeg"].index(b"\xff\xda") + 14]
    for size in range(65_530 - 70, 65_540 + 70):
        content = head + b"\xff\x00" * (size // 2) + b"\0" * (size % 2) + b"\xff\xd9"
        assert look(content).extension == "jpg"
        assert "cut" in refusal(content[:-1])


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "empty"),
        (
            b"<!DOCTYPE html>\n<html><body>503 Service\tUnavailable</body></html>",
            "'<!DOCTYPE html> <html><body>503 Service Unav",
        ),
        (b'{"error": {"code": 500}}', '\'{"error": {"code": 500}}\''),
        (b"\xef\xbb\xbfnot found", "'not found'"),
        ("ü".encode() * 300, "üüü"),
        (b"\r\n \n", "''"),
        (b"GIF89a\x01\0\x01\0\0\0", "it starts with 47 49 46 38 39 61"),
        (b"\xff\xfe\0\0", "ff fe 00 00"),
        (b"\0" * 1000, "00 00"),
        (b"RIFF\x10\0\0\0WAVEfmt ", "no PNG, JPEG or WebP"),
    ],
)
def test_what_is_no_picture_is_shown(content: bytes, told: str) -> None:
    message = refusal(content)
    assert told in message
    assert len(message) < 120


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(*chunks: bytes, width: int = 3, height: int = 2) -> bytes:
    return PNG_SIGNATURE + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)) + b"".join(chunks)


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"WEBP" + b"".join(
        kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2) for kind, data in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (png(chunk(b"IEND")), "no picture data"),
        (png(chunk(b"IDAT", b"x"), chunk(b"IEND"), width=0), "0x2 pixels"),
        (png(b"\xff\xff\xff\xffIDAT", b"x" * 100), "cut"),
        (png(b"\0\0\0\0\0\0\0\0", b"x" * 100), "no chunk starts at byte 33"),
        (png(*[chunk(b"tEXt")] * 100_001), "more than"),
        (PNG_SIGNATURE + b"\0" * 60, "header"),
        (png(chunk(b"IDAT", b"x"), chunk(b"IEND")).replace(b"\0\0\0\x03", b"\0\0\0\x04"), "header"),
        (b"\xff\xd8\xff\xd9", "before its picture data"),
        (b"\xff\xd8\xff\xc0\0\x02\xff\xda\0\x02\xff\xd9", "frame header is too short"),
        (b"\xff\xd8\xff\xc0\0\x0b\x08\0\0\0\1\1\1\1\1\xff\xda\0\2\xff\xd9", "1x0 pixels"),
        (b"\xff\xd8\xff\xda\0\x02\xff\xd9", "before its picture data"),
        (b"\xff\xd8" + b"\xff\xfe\0\x02" * 5000, "more than"),
        (b"\xff\xd8" + b"\xff" * 200_000, "cut"),
        (riff(), "cut"),
        (riff((b"VP8 ", b"x" * 20)), "start code"),
        (riff((b"VP8L", b"x" * 20)), "signature"),
        (riff((b"VP8L", b"")), "signature"),
        (riff((b"VP8X", b"\0" * 10)), "cut"),
        (riff((b"VP8X", b"\0" * 10), (b"VP8 ", b"")), "start code"),
        (riff(*[(b"EXIF", b"")] * 5000), "more than"),
        (b"RIFF\xff\xff\xff\xffWEBPVP8 ", "cut"),
        (b"RIFF\x14\0\0\0WEBPVP8 \xff\xff\xff\x7f" + b"x" * 30, "longer than the picture"),
    ],
)
def test_damage_is_named(content: bytes, told: str) -> None:
    assert told in refusal(content)


def test_the_file_must_be_as_long_as_was_said() -> None:
    picture = PICTURES["png"]
    with pytest.raises(InvalidImageError, match=f"has {len(picture)} bytes, not {len(picture) + 1}"):
        inspect(io.BytesIO(picture), size_bytes=len(picture) + 1)


def test_the_picture_is_never_read_whole() -> None:
    class Counting(io.BytesIO):
        largest = 0

        def read(self, size: int | None = -1, /) -> bytes:
            data = super().read(size)
            self.largest = max(self.largest, len(data))
            return data

    for kind in EXTENSIONS:
        content = saved(kind, size=(900, 700))
        assert len(content) > 200_000
        file = Counting(content)
        inspect(file, size_bytes=len(content))
        assert file.largest <= 65_536


STARTS = [
    b"",
    PNG_SIGNATURE,
    png(),
    b"\xff\xd8",
    b"\xff\xd8\xff",
    b"RIFF",
    riff(),
    b"RIFF\x40\0\0\0WEBPVP8X",
    *PICTURES.values(),
]


@given(start=st.sampled_from(STARTS), tail=st.binary(max_size=200))
@example(start=b"\xff\xd8\xff", tail=b"\xff" * 100)
@settings(calm, max_examples=1000)
def test_arbitrary_bytes_are_a_picture_or_refused(start: bytes, tail: bytes) -> None:
    with suppress(InvalidImageError):
        info = look(start + tail)
        assert info.width > 0
        assert info.height > 0


@given(picture=st.sampled_from(list(PICTURES.values())), data=st.data())
@settings(calm, max_examples=500)
def test_damaged_pictures_raise_nothing_else(picture: bytes, data: st.DataObject) -> None:
    broken = bytearray(picture)
    for place in data.draw(st.lists(st.integers(0, len(picture) - 1), min_size=1, max_size=4)):
        broken[place] = data.draw(st.integers(0, 255))
    with suppress(InvalidImageError):
        look(bytes(broken))
