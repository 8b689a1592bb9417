"""A journal that grows while it is shown: what is appended is read once, and comes to what a new reading comes to."""

import os
import tracemalloc
from pathlib import Path
from zlib import crc32

import pytest
from audited import rendered, row, saved, write_journal
from hypothesis import given
from hypothesis import strategies as st
from many import many_rows

from krea_async.errors import JournalError
from krea_async.gallery.journal_rows import JournalRows
from krea_async.gallery.sheet import Tile, Totals
from krea_async.storage.compact import compact
from krea_async.storage.history import JOURNAL_NAME
from krea_async.storage.journal import JournalPolicy, open_journal
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
    Same,
    encode,
)


def whole_run() -> list[Line]:
    """Rows of every kind of fate, in two runs."""
    failed = Failed(n=1, credits=0.45, charged="unknown", error="E", message="no", retryable=True, at_s=5.0)
    return [
        Header(at_s=1.0),
        RunBegun(pid=1, version="1", at_s=2.0),
        *(row(n, f"füchse {n}") for n in range(5)),
        *(Intent(n=n, key=f"k{n}", at_s=3.0) for n in range(4)),
        *(Accepted(n=n, task_id=f"t{n}", credits=0.45, at_s=4.0) for n in (0, 2, 3)),
        Completed(n=0, links=["https://x.y/a.png"], expires_s=9.0, at_s=4.5),
        failed,
        saved(0, b"0"),
        Same(n=4, of=0),
        saved(4, b"0", credits=0.0, task_id=None),
        Left(n=2, charged="unknown", error="E", message="later", at_s=6.0),
        RunEnded(stopped_by="budget", at_s=7.0),
        RunBegun(pid=2, version="1", at_s=8.0),
        row(5),
        Intent(n=1, key="k1b", at_s=8.0),
        Accepted(n=1, task_id="t1b", credits=0.45, at_s=9.0),
        saved(1, b"11"),
        saved(0, b"0000"),  # fetched again
        saved(2, b"2"),
        RunEnded(at_s=10.0),
    ]


def told(rows: JournalRows) -> tuple[Totals, list[Tile]]:
    return rows.totals, [rows.tile(n) for n in range(len(rows))]


@given(cuts=st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_a_journal_followed_in_pieces_says_what_one_read_at_once_says(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[float]
) -> None:
    """Wherever the pieces end: also in the middle of a line or of a letter.

    But for a line that lacks only its newline: who begins to read believes it, who follows waits for the newline.
    """
    directory = tmp_path_factory.mktemp("renders")
    data = b"".join(map(encode, whole_run()))
    places = [*sorted(int(cut * len(data)) for cut in cuts), len(data)]
    places[1:] = [place + (data[place : place + 1] == b"\n") for place in places[1:]]
    path = directory / JOURNAL_NAME
    path.write_bytes(data[: places[0]])
    with JournalRows(directory) as followed:
        before = told(followed)[1]
        for place in places[1:]:
            with path.open("ab") as file:
                file.write(data[path.stat().st_size : place])
            changed = followed.follow()
            assert changed is not None
            with JournalRows(directory) as anew:
                assert told(followed) == told(anew)
                tiles = told(anew)[1]
            new = {n for n, tile in enumerate(tiles) if tile != (before[n] if n < len(before) else None)}
            assert new <= {*changed}
            before = tiles
        assert followed.follow() == []


@pytest.mark.anyio
@pytest.mark.parametrize("lost_bytes", [1, 30])
async def test_a_torn_end_that_a_later_run_cuts_off_is_read_as_that_run_wrote_it(
    tmp_path: Path, lost_bytes: int
) -> None:
    rendered(tmp_path, 2)
    path = tmp_path / JOURNAL_NAME
    with path.open("ab") as file:
        file.write(encode(row(2, "what the crash cut off"))[:-lost_bytes])
    with JournalRows(tmp_path) as followed:
        told(followed)  # which fills the buffer with the torn end
        async with open_journal(tmp_path, JournalPolicy(sync=False)) as (journal, history):
            n = history.rows
            journal.plan(row(n, "what was asked for then").request, index=n)
        assert followed.follow() == [n]
        with JournalRows(tmp_path) as anew:
            assert told(followed) == told(anew)
        assert followed.tile(n).prompt == "what was asked for then"
        assert followed.totals.damaged_lines == 0


def test_a_line_that_turns_out_to_be_damaged_is_counted_once_and_left_out(tmp_path: Path) -> None:
    path = write_journal(tmp_path, row(0), row(1))
    with JournalRows(tmp_path) as followed:
        with path.open("ab") as file:
            file.write(encode(row(2)).replace(b"fox", b"fix"))
        assert followed.follow() == []
        with path.open("ab") as file:
            file.write(encode(row(2)) + encode(row(3)))
        assert followed.follow() == [2, 3]
        assert followed.follow() == []
        assert (len(followed), followed.totals.damaged_lines) == (4, 1)


@pytest.mark.parametrize("what", ["compacted", "removed", "truncated", "replaced", "moved with its directory"])
def test_another_file_in_its_place_is_noticed(tmp_path: Path, what: str) -> None:
    directory = tmp_path / "renders"
    directory.mkdir()
    rendered(directory, 3)
    path = directory / JOURNAL_NAME
    with JournalRows(directory) as followed:
        assert followed.follow() == []
        if what == "compacted":
            compact(directory)
        elif what == "removed":
            path.unlink()
        elif what == "truncated":
            os.truncate(path, path.stat().st_size // 2)
        elif what == "replaced":
            path.with_suffix(".new").write_bytes(path.read_bytes())
            path.with_suffix(".new").replace(path)
        else:
            directory.rename(tmp_path / "away")
        assert followed.follow() is None


def test_a_journal_of_a_later_version_is_refused_and_not_misread(tmp_path: Path) -> None:
    path = write_journal(tmp_path, row(0))
    newer = encode(row(1)).replace(b'"e":"row"', b'"e":"new"')[: -len(b',"crc":"00000000"}\n')]
    with JournalRows(tmp_path) as followed:
        with path.open("ab") as file:
            file.write(newer + b',"crc":"%08x"}\n' % crc32(newer))
        with pytest.raises(JournalError, match="update krea-async"):
            followed.follow()


def test_a_hundred_thousand_rows_take_little_memory_and_are_not_read_again(tmp_path: Path) -> None:
    """35 bytes a row and some; and a look at what is new costs the same as with one row."""
    count = 100_000
    path = many_rows(tmp_path, count)
    taken: list[int] = []

    class Counted(JournalRows):
        def _take(self, piece: bytes, offset: int) -> None:
            taken.append(offset)
            super()._take(piece, offset)

    tracemalloc.start()
    try:
        with Counted(tmp_path) as rows:
            assert len(rows) == count
            assert rows.totals.damaged_lines == 0
            taken.clear()
            before, _ = tracemalloc.get_traced_memory()
            assert before < 60 * count
            with path.open("ab") as file:
                file.write(encode(Intent(n=99_999, key="k", at_s=3.0)))
            assert rows.follow() == [99_999]
            assert len(taken) == 1
            tracemalloc.reset_peak()
            assert sum(tile.status == "waiting" for tile in map(rows.tile, range(0, count, 50))) == count // 50
            assert tracemalloc.get_traced_memory()[1] - before < 200_000
    finally:
        tracemalloc.stop()
