"""A compacted journal is smaller, and says the same."""

import os
import stat
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from journal_lines import (
    END,
    HEADER,
    RUN,
    accepted,
    answers,
    completed,
    data_of,
    failed,
    intent,
    journals,
    left,
    row,
    saved,
    written,
)

from krea_async import JournalError
from krea_async.audit.report import directory_report
from krea_async.errors import DISK_ERROR
from krea_async.storage.compact import COMPACT_NAME, compact
from krea_async.storage.history import JOURNAL_NAME, History
from krea_async.storage.lock import LOCKED, DirectoryLock
from krea_async.storage.records import Accepted, Line, Sums, encode

ROUND: list[Line] = [row(0), intent(0), accepted(0), failed(0, "yes"), intent(0, "key-2"), accepted(0, "task-2")]


def names(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


def test_of_a_settled_row_its_line_and_its_verdict_are_kept(tmp_path: Path) -> None:
    path = written(tmp_path / JOURNAL_NAME, HEADER, RUN, row(0), intent(0), accepted(0), completed(0), saved(0), END)
    before = path.stat().st_size
    assert compact(tmp_path) == (before, path.stat().st_size)
    assert path.read_bytes() == data_of(HEADER, RUN, row(0), saved(0), END)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert names(tmp_path) == [JOURNAL_NAME]


def test_of_an_open_row_what_resume_needs_is_kept_and_earlier_rounds_are_only_sums(tmp_path: Path) -> None:
    path = written(tmp_path / JOURNAL_NAME, HEADER, RUN, *ROUND, left(0))
    compact(tmp_path)
    kept: list[Line] = [row(0), intent(0, "key-2"), accepted(0, "task-2"), left(0)]
    assert path.read_bytes() == data_of(HEADER, Sums(settled=0.45, unknown=0.0), RUN, *kept)


def repeated(n: int, task_id: str, *, replayed: bool) -> Accepted:
    """It was sent again after a lost answer; whether the gateway said that it knew the key."""
    return evolve(accepted(n, task_id), replayed=replayed)


def test_of_a_row_that_may_have_been_charged_twice_every_line_is_kept_and_of_one_whose_key_was_known(
    tmp_path: Path,
) -> None:
    known: list[list[Line]] = [[row(n), intent(n), repeated(n, f"task-{n}", replayed=True), saved(n)] for n in range(2)]
    first: list[Line] = [row(2), intent(2), repeated(2, "task-1", replayed=False), completed(2), failed(2, "yes")]
    later: list[Line] = [intent(2, "key-2"), repeated(2, "task-2", replayed=False), left(2), failed(2, "unknown")]
    last: list[Line] = [intent(2, "key-3"), accepted(2, "task-3"), completed(2), saved(2)]
    path = written(tmp_path / JOURNAL_NAME, HEADER, RUN, *known[0], *known[1], *first, *later, RUN, *last, END)
    compact(tmp_path)
    settled: list[Line] = [row(1), saved(1)]
    assert path.read_bytes() == data_of(HEADER, RUN, *known[0], *settled, *first, *later, RUN, *last, END)


@st.composite
def repeating(draw: st.DrawFn) -> list[Line]:
    """A journal where rows were sent again, and the gateway knew their keys or not."""
    replayed = st.sampled_from([None, None, True, False])
    return [evolve(line, replayed=draw(replayed)) if isinstance(line, Accepted) else line for line in draw(journals())]


@given(repeating())
def test_a_compacted_journal_gives_the_same_answers_and_compacts_no_further(lines: list[Line]) -> None:
    with TemporaryDirectory() as name:
        directory = Path(name)
        path = written(directory / JOURNAL_NAME, *lines)
        with History(path) as history:
            expected = answers(history)
        books = books_of(directory)
        before, after = compact(directory)
        assert after <= before + len(encode(Sums(settled=100.45, unknown=100.45)))
        for _ in range(2):
            with History(path) as history:
                assert answers(history) == expected
            assert books_of(directory) == books
            assert compact(directory) == (after, after)


def books_of(directory: Path) -> tuple[object, ...]:
    """What a directory's books say of money, but for what was given back."""
    report = directory_report(directory)
    sums = (report.credits, report.credits_reserved, report.credits_unknown, report.usd)
    return (*sums, report.maybe_twice, report.unknown, report.open_tasks, report.failures, report.states)


def test_keys_that_were_known_before_are_so_after_and_rows_are_told_that_are_sent_twice_later(tmp_path: Path) -> None:
    known: list[Line] = [row(0), intent(0), repeated(0, "task-0", replayed=True), saved(0)]
    written(tmp_path / JOURNAL_NAME, HEADER, RUN, *known)
    compact(tmp_path)
    with (tmp_path / JOURNAL_NAME).open("ab") as journal:
        for n, late_s in ((1, 10.0), (2, 7200.0)):
            again = evolve(repeated(n, f"task-{n}", replayed=False), at_s=intent(n).at_s + late_s)
            journal.write(data_of(row(n), intent(n), again, saved(n)))
    for _ in range(2):
        assert [row.index for row in directory_report(tmp_path).maybe_twice] == [2]
        compact(tmp_path)


def test_a_torn_end_is_left_behind(tmp_path: Path) -> None:
    path = tmp_path / JOURNAL_NAME
    for tail in (b"\0\0\0", encode(intent(0))[:20]):
        path.write_bytes(data_of(HEADER, RUN, row(0)) + tail)
        compact(tmp_path)
        assert path.read_bytes() == data_of(HEADER, RUN, row(0))
    path.write_bytes(data_of(HEADER, RUN, row(0), intent(0))[:-1])
    compact(tmp_path)
    assert path.read_bytes() == data_of(HEADER, RUN, row(0), intent(0))


def test_without_a_journal_there_is_nothing_to_do(tmp_path: Path) -> None:
    assert compact(tmp_path) == (0, 0)
    assert names(tmp_path) == []


def test_an_empty_journal_stays_empty(tmp_path: Path) -> None:
    (tmp_path / JOURNAL_NAME).touch()
    assert compact(tmp_path) == (0, 0)
    assert names(tmp_path) == [JOURNAL_NAME]


def test_a_damaged_journal_is_not_touched(tmp_path: Path) -> None:
    data = data_of(HEADER, RUN, row(0), intent(0)).replace(b"fox", b"cat")
    (tmp_path / JOURNAL_NAME).write_bytes(data)
    with pytest.raises(JournalError, match="line 3"):
        compact(tmp_path)
    assert (tmp_path / JOURNAL_NAME).read_bytes() == data
    assert names(tmp_path) == [JOURNAL_NAME]


def test_a_journal_in_use_is_not_touched(tmp_path: Path) -> None:
    path = written(tmp_path / JOURNAL_NAME, HEADER, RUN, *ROUND)
    lock = DirectoryLock(tmp_path)
    lock.acquire(now_s=1.0)
    with pytest.raises(JournalError) as caught:
        compact(tmp_path)
    lock.release()
    assert caught.value.code == LOCKED
    assert path.read_bytes() == data_of(HEADER, RUN, *ROUND)


def test_a_crash_before_the_end_leaves_the_old_journal_and_what_it_left_is_in_nobodys_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / JOURNAL_NAME, HEADER, RUN, *ROUND)
    (tmp_path / COMPACT_NAME).write_bytes(b"x" * 10_000)

    def crash(_fd: int) -> None:
        raise OSError("Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", crash)
        with pytest.raises(JournalError, match="Input/output error") as caught:
            compact(tmp_path)
    assert caught.value.code == DISK_ERROR
    assert path.read_bytes() == data_of(HEADER, RUN, *ROUND)
    assert names(tmp_path) == [JOURNAL_NAME]
    compact(tmp_path)
    assert names(tmp_path) == [JOURNAL_NAME]


def test_the_new_journal_is_synced_before_it_takes_the_name_and_the_directory_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / JOURNAL_NAME, HEADER, RUN, *ROUND)
    old, fsync = path.stat().st_ino, os.fsync
    synced: list[tuple[str, bool]] = []

    def noted(fd: int) -> None:
        kind = "directory" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file"
        synced.append((kind, path.stat().st_ino == old))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", noted)
    compact(tmp_path)
    assert synced == [("file", True), ("directory", False)]
