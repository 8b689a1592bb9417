"""A picture on its way to its name: whole and checked, or not there; and nothing that exists is taken."""

import asyncio
import errno
import hashlib
import os
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from krea_async import InvalidImageError
from krea_async.storage.disk import DiskQueue
from krea_async.storage.part import WRITE_BYTES, Part, Target, remove_parts

pytestmark = pytest.mark.anyio


def png(colour: str = "teal") -> bytes:
    file = BytesIO()
    Image.new("RGB", (12, 8), colour).save(file, "png")
    return file.getvalue()


async def filled(path: Path, *pieces: bytes) -> Part:
    """A part that these bytes came into."""
    part = Part(path.parent, path.name.removesuffix(".part"), DiskQueue())
    for piece in pieces:
        await part.add(piece)
    return part


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def target(directory: Path, stem: str = "fox", index: int | None = None) -> Target:
    return Target(directory=directory, stem=stem, index=index)


async def test_a_picture_that_came_in_pieces_is_published_whole(tmp_path: Path) -> None:
    body = png()
    part = await filled(tmp_path / "fox.part", body[:10], b"", body[10:40], body[40:])
    saved = await part.publish(target(tmp_path), sync=True)
    assert saved.path == tmp_path / "fox.png"
    assert saved.path.read_bytes() == body
    assert (saved.bytes, saved.sha256) == (len(body), hashlib.sha256(body).hexdigest())
    assert (saved.width, saved.height) == (12, 8)
    assert not part.path.exists()


async def test_starting_over_forgets_what_came_before(tmp_path: Path) -> None:
    part = await filled(tmp_path / "fox.part", b"x" * 5_000)
    part.etag = '"old"'
    part.start_over()
    assert vars(part)["etag"] is None
    assert part.size_bytes == 0
    await part.add(png())
    saved = await part.publish(target(tmp_path), sync=False)
    assert saved.path.read_bytes() == png()
    assert saved.sha256 == hashlib.sha256(png()).hexdigest()


async def test_directories_on_the_way_are_made(tmp_path: Path) -> None:
    part = await filled(tmp_path / "a" / "b" / "fox.part", png())
    saved = await part.publish(target(part.path.parent), sync=True)
    assert saved.path == tmp_path / "a" / "b" / "fox.png"


async def test_what_is_no_picture_gets_no_name(tmp_path: Path) -> None:
    part = await filled(tmp_path / "fox.part", b"<html>")
    with pytest.raises(InvalidImageError):
        await part.publish(target(tmp_path), sync=True)
    assert names(tmp_path) == []


async def test_a_file_that_somebody_else_changed_gets_no_name(tmp_path: Path) -> None:
    part = await filled(tmp_path / "fox.part", png() + bytes(WRITE_BYTES), b"the rest")
    part.path.write_bytes(part.path.read_bytes() + b"more")
    with pytest.raises(InvalidImageError, match="bytes, not"):
        await part.publish(target(tmp_path), sync=True)
    assert names(tmp_path) == ["fox.part"]


@pytest.mark.parametrize(
    ("taken", "index", "name"),
    [
        ([], None, "fox.png"),
        (["fox.jpg"], None, "fox.png"),  # another picture, another name
        (["fox.png"], None, "fox-2.png"),
        (["fox.png", "fox-2.png"], None, "fox-3.png"),
        (["fox.png"], 7, "fox-00007.png"),
        (["fox.png", "fox-00007.png"], 7, "fox-00007-2.png"),
    ],
)
async def test_the_first_free_name_is_taken(tmp_path: Path, taken: list[str], index: int | None, name: str) -> None:
    for other in taken:
        (tmp_path / other).write_bytes(b"mine")
    part = await filled(tmp_path / "fox.part", png())
    assert (await part.publish(target(tmp_path, index=index), sync=True)).path.name == name
    assert all((tmp_path / other).read_bytes() == b"mine" for other in taken)
    assert names(tmp_path) == sorted([*taken, name])


async def test_a_name_with_dots_stays_as_it_is(tmp_path: Path) -> None:
    part = await filled(tmp_path / "v1.2.final.part", png())
    assert (await part.publish(target(tmp_path, "v1.2.final"), sync=True)).path.name == "v1.2.final.png"


@pytest.mark.parametrize("made", ["a directory", "a dangling link"])
async def test_a_name_is_taken_whatever_has_it(tmp_path: Path, made: str) -> None:
    if made == "a directory":
        (tmp_path / "fox.png").mkdir()
    else:
        (tmp_path / "fox.png").symlink_to("nowhere")
    part = await filled(tmp_path / "fox.part", png())
    assert (await part.publish(target(tmp_path), sync=True)).path.name == "fox-2.png"
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("taken", ["a file", "a directory", "a dangling link"])
async def test_without_hard_links_nothing_is_overwritten_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: str
) -> None:
    def no_links(*_: object, **__: object) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, "link", no_links)
    mine = tmp_path / "fox.png"
    if taken == "a file":
        mine.write_bytes(b"mine")
    elif taken == "a directory":
        mine.mkdir()
    else:
        mine.symlink_to("nowhere")
    part = await filled(tmp_path / "fox.part", png())
    assert (await part.publish(target(tmp_path), sync=True)).path.name == "fox-2.png"
    assert (tmp_path / "fox-2.png").read_bytes() == png()
    assert names(tmp_path) == ["fox-2.png", "fox.png"]
    assert mine.is_symlink() == (taken == "a dangling link")


async def test_parts_that_are_published_at_the_same_time_get_a_name_each(tmp_path: Path) -> None:
    """As processes on one directory do: whoever comes second meets the file and goes on to the next name."""
    colours = ("red", "green", "blue", "teal")
    parts = [await filled(tmp_path / f"fox-{number}.part", png(colour)) for number, colour in enumerate(colours, 2)]
    saved = await asyncio.gather(*(part.publish(target(tmp_path), sync=False) for part in parts))
    assert len({picture.path.read_bytes() for picture in saved}) == len(parts)
    assert len(names(tmp_path)) == len(parts)


async def test_sync_is_asked_for_before_the_name_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listings: list[list[str]] = []
    fsync = os.fsync

    def noting(number: int) -> None:
        listings.append(names(tmp_path))
        fsync(number)

    monkeypatch.setattr(os, "fsync", noting)
    part = await filled(tmp_path / "fox.part", png())
    await part.publish(target(tmp_path), sync=True)
    assert listings[0] == ["fox.part"]


async def test_without_sync_the_disk_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", failing)
    part = await filled(tmp_path / "fox.part", png())
    assert (await part.publish(target(tmp_path), sync=False)).path.exists()


async def test_discarding_removes_the_part_and_is_harmless_twice(tmp_path: Path) -> None:
    part = await filled(tmp_path / "fox.part", bytes(WRITE_BYTES))
    assert names(tmp_path) == ["fox.part"]
    await part.discard()
    await part.discard()
    assert names(tmp_path) == []


async def test_what_comes_in_goes_to_the_disk_and_does_not_pile_up(tmp_path: Path) -> None:
    part, piece = Part(tmp_path, "fox", DiskQueue()), bytes(50_000)
    for number in range(1, 41):
        await part.add(piece)
        on_disk = part.path.stat().st_size if part.path.exists() else 0
        assert number * len(piece) - WRITE_BYTES < on_disk <= number * len(piece) == part.size_bytes


async def test_a_write_that_was_cancelled_can_be_continued(tmp_path: Path) -> None:
    """What is in the file and what is known of it stay the same."""
    body = png() + bytes(range(256)) * 20_000
    part, begun = Part(tmp_path, "fox", DiskQueue()), asyncio.Event()

    async def take_in() -> None:
        for start in range(0, len(body), 300_000):
            begun.set()
            await part.add(body[start : start + 300_000])

    task = asyncio.create_task(take_in())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert 0 < part.size_bytes < len(body)
    await part.add(body[part.size_bytes :])
    saved = await part.publish(target(tmp_path), sync=False)
    assert saved.path.read_bytes() == body
    assert saved.sha256 == hashlib.sha256(body).hexdigest()


# --- what a killed run left -------------------------------------------------------------------------------------------

OURS = (
    "fox.part",
    "fox.0a1b2c3d.part",
    "fox-2.part",
    "fox-00007-2.part",
    "v1.2.final.part",
    "owl.20261121.part",
    ".copy-0a1b2c3d.part",
)
NOT_OURS = (
    *("fox.png", "fox.parts", "foxes.part", "fox.part.bak", "my fox.part", ".part", "fox-.part"),
    *("v1.2.part", "fox.final.part", "owl.part", "fox.0A1B2C3D.part", ".copy-me.part", "fox-2-b.part"),
)


def test_parts_of_these_pictures_are_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in (*OURS, *NOT_OURS):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "hare.part").mkdir()
    (tmp_path / "hare-2.part").symlink_to("owl.part")
    remove_parts(tmp_path, ["hare", "fox", "fox", "v1.2.final", "owl.20261121"])
    assert names(tmp_path) == sorted([*NOT_OURS, "hare.part", "hare-2.part"])


@pytest.mark.parametrize(("parts", "read"), [([], 0), ([".copy-0a1b2c3d.part"], 0), (["2.part", "5-3.part"], 6)])
def test_stems_are_read_only_as_long_as_there_are_parts_that_may_be_theirs(
    tmp_path: Path, parts: list[str], read: int
) -> None:
    """There may be a million."""
    taken: list[str] = []

    def stems() -> Iterator[str]:
        for number in range(1_000_000):
            taken.append(str(number))
            yield taken[-1]

    for name in (*parts, "1.png"):
        (tmp_path / name).write_bytes(b"x")
    remove_parts(tmp_path, stems())
    assert (names(tmp_path), len(taken)) == (["1.png"], read)
