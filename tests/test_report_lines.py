"""What single lines of a journal come to in the books: runs and their times, prices, balances, damage."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from audited import row, saved

from krea_async import JournalError
from krea_async.audit.recorded import NO_JOURNAL
from krea_async.audit.report import UNANSWERED, DirectoryReport, directory_report
from krea_async.audit.report_text import report_text
from krea_async.errors import DISK_ERROR
from krea_async.storage.compact import compact
from krea_async.storage.history import JOURNAL_NAME
from krea_async.storage.records import (
    Accepted,
    Completed,
    Failed,
    Header,
    Intent,
    Left,
    Line,
    RunBegun,
    RunEnded,
    Sums,
    encode,
)
from krea_async.storage.scan import NEWER


def begun(at_s: float, balance: float | None = None) -> RunBegun:
    return RunBegun(pid=1, version="1", balance=balance, at_s=at_s)


def sent(n: int, at_s: float = 3.0, *, credits_: float | None = 0.45, **facts: Any) -> list[Line]:
    task = f"task-unified-1-{n}"
    return [
        Intent(n=n, key=f"key-{n}-{at_s}", at_s=at_s),
        Accepted(n=n, task_id=task, credits=credits_, at_s=at_s, **facts),
    ]


def failed(n: int, at_s: float = 4.0, **facts: Any) -> Failed:
    known = {"credits": 0.45, "charged": "no", "error": "E", "code": "c", "message": "m", "retryable": True}
    return Failed(**{"n": n, "task_id": f"task-unified-1-{n}", "at_s": at_s, **known, **facts})


def report_of(directory: Path, *lines: Line) -> DirectoryReport:
    (directory / JOURNAL_NAME).write_bytes(b"".join(map(encode, (Header(at_s=1.0), *lines))))
    return directory_report(directory)


def test_runs_take_from_their_begin_to_their_end_or_their_last_line_and_repairs_are_none(tmp_path: Path) -> None:
    line = saved(0, b"x", at_s=110.0)
    killed = [begun(100.0), row(1), *sent(0, 105.0), line, *sent(1, 130.0)]
    report = report_of(
        tmp_path,
        *(begun(10.0), row(0), RunEnded(at_s=20.0)),
        *killed,
        evolve(line, at_s=5000.0),  # fetched again by a repair
        *(begun(6000.0), RunEnded(at_s=6010.0, stopped_by="insufficient_quota")),
    )
    assert (report.runs, report.wall_s) == (3, 10.0 + 30.0 + 10.0)
    assert (report.first_s, report.last_s, report.stopped_by) == (1.0, 6010.0, "insufficient_quota")
    assert (report.pictures, report.seconds.generating_s, report.credits) == (1, 8.0, 0.45)
    assert report.pictures_per_minute == 1.2
    assert report_of(tmp_path, *killed, evolve(line, at_s=5000.0)).wall_s == 30.0


def test_a_journal_without_lines_has_books_without_figures(tmp_path: Path) -> None:
    report = report_of(tmp_path)
    assert (report.rows, report.runs, report.credits, report.usd, report.wall_s) == (0, 0, 0.0, 0.0, 0.0)
    assert (report.balance_before, report.balance_difference, report.pictures_per_minute) == (None, None, 0.0)
    assert json.loads(json.dumps(report.as_json()))["seconds_per_picture"]["queued_s"] == 0.0
    (tmp_path / JOURNAL_NAME).write_bytes(b"")
    assert (directory_report(tmp_path).first_s, directory_report(tmp_path).last_s) == (None, None)
    assert report_text(directory_report(tmp_path))[1] == "rows      none"


def test_what_is_no_journal_is_told_apart(tmp_path: Path) -> None:
    def code() -> str | None:
        with pytest.raises(JournalError) as refused:
            directory_report(tmp_path / "renders")
        return refused.value.code

    assert code() == NO_JOURNAL
    (tmp_path / "renders").write_bytes(b"")
    assert code() == NO_JOURNAL
    (tmp_path / "renders").unlink()
    (tmp_path / "renders" / JOURNAL_NAME).mkdir(parents=True)
    assert code() == DISK_ERROR
    (tmp_path / "renders" / JOURNAL_NAME).rmdir()
    (tmp_path / "renders" / JOURNAL_NAME).write_bytes(b'{"e":"journal","v":9,"t":1.0,"crc":"00000000"}\n')
    assert code() == NEWER


def test_what_is_given_back_is_what_was_reserved(tmp_path: Path) -> None:
    """Or the list's price, where the gateway did not say. A row that was never a task had nothing reserved."""
    lines: list[Line] = [row(n) for n in range(4)]
    lines += [*sent(0, credits_=0.5), failed(0), *sent(1, credits_=None), failed(1)]
    lines += [Intent(n=2, key="k", at_s=3.0), failed(2, task_id=None), *sent(3), failed(3, charged="yes", credits=0.4)]
    report = report_of(tmp_path, *lines)
    assert report.credits_refunded == 0.95
    assert (report.credits, report.credits_unknown, report.credits_reserved) == (0.4, 0.0, 0.0)
    assert report.usd == pytest.approx(0.4 / 0.45 * 0.0067, abs=1e-6)
    assert [(row.index, row.charged) for row in report.unknown] == [(3, "yes")]
    assert (report.failures, report.examples) == ({"c": 4}, {"c": "m"})


def test_a_price_that_is_not_the_lists_is_what_is_counted(tmp_path: Path) -> None:
    lines: list[Line] = [row(0), row(1, quality="2K"), row(2)]
    lines += [*sent(0), saved(0, b"x"), *sent(1), saved(1, b"x", credits=1.8), *sent(2), saved(2, b"x", credits=0.9)]
    report = report_of(tmp_path, *lines)
    assert report.credits == pytest.approx(3.15)
    assert report.usd == pytest.approx(0.0067 + 0.027 + 2 * 0.0067)


def test_balances_are_compared_from_the_first_that_was_read_to_the_last(tmp_path: Path) -> None:
    """What was charged before is not in the fall, so it is not in the sum either."""
    early = [begun(2.0), row(0), *sent(0), saved(0, b"x"), RunEnded(at_s=5.0)]
    read = [begun(6.0, 100.0), row(1), *sent(1), saved(1, b"x"), RunEnded(balance=99.0, at_s=8.0)]
    report = report_of(tmp_path, *early, *read)
    assert (report.balance_before, report.balance_after, report.credits) == (100.0, 99.0, 0.9)
    assert report.balance_difference == 0.55
    assert "charged 0.45, difference 0.55" in "\n".join(report_text(report))
    assert report_of(tmp_path, *early).balance_difference is None
    completed = Completed(n=2, links=[], expires_s=9.0, credits=0.45, at_s=9.0)
    killed = report_of(tmp_path, *early, *read, begun(9.0), row(2), *sent(2), completed)
    assert (killed.credits, killed.balance_difference) == (1.35, 0.55)  # nobody has read a balance since


def test_rows_without_an_end_are_told_with_what_is_known(tmp_path: Path) -> None:
    lines: list[Line] = [row(n, quality="2K" if n == 3 else "1K") for n in range(5)]
    lines += [Intent(n=0, key="k0", at_s=3.0), Intent(n=3, key="k3", at_s=3.0)]
    lines += [Left(n=3, charged="unknown", error="E", message="the answer was lost", at_s=4.0)]
    lines += [*sent(1, credits_=0.5), *sent(2, credits_=None)]
    lines += [Completed(n=2, links=[], expires_s=9.0, credits=None, at_s=5.0)]
    report = report_of(tmp_path, begun(2.0), *lines)
    assert [(row.index, row.task_id, row.reason) for row in report.unknown] == [
        (0, None, UNANSWERED),
        (3, None, "the answer was lost"),
    ]
    assert report.credits_unknown == pytest.approx(0.45 + 1.8)
    assert [(row.task_id, row.charged) for row in report.open_tasks] == [
        ("task-unified-1-1", "unknown"),
        ("task-unified-1-2", "yes"),
    ]
    assert (report.credits_reserved, report.credits) == (0.5, 0.45)
    assert (report.rows, report.left, report.states["planned"]) == (5, 5, 1)


def test_rows_that_may_be_charged_twice_are_named_until_a_key_is_seen_to_be_known(tmp_path: Path) -> None:
    lines = [row(0), row(1), *sent(0, replayed=False), saved(0, b"x"), *sent(1, replayed=None), saved(1, b"x")]
    assert [row.index for row in report_of(tmp_path, *lines).maybe_twice] == [0]
    lines += [row(2), *sent(2, replayed=True), saved(2, b"x")]
    assert report_of(tmp_path, *lines).maybe_twice == ()


def test_compaction_is_told_also_when_it_left_no_sums(tmp_path: Path) -> None:
    """What was given back for the first try is not known any more, and nobody is to believe that it was nothing."""
    lines = [begun(2.0, 10.0), row(0), *sent(0), failed(0), *sent(0, 5.0), saved(0, b"x"), RunEnded(at_s=9.0)]
    report = report_of(tmp_path, *lines)
    assert (report.credits_refunded, report.compacted) == (0.45, False)
    compact(tmp_path)
    assert b'"e":"sums"' not in (tmp_path / JOURNAL_NAME).read_bytes()
    after = directory_report(tmp_path)
    assert (after.credits_refunded, after.compacted, after.credits) == (0.0, True, 0.45)


def test_sums_of_a_compacted_journal_are_within_the_fall_of_the_balance(tmp_path: Path) -> None:
    report = report_of(
        tmp_path,
        *(Sums(settled=1.0, unknown=0.5), begun(2.0, 100.0), row(0), saved(0, b"x")),
        RunEnded(balance=98.55, at_s=9.0),
    )
    assert (report.credits, report.credits_unknown, report.compacted) == (1.45, 0.5, True)
    assert report.balance_difference == 0.0


# --- damage -----------------------------------------------------------------------------------------------------------


def test_damaged_lines_are_left_out_and_told(tmp_path: Path) -> None:
    whole = report_of(tmp_path, begun(2.0), row(0), row(1), *sent(0), saved(0, b"x"), *sent(1), saved(1, b"x"))
    path = tmp_path / JOURNAL_NAME
    lines = path.read_bytes().splitlines(keepends=True)
    for number, line in enumerate(lines[1:], 2):  # each of them, but the header
        broken = [*lines]
        broken[number - 1] = line.replace(b"0", b"O", 1)
        path.write_bytes(b"".join(broken))
        report = directory_report(tmp_path)
        if number < len(lines):
            assert report.damaged_lines[0] == number
            assert f"damaged   lines {', '.join(map(str, report.damaged_lines))}" in "\n".join(report_text(report))
        assert report.credits <= whole.credits
        assert json.dumps(report.as_json())


def test_a_journal_that_is_cut_anywhere_has_books(tmp_path: Path) -> None:
    report_of(tmp_path, begun(2.0), row(0), *sent(0, replayed=False), saved(0, b"x"), RunEnded(at_s=9.0))
    path = tmp_path / JOURNAL_NAME
    data = path.read_bytes()
    ends = [0]
    for place in range(len(data) + 1):
        path.write_bytes(data[:place])
        report = directory_report(tmp_path)
        assert report.damaged_lines == ()
        ends.append(report.saved)
    assert (ends == sorted(ends), ends[-1]) == (True, 1)


def test_a_gateway_that_invents_codes_without_end_does_not_fill_the_report(tmp_path: Path) -> None:
    lines: list[Line] = [row(n) for n in range(1500)]
    lines += [line for n in range(1500) for line in (*sent(n), failed(n, code=f"code-{n}" if n else "often"))]
    report = report_of(tmp_path, *lines)
    assert len(report.failures) == len(report.examples) == 1001
    assert (report.failures["other"], sum(report.failures.values())) == (500, 1500)
    assert len(report_text(report)) < 70


def test_memory_does_not_follow_the_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("krea_async.storage.scan.BLOCK_BYTES", 1 << 14)
    lines: list[Line] = [row(n) for n in range(3000)]
    lines += [line for n in range(3000) for line in (*sent(n), saved(n, b"x"))]
    report_of(tmp_path, *lines)
    del lines
    before = sys.getallocatedblocks()
    report = directory_report(tmp_path)
    assert (report.saved, sys.getallocatedblocks() - before < 500) == (3000, True)
