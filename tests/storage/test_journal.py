"""What is noted and waited for is on disk; one visit serves all; and after a fault nothing is believed or written."""

import asyncio
import os
import resource
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from journal_lines import HEADER, RUN, accepted, completed, data_of, intent, row, saved
from until import until

from krea_async import ImageRequest, JournalError
from krea_async.errors import DISK_ERROR
from krea_async.storage.history import JOURNAL_NAME, History
from krea_async.storage.journal import Journal, JournalPolicy, open_journal
from krea_async.storage.lock import LOCK_NAME, LOCKED
from krea_async.storage.records import Line, Row, encode
from krea_async.storage.replay import RowState

pytestmark = pytest.mark.anyio

PATIENT = JournalPolicy(lazy_s=3600.0)


@asynccontextmanager
async def running(directory: Path, **policy: Any) -> AsyncIterator[Journal]:
    """A journal whose writer runs."""
    async with open_journal(directory, JournalPolicy(**policy)) as (journal, _), anyio.create_task_group() as tasks:
        tasks.start_soon(journal.run)
        await anyio.wait_all_tasks_blocked()
        yield journal
        tasks.cancel_scope.cancel()


def lines_in(directory: Path) -> bytes:
    """All but the header, which says when it was written."""
    return (directory / JOURNAL_NAME).read_bytes().partition(b"\n")[2]


def files_in(directory: str | Path) -> list[Path]:
    return sorted(Path(directory).iterdir())


class Visits:
    """What was done to the disk, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.done: list[str] = []
        fsync, write = os.fsync, os.write

        def noted_fsync(fd: int) -> None:
            self.done.append("sync directory" if stat.S_ISDIR(os.fstat(fd).st_mode) else "sync file")
            fsync(fd)

        def noted_write(fd: int, data: Any) -> int:
            if stat.S_ISREG(os.fstat(fd).st_mode):  # the loop writes to its own socket
                self.done.append("write")
            return write(fd, data)

        monkeypatch.setattr(os, "fsync", noted_fsync)
        monkeypatch.setattr(os, "write", noted_write)


# --- opening ----------------------------------------------------------------------------------------------------------


async def test_a_new_journal_has_its_header_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    async with open_journal(tmp_path, now_s=1.0) as (journal, history):
        assert (history.rows, journal.rows) == (0, 0)
        assert {path.name for path in files_in(tmp_path)} == {JOURNAL_NAME, LOCK_NAME}
        assert {stat.S_IMODE(path.stat().st_mode) for path in files_in(tmp_path)} == {0o600}
    assert (tmp_path / JOURNAL_NAME).read_bytes() == encode(HEADER)
    assert not (tmp_path / LOCK_NAME).exists()


async def test_a_journal_goes_on_where_it_was(tmp_path: Path) -> None:
    async with running(tmp_path) as journal:
        assert journal.plan(ImageRequest("a fox"), index=5).n == 0
    async with open_journal(tmp_path) as (journal, history):
        assert (history.request(0), history.index(0)) == (ImageRequest("a fox"), 5)
        assert journal.plan(ImageRequest("an owl"), index=6).n == 1
    with History(tmp_path / JOURNAL_NAME) as history:
        assert [history.request(n).prompt for n in range(2)] == ["a fox", "an owl"]


async def test_rows_are_numbered_without_gaps(tmp_path: Path) -> None:
    async with open_journal(tmp_path) as (journal, _):
        with pytest.raises(ValueError, match="row 1 cannot come after 0 rows"):
            journal.note(row(1))
        journal.note(row(0))


@pytest.mark.parametrize("size", range(1, len(encode(intent(0))) + 1))
async def test_a_torn_end_is_cut_before_anything_is_written(tmp_path: Path, size: int) -> None:
    base, last = data_of(HEADER, row(0)), encode(intent(0))
    (tmp_path / JOURNAL_NAME).write_bytes(base + last[:size])
    async with open_journal(tmp_path) as (journal, _):
        journal.note(RUN)
    whole = size >= len(last) - 1
    assert (tmp_path / JOURNAL_NAME).read_bytes() == base + last * whole + encode(RUN)


@pytest.mark.parametrize("size", [0, 1, 20, len(encode(HEADER)) - 1])
async def test_a_journal_that_was_never_begun_is_begun(tmp_path: Path, size: int) -> None:
    (tmp_path / JOURNAL_NAME).write_bytes(encode(HEADER)[:size])
    async with open_journal(tmp_path, now_s=1.0) as (journal, _):
        journal.note(RUN)
    assert (tmp_path / JOURNAL_NAME).read_bytes() == data_of(HEADER, RUN)


async def test_a_damaged_journal_is_not_touched_and_not_locked(tmp_path: Path) -> None:
    damaged = data_of(HEADER, row(0), intent(0)).replace(b"fox", b"cat")
    (tmp_path / JOURNAL_NAME).write_bytes(damaged)
    with pytest.raises(JournalError, match="line 2: the line is damaged"):
        async with open_journal(tmp_path):
            pytest.fail("it was opened")
    assert [path.name for path in files_in(tmp_path)] == [JOURNAL_NAME]
    async with open_journal(tmp_path, skip_damaged=True) as (_, history):
        assert history.damaged == (2, 3)
    assert (tmp_path / JOURNAL_NAME).read_bytes() == damaged


async def test_two_do_not_write_to_one_directory(tmp_path: Path) -> None:
    async with open_journal(tmp_path) as (journal, _):
        journal.note(RUN)
        with pytest.raises(JournalError) as caught:
            async with open_journal(tmp_path):
                pytest.fail("it was opened")
        assert caught.value.code == LOCKED
    assert lines_in(tmp_path) == encode(RUN)


async def test_a_directory_that_cannot_be_used_is_a_disk_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for directory in (tmp_path / "gone", tmp_path / "file"):
        with pytest.raises(JournalError) as caught:
            async with open_journal(directory):
                pytest.fail("it was opened")
        assert caught.value.code == DISK_ERROR
    (tmp_path / JOURNAL_NAME).symlink_to("/dev/full")
    with pytest.raises(JournalError) as caught:
        async with open_journal(tmp_path):
            pytest.fail("it was opened")
    assert caught.value.code == DISK_ERROR


# --- writing ----------------------------------------------------------------------------------------------------------


async def test_one_visit_serves_all_who_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tmp_path) as journal:
        visits = Visits(monkeypatch)

        async def one_row() -> None:
            n = journal.plan(ImageRequest("a fox"), index=0).n
            journal.note(intent(n))
            await journal.durable(0.05)
            assert encode(intent(n)) in lines_in(tmp_path)

        async with anyio.create_task_group() as rows:
            for _ in range(100):
                rows.start_soon(one_row)
        assert visits.done == ["write", "sync file"]
        await journal.durable()
        assert len(visits.done) == 2


async def test_a_line_that_nobody_waits_for_is_written_with_those_that_follow(tmp_path: Path) -> None:
    async with running(tmp_path, lazy_s=3600.0) as journal:
        journal.note(RUN)
        await anyio.wait_all_tasks_blocked()
        assert lines_in(tmp_path) == b""
        journal.note(row(0))
        await journal.durable()
        assert lines_in(tmp_path) == data_of(RUN, row(0))


async def test_who_can_wait_longer_is_served_with_who_cannot(tmp_path: Path) -> None:
    async with running(tmp_path) as journal, anyio.create_task_group() as waiters:
        journal.note(row(0))
        waiters.start_soon(journal.durable, 3600.0)
        await anyio.wait_all_tasks_blocked()
        journal.note(intent(0))
        with anyio.fail_after(10):
            await journal.durable(0.01)
        assert lines_in(tmp_path) == data_of(row(0), intent(0))


async def test_a_lazy_line_holds_nobody_up_and_stands_behind_what_was_noted_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A saved one brings a sync of the directory, which costs more than all else."""
    async with running(tmp_path, lazy_s=3600.0) as journal:
        visits = Visits(monkeypatch)
        journal.note_lazily(saved(0))
        journal.note(row(0))
        await journal.durable()
        assert lines_in(tmp_path) == encode(row(0))
        assert visits.done == ["write", "sync file"]
        journal.note(intent(0))
        await journal.flush()
        assert lines_in(tmp_path) == data_of(row(0), intent(0), saved(0))
    assert visits.done[2:] == ["sync directory", "write", "sync file"]


async def test_who_waits_for_a_lazy_line_waits_until_it_is_on_disk(tmp_path: Path) -> None:
    async with running(tmp_path, lazy_s=0.05) as journal:
        journal.note(row(0))
        await journal.durable()
        journal.note_lazily(RUN)
        with anyio.fail_after(10):
            await journal.lazily_durable()
        assert lines_in(tmp_path) == data_of(row(0), RUN)


async def test_a_lazy_line_is_written_in_time(tmp_path: Path) -> None:
    async with running(tmp_path, lazy_s=0.01) as journal:
        journal.note_lazily(RUN)
        await until(lambda: lines_in(tmp_path))
        assert lines_in(tmp_path) == encode(RUN)


async def test_a_line_that_nobody_waits_for_is_written_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written, loop, write = asyncio.Event(), asyncio.get_running_loop(), os.write

    def told(fd: int, data: Any) -> int:
        size = write(fd, data)
        if stat.S_ISREG(os.fstat(fd).st_mode):
            loop.call_soon_threadsafe(written.set)
        return size

    async with running(tmp_path, lazy_s=0.01) as journal:
        monkeypatch.setattr(os, "write", told)
        journal.note(RUN)
        with anyio.fail_after(10):
            await written.wait()
        assert lines_in(tmp_path) == encode(RUN)


async def test_a_pictures_name_is_durable_before_the_journal_says_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as journal:
        visits = Visits(monkeypatch)
        for line in (row(0), intent(0), accepted(0), completed(0), saved(0)):
            journal.note(line)
        await journal.durable()
    assert visits.done == ["sync directory", "write", "sync file"]


async def test_never_sync_is_never(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    visits = Visits(monkeypatch)
    async with running(tmp_path, sync=False) as journal:
        journal.note(row(0))
        journal.note(saved(0))
        await journal.durable()
        assert lines_in(tmp_path) == data_of(row(0), saved(0))
    assert not [visit for visit in visits.done if visit.startswith("sync")]


@pytest.mark.parametrize("ending", ["in order", "an exception", "a cancellation"])
async def test_what_was_noted_is_written_however_it_ends(tmp_path: Path, ending: str) -> None:
    with anyio.CancelScope() as scope:
        try:
            async with open_journal(tmp_path, PATIENT) as (journal, _), anyio.create_task_group() as tasks:
                tasks.start_soon(journal.run)
                journal.note(RUN)
                await anyio.wait_all_tasks_blocked()
                if ending == "an exception":
                    raise LookupError
                if ending == "a cancellation":
                    scope.cancel()
                    await anyio.sleep_forever()
                tasks.cancel_scope.cancel()
        except* LookupError:
            assert ending == "an exception"
    assert lines_in(tmp_path) == encode(RUN)
    assert not (tmp_path / LOCK_NAME).exists()


async def test_whoever_waits_when_the_writer_is_stopped_is_served_by_the_last_flush(tmp_path: Path) -> None:
    async with open_journal(tmp_path, PATIENT) as (journal, _), anyio.create_task_group() as waiters:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(journal.run)
            await anyio.wait_all_tasks_blocked()
            journal.note(RUN)
            waiters.start_soon(journal.durable)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
        await journal.flush()
        journal.note(row(0))
        await journal.durable()  # there is no writer any more, so it does the work itself
        assert lines_in(tmp_path) == data_of(RUN, row(0))


async def test_a_waiter_that_is_cancelled_stops_no_other(tmp_path: Path) -> None:
    async with running(tmp_path) as journal, anyio.create_task_group() as waiters:
        journal.note(RUN)
        waiters.start_soon(journal.durable)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await journal.durable()
        await journal.durable()
        assert lines_in(tmp_path) == encode(RUN)


# --- a disk that fails ------------------------------------------------------------------------------------------------


async def assert_broken(journal: Journal, words: str) -> None:
    """Every waiter is told, and so is every later call."""
    told: list[JournalError] = []

    async def wait(line: Line) -> None:
        journal.note(line)
        try:
            await journal.durable()
        except JournalError as error:
            told.append(error)

    with anyio.fail_after(10):
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(journal.run)
                async with anyio.create_task_group() as waiters:
                    for n in range(10):
                        waiters.start_soon(wait, row(n))
        except* JournalError as group:
            told.extend(error for error in group.exceptions if isinstance(error, JournalError))
        for call in (journal.flush, journal.durable, journal.run):
            with pytest.raises(JournalError) as caught:
                await call()
            told.append(caught.value)
    with pytest.raises(JournalError) as noted:
        journal.note(RUN)
    told.append(noted.value)
    assert len(told) == len({id(error) for error in told}) == 15
    assert {error.code for error in told} == {DISK_ERROR}
    assert all(words in str(error) for error in told)


async def test_a_full_disk_is_told_to_everybody() -> None:
    fd = os.open("/dev/full", os.O_WRONLY)
    await assert_broken(Journal(Path("/dev/full"), fd, JournalPolicy()), "No space left on device")
    os.close(fd)


async def test_a_full_disk_is_told_to_who_waits_for_a_lazy_line() -> None:
    fd = os.open("/dev/full", os.O_WRONLY)
    journal = Journal(Path("/dev/full"), fd, JournalPolicy(lazy_s=0.05))
    told: list[JournalError] = []

    async def wait() -> None:
        with pytest.raises(JournalError) as caught:
            await journal.lazily_durable()
        told.append(caught.value)

    async def write() -> None:
        with pytest.raises(JournalError):
            await journal.run()

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write)
            await anyio.wait_all_tasks_blocked()
            journal.note_lazily(RUN)
            tasks.start_soon(wait)
            tasks.start_soon(wait)
    os.close(fd)
    assert [error.code for error in told] == [DISK_ERROR] * 2


async def test_a_sync_that_fails_is_told_to_everybody_and_not_repeated() -> None:
    """A pipe takes bytes and cannot be synced: as after a disk's fault, what is written may be there or not."""
    reading, writing = os.pipe()
    await assert_broken(Journal(Path("a pipe"), writing, JournalPolicy()), "Invalid argument")
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        assert file.read() == data_of(*(row(n) for n in range(10)))


async def test_what_was_noted_while_a_write_failed_is_told_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its group is not written by anybody; whoever waits for it must not wait for ever."""
    fd = os.open("/dev/full", os.O_WRONLY)
    journal = Journal(Path("/dev/full"), fd, JournalPolicy())
    loop, began, go_on, write = asyncio.get_running_loop(), asyncio.Event(), anyio.Event(), os.write
    sizes: list[int] = []

    def slow_write(to: int, data: Any) -> int:
        if to == fd:
            sizes.append(len(data))
            loop.call_soon_threadsafe(began.set)
            asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result()
        return write(to, data)

    monkeypatch.setattr(os, "write", slow_write)
    told: list[JournalError] = []

    async def wait(line: Line) -> None:
        journal.note(line)
        try:
            await journal.durable()
        except JournalError as error:
            told.append(error)

    with anyio.fail_after(10), pytest.RaisesGroup(JournalError):
        async with anyio.create_task_group() as tasks, anyio.create_task_group() as waiters:
            tasks.start_soon(journal.run)
            waiters.start_soon(wait, row(0))
            await began.wait()
            waiters.start_soon(wait, row(1))
            await anyio.wait_all_tasks_blocked()
            go_on.set()
    assert len(told) == 2
    with pytest.raises(JournalError):
        await journal.flush()
    assert sizes == [len(encode(row(0)))]  # nothing is written behind what may be half a line
    os.close(fd)


LIMITED = """
import asyncio, resource, signal, sys
from pathlib import Path
from krea_async import ImageRequest, JournalError
from krea_async.storage.journal import open_journal

async def main():
    directory, limit = Path(sys.argv[1]), int(sys.argv[2])
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    done, most = 0, resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    try:
        async with open_journal(directory) as (journal, _):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, most))
            for number in range(1000):
                journal.plan(ImageRequest(f"fox {number}"), index=number)
                await journal.durable()
                done += 1
    except JournalError as error:
        print(done, error.code)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))  # whoever writes at exit, such as coverage, has room

asyncio.run(main())
"""


@pytest.mark.parametrize("limit", [5000, 5001, 5050, 5100])
async def test_half_a_line_on_a_full_disk_is_cut_by_the_next_run(tmp_path: Path, limit: int) -> None:
    """What was durable is there, half a line may be as well, and nothing comes after it."""
    command = [sys.executable, "-c", LIMITED, str(tmp_path), str(limit)]
    done = await anyio.run_process(command, stderr=subprocess.PIPE)
    rows, code = done.stdout.decode().split()
    assert code == DISK_ERROR
    assert (tmp_path / JOURNAL_NAME).stat().st_size == limit
    async with open_journal(tmp_path) as (journal, history):
        assert history.rows == int(rows) > 10
        assert history.torn_at is not None
        journal.note(Row(n=history.rows, index=0, request=ImageRequest("an owl")))
    with History(tmp_path / JOURNAL_NAME) as history:
        assert history.request(history.rows - 1).prompt == "an owl"
        assert history.count(RowState.PLANNED) == int(rows) + 1


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from journal_lines import accepted, intent, row
from krea_async.storage.journal import JournalPolicy, open_journal

async def main():
    async with open_journal(Path(sys.argv[1]), JournalPolicy(sync=False)) as (journal, _):
        for n in range(5):
            journal.note(row(n))
            journal.note(intent(n))
        await journal.durable()
        journal.note(accepted(0))
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


async def test_a_killed_process_loses_nothing_that_was_durable_not_even_without_sync(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path), str(Path(__file__).parent)]
    await anyio.run_process(command, check=False)
    assert (tmp_path / LOCK_NAME).exists()
    async with open_journal(tmp_path) as (_, history):
        assert history.count(RowState.INTENT) == 5


async def test_the_limit_of_files_is_a_disk_error_and_leaves_nothing_open(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    in_use = len(files_in("/proc/self/fd"))
    highest = max(int(path.name) for path in files_in("/proc/self/fd"))
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
        filled = []
        try:
            while True:
                filled.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            os.close(filled.pop())
        with pytest.raises(JournalError, match="Too many open files") as caught:
            async with open_journal(tmp_path):
                pytest.fail("it was opened")
    finally:
        for fd in filled:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert caught.value.code == DISK_ERROR
    assert len(files_in("/proc/self/fd")) == in_use
    async with open_journal(tmp_path):
        pass
