"""What the contact sheet says of a directory is what its journal says, whoever wrote into either."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from attrs import asdict, evolve
from audited import picture, rendered, row, saved, write_journal

from krea_async import BatchPolicy, KreaSession
from krea_async.audit.report import directory_report
from krea_async.errors import JournalError
from krea_async.gallery.pictures import find_picture
from krea_async.gallery.reading import base_url, open_rows, sheet_of
from krea_async.gallery.sheet import Tile
from krea_async.sandbox import Faults, Sandbox
from krea_async.storage.compact import compact
from krea_async.storage.history import JOURNAL_NAME
from krea_async.storage.manifest import MANIFEST_NAME
from krea_async.storage.records import Accepted, Completed, Failed, Intent, Left, encode

SessionOf = Callable[..., KreaSession]

ODD_NAMES = (
    "../outside.png",
    "/etc/passwd.png",
    "a/b.png",
    "..",
    "",
    "x\0.png",
    "x\n.png",
    "notes.txt",
    "journal.jsonl",
)


def tiles(directory: Path) -> list[Tile]:
    with open_rows(directory) as rows:
        return [*sheet_of(rows, page=directory / "gallery.html").tiles]


def pictures_in(directory: Path) -> list[bytes]:
    return [path.read_bytes() for path in directory.glob("*.png")]


def failed(n: int, **facts: Any) -> Failed:
    line = Failed(
        n=n,
        credits=0.45,
        charged="no",
        task_id="task-f",
        error="TaskFailedError",
        code="generation_failed",
        message="no luck",
        retryable=True,
        at_s=77.0,
    )
    return evolve(line, **facts)


def test_every_state_of_a_row_is_told_with_its_facts(tmp_path: Path) -> None:
    data = picture()
    (tmp_path / "0.png").write_bytes(data)
    write_journal(
        tmp_path,
        row(0, "a fox", seed=7, nsfw_check=True, quality="2K", id="hero"),
        *(row(n) for n in range(1, 8)),
        saved(0, data, seconds=(0.5, 0.25, 8.0, 0.25)),
        failed(1),
        failed(2, charged="yes", code=None, message="it was https://host/p.png?secret=1"),
        failed(3, charged="unknown"),
        Intent(n=4, key="k4", at_s=5.0),
        Intent(n=5, key="k5", at_s=5.0),
        Accepted(n=5, task_id="task-5", credits=0.45, at_s=6.0),
        Left(n=5, charged="unknown", error="TaskTimeoutError", message="not in time", at_s=9.0),
        Intent(n=6, key="k6", at_s=5.0),
        Accepted(n=6, task_id="task-6", credits=1.8, at_s=6.0),
        Completed(n=6, links=["https://x.y/a.png"], expires_s=99.0, at_s=7.0),
    )
    asked: dict[str, Any] = {"size": "1:2", "quality": "1K"}
    assert tiles(tmp_path) == [
        Tile(
            n=0,
            index=0,
            id="hero",
            status="saved",
            file="0.png",
            prompt="a fox",
            size="1:2",
            quality="2K",
            seed=7,
            nsfw_check=True,
            task_id="task-unified-1-0",
            credits=0.45,
            width=704,
            height=1472,
            bytes=len(data),
            seconds=9.0,
            at_s=100.0,
        ),
        *(
            Tile(n=n, index=n, status="failed", prompt=f"fox {n}", task_id="task-f", at_s=77.0, **asked, **facts)
            for n, facts in (
                (1, {"credits": 0.0, "charged": "no", "error": "generation_failed", "message": "no luck"}),
                (
                    2,
                    {
                        "credits": 0.45,
                        "charged": "yes",
                        "error": "TaskFailedError",
                        "message": "it was https://host/p.png",
                    },
                ),
                (3, {"credits": None, "charged": "unknown", "error": "generation_failed", "message": "no luck"}),
            )
        ),
        Tile(n=4, index=4, status="running", step="sent", prompt="fox 4", size="1:2", quality="1K"),
        Tile(
            n=5,
            index=5,
            status="running",
            step="accepted",
            prompt="fox 5",
            size="1:2",
            quality="1K",
            task_id="task-5",
            credits=0.45,
            message="not in time",
        ),
        Tile(
            n=6,
            index=6,
            status="running",
            step="completed",
            prompt="fox 6",
            size="1:2",
            quality="1K",
            task_id="task-6",
            credits=1.8,
        ),
        Tile(n=7, index=7, status="waiting", prompt="fox 7", size="1:2", quality="1K"),
    ]
    with open_rows(tmp_path) as rows:
        totals = asdict(rows.totals)
    assert [totals[name] for name in ("rows", "saved", "failed", "running", "waiting")] == [8, 1, 3, 3, 1]
    assert [totals[name] for name in ("credits", "credits_unknown", "bytes", "seconds")] == [0.9, 0.45, len(data), 9.0]
    assert [totals[name] for name in ("runs", "has_ended", "first_s", "last_s")] == [1, True, 1.0, 1000.0]


def test_a_copy_names_the_row_whose_picture_it_shows(tmp_path: Path) -> None:
    data = picture()
    copy = saved(1, data, credits=0.0, task_id=None, seconds=(0.0,) * 4)
    stray = saved(2, data, task_id=None)
    write_journal(tmp_path, *(row(n, "fox", seed=1 + n // 2) for n in range(3)), saved(0, data), copy, stray)
    assert [tile.copy_of for tile in tiles(tmp_path)] == [None, 0, None]
    with open_rows(tmp_path) as rows:
        assert (rows.totals.credits, rows.totals.bytes) == (0.9, 3 * len(data))


@pytest.mark.anyio
async def test_the_sums_are_those_of_the_report(sandbox: Sandbox, session_of: SessionOf, tmp_path: Path) -> None:
    """Of two runs with failures, equal rows, and a picture that was fetched again."""
    sandbox.faults = Faults(cancelled=0.3)
    rows = [{"prompt": f"fox {n // 2}", "seed": 1 + n // 2, "quality": ("1K", "2K")[n % 4 > 1]} for n in range(40)]
    async with session_of(sandbox) as session:
        await session.render(rows, tmp_path)
        sandbox.faults = Faults()
        await session.render(rows, tmp_path, policy=BatchPolicy(retry_failed=True))
    report = directory_report(tmp_path)
    with open_rows(tmp_path) as found:
        totals = found.totals
        sheet = [found.tile(n) for n in range(len(found))]
    assert (totals.rows, totals.saved, totals.failed) == (report.rows, report.saved, report.failed)
    assert (totals.credits, totals.usd, totals.runs) == (report.credits, report.usd, 2)
    assert totals.credits == sandbox.ledger.charged_credits
    assert totals.bytes == sum(len(data) for data in pictures_in(tmp_path))
    assert totals.bytes == sum(tile.bytes or 0 for tile in sheet)
    assert {tile.status for tile in sheet} >= {"saved"}
    assert {tile.copy_of is not None for tile in sheet} == {True, False}
    compact(tmp_path)
    with open_rows(tmp_path) as found:
        assert [evolve(found.tile(n), copy_of=None) for n in range(40)] == [
            evolve(tile, copy_of=None) for tile in sheet
        ]


# --- records that are damaged, or none --------------------------------------------------------------------------------


def test_a_damaged_journal_shows_what_is_readable_and_counts_the_rest(tmp_path: Path) -> None:
    rendered(tmp_path, 4)
    lines = (tmp_path / JOURNAL_NAME).read_bytes().splitlines(keepends=True)
    lost = next(place for place, line in enumerate(lines) if b'"e":"row","n":1,' in line)
    verdict = next(place for place, line in enumerate(lines) if b'"e":"saved","n":2,' in line)
    for place in (lost, verdict):
        lines[place] = lines[place].replace(b"e", b"x", 1)
    (tmp_path / JOURNAL_NAME).write_bytes(b"".join(lines))
    found = tiles(tmp_path)
    assert [tile.status for tile in found] == ["saved", "saved", "waiting", "saved"]
    assert (found[1].prompt, found[1].size, found[1].file) == (None, None, "1.png")
    with open_rows(tmp_path) as rows:
        assert rows.totals.damaged_lines >= 2


def test_half_a_line_at_the_end_is_no_damage(tmp_path: Path) -> None:
    rendered(tmp_path, 3)
    with (tmp_path / JOURNAL_NAME).open("ab") as file:
        file.write(encode(row(3))[:40])
    assert len(tiles(tmp_path)) == 3
    with open_rows(tmp_path) as rows:
        assert rows.totals.damaged_lines == 0


def test_without_a_journal_the_manifest_is_read_and_the_last_line_about_a_row_counts(tmp_path: Path) -> None:
    rendered(tmp_path, 3)
    by_journal = tiles(tmp_path)
    (tmp_path / JOURNAL_NAME).unlink()
    manifest = tmp_path / MANIFEST_NAME
    lines = manifest.read_text().splitlines()
    earlier = {**json.loads(lines[1]), "status": "failed", "file": None, "error": "quota", "message": "later"}
    manifest.write_text("\n".join([json.dumps(earlier), *lines, "{broken}", '["a list"]']) + '\n{"half": ')
    found = tiles(tmp_path)
    assert sorted((tile.file, tile.prompt, tile.status) for tile in found) == [
        (tile.file, tile.prompt, tile.status) for tile in by_journal
    ]
    assert [tile.n for tile in found] == [0, 1, 2]
    assert {(tile.seconds, tile.credits, tile.bytes) for tile in found} == {
        (tile.seconds, tile.credits, tile.bytes) for tile in by_journal
    }
    with open_rows(tmp_path) as rows:
        assert rows.source == "manifest"
        assert (rows.totals.saved, rows.totals.failed, rows.totals.damaged_lines) == (3, 0, 2)
        assert rows.totals.credits == pytest.approx(1.35)


@pytest.mark.parametrize("there_is", ["nothing", "an empty directory", "a file"])
def test_where_nothing_was_rendered_the_error_is_that_of_report(tmp_path: Path, there_is: str) -> None:
    place = tmp_path / "renders"
    if there_is == "an empty directory":
        place.mkdir()
    elif there_is == "a file":
        place.write_text("mine")
    with pytest.raises(JournalError) as told:
        directory_report(place)
    with pytest.raises(JournalError) as found:
        open_rows(place)
    assert (str(found.value), found.value.code) == (str(told.value), told.value.code)


@pytest.mark.parametrize("kind", ["a pipe", "a directory"])
def test_a_journal_that_is_no_file_is_told_and_not_waited_for(tmp_path: Path, kind: str) -> None:
    if kind == "a pipe":
        os.mkfifo(tmp_path / JOURNAL_NAME)
    else:
        (tmp_path / JOURNAL_NAME).mkdir()
    with pytest.raises(JournalError, match="no plain file"):
        open_rows(tmp_path)


# --- hostile ----------------------------------------------------------------------------------------------------------


def test_whatever_a_manifest_says_a_tile_is_json_of_the_right_kinds(tmp_path: Path) -> None:
    odd: list[Any] = [
        "",
        None,
        True,
        [],
        {},
        10**400,
        -(10**17),
        float("nan"),
        float("inf"),
        1e308,
        "\ud800",
        "<script>",
        ["x"],
    ]
    rendered(tmp_path, 1)
    names = [*json.loads((tmp_path / MANIFEST_NAME).read_text())]
    lines = [json.dumps({**dict.fromkeys(names, value), "status": "saved", "index": n}) for n, value in enumerate(odd)]
    lines += [json.dumps({"status": value, "index": 1}) for value in odd]
    (tmp_path / JOURNAL_NAME).unlink()
    (tmp_path / MANIFEST_NAME).write_text("\n".join(lines) + "\n")
    found = tiles(tmp_path)
    assert len(found) == len(odd)
    for tile in found:
        json.dumps(asdict(tile), allow_nan=False).encode()
        json.dumps(asdict(tile), ensure_ascii=False).encode()
        assert all(type(getattr(tile, name)) in {int, type(None)} for name in ("width", "height", "bytes", "seed"))
        assert all(isinstance(getattr(tile, name), str | None) for name in ("prompt", "size", "id", "file", "error"))
        assert abs(tile.credits or 0) < 2**53


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_name_that_leads_out_of_the_directory_is_no_picture(tmp_path: Path, name: str) -> None:
    inside = tmp_path / "renders"
    inside.mkdir()
    (tmp_path / "outside.png").write_bytes(picture())
    write_journal(inside, row(0), saved(0, b"", files=[name]))
    (tile,) = tiles(inside)
    assert tile.is_missing
    assert find_picture(inside, name) is None


def test_links_are_followed_only_inside_the_directory(tmp_path: Path) -> None:
    inside = tmp_path / "renders"
    inside.mkdir()
    (tmp_path / "outside.png").write_bytes(picture(1))
    (inside / "real.png").write_bytes(picture())
    (inside / "inner.png").symlink_to("real.png")
    (inside / "outer.png").symlink_to(tmp_path / "outside.png")
    (inside / "relative.png").symlink_to("../outside.png")
    (inside / "dangling.png").symlink_to("nowhere.png")
    (inside / "loop.png").symlink_to("loop.png")
    (inside / "folder.png").mkdir()
    os.mkfifo(inside / "pipe.png")
    names = ("real", "inner", "outer", "relative", "dangling", "loop", "folder", "pipe", "gone")
    there = [name for name in names if find_picture(inside, f"{name}.png")]
    assert there == ["real", "inner"]


def test_a_picture_has_another_key_once_it_is_another(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(picture())
    keys = set()
    for change in (lambda: None, lambda: os.utime(path, ns=(5, 5)), lambda: path.write_bytes(picture() + b"x")):
        change()
        found = find_picture(tmp_path, "a.png")
        assert found is not None
        keys.add(found.key)
    assert len(keys) == 3


def test_a_page_elsewhere_refers_to_the_directory_with_a_quoted_name(tmp_path: Path) -> None:
    directory = tmp_path / 'a #1?%"<b>:c'
    directory.mkdir()
    assert base_url(directory, directory / "gallery.html") == "./"
    assert base_url(directory, tmp_path / "x.html") == "./a%20%231%3F%25%22%3Cb%3E%3Ac/"
    (tmp_path / "deep" / "er").mkdir(parents=True)
    assert base_url(directory, tmp_path / "deep" / "er" / "x.html").startswith("./../../a%20")
