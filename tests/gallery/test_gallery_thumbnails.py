"""Thumbnails: of every kind of picture, of none that is a trap, made once, by workers whose death costs one picture."""

import io
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest
from audited import picture
from makers import hung, killed_by_bad, killed_once
from PIL import Image

from krea_async.gallery import album as album_module
from krea_async.gallery.album import Album
from krea_async.gallery.pictures import PictureFile, find_picture
from krea_async.gallery.shrink import AREA_PX, Shrunk, shrink

pytestmark = pytest.mark.anyio

Opened = Callable[..., Album]


def made(path: Path) -> Image.Image:
    """The thumbnail, every pixel of it read."""
    shrunk = shrink(str(path), None)
    assert (shrunk.note, shrunk.not_kept) == (None, None)
    image = Image.open(io.BytesIO(shrunk.webp or b""), formats=("WEBP",))
    image.load()
    return image


def colour_of(image: Image.Image, place: tuple[int, int]) -> tuple[int, ...]:
    colour = image.getpixel(place)
    assert isinstance(colour, tuple)
    return colour


def found(directory: Path, name: str, data: bytes | None = None) -> PictureFile:
    if data is not None:
        (directory / name).write_bytes(data)
    picture_file = find_picture(directory, name)
    assert picture_file is not None
    return picture_file


def png_that_says(width: int, height: int) -> bytes:
    """A header of that size, and hardly any data."""
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(1000))),
        (b"IEND", b""),
    )
    packed = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


# --- one picture ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize(
    "mode", ["RGB", "RGBA", "L", "LA", "P", "1", "I;16", "CMYK", "animated", "transparent palette", "tiny", "a line"]
)
def test_every_kind_of_picture_has_a_thumbnail_of_its_shape(tmp_path: Path, form: str, mode: str) -> None:
    size = {"tiny": (1, 1), "a line": (2000, 2)}.get(mode, (1000, 500))
    whole = Image.effect_noise(size, 50).convert("RGB")
    more: dict[str, object] = {}
    if mode == "animated":
        more = {"save_all": True, "append_images": [whole.rotate(90)]} if form != "JPEG" else {}
    elif mode == "transparent palette":
        whole, more = whole.convert("P"), {"transparency": 0}
    elif mode not in {"tiny", "a line"}:
        whole = whole.convert("L").convert(mode) if mode == "I;16" else whole.convert(mode)
    kinds = {"JPEG": {"RGB", "L", "CMYK"}, "WEBP": {"RGB", "RGBA"}, "PNG": {"RGB", "RGBA", "L", "LA", "P", "1", "I;16"}}
    if whole.mode not in kinds[form]:
        whole = whole.convert("RGB")
    if "A" in whole.mode:
        whole.putalpha(128)
    path = tmp_path / "a.png"
    whole.save(path, form, **more)
    image = made(path)
    assert image.size == (size if mode in {"tiny", "a line"} else (453, 226))
    assert image.width * image.height < 1.01 * AREA_PX
    assert image.mode == ("RGBA" if "A" in whole.mode or (mode.startswith("transparent") and form == "PNG") else "RGB")
    assert not getattr(image, "is_animated", False)


def test_a_picture_that_a_camera_held_upright_stands_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it clockwise to look at it
    whole = Image.new("RGB", (600, 300), "blue")
    whole.paste("red", (0, 0, 300, 300))
    for name in ("a.jpg", "a.png", "a.webp"):
        whole.save(tmp_path / name, exif=exif)
        image = made(tmp_path / name)
        assert image.size == (226, 453)
        red, _, blue = colour_of(image, (50, 20))
        assert red > 200 > 60 > blue


def test_what_is_transparent_stays_so(tmp_path: Path) -> None:
    whole = Image.new("RGBA", (600, 600), (0, 0, 0, 0))
    whole.paste((255, 0, 0, 255), (0, 0, 300, 600))
    whole.save(tmp_path / "a.png")
    image = made(tmp_path / "a.png")
    assert colour_of(image, (280, 100))[3] == 0
    assert colour_of(image, (20, 100))[3] == 255


def test_a_palette_is_smoothed_and_a_large_colour_profile_is_left_out(tmp_path: Path) -> None:
    """A checkerboard becomes grey; and nobody's thumbnail is a hundred times the size of others."""
    whole = Image.new("P", (2000, 2000))
    whole.putpalette([0, 0, 0, 255, 255, 255])
    whole.putdata([(x + x // 2000) % 2 for x in range(2000 * 2000)])
    whole.save(tmp_path / "a.png", icc_profile=os.urandom(100_000))
    image = made(tmp_path / "a.png")
    greys = image.convert("L").tobytes()
    assert 100 < min(greys) <= max(greys) < 160
    assert len(shrink(str(tmp_path / "a.png"), None).webp or b"") < 20_000


HOSTILE = {
    "empty": b"",
    "a text": b"this is a text\n" * 100,
    "a page": b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
    "a gif": b"GIF89a\x01\x00\x01\x00\x00\x00\x00;",
    "cut short": picture()[:-60],
    "half a header": picture()[:20],
    "a bomb": png_that_says(50_000, 50_000),
    "more than fits": png_that_says(2**31 - 1, 2**31 - 1),
    "no pixels": png_that_says(0, 0),
    "less data than it says": png_that_says(4000, 4000),
    "cut webp": picture(form="WEBP")[:-9],
    "cut jpeg": picture(form="JPEG")[:200],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_whole_picture_has_a_note_instead(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(HOSTILE[name])
    keep_as = tmp_path / "kept.webp"
    shrunk = shrink(str(path), str(keep_as))
    assert shrunk.webp is None
    assert shrunk.note
    assert "\n" not in shrunk.note
    assert sorted(tmp_path.iterdir()) == [path]


def test_more_pixels_than_any_picture_of_ours_are_refused_unread(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png_that_says(9_000, 9_000))
    assert shrink(str(tmp_path / "a.png"), None) == Shrunk(note="9000x9000 pixels are too many")


# --- kept -------------------------------------------------------------------------------------------------------------


async def test_a_thumbnail_is_made_once_and_again_when_the_picture_is_another(tmp_path: Path) -> None:
    album = Album(tmp_path)
    album.open()
    first = found(tmp_path, "a.png", picture(1))
    assert album.find(first) is None
    shrunk = await album.make(first)
    assert shrunk.webp
    assert album.find(first) == shrunk.webp
    other = found(tmp_path, "a.png", picture(2) + b"longer")
    assert album.find(other) is None
    await album.make(other)
    assert len([*album.cache.iterdir()]) == 2
    (album.cache / "mine.txt").write_text("not ours")
    part = album.cache / "left-by-a-crash.part"
    part.touch()
    os.utime(part, (1.0, 1.0))
    (album.cache / "being-written.part").touch()
    assert album.sweep({other.key}) == 2
    assert {path.name for path in album.cache.iterdir()} == {f"{other.key}.webp", "mine.txt", "being-written.part"}


async def test_a_cache_that_cannot_be_written_is_told_and_pictures_have_thumbnails_all_the_same(tmp_path: Path) -> None:
    (tmp_path / ".gallery").write_text("a file is in the way")
    album = Album(tmp_path)
    album.open()
    assert album.not_kept == os.strerror(17)
    assert (await album.make(found(tmp_path, "a.png", picture()))).webp
    assert album.find(found(tmp_path, "a.png")) is None
    assert album.sweep(set()) == 0


async def test_a_cache_that_goes_away_meanwhile_is_told_by_the_next_thumbnail(tmp_path: Path) -> None:
    album = Album(tmp_path)
    album.open()
    album.cache.rmdir()
    shrunk = await album.make(found(tmp_path, "a.png", picture()))
    assert shrunk.webp
    assert album.not_kept == os.strerror(2)


# --- workers ----------------------------------------------------------------------------------------------------------


async def test_a_worker_that_is_killed_is_replaced_and_the_picture_tried_again(tmp_path: Path) -> None:
    album = Album(tmp_path, make=killed_once)
    album.open()
    assert (await album.make(found(tmp_path, "a.png", picture()))).webp
    assert (tmp_path / "was-killed").exists()


async def test_a_picture_that_ends_its_worker_costs_only_itself(tmp_path: Path) -> None:
    album = Album(tmp_path, make=killed_by_bad)
    album.open()
    names = ["0.png", "1-bad.png", "2.png", "3-bad.png", "4.png"]
    results: dict[str, Shrunk] = {}

    async def make(name: str) -> None:
        results[name] = await album.make(found(tmp_path, name, picture()))

    async with anyio.create_task_group() as group:
        for name in names:
            group.start_soon(make, name)
    assert {name for name, shrunk in results.items() if shrunk.webp} == {"0.png", "2.png", "4.png"}
    assert results["1-bad.png"].note == "its decoding ended the process that did it"
    tries = (tmp_path / "tries").read_text().splitlines()
    assert [tries.count(name) for name in names] == [1, 2, 1, 2, 1]


async def test_a_worker_that_comes_to_no_end_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "bcd":  # so a worker is there: what is measured is not how long one takes to start
        assert (await Album(tmp_path).make(found(tmp_path, f"{name}.png", picture()))).webp
    monkeypatch.setattr(album_module, "LONGEST_S", 4.0)
    album = Album(tmp_path, make=hung)
    album.open()
    shrunk = await album.make(found(tmp_path, "a.png", picture()))
    assert shrunk == Shrunk(note="its decoding took more than 4 s")
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "a.pid").read_text()), 0)


AT_THE_LIMIT = """
import anyio, resource, sys
from pathlib import Path
from krea_async.gallery.album import Album
from krea_async.gallery.pictures import find_picture

async def main():
    directory = Path(sys.argv[1])
    album = Album(directory)
    album.open()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1, hard))  # what is open stays open
    first = await album.make(find_picture(directory, "a.png"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    second = await album.make(find_picture(directory, "a.png"))
    print(first.webp, first.note, bool(second.webp), sep="\\n")

anyio.run(main)
"""


def test_where_no_process_can_be_started_a_note_says_so(tmp_path: Path) -> None:
    """As where the limit on open files is reached; the next one is tried all the same."""
    (tmp_path / "a.png").write_bytes(picture())
    command = [sys.executable, "-c", AT_THE_LIMIT, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    first, note, is_made = done.stdout.splitlines()
    assert (first, is_made) == ("None", "True")
    assert note.startswith("no process can be started for it: Too many open files")
