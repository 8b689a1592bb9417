"""The page is written whole or not at all, with a thumbnail of each picture, in memory that does not grow with them."""

import base64
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from audited import picture, record, rendered, row, saved, write_journal
from many import many_rows

from krea_async.errors import DownloadError, JournalError
from krea_async.gallery import writing as writing_module
from krea_async.gallery.album import CACHE_NAME
from krea_async.gallery.pictures import find_picture
from krea_async.gallery.sheet import Thumbnail
from krea_async.gallery.writing import write_gallery

BLOCK = re.compile(
    r'<script type="application/json" data-block="(\w+)"(?: data-rows="([\d ]*)")?>(.*?)</script>', re.DOTALL
)


def read_page(page: Path) -> tuple[list[dict[str, Any]], dict[int, bytes], dict[int, Any]]:
    """The rows, the thumbnails that are in it, and links and notes, by row."""
    rows: list[dict[str, Any]] = []
    embedded: dict[int, bytes] = {}
    links: dict[int, Any] = {}
    for kind, numbers, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        data = json.loads(text)
        if kind == "rows":
            rows += [dict(zip(data["columns"], values, strict=True)) for values in data["rows"]]
        elif kind == "thumbnails":
            embedded |= {int(n): base64.b64decode(webp) for n, webp in zip(numbers.split(), data, strict=True)}
        elif kind == "links":
            links |= {n: url or note for n, url, note in data}
    return rows, embedded, links


def test_every_row_is_in_the_page_and_every_picture_has_its_thumbnail(tmp_path: Path) -> None:
    rendered(tmp_path, 9)
    (tmp_path / "3.png").unlink()
    (tmp_path / "4.png").write_text("no picture")
    told: list[tuple[int, int]] = []
    written = write_gallery(tmp_path, tell=lambda *counts: told.append(counts))
    assert written.page == tmp_path / "gallery.html"
    assert (written.made, written.without, written.not_kept, written.source) == (7, 1, None, "journal")
    assert written.example is not None
    assert written.example.startswith("4.png: cannot identify")
    rows, embedded, links = read_page(written.page)
    assert [tile["n"] for tile in rows] == [*range(9)]
    assert [tile["n"] for tile in rows if tile["is_missing"]] == [3]
    assert {*embedded} == {0, 1, 2, 5, 6, 7, 8}
    assert all(webp[8:12] == b"WEBP" for webp in embedded.values())
    assert [*links] == [4]
    assert told[-1] == (8, 9)


def test_a_second_time_only_what_is_new_is_made(tmp_path: Path) -> None:
    lines = rendered(tmp_path, 6)
    assert write_gallery(tmp_path).made == 6
    first = read_page(tmp_path / "gallery.html")[1]
    cached = {path.name: path.stat().st_mtime_ns for path in (tmp_path / CACHE_NAME).iterdir()}
    assert write_gallery(tmp_path).made == 0
    assert read_page(tmp_path / "gallery.html")[1] == first
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / CACHE_NAME).iterdir()} == cached
    (tmp_path / "0.png").unlink()
    (tmp_path / "1.png").write_bytes(picture(77) + b"longer")
    (tmp_path / "6.png").write_bytes(picture(6))
    record(tmp_path, [*lines, saved(6, picture(6))])
    assert write_gallery(tmp_path).made == 2
    left = {path.name for path in (tmp_path / CACHE_NAME).iterdir()}
    assert len(left) == 6
    assert len({*cached} - left) == 2


def test_as_files_the_page_refers_to_them_by_relative_links(tmp_path: Path) -> None:
    directory = tmp_path / "a #1?%"
    directory.mkdir()
    rendered(directory, 3)
    for page in (directory / "gallery.html", tmp_path / "elsewhere.html"):
        written = write_gallery(directory, page, thumbnails="files")
        _, embedded, links = read_page(page)
        assert embedded == {}
        assert sorted(links) == [0, 1, 2]
        for url in links.values():
            assert url.startswith("./")
            assert (page.parent / unquote(url)).read_bytes()[:4] == b"RIFF"
        assert written.page == page


def test_many_go_into_files_by_themselves_unless_there_is_no_place_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing_module, "EMBEDDED_AT_MOST", 3)
    rendered(tmp_path, 4)
    write_gallery(tmp_path)
    assert [len(found) for found in read_page(tmp_path / "gallery.html")] == [4, 0, 4]
    for path in (tmp_path / CACHE_NAME).iterdir():
        path.unlink()
    (tmp_path / CACHE_NAME).rmdir()
    (tmp_path / CACHE_NAME).write_text("in the way")
    written = write_gallery(tmp_path)
    assert [len(found) for found in read_page(tmp_path / "gallery.html")] == [4, 4, 0]
    assert written.not_kept
    before = (tmp_path / "gallery.html").read_bytes()
    with pytest.raises(DownloadError, match=rf"cannot write .*{CACHE_NAME}") as told:
        write_gallery(tmp_path, thumbnails="files")
    assert told.value.code == "disk_error"
    assert (tmp_path / "gallery.html").read_bytes() == before


def test_without_thumbnails_nothing_is_made_or_kept(tmp_path: Path) -> None:
    rendered(tmp_path, 2)
    write_gallery(tmp_path, thumbnails="none")
    assert [len(found) for found in read_page(tmp_path / "gallery.html")] == [2, 0, 0]
    assert not (tmp_path / CACHE_NAME).exists()


def test_a_prompt_ends_no_script_and_a_page_is_for_its_owner(tmp_path: Path) -> None:
    prompt = "</script><script>alert(1)</script><!-- \u2028 ]]> & \\u003c \u202e"
    write_journal(tmp_path, row(0, prompt), saved(0, b"", files=["</script>.png"]))
    page = write_gallery(tmp_path, thumbnails="none").page
    assert b"<script>alert" not in page.read_bytes()
    assert read_page(page)[0][0]["prompt"] == prompt
    assert page.stat().st_mode & 0o077 == 0


# --- what goes wrong --------------------------------------------------------------------------------------------------


def test_whatever_fails_the_page_before_is_left_and_nothing_lies_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered(tmp_path, 3)
    write_gallery(tmp_path)
    before = (tmp_path / "gallery.html").read_bytes()

    def broken(_self: object, _n: int, _picture: object) -> Thumbnail:
        raise ZeroDivisionError

    monkeypatch.setattr("krea_async.gallery.writing._Making._thumbnail", broken)
    with pytest.raises(ZeroDivisionError):
        write_gallery(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"0.png", "1.png", "2.png", "journal.jsonl", "manifest.jsonl", "gallery.html", CACHE_NAME}
    assert (tmp_path / "gallery.html").read_bytes() == before


@pytest.mark.parametrize("page", ["nowhere/gallery.html", "journal.jsonl/gallery.html", "a-directory"])
def test_a_page_that_cannot_be_written_is_named(tmp_path: Path, page: str) -> None:
    rendered(tmp_path, 1)
    (tmp_path / "a-directory").mkdir()
    with pytest.raises(DownloadError, match="cannot write") as told:
        write_gallery(tmp_path, tmp_path / page, thumbnails="none")
    assert str(tmp_path / page) in str(told.value)
    assert ".part" not in str(told.value)
    assert told.value.code == "disk_error"


def test_nothing_is_made_where_nothing_was_rendered(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="nothing was rendered into it"):
        write_gallery(tmp_path)
    assert [*tmp_path.iterdir()] == []


# --- many -------------------------------------------------------------------------------------------------------------

MEASURED = """
import resource, sys
from pathlib import Path
from krea_async.gallery.writing import write_gallery
written = write_gallery(Path(sys.argv[1]), thumbnails="embed")
assert written.made == 0, written
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_twenty_thousand_pictures_take_no_more_memory_than_a_few(tmp_path: Path) -> None:
    """Their thumbnails are there already: what making them takes is the workers'."""

    def peak_kib(count: int) -> int:
        directory = tmp_path / str(count)
        (directory / CACHE_NAME).mkdir(parents=True)
        (tmp_path / "one.png").write_bytes(picture())
        (tmp_path / "one.webp").write_bytes(os.urandom(3000))
        many_rows(directory, count, are_saved=True)
        for n in range(count):
            os.link(tmp_path / "one.png", directory / f"{n}.png")
            found = find_picture(directory, f"{n}.png")
            assert found is not None
            os.link(tmp_path / "one.webp", directory / CACHE_NAME / f"{found.key}.webp")
        done = subprocess.run(
            [sys.executable, "-c", MEASURED, str(directory)], check=True, capture_output=True, text=True
        )
        return int(done.stdout)

    few, many = peak_kib(50), peak_kib(20_000)
    assert (tmp_path / "20000" / "gallery.html").stat().st_size > 80_000_000
    assert many - few < 24_000
