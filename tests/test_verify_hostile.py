"""Journals and manifests that somebody wrote to do harm: nothing outside is read, nothing hangs, nothing is a crash."""

import os
import stat
import sys
import tracemalloc
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from audited import by_manifest_only, picture, record, rendered, row, saved, write_journal, write_manifest

from krea_async import JournalError
from krea_async.audit.examine import examine, is_picture_name
from krea_async.audit.recorded import NO_JOURNAL, Recorded, open_records
from krea_async.audit.verify import verify
from krea_async.errors import DISK_ERROR
from krea_async.storage.history import JOURNAL_NAME
from krea_async.storage.manifest import MANIFEST_NAME
from krea_async.storage.scan import NEWER

OUTSIDE = [
    *("../0.png", "../../etc/passwd", "/etc/passwd", "/etc/passwd.png", "a/0.png", "./0.png", "..", ".", ""),
    *("0.png/", "a\0b.png", "\ud800.png", "a\nb.png", "\x1b[2Jx.png", "\u202egnp.png", JOURNAL_NAME, MANIFEST_NAME),
    *(".journal.lock", "x.html", "x.png.part", ".png"),
]


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_name_that_is_no_picture_of_the_directory_is_not_looked_at(tmp_path: Path, name: str) -> None:
    (inside := tmp_path / "renders").mkdir()
    data = picture()
    (tmp_path / "0.png").write_bytes(data)
    assert not is_picture_name(name)
    record(inside, [saved(0, data, files=[name])])
    reports = [verify(inside)]
    by_manifest_only(inside)
    reports.append(verify(inside))
    assert [report.source for report in reports] == ["journal", "manifest"]
    for report in reports:
        (problem,) = report.problems
        assert (problem.kind, problem.file, problem.repairable) == ("unsafe_name", name, False)
        assert (report.files, report.bytes, report.decoded) == (0, 0, 0)


@pytest.mark.parametrize("files", [[], [""], [7], "0.png", [None]])
def test_a_saved_row_without_a_file_name_is_a_problem(tmp_path: Path, files: Any) -> None:
    first = rendered(tmp_path, 2)[0]
    write_journal(tmp_path, row(0), row(1), evolve(first, files=files), saved(1, picture(1), sha256=7, bytes="x"))
    problems = verify(tmp_path).problems
    assert {problem.kind for problem in problems if problem.n == 0} == {"unsafe_name"}
    assert {problem.kind for problem in problems if problem.n == 1} == {"size"}


def test_the_names_that_runs_give_are_all_safe() -> None:
    names = ["00000-a-fox.png", "Ünïcode-हिन्दी.webp", "a b (2).jpg", "con_.jpeg", "x.y.z.png", "-5.png"]
    assert all(map(is_picture_name, names))


def fifo(path: Path) -> None:
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def nowhere(path: Path) -> None:
    path.symlink_to(path.with_name("nowhere.png"))


def itself(path: Path) -> None:
    path.symlink_to(path)


def up(path: Path) -> None:
    path.symlink_to("..")


@pytest.mark.parametrize(
    ("make", "kind"),
    [(fifo, "unreadable"), (endless, "unreadable"), (nowhere, "missing"), (itself, "unreadable"), (up, "unreadable")],
)
def test_what_is_no_plain_file_is_not_read(tmp_path: Path, make: Callable[[Path], None], kind: str) -> None:
    lines = rendered(tmp_path, 2)
    (tmp_path / "1.png").unlink()
    make(tmp_path / "1.png")
    report = verify(tmp_path)
    assert [(problem.kind, problem.file) for problem in report.problems] == [(kind, "1.png")]
    assert report.files == 1
    assert examine(tmp_path, Recorded(files=lines[0].files), None).findings == ()


def test_a_link_to_a_whole_picture_is_as_good_as_the_picture(tmp_path: Path) -> None:
    """Who moves pictures to another disk links them."""
    (inside := tmp_path / "renders").mkdir()
    rendered(inside, 1)
    (inside / "0.png").rename(tmp_path / "moved.png")
    (inside / "0.png").symlink_to(tmp_path / "moved.png")
    assert verify(inside).ok


@pytest.mark.parametrize(
    "facts",
    [
        {"bytes": "many", "sha256": 7, "width": None, "height": [], "task_id": {}, "index": True, "prompt": 5},
        {"bytes": -1, "width": -5, "height": 10**300, "index": -(10**400), "sha256": "\ud800"},
        {"size": ["1:1"], "quality": {}, "seed": 1e400, "id": "\x1b[2J", "prompt": "x" * 100_000},
        {"bytes": 10**4000, "sha256": None},
    ],
)
def test_a_manifest_may_hold_anything(tmp_path: Path, facts: dict[str, Any]) -> None:
    rendered(tmp_path, 1)
    by_manifest_only(tmp_path)
    write_manifest(tmp_path, {"file": "0.png", **facts})
    report = verify(tmp_path)
    assert (report.rows, report.files, report.damaged_lines) == (1, 1, ())
    assert {problem.kind for problem in report.problems} <= {"size", "sha256", "pixels", "other_size"}


def test_damaged_lines_of_a_manifest_are_named_and_the_rest_is_verified(tmp_path: Path) -> None:
    rendered(tmp_path, 2)
    by_manifest_only(tmp_path)
    lines = (tmp_path / MANIFEST_NAME).read_bytes().splitlines()
    broken = [b"[1]", b"{", b'{"status": "saved"}', b'{"status": "saved", "file": 3}', b"[" * 100_000, b"\xff\xfe"]
    fine = [b'{"status": "failed"}', b'{"status": {}, "file": "x"}', b"{}", b""]
    write_manifest(tmp_path, lines[0], *broken, *fine, lines[1])
    report = verify(tmp_path)
    assert report.damaged_lines == (2, 3, 4, 5, 6, 7)
    assert (report.rows, report.problems, report.ok) == (2, (), False)


def test_of_several_manifest_lines_about_one_file_the_last_counts(tmp_path: Path) -> None:
    """A row that was fetched again has two."""
    rendered(tmp_path, 2)
    by_manifest_only(tmp_path)
    lines = (tmp_path / MANIFEST_NAME).read_bytes().splitlines()
    stale = lines[0].replace(b'"bytes": ', b'"bytes": 1')
    write_manifest(tmp_path, stale, lines[1], lines[0])
    assert (verify(tmp_path).rows, verify(tmp_path).problems) == (2, ())
    write_manifest(tmp_path, lines[0], lines[1], stale)
    assert [problem.kind for problem in verify(tmp_path).problems] == ["size"]


def test_damaged_lines_of_a_journal_are_named_and_the_rest_is_verified(tmp_path: Path) -> None:
    rendered(tmp_path, 3)
    path = tmp_path / JOURNAL_NAME
    lines = path.read_bytes().splitlines(keepends=True)
    lines[2] = lines[2].replace(b"fox 0", b"cat 0")  # the row's own line: what was asked for is lost
    lines[6] = lines[6].replace(b'"credits":0.45', b'"credits":0.54')  # that row 1 was saved
    path.write_bytes(b"".join(lines))
    report = verify(tmp_path)
    assert {3, 7} <= {*report.damaged_lines}
    assert not report.ok
    assert (report.rows, report.strays, report.problems) == (2, ("1.png",), ())
    (tmp_path / "0.png").unlink()
    (problem,) = verify(tmp_path).problems
    assert (problem.n, problem.index, problem.rerender_credits, problem.repairable) == (0, None, None, True)


def test_a_directory_without_books_a_newer_journal_and_a_broken_disk_are_told_apart(tmp_path: Path) -> None:
    for nothing in (tmp_path, tmp_path / "not-there"):
        with pytest.raises(JournalError) as none:
            verify(nothing)
        assert none.value.code == NO_JOURNAL
    (tmp_path / JOURNAL_NAME).write_bytes(b'{"e":"journal","v":99,"t":1.0,"crc":"00000000"}\n')
    with pytest.raises(JournalError) as newer:
        verify(tmp_path)
    assert newer.value.code == NEWER
    (tmp_path / JOURNAL_NAME).unlink()
    (tmp_path / JOURNAL_NAME).mkdir()
    with pytest.raises(JournalError) as broken:
        verify(tmp_path)
    assert broken.value.code == DISK_ERROR


def test_verifying_writes_nothing(tmp_path: Path) -> None:
    """Not a lock, not a byte: so it may be done beside a run, and on a disk that is read-only."""
    rendered(tmp_path, 2)
    (tmp_path / "1.png").write_bytes(b"damaged")

    def state() -> list[tuple[str, os.stat_result]]:
        return [(path.name, path.lstat()) for path in sorted(tmp_path.iterdir())]

    for path in tmp_path.iterdir():
        path.chmod(0o400)
        os.utime(path, ns=(0, 0))
    tmp_path.chmod(0o500)
    before, directory = state(), tmp_path.stat()
    try:
        assert [problem.kind for problem in verify(tmp_path).problems] == ["size"]
        after, directory_after = state(), tmp_path.stat()
    finally:
        tmp_path.chmod(0o700)
    assert [(name, facts.st_mtime_ns, facts.st_size, facts.st_ino) for name, facts in before] == [
        (name, facts.st_mtime_ns, facts.st_size, facts.st_ino) for name, facts in after
    ]
    assert directory.st_mtime_ns == directory_after.st_mtime_ns
    assert stat.S_IMODE(directory_after.st_mode) == 0o500


# --- memory -----------------------------------------------------------------------------------------------------------


def peak_bytes(work: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_manifest_of_a_hundred_thousand_rows_is_read_in_bounded_memory(tmp_path: Path) -> None:
    line = '{"index": %d, "status": "saved", "file": "%05d-a-fox-in-the-snow.png", "prompt": "a fox", "bytes": 9}\n'
    with (tmp_path / MANIFEST_NAME).open("w") as file:
        file.writelines(line % (n, n) for n in range(100_000))

    before = most = sys.getallocatedblocks()
    with ExitStack() as held:
        rows = 0
        for rows, _ in enumerate(open_records(tmp_path, held).rows(), 1):
            most = max(most, sys.getallocatedblocks()) if rows % 1000 == 0 else most
    assert rows == 100_000
    assert most - before < 1000


def test_memory_follows_neither_the_pictures_nor_much_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("krea_async.storage.scan.BLOCK_BYTES", 1 << 14)  # both journals have many
    monkeypatch.setattr(os, "cpu_count", lambda: 1)  # each thread has a buffer

    def linked(rows: int) -> Path:
        (directory := tmp_path / str(rows)).mkdir()
        data = picture(1)
        (directory / "first.png").write_bytes(data)
        lines = [saved(n, data, task_id=None) for n in range(rows)]
        for line in lines:
            (directory / line.files[0]).hardlink_to(directory / "first.png")
        write_journal(directory, *(evolve(row(n), n=n) for n in range(rows)), *lines)
        return directory

    few, many = linked(200), linked(1200)
    assert (verify(many, decode=False).files, verify(many, decode=False).ok) == (1200, True)
    peaks = [
        min(peak_bytes(partial(verify, directory, decode=False)) for _ in range(2))  # the interpreter's own tables grow
        for directory in (few, many)
    ]
    assert peaks[1] - peaks[0] < 1000 * 150
