"""A journal is read as it was written, or the reader says where it is not; a crash costs no line that was whole."""

import tracemalloc
from pathlib import Path
from tempfile import TemporaryDirectory
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st
from journal_lines import (
    END,
    HEADER,
    RUN,
    Model,
    accepted,
    answers,
    completed,
    data_of,
    failed,
    intent,
    journals,
    left,
    row,
    same,
    saved,
    written,
)

from krea_async import ImageRequest, JournalError
from krea_async.errors import DISK_ERROR
from krea_async.storage.history import JOURNAL_NAME, History
from krea_async.storage.records import Intent, Line, encode
from krea_async.storage.replay import RowState
from krea_async.storage.scan import DAMAGED, NEWER

PLANNED, INTENT, ACCEPTED, COMPLETED, SAVED, FAILED = RowState
STEPS: list[Line] = [row(0), intent(0), accepted(0), completed(0), saved(0)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / JOURNAL_NAME


def states_in(path: Path, *lines: Line) -> list[RowState]:
    with History(written(path, HEADER, RUN, *lines)) as history:
        return [history.state(n) for n in range(history.rows)]


def proven(body: bytes) -> bytes:
    """A line of these bytes with the checksum that belongs to them."""
    return b'%b,"crc":"%08x"}\n' % (body, crc32(body))


# --- what a row comes to ----------------------------------------------------------------------------------------------


def test_a_missing_and_an_empty_file_say_nothing(path: Path) -> None:
    for _ in range(2):
        with History(path) as history:
            assert (history.rows, history.runs, history.torn_at, history.first_s, history.last_s) == (
                0,
                0,
                None,
                None,
                None,
            )
            assert history.match(ImageRequest("a fox")) is None
            assert (history.last_run, history.last_end) == (None, None)
        path.touch()


@pytest.mark.parametrize("steps", range(1, 6))
def test_each_step_brings_a_row_further(path: Path, steps: int) -> None:
    assert states_in(path, *STEPS[:steps]) == [RowState(steps - 1)]


def test_a_row_under_way_has_all_that_resume_needs(path: Path) -> None:
    with History(written(path, HEADER, RUN, row(0), row(1), intent(1), accepted(1), completed(1))) as it:
        (found,) = it.open_rows()
    assert (found.n, found.state, found.key, found.intended_s, found.task_id) == (1, COMPLETED, "key-1", 3.0, "task-1")
    assert (found.reserved_credits, found.created_s, found.expires_s, found.left) == (0.45, 4, 100.0, None)


def test_what_was_written_can_be_asked_for(path: Path) -> None:
    lines: list[Line] = [
        row(0, id="x"),
        row(1),
        saved(0),
        failed(1, "yes"),
        row(2),
        intent(2),
        left(2),
        row(3),
        same(3, 0),
        END,
    ]
    with History(written(path, HEADER, RUN, *lines)) as history:
        assert history.request(0) == ImageRequest("fox 0", id="x")
        assert (history.index(1), history.saved(0), history.failed(1)) == (1, saved(0), failed(1, "yes"))
        assert (history.same_as(3), history.same_as(2)) == (0, None)
        assert [found.left for found in history.open_rows()] == [left(2)]
        assert (history.first_s, history.last_s, history.runs) == (1.0, 9.0, 1)
        assert (history.last_run, history.last_end) == (RUN, END)
        assert history.credits_settled == 0.9
        assert [history.count(state) for state in RowState] == [1, 1, 0, 0, 1, 1]
        for wrong in (lambda: history.saved(1), lambda: history.failed(0), lambda: history.state(4)):
            with pytest.raises(LookupError):
                wrong()


def test_a_try_that_was_certainly_not_accepted_is_made_again_under_its_key(path: Path) -> None:
    with History(written(path, HEADER, RUN, row(0), row(1), intent(0), left(0, "no"))) as history:
        assert (history.state(0), [*history.open_rows()]) == (PLANNED, [])
        kept = history.kept_key(0)
        assert kept is not None
        assert (kept.key, kept.left) == ("key-1", left(0, "no"))
        assert history.kept_key(1) is None
    assert states_in(path, row(0), intent(0), left(0, "no"), intent(0)) == [INTENT]


def test_what_a_later_run_did_not_send_may_have_been_accepted_earlier(path: Path) -> None:
    """The first run was killed while its POST was under way; that the second sent none says nothing of that one."""
    assert states_in(path, row(0), intent(0), RUN, left(0, "no")) == [INTENT]
    assert states_in(path, row(0), intent(0), RUN, intent(0), left(0, "no")) == [INTENT]


def test_what_is_said_of_a_try_that_was_not_accepted_does_not_change(path: Path) -> None:
    with History(written(path, HEADER, RUN, row(0), intent(0), left(0, "no"), left(0))) as history:
        kept = history.kept_key(0)
        assert kept is not None
        assert kept.left == left(0, "no")


def test_an_age_is_counted_from_the_first_time_that_a_key_was_sent(path: Path) -> None:
    again = Intent(n=0, key="key-1", at_s=50.0)
    with History(written(path, HEADER, RUN, row(0), intent(0), RUN, again)) as history:
        assert [found.intended_s for found in history.open_rows()] == [3.0]
    with History(written(path, HEADER, RUN, row(0), intent(0), left(0, "no"), RUN, again)) as history:
        assert [found.intended_s for found in history.open_rows()] == [50.0]


def test_every_round_of_a_row_is_in_the_sum_and_a_verdict_that_replaces_one_is_not_added(path: Path) -> None:
    first: list[Line] = [row(0), intent(0), accepted(0), failed(0, "yes")]
    for more, settled in (
        ([], 0.45),
        ([intent(0, "key-2"), accepted(0, "task-2"), saved(0)], 0.9),
        ([saved(0)], 0.45),  # its picture was fetched after all
        ([saved(0), failed(0, "unknown")], 0.0),
        ([failed(0, "no")], 0.0),
    ):
        with History(written(path, HEADER, RUN, *first, *more)) as history:
            assert history.credits_settled == settled


@given(journals())
def test_any_sequence_of_lines_comes_to_what_the_simplest_reader_says(lines: list[Line]) -> None:
    model = Model()
    for line in lines:
        model.take(line)
    with TemporaryDirectory() as directory, History(written(Path(directory) / JOURNAL_NAME, *lines)) as history:
        assert [history.state(n) for n in range(history.rows)] == model.states
        found = {row.n: row for row in history.open_rows()}
        kept = {n: held for n in range(history.rows) if (held := history.kept_key(n))}
        assert {n: held.key for n, held in (found | kept).items()} == model.keys
        assert {n: held.task_id for n, held in found.items() if held.task_id} == model.tasks
        assert [history.credits_settled, history.credits_unknown] == pytest.approx(model.credits)
        assert history.runs == model.runs


@given(journals(), st.data())
def test_no_crash_and_no_resume_gives_a_row_a_second_key_before_the_first_failed(
    lines: list[Line], data: st.DataObject
) -> None:
    """A run does what resume says: it takes the key that it is told, and a new one only where it is told none."""
    with TemporaryDirectory() as directory:
        path = Path(directory) / JOURNAL_NAME
        path.write_bytes(data_of(*lines))
        for attempt in range(4):
            content = path.read_bytes()
            content = content[: data.draw(st.integers(len(encode(HEADER)), len(content)))]  # what the crash let through
            path.write_bytes(content)
            with History(path) as history:
                base = content[: history.torn_at] + b"\n" * history.unended
                under_way = {found.n: found for found in history.open_rows()}
                more: list[Line] = [RUN]
                for n in data.draw(st.permutations(range(history.rows))):
                    held = under_way.get(n) or history.kept_key(n)
                    if history.state(n) is SAVED or (held is not None and held.task_id):
                        continue
                    more.append(intent(n, (held and held.key) or f"key of attempt {attempt} for {n}"))
                    more.extend(
                        data.draw(st.sampled_from([[], [accepted(n)], [left(n, "no")], [left(n)], [failed(n)]]))
                    )
            path.write_bytes(base + data_of(*more))
        History(path).close()  # it reads all of it, and would refuse a second key


# --- which row a request is -------------------------------------------------------------------------------------------


def matches(history: History, *prompts: str) -> list[int | None]:
    return [history.match(ImageRequest(prompt)) for prompt in prompts]


@pytest.fixture
def foxes(path: Path) -> History:
    written(path, HEADER, RUN, *(row(n, prompt) for n, prompt in enumerate(["a", "b", "a", "a", "c"])))
    with History(path) as history:
        return history


@pytest.mark.parametrize(
    ("prompts", "rows"),
    [
        (["a", "b", "a", "a", "c"], [0, 1, 2, 3, 4]),
        (["a", "b", "a", "a", "c", "a", "c", "d"], [0, 1, 2, 3, 4, None, None, None]),
        (["new", "a", "b", "new", "a", "a", "c"], [None, 0, 1, None, 2, 3, 4]),
        (["c", "a", "a", "b", "a"], [4, 0, 2, 1, 3]),
        (["b", "a", "c", "a"], [1, 0, 4, 2]),
        (["c", "c"], [4, None]),
    ],
)
def test_rows_are_recognised_by_content_and_occurrence(
    foxes: History, prompts: list[str], rows: list[int | None]
) -> None:
    assert matches(foxes, *prompts) == rows


def test_rows_are_recognised_by_their_id_and_a_change_is_noticed(path: Path) -> None:
    with History(written(path, HEADER, row(0, "a", id="x"), row(1, "b", id="y"), row(2, "c"))) as history:
        assert history.match(ImageRequest("other", id="y")) == 1
        assert history.match(ImageRequest("a", id="x")) == 0
        assert history.match(ImageRequest("a")) is None
        assert history.changed(1, ImageRequest("other", id="y"))
        assert not history.changed(0, ImageRequest("a", id="x"))
        assert not history.changed(2, ImageRequest("c", callback_url="https://example.com/"))


@given(st.lists(st.sampled_from("abc")), st.lists(st.sampled_from("abcd")))
def test_each_occurrence_is_the_first_row_that_is_free(known: list[str], asked: list[str]) -> None:
    with TemporaryDirectory() as directory:
        lines = (row(n, prompt) for n, prompt in enumerate(known))
        with History(written(Path(directory) / JOURNAL_NAME, HEADER, *lines)) as history:
            free: list[str | None] = [*known]
            for prompt in asked:
                first = free.index(prompt) if prompt in free else None
                assert matches(history, prompt) == [first]
                if first is not None:
                    free[first] = None


# --- what a crash leaves ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", range(1, 6))
def test_a_journal_cut_at_any_byte_of_its_last_line_is_the_one_before_it(path: Path, steps: int) -> None:
    before, last = data_of(HEADER, RUN, *STEPS[: steps - 1]), encode(STEPS[steps - 1])
    for size in range(len(last)):
        path.write_bytes(before + last[:size])
        with History(path) as history:
            whole = size == len(last) - 1  # nothing but the newline is missing
            assert sum(history.count(state) for state in RowState) == (steps > 1 or whole)
            if steps > 1:
                assert history.state(0) == steps - 2 + whole
            assert history.unended == whole
            assert history.torn_at == (None if size == 0 else len(before) + size * whole)


def test_a_journal_cut_in_its_first_line_is_a_new_one(path: Path) -> None:
    data = encode(HEADER)
    for size in range(1, len(data)):
        path.write_bytes(data[:size])
        with History(path) as history:
            assert history.torn_at == (size if history.unended else 0)
            assert history.unended == (size == len(data) - 1)
            assert (history.rows, history.first_s) == (0, 1.0 if history.unended else None)


@pytest.mark.parametrize("nuls", [1, 2, 511, 4096, 3_000_000])
@pytest.mark.parametrize("size", [0, 1, 40])
def test_nuls_at_the_end_are_what_a_power_cut_left(path: Path, size: int, nuls: int) -> None:
    before = data_of(HEADER, RUN, row(0))
    path.write_bytes(before + encode(intent(0))[:size] + b"\0" * nuls)
    with History(path) as history:
        assert (history.torn_at, history.unended, history.state(0)) == (len(before), False, PLANNED)


def test_a_journal_of_nothing_but_nuls_is_a_new_one(path: Path) -> None:
    path.write_bytes(b"\0" * 4096)
    with History(path) as history:
        assert (history.rows, history.torn_at) == (0, 0)


@pytest.mark.parametrize(
    "garbage",
    [
        b"\xff\xfe garbage",
        b"\xff\xfe\ngarbage\n",
        b"\n\n",
        b'\0\0\0\0\0"}\n',
        b'{"e":"int\0\0\0\0\0\0"}\n\0',
        b"x\0\0\ny\n",
    ],
)
def test_what_cannot_be_a_line_is_cut_at_the_end_and_refused_in_the_middle(path: Path, garbage: bytes) -> None:
    before = data_of(HEADER, RUN, row(0))
    path.write_bytes(before + garbage)
    with History(path) as history:
        assert (history.torn_at, history.unended, history.rows) == (len(before), False, 1)
    path.write_bytes(before + garbage + b"\n" * (not garbage.endswith(b"\n")) + data_of(intent(0)))
    with pytest.raises(JournalError, match="line 4: the line is damaged"):
        History(path)


def test_a_last_line_that_was_whole_once_is_never_cut(path: Path) -> None:
    """An intent that was on disk must not be forgotten because of one bad byte."""
    before, last = data_of(HEADER, RUN, row(0)), encode(intent(0))
    for place in range(len(last)):
        for mask in (0x01, 0x20, 0xFF):
            changed = last[:place] + bytes([last[place] ^ mask]) + last[place + 1 :]
            path.write_bytes(before + changed)
            if place < len(last) - 1:
                with pytest.raises(JournalError, match=f"{JOURNAL_NAME}, line 4: ") as caught:
                    History(path)
                assert caught.value.code == DAMAGED
                with History(path, skip_damaged=True) as history:
                    assert (history.damaged, history.state(0), history.torn_at) == ((4,), PLANNED, None)
            else:  # its newline: the line itself proves to be whole
                with History(path) as history:
                    assert (history.state(0), history.unended) == (INTENT, True)
                    assert history.torn_at == len(before + last) - 1


def test_an_edited_last_line_is_not_cut_although_its_newline_is_gone(path: Path) -> None:
    """Half a line does not end in a checksum: this one was whole, and somebody's editor took the newline."""
    before, last = data_of(HEADER, RUN, row(0)), encode(intent(0)).replace(b"key-1", b"key-2").removesuffix(b"\n")
    path.write_bytes(before + last)
    with pytest.raises(JournalError, match="line 4: the line is damaged"):
        History(path)
    with History(path, skip_damaged=True) as history:
        assert (history.damaged, history.torn_at, history.unended) == ((4,), None, True)


# --- damage -----------------------------------------------------------------------------------------------------------


def test_every_changed_byte_in_the_middle_is_reported_with_its_line(path: Path) -> None:
    lines: list[Line] = [HEADER, RUN, row(0), intent(0), saved(0)]
    for number in (1, 3, 4):
        before, line, after = data_of(*lines[: number - 1]), encode(lines[number - 1]), data_of(*lines[number:])
        for place in range(len(line)):
            for mask in (0x01, 0x02, 0x20, 0xFF):
                path.write_bytes(before + line[:place] + bytes([line[place] ^ mask]) + line[place + 1 :] + after)
                with pytest.raises(JournalError, match=f"{JOURNAL_NAME}, line {number}: "):
                    History(path)


def test_damaged_lines_can_be_skipped_and_what_happened_to_their_rows_is_still_believed(path: Path) -> None:
    lines = [
        encode(line) for line in (HEADER, RUN, row(0), row(1), intent(0), accepted(0), intent(1), saved(1), row(2))
    ]
    lines[3] = lines[3].replace(b"fox", b"cat")
    lines[4] = b"\xff\n"
    path.write_bytes(b"".join(lines))
    with pytest.raises(JournalError, match="line 4: the line is damaged"):
        History(path)
    with History(path, skip_damaged=True) as history:
        assert history.damaged == (4, 5, 6, 7)  # two that cannot be read, and two that do not fit without them
        assert [history.state(n) for n in range(3)] == [ACCEPTED, SAVED, PLANNED]
        assert [(found.n, found.key, found.task_id) for found in history.open_rows()] == [(0, None, "task-1")]
        with pytest.raises(JournalError, match="the line of row 1 is lost"):
            history.request(1)
        assert matches(history, "fox 1", "fox 2", "fox 0") == [None, 2, 0]


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([row(1)], "row 1 comes after 0 rows"),
        ([row(0), row(0)], "row 0 comes after 1 rows"),
        ([intent(0)], "row 0 is not known"),
        ([row(0), intent(-1)], "row -1 is not known"),
        ([row(0), saved(7)], "row 7 is not known"),
        ([row(0), accepted(0)], "row 0 was accepted without being sent"),
        ([row(0), intent(0), completed(0)], "row 0 was completed without being accepted"),
        ([row(0), intent(0), intent(0, "key-2")], "row 0 got a second key before the first had failed"),
        ([row(0), intent(0), left(0, "no"), intent(0, "key-2")], "row 0 got a second key before the first had failed"),
        ([row(0), intent(0), accepted(0), intent(0)], "row 0 was sent again after it was accepted"),
        ([row(0), saved(0), intent(0)], "row 0 was sent again after it was saved"),
        ([row(0), intent(0), accepted(0), accepted(0, "task-2")], "row 0 got a second task"),
        ([row(0), same(0, 1)], "row 0 is the same as one that is not known"),
        ([HEADER], "a second journal begins here"),
    ],
)
def test_a_line_that_does_not_fit_is_damage(path: Path, lines: list[Line], reason: str) -> None:
    written(path, HEADER, RUN, *lines, END)
    with pytest.raises(JournalError, match=f"line {len(lines) + 2}: {reason}") as caught:
        History(path)
    assert caught.value.code == DAMAGED
    with History(path, skip_damaged=True) as history:
        assert history.damaged == (len(lines) + 2,)


def test_a_journal_that_begins_without_its_header_is_damaged(path: Path) -> None:
    with pytest.raises(JournalError, match="line 1: it is not how a journal begins"):
        History(written(path, RUN, row(0)))


@pytest.mark.parametrize("text", [b"hello", b"hello\n", b'{"index": 0}\n', b'{"index": 0}'])
def test_somebody_elses_file_is_left_alone(path: Path, text: bytes) -> None:
    path.write_bytes(text)
    with pytest.raises(JournalError):
        History(path)
    assert path.read_bytes() == text


def test_a_journal_of_a_later_version_says_what_to_do(path: Path) -> None:
    newer = encode(HEADER).replace(b'"v":1', b'"v":2')
    for data in (newer, newer + data_of(RUN, row(0))):
        path.write_bytes(data)
        with pytest.raises(JournalError, match="update krea-async") as caught:
            History(path, skip_damaged=True)
        assert caught.value.code == NEWER
    assert "krea-async 9.8.7" in str(caught.value)


def test_an_unknown_event_says_who_wrote_it(path: Path) -> None:
    data = encode(RUN).replace(b'"run"', b'"dance"')
    path.write_bytes(data_of(HEADER, RUN) + proven(data.partition(b',"crc"')[0]))
    with pytest.raises(JournalError, match=r"line 3: the event .dance. is not known here.*krea-async 9.8.7") as caught:
        History(path, skip_damaged=True)
    assert caught.value.code == NEWER


def test_a_journal_that_is_no_plain_file_is_a_disk_error(path: Path) -> None:
    path.symlink_to("/dev/zero")
    with pytest.raises(JournalError, match="no plain file") as caught:
        History(path)
    assert caught.value.code == DISK_ERROR
    path.unlink()
    path.mkdir()
    with pytest.raises(JournalError, match="Is a directory") as caught:
        History(path)
    assert caught.value.code == DISK_ERROR


def test_a_long_journal_is_read_in_bounded_memory(path: Path) -> None:
    """200,000 rows: the arrays, a block, and no object for each row or line."""
    rows = 200_000
    bodies = [encode(line).partition(b',"crc"')[0] for line in (row(0), saved(0))]
    with path.open("wb") as file:
        file.write(data_of(HEADER, RUN))
        for n in range(rows):
            number = b'"n":%d' % n
            file.writelines(proven(body.replace(b'"n":0', number)) for body in bodies)
    tracemalloc.start()
    try:
        with History(path) as history:
            _, peak_bytes = tracemalloc.get_traced_memory()
            assert (history.rows, history.count(SAVED)) == (rows, rows)
            assert history.saved(rows - 1).n == rows - 1
    finally:
        tracemalloc.stop()
    assert peak_bytes < 60 * rows + 8 * 2**20


def test_the_answers_do_not_depend_on_where_the_blocks_end(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[Line] = [HEADER, RUN, *STEPS, row(1), intent(1), row(2), failed(2, "yes"), END]
    with History(written(path, *lines)) as history:
        expected = answers(history)
    for size in (1, 2, 7, 150, path.stat().st_size):
        monkeypatch.setattr("krea_async.storage.scan.BLOCK_BYTES", size)
        with History(path) as history:
            assert answers(history) == expected
